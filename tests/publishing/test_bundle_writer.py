"""Bundles: valid archives, the same bytes for the same input, frames that suit upgrades."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager import bundle
from plugin_manager.errors import InvalidInputError
from plugin_manager.manifest import MAX_FRAME_BYTES, About, Manifest
from plugin_manager.model import BundlePath, PluginName, Release, parse_version
from plugin_manager.publishing import _bundle_writer
from plugin_manager.publishing._bundle_writer import Bundle, write_bundle
from plugin_manager.publishing._payload import Payload, PayloadFile

needs_tar = pytest.mark.skipif(
    not (shutil.which("tar") and shutil.which("zstd")), reason="tar and zstd are not installed"
)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def make_payload(
    directory: Path,
    files: Mapping[str, bytes],
    *,
    tags: Mapping[str, str] | None = None,
    version: str = "1.0",
) -> Payload:
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for number, (path, data) in enumerate(files.items()):
        source = directory / str(number)
        source.write_bytes(data)
        made.append(
            PayloadFile(BundlePath.parse(path), source, "bin/" in path, (tags or {}).get(path, ""))
        )
    release = Release(PluginName.parse("acme/maps"), parse_version(version))
    return Payload(release, About(summary="Maps."), tuple(made))


def write(payload: Payload, directory: Path, previous: Manifest | None = None) -> Bundle:
    directory.mkdir(parents=True, exist_ok=True)
    return write_bundle(payload, directory, previous=previous)


def files_of(built: Bundle) -> dict[str, bytes]:
    data = built.path.read_bytes()
    head = bundle.read_head(data[: built.head.length])
    manifest = head.manifest
    frames = [
        bundle.decode_frame(data[slice(*head.frame_span(index))], size)
        for index, size in enumerate(manifest.columns.frame_content_lengths)
    ]
    return {
        str(file.path): b"".join(
            frames[c.frame][c.frame_offset : c.frame_offset + c.length]
            for c in manifest.chunks(file)
        )
        for file in manifest.files
    }


FILES = {
    "empty": b"",
    "one": b"1",
    "bin/tool": b"#!/bin/sh\n",
    "text.txt": b"line\n" * 20_000,
    "big": noise(3_000_000),
    "long/" + "x" * 200 + "/" + "y" * 180: b"long names need PAX",
    "ünï/ćödé": b"names beyond ASCII, too",
    "exactly": bytes(512),
}


@needs_tar
def test_tar_lists_and_extracts_a_bundle(tmp_path: Path) -> None:
    built = write(make_payload(tmp_path / "in", FILES), tmp_path / "work")
    archive = tmp_path / "x.tar.zst"
    shutil.copy(built.path, archive)
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    listing = subprocess.run(
        ["tar", "--zstd", "--utc", "-tvf", archive],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert listing.stderr == ""
    assert len(listing.stdout.splitlines()) == len(FILES)
    assert all(" 0/0 " in line for line in listing.stdout.splitlines())
    assert all("1970-01-01 00:00" in line for line in listing.stdout.splitlines())
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", archive, "-C", out], check=True, env=environment)
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == FILES
    assert (out / "bin" / "tool").stat().st_mode & 0o777 == 0o755
    assert (out / "one").stat().st_mode & 0o777 == 0o644


def test_every_chunk_lies_where_the_manifest_says(tmp_path: Path) -> None:
    built = write(make_payload(tmp_path / "in", FILES), tmp_path / "work")
    assert files_of(built) == FILES
    assert built.length == built.head.bundle_length == built.path.stat().st_size


def test_the_same_input_in_another_order_gives_the_same_bytes(tmp_path: Path) -> None:
    one = write(make_payload(tmp_path / "1", FILES), tmp_path / "work1")
    turned = dict(reversed(FILES.items()))
    other = write(make_payload(tmp_path / "2", turned), tmp_path / "work2")
    assert one.path.read_bytes() == other.path.read_bytes()
    changed = write(make_payload(tmp_path / "3", {**FILES, "one": b"2"}), tmp_path / "work3")
    assert changed.digest != one.digest


def upgraded(tmp_path: Path, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Bundle:
    first = write(make_payload(tmp_path / "old", old), tmp_path / "work-old")
    payload = make_payload(tmp_path / "new", new, version="1.1")
    return write(payload, tmp_path / "work-new", first.head.manifest)


def test_what_changed_leads_and_an_upgrade_is_one_range(tmp_path: Path) -> None:
    old = {f"data/{number:03}": noise(30_000, number) for number in range(100)}
    new = {**old, "data/050": noise(30_000, 1000), "zz-new": noise(400_000, 1001)}
    built = upgraded(tmp_path, old, new)
    manifest = built.head.manifest
    assert [str(file.path) for file in manifest.files][:3] == ["data/050", "zz-new", "data/000"]
    known = set(write(make_payload(tmp_path / "o", old), tmp_path / "w").head.manifest.by_path)
    assert "data/050" in known
    needed = {
        chunk.frame
        for path in ("data/050", "zz-new")
        for chunk in manifest.chunks(manifest.file(path))
    }
    assert needed == set(range(max(needed) + 1))
    start, stop = built.head.frame_span(0)[0], built.head.frame_span(max(needed))[1]
    assert stop - start < 440_000
    assert built.new_chunk_count == sum(
        len(manifest.chunks(manifest.file(path))) for path in ("data/050", "zz-new")
    )


def frame_kinds(built: Bundle, known: set[bytes]) -> list[set[tuple[bool, str]]]:
    manifest = built.head.manifest
    kinds: list[set[tuple[bool, str]]] = [set() for _ in manifest.columns.frame_lengths]
    for file in manifest.files:
        for chunk in manifest.chunks(file):
            kinds[chunk.frame].add((chunk.digest not in known, file.tag))
    return kinds


sizes = st.integers(0, 1_600_000) | st.sampled_from(
    [0, 1, 511, 512, 513, 16 * 1024, 16 * 1024 + 1, MAX_FRAME_BYTES - 512, MAX_FRAME_BYTES]
)
trees = st.dictionaries(st.text("abc", min_size=1, max_size=2), sizes, max_size=8)


@given(old=trees, new=trees, seed=st.integers(0, 3), tagged=st.booleans())
def test_frames_are_bounded_and_never_mix(
    tmp_path_factory: pytest.TempPathFactory,
    old: dict[str, int],
    new: dict[str, int],
    seed: int,
    tagged: bool,
) -> None:
    tmp_path = tmp_path_factory.mktemp("frames")
    before = {name: noise(size, 1) for name, size in old.items()}
    # A file keeps its beginning and changes behind it, so old and new chunks meet in one file.
    after = {
        name: noise(size, 1)[: size // 2] + noise(size - size // 2, seed)
        for name, size in new.items()
    }
    first = write(make_payload(tmp_path / "old", before), tmp_path / "work-old")
    tags = dict.fromkeys(list(after)[::2], "cp311") if tagged else {}
    built = write(
        make_payload(tmp_path / "new", after, tags=tags), tmp_path / "work", first.head.manifest
    )
    assert files_of(built) == after
    column = first.head.manifest.columns.digests
    known = {column[at : at + 32] for at in range(0, len(column), 32)}
    assert all(len(kinds) <= 1 for kinds in frame_kinds(built, known))
    lengths = built.head.manifest.columns.frame_content_lengths
    assert all(0 < length <= MAX_FRAME_BYTES for length in lengths)


def test_control_without_the_previous_release_old_and_new_chunks_do_mix(tmp_path: Path) -> None:
    old = {"a": noise(20_000, 1), "b": noise(20_000, 2)}
    first = write(make_payload(tmp_path / "old", old), tmp_path / "work-old")
    column = first.head.manifest.columns.digests
    known = {column[at : at + 32] for at in range(0, len(column), 32)}
    new = make_payload(tmp_path / "new", {**old, "a": noise(20_000, 3)})
    assert any(len(kinds) > 1 for kinds in frame_kinds(write(new, tmp_path / "w1"), known))
    good = write(new, tmp_path / "w2", first.head.manifest)
    assert all(len(kinds) <= 1 for kinds in frame_kinds(good, known))


def test_chunk_sizes_go_by_file_size_and_are_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bundle_writer, "LARGE_FILE_BYTES", 1_000_000)
    old = {"grows": noise(900_000), "shrinks": noise(1_100_000)}
    new = {"grows": noise(1_100_000), "shrinks": noise(900_000), "fresh": noise(1_000_000)}
    first = write(make_payload(tmp_path / "old", old), tmp_path / "w0").head.manifest
    assert first.file("grows").chunking == (16 * 1024, 64 * 1024, 256 * 1024)
    assert first.file("shrinks").chunking == (64 * 1024, 256 * 1024, 1024 * 1024)
    built = upgraded(tmp_path, old, new).head.manifest
    for path in old:
        assert built.file(path).chunking == first.file(path).chunking
    assert built.file("fresh").chunking == (64 * 1024, 256 * 1024, 1024 * 1024)


def test_an_insertion_keeps_most_chunks(tmp_path: Path) -> None:
    data = noise(5_000_000)
    built = upgraded(tmp_path, {"model": data}, {"model": b"inserted" + data})
    assert built.new_chunk_count <= 3


def test_a_small_file_is_cut_as_the_chunker_would(tmp_path: Path) -> None:
    chunking = _bundle_writer.SMALL_CHUNKING
    for size in (1, chunking.least - 1, chunking.least):
        data = noise(size)
        (tmp_path / "f").write_bytes(data)
        with (tmp_path / "f").open("rb") as stream:
            ours = [(o, bytes(d)) for o, d in _bundle_writer._chunks(stream, size, chunking)]
        theirs = _bundle_writer._chunker(chunking).cut_buf(data)
        assert ours == [(chunk.offset, bytes(chunk.data)) for chunk in theirs]


def test_a_file_that_changes_while_it_is_published_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = make_payload(tmp_path / "in", {"a": b"before"})

    class ChangingPlan(_bundle_writer._Plan):
        def finish(self) -> None:
            super().finish()
            payload.files[0].source.write_bytes(b"after!")

    monkeypatch.setattr(_bundle_writer, "_Plan", ChangingPlan)
    with pytest.raises(InvalidInputError, match="changed while it was being published"):
        write(payload, tmp_path / "work")


def test_without_the_chunker_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyfastcdc", None)
    with pytest.raises(InvalidInputError) as caught:
        write(make_payload(tmp_path / "in", {"a": noise(100_000)}), tmp_path / "work")
    assert "plugin-manager[publisher]" in caught.value.remedy


def test_no_manifest_is_written_that_no_client_can_read(tmp_path: Path) -> None:
    payload = evolve(make_payload(tmp_path / "in", {"a": b"x"}), about=About(summary="x" * 20_000))
    with pytest.raises(InvalidInputError, match="about"):
        write(payload, tmp_path / "work")


PROGRAM = """
import resource, sys
from pathlib import Path
from tests.publishing.test_bundle_writer import make_payload, write
directory = Path(sys.argv[1])
payload = make_payload(directory / "in", {"small": b"x"})
write(payload, directory / "warm-up")
with (directory / "in" / "0").open("wb") as file:
    for seed in range(40):
        file.write(__import__("random").Random(seed).randbytes(1_000_000))
        file.write(bytes(4_000_000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
built = write(payload, directory / "work")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(built.head.manifest.content_length, after - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_a_large_file_is_never_whole_in_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    size, grown_kib = map(int, done.stdout.split())
    assert size == 200_000_000
    assert grown_kib * 1024 < 60_000_000
