"""Why each release is on disk, and what is taken for a release at all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plugin_manager.settings import Limits
from plugin_manager.store import Active, Housekeeping, Kept, Store
from tests.bundles import make_bundle
from tests.store.test_store import FILES, activate, bring

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=8)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    with store.writing():
        yield store


def place(store: Store, release: str) -> Active:
    return bring(store, make_bundle(release, {**FILES, "v": release.encode()}))[0]


def install(store: Store, *releases: str) -> list[Active]:
    found = [place(store, release) for release in releases]
    for one in found:
        activate(store, one)
    return found


def kept(store: Store, now: datetime = NOW) -> dict[str, Kept]:
    return {str(one.release): one.kept for one in Housekeeping(store).residents(now)}


def test_of_each_plugin_the_active_and_what_was_active_before(store: Store) -> None:
    install(store, "acme/a 1.0", "acme/a 2.0", "acme/a 3.0", "acme/b 1.0")
    assert kept(store) == {
        "acme/a 1.0": Kept.GARBAGE,
        "acme/a 2.0": Kept.PREVIOUS,
        "acme/a 3.0": Kept.ACTIVE,
        "acme/b 1.0": Kept.ACTIVE,
    }


def test_previous_is_what_was_active_last_not_what_is_older(store: Store) -> None:
    first, second = install(store, "acme/a 1.0", "acme/a 2.0")
    activate(store, first)
    assert kept(store) == {"acme/a 1.0": Kept.ACTIVE, "acme/a 2.0": Kept.PREVIOUS}
    install(store, "acme/a 3.0")
    activate(store, second)
    assert kept(store)["acme/a 3.0"] is Kept.PREVIOUS


def test_what_was_uninstalled_stays_until_the_next_change(store: Store) -> None:
    [one] = install(store, "acme/a 1.0")
    store.activate({one.release.plugin: None}, "uninstall", NOW)
    assert kept(store) == {"acme/a 1.0": Kept.UNDO}
    install(store, "acme/b 1.0")
    assert kept(store)["acme/a 1.0"] is Kept.GARBAGE


def test_what_the_last_change_replaced_stays_even_with_no_previous_kept(store: Store) -> None:
    install(store, "acme/a 1.0", "acme/a 2.0")
    none_kept = Housekeeping(store, Limits(keep_previous=0))
    [first, _] = none_kept.residents(NOW)
    assert first.kept is Kept.UNDO


def test_what_never_became_active_is_unfinished_for_a_week(store: Store) -> None:
    place(store, "acme/a 1.0")
    assert kept(store) == {"acme/a 1.0": Kept.UNFINISHED}
    assert kept(store, LATER) == {"acme/a 1.0": Kept.GARBAGE}


def test_an_evicted_previous_release_does_not_push_out_the_one_before_it(store: Store) -> None:
    _, second, _ = install(store, "acme/a 1.0", "acme/a 2.0", "acme/a 3.0")
    Housekeeping(store).evict(
        [one for one in Housekeeping(store).residents(NOW) if one.digest == second.digest]
    )
    assert kept(store)["acme/a 1.0"] is Kept.PREVIOUS


def test_where_the_records_were_lost_what_is_older_counts_as_previous(store: Store) -> None:
    install(store, "acme/a 1.0", "acme/a 2.0")
    for number in (1, 2):
        (store.directory / f"generations/{number}.json").unlink()
    store.mend_generations()
    store.activate({}, "x", NOW)
    (store.directory / "generations/2.json").unlink()
    store.mend_generations()
    assert kept(store, LATER)["acme/a 1.0"] is Kept.PREVIOUS


def test_while_records_are_damaged_nothing_is_garbage(store: Store) -> None:
    install(store, "acme/a 1.0", "acme/a 2.0", "acme/a 3.0")
    (store.directory / "generations/1.json").write_bytes(b"x")
    assert Kept.GARBAGE not in kept(store, LATER).values()


def test_all_releases_of_a_pinned_plugin_are_pinned(store: Store) -> None:
    *_, last = install(store, "acme/b 1.0", "acme/a 1.0", "acme/a 2.0")
    pinned = Active(last.release, last.digest, pinned=True)
    store.activate({last.release.plugin: pinned}, "pin", NOW)
    assert {str(one.release) for one in Housekeeping(store).residents(NOW) if one.pinned} == {
        "acme/a 1.0",
        "acme/a 2.0",
    }


def test_odd_things_are_no_releases(store: Store, tmp_path: Path) -> None:
    install(store, "acme/a 1.0")
    (tmp_path / "home/b/1.0-0123456789abcdef").mkdir(parents=True)
    releases = store.directory / "releases"
    (releases / "linked").symlink_to(tmp_path / "home")
    (releases / "acme/linked").symlink_to(tmp_path / "home/b")
    (releases / "acme/a/linked").symlink_to(tmp_path / "home/b")
    (releases / "acme/a/.set-aside-1").mkdir()
    (releases / "acme/a/notes.txt").write_text("mine")
    (releases / "Not A Publisher/x/1.0").mkdir(parents=True)
    assert list(kept(store)) == ["acme/a 1.0"]


def test_what_no_manifest_tells_of_is_measured_and_goes_when_it_is_old(store: Store) -> None:
    name = "1.5-0123456789abcdef"
    stray = store.directory / "releases/acme/a" / name
    stray.mkdir(parents=True)
    (stray / "one").write_bytes(b"x" * 5000)
    (stray / "same").hardlink_to(stray / "one")
    [resident] = Housekeeping(store).residents(NOW)
    assert resident.digest is None
    assert str(resident.release.version) == "1.5"
    assert resident.total_bytes == 4096 + 8192, "the directory and one file, linked twice"
    assert resident.kept is Kept.UNFINISHED
    assert [one.name for one in Housekeeping(store).collect(LATER)] == [f"releases/acme/a/{name}"]
    assert not stray.exists()


@pytest.mark.parametrize(
    "name", ["junk", "my-notes", "1.0", "01.5-0123456789abcdef", "copy-of-0123456789abcdef"]
)
def test_what_is_not_named_as_a_release_is_somebodys_own(store: Store, name: str) -> None:
    own = store.directory / "releases/acme/a" / name
    own.mkdir(parents=True)
    (own / "thesis").write_text("precious")
    assert Housekeeping(store).residents(NOW) == []
    assert Housekeeping(store).collect(LATER, unfinished=True) == []
    assert (own / "thesis").read_text() == "precious"
