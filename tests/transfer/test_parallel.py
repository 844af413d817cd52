"""Several connections: pieces, sharing, mirrors, limits, and being told to stop."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from attrs import define, evolve, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugin_manager.errors import CancelledError, NetworkError, NoSpaceError, UntrustedError
from plugin_manager.transfer import Download, Policy, Span, Transfer, _delivery
from tests.transfer.helpers import Collector, FakeTime, content_of, frames_of, transfer
from tests.transfer.server import (
    Behaviour,
    Exchange,
    Server,
    answer,
    honest,
    in_turn,
    raw,
    reset,
    wrong,
)

LENGTH = 2_000_000
FRAME = 20_000
CONTENT = content_of(LENGTH)
FRAMES = frames_of(LENGTH, FRAME)
IMPATIENT = Policy(attempts=50, pause_seconds=0.001, most_pause_seconds=0.01)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every server counts as far away, and small files as worth several connections."""
    monkeypatch.setattr(_delivery, "_NEAR_SECONDS", 0)
    monkeypatch.setattr(_delivery, "_LEAST_PIECE_BYTES", 2 * FRAME)


@define
class Counting:
    """A behaviour that remembers how much each of its exchanges sent."""

    behaviour: Behaviour
    exchanges: list[Exchange] = field(factory=list)

    def __call__(self, exchange: Exchange) -> bool:
        self.exchanges.append(exchange)
        return self.behaviour(exchange)


def download(collector: Collector, *urls: str) -> Download:
    return Download(
        urls, list(collector.spans), len(collector.content), collector.sink, collector.progress
    )


def slowly(content: bytes, *, step: int = 10_000, seconds: float = 0.05) -> Behaviour:
    """Serves `content` a little at a time."""

    def behave(exchange: Exchange) -> bool:
        start, stop = exchange.request.range(len(content))
        exchange.head(
            "206 Partial Content",
            Content_Length=stop - start,
            Content_Range=f"bytes {start}-{stop - 1}/{len(content)}",
        )
        for place in range(start, stop, step):
            exchange.send(content[place : min(place + step, stop)])
            time.sleep(seconds)
        return True

    return behave


def asked(server: Server) -> list[tuple[int, int]]:
    """The ranges that were asked for, in order of place."""
    pairs = (text.removeprefix("bytes=").split("-") for text in server.ranges)
    return sorted((int(start), int(last) + 1) for start, last in pairs)


# --- pieces --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize(("most", "least"), [(16, 4), (2, 2), (1, 1)])
def test_a_large_file_comes_over_several_connections_and_no_byte_twice(
    most: int, least: int
) -> None:
    collector = Collector(CONTENT, FRAMES)
    with Server(slowly(CONTENT, step=100_000, seconds=0.005)) as server:
        Transfer(Policy(connections=most)).run([download(collector, server.url())])
        assert least <= server.connections <= most
        ranges = asked(server)
    collector.check_once()
    # Who is idle in the end takes of the rear of what another has before it, who then stops there.
    ranges = [
        (start, stop)
        for start, stop in ranges
        if not any(first < start and stop <= end for first, end in ranges)
    ]
    assert [start for start, _ in ranges[1:]] == [stop for _, stop in ranges[:-1]]
    assert (ranges[0][0], ranges[-1][1]) == (0, LENGTH)


def test_a_near_server_is_asked_over_two_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_delivery, "_NEAR_SECONDS", 1000)
    monkeypatch.setattr(_delivery, "_LEAST_PIECE_BYTES", 2 * FRAME)
    collector = Collector(CONTENT, FRAMES)
    with Server(slowly(CONTENT, step=100_000, seconds=0.002)) as server:
        Transfer().run([download(collector, server.url())])
        assert server.connections == 2
    collector.check_once()


