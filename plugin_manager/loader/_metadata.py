"""Loaded releases as `importlib.metadata` sees them, read verified."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Iterator
from importlib.metadata import (
    Distribution,
    DistributionFinder,
    EntryPoint,
    EntryPoints,
    PackagePath,
)
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from plugin_manager.loader._tree import Tree, join
from plugin_manager.manifest import Manifest

if TYPE_CHECKING:
    from plugin_manager.loader._finder import Source

__all__ = ["distributions", "entry_points", "found_elsewhere"]


def entry_points(manifest: Manifest) -> EntryPoints:
    """The entry points that the manifest declares."""
    return EntryPoints(
        EntryPoint(entry.name, entry.value, entry.group) for entry in manifest.entry_points
    )


def distributions(
    source: Source, context: DistributionFinder.Context | None, ignoring: object
) -> Iterator[Distribution]:
    """The distributions of a loaded release that `context` asks for.

    Those in its bundle that it was judged to keep; and where it vendors all of them, or has none,
    one more that stands for the plugin itself, called `publisher.name`, unless the host has one of
    that name. `ignoring` is the finder that is not the host's.
    """
    tree, root = source.tree, source.root
    # As in importlib.metadata: only a caller who names directories has put `path` there.
    if context is not None and "path" in vars(context) and tree.location(root) not in context.path:
        return
    wanted = None if context is None or context.name is None else canonicalize_name(context.name)
    vendored = {canonicalize_name(name) for name in tree.manifest.python.vendored}
    for name, directory in source.names.distributions.items():
        if wanted in {None, name}:
            yield _Installed(tree, root, directory)
    if vendored.issuperset(source.names.distributions):
        plugin = _Plugin(tree, root)
        name = canonicalize_name(plugin.name)
        if wanted in {None, name} and found_elsewhere(name, tree, ignoring) is None:
            yield plugin


def found_elsewhere(name: str, tree: Tree, ignoring: object) -> str | None:
    """Where the host has the distribution `name` from; None where it has it not, or from `tree`.

    One look-up by name, as `importlib.metadata.version` makes it. `ignoring` is the finder not to
    ask.
    """
    context = DistributionFinder.Context(name=name)
    for finder in sys.meta_path:
        find = getattr(finder, "find_distributions", None)
        if finder is ignoring or find is None:
            continue
        for distribution in find(context):
            where = str(distribution.locate_file(""))
            if tree.path_of(where) is None:
                return where
    return None


class _InTree(Distribution):
    """A distribution whose files lie below the import root of a release."""

    def __init__(self, tree: Tree, root: str) -> None:
        self._tree = tree
        self._root = root

    def locate_file(self, path: str | PathLike[str]) -> Path:
        """The place of a file of the distribution; verified when the plugin was loaded."""
        return Path(self._tree.location(self._root), fspath(path))


class _Installed(_InTree):
    """A distribution that came with its `dist-info` directory."""

    def __init__(self, tree: Tree, root: str, directory: str) -> None:
        super().__init__(tree, root)
        self._directory = directory

    def read_text(self, filename: str | PathLike[str]) -> str | None:
        """The verified text of a metadata file, None where there is none."""
        path = join(self._directory, fspath(filename))
        if not self._tree.is_file(path):
            return None
        return self._tree.read(path).decode(errors="replace")

    # Nonsense in these two files would end everybody's `entry_points()`, not the plugin's alone.

    @property
    def entry_points(self) -> EntryPoints:
        """The entry points; none where the file makes no sense."""
        with contextlib.suppress(TypeError, ValueError):
            return super().entry_points
        return EntryPoints(())

    @property
    def files(self) -> list[PackagePath] | None:
        """The files of the RECORD; None where it is missing or makes no sense."""
        with contextlib.suppress(TypeError, ValueError, csv.Error):
            return super().files
        return None


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
        return entry_points(self._tree.manifest)
