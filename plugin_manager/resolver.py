"""Which releases shall be active together: pure, from catalogues and facts about the host.

The search is resolvelib's; versions and specifiers are packaging's (PEP 440). Here are the rules:
what may be picked, what stays where it is, and how a conflict is told to a person.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, Protocol

from attrs import evolve, frozen
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from resolvelib import (
    AbstractProvider,
    BaseReporter,
    ResolutionImpossible,
    ResolutionTooDeep,
    Resolver,
)

from plugin_manager.catalogue import Catalogue, CatalogueEntry
from plugin_manager.errors import (
    ConflictError,
    IncompatibleHostError,
    NotFoundError,
    RefusedError,
)
from plugin_manager.model import (
    ANY,
    Host,
    HostNeeds,
    Platform,
    PluginName,
    PluginRequirement,
    Release,
)

if TYPE_CHECKING:
    from resolvelib.resolvers.criterion import Criterion
    from resolvelib.structs import RequirementInformation

__all__ = ["Described", "check", "compatibility", "resolve"]

MAX_ROUNDS = 20_000
"""A search that takes more steps is given up: catalogues come from many hands, and could be made
to be searched for ever. Real ones take as many steps as there are plugins, and a few."""

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
    if not host.accepts(platform):
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
    return ", ".join(f"{one.operator} {one.version}" for one in sorted(specifier, key=str))


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _specificity(platform: Platform, host: Host) -> tuple[object, ...]:
    """A key that sorts first what is made most closely for `host`, as packaging's tags do.

    Native code before pure, the interpreter's own ABI before the stable one, later versions of
    interpreter and system before earlier ones.
    """
    if platform == ANY:
        return (not host.accepts(platform), 3, ())
    interpreter, abi, machine = platform.split("-")
    breadth = 2 if machine == "any" else 1 if "abi3" in abi.split(".") else 0
    numbers = [-int(digits) for digits in re.findall(r"[0-9]{1,9}", f"{interpreter}-{machine}")]
    return (not host.accepts(platform), breadth, tuple(numbers))


# --- the rules, as resolvelib asks for them --------------------------------------------------------


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


@frozen
class _Situation:
    """Everything that the search is about, and that does not change while it runs.

    `fixed` plugins have no choice; of `moving` ones the newest is wanted, of all others the
    installed release. `heed_host` False imagines a host that everything fits.
    """

    asked: tuple[_Requirement, ...]
    installed: Mapping[PluginName, Release]
    fixed: Mapping[PluginName, Release]
    moving: frozenset[PluginName]
    listing: Callable[[PluginName], tuple[CatalogueEntry, ...]]
    host: Host
    heed_host: bool = True

    def fits_host(self, entry: CatalogueEntry) -> bool:
        return not self.heed_host or not any(
            _misfits(entry.needs, entry.release.platform, self.host)
        )

    def is_installed(self, entry: CatalogueEntry) -> bool:
        return self.installed.get(entry.release.plugin) == entry.release

    def usable(self, entry: CatalogueEntry) -> bool:
        """Whether anything new may rely on it: it would load."""
        return not entry.blocked and not _is_stand_in(entry) and self.fits_host(entry)

    def satisfies(self, entry: CatalogueEntry, requirement: _Requirement) -> bool:
        if self.fixed.get(requirement.plugin, entry.release) != entry.release:
            return False
        if not requirement.admits(entry.release):
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
        pinned = any(requirement.pins for requirement in requirements)
        found = [
            entry
            for entry in self.listing(plugin)
            if (not entry.yanked or pinned or self.is_installed(entry))
            and all(self.satisfies(entry, requirement) for requirement in requirements)
        ]
        # PEP 440: pre-releases only where a specifier names one, or there is nothing else.
        if not any(requirement.specifier.prereleases for requirement in requirements):
            final = [entry for entry in found if not entry.release.version.is_prerelease]
            found = [e for e in found if not e.release.version.is_prerelease or self.is_installed(e)]
            found = found if final or any(map(self.is_installed, found)) else found
        return sorted(found, key=self._rank)

    def _rank(self, entry: CatalogueEntry) -> int:
        if not self.is_installed(entry) or entry.release.plugin in self.moving:
            return 1 if self.usable(entry) else 2
        # A blocked release would not load: that is worth an unasked move.
        return 2 if entry.blocked else 0


_NEVER = datetime.min.replace(tzinfo=UTC)


def _stand_in(release: Release) -> CatalogueEntry:
    """The entry of an installed release that its catalogue does not list any more."""
    return CatalogueEntry(release, length=0, content_length=0, published=_NEVER)


def _is_stand_in(entry: CatalogueEntry) -> bool:
    return entry.published == _NEVER
