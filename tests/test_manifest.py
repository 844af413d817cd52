"""The manifest: what is written is read again, and nothing malformed gets in."""

import contextlib
import struct
import sys
import tracemalloc
from array import array

import msgpack
import pytest
from attrs import asdict
from hypothesis import example, given
from hypothesis import strategies as st

from plugin_manager import manifest as manifest_module
from plugin_manager.errors import InvalidInputError, NotFoundError
from plugin_manager.manifest import Manifest, parse, path_collisions, render
from plugin_manager.model import BundlePath
from tests.bundles import CHUNK_BYTES, make_bundle
from tests.strategies import bundle_paths, manifests, plain_documents

FILES = {
    "pkg/__init__.py": b"x" * 10,
    "pkg/data.bin": b"y" * (2 * CHUNK_BYTES + 1),
    "bin/run": b"#!/bin/sh\n",
    "empty": b"",
    "pkg/__pycache__/__init__.cpython-311.pyc": b"z" * 20,
}


def sample() -> Manifest:
    return make_bundle(
        "acme/maps 2.1",
        FILES,
        executable=frozenset({"bin/run"}),
        tags={"pkg/__pycache__/__init__.cpython-311.pyc": "cp311"},
        requires=("acme/base>=1",),
    ).head.manifest


def document_of(manifest: Manifest) -> dict:
    return msgpack.unpackb(render(manifest))


def faults_of(document: object) -> tuple[str, ...]:
    with pytest.raises(InvalidInputError) as caught:
        parse(msgpack.packb(document), "manifests/abc")
    assert caught.value.message.startswith("manifests/abc: ")
    return caught.value.faults


# --- round trip --------------------------------------------------------------------------------


@given(manifests())
def test_a_manifest_is_the_same_after_writing_and_reading(manifest):
    data = render(manifest)
    again = parse(data)
    for name in ("release", "about", "needs", "python", "files"):
        assert getattr(again, name) == getattr(manifest, name)
    assert sorted(again.entry_points) == sorted(manifest.entry_points)
    assert set(again.requirements) == set(manifest.requirements)
    assert asdict(again.columns) == asdict(manifest.columns)
    assert render(again) == data


def test_equal_manifests_are_written_alike_whatever_the_order_of_their_sets():
    one = sample()
    other = sample()
    other.requirements = tuple(reversed(one.requirements))
    other.entry_points = tuple(reversed(one.entry_points))
    assert render(one) == render(other)


def test_columns_are_little_endian_on_every_machine(monkeypatch):
    monkeypatch.setattr(sys, "byteorder", "big")  # the values are then swapped, both ways
    swapped = array("I", [1])
    swapped.byteswap()
    assert manifest_module._column([1]) == swapped.tobytes()
    assert asdict(parse(render(sample())).columns) == asdict(sample().columns)


def test_a_manifest_knows_the_place_and_digest_of_every_chunk():
    manifest = sample()
    chunks = manifest.chunks(manifest.file("pkg/data.bin"))
    assert [(chunk.offset, chunk.length) for chunk in chunks] == [
        (0, CHUNK_BYTES),
        (CHUNK_BYTES, CHUNK_BYTES),
        (2 * CHUNK_BYTES, 1),
    ]
    assert [(chunk.frame, chunk.frame_offset) for chunk in chunks] == [
        (0, 10),
        (0, 10 + CHUNK_BYTES),
        (0, 10 + 2 * CHUNK_BYTES),
    ]
    assert manifest.chunks(manifest.file("empty")) == []
    assert manifest.content_length == sum(map(len, FILES.values()))
    assert manifest.frames_length == sum(manifest.columns.frame_lengths)


def test_equal_content_has_equal_keys_and_other_content_has_not():
    manifest = make_bundle(
        "a/b 1", {"one": b"x" * 9999, "two": b"x" * 9999, "three": b"y"}
    ).head.manifest
    one, two, three = manifest.files
    assert manifest.content_key(one) == manifest.content_key(two) != manifest.content_key(three)


def test_only_files_without_a_tag_or_with_the_hosts_are_for_a_host():
    manifest = sample()
    assert len(manifest.files_for("cp311")) == len(FILES)
    assert [file.path for file in manifest.files_for("cp312")] == list(FILES)[:-1]


def test_a_file_that_is_not_there_is_not_found():
    with pytest.raises(NotFoundError, match="no file 'absent'"):
        sample().file("absent")


# --- malformed ---------------------------------------------------------------------------------


def u32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


