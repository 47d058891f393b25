"""Errors of one line: what a user can cause, said without a traceback, and a non-zero exit."""

import contextlib
import errno
import signal
import sys

from data import DataError


class UserError(Exception):
    """Something the user can mend; the message says what is wrong and what to do."""


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged or not ours; the message says what to do."""


class Terminated(BaseException):
    """SIGTERM: what cluster schedulers and container managers send before they take a machine away."""


@contextlib.contextmanager
def user_errors():
    """Turn what a user can cause into one line on stderr and a non-zero exit."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except (UserError, DataError, CheckpointError) as error:
        _leave(f"error: {error}", 1)
    except OSError as error:  # a folder that cannot be written, a full disk, …
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; what was there before is untouched: free some space and run again" if full else ""
        _leave(f"error: {where}{error.strerror or error}{advice}", 1)
    except (MemoryError, RuntimeError) as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = (str(error).splitlines() or [""])[0]
            _leave(f"error: torch.compile does not work here ({reason}): leave --compile out", 1)
        # CUDA says so in the type of the error, the CPU only in its words
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        _leave("error: out of memory: lower --batch-size, --n or --latent-dim, or try --device cpu", 1)
    except (KeyboardInterrupt, Terminated) as stop:
        signum = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        _leave(str(stop) or "stopped", 128 + signum)


def _terminate(signum, frame):
    raise Terminated


def _leave(message, code):
    print(message, file=sys.stderr)
    raise SystemExit(code)
