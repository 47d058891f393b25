"""Files that are written whole or not at all, and by one training at a time."""

import contextlib
import errno
import glob
import os
import shutil
import sys
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from support import distributed
from support.errors import UserError


def short(path):
    """The path as seen from here, if it leads to something below the working directory."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def write_file(path, content):
    """Write bytes to ``path``, whole or not at all: beside the target, to the disk, renamed over it.

    A symbolic link stays one, and what it points to is written. What is no regular file, a device
    or a pipe, is written straight into. Folders are made as needed. Raises OSError if that fails;
    what was there before still is.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        if path.exists() and (_own_stream(path) or not path.is_file()):
            _write_into(path, content)
        else:
            _replace(_target(path), content)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say where it is
        raise


def _target(path):
    """The file that a path leads to through all links. Raises OSError if they go round in a circle."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _own_stream(path):
    """What this process prints on, if ``path`` is another name of that, like /dev/stdout."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # no stream, or not one of a file
            if os.path.samestat(os.stat(path), os.fstat(stream.fileno())):
                return stream
    return None


def _write_into(path, content):
    """Write into what cannot be replaced; into what is printed on, after what was printed."""
    stream = _own_stream(path)
    if stream:
        stream.flush()
    with open(os.dup(stream.fileno()) if stream else path, "wb") as file:
        file.write(content)


def _replace(target, content):
    """Put a file with this content in the place of ``target``, and keep its permissions."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # two scripts may be writing the same file: each has a name of its own until it is done
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_outputs(*paths, spare=()):
    """Find out before the work, not after it, whether files can be written to ``paths``, None aside.

    ``spare`` are files that are read, and must not be among them. Nothing is left behind. Raises UserError.
    """
    paths = [Path(path) for path in paths if path]
    spared = {_target(path) for path in spare}
    for number, path in enumerate(paths):
        if _target(path) in spared:
            raise UserError(f"{path} would be written over what is read from it: choose another place")
        if path in paths[:number]:
            raise UserError(f"{path} would be written twice: choose another place for one of the files")
        try:
            _try_to_write(path)
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from None


def _try_to_write(path):
    """Raise the OSError that write_file(path, …) would."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    exists = path.exists()
    if exists and _own_stream(path):
        return
    if exists and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if exists and not path.is_file():
        return
    folder = next(parent for parent in _target(path).parents if os.path.lexists(parent))
    with tempfile.TemporaryFile(dir=folder):  # permissions do not tell all: the disk may be read-only
        pass


@contextlib.contextmanager
def reserved(path, flag, folder=False):
    """Keep other trainings from writing to the file or folder at ``path``, whatever they call it.

    A process that dies lets go of it, however it dies; what it had not finished writing is removed.
    Raises UserError if another training has it.
    """
    if path.exists() and not (path.is_dir() if folder else path.is_file()):
        raise UserError(f"{path} is not a {'folder' if folder else 'file'}: pass another {flag}")
    check_outputs(path / ".lock" if folder else path)
    target = _target(path)
    where, name = (target, "*") if folder else (target.parent, glob.escape(target.name))
    where.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if distributed.is_first():
            try:
                stack.enter_context(FileLock(where / ".lock" if folder else f"{target}.lock", timeout=0))
            except Timeout:
                message = f"another training is writing {path}: wait for it, or pass another {flag}"
                raise UserError(message) from None
            except NotImplementedError:
                print(f"warning: {where} has no locks: start no other training there", file=sys.stderr)
            for left in where.glob(f"{name}.[0-9]*.tmp"):
                left.unlink(missing_ok=True)
        yield
