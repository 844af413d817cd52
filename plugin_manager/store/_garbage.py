"""What nobody needs any more: found first, as values that can be shown, then removed.

Removed in the reverse order of writing: generations, manifests, releases. A release directory is
renamed away before anything in it is deleted, so that it is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from plugin_manager._attrs import frozen
from plugin_manager.durable import TEMPORARY_PREFIX, is_real_directory, remove_tree, sync_directory
from plugin_manager.errors import InvalidInputError
from plugin_manager.model import Digest
from plugin_manager.store._lease import claim, is_occupied
from plugin_manager.store._space import Resident

_TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + "[0-9a-f]{16}")

_YOUNG_SECONDS = 600

__all__ = [
    "Garbage",
    "disk_bytes",
    "entries",
    "is_fresh",
    "remove_files",
    "remove_releases",
    "staged_bytes",
    "stagings",
    "temporary",
]

IDLE = timedelta(days=7)
"""For how long what an interrupted command left is kept for the next attempt."""


@frozen
class Garbage:
    """Something that the collector removes; `name` is its place below the store's directory.

    `kind` is `generation`, `manifest`, `metadata`, `trial`, `download` (staged) or `temporary`; of
    a release why it was there: `garbage` (nothing needs it), `unfinished` (an interrupted command
    placed it).
    """

    kind: str
    name: str
    size_bytes: int


def temporary(store: Path) -> list[Garbage]:
    """The temporary files that interrupted commands left."""
    releases = store / "releases"
    directories = [store, *(store / n for n in ("generations", "manifests", "staging", "index"))]
    directories += [releases, *_below(releases)]
    directories += [plugin for publisher in _below(releases) for plugin in _below(publisher)]
    found = [path for directory in directories for path in entries(directory)]
    # Jobs are written without the lock that the caller holds: what is young may be in use.
    for directory in (store / "jobs", *_below(store / "jobs")):
        found += [path for path in entries(directory) if not _is_young(path)]
    return [
        Garbage("temporary", path.relative_to(store).as_posix(), disk_bytes(path))
        for path in found
        if _TEMPORARY.fullmatch(path.name)
    ]


def _is_young(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime < _YOUNG_SECONDS
    except OSError:
        return True  # it has just become what it was to be


def stagings(
    store: Path, now: datetime, wanted: Collection[Digest], *, unfinished: bool
) -> tuple[list[Garbage], set[Digest]]:
    """What was staged and not touched for long, or with `unfinished` at all; and what stays.

    What is `wanted`, or being fetched right now, stays in any case.
    """
    found, kept = [], set()
    for path in entries(store / "staging"):
        with contextlib.suppress(InvalidInputError, FileNotFoundError):
            digest = Digest.parse(path.name)  # else it is not ours
            old = unfinished or not is_fresh(path, now)
            if old and digest not in wanted and not is_occupied(path):
                found.append(Garbage("download", f"staging/{path.name}", disk_bytes(path)))
            else:
                kept.add(digest)
    return found, kept


def staged_bytes(store: Path, without: Collection[str]) -> int:
    """What is staged takes on disk, but for files that it shares with releases.

    `without` are digests of what is not counted.
    """
    total = 0
    for parent, directories, names in os.walk(store / "staging"):
        directories[:] = [name for name in directories if name not in without]
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(parent, name))  # noqa: PTH118
                total += _allotted(status) if status.st_nlink == 1 else 0
    return total


def is_fresh(directory: Path, now: datetime) -> bool:
    """Whether something was written in `directory` or just below it in the last days."""
    try:
        newest = max(p.lstat().st_mtime for p in (directory, *directory.iterdir()))
    except OSError:
        return False
    return now.timestamp() - newest < IDLE.total_seconds()


def entries(directory: Path) -> list[Path]:
    """What lies in `directory`, by name; nothing where it is not there."""
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _below(directory: Path) -> list[Path]:
    return [path for path in entries(directory) if is_real_directory(path) and path.name[0] != "."]


def disk_bytes(path: Path) -> int:
    """What `path`, and all below it, takes on the disk; links are not followed."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0
    total = _allotted(status)
    if is_real_directory(path):
        for parent, directories, names in os.walk(path):
            for name in (*directories, *names):
                with contextlib.suppress(FileNotFoundError):
                    total += _allotted(os.lstat(os.path.join(parent, name)))  # noqa: PTH118
    return total


def _allotted(status: os.stat_result) -> int:
    return getattr(status, "st_blocks", -(-status.st_size // 512)) * 512


def remove_files(store: Path, found: Iterable[Garbage]) -> None:
    """Remove what no process can be using, durably."""
    changed, errors = set(), []
    for one in found:
        path = store / one.name
        try:
            if is_real_directory(path):
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:  # one that cannot go keeps no other
            errors.append(error)
        changed.add(path.parent)
    for directory in changed:
        sync_directory(directory)
    if errors:
        raise errors[0]


def remove_releases(store: Path, residents: Sequence[Resident]) -> list[Resident]:
    """Remove releases that no process has a lease of; returns those that are gone."""
    gone, away, changed = [], [], set()
    for one in residents:
        try:
            claimed = claim(one.directory, patient=True)
        except FileNotFoundError:
            continue
        if claimed is None:
            continue
        with claimed:
            aside = store / "staging" / f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}"
            one.directory.rename(aside)
        gone.append(one)
        away.append(aside)
        changed.add(one.directory.parent)
    # Before the first file goes: after a power cut a release must not be there in part.
    for directory in (*changed, store / "staging") if gone else ():
        sync_directory(directory)
    errors = []
    for aside in away:
        try:
            remove_tree(aside)
        except OSError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    for directory in changed:
        with contextlib.suppress(OSError):  # others are there, or it is gone
            directory.rmdir()
            directory.parent.rmdir()
    return gone
