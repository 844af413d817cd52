"""Loaded releases as `importlib.metadata` sees them, read verified."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import Distribution, DistributionFinder, EntryPoint, EntryPoints
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from plugin_manager.loader._names import dist_infos
from plugin_manager.loader._tree import Tree, join
from plugin_manager.manifest import Manifest

if TYPE_CHECKING:
    from plugin_manager.loader._finder import Source

__all__ = ["distributions", "entry_points"]


def entry_points(manifest: Manifest) -> EntryPoints:
    """The entry points that the manifest declares."""
    return EntryPoints(
        EntryPoint(entry.name, entry.value, entry.group) for entry in manifest.entry_points
    )


def distributions(
    source: Source, context: DistributionFinder.Context | None
) -> Iterator[Distribution]:
    """The distributions of a loaded release that `context` asks for.

    Those in its bundle; and where it vendors all of them, or has none, one more that stands for
    the plugin itself, called `publisher.name`. A vendored one whose modules are shared is left to
    where the modules come from.
    """
    tree, root = source.tree, source.root
    # As in importlib.metadata: only a caller who names directories has put `path` there.
    if context is not None and "path" in vars(context) and tree.location(root) not in context.path:
        return
    wanted = None if context is None or context.name is None else canonicalize_name(context.name)
    vendored = {canonicalize_name(name) for name in tree.manifest.python.vendored}
    shared = {source.vendored[name] for name in source.names.shared}
    infos = dict(dist_infos(tree, root))
    for name, directory in infos.items():
        if name not in shared and wanted in {None, name}:
            yield _Installed(tree, root, directory)
    if set(infos) <= vendored:
        plugin = _Plugin(tree, root)
        if wanted in {None, canonicalize_name(plugin.name)}:
            yield plugin


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
        return self._tree.read(path).decode() if self._tree.is_file(path) else None


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
