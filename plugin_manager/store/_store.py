"""The store: who reads what, and in which order things are written.

    releases/<publisher>/<plugin>/<version>-<16 digits of the head's digest>/
    manifests/<digest>      heads, as they came in front of their bundles
    generations/, current   see _generations
    staging/<digest>/       see _staging
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
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from plugin_manager.durable import (
    disk_errors,
    disk_space,
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
    NotFoundError,
)
from plugin_manager.model import Digest, PluginName, Release, bytecode_tag
from plugin_manager.settings import Limits
from plugin_manager.store import _files, _garbage, _residents, _space
from plugin_manager.store._contents import Index, contents_of
from plugin_manager.store._garbage import Garbage
from plugin_manager.store._generations import Active, Generation, Record, lineages, unbroken
from plugin_manager.store._history import History
from plugin_manager.store._lease import Lease, claim
from plugin_manager.store._lock import WriterLock
from plugin_manager.store._space import Kept, Resident, Sharing, SpacePlan, distinct_bytes
from plugin_manager.store._staging import InstalledTree, Needed, Staging, survey
from plugin_manager.store._usage import UsageLog
from plugin_manager.store._verify import Fault, foreign_files, release_faults, visible_faults

if TYPE_CHECKING:
    from plugin_manager.bundle import Head
    from plugin_manager.manifest import File, Manifest

__all__ = ["Storage", "Store"]


_SMALL_HEAD_BYTES, _SMALL_HEADS = 16 * 1024, 2000


@frozen
class Storage:
    """What a store holds and how much room it has; bytes.

    `order` is the order in which releases would be evicted, `unique_bytes` what the eviction of
    each of `residents` alone would free, `leased` those that a live process has loaded, `evicted`
    the active releases that are not on this disk.
    """

    residents: tuple[Resident, ...]
    unique_bytes: tuple[int, ...]
    order: tuple[Resident, ...]
    leased: frozenset[Path]
    evicted: tuple[Active, ...]
    release_bytes: int
    unfinished_bytes: int
    record_bytes: int
    budget_bytes: int | None
    free_bytes: int
    floor_bytes: int

    @property
    def used_bytes(self) -> int:
        """Releases, unfinished downloads and the store's own records."""
        return self.release_bytes + self.unfinished_bytes + self.record_bytes

    @property
    def available_bytes(self) -> int:
        """What could be added now, without evicting anything."""
        room = max(self.free_bytes - self.floor_bytes, 0)
        if self.budget_bytes is None:
            return room
        return min(room, max(self.budget_bytes - self.used_bytes, 0))


