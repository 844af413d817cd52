"""Nested documents are read in one pass that reports every fault with its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager.document import Document
from plugin_manager.errors import InvalidInputError
from plugin_manager.model import parse_version
from tests.strategies import plain_documents


def faults_of(document: Document, *, strict: bool = False) -> tuple[str, ...]:
    with pytest.raises(InvalidInputError) as caught:
        document.finish("plugin.toml", strict=strict)
    return caught.value.faults


def test_every_fault_is_reported_at_once_with_its_place():
    document = Document({"name": 3, "list": [{"size": -1}, {"size": "2"}, "no"], "flag": 1})
    document.text("name")
    document.text("summary")
    for item in document.tables("list"):
        item.integer("size")
    document.boolean("flag")
    document.table("inner").integer("depth", 0)
    assert faults_of(document) == (
        "name: must be text, not a number",
        "summary: is missing",
        "list[0].size: must be from 0 to 9223372036854775807, not -1",
        "list[1].size: must be a whole number, not text",
        "list[2]: must be a table, not text",
        "list[2].size: is missing",
        "flag: must be true or false, not a number",
    )


def test_the_message_names_the_file_the_first_fault_and_how_many_more():
    document = Document({"a": 1, "b": 2})
    document.text("a")
    document.text("b")
    with pytest.raises(InvalidInputError) as caught:
        document.finish("plugin.toml")
    assert str(caught.value) == "plugin.toml: a: must be text, not a number (and 1 more)"
    assert caught.value.context["where"] == "plugin.toml"


def test_true_is_not_a_number():
    document = Document({"size": True})
    document.integer("size")
    assert faults_of(document) == ("size: must be a whole number, not bool",)


def test_unknown_keys_are_faults_only_where_it_is_strict():
    def read() -> Document:
        document = Document({"name": "x", "nmae": "y", "inner": {"depht": 1}})
        document.text("name")
        document.table("inner").integer("depth", 0)
        return document

    read().finish("manifest")
    assert faults_of(read(), strict=True) == (
        "nmae: is not a known key",
        "inner.depht: is not a known key",
    )


def test_a_parser_that_refuses_becomes_a_fault_at_its_place():
    document = Document({"version": "1.0.0.", "versions": ["1.0", "x", "2.0", "y"]})
    document.parsed("version", parse_version)
    found = document.parsed_each("versions", parse_version)
    assert [str(version) for version in found] == ["1.0", "2.0"]
    places = [fault.partition(":")[0] for fault in faults_of(document)]
    assert places == ["version", "versions[1]", "versions[3]"]


def test_absent_values_take_the_default_and_wrong_ones_do_not_pass_for_it():
    document = Document({"wrong": []})
    assert document.text("text", "default") == "default"
    assert document.integer("number", 7) == 7
    assert document.texts("texts", []) == []
    assert document.boolean("flag", False) is False
    document.finish("x")
    document.text("wrong", "default")
    assert faults_of(document) == ("wrong: must be text, not a list",)


def test_text_that_no_terminal_or_file_takes_is_refused():
    document = Document({"summary": "half a pair: \ud83d", "names": ["\udc00"], "good": "\N{CAT}"})
    document.text("summary")
    document.texts("names")
    document.text("good")
    assert faults_of(document) == ("summary: is not valid Unicode", "names: must hold only text")


def test_control_characters_in_a_key_do_not_reach_the_message():
    document = Document({"\x1b[2J" + "x" * 1000: 1})
    (fault,) = faults_of(document, strict=True)
    assert fault.isprintable()
    assert len(fault) < 400


def test_another_format_asks_for_a_newer_program_and_a_missing_one_does_not():
    with pytest.raises(InvalidInputError, match="reads format 1 only") as caught:
        Document({"format": 2}).check_format(1, "manifest")
    assert caught.value.remedy == "Install a newer plugin manager."
    for broken in ({}, {"format": "1"}, {"format": -1}, []):
        with pytest.raises(InvalidInputError) as caught:
            Document(broken).check_format(1, "manifest")
        assert caught.value.remedy == ""


@given(plain_documents, st.text(max_size=3))
def test_reading_anything_as_anything_raises_nothing_until_the_end(value, key):
    document = Document(value)
    for name in [key, *document.names()]:
        document.text(name)
        document.integer(name)
        document.boolean(name)
        document.data(name)
        document.texts(name)
        document.parsed(name, parse_version)
        document.parsed_each(name, parse_version)
        document.table(name).text("x")
        assert all(isinstance(child, Document) for child in document.tables(name))
    faults_of(document, strict=True)
