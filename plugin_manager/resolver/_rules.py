"""The rules of choosing, as resolvelib's search asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

from attrs import frozen
from packaging.specifiers import SpecifierSet
from resolvelib import (
    AbstractProvider,
    BaseReporter,
)

from plugin_manager.catalogue import Catalogue, CatalogueEntry
from plugin_manager.errors import (
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


@frozen
class Requirement:
    plugin: PluginName
    specifier: SpecifierSet
    source: CatalogueEntry | Origin

    @property
    def pins(self) -> bool:
        """Whether it names one version exactly."""
        return any(
            one.operator == "===" or (one.operator == "==" and not one.version.endswith(".*"))
            for one in self.specifier
        )

    def __str__(self) -> str:
        return f"{self.plugin}{self.specifier}"


class Listings:
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
            misfits = misfits_of(entry.needs, entry.release.platform, self._host)
            self._fit[entry.release] = not any(misfits)
        return self._fit[entry.release]

    def misfits(self, entry: CatalogueEntry) -> list[Misfit]:
        """Why it does not."""
        return list(misfits_of(entry.needs, entry.release.platform, self._host))


_NEVER = datetime.min.replace(tzinfo=UTC)


def _stand_in(release: Release) -> CatalogueEntry:
    """The entry of an installed release that its catalogue does not list any more."""
    return CatalogueEntry(release, length=0, content_length=0, published=_NEVER)


def is_stand_in(entry: CatalogueEntry) -> bool:
    return entry.published == _NEVER


@frozen
class Situation:
    """Everything that one search is about; does not change while it runs.

    `fixed` plugins have no choice; of `moving` ones the newest is wanted, of all others the
    installed release. `heed_host` False imagines a host that everything fits.
    """

    asked: tuple[Requirement, ...]
    installed: Mapping[PluginName, Release]
    fixed: Mapping[PluginName, Release]
    moving: frozenset[PluginName]
    listings: Listings
    heed_host: bool = True
    excluded: frozenset[Release] = frozenset()

    def is_installed(self, entry: CatalogueEntry) -> bool:
        return self.installed.get(entry.release.plugin) == entry.release

    def usable(self, entry: CatalogueEntry) -> bool:
        """Whether it would load, so that something new may rely on it."""
        if entry.blocked or is_stand_in(entry):
            return False
        return not self.heed_host or self.listings.fits(entry)

    def satisfies(self, entry: CatalogueEntry, requirement: Requirement) -> bool:
        if self.fixed.get(requirement.plugin, entry.release) != entry.release:
            return False
        if not holds(requirement.specifier, entry.release.version):
            return False
        if self.usable(entry):
            return True
        # What is installed but would not load may stay as it is, so that it does not hinder other
        # plugins; but nothing is picked that relies on it.
        source = requirement.source
        stays = source is Origin.INSTALLED or (
            isinstance(source, CatalogueEntry) and self.is_installed(source)
        )
        return stays and self.is_installed(entry)

    def candidates(
        self, plugin: PluginName, requirements: Sequence[Requirement]
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
            plugin, requirements or [Requirement(plugin, SpecifierSet(), Origin.INSTALLED)]
        )
        return wanted if plugin in self.moving else wanted[:1]

    def _rank(self, entry: CatalogueEntry) -> int:
        if self.is_installed(entry) and entry.release.plugin not in self.moving:
            # A blocked release would not load: that is worth an unasked move.
            return 3 if entry.blocked else 0
        return 1 if self.usable(entry) and self.listings.fits(entry) else 2


class Provider(AbstractProvider[Requirement, CatalogueEntry, PluginName]):
    def __init__(self, situation: Situation) -> None:
        self._situation = situation

    def identify(self, requirement_or_candidate: Requirement | CatalogueEntry) -> PluginName:
        if isinstance(requirement_or_candidate, Requirement):
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
        requirements: Mapping[PluginName, Iterator[Requirement]],
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
                    f"{error.message} (required by {named(source)})",
                    remedy=error.remedy,
                    **error.context,
                ) from error
            raise
        return [entry for entry in found if entry.release not in excluded]

    def is_satisfied_by(self, requirement: Requirement, candidate: CatalogueEntry) -> bool:
        return self._situation.satisfies(candidate, requirement)

    def get_dependencies(self, candidate: CatalogueEntry) -> list[Requirement]:
        if not self._situation.usable(candidate):
            return []  # it stays, but will not load
        return [
            Requirement(requirement.plugin, requirement.specifier, candidate)
            for requirement in candidate.requirements
        ]


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
