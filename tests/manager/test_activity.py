"""The activity log: bounded, harmless whatever lies there, and no operation's failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plugin_manager.manager import Activity, ActivityLog
from plugin_manager.model import PluginName

MOMENT = datetime(2026, 11, 20, 12, tzinfo=UTC)
MAPS = PluginName.parse("acme/maps")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store" / "index").mkdir(parents=True)
    return tmp_path / "store"


def test_what_happened_comes_back_newest_first(store: Path) -> None:
    log = ActivityLog(store)
    log.record("installed", MAPS, "install acme/maps 1.0", MOMENT)
    log.record("notified", None, "two\nlines", MOMENT)
    assert log.read() == [
        Activity(MOMENT, "notified", None, "two lines"),
        Activity(MOMENT, "installed", MAPS, "install acme/maps 1.0"),
    ]
    assert log.read(1) == log.read()[:1]
    assert ActivityLog(store / "none").read() == []


def test_it_stays_bounded_and_the_newest_stay(store: Path) -> None:
    log = ActivityLog(store)
    for number in range(2000):
        log.record("refused", MAPS, f"{number} " + "x" * 5000, MOMENT)
    assert sum(path.stat().st_size for path in (store / "index").iterdir()) < 3 * 256 * 1024
    found = log.read(10_000)
    numbers = [int(one.text.split()[0]) for one in found]
    assert numbers[0] == 1999
    assert numbers == list(range(1999, 1999 - len(numbers), -1))
    assert len(numbers) > 200


WRITE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from plugin_manager.manager import ActivityLog
log = ActivityLog(Path(sys.argv[1]))
for number in range(1500):
    log.record("refused", None, f"{sys.argv[2]} {number} " + "x" * 400, datetime.now(UTC))
"""


def test_several_writers_lose_no_line_of_the_newest(store: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(store), str(writer)])
        for writer in range(3)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    found = ActivityLog(store).read(100_000)
    lines = b"".join(path.read_bytes() for path in (store / "index").iterdir()).splitlines()
    assert len(found) == len(lines)  # none was torn
    assert len(found) > 300  # nobody's setting aside cost a whole file
    for writer in "012":
        numbers = [int(one.text.split()[1]) for one in found if one.text.startswith(writer)]
        assert numbers == list(range(1499, 1499 - len(numbers), -1))


@pytest.mark.parametrize(
    "line",
    [
        "", "null", "[]", "{}", '{"when": 1, "kind": "x", "plugin": "", "text": ""}',
        '{"when": "x", "kind": "refused", "plugin": "", "text": "a"}',
        '{"when": "2026-01-01T00:00:00Z", "kind": "<script>", "plugin": "", "text": "a"}',
        '{"when": "2026-01-01T00:00:00Z", "kind": "refused", "plugin": "../x", "text": "a"}',
        '{"when": "2026-01-01T00:00:00Z", "kind": "refused", "plugin": "", "text": 7}',
        '{"when": "2026-01-01T00:00:00Z", "kind": "refused", "plugin": "", "text": "\\ud800"}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_line_is_skipped(store: Path, line: str) -> None:
    log = ActivityLog(store)
    log.record("installed", MAPS, "before", MOMENT)
    with (store / "index" / "activity.jsonl").open("a") as file:
        file.write(line + "\n")
    log.record("installed", MAPS, "after", MOMENT)
    assert [one.text for one in log.read()] == ["after", "before"]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "missing"])
def test_where_it_cannot_be_written_nothing_happens(store: Path, kind: str) -> None:
    path, elsewhere = store / "index" / "activity.jsonl", store / "elsewhere"
    elsewhere.write_text("mine")
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    log = ActivityLog(store / "gone" if kind == "missing" else store)
    log.record("installed", MAPS, "text", MOMENT)
    assert log.read() == []
    assert elsewhere.read_text() == "mine"


def test_no_link_leads_it_elsewhere(store: Path) -> None:
    (store / "index").rmdir()
    (store / "elsewhere").mkdir()
    (store / "index").symlink_to(store / "elsewhere")
    ActivityLog(store).record("installed", MAPS, "text", MOMENT)
    assert list((store / "elsewhere").iterdir()) == []


def test_a_line_is_json_whatever_it_says(store: Path) -> None:
    log = ActivityLog(store)
    log.record("refused", MAPS, 'a "quote", \x1b[31m and \ud800', MOMENT)
    [line] = (store / "index" / "activity.jsonl").read_text().splitlines()
    assert json.loads(line)["plugin"] == "acme/maps"
