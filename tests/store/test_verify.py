"""What is handed out is what was signed; what is not as it was signed is named."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugin_manager.errors import CorruptError, StoreAccessError
from plugin_manager.manifest import Manifest
from plugin_manager.store import (
    Damage,
    _chunks,
    _threads,
    copy_verified,
    foreign_files,
    map_verified,
    open_verified,
    read_verified,
    release_faults,
    use_verified,
)
from plugin_manager.store._verify import damaged_chunks
from tests.bundles import CHUNK_BYTES, make_bundle

BYTECODE = "pkg/__pycache__/__init__.cpython-311.pyc"
FILES = {
    "pkg/__init__.py": b"VALUE = 1\n",
    "pkg/empty.txt": b"",
    "bin/run": b"#!/bin/sh\n",
    "model.bin": bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"tail",
    BYTECODE: b"bytecode",
}
MANIFEST: Manifest = make_bundle(
    "acme/maps 2.1", FILES, executable=frozenset({"bin/run"}), tags={BYTECODE: "cp311"}
).head.manifest

# A directory is laid out anew for each example, so that sharing the fixture's is no danger.
each_example = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def lay_out(directory: Path) -> Path:
    for path, content in FILES.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).unlink(missing_ok=True)
        (directory / path).write_bytes(content)
        (directory / path).chmod(0o755 if path == "bin/run" else 0o644)
    return directory


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return lay_out(tmp_path / "release")


def faults(tree: Path) -> dict[str, Damage]:
    found = release_faults(tree, MANIFEST, MANIFEST.files)
    return {fault.path: fault.damage for fault in [*foreign_files(tree, MANIFEST), *found]}


def read(tree: Path, path: str) -> bytes:
    return read_verified(tree, MANIFEST, MANIFEST.file(path))


def test_an_untouched_release_is_without_fault_and_reads_as_it_was_signed(tree):
    assert faults(tree) == {}
    for path, content in FILES.items():
        assert read(tree, path) == content


def test_every_file_is_reported_as_hashed_with_its_size(tree):
    sizes: list[int] = []
    release_faults(tree, MANIFEST, MANIFEST.files, hashed=sizes.append)
    assert sorted(sizes) == sorted(map(len, FILES.values()))


@each_example
@given(path=st.sampled_from([path for path in FILES if FILES[path]]), data=st.data())
def test_any_changed_byte_of_any_file_is_found_and_refused(tmp_path, path, data):
    tree = lay_out(tmp_path / "release")
    content = bytearray(FILES[path])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (tree / path).write_bytes(content)
    assert faults(tree) == {path: Damage.DAMAGED}
    with pytest.raises(CorruptError, match=path) as caught:
        read(tree, path)
    assert caught.value.paths == (path,)
    assert "pluginctl repair acme/maps" in caught.value.remedy


def test_control_without_the_digests_a_changed_byte_would_pass(tree, monkeypatch):
    class Blind:
        """A hash for which all content is alike: every digest is the signed one."""

        def __init__(self, data: object) -> None:
            self.length = len(memoryview(data))

        def digest(self) -> bytes:
            return next(
                chunk.digest
                for chunk in MANIFEST.chunks(MANIFEST.file("pkg/__init__.py"))
                if chunk.length == self.length
            )

    content = FILES["pkg/__init__.py"].replace(b"1", b"2")
    (tree / "pkg/__init__.py").write_bytes(content)
    monkeypatch.setattr(_chunks, "blake3", Blind)
    assert read(tree, "pkg/__init__.py") == content


def as_missing(path: Path) -> None:
    path.unlink()


def as_truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def as_grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def as_symbolic_link_to_equal_content(path: Path) -> None:
    path.rename(path.with_name("original"))
    path.symlink_to("original")


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "damage"),
    [
        (as_missing, Damage.MISSING),
        (as_truncated, Damage.DAMAGED),
        (as_grown, Damage.DAMAGED),
        (as_symbolic_link_to_equal_content, Damage.DAMAGED),
        (as_directory, Damage.DAMAGED),
        (as_pipe, Damage.DAMAGED),  # and nothing waits for a writer
    ],
)
@pytest.mark.parametrize("path", ["pkg/__init__.py", "model.bin"])
def test_a_file_that_is_not_the_signed_regular_file_is_found_and_refused(
    tree, path, change, damage
):
    change(tree / path)
    assert faults(tree)[path] == damage
    with pytest.raises(CorruptError, match=f"{path} is {damage}"):
        read(tree, path)


def test_a_file_whose_execute_permission_changed_is_damaged(tree):
    (tree / "bin/run").chmod(0o644)
    (tree / "pkg/__init__.py").chmod(0o755)
    assert faults(tree) == {"bin/run": Damage.DAMAGED, "pkg/__init__.py": Damage.DAMAGED}


def test_a_file_made_for_one_interpreter_may_be_absent_but_not_wrong(tree):
    (tree / BYTECODE).unlink()
    assert faults(tree) == {}
    (tree / BYTECODE).write_bytes(b"BYTECODE")
    assert faults(tree) == {BYTECODE: Damage.DAMAGED}


def test_only_the_chunks_that_differ_are_damaged(tree):
    file = MANIFEST.file("model.bin")
    content = bytearray(FILES["model.bin"])
    content[CHUNK_BYTES] ^= 1
    content[-1] ^= 1
    (tree / "model.bin").write_bytes(content)
    chunks = MANIFEST.chunks(file)
    assert list(damaged_chunks(tree / "model.bin", MANIFEST, file)) == [chunks[1], chunks[3]]
    (tree / "model.bin").unlink()
    assert list(damaged_chunks(tree / "model.bin", MANIFEST, file)) == chunks


@pytest.mark.parametrize(
    "path",
    [
        "evil.py",
        "pkg/evil.py",
        "pkg/__pycache__/evil.cpython-311.pyc",
        "evil.pth",
        "pkg/sub/evil.py",
    ],
)
def test_a_file_that_was_dropped_in_is_foreign(tree, path):
    (tree / path).parent.mkdir(exist_ok=True)
    (tree / path).write_bytes(b"")
    expected = "pkg/sub" if "sub" in path else path
    assert faults(tree) == {expected: Damage.FOREIGN}


def test_a_link_in_a_directorys_place_is_foreign_and_not_followed(tree, tmp_path):
    (tree / "pkg").rename(tmp_path / "elsewhere")
    (tree / "pkg").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "evil.py").write_bytes(b"")
    assert faults(tree) == {"pkg": Damage.FOREIGN}


def test_what_is_handed_out_is_what_was_hashed_even_if_the_file_changes_meanwhile(
    tree, monkeypatch
):
    path, signed = tree / "model.bin", FILES["model.bin"]
    real = _chunks.blake3

    def racing(data: object) -> object:
        path.write_bytes(b"\0" * len(signed))  # after the read, before the judgement
        return real(data)

    monkeypatch.setattr(_chunks, "blake3", racing)
    assert read(tree, "model.bin") == signed
    assert path.read_bytes() != signed


# --- what is no damage --------------------------------------------------------------------------


def by_copying(tree: Path, path: str) -> None:
    target = os.memfd_create("copy") if hasattr(os, "memfd_create") else os.open(os.devnull, 1)
    try:
        copy_verified(tree, MANIFEST, MANIFEST.file(path), target)
    finally:
        os.close(target)


def by_faults(tree: Path, path: str) -> None:
    if found := release_faults(tree, MANIFEST, [MANIFEST.file(path)]):
        raise CorruptError(str(found[0]), paths=(found[0].path,))


def by_stream(tree: Path, path: str) -> None:
    with open_verified(tree, MANIFEST, MANIFEST.file(path)) as stream:
        stream.read()


def by_chunks(tree: Path, path: str) -> None:
    if damaged_chunks(tree / path, MANIFEST, MANIFEST.file(path)):
        raise CorruptError(path, paths=(path,))


READERS: dict[str, Callable[[Path, str], object]] = {
    "read": read,
    "use": lambda tree, path: use_verified(tree, MANIFEST, MANIFEST.file(path), bytes),
    "map": lambda tree, path: map_verified(tree, MANIFEST, MANIFEST.file(path)),
    "stream": by_stream,
    "copy": by_copying,
    "faults": by_faults,
    "chunks": by_chunks,
}
every_reader = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


@every_reader
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EMFILE, StoreAccessError),
        (errno.ENFILE, StoreAccessError),
        (errno.ENOMEM, StoreAccessError),
        (errno.ENOENT, CorruptError),
        (errno.ELOOP, CorruptError),
        (errno.EIO, CorruptError),
    ],
    ids=errno.errorcode.get,
)
def test_what_the_process_may_not_do_is_no_damage(tree, monkeypatch, reader, number, expected):
    reader(tree, "model.bin")

    def failing(path, *arguments):
        if str(path) == str(tree / "model.bin"):
            raise OSError(number, os.strerror(number))
        return real(path, *arguments)

    real = os.open
    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(expected, match=r"model\.bin"):
        reader(tree, "model.bin")


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o640, StoreAccessError), (0o040, CorruptError)], ids=["other", "none"]
)
def test_a_file_that_another_may_read_is_not_damaged(tree, monkeypatch, mode, expected):
    (tree / "model.bin").chmod(mode)

    def refusing(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(expected, match=r"model\.bin"):
        read(tree, "model.bin")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
@every_reader
@pytest.mark.parametrize("change", [as_truncated, as_directory, as_pipe])
def test_what_is_refused_leaves_no_descriptor_open(tree, reader, change):
    change(tree / "model.bin")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(CorruptError):
            reader(tree, "model.bin")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- files that are cut off, threads that cannot be had -----------------------------------------


def cutting(path: Path, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `path` be cut off as soon as its size was asked for so many times."""
    real, left = os.fstat, [calls]

    def fstat(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        if os.path.samestat(status, path.stat()):
            left[0] -= 1
            if not left[0]:
                os.truncate(path, 10)
        return status

    monkeypatch.setattr(os, "fstat", fstat)


def test_a_file_that_is_cut_off_before_it_is_mapped_is_damaged(tree, monkeypatch):
    cutting(tree / "model.bin", 2, monkeypatch)
    with pytest.raises(CorruptError, match=r"model\.bin is damaged"):
        map_verified(tree, MANIFEST, MANIFEST.file("model.bin"))
    assert (tree / "model.bin").stat().st_size == 10


def test_a_large_file_that_is_cut_off_before_it_is_hashed_in_memory_is_damaged(tmp_path):
    content = os.urandom(3_000_000)
    manifest = make_bundle("acme/maps 2.1", {"large.bin": content}).head.manifest
    (tmp_path / "large.bin").write_bytes(content)
    [file] = manifest.files
    with pytest.MonkeyPatch.context() as patch:
        # Whatever is in the page cache here: the judgement that it is, then it is cut off.
        patch.setattr(_chunks.Chunks, "are_cached", lambda *_: True)
        assert release_faults(tmp_path, manifest, [file]) == []
        cutting(tmp_path / "large.bin", 2, patch)
        [fault] = release_faults(tmp_path, manifest, [file])
    assert fault.damage == Damage.DAMAGED
    assert (tmp_path / "large.bin").stat().st_size == 10


def test_a_large_file_that_is_cut_off_while_it_is_read_is_damaged(tmp_path):
    content = bytes(3_000_000)  # what memory holds before anything was read into it
    manifest = make_bundle("acme/maps 2.1", {"large.bin": content}).head.manifest
    (tmp_path / "large.bin").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chunks.Chunks, "are_cached", lambda *_: False)
        assert release_faults(tmp_path, manifest, manifest.files) == []
        cutting(tmp_path / "large.bin", 2, patch)
        [fault] = release_faults(tmp_path, manifest, manifest.files)
    assert fault.damage == Damage.DAMAGED


