"""Files that are written whole or not at all, and by one run at a time."""

import contextlib
import csv
import errno
import glob
import io
import os
import re
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from support import distributed
from support.errors import UserError
from support.terminal import warn

FORMULA = re.compile(r"[=@\t\r]|[+-](?!([\d.]+(e[+-]?\d+)?|inf|nan)$)")  # what a cell begins with; no number


def from_here(path):
    """The way to ``path`` from the working folder, for others to read, or its name alone where the way has
    the home folder's name in it, which is mostly the user's.
    """
    path = Path(path)
    way = Path(os.path.relpath(path.parent), path.name)
    return path.name if os.path.basename(os.path.expanduser("~")) in way.parts else str(way)


def is_elsewhere(path):
    """Whether ``path`` leads out of the working folder, where nobody's checkpoint may send us unasked."""
    return not Path(path).resolve().is_relative_to(Path.cwd().resolve())


def write_file(path, content):
    """Write bytes to ``path``, whole or not at all: beside the target, to the disk, renamed over it.

    A symbolic link stays one, and what it points to is written, with the permissions that it had. Folders
    are made as needed. Raises OSError if that fails; what was there before still is.
    """
    target = Path(os.path.realpath(path))
    # two scripts may be writing the same file: each has a name of its own until it is done
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        _refuse_what_is_no_file(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say where it is
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_table(path, rows):
    """Write rows of cells as a CSV file; text that a spreadsheet would take for a formula begins with '."""
    text = io.StringIO()
    quoted = ([f"'{cell}" if FORMULA.match(str(cell)) else cell for cell in row] for row in rows)
    csv.writer(text, lineterminator="\n").writerows(quoted)
    write_file(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _refuse_what_is_no_file(path):
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():  # a device or a pipe
        raise OSError(errno.EINVAL, "not a regular file")


def check_outputs(*paths, spare=()):
    """Find out before the work, not after it, whether files can be written to ``paths``, None aside.

    ``spare`` are files that are read, and must not be among them. Nothing is left behind. Raises UserError.
    """
    seen, spared = set(), {os.path.realpath(path) for path in spare}
    for path in filter(None, paths):
        target = Path(os.path.realpath(path))
        if str(target) in spared:
            raise UserError(f"{path} would be written over what is read from it: choose another place")
        if target in seen:
            raise UserError(f"{path} would be written twice: choose another place for one of the files")
        seen.add(target)
        try:
            _refuse_what_is_no_file(target)
            if target.exists() and not os.access(target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            folder = next(parent for parent in target.parents if os.path.lexists(parent))
            with tempfile.TemporaryFile(dir=folder):  # permissions do not tell all: the disk may be read-only
                pass
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from None


@contextlib.contextmanager
def locked(path):
    """Keep other runs from writing to the checkpoint at ``path``, whatever they call it.

    A process that dies lets go of it, however it dies; what it had not finished writing is removed.
    Raises UserError if another run has it.
    """
    check_outputs(path)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if distributed.is_main_process():
            try:
                stack.enter_context(FileLock(f"{target}.lock", timeout=0))
            except Timeout:
                raise UserError(
                    f"another run is writing {path}: wait for it, or pass another --checkpoint"
                ) from None
            except NotImplementedError:
                warn(f"{target.parent} has no locks: start no other run there")
            for left in target.parent.glob(f"{glob.escape(target.name)}.[0-9]*.tmp"):
                left.unlink(missing_ok=True)
        yield
