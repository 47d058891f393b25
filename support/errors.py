"""Errors of one line: what a user can cause, said without a traceback, and a non-zero exit."""

import contextlib
import errno
import functools
import os
import signal
import sys


class UserError(Exception):
    """Something the user can mend; the message says what is wrong and what to do."""


class DataError(UserError):
    """Images that are missing, incomplete or corrupt."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or not ours."""


class Terminated(BaseException):
    """SIGTERM: what cluster schedulers and container managers send before they take a machine away."""


def reason_of(error):
    """Why a library could not read a file, in a line, from whatever it raised."""
    return getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]


def shown(text, keep=""):
    """The text with all that a terminal would obey, and not show, as Python writes it, \\x1b for one."""
    signs = (s if s.isprintable() or s in keep else s.encode("unicode_escape").decode() for s in text)
    return "".join(signs)


@contextlib.contextmanager
def user_errors(less_memory=()):
    """Turn what a user can cause into one line on stderr and a non-zero exit.

    ``less_memory``: the script's flags that, lowered, make it need less.
    """
    signal.signal(signal.SIGTERM, _terminate)
    _prepare_streams()
    try:
        yield
        sys.stdout.flush()  # while a full disk can still be reported
    except UserError as error:
        _leave(f"error: {error}", 1)
    except OSError as error:  # a folder that cannot be written, a full disk, …
        if isinstance(error, BrokenPipeError) and not error.filename:  # who read what we print has enough
            _leave("" if error.errno else str(error), 128 + signal.SIGPIPE)
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; what was there before is untouched: free some space and run again" if full else ""
        _leave(f"error: {where}{error.strerror or error}{advice}", 1)
    except (MemoryError, RuntimeError) as error:
        # CUDA says so in the type of the error, the CPU only in its words. Where the memory ends while a CUDA
        # graph is recorded, the end of the recording fails, too, and what it raises has the cause as context.
        if not isinstance(error, MemoryError) and "allocate" not in f"{error} {error.__context__}":
            raise
        advice = f"lower {' or '.join(less_memory)}, or " if less_memory else ""
        _leave(f"error: out of memory: {advice}take a machine or a --device with more of it", 1)
    except (KeyboardInterrupt, Terminated) as stop:
        signum = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        _leave(str(stop) or "stopped", 128 + signum)


def _terminate(signum, frame):
    raise Terminated


def _prepare_streams():
    """Make stdout and stderr safe to print to: where they are closed, or cannot show every character.

    Names and texts come from files, which may be anybody's: nothing in them reaches the terminal but as text.
    """
    for name, keep in (("stdout", "\n\t"), ("stderr", "\n\t\r")):  # a progress bar goes back by \r
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (it stays open)
        stream = getattr(sys, name)
        with contextlib.suppress(AttributeError):  # a notebook's, say, cannot be reconfigured
            write = functools.partial(type(stream).write, stream)  # its own, however often we come here
            stream.write = lambda text, write=write, keep=keep: write(shown(text, keep))
            stream.reconfigure(errors="backslashreplace")


def _leave(message, code):
    """End with this exit status, whoever still listens."""
    with contextlib.suppress(OSError):
        if message:
            print(shown(message), file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try again at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise SystemExit(code)
