"""Loaded releases as `importlib.metadata` sees them, read verified."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import posixpath
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import (
    Distribution,
    DistributionFinder,
    EntryPoint,
    EntryPoints,
    PackagePath,
)
from os import PathLike, fspath
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from plugin_manager.errors import CorruptError, StoreAccessError
from plugin_manager.loader._tree import Tree, join

if TYPE_CHECKING:
    from plugin_manager.loader._finder import Source

__all__ = [
    "distributions",
    "entry_points",
    "found_elsewhere",
    "isolated_distributions",
    "version_elsewhere",
]


def entry_points(source: Source) -> EntryPoints:
    """The entry points that the release's manifest declares."""
    return EntryPoints(
        _EntryPoint(source, entry.name, source.imported_as(entry.value), entry.group)
        for entry in source.tree.manifest.entry_points
    )


def distributions(
    source: Source, context: DistributionFinder.Context | None, ignoring: object
) -> Iterator[Distribution]:
    """The distributions of a loaded release that `context` asks for.

    Those in its bundle that it was judged to keep; and where it vendors all of them, or has none,
    one more that stands for the plugin itself, called `publisher.name`, unless the host has one of
    that name. `ignoring` is the finder that is not the host's.
    """
    if _asks_elsewhere(source, context):
        return
    wanted = _wanted(context)
    vendored = {canonicalize_name(name) for name in source.tree.manifest.python.vendored}
    kept = source.distributions.keys() & source.names.distributions.keys()
    for name in source.names.distributions:
        if wanted in {None, name} and name in kept:
            yield _Installed(source, name, source.distributions[name])
    if vendored.issuperset(kept):
        plugin = _Plugin(source)
        name = canonicalize_name(plugin.name)
        if wanted in {None, name} and found_elsewhere(name, source.tree, ignoring) is None:
            yield plugin


def isolated_distributions(
    source: Source, context: DistributionFinder.Context | None
) -> Iterator[Distribution]:
    """The isolated distributions that `context` asks for, where the release's own code asks.

    Others find none: what they import by those names is another version. By its private name
    (`version(__name__)`) everybody finds one.
    """
    if source.isolation is None or _asks_elsewhere(source, context):
        return
    wanted, own = _wanted(context), source.isolation.asks()
    for name, directory in source.isolation.distributions.items():
        private = canonicalize_name(f"{source.isolation.package}.{name}")
        if wanted == private or (own and wanted in {None, name}):
            yield _Installed(source, name, directory)


def _asks_elsewhere(source: Source, context: DistributionFinder.Context | None) -> bool:
    # As in importlib.metadata: only a caller who names directories has put `path` there.
    if context is None or "path" not in vars(context):
        return False
    return source.tree.location(source.root) not in context.path


def _wanted(context: DistributionFinder.Context | None) -> str | None:
    return None if context is None or context.name is None else canonicalize_name(context.name)


def found_elsewhere(name: str, tree: Tree, ignoring: object) -> str | None:
    """Where the host has the distribution `name` from; None where it has it not, or from `tree`.

    One look-up by name, as `importlib.metadata.version` makes it. `ignoring` is the finder not to
    ask.
    """
    found = _find_elsewhere(name, tree, ignoring)
    return None if found is None else str(found.locate_file(""))


def version_elsewhere(name: str, tree: Tree, ignoring: object) -> Version | None:
    """The version in which the host has the distribution `name`; None where nothing says it."""
    found = _find_elsewhere(name, tree, ignoring)
    try:
        return None if found is None else Version(found.metadata["Version"] or "")
    except InvalidVersion:
        return None


def _find_elsewhere(name: str, tree: Tree, ignoring: object) -> Distribution | None:
    context = DistributionFinder.Context(name=name)
    for finder in sys.meta_path:
        find = getattr(finder, "find_distributions", None)
        if finder is ignoring or find is None:
            continue
        found: Iterable[Distribution] = find(context)
        for distribution in found:
            if tree.path_of(str(distribution.locate_file(""))) is None:
                return distribution
    return None