@pytest.mark.parametrize(
    ("begun_with", "gain", "wanted"), [(2, 1.0, 2), (2, 1.5, 7), (8, 1.0, 13), (8, 1.5, 16)]
)
def test_near_connections_that_brought_no_more_are_left_again(
    begun_with: int, gain: float, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeTime()
    one = Download(("http://localhost/",), [Span(0, 0, 10**9)], 10**9, lambda _, __: None)
    monkeypatch.setattr(_delivery.Delivery, "_want", _want_only)
    delivery = Transfer(clock=clock.clock, sleep=clock.sleep).delivery([one])
    delivery._want(begun_with)
    for brought in (10**6, int(10**6 * gain)):
        clock.now += 0.5
        delivery._trial_bytes = brought
        delivery._try_more(clock.now)
    assert delivery._wanted == wanted


def _want_only(delivery: _delivery.Delivery, connections: int) -> None:
    delivery._wanted, delivery._trial_since = connections, delivery._clock()


@pytest.mark.usefixtures("far")
def test_files_come_side_by_side_the_first_first() -> None:
    collectors = [Collector(content_of(length), frames_of(length, 500)) for length in (900, 5000)]
    collectors += [Collector(CONTENT, FRAMES[:3])]
    with (
        Server(honest(content_of(900))) as small,
        Server(honest(content_of(5000))) as middle,
        Server(honest(CONTENT)) as large,
    ):
        pairs = zip(collectors, (small, middle, large), strict=True)
        Transfer().run([download(collector, server.url()) for collector, server in pairs])
    for collector in collectors:
        collector.check_once()


@pytest.mark.usefixtures("far")
def test_no_slow_connection_decides_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def bytes_from_the_slow_one() -> tuple[int, int]:
        slow = Counting(slowly(CONTENT, step=1000, seconds=0.01))
        collector = Collector(CONTENT, FRAMES)
        with Server(in_turn(honest(CONTENT), slow, honest(CONTENT))) as server:
            Transfer(Policy(connections=3)).run([download(collector, server.url())])
        collector.check_once()
        [exchange] = slow.exchanges
        start, stop = exchange.request.range(LENGTH)
        return exchange.sent_bytes, stop - start

    sent, wanted = bytes_from_the_slow_one()
    assert sent < 0.7 * wanted
    monkeypatch.setattr(_delivery.Delivery, "_share", lambda *_: None)
    sent, wanted = bytes_from_the_slow_one()
    assert sent > 0.95 * wanted, "control: without sharing it is waited for"


@pytest.mark.usefixtures("far")
def test_a_server_without_ranges_is_read_through_by_one_connection() -> None:
    collector = Collector(CONTENT, FRAMES)
    whole = Counting(wrong(CONTENT, status="200 OK"))
    with Server(whole) as server:
        Transfer(IMPATIENT).run([download(collector, server.url())])
    collector.check_once()
    complete = [one for one in whole.exchanges if one.sent_bytes > LENGTH]
    assert len(complete) <= 2, "of the others at most what was under way"


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("far")
def test_when_all_connections_break_at_once_it_counts_as_one_failure() -> None:
    collector = Collector(CONTENT, FRAMES)
    with Server(in_turn(honest(CONTENT), *[reset] * 8, honest(CONTENT))) as server:
        policy = Policy(attempts=4, attempts_in_all=4, pause_seconds=0.05)
        Transfer(policy).run([download(collector, server.url())])
    collector.check_once()


@pytest.mark.usefixtures("far")
def test_a_server_that_is_asked_too_much_is_asked_less() -> None:
    busy = threading.Semaphore(2)

    def at_most_two(exchange: Exchange) -> bool:
        if not busy.acquire(blocking=False):
            return answer("503 Busy")(exchange)
        try:
            return slowly(CONTENT, step=100_000, seconds=0.005)(exchange)
        finally:
            busy.release()

    collector = Collector(CONTENT, FRAMES)
    with Server(at_most_two) as server:
        Transfer(IMPATIENT).run([download(collector, server.url())])
    collector.check_once()


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize(
    ("first", "error"),
    [(answer("404 Not Found"), NetworkError), (answer("503 Busy"), NetworkError)],
)
def test_a_failure_ends_all_connections(first: Behaviour, error: type[Exception]) -> None:
    collector = Collector(CONTENT, FRAMES)
    policy = Policy(attempts=3, pause_seconds=0.001)
    with Server(in_turn(honest(CONTENT), first)) as server, pytest.raises(error):
        Transfer(policy).run([download(collector, server.url())])
    assert threading.active_count() <= 2 + _servers_threads()


def _servers_threads() -> int:
    return sum(
        "_serve" in thread.name or "_accept" in thread.name for thread in threading.enumerate()
    )


@pytest.mark.usefixtures("far")
def test_an_error_of_a_sink_ends_the_run_and_no_sink_is_called_afterwards() -> None:
    calls: list[float] = []

    def sink(index: int, _: memoryview) -> None:
        calls.append(time.monotonic())
        if index == 40:
            raise NoSpaceError("full", needed_bytes=1, free_bytes=0)

    with Server(slowly(CONTENT, seconds=0.002)) as server:
        with pytest.raises(NoSpaceError):
            Transfer().run([Download((server.url(),), FRAMES, LENGTH, sink)])
        ended = time.monotonic()
        time.sleep(0.2)
    assert max(calls) <= ended


@pytest.mark.usefixtures("far")
def test_a_sink_under_way_is_waited_for_when_another_fails() -> None:
    ended: list[float] = []

    def sink(index: int, _: memoryview) -> None:
        if index == 0:
            time.sleep(1.5)
            ended.append(time.monotonic())
        elif index > 50:
            raise NoSpaceError("full", needed_bytes=1, free_bytes=0)

    with Server(slowly(CONTENT, seconds=0.002)) as server, pytest.raises(NoSpaceError):
        Transfer().run([Download((server.url(),), FRAMES, LENGTH, sink)])
    returned = time.monotonic()
    assert not ended or ended[0] <= returned


def test_the_deadline_holds_under_a_limit_too() -> None:
    by = Transfer(Policy(deadline_seconds=0.5))
    by.limit.bytes_per_second = 100
    with Server(honest(CONTENT)) as server, pytest.raises(NetworkError, match=r"0\.5 s"):
        by.run([download(Collector(CONTENT, FRAMES), server.url())])


# --- mirrors -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("far")
def test_a_lying_mirror_is_demoted_and_the_others_go_on() -> None:
    flipped = bytes(byte ^ 1 for byte in CONTENT)
    collector = Collector(CONTENT, FRAMES)
    with Server(honest(flipped)) as liar, Server(honest(CONTENT)) as good:
        Transfer(IMPATIENT).run([download(collector, liar.url(), good.url())])
        assert len(liar.requests) <= 8, "what was under way when it was found out"
        assert len(good.requests) > len(liar.requests)
    collector.check_once()
    with Server(honest(flipped)) as liar, pytest.raises(UntrustedError):
        Transfer(IMPATIENT).run([download(Collector(CONTENT, FRAMES), liar.url())])


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("broken", [reset, raw(b""), answer("503 Busy"), answer("500 Oops")])
def test_a_failing_mirror_costs_no_waiting(broken: Behaviour) -> None:
    pauses = FakeTime()
    collector = Collector(CONTENT, FRAMES)
    with Server(broken) as bad, Server(honest(CONTENT)) as good:
        by = Transfer(clock=pauses.clock, sleep=pauses.sleep)
        by.run([download(collector, bad.url(), good.url())])
    collector.check_once()
    assert pauses.pauses == []


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("mirrors", [1, 2, 3])
def test_where_all_mirrors_fail_there_are_pauses(mirrors: int) -> None:
    clock = FakeTime()
    collector = Collector(CONTENT, FRAMES)
    by = Transfer(Policy(attempts=8), clock=clock.clock, sleep=clock.sleep, random=lambda: 0.0)
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(reset)) for _ in range(mirrors)]
        urls = [server.url() for server in servers]
        with pytest.raises(NetworkError):
            by.run([download(collector, *urls)])
    assert len(clock.pauses) == 8 - mirrors


