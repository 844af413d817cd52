"""Handing out what files lack, piece by piece, to several connections.

A *piece* is a stretch of one file that one request asks for. Pieces are cut from what is left when
a connection becomes free, smaller towards the end; and a connection that has nothing to do takes
the rear half of what the slowest still has before it. So no slow connection decides the end.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import accumulate

from attrs import define, field, frozen

from plugin_manager.errors import CancelledError, CorruptError, NetworkError, UntrustedError
from plugin_manager.transfer._exchange import Answer, Client, shown
from plugin_manager.transfer._hosts import Addresses, Hosts
from plugin_manager.transfer._limit import RateLimit
from plugin_manager.transfer._policy import Attempts, Deadline, Policy, TryAgainError
from plugin_manager.transfer._ranges import Span, parse_content_range, stretch_end

__all__ = ["Delivery", "Download", "worthwhile_connections"]

MOST_REFETCHES = 3

_WHOLE_OR_PART = frozenset({200, 206})
_TOO_MANY = frozenset({429, 503})
_LEAST_PIECE_BYTES = 1024 * 1024
_MOST_PIECE_BYTES = 32 * 1024 * 1024
# A server that answers so soon is near: two connections keep it and us busy, more only contend for
# this process (measured on loopback). One that is far needs several, each to fill its window.
_NEAR_SECONDS = 0.005
_NEAR_CONNECTIONS = 2
_FAR_CONNECTIONS = 8
_TRIAL_SECONDS = 0.5  # how long a number of connections is tried before the next
_WORTHWHILE_GAIN = 1.1
_IDLE_SECONDS = 0.25
_TURN_SECONDS = 0.05  # between looks whether a connection to a busy host is to be had
_ENDING_SECONDS = 0.5


def worthwhile_connections(latency_seconds: float) -> int:
    """How many connections to begin with, to a server that answers so soon."""
    return _NEAR_CONNECTIONS if latency_seconds < _NEAR_SECONDS else _FAR_CONNECTIONS


def _nothing(*_: object) -> None:
    pass


@frozen
class Download:
    """Parts of one file of `length` bytes that `urls`, which all serve the same, have.

    `spans` ascend and do not overlap. `sink(index, data)` gets each exactly once whole, in no order
    and from several threads at once; `data` is overwritten after it returns. Where it raises
    CorruptError the span is fetched again, at most three times, from another address if there is
    one; any other error ends the delivery. `progress(count)` is told of bytes as they arrive, one
    call at a time, never twice of the same: the counts add up to the length of all spans.
    `retrying(error, seconds)` is told where all of its hosts have failed, the last with `error`,
    and the next attempt is made only in so many seconds.
    """

    urls: tuple[str, ...]
    spans: Sequence[Span] = field(repr=False)
    length: int
    sink: Callable[[int, memoryview], None] = field(repr=False)
    progress: Callable[[int], None] = field(default=_nothing, repr=False)
    retrying: Callable[[NetworkError, float], None] = field(default=_nothing, repr=False)


@define(eq=False)
class _File:
    """What is left to do of a download. Spans are meant by their place in `spans`."""

    download: Download
    addresses: Addresses
    sums: Sequence[int]  # of the lengths of the spans before each
    todo: deque[tuple[int, int]]  # ascending stretches [first, end) that nobody fetches
    left: int  # spans not delivered
    resume_at: float = 0.0
    progressed: bool = False
    whole: bool = False  # this server knows no ranges
    busy: int = 0  # pieces under way
    refetches: Counter[int] = field(factory=Counter)
    claimed: set[int] = field(factory=set)
    counted: dict[int, int] = field(factory=dict)  # bytes told of that are not delivered yet

    @property
    def spans(self) -> Sequence[Span]:
        return self.download.spans

    def skip_claimed(self) -> None:
        """Leave out what came meanwhile from the beginning of what is left to do."""
        first, end = self.todo.popleft()
        while first < end and first in self.claimed:
            first += 1
        if first < end:
            self.todo.appendleft((first, end))

    @property
    def todo_bytes(self) -> int:
        return sum(self.bytes_of(*stretch) for stretch in self.todo)

    def bytes_of(self, first: int, end: int) -> int:
        return self.sums[end] - self.sums[first]


@define(eq=False)
class _Piece:
    """Spans [next, end) of `file`, asked for by one request; `end` may come nearer meanwhile."""

    file: _File
    url: str
    next: int
    end: int
    asked_at: int  # how many failures there had been
    client: Client
    begun: float
    brought_bytes: int = 0


class Delivery:
    """Brings `downloads`, the first of them first. `run` once; `cancel` from any thread."""

    def __init__(
        self,
        downloads: Sequence[Download],
        policy: Policy,
        hosts: Hosts,
        *,
        deadline: Deadline | None,
        limits: Sequence[RateLimit],
        acquire: Callable[[], Client],
        release: Callable[[Client], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None] | None,
        random: Callable[[], float],
    ) -> None:
        self._policy, self._hosts = policy, hosts
        self._acquire, self._release = acquire, release
        self._clock, self._sleep = clock, sleep
        self._deadline, self._limits = deadline, limits
        self._files = [
            _file(
                one,
                Addresses(one.urls, hosts, Attempts(policy, deadline, clock=clock, random=random)),
            )
            for one in downloads
        ]
        self._longest = max((s.stop - s.start for one in downloads for s in one.spans), default=0)
        self._changed = threading.Condition()
        self._pieces: list[_Piece] = []
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._stopped = False
        self._sinking = 0  # sinks that are being called
        # How many connections are wanted, and what is known of how that helps.
        self._wanted = self._proven = 1
        self._growing = True
        self._rate = 0.0
        self._trial_since = clock()
        self._trial_bytes = 0

    def run(self) -> None:
        """Deliver everything; raises NetworkError, UntrustedError, or what a sink raised.

        CancelledError where it was cancelled. No sink is called any more when this has returned.
        """
        # Never in the caller's own thread: looking a name up, connecting and shaking hands cannot
        # be interrupted, only left behind.
        try:
            with self._changed:
                if not self._is_complete():
                    self._start()
                self._changed.wait_for(lambda: self._stopped or self._is_complete())
                self._changed.wait_for(lambda: self._stopped or not self._pieces, _ENDING_SECONDS)
        except BaseException as error:  # KeyboardInterrupt
            self._stop(error)
        finally:
            self._stop(None)
            with self._changed:
                self._changed.wait_for(lambda: not self._sinking)
            until = time.monotonic() + _ENDING_SECONDS
            for thread in self._threads:
                thread.join(max(until - time.monotonic(), 0))
            self._hosts.forget(self)
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """End the delivery now; `run` then raises CancelledError."""
        self._stop(CancelledError("the transfer was cancelled"))

    def _is_complete(self) -> bool:
        return not any(file.left for file in self._files)

    def _stop(self, error: BaseException | None) -> None:
        with self._changed:
            if self._error is None and not self._stopped:
                self._error = error
            self._stopped = True
            for piece in self._pieces:
                piece.client.interrupt()
            self._changed.notify_all()

    def _start(self) -> None:
        number = len(self._threads)
        thread = threading.Thread(
            target=self._work, args=(number,), name=f"transfer-{number}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    # --- handing out -----------------------------------------------------------------------------

    def _work(self, number: int) -> None:
        """Fetch piece after piece, until nothing is left or fewer connections are wanted."""
        client = self._acquire()
        client.limits = self._limits
        client.pace.deadline = self._deadline
        client.pace.stopped = lambda: self._stopped
        try:
            buffer = memoryview(bytearray(self._longest))
            while piece := self._next(number, client):
                self._fetch(client, piece, buffer)
        except BaseException as error:
            self._stop(error)
        finally:
            self._release(client)

    def _next(self, number: int, client: Client) -> _Piece | None:
        while True:
            with self._changed:
                if self._stopped or not any(file.left for file in self._files):
                    self._changed.notify_all()
                    return None
                if number and number >= self._wanted:
                    return None
                piece, seconds = self._take(client)
                if piece:
                    self._pieces.append(piece)
                    piece.file.busy += 1
                    return piece
                alone = not self._pieces and len(self._threads) == 1
                if self._sleep is None or not alone:
                    self._changed.wait(seconds if alone else min(seconds, _IDLE_SECONDS))
                    continue
            self._sleep(seconds)

    def _take(self, client: Client) -> tuple[_Piece | None, float]:
        """The next piece; or how many seconds to wait before looking again."""
        now = self._clock()
        pauses: list[float] = []
        for file in self._files:
            while file.todo and file.todo[0][0] in file.claimed:
                file.skip_claimed()
            if not file.todo or (file.whole and file.busy):
                continue
            if file.resume_at > now:
                pauses.append(file.resume_at - now)
            elif url := self._hosts.take(file.addresses.ready, self):
                return self._cut(file, url, client), 0.0
            else:
                pauses.append(_TURN_SECONDS)
        return self._share(client, now), min(pauses, default=_IDLE_SECONDS)

    def _cut(self, file: _File, url: str, client: Client) -> _Piece:
        """A piece from the beginning of what `file` lacks."""
        left = sum(one.todo_bytes for one in self._files)
        most = max(left // (2 * max(self._wanted, 2)), _LEAST_PIECE_BYTES)
        most = min(most, _MOST_PIECE_BYTES)
        first, limit = file.todo.popleft()
        end = stretch_end(file.spans[first:limit], most) + first
        if end < limit:
            file.todo.appendleft((end, limit))
        return self._piece(file, url, first, end, client)

    def _piece(self, file: _File, url: str, first: int, end: int, client: Client) -> _Piece:
        now = self._clock()
        return _Piece(file, url, first, end, file.addresses.failures, client, begun=now)

    def _share(self, client: Client, now: float) -> _Piece | None:
        """Half of what the one with the most before it has; None where that is not worth it."""
        best, most = None, _LEAST_PIECE_BYTES
        for piece in self._pieces:
            if piece.end - piece.next < 2 or piece.file.whole or piece.file.resume_at > now:
                continue
            before = piece.file.bytes_of(piece.next + 1, piece.end)
            if before > most:
                best, most = piece, before
        if best is None:
            return None
        url = self._hosts.take(best.file.addresses.ready, self)
        if url is None:
            return None
        middle = best.next + 1 + (best.end - best.next - 1) // 2
        end, best.end = best.end, middle
        return self._piece(best.file, url, middle, end, client)

    # --- how many connections --------------------------------------------------------------------

    def _answered(self, client: Client) -> None:
        """The header of an answer came: say how many connections are wanted."""
        with self._changed:
            if self._wanted == 1 and self._growing and client.latency_seconds is not None:
                wanted = worthwhile_connections(client.latency_seconds)
                self._want(min(wanted, self._policy.connections))

    def _want(self, connections: int) -> None:
        self._wanted = connections
        self._trial_since, self._trial_bytes = self._clock(), 0
        # Not for a few bytes that one has as soon; but where requests take long, for each of them.
        more = sum(file.todo_bytes for file in self._files) // _LEAST_PIECE_BYTES
        if connections > _NEAR_CONNECTIONS:
            more = max(more, sum(len(file.todo) for file in self._files))
        while len(self._threads) < min(connections, 1 + more):
            self._start()

    def _try_more(self, now: float) -> None:
        """One trial with this many connections is over: see whether more help."""
        rate = self._trial_bytes / (now - self._trial_since)
        left = sum(file.todo_bytes for file in self._files)
        if rate < self._rate * _WORTHWHILE_GAIN or left < rate:
            self._growing = False
            if self._proven <= _NEAR_CONNECTIONS:
                # Near, those that bring no more contend; far, their windows may yet open.
                self._wanted = self._proven
            return
        self._rate, self._proven = rate, self._wanted
        self._want(min(self._wanted * 3 // 2 + 1, self._policy.connections))

    # --- fetching --------------------------------------------------------------------------------

    def _fetch(self, client: Client, piece: _Piece, buffer: memoryview) -> None:
        """Make one request and deliver what it brings."""
        file, spans = piece.file, piece.file.spans
        start, stop = spans[piece.next].start, spans[piece.end - 1].stop
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        if file.refetches[piece.next]:
            # The damage may sit in a cache on the way: ask past it.
            headers["Cache-Control"] = "no-cache"
        error: NetworkError | None = None
        try:
            with client.get(piece.url, accept=_WHOLE_OR_PART, headers=headers) as answer:
                self._answered(client)
                if answer.status == 206:
                    _check_part(answer, piece.url, start, stop, file.download.length)
                    self._receive(answer, piece, start, buffer)
                elif self._have_it_whole(piece):
                    _check_length(answer, piece.url, file.download.length)
                    self._receive(answer, piece, 0, buffer)
        except NetworkError as failure:
            error = failure
        finally:
            with self._changed:
                self._pieces.remove(piece)
                client.recover()
            self._hosts.give_back(piece.url, self)
        self._finished(piece, error)

    def _have_it_whole(self, piece: _Piece) -> bool:
        """Whether `piece` may read an answer that is the whole file: only one at a time may.

        It then takes from it all that is still wanted, or each range would cost the file anew.
        """
        file = piece.file
        with self._changed:
            if any(one.file is file and one is not piece and file.whole for one in self._pieces):
                return False
            file.whole = True
            piece.next = min([piece.next, *(first for first, _ in file.todo)])
            piece.end = max([piece.end, *(end for _, end in file.todo)])
            file.todo.clear()
            return True

    def _receive(self, answer: Answer, piece: _Piece, position: int, buffer: memoryview) -> None:
        """Deliver the spans of `piece` from a body that begins at byte `position`."""
        file = piece.file
        answer.expect(file.spans[piece.end - 1].stop - position)
        while True:
            with self._changed:
                while piece.next < piece.end and piece.next in file.claimed:
                    piece.next += 1  # another connection brought it
                if self._stopped or piece.next >= piece.end:
                    return
                place = piece.next
            span = file.spans[place]
            answer.skip(span.start - position, buffer)
            data = buffer[: span.stop - span.start]
            arrived = 0

            def count(more: int, place: int = place) -> None:
                nonlocal arrived
                arrived += more
                self._count(file, place, arrived, more)

            answer.fill(data, count)
            position = span.stop
            self._deliver(piece, place, data)
            # Who reads a whole file would have to begin it anew.
            if not file.whole and self._hosts.is_awaited(piece.url, self, piece.begun):
                return

    def _count(self, file: _File, place: int, arrived: int, more: int) -> None:
        with self._changed:
            now = self._clock()
            self._trial_bytes += more
            if self._growing and self._wanted > 1 and now - self._trial_since > _TRIAL_SECONDS:
                self._try_more(now)
            told = file.counted.get(place, 0)
            if arrived > told and not self._stopped:
                file.counted[place] = arrived
                file.download.progress(arrived - told)

    def _deliver(self, piece: _Piece, place: int, data: memoryview) -> None:
        file, span = piece.file, piece.file.spans[place]
        with self._changed:
            if self._stopped or place in file.claimed:
                return
            file.claimed.add(place)
            self._sinking += 1
        try:
            self._call(file, span.index, data)
        except CorruptError as error:
            self._refuse(piece, place, error)
        else:
            with self._changed:
                file.left -= 1
                file.progressed = True
                piece.brought_bytes += len(data)
                complete = not any(file.left for file in self._files)
                for other in self._pieces:
                    # Whoever reads this very span has nothing left to read.
                    same = other.file is file and other.next == place
                    if other is not piece and (same or complete):
                        other.client.interrupt()
                if not file.left:
                    self._changed.notify_all()

    def _call(self, file: _File, index: int, data: memoryview) -> None:
        try:
            file.download.sink(index, data)
        finally:
            with self._changed:
                self._sinking -= 1
                self._changed.notify_all()

    def _refuse(self, piece: _Piece, place: int, error: CorruptError) -> None:
        file, span = piece.file, piece.file.spans[place]
        where = f"bytes {span.start} to {span.stop - 1} of {shown(piece.url)}"
        with self._changed:
            file.claimed.discard(place)
            file.refetches[place] += 1
            refetches = file.refetches[place]
            self._hosts.distrust(piece.url)
        if refetches > MOST_REFETCHES:
            raise UntrustedError(
                f"{where}: the server sends bytes that were not signed",
                remedy="Try another mirror or network, and tell the repository's owner.",
                url=shown(piece.url),
                start=span.start,
                stop=span.stop,
            ) from error
        raise TryAgainError(f"{where}: {error.message}", url=shown(piece.url)) from error

    def _finished(self, piece: _Piece, error: NetworkError | None) -> None:
        """Take back what `piece` did not bring, and see what its failure means."""
        file = piece.file
        with self._changed:
            file.busy -= 1
            while piece.next < piece.end and piece.next in file.claimed:
                piece.next += 1
            self._hosts.bring(piece.url, piece.brought_bytes, self._clock() - piece.begun)
            self._give_back(piece)
            self._changed.notify_all()
            if error is None or self._stopped or piece.next >= piece.end:
                return
            if error.status in _TOO_MANY:
                self._wanted, self._growing = max(1, self._wanted // 2), False
            before = file.addresses.failures
            seconds = file.addresses.failed(
                piece.url, error, asked_at=piece.asked_at, progressed=file.progressed
            )
            if file.addresses.failures != before:
                file.progressed = False
            if seconds:
                file.resume_at = self._clock() + seconds
                file.download.retrying(error, seconds)

    def _give_back(self, piece: _Piece) -> None:
        """Put the spans that `piece` did not bring where others find them."""
        file, todo = piece.file, list(piece.file.todo)
        first = None
        stretches = []
        for place in range(piece.next, piece.end + 1):
            lacking = place < piece.end and place not in file.claimed
            if lacking and first is None:
                first = place
            elif not lacking and first is not None:
                stretches.append((first, place))
                first = None
        file.todo.clear()
        for start, end in _merged([*todo, *stretches]):
            file.todo.append((start, end))


def _merged(stretches: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same places as `stretches` cover, in as few as possible, ascending."""
    found: list[tuple[int, int]] = []
    for first, end in sorted(stretches):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((first, end))
    return found


def _file(download: Download, addresses: Addresses) -> _File:
    spans = download.spans
    ends = [0, *(end for span in spans for end in (span.start, span.stop)), download.length]
    assert ends == sorted(ends), "spans must ascend within the file"
    sums = [0, *accumulate(span.stop - span.start for span in spans)]
    todo = deque([(0, len(spans))] if spans else [])
    return _File(download, addresses, sums, todo, left=len(spans))


def _check_part(answer: Answer, url: str, start: int, stop: int, length: int) -> None:
    text = answer.headers.get("Content-Range", "")
    if parse_content_range(text) != (start, stop, length):
        raise _nonsense(
            url,
            f"answers with the range {text!r:.60} where "
            f"'bytes {start}-{stop - 1}/{length}' was asked for",
        )
    _check_length(answer, url, stop - start)


def _check_length(answer: Answer, url: str, length: int) -> None:
    declared = answer.content_length
    if declared is not None and declared != length:
        raise _nonsense(url, f"sends {declared} bytes where {length} were expected")


def _nonsense(url: str, what: str) -> TryAgainError:
    return TryAgainError(f"{shown(url)}: the server {what}", url=shown(url))
