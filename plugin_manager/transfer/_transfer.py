"""Fetching small files whole, and bundles frame by frame."""

from __future__ import annotations

import random as random_module
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from plugin_manager.errors import CorruptError, NetworkError, UntrustedError
from plugin_manager.transfer._exchange import Answer, Client, shown
from plugin_manager.transfer._policy import Attempts, Policy, TryAgainError
from plugin_manager.transfer._ranges import Span, parse_content_range, stretch_end

__all__ = ["Transfer"]

MOST_REFETCHES = 3

_WHOLE = frozenset({200})
_WHOLE_OR_PART = frozenset({200, 206})
_READ_BYTES = 64 * 1024


class Transfer:
    """Bytes from HTTP servers, as patient and as strict as `policy` says.

    May be used by several threads: each has a `requests.Session` of its own, which is not made
    for sharing, and so its own connections. Every failure of server or line is a NetworkError,
    raised after the attempts that the policy grants; an address that the policy forbids is an
    InvalidInputError; errors of sinks pass unchanged. `clock`, `sleep` and `random` are seams.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._policy = policy or Policy()
        self._clock, self._sleep, self._random = clock, sleep, random
        self._of_thread = threading.local()

    def close(self) -> None:
        """Close this thread's connections; those of other threads close when they end."""
        client: Client | None = self._of_thread.__dict__.pop("client", None)
        if client is not None:
            client.close()

    def fetch(self, url: str, most_bytes: int) -> bytes:
        """The whole content at `url`, which must not be longer than `most_bytes`."""
        client, attempts = self._begin()
        while True:
            try:
                with client.get(url, accept=_WHOLE) as answer:
                    return _read_all(answer, url, most_bytes)
            except TryAgainError as error:
                attempts.failed(error)

    def fetch_range(self, url: str, start: int, stop: int, *, length: int) -> bytes:
        """Bytes [start, stop) of the file at `url`, which is `length` bytes long."""
        content = b""

        def keep(_: int, data: memoryview) -> None:
            nonlocal content
            content = bytes(data)

        self.run(url, [Span(0, start, stop)], keep, length=length)
        return content

    def run(
        self,
        url: str,
        spans: Sequence[Span],
        sink: Callable[[int, memoryview], None],
        *,
        length: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Bring `spans` of the file at `url`, `length` bytes long, to `sink`, one by one, in order.

        `spans` ascend and do not overlap. `sink(index, data)` gets each exactly once whole; `data`
        is overwritten after it returns. Where it raises CorruptError the span is fetched again, at
        most three times; then UntrustedError is raised. Any other error of the sink ends the run:
        what it has taken stays taken, and a later run may ask for the rest.

        `progress(count)` is told of bytes of spans as they arrive, never twice of the same: the
        counts add up to the length of all spans. Memory: the longest span, and a constant.
        """
        client, attempts = self._begin()
        delivery = _Delivery(url, spans, sink, progress, length)
        while not delivery.done:
            before = delivery.next
            try:
                delivery.advance(client)
            except TryAgainError as error:
                attempts.failed(error, progressed=delivery.next > before)

    def _begin(self) -> tuple[Client, Attempts]:
        client: Client | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = Client(self._policy, self._clock)
        seconds = self._policy.deadline_seconds
        deadline = None if seconds is None else self._clock() + seconds
        client.pace.deadline = deadline
        attempts = Attempts(
            self._policy, deadline, clock=self._clock, sleep=self._sleep, random=self._random
        )
        return client, attempts


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


class _Delivery:
    """The state of one run: `next` is the number of the first span that is not delivered yet."""

    def __init__(
        self,
        url: str,
        spans: Sequence[Span],
        sink: Callable[[int, memoryview], None],
        progress: Callable[[int], None],
        length: int,
    ) -> None:
        ends = [0, *(end for span in spans for end in (span.start, span.stop)), length]
        assert ends == sorted(ends), "spans must ascend within the file"
        self._url, self._spans, self._sink, self._length = url, spans, sink, length
        self._progress = progress
        longest = max((span.stop - span.start for span in spans), default=0)
        self._buffer = memoryview(bytearray(longest))
        self._refetches: Counter[int] = Counter()
        self._delivered_bytes = 0
        self._reported_bytes = 0
        self.next = 0

    @property
    def done(self) -> bool:
        """Whether all spans are delivered."""
        return self.next == len(self._spans)

    def advance(self, client: Client) -> None:
        """Make one request and deliver what it brings."""
        end = stretch_end(self._spans, self.next)
        start, stop = self._spans[self.next].start, self._spans[end - 1].stop
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        if self._refetches[self.next]:
            # The damage may sit in a cache on the way: ask past it.
            headers["Cache-Control"] = "no-cache"
        with client.get(self._url, accept=_WHOLE_OR_PART, headers=headers) as answer:
            if answer.status == 206:
                self._check_part(answer, start, stop)
                self._take(answer, start, end)
            else:
                # This server gives the whole file or nothing. So take from it all that is still
                # wanted, or each range would cost the file anew.
                self._check_length(answer, self._length)
                self._take(answer, 0, len(self._spans))

    def _check_part(self, answer: Answer, start: int, stop: int) -> None:
        text = answer.headers.get("Content-Range", "")
        if parse_content_range(text) != (start, stop, self._length):
            raise self._nonsense(
                f"answers with the range {text!r:.60} where "
                f"'bytes {start}-{stop - 1}/{self._length}' was asked for"
            )
        self._check_length(answer, stop - start)

    def _check_length(self, answer: Answer, length: int) -> None:
        declared = answer.content_length
        if declared is not None and declared != length:
            raise self._nonsense(f"sends {declared} bytes where {length} were expected")

    def _nonsense(self, what: str) -> TryAgainError:
        return TryAgainError(f"{shown(self._url)}: the server {what}", url=shown(self._url))

    def _take(self, answer: Answer, position: int, end: int) -> None:
        """Deliver the spans before number `end` from a body that begins at byte `position`."""
        answer.expect(self._spans[end - 1].stop - position)
        while self.next < end:
            span = self._spans[self.next]
            answer.skip(span.start - position, self._buffer)
            data = self._buffer[: span.stop - span.start]
            self._receive(answer, data)
            self._deliver(span, data)
            position = span.stop

    def _receive(self, answer: Answer, data: memoryview) -> None:
        arrived_bytes = self._delivered_bytes

        def arrived(count: int) -> None:
            nonlocal arrived_bytes
            arrived_bytes += count
            if arrived_bytes > self._reported_bytes:
                self._progress(arrived_bytes - self._reported_bytes)
                self._reported_bytes = arrived_bytes

        answer.fill(data, arrived)

    def _deliver(self, span: Span, data: memoryview) -> None:
        try:
            self._sink(span.index, data)
        except CorruptError as error:
            where = f"bytes {span.start} to {span.stop - 1} of {shown(self._url)}"
            if self._refetches[self.next] == MOST_REFETCHES:
                raise UntrustedError(
                    f"{where}: the server sends bytes that were not signed",
                    remedy="Try another mirror or network, and tell the repository's owner.",
                    url=shown(self._url),
                    start=span.start,
                    stop=span.stop,
                ) from error
            self._refetches[self.next] += 1
            raise TryAgainError(f"{where}: {error.message}", url=shown(self._url)) from error
        self._delivered_bytes += len(data)
        self.next += 1
