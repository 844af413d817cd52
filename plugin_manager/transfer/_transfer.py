"""Fetching small files whole, and bundles frame by frame."""

from __future__ import annotations

import random as random_module
import threading
import time
from collections.abc import Callable, Sequence

from plugin_manager.errors import NetworkError
from plugin_manager.transfer._delivery import Delivery, Download
from plugin_manager.transfer._exchange import Answer, Client, shown
from plugin_manager.transfer._limit import RateLimit
from plugin_manager.transfer._policy import Attempts, Policy, TryAgainError
from plugin_manager.transfer._ranges import Span

__all__ = ["Transfer"]

_WHOLE = frozenset({200})
_READ_BYTES = 64 * 1024


class Transfer:
    """Bytes from HTTP servers, as patient and as strict as `policy` says.

    May be used by several threads. Every failure of server or line is a NetworkError, raised after
    the attempts that the policy grants; an address that the policy forbids is an
    InvalidInputError; errors of sinks pass unchanged. `limit` bounds all that comes, and may be
    changed at any time. `clock`, `sleep` and `random` are seams; without a `sleep` of somebody's
    own, what waits can be woken.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._policy = policy or Policy()
        self._clock, self._sleep, self._random = clock, sleep, random
        self.limit = RateLimit(clock=clock, sleep=sleep or time.sleep)
        self._lock = threading.Lock()
        # Each is used by one thread at a time: a `requests.Session` is not made for sharing.
        self._idle: list[Client] = []

    def close(self) -> None:
        """Close all connections that nobody is using."""
        with self._lock:
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    def _acquire(self) -> Client:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return Client(self._policy, self._clock, self.limit)

    def _release(self, client: Client) -> None:
        client.pace.deadline = None
        client.pace.stopped = lambda: False
        with self._lock:
            self._idle.append(client)

    def fetch(self, url: str, most_bytes: int) -> bytes:
        """The whole content at `url`, which must not be longer than `most_bytes`."""
        seconds = self._policy.deadline_seconds
        deadline = None if seconds is None else self._clock() + seconds
        attempts = Attempts(self._policy, deadline, clock=self._clock, random=self._random)
        client = self._acquire()
        client.pace.deadline = deadline
        try:
            while True:
                try:
                    with client.get(url, accept=_WHOLE) as answer:
                        return _read_all(answer, url, most_bytes)
                except TryAgainError as error:
                    (self._sleep or time.sleep)(attempts.failed(error))
        finally:
            self._release(client)

    def fetch_range(self, url: str, start: int, stop: int, *, length: int) -> bytes:
        """Bytes [start, stop) of the file at `url`, which is `length` bytes long."""
        content = b""

        def keep(_: int, data: memoryview) -> None:
            nonlocal content
            content = bytes(data)

        self.run([Download((url,), [Span(0, start, stop)], length, keep)])
        return content

    def run(self, downloads: Sequence[Download]) -> None:
        """Bring what `downloads` say to their sinks, several connections at a time.

        What sinks have taken stays taken where it fails: a later run may ask for the rest. Memory:
        the longest span for each connection, and a constant.
        """
        self.delivery(downloads).run()

    def delivery(self, downloads: Sequence[Download]) -> Delivery:
        """The same, to `run` once, and to `cancel` from another thread."""
        return Delivery(
            downloads,
            self._policy,
            acquire=self._acquire,
            release=self._release,
            clock=self._clock,
            sleep=self._sleep,
            random=self._random,
        )


def _read_all(answer: Answer, url: str, most_bytes: int) -> bytes:
    answer.expect(most_bytes + 1)
    length = answer.content_length
    content = bytearray()
    scratch = memoryview(bytearray(min(_READ_BYTES, most_bytes + 1)))
    while length is None or length <= most_bytes:
        count = answer.read(scratch[: most_bytes + 1 - len(content)])
        if count == 0:
            return bytes(content)
        content += scratch[:count]
        if len(content) > most_bytes:
            break
    raise NetworkError(
        f"{shown(url)}: the server sends more than {most_bytes} bytes", url=shown(url)
    )
