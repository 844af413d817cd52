"""Limits: how accurate, shared by connections, two at once, changed while bytes flow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from plugin_manager.errors import CancelledError, NetworkError
from plugin_manager.transfer import Download, Policy, RateLimit, Transfer, _delivery, _limit
from plugin_manager.transfer._limit import Allowance
from tests.transfer.helpers import Collector, FakeTime, content_of, frames_of, transfer
from tests.transfer.server import Server, honest

LENGTH = 2_000_000
FRAME = 20_000
CONTENT = content_of(LENGTH)
FRAMES = frames_of(LENGTH, FRAME)


class SharedTime:
    """A fake time for several readers in one thread, each a generator of how long it sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def run(self, readers: list[Iterator[float]], until: float) -> None:
        due = [(0.0, number) for number in range(len(readers))]
        while True:
            at, number = min(due)
            if at >= until:
                return
            due.remove((at, number))
            self.now = at
            due.append((at + max(next(readers[number]), 1e-9), number))


def reader(
    limits: list[RateLimit], clock: SharedTime, came: Callable[[int], None], most: int
) -> Iterator[float]:
    """What `Answer.read` does, over a line that brings at most `most` bytes each time.

    The limits' own sleep raises, so that the wait is ours.
    """
    while True:
        try:
            allowance = Allowance(limits, 256 * 1024, lambda: False)
        except _Sleep as sleep:
            yield sleep.seconds
            continue
        count = min(most, allowance.bytes)
        allowance.spend(count)
        came(count)
        yield 0.001


class _Sleep(Exception):  # noqa: N818 - not an error
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


def _sleep(seconds: float) -> None:
    raise _Sleep(seconds)


def rates(
    rate: float, later: float, *, readers: int, most: int, seconds: float = 4
) -> tuple[float, float]:
    """What came per second before and after a change of the rate."""
    clock = SharedTime()
    limit = RateLimit(rate, clock=lambda: clock.now, sleep=_sleep)
    total = 0

    def came(count: int) -> None:
        nonlocal total
        total += count

    many = [reader([limit], clock, came, most) for _ in range(readers)]
    clock.run(many, seconds)
    before, total = total, 0
    limit.bytes_per_second = later
    clock.run([_shifted(one, clock.now) for one in many], 2 * seconds)
    return before / seconds, total / seconds


def _shifted(one: Iterator[float], start: float) -> Iterator[float]:
    yield start
    yield from one


CHANGES = [(100_000, 1_000_000), (1_000_000, 100_000), (400_000, 30_000_000)]
CHANGES += [(30_000_000, 200_000)]


@pytest.mark.parametrize(
    ("rate", "later", "readers", "most"),
    [
        (rate, later, readers, most)
        for rate, later in CHANGES
        for readers in (1, 2, 16)
        for most in (10**9, 3000)
        if readers * most / 0.001 >= max(rate, later)  # else it is the line that decides
    ],
)
def test_it_is_accurate_over_seconds_also_right_after_a_change(
    rate: float, later: float, readers: int, most: int
) -> None:
    found = rates(rate, later, readers=readers, most=most)
    assert found == pytest.approx((rate, later), rel=0.05)


def test_bytes_of_the_old_rate_that_were_not_used_are_no_burst() -> None:
    class Forgetful(RateLimit):  # the control
        def give_back(self, grant: _limit.Grant, count: int) -> None:
            with self._lock:
                self._saved_bytes += count

    clock = FakeTime()
    for kind, bursts in ((RateLimit, False), (Forgetful, True)):
        limit = kind(100_000_000, clock=clock.clock, sleep=clock.sleep)
        allowance = Allowance([limit], 256 * 1024, lambda: False)
        limit.bytes_per_second = 10_000
        allowance.spend(0)
        begun = clock.now
        for _ in range(10):
            Allowance([limit], 4096, lambda: False)
        assert (clock.now - begun < 0.95 * 10 * 4096 / 10_000) == bursts


