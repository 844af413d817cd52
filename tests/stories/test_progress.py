"""What a host is told while bytes arrive."""

from __future__ import annotations

from itertools import pairwise

import pytest
from attrs import define
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager.manager import Progress
from plugin_manager.manager._progress import Meter
from tests.bundles import release

MAPS, TILES = release("acme/maps 1.0"), release("acme/tiles 1.0")


@define
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def meter(clock: Clock) -> tuple[Meter, list[Progress]]:
    told: list[Progress] = []
    made = Meter(told.append, clock)
    made.expect(MAPS, 1000, reused_bytes=500)
    made.expect(TILES, 3000, reused_bytes=0)
    return made, told


def test_it_is_told_at_the_beginning_then_twice_a_second_and_when_a_transfer_is_done() -> None:
    clock = Clock()
    counting, told = meter(clock)
    for _ in range(100):
        clock.now += 0.1
        counting.arrived(TILES, 10)
    assert 18 <= len(told) <= 22
    counting.arrived(MAPS, 1000)
    before = len(told)
    counting.verified(MAPS, 1000)
    assert len(told) == before + 1
    assert [one.done for one in told[-1].transfers] == [True, False]
    assert told[-1].reused_bytes == 500


def test_nothing_is_100_percent_before_it_is_verified() -> None:
    counting, told = meter(Clock())
    counting.arrived(MAPS, 1000)
    counting.arrived(TILES, 3000)
    assert told[-1].percent <= 99
    counting.verified(MAPS, 1000)
    assert [one.percent for one in told[-1].transfers] == [100, 99]
    assert told[-1].percent == 99
    counting.verified(TILES, 3000)
    assert told[-1].percent == 100
    assert told[-1].done


def test_speed_and_time_left_follow_what_arrives() -> None:
    clock = Clock()
    counting, told = meter(clock)
    assert told == []
    counting.arrived(TILES, 1)
    assert told[-1].seconds_left is None
    for _ in range(20):
        clock.now += 0.5
        counting.arrived(TILES, 50)
    [_, tiles] = told[-1].transfers
    assert tiles.bytes_per_second == pytest.approx(100, rel=0.05)
    assert tiles.seconds_left == pytest.approx((3000 - 1001) / 100, rel=0.05)
    for _ in range(20):
        clock.now += 0.5
        counting.arrived(TILES, 5)
    assert told[-1].bytes_per_second == pytest.approx(10, rel=0.5), "it slows down with the line"


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400), st.floats(0, 2)), max_size=40))
def test_what_is_told_never_goes_backwards(steps: list[tuple[bool, int, float]]) -> None:
    clock = Clock()
    counting, told = meter(clock)
    left = {MAPS: 1000, TILES: 3000}
    for first, wanted, seconds in steps:
        which = MAPS if first else TILES
        count = min(wanted, left[which])
        left[which] -= count
        clock.now += seconds
        if count:
            counting.arrived(which, count)
            counting.verified(which, count)
    for earlier, later in pairwise(told):
        assert earlier.transferred_bytes <= later.transferred_bytes
        assert earlier.percent <= later.percent
        assert later.total_bytes == 4000
