"""What the store does to many files at once, and how files share their blocks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from functools import cache
from pathlib import Path

from plugin_manager.durable import sync_directory

__all__ = ["clone_or_link", "sync_files"]

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
# Up to this many files, fsync of each is quicker than waiting for all that the disk has to write.
_SYNC_EACH = 64


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
    import ctypes  # noqa: PLC0415

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
