"""What an agent remembers, and whatever else may lie in that file's place."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager import agent
from plugin_manager.agent import _record
from plugin_manager.agent._record import Record
from plugin_manager.document import Document
from plugin_manager.errors import InvalidInputError
from plugin_manager.model import Digest, PluginName

MOMENT = datetime(2026, 11, 20, 12, tzinfo=UTC)
FULL = Record(
    since=MOMENT,
    doing="install acme/maps",
    updated=MOMENT,
    scrubbed=MOMENT,
    scrub_begun=MOMENT,
    scrub_done=(Digest.of(b"one"),),
    findings=("acme/maps 1.0: tiles (damaged)",),
    damaged=(PluginName.parse("acme/maps"),),
    collected=MOMENT,
    seen={Digest.of(b"two"): MOMENT},
    told=("upgrade x",),
)


@pytest.mark.parametrize("record", [Record(), FULL, evolve(FULL, updated=None)])
def test_it_comes_back_as_it_was(tmp_path: Path, record: Record) -> None:
    _record.write(tmp_path, record)
    assert _record.read(tmp_path) == record


HOSTILE = [
    b"",
    b"\0" * 100,
    b"[" * 100_000,
    b"null",
    b'{"format": 2}',
    b'{"format": 1, "updated": "yesterday"}',
    b'{"format": 1, "updated": 7}',
    b'{"format": 1, "scrub_done": ["../../etc"]}',
    b'{"format": 1, "seen": {"x": "2026-01-01T00:00:00Z"}}',
    b'{"format": 1, "seen": []}',
    b'{"format": 1, "damaged": ["acme/maps; rm -rf /"]}',
    b'{"format": 1, "doing": "' + b"x" * 5000 + b'"}',
    b'{"format": 1, "updated": "9999-12-31T23:59:59-12:00"}',
    b'{"format": 1, "told": ["\\ud800"]}',
]


@pytest.mark.parametrize("data", HOSTILE)
def test_a_damaged_one_is_as_good_as_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "state.json").write_bytes(data)
    assert _record.read(tmp_path) == Record()
    assert agent.status(tmp_path) == agent.AgentStatus(running=False)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "large"])
def test_so_is_what_is_no_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "agent").mkdir()
    path = tmp_path / "agent" / "state.json"
    if kind == "link":
        _record.write(tmp_path / "other", FULL)
        path.symlink_to(tmp_path / "other" / "agent" / "state.json")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "large":
        path.write_bytes(json.dumps(FULL.render()).encode() + b" " * 5_000_000)
    else:
        path.mkdir()
    assert _record.read(tmp_path) == Record()
    _record.write(tmp_path, FULL)
    assert _record.read(tmp_path) == FULL


def test_what_a_file_says_is_one_line(tmp_path: Path) -> None:
    value = {**FULL.render(), "findings": ["good\nagent  runs"], "doing": "a\r\nb"}
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "state.json").write_text(json.dumps(value))
    record = _record.read(tmp_path)
    assert (record.findings, record.doing) == (("good agent runs",), "a b")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(FULL.render())), json_values))
def test_any_json_is_a_record_or_refused(changes: dict[str, object]) -> None:
    try:
        record = Record.parse(Document({**FULL.render(), **changes}))
    except InvalidInputError:
        return
    assert Record.parse(Document(record.render())) == record


def test_it_stays_bounded(tmp_path: Path) -> None:
    many = tuple(f"upgrade {number}" for number in range(5000))
    _record.write(tmp_path, Record(told=many, findings=("x" * 10_000,) * 500))
    record = _record.read(tmp_path)
    assert record.told == many[-1000:]
    assert (tmp_path / "agent" / "state.json").stat().st_size < 200_000


def test_what_a_killed_agent_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / ".tmp-0123456789abcdef").touch()
    (tmp_path / "agent" / "log").touch()
    _record.forget_temporary(tmp_path)
    assert [path.name for path in (tmp_path / "agent").iterdir()] == ["log"]
