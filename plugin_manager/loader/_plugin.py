"""A loaded plugin, as a host application holds it."""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO, Literal, Self

from packaging.version import Version

from plugin_manager.errors import CorruptError, InvalidInputError, RefusedError
from plugin_manager.loader._finder import FINDER, Source
from plugin_manager.loader._modules import contents
from plugin_manager.loader._names import dist_infos, vendored_modules
from plugin_manager.loader._tree import Tree
from plugin_manager.manifest import About, Manifest
from plugin_manager.model import PluginName, Release

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["LoadedPlugin", "check_verify", "load"]


def _nothing() -> None:
    pass


def check_verify(verify: object) -> None:
    """Raise InvalidInputError where `verify` is neither "all" nor "on-read"."""
    if verify not in ("all", "on-read"):
        raise InvalidInputError(
            f"verify={verify!r} is no way to verify", remedy="Give 'all' or 'on-read'."
        )


def load(
    manifest: Manifest,
    directory: Path,
    *,
    verify: Literal["all", "on-read"] = "all",
    released: Callable[[], None] = _nothing,
    importing: Callable[[], None] = _nothing,
    imported: Callable[[BaseException | None], None] | None = None,
    confirmed: Callable[[], None] = _nothing,
) -> LoadedPlugin:
    """The release in `directory`, its modules ready to be imported.

    With `verify="all"` every file is hashed before this returns, on all processors; with
    "on-read" none is. In both modes what is read, imported or opened is hashed as it is read for
    that very use; only paths that were not asked for by `LoadedPlugin.path` differ. No directory
    of the release may be a link: all are looked at with "all", with "on-read" each at its first
    use.

    Where `imported` is given, `importing()` is called before code of the release runs, or is
    handed out, in a thread that runs none; `imported(error)` when that raised, which is raised on;
    and `imported(None)` when an import of the release, `import_module` or an entry point's `load`
    has ended well, with nothing of the release being imported any more. `confirmed` is called by
    `LoadedPlugin.confirm`; `released` once nothing of `directory` is in use any more: after the
    unloading of this plugin and of those that share modules with it.

    `manifest` must be trusted. No code of the release runs. Raises CorruptError naming every file
    that is not as signed, or `directory` where it is missing or no directory itself, and
    ModuleConflictError where the release brings a module or a distribution that this process has
    already, both before anything has changed; InvalidInputError for any other `verify`. Threads may
    load at the same time.
    """
    check_verify(verify)
    tree = Tree(
        manifest,
        _real(manifest, directory),
        verified_at_load=verify == "all",
        importing=importing,
        imported=imported,
    )
    if tree.verified_at_load:
        tree.verify()
    root = manifest.python.root
    brought = contents(tree, root)
    source = Source(
        tree,
        root,
        brought,
        vendored_modules(tree, root, brought),
        dict(dist_infos(tree, root)),
        released,
    )
    FINDER.add(source)
    return LoadedPlugin(source, confirmed)


def _real(manifest: Manifest, directory: Path) -> Path:
    """`directory` with the links on the way resolved, so that modules have one place each.

    Raises CorruptError where it is itself a link, which leads out of the store, a file or missing.
    """
    # Itself it is not resolved, or it could be swapped for a link after it was found to be none.
    above, name = os.path.split(os.path.abspath(directory))  # noqa: PTH100 - resolves no link
    try:
        # Not by Path.resolve, which raises RuntimeError for links in a circle.
        real = Path(os.path.realpath(above), name)
        if stat.S_ISDIR(real.lstat().st_mode):
            return real
        what = "is not a directory"
    except FileNotFoundError:
        what = "is missing"
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
    release = manifest.release
    raise CorruptError(
        f"{directory}, the place of {release}, {what}",
        paths=(str(directory),),
        remedy=f"Run 'pluginctl repair {release.plugin}'.",
        plugin=str(release.plugin),
    )


