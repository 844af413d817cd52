"""A slice of the kill points, and whether the judge can tell; `make crash-test` tries all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.controls import CONTROLS
from tests.crash.kills import Point, points
from tests.crash.scenario import Scenario, copy_store, judge

ROOT = Path(__file__).parents[2]


def battery(*options: str) -> list[dict[str, object]]:
    """The tallies of the battery in a process of its own: this one may have threads."""
    command = [sys.executable, "-m", "tests.crash", "kills", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 2 and not os.environ.get("CI"):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    tallies: list[dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return tallies


def test_killed_at_some_points_nothing_is_lost_and_broken_variants_are_caught() -> None:
    tallies = battery("--operations=first-start,upgrade,repair", "--sample=5", "--twice=1")
    assert sum(tally["died"] for tally in tallies[: -len(CONTROLS)]) >= 20
    assert all(tally["losses"] for tally in tallies[-len(CONTROLS) :])


def test_points_are_counted_by_name_and_thread() -> None:
    trace = [
        "10 openat(AT_FDCWD, \"a\", O_RDONLY) = 3",
        "10 read(3, <unfinished ...>",
        "11 read(4, \"\", 1) = 0",
        "10 <... read resumed>\"x\", 1) = 1",
        "11 read(4, \"\", 1) = 0",
        "--- SIGCONT {si_signo=SIGCONT} ---",
        "10 openat(AT_FDCWD, \"b\", O_WRONLY|O_CREAT, 0644) = 5",
        "10 rename(\"b\", \"c\") = 0",
    ]  # fmt: skip
    assert points(trace) == [
        Point("openat", 1),
        Point("read", 1),
        Point("read", 2),
        Point("openat", 2, writes=True),
        Point("rename", 1, writes=True),
    ]


# --- the judge -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    with Scenario(tmp_path_factory.mktemp("scenario")) as scenario:
        yield scenario


def _flip(store: Path) -> None:
    [path] = store.glob("releases/acme/maps/2.0-*/maps/data/tiles.bin")
    data = bytearray(path.read_bytes())
    data[1000] ^= 4
    path.chmod(0o644)
    path.write_bytes(data)


def _forget_previous(store: Path) -> None:
    [path] = store.glob("releases/acme/maps/1.0-*")
    shutil.rmtree(path)


def _forget_current(store: Path) -> None:
    (store / "current").unlink()


def _tear_current(store: Path) -> None:
    (store / "current").write_bytes((store / "current").read_bytes()[:-10])


@pytest.mark.parametrize("damage", [_flip, _forget_previous, _forget_current, _tear_current])
def test_judge_sees_what_is_lost(
    scenario: Scenario, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = tmp_path / "store"
    copy_store(scenario.template("upgrade"), store)
    damage(store)
    assert judge(scenario, store, "upgrade")


def test_judge_sees_a_state_that_is_neither_old_nor_new(scenario: Scenario, tmp_path: Path) -> None:
    store = tmp_path / "store"
    copy_store(scenario.template("upgrade"), store)
    scenario.manager(store).install("acme/base==2.0")
    assert "neither the old nor the new" in judge(scenario, store, "upgrade")[0]


def test_judge_finds_nothing_where_nothing_is_wrong(scenario: Scenario, tmp_path: Path) -> None:
    store = tmp_path / "store"
    copy_store(scenario.template("upgrade"), store)
    assert judge(scenario, store, "upgrade") == []
