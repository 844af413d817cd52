"""Leases: a process that has loaded a release keeps it from being evicted, as long as it lives.

A lease is a shared lock on the release's own directory. So there is no file to write (a read-only
store serves as well), none to be left behind, and the kernel ends it with the process. Children
of a fork share it: they use the same release.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Self

from plugin_manager.errors import LockedError

if sys.platform != "win32":
    import fcntl

__all__ = ["Lease", "claim", "is_occupied", "occupy"]

_ATTEMPTS, _PATIENCE, _PAUSE_SECONDS = 400, 4, 0.005
_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


class Lease:
    """A lock on a directory, shared (`Lease.of`) or exclusive (`claim`), until `close`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def of(cls, directory: Path) -> Lease:
        """Keep `directory` from being evicted; raises FileNotFoundError where it is not there.

        Raises LockedError where somebody keeps it locked exclusively. Where the file system has no
        locks, the lease protects nothing, and nothing is evicted either.
        """
        for _ in range(_ATTEMPTS):
            descriptor = os.open(directory, _FLAGS)
            if sys.platform == "win32":
                return cls(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                # It is being evicted, which takes no longer than a rename.
                os.close(descriptor)
                time.sleep(_PAUSE_SECONDS)
                continue
            except OSError:
                return cls(descriptor)
            if _is_at(descriptor, directory):
                return cls(descriptor)
            os.close(descriptor)  # evicted between the opening and the lock
        raise LockedError(
            f"{directory} is locked by another process, so that it cannot be kept from eviction",
            remedy="Find who holds the lock ('lsof', or /proc/locks), and try again.",
        )

    def close(self) -> None:
        """End the lease. Calling it again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def claim(directory: Path, *, patient: bool = False) -> Lease | None:
    """The exclusive right to remove `directory`; None where somebody has a lease of it.

    Also None where the file system cannot tell. `patient`: others may only be looking, which takes
    them this very lock for an instant.
    """
    descriptor = os.open(directory, _FLAGS)
    for _ in range(_PATIENCE if patient else 1):
        if sys.platform == "win32":
            break
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS if patient else 0)
        except OSError:
            break
        else:
            return Lease(descriptor)
    os.close(descriptor)
    return None


def occupy(directory: Path) -> Lease | None:
    """The exclusive right to work in `directory`; None where another has it.

    Where the file system has no locks everybody gets it. Raises FileNotFoundError.
    """
    descriptor = os.open(directory, _FLAGS)
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            return Lease(descriptor)
        if not _is_at(descriptor, directory):  # removed between the opening and the lock
            os.close(descriptor)
            return occupy(directory)
    return Lease(descriptor)


def is_occupied(directory: Path) -> bool:
    """Whether another has the exclusive right to work in `directory`."""
    try:
        occupied = occupy(directory)
    except OSError:
        return False  # it is not there
    if occupied:
        occupied.close()
    return occupied is None


def _is_at(descriptor: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), directory.lstat())
    except FileNotFoundError:
        return False
