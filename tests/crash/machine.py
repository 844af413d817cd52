"""The store against a model of it in plain dictionaries, by long random sequences of operations.

Run: python -m tests.crash machine [--steps 100000] [--seed 1]

The model knows what is active, what is on disk, in which order it was used and who has it loaded;
it says what every answer of the store must be. Nothing is interrupted here: the other batteries do
that. Broken variants of the store must be told apart from a sound one.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import pytest
from attrs import evolve, frozen
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from plugin_manager.errors import CorruptError, EvictedError
from plugin_manager.model import PluginName, bytecode_tag
from plugin_manager.settings import Limits
from plugin_manager.store import (
    Active,
    Housekeeping,
    Kept,
    Lease,
    Resident,
    Staging,
    Store,
    _housekeeping,
    _residents,
    _space,
    _store,
)
from plugin_manager.store._usage import Usage, UsageLog
from tests.bundles import HandMade, make_bundle

__all__ = ["CONTROLS", "Control", "Machine", "is_caught", "run"]

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
STEPS_EACH = 50  # of one store's life
BLOCK = 4096
TAG = bytecode_tag()


class Key(NamedTuple):
    """A release in the model."""

    plugin: str
    version: int

    def __str__(self) -> str:
        return f"{self.plugin} {self.version}"


PLUGINS = ("acme/a", "acme/b", "globex/c")
VERSIONS = range(1, 5)
KEYS = [Key(plugin, version) for plugin in PLUGINS for version in VERSIONS]


def _noise(*of: object, size: int) -> bytes:
    return random.Random(str(of)).randbytes(size)


FILES: Mapping[Key, Mapping[str, bytes]] = {
    key: {
        "for-all.bin": _noise(size=5000),
        "for-the-plugin.bin": _noise(key.plugin, size=9000),
        "own.bin": _noise(key, size=3000 * key.version),
        "sub/empty": b"",
    }
    for key in KEYS
}


@cache
def bundle(key: Key) -> HandMade:
    return make_bundle(str(key), FILES[key])


@cache
def active(key: Key) -> Active:
    head = bundle(key).head
    return Active(head.manifest.release, head.digest)


BY_DIGEST = {active(key).digest: key for key in KEYS}


def key_of(one: Active | Resident) -> Key:
    assert one.digest is not None
    return BY_DIGEST[one.digest]


def distinct_bytes(keys: Iterable[Key]) -> int:
    """What releases take together: equal files once, whole blocks; and two directories each."""
    keys = set(keys)
    contents = {content for key in keys for content in FILES[key].values()}
    return sum(-(-len(one) // BLOCK) * BLOCK for one in contents) + 2 * BLOCK * len(keys)


# --- the model -----------------------------------------------------------------------------------


@frozen
class Flags:
    """Which version of a plugin is active, and how."""

    key: Key
    held: bool = False
    pinned: bool = False

    def active(self) -> Active:
        return evolve(active(self.key), held=self.held, pinned=self.pinned)


@frozen
class Step:
    """A generation: what was active after it, and what it changed (before, after)."""

    active: Mapping[str, Flags]
    changes: Mapping[str, tuple[Flags | None, Flags | None]]


class Model:
    """What a store must be like."""

    def __init__(self) -> None:
        self.limits = Limits(min_free_bytes=0)
        self.number = 0
        self.active: dict[str, Flags] = {}
        self.steps: dict[int, Step] = {}
        self.junk: set[int] = set()  # generation files that nobody can read
        self.disk: set[Key] = set()
        self.staged: set[Key] = set()
        self.heads: set[Key] = set()
        self.used: dict[Key, int] = {}
        self.uses = 0

    def change(self, changes: Mapping[str, Flags | None]) -> None:
        before = self.active
        after = {p: flags for p, flags in {**before, **changes}.items() if flags}
        different = {
            plugin: (before.get(plugin), flags)
            for plugin, flags in changes.items()
            if before.get(plugin) != flags
        }
        self.number += 1
        self.active = after
        self.steps[self.number] = Step(after, different)
        self.junk.discard(self.number)
        new = {flags.key for flags in changes.values() if flags}
        new -= {flags.key for flags in before.values()}
        self.use(sorted(new, key=lambda key: active(key).digest))

    def use(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.uses += 1
            self.used[key] = self.uses

    def past(self, plugin: str) -> list[Key]:
        """What was active of a plugin by the records, the last first."""
        found: dict[Key, None] = {}
        for number in sorted(self.steps, reverse=True):
            before, after = self.steps[number].changes.get(plugin, (None, None))
            found.update({flags.key: None for flags in (after, before) if flags})
        return list(found)

    def earlier(self, plugin: str) -> list[Key]:
        """What there is on disk to go back to, and in which order."""
        now = self.active[plugin].key
        past = self.past(plugin)
        here = [key for key in self.disk if key.plugin == plugin and key != now]
        # Where a record is missing, or one has gone on after damage, older ones may be lost.
        numbers = sorted(number for number in self.steps if number <= self.number)
        gaps = numbers != list(range(numbers[0], numbers[-1] + 1)) if numbers else False
        if not gaps and all(self.steps[number].changes for number in numbers):
            return [k for k in past if k in here]
        lost = [key for key in here if key not in past and key.version < now.version]
        return [k for k in past if k in here] + sorted(lost, key=lambda k: -k.version)

    def kept(self, key: Key) -> Kept:
        """Why a release that is on disk is there."""
        flags = self.active.get(key.plugin)
        if flags and flags.key == key:
            return Kept.ACTIVE
        if flags and key in self.earlier(key.plugin)[: self.limits.keep_previous]:
            return Kept.PREVIOUS
        last = self.steps[self.number].changes if self.number else {}
        if any(before and before.key == key for before, _ in last.values()):
            return Kept.UNDO
        return Kept.GARBAGE if key in self.past(key.plugin) else Kept.UNFINISHED

    def order(self, protected: Iterable[Key] = ()) -> list[Key]:
        """In which order releases would be evicted."""
        rank = [Kept.GARBAGE, Kept.UNDO]
        may = [
            key
            for key in self.disk
            if self.kept(key) is not Kept.UNFINISHED
            and key not in set(protected)
            and not (key.plugin in self.active and self.active[key.plugin].pinned)
        ]

        def place(key: Key) -> tuple[object, ...]:
            kept = self.kept(key)
            here = [k for k in self.disk if k.plugin == key.plugin]
            return (
                rank.index(kept) if kept in rank else len(rank),
                max(self.used.get(k, 0) for k in here),
                key.plugin,
                kept is Kept.ACTIVE,
                self.used.get(key, 0),
                key.version,
            )

        return sorted(may, key=place)

    def victims(
        self, wanted: int, leased: Iterable[Key], protected: Iterable[Key] = ()
    ) -> tuple[list[Key], int]:
        """Who goes to free `wanted` bytes, and what that frees."""
        chosen: list[Key] = []
        for key in self.order(protected):
            freed = distinct_bytes(self.disk) - distinct_bytes(self.disk.difference(chosen))
            if freed >= wanted:
                break
            if key not in set(leased):
                chosen.append(key)
        return chosen, distinct_bytes(self.disk) - distinct_bytes(self.disk.difference(chosen))

    def collect(self, leased: Iterable[Key], *, unfinished: bool) -> None:
        """Forget what nobody needs."""
        drop = {Kept.GARBAGE, Kept.UNFINISHED} if unfinished else {Kept.GARBAGE}
        gone = {key for key in self.disk if self.kept(key) in drop and key not in set(leased)}
        numbers = sorted(self.steps, reverse=True)[self.limits.keep_generations :]
        for number in numbers:
            del self.steps[number]
        self.junk = {number for number in self.junk if number < self.number}
        self.disk -= gone
        self.staged = set() if unfinished else self.staged
        self.heads = set(self.disk) | {flags.key for flags in self.active.values()}
        for number, step in self.steps.items():
            self.heads |= {f.key for change in step.changes.values() for f in change if f}
            if number == min(self.steps):
                self.heads |= {flags.key for flags in step.active.values()}

    def recover(self, *, record_lost: bool) -> None:
        """Go on after `current` was lost, and perhaps the record that it is a copy of."""
        if record_lost:
            self.steps.pop(self.number, None)
            self.junk.add(self.number)
        good = max(self.steps, default=0)
        if good and good > max(self.junk, default=0):
            self.number, self.active = good, dict(self.steps[good].active)
        else:
            self.number = max(self.steps.keys() | self.junk, default=0) + 1
            self.active = dict(self.steps[good].active) if good else self.newest()
            self.steps[self.number] = Step(self.active, {})
        self.junk = {number for number in self.junk if number > self.number}

    def newest(self) -> dict[str, Flags]:
        """The newest release of each plugin on disk: all there is to go by."""
        return {key.plugin: Flags(key) for key in sorted(self.disk & self.heads)}


# --- the machine ---------------------------------------------------------------------------------

plugins = st.sampled_from(PLUGINS)
versions = st.sampled_from(VERSIONS)
picks = st.integers(0, 99)
bytes_wanted = st.integers(1, 100_000)


class Machine(RuleBasedStateMachine):
    """One store's life."""

    done = 0  # steps, of all machines

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY, prefix="machine-"))
        self.model = Model()
        self.leases: list[tuple[Key, Lease]] = []
        self.seconds = 1_800_000_000  # by the clock, which may jump; the same in each run
        self.clock = mock.patch.object(_store, "time", SimpleNamespace(time=self.tick))
        self.clock.start()
        self.now = datetime.now(UTC)
        self.open()

    def teardown(self) -> None:
        self.clock.stop()
        for _, lease in self.leases:
            lease.close()
        shutil.rmtree(self.directory)

    def open(self) -> None:
        self.store = Store(self.directory / "store")
        self.housekeeping = Housekeeping(self.store, self.model.limits)

    def tick(self) -> int:
        self.seconds += 1
        return self.seconds

    @property
    def leased(self) -> set[Key]:
        return {key for key, _ in self.leases}

    def place(self, key: Key) -> Path:
        return self.store.release_directory(active(key).release, active(key).digest)

    def bring(self, keys: Iterable[Key]) -> None:
        """See that releases are on disk, as an install does before it activates them."""
        missing = [key for key in keys if key not in self.model.disk]
        staged = []
        for key in missing:
            head = bundle(key).head
            with self.store.staging(head, head.manifest.files_for(TAG)) as staging:
                staging.reuse()
                self.feed(staging, key)
            staged.append(staging)
        self.store.place(staged)
        self.store.keep_heads(bundle(key).head_bytes for key in missing)
        self.model.disk |= set(missing)
        self.model.heads |= set(missing)
        self.model.staged -= set(missing)

    @staticmethod
    def feed(staging: Staging, key: Key, most: int = 1000) -> None:
        for index, start, stop in list(staging.spans())[:most]:
            staging.accept(index, memoryview(bundle(key).data)[start:stop])

    def activate(self, changes: Mapping[str, Flags | None]) -> None:
        named = {
            active(Key(plugin, 1)).release.plugin: flags.active() if flags else None
            for plugin, flags in changes.items()
        }
        self.store.activate(named, "test", self.now)
        self.model.change(changes)

    # --- changes -------------------------------------------------------------------------------

    @initialize(keep_previous=st.integers(0, 2), keep_generations=st.integers(1, 12))
    def limit(self, keep_previous: int, keep_generations: int) -> None:
        self.model.limits = evolve(
            self.model.limits, keep_previous=keep_previous, keep_generations=keep_generations
        )
        self.open()

    @rule(chosen=st.dictionaries(plugins, versions, min_size=1))
    def install(self, chosen: dict[str, int]) -> None:
        """Install, upgrade or downgrade: several at once."""
        changes: dict[str, Flags | None] = {}
        for plugin, version in sorted(chosen.items()):
            before = self.model.active.get(plugin)
            pinned = bool(before and before.pinned)
            changes[plugin] = Flags(Key(plugin, version), pinned=pinned)
        with self.store.writing():
            self.bring(flags.key for flags in changes.values() if flags)
            self.activate(changes)

    @rule(key=st.sampled_from(KEYS))
    def interrupted_install(self, key: Key) -> None:
        """An install that ends after it has placed its release."""
        with self.store.writing():
            self.bring([key])

    @rule(key=st.sampled_from(KEYS), frames=st.integers(0, 3))
    def interrupted_download(self, key: Key, frames: int) -> None:
        if key in self.model.disk:
            return
        head = bundle(key).head
        with (
            self.store.writing(),
            self.store.staging(head, head.manifest.files_for(TAG)) as staging,
        ):
            staging.reuse()
            self.feed(staging, key, frames)
        self.model.staged.add(key)

    @precondition(lambda self: self.model.active)
    @rule(pick=picks)
    def uninstall(self, pick: int) -> None:
        plugin = sorted(self.model.active)[pick % len(self.model.active)]
        with self.store.writing():
            self.activate({plugin: None})

    @precondition(lambda self: self.model.active)
    @rule(pick=picks)
    def rollback(self, pick: int) -> None:
        plugin = sorted(self.model.active)[pick % len(self.model.active)]
        before = self.model.active[plugin]
        found = [key_of(one) for one in self.store.earlier(before.active())]
        assert found == self.model.earlier(plugin)
        if found:
            with self.store.writing():
                self.activate({plugin: evolve(before, key=found[0], held=True)})

    @precondition(lambda self: self.model.steps)
    @rule(pick=picks)
    def rollback_to(self, pick: int) -> None:
        """Go back to a whole generation; what is gone is fetched again."""
        target = self.model.steps[sorted(self.model.steps)[pick % len(self.model.steps)]].active
        changes = {
            plugin: target.get(plugin)
            for plugin in sorted({*target, *self.model.active})
            if target.get(plugin) != self.model.active.get(plugin)
        }
        with self.store.writing():
            self.bring(flags.key for flags in changes.values() if flags)
            self.activate(changes)

    @precondition(lambda self: self.model.active)
    @rule(pick=picks, held=st.booleans(), pinned=st.booleans())
    def flag(self, pick: int, *, held: bool, pinned: bool) -> None:
        """Hold, unhold, pin, unpin."""
        plugin = sorted(self.model.active)[pick % len(self.model.active)]
        flags = evolve(self.model.active[plugin], held=held, pinned=pinned)
        with self.store.writing():
            self.activate({plugin: flags})
        self.look()

    # --- loading -------------------------------------------------------------------------------

    @precondition(lambda self: self.model.active)
    @rule(pick=picks, keep=st.booleans())
    def load(self, pick: int, *, keep: bool) -> None:
        plugin = sorted(self.model.active)[pick % len(self.model.active)]
        key = self.model.active[plugin].key
        if key not in self.model.disk:
            with pytest.raises(EvictedError):
                self.store.lease(active(key))
            return
        lease = self.store.lease(active(key))
        self.store.record_load([active(key).digest])
        if (self.store.directory / "index").is_dir():
            self.model.use([key])
        if keep:
            self.leases.append((key, lease))
        else:
            lease.close()
        self.look()

    @precondition(lambda self: self.leases)
    @rule(pick=picks)
    def unload(self, pick: int) -> None:
        _, lease = self.leases.pop(pick % len(self.leases))
        lease.close()

    @rule(years=st.integers(-20, 20))
    def clock_jumps(self, years: int) -> None:
        self.seconds += years * 365 * 24 * 3600

    # --- space ---------------------------------------------------------------------------------

    @rule()
    def look(self) -> None:
        """What the store says that it holds."""
        storage, model = self.housekeeping.storage(self.now), self.model
        assert storage.release_bytes == distinct_bytes(model.disk)
        assert [key_of(one) for one in storage.order] == model.order()
        assert {key_of(one): one.kept for one in storage.residents} == {
            key: model.kept(key) for key in model.disk
        }
        assert {key_of(one) for one in storage.evicted} == {
            flags.key for flags in model.active.values() if flags.key not in model.disk
        }
        assert storage.leased == {self.place(key) for key in self.leased}
        for one, unique in zip(storage.residents, storage.unique_bytes, strict=True):
            others = model.disk - {key_of(one)}
            assert unique == distinct_bytes(model.disk) - distinct_bytes(others)

    @rule(wanted=bytes_wanted)
    def evict(self, wanted: int) -> None:
        chosen, freed = self.housekeeping.plan_eviction(wanted, self.now)
        expected, expected_freed = self.model.victims(wanted, self.leased)
        assert ([key_of(one) for one in chosen], freed) == (expected, expected_freed)
        with self.store.writing():
            assert self.housekeeping.evict(chosen) == chosen
        self.model.disk -= set(expected)

    @rule()
    def evict_what_is_leased(self) -> None:
        """Another process may have loaded it since the plan."""
        residents = self.housekeeping.residents(self.now)
        residents = [one for one in residents if key_of(one) in self.leased]
        with self.store.writing():
            assert self.housekeeping.evict(residents) == []

    @rule(
        wanted=bytes_wanted,
        budget=st.integers(0, 300_000),
        protected=st.sets(st.sampled_from(KEYS), max_size=3),
    )
    def plan_space(self, wanted: int, budget: int, protected: set[Key]) -> None:
        limits = evolve(self.model.limits, max_store_bytes=budget)
        housekeeping = Housekeeping(self.store, limits)
        if not self.store.directory.exists():
            return
        plan = housekeeping.plan_space(wanted, {active(key).digest for key in protected}, self.now)
        storage = housekeeping.storage(self.now)
        assert plan.used_bytes == storage.used_bytes
        assert plan.needed_bytes == int(wanted * 1.2)
        shortage = plan.needed_bytes + plan.used_bytes - budget
        expected, freed = self.model.victims(shortage, self.leased, protected)
        assert [key_of(one) for one in plan.evict] == expected
        assert plan.freed_bytes == freed
        assert plan.missing_bytes == max(0, shortage - freed)

    @rule(unfinished=st.booleans())
    def collect(self, *, unfinished: bool) -> None:
        before = set(self.model.disk)
        with self.store.writing():
            planned, _ = self.housekeeping.plan_cleanup(self.now, unfinished=unfinished)
            gone = self.housekeeping.collect(self.now, unfinished=unfinished)
        assert {one.name for one in gone} <= {one.name for one in planned}
        self.model.collect(self.leased, unfinished=unfinished)
        removed = {self.store.directory / one.name for one in gone}
        assert {self.place(key) for key in before - self.model.disk} == {
            path for path in removed if "releases" in path.parts
        }
        directory = self.store.directory
        assert {path.name for path in (directory / "manifests").iterdir()} == {
            active(key).digest for key in self.model.heads
        }
        if unfinished:
            assert list((directory / "staging").iterdir()) == []

    # --- damage, and starting anew ---------------------------------------------------------------

    @rule()
    def reopen(self) -> None:
        """Another process."""
        self.open()

    @rule(everything=st.booleans())
    def index_is_lost(self, *, everything: bool) -> None:
        index = self.store.directory / "index"
        if everything:
            shutil.rmtree(index, ignore_errors=True)
            self.model.used.clear()
            self.model.uses = 0
        else:
            (index / "cache.db").unlink(missing_ok=True)

    @precondition(lambda self: self.model.number)
    @rule(what=st.sampled_from(["current", "its record", "both"]))
    def current_is_damaged(self, what: str) -> None:
        store, number = self.store, self.model.number
        names = {"current": ["current"], "its record": [f"generations/{number}.json"]}
        for name in names.get(what, [*names["current"], *names["its record"]]):
            (store.directory / name).write_bytes(b'{"blake3":"')
        if what != "its record":
            with pytest.raises(CorruptError):
                store.current()
        with store.writing():
            assert bool(store.recover_current(self.now)) == (what != "its record")
            store.mend_generations()
        if what != "its record":
            self.model.recover(record_lost=what == "both")

    @precondition(lambda self: len(self.model.steps) > 1)
    @rule(pick=picks)
    def record_is_damaged(self, pick: int) -> None:
        """An older one: until it is mended, nothing is garbage for want of a record."""
        store, older = self.store, sorted(self.model.steps)[:-1]
        number = older[pick % len(older)]
        (store.directory / f"generations/{number}.json").write_bytes(b"x")
        found = {one.kind for one in Housekeeping(store).plan_cleanup(self.now)[0]}
        assert not found & {"garbage", "manifest"}
        with store.writing():
            assert store.mend_generations() == [f"generations/{number}.json"]
        del self.model.steps[number]

    @precondition(lambda self: self.model.disk)
    @rule(pick=picks, name=st.sampled_from(["own.bin", "for-all.bin", "sub/empty"]))
    def file_is_damaged(self, pick: int, name: str) -> None:
        """A flipped byte, or a missing file; mended from the bundle or from another release."""
        key = sorted(self.model.disk)[pick % len(self.model.disk)]
        path, manifest = self.place(key) / name, bundle(key).head.manifest
        path.unlink()
        if pick % 2:
            path.write_bytes(b"x" * (len(FILES[key][name]) or 1))
        faults = self.store.faults(active(key), manifest, TAG)
        assert [fault.path for fault in faults] == [name]
        with (
            self.store.writing(),
            self.store.staging(bundle(key).head, [manifest.file(name)]) as staging,
        ):
            staging.reuse()
            self.feed(staging, key)
            self.store.replace(staging)
        self.model.staged.discard(key)

    # --- what must be true at any time -----------------------------------------------------------

    @invariant()
    def current_is_what_the_model_says(self) -> None:
        Machine.done += 1
        current = self.store.current()
        assert current.number == self.model.number
        assert current.active == {
            flags.active().release.plugin: flags.active() for flags in self.model.active.values()
        }

    @invariant()
    def what_is_on_disk_is_whole(self) -> None:
        there = set(self.store.directory.glob("releases/*/*/*"))
        assert there == {self.place(key) for key in self.model.disk}
        assert self.leased <= self.model.disk
        for key in self.model.disk:
            place = self.place(key)
            for name, content in FILES[key].items():
                assert (place / name).read_bytes() == content
        with suppress(FileNotFoundError):
            staged = {path.name for path in (self.store.directory / "staging").iterdir()}
            assert staged == {active(key).digest for key in self.model.staged}

    @invariant()
    def history_replays_to_what_was_active(self) -> None:
        records = self.store.history()
        assert [record.number for record in records] == sorted(self.model.steps, reverse=True)
        state: dict[PluginName, Active] | None = None
        for record in reversed(records):
            step = self.model.steps[record.number]
            expected = {f.active().release.plugin: f.active() for f in step.active.values()}
            if state is not None and record.number - 1 in self.model.steps and record.changes:
                for change in record.changes:
                    assert state.get(change.plugin) == change.before
                    state.pop(change.plugin, None)
                    if change.after:
                        state[change.plugin] = change.after
                assert state == expected
            state = dict(expected)
        if records:
            oldest = records[-1].number
            assert self.store.generation(oldest).active == {
                flags.active().release.plugin: flags.active()
                for flags in self.model.steps[oldest].active.values()
            }


