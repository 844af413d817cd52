"""The rules of choosing, as resolvelib's search asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING

from attrs import field
from packaging.specifiers import SpecifierSet
from resolvelib import (
    AbstractProvider,
    BaseReporter,
)

from plugin_manager._attrs import frozen
from plugin_manager.catalogue import Catalogue, CatalogueEntry
from plugin_manager.errors import (
    ConflictError,
    NotFoundError,
)
from plugin_manager.model import (
    Host,
    PluginName,
    Release,
)
from plugin_manager.resolver._fit import Misfit, holds, misfits_of

if TYPE_CHECKING:
    from resolvelib.resolvers.criterion import Criterion

__all__ = [
    "Conflicts",
    "ImpossibleError",
    "Listings",
    "Origin",
    "Provider",
    "Requirement",
    "Situation",
    "is_stand_in",
    "named",
]


class Origin(Enum):
    """Where a requirement comes from that no release makes."""

    ASKED = "asked for"
    INSTALLED = "installed"


@frozen(eq=False, slots=False)
class Requirement:
    """What `source` asks of `plugin`. Each is itself only, so that it is a quick key."""

    plugin: PluginName
    specifier: SpecifierSet
    source: CatalogueEntry | Origin

    @cached_property
    def pins(self) -> bool:
        """Whether it names one version exactly."""
        return any(
            one.operator == "===" or (one.operator == "==" and not one.version.endswith(".*"))
            for one in self.specifier
        )

    @cached_property
    def names_pre_release(self) -> bool:
        """Whether its specifier names a pre-release (PEP 440: then they may be picked)."""
        return bool(self.specifier.prereleases)

    def __str__(self) -> str:
        return f"{self.plugin}{self.specifier}"


class Listing:
    """The entries of one plugin, the most wanted first.

    A set of them is a number whose bit n stands for entry n: nearly all of a search is asking
    which entries are in several sets at once, and `&` answers that.
    """

    def __init__(
        self,
        newest_first: Sequence[CatalogueEntry],
        *,
        installed: Release | None,
        moving: bool,
        host: Host,
    ) -> None:
        unfit = {
            entry.release
            for entry in newest_first
            if any(misfits_of(entry.needs, entry.release.platform, host))
        }

        def rank(entry: CatalogueEntry) -> int:
            if entry.release == installed and not moving:
                # A blocked release would not load: that is worth an unasked move.
                return 3 if entry.blocked else 0
            return 1 if _loads(entry) and entry.release not in unfit else 2

        self.newest_first = tuple(newest_first)
        self.entries = tuple(sorted(newest_first, key=rank))
        self._positions = {entry.release: n for n, entry in enumerate(self.entries)}
        self.installed = 0 if installed is None else self.only(installed)
        self.yanked = self.those(lambda entry: entry.yanked)
        self.pre_releases = self.those(lambda entry: entry.release.version.is_prerelease)
        self.loading = self.those(_loads)
        self.fitting = self.those(lambda entry: entry.release not in unfit)
        self.all_fit = not unfit

    def those(self, test: Callable[[CatalogueEntry], bool]) -> int:
        """The set of entries that pass `test`."""
        return int("".join("01"[test(entry)] for entry in reversed(self.entries)) or "0", 2)

    def only(self, release: Release) -> int:
        """The set of `release` alone; empty where it is not listed."""
        position = self._positions.get(release)
        return 0 if position is None else 1 << position

    def members(self, some: int) -> list[CatalogueEntry]:
        """The entries of the set `some`, the most wanted first."""
        return list(compress(self.entries, map(int, reversed(f"{some:b}"))))


MAX_EVALUATIONS = 2_000_000
"""How often, in all searches for one answer together, a release may be held against what it should
meet: catalogues come from many hands, and could be made to be searched for ever. A hundred plugins
of twenty releases each take fifty thousand, a thousand installed ones one and a half million; a
second is enough for half a million (all measured)."""


def too_entangled() -> ConflictError:
    """The error for a search that was given up."""
    return ConflictError(
        "what was asked for and what is installed are too entangled: the search for a set of "
        "releases was given up",
        remedy="Ask for exact versions, such as 'acme/maps==2.1', or for fewer plugins at once.",
    )


class Listings:
    """What catalogues list, looked up once, and how much may still be spent on asking.

    What does not change between the searches for one answer is here: plugins `moving` shall have
    the newest, the others stay at what is `installed` where they can.
    """

    def __init__(
        self,
        catalogue: Callable[[PluginName], Catalogue],
        installed: Mapping[PluginName, Release],
        moving: frozenset[PluginName],
        host: Host,
    ) -> None:
        self._catalogue, self._host = catalogue, host
        self.installed, self.moving = installed, moving
        self.presence = {
            plugin: Requirement(plugin, SpecifierSet(), Origin.INSTALLED)
            for plugin in sorted(installed)
        }
        self._evaluations_left = MAX_EVALUATIONS
        self._listings: dict[PluginName, Listing] = {}
        self._requirements: dict[int, tuple[Requirement, ...]] = {}
        self._meeting: dict[Requirement, int] = {}
        # By identity: an entry's own hash is that of all it holds. Each is kept in `_listings`.
        self._positions: dict[int, int] = {}

    def spend(self, evaluations: int) -> None:
        """Count what is about to be done; raises ConflictError where that is too much."""
        self._evaluations_left -= evaluations
        if self._evaluations_left < 0:
            raise too_entangled()

    def listing(self, plugin: PluginName) -> Listing:
        """What is listed of `plugin`.

        Raises NotFoundError, but not for what is installed: that is listed in any case.
        """
        found = self._listings.get(plugin)
        if found is None:
            entries = self._look_up(plugin)
            self.spend(len(entries))
            found = self._listings[plugin] = Listing(
                entries,
                installed=self.installed.get(plugin),
                moving=plugin in self.moving,
                host=self._host,
            )
            self._positions.update((id(entry), n) for n, entry in enumerate(found.entries))
        return found

    def _look_up(self, plugin: PluginName) -> list[CatalogueEntry]:
        """The newest first; of one version the installed, then what the host prefers."""
        installed = self.installed.get(plugin)
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
        return entries

    def requirements(self, entry: CatalogueEntry) -> tuple[Requirement, ...]:
        """What `entry` requires, each time the same objects."""
        found = self._requirements.get(id(entry))
        if found is None:
            found = self._requirements[id(entry)] = tuple(
                Requirement(one.plugin, one.specifier, entry) for one in entry.requirements
            )
        return found

    def meeting(self, requirement: Requirement) -> int:
        """The set of entries whose version meets `requirement`."""
        found = self._meeting.get(requirement)
        if found is None:
            listing, specifier = self.listing(requirement.plugin), requirement.specifier
            self.spend(len(listing.entries) * max(1, len(specifier)))
            found = self._meeting[requirement] = listing.those(
                lambda entry: holds(specifier, entry.release.version)
            )
        return found

    def contains(self, some: int, entry: CatalogueEntry) -> bool:
        """Whether `entry` is in the set `some` of its plugin."""
        return bool(some >> self._positions[id(entry)] & 1)

    @property
    def all_fit(self) -> bool:
        """Whether all that was looked up so far fits the host."""
        return all(listing.all_fit for listing in self._listings.values())

    def fits(self, entry: CatalogueEntry) -> bool:
        """Whether `entry` fits the host."""
        return self.contains(self.listing(entry.release.plugin).fitting, entry)

    def misfits(self, entry: CatalogueEntry) -> list[Misfit]:
        """Why it does not."""
        return list(misfits_of(entry.needs, entry.release.platform, self._host))


_NEVER = datetime.min.replace(tzinfo=UTC)


def _stand_in(release: Release) -> CatalogueEntry:
    """The entry of an installed release that its catalogue does not list any more."""
    return CatalogueEntry(release, length=0, content_length=0, published=_NEVER)


def is_stand_in(entry: CatalogueEntry) -> bool:
    return entry.published == _NEVER


def _loads(entry: CatalogueEntry) -> bool:
    """Whether it would load on a host that it fits."""
    return not entry.blocked and not is_stand_in(entry)


@frozen
class Situation:
    """Everything that one search is about; does not change while it runs.

    `fixed` plugins have no choice. `heed_host` False imagines a host that everything fits.
    """

    asked: tuple[Requirement, ...]
    fixed: Mapping[PluginName, Release]
    listings: Listings
    heed_host: bool = True
    excluded: frozenset[Release] = frozenset()
    _admitted: dict[Requirement, int] = field(factory=dict, init=False)

    def asked_of(self, plugin: PluginName) -> list[Requirement]:
        """What was asked for of `plugin` itself."""
        return [request for request in self.asked if request.plugin == plugin]

    def is_installed(self, entry: CatalogueEntry) -> bool:
        return self.listings.installed.get(entry.release.plugin) == entry.release

    def usable(self, entry: CatalogueEntry) -> bool:
        """Whether it would load, so that something new may rely on it."""
        return _loads(entry) and (not self.heed_host or self.listings.fits(entry))

    def satisfies(self, entry: CatalogueEntry, requirement: Requirement) -> bool:
        return self.listings.contains(self.admitted(requirement), entry)

    def admitted(self, requirement: Requirement) -> int:
        """The set of entries that satisfy `requirement`."""
        found = self._admitted.get(requirement)
        if found is None:
            found = self._admitted[requirement] = self._admit(requirement)
        return found

    def _admit(self, requirement: Requirement) -> int:
        listing = self.listings.listing(requirement.plugin)
        admitted = listing.loading
        if self.heed_host:
            admitted &= listing.fitting
        # What is installed but would not load may stay as it is, so that it does not hinder other
        # plugins; but nothing is picked that relies on it.
        source = requirement.source
        if source is Origin.INSTALLED or (
            isinstance(source, CatalogueEntry) and self.is_installed(source)
        ):
            admitted |= listing.installed
        fixed = self.fixed.get(requirement.plugin)
        if fixed is not None:
            admitted &= listing.only(fixed)
        return admitted & self.listings.meeting(requirement)

    def candidates(
        self, plugin: PluginName, requirements: Sequence[Requirement]
    ) -> list[CatalogueEntry]:
        """The entries that satisfy all `requirements`, the most wanted first."""
        listing = self.listings.listing(plugin)
        # The search hands over requirements one by one; what was asked is known from the start.
        known = [*requirements, *self.asked_of(plugin)]
        self.listings.spend(len(known) + len(self.excluded) + len(listing.entries) // 8)
        found = (1 << len(listing.entries)) - 1
        for requirement in requirements:
            found &= self.admitted(requirement)
        for release in self.excluded:
            if release.plugin == plugin:
                found &= ~listing.only(release)
        if not any(requirement.pins for requirement in known):
            found &= ~listing.yanked | listing.installed
        # PEP 440: pre-releases only where a specifier names one, or there is nothing else.
        if found & ~listing.pre_releases and not any(one.names_pre_release for one in known):
            found &= ~listing.pre_releases | listing.installed
        return listing.members(found)

    def preferences(self, plugin: PluginName) -> list[CatalogueEntry]:
        """What would be best for `plugin`, if nothing else were in the way."""
        if plugin in self.fixed:
            return []
        wanted = self.candidates(plugin, self.asked_of(plugin) or [self.listings.presence[plugin]])
        return wanted if plugin in self.listings.moving else wanted[:1]


class Provider(AbstractProvider[Requirement, CatalogueEntry, PluginName]):
    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._preferences: dict[PluginName, tuple[int, str, str]] = {}

    def identify(self, requirement_or_candidate: Requirement | CatalogueEntry) -> PluginName:
        if isinstance(requirement_or_candidate, Requirement):
            return requirement_or_candidate.plugin
        return requirement_or_candidate.release.plugin

    def get_preference(
        self, identifier: PluginName, *_: object, **__: object
    ) -> tuple[int, str, str]:
        """What was asked for is decided first, so that it gets the newest that fits."""
        self._situation.listings.spend(1)
        found = self._preferences.get(identifier)
        if found is None:
            listings = self._situation.listings
            kinds = (self._situation.fixed, listings.moving, listings.installed)
            kind = next((n for n, kind in enumerate(kinds) if identifier in kind), 3)
            found = self._preferences[identifier] = (kind, identifier.publisher, identifier.name)
        return found

    def find_matches(
        self,
        identifier: PluginName,
        requirements: Mapping[PluginName, Iterator[Requirement]],
        incompatibilities: Mapping[PluginName, Iterator[CatalogueEntry]],
    ) -> list[CatalogueEntry]:
        wanted = list(requirements[identifier])
        excluded = {id(entry) for entry in incompatibilities[identifier]}
        self._situation.listings.spend(len(excluded))
        try:
            found = self._situation.candidates(identifier, wanted)
        except NotFoundError as error:
            source = wanted[0].source
            if isinstance(source, CatalogueEntry):
                raise NotFoundError(
                    f"{error.message} (required by {named(source)})",
                    remedy=error.remedy,
                    **error.context,
                ) from error
            raise
        return [entry for entry in found if id(entry) not in excluded] if excluded else found

    def is_satisfied_by(self, requirement: Requirement, candidate: CatalogueEntry) -> bool:
        self._situation.listings.spend(1)
        return self._situation.satisfies(candidate, requirement)

    def get_dependencies(self, candidate: CatalogueEntry) -> Sequence[Requirement]:
        if not self._situation.usable(candidate):
            return ()  # it stays, but will not load
        found = self._situation.listings.requirements(candidate)
        self._situation.listings.spend(1 + len(found))
        return found


class Conflicts(BaseReporter[Requirement, CatalogueEntry, PluginName]):
    """The sets of requirements that no release met, in the order the search came upon them."""

    def __init__(self) -> None:
        self.found: list[list[Requirement]] = []

    def rejecting_candidate(
        self,
        criterion: Criterion[Requirement, CatalogueEntry],
        candidate: CatalogueEntry,  # noqa: ARG002 - resolvelib passes it by name
    ) -> None:
        self.found.append(list(criterion.iter_requirement()))


class ImpossibleError(Exception):
    def __init__(self, conflicts: list[list[Requirement]]) -> None:
        super().__init__()
        self.conflicts = conflicts


def named(entry: CatalogueEntry) -> str:
    return f"{entry.release.plugin} {entry.release.version}"
