"""The index: what a publisher offers, in one file, for people who look. JSON, a TUF target.

    {"format": 1, "publisher": "acme", "shortened": false, "left_out": 0, "plugins": [
        {"name": "maps", "about": {as in the newest release's manifest},
         "releases": [{as in a catalogue}], "older": 3}]}

It tells what there is, of plugins that a client has no catalogue of; what gets installed, the
catalogue tells. It names the newest releases of each plugin, oldest first, and how many `older`
ones there are besides; plugins are in the order of their names. What would make it large is
shortened, the same way each time, until it is not; `left_out` plugins have no room at all. Who
looks for anything reads every publisher's index, so that none may take more than a moment.

Its path, `PUBLISHER/_index/plugins.json`, is one that a publisher's role covers (`PUBLISHER/*/*`)
and no plugin can have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise

from plugin_manager._attrs import frozen
from plugin_manager.catalogue import CatalogueEntry, entry_document, parse_entries
from plugin_manager.document import Document
from plugin_manager.errors import InvalidInputError
from plugin_manager.manifest import TELL_PUBLISHER, About
from plugin_manager.model import PluginName

__all__ = [
    "MAX_INDEX_BYTES",
    "MAX_PLUGINS",
    "MAX_RELEASES",
    "Index",
    "Listed",
    "index_path",
    "parse",
    "render",
]

FORMAT = 1
MAX_INDEX_BYTES = 4 * 1024 * 1024
MAX_PLUGINS = 10_000
MAX_RELEASES = 20_000  # of all plugins together
COMFORTABLE_BYTES = 1024 * 1024
"""What costs an update no time worth mentioning."""


@frozen
class _Detail:
    """How much an index tells of each plugin: versions, and characters of the description."""

    versions: int
    description: int


_DETAILS = (_Detail(20, 2_000), _Detail(5, 200), _Detail(1, 0))
_MAX_SHORT = 200  # characters of the other texts in the last detail
_ABOUT = ("summary", "description", "license", "homepage")


@frozen
class Listed:
    """A plugin as its publisher's index lists it: the newest of its releases, oldest first.

    There are `older` releases besides.
    """

    plugin: PluginName
    about: About
    entries: tuple[CatalogueEntry, ...] = ()
    older: int = 0


@frozen
class Index:
    """What a publisher offers, by name; `left_out` more plugins had no room.

    `shortened`: texts and releases are fewer than in a small index.
    """

    publisher: str
    plugins: tuple[Listed, ...] = ()
    left_out: int = 0
    shortened: bool = False


def index_path(publisher: str) -> str:
    """The TUF target path of a publisher's index."""
    return f"{publisher}/_index/plugins.json"


def render(publisher: str, plugins: Iterable[Listed]) -> bytes:
    """The index of all `plugins` with all their releases, shortened to what it may tell of them.

    The same bytes for equal plugins, whatever their order, and never more than `parse` takes.
    """
    ordered = sorted(plugins, key=lambda listed: listed.plugin)
    for detail in _DETAILS:
        shown = [_shown(listed, detail) for listed in ordered]
        lines = [_line(*pair, detail) for pair in zip(ordered, shown, strict=True)]
        if sum(map(len, lines)) <= COMFORTABLE_BYTES:
            break
    bytes_left, releases_left, fitting = MAX_INDEX_BYTES - 1_000, MAX_RELEASES, 0
    for line, entries in zip(lines[:MAX_PLUGINS], shown, strict=False):
        bytes_left -= len(line) + 2
        releases_left -= len(entries)
        if bytes_left < 0 or releases_left < 0:
            break
        fitting += 1
    start = json.dumps(
        {
            "format": FORMAT,
            "publisher": publisher,
            "shortened": detail is not _DETAILS[0],
            "left_out": len(lines) - fitting,
        }
    )
    return (
        start.removesuffix("}").encode()
        + b', "plugins": [\n'
        + b",\n".join(lines[:fitting])
        + b"\n]}\n"
    )


def _shown(listed: Listed, detail: _Detail) -> list[CatalogueEntry]:
    """The newest of its releases, oldest first."""
    entries = sorted(listed.entries, key=lambda entry: entry.release)
    versions = sorted({entry.release.version for entry in entries})[-detail.versions :]
    return [entry for entry in entries if entry.release.version in versions]


def _line(listed: Listed, shown: Sequence[CatalogueEntry], detail: _Detail) -> bytes:
    longest = {"description": detail.description}
    short = _MAX_SHORT if detail is _DETAILS[-1] else None
    about = {key: getattr(listed.about, key)[: longest.get(key, short)] for key in _ABOUT}
    document = {
        "name": listed.plugin.name,
        "about": {key: text for key, text in about.items() if text},
        "releases": [entry_document(entry) for entry in shown],
        "older": listed.older + len(listed.entries) - len(shown),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def parse(data: bytes, where: str = "plugins.json") -> Index:
    """The index in `data`; raises InvalidInputError naming `where` and every fault's place."""
    document = Document.of_json(data, where, most_bytes=MAX_INDEX_BYTES, remedy=TELL_PUBLISHER)
    document.check_format(FORMAT, where, remedy=TELL_PUBLISHER)
    publisher = document.parsed("publisher", lambda text: PluginName.parse_part(text, "publisher"))
    shortened, left_out = (
        document.boolean("shortened", default=False),
        document.integer("left_out", 0),
    )
    tables = list(document.tables("plugins"))
    _check_counts(tables, where)
    found = [_listed(item, publisher) for item in tables]
    plugins = sorted(
        (listed for listed in found if listed is not None), key=lambda listed: listed.plugin
    )
    for one, other in pairwise(plugins):
        if one.plugin == other.plugin:
            document.fault("plugins", f"{one.plugin} is listed twice")
    document.finish(where, remedy=TELL_PUBLISHER)
    assert publisher is not None  # or finish had raised
    return Index(publisher, tuple(plugins), left_out, shortened)


def _check_counts(plugins: Sequence[Document], where: str) -> None:
    lists = [item.value.get("releases") for item in plugins]
    releases = sum(len(found) for found in lists if isinstance(found, list))
    for count, most, what in (
        (len(plugins), MAX_PLUGINS, "plugins"),
        (releases, MAX_RELEASES, "releases"),
    ):
        if count > most:
            raise InvalidInputError(
                f"{where}: lists more than {most} {what}", where=where, remedy=TELL_PUBLISHER
            )


def _listed(document: Document, publisher: str | None) -> Listed | None:
    name = document.parsed("name", lambda text: PluginName.parse_part(text, "plugin"))
    plugin = PluginName(publisher, name) if publisher and name else None
    about = document.table("about")
    entries = parse_entries(document, plugin)
    older = document.integer("older", 0)
    if plugin is None:
        return None
    described = About(**{key: about.text(key, "") for key in _ABOUT})
    return Listed(plugin, described, entries, older)
