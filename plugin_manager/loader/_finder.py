"""The one import finder for all loaded releases, and what it has given to whom.

It stands first in `sys.meta_path` and answers for the names that releases own, from their
manifests. Nothing below such a name is ever looked for in a release's directory: neither by the
other finders, who do not get to see it, nor through `sys.path_hooks`, where a hook answers for
directories of releases (`pkgutil` lists them by that way).

Finder and hook stay when the last release is unloaded: old modules keep their `__path__`, and other
threads may be about to look there. In directories that were a release's nothing is found.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import lru_cache
from importlib import abc
from importlib.machinery import ModuleSpec
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, overload

from attrs import define, evolve, field
from packaging.utils import canonicalize_name

from plugin_manager.errors import CorruptError, StoreAccessError
from plugin_manager.loader import _names
from plugin_manager.loader._loaders import LOADERS, NamespaceLoader
from plugin_manager.loader._modules import Contents, Kind, find, listed
from plugin_manager.loader._names import Elsewhere, Names
from plugin_manager.loader._tree import Tree
from plugin_manager.model import Release

if TYPE_CHECKING:
    from importlib.metadata import Distribution, DistributionFinder

    from packaging.version import Version

    from plugin_manager.loader._isolation import Isolation

__all__ = ["FINDER", "Source"]

# Finders that look into no package's directory, but only at names, or ask `PathFinder`.
_SEES_NO_DIRECTORY = re.compile(
    r"""_frozen_importlib(_external)?\.(BuiltinImporter|FrozenImporter|PathFinder)
    | _distutils_hack\.DistutilsMetaFinder
    | _virtualenv\._Finder
    | __editable__\w*\._EditableFinder
    | (\w+\.)*six\._SixMetaPathImporter
    | _pytest\.assertion\.rewrite\.AssertionRewritingHook""",
    re.VERBOSE,
)


@define(eq=False)
class Source:
    """A loaded release as a source of modules: its files, import root, and what it brings.

    `vendored` maps brought modules to the vendored distributions they belong to, `dist_infos`
    distributions, whether vendored or not, to their directories. `released` is to be called when
    nothing comes from it any more. `isolation` is there where something is isolated. `packages`
    maps locations of packages that were found to their directories.
    """

    tree: Tree
    root: str
    brought: Contents
    vendored: dict[str, str]
    dist_infos: dict[str, str]
    released: Callable[[], None]
    names: Names = field(factory=lambda: Names((), {}))
    isolation: Isolation | None = None
    packages: dict[str, str] = field(factory=dict, init=False)
    _usable: dict[str, bool] = field(factory=dict, init=False)

    @property
    def release(self) -> Release:
        """The release."""
        return self.tree.manifest.release

    @property
    def distributions(self) -> dict[str, str]:
        """Those of `dist_infos` that can be used: each is read for that, when first asked for."""
        return {name: at for name, at in self.dist_infos.items() if self._is_usable(name, at)}

    def _is_usable(self, name: str, directory: str) -> bool:
        if name not in self._usable:
            try:
                self._usable[name] = _names.is_usable(self.tree, directory, name)
            except (CorruptError, StoreAccessError):
                # Who asks for it is told that, and not who asks for others.
                return True
        return self._usable[name]

    def spec(self, fullname: str, directory: str) -> ModuleSpec | None:
        """The spec of the module `fullname`, looked for in `directory`."""
        if self.isolation is not None and fullname == self.isolation.package:
            return ModuleSpec(fullname, NamespaceLoader(list), is_package=True)
        module = find(self.tree, directory, fullname.rpartition(".")[2])
        if module is None:
            return None
        kind, path, is_package = module
        if kind is Kind.NAMESPACE:
            spec = ModuleSpec(fullname, NamespaceLoader(lambda: [(self.tree, path)]))
            directory = path
        else:
            builtins = None if self.isolation is None else self._builtins(fullname, self.isolation)
            loader = LOADERS[kind](self.tree, fullname, path, builtins)
            # As spec_from_file_location makes it, which asks the loader again what is known here.
            spec = ModuleSpec(fullname, loader, origin=loader.location)
            spec.has_location = True
            spec.cached = loader.cached
            directory = path.rpartition("/")[0]
        if is_package:
            location = self.tree.location(directory)
            self.packages[location] = directory
            spec.submodule_search_locations = [location]
        return spec

    def _builtins(self, fullname: str, isolation: Isolation) -> dict[str, object] | None:
        """What the module executes with, None for the usual.

        Vendored modules under their public names get that too: they may be other code's as well.
        """
        return None if _nearest(fullname, self.vendored) else isolation.builtins

    def imported_as(self, name: str) -> str:
        """The name under which this process has what the release calls `name`.

        `name` is a module's, or an entry point's value.
        """
        return name if self.isolation is None else self.isolation.name(name)

    def owned(self) -> list[str]:
        """The names that are imported from this source and no other, private ones among them."""
        if self.isolation is None:
            return list(self.names.owned)
        private = [self.isolation.name(name) for name in self.isolation.modules]
        return [*self.names.owned, self.isolation.package, *private]

    def joins(self) -> list[str]:
        """The namespace packages that lead to a module which is imported from this source.

        Parents come before their children.
        """
        return sorted(
            name
            for name in self.brought.namespaces
            if any(module.startswith(f"{name}.") for module in self.names.owned)
        )

    def directory_of(self, name: str) -> str:
        """Where the brought module `name` lies: the root, or a namespace's directory."""
        return self.brought.namespaces.get(name.rpartition(".")[0], self.root)