BREAKAGES = {
    "another format": ({"format": 2}, "format: this program reads format 1 only"),
    "no plugin": ({"plugin": None}, "plugin: must be text"),
    "a bad name": ({"plugin": "../x"}, "plugin: "),
    "a bad version": ({"version": "one"}, "version: "),
    "a bad platform": ({"platform": "x"}, "platform: "),
    "about that is no table": ({"about": 1}, "about: must be a table"),
    "a summary that is no text": ({"about": {"summary": 1}}, "about.summary: must be text"),
    "a bad requirement": ({"requires": {"plugins": ["x"]}}, "requires.plugins[0]: "),
    "negative memory": ({"requires": {"memory_bytes": -1}}, "requires.memory_bytes: "),
    "a bad entry point": ({"entry_points": {"g": {"n": "a b"}}}, "entry_points.g.n: "),
    "a root outside": ({"python": {"root": ".."}}, "python.root: "),
    "chunkings that are no list": ({"chunkings": 1}, "chunkings: must be a list"),
    "a chunking that shrinks": ({"chunkings": [[3, 2, 1]]}, "chunkings[0]: "),
    "a chunking of nothing": ({"chunkings": [[0, 2, 3]]}, "chunkings[0]: "),
    "a missing file table": ({"files": None}, "files: must be a table"),
    "a path outside": ({"files.paths": ["../x", "a", "b", "c", "d"]}, "files.paths[0]: "),
    "colliding paths": ({"files.paths": ["a", "A", "b", "c", "d"]}, "files.paths[1]: "),
    "fewer paths": ({"files.paths": ["a"]}, "files.paths: columns of files differ"),
    "a strange mode": ({"files.executable": b"\2\0\0\0\0"}, "files.executable: "),
    "a tag that is not there": ({"files.tag": b"\2\0\0\0\0"}, "files.tag: "),
    "an empty tag": ({"files.tags": [""]}, "files.tags: "),
    "a chunking that is not there": ({"files.chunkings": b"\7\0\0\0\0"}, "files.chunkings: "),
    "too many chunks": ({"files.chunk_counts": u32(9, 3, 1, 0, 1)}, "files.chunk_counts: "),
    "half a number": ({"files.chunk_counts": b"123"}, "files.chunk_counts: is not a column"),
    "half a digest": ({"chunks.digests": b"x" * 33}, "chunks.digests: "),
    "fewer offsets": ({"chunks.offsets": b""}, "chunks.frames: columns of chunks differ"),
    "a frame that is not there": ({"chunks.frames": u32(0, 0, 0, 0, 9, 0)}, "chunks.lengths: "),
    "a chunk beyond its frame": (
        {"chunks.offsets": u32(0, 0, 0, 2**32 - 1, 0, 0)},
        "chunks.lengths: ",
    ),
    "an empty chunk": ({"chunks.lengths": u32(10, 0, 1, 1, 1, 1)}, "chunks.lengths: "),
    "no frames": ({"frames": {"lengths": b"", "content_lengths": b""}}, "chunks.lengths: "),
    "an empty frame": ({"frames.lengths": u32(0)}, "frames.lengths[0]: "),
    "a frame of nothing": ({"frames.content_lengths": u32(0)}, "frames.content_lengths[0]: "),
    "a huge frame": ({"frames.content_lengths": u32(2**20 + 1)}, "frames.content_lengths[0]: "),
    "a frame that grows": (
        {"frames.lengths": u32(2**31)},
        "frames.lengths[0]: cannot be the length",
    ),
    "unequal frames": ({"frames.lengths": u32(1, 1)}, "frames.lengths: columns of frames differ"),
}


