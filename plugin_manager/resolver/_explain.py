"""Why there is no set, in sentences that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from attrs import evolve
from packaging.specifiers import SpecifierSet

from plugin_manager.catalogue import CatalogueEntry
from plugin_manager.errors import (
    ConflictError,
    IncompatibleHostError,
)
from plugin_manager.model import (
    PluginName,
)
from plugin_manager.resolver._fit import either, holds
from plugin_manager.resolver._rules import (
    ImpossibleError,
    Origin,
    Requirement,
    Situation,
    is_stand_in,
    named,
)
from plugin_manager.resolver._search import search

__all__ = ["explained"]

_MOST_REASONS = 10
_MOST_CLAUSES = 8


def explained(
    situation: Situation, conflicts: list[list[Requirement]]
) -> ConflictError | IncompatibleHostError:
    """The error that says why `situation` has no solution; `conflicts` are what its search met."""
    if situation.listings.all_fit:
        return _conflict(situation, situation, conflicts)
    imagined = evolve(situation, heed_host=False)
    try:
        found = search(imagined)
    except ImpossibleError as impossible:
        return _conflict(situation, imagined, impossible.conflicts)
    except ConflictError:
        return _unexplained()  # that there is no set is certain all the same
    culprits = [entry for entry in found.values() if not situation.listings.fits(entry)]
    return _incompatible(situation, found, culprits) if culprits else _unexplained()


def _unexplained() -> ConflictError:
    return ConflictError("no set of releases meets everything that was asked for")


def _incompatible(
    situation: Situation,
    imagined: Mapping[PluginName, CatalogueEntry],
    culprits: list[CatalogueEntry],
) -> IncompatibleHostError:
    """The error that names the `culprits`, which do not fit the host, in the set `imagined`."""
    # An installed release that does not fit is hardly the cause, unless there is no other.
    culprits.sort(key=lambda entry: (situation.is_installed(entry), entry.release))
    found = [
        (entry, misfit)
        for entry in culprits[:_MOST_REASONS]
        for misfit in situation.listings.misfits(entry)
    ]
    reasons = tuple(
        f"{_why_wanted(situation, imagined, entry)}{named(entry)} {misfit}"
        for entry, misfit in found
    )
    entry, misfit = found[0]
    return IncompatibleHostError(
        reasons[0],
        remedy=either(misfit.remedy, *(f"install '{other}'" for other in _others(situation))),
        reasons=tuple(f"{reason}." for reason in reasons),
        release=str(entry.release),
        fact=misfit.fact,
        need=misfit.need,
        have=misfit.have,
    )


def _why_wanted(
    situation: Situation, found: Mapping[PluginName, CatalogueEntry], entry: CatalogueEntry
) -> str:
    """The beginning of a sentence on who needs it, or "" where it was itself asked for."""
    plugin = entry.release.plugin
    if any(request.plugin == plugin for request in situation.asked):
        return ""
    for source in found.values():
        for requirement in source.requirements:
            if requirement.plugin == plugin:
                return f"{named(source)} needs {requirement}, and "
    return ""


def _conflict(
    situation: Situation, imagined: Situation, conflicts: list[list[Requirement]]
) -> ConflictError:
    """The error for a search that fails in `imagined` too, where the host is out of question."""
    sentences: dict[str, list[str]] = {}
    with suppress(ConflictError):  # too entangled to tell more
        for requirements in conflicts:
            told = _told(imagined, requirements)
            if told is not None:
                sentences.setdefault(*told)
            if len(sentences) == _MOST_REASONS:
                break
    if not sentences:
        return _unexplained()
    message, ways_out = next(iter(sentences.items()))
    others = [f"ask for '{other}'" for other in _others(situation)]
    return ConflictError(
        message,
        reasons=tuple(f"{sentence}." for sentence in sentences),
        remedy=either(*others, *ways_out),
    )


def _told(
    situation: Situation, requirements: Sequence[Requirement]
) -> tuple[str, list[str]] | None:
    """A sentence on why no release meets `requirements` of one plugin, and the ways out of it.

    None where some release does: then the cause is told elsewhere.
    """
    plugin = requirements[0].plugin
    free = evolve(situation, fixed={})
    relevant = sorted(
        (one for one in requirements if one.source is not Origin.INSTALLED),
        key=lambda one: (_order(situation, one), str(one), _said_by(one)),
    )
    some = _fewest(free, plugin, relevant)
    if some:
        return _sentence(situation, plugin, some, held=False)
    if plugin in situation.fixed:
        some = _fewest(situation, plugin, relevant)
        if some:
            return _sentence(situation, plugin, some, held=True)
    return None


def _fewest(
    situation: Situation, plugin: PluginName, requirements: Sequence[Requirement]
) -> list[Requirement]:
    """Some of `requirements` that no release meets together, each of them needed for that.

    One that is impossible alone, or else the earliest; empty where some release meets all. Asks
    no more than twice per requirement: the very fewest would be among all subsets.
    """
    for one in requirements:
        if not situation.candidates(plugin, [one]):
            return [one]
    needed = list(requirements)
    if situation.candidates(plugin, needed):
        return []
    for one in reversed(requirements):
        others = [other for other in needed if other is not one]
        if not situation.candidates(plugin, others):
            needed = others
    return needed


def _said_by(requirement: Requirement) -> str:
    source = requirement.source
    return named(source) if isinstance(source, CatalogueEntry) else ""


def _order(situation: Situation, requirement: Requirement) -> int:
    """What is new, what is installed, what the user said."""
    if isinstance(requirement.source, CatalogueEntry):
        return 1 if situation.is_installed(requirement.source) else 0
    return 2


def _sentence(
    situation: Situation, plugin: PluginName, some: Sequence[Requirement], *, held: bool
) -> tuple[str, list[str]]:
    asked = {request.plugin for request in situation.asked}
    clauses = []
    ways_out = []
    for requirement in some[:_MOST_CLAUSES]:
        source = requirement.source
        if isinstance(source, CatalogueEntry):
            clauses.append(f"{named(source)} needs {requirement}")
            if situation.is_installed(source) and source.release.plugin not in asked:
                ways_out.append(f"uninstall {source.release.plugin}")
        else:
            clauses.append(f"{requirement} was asked for")
    if len(some) > _MOST_CLAUSES:
        clauses.append(f"there are {len(some) - _MOST_CLAUSES} more requirements of {plugin}")
    listings = situation.listings
    listed = [one for one in listings.listing(plugin).newest_first if not is_stand_in(one)]
    meeting = [listings.meeting(requirement) for requirement in some]
    matching = [entry for entry in listed if all(listings.contains(m, entry) for m in meeting)]
    if held:
        clauses.append(f"{plugin} is held at {situation.fixed[plugin].version}")
        ways_out.append(f"run 'pluginctl unhold {plugin}'")
    elif matching:
        clauses.append(_withdrawn(matching[0]))
        if matching[0].yanked and len(some) == 1:
            ways_out.append(
                f"pin '{plugin}=={matching[0].release.version}' to have it all the same"
            )
    elif not listed:
        clauses.append("it has no releases")
    elif len(some) == 1:
        newest = listed[0].release.version
        clauses.append(f"there is no such release: the newest is {newest}")
    *first, last = clauses
    return f"{', '.join(first)}, but {last}", ways_out


def _withdrawn(entry: CatalogueEntry) -> str:
    assert entry.withdrawal is not None  # or it would have been a candidate
    # The publisher's own words: one line, and not a long one.
    reason = "".join(filter(str.isprintable, " ".join(entry.withdrawal.reason.split())))[:200]
    if entry.withdrawal.local:
        return f"{named(entry)} {reason}"
    return f"{named(entry)} is {entry.withdrawal.kind} by its publisher ({reason})"


def _others(situation: Situation) -> list[str]:
    """What could be asked for instead, if any version would do."""
    anything = tuple(evolve(request, specifier=SpecifierSet()) for request in situation.asked)
    if anything == situation.asked:
        return []
    try:
        found = search(evolve(situation, asked=anything))
    except (ImpossibleError, ConflictError):
        return []
    others = []
    for request in situation.asked:
        version = found[request.plugin].release.version
        if holds(request.specifier, version):
            continue
        wanted = [
            entry.release.version
            for entry in situation.listings.listing(request.plugin).newest_first
            if holds(request.specifier, entry.release.version)
        ]
        below = wanted and version < min(wanted)
        others.append(
            f"{request.plugin}<{min(wanted)}" if below else f"{request.plugin}=={version}"
        )
    return others
