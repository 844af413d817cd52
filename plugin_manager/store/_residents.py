"""The releases on disk, and why each is there."""

from __future__ import annotations

import contextlib
import os
import re
from array import array
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from plugin_manager._attrs import frozen
from plugin_manager.errors import InvalidInputError
from plugin_manager.model import Digest, PluginName, Release, parse_version
from plugin_manager.settings import Limits
from plugin_manager.store._contents import BLOCK_BYTES, Contents, blocks
from plugin_manager.store._garbage import is_fresh
from plugin_manager.store._generations import Active, Generation
from plugin_manager.store._space import Kept, Resident
from plugin_manager.store._usage import NEVER, Usage

__all__ = ["Place", "kept_in", "release_name", "survey_places"]


def release_name(release: Release, digest: Digest) -> str:
    """The name of a release's directory within its plugin's."""
    return f"{release.version}-{digest[:16]}"


@frozen
class Place:
    """A directory below releases/ that has a release's name; the digest is None if unknown."""

    plugin: PluginName
    name: str
    directory: Path
    digest: Digest | None


def survey_places(
    store: Path, digests: Mapping[str, Digest], of: PluginName | None = None
) -> list[Place]:
    """The directories of releases (or just `of` a plugin); `digests` by their first 16 digits."""
    places = []
    for plugin, directory in (
        _plugins(store) if of is None else [(of, f"{store}/releases/{of.publisher}/{of.name}")]
    ):
        for entry in _directories(directory):
            if _RELEASE_NAME.fullmatch(entry.name) and _has_version(entry.name):
                digest = digests.get(entry.name.rpartition("-")[2])
                places.append(Place(plugin, entry.name, Path(entry.path), digest))
    return places


_RELEASE_NAME = re.compile(r"(.+)-[0-9a-f]{16}", re.ASCII)


def _has_version(name: str) -> bool:
    """Whether a directory's name is one that a release gets: others are somebody's own."""
    try:
        parse_version(name.rpartition("-")[0])
    except InvalidInputError:
        return False
    return True


def _plugins(store: Path) -> Iterator[tuple[PluginName, str]]:
    for publisher in _directories(f"{store}/releases"):
        for entry in _directories(publisher.path):
            with contextlib.suppress(InvalidInputError):
                yield PluginName.parse(f"{publisher.name}/{entry.name}"), entry.path


def _directories(path: str) -> Iterator[os.DirEntry[str]]:
    # Strings: a thousand Path objects take 5 ms.
    try:
        with os.scandir(path) as entries:
            found = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from sorted(found, key=lambda entry: entry.name)


def kept_in(
    places: list[Place],
    generation: Generation,
    lineages: Mapping[PluginName, list[Active]],
    contents: Mapping[Digest, Contents],
    *,
    usage: Mapping[Digest, Usage],
    limits: Limits,
    now: datetime,
    certain: bool,
    unbroken: bool,
) -> list[Resident]:
    """Why each of `places` is on disk; of each plugin the oldest version first.

    Not `certain`: records are damaged, so that nothing is garbage for want of a record. Not
    `unbroken`: some were lost; what is older than the active release may be what it replaced.
    """
    found = []
    undo = {change.before.digest for change in generation.changes if change.before}
    by_plugin: dict[PluginName, list[Place]] = {}
    for place in places:
        by_plugin.setdefault(place.plugin, []).append(place)
    for plugin, here in by_plugin.items():
        active = generation.active.get(plugin)
        past = [one.digest for one in lineages.get(plugin, ())]
        earlier = _previous(here, active, past, {} if unbroken else contents)
        previous = set(earlier[: limits.keep_previous])
        mine: list[Resident] = []
        for place in here:
            if active and place.digest == active.digest:
                kept = Kept.ACTIVE
            elif place.digest in previous:
                kept = Kept.PREVIOUS
            elif place.digest in undo:
                kept = Kept.UNDO
            elif place.digest not in past and is_fresh(place.directory, now):
                kept = Kept.UNFINISHED
            else:
                kept = Kept.GARBAGE if certain else Kept.PREVIOUS
            holds = contents.get(place.digest) if place.digest else None
            mine.append(
                Resident(
                    release=holds.release if holds else _named(place),
                    digest=place.digest,
                    directory=place.directory,
                    contents=holds or _measured(place),
                    kept=kept,
                    pinned=bool(active and active.pinned),
                    usage=usage.get(place.digest, NEVER) if place.digest else NEVER,
                )
            )
        found += sorted(mine, key=lambda one: one.release.version)
    return found


def _previous(
    here: list[Place],
    active: Active | None,
    past: list[Digest],
    contents: Mapping[Digest, Contents],
) -> list[Digest]:
    """The earlier releases of an active plugin on disk, the last active first.

    `contents`: of those that may count without a record, as records were lost.
    """
    if active is None:
        return []
    on_disk = {place.digest for place in here if place.digest} - {active.digest}
    found = [digest for digest in past if digest in on_disk]
    older = [
        digest
        for digest in on_disk.difference(past)
        if digest in contents and contents[digest].release.version < active.release.version
    ]
    found += sorted(older, key=lambda digest: contents[digest].release.version, reverse=True)
    return found


def _named(place: Place) -> Release:
    """What the directory's name says, where the manifest does not."""
    try:
        return Release(place.plugin, parse_version(place.name.rpartition("-")[0]))
    except InvalidInputError:
        return Release(place.plugin, parse_version("0"))


def _measured(place: Place) -> Contents:
    """What lies there, where no manifest tells; shared with nobody, as far as is known."""
    release = _named(place)
    sizes: dict[int, int] = {}
    for parent, _, names in os.walk(place.directory):
        with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
            sizes[os.lstat(parent).st_ino] = BLOCK_BYTES
            for name in names:
                status = os.lstat(os.path.join(parent, name))  # noqa: PTH118 - walked strings
                sizes[status.st_ino] = blocks(status.st_size)
    return Contents(release, array("Q", sizes), array("Q", sizes.values()))
