r"""Generations: immutable records of which release of each plugin is active, and the `current` one.

    generations/7.json   {"blake3": hex of the rendered "generation", "generation": {...}}
    current              "7 <BLAKE3 of generations/7.json in hex>\n"; "0 ...": nothing yet

They are not signed (what they name is), but a flipped bit must be found: files are rendered in one
way only and must equal their own rendering, and each digest covers all below it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from attrs import field, frozen
from blake3 import blake3

from plugin_manager.document import Document
from plugin_manager.errors import CorruptError, InvalidInputError
from plugin_manager.manifest import release_of
from plugin_manager.model import Digest, PluginName, Release, utc_text

__all__ = ["EMPTY", "Active", "Generation", "parse", "parse_current", "render", "render_current"]

FORMAT = 1
MAX_GENERATION_BYTES = 64 * 1024 * 1024
_CURRENT = re.compile(rb"(0|[1-9][0-9]{0,15}) ([0-9a-f]{64})\n")


@frozen
class Active:
    """A plugin's active release; `digest` names its head; `held`: upgrades leave it alone."""

    release: Release
    digest: Digest
    held: bool = False


@frozen
class Generation:
    """Which releases are active; `action` says in a few words what made it."""

    number: int
    created: datetime
    action: str
    active: Mapping[PluginName, Active] = field(factory=dict)


EMPTY = Generation(0, datetime.fromtimestamp(0, UTC), "empty store")


def render(generation: Generation) -> bytes:
    """The generation as bytes, the same for equal generations."""
    value = {
        "format": FORMAT,
        "number": generation.number,
        "created": utc_text(generation.created),
        "action": generation.action,
        "active": [
            {
                "plugin": str(plugin),
                "version": str(active.release.version),
                "platform": str(active.release.platform),
                "head": str(active.digest),
                "held": active.held,
            }
            for plugin, active in sorted(generation.active.items())
        ],
    }
    text = json.dumps({"blake3": _digest(value), "generation": value}, indent=1)
    return text.encode() + b"\n"


def _digest(value: object) -> str:
    return blake3(json.dumps(value).encode()).hexdigest()


def parse(data: bytes, where: str) -> Generation:
    """The generation in `data`; raises CorruptError naming `where` for any changed byte."""
    try:
        outer = json.loads(data.decode())
        document = Document(outer["generation"])
        document.check_format(FORMAT, where)
        active = {}
        for item in document.tables("active"):
            release = release_of(item)
            digest = item.parsed("head", Digest.parse)
            if release and digest:
                active[release.plugin] = Active(release, digest, item.boolean("held"))
        created = datetime.strptime(document.text("created"), "%Y-%m-%dT%H:%M:%S%z")
        generation = Generation(
            number=document.integer("number"),
            created=created,
            action=document.text("action"),
            active=active,
        )
        document.finish(where)
        same = render(generation) == data
    except (
        InvalidInputError, ValueError, KeyError, TypeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise _corrupt(where) from error
    if not same:
        raise _corrupt(where)
    return generation


def render_current(number: int, generation_file: bytes) -> bytes:
    """The content of `current` that names the generation in `generation_file`."""
    return f"{number} {blake3(generation_file).hexdigest()}\n".encode()


def parse_current(data: bytes, where: str) -> tuple[int, str]:
    """The number and the file digest that `current` names; raises CorruptError."""
    match = _CURRENT.fullmatch(data)
    if not match:
        raise _corrupt(where)
    return int(match[1]), match[2].decode()


def _corrupt(where: str) -> CorruptError:
    return CorruptError(
        f"{where} is damaged",
        paths=(where,),
        remedy="Run 'pluginctl repair' to go on from a good one.",
    )
