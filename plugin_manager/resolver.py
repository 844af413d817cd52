"""Which releases shall be active together: pure, from catalogues and facts about the host.

The search is resolvelib's; versions and specifiers are packaging's (PEP 440). Here are the rules:
what may be picked, what stays where it is, and how a conflict is told to a person.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

from attrs import evolve, frozen
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from resolvelib import AbstractProvider, BaseReporter
from resolvelib.resolvers import Resolution, ResolutionImpossible, ResolutionTooDeep

from plugin_manager.catalogue import Catalogue, CatalogueEntry
from plugin_manager.errors import (
    ConflictError,
    IncompatibleHostError,
    NotFoundError,
    RefusedError,
)
from plugin_manager.model import (
    Host,
    HostNeeds,
    Platform,
    PluginName,
    PluginRequirement,
    Release,
)

if TYPE_CHECKING:
    from resolvelib.resolvers.criterion import Criterion

__all__ = ["Described", "check", "compatibility", "resolve"]

MAX_ROUNDS = 5_000
"""A search that takes more steps is given up: catalogues come from many hands, and could be made
to be searched for ever. Real ones take as many steps as there are plugins, and a few."""

MAX_TRIES = 200
"""How many searches may be spent on bettering a set that already meets everything."""

_MOST_REASONS = 10


class Described(Protocol):
    """What a Manifest and a CatalogueEntry both tell about a release."""

    @property
    def release(self) -> Release: ...  # noqa: D102 - the type says it
    @property
    def requirements(self) -> tuple[PluginRequirement, ...]: ...  # noqa: D102
    @property
    def needs(self) -> HostNeeds: ...  # noqa: D102


# --- does a release fit this host? ---------------------------------------------------------------


@frozen
class _Misfit:
    """One thing about the host that a release cannot live with."""

    fact: str
    need: str
    have: str
    text: str
    remedy: str

    def __str__(self) -> str:
        return self.text


def compatibility(needs: HostNeeds, platform: Platform, host: Host) -> list[str]:
    """Why a release does not fit `host`; empty where it fits.

    Each reason goes on where the release's name ends: "needs host >= 4, this host is 3.9".
    """
    return [str(misfit) for misfit in _misfits(needs, platform, host)]


def _misfits(needs: HostNeeds, platform: Platform, host: Host) -> Iterator[_Misfit]:
    if needs.host and (host.version is None or not _holds(needs.host, host.version)):
        have = "of unknown version" if host.version is None else str(host.version)
        need = _spelt(needs.host)
        text = f"needs host {need}, this host is {have}"
        unknown = "Tell the host's version (PLUGINCTL_HOST_VERSION)"
        remedy = unknown if host.version is None else "Upgrade the host"
        yield _Misfit("host", need, have, text, remedy)
    if not _holds(needs.python, host.python):
        need, have = _spelt(needs.python), str(host.python)
        text = f"needs Python {need}, this is Python {have}"
        yield _Misfit("python", need, have, text, "Run the host with another Python")
    if host.rank(platform) is None:
        text = f"is built for {platform}, which this Python cannot use"
        remedy = "Ask the publisher for a release for this platform"
        yield _Misfit("platform", platform, host.bytecode_tag, text, remedy)
    for fact, what, needed, had, remedy in (
        ("memory", "memory", needs.memory_bytes, host.memory_bytes, "Use a larger machine"),
        ("disk", "free disk", needs.disk_bytes, host.free_disk_bytes, "Free some disk space"),
    ):
        if had is not None and needed > had:
            text = f"needs {_size(needed)} of {what}, this machine has {_size(had)}"
            yield _Misfit(fact, str(needed), str(had), text, remedy)


def _holds(specifier: SpecifierSet, version: Version) -> bool:
    # A pre-release of the host or of Python is what is there, not a choice to be warned of.
    return specifier.contains(version, prereleases=True)


def _spelt(specifier: SpecifierSet) -> str:
    return ", ".join(
        f"{one.operator} {one.version}" for one in sorted(specifier, key=str, reverse=True)
    )


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


# --- the rules, as resolvelib asks for them ------------------------------------------------------


class _Origin(Enum):
    """Where a requirement comes from that no release makes."""

    ASKED = "asked for"
    INSTALLED = "installed"


@frozen
class _Requirement:
    plugin: PluginName
    specifier: SpecifierSet
    source: CatalogueEntry | _Origin

    def admits(self, release: Release) -> bool:
        return _holds(self.specifier, release.version)

    @property
    def pins(self) -> bool:
        """Whether it names one version exactly."""
        return any(
            one.operator == "===" or (one.operator == "==" and not one.version.endswith(".*"))
            for one in self.specifier
        )

    def __str__(self) -> str:
        return f"{self.plugin}{self.specifier}"


class _Listings:
    """What catalogues list, looked up once, in the order of preference for `host`."""

    def __init__(
        self,
        catalogue: Callable[[PluginName], Catalogue],
        installed: Mapping[PluginName, Release],
        host: Host,
    ) -> None:
        self._catalogue, self._installed, self._host = catalogue, installed, host
        self._entries: dict[PluginName, tuple[CatalogueEntry, ...]] = {}
        self._fit: dict[Release, bool] = {}

    def entries(self, plugin: PluginName) -> tuple[CatalogueEntry, ...]:
        """The newest first; of one version the installed, then what is made closest for the host.

        Raises NotFoundError, but not for what is installed: that is listed in any case.
        """
        if plugin not in self._entries:
            self._entries[plugin] = self._look_up(plugin)
        return self._entries[plugin]

    def _look_up(self, plugin: PluginName) -> tuple[CatalogueEntry, ...]:
        installed = self._installed.get(plugin)
        try:
            entries = list(self._catalogue(plugin).entries)
        except NotFoundError:
            if installed is None:
                raise
            entries = []
        if installed is not None and all(entry.release != installed for entry in entries):
            entries.append(_stand_in(installed))

        def closeness(entry: CatalogueEntry) -> tuple[bool, float, str]:
            rank = self._host.rank(entry.release.platform)
            worst = float("inf")
            platform = entry.release.platform
            return entry.release != installed, worst if rank is None else rank, platform

        entries.sort(key=closeness)
        entries.sort(key=lambda entry: entry.release.version, reverse=True)
        return tuple(entries)

    def fits(self, entry: CatalogueEntry) -> bool:
        """Whether `entry` fits the host."""
        if entry.release not in self._fit:
            misfits = _misfits(entry.needs, entry.release.platform, self._host)
            self._fit[entry.release] = not any(misfits)
        return self._fit[entry.release]

    def misfits(self, entry: CatalogueEntry) -> list[_Misfit]:
        """Why it does not."""
        return list(_misfits(entry.needs, entry.release.platform, self._host))


_NEVER = datetime.min.replace(tzinfo=UTC)


def _stand_in(release: Release) -> CatalogueEntry:
    """The entry of an installed release that its catalogue does not list any more."""
    return CatalogueEntry(release, length=0, content_length=0, published=_NEVER)


def _is_stand_in(entry: CatalogueEntry) -> bool:
    return entry.published == _NEVER


@frozen
class _Situation:
    """Everything that one search is about; does not change while it runs.

    `fixed` plugins have no choice; of `moving` ones the newest is wanted, of all others the
    installed release. `heed_host` False imagines a host that everything fits.
    """

    asked: tuple[_Requirement, ...]
    installed: Mapping[PluginName, Release]
    fixed: Mapping[PluginName, Release]
    moving: frozenset[PluginName]
    listings: _Listings
    heed_host: bool = True
    excluded: frozenset[Release] = frozenset()

    def is_installed(self, entry: CatalogueEntry) -> bool:
        return self.installed.get(entry.release.plugin) == entry.release

    def usable(self, entry: CatalogueEntry) -> bool:
        """Whether it would load, so that something new may rely on it."""
        if entry.blocked or _is_stand_in(entry):
            return False
        return not self.heed_host or self.listings.fits(entry)

    def satisfies(self, entry: CatalogueEntry, requirement: _Requirement) -> bool:
        if self.fixed.get(requirement.plugin, entry.release) != entry.release:
            return False
        if not _holds(requirement.specifier, entry.release.version):
            return False
        if self.usable(entry):
            return True
        # What is installed but would not load may stay as it is, so that it does not hinder other
        # plugins; but nothing is picked that relies on it.
        source = requirement.source
        stays = source is _Origin.INSTALLED or (
            isinstance(source, CatalogueEntry) and self.is_installed(source)
        )
        return stays and self.is_installed(entry)

    def candidates(
        self, plugin: PluginName, requirements: Sequence[_Requirement]
    ) -> list[CatalogueEntry]:
        """The entries that satisfy all `requirements`, the most wanted first."""
        # The search hands over requirements one by one; what was asked is known from the start.
        known = [*requirements, *(one for one in self.asked if one.plugin == plugin)]
        pinned = any(requirement.pins for requirement in known)
        found = [
            entry
            for entry in self.listings.entries(plugin)
            if entry.release not in self.excluded
            and (not entry.yanked or pinned or self.is_installed(entry))
            and all(self.satisfies(entry, requirement) for requirement in requirements)
        ]
        # PEP 440: pre-releases only where a specifier names one, or there is nothing else.
        if not any(requirement.specifier.prereleases for requirement in known) and any(
            not entry.release.version.is_prerelease for entry in found
        ):
            found = [
                entry
                for entry in found
                if not entry.release.version.is_prerelease or self.is_installed(entry)
            ]
        return sorted(found, key=self._rank)

    def preferences(self, plugin: PluginName) -> list[CatalogueEntry]:
        """What would be best for `plugin`, if nothing else were in the way."""
        if plugin in self.fixed:
            return []
        requirements = [request for request in self.asked if request.plugin == plugin]
        wanted = self.candidates(
            plugin, requirements or [_Requirement(plugin, SpecifierSet(), _Origin.INSTALLED)]
        )
        return wanted if plugin in self.moving else wanted[:1]

    def _rank(self, entry: CatalogueEntry) -> int:
        if self.is_installed(entry) and entry.release.plugin not in self.moving:
            # A blocked release would not load: that is worth an unasked move.
            return 3 if entry.blocked else 0
        return 1 if self.usable(entry) and self.listings.fits(entry) else 2


class _Provider(AbstractProvider[_Requirement, CatalogueEntry, PluginName]):
    def __init__(self, situation: _Situation) -> None:
        self._situation = situation

    def identify(self, requirement_or_candidate: _Requirement | CatalogueEntry) -> PluginName:
        if isinstance(requirement_or_candidate, _Requirement):
            return requirement_or_candidate.plugin
        return requirement_or_candidate.release.plugin

    def get_preference(
        self, identifier: PluginName, *_: object, **__: object
    ) -> tuple[int, PluginName]:
        """What was asked for is decided first, so that it gets the newest that fits."""
        situation = self._situation
        kinds = (situation.fixed, situation.moving, situation.installed)
        return next((n for n, kind in enumerate(kinds) if identifier in kind), 3), identifier

    def find_matches(
        self,
        identifier: PluginName,
        requirements: Mapping[PluginName, Iterator[_Requirement]],
        incompatibilities: Mapping[PluginName, Iterator[CatalogueEntry]],
    ) -> list[CatalogueEntry]:
        wanted = list(requirements[identifier])
        excluded = {entry.release for entry in incompatibilities[identifier]}
        try:
            found = self._situation.candidates(identifier, wanted)
        except NotFoundError as error:
            source = wanted[0].source
            if isinstance(source, CatalogueEntry):
                raise NotFoundError(
                    f"{error.message} (required by {_named(source)})",
                    remedy=error.remedy,
                    **error.context,
                ) from error
            raise
        return [entry for entry in found if entry.release not in excluded]

    def is_satisfied_by(self, requirement: _Requirement, candidate: CatalogueEntry) -> bool:
        return self._situation.satisfies(candidate, requirement)

    def get_dependencies(self, candidate: CatalogueEntry) -> list[_Requirement]:
        if not self._situation.usable(candidate):
            return []  # it stays, but will not load
        return [
            _Requirement(requirement.plugin, requirement.specifier, candidate)
            for requirement in candidate.requirements
        ]


class _Conflicts(BaseReporter[_Requirement, CatalogueEntry, PluginName]):
    """The sets of requirements that no release met, in the order the search came upon them."""

    def __init__(self) -> None:
        self.found: list[list[_Requirement]] = []

    def rejecting_candidate(
        self,
        criterion: Criterion[_Requirement, CatalogueEntry],
        candidate: CatalogueEntry,  # noqa: ARG002 - resolvelib passes it by name
    ) -> None:
        self.found.append(list(criterion.iter_requirement()))


class _ImpossibleError(Exception):
    def __init__(self, conflicts: list[list[_Requirement]]) -> None:
        super().__init__()
        self.conflicts = conflicts


# --- resolving -----------------------------------------------------------------------------------


def resolve(
    requests: Iterable[PluginRequirement],
    *,
    installed: Mapping[PluginName, Release],
    catalogue: Callable[[PluginName], Catalogue],
    host: Host,
    held: Collection[PluginName] = (),
    unheld: Collection[PluginName] = (),
    upgrade: Collection[PluginName] = (),
) -> dict[PluginName, CatalogueEntry]:
    """All that shall be active: what is requested, what that needs, and all that is installed.

    `requests` and installed plugins in `upgrade` get the newest release that fits. Every other
    installed plugin stays at its release unless that would be in the way, and `held` ones that are
    not `unheld` stay in any case; what moves is for the caller to see by comparison. Blocked
    releases are never picked, yanked ones only where pinned exactly or installed, pre-releases
    where a specifier names one or nothing else fits. Installed releases that would not load
    (blocked, unfit, no longer listed) stay as long as nothing new relies on them. `catalogue` is
    called at most once a plugin. Equal arguments give equal results, ordered by name.

    Raises RefusedError where a held plugin is requested at another version, IncompatibleHostError
    where nothing but the host is in the way, ConflictError for all other reasons; NotFoundError as
    `catalogue` raises it.
    """
    asked = tuple(_Requirement(one.plugin, one.specifier, _Origin.ASKED) for one in requests)
    fixed = {
        plugin: installed[plugin]
        for plugin in frozenset(held) - frozenset(unheld)
        if plugin in installed
    }
    for request in asked:
        if request.plugin in fixed:
            _refuse_held(request, fixed[request.plugin])
    situation = _Situation(
        asked=asked,
        installed=installed,
        fixed=fixed,
        moving=frozenset(request.plugin for request in asked) | frozenset(upgrade),
        listings=_Listings(catalogue, installed, host),
    )
    try:
        found = _search(situation)
    except _ImpossibleError:
        raise _explained(situation) from None
    found = _preferred(situation, found)
    return {plugin: found[plugin] for plugin in sorted(found)}


def _refuse_held(request: _Requirement, release: Release) -> None:
    if not _holds(request.specifier, release.version):
        raise RefusedError(
            f"{release.plugin} is held at {release.version}, so {request} is not installed",
            remedy=f"Run 'pluginctl unhold {release.plugin}' first.",
            plugin=str(release.plugin),
        )


def _search(situation: _Situation) -> dict[PluginName, CatalogueEntry]:
    """A set that meets everything; raises _ImpossibleError, or ConflictError when it gives up."""
    conflicts = _Conflicts()
    roots = [
        *situation.asked,
        *(
            _Requirement(plugin, SpecifierSet(), _Origin.INSTALLED)
            for plugin in sorted(situation.installed)
        ),
    ]
    while True:
        try:
            # Not resolvelib's Resolver: it recurses for ever over a circle that a pin cut off.
            state = Resolution(_Provider(situation), conflicts).resolve(roots, MAX_ROUNDS)
        except ResolutionImpossible as error:
            last = [information.requirement for information in error.causes]
            raise _ImpossibleError([*conflicts.found, last]) from error
        except ResolutionTooDeep as error:
            raise ConflictError(
                f"no set of releases was found in {MAX_ROUNDS} steps",
                remedy="Ask for exact versions, such as 'acme/maps==2.1'.",
            ) from error
        found, strays = _needed(situation, state.mapping, roots)
        if not strays:
            return found
        situation = evolve(situation, excluded=situation.excluded | strays)


def _needed(
    situation: _Situation,
    pinned: Mapping[PluginName, CatalogueEntry],
    roots: Iterable[_Requirement],
) -> tuple[dict[PluginName, CatalogueEntry], frozenset[Release]]:
    """What of `pinned` is needed, and which releases of that may not be there.

    A search leaves behind what only discarded releases needed, and what only they permitted: a
    yanked release that one of them pinned, a pre-release that one of them named.
    """
    wishes: dict[PluginName, list[_Requirement]] = {}
    waiting = list(roots)
    while waiting:
        requirement = waiting.pop()
        plugin = requirement.plugin
        entry = pinned[plugin]
        if plugin not in wishes and situation.usable(entry):
            waiting += (_Requirement(r.plugin, r.specifier, entry) for r in entry.requirements)
        wishes.setdefault(plugin, []).append(requirement)
    strays = frozenset(
        pinned[plugin].release
        for plugin, requirements in wishes.items()
        if pinned[plugin] not in situation.candidates(plugin, requirements)
    )
    return {plugin: pinned[plugin] for plugin in wishes}, strays


def _preferred(
    situation: _Situation, found: dict[PluginName, CatalogueEntry]
) -> dict[PluginName, CatalogueEntry]:
    """`found`, bettered plugin by plugin: the newest for what shall move, no move for the rest.

    A search decides one plugin first and may revise that for a later one. So each is decided
    anew, in order of importance, by whether a set exists that gives it something better. Where the
    search was lucky, as it mostly is, that costs nothing.
    """
    asked = [request.plugin for request in situation.asked]
    upgraded = sorted(situation.moving.intersection(situation.installed))
    decided = dict(situation.fixed)
    tries = MAX_TRIES
    for plugin in dict.fromkeys([*asked, *upgraded, *sorted(situation.installed)]):
        for entry in situation.preferences(plugin):
            if entry == found[plugin] or tries == 0:
                break
            tries -= 1
            try:
                found = _search(evolve(situation, fixed={**decided, plugin: entry.release}))
            except _ImpossibleError:
                continue
            except ConflictError:
                return found  # good enough, and more would take too long
            break
        decided[plugin] = found[plugin].release
    return found


# --- explaining ----------------------------------------------------------------------------------


def _named(entry: CatalogueEntry) -> str:
    return f"{entry.release.plugin} {entry.release.version}"


def _explained(situation: _Situation) -> ConflictError | IncompatibleHostError:
    """The error that says why `situation` has no solution."""
    imagined = evolve(situation, heed_host=False)
    try:
        found = _search(imagined)
    except _ImpossibleError as impossible:
        return _conflict(situation, imagined, impossible.conflicts)
    culprits = [entry for entry in found.values() if not situation.listings.fits(entry)]
    return _incompatible(situation, found, culprits) if culprits else _unexplained()


def _unexplained() -> ConflictError:
    return ConflictError("no set of releases meets everything that was asked for")


def _incompatible(
    situation: _Situation,
    imagined: Mapping[PluginName, CatalogueEntry],
    culprits: list[CatalogueEntry],
) -> IncompatibleHostError:
    """The error that names the `culprits`, which do not fit the host, in the set `imagined`."""
    # An installed release that does not fit is hardly the cause, unless there is no other.
    culprits.sort(key=lambda entry: (situation.is_installed(entry), entry.release))
    found = [(entry, misfit) for entry in culprits for misfit in situation.listings.misfits(entry)]
    reasons = tuple(
        f"{_why_wanted(situation, imagined, entry)}{_named(entry)} {misfit}"
        for entry, misfit in found
    )
    entry, misfit = found[0]
    return IncompatibleHostError(
        reasons[0],
        remedy=_either(misfit.remedy, *(f"install '{other}'" for other in _others(situation))),
        reasons=tuple(f"{reason}." for reason in reasons),
        release=str(entry.release),
        fact=misfit.fact,
        need=misfit.need,
        have=misfit.have,
    )


def _why_wanted(
    situation: _Situation, found: Mapping[PluginName, CatalogueEntry], entry: CatalogueEntry
) -> str:
    """The beginning of a sentence on who needs it, or "" where it was itself asked for."""
    plugin = entry.release.plugin
    if any(request.plugin == plugin for request in situation.asked):
        return ""
    for source in found.values():
        for requirement in source.requirements:
            if requirement.plugin == plugin:
                return f"{_named(source)} needs {requirement}, and "
    return ""


def _conflict(
    situation: _Situation, imagined: _Situation, conflicts: list[list[_Requirement]]
) -> ConflictError:
    """The error for a search that fails in `imagined` too, where the host is out of question."""
    sentences: dict[str, list[str]] = {}
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
        remedy=_either(*others, *ways_out),
    )


def _told(
    situation: _Situation, requirements: Sequence[_Requirement]
) -> tuple[str, list[str]] | None:
    """A sentence on why no release meets `requirements` of one plugin, and the ways out of it.

    None where some release does: then the cause is told elsewhere.
    """
    plugin = requirements[0].plugin
    free = evolve(situation, fixed={})
    relevant = sorted(
        {one for one in requirements if one.source is not _Origin.INSTALLED},
        key=lambda one: (_order(situation, one), str(one), str(one.source)),
    )
    is_fixed = plugin in situation.fixed
    # The fewest that cannot be met together tell it best.
    for count in range(1, len(relevant) + 1):
        for some in combinations(relevant, count):
            if not free.candidates(plugin, some):
                return _sentence(situation, plugin, some, held=False)
        if is_fixed:
            for some in combinations(relevant, count):
                if not situation.candidates(plugin, some):
                    return _sentence(situation, plugin, some, held=True)
    return None


def _order(situation: _Situation, requirement: _Requirement) -> int:
    """What is new, what is installed, what the user said."""
    if isinstance(requirement.source, CatalogueEntry):
        return 1 if situation.is_installed(requirement.source) else 0
    return 2


def _sentence(
    situation: _Situation, plugin: PluginName, some: Sequence[_Requirement], *, held: bool
) -> tuple[str, list[str]]:
    asked = {request.plugin for request in situation.asked}
    clauses = []
    ways_out = []
    for requirement in some:
        source = requirement.source
        if isinstance(source, CatalogueEntry):
            clauses.append(f"{_named(source)} needs {requirement}")
            if situation.is_installed(source) and source.release.plugin not in asked:
                ways_out.append(f"uninstall {source.release.plugin}")
        else:
            clauses.append(f"{requirement} was asked for")
    listed = [entry for entry in situation.listings.entries(plugin) if not _is_stand_in(entry)]
    matching = [
        entry
        for entry in listed
        if all(_holds(requirement.specifier, entry.release.version) for requirement in some)
    ]
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
    return f"{_named(entry)} is {entry.withdrawal.kind} by its publisher ({reason})"


def _others(situation: _Situation) -> list[str]:
    """What could be asked for instead, if any version would do."""
    anything = tuple(evolve(request, specifier=SpecifierSet()) for request in situation.asked)
    if anything == situation.asked:
        return []
    try:
        found = _search(evolve(situation, asked=anything))
    except (_ImpossibleError, ConflictError):
        return []
    others = []
    for request in situation.asked:
        version = found[request.plugin].release.version
        if _holds(request.specifier, version):
            continue
        wanted = [
            entry.release.version
            for entry in situation.listings.entries(request.plugin)
            if _holds(request.specifier, entry.release.version)
        ]
        below = wanted and version < min(wanted)
        others.append(
            f"{request.plugin}<{min(wanted)}" if below else f"{request.plugin}=={version}"
        )
    return others


def _either(*ways_out: str) -> str:
    """The ways out as one sentence; "" for none."""
    text = ", or ".join(dict.fromkeys(ways_out))
    return f"{text[0].upper()}{text[1:]}." if text else ""


# --- checking a given set ------------------------------------------------------------------------


def check(
    active: Mapping[PluginName, Described],
    host: Host,
    *,
    concerning: Collection[PluginName] | None = None,
) -> None:
    """Nothing, where the releases in `active` can be active together on `host`.

    Needs no catalogue, so it serves rollback and uninstalling offline. With `concerning`, only
    what these plugins need, and what others need of them, is judged: a fault elsewhere must not
    keep anyone from rolling back. Raises ConflictError, or IncompatibleHostError where nothing but
    the host is in the way.
    """
    conflicts: list[str] = []
    ways_out: list[str] = []
    misfits: list[tuple[Described, _Misfit]] = []
    for plugin, described in sorted(active.items()):
        name = f"{plugin} {described.release.version}"
        judged = concerning is None or plugin in concerning
        if judged:
            found = _misfits(described.needs, described.release.platform, host)
            misfits += [(described, misfit) for misfit in found]
        for requirement in described.requirements:
            if not judged and concerning is not None and requirement.plugin not in concerning:
                continue
            other = active.get(requirement.plugin)
            if other is None:
                conflicts.append(f"{name} needs {requirement}, but it would not be installed")
            elif not _holds(requirement.specifier, other.release.version):
                there = other.release.version
                conflicts.append(f"{name} needs {requirement}, but {there} would be active")
            else:
                continue
            ways_out.append(f"include {plugin} in the change")
    names = [f"{one.release.plugin} {one.release.version} {misfit}" for one, misfit in misfits]
    reasons = tuple(f"{text}." for text in (*conflicts, *names))
    if conflicts:
        raise ConflictError(conflicts[0], reasons=reasons, remedy=_either(ways_out[0]))
    if misfits:
        described, misfit = misfits[0]
        raise IncompatibleHostError(
            names[0],
            remedy=_either(misfit.remedy),
            reasons=reasons,
            release=str(described.release),
            fact=misfit.fact,
            need=misfit.need,
            have=misfit.have,
        )
