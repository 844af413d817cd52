"""Which of the modules that a release brings become its own in this process, and which are shared.

One process has one module of a name. So before any code runs, each name that a release brings is
judged: Python's own and this package's names are refused; a name that the process has already is
shared where the release merely vendors it, and refused where it is the release's own.
Distributions, as `importlib.metadata` names them, are judged likewise. Whether what is shared will
do in the version that it is, `_isolation` judges.
"""

from __future__ import annotations

import contextlib
import csv
import pkgutil
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType

from attrs import field
from packaging.utils import canonicalize_name, is_normalized_name
from packaging.version import InvalidVersion, Version

from plugin_manager._attrs import frozen
from plugin_manager.errors import ModuleConflictError
from plugin_manager.loader._modules import Contents
from plugin_manager.loader._tree import Tree, join
from plugin_manager.model import Release

__all__ = [
    "Elsewhere",
    "Names",
    "conflict",
    "dist_infos",
    "found_elsewhere",
    "is_usable",
    "judge",
    "judge_distributions",
    "other_portions",
    "vendored_modules",
]

_RESERVED = sys.stdlib_module_names | {"plugin_manager"}
_INSTALL_SCHEME = re.compile(r"[^/]+\.data/(?:purelib|platlib)/")


@frozen
class Elsewhere:
    """Where this process has a name from: words for people, and the release if it was one."""

    where: str
    release: Release | None = None


@frozen
class Names:
    """The judgement: `owned` modules are imported from the release, `shared` ones from `where`.

    `isolated` ones are imported from the release under private names; their values are words for
    people. `distributions` are what `importlib.metadata` finds, with their dist-info directories.
    """

    owned: tuple[str, ...]
    shared: Mapping[str, str]
    isolated: Mapping[str, str] = field(factory=dict)
    distributions: Mapping[str, str] = field(factory=dict)


def judge(
    release: Release,
    brought: Contents,
    vendored: Mapping[str, str],
    elsewhere: Callable[[str], Elsewhere | None],
) -> Names:
    """The names that `release` gets; `vendored` maps modules to the distributions they belong to.

    `elsewhere(name)` says where the process has a module from already. Raises ModuleConflictError.
    """
    owned, shared = [], {}
    for name in brought.modules:
        if name.partition(".")[0] in _RESERVED:
            raise conflict(
                release,
                "module",
                name,
                Elsewhere("Python or the plugin manager itself, whose names are reserved"),
                "Ask the publisher to rename the module.",
            )
        other = elsewhere(name)
        if other is None:
            owned.append(name)
        elif name in vendored and (other.release is None or other.release.plugin != release.plugin):
            shared[name] = other.where
        else:
            raise conflict(release, "module", name, other)
    return Names(tuple(owned), shared)


def judge_distributions(
    release: Release,
    brought: Mapping[str, str],
    vendored: Collection[str],
    elsewhere: Callable[[str], Elsewhere | None],
    usable: Callable[[str], bool],
) -> dict[str, str]:
    """Those of the `brought` distributions that this process has from nowhere else.

    Without this, a release could speak for what the host has installed: its version, its entry
    points. Raises ModuleConflictError for a `usable` one that is the release's own, not `vendored`.
    """
    kept = {}
    for name, directory in brought.items():
        other = elsewhere(name)
        if other is None:
            kept[name] = directory
        elif name not in vendored and usable(name):
            raise conflict(release, "distribution", name, other)
    return kept


def _remedy(release: Release, other: Elsewhere) -> str:
    if other.release is None:
        return "Remove it from the host's environment, or run the plugin in a process of its own."
    if other.release.plugin == release.plugin:
        return "Unload that first, or restart the application."
    return "Load only one of the two plugins in a process."


def conflict(
    release: Release, kind: str, name: str, other: Elsewhere, remedy: str = ""
) -> ModuleConflictError:
    """The error to raise where `release` brings what this process has from `other`."""
    return ModuleConflictError(
        f"{release} brings the {kind} {name!r}, which this process has from {other.where}",
        remedy=remedy or _remedy(release, other),
        where=other.where,
        plugin=str(release.plugin),
        **{kind: name},
    )


# --- what the release vendors ------------------------------------------------------------------


def dist_infos(tree: Tree, root: str) -> Iterator[tuple[str, str]]:
    """The normalised name and the directory of each distribution installed below `root`."""
    for entry in tree.names(root):
        stem, dot, _ = entry.rpartition(".dist-info")
        if dot and entry.endswith(".dist-info") and tree.is_directory(join(root, entry)):
            yield canonicalize_name(stem.partition("-")[0]), join(root, entry)


