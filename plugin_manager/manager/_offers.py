"""What there is to have: of every plugin of the repository, what fits, and what is here. Offline.

What is installed, or was asked about by name, is told from its catalogue, which has all releases;
anything else from its publisher's index, which has the newest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import evolve
from packaging.version import Version

from plugin_manager._attrs import frozen
from plugin_manager.errors import (
    CorruptError,
    InvalidInputError,
    NotFoundError,
    PluginManagerError,
    UntrustedError,
)
from plugin_manager.model import Host, Platform, PluginName

if TYPE_CHECKING:
    from plugin_manager.catalogue import CatalogueEntry
    from plugin_manager.index import Index
    from plugin_manager.manifest import About
    from plugin_manager.store import Active
    from plugin_manager.trust import Trust, Vouching

__all__ = ["Offer", "Offered", "find", "index_faults", "offers", "search"]

_log = logging.getLogger("plugin_manager")


@frozen
class Offered:
    """One release: its bundle's size, why it was withdrawn ("": it was not), why it does not fit.

    `reasons` go on where the release's name ends: "needs host >= 4, this host is 3.9".
    """

    version: Version
    platform: Platform
    size_bytes: int
    yanked: str = ""
    blocked: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it can be installed here, as far as it alone is concerned."""
        return not (self.reasons or self.blocked or self.yanked)


@frozen
class Offer:
    """A plugin as it is offered here. `about` is written by its publisher: escape before display.

    `newest` is the best version that fits this host, pre-releases where there is nothing else;
    `newest_any` the newest that is not withdrawn, whether it fits or not. Where none fits,
    `reasons` are sentences that say why not. `yanked` and `blocked` are the publisher's reasons
    for having withdrawn the active release. `releases` are the newest first; `older` ones are
    known to be there besides. What a release requires of other plugins is left to an install.
    """

    plugin: PluginName
    about: About
    newest: Version | None = None
    newest_any: Version | None = None
    reasons: tuple[str, ...] = ()
    active: Active | None = None
    yanked: str = ""
    blocked: str = ""
    releases: tuple[Offered, ...] = ()
    older: int = 0

    @property
    def outdated(self) -> bool:
        """Whether a newer release than the active one fits."""
        return bool(self.active and self.newest and self.newest > self.active.release.version)


def offers(trust: Trust, installed: Mapping[PluginName, Active], host: Host) -> tuple[Offer, ...]:
    """Every plugin of the indexes that are here, and every one of `installed`, by name.

    One publisher's lapse hides its own offers only; of what is installed it becomes the reason.
    Raises what `Trust.local` raises, but where nothing was ever fetched, what is installed is all.
    """
    found: dict[PluginName, Offer] = {}
    try:
        vouching = trust.local()
    except NotFoundError as error:
        return tuple(_unknown(active, error) for _, active in sorted(installed.items()))
    for publisher in vouching.listed_publishers():
        index = _index(vouching, publisher)
        if isinstance(index, PluginManagerError):
            _log.warning("what %s offers is not known: %s", publisher, index)
            continue
        for listed in index.plugins:
            active = installed.get(listed.plugin)
            offer = _offer(listed.plugin, listed.about, listed.entries, active, host)
            found[listed.plugin] = evolve(offer, older=listed.older)
    for plugin, active in installed.items():
        try:
            found[plugin] = _of_catalogue(vouching, plugin, found.get(plugin), active, host)
        except PluginManagerError as error:
            found[plugin] = _unknown(active, error)
    return tuple(offer for _, offer in sorted(found.items()))


def index_faults(trust: Trust) -> tuple[PluginManagerError, ...]:
    """What is wrong with the indexes that are here; raises what `Trust.local` raises."""
    vouching = trust.local()
    found = (_index(vouching, publisher) for publisher in vouching.listed_publishers())
    return tuple(one for one in found if isinstance(one, PluginManagerError))


def _index(vouching: Vouching, publisher: str) -> Index | PluginManagerError:
    try:
        return vouching.index(publisher)
    except (UntrustedError, InvalidInputError, NotFoundError, CorruptError) as error:
        return error


