"""Words, numbers and JSON for people and programs; the only place that turns facts into text."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from plugin_manager._values import (
    EXIT_CODES,
    active_json,
    error_json,
    exit_code,
    plan_json,
    record_json,
    report_json,
    resident_json,
)
from plugin_manager.errors import PluginManagerError
from plugin_manager.model import size_text

if TYPE_CHECKING:
    from plugin_manager.store import Change, SpacePlan

__all__ = [
    "AS_JSON",
    "EXIT_CODES",
    "QUIET",
    "OutputError",
    "Session",
    "UnreadError",
    "active_json",
    "change_text",
    "clean",
    "colour_wanted",
    "exit_code",
    "marked",
    "plan_json",
    "record_json",
    "report_json",
    "resident_json",
    "shortened",
    "space_text",
    "styled",
    "table",
    "time_text",
]


def clean(text: str) -> str:
    """`text` without anything a terminal could obey; it may come from a hostile publisher."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}"
                   for char in text)  # fmt: skip


class OutputError(PluginManagerError):
    """What was to be printed could not be."""


class UnreadError(Exception):
    """Whoever read what is printed has gone."""


class Session:
    """One run of the command: whether it speaks JSON, how much it says, and in which colours.

    `--quiet` leaves what was asked to be shown, and errors. Colours are for terminals; NO_COLOR
    takes them away, FORCE_COLOR brings them (https://no-color.org, https://force-color.org).
    """

    def __init__(self, *, as_json: bool) -> None:
        context = click.get_current_context(silent=True)
        told = context.find_root().meta if context else {}
        self.as_json = as_json or bool(told.get(AS_JSON))
        self.quiet = bool(told.get(QUIET))
        self._colour = colour_wanted(os.environ)

    def say(self, *lines: str, style: str = "") -> None:
        """Lines for people (none: an empty one) that were asked for; nothing in JSON mode."""
        if not self.as_json:
            # At once: each echo waits for the terminal.
            text = "\n".join(self._styled(line, style) for line in lines)
            _echo(text, self._colour)

    def tell(self, *lines: str) -> None:
        """Lines about what was done: as `say`, but not where it shall be quiet."""
        if not self.quiet:
            self.say(*lines)

    def table(self, rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> None:
        """Rows in columns, the first being their heads."""
        if not self.as_json:
            heads, *lines = table(rows, right)
            self.say(heads, style="bold")
            if lines:
                self.say(*lines)

    def aside(self, text: str, style: str = "") -> None:
        """A line on standard error, in both modes; not where it shall be quiet."""
        if not self.quiet:
            click.echo(self._styled(text, style), err=True, color=self._colour)

    def _styled(self, text: str, style: str) -> str:
        return styled(clean(text), style)

    def result(self, value: object) -> None:
        """The one JSON value of a run, or what makes it; nothing in text mode."""
        if self.as_json:
            value = value() if callable(value) else value
            _echo(json.dumps(value, indent=1, ensure_ascii=True, default=str), None)

    def line(self, value: object) -> None:
        """A JSON value in a line of its own, for who reads it while the run goes on."""
        _echo(json.dumps(value), None)

    def error(self, error: PluginManagerError) -> None:
        """An error, as one JSON object or as a few lines on standard error."""
        if self.as_json:
            self.result({"error": error_json(error)})
            return
        lines = [f"{styled('pluginctl:', 'red')} {clean(error.message)}"]
        reasons = error.context.get("reasons") or error.context.get("faults") or ()
        if isinstance(reasons, tuple) and len(reasons) > 1:
            lines += [clean(f"  - {reason}") for reason in reasons]
        for line in (error.remedy, *getattr(error, "__notes__", ())):
            if line:
                lines.append(clean(f"  {line}"))
        click.echo("\n".join(lines), err=True, color=self._colour)


def _echo(text: str, colour: bool | None) -> None:
    try:
        try:
            click.echo(text, color=colour)
        except UnicodeEncodeError as error:  # an umlaut must not end a list where there is none
            text = text.encode(error.encoding, "replace").decode(error.encoding)
            click.echo(text, color=colour)
    except BrokenPipeError as error:
        raise UnreadError from error
    except OSError as error:
        raise OutputError(
            f"the output could not be written: {error.strerror}",
            remedy="Free space where it goes, or send it elsewhere.",
        ) from error


AS_JSON, QUIET = "plugin_manager.as_json", "plugin_manager.quiet"

_STYLES: Mapping[str, Mapping[str, Any]] = {
    "": {},
    "bold": {"bold": True},
    "faint": {"dim": True},
    "green": {"fg": "green"},
    "yellow": {"fg": "yellow"},
    "red": {"fg": "red", "bold": True},
}


def styled(text: str, style: str) -> str:
    """`text`, which is clean, in a style; whoever echoes it leaves that out where it is unwanted.

    The one place where anything is written that a terminal obeys.
    """
    return click.style(text, **_STYLES[style]) if style and text else text


def colour_wanted(environment: Mapping[str, str]) -> bool | None:
    """Whether colours are asked for or forbidden; None: for terminals only."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return environment["FORCE_COLOR"] not in {"0", "false"}
    return False if environment.get("TERM") == "dumb" else None


def space_text(space: SpacePlan) -> str:
    """A space plan in a line."""
    text = f"needs {size_text(space.needed_bytes)} at its peak"
    if space.evict:
        going = [f"{one.release} ({size_text(one.total_bytes)})" for one in space.evict]
        text += f"; evicts {shortened(going)}, which frees {size_text(space.freed_bytes)}"
    return text


def change_text(change: Change) -> str:
    """What a generation changed for a plugin, in a few words."""
    before, after = change.before, change.after
    if after is None:
        return f"- {before.release}" if before else f"- {change.plugin}"
    held, pinned = (before.held, before.pinned) if before else (False, False)
    marks = marked(
        {
            "hold": after.held and not held,
            "unhold": held and not after.held,
            "pin": after.pinned and not pinned,
            "unpin": pinned and not after.pinned,
        }
    )
    if before is None:
        text = f"+ {after.release}"
    elif before.digest != after.digest:
        text = f"{before.release} -> {after.release.version}"
    else:
        return f"{marks} {change.plugin}"
    return f"{text} ({marks})" if marks else text


def marked(marks: Mapping[str, object]) -> str:
    """The words of `marks` that hold, with commas between them."""
    return ", ".join(word for word, holds in marks.items() if holds)


def shortened(items: Sequence[str], most: int = 3) -> str:
    """`items` with commas between them, no more than `most` and how many more there are."""
    more = [f"... and {len(items) - most} more"] if len(items) > most else []
    return ", ".join([*items[:most], *more])


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines with `rows` in columns, those numbered in `right` aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def time_text(seconds: float | None) -> str:
    """A span of time for people: `1:05`, `2:00:00`."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
