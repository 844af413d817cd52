"""The search for a set, and for the best of those that will do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

from attrs import evolve
from resolvelib.resolvers import Resolution, ResolutionImpossible, ResolutionTooDeep

from plugin_manager.catalogue import CatalogueEntry
from plugin_manager.errors import ConflictError, PluginManagerError
from plugin_manager.model import (
    PluginName,
    Release,
)
from plugin_manager.resolver._rules import (
    Conflicts,
    ImpossibleError,
    Provider,
    Requirement,
    Situation,
    too_entangled,
)

__all__ = ["look_ahead", "preferred", "search"]

MAX_ROUNDS = 5_000
"""A search that takes more steps is given up. Real ones take as many as there are plugins, and a
few."""

MAX_TRIES = 200
"""How many searches may be spent on bettering a set that already meets everything."""


def look_ahead(
    situation: Situation, prefetch: Callable[[Collection[PluginName]], Collection[PluginName]]
) -> dict[PluginName, CatalogueEntry] | None:
    """The set with the best of each plugin, if it is that simple; None where it takes a search.

    Level by level: what is asked for and what is installed, what the best of that requires, and so
    on; `prefetch` is told of each level. It takes a search where a requirement that came late would
    have changed a choice, and where anything is amiss, which a search may meet or get around. This
    takes as many steps as there are plugins; a search takes their square.
    """
    listings = situation.listings
    level = [*situation.asked, *listings.presence.values()]
    wishes: dict[PluginName, list[Requirement]] = {}
    found: dict[PluginName, CatalogueEntry] = {}

    def best(plugin: PluginName) -> CatalogueEntry:
        return situation.candidates(plugin, wishes[plugin])[0]

    with suppress(PluginManagerError, IndexError):
        while new := dict.fromkeys(one.plugin for one in level if one.plugin not in wishes):
            for requirement in level:
                wishes.setdefault(requirement.plugin, []).append(requirement)
            level = []
            for plugin in prefetch(new.keys()):
                entry = found[plugin] = best(plugin)
                level += listings.requirements(entry) if situation.usable(entry) else ()
        for requirement in level:
            wishes[requirement.plugin].append(requirement)
        if len(found) == len(wishes) and all(found[one] is best(one) for one in found):
            return found
    return None


def search(situation: Situation) -> dict[PluginName, CatalogueEntry]:
    """A set that meets everything; raises ImpossibleError, or ConflictError when it gives up.

    What it takes is spent from what `situation.listings` allows for all searches together.
    """
    conflicts = Conflicts()
    roots = [*situation.asked, *situation.listings.presence.values()]
    while True:
        try:
            # Not resolvelib's Resolver: it recurses for ever over a circle that a pin cut off.
            state = Resolution(Provider(situation), conflicts).resolve(roots, MAX_ROUNDS)
        except ResolutionImpossible as error:
            # What it could not revise any more: causes of one plugin, and of others behind it.
            last: dict[PluginName, list[Requirement]] = {}
            for cause in error.causes:
                last.setdefault(cause.requirement.plugin, []).append(cause.requirement)
            raise ImpossibleError([*conflicts.found, *last.values()]) from error
        except ResolutionTooDeep as error:
            raise too_entangled() from error
        found, strays = _needed(situation, state.mapping, roots)
        if not strays:
            return found
        situation = evolve(situation, excluded=situation.excluded | strays)


def _needed(
    situation: Situation,
    pinned: Mapping[PluginName, CatalogueEntry],
    roots: Iterable[Requirement],
) -> tuple[dict[PluginName, CatalogueEntry], frozenset[Release]]:
    """What of `pinned` is needed, and which releases of that may not be there.

    A search leaves behind what only discarded releases needed, and what only they permitted: a
    yanked release that one of them pinned, a pre-release that one of them named.
    """
    wishes: dict[PluginName, list[Requirement]] = {}
    waiting = list(roots)
    while waiting:
        requirement = waiting.pop()
        plugin = requirement.plugin
        entry = pinned[plugin]
        if plugin not in wishes and situation.usable(entry):
            waiting += situation.listings.requirements(entry)
        wishes.setdefault(plugin, []).append(requirement)
    strays = frozenset(
        pinned[plugin].release
        for plugin, requirements in wishes.items()
        if pinned[plugin] not in situation.candidates(plugin, requirements)
    )
    return {plugin: pinned[plugin] for plugin in wishes}, strays


def preferred(
    situation: Situation, found: dict[PluginName, CatalogueEntry]
) -> dict[PluginName, CatalogueEntry]:
    """`found`, bettered plugin by plugin: the newest for what shall move, no move for the rest.

    A search decides one plugin first and may revise that for a later one. So each is decided
    anew, in order of importance, by whether a set exists that gives it something better. Where the
    search was lucky, as it mostly is, that costs nothing.
    """
    asked = [request.plugin for request in situation.asked]
    listings = situation.listings
    upgraded = sorted(listings.moving.intersection(listings.installed))
    decided = dict(situation.fixed)
    tries = MAX_TRIES
    with suppress(ConflictError):  # what is found is good enough, and more would take too long
        for plugin in dict.fromkeys([*asked, *upgraded, *listings.presence]):
            for entry in situation.preferences(plugin):
                if entry == found[plugin] or tries == 0:
                    break
                tries -= 1
                with suppress(ImpossibleError):
                    found = search(evolve(situation, fixed={**decided, plugin: entry.release}))
                    break
            decided[plugin] = found[plugin].release
    return found
