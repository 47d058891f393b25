"""Files that are written whole or not at all, and by one training at a time."""

import contextlib
import errno
import os
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

    Folders are made as needed. Raises OSError if that fails; what was there before still is.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say where it is
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def reserved(path, flag):
    """Keep other trainings from writing to ``path``. A process that dies lets go of it, however it dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock", timeout=0) if distributed.is_first() else contextlib.nullcontext()
    try:
        with lock:
            yield
    except Timeout:
        raise UserError(f"another training is writing {path}: wait for it, or pass another {flag}") from None
