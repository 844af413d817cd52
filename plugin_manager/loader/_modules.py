"""Which Python modules a release has, found in its manifest alone.

The rules are those of `importlib.machinery.FileFinder`: a package goes before a module, an
extension module before source before bytecode, and a directory without any is a namespace package.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from enum import Enum, auto
from importlib import machinery
from typing import NamedTuple

from plugin_manager.loader._tree import Tree, join

__all__ = ["Contents", "Kind", "Module", "contents", "find", "listed"]


class Kind(Enum):
    """What a module is made from."""

    EXTENSION = auto()
    SOURCE = auto()
    BYTECODE = auto()
    NAMESPACE = auto()


_SUFFIXES = [
    *((suffix, Kind.EXTENSION) for suffix in machinery.EXTENSION_SUFFIXES),
    *((suffix, Kind.SOURCE) for suffix in machinery.SOURCE_SUFFIXES),
    *((suffix, Kind.BYTECODE) for suffix in machinery.BYTECODE_SUFFIXES),
]


class Module(NamedTuple):
    """A module's kind, the path of its file (a namespace's directory), whether it is a package."""

    kind: Kind
    path: str
    is_package: bool


def find(tree: Tree, directory: str, name: str) -> Module | None:
    """The module called `name` (without dots) in `directory`."""
    base = join(directory, name)
    files = tree.files  # asked first: of most suffixes there is no such file
    for suffix, kind in _SUFFIXES:
        if (path := f"{base}/__init__{suffix}") in files and tree.is_file(path):
            return Module(kind, path, True)
    for suffix, kind in _SUFFIXES:
        if (path := base + suffix) in files and tree.is_file(path):
            return Module(kind, path, False)
    return Module(Kind.NAMESPACE, base, True) if tree.is_directory(base) else None


def listed(tree: Tree, directory: str) -> Iterator[tuple[str, Module]]:
    """Each name in `directory` that can be imported, once, with its module."""
    seen = {"__init__", "__pycache__"}
    for entry in tree.names(directory):
        name = entry
        if not tree.is_directory(join(directory, entry)):
            name = next((entry[: -len(s)] for s, _ in _SUFFIXES if entry.endswith(s)), "")
        if name.isidentifier() and name not in seen:
            seen.add(name)
            if (module := find(tree, directory, name)) is not None:
                yield name, module


class Contents(NamedTuple):
    """What a release brings below its import root, by dotted name.

    `modules` are the regular modules and packages that no other regular package holds, with the
    paths of their files; `namespaces` are the implicit namespace packages that lead there, with
    their directories.
    """

    modules: dict[str, str]
    namespaces: dict[str, str]


def contents(tree: Tree, root: str) -> Contents:
    """What the release brings below the directory `root`, without the process's own `__main__`."""
    return _below(tree, root, {"__main__"})


def _below(tree: Tree, directory: str, skipped: Set[str] = frozenset()) -> Contents:
    found = Contents({}, {})
    for name, module in listed(tree, directory):
        if name in skipped:
            continue
        if module.kind is not Kind.NAMESPACE:
            found.modules[name] = module.path
            continue
        inner = _below(tree, module.path)
        if inner.modules:  # else it is a directory of data, which is nobody's name
            found.namespaces[name] = module.path
            found.modules.update((f"{name}.{key}", path) for key, path in inner.modules.items())
            found.namespaces.update(
                (f"{name}.{key}", path) for key, path in inner.namespaces.items()
            )
    return found
