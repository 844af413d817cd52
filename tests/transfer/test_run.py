"""Bundles frame by frame: ranges, resumption, lying servers, bytes that were not signed."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin_manager.errors import CorruptError, NetworkError, NoSpaceError, UntrustedError
from plugin_manager.transfer import Download, Policy, Span, Transfer, _delivery
from plugin_manager.transfer._ranges import READ_THROUGH_BYTES, parse_content_range
from tests.transfer.helpers import Collector, FakeTime, content_of, frames_of, transfer
from tests.transfer.server import (
    ENOUGH_BYTES,
    Behaviour,
    Exchange,
    Server,
    answer,
    drip,
    endless,
    honest,
    in_turn,
    raw,
    reset,
    wrong,
)

LENGTH = 300_000
FRAME = 40_000
CONTENT = content_of(LENGTH)
FRAMES = frames_of(LENGTH, FRAME)


def collect(behaviour: Behaviour, *, by: Transfer | None = None, spans=FRAMES):
    """What one run against `behaviour` delivered, and the server."""
    collector = Collector(CONTENT, spans)
    with Server(behaviour) as server:
        collector.run(by or transfer(), server.url())
    return collector, server


def failing(behaviour: Behaviour, error: type[Exception], *, by: Transfer | None = None):
    """As `collect`, for a run that ends in `error`."""
    collector = Collector(CONTENT, FRAMES)
    with Server(behaviour) as server, pytest.raises(error) as caught:
        collector.run(by or transfer(), server.url())
    return collector, server, caught.value


# --- what is asked for -------------------------------------------------------------------------


def test_adjacent_frames_come_in_one_request_and_in_order():
    collector, server = collect(honest(CONTENT))
    collector.check_whole()
    assert server.ranges == [f"bytes=0-{LENGTH - 1}"]


def test_only_missing_frames_are_asked_for_and_small_gaps_are_read_through():
    spans = [Span(3, 10, 20), Span(7, 20, 1000), Span(9, 1000 + READ_THROUGH_BYTES, 50_000)]
    spans.append(Span(12, 50_000 + READ_THROUGH_BYTES + 1, 100_000))
    collector, server = collect(honest(CONTENT), spans=spans)
    collector.check_whole()
    assert server.ranges == ["bytes=10-49999", f"bytes={50_001 + READ_THROUGH_BYTES}-99999"]
    assert server.connections == 1


def test_nothing_to_fetch_asks_for_nothing():
    _, server = collect(honest(CONTENT), spans=[])
    assert server.requests == []


def test_fetch_range_gives_exactly_these_bytes():
    with Server(honest(CONTENT)) as server:
        assert transfer().fetch_range(server.url(), 5, 999, length=LENGTH) == CONTENT[5:999]


def test_requests_say_who_asks_and_refuse_codings():
    _, server = collect(honest(CONTENT))
    headers = server.requests[0].headers
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("plugin-manager/")
    assert "cookie" not in headers


def test_cookies_of_a_server_are_not_sent_back():
    spans = [FRAMES[0], FRAMES[-1]]
    _, server = collect(wrong(CONTENT, Set_Cookie="who=you"), spans=spans)
    assert len(server.requests) == 2
    assert "cookie" not in server.requests[1].headers


# --- interruptions -----------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME + 7, LENGTH - 1])
@pytest.mark.parametrize("how", ["close", "shorter"])
def test_truncated_answer_is_taken_up_at_the_first_frame_not_delivered(offset, how):
    declared = {"Content_Length": None} if how == "close" else {}
    cut = wrong(CONTENT, body=lambda data: data[:offset], Connection="close", **declared)
    collector, server = collect(in_turn(cut, honest(CONTENT)))
    collector.check_whole()
    assert server.ranges[1:] == [f"bytes={offset // FRAME * FRAME}-{LENGTH - 1}"]


def test_resets_are_survived():
    collector, server = collect(in_turn(reset, reset, raw(b""), honest(CONTENT)))
    collector.check_whole()
    assert len(server.requests) == 4


def test_a_connection_that_the_server_closed_meanwhile_costs_only_an_attempt():
    spans = [FRAMES[0], FRAMES[-1]]
    leaving = wrong(CONTENT, stay=False)
    collector, server = collect(leaving, spans=spans)
    collector.check_whole()
    assert len(server.requests) == 2


def test_pauses_double_up_to_their_cap_and_jitter_halves_them_at_most():
    policy = Policy(attempts=8, pause_seconds=1, most_pause_seconds=10)
    for jitter, share in ((0.0, 1.0), (1.0, 0.5)):
        time = FakeTime()
        by = Transfer(policy, clock=time.clock, sleep=time.sleep, random=lambda it=jitter: it)
        _, server, error = failing(reset, NetworkError, by=by)
        assert time.pauses == [share * pause for pause in (1, 2, 4, 8, 10, 10, 10)]
        assert len(server.requests) == 8
        assert "gave up after 8 attempts" in str(error)


def test_progress_forgives_earlier_failures_but_not_for_ever():
    one_frame = wrong(CONTENT, body=lambda data: data[: FRAME + 1])
    collector, _ = collect(one_frame, by=transfer(Policy(attempts=2)))
    collector.check_whole()
    bounded = Policy(attempts=2, attempts_in_all=4)
    collector, server, _ = failing(one_frame, NetworkError, by=transfer(bounded))
    assert len(server.requests) == 4
    assert collector.taken == [0, 1, 2, 3]


def test_deadline_ends_the_attempts():
    time = FakeTime()
    policy = Policy(deadline_seconds=10, pause_seconds=1, attempts=100)
    _, _, error = failing(reset, NetworkError, by=transfer(policy, time))
    assert time.pauses == [1, 2, 4]
    assert "no time left of 10 s" in str(error)


# --- servers that lie about ranges -------------------------------------------------------------


WRONG_RANGES = {
    "shifted": wrong(CONTENT, Content_Range="bytes 1-{last}/{length}"),
    "cut": wrong(CONTENT, part=(0, FRAME)),
    "other length": wrong(CONTENT, Content_Range="bytes {start}-{last}/300001"),
    "unknown length": wrong(CONTENT, Content_Range="bytes {start}-{last}/*"),
    "absent": wrong(CONTENT, Content_Range=None),
    "nonsense": wrong(CONTENT, Content_Range="bytes -5-\u00b2/7"),
    "two parts": wrong(
        CONTENT, Content_Range=None, Content_Type="multipart/byteranges; boundary=x"
    ),
    "longer body": wrong(CONTENT, Content_Length=LENGTH + 5),
    "shorter body": wrong(CONTENT, Content_Length=LENGTH - 5),
    "two lengths": wrong(CONTENT, Content_Length="5, 7"),
    "whole file of another length": wrong(CONTENT + b"x", status="200 OK"),
}


@pytest.mark.parametrize("name", WRONG_RANGES)
def test_wrong_range_is_refused_before_any_byte_of_it_is_taken(name):
    lying = WRONG_RANGES[name]
    collector, _ = collect(in_turn(lying, lying, honest(CONTENT)))
    collector.check_whole()
    assert collector.refused == []
    collector, server, _ = failing(lying, NetworkError)
    assert collector.taken == []
    assert len(server.requests) == Policy().attempts


@pytest.mark.parametrize("name", ["shifted", "other length", "unknown length", "absent"])
def test_control_without_the_check_of_ranges_the_lie_is_taken(name, monkeypatch):
    monkeypatch.setattr(_delivery, "_check_part", lambda *_: None)
    collector, _ = collect(WRONG_RANGES[name])
    collector.check_whole()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-0/1", (0, 1, 1)),
        (" bytes 5-9/100 ", (5, 10, 100)),
        ("bytes 5-9/*", None),
        ("bytes */100", None),
        ("bytes=5-9/100", None),
        ("bytes 5-9/100, 10-12/100", None),
        ("bytes ٣-9/100", None),
        ("bytes 5-9/" + "9" * 5000, None),
        ("", None),
    ],
)
def test_content_range_is_read_strictly(text, expected):
    assert parse_content_range(text) == expected


@pytest.mark.parametrize("declared", [True, False])
def test_whole_file_in_answer_to_a_range_is_read_once_for_all_that_is_wanted(declared):
    spans = [FRAMES[1], FRAMES[3], FRAMES[6]]
    headers = {} if declared else {"Content_Length": None, "Connection": "close"}
    collector, server = collect(wrong(CONTENT, status="200 OK", stay=False, **headers), spans=spans)
    collector.check_whole()
    assert len(server.requests) == 1


def test_whole_file_without_end_costs_no_more_than_is_wanted():
    head = b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT
    collector, server = collect(endless(head, b"more"), spans=FRAMES[2:])
    collector.check_whole()
    assert server.sent_bytes < 16 * 1024 * 1024


def test_part_without_end_costs_no_more_than_is_wanted():
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-{LENGTH - 1}/{LENGTH}\r\n\r\n"
    collector, server = collect(endless(head.encode() + CONTENT, b"more"))
    collector.check_whole()
    assert server.sent_bytes < 16 * 1024 * 1024


def test_chunked_part_is_read():
    def chunked(exchange: Exchange) -> bool:
        start, stop = exchange.request.range(LENGTH)
        exchange.head(
            "206 Partial Content",
            Content_Range=f"bytes {start}-{stop - 1}/{LENGTH}",
            Transfer_Encoding="chunked",
        )
        for at in range(start, stop, 777):
            piece = CONTENT[at : min(at + 777, stop)]
            exchange.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        exchange.send(b"0\r\n\r\n")
        return False

    collector, _ = collect(chunked)
    collector.check_whole()


# --- bytes that were not signed ----------------------------------------------------------------


def flipping(place: int) -> Behaviour:
    """The honest server, with the byte at `place` of the file changed."""
    broken = bytearray(CONTENT)
    broken[place] ^= 1
    return honest(bytes(broken))


def test_corrupted_frame_is_fetched_again_past_caches_and_the_rest_only_once():
    bad = flipping(2 * FRAME + 5)
    collector, server = collect(in_turn(bad, bad, bad, honest(CONTENT)))
    collector.check_whole()
    assert collector.refused == [2, 2, 2]
    assert server.ranges[1:] == [f"bytes={2 * FRAME}-{LENGTH - 1}"] * 3
    caching = [request.headers.get("cache-control") for request in server.requests]
    assert caching == [None, "no-cache", "no-cache", "no-cache"]


def test_frame_that_stays_corrupted_is_distrusted_after_three_more_attempts():
    collector, server, error = failing(flipping(2 * FRAME + 5), UntrustedError)
    assert collector.taken == [0, 1]
    assert collector.refused == [2] * 4
    url = server.url()
    assert str(error) == (
        f"bytes 80000 to 119999 of {url}: the server sends bytes that were not signed. "
        "Try another mirror or network, and tell the repository's owner."
    )
    assert (error.context["start"], error.context["stop"]) == (80_000, 120_000)
    assert isinstance(error.__cause__, CorruptError)


def test_server_that_corrupts_everything_costs_bounded_bytes():
    def flipped(data: bytes) -> bytes:
        return bytes(byte ^ 255 for byte in data)

    _, server, _ = failing(wrong(CONTENT, body=flipped), UntrustedError)
    assert len(server.requests) == 4
    assert server.sent_bytes <= 4 * (LENGTH + 1000)


def test_other_errors_of_the_sink_end_the_run_at_once_and_close_the_connection():
    closed = threading.Event()

    def behave(exchange: Exchange) -> bool:
        exchange.head("200 OK", Content_Length=ENOUGH_BYTES)
        try:
            while exchange.sent_bytes < ENOUGH_BYTES:
                exchange.send(bytes(65536))
        except OSError:
            closed.set()
            raise
        return True

    for error in (NoSpaceError("full", needed_bytes=2, free_bytes=1), KeyboardInterrupt()):
        closed.clear()

        def sink(index: int, data: memoryview, error: BaseException = error) -> None:
            raise error

        with Server(behave) as server:
            with pytest.raises(type(error)) as caught:
                transfer().run([Download((server.url(),), FRAMES, ENOUGH_BYTES, sink)])
            assert caught.value is error
            assert len(server.requests) == 1
            assert closed.wait(10)


# --- slow servers ------------------------------------------------------------------------------


def test_body_that_drips_is_given_up_though_no_single_pause_is_long():
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-{LENGTH - 1}/{LENGTH}\r\n\r\n"
    # Every look at the clock, of which there is at least one a byte, is half a second.
    slow = drip(head.encode(), CONTENT[:1000])
    time = FakeTime(tick_seconds=0.5)
    _, server, error = failing(slow, NetworkError, by=transfer(Policy(attempts=2), time))
    assert "the server sent only" in str(error)
    assert len(server.requests) == 2
    assert server.sent_bytes < 2 * 1000


def test_control_without_a_least_rate_the_dripping_body_is_read_to_its_end():
    content = CONTENT[:1000]
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    with Server(drip(head, content)) as server:
        by = transfer(Policy(least_bytes_per_second=0), FakeTime(tick_seconds=0.5))
        assert by.fetch(server.url(), 1000) == content


def test_steady_slow_body_above_the_least_rate_is_read():
    time = FakeTime(tick_seconds=1)
    policy = Policy(least_bytes_per_second=1000, rate_window_seconds=10)
    collector, _ = collect(honest(CONTENT), by=transfer(policy, time))
    collector.check_whole()


def test_deadline_ends_a_running_body():
    time = FakeTime(tick_seconds=0.5)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"
    policy = Policy(deadline_seconds=20, attempts=1, rate_window_seconds=1000)
    _, _, error = failing(drip(head, CONTENT[:1000]), NetworkError, by=transfer(policy, time))
    assert "took longer than 20 s" in str(error)


# --- everything together -----------------------------------------------------------------------

SMALL = content_of(5000)

faults = st.one_of(
    st.integers(0, 5000).map(lambda cut: wrong(SMALL, body=lambda data: data[:cut])),
    st.just(reset),
    st.just(raw(b"nonsense\r\n\r\n")),
    st.just(answer("503 Busy")),
    st.just(wrong(SMALL, status="200 OK")),
    st.integers(0, 4999).map(
        lambda place: honest(SMALL[:place] + bytes([SMALL[place] ^ 1]) + SMALL[place + 1 :])
    ),
    st.just(wrong(SMALL, Content_Range="bytes 0-4/5000")),
)


@settings(max_examples=60)
@given(
    faults=st.lists(faults, max_size=4),
    cuts=st.sets(st.integers(1, 4999), max_size=8),
    wanted=st.sets(st.integers(0, 8)),
)
def test_whatever_goes_wrong_each_wanted_frame_is_delivered_once_and_right(faults, cuts, wanted):
    ends = [0, *sorted(cuts), 5000]
    frames = [Span(n, ends[n], ends[n + 1]) for n in range(len(ends) - 1) if n in wanted]
    collector = Collector(SMALL, frames)
    with Server(in_turn(*faults, honest(SMALL))) as server:
        collector.run(transfer(Policy(attempts=10)), server.url())
    collector.check_whole()


def test_threads_share_a_transfer_but_no_connection():
    by = transfer()
    collectors = [Collector(CONTENT, FRAMES) for _ in range(4)]
    everybody = threading.Barrier(4)

    def together(exchange: Exchange) -> bool:
        everybody.wait(30)
        return honest(CONTENT)(exchange)

    with Server(together) as server:
        threads = [
            threading.Thread(target=collector.run, args=(by, server.url()))
            for collector in collectors
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.connections == 4
    for collector in collectors:
        collector.check_whole()
