"""Fetching small files whole, and bundles frame by frame."""

from __future__ import annotations

import random as random_module
import threading
import time
from collections.abc import Callable, Sequence

from plugin_manager.errors import NetworkError, PluginManagerError
from plugin_manager.transfer._delivery import Delivery, Download
from plugin_manager.transfer._exchange import Client
from plugin_manager.transfer._hosts import Addresses, Hosts
from plugin_manager.transfer._limit import RateLimit
from plugin_manager.transfer._policy import Attempts, Deadline, Policy
from plugin_manager.transfer._ranges import Span
from plugin_manager.transfer._small import Batch, SmallFile

__all__ = ["Transfer"]


def _nothing(*_: object) -> None:
    pass


class Transfer:
    """Bytes from HTTP servers, as patient and as strict as `policy` says.

    May be used by several threads. Every failure of server or line is a NetworkError, raised after
    the attempts that the policy grants; an address that the policy forbids is an
    InvalidInputError; errors of sinks pass unchanged. `limit` bounds all that comes, and may be
    changed at any time. What is learned of servers is used by all later calls. `clock`, `sleep`
    and `random` are seams; without a `sleep` of somebody's own, what waits can be woken.
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
        self._hosts = Hosts(self._policy.connections_per_host, clock)
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
            client = self._idle.pop() if self._idle else None
        client = client or Client(self._policy, self._clock)
        client.limits = (self.limit,)
        return client

    def _release(self, client: Client) -> None:
        client.pace.deadline = None
        client.pace.stopped = lambda: False
        with self._lock:
            self._idle.append(client)

    def _deadline(self, seconds: float | None = None) -> Deadline | None:
        """The nearer of the policy's deadline and one in `seconds`."""
        both = [one for one in (self._policy.deadline_seconds, seconds) if one is not None]
        return Deadline(min(both), self._clock() + min(both)) if both else None

    def _small_file(
        self,
        urls: str | Sequence[str],
        most_bytes: int,
        deadline: Deadline | None,
        retrying: Callable[[NetworkError, float], None] = _nothing,
        *,
        may_be_none: bool = False,
    ) -> SmallFile:
        attempts = Attempts(self._policy, deadline, clock=self._clock, random=self._random)
        urls = [urls] if isinstance(urls, str) else urls
        addresses = Addresses(urls, self._hosts, attempts, may_be_none=may_be_none)
        return SmallFile(addresses, self._hosts, most_bytes, retrying)

    def fetch(
        self,
        urls: str | Sequence[str],
        most_bytes: int,
        *,
        retrying: Callable[[NetworkError, float], None] = _nothing,
    ) -> bytes:
        """The whole content at `urls`, which must not be longer than `most_bytes`.

        Of several addresses, which serve the same, the first is asked that has not failed lately.
        `retrying(error, seconds)` is told when all have failed, and it waits for so many seconds.
        """
        deadline = self._deadline()
        file = self._small_file(urls, most_bytes, deadline, retrying)
        client = self._acquire()
        client.pace.deadline = deadline
        try:
            while True:
                seconds = file.fetch(client)
                if isinstance(file.content, bytes):
                    return file.content
                if seconds:
                    (self._sleep or time.sleep)(seconds)
        finally:
            self._release(client)

    def fetch_many(
        self,
        requests: Sequence[tuple[str | Sequence[str], int]],
        *,
        cancelled: threading.Event | None = None,
        retrying: Callable[[NetworkError, float], None] = _nothing,
        may_be_none: Callable[[int], bool] = lambda _: False,
    ) -> list[bytes | PluginManagerError]:
        """As `fetch` for each of `requests`, (addresses, most bytes), several at a time.

        Where one cannot be had, its error stands in its place. Of those, by their numbers, that
        there `may_be_none` of, an address that says so is believed without patience with others.
        The policy's deadline is for all together. CancelledError soon after `cancelled` is set.
        """
        deadline = self._deadline()
        files = [
            self._small_file(urls, most_bytes, deadline, retrying, may_be_none=may_be_none(index))
            for index, (urls, most_bytes) in enumerate(requests)
        ]
        Batch(
            files,
            connections=self._policy.connections,
            deadline=deadline,
            cancelled=cancelled or threading.Event(),
            acquire=self._acquire,
            release=self._release,
            clock=self._clock,
            sleep=self._sleep,
        ).run()
        return [file.content for file in files if file.content is not None]

    def fetch_range(self, url: str, start: int, stop: int, *, length: int) -> bytes:
        """Bytes [start, stop) of the file at `url`, which is `length` bytes long."""
        content = b""

        def keep(_: int, data: memoryview) -> None:
            nonlocal content
            content = bytes(data)

        self.run([Download((url,), [Span(0, start, stop)], length, keep)])
        return content

    def run(
        self,
        downloads: Sequence[Download],
        *,
        limit: RateLimit | None = None,
        deadline_seconds: float | None = None,
    ) -> None:
        """Bring what `downloads` say to their sinks, several connections at a time.

        What sinks have taken stays taken where it fails: a later run may ask for the rest. Memory:
        the longest span for each connection, and a constant.

        `limit` bounds these downloads alone, beside the limit for all; it may be changed at any
        time too. `deadline_seconds` holds where it is shorter than the policy's.
        """
        self.delivery(downloads, limit=limit, deadline_seconds=deadline_seconds).run()

    def delivery(
        self,
        downloads: Sequence[Download],
        *,
        limit: RateLimit | None = None,
        deadline_seconds: float | None = None,
    ) -> Delivery:
        """The same, to `run` once, and to `cancel` from another thread."""
        return Delivery(
            downloads,
            self._policy,
            self._hosts,
            deadline=self._deadline(deadline_seconds),
            limits=(self.limit,) if limit is None else (self.limit, limit),
            acquire=self._acquire,
            release=self._release,
            clock=self._clock,
            sleep=self._sleep,
            random=self._random,
        )
