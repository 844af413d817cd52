"""How many bytes a second, all connections together."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["RateLimit"]

# Bytes are taken from the line in portions of about this long: fine enough for an even flow, and
# coarse enough to cost nothing.
_PORTION_SECONDS = 0.05
_LEAST_PORTION_BYTES = 4096
_LONGEST_SLEEP_SECONDS = 0.1  # in which a change of the rate, or a cancellation, goes unnoticed


class RateLimit:
    """A limit that any number of threads share, and that may be changed while they run.

    Bytes are counted when they have been read, and paid for by waiting afterwards: the kernel's
    buffers, and so the sender, wait meanwhile. Short of a portion, what was not used is not saved
    up, so that a pause is not followed by a burst.
    """

    def __init__(
        self,
        bytes_per_second: float | None = None,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._rate = bytes_per_second
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._balance_bytes = 0.0
        self._at = clock()

    @property
    def bytes_per_second(self) -> float | None:
        """The limit; None: none, 0: nothing flows."""
        return self._rate

    @bytes_per_second.setter
    def bytes_per_second(self, rate: float | None) -> None:
        with self._lock:
            self._refill()
            if rate is None or self._rate is None:
                self._balance_bytes = 0.0
            self._rate = rate

    def portion_bytes(self, most_bytes: int) -> int:
        """How many bytes to read at once, `most_bytes` at most."""
        rate = self._rate
        if rate is None:
            return most_bytes
        return min(most_bytes, max(int(rate * _PORTION_SECONDS), _LEAST_PORTION_BYTES))

    def pay(self, count: int, stopped: Callable[[], bool]) -> float:
        """Wait as long as `count` bytes that were read cost; returns for how long, in seconds.

        Returns sooner where `stopped()`.
        """
        if self._rate is None:
            return 0.0
        begun = self._clock()
        with self._lock:
            self._refill()
            self._balance_bytes -= count
        while not stopped():
            with self._lock:
                self._refill()
                rate = self._rate
                if rate is None or self._balance_bytes > -1:  # less than a byte is rounding
                    break
                due = -self._balance_bytes / rate if rate else _LONGEST_SLEEP_SECONDS
            self._sleep(min(due, _LONGEST_SLEEP_SECONDS))
        return self._clock() - begun

    def _refill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            most = self._rate * _PORTION_SECONDS
            earned = self._balance_bytes + (now - self._at) * self._rate
            self._balance_bytes = min(earned, most)
        self._at = now
