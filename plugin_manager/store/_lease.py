"""Leases: a process that has loaded a release keeps it from being evicted, as long as it lives.

A lease is a shared lock on the release's own directory. So there is no file to write (a read-only
store serves as well), none to be left behind, and the kernel ends it with the process. Children
of a fork share it: they use the same release.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from pathlib import Path
from typing import Self

from plugin_manager.errors import LockedError

if sys.platform != "win32":
    import fcntl

__all__ = ["Lease", "claim", "is_left", "is_occupied", "occupy"]

_ATTEMPTS, _PATIENCE, _PAUSE_SECONDS = 400, 4, 0.005
_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


class Lease:
    """A lock on a directory, shared (`Lease.of`) or exclusive (`claim`), until `close`."""

    def __init__(self, descriptor: int, *, exclusive: bool = False) -> None:
        self._descriptor = descriptor
        self._owner = os.getpid() if exclusive else None

    @staticmethod
    def of(directory: Path) -> Lease:
        """Keep `directory` from being evicted; raises FileNotFoundError where it is not there.

        Raises LockedError where somebody keeps it locked exclusively. Where the file system has no
        locks, the lease protects nothing, and nothing is evicted either.
        """
        if lease := _locked(directory, _ATTEMPTS, exclusive=False):
            return lease
        raise LockedError(
            f"{directory} is locked by another process, so that it cannot be kept from eviction",
            remedy="Find who holds the lock ('lsof', or /proc/locks), and try again.",
        )

    def close(self) -> None:
        """End the lease. Calling it again does nothing."""
        if self._descriptor >= 0:
            # A child of a fork must not keep what its parent lets go of, nor let go of it.
            if self._owner == os.getpid() and sys.platform != "win32":
                with contextlib.suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
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
            return Lease(descriptor, exclusive=True)
    os.close(descriptor)
    return None


def occupy(directory: Path) -> Lease | None:
    """The exclusive right to work in `directory`; None where another has it.

    Where the file system has no locks everybody gets it. Raises FileNotFoundError.
    """
    return _locked(directory, _PATIENCE, exclusive=True)


def _locked(directory: Path, attempts: int, *, exclusive: bool) -> Lease | None:
    """A lock on what is at `directory`; None where another has one that it cannot share.

    Where there are no locks, the directory, open.
    """
    for _ in range(attempts):
        descriptor = os.open(directory, _FLAGS)
        if sys.platform == "win32":
            return Lease(descriptor)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            # It is being evicted or only looked at, which takes no longer than a rename.
            os.close(descriptor)
            time.sleep(_PAUSE_SECONDS)
            continue
        except OSError:
            return Lease(descriptor)
        if _is_at(descriptor, directory):
            return Lease(descriptor, exclusive=exclusive)
        os.close(descriptor)  # removed between the opening and the lock
    return None


def is_occupied(directory: Path) -> bool:
    """Whether another has the exclusive right to work in `directory`, or that cannot be told."""
    try:
        return not _is_free(directory)
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_left(directory: Path) -> bool:
    """Whether `directory` is there, and nobody has the exclusive right to work in it."""
    try:
        return _is_free(directory)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_free(directory: Path) -> bool:
    """Whether nobody works in `directory`; False where it cannot be opened to see.

    Raises FileNotFoundError, also where it was removed meanwhile, and NotADirectoryError.
    """
    if sys.platform == "win32":
        if not directory.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))
        return True
    try:
        descriptor = os.open(directory, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:  # what some systems say of a link
            raise NotADirectoryError(*error.args) from error
        return False
    try:
        with contextlib.suppress(OSError):  # no locks there: nobody can have one
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        # Who withdraws removes it first: then the lock was free only because it is gone.
        if not _is_at(descriptor, directory):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))
        return True
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), directory.lstat())
    except FileNotFoundError:
        return False
