"""The store: who reads what, and in which order things are written.

    releases/<publisher>/<plugin>/<version>-<16 digits of the head's digest>/
    manifests/<digest>      heads, as they came in front of their bundles
    generations/, current   see _generations
    staging/<digest>/       see _staging
    jobs/<id>/              see _jobs: what is to be fetched, and how that stands
    trials/<digest>/        see _trials: what was upgraded to, and has yet to show that it works
    agent/                  see plugin_manager.agent: its lock, its state, its logs
    index/                  see _usage and _contents: helps to decide, is never the truth
    trust/                  the trust module's own
    lock, lock-holder       see _lock

Objects are written first, then the head, then the generation, then `current`; so whatever
`current` leads to exists, unless it was evicted. Deleting goes the other way (see _garbage).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from plugin_manager.durable import (
    disk_errors,
    is_real_directory,
    make_directories,
    make_real_directories,
    read_regular,
    remove_tree,
    set_aside,
    sync_directory,
    write_atomically,
)
from plugin_manager.errors import (
    CorruptError,
    EvictedError,
    InvalidInputError,
    LockedError,
    NotFoundError,
)
from plugin_manager.model import Digest, PluginName, Release
from plugin_manager.store import _files, _garbage, _residents
from plugin_manager.store._generations import Active, Generation, Record, lineages, unbroken
from plugin_manager.store._history import History
from plugin_manager.store._lease import Lease, is_occupied, occupy
from plugin_manager.store._lock import WriterLock
from plugin_manager.store._staging import (
    InstalledTree,
    Needed,
    Staged,
    Staging,
    staged_bytes,
    survey,
)
from plugin_manager.store._usage import UsageLog
from plugin_manager.store._verify import (
    Fault,
    foreign_files,
    misplaced_files,
    release_faults,
    release_faults_slowly,
    visible_faults,
)

if TYPE_CHECKING:
    from plugin_manager.bundle import Head
    from plugin_manager.manifest import File, Manifest

__all__ = ["Store"]


_SMALL_HEAD_BYTES, _SMALL_HEADS = 16 * 1024, 2000


class Store:
    """The local store in `directory`, which need not exist yet.

    Reading takes no lock. Writing methods say so, and must be called within `writing`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._history = History(directory)
        self._lock = WriterLock(directory)
        self._usage = UsageLog(directory)
        self._staged = Staged()
        self._small_manifests: dict[Digest, Manifest] = {}

    @property
    def trust_directory(self) -> Path:
        """Where the trust module keeps its metadata."""
        return self.directory / "trust"

    @contextlib.contextmanager
    def writing(
        self,
        *,
        timeout_seconds: float = -1,
        waiting: Callable[[str], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[None]:
        """Hold the writer's lock, which the kernel frees when this process dies.

        Calls `waiting(holder)` once if it has to wait; raises LockedError after `timeout_seconds`
        (negative: never), CancelledError where it is `cancelled()` meanwhile.
        """
        with disk_errors(self.directory):
            make_directories(self.directory)
            with self._lock.held(timeout_seconds, waiting, cancelled):
                for name in ("releases", "manifests", "generations", "staging", "index"):
                    make_real_directories(self.directory, self.directory / name)
                self._history.prepare()
                yield

    # --- generations -------------------------------------------------------------------------

    def current(self) -> Generation:
        """The current generation (the empty one in a new store); raises CorruptError.

        What this process has read before is not read again while `current` still names it.
        """
        return self._history.current()

    def active(self, plugin: PluginName) -> Active:
        """The plugin's active release; raises NotFoundError, and as `current` does."""
        try:
            return self.current().active[plugin]
        except KeyError:
            raise NotFoundError(
                f"{plugin} is not installed",
                remedy=f"'pluginctl list' shows what is; 'pluginctl install {plugin}' installs it.",
            ) from None

    def generation(self, number: int) -> Generation:
        """The generation `number`; raises NotFoundError or CorruptError."""
        return self._history.generation(number)

    def history(self) -> list[Record]:
        """What made the readable generations up to the current one, newest first."""
        return self._history.records()

    def read_history(self) -> tuple[list[Record], list[str]]:
        """As `history`; and the names of the generation files that cannot be read."""
        return self._history.read()

    def generation_files(self) -> dict[int, Path]:
        """The files of all generations by their numbers, the newest first; some may be damaged."""
        return {number: self._history.path(number) for number in self._history.numbers()}

    def mark(self) -> bytes:
        """Something that is different after each change of what is active."""
        with contextlib.suppress(CorruptError):
            return self._history.data()
        return b""

    def past(self, plugin: PluginName, *, certain: bool = False) -> list[Active]:
        """What was ever active of `plugin`, as far as it is recorded, the last active first.

        `certain`: only as far back as no record is damaged.
        """
        damaged = self._history.damaged() if certain else []
        newest = max((int(name.split("/")[1].split(".")[0]) for name in damaged), default=-1)
        records = [record for record in self.history() if record.number > newest]
        return lineages(records).get(plugin, [])

    def plugins(self) -> set[PluginName]:
        """Every plugin that the history names."""
        return {*lineages(self.history()), *self.current().active}

    def earlier(self, active: Active) -> list[Active]:
        """Other releases of the plugin that are on disk, the last active first.

        Where the records were lost, those that are older than `active` follow.
        """
        past = [one for one in self.past(active.release.plugin) if one.digest != active.digest]
        records, damaged = self.read_history()
        if not damaged and unbroken(records):
            return [one for one in past if self.has(one)]
        known = {active.digest, *(one.digest for one in past)}
        lost = []
        for place in self.places(active.release.plugin):
            if place.digest and place.digest not in known:
                with contextlib.suppress(CorruptError, InvalidInputError):
                    lost.append(Active(self.head(place.digest).manifest.release, place.digest))
        older = [one for one in lost if one.release.version < active.release.version]
        older.sort(key=lambda one: one.release.version, reverse=True)
        return [one for one in (*past, *older) if self.has(one)]

    def damaged_generations(self) -> list[str]:
        """The names of the generation files, up to the current one, that cannot be read."""
        return self._history.damaged()

    def mend_generations(self) -> list[str]:
        """Mend the current generation's record, set aside others that are damaged; their names.

        Writes.
        """
        return self._history.mend()

    def activate(
        self, changes: Mapping[PluginName, Active | None], action: str, now: datetime
    ) -> Generation:
        """Make a new generation with `changes` (None: no longer active) current. Writes."""
        current = self.current()
        for one in {**current.active, **changes}.values():
            if one is not None and not self._head_path(one.digest).exists():
                raise CorruptError(
                    f"{one.release}: its manifest is missing",
                    paths=(f"manifests/{one.digest}",),
                    remedy=f"Run 'pluginctl repair {one.release.plugin}'.",
                )
        generation = self._history.append(changes, action, now)
        # What was just installed is not the coldest; a change of flags is no use.
        known = {one.digest for one in current.active.values()}
        new = {one.digest for one in changes.values() if one} - known
        self._use(sorted(new), loaded=False)
        return generation

    def recover_current(self, now: datetime) -> Generation | None:
        """Where `current` is damaged, go on from the newest good generation. Writes.

        Where none can be read, from the newest whole release of each plugin. Returns what is
        current then, or None where nothing was wrong.
        """
        try:
            self.current()
        except CorruptError:
            return self._history.recover(self._newest_on_disk, now)
        return None

    def _newest_on_disk(self) -> dict[PluginName, Active]:
        """The newest release of each plugin that is whole on disk: all that is left to go by."""
        found: dict[PluginName, Active] = {}
        for path in _garbage.entries(self.directory / "manifests"):
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
        from plugin_manager.bundle import MAX_HEAD_BYTES  # noqa: PLC0415 - looking does without

        name = f"manifests/{digest}"
        with disk_errors(self.directory):
            try:
                data = read_regular(self._head_path(digest), MAX_HEAD_BYTES, name)
            except FileNotFoundError:
                raise CorruptError(
                    f"{name} is missing", paths=(name,), remedy="Run 'pluginctl repair'."
                ) from None
        if Digest.of(data) != digest:
            raise CorruptError(
                f"{name} is damaged", paths=(name,), remedy="Run 'pluginctl repair'."
            )
        return data

    def head(self, digest: Digest) -> Head:
        """The parsed head that `digest` names; raises CorruptError.

        Its digest is checked, not its signature: good for planning, not for loading.
        """
        from plugin_manager.bundle import read_head  # noqa: PLC0415

        return read_head(self.head_bytes(digest), f"manifests/{digest}")

    def keep_heads(self, heads: Iterable[bytes]) -> None:
        """Keep bundles' heads, each under its digest. Writes."""
        for data in heads:
            digest = Digest.of(data)
            try:
                self.head_bytes(digest)
            except CorruptError:
                write_atomically(self._head_path(digest), data, sync_parent=False)
        sync_directory(self.directory / "manifests")

    def release_directory(self, release: Release, digest: Digest) -> Path:
        """Where the files of a release lie (or would)."""
        plugin = release.plugin
        name = _residents.release_name(release, digest)
        return self.directory / f"releases/{plugin.publisher}/{plugin.name}/{name}"

    def has(self, active: Active) -> bool:
        """Whether the release is on disk, whole (it only ever appears whole)."""
        return is_real_directory(self.release_directory(active.release, active.digest))

    def faults(self, active: Active, manifest: Manifest, tag: str) -> list[Fault]:
        """Damaged, missing and foreign files of a release; reads and hashes all of it."""
        directory = self.release_directory(active.release, active.digest)
        files = manifest.files_for(tag)
        faults = [*misplaced_files(directory, files), *release_faults(directory, manifest, files)]
        found = {fault.path: fault for fault in faults}
        return sorted([*found.values(), *foreign_files(directory, manifest)], key=lambda f: f.path)

    def faults_slowly(
        self, active: Active, manifest: Manifest, tag: str, pace: Callable[[int], None]
    ) -> list[Fault]:
        """As `faults`, but for foreign files; `pace(bytes)` before each chunk is read."""
        directory = self.release_directory(active.release, active.digest)
        return release_faults_slowly(directory, manifest, manifest.files_for(tag), pace)

    def visible_faults(self, active: Active, manifest: Manifest, tag: str) -> list[Fault]:
        """Files that are missing, behind links or of another size or mode; hashes nothing."""
        directory = self.release_directory(active.release, active.digest)
        files = manifest.files_for(tag)
        return [*misplaced_files(directory, files), *visible_faults(directory, files)]

    def lease(self, active: Active) -> Lease:
        """Keep the release from being evicted while this process lives; raises EvictedError.

        Writes nothing, so that a read-only store serves as well.
        """
        directory = self.release_directory(active.release, active.digest)
        with disk_errors(self.directory):
            try:
                return Lease.of(directory)
            except (FileNotFoundError, NotADirectoryError):
                raise _evicted(active) from None

    def record_load(self, digests: Iterable[Digest]) -> None:
        """Note that releases were loaded, if it can be noted."""
        self._use(list(digests), loaded=True)

    def _use(self, digests: Sequence[Digest], *, loaded: bool) -> None:
        if digests:
            with contextlib.suppress(OSError):
                self._usage.append(digests, loaded=loaded, seconds=int(time.time()))

    def keep_speed(self, bytes_per_second: float) -> None:
        """Note how fast the network was, if it can be noted. Writes."""
        with contextlib.suppress(OSError):
            path = self.directory / "index" / "bytes-per-second"
            path.unlink(missing_ok=True)
            path.write_text(str(int(bytes_per_second)))

    def last_speed(self) -> int | None:
        """How many bytes a second came last time; None where that is not known."""
        with contextlib.suppress(OSError, CorruptError, ValueError):
            data = read_regular(self.directory / "index" / "bytes-per-second", 20)
            return int(data) if data.isdigit() and int(data) else None
        return None

    def installed_trees(self, first: PluginName) -> list[InstalledTree]:
        """The releases on disk that chunks can be taken from, those of `first` in front."""
        trees = []
        for place in sorted(self.places(), key=lambda place: place.plugin != first):
            # A damaged head only means less to reuse; verification has its own ways to say so.
            with contextlib.suppress(CorruptError, InvalidInputError):
                if place.digest:
                    manifest = self._manifest_for_reuse(place.digest)
                    trees.append(InstalledTree(manifest, place.directory))
        return trees

    def _manifest_for_reuse(self, digest: Digest) -> Manifest:
        """As `head`, but small ones are read once: a change of many plugins asks for all of them.

        What is taken by them is hashed as it is taken.
        """
        if digest not in self._small_manifests:
            from plugin_manager.bundle import read_head  # noqa: PLC0415

            data = self.head_bytes(digest)
            manifest = read_head(data, f"manifests/{digest}").manifest
            if len(data) > _SMALL_HEAD_BYTES or len(self._small_manifests) >= _SMALL_HEADS:
                return manifest
            self._small_manifests[digest] = manifest
        return self._small_manifests[digest]

    def places(
        self, of: PluginName | None = None, records: Iterable[Record] | None = None
    ) -> list[_residents.Place]:
        """The directories of releases (only those `of` a plugin); `records`: if read already."""
        # Also what is named, but whose manifest is lost: it is no less needed for that.
        digests = {digest[:16]: digest for digest in self._named(records)}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(self.directory / "manifests"):  # noqa: PTH208 - only names
                with contextlib.suppress(InvalidInputError):
                    digests[name[:16]] = Digest.parse(name)
        with disk_errors(self.directory):
            return _residents.survey_places(self.directory, digests, of)

    def _named(self, records: Iterable[Record] | None = None) -> set[Digest]:
        """The heads that the readable generations name."""
        named: set[Digest] = set()
        with contextlib.suppress(CorruptError):
            named |= {one.digest for one in self.current().active.values()}
            for record in self.history() if records is None else records:
                named |= record.changed_digests
        return named

    # --- assembling ----------------------------------------------------------------------------

    def _staging_path(self, digest: Digest) -> Path:
        return self.directory / "staging" / digest

    def needed(self, head: Head, files: Sequence[File], without: Collection[Path] = ()) -> Needed:
        """What installing `files` of a release would take; writes nothing.

        `without` are directories of releases that will be gone.
        """
        trees = self.installed_trees(head.manifest.release.plugin)
        trees = [tree for tree in trees if tree.directory not in without]
        return survey(head, files, self._staging_path(head.digest), trees, self._staged)

    @contextlib.contextmanager
    def staging(self, head: Head, files: Sequence[File]) -> Iterator[Staging]:
        """A staging of `files`, to `place` or `replace`, or to resume another time. Writes.

        Only its beginning is for the holder of the lock: until the block is left, the staging is
        this caller's alone. Raises LockedError, with the `digest`, where it is another's.
        """
        with disk_errors(self.directory):
            trees = self.installed_trees(head.manifest.release.plugin)
            directory = self._staging_path(head.digest)
            make_real_directories(directory.parent, directory)
            occupied = occupy(directory)
            if occupied is None:
                raise LockedError(
                    f"{head.manifest.release} is being fetched by another process",
                    remedy="Wait for it to finish; 'pluginctl jobs' shows it.",
                    release=head.manifest.release,
                    digest=head.digest,
                )
            staging = Staging(head, files, directory, trees, staged=self._staged, occupied=occupied)
            try:
                yield staging
            finally:
                staging.vacate()

    def staged_bytes(self, head: Head, files: Sequence[File]) -> int:
        """The bytes of `files` that are staged and hash right; hashes them."""
        with disk_errors(self.directory):
            directory = self._staging_path(head.digest)
            return staged_bytes(head.manifest, files, directory, self._staged)

    def discard_staging(self, digest: Digest) -> None:
        """Remove what is staged of a release, unless it is being fetched."""
        directory = self._staging_path(digest)
        with disk_errors(self.directory), contextlib.suppress(FileNotFoundError):
            if occupied := occupy(directory):
                with occupied:
                    remove_tree(directory)

    def is_staging(self, digest: Digest) -> bool:
        """Whether some process is fetching the release whose head this is."""
        return is_occupied(self._staging_path(digest))

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
            staging.vacate()  # whoever loads it waits for nobody
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
        remove_tree(staging.directory)


def _evicted(active: Active) -> EvictedError:
    return EvictedError(
        f"{active.release} is not on this disk: it was evicted to make room, or removed",
        remedy=f"Go online and run 'pluginctl repair {active.release.plugin}'.",
        plugin=str(active.release.plugin),
    )
