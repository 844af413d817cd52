"""Handing out what files lack, piece by piece, to several connections.

A *piece* is a stretch of one file that one request asks for. Pieces are cut from what is left when
a connection becomes free, smaller towards the end; and a connection that has nothing to do takes
the rear half of what the slowest still has before it, and in the end asks once more for what the
slowest is at. So no slow connection decides the end.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import accumulate

from attrs import define, field

from plugin_manager._attrs import frozen
from plugin_manager.errors import CancelledError, CorruptError, NetworkError, UntrustedError
from plugin_manager.transfer._exchange import Answer, Client, shown
from plugin_manager.transfer._hosts import Addresses, Hosts
from plugin_manager.transfer._limit import RateLimit
from plugin_manager.transfer._policy import Attempts, Deadline, Policy, TryAgainError
from plugin_manager.transfer._ranges import Span, parse_content_range, stretch_end

__all__ = ["Delivery", "Download", "worthwhile_connections"]

MOST_REFETCHES = 3
_MOST_LIES = 16  # of one address about one file, while there are others

_WHOLE_OR_PART = frozenset({200, 206})
_TOO_MANY = frozenset({429, 503})
_LEAST_PIECE_BYTES = 1024 * 1024
_MOST_PIECE_BYTES = 32 * 1024 * 1024
# A server that answers so soon is near: two connections keep it and us busy, more only contend for
# this process (measured on loopback). One that is far needs several, each to fill its window; and
# twice as many for many requests, most of whose time nothing is under way.
_NEAR_SECONDS = 0.005
_NEAR_CONNECTIONS = 2
_FAR_CONNECTIONS = 8
_MOST_FAR_CONNECTIONS = 16
_TRIAL_SECONDS = 0.5  # how long a number of connections is tried before the next
_WORTHWHILE_GAIN = 1.1
_IDLE_SECONDS = 0.25
_SLOW_SECONDS = 2.0  # how much longer than by the best what is left may take
_RATE_SECONDS = 1.0  # over which a piece's rate is measured
_MOST_REPEATS = 3  # of one piece
_TURN_SECONDS = 0.05  # between looks whether a connection to a busy host is to be had
_ENDING_SECONDS = 0.5


def worthwhile_connections(latency_seconds: float, requests: int) -> int:
    """How many connections to begin with, for `requests` to a server that answers so soon."""
    if latency_seconds < _NEAR_SECONDS:
        return _NEAR_CONNECTIONS
    return min(max(requests, _FAR_CONNECTIONS), _MOST_FAR_CONNECTIONS)


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
    rangeless: set[str] = field(factory=set)  # addresses that answer with the whole file
    busy: int = 0  # pieces under way
    refetches: Counter[tuple[int, str]] = field(factory=Counter)  # of a place from an address
    lies: Counter[str] = field(factory=Counter)
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

    def candidates(self) -> tuple[str, ...]:
        """The addresses to ask next: one that knows no ranges only where there is no other."""
        standing = self.addresses.standing
        return tuple(url for url in standing if url not in self.rangeless) or standing

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
    original: _Piece | None = None  # which this one repeats
    repeats: int = 0  # how often this one was repeated
    whole: bool = False  # the answer is the whole file
    interrupted: bool = False  # as others had brought all of it
    excused: bool = False  # its failure was counted already
    brought_bytes: int = 0
    arrived_at: float = field(init=False)  # when something last came
    rate: float | None = field(default=None, init=False)  # of the last window; None: not known yet
    window_since: float = field(init=False)
    window_bytes: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.arrived_at = self.window_since = self.begun

    def arrived(self, count: int, now: float) -> None:
        """`count` bytes of it came."""
        self.arrived_at = now
        self.window_bytes += count
        if now - self.window_since >= _RATE_SECONDS:
            self.rate = self.window_bytes / (now - self.window_since)
            self.window_since, self.window_bytes = now, 0

    def bytes_per_second(self, now: float) -> float | None:
        """How fast it comes now; None where that cannot be said."""
        elapsed = now - self.window_since
        return self.window_bytes / elapsed if elapsed >= _RATE_SECONDS else self.rate

    def rest_seconds(self, now: float) -> float:
        """For how long it will take; what is silent will be silent for as long again."""
        rate = self.bytes_per_second(now)
        if rate is None:
            return 0.0
        rest = self.file.bytes_of(self.next, self.end) / rate if rate else 0.0
        return max(now - self.arrived_at, rest)


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
                    self._start(0)
                while not self._changed.wait_for(
                    lambda: self._stopped or self._is_complete(), _ENDING_SECONDS
                ):
                    self._help()
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

    def _help(self) -> None:
        """Start a thread where one is slow and nobody is idle to repeat what it is at."""
        alive = sum(thread.is_alive() for thread in self._threads)
        busy = len(self._pieces) >= alive and alive < self._policy.connections
        if busy and self._slowest(self._clock()):
            self._start(0)

    def _start(self, number: int) -> None:
        thread = threading.Thread(
            target=self._work,
            args=(number,),
            name=f"transfer-{len(self._threads)}",
            daemon=True,
        )
        self._threads.append(thread)
        thread.start()

    # --- handing out -----------------------------------------------------------------------------

    def _work(self, number: int) -> None:
        """Fetch piece after piece, until nothing is left or fewer connections are wanted."""
        client = self._acquire()
        client.limits = self._limits
        client.pace.deadline = self._deadline
        client.pace.stopped = lambda: self._stopped or client.is_interrupted
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
        # Those with the fewest connections first, so that all go on; the first of them first.
        for file in sorted(self._files, key=lambda one: one.busy):
            while file.todo and file.todo[0][0] in file.claimed:
                file.skip_claimed()
            if not file.todo:
                continue
            urls = file.candidates()
            if file.resume_at > now:
                pauses.append(file.resume_at - now)
            elif file.busy and file.rangeless.issuperset(urls):
                continue  # whoever reads the whole file takes all
            elif url := self._hosts.take(urls, self):
                return self._cut(file, url, client), 0.0
            else:
                pauses.append(_TURN_SECONDS)
        piece = self._share(client, now) or self._repeat(client, now)
        return piece, min(pauses, default=_IDLE_SECONDS)

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
            if piece.end - piece.next < 2 or piece.file.resume_at > now:
                continue
            if piece.file.rangeless.issuperset(piece.file.candidates()):
                continue
            if piece.original or self._is_repeated(piece):
                continue
            before = piece.file.bytes_of(piece.next + 1, piece.end)
            if before > most:
                best, most = piece, before
        if best is None:
            return None
        url = self._hosts.take(best.file.candidates(), self)
        if url is None:
            return None
        middle = best.next + 1 + (best.end - best.next - 1) // 2
        end, best.end = best.end, middle
        return self._piece(best.file, url, middle, end, client)

    def _is_repeated(self, piece: _Piece) -> bool:
        return any(one.original is piece for one in self._pieces)

    def _slowest(self, now: float) -> tuple[_Piece, tuple[str, ...]] | None:
        """What will be over last by far, and whom to ask for it once more."""
        found, most = None, _SLOW_SECONDS
        for piece in self._pieces:
            file = piece.file
            if piece.original or piece.repeats >= _MOST_REPEATS or self._is_repeated(piece):
                continue
            if piece.next >= piece.end or file.resume_at > now:
                continue
            rest = piece.rest_seconds(now)
            if rest <= most:
                continue
            urls = file.addresses.elsewhere(piece.url)
            urls = tuple(url for url in urls if url not in file.rangeless) or urls
            best = self._best_bytes_per_second(file, now)
            if not urls and best and piece.url not in file.rangeless:
                urls = (piece.url,)
            if best:
                rest -= file.bytes_of(piece.next, piece.end) / best
            if urls and rest > most:
                found, most = (piece, urls), rest
        return found

    def _best_bytes_per_second(self, file: _File, now: float) -> float:
        """How fast one more connection may be; 0 where that is not known."""
        best = self._hosts.best_bytes_per_second(file.addresses.left)
        limits = [one.bytes_per_second for one in self._limits]
        given = [limit for limit in limits if limit is not None]
        if given:
            used = sum(piece.bytes_per_second(now) or 0.0 for piece in self._pieces)
            best = max(min(best or min(given), min(given) - used), 1.0)
        return best

    def _repeat(self, client: Client, now: float) -> _Piece | None:
        """All that the slowest has before it, once more."""
        if (slowest := self._slowest(now)) is None:
            return None
        original, urls = slowest
        if (url := self._hosts.take(urls, self)) is None:
            return None
        original.repeats += 1
        piece = self._piece(original.file, url, original.next, original.end, client)
        piece.original = original
        return piece

    # --- how many connections --------------------------------------------------------------------

    def _answered(self, client: Client) -> None:
        """The header of an answer came: say how many connections are wanted."""
        with self._changed:
            if self._wanted == 1 and self._growing and client.latency_seconds is not None:
                requests = sum(len(file.todo) for file in self._files)
                wanted = worthwhile_connections(client.latency_seconds, requests)
                self._want(min(wanted, self._policy.connections))

    def _want(self, connections: int) -> None:
        self._wanted = connections
        self._trial_since, self._trial_bytes = self._clock(), 0
        # Not for a few bytes that one has as soon; but where requests take long, for each of them.
        more = sum(file.todo_bytes for file in self._files) // _LEAST_PIECE_BYTES
        if connections > _NEAR_CONNECTIONS:
            more = max(more, sum(len(file.todo) for file in self._files))
        while len(self._threads) < min(connections, 1 + more):
            self._start(len(self._threads))

    def _try_more(self, now: float) -> None:
        """One trial with this many connections is over: see whether more help."""
        rate = self._trial_bytes / (now - self._trial_since)
        left = sum(file.todo_bytes for file in self._files)
        gained = rate >= self._rate * _WORTHWHILE_GAIN
        if not gained or left < rate:
            self._growing = False
            if not gained and self._proven <= _NEAR_CONNECTIONS:
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
        if file.refetches[piece.next, piece.url]:
            # The damage may sit in a cache on the way: ask past it.
            headers["Cache-Control"] = "no-cache"
        error: NetworkError | None = None
        try:
            with client.get(piece.url, accept=_WHOLE_OR_PART, headers=headers) as answer:
                self._answered(client)
                if answer.status == 206:
                    with self._changed:
                        file.rangeless.discard(piece.url)
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
        """Whether `piece` may read an answer that is the whole file.

        Only where nobody knows ranges, and only one at a time: it then takes from it all that is
        still wanted, or each range would cost the file anew.
        """
        file = piece.file
        with self._changed:
            file.rangeless.add(piece.url)
            if piece.original is None:
                if not file.rangeless.issuperset(file.addresses.standing):
                    return False
                if any(one.file is file and one is not piece and one.whole for one in self._pieces):
                    return False
                piece.next = min([piece.next, *(first for first, _ in file.todo)])
                piece.end = max([piece.end, *(end for _, end in file.todo)])
                file.todo.clear()
            piece.whole = True
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
                self._count(piece, place, arrived, more)

            answer.fill(data, count)
            position = span.stop
            self._deliver(piece, place, data)
            # Who reads a whole file would have to begin it anew.
            if not piece.whole and self._hosts.is_awaited(piece.url, self, piece.begun):
                return

    def _count(self, piece: _Piece, place: int, arrived: int, more: int) -> None:
        file = piece.file
        with self._changed:
            now = self._clock()
            piece.arrived(more, now)
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
                    # Whoever reads this very span may have nothing left to read.
                    done = (
                        other.file is file
                        and other.next <= place < other.end
                        and file.claimed.issuperset(range(other.next, other.end))
                    )
                    if other is not piece and (done or complete):
                        other.interrupted = True
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
            file.refetches[place, piece.url] += 1
            file.lies[piece.url] += 1
            self._hosts.distrust(piece.url)
            several = len(file.addresses.left) > 1
            ruled_out = file.refetches[place, piece.url] > MOST_REFETCHES
            if several and (ruled_out or file.lies[piece.url] >= _MOST_LIES):
                file.addresses.rule_out(piece.url)
            # Each of several may lie only so often; that is bound enough.
            piece.excused = several
        if ruled_out and not several:
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
            if piece.interrupted or piece.excused:
                return
            if error.status in _TOO_MANY:
                self._hosts.crowd(piece.url, piece.begun)
            if piece.original in self._pieces and isinstance(error, TryAgainError):
                # How often one is repeated is bounded; the failure is not the delivery's while the
                # original goes on.
                self._hosts.fail(piece.url)
                return
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
        others = [one for one in self._pieces if one.file is file]
        first = None
        stretches = []
        for place in range(piece.next, piece.end + 1):
            lacking = (
                place < piece.end
                and place not in file.claimed
                and not any(one.next <= place < one.end for one in others)
            )
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
