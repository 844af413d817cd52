"""Small files whole: one, or many side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from attrs import define

from plugin_manager.errors import CancelledError, NetworkError, PluginManagerError
from plugin_manager.transfer._delivery import worthwhile_connections
from plugin_manager.transfer._exchange import Answer, Client, shown
from plugin_manager.transfer._hosts import Addresses, Hosts
from plugin_manager.transfer._policy import Deadline

__all__ = ["Batch", "SmallFile"]

_WHOLE = frozenset({200})
_READ_BYTES = 64 * 1024
_CONNECTIONS = 2  # until it is known how far the servers are
_LOOK_SECONDS = 0.1
_ENDING_SECONDS = 0.5


@define(eq=False)
class SmallFile:
    """A file of at most `most_bytes` that `addresses` have."""

    addresses: Addresses
    hosts: Hosts
    most_bytes: int
    retrying: Callable[[NetworkError, float], None] = lambda _, __: None
    content: bytes | PluginManagerError | None = None  # None: not known yet
    resume_at: float = 0.0

    def fetch(self, client: Client) -> float:
        """Ask once, for `content`; returns how long to wait before asking again.

        Raises NetworkError where that is idle, or InvalidInputError.
        """
        url = self.hosts.best(self.addresses.ready)
        try:
            with client.get(url, accept=_WHOLE) as answer:
                self.content = _read_all(answer, url, self.most_bytes)
        except NetworkError as error:
            failures = self.addresses.failures
            seconds = self.addresses.failed(url, error, asked_at=failures)
            if seconds:
                self.retrying(error, seconds)
            return seconds
        return 0.0


class Batch:
    """Fetches `files` side by side, over two connections, or more to servers that are far."""

    def __init__(
        self,
        files: Sequence[SmallFile],
        *,
        connections: int,
        deadline: Deadline | None,
        cancelled: threading.Event,
        acquire: Callable[[], Client],
        release: Callable[[Client], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None] | None,
    ) -> None:
        self._files = files
        self._connections, self._deadline, self._cancelled = connections, deadline, cancelled
        self._acquire, self._release = acquire, release
        self._clock, self._sleep = clock, sleep
        self._changed = threading.Condition()
        self._waiting = list(files)
        self._busy: set[Client] = set()
        self._threads: list[threading.Thread] = []
        self._left = len(files)
        self._stopped = False
        self._error: BaseException | None = None

    def run(self) -> None:
        """Fill in `content`, an error where it cannot be had; raises CancelledError."""
        try:
            with self._changed:
                self._want(min(_CONNECTIONS, self._connections))
                while self._left and not self._error and not self._cancelled.is_set():
                    self._changed.wait(_LOOK_SECONDS)
        finally:
            with self._changed:
                cancelled = self._left and not self._error and self._cancelled.is_set()
                self._stopped = True
                for client in self._busy:
                    client.interrupt()
                self._changed.notify_all()
            # As for a delivery: who still connects is left behind.
            until = time.monotonic() + _ENDING_SECONDS
            for thread in self._threads:
                thread.join(max(until - time.monotonic(), 0))
        if self._error:
            raise self._error
        if cancelled:
            raise CancelledError("the transfer was cancelled")

    def _want(self, connections: int) -> None:
        while len(self._threads) < min(connections, self._connections, len(self._files)):
            name = f"transfer-small-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        client = self._acquire()
        client.pace.deadline = self._deadline
        client.pace.stopped = lambda: self._stopped
        try:
            while file := self._next(client):
                try:
                    seconds = file.fetch(client)
                except PluginManagerError as error:
                    file.content, seconds = error, 0.0
                finally:
                    with self._changed:
                        self._busy.discard(client)
                        client.recover()
                self._fetched(file, client, seconds)
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
        finally:
            self._release(client)

    def _next(self, client: Client) -> SmallFile | None:
        while True:
            with self._changed:
                if not self._left or self._stopped:
                    return None
                now = self._clock()
                file = min(self._waiting, key=lambda one: one.resume_at, default=None)
                if file and file.resume_at <= now:
                    self._waiting.remove(file)
                    self._busy.add(client)
                    return file
                seconds = file.resume_at - now if file else None
                if self._sleep is None or self._busy or seconds is None:
                    self._changed.wait(seconds)
                    continue
            self._sleep(seconds)

    def _fetched(self, file: SmallFile, client: Client, seconds: float) -> None:
        with self._changed:
            if file.content is None:
                file.resume_at = self._clock() + seconds
                self._waiting.append(file)
            else:
                self._left -= 1
            if client.latency_seconds is not None:
                self._want(worthwhile_connections(client.latency_seconds, self._left))
            self._changed.notify_all()


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
        f"{shown(url)}: the server sends more than {most_bytes} bytes",
        remedy="Try another network or mirror, and tell the repository's owner.",
        url=shown(url),
        most_bytes=most_bytes,
    )
