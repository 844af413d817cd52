"""Bundles and metadata that are cut off anywhere, change half-way, or unpack to far too much."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attrs import evolve

from plugin_manager import bundle
from plugin_manager.bundle import Head
from plugin_manager.manager import Cleanup
from tests.hostile.stage import PATIENCE, Asked, Host, Script, Stage
from tests.hostile.ways import (
    BOMB_BYTES,
    EDITIONS,
    WAYS,
    Way,
    always,
    another,
    cut,
    first,
    flip_of,
    lying_bomb,
    only,
)
from tests.transfer.server import Behaviour

FIRST_FRAME_BYTES = 1_000_399  # of what the upgrade to acme/maps 2.0 fetches

# --- cut off -----------------------------------------------------------------------------------


def test_cut_off_at_any_offset_of_metadata_catalogue_head_and_frame_an_install_completes(
    stage: Stage, tmp_path: Path
) -> None:
    """Each answer is cut off many times in a row, a byte later each time, in all places.

    So small a bundle comes whole with its head.
    """
    policy = evolve(PATIENCE, attempts=30)
    bundle_length = len(stage.file("new", "targets/acme/tiny/*.tar.zst"))
    lengths = {
        "timestamp": len(stage.file("new", "metadata/timestamp.json")),
        "catalogue": len(stage.file("new", "targets/acme/tiny/*.catalogue.json")),
        "head": bundle_length,
    }
    tried = dict.fromkeys(lengths, 0)

    def script(asked: Asked) -> Behaviour | None:
        offset = tried.get(asked.place, 0)
        if asked.number + 1 >= policy.attempts or offset >= lengths.get(asked.place, 0):
            return None
        tried[asked.place] += 1
        return cut(offset)(asked)

    while tried != lengths:
        host = Host.empty(stage, tmp_path, policy)
        attempt = host.attempt(script, request="acme/tiny")
        assert attempt.verdict == "", attempt.error
        manager = host.manager()
        with manager.load("acme/tiny") as plugin:
            assert plugin.read("tiny.py") == b"VERSION = '1.0'\n"
        assert manager.plan_cleanup(unfinished=True) == Cleanup()
    assert min(lengths.values()) > 200


def read_head_of(content: bytes) -> Head:
    _, length = bundle.HEAD_PREFIX.unpack_from(content)
    return bundle.read_head(content[: bundle.HEAD_PREFIX.size + length])


@pytest.mark.parametrize("place", ["timestamp", "catalogue"])
def test_metadata_cut_off_without_a_declared_length_is_refused(
    place: str, stage: Stage, tmp_path: Path
) -> None:
    host = Host.installed(stage, tmp_path)
    pattern = (
        "metadata/timestamp.json" if place == "timestamp" else "targets/acme/maps/*.catalogue.json"
    )
    length = len(stage.file("new", pattern))
    for offset in range(0, length, 23):
        attempt = host.attempt(always(place, cut(offset, declared=False)))
        assert attempt.verdict == "untrusted", offset
    assert host.judge(attempt, "untrusted") == []


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_cut_off_around_the_border_of_frames_only_what_is_lacking_is_asked_for(
    beyond: int, stage: Stage, tmp_path: Path
) -> None:
    head = read_head_of(stage.file("new", "targets/acme/maps/*.tar.zst"))
    begin, border = head.frame_span(1)
    host = Host.empty(stage, tmp_path)
    # The first request is for the first frame, the second for two.
    attempt = host.attempt(only("body", cut(border - begin + beyond), {1}))
    assert host.judge(attempt, "") == []
    starts = [asked.start for asked in attempt.asked if asked.place == "body"]
    assert starts == [head.length, begin, begin if beyond < 0 else border]


@pytest.mark.parametrize("offset", [0, FIRST_FRAME_BYTES - 1, FIRST_FRAME_BYTES, 1_200_000])
def test_what_had_arrived_before_a_command_failed_is_not_fetched_by_the_next(
    offset: int, stage: Stage, tmp_path: Path
) -> None:
    def script(asked: Asked) -> Behaviour | None:
        return (
            (first("body", cut(offset))(asked) or WAYS["404"](asked))
            if asked.place == "body"
            else None
        )

    host = Host.installed(stage, tmp_path)
    assert host.judge(host.attempt(script), "network", recovers=False) == []
    again = host.attempt()
    assert host.judge(again, "") == []
    whole = 1_200_000 if offset < FIRST_FRAME_BYTES else 1_200_000 - FIRST_FRAME_BYTES
    assert whole <= again.bytes_of("body") < whole + 3_000


# --- changed half-way --------------------------------------------------------------------------


def changing(way: Way, numbers: range) -> Script:
    """The first frame comes, then the line breaks; then the file has become another."""

    def script(asked: Asked) -> Behaviour | None:
        if asked.place != "body":
            return None
        if asked.number == 0:
            return cut(FIRST_FRAME_BYTES + 100)(asked)
        return way(asked) if asked.number in numbers else None

    return script


@pytest.mark.parametrize(
    ("way", "verdict"),
    [
        (EDITIONS["of the edition to come"], "network"),
        (EDITIONS["of an older edition"], "network"),
        (EDITIONS["another release's, as long"], "untrusted"),
        (another("targets/acme/maps/*maps-3.0*", as_long=True), "untrusted"),
        (flip_of(0), "untrusted"),
    ],
)
def test_a_bundle_that_changes_between_two_ranges_is_not_mixed(
    way: Way, verdict: str, stage: Stage, tmp_path: Path
) -> None:
    host = Host.installed(stage, tmp_path)
    attempt = host.attempt(changing(way, range(1, 100)))
    assert host.judge(attempt, verdict, recovers=False) == []
    again = host.attempt()
    assert host.judge(again, "") == []
    assert again.bytes_of("body") < 210_000, "the first frame is kept"
    host = Host.installed(stage, tmp_path)
    attempt = host.attempt(changing(way, range(1, 3)))
    assert host.judge(attempt, "") == []


# --- bombs -------------------------------------------------------------------------------------


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def grown_bytes(host: Host, way: Way, verdict: str) -> int:
    """By how much an attempt makes this process larger at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
    before = peak_bytes()
    attempt = host.attempt(always("body", way))
    grown = peak_bytes() - before
    assert host.judge(attempt, verdict) == []
    return grown


BOMBS = {
    "it says so": WAYS["bomb that says so"],
    "it says nothing": WAYS["bomb that says nothing"],
    "it lies": lying_bomb(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_not_unpacked(name: str, stage: Stage, tmp_path: Path) -> None:
    host = Host.installed(stage, tmp_path)
    BOMBS[name](Asked("body", 0, b"x", "", 0, {}, stage, None))  # type: ignore[arg-type]
    assert grown_bytes(host, BOMBS[name], "untrusted") < BOMB_BYTES // 4


def test_control_a_bomb_that_is_believed_is_unpacked(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def believing(data: memoryview, most: int) -> bytes:
        decompressor = bundle.zstandard.ZstdDecompressor()
        return decompressor.decompress(data, max_output_size=most)

    monkeypatch.setattr(bundle, "_decode", believing)
    host = Host.installed(stage, tmp_path)
    assert grown_bytes(host, BOMBS["it says so"], "untrusted") >= BOMB_BYTES
