"""Stopping a change from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from plugin_manager.errors import CancelledError

__all__ = ["Control"]


class Control:
    """The reins of one change, which runs in one thread; `stop` is for any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._cancels: list[Callable[[], None]] = []

    @property
    def stopped(self) -> bool:
        """Whether somebody asked for it to stop."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Have what waits or fetches raise CancelledError soon; what is being placed is placed."""
        with self._lock:
            self._stopped.set()
            cancels = list(self._cancels)
        for cancel in cancels:
            cancel()

    def check(self) -> None:
        """Raise CancelledError where it was stopped."""
        if self.stopped:
            raise CancelledError(
                "it was stopped", remedy="What had arrived is kept: it can be resumed."
            )

    def wait(self, seconds: float) -> None:
        """Wait for so long; raises CancelledError as soon as it is stopped."""
        self._stopped.wait(seconds)
        self.check()

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