# --- controls: broken stores, which must be noticed ----------------------------------------------


@frozen
class Control:
    """A broken variant of the store."""

    name: str
    broken: Callable[[], AbstractContextManager[object]]


def _ignoring_pins() -> AbstractContextManager[object]:
    order = _space.eviction_order

    def ignoring(residents: Iterable[Resident], *more: object) -> list[Resident]:
        free = [evolve(one, pinned=False) for one in residents]
        return order(free, *more)  # type: ignore[arg-type]

    return mock.patch.object(_space, "eviction_order", ignoring)


def _by_the_clock() -> AbstractContextManager[object]:
    def read(self: UsageLog) -> dict[object, Usage]:
        found: dict[object, Usage] = {}
        for digest, _, seconds in self._lines():
            found[digest] = Usage(int(seconds), int(seconds))
        return found

    return mock.patch.object(UsageLog, "read", read)


CONTROLS = [
    Control("eviction ignores pins", _ignoring_pins),
    Control(
        "collecting removes the previous release",
        lambda: mock.patch.object(_residents, "_previous", return_value=set()),
    ),
    Control("eviction goes by the clock", _by_the_clock),
    Control(
        "eviction ignores leases",
        lambda: mock.patch.object(_housekeeping, "_is_leased", return_value=False),
    ),
]


