"""Vendored libraries in versions of their own, under private names, for one release alone.

Where the process has a library in a version that a release cannot use, the release's copy is
imported below a package that nobody else knows (`_plugin_manager_...`), and the modules of the
release execute with an `__import__` that leads the library's name there. Names in `sys.modules`
stay unique and true, so relative imports, pickles, dataclasses and tracebacks need no help.
"""

from __future__ import annotations

import builtins
import contextlib
import posixpath
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from email.parser import HeaderParser
from importlib import machinery
from types import FrameType, ModuleType
from typing import NamedTuple

from attrs import evolve
from blake3 import blake3
from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from plugin_manager._attrs import frozen
from plugin_manager.errors import ModuleConflictError
from plugin_manager.loader._modules import Contents
from plugin_manager.loader._names import Names
from plugin_manager.loader._tree import Tree, join
from plugin_manager.model import Release

__all__ = ["OWN", "Isolation", "Library", "keep_apart", "libraries", "version_of"]

OWN = ""  # what is the plugin's own, among its libraries

# What stands between the code that asks `importlib.metadata` and the finder that answers.
_BETWEEN = {"importlib", "importlib_metadata", "plugin_manager"}


class Isolation:
    """The private names of one release: for the top-level `modules`, of the `distributions`.

    `distributions` are dist-info directories by normalised name.
    """

    def __init__(
        self, release: Release, modules: Iterable[str], distributions: Mapping[str, str]
    ) -> None:
        # Readable and the same in every process, so that pickles travel; the digest tells apart
        # what the replacement of signs would not.
        readable = re.sub(r"\W", "_", f"{release.plugin} {release.version}")
        self.package = f"_plugin_manager_{readable}_{blake3(str(release).encode()).hexdigest(4)}"
        self.modules = frozenset(modules)
        self.distributions = distributions
        self.builtins = {**vars(builtins), "__import__": self._import}
        """What the release's modules execute with as `__builtins__`.

        A copy, since CPython is slow at everything that is not an exact dictionary: what somebody
        adds to `builtins` later is not in it.
        """

    def name(self, name: str) -> str:
        """The name under which the process has what the release calls `name`.

        `name` is a module's, or an entry point's value, which begins with one.
        """
        top = re.split(r"[.:\s]", name, maxsplit=1)[0]
        return f"{self.package}.{name}" if top in self.modules else name

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - as builtins.__import__
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        # `builtins.__import__` is looked up each time: others replace it, for good reasons.
        top = name.partition(".")[0]
        if level or top not in self.modules:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        public = None
        if _native_code_may_ask(globals, locals, fromlist):
            public = builtins.__import__(name, globals, locals)
        try:
            module = builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist or ())
        except ModuleNotFoundError:
            if public is None:
                raise
            return public
        # `import a.b` binds a. It may be half imported, and then is in sys.modules alone.
        return module if fromlist else sys.modules[f"{self.package}.{top}"]

    def asks(self) -> bool:
        """Whether it is the release's code that asks `importlib.metadata` now."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            module = frame.f_globals.get("__name__")
            if not isinstance(module, str) or module.partition(".")[0] not in _BETWEEN:
                return frame.f_builtins is self.builtins
            frame = frame.f_back
        return False


def _native_code_may_ask(globals_: object, locals_: object, fromlist: object) -> bool:
    """Whether the arguments are those of `PyImport_Import`.

    It calls the `__import__` of the Python code that happens to run, then takes the module of the
    public name from `sys.modules`, whatever was returned: so that one has to be imported too.
    Python code at the top of a module may give the same arguments, and takes what is returned.
    """
    return globals_ is locals_ and globals_ is not None and fromlist == []


# --- what a bundle says about its libraries ----------------------------------------------------


@frozen
class Library:
    """A distribution in a bundle, with the top modules that it installed and what it requires.

    `extension` is the path of an extension module of it, "" where it is pure Python.
    """

    version: Version | None
    modules: tuple[str, ...] = ()
    requires: tuple[Requirement, ...] = ()
    extension: str = ""


def libraries(
    tree: Tree, brought: Contents, vendored: Mapping[str, str], distributions: Mapping[str, str]
) -> dict[str, Library]:
    """The vendored libraries by normalised name; under `OWN`, all that is the plugin's own.

    `vendored` maps modules to their distributions, `distributions` are dist-info directories.
    """
    brought_along = {canonicalize_name(name) for name in tree.manifest.python.vendored}
    modules: dict[str, list[str]] = {name: [] for name in (OWN, *sorted(brought_along))}
    for module in brought.modules:
        modules[vendored.get(module, OWN)].append(module)
    requires: dict[str, list[Requirement]] = {name: [] for name in modules}
    versions: dict[str, Version] = {}
    for name, directory in distributions.items():
        versions[name], needs = _metadata(tree, directory)
        requires[name if name in brought_along else OWN] += needs
    if brought_along.issuperset(distributions):  # a plugin without metadata may need them all
        requires[OWN] = [Requirement(name) for name in sorted(brought_along)]
    return {
        name: Library(
            versions.get(name),
            tuple(names),
            tuple(requires[name]),
            _extension(tree, [brought.modules[module] for module in names]),
        )
        for name, names in modules.items()
    }


def version_of(tree: Tree, directory: str) -> Version:
    """The version that a usable dist-info `directory` says."""
    return _metadata(tree, directory)[0]


def _metadata(tree: Tree, directory: str) -> tuple[Version, list[Requirement]]:
    text = tree.read(join(directory, "METADATA")).decode(errors="replace")
    headers = HeaderParser().parsestr(text)
    requires = []
    for line in headers.get_all("Requires-Dist", []):
        with contextlib.suppress(InvalidRequirement):  # what cannot be read requires nothing
            requires.append(Requirement(line))
    return Version(headers["Version"]), requires


def _extension(tree: Tree, modules: Collection[str]) -> str:
    """The first extension module among the files `modules`, and below the packages they make."""
    suffixes = tuple(machinery.EXTENSION_SUFFIXES)
    packages = tuple(
        f"{directory}/"
        for directory, _, file in (path.rpartition("/") for path in modules)
        if directory and file.startswith("__init__.")
    )
    for path in tree.files:
        if path.endswith(suffixes) and (path in modules or path.startswith(packages)):
            return path
    return ""


# --- the judgement -----------------------------------------------------------------------------


class _Need(NamedTuple):
    """That the distribution `by` requires the one called `name`, normalised."""

    by: str
    name: str
    requirement: Requirement

    def allows(self, version: Version | None) -> bool:
        """Whether `version` will do; an unknown one does where any would."""
        specifier = self.requirement.specifier
        return specifier.contains(version, prereleases=True) if version else not specifier


@frozen
class _Clash:
    """Why a vendored distribution cannot be the one that the process has from `where`."""

    version: Version | None
    where: str
    need: _Need


def keep_apart(
    release: Release,
    names: Names,
    bundled: Mapping[str, Library],
    found: Callable[[str, str], Version | None],
) -> Names:
    """`names`, with `isolated` what must not be shared after all.

    A shared distribution serves where it has the version of the vendored one, or one that
    satisfies all requirements of those that the plugin uses out of its bundle. One that does not
    is isolated together with the vendored ones that require it. `found(module, distribution)` is
    the version in which the process has what is shared, None where nothing says it. Raises
    ModuleConflictError where native code is among what would have to be isolated.
    """
    owners = {module: name for name, one in bundled.items() for module in one.modules}
    there = [
        (name, found(module, name), where)
        for module, where in names.shared.items()
        for name in [owners[module]]
    ]
    versions = {name: version for name, version, _ in there if version is not None}
    needs = _in_force(bundled)
    shared = {name for name, _, _ in there}
    while True:
        # The vendored copy of what is shared is not in use, so that what it requires is all one.
        used = {name: library for name, library in bundled.items() if name not in shared}
        clashes = _clashes(there, bundled, _in_force(used))
        apart = _with_dependents(clashes, needs)
        if shared.isdisjoint(apart):
            break
        shared -= set(apart)
    for name in apart:
        if why := _obstacle(name, bundled, needs):
            raise _conflict(release, bundled, clashes, name, why)

    def keeps(module: str) -> bool:
        # What is shared in a known version is that version: modules that it lacks, it lacks.
        name = owners[module]
        return name not in apart and name not in versions

    isolated = {
        module: _described(bundled[name], clashes.get(name))
        for name in apart
        for module in bundled[name].modules
    }
    return evolve(
        names,
        owned=tuple(module for module in names.owned if keeps(module)),
        shared={module: at for module, at in names.shared.items() if module not in isolated},
        isolated=isolated,
    )


def _clashes(
    there: Iterable[tuple[str, Version | None, str]],
    bundled: Mapping[str, Library],
    needs: Sequence[_Need],
) -> dict[str, _Clash]:
    clashes: dict[str, _Clash] = {}
    for name, version, where in there:
        unmet = [need for need in needs if need.name == name and not need.allows(version)]
        if unmet and (version is None or version != bundled[name].version):
            clashes.setdefault(name, _Clash(version, where, unmet[0]))
    return clashes


def _in_force(bundled: Mapping[str, Library]) -> list[_Need]:
    """The requirements that hold here, with the extras that are asked for among them."""
    extras = {name: {""} for name in bundled}
    while True:
        needs = [
            _Need(by, canonicalize_name(requirement.name), requirement)
            for by, library in bundled.items()
            for requirement in library.requires
            if any(_holds(requirement, extra) for extra in extras[by])
        ]
        asked = {
            (need.name, extra)
            for need in needs
            for extra in need.requirement.extras
            if need.name in extras and extra not in extras[need.name]
        }
        if not asked:
            return needs
        for name, extra in asked:
            extras[name].add(extra)


def _holds(requirement: Requirement, extra: str) -> bool:
    try:
        return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
    except (UndefinedComparison, UndefinedEnvironmentName):
        return False


def _with_dependents(names: Iterable[str], needs: Sequence[_Need]) -> list[str]:
    """`names`, and the vendored distributions that require one of them, directly or not.

    Those must not be other code's too: it would get objects of a library that it does not know.
    """
    found = list(names)
    for name in found:
        more = [need.by for need in needs if need.name == name and need.by not in {OWN, *found}]
        found += dict.fromkeys(more)
    return found


def _obstacle(name: str, bundled: Mapping[str, Library], needs: Sequence[_Need]) -> str:
    """Why the library cannot be isolated, "" where it can.

    Native code finds modules by their public names, and is itself found by its own.
    """
    library, own = bundled[name], bundled[OWN]
    if library.extension:
        return f"{name} has native code ({posixpath.basename(library.extension)})"
    for module in library.modules:
        if "." in module:
            return f"the module {module!r} of {name} lies in a namespace package"
    if own.extension and any(need.by == OWN and need.name == name for need in needs):
        file = posixpath.basename(own.extension)
        return f"the plugin itself, which requires {name}, has native code ({file})"
    return ""


def _conflict(
    release: Release,
    bundled: Mapping[str, Library],
    clashes: Mapping[str, _Clash],
    obstacle: str,
    why: str,
) -> ModuleConflictError:
    # Where the obstacle itself is not what clashes, the first is as good as any that led to it.
    name = obstacle if obstacle in clashes else next(iter(clashes))
    clash, vendored = clashes[name], bundled[name].version
    by = f"its {clash.need.by}" if clash.need.by else "it"
    there = clash.version or "of unknown version (without metadata)"
    remedy = (
        f"Ask the publisher for a release that works with {name} {clash.version}, or run the "
        "plugin in a process of its own."
        if clash.version
        else f"Let the host bring the metadata (dist-info) of {name} too, or run the plugin in a "
        "process of its own."
    )
    return ModuleConflictError(
        f"{release} vendors {name} {vendored or 'of unknown version'}, this process has {name} "
        f"{there} from {clash.where}, and {by} requires {clash.need.requirement}. The two cannot "
        f"be kept apart: {why}",
        remedy=remedy,
        where=clash.where,
        plugin=str(release.plugin),
        distribution=name,
        vendored=str(vendored or ""),
        found=str(clash.version or ""),
        requirement=str(clash.need.requirement),
    )


def _described(library: Library, clash: _Clash | None) -> str:
    version = str(library.version or "unknown version")
    if clash is None:
        return version
    return f"{version}, beside {clash.version or 'an unknown version'} from {clash.where}"
