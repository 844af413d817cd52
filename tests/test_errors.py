"""Every error belongs to a family, and every family has an exit code that the manual lists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plugin_manager import errors
from plugin_manager.cli._output import EXIT_CODES
from plugin_manager.errors import PluginManagerError

MANUAL = Path(__file__).parents[1] / "docs/operating.md"
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, PluginManagerError)
]
# What ends the command otherwise than by an error of this package.
OTHER_CODES = {0, 2, 130, 141}


def exit_code_table(text: str) -> dict[int, tuple[str, str]]:
    """The table's rows: code to (family or "", what to do)."""
    rows = re.findall(r"^\| (\d+) \| (?:`([a-z-]+)`)? ?\| (.*) \|$", text, re.MULTILINE)
    return {int(code): (family, what) for code, family, what in rows}


def table_faults(text: str) -> list[str]:
    """What in the manual's table differs from what the command does."""
    table = exit_code_table(text)
    families = {family: code for code, (family, _) in table.items() if family}
    return [
        *(f"{family} is not {code}" for family, code in EXIT_CODES.items()
          if families.get(family) != code),
        *(f"{family} is no family" for family in families if family not in EXIT_CODES),
        *(f"{code} is missing" for code in OTHER_CODES if table.get(code, ("x",))[0]),
        *(f"{code} says nothing" for code, (_, what) in table.items() if not what.strip()),
    ]  # fmt: skip


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_each_error_has_a_family_of_its_own_words_with_an_exit_code(
    error: type[PluginManagerError],
) -> None:
    assert "family" in vars(error), "not merely its base's"
    assert error.family in EXIT_CODES
    assert error.__doc__


def test_families_and_exit_codes_are_the_same_set_and_codes_are_distinct() -> None:
    assert {error.family for error in CLASSES} == set(EXIT_CODES)
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert not OTHER_CODES & set(EXIT_CODES.values())


def test_the_manual_lists_every_exit_code_as_it_is() -> None:
    assert table_faults(MANUAL.read_text()) == []


@pytest.mark.parametrize(
    ("row", "instead", "fault"),
    [
        (r"^\| 13 .*\n", "", "corrupt is not 13"),
        (r"^\| 9 ", "| 99 ", "network is not 9"),
        (r"^\| 141 .*\n", "", "141 is missing"),
        (r"`store`", "`shop`", "shop is no family"),
        (r"^\| 2 .*$", "| 2 | |  |", "2 says nothing"),
    ],
)
def test_control_a_wrong_row_is_found(row: str, instead: str, fault: str) -> None:
    text = MANUAL.read_text()
    changed = re.sub(row, instead, text, flags=re.MULTILINE)
    assert changed != text
    assert fault in table_faults(changed)


def test_an_error_says_what_is_wrong_and_then_what_to_do() -> None:
    error = errors.NotFoundError("there is no x", remedy="Make one.", name="x")
    assert str(error) == "there is no x. Make one."
    assert str(errors.NotFoundError("there is no x")) == "there is no x"
    assert error.context == {"name": "x"}


def test_facts_are_attributes_and_context_alike() -> None:
    found = [
        errors.InvalidInputError.of("file", ["a: bad", "b: bad"], remedy="Mend it."),
        errors.ConflictError("no", reasons=("why",)),
        errors.BlockedError("no", reason="why"),
        errors.NetworkError("no", status=404),
        errors.CorruptError("no", paths=("a",)),
        errors.NoSpaceError("no", needed_bytes=2, free_bytes=1),
    ]
    assert found[0].message == "file: a: bad (and 1 more)"
    for error in found:
        for name in set(error.context) - {"where"}:
            assert getattr(error, name) == error.context[name]
