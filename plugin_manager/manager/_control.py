"""Stopping a change from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from plugin_manager.errors import CancelledError

__all__ = ["Control"]


class Control:
    """The reins of one change, which runs in one thread; `stop` and `limit` are for any.

    Neither may be called by who holds a lock that the change's callbacks take. `stopping` is set
    once it was stopped.
    """

    def __init__(self, bytes_per_second: int | None = None) -> None:
        self.bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self._cancels: list[Callable[[], None]] = []
        self._limits: list[Callable[[int | None], None]] = []

    def stop(self) -> None:
        """Have what waits or fetches raise CancelledError soon; what is being placed is placed."""
        with self._lock:
            self.stopping.set()
            cancels = list(self._cancels)
        for cancel in cancels:
            cancel()

    def check(self) -> None:
        """Raise CancelledError where it was stopped."""
        if self.stopping.is_set():
            raise CancelledError(
                "it was stopped", remedy="What had arrived is kept: it can be resumed."
            )

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Where the block ends because it was stopped, say so in the words of `check`."""
        self.check()
        try:
            yield
        except CancelledError:
            self.check()
            raise

    def wait(self, seconds: float) -> None:
        """Wait for so long; raises CancelledError as soon as it is stopped."""
        self.stopping.wait(seconds)
        self.check()

    def renew(self) -> None:
        """Forget what was asked of it, for another change."""
        with self._lock:
            self.stopping.clear()
            self.bytes_per_second = None

    def limit(self, bytes_per_second: int | None) -> None:
        """Fetch no faster than this from now on; None: as fast as it goes."""
        with self._lock:
            self.bytes_per_second = bytes_per_second
            for limit in self._limits:
                limit(bytes_per_second)

    @contextmanager
    def limiting(self, limit: Callable[[int | None], None]) -> Iterator[None]:
        """Have `limit` called with the limit: now, and when it changes while the block runs."""
        with self._lock:
            limit(self.bytes_per_second)
            self._limits.append(limit)
        try:
            yield
        finally:
            with self._lock:
                self._limits.remove(limit)

    @contextmanager
    def cancelling(self, cancel: Callable[[], None]) -> Iterator[None]:
        """Have `stop` call `cancel` as long as the block runs."""
        with self._lock:
            self._cancels.append(cancel)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._cancels.remove(cancel)
