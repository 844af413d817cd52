"""What a SOURCE comes to before it is a bundle: who and what it is, and its files."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from attrs import field, frozen

from plugin_manager.errors import InvalidInputError, RefusedError
from plugin_manager.manifest import About, PythonLayout, path_collisions
from plugin_manager.model import (
    BundlePath,
    EntryPoint,
    HostNeeds,
    PluginRequirement,
    Release,
)

__all__ = ["Payload", "PayloadFile", "check"]

OWN_PACKAGE = "plugin_manager"


@frozen
class PayloadFile:
    """One file to be: its path in the bundle, and where its bytes lie on this disk meanwhile."""

    path: BundlePath
    source: Path
    executable: bool = False
    tag: str = ""


@frozen
class Payload:
    """Everything that a release is made of; `notes` are sentences for the person who publishes."""

    release: Release
    about: About
    files: tuple[PayloadFile, ...]
    requirements: tuple[PluginRequirement, ...] = ()
    needs: HostNeeds = field(factory=HostNeeds)
    entry_points: tuple[EntryPoint, ...] = ()
    python: PythonLayout = field(factory=PythonLayout)
    notes: tuple[str, ...] = ()


def check(payload: Payload, where: str) -> None:
    """Refuse what no client could install or load.

    Raises InvalidInputError naming `where` (no files, names that collide), RefusedError for
    importable top-level names that belong to Python or to this package.
    """
    if not payload.files:
        raise InvalidInputError(f"{where}: holds no files", where=where)
    paths = [file.path for file in payload.files]
    if faults := [what for _, what in path_collisions(paths)]:
        raise InvalidInputError.of(where, faults, remedy="Rename one of the two.")
    reserved = sys.stdlib_module_names | {OWN_PACKAGE}
    if names := sorted(_top_level_modules(payload.python.root, paths) & reserved):
        raise RefusedError(
            f"{where}: brings the module {names[0]!r}, a name that belongs to "
            + ("this program" if names[0] == OWN_PACKAGE else "Python itself"),
            remedy="Rename the module, or move it into a package.",
            names=tuple(names),
        )


def _top_level_modules(root: str, paths: Iterable[BundlePath]) -> set[str]:
    prefix = f"{root}/" if root else ""
    names = set()
    for path in paths:
        if not path.startswith(prefix):
            continue
        first, slash, rest = path[len(prefix) :].partition("/")
        if slash:
            # Any directory can be a namespace package, but data beside the code is common.
            if rest.endswith((".py", ".pyc", ".so", ".pyd")):
                names.add(first)
        elif first.endswith((".py", ".pyc", ".so", ".pyd")):
            names.add(first.partition(".")[0])
    return names
