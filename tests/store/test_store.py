"""The store: releases appear whole, generations switch atomically, bytes on disk are reused."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin_manager.errors import CorruptError, LockedError
from plugin_manager.store import Active, Damage, Store, read_verified
from tests.bundles import CHUNK_BYTES, HandMade, make_bundle, release

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


FILES = {
    "pkg/__init__.py": b"VALUE = 1\n",
    "pkg/empty.txt": b"",
    "bin/tool": b"#!/bin/sh\n",
    "model.bin": content(1, 10 * CHUNK_BYTES + 123),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def bring(store: Store, bundle: HandMade) -> tuple[Active, int, int]:
    """Install `bundle` without activating it: (active, bytes reused, frames fetched)."""
    head, fetched = bundle.head, 0
    store.keep_heads([bundle.head_bytes])
    with store.staging(head, head.manifest.files_for("cp311")) as staging:
        reused = staging.reuse()
        for index, start, stop in list(staging.spans()):
            staging.accept(index, memoryview(bundle.data)[start:stop])
            fetched += 1
        store.place([staging])
    return Active(head.manifest.release, head.digest), reused, fetched


def activate(store: Store, *actives: Active) -> None:
    store.activate({a.release.plugin: a for a in actives}, "test", NOW)


def tree(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_release_is_placed_with_exactly_its_files_and_read_only(store: Store) -> None:
    bundle = make_bundle("acme/maps 1.0", FILES, executable=frozenset({"bin/tool"}))
    with store.writing():
        active, reused, fetched = bring(store, bundle)
    directory = store.release_directory(active.release, active.digest)
    assert tree(directory) == FILES
    assert (directory / "bin/tool").stat().st_mode & 0o777 == 0o555
    assert (directory / "model.bin").stat().st_mode & 0o777 == 0o444
    assert reused == 0
    assert fetched == len(bundle.frames)
    assert store.faults(active, bundle.head.manifest, "cp311") == []
    assert list((store.directory / "staging").iterdir()) == []


def test_files_for_other_interpreters_are_not_installed(store: Store) -> None:
    files = {"a.py": b"x", "a.cpython-311.pyc": b"y", "a.cpython-399.pyc": b"z"}
    tags = {"a.cpython-311.pyc": "cp311", "a.cpython-399.pyc": "cp399"}
    with store.writing():
        active, *_ = bring(store, make_bundle("acme/maps 1.0", files, tags=tags))
    directory = store.release_directory(active.release, active.digest)
    assert sorted(tree(directory)) == ["a.cpython-311.pyc", "a.py"]


def test_an_interrupted_assembly_fetches_only_what_is_missing(store: Store) -> None:
    bundle = make_bundle("acme/maps 1.0", FILES)
    head = bundle.head
    with store.writing():
        store.keep_heads([bundle.head_bytes])
        with store.staging(head, head.manifest.files) as staging:
            staging.reuse()
            first, *rest = staging.spans()
            staging.accept(first[0], memoryview(bundle.data)[first[1] : first[2]])
        with store.staging(head, head.manifest.files) as staging:
            assert staging.reuse() > 0
            assert list(staging.spans()) == rest


def test_staged_bytes_that_do_not_hash_right_are_fetched_again(store: Store) -> None:
    bundle = make_bundle("acme/maps 1.0", FILES)
    head = bundle.head
    with store.writing():
        with store.staging(head, head.manifest.files) as staging:
            staging.reuse()
            for index, start, stop in list(staging.spans()):
                staging.accept(index, memoryview(bundle.data)[start:stop])
        staged = store.directory / "staging" / head.digest / "model.bin"
        data = bytearray(staged.read_bytes())
        data[5 * CHUNK_BYTES] ^= 1
        staged.write_bytes(data)
        (staged.parent / "foreign.py").write_text("evil")
        _, _, fetched = bring(store, bundle)
    assert fetched == 1
    assert tree(store.release_directory(head.manifest.release, head.digest)) == FILES


@pytest.mark.parametrize("trap", ["symlink", "hard link", "directory", "fifo"])
def test_nothing_in_staging_leads_writing_elsewhere(
    store: Store, tmp_path: Path, trap: str
) -> None:
    bundle = make_bundle("acme/maps 1.0", FILES)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    with store.writing():
        staged = store.directory / "staging" / bundle.head.digest / "model.bin"
        staged.parent.mkdir(parents=True)
        match trap:
            case "symlink":
                staged.symlink_to(victim)
            case "hard link":
                os.link(victim, staged)
            case "directory":
                staged.mkdir()
                (staged / "x").write_text("x")
            case "fifo":
                os.mkfifo(staged)
        (staged.parent / "pkg").symlink_to(tmp_path)
        active, *_ = bring(store, bundle)
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "__init__.py").exists()
    assert tree(store.release_directory(active.release, active.digest)) == FILES


def test_an_upgrade_fetches_only_changed_chunks_and_shares_equal_files(store: Store) -> None:
    old = make_bundle("acme/maps 1.0", FILES)
    changed = bytearray(FILES["model.bin"])
    changed[2 * CHUNK_BYTES : 2 * CHUNK_BYTES + 10] = b"0123456789"
    new = make_bundle("acme/maps 1.1", {**FILES, "model.bin": bytes(changed)})
    with store.writing():
        first, *_ = bring(store, old)
        activate(store, first)
        needed = store.needed(new.head, new.head.manifest.files)
        second, reused, fetched = bring(store, new)
        activate(store, second)
    assert fetched == 1
    assert reused == sum(map(len, FILES.values())) - CHUNK_BYTES
    assert needed.fetch_bytes == len(new.frames[0])
    assert needed.share_bytes == sum(map(len, FILES.values())) - len(changed)
    one, two = (store.release_directory(a.release, a.digest) for a in (first, second))
    assert tree(two)["model.bin"] == bytes(changed)
    assert tree(one) == FILES


def test_damaged_local_bytes_are_never_reused(store: Store) -> None:
    old, new = (make_bundle(f"acme/maps {v}", {**FILES, "v": v.encode()}) for v in ("1.0", "1.1"))
    with store.writing():
        first, *_ = bring(store, old)
        activate(store, first)
        path = store.release_directory(first.release, first.digest) / "model.bin"
        path.chmod(0o644)
        path.write_bytes(b"\0" * len(FILES["model.bin"]))
        second, *_ = bring(store, new)
    assert store.faults(second, new.head.manifest, "") == []
    assert [f.path for f in store.faults(first, old.head.manifest, "")] == ["model.bin"]


def test_a_frame_with_other_content_is_refused_and_nothing_is_written(store: Store) -> None:
    bundle = make_bundle("acme/maps 1.0", FILES)
    other = make_bundle(
        "acme/maps 1.0", {**FILES, "model.bin": content(2, len(FILES["model.bin"]))}
    )
    with store.writing(), store.staging(bundle.head, bundle.head.manifest.files) as staging:
        staging.reuse()
        spans = list(staging.spans())
        with pytest.raises(CorruptError):
            staging.accept(0, memoryview(other.frames[0]))
        assert list(staging.spans()) == spans


def test_repair_takes_only_the_damaged_chunks(store: Store) -> None:
    bundle = make_bundle("acme/maps 1.0", FILES)
    with store.writing():
        active, *_ = bring(store, bundle)
        activate(store, active)
        directory = store.release_directory(active.release, active.digest)
        data = bytearray(FILES["model.bin"])
        data[9 * CHUNK_BYTES] ^= 1
        (directory / "model.bin").unlink()
        (directory / "model.bin").write_bytes(data)
        (directory / "pkg/__init__.py").unlink()
        (directory / "pkg/foreign.py").write_text("x")
        faults = store.faults(active, bundle.head.manifest, "")
        assert {(f.path, f.damage) for f in faults} == {
            ("model.bin", Damage.DAMAGED),
            ("pkg/__init__.py", Damage.MISSING),
            ("pkg/foreign.py", Damage.FOREIGN),
        }
        files = [bundle.head.manifest.file(p) for p in ("model.bin", "pkg/__init__.py")]
        with store.staging(bundle.head, files) as staging:
            staging.reuse()
            spans = list(staging.spans())
            for index, start, stop in spans:
                staging.accept(index, memoryview(bundle.data)[start:stop])
            store.replace(staging)
    assert len(spans) < len(bundle.frames)
    assert [f.path for f in store.faults(active, bundle.head.manifest, "")] == ["pkg/foreign.py"]


def test_generations_are_immutable_and_current_switches(store: Store) -> None:
    with store.writing():
        assert store.current().number == 0
        first, *_ = bring(store, make_bundle("acme/maps 1.0", FILES))
        activate(store, first)
        second, *_ = bring(store, make_bundle("acme/maps 2.0", FILES))
        before = (store.directory / "generations/1.json").read_bytes()
        activate(store, second)
    assert (store.directory / "generations/1.json").read_bytes() == before
    assert store.current().active[release("acme/maps 1.0").plugin] == second
    assert [generation.number for generation in store.history()] == [2, 1]


def test_activating_a_release_without_its_manifest_is_refused(store: Store) -> None:
    with store.writing():
        active, *_ = bring(store, make_bundle("acme/maps 1.0", FILES))
        (store.directory / "manifests" / active.digest).unlink()
        with pytest.raises(CorruptError, match="manifest is missing"):
            activate(store, active)
    assert store.current().number == 0


@pytest.mark.parametrize("name", ["current", "generations/1.json"])
def test_every_flipped_bit_of_current_and_generation_is_refused(store: Store, name: str) -> None:
    with store.writing():
        active, *_ = bring(store, make_bundle("acme/maps 1.0", {"a": b"a"}))
        activate(store, active)
    path = store.directory / name
    good = path.read_bytes()
    for position in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            path.write_bytes(bad)
            fresh = Store(store.directory)
            with pytest.raises(CorruptError):
                fresh.current() if name == "current" else fresh.generation(1)
    path.write_bytes(good)
    assert Store(store.directory).current() == Store(store.directory).generation(1)


def test_a_truncated_or_empty_current_is_damaged_and_no_new_store(store: Store) -> None:
    with store.writing():
        active, *_ = bring(store, make_bundle("acme/maps 1.0", {"a": b"a"}))
        activate(store, active)
    good = (store.directory / "current").read_bytes()
    for length in range(len(good)):
        (store.directory / "current").write_bytes(good[:length])
        with pytest.raises(CorruptError):
            Store(store.directory).current()


def test_what_was_read_once_is_reused_only_while_current_is_the_same(store: Store) -> None:
    with store.writing():
        active, *_ = bring(store, make_bundle("acme/maps 1.0", {"a": b"a"}))
        activate(store, active)
        assert store.current() is store.current()
        Store(store.directory).activate({active.release.plugin: None}, "elsewhere", NOW)
    assert store.current().number == 2


@pytest.mark.parametrize("name", ["current", "generations/2.json"])
def test_one_damaged_copy_of_the_current_generation_loses_nothing(store: Store, name: str) -> None:
    with store.writing():
        for version in ("1.0", "2.0"):
            active, *_ = bring(store, make_bundle(f"acme/maps {version}", FILES))
            activate(store, active)
        before = store.current()
        (store.directory / name).write_bytes(b"{}")
        store.recover_current(NOW)
        store.mend_generations()
        assert store.recover_current(NOW) is None
        assert store.mend_generations() == []
    assert Store(store.directory).current() == before == store.generation(2)


def test_both_copies_damaged_go_back_to_the_newest_good_generation(store: Store) -> None:
    with store.writing():
        for version in ("1.0", "2.0"):
            active, *_ = bring(store, make_bundle(f"acme/maps {version}", FILES))
            activate(store, active)
        for name in ("current", "generations/2.json"):
            (store.directory / name).write_bytes(b"{}")
        recovered = store.recover_current(NOW)
        assert recovered is not None
    [active] = store.current().active.values()
    assert str(active.release) == "acme/maps 1.0"
    assert store.current().number == 3


def test_a_missing_current_is_an_error_not_an_empty_store(store: Store) -> None:
    with store.writing():
        active, *_ = bring(store, make_bundle("acme/maps 1.0", FILES))
        activate(store, active)
    (store.directory / "current").unlink()
    with pytest.raises(CorruptError, match="current is missing"):
        store.current()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_as_generation_are_refused_as_corrupt(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    with store.writing():
        (store.directory / "generations/1.json").write_bytes(data)
        with pytest.raises(CorruptError):
            store.generation(1)


def test_a_changed_manifest_is_refused(store: Store) -> None:
    with store.writing():
        active, *_ = bring(store, make_bundle("acme/maps 1.0", FILES))
    path = store.directory / "manifests" / active.digest
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(CorruptError, match="damaged"):
        store.head(active.digest)


def test_reading_verifies_the_bytes_that_it_returns(store: Store) -> None:
    bundle = make_bundle("acme/maps 1.0", FILES)
    with store.writing():
        active, *_ = bring(store, bundle)
    directory = store.release_directory(active.release, active.digest)
    file = bundle.head.manifest.file("model.bin")
    assert read_verified(directory, bundle.head.manifest, file) == FILES["model.bin"]
    (directory / "model.bin").unlink()
    (directory / "model.bin").symlink_to(directory / "pkg/__init__.py")
    with pytest.raises(CorruptError, match=r"model\.bin is damaged"):
        read_verified(directory, bundle.head.manifest, file)


def test_the_lock_names_its_holder_and_is_freed_by_a_kill(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from plugin_manager.store import Store
with Store(Path(sys.argv[1])).writing():
    print("held", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    told: list[str] = []
    with (
        pytest.raises(LockedError, match=f"process {holder.pid}"),
        Store(tmp_path).writing(timeout_seconds=0.2, waiting=told.append),
    ):
        pass
    assert told
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with Store(tmp_path).writing(timeout_seconds=5):
        pass


def test_readers_do_not_wait_for_the_writer(store: Store) -> None:
    with store.writing():
        found: list[int] = []
        thread = threading.Thread(
            target=lambda: found.append(Store(store.directory).current().number)
        )
        thread.start()
        thread.join(10)
        assert found == [0]
