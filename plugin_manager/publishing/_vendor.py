"""Bringing a wheel's dependencies along, from a directory of wheels, into one import root.

Which wheels: those that the running interpreter would take. Markers are judged for it, and the
bundle's platform says where the whole can run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from attrs import define, field
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import sys_tags
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from plugin_manager._attrs import frozen
from plugin_manager.errors import InvalidInputError, NotFoundError
from plugin_manager.manifest import PythonLayout
from plugin_manager.model import HostNeeds, Platform, PluginName, Release, parse_version
from plugin_manager.publishing._payload import Payload, PayloadFile
from plugin_manager.publishing._platforms import conjunction
from plugin_manager.publishing._wheel import Wheel, read_wheel, unpack, wheel_name

__all__ = ["read_wheel_source"]

MAX_ROUNDS = 1000


def read_wheel_source(
    source: Path,
    directory: Path,
    *,
    publisher: str,
    platform: Platform | None = None,
    dependencies: Path | None = None,
    provided: Collection[str] = (),
) -> Payload:
    """What the wheel `source` comes to, as a plugin of `publisher`; its files are in `directory`.

    With `dependencies`, a directory of wheels, everything that the wheel requires is brought along
    from there, except the distributions named in `provided`. Raises InvalidInputError, or
    NotFoundError naming a requirement that no wheel there satisfies.
    """
    main = read_wheel(source)
    absent = {canonicalize_name(name) for name in provided}
    notes = []
    if dependencies is None:
        brought: list[Wheel] = []
        if missing := sorted(set(_own_requirements(main)) - absent):
            notes.append(
                f"{main} requires {', '.join(missing)}, not brought along: hosts must have them "
                "(--with-dependencies brings them)"
            )
    else:
        brought = _choose(main, _Shelf(dependencies), absent)
        if brought:
            notes.append(
                f"brought along for {_this_interpreter()}: "
                + ", ".join(f"{wheel.name} {wheel.version}" for wheel in brought)
            )
    wheels = [main, *brought]
    found = _Gathering()
    for number, wheel in enumerate(wheels):
        files, left_out = unpack(wheel, directory / str(number))
        found.add(wheel, files)
        notes += left_out
    python = SpecifierSet()
    for wheel in wheels:
        python &= wheel.requires_python
    if platform is None:
        platform = conjunction([(wheel.path.name, wheel.tags) for wheel in wheels])
    name = PluginName.parse(f"{publisher}/{main.name}")
    return Payload(
        release=Release(name, parse_version(str(main.version)), platform),
        about=main.about,
        files=tuple(found.files.values()),
        needs=HostNeeds(python=python),
        entry_points=main.entry_points,
        python=PythonLayout(vendored=tuple(sorted(wheel.name for wheel in brought))),
        notes=tuple(notes),
    )


def _this_interpreter() -> str:
    environment = default_environment()
    return (
        f"{environment['platform_python_implementation']} {environment['python_version']} "
        f"on {environment['sys_platform']} {environment['platform_machine']}"
    )


def _own_requirements(wheel: Wheel) -> Iterator[NormalizedName]:
    for requirement in _wanted(wheel, frozenset()):
        yield canonicalize_name(requirement.name)


def _wanted(wheel: Wheel, extras: Collection[str]) -> Iterator[Requirement]:
    """What the wheel requires here, with the `extras` that are asked of it."""
    for requirement in wheel.requires:
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in {"", *extras}):
            yield requirement


# --- which wheels ------------------------------------------------------------------------------


@frozen
class _Candidate:
    path: Path
    version: Version
    rank: tuple[int, tuple[int, str]]


@define
class _Demand:
    """What all chosen wheels together ask of one distribution."""

    specifier: SpecifierSet = field(factory=SpecifierSet)
    extras: set[str] = field(factory=set)
    by: list[str] = field(factory=list)


class _Shelf:
    """The wheels in a directory that this interpreter could install."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise NotFoundError(
                f"there is no directory {directory}",
                remedy="Name a directory of wheels, such as 'pip download' makes.",
                path=str(directory),
            )
        self.directory = directory
        order = {tag: place for place, tag in enumerate(reversed(list(sys_tags())))}
        self._candidates: dict[NormalizedName, list[_Candidate]] = {}
        self._read: dict[Path, Wheel] = {}
        for path in sorted(directory.glob("*.whl")):
            name, version, build, tags = wheel_name(path)
            best = max((order[tag] for tag in tags if tag in order), default=None)
            if best is not None:
                candidate = _Candidate(path, version, (best, build))
                self._candidates.setdefault(name, []).append(candidate)

    def best(self, name: NormalizedName, demand: _Demand) -> Wheel:
        """The newest wheel that satisfies `demand`, and of that version the most specific one."""
        python = Version(default_environment()["python_full_version"].rstrip("+"))
        here = self._candidates.get(name, [])
        versions = set(demand.specifier.filter({candidate.version for candidate in here}))
        fitting = sorted(
            (c for c in here if c.version in versions), key=lambda c: (c.version, c.rank)
        )
        for candidate in reversed(fitting):
            wheel = self._wheel(candidate.path)
            if wheel.requires_python.contains(python, prereleases=True):
                return wheel
        have = ", ".join(sorted({str(candidate.version) for candidate in here}))
        raise NotFoundError(
            f"no wheel in {self.directory} satisfies {name}{demand.specifier} "
            f"(required by {', '.join(demand.by)}) on {_this_interpreter()}"
            + (f"; there is {have}" if have else ""),
            remedy=f"Put one there, for instance with 'pip download \"{name}{demand.specifier}\"', "
            "or leave it to the host with --provided.",
            requirement=f"{name}{demand.specifier}",
            directory=str(self.directory),
        )

    def _wheel(self, path: Path) -> Wheel:
        if path not in self._read:
            self._read[path] = read_wheel(path)
        return self._read[path]