def is_usable(tree: Tree, directory: str, name: str) -> bool:
    """Whether `importlib.metadata` can make sense of the dist-info `directory` of `name`.

    It can where METADATA has the normalised name too, and a version: of others `entry_points`
    would raise, for the whole process, or believe another's name.
    """
    from email.parser import HeaderParser  # noqa: PLC0415 - slow, and few processes ask

    if not is_normalized_name(name) or not tree.is_file(path := join(directory, "METADATA")):
        return False
    text, _, _ = tree.read(path).decode(errors="replace").partition("\n\n")
    headers = HeaderParser().parsestr(text)
    try:
        Version(headers.get("Version", ""))
    except InvalidVersion:
        return False
    return canonicalize_name(headers.get("Name", "")) == name


def vendored_modules(tree: Tree, root: str, brought: Contents) -> dict[str, str]:
    """The brought modules that vendored distributions installed, each with its distribution.

    That is what their RECORD says (or top_level.txt, where there is none): names alone would not
    do, for a plugin may call its own module what a distribution is called.
    """
    vendored = {canonicalize_name(name) for name in tree.manifest.python.vendored}
    owners: dict[str, str] = {}
    for distribution, directory in dist_infos(tree, root) if vendored else ():
        if distribution not in vendored:
            continue
        paths, top_levels = set[str](), set[str]()
        if tree.is_file(record := join(directory, "RECORD")):
            rows = csv.reader(tree.read(record).decode(errors="replace").splitlines())
            with contextlib.suppress(csv.Error):  # what cannot be read installed nothing
                paths = {join(root, _INSTALL_SCHEME.sub("", r[0], count=1)) for r in rows if r}
        elif tree.is_file(listing := join(directory, "top_level.txt")):
            top_levels = set(tree.read(listing).decode(errors="replace").split())
        for name, path in brought.modules.items():
            if path in paths or name.partition(".")[0] in top_levels:
                owners[name] = distribution
    return owners


# --- what the process has ----------------------------------------------------------------------


@frozen
class _Found:
    where: str
    imported: bool
    portions: list[str] | None  # of a namespace package; None for a regular module


def found_elsewhere(name: str, ignoring: object) -> str | None:
    """Where this process has the module `name` from, or would; None if nothing is in the way.

    Imports nothing. `ignoring` is the finder not to ask. A namespace package that is not imported
    yet is not in the way: import prefers a regular module to it.
    """
    found = _look_up(name, ignoring)
    in_the_way = found is not None and (found.portions is None or found.imported)
    return found.where if found is not None and in_the_way else None


def other_portions(name: str, ignoring: object) -> list[str]:
    """The directories that the process would find for the namespace package `name`."""
    found = _look_up(name, ignoring)
    return [] if found is None or found.portions is None else found.portions


def _look_up(name: str, ignoring: object) -> _Found | None:
    """What the process has for `name`, or the regular module above it that decides about it."""
    if name in sys.modules:
        module: ModuleType | None = sys.modules[name]  # None where an import is forbidden
        spec = getattr(module, "__spec__", None)
        if isinstance(spec, ModuleSpec):
            return _Found(_origin(spec), True, _portions(spec))
        where = getattr(module, "__file__", None) or "a module made while running"
        return _Found(str(where), True, None)
    path = None
    if parent := name.rpartition(".")[0]:
        above = _look_up(parent, ignoring)
        if above is None or above.portions is None:
            return above
        path = above.portions
    portions: list[str] = []
    for spec in _specs(name, path, ignoring):
        if (more := _portions(spec)) is None:
            return _Found(_origin(spec), False, None)
        portions += more
    return _Found(f"the directory {portions[0]}", False, portions) if portions else None


def _specs(name: str, path: list[str] | None, ignoring: object) -> Iterator[ModuleSpec]:
    if path is None:
        finders = [
            getattr(finder, "find_spec", None) for finder in sys.meta_path if finder is not ignoring
        ]
        found = (find(name, None, None) for find in finders if find is not None)
    else:
        # PathFinder would want the parent to be imported.
        importers = (pkgutil.get_importer(entry) for entry in path)
        found = (importer.find_spec(name) for importer in importers if importer is not None)
    yield from (spec for spec in found if spec is not None)


def _portions(spec: ModuleSpec) -> list[str] | None:
    """The directories of a namespace package; None for another module."""
    if spec.origin is not None or spec.submodule_search_locations is None:
        return None
    return list(spec.submodule_search_locations)


def _origin(spec: ModuleSpec) -> str:
    locations = list(spec.submodule_search_locations or ())
    return spec.origin or (f"the directory {locations[0]}" if locations else "this process")