# --- the battery ---------------------------------------------------------------------------------


def run(steps: int, first_seed: int, *, shrink: bool = True) -> int:
    """Let machines do `steps` steps at least; returns how many. Raises where one went wrong."""
    Machine.done, number = 0, first_seed
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    each = settings(
        max_examples=min(100, max(steps // STEPS_EACH, 1)),
        stateful_step_count=STEPS_EACH,
        database=None,
        deadline=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(settings.get_profile("default").suppress_health_check),
    )
    while Machine.done < steps:
        run_state_machine_as_test(seed(number)(Machine), settings=each)
        number += 1
    return Machine.done


def is_caught(control: Control, steps: int, first_seed: int) -> bool:
    """Whether the machine notices a broken store within so many steps."""
    with control.broken():
        try:
            run(steps, first_seed, shrink=False)
        except HypothesisException:
            raise
        except Exception:
            return True
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the battery and print its figures; 1 where anything was wrong or a control missed."""
    parser = argparse.ArgumentParser(prog="machine", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    missed = [one.name for one in CONTROLS if not is_caught(one, 20_000, options.seed)]
    for name in missed:
        print(f"CONTROL NOT CAUGHT: {name}")
    problems = 0
    try:
        run(options.steps, options.seed)
    except Exception as error:
        problems = 1
        print(f"PROBLEM {type(error).__name__}: {error}")
        print("\n".join(getattr(error, "__notes__", ())))
    print(
        f"machine: {Machine.done} steps, {problems} problems, {len(CONTROLS) - len(missed)} of "
        f"{len(CONTROLS)} controls caught, {time.monotonic() - began:.0f} s"
    )
    return 1 if problems or missed else 0


if __name__ == "__main__":
    sys.exit(main())