def _choose(main: Wheel, shelf: _Shelf, provided: Collection[NormalizedName]) -> list[Wheel]:
    """Wheels for everything that `main` requires, directly or not, sorted by name.

    The best wheel of each distribution for what the others ask, until that no longer changes.
    There is no search: a directory made by pip has one version of each.
    """
    chosen: dict[NormalizedName, Wheel] = {}
    for _ in range(MAX_ROUNDS):
        demands = _demands(main, chosen, provided)
        again = {name: shelf.best(name, demand) for name, demand in sorted(demands.items())}
        if again == chosen:
            return [wheel for _, wheel in sorted(chosen.items())]
        chosen = again
    raise InvalidInputError(
        f"{main}: its dependencies in {shelf.directory} do not settle on one version each",
        remedy="Leave one version of each distribution in the directory.",
    )


def _demands(
    main: Wheel, chosen: Mapping[NormalizedName, Wheel], provided: Collection[NormalizedName]
) -> dict[NormalizedName, _Demand]:
    demands: dict[NormalizedName, _Demand] = {}
    waiting: list[tuple[Wheel, frozenset[str]]] = [(main, frozenset())]
    seen = set()
    while waiting:
        wheel, extras = waiting.pop()
        if (wheel.name, extras) in seen:
            continue
        seen.add((wheel.name, extras))
        for requirement in _wanted(wheel, extras):
            name = canonicalize_name(requirement.name)
            if name in provided:
                continue
            if name == main.name:
                _check_own(main, wheel, requirement)
                waiting.append((main, frozenset(requirement.extras)))
                continue
            demand = demands.setdefault(name, _Demand())
            demand.specifier &= requirement.specifier
            demand.extras |= requirement.extras
            if str(wheel) not in demand.by:
                demand.by.append(str(wheel))
            if name in chosen:
                waiting.append((chosen[name], frozenset(demand.extras)))
    return demands


def _check_own(main: Wheel, wheel: Wheel, requirement: Requirement) -> None:
    if not requirement.specifier.contains(main.version, prereleases=True):
        raise InvalidInputError(
            f"{wheel} requires {requirement}, but this is {main.name} {main.version}",
            remedy="Bring versions that go together.",
        )


# --- into one root -----------------------------------------------------------------------------


class _Gathering:
    """The files of several wheels in one root; the same path twice must be the same file."""

    def __init__(self) -> None:
        self.files: dict[str, PayloadFile] = {}
        self._owners: dict[str, Wheel] = {}

    def add(self, wheel: Wheel, files: list[PayloadFile]) -> None:
        for file in files:
            other = self.files.setdefault(file.path, file)
            owner = self._owners.setdefault(file.path, wheel)
            if owner is not wheel and _digest(other.source) != _digest(file.source):
                raise InvalidInputError(
                    f"{owner} and {wheel} both bring {file.path}, with different content",
                    remedy="One of the two must go; ask their makers which is at fault.",
                    path=file.path,
                )


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
