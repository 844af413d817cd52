"""Files that are there wholly or not at all, also after a power cut.

Every write goes: temporary name beside the target, fsync, rename, fsync of the directory. A failed
fsync is never repeated: the kernel may have dropped the pages, and a second fsync would say "fine".
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from plugin_manager.errors import CorruptError, NoSpaceError, StoreAccessError

__all__ = [
    "clone_or_link",
    "disk_errors",
    "free_bytes",
    "make_directories",
    "read_small",
    "sync_directory",
    "sync_files",
    "write_atomically",
]

TEMPORARY_PREFIX = ".tmp-"
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
# Up to this many files, fsync of each is quicker than waiting for all that the disk has to write.
_SYNC_EACH = 64


@contextlib.contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Turn the operating system's refusals below `directory` into this package's errors."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or directory)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpaceError(
                f"{where}: the disk is full",
                needed_bytes=0,
                free_bytes=free_bytes(directory),
                remedy="Free some space and run the command again; it goes on where it stopped.",
            ) from error
        raise StoreAccessError(
            f"{where}: {error.strerror or error}",
            path=where,
            remedy="Check the store's permissions and the disk.",
        ) from error


def free_bytes(directory: Path) -> int:
    """The bytes that this user may still write on the file system of `directory`."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def make_directories(path: Path) -> None:
    """Make `path` and its missing parents, each durable in its parent."""
    if path.is_dir():
        return
    make_directories(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in directory `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, durably; a crash leaves the old file or the new one."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_files(directory: Path, paths: list[Path]) -> None:
    """Make the content of `paths`, and all names in the directories between, durable."""
    parents = {directory}
    for path in paths:
        parent = path.parent
        while parent not in parents:
            parents.add(parent)
            parent = parent.parent
    if len(paths) + len(parents) > _SYNC_EACH and (syncfs := _syncfs()):
        syncfs(directory)
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for parent in parents:
        sync_directory(parent)


@cache
def _syncfs():  # type: ignore[no-untyped-def]  # a C function wrapped once
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None, use_errno=True).syncfs

    def syncfs(directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Linux 5.8 and later report write-back errors here as fsync does.
            if function(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(directory))
        finally:
            os.close(descriptor)

    return syncfs


def read_small(path: Path, most_bytes: int) -> bytes:
    """The bytes of `path`; raises CorruptError where it is larger than `most_bytes`."""
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise CorruptError(
            f"{path.name} is larger than {most_bytes} bytes",
            paths=(str(path),),
            remedy="Run 'pluginctl repair'.",
        )
    return data


def clone_or_link(source: Path, destination: Path) -> bool:
    """Make `destination` share the blocks of `source`: a reflink, else a hard link; False: neither.

    A reflink also keeps later damage apart, so it is tried first.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError), source.open("rb") as reading:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            writing = os.open(destination, flags, 0o600)
            try:
                fcntl.ioctl(writing, _FICLONE, reading.fileno())
                os.fchmod(writing, os.fstat(reading.fileno()).st_mode & 0o777)
            except OSError:
                destination.unlink()
            else:
                return True
            finally:
                os.close(writing)
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        return False
    return True