def test_two_limits_hold_at_once_and_the_wider_one_loses_nothing() -> None:
    clock = FakeTime()
    narrow, wide = (RateLimit(r, clock=clock.clock, sleep=clock.sleep) for r in (50_000, 80_000))
    by = Transfer(Policy(connections=1), clock=clock.clock, sleep=clock.sleep)
    for common, own, rate in ((narrow, wide, 50_000), (wide, narrow, 50_000), (wide, None, 80_000)):
        by.limit.bytes_per_second = common.bytes_per_second
        begun = clock.now
        collector = Collector(CONTENT, FRAMES)
        with Server(honest(CONTENT)) as server:
            by.run([_download(collector, server)], limit=own)
        assert LENGTH / (clock.now - begun) == pytest.approx(rate, rel=0.05)


def _download(collector: Collector, server: Server) -> Download:
    return Download((server.url(),), FRAMES, LENGTH, collector.sink, collector.progress)


def test_a_limit_of_ones_own_is_for_that_delivery_alone() -> None:
    clock = FakeTime()
    own = RateLimit(1000, clock=clock.clock, sleep=clock.sleep)
    by = transfer(Policy(connections=1), clock)
    with Server(honest(CONTENT)) as server:
        by.run([Download((server.url(),), FRAMES[:1], LENGTH, lambda _, __: None)], limit=own)
        limited = clock.now - 1000
        assert limited == pytest.approx(FRAME / 1000, rel=0.05)
        by.run([Download((server.url(),), FRAMES[1:], LENGTH, lambda _, __: None)])
        assert clock.now - 1000 == limited


@pytest.mark.parametrize("connections", [1, 4])
def test_in_real_time_it_holds_roughly_and_may_change(
    connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_delivery, "_NEAR_SECONDS", 0)
    monkeypatch.setattr(_delivery, "_LEAST_PIECE_BYTES", 2 * FRAME)
    own = RateLimit(400_000)
    came: list[tuple[float, int]] = []

    def progress(count: int) -> None:
        came.append((time.monotonic(), count))
        if sum(count for _, count in came) >= LENGTH / 2 and own.bytes_per_second == 400_000:
            own.bytes_per_second = 800_000

    begun = time.monotonic()
    with Server(honest(CONTENT)) as server:
        Transfer(Policy(connections=connections)).run(
            [Download((server.url(),), FRAMES, LENGTH, lambda _, __: None, progress)], limit=own
        )
    seconds = time.monotonic() - begun
    # Never faster; a busy machine makes it slower.
    least = LENGTH / 2 / 400_000 + LENGTH / 2 / 800_000
    assert 0.95 * least < seconds < 2 * least


def test_a_limit_of_nothing_can_be_lifted() -> None:
    by, own = Transfer(), RateLimit(0)
    collector = Collector(CONTENT, FRAMES)
    with Server(honest(CONTENT)) as server:
        delivery = by.delivery([_download(collector, server)], limit=own)
        thread = threading.Thread(target=delivery.run)
        thread.start()
        time.sleep(0.3)
        assert collector.taken == []
        own.bytes_per_second = None
        thread.join(30)
    collector.check_once()


def test_a_limit_of_nothing_for_one_delivery_can_be_cancelled() -> None:
    with Server(honest(CONTENT)) as server:
        download = _download(Collector(CONTENT, FRAMES), server)
        delivery = Transfer().delivery([download], limit=RateLimit(0))
        threading.Timer(0.3, delivery.cancel).start()
        with pytest.raises(CancelledError):
            delivery.run()


@pytest.mark.parametrize(("of_policy", "own"), [(None, 0.5), (60, 0.5), (0.5, 60), (0.5, None)])
def test_the_shorter_deadline_holds(of_policy: float | None, own: float | None) -> None:
    by = Transfer(Policy(deadline_seconds=of_policy))
    limit = RateLimit(20_000)
    with Server(honest(CONTENT)) as server:
        download = _download(Collector(CONTENT, FRAMES), server)
        begun = time.monotonic()
        with pytest.raises(NetworkError, match=r"0\.5 s"):
            by.run([download], limit=limit, deadline_seconds=own)
        assert time.monotonic() - begun < 20
        if of_policy is None:
            by.run([download])  # the next has none
