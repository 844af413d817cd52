"""How many bytes a second, all connections together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from plugin_manager._attrs import frozen

__all__ = ["Allowance", "RateLimit"]

# Bytes are taken from the line in portions of about this long: fine enough for an even flow, and
# coarse enough to cost nothing.
_PORTION_SECONDS = 0.05
_LEAST_PORTION_BYTES = 4096
_LONGEST_SLEEP_SECONDS = 0.1  # in which a change of the rate, or a cancellation, goes unnoticed


class RateLimit:
    """A limit that any number of threads share, and that may be changed while they run.

    Bytes are granted before they are read, so that many connections together begin no faster than
    one; meanwhile the kernel's buffers, and so the sender, wait. At most a portion of what was not
    used is saved up, so that a pause is not followed by a burst.
    """

    def __init__(
        self,
        bytes_per_second: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._saved_bytes = 0.0
        self._at = clock()
        self._changes = 0

    @property
    def bytes_per_second(self) -> float | None:
        """The limit; None: none, 0: nothing flows."""
        return self._rate

    @bytes_per_second.setter
    def bytes_per_second(self, rate: float | None) -> None:
        with self._lock:
            self._refill()
            self._rate, self._saved_bytes = rate, 0.0
            self._changes += 1

    def take(self, most_bytes: int, stopped: Callable[[], bool]) -> Grant:
        """Leave to read `most_bytes` at most now; waits for as long as they take.

        Returns sooner, with leave to read them all, where `stopped()` or without a limit.
        """
        while (rate := self._rate) is not None and not stopped():
            with self._lock:
                self._refill()
                wanted = min(most_bytes, self._portion_bytes)
                if rate and self._saved_bytes > wanted - 1:  # less than a byte is rounding
                    self._saved_bytes -= wanted
                    return Grant(wanted, self, self._changes)
                lacking = wanted - self._saved_bytes
            due = lacking / rate if rate else _LONGEST_SLEEP_SECONDS
            self._sleep(min(due, _LONGEST_SLEEP_SECONDS))
        return Grant(most_bytes)

    def give_back(self, grant: Grant, count: int) -> None:
        """Of what was granted, `count` bytes did not come."""
        with self._lock:
            if grant.changes == self._changes:  # else they were bytes of another rate
                self._saved_bytes += count

    @property
    def _portion_bytes(self) -> int:
        return max(int((self._rate or 0) * _PORTION_SECONDS), _LEAST_PORTION_BYTES)

    def _refill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            # What several have given back may be more than a portion.
            most = max(self._saved_bytes, self._portion_bytes)
            self._saved_bytes = min(self._saved_bytes + (now - self._at) * self._rate, most)
        self._at = now


@frozen
class Grant:
    """Leave to read so many bytes, by a limit as it was before its next change."""

    bytes: int
    limit: RateLimit | None = None
    changes: int = 0


class Allowance:
    """Leave of several limits at once to read `bytes`; `spend` what has come."""

    def __init__(
        self, limits: Sequence[RateLimit], most_bytes: int, stopped: Callable[[], bool]
    ) -> None:
        self.bytes = most_bytes
        self._grants = []
        for limit in limits:
            grant = limit.take(self.bytes, stopped)
            self.bytes = grant.bytes
            self._grants.append(grant)

    def spend(self, count: int) -> None:
        """So many bytes came; the others are for the next who reads."""
        for grant in self._grants:
            if grant.limit is not None and grant.bytes > count:
                grant.limit.give_back(grant, grant.bytes - count)