def test_who_asks_is_told_of_pauses_and_why() -> None:
    clock, told = FakeTime(), []
    collector = Collector(CONTENT, FRAMES)

    def retrying(error: NetworkError, seconds: float) -> None:
        told.append((str(error.status), seconds))

    by = Transfer(clock=clock.clock, sleep=clock.sleep, random=lambda: 0.0)
    turns = in_turn(answer("503 Busy", Retry_After="7"), reset, answer("500 Oops"), honest(CONTENT))
    with Server(turns) as server:
        evolved = evolve(download(collector, server.url()), retrying=retrying)
        by.run([evolved])
    collector.check_once()
    assert told == [("503", 7), ("None", 1), ("500", 2)]
    assert clock.pauses == [7, 1, 2]


def test_no_pause_is_told_of_while_another_mirror_can_be_asked() -> None:
    told: list[NetworkError] = []
    with Server(reset) as bad, Server(honest(CONTENT)) as good:
        one = download(Collector(CONTENT, FRAMES), bad.url(), good.url())
        Transfer().run([evolve(one, retrying=lambda error, _: told.append(error))])
        urls = [bad.url(), good.url()]
        Transfer().fetch(urls, LENGTH, retrying=lambda error, _: told.append(error))
    assert told == []


@pytest.mark.usefixtures("far")
def test_the_faster_mirror_brings_most() -> None:
    collector = Collector(CONTENT, FRAMES)
    with (
        Server(slowly(CONTENT, step=5000, seconds=0.02)) as slow,
        Server(slowly(CONTENT, step=100_000, seconds=0.002)) as fast,
    ):
        Transfer(Policy(connections=2)).run([download(collector, slow.url(), fast.url())])
        assert fast.sent_bytes > 2 * slow.sent_bytes
        assert slow.requests
    collector.check_once()


