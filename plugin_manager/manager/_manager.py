"""The public API: install, load, roll back; each a short route through trust, store and transfer.

install   trust.update > resolver > vouch for each head > store.needed > transfer > activate
load      store.current > vouch > host check > loader, which verifies what it hands out
rollback  an earlier release > vouch > activate and hold; offline, if it is on disk
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from attrs import evolve
from packaging.version import Version

from plugin_manager.durable import disk_errors
from plugin_manager.errors import (
    CorruptError,
    EvictedError,
    InvalidInputError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
)
from plugin_manager.manager._plan import Cleanup, Plan, Step
from plugin_manager.model import (
    Digest,
    Host,
    PluginName,
    PluginRequirement,
    parse_version,
    size_text,
)
from plugin_manager.settings import Settings, from_environment
from plugin_manager.store import (
    Active,
    Garbage,
    Generation,
    Housekeeping,
    Lease,
    Record,
    Resident,
    SpacePlan,
    Staging,
    Storage,
    Store,
    disk_bytes,
)

# What looking at a store takes is imported above; what loading and changing take, where it is
# first needed: commands that only look start in half the time.
if TYPE_CHECKING:
    from plugin_manager.bundle import Head
    from plugin_manager.catalogue import Catalogue
    from plugin_manager.loader import LoadedPlugin
    from plugin_manager.manager._inspection import Inspector
    from plugin_manager.manager._loading import Loading
    from plugin_manager.manager._planner import Planner
    from plugin_manager.manager._progress import Meter, Progress
    from plugin_manager.manager._report import Report
    from plugin_manager.manifest import File, Manifest
    from plugin_manager.transfer import Transfer
    from plugin_manager.trust import BundleTarget, Expiry, Trust

__all__ = ["PluginManager"]

_HEAL_SECONDS = 30.0  # for how long a load waits for a writer at most
_SIDE_BY_SIDE = 16  # requests for metadata at a time
_NEAR_SECONDS = 0.002
_MOVES = {"install", "upgrade", "downgrade"}


_log = logging.getLogger("plugin_manager")


def _ignore(_: object) -> None:
    pass


class PluginManager:
    """Plugins of one store, from one repository, vouched for by one pinned root.

    Make it with `open`. Methods that change something take the store's writer lock; reading and
    loading take none. Every method raises errors of `plugin_manager.errors` only, apart from what
    plugins' own code raises. Not for several threads at once.

    `progress(Progress)` is called as bytes arrive, twice a second at most and whenever a transfer
    begins or is done, from whatever thread; `waiting(holder)` once where the lock is held,
    `making_room(SpacePlan)` once it is known what a change takes and what has to be evicted for
    it, before anything is evicted or fetched: also where a load brings a release back.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        expiry: Expiry | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        progress: Callable[[Progress], None] = _ignore,
        waiting: Callable[[str], None] = _ignore,
        making_room: Callable[[SpacePlan], None] = _ignore,
    ) -> None:
        self.settings = settings
        self._expiry = expiry
        self.progress = progress
        self.waiting = waiting
        self.making_room = making_room
        self._now = now
        self._store = Store(settings.store)
        self._housekeeping = Housekeeping(self._store, settings.limits)
        self._system = Store(settings.system_store) if settings.system_store else None
        self._quickest_seconds = math.inf  # how long a small file takes from the repository

    @classmethod
    def open(
        cls,
        store: str | Path | None = None,
        repository: str | None = None,
        root: str | Path | bytes | None = None,
        *,
        host_version: str | Version | None = None,
        expiry: Expiry | None = None,
        lock_timeout_seconds: float | None = None,
        max_store_bytes: int | None = None,
        min_free_bytes: int | None = None,
        keep_previous: int | None = None,
        system_store: str | Path | None = None,
        on_corruption: Literal["refuse", "repair"] = "refuse",
        progress: Callable[[Progress], None] = _ignore,
        waiting: Callable[[str], None] = _ignore,
        making_room: Callable[[SpacePlan], None] = _ignore,
    ) -> PluginManager:
        """A manager of the store in directory `store` (made at the first install).

        `repository` is the address that serves `metadata/` and `targets/`; `root` the pinned root
        metadata, as bytes or as the path of a file that ships with the host; `expiry` says whether
        loads accept expired metadata (by default for 30 days more). `max_store_bytes` bounds what
        the store takes, `min_free_bytes` stay free on the disk, `keep_previous` earlier releases
        of each plugin stay beside its active one; `system_store` is searched second and never
        written to; `on_corruption` says whether a load mends what is damaged. What is None comes
        from the environment (see `plugin_manager.settings`). Touches neither disk nor network.
        """
        settings = from_environment(
            os.environ,
            store=store,
            repository=repository,
            root=root,
            host_version=host_version,
            lock_timeout_seconds=lock_timeout_seconds,
            max_store_bytes=max_store_bytes,
            min_free_bytes=min_free_bytes,
            keep_previous=keep_previous,
            system_store=system_store,
        )
        settings = evolve(settings, on_corruption=on_corruption)
        return cls(
            settings, expiry=expiry, progress=progress, waiting=waiting, making_room=making_room
        )

    # --- parts, made when first needed ---------------------------------------------------------

    @cached_property
    def _transfer(self) -> Transfer:
        # requests takes 0.1 s to import, and most commands need no network.
        from plugin_manager.transfer import Policy, Transfer  # noqa: PLC0415

        settings = self.settings
        return Transfer(Policy(ca_bundle=settings.ca_bundle, insecure_http=settings.insecure_http))

    @cached_property
    def _trust(self) -> Trust:
        return self._trust_of(self._store)

    def _trust_of(self, store: Store) -> Trust:
        from plugin_manager.trust import Expiry, Trust  # noqa: PLC0415

        return Trust(
            store.trust_directory,
            self.settings.pinned_root(),
            metadata_url=self.settings.repository + "metadata/",
            targets_url=self.settings.repository + "targets/",
            root_name=self.settings.root_name,
            fetch=self._fetch,
            fetch_many=self._fetch_many,
            expiry=self._expiry or Expiry.grace(self.settings.grace),
            now=self._now,
        )

    def _fetch(self, url: str, most_bytes: int) -> bytes:
        begun = time.monotonic()
        data = self._transfer.fetch(url, most_bytes)
        self._quickest_seconds = min(self._quickest_seconds, time.monotonic() - begun)
        return data

    def _fetch_many(self, asks: Sequence[tuple[str, int]]) -> list[bytes | PluginManagerError]:
        """What `_fetch` brings for each of `asks`, side by side; or what it raises."""
        failed: list[PluginManagerError] = []

        def fetch(ask: tuple[str, int]) -> bytes | PluginManagerError:
            if failed:  # the line, or the server: no use to be patient with it for each file anew
                return failed[0]
            try:
                return self._fetch(*ask)
            except PluginManagerError as error:
                if isinstance(error, NetworkError) and error.status is None:
                    failed.append(error)
                return error

        # Threads cost more than they save where the next answer is there at once.
        if self._quickest_seconds < _NEAR_SECONDS:
            return [fetch(ask) for ask in asks]
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - as for `_transfer`

        with ThreadPoolExecutor(min(len(asks), _SIDE_BY_SIDE), "metadata") as pool:
            return list(pool.map(fetch, asks))

    @cached_property
    def host(self) -> Host:
        """The facts about this machine and application that releases are matched against."""
        from plugin_manager._host import this_host  # noqa: PLC0415

        return this_host(self.settings.host_version, self.settings.store)

    @cached_property
    def _planner(self) -> Planner:
        from plugin_manager.manager._planner import Planner  # noqa: PLC0415

        return Planner(
            self._store,
            self._housekeeping,
            self._trust,
            self.host,
            fetch_heads=self._fetch_heads,
            now=self._now,
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        timeout = self.settings.lock_timeout_seconds
        with self._store.writing(timeout_seconds=timeout, waiting=self.waiting):
            yield

    # --- looking -------------------------------------------------------------------------------

    def installed(self) -> list[Active]:
        """The active releases, by plugin."""
        return [active for _, active in sorted(self._store.current().active.items())]

    def evicted(self) -> list[Active]:
        """The active releases whose files are not on this disk."""
        return [active for active in self.installed() if not self._store.has(active)]

    def system_installed(self) -> list[Active]:
        """The active releases of the system store that this store does not have."""
        if self._system is None:
            return []
        own = self._store.current().active
        active = self._system.current().active
        return [one for plugin, one in sorted(active.items()) if plugin not in own]

    def history(self) -> list[Record]:
        """What made each generation up to the current one, newest first."""
        return self._store.history()

    def generation(self, number: int) -> Generation:
        """A generation with all that was active in it."""
        return self._store.generation(number)

    def path(self, name: str | PluginName) -> Path:
        """The directory of a plugin's active release; raises EvictedError where it is not there.

        Nothing in it is verified by asking.
        """
        active = self._store.active(_plugin(name))
        self._store.lease(active).close()
        return self._store.release_directory(active.release, active.digest)

    def manifest(self, name: str | PluginName) -> Manifest:
        """The manifest of a plugin's active release, vouched for as at a load."""
        active = self._store.active(_plugin(name))
        return self._planner.manifest(active)

    def catalogue(self, name: str | PluginName) -> Catalogue:
        """A plugin's catalogue as last fetched, vouched for; no network."""
        return self._trust.local().catalogue(_plugin(name))

    # --- loading -------------------------------------------------------------------------------

    def load(self, name: str | PluginName) -> LoadedPlugin:
        """The plugin's active release, everything verified now, ready to import and read.

        What it requires is loaded first. Loading what this process has loaded already verifies it
        again and returns the same object. Until it is unloaded, or this process ends, nobody
        evicts it. A plugin that this store does not have comes from the system store.

        No lock, and no network, except where a release was evicted and is fetched again, or is
        damaged and `on_corruption` is "repair". Raises NotFoundError, EvictedError, UntrustedError
        (also ExpiredError), BlockedError, CorruptError naming every damaged file,
        IncompatibleHostError, ModuleConflictError; RefusedError where this process still holds
        another release of it.
        """
        return self._loading.load(_plugin(name))

    @cached_property
    def _loading(self) -> Loading:
        from plugin_manager.manager._loading import Layer, Loading  # noqa: PLC0415

        layers = [Layer(self._store, self._trust)]
        if self._system:
            layers.append(Layer(self._system, self._trust_of(self._system)))
        return Loading(layers, self.host, self._heal)

    def _heal(self, plugin: PluginName, error: PluginManagerError) -> Lease | None:
        """Mend what a load met, as far as this host lets it, and lease it; None where not."""
        evicted = isinstance(error, EvictedError)
        wanted = bool(self.settings.repository) if evicted else self._repairs_at_load(error)
        if not wanted:
            return None
        with suppress(CorruptError):  # that may be what is to be mended
            if plugin not in self._store.current().active:
                return None  # a system store is its owner's to mend
        _log.warning("%s: %s", plugin, error.message)
        try:
            timeout = self.settings.lock_timeout_seconds
            with self._store.writing(
                timeout_seconds=_HEAL_SECONDS if timeout < 0 else timeout, waiting=self.waiting
            ):
                self._inspector.repair([plugin])
                lease = self._store.lease(self._store.active(plugin))
        except PluginManagerError as failure:
            _log.warning("%s could not be brought back: %s", plugin, failure)
            return None
        _log.warning("%s was %s", plugin, "fetched again" if evicted else "repaired")
        return lease

    def _repairs_at_load(self, error: PluginManagerError) -> bool:
        return isinstance(error, CorruptError) and self.settings.on_corruption == "repair"

    def close(self) -> None:
        """Unload every plugin that this manager loaded, those that require others first."""
        self._loading.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- planning ------------------------------------------------------------------------------

    def plan_install(self, *requests: str | PluginRequirement) -> Plan:
        """What installing `requests` (such as "acme/maps>=2") would do. Asks the repository.

        Fresh metadata is kept; no plugin changes. What else is installed stays where it is unless
        a request cannot be met otherwise.
        """
        wanted = _requirements(requests)  # what is malformed must not make a store
        self._require_source()
        with self._writing():
            return self._planner.install(wanted)

    def plan_upgrade(self, *names: str | PluginName) -> Plan:
        """What upgrading `names` (none: all that is not held) would do. Asks the repository."""
        plugins = [self._store.active(_plugin(name)).release.plugin for name in names]
        self._require_source()
        with self._writing():
            return self._planner.upgrade(plugins or sorted(self._store.current().active))

    def plan_uninstall(self, *names: str | PluginName) -> Plan:
        """What uninstalling `names` would do; raises RefusedError where others require them."""
        return self._planner.uninstall([_plugin(name) for name in names])

    def plan_rollback(self, name: str | PluginName, to: str | Version | None = None) -> Plan:
        """What rolling a plugin back would do: to version `to`, or else to the one before.

        "The one before" is the last active release that is older than the active one. It must be
        vouched for, not blocked, and fit what else is active; its bytes are verified by the next
        load. Offline, unless it was evicted. Raises as `load` does, ConflictError, and
        NotFoundError where there is none.
        """
        version = parse_version(to) if isinstance(to, str) else to
        return self._planner.rollback(_plugin(name), version)

    def plan_rollback_to(self, generation: int) -> Plan:
        """What going back to all that was active in `generation` would do.

        Offline, as far as its releases are on disk; what is not is fetched. Raises as
        `plan_rollback` does.
        """
        return self._planner.rollback_to(generation)

    def _require_source(self) -> None:
        """Raise InvalidInputError unless there are a repository and a sound pinned root."""
        self.settings.base_url()
        self._trust.check_root()

    def _bundle_url(self, path: str) -> str:
        # Versions may hold "+" and "!": some object stores read a bare plus sign as a space.
        return f"{self.settings.base_url()}targets/{quote(path)}"

    def _fetch_heads(self, targets: Sequence[BundleTarget]) -> list[bytes]:
        """The heads of bundles, as their publishers signed them."""
        if not targets:
            return []
        from plugin_manager.transfer import Download, Span  # noqa: PLC0415 - as for `_transfer`

        heads: dict[int, bytes] = {}

        def keep(index: int, data: memoryview) -> None:
            head = bytes(data)
            if Digest.of(head) != targets[index].head_digest:
                raise CorruptError("it is not the head that was signed")  # asked for again
            heads[index] = head

        self._transfer.run(
            [
                Download(
                    (self._bundle_url(target.path),),
                    [Span(index, 0, target.head_length)],
                    target.length,
                    keep,
                )
                for index, target in enumerate(targets)
            ]
        )
        return [heads[index] for index in range(len(targets))]

    # --- changing ------------------------------------------------------------------------------

    def apply(self, plan: Plan) -> Generation:
        """Carry out `plan`, all or nothing; returns the generation that is then current.

        Interrupted, it leaves everything as it was, and what had arrived is used by the next
        attempt. Raises RefusedError where the store has changed since the plan was made.
        """
        with self._writing():
            generation = self._store.current()
            if generation.number != plan.base:
                raise RefusedError(
                    "the store has changed since this was planned", remedy="Plan again."
                )
            self._check(plan)
            plan = self._make_room(plan)
            staged = self._bring(step for step in plan.steps if step.bundle_path)
            self._store.place(staged)
            self._store.keep_heads(step.head_bytes for step in plan.steps if step.bundle_path)
            changes = {s.plugin: s.after for s in plan.steps if s.kind not in {"keep", "fetch"}}
            if changes:
                generation = self._store.activate(changes, plan.action, self._now())
            if staged or any(step.after is None for step in plan.steps):
                self._tidy()
            return generation

    def _check(self, plan: Plan) -> None:
        """Raise where what no generation tells has changed since the plan was made."""
        for step in plan.steps:
            if step.after and step.kind in _MOVES:
                self._trust.local().refuse_blocked(step.after.release)
                if not step.bundle_path:
                    self._store.lease(step.after).close()  # it is still there

    def _make_room(self, plan: Plan) -> Plan:
        """The plan as it is now, room being made for it.

        Raises NoSpaceError before anything is evicted.
        """
        while True:
            plan = self._planner.fitted(plan)
            if plan.space is None:
                return plan
            plan.space.require(self._store.directory)
            if plan.space.evict:
                self._try_fetching(plan)
            self.making_room(plan.space)
            gone = self._housekeeping.evict(plan.space.evict)
            for one in gone:
                _log.info("evicted %s", one.release)
            # Not until the disk shows it: it may be late, and more would go for nothing. Only what
            # was loaded meanwhile, and stays, has to be made up for.
            if len(gone) == len(plan.space.evict):
                return plan

    def _try_fetching(self, plan: Plan) -> None:
        """Raise NetworkError where nothing should be evicted, as the fetch could not even begin."""
        for step in plan.steps:
            if step.head and step.needed.fetch_bytes:
                url = self._bundle_url(step.bundle_path)
                self._transfer.fetch_range(url, 0, 1, length=step.head.bundle_length)
                return

    def _tidy(self) -> None:
        """Collect garbage after a change, which has succeeded whatever comes of this."""
        try:
            self._housekeeping.collect(self._now())
            self._trust_garbage(collect=True)
        except (PluginManagerError, OSError) as error:
            _log.warning("garbage was not collected: %s", error)

    def _bring(self, steps: Iterable[Step]) -> list[Staging]:
        """See that the steps' releases are on disk and whole; those to be placed are returned."""
        placing, mending = [], []
        for step in steps:
            assert step.after is not None
            assert step.head is not None
            manifest = step.head.manifest
            files = manifest.files_for(self.host.bytecode_tag)
            if not self._store.has(step.after):
                placing.append((step.head, files, step.bundle_path))
                continue
            damaged = {fault.path for fault in self._store.faults(step.after, manifest, "")}
            if files := [file for file in files if file.path in damaged]:
                mending.append((step.head, files, step.bundle_path))
        staged = self._assemble([*placing, *mending])
        for staging in staged[len(placing) :]:
            self._store.replace(staging)
        return staged[: len(placing)]

    def _assemble(self, wanted: Iterable[tuple[Head, Sequence[File], str]]) -> list[Staging]:
        """Files of releases, whose bundles are at these paths, staged and complete."""
        from plugin_manager.manager._progress import Meter  # noqa: PLC0415 - as for `_transfer`

        with ExitStack() as open_stagings:
            staged, lacking, meter = [], [], Meter(self.progress)
            for head, files, bundle_path in wanted:
                staging = open_stagings.enter_context(self._store.staging(head, files))
                reused = staging.reuse()
                staged.append(staging)
                if spans := list(staging.spans()):
                    total = sum(stop - start for _, start, stop in spans)
                    meter.expect(head.manifest.release, total, reused)
                    lacking.append((staging, spans, bundle_path))
            if lacking:
                self._fetch_frames(lacking, meter)
        return staged

    def _fetch_frames(
        self, lacking: Sequence[tuple[Staging, Sequence[tuple[int, int, int]], str]], meter: Meter
    ) -> None:
        from plugin_manager.transfer import Download, Span  # noqa: PLC0415 - as for `_transfer`

        def accept(staging: Staging, index: int, data: memoryview) -> None:
            staging.accept(index, data)
            meter.verified(staging.head.manifest.release, len(data))

        self._transfer.run(
            [
                Download(
                    (self._bundle_url(bundle_path),),
                    [Span(*span) for span in spans],
                    staging.head.bundle_length,
                    partial(accept, staging),
                    partial(meter.arrived, staging.head.manifest.release),
                )
                for staging, spans, bundle_path in lacking
            ]
        )

    def install(self, *requests: str | PluginRequirement) -> Plan:
        """Install or change plugins as `plan_install` says; returns the plan that was done."""
        wanted = _requirements(requests)
        self._require_source()
        with self._writing():
            plan = self._planner.install(wanted)
            self.apply(plan)
        return plan

    def upgrade(self, *names: str | PluginName) -> Plan:
        """Upgrade as `plan_upgrade` says; returns the plan that was done."""
        self._require_source()
        with self._writing():
            plan = self.plan_upgrade(*names)
            self.apply(plan)
        return plan

    def uninstall(self, *names: str | PluginName) -> Plan:
        """Make plugins inactive; returns the plan.

        Their files stay until the next change, so that this one can be undone.
        """
        with self._writing():
            plan = self.plan_uninstall(*names)
            self.apply(plan)
        return plan

    def rollback(self, name: str | PluginName, to: str | Version | None = None) -> Plan:
        """Go back a version and hold it, as `plan_rollback` says; returns the plan."""
        with self._writing():
            plan = self.plan_rollback(name, to)
            self.apply(plan)
        return plan

    def plan_hold(self, name: str | PluginName, *, held: bool = True) -> Plan:
        """What keeping upgrades away from a plugin (or letting them come again) would do."""
        before = self._store.active(_plugin(name))
        return self._plan_flag("hold" if held else "unhold", before, evolve(before, held=held))

    def _plan_flag(self, verb: str, before: Active, after: Active) -> Plan:
        plugin, base = before.release.plugin, self._store.current().number
        return Plan(f"{verb} {plugin}", base, (Step(plugin, before, after),))

    def hold(self, name: str | PluginName) -> Plan:
        """Keep upgrades away from a plugin."""
        with self._writing():
            plan = self.plan_hold(name)
            self.apply(plan)
        return plan

    def unhold(self, name: str | PluginName) -> Plan:
        """Let upgrades change a plugin again."""
        with self._writing():
            plan = self.plan_hold(name, held=False)
            self.apply(plan)
        return plan

    def plan_pin(self, name: str | PluginName, *, pinned: bool = True) -> Plan:
        """What keeping a plugin from ever being evicted (or letting it be again) would do."""
        before = self._store.active(_plugin(name))
        return self._plan_flag("pin" if pinned else "unpin", before, evolve(before, pinned=pinned))

    def pin(self, name: str | PluginName) -> Plan:
        """Keep a plugin's releases from being evicted, however long they are not loaded."""
        with self._writing():
            plan = self.plan_pin(name)
            self.apply(plan)
        return plan

    def unpin(self, name: str | PluginName) -> Plan:
        """Let a plugin's releases be evicted again."""
        with self._writing():
            plan = self.plan_pin(name, pinned=False)
            self.apply(plan)
        return plan

    def rollback_to(self, generation: int) -> Plan:
        """Go back to a whole generation, as `plan_rollback_to` says; returns the plan."""
        with self._writing():
            plan = self.plan_rollback_to(generation)
            self.apply(plan)
        return plan

    def update(self, *names: str | PluginName) -> None:
        """Bring fresh signed metadata, and with it news of blocked releases; no plugin changes.

        Covers what this store has ever had, and `names`, of which `catalogue` can tell afterwards.
        """
        plugins = [_plugin(name) for name in names]
        self._require_source()
        with self._writing():
            self._planner.update(plugins)

    # --- verifying and repairing ---------------------------------------------------------------

    def verify(self, *names: str | PluginName, every_release: bool = False) -> Report:
        """Inspect the active releases of `names` (none: all): chain, manifest and every file.

        Earlier releases are named where they are damaged; with `every_release`, all on this disk
        are, also those that nothing needs. With none named, the store's own records too. Damage is
        reported, not raised.
        """
        plugins = [_plugin(name) for name in names]
        return self._inspector.verify(plugins, every_release=every_release)

    def repair(self, *names: str | PluginName) -> Report:
        """Mend `names` (none: all, and the store's own records); reports what was found damaged.

        Of each plugin the active release (where it is named, also if it was evicted), and those on
        disk that a rollback could return to. Only damaged chunks are fetched, and none that another
        release on this disk still has. Foreign files are left alone. Raises where something cannot
        be mended.
        """
        with self._writing():
            return self._inspector.repair([_plugin(name) for name in names])

    @cached_property
    def _inspector(self) -> Inspector:
        from plugin_manager.manager._inspection import Inspector  # noqa: PLC0415

        return Inspector(
            self._store,
            self._trust,
            self.host.bytecode_tag,
            fetch_heads=self._fetch_heads,
            assemble=self._assemble_with_room,
            require_source=self._require_source,
            now=self._now,
        )

    def _assemble_with_room(self, head: Head, files: Sequence[File], bundle_path: str) -> Staging:
        active = Active(head.manifest.release, head.digest)
        needed = self._store.needed(head, files)
        step = Step(
            active.release.plugin, None, active, head, bundle_path=bundle_path, needed=needed
        )
        self._make_room(Plan("repair", self._store.current().number, (step,)))
        return self._assemble([(head, files, bundle_path)])[0]

    # --- space ---------------------------------------------------------------------------------

    def storage(self) -> Storage:
        """What the store holds, why, what would go first, and how much room there is."""
        return self._housekeeping.storage(self._now())

    @property
    def used(self) -> int:
        """The bytes that the store takes on the disk."""
        return self.storage().used_bytes

    @property
    def available(self) -> int:
        """The bytes that could be added within the budget and the free floor, evicting nothing."""
        return self.storage().available_bytes

    def plan_evict(self, wanted_bytes: int) -> Cleanup:
        """What `evict` would remove; raises NoSpaceError where less could be freed."""
        if not isinstance(wanted_bytes, int) or wanted_bytes < 0:
            raise InvalidInputError(
                f"{wanted_bytes!r} is not a number of bytes", remedy="Give a whole number."
            )
        chosen, freed = self._housekeeping.plan_eviction(wanted_bytes, self._now())
        if freed < wanted_bytes:
            raise NoSpaceError(
                f"only {size_text(freed)} of {size_text(wanted_bytes)} could be freed",
                needed_bytes=wanted_bytes,
                free_bytes=freed,
                remedy="Unpin plugins, or end the processes that have them loaded; "
                "'pluginctl storage' shows which.",
            )
        return Cleanup(evicted=tuple(chosen), freed_bytes=freed)

    def evict(self, wanted_bytes: int) -> Cleanup:
        """Free at least `wanted_bytes` by evicting the coldest releases; all or nothing.

        A plugin whose active release goes stays installed: the next load fetches it again.
        """
        gone: list[Resident] = []
        with self._writing():
            before = self.storage().release_bytes
            left = wanted_bytes
            while chosen := self.plan_evict(left).evicted:
                gone += self._housekeeping.evict(chosen)
                left = max(wanted_bytes - (before - self.storage().release_bytes), 0)
            freed = before - self.storage().release_bytes
        return Cleanup(evicted=tuple(gone), freed_bytes=freed)

    def plan_cleanup(self, *, unfinished: bool = False) -> Cleanup:
        """What `cleanup` would remove."""
        garbage, over = self._housekeeping.plan_cleanup(self._now(), unfinished=unfinished)
        garbage += self._trust_garbage()
        freed = sum(one.size_bytes for one in garbage) + over.freed_bytes
        return Cleanup(tuple(garbage), over.evict, freed, over.missing_bytes)

    def cleanup(self, *, unfinished: bool = False) -> Cleanup:
        """Remove what nobody needs any more, and evict what is over the budget or the free floor.

        What an interrupted command left is kept for a week for the next attempt; `unfinished`
        removes it at once.
        """
        with self._writing():
            now = self._now()
            garbage = self._housekeeping.collect(now, unfinished=unfinished)
            garbage += self._trust_garbage(collect=True)
            over = self._housekeeping.plan_limits(now)
            evicted = self._housekeeping.evict(over.evict)
        freed = sum(one.size_bytes for one in garbage) + over.freed_bytes
        return Cleanup(tuple(garbage), tuple(evicted), freed, over.missing_bytes)

    def _trust_garbage(self, *, collect: bool = False) -> list[Garbage]:
        from plugin_manager import trust  # noqa: PLC0415

        directory, top = self._store.trust_directory, self._store.directory
        with disk_errors(top):
            found = [
                Garbage("metadata", path.relative_to(top).as_posix(), disk_bytes(path))
                for path in trust.garbage(directory)
            ]
        if collect:
            trust.collect(directory)
        return found

    def plan_delete(self, name: str | PluginName, version: str | Version | None = None) -> Cleanup:
        """What `delete` would remove; raises as it does."""
        plugin = _plugin(name)
        wanted = parse_version(version) if isinstance(version, str) else version
        active = self._store.current().active.get(plugin)
        here = [one for one in self.storage().residents if one.release.plugin == plugin]
        if wanted is not None:
            chosen = [one for one in here if one.release.version == wanted]
        else:
            chosen = [one for one in here if active is None or one.digest != active.digest]
        if not chosen:
            what = f"{plugin} {wanted}" if wanted else f"release of {plugin} that is not active"
            raise NotFoundError(
                f"there is no {what} on this disk", remedy="'pluginctl storage' shows what is."
            )
        if active and any(one.digest == active.digest for one in chosen):
            raise RefusedError(
                f"{active.release} is active", remedy=f"First 'pluginctl uninstall {plugin}'."
            )
        if loaded := self._housekeeping.leased(chosen):
            raise RefusedError(
                f"{next(iter(loaded)).release} is loaded by a running process",
                remedy="End that process first.",
            )
        freed = self._housekeeping.freed_bytes(chosen, self._now())
        return Cleanup(evicted=tuple(chosen), freed_bytes=freed)

    def delete(self, name: str | PluginName, version: str | Version | None = None) -> Cleanup:
        """Remove releases of a plugin that are not active from the disk: `version`, or else all.

        Raises NotFoundError where there is none, RefusedError where it is active or loaded.
        """
        with self._writing():
            plan = self.plan_delete(name, version)
            gone = self._housekeeping.evict(plan.evicted)
            self._tidy()
        return evolve(plan, evicted=tuple(gone))


def _requirements(requests: Iterable[str | PluginRequirement]) -> list[PluginRequirement]:
    return [
        request if isinstance(request, PluginRequirement) else PluginRequirement.parse(request)
        for request in requests
    ]


def _plugin(name: str | PluginName) -> PluginName:
    return name if isinstance(name, PluginName) else PluginName.parse(name)
