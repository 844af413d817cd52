"""The writer's lock, which the kernel frees when its holder dies. Readers take none."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from plugin_manager.durable import keep_to_writers, read_regular
from plugin_manager.errors import CancelledError, CorruptError, LockedError

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["WriterLock"]

_NOTICE_SECONDS = 1.0


class WriterLock:
    """One writer at a time in `directory`, which must exist when the lock is taken.

    May be taken again by the thread that holds it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._holder_path = directory / "lock-holder"
        self._lock_of: tuple[int, FileLock] | None = None

    @property
    def _lock(self) -> FileLock:
        from filelock import FileLock  # noqa: PLC0415 - readers do without its import

        # A child of a fork must not believe that it holds what its parent holds.
        if self._lock_of is None or self._lock_of[0] != os.getpid():
            self._lock_of = os.getpid(), FileLock(self._directory / "lock", mode=0o600)
        return self._lock_of[1]

    @contextlib.contextmanager
    def held(
        self,
        timeout_seconds: float,
        waiting: Callable[[str], None],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[None]:
        """Hold the lock; raises LockedError after `timeout_seconds` (negative: never).

        Calls `waiting(holder)` once if it has to wait; CancelledError soon after `cancelled()`.
        """
        self._acquire(timeout_seconds, waiting, cancelled)
        try:
            self._keep_to_writers()
            self._say_who()
            yield
        finally:
            with contextlib.suppress(OSError):
                if self._lock.lock_counter == 1:
                    self._holder_path.unlink()
            self._lock.release()

    def _acquire(
        self,
        timeout_seconds: float,
        waiting: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> None:
        from filelock import Timeout  # noqa: PLC0415

        first = min(_NOTICE_SECONDS, timeout_seconds) if timeout_seconds >= 0 else 1.0
        try:
            try:
                self._lock.acquire(timeout=first, cancel_check=cancelled)
            except Timeout:
                if not cancelled():
                    waiting(self._holder())
                rest = timeout_seconds - first if timeout_seconds >= 0 else -1
                self._lock.acquire(timeout=rest, cancel_check=cancelled)
        except (Timeout, RuntimeError) as error:  # RuntimeError: by this very thread
            if cancelled():
                raise CancelledError("it was stopped while it waited for the store") from error
            raise LockedError(
                f"the store {self._directory} is locked by {self._holder()}",
                remedy="Wait for it to finish, or allow a longer --lock-timeout.",
                holder=self._holder(),
            ) from error

    def _keep_to_writers(self) -> None:
        """Keep readers of the store from locking it; also where it was made before this did."""
        with contextlib.suppress(OSError):
            flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
            descriptor = os.open(self._directory / "lock", flags)
            try:
                keep_to_writers(descriptor, self._directory)
            finally:
                os.close(descriptor)

    def _say_who(self) -> None:
        """Leave a word for those who wait; nobody relies on it."""
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]])[:200]
        text = f"process {os.getpid()} ({command})"
        with contextlib.suppress(OSError):
            self._holder_path.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(self._holder_path, flags, 0o644), "wb") as file:
                file.write(text.encode(errors="replace"))  # an argument need not be text

    def _holder(self) -> str:
        try:
            return read_regular(self._holder_path, 1000).decode(errors="replace")
        except (OSError, CorruptError):
            return "another process"
