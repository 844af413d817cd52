"""A few faults; `python -m tests.crash faults` tries every one."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import faults, power
from tests.crash.faults import Bench, retried_syncs
from tests.crash.power import scratch
from tests.crash.scenario import Scenario

IN_CI = bool(os.environ.get("CI")) and os.geteuid() == 0


def require(reason: str) -> None:
    """Skip for `reason`, if there is one; where it must not be, fail."""
    if reason:
        (pytest.fail if IN_CI else pytest.skip)(f"no faults can be made: {reason}")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    require(faults.why_not())
    with scratch() as directory:
        yield directory


@pytest.fixture(scope="module")
def scenario(place: Path) -> Iterator[Scenario]:
    with Scenario(place / "world") as scenario:
        yield scenario


@pytest.fixture(scope="module")
def bench(scenario: Scenario, place: Path) -> Bench:
    return Bench(scenario, "upgrade", place / "store")


def test_a_call_that_fails_ends_the_command_with_a_remedy_or_not_at_all(bench: Bench) -> None:
    every = faults.faults(bench.trace())
    draw = random.Random(2)
    full = [fault for fault in every if fault.error == "ENOSPC"]
    other = [fault for fault in every if fault.error != "ENOSPC"]
    chosen = draw.sample(full, 14) + draw.sample(other, 14)
    assert [problem for fault in chosen for problem in bench.problems(fault)] == []
    assert {name.partition(" ")[2] for name in bench.endings} >= {"done", "store", "no-space"}


@pytest.mark.parametrize("room", [0, 20_480, 40_960])
def test_a_full_disk_keeps_the_old_version(scenario: Scenario, place: Path, room: int) -> None:
    for break_it in (lambda: None, faults.room_taken_meanwhile):
        bench = Bench(scenario, "upgrade", place / "none", break_it)
        assert faults.full_disk(bench, place / "full", room) == []
        # With more room, eviction makes the rest: then it is done.
        assert bench.endings["full no-space"] == 1


@pytest.mark.parametrize("largest", [0, 50_000])
def test_a_short_write_keeps_the_old_version(bench: Bench, largest: int) -> None:
    assert faults.short_writes(bench, largest) == []
    assert bench.endings["short store"] > 0


def test_a_disk_that_cannot_write_out_what_it_took_keeps_the_old_version(
    scenario: Scenario, place: Path
) -> None:
    require(power.why_not())
    bench = Bench(scenario, "upgrade", place / "none", faults.room_taken_meanwhile)
    assert faults.failing_writeback(bench, place / "memory", 60_000) == []
    assert bench.endings["writeback done"] == 0


@pytest.mark.parametrize("control", faults.CONTROLS)
def test_a_broken_store_is_caught(scenario: Scenario, place: Path, control: str) -> None:
    assert faults.caught(scenario, place, control)


def test_a_sync_that_is_tried_again_is_seen_in_the_log() -> None:
    failed = "fsync(7</s/.tmp-1>) = -1 EIO (Input/output error) (INJECTED)"
    again = "fsync(7</s/.tmp-1>) = 0"
    placed = 'rename("/s/.tmp-1", "/s/current") = 0'
    assert retried_syncs([failed, again, placed]) == [
        "synced again: /s/.tmp-1",
        "put into place: /s/current",
    ]
    assert retried_syncs([again, placed]) == []
