"""Live progress: what fits on a line stays on it, nothing is left behind, logs get plain lines."""

from __future__ import annotations

import io
import os
import re
from types import SimpleNamespace

import click
import pytest

from plugin_manager.cli import _progress
from plugin_manager.cli._output import Session, colour_wanted
from plugin_manager.cli._progress import Reporter, paint
from plugin_manager.manager import Progress
from plugin_manager.model import PluginName, Release, parse_version


def transfer(
    name: str, arrived: int, total: int = 100_000_000, *, reused: int = 0, speed: float = 5e6
) -> Progress:
    release = Release(PluginName("acme", name), parse_version("1.0"))
    return Progress(release, arrived, total, reused, speed, arrived >= total)


def together(*transfers: Progress) -> Progress:
    return Progress(
        None,
        sum(one.transferred_bytes for one in transfers),
        sum(one.total_bytes for one in transfers),
        sum(one.reused_bytes for one in transfers),
        sum(one.bytes_per_second for one in transfers),
        all(one.done for one in transfers),
        tuple(transfers),
    )


SEVERAL = together(
    transfer("maps", 100_000_000),
    transfer("a-name-of-considerable-length", 40_000_000, reused=7_000_000),
    transfer("tiles", 0),
)


def plain(lines: list[str]) -> list[str]:
    return [click.unstyle(line) for line in lines]


def test_each_transfer_has_a_line_and_all_have_one() -> None:
    lines = plain(paint(SEVERAL, 120, 30))
    assert [line.split()[0] for line in lines] == [
        "acme/a-name-of-considerable-length", "acme/tiles", "acme/maps", "1",
    ]  # fmt: skip
    for word in ("40%", "of 100.0 MB", "5.0 MB/s", "0:12", "reused 7.0 MB", "####"):
        assert word in lines[0]
    assert "100%" in lines[2]
    assert "/s" not in lines[2]
    assert "1 of 3 done" in lines[3]
    assert "46%" in lines[3]


def test_columns_stand_below_one_another() -> None:
    lines = plain(paint(SEVERAL, 120, 30))
    assert len({line.index("%") for line in lines}) == 1
    assert len({line.index(" MB") for line in lines}) == 1


@pytest.mark.parametrize("columns", [*range(1, 140)])
def test_no_line_is_as_wide_as_the_terminal(columns: int) -> None:
    lines = plain(paint(SEVERAL, columns, 30))
    assert len(lines) == 4
    assert max(map(len, lines)) < max(columns, 2)
    if columns >= 30:
        assert all(re.search(r"\d%", line) for line in lines)


def test_the_narrower_the_less_is_told_and_percent_last() -> None:
    told = {
        columns: [
            word
            for word in ("####", "reused", "of 100", "MB/s", "0:12", "40%")
            if word in plain(paint(SEVERAL, columns, 30))[0]
        ]
        for columns in (110, 70, 55, 45, 34, 24)
    }
    assert told[110] == ["####", "reused", "of 100", "MB/s", "0:12", "40%"]
    assert told[24] == ["40%"]
    counts = [len(words) for words in told.values()]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("rows", [2, 3, 5, 10, 24])
def test_more_transfers_than_rows_are_counted(rows: int) -> None:
    many = together(*(transfer(f"p{n}", n * 1_000_000) for n in range(40)))
    lines = plain(paint(many, 100, rows))
    assert len(lines) <= max(rows - 1, 3)
    assert any("more" in line for line in lines)
    assert "40 done" in lines[-1]


def test_hostile_names_do_not_reach_the_terminal() -> None:
    evil = transfer("maps", 5)
    object.__setattr__(evil.release.plugin, "name", "a\x1b[2Jb")
    assert "\x1b[2J" not in "".join(paint(together(evil, transfer("b", 1)), 100, 30))


