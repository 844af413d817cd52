"""Space: what the store takes, what goes first, and collecting what nobody needs any more.

Reads the store, has `_space` decide, and hands what is to go to `_garbage`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from functools import cached_property, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from attrs import evolve

from plugin_manager._attrs import frozen
from plugin_manager.durable import disk_errors, disk_space
from plugin_manager.errors import InvalidInputError
from plugin_manager.model import Digest, bytecode_tag
from plugin_manager.settings import Limits
from plugin_manager.store import _garbage, _residents, _space
from plugin_manager.store._contents import Index, contents_of
from plugin_manager.store._garbage import Garbage
from plugin_manager.store._generations import Active, lineages, unbroken
from plugin_manager.store._jobs import JobRecords, is_over
from plugin_manager.store._lease import claim
from plugin_manager.store._space import Kept, Resident, Sharing, SpacePlan, distinct_bytes
from plugin_manager.store._store import Store
from plugin_manager.store._trials import Trials
from plugin_manager.store._usage import UsageLog

__all__ = ["Housekeeping", "Storage"]


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


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _looking(
    method: Callable[Concatenate[Housekeeping, Arguments], Result],
) -> Callable[Concatenate[Housekeeping, Arguments], Result]:
    """A method that takes no lock, whose holder would have the disk's refusals put into words."""

    @wraps(method)
    def told(
        self: Housekeeping, /, *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        with disk_errors(self.directory):
            return method(self, *arguments, **named)

    return told


class Housekeeping:
    """The room that `store` takes, kept within `limits`.

    Looking takes no lock. What writes says so, and is for the holder of the store's lock.
    """

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        self._store = store
        self.directory = store.directory
        self._limits = limits or Limits()
        self._jobs = JobRecords(store.directory)
        self._trials = Trials(store.directory)

    @_looking
    def residents(self, now: datetime, *, keep_index: bool = False) -> list[Resident]:
        """The releases on disk and why each is there; raises CorruptError.

        `keep_index`, which writes, leaves the index up to date.
        """
        generation, (records, damaged) = self._store.current(), self._store.read_history()
        places = self._store.places(records=records)
        digests = [place.digest for place in places if place.digest]
        return _residents.kept_in(
            places,
            generation,
            lineages(records),
            self._index.contents(digests, keep=keep_index),
            usage=UsageLog(self.directory).read(),
            limits=self._limits,
            now=now,
            certain=not damaged,
            unbroken=not damaged and unbroken(records),
        )

    @cached_property
    def _index(self) -> Index:
        tag = bytecode_tag()
        return Index(self.directory, tag, lambda d: contents_of(self._store.head(d).manifest, tag))

    @_looking
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
            evicted=tuple(a for a in self._store.current().active.values() if a.digest not in here),
            release_bytes=distinct_bytes(residents),
            unfinished_bytes=unfinished,
            record_bytes=records,
            budget_bytes=self._limits.max_store_bytes,
            free_bytes=free,
            floor_bytes=self._limits.floor_bytes(total),
        )

    def _other_bytes(self) -> tuple[int, int]:
        """What unfinished downloads take, and everything else but releases."""
        unfinished = _garbage.staged_bytes(self.directory, ())
        names = ("manifests", "generations", "index", "trust")
        return unfinished, sum(_garbage.disk_bytes(self.directory / name) for name in names)

    @_looking
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
            limits=self._limits,
            disk=disk_space(self.directory),
            protected=protected,
            is_leased=_is_leased,
        )

    @_looking
    def plan_cleanup(
        self, now: datetime, *, unfinished: bool = False
    ) -> tuple[list[Garbage], SpacePlan]:
        """What `collect` would remove, and what is over the limits then. Writes nothing."""
        residents = self.residents(now)
        with disk_errors(self.directory):
            garbage, doomed = self._sort_out(residents, now, unfinished=unfinished)
        left = [one for one in residents if one not in doomed]
        return garbage, self._over_limits(left, garbage)

    @_looking
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
            limits=self._limits,
            disk=(total, free + freed),
            is_leased=_is_leased,
        )
        # Where it would not do, plugins would be lost for nothing.
        return evolve(over, evict=(), freed_bytes=0) if over.missing_bytes else over

    @_looking
    def plan_eviction(self, wanted_bytes: int, now: datetime) -> tuple[list[Resident], int]:
        """Which releases would go first to free `wanted_bytes`, and what that frees."""
        return _space.coldest(self.residents(now), wanted_bytes, _is_leased)

    @_looking
    def freed_bytes(self, going: Iterable[Resident], now: datetime) -> int:
        """What removing `going` would free together."""
        sharing = Sharing(self.residents(now))
        return sum(sharing.take(one) for one in going)

    def leased(self, residents: Iterable[Resident]) -> set[Resident]:
        """Those of `residents` that a live process has loaded."""
        return {one for one in residents if _is_leased(one, patient=True)}

    # --- collecting ----------------------------------------------------------------------------

    def evict(self, residents: Sequence[Resident]) -> list[Resident]:
        """Remove releases, but none that is loaded somewhere; returns those removed. Writes.

        Manifests and generations stay: an active release that is evicted can be fetched again.
        """
        return _garbage.remove_releases(self.directory, residents)

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
        found = [g for g in found if g.kind != "job" or self._forget(g, now, unfinished=unfinished)]
        gone = {self._name(one) for one in self.evict(doomed)}
        with contextlib.suppress(OSError):
            UsageLog(self.directory).shorten(kept)
        return [one for one in found if one.kind in {*_FILES, "job"} or one.name in gone]

    def _forget(self, garbage: Garbage, now: datetime, *, unfinished: bool) -> bool:
        """Remove the record of a job, if it still is of no use: jobs change without our lock."""
        return self._jobs.remove_if(
            garbage.name.removeprefix("jobs/"),
            lambda wish, standing: is_over(wish, standing, now, unfinished=unfinished),
        )

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
        # The manifest of what is to be resumed tells what of it is there.
        wanted, jobs = self._old_jobs(now, unfinished=unfinished)
        downloads, staged = _garbage.stagings(self.directory, now, wanted, unfinished=unfinished)
        found += self._unnamed_manifests(kept | staged | wanted, {one.name for one in found})
        found += [*downloads, *jobs]
        active = {one.digest for one in self._store.current().active.values()}
        found += self._trials.garbage(kept | active)
        found += _garbage.temporary(self.directory)
        sharing = Sharing(residents)
        found += [Garbage(one.kept.value, self._name(one), sharing.take(one)) for one in doomed]
        return found, doomed

    def _old_jobs(self, now: datetime, *, unfinished: bool) -> tuple[set[Digest], list[Garbage]]:
        """What jobs still want; and the records of those that are over, or were given up."""
        wanted: set[Digest] = set()
        found = []
        for job in self._jobs.ids():
            wish, standing = self._jobs.wish(job), self._jobs.standing(job)
            over = is_over(wish, standing, now, unfinished=unfinished)
            if self._jobs.is_claimed(job) or not over:
                wanted |= set(standing.digests) if standing else set()
            elif wish or not self._jobs.is_fresh(job):
                size_bytes = _garbage.disk_bytes(self._jobs.directory / job)
                found.append(Garbage("job", f"jobs/{job}", size_bytes))
        return wanted, found

    def _old_generations(self) -> list[Garbage]:
        newest = self._store.current().number
        files = self._store.generation_files()
        past = [number for number in files if number <= newest]
        # The oldest first, so that what is left is without gaps. What is newer than the current
        # one never became it.
        old = [*reversed(past[max(self._limits.keep_generations, 1) :])]
        old += [number for number in files if number > newest]
        return [
            Garbage("generation", f"generations/{n}.json", _garbage.disk_bytes(files[n]))
            for n in old
        ]

    def _unnamed_manifests(self, kept: set[Digest], old: set[str]) -> list[Garbage]:
        """The manifests that neither a release on disk nor a kept generation needs."""
        records, damaged = self._store.read_history()
        if damaged:
            return []
        named = set(kept)
        records = [r for r in records if f"generations/{r.number}.json" not in old]
        for record in records:
            named |= record.changed_digests
        for generation in [
            self._store.current(),
            *([self._store.generation(records[-1].number)] if records else []),
        ]:
            named |= {one.digest for one in generation.active.values()}
        found = []
        for path in _garbage.entries(self.directory / "manifests"):
            with contextlib.suppress(InvalidInputError):
                if Digest.parse(path.name) not in named:
                    name = f"manifests/{path.name}"
                    found.append(Garbage("manifest", name, _garbage.disk_bytes(path)))
        return found


_FILES = {"generation", "manifest", "trial", "temporary", "download"}


def _is_leased(resident: Resident, *, patient: bool = False) -> bool:
    try:
        claimed = claim(resident.directory, patient=patient)
    except OSError:
        return False
    if claimed is None:
        return True
    claimed.close()
    return False