class LoadedPlugin:
    """A release in use. Made by `load`; a context manager that unloads at its end.

    What `read`, `open`, imports and `importlib.resources` give was hashed as it was read for that
    very use. Bare paths lead to files that were verified earlier: `path` when it was called,
    others (`directory`, a module's `__file__`) at the load, or not at all where the plugin was
    loaded with `verify="on-read"`. Prefer the others where you can.
    """

    def __init__(self, source: Source, confirmed: Callable[[], None] = _nothing) -> None:
        self._source = source
        self._confirmed = confirmed
        self._unloaded = False

    def __repr__(self) -> str:
        state = ", unloaded" if self._unloaded else ""
        return f"<{type(self).__name__} {self.release}{state}>"

    # --- what it is ----------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """The signed description of the release."""
        return self._source.tree.manifest

    @property
    def release(self) -> Release:
        """Plugin, version and platform."""
        return self.manifest.release

    @property
    def name(self) -> PluginName:
        """The plugin's name."""
        return self.release.plugin

    @property
    def version(self) -> Version:
        """The release's version."""
        return self.release.version

    @property
    def about(self) -> About:
        """What the publisher says about the plugin. Escape it before display."""
        return self.manifest.about

    # --- files ---------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """The release's directory. It may hold more than was signed; `files` says what was."""
        return self._source.tree.directory

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of the release's files that this interpreter uses, in the bundle's order."""
        tree = self._source.tree
        return tuple(path for path in tree.files if tree.is_file(path))

    def read(self, path: str) -> bytes:
        """The verified bytes of a file; raises NotFoundError, CorruptError."""
        return self._source.tree.read(path)

    def open(self, path: str) -> BinaryIO:
        """A stream of the verified bytes of a file, for files larger than memory.

        Seekable. Raises NotFoundError and CorruptError, reading from it CorruptError.
        """
        return self._source.tree.open(path)

    def memoryview(self, path: str, *, copy: bool = False) -> memoryview:
        """The verified bytes of a file as memory, mapped and not read: for libraries that slice.

        Hashed whole, on all processors, over the very mapping. Who may write to the file can
        change the mapping later all the same, or end this process by cutting the file off
        (SIGBUS); `copy=True` reads into memory of this process instead. The mapping lasts as long
        as the result. Raises NotFoundError, CorruptError.
        """
        return self._source.tree.memoryview(path, copy=copy)

    def path(self, path: str) -> Path:
        """The place of a file, hashed whole now: for programs that want a path.

        Who may write to the file can change it after that. Raises NotFoundError, CorruptError.
        """
        return self._source.tree.verified_path(path)

    def verify(self) -> None:
        """Hash every file again; raises CorruptError naming all that are not as signed."""
        self._source.tree.verify()

    # --- code ----------------------------------------------------------------------------------

    @cached_property
    def entry_points(self) -> tuple[EntryPoint, ...]:
        """The release's entry points; `load()` of one imports its module."""
        from plugin_manager.loader import _metadata  # noqa: PLC0415 - slow

        return tuple(_metadata.entry_points(self._source))

    def entry_points_in(self, group: str) -> tuple[EntryPoint, ...]:
        """The release's entry points in `group`."""
        return tuple(entry for entry in self.entry_points if entry.group == group)

    def import_module(self, name: str) -> ModuleType:
        """The module `name` of this release, imported; what it raises is passed on.

        Raises ModuleNotFoundError where the release brings no such name, RefusedError after
        `unload`.
        """
        if self._unloaded:
            raise RefusedError(
                f"{self.release} was unloaded", remedy="Load the plugin again.", module=name
            )
        brought = self._source.brought
        above = name
        while above and above not in brought.modules and above not in brought.namespaces:
            above = above.rpartition(".")[0]
        if not above:
            raise ModuleNotFoundError(f"{self.release} has no module {name!r}", name=name)
        imported_as = self._source.imported_as(name)
        with self._source.tree.executing(lambda: missing is None):
            missing = None
            try:
                return importlib.import_module(imported_as)
            except ModuleNotFoundError as error:
                if error.name != imported_as:
                    raise
                missing = error  # a host may ask what there is: that is no failure of the release
        raise missing

    @property
    def modules(self) -> Mapping[str, ModuleType]:
        """The release's modules that are imported now, by name."""
        return FINDER.modules(self._source)

    @property
    def executing(self) -> bool:
        """Whether some thread is importing, and so executing, a module of the release."""
        return self._source.tree.is_executing

    @property
    def shared(self) -> Mapping[str, str]:
        """The vendored modules that this process had already, and where it has them from.

        The release uses those, in the version that they are, which is one that it allows.
        """
        return self._source.names.shared

    def confirm(self) -> None:
        """Say that the release works: where it is on trial, the trial is over."""
        self._confirmed()

    @property
    def isolated(self) -> Mapping[str, str]:
        """The vendored modules that this plugin alone uses, each with its version, for people.

        That is because the process has another version, which is named then, or because they
        require such a one. In `sys.modules` they have private names; `import_module` knows them.
        """
        return self._source.names.isolated

    @property
    def unloaded(self) -> bool:
        """Whether `unload` was called."""
        return self._unloaded

    def unload(self) -> None:
        """Make the release's modules importable no longer and remove them from `sys.modules`.

        Objects that somebody still holds live on, and so do threads, handlers and other traces
        that the plugin's code left; native code stays mapped. Modules that another loaded plugin
        shares stay until that is unloaded too. Calling it again does nothing.
        """
        self._unloaded = True
        FINDER.remove(self._source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()