# --- painting ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A terminal that understands what the reporter writes, with its size."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        super().__init__()
        self.columns, self.rows = columns, rows
        self.lines: list[str] = [""]
        self.at = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[\d*[A-Za-z]|\x1b\[[\d;]*m|\n|[^\x1b\n]+", text):
            if found := re.fullmatch(r"\x1b\[(\d+)F", part):
                self.at -= int(found[1])
                assert self.at >= 0, "went above what was painted"
            elif part == "\x1b[J":
                del self.lines[self.at + 1 :]
                self.lines[self.at] = ""
            elif part.startswith("\x1b[") and part[-1] in "Km":
                continue
            elif part == "\n":
                self.at += 1
                if self.at == len(self.lines):
                    self.lines.append("")
            else:
                # It stands at the beginning of a line, or goes on with one.
                self.lines[self.at] = part if self._fresh else self.lines[self.at] + part
            self._fresh = part == "\n" or part.startswith("\x1b")
        return len(text)

    _fresh = True

    def resize(self, columns: int) -> None:
        """As terminals do: what is wider goes over several lines."""
        wrapped: list[str] = []
        for line in self.lines:
            wrapped += [line[i : i + columns] for i in range(0, max(len(line), 1), columns)]
        self.at += len(wrapped) - len(self.lines)
        self.lines, self.columns = wrapped, columns


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(_progress, "sys", SimpleNamespace(stderr=terminal))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(
        _progress.shutil,
        "get_terminal_size",
        lambda: os.terminal_size((terminal.columns, terminal.rows)),
    )
    return terminal


def shown(terminal: Terminal) -> list[str]:
    return [line.rstrip() for line in terminal.lines if line.strip()]


def test_each_painting_goes_over_the_last(terminal: Terminal) -> None:
    reporter = Reporter(quiet=False)
    for arrived in (1_000_000, 50_000_000, 100_000_000):
        reporter(together(transfer("maps", arrived), transfer("tiles", arrived)))
    lines = shown(terminal)
    assert len(lines) == 3
    assert all("100%" in line for line in lines)


@pytest.mark.parametrize("columns", [200, 60, 40, 25])
def test_a_terminal_that_is_resized_shows_nothing_twice(terminal: Terminal, columns: int) -> None:
    reporter = Reporter(quiet=False)
    terminal.columns = 120
    reporter(SEVERAL)
    terminal.resize(columns)
    reporter(SEVERAL)
    assert len(shown(terminal)) == 4


def test_control_what_does_not_know_of_the_new_size_leaves_lines_behind(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Reporter, "_back", lambda self, _: f"\x1b[{len(self._painted)}F" if self._painted else ""
    )
    reporter = Reporter(quiet=False)
    terminal.columns = 120
    reporter(SEVERAL)
    terminal.resize(40)
    reporter(SEVERAL)
    assert len(shown(terminal)) > 4


def test_what_is_said_meanwhile_stands_above(terminal: Terminal) -> None:
    reporter = Reporter(quiet=False)
    reporter(SEVERAL)
    reporter.clear()
    terminal.write("trying again in 5 s\n")
    reporter(SEVERAL)
    lines = shown(terminal)
    assert lines[0] == "trying again in 5 s"
    assert len(lines) == 5


def test_logs_get_plain_lines_and_quiet_gets_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Reporter(quiet=False)(together(transfer("maps", 100_000_000)))
    Reporter(quiet=True)(together(transfer("maps", 100_000_000)))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("acme/maps 1.0: 100% of 100.0 MB")
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, None),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "0"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ],
)
def test_whether_colours_are_wanted(environment: dict[str, str], wanted: bool | None) -> None:
    assert colour_wanted(environment) is wanted


def test_colours_are_for_terminals_or_where_they_are_forced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    Session(as_json=False).say("good", style="green")
    monkeypatch.setenv("FORCE_COLOR", "1")
    Session(as_json=False).say("good\x1b[2J", style="green")
    plain_line, coloured = capsys.readouterr().out.splitlines()
    assert plain_line == "good"
    assert coloured == "\x1b[32mgood\N{REPLACEMENT CHARACTER}[2J\x1b[0m"
