"""A few power cuts; `python -m tests.crash power` makes two thousand."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import power
from tests.crash.power import CONTROLS, Cell, Cut, Disk, scratch
from tests.crash.scenario import Scenario


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory where a disk can be cut off."""
    if reason := power.why_not():
        # Where it must be possible, that it is not is a failure.
        if os.environ.get("CI") and os.geteuid() == 0 and Path("/dev/loop-control").exists():
            pytest.fail(f"no power can be cut: {reason}")
        pytest.skip(f"no power can be cut: {reason}")
    with scratch() as directory:
        yield directory


@pytest.fixture(scope="module")
def scenario(place: Path) -> Iterator[Scenario]:
    with Scenario(place / "world") as scenario:
        yield scenario


def test_a_power_cut_loses_nothing_that_was_done(place: Path, scenario: Scenario) -> None:
    with Disk(place) as disk:
        cell = Cell(scenario, disk, random.Random(5))
        assert [loss for _ in range(15) for loss in cell.cycle()] == []
    assert cell.counts["done"] > 0


@pytest.mark.parametrize("control", ["never-sync", "sync-names-only"])
def test_a_store_that_does_not_sync_is_caught(
    place: Path, scenario: Scenario, control: str
) -> None:
    assert control in CONTROLS
    assert power.caught(scenario, place, control, most=40, seed=1)


@pytest.mark.parametrize("cut", [Cut.JOURNAL, Cut.NOTHING])
def test_a_cut_disk_loses_what_was_not_synced_and_only_that(place: Path, cut: Cut) -> None:
    with Disk(place) as disk:
        disk.mount("noauto_da_alloc")
        (disk.top / "synced").write_bytes(b"x")
        os.sync()
        (disk.top / "written").write_bytes(b"x")
        disk.cut(cut)
        with pytest.raises(OSError, match="Input/output"):
            (disk.top / "late").write_bytes(b"x")
        disk.unmount()
        disk.mount()
        assert (disk.top / "synced").read_bytes() == b"x"
        written = disk.top / "written"
        assert not written.exists() or written.read_bytes() == b""
