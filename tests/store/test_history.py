"""The history on disk: appended, listed, mended, and gone on with where `current` was lost."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from plugin_manager.errors import CorruptError, NotFoundError
from plugin_manager.model import Digest, PluginName
from plugin_manager.store import Active
from plugin_manager.store._history import History
from tests.bundles import release

NOW = datetime(2026, 11, 20, 12, 30, 5, 999, tzinfo=UTC)
ONE, TWO, OTHER = (
    Active(release(name), Digest(digit * 64))
    for name, digit in (("acme/a 1.0", "a"), ("acme/a 2.0", "b"), ("acme/b 1.0", "c"))
)
PLUGIN = ONE.release.plugin


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path)
    history.prepare()
    return history


def append(history: History, *actives: Active) -> None:
    for one in actives:
        history.append({one.release.plugin: one}, str(one.release), NOW)


def nothing_on_disk() -> dict[PluginName, Active]:
    pytest.fail("there is a good generation")


def test_each_change_is_one_generation_that_says_what_it_changed(history: History) -> None:
    append(history, ONE, TWO, OTHER)
    history.append({PLUGIN: None}, "uninstall", NOW)
    records = history.records()
    assert [record.number for record in records] == [4, 3, 2, 1]
    assert [(change.before, change.after) for r in records for change in r.changes] == [
        (TWO, None), (None, OTHER), (ONE, TWO), (None, ONE),
    ]  # fmt: skip
    assert list(history.current().active.values()) == [OTHER]
    assert history.generation(2).active == {PLUGIN: TWO}
    assert history.current().created == NOW.replace(microsecond=0)


def test_a_change_to_what_it_was_is_a_generation_without_changes(history: History) -> None:
    append(history, ONE, ONE)
    assert [len(record.changes) for record in history.records()] == [0, 1]


def test_a_new_store_has_the_empty_generation_and_nothing_else_has(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.current().number == 0
    assert history.records() == []
    assert history.generation(0).active == {}
    assert list(tmp_path.iterdir()) == [], "looking writes nothing"
    (tmp_path / "releases/acme").mkdir(parents=True)
    with pytest.raises(CorruptError, match="current is missing"):
        history.current()
    history.prepare()
    with pytest.raises(CorruptError, match="current is missing"):
        history.current()


@pytest.mark.parametrize("name", ["0.json", "01.json", "1.json.bak", "x.json", "9" * 16 + ".json"])
def test_other_names_are_no_generations(history: History, tmp_path: Path, name: str) -> None:
    append(history, ONE)
    (tmp_path / "generations" / name).write_text("x")
    assert history.numbers() == [1]
    assert history.damaged() == []


def test_there_is_no_generation_that_there_is_not(history: History) -> None:
    append(history, ONE)
    with pytest.raises(NotFoundError, match="there is no generation 7"):
        history.generation(7)


def test_a_record_in_anothers_place_is_damaged(history: History, tmp_path: Path) -> None:
    append(history, ONE, TWO, OTHER)
    first, second = (tmp_path / "generations" / f"{number}.json" for number in (1, 2))
    second.write_bytes(first.read_bytes())
    with pytest.raises(CorruptError, match=r"generations/2\.json is generation 1"):
        history.generation(2)
    assert history.damaged() == ["generations/2.json"]


def test_damaged_records_are_named_and_the_others_listed(history: History, tmp_path: Path) -> None:
    append(history, ONE, TWO, OTHER)
    (tmp_path / "generations/2.json").write_bytes(b"")
    (tmp_path / "generations/3.json").unlink()
    assert [record.number for record in history.records()] == [3, 1]
    assert history.damaged() == ["generations/3.json", "generations/2.json"]


def test_mending_writes_the_current_record_anew_and_sets_others_aside(
    history: History, tmp_path: Path
) -> None:
    append(history, ONE, TWO, OTHER)
    good = (tmp_path / "generations/3.json").read_bytes()
    (tmp_path / "generations/2.json").write_bytes(b"two")
    (tmp_path / "generations/3.json").write_bytes(b"three")
    assert sorted(history.mend()) == ["generations/2.json", "generations/3.json"]
    assert history.damaged() == history.mend() == []
    assert (tmp_path / "generations/3.json").read_bytes() == good
    aside = {path.read_bytes() for path in (tmp_path / "generations").glob(".set-aside-*")}
    assert aside == {b"two", b"three"}, "nothing is deleted"


def test_a_lost_current_is_taken_from_its_record(history: History, tmp_path: Path) -> None:
    append(history, ONE, TWO)
    before = history.current()
    (tmp_path / "current").write_bytes(b"x")
    assert history.recover(nothing_on_disk, NOW) == before == history.current()
    assert history.numbers() == [2, 1]


def test_where_both_copies_are_lost_the_newest_good_generation_goes_on(
    history: History, tmp_path: Path
) -> None:
    append(history, ONE, TWO, OTHER)
    for name in ("current", "generations/3.json", "generations/2.json"):
        (tmp_path / name).write_bytes(b"x")
    recovered = history.recover(nothing_on_disk, NOW)
    assert recovered.number == 4, "a number is never given twice"
    assert recovered.action == "repair: went on from generation 1"
    assert history.current().active == {PLUGIN: ONE}


def test_where_no_generation_is_left_what_is_on_disk_is_all_there_is(
    history: History, tmp_path: Path
) -> None:
    append(history, ONE)
    for path in (tmp_path / "current", tmp_path / "generations/1.json"):
        path.write_bytes(b"x")
    assert history.recover(lambda: {PLUGIN: TWO}, NOW).number == 2
    assert history.current().active == {PLUGIN: TWO}


def test_a_number_is_not_given_twice_even_after_older_records_were_set_aside(
    history: History, tmp_path: Path
) -> None:
    append(history, ONE, TWO, OTHER)
    (tmp_path / "generations/2.json").write_bytes(b"x")
    history.mend()
    for name in ("current", "generations/3.json"):
        (tmp_path / name).write_bytes(b"x")
    assert history.recover(nothing_on_disk, NOW).number > 3


@pytest.mark.parametrize("name", ["current", "generations/1.json"])
def test_links_and_fifos_in_their_places_are_damage(
    history: History, tmp_path: Path, name: str
) -> None:
    append(history, ONE, TWO)
    path = tmp_path / name
    (tmp_path / "elsewhere").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptError, match="not a regular file"):
        history.current() if name == "current" else history.generation(1)
