"""The store: who reads what, and in which order things are written.

    releases/<publisher>/<plugin>/<version>-<16 digits of the head's digest>/
    manifests/<digest>      heads, as they came in front of their bundles
    generations/, current   see _generations
    staging/<digest>/       see _staging
    trust/                  the trust module's own
    lock, lock-holder       one writer at a time; readers take no lock

Objects are written first, then the head, then the generation, then `current`; so whatever
`current` leads to exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from plugin_manager.bundle import MAX_HEAD_BYTES, Head, read_head
from plugin_manager.durable import (
    disk_errors,
    free_bytes,
    is_real_directory,
    make_directories,
    make_real_directories,
    read_regular,
    set_aside,
    sync_directory,
    write_atomically,
)
from plugin_manager.errors import (
    CorruptError,
    InvalidInputError,
    LockedError,
    NoSpaceError,
    NotFoundError,
)
from plugin_manager.manifest import File, Manifest
from plugin_manager.model import Digest, PluginName, Release
from plugin_manager.store import _files, _generations
from plugin_manager.store._generations import EMPTY, Active, Generation
from plugin_manager.store._staging import InstalledTree, Needed, Staging, survey
from plugin_manager.store._verify import Fault, foreign_files, release_faults

__all__ = ["Store"]

_GENERATION_NAME = re.compile(r"([1-9][0-9]{0,14})\.json", re.ASCII)
_ROOM_MARGIN = 1.2  # of what will be written: file systems need room for themselves
_LOCK_NOTICE_SECONDS = 1.0


class Store:
    """The local store in `directory`, which need not exist yet.

    Reading takes no lock. Writing methods say so, and must be called within `writing`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock_of: tuple[int, FileLock] | None = None
        self._read: tuple[bytes, Generation] | None = None

    @property
    def trust_directory(self) -> Path:
        """Where the trust module keeps its metadata."""
        return self.directory / "trust"

    # --- the writer's lock -------------------------------------------------------------------

    @property
    def _lock(self) -> FileLock:
        # A child of a fork must not believe that it holds what its parent holds.
        if self._lock_of is None or self._lock_of[0] != os.getpid():
            self._lock_of = os.getpid(), FileLock(self.directory / "lock")
        return self._lock_of[1]

    @contextlib.contextmanager
    def writing(
        self,
        *,
        timeout_seconds: float = -1,
        waiting: Callable[[str], None] = lambda _: None,
    ) -> Iterator[None]:
        """Hold the writer's lock, which the kernel frees when this process dies.

        Calls `waiting(holder)` once if it has to wait; raises LockedError after `timeout_seconds`
        (negative: never).
        """
        with disk_errors(self.directory):
            make_directories(self.directory)
            self._acquire(timeout_seconds, waiting)
        try:
            with disk_errors(self.directory):
                self._say_who()
                self._prepare()
                yield
        finally:
            with contextlib.suppress(OSError):
                if self._lock.lock_counter == 1:
                    self._holder_path.unlink()
            self._lock.release()

    def _acquire(self, timeout_seconds: float, waiting: Callable[[str], None]) -> None:
        first = min(_LOCK_NOTICE_SECONDS, timeout_seconds) if timeout_seconds >= 0 else 1.0
        try:
            try:
                self._lock.acquire(timeout=first)
            except Timeout:
                waiting(self._holder())
                rest = timeout_seconds - first if timeout_seconds >= 0 else -1
                self._lock.acquire(timeout=rest)
        except (Timeout, RuntimeError) as error:  # RuntimeError: by this very thread
            raise LockedError(
                f"the store {self.directory} is locked by {self._holder()}",
                remedy="Wait for it to finish, or allow a longer --lock-timeout.",
                holder=self._holder(),
            ) from error

    @property
    def _holder_path(self) -> Path:
        return self.directory / "lock-holder"

    def _say_who(self) -> None:
        """Leave a word for those who wait; nobody relies on it."""
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]])[:200]
        with contextlib.suppress(OSError):
            self._holder_path.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(self._holder_path, flags, 0o644), "w") as file:
                file.write(f"process {os.getpid()} ({command})")

    def _holder(self) -> str:
        try:
            return read_regular(self._holder_path, 1000).decode(errors="replace")
        except (OSError, CorruptError):
            return "another process"

    def _prepare(self) -> None:
        for name in ("releases", "manifests", "generations", "staging"):
            make_real_directories(self.directory, self.directory / name)
        if not os.path.lexists(self._current_path) and not self._has_content():
            sync_directory(self.directory)
            self._switch(EMPTY)

    def _has_content(self) -> bool:
        """Whether there is anything that `current` should lead to."""
        for name in ("generations", "manifests", "releases"):
            with contextlib.suppress(FileNotFoundError):
                if any((self.directory / name).iterdir()):
                    return True
        return False

    # --- generations -------------------------------------------------------------------------

    @property
    def _current_path(self) -> Path:
        return self.directory / "current"

    def _generation_path(self, number: int) -> Path:
        return self.directory / "generations" / f"{number}.json"

    def current(self) -> Generation:
        """The current generation (the empty one in a new store); raises CorruptError.

        What this process has read before is not read again while `current` still names it: it
        does so by digest.
        """
        pointer = self._pointer()
        if self._read is None or self._read[0] != pointer:
            self._read = pointer, self._read_current(pointer)
        return self._read[1]

    def read_current(self) -> Generation:
        """The current generation as it is on the disk now; otherwise as `current`."""
        return self._read_current(self._pointer())

    def _pointer(self) -> bytes:
        """The content of `current`; empty in a new store."""
        with disk_errors(self.directory):
            try:
                return read_regular(self._current_path, 4096)
            except FileNotFoundError:
                if not self._has_content():
                    return b""
                raise CorruptError(
                    "current is missing",
                    paths=("current",),
                    remedy="Run 'pluginctl repair' to go on from the newest good generation.",
                ) from None

    def _read_current(self, pointer: bytes) -> Generation:
        if not pointer:
            return EMPTY
        number, digest = _generations.parse_current(pointer, "current")
        try:
            generation, found = self._read_generation(number)
        except NotFoundError as error:
            raise CorruptError(
                f"generations/{number}.json is missing",
                paths=(f"generations/{number}.json",),
                remedy="Run 'pluginctl repair' to go on from the newest good generation.",
            ) from error
        if _generations.render_current(number, found) != pointer:
            raise CorruptError(
                f"generations/{number}.json is not the one that current names ({digest[:16]}…)",
                paths=(f"generations/{number}.json", "current"),
                remedy="Run 'pluginctl repair'.",
            )
        return generation

    def active(self, plugin: PluginName) -> Active:
        """The plugin's active release; raises NotFoundError, and as `current` does."""
        try:
            return self.current().active[plugin]
        except KeyError:
            raise NotFoundError(
                f"{plugin} is not installed",
                remedy=f"'pluginctl list' shows what is; 'pluginctl install {plugin}' installs it.",
            ) from None

    def earlier(self, active: Active) -> list[Active]:
        """Other releases of the plugin that were active and are on disk, the last active first."""
        plugin, found = active.release.plugin, {active.digest: active}
        for generation in self.history():
            if past := generation.active.get(plugin):
                found.setdefault(past.digest, past)
        return [past for past in found.values() if past is not active and self.has(past)]

    def numbers(self) -> list[int]:
        """The numbers of the generations on disk, newest first; files may be damaged."""
        try:
            names = os.listdir(self.directory / "generations")  # noqa: PTH208 - only names needed
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = (_GENERATION_NAME.fullmatch(name) for name in names)
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def generation(self, number: int) -> Generation:
        """The generation `number`; raises NotFoundError or CorruptError."""
        return self._read_generation(number)[0]

    def _read_generation(self, number: int) -> tuple[Generation, bytes]:
        name = f"generations/{number}.json"
        if number == 0:
            return EMPTY, _generations.render(EMPTY)
        path = self.directory / name
        with disk_errors(self.directory):
            try:
                data = read_regular(path, _generations.MAX_GENERATION_BYTES, name)
            except FileNotFoundError:
                raise NotFoundError(
                    f"there is no generation {number}",
                    remedy="'pluginctl history' lists those that there are.",
                    number=number,
                ) from None
        generation = _generations.parse(data, name)
        if generation.number != number:
            raise CorruptError(f"{name} is generation {generation.number}", paths=(name,))
        return generation, data

    def history(self) -> list[Generation]:
        """The readable generations up to the current one, newest first."""
        newest = self.current().number
        found = []
        for number in self.numbers():
            if number <= newest:
                with contextlib.suppress(CorruptError, NotFoundError):
                    found.append(self.generation(number))
        return found

    def damaged_generations(self) -> list[str]:
        """The names of the generation files, up to the current one, that cannot be read."""
        newest, found = self.current().number, []
        for number in self.numbers():
            if number <= newest:
                try:
                    self.generation(number)
                except CorruptError:
                    found.append(f"generations/{number}.json")
        return found

    def set_aside_damaged_generations(self) -> list[str]:
        """Take damaged generations out of the history; returns their names. Writes."""
        names = self.damaged_generations()
        for name in names:
            set_aside(self.directory / name)
        sync_directory(self.directory / "generations")
        return names

    def activate(
        self, changes: Mapping[PluginName, Active | None], action: str, now: datetime
    ) -> Generation:
        """Make a new generation with `changes` (None: no longer active) current. Writes."""
        current = self.current()
        active = {**current.active, **changes}
        generation = Generation(
            number=current.number + 1,
            created=now.replace(microsecond=0),
            action=action,
            active={name: entry for name, entry in active.items() if entry is not None},
        )
        for entry in generation.active.values():
            if not self._head_path(entry.digest).exists():
                raise CorruptError(
                    f"{entry.release}: its manifest is missing",
                    paths=(f"manifests/{entry.digest}",),
                    remedy=f"Run 'pluginctl repair {entry.release.plugin}'.",
                )
        self._switch(generation)
        return generation

    def _switch(self, generation: Generation) -> None:
        data = _generations.render(generation)
        if generation.number:
            write_atomically(self._generation_path(generation.number), data)
        pointer = _generations.render_current(generation.number, data)
        write_atomically(self._current_path, pointer)

    def recover_current(self, now: datetime) -> Generation | None:
        """Where `current` or its generation is damaged, go on from the newest good one. Writes.

        Where none can be read, from the newest whole release of each plugin. Returns the new
        generation, or None where nothing was wrong.
        """
        try:
            self.read_current()
        except (CorruptError, NotFoundError):
            pass
        else:
            return None
        good = EMPTY
        for number in self.numbers():
            with contextlib.suppress(CorruptError, NotFoundError):
                good = self.generation(number)
                break
        origin = f"generation {good.number}" if good.number else "what is on disk"
        number = good.number + 1
        while os.path.lexists(self._generation_path(number)):
            number += 1
        recovered = Generation(
            number=number,
            created=now.replace(microsecond=0),
            action=f"repair: went on from {origin}",
            active=good.active if good.number else self._newest_on_disk(),
        )
        self._switch(recovered)
        return recovered

    def _newest_on_disk(self) -> dict[PluginName, Active]:
        """The newest release of each plugin that is whole on disk: all that is left to go by."""
        found: dict[PluginName, Active] = {}
        for path in sorted((self.directory / "manifests").iterdir()):
            with contextlib.suppress(CorruptError, InvalidInputError):
                head = self.head(Digest.parse(path.name))
                active = Active(head.manifest.release, head.digest)
                best = found.get(active.release.plugin)
                if self.has(active) and (best is None or active.release > best.release):
                    found[active.release.plugin] = active
        return found

    # --- heads and releases --------------------------------------------------------------------

    def _head_path(self, digest: Digest) -> Path:
        return self.directory / "manifests" / digest

    def head_bytes(self, digest: Digest) -> bytes:
        """The head that `digest` names, its digest checked; raises CorruptError."""
        name = f"manifests/{digest}"
        with disk_errors(self.directory):
            try:
                data = read_regular(self._head_path(digest), MAX_HEAD_BYTES, name)
            except FileNotFoundError:
                raise CorruptError(
                    f"{name} is missing", paths=(name,), remedy="Run 'pluginctl repair'."
                ) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise CorruptError(
                f"{name} is damaged", paths=(name,), remedy="Run 'pluginctl repair'."
            )
        return data

    def head(self, digest: Digest) -> Head:
        """The parsed head that `digest` names; raises CorruptError.

        Its digest is checked, not its signature: good for planning, not for loading.
        """
        return read_head(self.head_bytes(digest), f"manifests/{digest}")

    def keep_heads(self, heads: Iterable[bytes]) -> None:
        """Keep bundles' heads, each under its digest. Writes."""
        for data in heads:
            digest = Digest(hashlib.sha256(data).hexdigest())
            try:
                self.head_bytes(digest)
            except CorruptError:
                write_atomically(self._head_path(digest), data, sync_parent=False)
        sync_directory(self.directory / "manifests")

    def release_directory(self, release: Release, digest: Digest) -> Path:
        """Where the files of a release lie (or would)."""
        plugin = release.plugin
        return (
            self.directory / "releases" / plugin.publisher / plugin.name
            / f"{release.version}-{digest[:16]}"
        )  # fmt: skip

    def has(self, active: Active) -> bool:
        """Whether the release is on disk, whole (it only ever appears whole)."""
        return is_real_directory(self.release_directory(active.release, active.digest))

    def faults(self, active: Active, manifest: Manifest, tag: str) -> list[Fault]:
        """Damaged, missing and foreign files of a release; reads and hashes all of it."""
        directory = self.release_directory(active.release, active.digest)
        found = release_faults(directory, manifest, manifest.files_for(tag))
        return sorted([*found, *foreign_files(directory, manifest)], key=lambda f: f.path)

    def installed_trees(self, first: PluginName) -> list[InstalledTree]:
        """The releases on disk that chunks can be taken from, those of `first` in front."""
        seen: dict[Digest, Active] = {}
        with contextlib.suppress(CorruptError):
            for generation in self.history():
                for active in generation.active.values():
                    seen.setdefault(active.digest, active)
        trees = []
        for active in sorted(seen.values(), key=lambda a: a.release.plugin != first):
            # A damaged head only means less to reuse; verification has its own ways to say so.
            with contextlib.suppress(CorruptError, InvalidInputError):
                if self.has(active):
                    directory = self.release_directory(active.release, active.digest)
                    trees.append(InstalledTree(self.head(active.digest).manifest, directory))
        return trees

    # --- assembling ----------------------------------------------------------------------------

    def _staging_path(self, digest: Digest) -> Path:
        return self.directory / "staging" / digest

    def needed(self, head: Head, files: Sequence[File]) -> Needed:
        """What installing `files` of a release would take; writes nothing."""
        trees = self.installed_trees(head.manifest.release.plugin)
        return survey(head, files, self._staging_path(head.digest), trees)

    def require_room(self, write_bytes: int) -> None:
        """Raise NoSpaceError unless `write_bytes` and a margin fit on the disk."""
        needed, free = int(write_bytes * _ROOM_MARGIN), free_bytes(self.directory)
        if needed > free:
            raise NoSpaceError(
                f"{self.directory} needs {needed} bytes, but the disk has {free} free",
                needed_bytes=needed,
                free_bytes=free,
                remedy=f"Free {needed - free} bytes, or put the store on another disk (--store).",
            )

    @contextlib.contextmanager
    def staging(self, head: Head, files: Sequence[File]) -> Iterator[Staging]:
        """A staging of `files`, to `place` or `replace`, or to resume another time. Writes."""
        trees = self.installed_trees(head.manifest.release.plugin)
        staging = Staging(head, files, self._staging_path(head.digest), trees)
        try:
            yield staging
        finally:
            staging.close()

    def place(self, stagings: Sequence[Staging]) -> None:
        """Finish staged releases and move each to its place, whole. Writes.

        All are made durable together, before the first is moved: the disk is waited for once.
        """
        paths = [path for staging in stagings for path in staging.finish()]
        _files.sync_files(self.directory / "staging", paths)
        releases = self.directory / "releases"
        changed = {self.directory / "staging", releases}
        for staging in stagings:
            release = staging.head.manifest.release
            destination = self.release_directory(release, staging.head.digest)
            make_real_directories(self.directory, destination.parent)
            if os.path.lexists(destination):
                set_aside(destination)
            staging.directory.rename(destination)
            changed |= {destination.parent, destination.parent.parent}
        for directory in changed:
            sync_directory(directory)

    def replace(self, staging: Staging) -> None:
        """Finish staged files and put each in place of its damaged one. Writes."""
        _files.sync_files(staging.directory, staging.finish())
        release = staging.head.manifest.release
        destination = self.release_directory(release, staging.head.digest)
        for file in staging.files:
            target = destination / file.path
            make_real_directories(self.directory, target.parent)
            if is_real_directory(target):
                set_aside(target)
            (staging.directory / file.path).replace(target)
            sync_directory(target.parent)
        shutil.rmtree(staging.directory)
