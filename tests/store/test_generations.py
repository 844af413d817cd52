"""Generations as bytes: any changed byte is found, and a record is read without what was active."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager.errors import CorruptError
from plugin_manager.model import Digest
from plugin_manager.store import Active, Change, Generation, Record
from plugin_manager.store._generations import EMPTY, lineages, parse, parse_record, render
from tests.bundles import release
from tests.strategies import releases

digests = st.integers(0, 2**256 - 1).map(lambda number: Digest(f"{number:064x}"))
actives = st.builds(Active, releases, digests, st.booleans(), st.booleans())
moments = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 30)).map(  # noqa: DTZ001 - made aware next
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    after = draw(actives)
    before = draw(st.none() | st.builds(Active, st.just(after.release), digests))
    return Change(after.release.plugin, before, draw(st.sampled_from([after, None])))


generations = st.builds(
    Generation,
    st.integers(1, 10**14),
    moments,
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.lists(changes(), max_size=3).map(tuple),
    st.lists(actives, max_size=4).map(lambda found: {one.release.plugin: one for one in found}),
)


FIRST, SECOND, THIRD = (
    Active(release(f"acme/a {number}.0"), Digest(str(number) * 64)) for number in (1, 2, 3)
)


@given(generations)
def test_what_is_rendered_is_what_is_parsed(generation: Generation) -> None:
    data = render(generation)
    assert parse(data, "x") == generation
    assert render(parse(data, "x")) == data
    record = parse_record(data, "x")
    assert (record.number, record.created, record.action, record.changes) == (
        generation.number, generation.created, generation.action, generation.changes,
    )  # fmt: skip


@given(generations, st.data())
def test_any_changed_added_or_missing_byte_is_found_in_the_record_alone_too(
    generation: Generation, data: st.DataObject
) -> None:
    good = render(generation)
    position = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    for bad in (bytes(flipped), good[:position], good + b"\n", good[position:] + good[:position]):
        if bad != good:
            for read in (parse, parse_record):
                with pytest.raises(CorruptError, match="x is damaged"):
                    read(bad, "x")


def sealed(body: bytes) -> bytes:
    return b'{"blake3":"' + blake3(body).hexdigest().encode() + b'",\n' + body


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"format": "2"},
        {"number": -1},
        {"number": "1"},
        {"number": 10**400},
        {"created": "yesterday"},
        {"created": "2026-13-01T00:00:00Z"},
        {"action": 5},
        {"changes": [[]]},
        {"changes": [{"plugin": "../../etc"}]},
    ],
)
def test_a_sound_digest_makes_no_nonsense_believed(change: dict[str, object]) -> None:
    good = render(Generation(1, datetime(2026, 11, 20, tzinfo=UTC), "install", (), {}))
    lines = good.split(b"\n")
    record = json.loads(lines[1].removeprefix(b'"record":').removesuffix(b","))
    line = b'"record":' + json.dumps(record | change).encode() + b","
    body = b"\n".join([line, *lines[2:]])
    for read in (parse, parse_record):
        with pytest.raises(CorruptError):
            read(sealed(body), "x")


def test_control_the_same_way_of_sealing_is_read_where_nothing_is_wrong() -> None:
    good = render(EMPTY)
    _, _, body = good.partition(b"\n")
    assert sealed(body) == good
    assert parse(sealed(body), "x") == EMPTY


def test_deep_nesting_is_damage_and_no_crash() -> None:
    deep = b'"record":' + b"[" * 100_000 + b"]" * 100_000 + b",\n" + b'"active":[\n]}\n'
    with pytest.raises(CorruptError):
        parse(sealed(deep), "x")


def record(number: int, before: Active | None, after: Active | None) -> Record:
    return Record(number, EMPTY.created, "x", (Change(FIRST.release.plugin, before, after),))


def test_a_lineage_is_what_was_active_the_last_first_and_each_once() -> None:
    records = [
        record(4, SECOND, FIRST),  # a rollback
        record(3, THIRD, SECOND),
        record(2, FIRST, THIRD),
        record(1, None, FIRST),
    ]
    assert lineages(records) == {FIRST.release.plugin: [FIRST, SECOND, THIRD]}


def test_what_only_a_lost_record_made_active_is_known_from_what_replaced_it() -> None:
    assert lineages([record(9, SECOND, THIRD)]) == {FIRST.release.plugin: [THIRD, SECOND]}
    assert lineages([record(9, SECOND, None)]) == {FIRST.release.plugin: [SECOND]}