class _Portions(Sequence[str]):
    """The `__path__` of a namespace package: others' directories, then those of `sources`, live."""

    def __init__(self, name: str, others: Sequence[str]) -> None:
        self.name = name
        self.others = others
        self.sources: list[Source] = []

    def within(self) -> list[tuple[Tree, str]]:
        """The directories that releases bring."""
        return [(source.tree, source.brought.namespaces[self.name]) for source in self.sources]

    def _locations(self) -> list[str]:
        return [*self.others, *(tree.location(path) for tree, path in self.within())]

    def __len__(self) -> int:
        return len(self._locations())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._locations()[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._locations()})"


class PluginFinder(abc.MetaPathFinder):
    """The finder; `add` and `remove` change what it answers for, under a lock."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._changing: Source | None = None  # what is just being added or removed
        self._sources: list[Source] = []
        self._lingering: list[Source] = []  # removed, but others share modules of theirs
        # By module: the source it comes from, then those that share it. It stays until all left.
        self._users: dict[str, list[Source]] = {}
        self._owners: dict[str, Source] = {}
        self._namespaces: dict[str, _Portions] = {}
        # Of all that was ever loaded: the first parts of names, and the directories.
        self._tops: set[str] = set()
        self._tombs: set[str] = set()

    # --- loading and unloading -----------------------------------------------------------------

    def add(self, source: Source) -> None:
        """Answer for `source` from now on; raises ModuleConflictError and then changes nothing."""
        with self._lock:
            source.names, source.isolation = self._judge(source)
            self._install()
            _forget_caches(source.tree)  # finders that somebody made for the directory
            self._changing = source
            self._tombs.add(source.tree.location(""))
            self._tops.update(name.partition(".")[0] for name in source.owned())
            self._tops.update(name.partition(".")[0] for name in source.joins())
            self._sources.append(source)
            for name in source.owned():
                self._users[name] = [source]
                self._owners[name] = source
            for name in source.names.shared:
                if name in self._users:
                    self._users[name].append(source)
            for name in source.joins():
                self._join(name).sources.append(source)
            self._changing = None

    def remove(self, source: Source) -> None:
        """Answer for `source` no longer, and remove its modules except those that others share."""
        with self._lock:
            released = self._remove(source) if source in self._sources else []
        for one in released:  # not under the lock: they may wait for threads that want it
            one.released()

    def _remove(self, source: Source) -> list[Source]:
        """Do so; the sources from which nothing comes any more."""
        self._changing = source
        if source in self._sources:
            self._sources.remove(source)
        for users in self._users.values():
            if source in users:
                users.remove(source)
        gone = [name for name, users in self._users.items() if not users]
        trees = {source.tree, *(self._owners[name].tree for name in gone if name in self._owners)}
        trees -= {owner.tree for name, owner in self._owners.items() if name not in gone}
        # What other threads have found already is not to be executed. What they look for from now
        # on, below a package that they have, is in a directory where nothing is found.
        for tree in trees:
            tree.unloaded = True
        for name in gone:
            self._owners.pop(name, None)
            del self._users[name]
        for name in self._modules_of(gone, trees):
            _discard_module(name)
        for name in reversed(source.joins()):
            self._leave(name, source)
        for tree in trees:
            _forget_caches(tree)
        self._changing = None
        return self._left(source)

    def after_fork(self) -> None:
        """In the child, which has one thread: end what another had begun, and free its lock."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
            return
        self._lock = RLock()
        if self._changing is not None:
            self._remove(self._changing)

    def _left(self, source: Source) -> list[Source]:
        left = [*self._lingering, source]
        owners = list(self._owners.values())
        self._lingering = [one for one in left if one in owners]
        return [one for one in left if one not in owners]

    def modules(self, source: Source) -> dict[str, ModuleType]:
        """The imported modules that come from `source`."""
        names = self._modules_of(source.names.owned, {source.tree})
        return {name: sys.modules[name] for name in names if name in sys.modules}

    def _install(self) -> None:
        # Also again, where a test or a reloader has restored older lists.
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        if self._hook not in sys.path_hooks:
            sys.path_hooks.insert(0, self._hook)

    def _judge(self, source: Source) -> tuple[Names, Isolation | None]:
        names = _names.judge(source.release, source.brought, source.vendored, self._elsewhere)
        isolation = None
        if names.shared:
            names = self._judge_versions(source, names)
        if names.isolated:
            isolation = self._isolate(source, names)
        # A vendored distribution whose modules are shared is left to where those come from.
        elsewhere = {source.vendored[name] for name in (*names.shared, *names.isolated)}
        distributions = _names.judge_distributions(
            source.release,
            {name: at for name, at in source.dist_infos.items() if name not in elsewhere},
            {canonicalize_name(name) for name in source.tree.manifest.python.vendored},
            lambda name: self._distribution_elsewhere(name, source.tree),
            lambda name: name in source.distributions,
        )
        return evolve(names, distributions=distributions), isolation

    def _judge_versions(self, source: Source, names: Names) -> Names:
        from plugin_manager.loader import _isolation, _metadata  # noqa: PLC0415 - slow, rarely needed

        def found(module: str, distribution: str) -> Version | None:
            owner = self._owner_of(module)
            if owner is None:
                return _metadata.version_elsewhere(distribution, source.tree, self)
            directory = owner.distributions.get(distribution)
            return None if directory is None else _isolation.version_of(owner.tree, directory)

        bundled = _isolation.libraries(
            source.tree, source.brought, source.vendored, source.distributions
        )
        return _isolation.keep_apart(source.release, names, bundled, found)

    def _isolate(self, source: Source, names: Names) -> Isolation:
        from plugin_manager.loader._isolation import Isolation  # noqa: PLC0415 - slow, rarely needed

        apart = {source.vendored[name] for name in names.isolated}
        distributions = {name: at for name, at in source.distributions.items() if name in apart}
        isolation = Isolation(source.release, names.isolated, distributions)
        if (other := self._elsewhere(isolation.package)) is not None:
            raise _names.conflict(source.release, "module", isolation.package, other)
        return isolation

    def _distribution_elsewhere(self, name: str, tree: Tree) -> Elsewhere | None:
        from importlib.metadata import DistributionFinder  # noqa: PLC0415 - slow

        from plugin_manager.loader import _metadata  # noqa: PLC0415 - slow

        context = DistributionFinder.Context(name=name)
        for other in self._sources:
            if any(_metadata.distributions(other, context, self)):
                return Elsewhere(f"the plugin {other.release}", other.release)
        where = _metadata.found_elsewhere(name, tree, self)
        return None if where is None else Elsewhere(where)

    def _elsewhere(self, name: str) -> Elsewhere | None:
        owner = self._owner_of(name)
        if owner is None and name in self._namespaces:
            owner = self._namespaces[name].sources[0]
        if owner is not None:
            return Elsewhere(f"the plugin {owner.release}", owner.release)
        where = _names.found_elsewhere(name, self)
        return None if where is None else Elsewhere(where)

    def _modules_of(self, names: Iterable[str], trees: set[Tree]) -> list[str]:
        """The imported modules called one of `names`, or below one, or executed from `trees`."""
        wanted = set(names)
        found = []
        for name, module in list(sys.modules.items()):
            # A plugin may have put a directory of its own on sys.path.
            if _nearest(name, wanted) or _tree_of(module) in trees:
                found.append(name)
        return found

    def _join(self, name: str) -> _Portions:
        if name not in self._namespaces:
            module = sys.modules.get(name)
            if module is not None:  # the host's, imported already: it gets our directories too
                portions = _Portions(name, module.__path__)
                module.__path__ = portions  # type: ignore[assignment]  # a sequence suffices
            else:
                others = _names.other_portions(name, self)
                portions = _Portions(name, [at for at in others if not self._is_ours(at)])
            self._namespaces[name] = portions
        return self._namespaces[name]

    def _leave(self, name: str, source: Source) -> None:
        if name not in self._namespaces:
            return
        portions = self._namespaces[name]
        if source in portions.sources:
            portions.sources.remove(source)
        if portions.sources:
            return
        del self._namespaces[name]
        module = sys.modules.get(name)
        if module is None or getattr(module, "__path__", None) is not portions:
            return
        if isinstance(getattr(module.__spec__, "loader", None), NamespaceLoader):
            _discard_module(name)
        else:
            module.__path__ = portions.others

    # --- importlib's questions -----------------------------------------------------------------

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module of a release; None for names that are none of theirs.

        For a name below theirs that no manifest has it is None too, unless whoever were asked
        next could find it in a release's directory: then ModuleNotFoundError is raised.
        """
        if fullname.partition(".")[0] not in self._tops:
            return None
        if (portions := self._namespaces.get(fullname)) is not None:
            spec = ModuleSpec(fullname, NamespaceLoader(portions.within), is_package=True)
            spec.submodule_search_locations = portions  # type: ignore[assignment]  # a sequence
            return spec
        if (source := self._owners.get(fullname)) is not None:
            return source.spec(fullname, source.directory_of(fullname))
        if (source := self._owner_of(fullname)) is not None:
            for entry in path or ():
                within = source.packages.get(entry)
                if within is None:
                    within = source.tree.path_of(entry)
                if within is not None and (found := source.spec(fullname, within)) is not None:
                    return found
        return self._ask_others(fullname, path or (), target)

    def _owner_of(self, fullname: str) -> Source | None:
        # Threads remove names meanwhile. Who owns the first part, as most do, owns what is below.
        owner = self._owners.get(fullname.partition(".")[0])
        return owner or self._owners.get(_nearest(fullname, self._owners))

    def _ask_others(
        self, fullname: str, path: Sequence[str], target: ModuleType | None
    ) -> ModuleSpec | None:
        inside = [entry for entry in path if self._is_ours(entry)]
        if not inside:
            return None
        outside = [entry for entry in path if entry not in inside]
        others = [finder for finder in list(sys.meta_path) if finder is not self]
        for finder in others:
            find = getattr(finder, "find_spec", None)  # very old finders have none
            spec: ModuleSpec | None = find(fullname, outside, target) if find else None
            if spec is not None:
                return spec
        # They are asked once more when this returns, for the whole of `path`.
        if not all(map(_sees_no_directory, others)):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        for entry in inside:
            # What PathFinder goes by, whatever hooks others have put before ours.
            sys.path_importer_cache[entry] = self._hook(entry)
        return None

    def disowns(self, fullname: str) -> bool:
        """Whether `fullname` is below a namespace package of releases, but no module of theirs."""
        return fullname.partition(".")[0] in self._namespaces and self._owner_of(fullname) is None

    def _within(self, location: str) -> tuple[Source, str] | None:
        # Also those that are unloaded, but whose modules others share. Copies, for other threads.
        for source in dict.fromkeys([*list(self._sources), *list(self._owners.values())]):
            if (path := source.tree.path_of(location)) is not None:
                return source, path
        return None

    def _is_ours(self, location: object) -> bool:
        """Whether `location` is in a directory that is a release's, or was."""
        if not isinstance(location, str):
            return False  # importlib passes it over
        try:
            above = os.path.abspath(location)  # noqa: PTH100 - must not resolve links: they may lie
        except OSError:  # relative to a working directory that is gone
            return False
        while above not in self._tombs:
            above, below = os.path.dirname(above), above  # noqa: PTH120 - a string
            if above == below:
                return False
        return True

    def _hook(self, location: str) -> abc.PathEntryFinder:
        """The finder for a directory of a release, known or not to its manifest."""
        try:
            # Also by another way: a link to the directory, or through one.
            spelled = [location, _real(location)]
        except (OSError, ValueError):
            spelled = [location]
        for one in spelled:
            if (found := self._within(one)) is not None:
                return _DirectoryFinder(self, *found)
            if self._is_ours(one):
                return _NOTHING
        raise ImportError("not in a plugin", path=location)

    def find_distributions(
        self, context: DistributionFinder.Context | None = None
    ) -> Iterator[Distribution]:
        """What `importlib.metadata` shall know of loaded releases."""
        from plugin_manager.loader import _metadata  # noqa: PLC0415 - slow

        for source in list(self._sources):
            yield from _metadata.isolated_distributions(source, context)
        for source in list(self._sources):
            yield from _metadata.distributions(source, context, self)


