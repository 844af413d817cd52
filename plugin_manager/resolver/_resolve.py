"""Resolving: requests and what is installed in, one release a plugin out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from plugin_manager.catalogue import Catalogue, CatalogueEntry
from plugin_manager.errors import RefusedError
from plugin_manager.model import Host, PluginName, PluginRequirement, Release
from plugin_manager.resolver._explain import explained
from plugin_manager.resolver._fit import holds
from plugin_manager.resolver._rules import (
    ImpossibleError,
    Listings,
    Origin,
    Requirement,
    Situation,
)
from plugin_manager.resolver._search import look_ahead, preferred, search

__all__ = ["resolve"]


def resolve(
    requests: Iterable[PluginRequirement],
    *,
    installed: Mapping[PluginName, Release],
    catalogue: Callable[[PluginName], Catalogue],
    host: Host,
    held: Collection[PluginName] = (),
    upgrade: Collection[PluginName] = (),
    prefetch: Callable[[Collection[PluginName]], Collection[PluginName]] = lambda some: some,
) -> dict[PluginName, CatalogueEntry]:
    """All that shall be active: what is requested, what that needs, and all that is installed.

    `requests` and installed plugins in `upgrade` get the newest release that fits. Every other
    installed plugin stays at its release unless that would be in the way, and `held` ones stay in
    any case; what moves is for the caller to see by comparison. Blocked releases are never picked,
    yanked ones only where pinned exactly or installed, pre-releases where a specifier names one or
    nothing else fits. Installed releases that would not load (blocked, unfit, no longer listed)
    stay as long as nothing new relies on them. `catalogue` is not called again for a plugin once it
    has answered. `prefetch` is told, several at a time, of plugins that `catalogue` is likely to be
    asked for, and says which of them it can answer for without delay; results do not depend on it.
    Equal arguments give equal results, ordered by name.

    Raises RefusedError where a held plugin is requested at another version, IncompatibleHostError
    where nothing but the host is in the way, ConflictError for all other reasons, also where the
    search would take too long; NotFoundError as `catalogue` raises it. Whatever catalogues hold,
    the work is bounded, in steps and not in time; where only the bettering of a set would go beyond
    that, it is given as it is.
    """
    asked = tuple(Requirement(one.plugin, one.specifier, Origin.ASKED) for one in requests)
    fixed = {plugin: installed[plugin] for plugin in held if plugin in installed}
    for request in asked:
        if request.plugin in fixed:
            _refuse_held(request, fixed[request.plugin])
    moving = frozenset(request.plugin for request in asked) | frozenset(upgrade)
    situation = Situation(
        asked=asked,
        fixed=fixed,
        listings=Listings(catalogue, installed, moving, host),
    )
    try:
        found = look_ahead(situation, prefetch) or search(situation)
    except ImpossibleError as impossible:
        raise explained(situation, impossible.conflicts) from None
    found = preferred(situation, found)
    return {plugin: found[plugin] for plugin in sorted(found)}


def _refuse_held(request: Requirement, release: Release) -> None:
    if not holds(request.specifier, release.version):
        raise RefusedError(
            f"{release.plugin} is held at {release.version}, so {request} is not installed",
            remedy=f"Run 'pluginctl unhold {release.plugin}' first.",
            plugin=str(release.plugin),
        )
