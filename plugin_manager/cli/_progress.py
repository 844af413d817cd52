"""Live progress on standard error: on a terminal a line for each transfer, else now and then one.

A line tells, as far as there is room: name, bar, percent, size, speed, time left, what was reused.
Where the terminal is narrow the bar goes first, then what was reused, the size, the speed and the
time left; name and percent stay. Lines never wrap, or painting over them would leave some behind.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from plugin_manager._attrs import frozen
from plugin_manager.cli._output import clean, colour_wanted, shortened, styled, time_text
from plugin_manager.model import size_text

if TYPE_CHECKING:
    from plugin_manager.manager import Progress

__all__ = ["Reporter", "paint"]

_MOST_BAR = 24
_LEAST_BAR = 8
_LEAST_NAME = 12
_GAP = 2
# The first to go is the last here.
_WORTH = ("percent", "left", "speed", "size", "reused")
_SHOWN = ("percent", "size", "speed", "left", "reused")


@frozen
class _Row:
    """One line as its parts; `done` of a transfer or of all."""

    name: str
    percent: int
    done: bool
    cells: Mapping[str, str]


def paint(progress: Progress, columns: int, rows: int) -> list[str]:
    """The lines that show `progress` on a terminal of that size, each less wide than it.

    What is under way comes before what waits, that before what is done; the total comes last.
    """
    transfers = sorted(progress.transfers, key=_place)
    total = [_row(_summary(progress), progress)] if len(transfers) > 1 else []
    room = max(rows - 1 - len(total), 1)
    shown = transfers if len(transfers) <= room else transfers[: max(room - 1, 1)]
    lines = [_row(str(one.release), one) for one in shown]
    hidden = len(transfers) - len(shown)
    painted = _lines([*lines, *total], columns - 1)
    if hidden:
        more = f"... and {hidden} more"[: columns - 1]
        painted.insert(len(lines), styled(more, "faint"))
    return painted


def _place(progress: Progress) -> int:
    begun = progress.transferred_bytes > 0
    return 2 if progress.done else 0 if begun else 1


def _summary(progress: Progress) -> str:
    done = sum(one.done for one in progress.transfers)
    return f"{done} of {len(progress.transfers)} done"


def _row(name: str, progress: Progress) -> _Row:
    under_way = not progress.done and progress.transferred_bytes
    return _Row(
        clean(name),
        progress.percent,
        progress.done,
        {
            "percent": f"{progress.percent}%",
            "size": f"of {size_text(progress.total_bytes):>8}",
            "speed": f"{size_text(progress.bytes_per_second)}/s" if under_way else "",
            "left": time_text(progress.seconds_left) if under_way else "",
            "reused": f"reused {size_text(progress.reused_bytes)}" if progress.reused_bytes else "",
        },
    )


def _lines(rows: Sequence[_Row], width: int) -> list[str]:
    widths = {key: max(len(row.cells[key]) for row in rows) for key in _SHOWN}
    name_width = max(len(row.name) for row in rows)

    def taken(keys: Sequence[str]) -> int:
        return sum(_GAP + widths[key] for key in keys if widths[key])

    kept = list(_WORTH)
    while len(kept) > 1 and min(name_width, _LEAST_NAME) + taken(kept) > width:
        kept.pop()
    name_width = max(min(name_width, width - taken(kept)), 1)
    bar = min(width - name_width - taken(kept) - _GAP, _MOST_BAR)
    lines = []
    for row in rows:
        parts = [_fitted(row.name, name_width)]
        if bar >= _LEAST_BAR:
            filled = bar * row.percent // 100
            whole = styled("#" * filled, "green" if row.done else "bold")
            parts.append(whole + styled("." * (bar - filled), "faint"))
        parts += [
            row.cells[key].ljust(widths[key])
            if key == "reused"
            else row.cells[key].rjust(widths[key])
            for key in _SHOWN
            if key in kept and widths[key]
        ]
        lines.append((" " * _GAP).join(parts).rstrip())
    # On a terminal of a few columns even name and percent are too much.
    return [line if len(click.unstyle(line)) <= width else line[: max(width, 0)] for line in lines]


def _fitted(text: str, width: int) -> str:
    """`text` in `width` characters: its middle goes, as a name's ends tell more."""
    if len(text) <= width:
        return text.ljust(width)
    if width < 3:
        return text[:width]
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - tail :]}"


class Reporter:
    """Shows progress; call it with each Progress, and `close` it at the end."""

    _QUIET_SECONDS = 5.0

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._painted: list[int] = []  # widths of the lines that the next painting goes over
        self._said = time.monotonic()
        self._colour = colour_wanted(os.environ)

    def __call__(self, progress: Progress) -> None:
        """Show `progress`, the whole of it."""
        if self._quiet:
            return
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            columns, rows = shutil.get_terminal_size()
            lines = paint(progress, columns, rows)
            if self._colour is False:
                lines = list(map(click.unstyle, lines))
            self._write(
                self._back(columns) + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"
            )
            self._painted = [len(click.unstyle(line)) for line in lines]
        else:
            self._tell(progress)

    def _back(self, columns: int) -> str:
        """What goes to the beginning of what was painted.

        A terminal that has become narrower since has wrapped the lines.
        """
        up = sum(max(-(-width // max(columns, 1)), 1) for width in self._painted)
        return f"\x1b[{up}F" if up else ""

    def clear(self) -> None:
        """Take away what was painted, before something else is said; it is painted anew below."""
        if self._painted:
            self._write(self._back(shutil.get_terminal_size().columns) + "\x1b[J")
            self._painted = []

    def _write(self, text: str) -> None:
        # All at once, and not through click, which takes such codes out on what it thinks is none.
        sys.stderr.write(text)
        sys.stderr.flush()

    def _tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._said < self._QUIET_SECONDS and not progress.done:
            return
        self._said = now
        names = [str(one.release) for one in progress.transfers]
        click.echo(
            f"{clean(shortened(names, 1))}: {progress.percent}% of "
            f"{size_text(progress.total_bytes)}, {size_text(progress.bytes_per_second)}/s, "
            f"{time_text(progress.seconds_left)} left",
            err=True,
        )

    def close(self) -> None:
        """Leave what was painted as it is."""
        self._painted = []
