"""Files that are there wholly or not at all, also after a power cut; and the disk's refusals.

Every write goes: temporary name beside the target, fsync, rename, fsync of the directory. A failed
fsync is never repeated: the kernel may have dropped the pages, and a second one would say "fine".
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from plugin_manager.errors import CorruptError, NoSpaceError, StoreAccessError

__all__ = [
    "SET_ASIDE_PREFIX",
    "TEMPORARY_PREFIX",
    "disk_errors",
    "disk_space",
    "is_real_directory",
    "make_directories",
    "make_real_directories",
    "move_into_place",
    "read_regular",
    "remove_tree",
    "set_aside",
    "sync_directory",
    "write_atomically",
]

TEMPORARY_PREFIX = ".tmp-"
SET_ASIDE_PREFIX = ".set-aside-"


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
                free_bytes=disk_space(directory)[1],
                remedy="Free some space and run the command again; what was there is unchanged.",
                path=where,
            ) from error
        raise StoreAccessError(
            f"{where}: {error.strerror or error}",
            remedy="Check the permissions and the disk.",
            path=where,
        ) from error


def keep_to_writers(descriptor: int, directory: Path) -> None:
    """Have an open file of ours opened only by who may write to `directory`.

    For lock files: whoever can open one, be it only to read, can lock it. Raises OSError.
    """
    mode = 0o600 | (directory.stat().st_mode & 0o022) * 3  # who may write, may read
    if hasattr(os, "fchmod") and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        with contextlib.suppress(PermissionError):  # it is another's, who shares the store
            os.fchmod(descriptor, mode)


def disk_space(directory: Path) -> tuple[int, int]:
    """The bytes of the file system that `directory` is or will be on: (all, free to this user)."""
    existing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    if hasattr(os, "statvfs"):  # as shutil does, which brings three compressors along
        status = os.statvfs(existing)
        return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    import shutil  # noqa: PLC0415

    usage = shutil.disk_usage(existing)
    return usage.total, usage.free


def remove_tree(directory: Path) -> None:
    """Remove `directory` and all below it; links are not followed."""
    import shutil  # noqa: PLC0415 - looking does without

    shutil.rmtree(directory)


def make_directories(path: Path) -> None:
    """Make `path` and its missing parents, each durable in its parent."""
    if path.is_dir():
        return
    make_directories(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def make_real_directories(top: Path, path: Path) -> None:
    """Make `path`, which lies below `top`, and what is missing between them, not durably.

    Nothing between may lead elsewhere: what is not a directory itself (a link, a file, a FIFO) is
    set aside.
    """
    if path == top:
        return
    make_real_directories(top, path.parent)
    if not is_real_directory(path):
        if os.path.lexists(path):
            set_aside(path)
        path.mkdir(exist_ok=True)


def is_real_directory(path: Path) -> bool:
    """Whether `path` is a directory, and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def set_aside(path: Path) -> None:
    """Move what lies in the place of something else out of the way, beside it; delete nothing."""
    path.rename(path.with_name(f"{SET_ASIDE_PREFIX}{os.urandom(8).hex()}"))


def read_regular(path: Path, most_bytes: int, name: str = "") -> bytes:
    """The bytes of the regular file `path`, never through a link and never waiting for a FIFO.

    `name` is what errors call it; by default the last part of the path. Raises FileNotFoundError,
    CorruptError where it is no regular file or larger than `most_bytes`, OSError where the system
    refuses.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(most_bytes + 1) if regular else b""
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENOTDIR}:
            raise
        regular, data = False, b""
    if not regular or len(data) > most_bytes:
        what = f"larger than {most_bytes} bytes" if regular else "not a regular file"
        raise CorruptError(
            f"{name or path.name} is {what}",
            paths=(name or str(path),),
            remedy="Run 'pluginctl repair'.",
        )
    return data


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
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    # Exclusive, and with its final mode from the first byte: a private key is never readable.
    with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if is_real_directory(path):
                set_aside(path)
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
