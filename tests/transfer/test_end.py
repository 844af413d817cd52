"""The end of a download: whoever is slow, silent, without ranges or lying holds nobody up."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from plugin_manager.errors import NetworkError, UntrustedError
from plugin_manager.transfer import Download, Policy, Transfer, _delivery
from plugin_manager.transfer._hosts import Hosts
from tests.transfer.helpers import Collector, FakeTime, content_of, frames_of, transfer
from tests.transfer.server import Behaviour, Exchange, Server, answer, honest, in_turn, reset, wrong

LENGTH = 2_000_000
FRAME = 20_000
CONTENT = content_of(LENGTH)
FRAMES = frames_of(LENGTH, FRAME)
FLIPPED = bytes(byte ^ 1 for byte in CONTENT)
IMPATIENT = Policy(attempts=50, pause_seconds=0.001, most_pause_seconds=0.01)

pytestmark = pytest.mark.usefixtures("far")


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_delivery, "_NEAR_SECONDS", 0)
    monkeypatch.setattr(_delivery, "_LEAST_PIECE_BYTES", 2 * FRAME)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts as slow is found out sooner."""
    monkeypatch.setattr(_delivery, "_SLOW_SECONDS", 0.4)
    monkeypatch.setattr(_delivery, "_RATE_SECONDS", 0.2)


def deliver(policy: Policy, *servers: Server) -> Collector:
    collector = Collector(CONTENT, FRAMES)
    urls = tuple(server.url() for server in servers)
    download = Download(urls, FRAMES, LENGTH, collector.sink, collector.progress)
    Transfer(policy).run([download])
    return collector


def held(released: threading.Event, sent: int | None, status: str = "") -> Behaviour:
    """Sends so many bytes of its content, the header too unless None, and then waits."""

    def behave(exchange: Exchange) -> bool:
        def cut(data: bytes) -> bytes:
            return data[:sent]

        if sent is not None:
            wrong(CONTENT, status=status, body=cut)(exchange)
        released.wait(60)
        return False

    return behave