# --- progress ------------------------------------------------------------------------------------


def test_the_slower_it_comes_the_smaller_the_portions_that_are_told_of() -> None:
    def largest(behaviour: Behaviour, clock: FakeTime) -> int:
        """The largest of the last portions of a file that is one frame."""
        told: list[int] = []
        by = Transfer(Policy(connections=1), clock=clock.clock, sleep=clock.sleep)
        whole = Download(("",), [Span(0, 0, LENGTH)], LENGTH, lambda _, __: None, told.append)
        with Server(behaviour) as server:
            by.run([evolve(whole, urls=(server.url(),))])
        assert sum(told) == LENGTH
        return max(told[-5:-1])

    # By the client's clock, each look at it is so long after the one before.
    assert largest(honest(CONTENT), FakeTime(tick_seconds=0.3)) <= 32 * 1024
    assert largest(honest(CONTENT), FakeTime(tick_seconds=0.0001)) >= 512 * 1024


# --- limits, and stopping ------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [10_000, 100_000, 5_000_000])
def test_what_comes_keeps_to_the_limit(rate: int) -> None:
    clock = FakeTime()
    by = transfer(Policy(connections=1), clock)
    by.limit.bytes_per_second = rate
    begun = clock.now
    collector = Collector(CONTENT, FRAMES)
    with Server(honest(CONTENT)) as server:
        by.run([download(collector, server.url())])
    assert (clock.now - begun) * rate == pytest.approx(LENGTH, rel=0.05)


def test_a_limit_may_change_while_bytes_flow() -> None:
    clock = FakeTime()
    by = transfer(Policy(connections=1), clock)
    by.limit.bytes_per_second = 100_000
    begun = clock.now
    collector = Collector(CONTENT, FRAMES)
    sink = collector.sink

    def faster_from_the_middle(index: int, data: memoryview) -> None:
        sink(index, data)
        if index == len(FRAMES) // 2 - 1:
            by.limit.bytes_per_second = 1_000_000

    with Server(honest(CONTENT)) as server:
        by.run([Download((server.url(),), FRAMES, LENGTH, faster_from_the_middle)])
    assert clock.now - begun == pytest.approx(
        LENGTH / 2 / 100_000 + LENGTH / 2 / 1_000_000, rel=0.05
    )


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize(
    "behaviour",
    [
        slowly(CONTENT, step=100, seconds=0.05),
        lambda _: bool(time.sleep(30)),
        answer("503 Busy", Retry_After="60"),
        slowly(CONTENT, step=FRAME, seconds=0.1),
    ],
    ids=["slow body", "no header", "pausing", "many frames"],
)
def test_cancelling_ends_it_whatever_it_waits_for(behaviour: Behaviour) -> None:
    collector = Collector(CONTENT, FRAMES)
    with Server(behaviour) as server:
        delivery = Transfer().delivery([download(collector, server.url())])
        caught: list[BaseException] = []

        def run() -> None:
            try:
                delivery.run()
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(0.3)
        delivery.cancel()
        thread.join(10)
        assert not thread.is_alive()
        taken = len(collector.taken)
        time.sleep(0.2)
        assert len(collector.taken) == taken
    [error] = caught
    assert isinstance(error, CancelledError)