def find(
    trust: Trust, installed: Mapping[PluginName, Active], host: Host, plugin: PluginName
) -> Offer:
    """The offer of `plugin` with all releases that are known here; raises NotFoundError."""
    offer = next((o for o in offers(trust, installed, host) if o.plugin == plugin), None)
    if offer is None or not offer.active:
        with suppress(NotFoundError):
            offer = _of_catalogue(trust.local(), plugin, offer, None, host)
    if offer is None:
        raise NotFoundError(
            f"nothing is known of {plugin}",
            plugin=str(plugin),
            remedy=f"Run 'pluginctl update', or 'pluginctl search {plugin.name}'.",
        )
    return offer


def search(found: Iterable[Offer], text: str) -> tuple[Offer, ...]:
    """Those of `found` that hold every word of `text`, in any case; the nearest first.

    A word in the name counts more than one in the summary, that more than one in the description.
    """
    words = text.casefold().split()
    ranked = [(rank, offer) for offer in found if (rank := _rank(offer, words)) is not None]
    return tuple(offer for _, offer in sorted(ranked, key=lambda one: (one[0], one[1].plugin)))


def _rank(offer: Offer, words: Sequence[str]) -> int | None:
    places = [
        text.casefold() for text in (offer.plugin.name, str(offer.plugin), offer.about.summary)
    ]
    places.append(offer.about.description.casefold())
    total = 0
    for word in words:
        ranks = [rank for rank, place in enumerate(places, start=1) if word in place]
        if not ranks:
            return None
        total += 0 if word in places[:2] else ranks[0]
    return total


def _of_catalogue(
    vouching: Vouching,
    plugin: PluginName,
    listed: Offer | None,
    active: Active | None,
    host: Host,
) -> Offer:
    from plugin_manager.manifest import About  # noqa: PLC0415 - not before something is vouched for

    catalogue = vouching.catalogue(plugin)
    about = listed.about if listed else About(summary=catalogue.summary)
    return _offer(plugin, about, catalogue.entries, active, host)


def _unknown(active: Active, error: PluginManagerError) -> Offer:
    from plugin_manager.manifest import About  # noqa: PLC0415 - as above

    return Offer(active.release.plugin, About(), reasons=(error.message,), active=active)


def _offer(
    plugin: PluginName,
    about: About,
    entries: Sequence[CatalogueEntry],
    active: Active | None,
    host: Host,
) -> Offer:
    releases = tuple(_offered(entry, host) for entry in reversed(entries))
    there = [one for one in releases if not (one.blocked or one.yanked)]
    newest = _newest(one for one in there if one.fits)
    newest_any = _newest(there)
    reasons: tuple[str, ...] = ()
    if newest is None:
        reasons = tuple(
            f"{plugin} {one.version} {reason}"
            for one in there
            if one.version == newest_any
            for reason in one.reasons
        ) or tuple(
            f"{plugin} {one.version} was {'blocked' if one.blocked else 'yanked'}: "
            f"{one.blocked or one.yanked}"
            for one in releases[:1]
        )
    current = next((entry for entry in entries if active and entry.release == active.release), None)
    mine = _offered(current, host) if current else None
    return Offer(
        plugin,
        about,
        newest,
        newest_any,
        reasons,
        active,
        mine.yanked if mine else "",
        mine.blocked if mine else "",
        releases,
    )


def _offered(entry: CatalogueEntry, host: Host) -> Offered:
    from plugin_manager import resolver  # noqa: PLC0415 - as above

    reason = entry.withdrawal.reason if entry.withdrawal else ""
    reason = reason or "no reason was given"
    return Offered(
        entry.release.version,
        entry.release.platform,
        entry.length,
        yanked=reason if entry.yanked else "",
        blocked=reason if entry.blocked else "",
        reasons=tuple(resolver.compatibility(entry.needs, entry.release.platform, host)),
    )


def _newest(found: Iterable[Offered]) -> Version | None:
    """PEP 440: pre-releases only where there is nothing else."""
    versions = [one.version for one in found]
    final = [version for version in versions if not version.is_prerelease]
    return max(final or versions, default=None)
