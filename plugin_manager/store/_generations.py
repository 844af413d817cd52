"""Generations: immutable records of which release of each plugin is active, and the current one.

    generations/7.json   {"blake3":"<hex of all that follows this line>",
                         "record":{what was done, when, and what changed},
                         "active":[
                         {one release a line}
                         ]}
    current              a copy of the generation that is current, replaced by one rename

They are not signed (what they name is), but a flipped bit must be found: the first line is of one
fixed form and its digest covers the rest. And it must be mended without losing a change: so the
current generation is there twice. The record stands on a line of its own, so that a long history
can be listed without parsing what was active in each generation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

from attrs import field
from blake3 import blake3
from packaging.version import Version

from plugin_manager._attrs import frozen
from plugin_manager.errors import CorruptError, InvalidInputError
from plugin_manager.model import (
    Digest,
    Platform,
    PluginName,
    Release,
    parse_version,
    utc_text,
)

__all__ = [
    "EMPTY",
    "Active",
    "Change",
    "Generation",
    "Record",
    "lineages",
    "parse",
    "parse_record",
    "render",
    "unbroken",
]

T = TypeVar("T")

FORMAT = 2
MAX_NUMBER = 10**15  # of a generation: what a file's name holds
MAX_GENERATION_BYTES = 64 * 1024 * 1024
_REMEMBERED_RECORDS = 200  # one command looks at the history several times
_FIRST_LINE = re.compile(rb'\{"blake3":"([0-9a-f]{64})",\n')
_RECORD, _ACTIVE, _END = b'"record":', b'"active":[', b"]}\n"


@frozen
class Active:
    """A plugin's active release; `digest` names its head.

    `held`: upgrades leave it alone; `pinned`: eviction does. `failed`: newer versions that failed
    their trial here, and that upgrades pass over.
    """

    release: Release
    digest: Digest
    held: bool = False
    pinned: bool = False
    failed: tuple[Version, ...] = ()


@frozen
class Change:
    """What a generation changed for one plugin; None: not active."""

    plugin: PluginName
    before: Active | None
    after: Active | None


@frozen
class Record:
    """What made a generation; `action` says it in a few words."""

    number: int
    created: datetime
    action: str
    changes: tuple[Change, ...] = ()

    @property
    def changed_digests(self) -> set[Digest]:
        """The heads of all that its changes name, before and after."""
        ends = (one for change in self.changes for one in (change.before, change.after))
        return {one.digest for one in ends if one}


@frozen
class Generation(Record):
    """A record with which releases were active after it."""

    active: Mapping[PluginName, Active] = field(factory=dict)


EMPTY = Generation(0, datetime.fromtimestamp(0, UTC), "empty store")


def lineages(records: Iterable[Record]) -> dict[PluginName, list[Active]]:
    """What was ever active of each plugin, the last active first; `records` newest first."""
    found: dict[PluginName, dict[Digest, Active]] = {}
    for record in records:
        for change in record.changes:
            past = found.setdefault(change.plugin, {})
            for one in (change.after, change.before):
                if one is not None:
                    past.setdefault(one.digest, one)
    return {plugin: list(past.values()) for plugin, past in found.items()}


def unbroken(records: Sequence[Record]) -> bool:
    """Whether `records`, newest first, tell all that was active since the oldest of them.

    A damaged one that was set aside leaves a gap, going on after damage a record without changes.
    """
    first = records[0].number if records else 0
    return all(record.changes and record.number == first - i for i, record in enumerate(records))


def render(generation: Generation) -> bytes:
    """The generation as bytes, the same for equal generations."""
    record = {
        "format": FORMAT,
        "number": generation.number,
        "created": utc_text(generation.created),
        "action": generation.action,
        "changes": [
            {
                "plugin": str(change.plugin),
                **{
                    name: _fields(one)
                    for name, one in (("before", change.before), ("after", change.after))
                    if one is not None
                },
            }
            for change in generation.changes
        ],
    }
    lines = [
        _json({"plugin": str(plugin), **_fields(active)})
        for plugin, active in sorted(generation.active.items())
    ]
    separated = b",\n".join(lines) + (b"\n" if lines else b"")
    body = b"\n".join([_RECORD + _json(record) + b",", _ACTIVE, separated + _END])
    return b'{"blake3":"' + blake3(body).hexdigest().encode() + b'",\n' + body


def _fields(active: Active) -> dict[str, Any]:
    failed = {"failed": [str(version) for version in active.failed]} if active.failed else {}
    return {
        "version": str(active.release.version),
        "platform": str(active.release.platform),
        "head": str(active.digest),
        "held": active.held,
        "pinned": active.pinned,
        **failed,
    }


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def parse(data: bytes, where: str) -> Generation:
    """The generation in `data`; raises CorruptError naming `where` for any changed byte."""
    record = parse_record(data, where)
    try:
        active = {}
        for item in json.loads(data)["active"]:
            plugin = PluginName.parse(item["plugin"])
            active[plugin] = _active(item, plugin)
    except _MALFORMED as error:
        raise _corrupt(where) from error
    return Generation(record.number, record.created, record.action, record.changes, active)


def parse_record(data: bytes, where: str) -> Record:
    """The record in a generation's `data`, all of whose bytes are checked; raises CorruptError."""
    first = _FIRST_LINE.match(data)
    if not first or blake3(memoryview(data)[first.end() :]).hexdigest() != first[1].decode():
        raise _corrupt(where)
    try:
        return _record(data[first.end() : data.index(b"\n", first.end())])
    except _MALFORMED as error:
        raise _corrupt(where) from error


@lru_cache(_REMEMBERED_RECORDS)
def _record(line: bytes) -> Record:
    value = json.loads(line.removeprefix(_RECORD).removesuffix(b","))
    if value["format"] != FORMAT:
        raise ValueError
    return Record(
        number=_number(value["number"]),
        created=datetime.fromisoformat(value["created"]).astimezone(UTC),
        action=_typed(value["action"], str),
        changes=tuple(_change(item) for item in value["changes"]),
    )


# The digest has been checked, so what is malformed was written so: one look at each value will do.
_MALFORMED = (InvalidInputError, ValueError, LookupError, TypeError, OverflowError, RecursionError)


def _change(item: dict[str, Any]) -> Change:
    plugin = PluginName.parse(item["plugin"])
    before, after = item.get("before"), item.get("after")
    return Change(
        plugin,
        None if before is None else _active(before, plugin),
        None if after is None else _active(after, plugin),
    )


def _active(item: dict[str, Any], plugin: PluginName) -> Active:
    version, platform = parse_version(item["version"]), Platform.parse(item["platform"])
    digest = Digest.parse(item["head"])
    held, pinned = _typed(item["held"], bool), _typed(item["pinned"], bool)
    failed = tuple(
        parse_version(_typed(text, str)) for text in _typed(item.get("failed", []), list)
    )
    return Active(Release(plugin, version, platform), digest, held, pinned, failed)


def _number(value: object) -> int:
    if isinstance(value, bool) or not 0 <= _typed(value, int) < MAX_NUMBER:
        raise ValueError
    return _typed(value, int)


def _typed(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _corrupt(where: str) -> CorruptError:
    return CorruptError(
        f"{where} is damaged",
        paths=(where,),
        remedy="Run 'pluginctl repair' to go on from a good one.",
    )
