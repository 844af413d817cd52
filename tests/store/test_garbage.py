"""The collector: finds what nobody needs, removes it whole, and may be interrupted anywhere."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plugin_manager.settings import Limits
from plugin_manager.store import Active, Garbage, Housekeeping, Kept, Store, disk_bytes
from tests.bundles import make_bundle
from tests.store.test_store import FILES, activate, bring
from tests.world import snapshot

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=8)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    with store.writing():
        yield store


def housekeeping(store: Store) -> Housekeeping:
    return Housekeeping(store, Limits(keep_generations=3))


def install(store: Store, *releases: str) -> list[Active]:
    found = []
    for release in releases:
        active, *_ = bring(store, make_bundle(release, {**FILES, "v": release.encode()}))
        activate(store, active)
        found.append(active)
    return found


def interrupt(store: Store, release: str) -> Path:
    """Stage a release, but not to its end."""
    bundle = make_bundle(release, {"data": random.Random(release).randbytes(20_000)})
    with store.staging(bundle.head, bundle.head.manifest.files) as staging:
        staging.reuse()
        [first, *_] = staging.spans()
        staging.accept(first[0], memoryview(bundle.data)[first[1] : first[2]])
    return staging.directory


def kinds(found: list[Garbage]) -> list[tuple[str, str]]:
    return [(one.kind, one.name.split("/")[0]) for one in found]


def directory(store: Store, active: Active) -> Path:
    return store.release_directory(active.release, active.digest)


def test_of_an_upgraded_plugin_the_last_two_releases_stay(store: Store) -> None:
    first, second, third = install(store, "acme/a 1.0", "acme/a 2.0", "acme/a 3.0")
    planned = housekeeping(store).plan_cleanup(NOW)[0]
    assert housekeeping(store).collect(NOW) == planned
    assert [one.kind for one in planned] == ["garbage"]
    assert not directory(store, first).exists()
    assert directory(store, second).is_dir()
    assert directory(store, third).is_dir()
    assert housekeeping(store).collect(NOW) == [], "once is enough"


def test_a_plan_removes_nothing(store: Store) -> None:
    install(store, *(f"acme/a {version}.0" for version in range(1, 8)))
    interrupt(store, "acme/b 1.0")
    before = snapshot(store.directory)
    assert {one.kind for one in housekeeping(store).plan_cleanup(LATER, unfinished=True)[0]} >= {
        "generation",
        "garbage",
        "download",
    }
    assert snapshot(store.directory) == before


def test_generations_go_before_the_manifests_that_only_they_name(store: Store) -> None:
    actives = install(store, *(f"acme/a {version}.0" for version in range(1, 8)))
    found = housekeeping(store).collect(NOW)
    order = [one.kind for one in found]
    assert order.index("manifest") > order.index("generation")
    assert order.index("garbage") > order.index("manifest")
    assert [one.name for one in found if one.kind == "generation"] == [
        f"generations/{number}.json" for number in range(1, 5)
    ], "the oldest first"
    left = {path.name for path in (store.directory / "manifests").iterdir()}
    assert left == {active.digest for active in actives[3:]}


def test_what_was_staged_is_kept_for_a_week_since_its_last_byte(store: Store) -> None:
    staged = interrupt(store, "acme/a 1.0")
    assert housekeeping(store).collect(NOW) == []
    assert kinds(housekeeping(store).plan_cleanup(LATER)[0]) == [("download", "staging")]
    os.utime(staged, (LATER.timestamp(), LATER.timestamp()))
    assert housekeeping(store).plan_cleanup(LATER)[0] == []
    assert kinds(housekeeping(store).plan_cleanup(LATER, unfinished=True)[0]) == [
        ("download", "staging")
    ]
    housekeeping(store).collect(NOW, unfinished=True)
    assert not staged.exists()


def test_a_release_that_was_placed_but_never_active_is_kept_for_the_next_attempt(
    store: Store,
) -> None:
    active, *_ = bring(store, make_bundle("acme/a 1.0", FILES))
    assert housekeeping(store).collect(NOW) == []
    [resident] = housekeeping(store).residents(NOW)
    assert resident.kept is Kept.UNFINISHED
    assert (store.directory / "manifests" / active.digest).exists()
    assert [one.kind for one in housekeeping(store).collect(NOW, unfinished=True)] == [
        "manifest",
        "unfinished",
    ]
    assert not directory(store, active).exists()


def test_temporary_files_go_wherever_they_lie_and_nothing_else_does(store: Store) -> None:
    [active] = install(store, "acme/a 1.0")
    name = ".tmp-0123456789abcdef"
    for place in ("", "generations", "manifests", "staging", "index", "releases/acme/a"):
        (store.directory / place / name).write_text("half")
    (store.directory / "releases/.tmp-00000000000000ff").mkdir()
    (store.directory / "releases/.tmp-00000000000000ff/x").write_text("half")
    (store.directory / "releases/.tmp-of-mine").mkdir()  # not as ours are named
    inside = directory(store, active) / name  # a foreign file, which is not ours to remove
    inside.write_text("mine")
    mine = store.directory / "manifests/notes.txt"
    mine.write_text("mine")
    found = housekeeping(store).collect(NOW)
    assert {one.kind for one in found} == {"temporary"}
    assert len(found) == 7
    assert set(store.directory.rglob(".tmp-*")) == {
        inside, store.directory / "releases/.tmp-of-mine"
    }  # fmt: skip
    assert mine.read_text() == "mine"


def test_links_are_removed_and_never_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis").write_text("precious")
    for place in ("manifests/.tmp-" + "1" * 16, "staging/.tmp-" + "2" * 16, "staging/" + "a" * 64):
        (store.directory / place).symlink_to(tmp_path / "home")
    active, *_ = install(store, "acme/a 1.0", "acme/a 2.0", "acme/a 3.0")
    (directory(store, active) / "link").symlink_to(tmp_path / "home")
    housekeeping(store).collect(LATER, unfinished=True)
    assert not directory(store, active).exists()
    assert list((store.directory / "staging").iterdir()) == []
    assert (tmp_path / "home/thesis").read_text() == "precious"


def test_what_is_loaded_stays_with_its_manifest_until_it_is_not(store: Store) -> None:
    active, *_ = bring(store, make_bundle("acme/a 1.0", FILES))
    with store.lease(active):
        assert housekeeping(store).collect(NOW, unfinished=True) == []
        assert store.head(active.digest)
    assert len(housekeeping(store).collect(NOW, unfinished=True)) == 2


def test_interrupted_while_removing_a_release_the_next_one_finishes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    active, *_ = install(store, "acme/a 1.0", "acme/a 2.0", "acme/a 3.0")

    def die(path: Path) -> None:
        next(path.iterdir()).unlink() if not (path / "pkg").exists() else (path / "v").unlink()
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", die)
        with pytest.raises(InterruptedError):
            housekeeping(store).collect(NOW)
    assert not directory(store, active).exists(), "never there in part"
    assert [one.kind for one in housekeeping(store).collect(NOW)] == ["temporary"]
    assert list((store.directory / "staging").iterdir()) == []
    assert housekeeping(store).collect(NOW) == []


def test_control_removing_in_place_would_leave_a_release_in_part(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    active, *_ = install(store, "acme/a 1.0")
    place = directory(store, active)
    (place / "v").unlink()  # what an interrupted rmtree leaves
    assert store.has(active)
    assert store.visible_faults(active, store.head(active.digest).manifest, "")
    shutil.rmtree(place)
    assert not store.has(active)


def test_empty_directories_of_plugins_and_publishers_go_too(store: Store) -> None:
    [active] = install(store, "acme/a 1.0")
    housekeeping(store).evict(housekeeping(store).residents(NOW))
    assert list((store.directory / "releases").iterdir()) == []
    assert store.current().active[active.release.plugin] == active


def test_of_damaged_records_no_release_and_no_manifest_is_garbage(store: Store) -> None:
    install(store, "acme/a 1.0", "acme/a 2.0", "acme/a 3.0")
    (store.directory / "generations/2.json").write_bytes(b"x")
    assert housekeeping(store).collect(NOW) == []
    store.mend_generations()
    assert len(housekeeping(store).residents(NOW)) == 3


def test_disk_bytes_counts_blocks_and_follows_no_link(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    base = disk_bytes(top)
    (top / "full").write_bytes(b"x" * 10_000)
    with (top / "holes").open("wb") as file:
        file.truncate(10_000_000)
    (top / "link").symlink_to("/usr")
    assert 10_000 <= disk_bytes(top) - base <= 40_000
    assert disk_bytes(tmp_path / "nothing") == 0


@pytest.mark.parametrize("which", ["active", "previous"])
def test_a_lost_manifest_makes_nothing_garbage(store: Store, which: str) -> None:
    previous, active = install(store, "acme/a 1.0", "acme/a 2.0")
    lost = active if which == "active" else previous
    (store.directory / "manifests" / lost.digest).unlink()
    assert all(
        one.kind == "temporary" for one in housekeeping(store).collect(LATER, unfinished=True)
    )
    assert directory(store, active).exists()
    assert directory(store, previous).exists()


def test_what_cannot_be_removed_keeps_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f".tmp-{number:016}" for number in range(3)]
    for name in names:
        (store.directory / "manifests" / name).write_text("half")
    unlink = Path.unlink

    def stuck(path: Path, missing_ok: bool = False) -> None:
        if path.name == names[1]:
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stuck)
        with pytest.raises(OSError, match="busy"):
            housekeeping(store).collect(NOW)
    left = sorted(path.name for path in (store.directory / "manifests").glob(".tmp-*"))
    assert left == [names[1]]