class _DirectoryFinder(abc.PathEntryFinder):
    """The modules in one directory of a release, for those who ask by directory."""

    def __init__(self, finder: PluginFinder, source: Source, directory: str) -> None:
        self._finder = finder
        self._source = source
        self._directory = directory
        self.tree = source.tree

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002 - the interface's
        """The spec of the module `fullname` in this directory."""
        if self._finder.disowns(fullname):
            return None
        return self._source.spec(fullname, self._directory)

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """What `pkgutil.iter_modules` lists: each module's name, and whether it is a package."""
        for name, module in listed(self.tree, self._directory):
            if module.kind is not Kind.NAMESPACE:
                yield prefix + name, module.is_package


class _Nothing(abc.PathEntryFinder):
    """What is found in a directory of a release that is unloaded."""

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> None:
        """None."""

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:  # noqa: ARG002 - pkgutil's
        """No modules."""
        return iter(())


_NOTHING = _Nothing()


def _real(location: str) -> str:
    """`location` without links on the way."""
    above, name = os.path.split(location)
    if not os.path.isabs(above) or name in {"", ".", ".."} or os.path.islink(location):  # noqa: PTH114, PTH117 - strings
        return os.path.realpath(location)
    return os.path.join(_real_above(above), name)  # noqa: PTH118 - a string


