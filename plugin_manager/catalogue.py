"""The catalogue: a plugin's releases, what each requires, what is withdrawn. JSON, a TUF target.

    {"format": 1, "plugin": "acme/maps", "summary": "...", "releases": [
        {"version": "2.1", "platform": "any", "published": "2026-11-20T12:00:00Z",
         "length": 1234, "content_length": 5678, "requires": {as in a manifest},
         "withdrawn": {"kind": "yanked" | "blocked", "reason": "..."}}]}

`length` is the bundle's, `content_length` that of its files, both in bytes. Releases are sorted,
oldest first. TUF clients cannot list targets, hence this file.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise

from attrs import field

from plugin_manager._attrs import frozen
from plugin_manager.document import Document
from plugin_manager.errors import BlockedError, InvalidInputError
from plugin_manager.manifest import TELL_PUBLISHER, parse_requires, requires_document
from plugin_manager.model import (
    ANY,
    HostNeeds,
    Platform,
    PluginName,
    PluginRequirement,
    Release,
    Withdrawal,
    WithdrawalKind,
    one_line,
    parse_version,
    utc_text,
)

__all__ = [
    "MAX_REASON",
    "Catalogue",
    "CatalogueEntry",
    "catalogue_path",
    "entry_document",
    "parse",
    "parse_entries",
    "render",
]

FORMAT = 1
MAX_REASON = 1_000  # characters
MAX_CATALOGUE_BYTES = 16 * 1024 * 1024


@frozen
class CatalogueEntry:
    """One release as its catalogue lists it; lengths in bytes, `published` aware."""

    release: Release
    length: int
    content_length: int
    published: datetime
    requirements: tuple[PluginRequirement, ...] = ()
    needs: HostNeeds = field(factory=HostNeeds)
    withdrawal: Withdrawal | None = None

    @property
    def blocked(self) -> bool:
        """Whether it refuses to install, load and be rolled back to."""
        return self.withdrawal is not None and self.withdrawal.kind is WithdrawalKind.BLOCKED

    @property
    def yanked(self) -> bool:
        """Whether it is picked only where pinned exactly."""
        return self.withdrawal is not None and self.withdrawal.kind is WithdrawalKind.YANKED

    def refuse_if_blocked(self) -> None:
        """Raise BlockedError with the publisher's reason where the release is blocked."""
        if self.blocked and self.withdrawal:
            release = self.release
            raise BlockedError(
                f"{release} was blocked by its publisher: {self.withdrawal.reason}",
                reason=self.withdrawal.reason,
                release=str(release),
                remedy=f"Upgrade {release.plugin}, or roll back to a release that is not blocked.",
            )


@frozen
class Catalogue:
    """All releases of a plugin, sorted by version, then platform."""

    plugin: PluginName
    summary: str = field(default="", converter=one_line)
    entries: tuple[CatalogueEntry, ...] = ()

    def entry(self, release: Release) -> CatalogueEntry | None:
        """The entry for `release`, or None where it is not listed."""
        return next((entry for entry in self.entries if entry.release == release), None)


def catalogue_path(plugin: PluginName) -> str:
    """The TUF target path of a plugin's catalogue."""
    return f"{plugin}/catalogue.json"


def render(catalogue: Catalogue) -> bytes:
    """The catalogue as bytes, the same for equal catalogues."""
    whole = {
        "format": FORMAT,
        "plugin": str(catalogue.plugin),
        "summary": catalogue.summary,
        "releases": [
            entry_document(entry)
            for entry in sorted(catalogue.entries, key=lambda entry: entry.release)
        ],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False).encode() + b"\n"


def entry_document(entry: CatalogueEntry) -> dict[str, object]:
    """A release as a catalogue writes it."""
    document: dict[str, object] = {
        "version": str(entry.release.version),
        "platform": str(entry.release.platform),
        "published": utc_text(entry.published),
        "length": entry.length,
        "content_length": entry.content_length,
        "requires": requires_document(entry.requirements, entry.needs),
    }
    if entry.withdrawal:
        document["withdrawn"] = {
            "kind": entry.withdrawal.kind.value,
            "reason": entry.withdrawal.reason,
        }
    return document


def parse(data: bytes, where: str = "catalogue.json") -> Catalogue:
    """The catalogue in `data`; raises InvalidInputError naming `where` and every fault's place."""
    document = Document.of_json(data, where, most_bytes=MAX_CATALOGUE_BYTES, remedy=TELL_PUBLISHER)
    document.check_format(FORMAT, where, remedy=TELL_PUBLISHER)
    plugin = document.parsed("plugin", PluginName.parse)
    summary = document.text("summary", "")
    entries = parse_entries(document, plugin)
    document.finish(where, remedy=TELL_PUBLISHER)
    assert plugin is not None  # or finish had raised
    return Catalogue(plugin, summary, entries)


def parse_entries(document: Document, plugin: PluginName | None) -> tuple[CatalogueEntry, ...]:
    """The `releases` of `plugin` in `document`, sorted, but for those with a fault."""
    found = [_entry(item, plugin) for item in document.tables("releases")]
    entries = sorted(filter(None, found), key=lambda entry: entry.release)
    for one, other in pairwise(entries):
        if one.release == other.release:
            document.fault("releases", f"{one.release} is listed twice")
    return tuple(entries)


def _entry(document: Document, plugin: PluginName | None) -> CatalogueEntry | None:
    version = document.parsed("version", parse_version)
    platform = document.parsed("platform", Platform.parse, ANY)
    requirements, needs = parse_requires(document.table("requires"))
    published = document.parsed("published", _moment)
    withdrawal = None
    if "withdrawn" in document.value:
        table = document.table("withdrawn")
        kind = table.parsed("kind", _kind)
        reason = table.text("reason", longest=MAX_REASON)
        withdrawal = Withdrawal(kind, reason) if kind else None
    length = document.integer("length", least=1)
    content_length = document.integer("content_length")
    if plugin is None or version is None or platform is None or published is None:
        return None
    return CatalogueEntry(
        release=Release(plugin, version, platform),
        length=length,
        content_length=content_length,
        published=published,
        requirements=requirements,
        needs=needs,
        withdrawal=withdrawal,
    )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        moment = None
    if moment is None or utc_text(moment) != text:  # one spelling a moment, in whole seconds
        raise InvalidInputError(f"{text!r} is not a time such as 2026-11-20T12:00:00Z")
    return moment


def _kind(text: str) -> WithdrawalKind:
    try:
        return WithdrawalKind(text)
    except ValueError as error:
        raise InvalidInputError(f"{text!r} is neither 'yanked' nor 'blocked'") from error