class Store:
    """The local store in `directory`, which need not exist yet.

    Reading takes no lock. Writing methods say so, and must be called within `writing`.
    """

    def __init__(self, directory: Path, limits: Limits | None = None) -> None:
        self.directory = directory
        self.limits = limits or Limits()
        self._history = History(directory)
        self._lock = WriterLock(directory)
        self._usage = UsageLog(directory)
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
    ) -> Iterator[None]:
        """Hold the writer's lock, which the kernel frees when this process dies.

        Calls `waiting(holder)` once if it has to wait; raises LockedError after `timeout_seconds`
        (negative: never).
        """
        with disk_errors(self.directory):
            make_directories(self.directory)
            with self._lock.held(timeout_seconds, waiting):
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
        records, damaged = self._history.read()
        if not damaged and unbroken(records):
            return [one for one in past if self.has(one)]
        known = {active.digest, *(one.digest for one in past)}
        lost = []
        for place in self._places(active.release.plugin):
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
        found = release_faults(directory, manifest, manifest.files_for(tag))
        return sorted([*found, *foreign_files(directory, manifest)], key=lambda f: f.path)

    def visible_faults(self, active: Active, manifest: Manifest, tag: str) -> list[Fault]:
        """Files that are missing or of another size or mode; hashes nothing."""
        directory = self.release_directory(active.release, active.digest)
        return visible_faults(directory, manifest.files_for(tag))

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

    def installed_trees(self, first: PluginName) -> list[InstalledTree]:
        """The releases on disk that chunks can be taken from, those of `first` in front."""
        trees = []
        for place in sorted(self._places(), key=lambda place: place.plugin != first):
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

    def _places(
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
                for change in record.changes:
                    named |= {one.digest for one in (change.before, change.after) if one}
        return named

    # --- space ---------------------------------------------------------------------------------

    def residents(self, now: datetime, *, keep_index: bool = False) -> list[Resident]:
        """The releases on disk and why each is there; raises CorruptError.

        `keep_index`, which writes, leaves the index up to date.
        """
        generation, (records, damaged) = self.current(), self._history.read()
        places = self._places(records=records)
        digests = [place.digest for place in places if place.digest]
        return _residents.kept_in(
            places,
            generation,
            lineages(records),
            self._index.contents(digests, keep=keep_index),
            usage=self._usage.read(),
            limits=self.limits,
            now=now,
            certain=not damaged,
            unbroken=not damaged and unbroken(records),
        )

    @cached_property
    def _index(self) -> Index:
        tag = bytecode_tag()
        return Index(self.directory, tag, lambda d: contents_of(self.head(d).manifest, tag))

    def storage(self, now: datetime) -> Storage:
        """What the store holds, and what would go first; raises CorruptError. Writes nothing."""
        residents = self.residents(now)
        total, free = disk_space(self.directory)
        unfinished, records = self._other_bytes()
        sharing, here = Sharing(residents), {one.digest for one in residents}
        return Storage(
            residents=tuple(residents),
            unique_bytes=tuple(sharing.unique_bytes(one) for one in residents),
            order=tuple(_space.eviction_order(residents)),
            leased=frozenset(one.directory for one in residents if _is_leased(one)),
            evicted=tuple(a for a in self.current().active.values() if a.digest not in here),
            release_bytes=distinct_bytes(residents),
            unfinished_bytes=unfinished,
            record_bytes=records,
            budget_bytes=self.limits.max_store_bytes,
            free_bytes=free,
            floor_bytes=self.limits.floor_bytes(total),
        )

    def _other_bytes(self) -> tuple[int, int]:
        """What unfinished downloads take, and everything else but releases."""
        unfinished = _garbage.staged_bytes(self.directory, ())
        names = ("manifests", "generations", "index", "trust")
        return unfinished, sum(_garbage.disk_bytes(self.directory / name) for name in names)

    def plan_space(
        self, write_bytes: int, protected: Collection[Digest], now: datetime
    ) -> SpacePlan:
        """How `write_bytes` more would fit, none of `protected` being evicted.

        Writes nothing; raises CorruptError.
        """
        unfinished, records = self._other_bytes()
        return _space.plan_space(
            self.residents(now),
            write_bytes,
            other_bytes=unfinished + records,
            unfinished_bytes=_garbage.staged_bytes(self.directory, protected),
            limits=self.limits,
            disk=disk_space(self.directory),
            protected=protected,
            is_leased=_is_leased,
        )

    def plan_cleanup(
        self, now: datetime, *, unfinished: bool = False
    ) -> tuple[list[Garbage], SpacePlan]:
        """What `collect` would remove, and what is over the limits then. Writes nothing."""
        residents = self.residents(now)
        with disk_errors(self.directory):
            garbage, doomed = self._sort_out(residents, now, unfinished=unfinished)
        left = [one for one in residents if one not in doomed]
        return garbage, self._over_limits(left, garbage)

    def plan_limits(self, now: datetime) -> SpacePlan:
        """What is over the budget or the free floor, and would go. Writes nothing."""
        return self._over_limits(self.residents(now), [])

    def _over_limits(self, residents: list[Resident], garbage: Sequence[Garbage]) -> SpacePlan:
        total, free = disk_space(self.directory)
        staged, records = self._other_bytes()
        freed = sum(one.size_bytes for one in garbage)
        files = sum(one.size_bytes for one in garbage if one.kind in _FILES)
        over = _space.plan_space(
            residents,
            0,
            other_bytes=max(staged + records - files, 0),
            unfinished_bytes=staged,
            limits=self.limits,
            disk=(total, free + freed),
            is_leased=_is_leased,
        )
        # Where it would not do, plugins would be lost for nothing.
        return evolve(over, evict=(), freed_bytes=0) if over.missing_bytes else over

    def plan_eviction(self, wanted_bytes: int, now: datetime) -> tuple[list[Resident], int]:
        """Which releases would go first to free `wanted_bytes`, and what that frees."""
        return _space.coldest(self.residents(now), wanted_bytes, _is_leased)

    def freed_bytes(self, going: Iterable[Resident], now: datetime) -> int:
        """What removing `going` would free together."""
        sharing = Sharing(self.residents(now))
        return sum(sharing.take(one) for one in going)

    def leased(self, residents: Iterable[Resident]) -> set[Resident]:
        """Those of `residents` that a live process has loaded."""
        return {one for one in residents if _is_leased(one, patient=True)}

    def evict(self, residents: Sequence[Resident]) -> list[Resident]:
        """Remove releases, but none that is loaded somewhere; returns those removed. Writes.

        Manifests and generations stay: an active release that is evicted can be fetched again.
        """
        return _garbage.remove_releases(self.directory, residents)

    # --- collecting ----------------------------------------------------------------------------

    def collect(self, now: datetime, *, unfinished: bool = False) -> list[Garbage]:
        """Remove what nobody needs any more; returns what is gone. Writes.

        With `unfinished` also what was to be resumed. Not releases that are loaded somewhere. Where
        records are damaged, only what is surely of no use; raises CorruptError where `current` is.
        May be interrupted at any point and run again.
        """
        residents = self.residents(now, keep_index=True)
        found, doomed = self._sort_out(residents, now, unfinished=unfinished)
        kept = {one.digest for one in residents if one not in doomed and one.digest}
        _garbage.remove_files(self.directory, [g for g in found if g.kind in _FILES])
        gone = {self._name(one) for one in self.evict(doomed)}
        with contextlib.suppress(OSError):
            self._usage.shorten(kept)
        return [one for one in found if one.kind in _FILES or one.name in gone]

    def _name(self, resident: Resident) -> str:
        return resident.directory.relative_to(self.directory).as_posix()

    def _sort_out(
        self, residents: list[Resident], now: datetime, *, unfinished: bool
    ) -> tuple[list[Garbage], list[Resident]]:
        drop = {Kept.GARBAGE, Kept.UNFINISHED} if unfinished else {Kept.GARBAGE}
        doomed = [one for one in residents if one.kept in drop]
        kept = {one.digest for one in residents if one.digest and one.kept not in drop}
        # Before a release is gone its manifest is of use: the next attempt finds both.
        kept |= {one.digest for one in doomed if one.digest and _is_leased(one)}
        found = self._old_generations()
        found += self._unnamed_manifests(kept, {one.name for one in found})
        found += _garbage.stagings(self.directory, now, unfinished=unfinished)
        found += _garbage.temporary(self.directory)
        sharing = Sharing(residents)
        found += [Garbage(one.kept.value, self._name(one), sharing.take(one)) for one in doomed]
        return found, doomed

    def _old_generations(self) -> list[Garbage]:
        newest = self.current().number
        numbers = self._history.numbers()
        past = [number for number in numbers if number <= newest]
        # The oldest first, so that what is left is without gaps. What is newer than the current
        # one never became it.
        old = [*reversed(past[max(self.limits.keep_generations, 1) :])]
        old += [number for number in numbers if number > newest]
        return [
            Garbage("generation", f"generations/{number}.json", _garbage.disk_bytes(path))
            for number in old
            if (path := self._history.path(number))
        ]

    def _unnamed_manifests(self, kept: set[Digest], old: set[str]) -> list[Garbage]:
        """The manifests that neither a release on disk nor a kept generation needs."""
        records, damaged = self._history.read()
        if damaged:
            return []
        named = set(kept)
        records = [r for r in records if f"generations/{r.number}.json" not in old]
        for record in records:
            for change in record.changes:
                named |= {one.digest for one in (change.before, change.after) if one}
        for generation in [
            self.current(),
            *([self.generation(records[-1].number)] if records else []),
        ]:
            named |= {one.digest for one in generation.active.values()}
        found = []
        for path in _garbage.entries(self.directory / "manifests"):
            with contextlib.suppress(InvalidInputError):
                if Digest.parse(path.name) not in named:
                    name = f"manifests/{path.name}"
                    found.append(Garbage("manifest", name, _garbage.disk_bytes(path)))
        return found

    # --- assembling ----------------------------------------------------------------------------

    def _staging_path(self, digest: Digest) -> Path:
        return self.directory / "staging" / digest

    def needed(self, head: Head, files: Sequence[File], without: Collection[Path] = ()) -> Needed:
        """What installing `files` of a release would take; writes nothing.

        `without` are directories of releases that will be gone.
        """
        trees = self.installed_trees(head.manifest.release.plugin)
        trees = [tree for tree in trees if tree.directory not in without]
        return survey(head, files, self._staging_path(head.digest), trees)

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
        remove_tree(staging.directory)


_FILES = {"generation", "manifest", "temporary", "download"}


def _is_leased(resident: Resident, *, patient: bool = False) -> bool:
    try:
        claimed = claim(resident.directory, patient=patient)
    except OSError:
        return False
    if claimed is None:
        return True
    claimed.close()
    return False


def _evicted(active: Active) -> EvictedError:
    return EvictedError(
        f"{active.release} is not on this disk: it was evicted to make room, or removed",
        remedy=f"Go online and run 'pluginctl repair {active.release.plugin}'.",
        plugin=str(active.release.plugin),
    )