class _EntryPoint(EntryPoint):
    """An entry point of a release, whose `load` is good only with what it names in the module."""

    def __init__(
        self, source: Source, name: str, value: str, group: str, dist: Distribution | None = None
    ) -> None:
        super().__init__(name, value, group)
        vars(self).update(_source=source, dist=dist)  # attributes cannot be set

    def __reduce__(self) -> tuple[object, ...]:
        return EntryPoint, (self.name, self.value, self.group)  # elsewhere nothing is loaded

    def load(self) -> Any:
        """What it names."""
        with vars(self)["_source"].tree.executing(lambda: True):
            return super().load()


class _InTree(Distribution):
    """A distribution whose files lie below the import root of a release."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tree = source.tree

    def locate_file(self, path: str | PathLike[str]) -> Path:
        """The place of a file of the distribution; verified when the plugin was loaded."""
        return Path(self._tree.location(self._source.root), fspath(path))


class _Installed(_InTree):
    """A distribution that came with its `dist-info` directory."""

    def __init__(self, source: Source, name: str, directory: str) -> None:
        super().__init__(source)
        self._name = name
        self._directory = directory

    @property
    def name(self) -> str:
        """The name; the normalised one where METADATA is damaged, or closed to this process.

        `importlib.metadata.entry_points()` asks each distribution for it.
        """
        with contextlib.suppress(CorruptError, StoreAccessError):
            return super().name
        return self._name

    def read_text(self, filename: str | PathLike[str]) -> str | None:
        """The verified text of a metadata file, None where there is none.

        In that of the entry points isolated modules have their private names.
        """
        path = join(self._directory, fspath(filename))
        if not self._tree.is_file(path):
            return None
        text = self._tree.read(path).decode(errors="replace")
        if self._source.isolation is None or fspath(filename) != "entry_points.txt":
            return text
        rows = (line.partition("=") for line in text.splitlines())
        return "\n".join(
            f"{name}{sign}{self._source.imported_as(value.strip())}" for name, sign, value in rows
        )

    # Nonsense in these two files, damage, or a lack of rights would end everybody's
    # `entry_points()`, not the plugin's alone.

    @property
    def entry_points(self) -> EntryPoints:
        """The entry points; none where the file makes no sense or is damaged."""
        with contextlib.suppress(TypeError, ValueError, CorruptError, StoreAccessError):
            found = super().entry_points
            return EntryPoints(
                _EntryPoint(self._source, one.name, one.value, one.group, self) for one in found
            )
        return EntryPoints(())

    @property
    def files(self) -> list[PackagePath] | None:
        """The files of the RECORD; None where it is missing or makes no sense, or is damaged."""
        with contextlib.suppress(TypeError, ValueError, csv.Error, CorruptError, StoreAccessError):
            files = super().files
            return None if files is None else [self._verified(path) for path in files]
        return None

    def _verified(self, path: PackagePath) -> PackagePath:
        verified = _VerifiedPath(path)
        vars(verified).update(vars(path), dist=self)
        return verified

    def read(self, path: PurePosixPath) -> bytes:
        """The verified bytes of the file `path` of the RECORD; raises FileNotFoundError."""
        within = posixpath.normpath(join(self._source.root, str(path)))
        if not self._tree.is_file(within):
            raise FileNotFoundError(errno.ENOENT, "not in the plugin", str(path))
        return self._tree.read(within)


class _VerifiedPath(PackagePath):
    """A path of a RECORD, what it leads to read verified."""

    dist: _Installed

    def read_text(self, encoding: str = "utf-8") -> str:
        """The verified text."""
        return io.StringIO(self.dist.read(self).decode(encoding), newline=None).read()

    def read_binary(self) -> bytes:
        """The verified bytes."""
        return self.dist.read(self)


class _Plugin(_InTree):
    """A distribution made from a manifest, for a plugin that was not built as one."""

    @property
    def name(self) -> str:
        """`publisher.name`, which no ordinary distribution is likely to be called."""
        plugin = self._tree.manifest.release.plugin
        return f"{plugin.publisher}.{plugin.name}"

    def read_text(self, filename: str | PathLike[str]) -> str | None:
        """The METADATA file that a build would have written; no other."""
        if fspath(filename) != "METADATA":
            return None
        manifest = self._tree.manifest
        summary = " ".join(manifest.about.summary.split())  # one line, whatever it was
        return (
            f"Metadata-Version: 2.1\nName: {self.name}\n"
            f"Version: {manifest.release.version}\nSummary: {summary}\n"
        )

    @property
    def entry_points(self) -> EntryPoints:
        """The manifest's entry points."""
        return entry_points(self._source)