HELD = {"no header": (None, ""), "half a frame": (FRAME // 2, ""), "whole": (FRAME, "200 OK")}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", HELD)
@pytest.mark.parametrize("first", [True, False], ids=["asked first", "asked second"])
def test_one_that_falls_silent_is_not_waited_for(kind: str, first: bool) -> None:
    released = threading.Event()
    with Server(held(released, *HELD[kind])) as silent, Server(honest(CONTENT)) as good:
        servers = (silent, good) if first else (good, silent)
        begun = time.monotonic()
        collector = deliver(Policy(), *servers)
        # The control: the read timeout, when it would be asked for anew, is thirty.
        assert time.monotonic() - begun < 20
        released.set()
        assert silent.requests
    collector.check_once()


@pytest.mark.usefixtures("soon")
def test_control_without_repeating_the_silent_one_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_delivery.Delivery, "_slowest", lambda *_: None)
    released = threading.Event()
    with Server(held(released, FRAME // 2)) as silent, Server(honest(CONTENT)) as good:
        with pytest.raises(NetworkError, match=r"took longer|sent nothing|no time left"):
            deliver(Policy(read_timeout_seconds=2, deadline_seconds=2), silent, good)
        released.set()


@pytest.mark.usefixtures("soon")
def test_one_that_drips_is_not_waited_for_and_is_not_to_blame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blamed: list[str] = []
    monkeypatch.setattr(Hosts, "fail", lambda _, url: blamed.append(url))
    ended = threading.Event()

    def dripping(exchange: Exchange) -> bool:
        start, stop = exchange.request.range(LENGTH)
        exchange.head(
            "206 Partial Content",
            Content_Length=stop - start,
            Content_Range=f"bytes {start}-{stop - 1}/{LENGTH}",
        )
        for place in range(start, stop, 200):
            exchange.send(CONTENT[place : min(place + 200, stop)])
            if ended.wait(0.1):
                return False
        return True

    with Server(dripping) as slow, Server(honest(CONTENT)) as good:
        begun = time.monotonic()
        collector = deliver(Policy(), slow, good)
        # The control: one frame alone takes it ten seconds, and a piece has several.
        assert time.monotonic() - begun < 20
        ended.set()
    collector.check_once()
    assert blamed == []


@pytest.mark.usefixtures("soon")
def test_repeats_that_fail_are_bounded_and_do_not_end_what_goes_on() -> None:
    released = threading.Event()
    asked_in_vain: list[int] = []

    def then_broken(exchange: Exchange) -> bool:
        """Serves the beginning, holds its last piece for a while, and breaks all repeats."""
        start, stop = exchange.request.range(LENGTH)
        if stop < LENGTH:
            return honest(CONTENT)(exchange)
        asked_in_vain.append(exchange.number)
        if len(asked_in_vain) > 1:
            return reset(exchange)
        exchange.head(
            "206 Partial Content",
            Content_Length=stop - start,
            Content_Range=f"bytes {start}-{stop - 1}/{LENGTH}",
        )
        exchange.send(CONTENT[start : start + 10])
        released.wait(4)
        exchange.send(CONTENT[start + 10 : stop])
        return True

    with Server(then_broken) as server:
        collector = deliver(Policy(attempts=2), server)
    collector.check_once()
    assert 2 <= len(asked_in_vain) <= 1 + _delivery._MOST_REPEATS


def test_one_that_knows_no_ranges_does_not_take_it_all() -> None:
    with Server(wrong(CONTENT, status="200 OK")) as whole, Server(honest(CONTENT)) as good:
        collector = deliver(Policy(), whole, good)
        assert whole.sent_bytes < LENGTH + 1000
        assert good.sent_bytes >= LENGTH
        assert len(whole.requests) <= 8
    collector.check_once()


@pytest.mark.parametrize("other", [answer("404 No"), reset, wrong(CONTENT, status="200 OK")])
def test_where_nobody_else_is_left_one_without_ranges_is_read(other: Behaviour) -> None:
    with Server(wrong(CONTENT, status="200 OK")) as whole, Server(other) as bad:
        collector = deliver(IMPATIENT, bad, whole)
    collector.check_once()


@pytest.mark.parametrize("connections", [1, 16])
@pytest.mark.parametrize("liars", [1, 4, 6])
def test_liars_do_not_outvote_who_is_honest(liars: int, connections: int) -> None:
    with ExitStack() as stack:
        lying = [stack.enter_context(Server(honest(FLIPPED))) for _ in range(liars)]
        good = stack.enter_context(Server(honest(CONTENT)))
        collector = deliver(Policy(connections=connections), *lying, good)
        assert all(len(liar.requests) <= 8 for liar in lying)
        collector.check_once()
        with pytest.raises(UntrustedError):
            deliver(Policy(pause_seconds=0.001, connections=connections), *lying)


def test_a_lie_in_one_place_rules_out_who_tells_it_for_that_file_only() -> None:
    broken = CONTENT[:30_000] + b"?" + CONTENT[30_001:]
    slow_to_come = in_turn(*[reset] * 5, honest(CONTENT))
    with Server(honest(broken)) as liar, Server(slow_to_come) as good:
        collector = deliver(IMPATIENT, liar, good)
        assert collector.refused.count(1) <= 1 + _delivery.MOST_REFETCHES
    collector.check_once()


def test_a_host_that_is_asked_too_much_is_asked_less_alone_and_for_a_while() -> None:
    clock = FakeTime()
    hosts = Hosts(16, clock.clock)
    crowded, other, owner = "https://crowded.example/", "https://other.example/", object()

    def taken(url: str) -> int:
        count = 0
        while hosts.take([url], owner):
            count += 1
        for _ in range(count):
            hosts.give_back(url, owner)
        return count

    for _ in range(8):
        hosts.take([crowded], owner)
    for _ in range(8):
        hosts.give_back(crowded, owner)
        hosts.crowd(crowded, since=clock.now - 1)  # all were asked before the first answered
    assert (taken(crowded), taken(other)) == (4, 16)
    clock.now += 31
    assert taken(crowded) == 8
    clock.now += 1e9
    assert taken(crowded) == 16


def test_files_share_the_connections() -> None:
    ended: list[int] = []
    came: list[int] = []

    def sink(number: int, index: int) -> None:
        came.append(number)
        if index == len(FRAMES) - 1:
            ended.append(number)

    def slowly(exchange: Exchange) -> bool:
        time.sleep(0.01)
        return honest(CONTENT)(exchange)

    with Server(slowly) as server:
        Transfer(Policy(connections=3)).run(
            [
                Download(
                    (server.url(f"{number}"),),
                    FRAMES,
                    LENGTH,
                    lambda index, _, number=number: sink(number, index),
                )
                for number in range(3)
            ]
        )
    first_half = came[: len(came) // 2]
    assert {0, 1, 2} == set(first_half)
    assert sorted(ended) == [0, 1, 2]


def test_a_single_address_that_lies_is_given_up_after_as_many_attempts_as_ever() -> None:
    collector = Collector(CONTENT, FRAMES)
    with Server(honest(FLIPPED)) as liar:
        with pytest.raises(UntrustedError):
            collector.run(transfer(Policy(connections=1)), liar.url())
        assert len(liar.requests) == 1 + _delivery.MOST_REFETCHES