def test_what_is_not_in_memory_is_read_before_it_is_mapped(tree, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_chunks.Chunks, "check", failing)
    for cached in (True, False):
        monkeypatch.setattr(_chunks.Chunks, "are_cached", lambda *_, cached=cached: cached)
        with nullcontext() if cached else pytest.raises(CorruptError, match=r"model\.bin"):
            map_verified(tree, MANIFEST, MANIFEST.file("model.bin"))


def test_where_threads_cannot_be_started_nothing_is_done_twice(monkeypatch):
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    real = threading.Thread.start
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(threading.Thread, "start", start)
    calls: list[int] = []
    busy = threading.Event()

    def work(number: int) -> int:
        if not number:
            busy.wait(60)  # so that the one thread comes to the others after they were done here
        calls.append(number)
        return number * number

    threads = _threads.Threads()
    results = [threads.submit(work, number) for number in range(4)]
    assert [result() for result in results[1:]] == [1, 4, 9]
    busy.set()
    assert results[0]() == 0
    assert threads._pool is not None
    threads._pool.shutdown()  # after all that it has queued
    threads.close()
    assert sorted(calls) == [0, 1, 2, 3]
    assert len(started) == 1


def test_a_call_that_failed_is_not_made_again():
    calls: list[int] = []

    def work(number: int) -> None:
        calls.append(number)
        raise ValueError("no")

    once = _threads.Once(partial(work, 1))
    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            once()
    assert calls == [1]
