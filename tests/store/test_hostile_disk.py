"""Somebody else plants things in the store: nothing is followed, waited for, lost or believed."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plugin_manager.errors import CorruptError, LockedError, NoSpaceError
from plugin_manager.store import Store
from tests.bundles import make_bundle
from tests.store.test_store import FILES, activate, bring, tree
from tests.world import snapshot

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Somebody's files, outside the store."""
    home = tmp_path / "home"
    (home / "docs").mkdir(parents=True)
    (home / ".profile").write_text("precious")
    (home / "docs/thesis").write_text("more precious")
    return home


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def plant(path: Path, home: Path, what: str) -> None:
    """Put `what` at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match what:
        case "link to a directory":
            path.symlink_to(home)
        case "link to a file":
            path.symlink_to(home / ".profile")
        case "link to itself":
            path.symlink_to(path)
        case "hard link":
            os.link(home / ".profile", path)
        case "FIFO":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
            (path / "x").write_text("x")
        case "file":
            path.write_text("x")


ODD = ["link to a directory", "link to a file", "link to itself", "FIFO", "file"]


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize(
    "where",
    ["staging", "releases", "releases/acme", "manifests", "generations", "release", "stage"],
)
def test_what_is_no_directory_is_set_aside_and_nothing_outside_changes(
    store: Store, home: Path, where: str, what: str
) -> None:
    bundle = make_bundle("acme/maps 1.0", FILES)
    release = store.release_directory(bundle.head.manifest.release, bundle.head.digest)
    named = {"release": release, "stage": store.directory / "staging" / bundle.head.digest}
    with store.writing():
        pass
    path = named.get(where, store.directory / where)
    if path.is_dir():
        path.rmdir()
    plant(path, home, what)
    before = snapshot(home)
    with store.writing():
        active, *_ = bring(store, bundle)
        activate(store, active)
    assert snapshot(home) == before
    assert tree(store.release_directory(active.release, active.digest)) == FILES
    assert (
        store.release_directory(active.release, active.digest)
        .resolve()
        .is_relative_to(store.directory.resolve())
    )


@pytest.mark.parametrize("what", ["link to a file", "hard link", "FIFO", "directory"])
@pytest.mark.parametrize("file", ["pkg/empty.txt", "pkg/__init__.py", "model.bin"])
def test_a_staged_file_that_is_somebody_elses_is_replaced_not_written_to(
    store: Store, home: Path, file: str, what: str
) -> None:
    bundle = make_bundle("acme/maps 1.0", FILES)
    plant(store.directory / "staging" / bundle.head.digest / file, home, what)
    before = snapshot(home)
    with store.writing():
        active, *_ = bring(store, bundle)
    assert snapshot(home) == before
    assert tree(store.release_directory(active.release, active.digest)) == FILES


@pytest.mark.parametrize("what", ["link to a file", "FIFO", "directory", "hard link"])
def test_the_holders_name_is_written_to_a_file_of_our_own(
    store: Store, home: Path, what: str
) -> None:
    plant(store.directory / "lock-holder", home, what)
    before = snapshot(home)
    with store.writing():
        pass
    with store.writing():  # and the lock is free again
        pass
    assert snapshot(home) == before


@pytest.mark.parametrize("what", [*ODD, "directory"])
@pytest.mark.parametrize("victim", ["current", "generations/1.json"])
def test_an_odd_record_is_corrupt_for_readers_and_mended_by_recovery(
    store: Store, home: Path, victim: str, what: str
) -> None:
    with store.writing():
        active, *_ = bring(store, make_bundle("acme/maps 1.0", FILES))
        activate(store, active)
    path = store.directory / victim
    path.unlink()
    plant(path, home, what)
    with pytest.raises(CorruptError):
        store.current() if victim == "current" else store.generation(1)
    with store.writing():
        assert (store.recover_current(NOW) is None) == (victim != "current")
        assert store.mend_generations() == ([] if victim == "current" else [victim])
    assert list(store.current().active.values()) == [active]
    assert store.generation(1) == store.current()


@pytest.mark.parametrize("what", ODD)
def test_an_odd_manifest_is_corrupt_and_can_be_kept_anew(
    store: Store, home: Path, what: str
) -> None:
    bundle = make_bundle("acme/maps 1.0", FILES)
    with store.writing():
        active, *_ = bring(store, bundle)
        path = store.directory / "manifests" / active.digest
        path.unlink()
        plant(path, home, what)
        with pytest.raises(CorruptError):
            store.head(active.digest)
        store.keep_heads([bundle.head_bytes])
        assert store.head(active.digest).digest == active.digest


def test_all_records_lost_is_no_empty_store(store: Store) -> None:
    with store.writing():
        active, *_ = bring(store, make_bundle("acme/maps 1.0", FILES))
        activate(store, active)
    (store.directory / "current").unlink()
    (store.directory / "generations/1.json").unlink()
    with pytest.raises(CorruptError):
        store.current()
    with store.writing():
        store.recover_current(NOW)
    assert list(store.current().active.values()) == [active]


@pytest.mark.parametrize("name", ["9" * 15, "9" * 17, "9" * 240, "007", "1" + "0" * 14, "²"])
def test_a_dropped_in_generation_does_not_confuse_recovery(store: Store, name: str) -> None:
    with store.writing():
        active, *_ = bring(store, make_bundle("acme/maps 1.0", FILES))
        activate(store, active)
        (store.directory / "generations" / f"{name}.json").write_text("x")
        (store.directory / "current").write_text("x")
        store.recover_current(NOW)
        activate(store, active)
    assert list(store.current().active.values()) == [active]
    assert store.damaged_generations() == []


def test_damaged_history_is_named_and_can_be_set_aside(store: Store) -> None:
    with store.writing():
        for version in ("1.0", "1.1", "1.2"):
            active, *_ = bring(store, make_bundle(f"acme/maps {version}", FILES))
            activate(store, active)
        (store.directory / "generations/2.json").write_bytes(b"{}")
        assert store.damaged_generations() == ["generations/2.json"]
        assert store.mend_generations() == ["generations/2.json"]
        assert store.damaged_generations() == []
    assert [generation.number for generation in store.history()] == [3, 1]


def test_a_second_writer_in_the_same_thread_is_told(store: Store) -> None:
    with (
        store.writing(),
        pytest.raises(LockedError),
        Store(store.directory).writing(timeout_seconds=0.1),
    ):
        pass


def test_a_forked_child_takes_the_lock_for_itself(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from plugin_manager.store import Store
store = Store(Path(sys.argv[1]))
with store.writing():
    pass
child = os.fork()
if child == 0:
    with store.writing(timeout_seconds=5):
        os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_neither_keeps_the_lock_nor_loses_anything(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let us mount")
    try:
        store = Store(disk / "store")
        with store.writing():
            active, *_ = bring(store, make_bundle("acme/maps 1.0", {"a": b"a" * 1000}))
            activate(store, active)
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(2_000_000))
        big = make_bundle("acme/maps 1.1", FILES)
        with pytest.raises(NoSpaceError), store.writing():
            bring(store, big)
        filler.unlink()
        assert list(store.current().active.values()) == [active]
        with Store(disk / "store").writing(timeout_seconds=1):
            active, *_ = bring(store, big)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
