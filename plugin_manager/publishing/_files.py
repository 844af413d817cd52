"""Writing files so that a crash leaves the old one or the new one, never a part."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plugin_manager.errors import NoSpaceError, StoreAccessError

__all__ = ["disk_errors", "move_into_place", "write_atomically"]


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Turn what the operating system refuses into this package's errors, with the file's name."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or directory)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpaceError(
                f"{where}: the disk is full",
                needed_bytes=0,
                free_bytes=shutil.disk_usage(directory).free if directory.exists() else 0,
                remedy="Free some space, then run the command again.",
                path=where,
            ) from error
        raise StoreAccessError(
            f"{where}: {error.strerror or error}",
            remedy="Check the permissions and the disk.",
            path=where,
        ) from error


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at `path` in one step, durable when this returns; makes missing directories."""
    _make_directories(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            temporary.chmod(mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def move_into_place(source: Path, path: Path) -> None:
    """Move the complete file `source`, on the same disk, to `path`, durable when this returns."""
    _make_directories(path.parent)
    source.chmod(0o644)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(path)
    _sync_directory(path.parent)


def _make_directories(directory: Path) -> None:
    if directory.is_dir():
        return
    _make_directories(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":  # elsewhere a directory cannot be opened, and a rename is durable
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
