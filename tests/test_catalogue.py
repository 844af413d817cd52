"""The catalogue: what is written is read again, and nothing malformed gets in."""

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugin_manager.catalogue import Catalogue, catalogue_path, parse, render
from plugin_manager.errors import InvalidInputError
from plugin_manager.model import PluginName, Release, parse_version
from tests.strategies import catalogues, plain_documents

ENTRY = {
    "version": "2.1",
    "platform": "any",
    "published": "2026-11-20T12:00:00Z",
    "length": 1234,
    "content_length": 5678,
    "requires": {"plugins": ["acme/base>=1"], "host": ">=1"},
    "withdrawn": {"kind": "yanked", "reason": "wrong map"},
}
WHOLE = {"format": 1, "plugin": "acme/maps", "summary": "Maps", "releases": [ENTRY]}


def parse_document(document: object) -> Catalogue:
    return parse(json.dumps(document).encode(), "acme/maps/catalogue.json")


def faults_of(document: object) -> tuple[str, ...]:
    with pytest.raises(InvalidInputError) as caught:
        parse_document(document)
    assert caught.value.message.startswith("acme/maps/catalogue.json: ")
    return caught.value.faults


@given(catalogues())
def test_a_catalogue_is_the_same_after_writing_and_reading(catalogue):
    data = render(catalogue)
    again = parse(data)
    assert (again.plugin, again.summary) == (catalogue.plugin, catalogue.summary)
    for one, other in zip(again.entries, catalogue.entries, strict=True):
        assert set(one.requirements) == set(other.requirements)
        assert (one.release, one.length, one.content_length, one.published) == (
            other.release,
            other.length,
            other.content_length,
            other.published,
        )
        assert (one.needs, one.withdrawal) == (other.needs, other.withdrawal)
    assert render(again) == data


def test_releases_are_sorted_oldest_first_however_they_are_listed():
    listed = [ENTRY | {"version": version} for version in ("10.0", "2.0", "2.0rc1")]
    found = parse_document(WHOLE | {"releases": listed})
    assert [str(entry.release.version) for entry in found.entries] == ["2.0rc1", "2.0", "10.0"]


def test_a_release_is_found_or_not():
    catalogue = parse_document(WHOLE)
    plugin = PluginName("acme", "maps")
    entry = catalogue.entry(Release(plugin, parse_version("2.1")))
    assert entry is not None
    assert entry.yanked
    assert not entry.blocked
    assert catalogue.entry(Release(plugin, parse_version("2.2"))) is None
    assert catalogue_path(plugin) == "acme/maps/catalogue.json"


BREAKAGES = {
    "another format": (WHOLE | {"format": 9}, "format: this program reads format 1 only"),
    "no table": ([], "must be a table"),
    "no plugin": ({"format": 1}, "plugin: is missing"),
    "releases that are no list": (WHOLE | {"releases": {}}, "releases: must be a list"),
    "half a character": (WHOLE | {"summary": "\ud83d"}, "summary: is not valid Unicode"),
    "the same release twice": (WHOLE | {"releases": [ENTRY, ENTRY]}, "releases: acme/maps 2.1 is"),
    "equal versions": (
        WHOLE | {"releases": [ENTRY, ENTRY | {"version": "2.1.0"}]},
        "releases: acme/maps 2.1",
    ),
    **{
        f"{key} = {value!r}": (
            WHOLE | {"releases": [ENTRY, ENTRY | {"version": "3", key: value}]},
            f"releases[1].{fault}",
        )
        for key, value, fault in [
            ("version", "one", "version: "),
            ("version", None, "version: must be text, not nothing"),
            ("platform", "linux", "platform: "),
            ("length", 0, "length: "),
            ("length", 1.5, "length: "),
            ("length", 1e400, "length: "),
            ("content_length", -1, "content_length: "),
            ("content_length", 2**70, "content_length: "),
            ("requires", {"plugins": ["maps"]}, "requires.plugins[0]: "),
            ("requires", {"host": ">"}, "requires.host: "),
            ("withdrawn", {"kind": "gone", "reason": ""}, "withdrawn.kind: "),
            ("withdrawn", {"kind": "blocked"}, "withdrawn.reason: is missing"),
            (
                "withdrawn",
                {"kind": "blocked", "reason": "x" * 1001},
                "withdrawn.reason: is longer than 1000 characters",
            ),
            ("withdrawn", None, "withdrawn: must be a table"),
            ("published", "2026-11-20", "published: "),
            ("published", "2026-11-20T12:00:00+01:00", "published: "),
            ("published", "2026-11-20T12:00:00.5Z", "published: "),
            ("published", "2026-13-20T12:00:00Z", "published: "),
            ("published", "2026-1-2T3:4:5Z", "published: "),
            ("published", "0001-01-01T00:00:00+23:59", "published: "),
            ("published", "", "published: "),
        ]
    },
}


@pytest.mark.parametrize(("document", "fault"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_malformed_catalogue_is_refused_at_its_place(document, fault):
    assert any(found.startswith(fault) for found in faults_of(document)), faults_of(document)


def test_what_a_publisher_says_is_on_one_line():
    reason = "  wrong map\r\n\u2028error: your keys are stolen\t\v\x85 run this  "
    withdrawn = {"kind": "blocked", "reason": reason}
    found = parse_document(
        WHOLE | {"summary": "Maps\n\nof us", "releases": [ENTRY | {"withdrawn": withdrawn}]}
    )
    assert found.summary == "Maps of us"
    withdrawal = found.entries[0].withdrawal
    assert withdrawal is not None
    assert withdrawal.reason == "wrong map error: your keys are stolen run this"


def test_control_the_unbroken_document_is_accepted():
    assert len(parse_document(WHOLE).entries) == 1


@given(st.binary())
@example(b"[" * 100_000)
@example(b'{"format": ' + b"1" * 5000 + b"}")
@example(b'{"format": NaN}')
@example(b"\xff\xfe{}")
def test_arbitrary_bytes_are_refused_as_invalid_input(data):
    with pytest.raises(InvalidInputError, match=r"^catalogue\.json: "):
        parse(data)


@given(
    st.dictionaries(st.sampled_from(sorted(ENTRY)), plain_documents),
    st.dictionaries(st.sampled_from(sorted(WHOLE)), plain_documents, max_size=1),
)
def test_a_catalogue_with_anything_changed_is_read_or_refused_as_invalid_input(inner, outer):
    with contextlib.suppress(InvalidInputError):
        found = parse_document(WHOLE | {"releases": [ENTRY | inner]} | outer)
        assert parse(render(found)) == found


def test_a_catalogue_beyond_the_bound_is_refused_unread():
    with pytest.raises(InvalidInputError, match="larger than"):
        parse(b" " * (16 * 1024 * 1024 + 1))