# Asked for each package that anybody imports, most of which have their directory in common. Who
# can turn a link there round later needs no release to lead to.
_real_above = lru_cache(os.path.realpath)


def _nearest(fullname: str, names: Container[str]) -> str:
    """`fullname`, or what is nearest above it, that is one of `names`, or ""."""
    while fullname and fullname not in names:
        fullname = fullname.rpartition(".")[0]
    return fullname


def _sees_no_directory(finder: object) -> bool:
    kind = finder if isinstance(finder, type) else type(finder)
    return _SEES_NO_DIRECTORY.fullmatch(f"{kind.__module__}.{kind.__qualname__}") is not None


def _tree_of(module: object) -> object:
    """The tree that `module` was executed from, if it was one.

    Looks only into the module's own dictionary: some modules import more when asked for a name.
    """
    spec = vars(module).get("__spec__") if isinstance(module, ModuleType) else None
    return getattr(getattr(spec, "loader", None), "tree", None)


def _discard_module(name: str) -> None:
    module = sys.modules.pop(name, None)
    parent, _, child = name.rpartition(".")
    above = sys.modules.get(parent)
    # A plugin may have put None there, or anything, and other threads remove things too.
    if isinstance(above, ModuleType) and vars(above).get(child) is module:
        vars(above).pop(child, None)


def _forget_caches(tree: Tree) -> None:
    """Forget finders and source lines that the process keeps for the release's directory."""
    for location, finder in list(sys.path_importer_cache.items()):
        # Ours may also be there for other ways to the directory.
        ours = finder is _NOTHING or (type(finder) is _DirectoryFinder and finder.tree is tree)
        if ours or tree.path_of(location) is not None:
            sys.path_importer_cache.pop(location, None)
    for location in list(linecache.cache):
        if tree.path_of(location) is not None:
            linecache.cache.pop(location, None)


FINDER = PluginFinder()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=FINDER.after_fork)