@pytest.mark.parametrize(("change", "fault"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_malformed_manifest_is_refused_at_its_place(change, fault):
    document = document_of(sample())
    for key, value in change.items():
        *tables, last = key.split(".")
        inner = document
        for table in tables:
            inner = inner[table]
        inner[last] = value
    assert any(found.startswith(fault) for found in faults_of(document)), faults_of(document)


@pytest.mark.parametrize(
    ("unit", "count"),
    [(b"\x80", 10), (b"\x90", 10), (b"\xa1a", 40), (b"\xc0", 40)],
    ids=["tables", "lists", "texts", "nothings"],
)
def test_a_manifest_of_more_items_than_files_and_some_is_refused(monkeypatch, unit, count):
    monkeypatch.setattr(manifest_module, "MAX_ITEMS", 30)
    for value in (b"\xdc\0" + bytes([count]) + unit * count, b"\x91" * 5 + b"\x9a" + unit * 10):
        with pytest.raises(InvalidInputError, match="holds more than 30 items"):
            parse(b"\x82\xa1x" + value + b"\xa1y" + value)


def test_small_bytes_never_become_many_objects():
    tables = struct.pack(">BI", 0xDD, 1_000_000) + b"\x80" * 1_000_000
    tracemalloc.start()
    try:
        for value in (tables, b"\x92" + tables * 2):
            with pytest.raises(InvalidInputError, match="is not msgpack"):
                parse(b"\x82\xa1x" + value + b"\xa1y" + value)
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value",
    [
        msgpack.Timestamp(1, 2),
        msgpack.ExtType(5, b"x"),
        "x" * 400_001,
        dict.fromkeys(map(str, range(1_100_001))),
    ],
    ids=["timestamp", "extension", "text", "table"],
)
def test_values_that_no_manifest_needs_are_refused_where_they_are_unpacked(value):
    with pytest.raises(InvalidInputError, match="is not msgpack"):
        parse(msgpack.packb(document_of(sample()) | {"later": value}))


def test_a_manifest_beyond_the_bound_is_refused_unread(monkeypatch):
    monkeypatch.setattr(manifest_module, "MAX_MANIFEST_BYTES", 1000)
    with pytest.raises(InvalidInputError, match="larger than 1000 bytes"):
        parse(b"\xc1" * 1001)


def test_control_the_unbroken_document_is_accepted():
    assert parse(msgpack.packb(document_of(sample()))).release == sample().release


def test_keys_that_a_later_format_may_add_are_ignored():
    document = document_of(sample())
    document["later"] = document["files"]["later"] = {"x": 1}
    assert parse(msgpack.packb(document)).files == sample().files


def test_faults_of_all_parts_are_reported_at_once():
    document = document_of(sample())
    document["plugin"], document["about"]["license"] = "x", 3
    document["requires"]["python"] = "3"
    places = [fault.partition(":")[0] for fault in faults_of(document)]
    assert sorted(places) == ["about.license", "plugin", "requires.python"]


@given(st.binary())
@example(b"\xc1")
@example(b"\x93" * 2000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xd6\xff\xff\xff\xff\xff")
def test_arbitrary_bytes_are_refused_as_invalid_input(data):
    with pytest.raises(InvalidInputError):
        parse(data)


_ODD = plain_documents | st.binary(max_size=64)


@given(st.data())
def test_a_manifest_with_anything_changed_is_read_or_refused_as_invalid_input(data):
    document = document_of(sample())
    for _ in range(data.draw(st.integers(1, 3))):
        inner = document
        while True:
            key = data.draw(st.sampled_from(sorted(inner)))
            if not isinstance(inner[key], dict) or not inner[key] or data.draw(st.booleans()):
                break
            inner = inner[key]
        if data.draw(st.booleans()):
            inner[key] = data.draw(_ODD)
        else:
            del inner[key]
        if not inner:
            break
    with contextlib.suppress(InvalidInputError):
        manifest = parse(msgpack.packb(document))
        for file in manifest.files:
            assert sum(chunk.length for chunk in manifest.chunks(file)) == file.size


# --- collisions --------------------------------------------------------------------------------


def paths(*texts: str) -> list[BundlePath]:
    return [BundlePath.parse(text) for text in texts]


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("a", "a", "collides with 'a'"),
        ("README", "readme", "collides with 'README'"),
        ("dir/x", "Dir/y", "collides with 'dir'"),
        ("a/b/x", "a/B/y", "collides with 'a/b'"),
        ("a", "a/b", "needs a directory where 'a' is a file"),
        ("A", "a/b", "needs a directory where 'A' is a file"),
        ("a/b", "a", "collides with 'a'"),
        ("a/b", "A", "collides with 'a'"),
        ("stra\u00dfe/x", "strasse/y", "collides with 'stra\u00dfe'"),
        ("pass\u200dword", "password", "collides with"),
    ],
)
def test_paths_that_cannot_both_exist_everywhere_are_named(first, second, what):
    ((index, fault),) = path_collisions(paths(first, second))
    assert index == 1
    assert what in fault


def test_control_neighbours_that_only_look_alike_do_not_collide():
    assert list(path_collisions(paths("a", "ab", "b/a", "a.b/c", "a b/c", "b/b/a", "b/b/b"))) == []


@given(
    st.lists(
        bundle_paths | st.sampled_from(paths("a", "A", "a/b", "A/b", "a/B/c", "b/a")), max_size=6
    )
)
def test_the_quick_check_says_that_paths_may_collide_exactly_when_some_do(found):
    quick = manifest_module._may_collide(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_module, "_may_collide", lambda paths: True)
        named = list(path_collisions(found))
    assert quick == bool(named)
