"""What a SOURCE comes to before it is a bundle: who and what it is, and its files."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from attrs import field

from plugin_manager._attrs import frozen
from plugin_manager.errors import InvalidInputError, RefusedError
from plugin_manager.manifest import About, PythonLayout, path_collisions
from plugin_manager.model import (
    MAX_PATH_PART_BYTES,
    BundlePath,
    Digest,
    EntryPoint,
    HostNeeds,
    PluginRequirement,
    Release,
)

__all__ = ["Payload", "PayloadFile", "check", "served_name"]

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


def served_name(target_path: str, sha256: str) -> str:
    """The path below `targets/` of the file for `target_path` (TUF's consistent snapshots)."""
    directory, _, name = target_path.rpartition("/")
    return f"{directory}/{sha256}.{name}"


def check(payload: Payload, where: str) -> None:
    """Refuse what no client could install or load.

    Raises InvalidInputError naming `where` (no files, names that collide, a release whose bundle
    no file system could hold), RefusedError for importable top-level names that belong to Python
    or to this package.
    """
    _check_file_name(payload.release, where)
    if not payload.files:
        raise InvalidInputError(
            f"{where}: holds no files",
            remedy="Put the plugin's files there, or exclude less.",
            where=where,
        )
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


def _check_file_name(release: Release, where: str) -> None:
    name = served_name(release.target_path, Digest("0" * 64)).rpartition("/")[2]
    if len(name) > MAX_PATH_PART_BYTES:  # all ASCII
        raise InvalidInputError(
            f"{where}: the bundle's file name would have {len(name)} characters, more than "
            f"{MAX_PATH_PART_BYTES}",
            remedy="Choose a shorter name, version or platform.",
            where=where,
            name=name,
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
