"""Whether releases fit the host and one another: what is, not what could be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from plugin_manager._attrs import frozen
from plugin_manager.errors import (
    ConflictError,
    IncompatibleHostError,
)
from plugin_manager.model import (
    Host,
    HostNeeds,
    Platform,
    PluginName,
    PluginRequirement,
    Release,
)

__all__ = ["Described", "Misfit", "check", "compatibility", "either", "holds", "misfits_of"]


class Described(Protocol):
    """What a Manifest and a CatalogueEntry both tell about a release."""

    @property
    def release(self) -> Release: ...
    @property
    def requirements(self) -> tuple[PluginRequirement, ...]: ...
    @property
    def needs(self) -> HostNeeds: ...


@frozen
class Misfit:
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
    return [str(misfit) for misfit in misfits_of(needs, platform, host)]


def misfits_of(needs: HostNeeds, platform: Platform, host: Host) -> Iterator[Misfit]:
    if needs.host and (host.version is None or not holds(needs.host, host.version)):
        have = "of unknown version" if host.version is None else str(host.version)
        need = _spelt(needs.host)
        text = f"needs host {need}, this host is {have}"
        unknown = "Tell the host's version (PLUGINCTL_HOST_VERSION)"
        remedy = unknown if host.version is None else "Upgrade the host"
        yield Misfit("host", need, have, text, remedy)
    if not holds(needs.python, host.python):
        need, have = _spelt(needs.python), str(host.python)
        text = f"needs Python {need}, this is Python {have}"
        yield Misfit("python", need, have, text, "Run the host with another Python")
    if host.rank(platform) is None:
        text = f"is built for {platform}, which this Python cannot use"
        remedy = "Ask the publisher for a release for this platform"
        yield Misfit("platform", platform, host.bytecode_tag, text, remedy)
    for fact, what, needed, had, remedy in (
        ("memory", "memory", needs.memory_bytes, host.memory_bytes, "Use a larger machine"),
        ("disk", "free disk", needs.disk_bytes, host.free_disk_bytes, "Free some disk space"),
    ):
        if had is not None and needed > had:
            text = f"needs {_size(needed)} of {what}, this machine has {_size(had)}"
            yield Misfit(fact, str(needed), str(had), text, remedy)


def holds(specifier: SpecifierSet, version: Version) -> bool:
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
    misfits: list[tuple[Described, Misfit]] = []
    for plugin, described in sorted(active.items()):
        name = f"{plugin} {described.release.version}"
        judged = concerning is None or plugin in concerning
        if judged:
            found = misfits_of(described.needs, described.release.platform, host)
            misfits += [(described, misfit) for misfit in found]
        for requirement in described.requirements:
            if not judged and concerning is not None and requirement.plugin not in concerning:
                continue
            other = active.get(requirement.plugin)
            if other is None:
                conflicts.append(f"{name} needs {requirement}, but it would not be installed")
            elif not holds(requirement.specifier, other.release.version):
                there = other.release.version
                conflicts.append(f"{name} needs {requirement}, but {there} would be active")
            else:
                continue
            ways_out.append(f"include {plugin} in the change")
    names = [f"{one.release.plugin} {one.release.version} {misfit}" for one, misfit in misfits]
    reasons = tuple(f"{text}." for text in (*conflicts, *names))
    if conflicts:
        raise ConflictError(conflicts[0], reasons=reasons, remedy=either(ways_out[0]))
    if misfits:
        described, misfit = misfits[0]
        raise IncompatibleHostError(
            names[0],
            remedy=either(misfit.remedy),
            reasons=reasons,
            release=str(described.release),
            fact=misfit.fact,
            need=misfit.need,
            have=misfit.have,
        )


def either(*ways_out: str) -> str:
    """The ways out as one sentence; "" for none."""
    text = ", or ".join(dict.fromkeys(ways_out))
    return f"{text[0].upper()}{text[1:]}." if text else ""
