"""What an agent remembers from one run to the next, in a file that may be lost at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from attrs import Factory

from plugin_manager._attrs import frozen
from plugin_manager.document import Document
from plugin_manager.durable import TEMPORARY_PREFIX, read_regular, write_atomically
from plugin_manager.errors import CorruptError, InvalidInputError
from plugin_manager.model import Digest, PluginName, one_line, utc_text

__all__ = ["Record", "forget_temporary", "read", "write"]

_FORMAT = 1
_MOST_BYTES = 4 * 1024 * 1024
_MOST_FINDINGS, _MOST_TOLD = 100, 1000
_LONGEST_TEXT = 1000


@frozen
class Record:
    """When an agent did what. Everything in it may be missing, and then is done again.

    `since`, `doing`: of the run that wrote it. `scrub_begun`: of the scrub under way, and
    `scrub_done` the heads that it is through with; `findings` are the last one's, in sentences.
    `damaged` waits to be mended. `seen`: when this store first saw a release, by its head;
    `told`: what somebody was told already.
    """

    since: datetime | None = None
    doing: str = ""
    updated: datetime | None = None
    scrubbed: datetime | None = None
    scrub_begun: datetime | None = None
    scrub_done: tuple[Digest, ...] = ()
    findings: tuple[str, ...] = ()
    damaged: tuple[PluginName, ...] = ()
    collected: datetime | None = None
    seen: Mapping[Digest, datetime] = Factory(dict)
    told: tuple[str, ...] = ()

    def render(self) -> dict[str, Any]:
        """As a JSON value, bounded."""
        moments = {name: getattr(self, name) for name in _MOMENTS}
        return {
            "format": _FORMAT,
            **{name: utc_text(moment) if moment else "" for name, moment in moments.items()},
            "doing": self.doing[:_LONGEST_TEXT],
            "scrub_done": list(self.scrub_done),
            "findings": [one[:_LONGEST_TEXT] for one in self.findings[-_MOST_FINDINGS:]],
            "damaged": [str(plugin) for plugin in self.damaged],
            "seen": {digest: utc_text(moment) for digest, moment in self.seen.items()},
            "told": list(self.told[-_MOST_TOLD:]),
        }

    @classmethod
    def parse(cls, document: Document) -> Self:
        """The record in `document`; raises InvalidInputError."""
        where = "agent/state.json"
        document.check_format(_FORMAT, where)
        moments = {name: document.parsed(name, _moment, _NEVER) for name in _MOMENTS}
        seen = document.table("seen")
        record = cls(
            **{name: moment for name, moment in moments.items() if moment not in {None, _NEVER}},
            doing=one_line(document.text("doing", "", longest=_LONGEST_TEXT)),
            scrub_done=document.parsed_each("scrub_done", Digest.parse, []),
            findings=tuple(one_line(one) for one in document.texts("findings", [])),
            damaged=document.parsed_each("damaged", PluginName.parse, []),
            seen={
                Digest.parse(digest): moment
                for digest in seen.names()
                if (moment := seen.parsed(digest, _moment))
            },
            told=tuple(document.texts("told", [])),
        )
        document.finish(where)
        return record


_MOMENTS = ("since", "updated", "scrubbed", "scrub_begun", "collected")
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if text else _NEVER
    except (ValueError, OverflowError):
        raise InvalidInputError(f"{text!r} is not a moment") from None


def _path(store: Path) -> Path:
    return store / "agent" / "state.json"


def read(store: Path) -> Record:
    """The record of the store's agent; an empty one where it cannot be read."""
    with suppress(OSError, CorruptError, InvalidInputError, ValueError, RecursionError):
        data = read_regular(_path(store), _MOST_BYTES)
        return Record.parse(Document(json.loads(data)))
    return Record()


def write(store: Path, record: Record) -> None:
    """Keep `record`; raises OSError."""
    write_atomically(_path(store), json.dumps(record.render(), indent=1).encode())


def forget_temporary(store: Path) -> None:
    """Remove what a killed agent left half written; for its successor, once it has the lock."""
    with suppress(OSError):
        for path in (store / "agent").glob(f"{TEMPORARY_PREFIX}*"):
            path.unlink()
