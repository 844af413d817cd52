"""The index of what releases hold: derived, untrusted, and missed by nobody."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import diskcache
import pytest
from diskcache import Cache
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager.errors import CorruptError
from plugin_manager.model import Digest
from plugin_manager.store._contents import BLOCK_BYTES, Contents, Index, contents_of
from tests.bundles import make_bundle
from tests.strategies import manifests

BUNDLES = [
    make_bundle(f"acme/{name} 1.0", {"own": name.encode() * 5000, "shared": b"x" * 5000})
    for name in "abc"
]
HEADS = {bundle.head.digest: bundle.head for bundle in BUNDLES}
TRUE = {digest: contents_of(head.manifest, "") for digest, head in HEADS.items()}


class Source:
    """The manifests, and how often they were asked."""

    def __init__(self) -> None:
        self.asked: list[Digest] = []

    def __call__(self, digest: Digest) -> Contents:
        self.asked.append(digest)
        if digest not in TRUE:
            raise CorruptError("damaged")
        return TRUE[digest]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def index(tmp_path: Path, source: Source) -> Index:
    return Index(tmp_path, "", source)


@pytest.fixture
def database(tmp_path: Path, index: Index, source: Source) -> Iterator[sqlite3.Connection]:
    """The database of an index that holds everything."""
    index.contents(TRUE, keep=True)
    source.asked.clear()
    with closing(sqlite3.connect(tmp_path / "index/cache.db", isolation_level=None)) as found:
        yield found


def test_what_is_kept_is_not_read_from_the_manifests_again(index: Index, source: Source) -> None:
    assert index.contents(TRUE, keep=True) == TRUE
    assert sorted(source.asked) == sorted(TRUE)
    source.asked.clear()
    assert index.contents(TRUE, keep=False) == TRUE
    assert source.asked == []


def test_looking_writes_nothing(index: Index, tmp_path: Path) -> None:
    assert index.contents(TRUE, keep=False) == TRUE
    assert list(tmp_path.iterdir()) == []


def test_it_holds_just_what_was_asked_for_last(index: Index, source: Source) -> None:
    first, *_ = TRUE
    index.contents(TRUE, keep=True)
    index.contents([first], keep=True)
    source.asked.clear()
    assert index.contents(TRUE, keep=False) == TRUE
    assert first not in source.asked
    assert len(source.asked) == len(TRUE) - 1


def test_what_cannot_be_known_is_left_out(index: Index) -> None:
    assert index.contents([Digest("0" * 64), *TRUE], keep=True) == TRUE


def test_other_interpreters_have_rows_of_their_own(
    tmp_path: Path, index: Index, source: Source
) -> None:
    index.contents(TRUE, keep=True)
    source.asked.clear()
    Index(tmp_path, "cp399", source).contents(TRUE, keep=False)
    assert sorted(source.asked) == sorted(TRUE)


@pytest.mark.parametrize(
    "statement",
    [
        "update Cache set value = x'00'",
        "update Cache set value = 'text'",
        "update Cache set value = 5",
        "update Cache set value = null",
        "update Cache set value = zeroblob(length(value))",
        "update Cache set value = substr(value, 1, length(value) - 1)",
        "update Cache set mode = 4",  # a pickle
        "update Cache set mode = 2, filename = '../../etc/passwd'",
        "update Cache set filename = '/etc/passwd'",
        "update Cache set raw = 0",
        "update Cache set key = rowid",
        "update Cache set expire_time = 1",
        "delete from Settings",
        "update Settings set value = 'x'",
        "insert or replace into Settings values ('disk_pickle_protocol', 'x')",
        "insert or replace into Settings values ('sqlite_journal_mode', 'x; drop table Cache')",
        "drop table Cache",
        "drop table Settings",
    ],
)
def test_nothing_that_a_row_says_is_believed_unless_it_was_put_there(
    database: sqlite3.Connection, index: Index, statement: str
) -> None:
    database.execute(statement)
    assert index.contents(TRUE, keep=False) == TRUE
    assert index.contents(TRUE, keep=True) == TRUE
    assert index.contents(TRUE, keep=False) == TRUE


def test_a_row_in_anothers_place_is_not_believed(
    database: sqlite3.Connection, index: Index
) -> None:
    database.execute("update Cache set value = (select value from Cache order by rowid limit 1)")
    assert index.contents(TRUE, keep=False) == TRUE


def test_flipped_bits_are_found(database: sqlite3.Connection, index: Index, tmp_path: Path) -> None:
    database.execute("pragma wal_checkpoint(truncate)")
    database.close()
    path = tmp_path / "index/cache.db"
    good, draw = path.read_bytes(), random.Random(8)
    for _ in range(150):
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        assert index.contents(TRUE, keep=draw.random() < 0.5) == TRUE
        for rest in (tmp_path / "index").iterdir():
            rest.unlink()


def test_control_rows_are_what_is_answered(database: sqlite3.Connection, index: Index) -> None:
    """The rows are really used: with the source gone, all that is kept is still known."""
    index._contents = lambda _: pytest.fail("asked")
    assert index.contents(TRUE, keep=False) == TRUE


def test_control_plain_diskcache_would_open_the_file_that_a_row_names(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    database.execute("update Cache set mode = 2, value = null, filename = ?", ["../secret"])
    with Cache(str(tmp_path / "index")) as plain:
        assert plain.get(next(iter(plain))) == b"secret"


def test_a_database_that_others_hold_locked_is_done_without(
    database: sqlite3.Connection, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = 0.0

    def sleep(seconds: float) -> None:
        nonlocal waited
        waited += seconds

    monkeypatch.setattr(diskcache.core, "time", SimpleNamespace(time=lambda: waited, sleep=sleep))
    database.execute("begin exclusive")
    assert index.contents(TRUE, keep=False) == TRUE
    assert waited < 5, "seconds, by a clock that only the waiting moves"


@given(manifests())
def test_contents_are_files_and_directories_in_whole_blocks(manifest) -> None:  # type: ignore[no-untyped-def]
    found = contents_of(manifest, "cp311")
    assert len(set(found.keys)) == len(found.keys) == len(found.sizes)
    assert all(size % BLOCK_BYTES == 0 for size in found.sizes)
    files = manifest.files_for("cp311")
    directories = {parent for file in files for parent in PurePosixPath(file.path).parents}
    assert found.total_bytes == BLOCK_BYTES * (
        sum(-(-file.size // BLOCK_BYTES) for file in files) + len(directories)
    )


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": b"x" * 9}, {"b/c": b"x" * 9}, True),
        ({"a": b"x" * 9}, {"a": b"y" * 9}, False),
        ({"a": b"x" * 9}, {"a": b"x" * 8}, False),
    ],
)
def test_equal_files_have_equal_keys(
    one: dict[str, bytes], other: dict[str, bytes], *, equal: bool
) -> None:
    first, second = (
        contents_of(make_bundle("acme/a 1.0", files).head.manifest, "") for files in (one, other)
    )
    assert (first.keys[:1] == second.keys[:1]) == equal


def test_a_file_that_may_be_run_is_another_file() -> None:
    files = {"run": b"#!/bin/sh\n"}
    plain, runs = (
        contents_of(make_bundle("acme/a 1.0", files, executable=which).head.manifest, "")
        for which in (frozenset[str](), frozenset(files))
    )
    assert plain.keys[0] != runs.keys[0]


@given(st.integers(0, 3 * BLOCK_BYTES))
def test_sizes_are_rounded_up_to_blocks(size: int) -> None:
    found = contents_of(make_bundle("acme/a 1.0", {"a": b"x" * size}).head.manifest, "")
    file = found.total_bytes - BLOCK_BYTES  # and a directory
    assert file - BLOCK_BYTES < size <= file
