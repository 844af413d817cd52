"""What has happened in a store, for people to read: one line of JSON for each event.

    index/activity.jsonl     the newest events; index/activity.1.jsonl those before them

Bounded, appended to by every process, and relied on by nobody: a line that cannot be written is
lost, one that cannot be read is skipped.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from plugin_manager._attrs import frozen
from plugin_manager.durable import is_real_directory, read_regular
from plugin_manager.errors import CorruptError
from plugin_manager.model import PluginName, one_line, utc_text

if os.name == "posix":
    import fcntl

__all__ = ["Activity", "ActivityLog"]

_MOST_FILE_BYTES = 256 * 1024
_MOST_READ_BYTES = 2 * _MOST_FILE_BYTES  # others may have written before it was set aside
_LONGEST_TEXT = 1000
_KIND = re.compile(r"[a-z][a-z-]{0,29}", re.ASCII)


@frozen
class Activity:
    """One event: `kind` is a word such as `installed`; `plugin` None where it concerns them all.

    `text` is a line of somebody else's making, not to be obeyed by a terminal or a page.
    """

    when: datetime
    kind: str
    plugin: PluginName | None
    text: str


class ActivityLog:
    """The activities of the store in `directory`; from any thread and process, without a lock."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "index" / "activity.jsonl"
        self._before = directory / "index" / "activity.1.jsonl"

    def record(self, kind: str, plugin: PluginName | None, text: str, when: datetime) -> None:
        """Note an event, if it can be noted: never raises, never waits."""
        value = {
            "when": utc_text(when),
            "kind": kind,
            "plugin": str(plugin or ""),
            "text": one_line(text)[:_LONGEST_TEXT],
        }
        if not is_real_directory(self._path.parent):  # a link would lead elsewhere
            return
        with suppress(OSError, ValueError):
            self._append(json.dumps(value).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(self._path, flags | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                os.write(descriptor, line)  # in one piece: lines of several writers do not mix
                if status.st_size + len(line) > _MOST_FILE_BYTES:
                    self._set_aside(descriptor)
        finally:
            os.close(descriptor)

    def _set_aside(self, descriptor: int) -> None:
        if os.name == "posix":
            # Two who find it full at once: the second must not set the next one aside as well.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), self._path.lstat()):
            self._path.replace(self._before)

    def read(self, limit: int = 100) -> list[Activity]:
        """The newest `limit` events at most, the newest first."""
        found: list[Activity] = []
        for path in (self._path, self._before):
            lines: list[bytes] = []
            with suppress(OSError, CorruptError):
                lines = read_regular(path, _MOST_READ_BYTES).splitlines()
            for activity in _parsed(reversed(lines)):
                if len(found) >= limit:
                    return found
                found.append(activity)
        return found


def _parsed(lines: Iterator[bytes]) -> Iterator[Activity]:
    for line in lines:
        with suppress(Exception):  # whatever somebody wrote there
            value = json.loads(line)
            when = datetime.fromisoformat(value["when"]).astimezone(UTC)
            plugin = PluginName.parse(value["plugin"]) if value["plugin"] else None
            if _KIND.fullmatch(value["kind"]):
                text = one_line(value["text"])[:_LONGEST_TEXT]
                text.encode()  # halves of surrogate pairs are fit for nothing
                yield Activity(when, value["kind"], plugin, text)
