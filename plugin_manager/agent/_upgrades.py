"""Which newer releases are old enough to be taken unasked: pure.

A release is as old as the later of two moments says: when its publisher says that it was
published, and when this store first saw those very bytes listed. The first alone would be for who
has stolen the publisher's key to choose, and it is him that the waiting is against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from packaging.version import Version

from plugin_manager.catalogue import CatalogueEntry
from plugin_manager.errors import InvalidInputError
from plugin_manager.manager import Plan
from plugin_manager.model import PluginRequirement, Release

__all__ = ["newer_entries", "request_for", "requests_for"]


def newer_entries(entries: Iterable[CatalogueEntry], active: Release) -> list[CatalogueEntry]:
    """Those of `entries` that an upgrade of `active` would choose from."""
    return [
        entry
        for entry in entries
        if entry.release.version > active.version
        and entry.withdrawal is None
        and (active.version.is_prerelease or not entry.release.version.is_prerelease)
    ]


def request_for(
    active: Release, newer: Iterable[CatalogueEntry], is_old: Callable[[CatalogueEntry], bool]
) -> PluginRequirement | None:
    """What to ask for: anything newer than `active` that `is_old`; None where there is nothing.

    A version is old once all its releases are, whatever their platforms.
    """
    ages: dict[Version, bool] = {}
    for entry in newer:
        version = entry.release.version
        ages[version] = ages.get(version, True) and is_old(entry)
    old = [version for version, is_so in ages.items() if is_so]
    if not old:
        return None
    # What is asked for by a bound may have a local part, but a bound must not.
    newest = max(old)
    young = sorted(
        one
        for one, is_so in ages.items()
        if not is_so and (one < newest or one.public == newest.public)
    )
    bounds = [f">={active.version.public}", f"!={active.version}", f"<={newest.public}"]
    bounds += [f"!={version}" for version in young]
    try:
        return PluginRequirement.parse(f"{active.plugin}{','.join(bounds)}")
    except InvalidInputError:  # more exceptions than a specifier may hold
        return None


def requests_for(request: PluginRequirement, plan: Plan) -> tuple[str, ...]:
    """`request`, and each release that came along with it in `plan` in the version it has there.

    As they are recorded, so in order.
    """
    found = {str(request)}
    for step in plan.steps:
        if step.after and step.plugin != request.plugin and step.kind != "keep":
            # As bounds: what is pinned exactly would be taken also once it is withdrawn.
            version = step.after.release.version.public
            found.add(str(PluginRequirement.parse(f"{step.plugin}>={version},<={version}")))
    return tuple(sorted(found))
