"""Files that are there wholly or not at all, also after a power cut; and the disk's refusals.

Every write goes: temporary name beside the target, fsync, rename, fsync of the directory. A failed
fsync is never repeated: the kernel may have dropped the pages, and a second one would say "fine".
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from plugin_manager.errors import NoSpaceError, StoreAccessError

__all__ = [
    "TEMPORARY_PREFIX",
    "disk_errors",
    "free_bytes",
    "make_directories",
    "move_into_place",
    "sync_directory",
    "write_atomically",
]

TEMPORARY_PREFIX = ".tmp-"


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
                remedy="Free some space and run the command again; what was there is unchanged.",
                path=where,
            ) from error
        raise StoreAccessError(
            f"{where}: {error.strerror or error}",
            remedy="Check the permissions and the disk.",
            path=where,
        ) from error


def free_bytes(directory: Path) -> int:
    """The bytes that this user may still write on the file system of `directory`, or will be on."""
    existing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def make_directories(path: Path) -> None:
    """Make `path` and its missing parents, each durable in its parent."""
    if path.is_dir():
        return
    make_directories(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in directory `path` durable."""
    if os.name != "posix":
        return  # Windows cannot open directories; it journals names itself
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(
    path: Path, data: bytes, *, mode: int = 0o644, sync_parent: bool = True
) -> None:
    """Make `path` hold `data`, durably; missing directories are made.

    A crash leaves the old file or the new one, and at most a temporary file beside it. Without
    `sync_parent` the caller makes the names in the directory durable, for many files at once.
    """
    make_directories(path.parent)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    # Exclusive, and with its final mode from the first byte: a private key is never readable.
    with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if sync_parent:
        sync_directory(path.parent)


def move_into_place(source: Path, path: Path) -> None:
    """Move the complete file `source`, on the same disk, to `path`, durably."""
    make_directories(path.parent)
    source.chmod(0o644)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(path)
    sync_directory(path.parent)