@pytest.fixture
def stalled() -> Iterator[int]:
    """The port of a listener that accepts nothing, so that connections or handshakes stall."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("stalls", ["handshake", "connect", "name"])
@pytest.mark.parametrize("how", ["cancel", "interrupt"])
def test_stopping_ends_it_within_a_second_whatever_stalls(
    stalls: str, how: str, stalled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = "localhost"
    if stalls == "connect":
        # A full queue: the third connection gets no answer.
        waiting = [socket.create_connection(("127.0.0.1", stalled)) for _ in range(1)]
    elif stalls == "name":
        forever = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: forever.wait(30))
    collector = Collector(CONTENT, FRAMES)
    delivery = Transfer().delivery([download(collector, f"https://{host}:{stalled}/file")])
    ended: list[float] = []

    def stop() -> None:
        ended.append(time.monotonic())
        if how == "cancel":
            delivery.cancel()
        else:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)

    timer = threading.Timer(1, stop)
    timer.start()
    with pytest.raises(CancelledError if how == "cancel" else KeyboardInterrupt):
        delivery.run()
    # Half a second, in which it waits for its threads; a busy machine may take longer. The
    # control: the connect timeout, after which it would end by itself, is ten.
    assert time.monotonic() - ended[0] < 5
    if stalls == "connect":
        waiting[0].close()
    elif stalls == "name":
        forever.set()


def test_a_limit_of_nothing_can_be_cancelled() -> None:
    by = Transfer()
    by.limit.bytes_per_second = 0
    with Server(honest(CONTENT)) as server:
        delivery = by.delivery([download(Collector(CONTENT, FRAMES), server.url())])
        threading.Timer(0.3, delivery.cancel).start()
        with pytest.raises(CancelledError):
            delivery.run()


# --- everything together -------------------------------------------------------------------------

SMALL = content_of(40_000)

faults = st.one_of(
    st.integers(0, 40_000).map(lambda cut: wrong(SMALL, body=lambda data: data[:cut])),
    st.just(reset),
    st.just(raw(b"nonsense\r\n\r\n")),
    st.just(answer("503 Busy")),
    st.just(wrong(SMALL, status="200 OK")),
    st.integers(0, 39_999).map(
        lambda place: honest(SMALL[:place] + bytes([SMALL[place] ^ 1]) + SMALL[place + 1 :])
    ),
    st.just(wrong(SMALL, Content_Range="bytes 0-4/40000")),
    st.just(slowly(SMALL, step=700, seconds=0.001)),
)


@pytest.mark.usefixtures("far")
@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    faults=st.lists(faults, max_size=8),
    cuts=st.sets(st.integers(1, 39_999), max_size=30),
    wanted=st.sets(st.integers(0, 30), min_size=1),
    mirrors=st.integers(1, 3),
)
def test_whatever_goes_wrong_each_wanted_frame_is_delivered_once_and_right(
    monkeypatch: pytest.MonkeyPatch,
    faults: list[Behaviour],
    cuts: set[int],
    wanted: set[int],
    mirrors: int,
) -> None:
    monkeypatch.setattr(_delivery, "_LEAST_PIECE_BYTES", 1000)
    ends = [0, *sorted(cuts), len(SMALL)]
    frames = [Span(n, ends[n], ends[n + 1]) for n in range(len(ends) - 1) if n in wanted]
    collectors = [Collector(SMALL, frames), Collector(SMALL, frames[::2])]
    with Server(in_turn(*faults, honest(SMALL))) as server:
        urls = [server.url(f"mirror-{number}") for number in range(mirrors)]
        Transfer(IMPATIENT).run([download(collector, *urls) for collector in collectors])
    for collector in collectors:
        collector.check_once()
