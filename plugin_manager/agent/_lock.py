"""Who is the agent of a store: a lock that ends with its process, which the kernel can name.

    agent/lock     locked whole by flock: no second agent, also not in the same process
                   locked at one far byte by fcntl: which process it is, as the kernel says
                   locked at the byte behind that: the process is nothing but the agent

Only a process that holds the last of these is ever sent a signal: no number in a file, which
anybody may have written and another process may have by now, is believed.
"""

from __future__ import annotations

import os
import signal
import stat
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from plugin_manager._attrs import frozen
from plugin_manager.durable import keep_to_writers, make_directories, make_real_directories

if sys.platform != "win32":
    import fcntl

__all__ = ["AgentLock", "Holder", "holder", "terminate"]

# No other program locks these bytes, should somebody put its file in this one's place.
_WHO, _STOPPABLE = 0x6167_656E_7400, 0x6167_656E_7401
_PATIENCE, _PAUSE_SECONDS = 40, 0.005  # others look, which takes them the lock for an instant

_held: dict[tuple[int, int], tuple[int, bool]] = {}  # device and inode: descriptor, stoppable
_guard = threading.Lock()


@frozen
class Holder:
    """Whether a store has an agent, in which process, and whether that may be told to end.

    `pid` is None where the kernel does not tell: in another container, say.
    """

    running: bool
    pid: int | None = None
    stoppable: bool = False


class AgentLock:
    """The right to be the agent of a store, until `close`; made by `take`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    @classmethod
    def take(cls, store: Path, *, stoppable: bool) -> Self | None:
        """The lock of the store in `store`; None where another has it.

        `stoppable`: this process is nothing but the agent, and ends well at a SIGTERM. Raises
        OSError where the disk refuses.
        """
        make_directories(store)
        make_real_directories(store, store / "agent")
        path = store / "agent" / "lock"
        with _guard:
            if _ours(path) is not None:
                return None
            descriptor = _open(path, os.O_RDWR | os.O_CREAT)
            try:
                keep_to_writers(descriptor, store)
                mine = _lock(descriptor)
            except OSError:
                os.close(descriptor)
                raise
            if not mine:
                os.close(descriptor)
                return None
            if sys.platform != "win32":
                for byte in (_WHO, *([_STOPPABLE] if stoppable else ())):
                    with suppress(OSError):  # a file system that has only the other kind
                        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            _held[_identity(descriptor)] = descriptor, stoppable
        return cls(path, descriptor)

    @property
    def intact(self) -> bool:
        """Whether it still is where others look for it."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._descriptor), self._path.lstat())
        return False

    def close(self) -> None:
        """Let another be the agent. Calling it again does nothing."""
        with _guard:
            if self._descriptor >= 0:
                _held.pop(_identity(self._descriptor), None)
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _leave_to_parent() -> None:
    """In a child of a fork: or the agent would seem to live for as long as its child does."""
    global _guard  # noqa: PLW0603 - another thread may have held it
    _guard = threading.Lock()
    for descriptor, _ in _held.values():
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def holder(store: Path) -> Holder:
    """Who is the agent of the store in `store`."""
    path = store / "agent" / "lock"
    with _guard:
        # Closing any descriptor of the file would end the locks of this process.
        if ours := _ours(path):
            return Holder(running=True, pid=os.getpid(), stoppable=ours[1])
        try:
            descriptor = _open(path, os.O_RDWR)
        except OSError:
            return Holder(running=False)
        try:
            pid = _who_locks(descriptor, _WHO)
            if pid is not None:
                stoppable = _who_locks(descriptor, _STOPPABLE) == pid > 0
                return Holder(running=True, pid=pid or None, stoppable=stoppable)
            return Holder(running=not _lock(descriptor, patience=1))
        except OSError:  # a file system without locks, on which none starts
            return Holder(running=False)
        finally:
            os.close(descriptor)


def terminate(store: Path) -> int | None:
    """Ask the agent of a store to end, if it is a process of its own; the process asked, or None.

    Raises PermissionError where that is another user's.
    """
    found = holder(store)
    if not found.stoppable or found.pid is None or found.pid == os.getpid():
        return None
    if not hasattr(os, "pidfd_open"):
        os.kill(found.pid, signal.SIGTERM)
        return found.pid
    try:
        process = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return None
    try:
        # What is open is the process that has this number now; it still holds the lock, so it is
        # the one that was meant.
        if holder(store) == found:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            return found.pid
    except ProcessLookupError:
        pass
    finally:
        os.close(process)
    return None


def _open(path: Path, flags: int) -> int:
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _ours(path: Path) -> tuple[int, bool] | None:
    with suppress(OSError):
        status = path.lstat()
        return _held.get((status.st_dev, status.st_ino))
    return None


def _lock(descriptor: int, *, patience: int = _PATIENCE) -> bool:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    for _ in range(patience):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return True
    return False


def _who_locks(descriptor: int, byte: int) -> int | None:
    """The process that has `byte` locked: its number, 0 where this one cannot see it, or None."""
    if sys.platform == "win32":
        return None
    # struct flock; the order of its fields differs.
    if sys.platform == "darwin":
        asked = struct.pack("qqihh", byte, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
        _, _, pid, kind, _ = struct.unpack("qqihh", fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    else:
        layout = "hhqqi4x"
        asked = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        kind, _, _, _, pid = struct.unpack(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else max(pid, 0)
