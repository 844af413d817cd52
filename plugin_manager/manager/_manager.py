"""The public API: install, load, roll back; each a short route through trust, store and transfer.

install   trust.update > resolver > vouch for each head > store.needed > transfer > activate
load      store.current > vouch > host check > loader, which verifies what it hands out
rollback  an earlier release > vouch > activate and hold; offline, if it is on disk
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from attrs import evolve
from packaging.version import Version

from plugin_manager._connection import is_metered
from plugin_manager.configuration import from_environment
from plugin_manager.errors import (
    InvalidInputError,
    NetworkError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
    UntrustedError,
)
from plugin_manager.manager._control import Control
from plugin_manager.manager._events import Event, LoadAll, Trial, ignore
from plugin_manager.manager._parts import Parts
from plugin_manager.manager._plan import Cleanup, Plan, Step
from plugin_manager.model import (
    Digest,
    Host,
    PluginName,
    PluginRequirement,
    Release,
    parse_version,
)
from plugin_manager.settings import Settings
from plugin_manager.store import Active, Generation, Record, SpacePlan, Storage

# As in `_parts`: what loading and changing take is imported where it is first needed.
if TYPE_CHECKING:
    from plugin_manager.catalogue import Catalogue
    from plugin_manager.loader import LoadedPlugin
    from plugin_manager.manager._activity import Activity
    from plugin_manager.manager._aio import AsyncJobs
    from plugin_manager.manager._jobs import Jobs
    from plugin_manager.manager._loading import Loading
    from plugin_manager.manager._offers import Offer
    from plugin_manager.manager._progress import Progress
    from plugin_manager.manager._recovery import Recovery
    from plugin_manager.manager._report import Inspection, Report
    from plugin_manager.manager._requests import Requests
    from plugin_manager.manifest import Manifest
    from plugin_manager.transfer import Transfer
    from plugin_manager.trust import Expiry

__all__ = ["PluginManager"]


class PluginManager:
    """Plugins of one store, from one repository, vouched for by one pinned root.

    Make it with `open`. Methods that change something take the store's writer lock; reading and
    loading take none. Every method raises errors of `plugin_manager.errors` only, apart from what
    plugins' own code raises. Not for several threads at once.

    `progress(Progress)` is called as bytes arrive, twice a second at most and whenever a transfer
    begins or is done, from whatever thread; `waiting(holder)` once where the lock is held,
    `making_room(SpacePlan)` once it is known what a change takes and what has to be evicted for
    it, before anything is evicted or fetched: also where a load brings a release back;
    `retrying(error, seconds)` where the network failed, and it tries again after a pause;
    `on_event(Event)` where something happened to a plugin: what it raises is logged, and stops
    nothing.

    Several managers may share a `transfer`, whose limits then hold for all together; `control`
    stops what this one does.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        expiry: Expiry | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        progress: Callable[[Progress], None] = ignore,
        waiting: Callable[[str], None] = ignore,
        making_room: Callable[[SpacePlan], None] = ignore,
        retrying: Callable[[NetworkError, float], None] = ignore,
        metered: Callable[[], bool] = is_metered,
        transfer: Transfer | None = None,
        control: Control | None = None,
        on_event: Callable[[Event], object] = ignore,
    ) -> None:
        self.progress = progress
        self.waiting = waiting
        self.making_room = making_room
        self.retrying = retrying
        self.on_event = on_event
        self._metered = metered
        self._parts = Parts(
            settings,
            self,
            expiry=expiry,
            now=now,
            transfer=transfer,
            control=control or Control(),
        )
        self._store = self._parts.store

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
        mirrors: Iterable[str] | None = None,
        tokens: Mapping[str, str] | None = None,
        max_bytes_per_second: int | None = None,
        on_corruption: Literal["refuse", "repair"] = "refuse",
        trial_attempts: int | None = None,
        confirm: Literal["import", "host"] = "import",
        on_event: Callable[[Event], object] = ignore,
        progress: Callable[[Progress], None] = ignore,
        waiting: Callable[[str], None] = ignore,
        making_room: Callable[[SpacePlan], None] = ignore,
        metered: Callable[[], bool] = is_metered,
    ) -> PluginManager:
        """A manager of the store in directory `store` (made at the first install).

        `repository` is the address that serves `metadata/` and `targets/`; `root` the pinned root
        metadata, as bytes or as the path of a file that ships with the host; `expiry` says whether
        loads accept expired metadata (by default for 30 days more). `max_store_bytes` bounds what
        the store takes, `min_free_bytes` stay free on the disk, `keep_previous` earlier releases
        of each plugin stay beside its active one; `system_store` is searched second and never
        written to; `mirrors` are further addresses that serve the same as `repository`, `tokens`
        bearer tokens by server ("https://plugins.example.org"); no more than `max_bytes_per_second`
        are fetched; `metered` says whether the connection is paid by the byte (by default
        NetworkManager does, where it is there); `on_corruption` says whether a load mends what is
        damaged; after an upgrade a release has `trial_attempts` (by default 3; 0: no trials) to be
        confirmed: by a first successful import, or with `confirm="host"` only by
        `LoadedPlugin.confirm`. What is None comes from the environment (see
        `plugin_manager.configuration`). Touches neither disk nor network. Raises InvalidInputError
        for what is none of these.
        """
        _check("on_corruption", on_corruption, "refuse", "repair")
        _check("confirm", confirm, "import", "host")
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
            mirrors=mirrors,
            tokens=tokens,
            max_bytes_per_second=max_bytes_per_second,
        )
        settings = evolve(settings, on_corruption=on_corruption, confirm=confirm)
        if trial_attempts is not None:
            if not isinstance(trial_attempts, int) or trial_attempts < 0:
                raise InvalidInputError(
                    f"{trial_attempts!r} is not a number of attempts",
                    remedy="Give a whole number; 0 is for no trials.",
                )
            settings = evolve(settings, trial_attempts=trial_attempts)
        return cls(
            settings,
            expiry=expiry,
            on_event=on_event,
            progress=progress,
            waiting=waiting,
            making_room=making_room,
            metered=metered,
        )

    @property
    def settings(self) -> Settings:
        """What it works by; what is set later holds for what was not in use before."""
        return self._parts.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._parts.settings = settings

    @property
    def host(self) -> Host:
        """The facts about this machine and application that releases are matched against."""
        return self._parts.host

    @cached_property
    def _requests(self) -> Requests:
        from plugin_manager.manager._requests import Requests  # noqa: PLC0415

        return Requests(self._parts, self._metered)

    @cached_property
    def _recovery(self) -> Recovery:
        from plugin_manager.manager._recovery import Recovery  # noqa: PLC0415

        return Recovery(self._parts)

    @cached_property
    def _loading(self) -> Loading:
        from plugin_manager.manager._loading import Layer, Loading  # noqa: PLC0415

        parts = self._parts
        layers = [Layer(parts.store, parts.trust)]
        if parts.system:
            layers.append(Layer(parts.system, parts.trust_of(parts.system)))
        return Loading(
            layers,
            parts.host,
            self._recovery.heal,
            self._recovery.go_back,
            parts.events,
            self.settings.trial_attempts,
            self.settings.confirm,
        )

    # --- looking -------------------------------------------------------------------------------

    def installed(self) -> list[Active]:
        """The active releases, by plugin."""
        return [active for _, active in sorted(self._store.current().active.items())]

    def evicted(self) -> list[Active]:
        """The active releases whose files are not on this disk."""
        return [active for active in self.installed() if not self._store.has(active)]

    def system_installed(self) -> list[Active]:
        """The active releases of the system store that this store does not have."""
        system = self._parts.system
        if system is None:
            return []
        own, active = self._store.current().active, system.current().active
        return [one for plugin, one in sorted(active.items()) if plugin not in own]

    def activity(self, limit: int = 100) -> list[Activity]:
        """What happened in this store, the newest first; nobody vouches for it."""
        return self._parts.activity.read(limit)

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
        return self._parts.planner.manifest(self._store.active(_plugin(name)))

    def catalogue(self, name: str | PluginName) -> Catalogue:
        """A plugin's catalogue as last fetched, vouched for; no network."""
        return self._parts.trust.local().catalogue(_plugin(name))

    def expiries(self) -> Mapping[str, datetime]:
        """When the signed metadata that is stored here expires, by role; raises as `load` does."""
        return self._parts.trust.local().expiries()

    def offers(self) -> tuple[Offer, ...]:
        """Every plugin of the repository as last fetched, and what is installed; no network."""
        from plugin_manager.manager import _offers  # noqa: PLC0415

        return _offers.offers(self._parts.trust, self._store.current().active, self.host)

    def index_faults(self) -> tuple[PluginManagerError, ...]:
        """What keeps stored indexes from being believed; 'update' brings them anew."""
        from plugin_manager.manager import _offers  # noqa: PLC0415

        return _offers.index_faults(self._parts.trust)

    def outdated(self) -> tuple[Offer, ...]:
        """The installed plugins of which a newer release fits, as last fetched; no network."""
        return tuple(offer for offer in self.offers() if offer.outdated)

    def search(self, text: str) -> tuple[Offer, ...]:
        """The offers that hold every word of `text`, the nearest first; no network."""
        from plugin_manager.manager import _offers  # noqa: PLC0415

        return _offers.search(self.offers(), text)

    def info(self, name: str | PluginName) -> Offer:
        """What is known of a plugin; no network. Raises NotFoundError where nothing is."""
        from plugin_manager.manager import _offers  # noqa: PLC0415

        active = self._store.current().active
        return _offers.find(self._parts.trust, active, self.host, _plugin(name))

    # --- loading -------------------------------------------------------------------------------

    def load(
        self, name: str | PluginName, *, verify: Literal["all", "on-read"] = "all"
    ) -> LoadedPlugin:
        """The plugin's active release, everything verified now, ready to import and read.

        What it requires is loaded first. Loading what this process has loaded already verifies it
        again and returns the same object. Until it is unloaded, or this process ends, nobody
        evicts it. A plugin that this store does not have comes from the system store. With
        `verify="on-read"` files are verified as they are read, and not before.

        A release that was upgraded to is on trial until it is confirmed. Where its attempts have
        run out, the release before is activated and loaded instead.

        No lock, and no network, except where a release was evicted and is fetched again, is
        damaged and `on_corruption` is "repair", or failed on trial. Raises NotFoundError,
        EvictedError, UntrustedError (also ExpiredError), BlockedError, CorruptError naming every
        damaged file, IncompatibleHostError, ModuleConflictError; RefusedError where this process
        still holds another release of it, or where it failed on trial and the one before cannot
        come back; InvalidInputError for another `verify`.
        """
        return self._loading.load(_plugin(name), verify=verify)

    def load_all(
        self, *names: str | PluginName, verify: Literal["all", "on-read"] = "all"
    ) -> LoadAll:
        """Load each of `names` (none: all that is active, in the system store too) as `load` does.

        What cannot be loaded is reported, and keeps nothing else from being loaded but what
        requires it. Raises where the store's records cannot be read; InvalidInputError, with
        nothing loaded, for a name that no plugin can have.
        """
        from plugin_manager.loader import check_verify  # noqa: PLC0415

        check_verify(verify)
        plugins = _plugins(names)
        if not plugins:
            active = [*self.installed(), *self.system_installed()]
            plugins = [one.release.plugin for one in active]
        loaded: dict[PluginName, LoadedPlugin] = {}
        refused: dict[PluginName, PluginManagerError] = {}
        for plugin in plugins:
            try:
                loaded[plugin] = self.load(plugin, verify=verify)
            except PluginManagerError as error:
                refused[plugin] = error
        return LoadAll(loaded, refused)

    def trials(self) -> Mapping[PluginName, Trial]:
        """The active releases that are on trial, by plugin."""
        return self._recovery.trials()

    def confirm(self, name: str | PluginName) -> bool:
        """Say that a plugin's active release works; returns whether it was on trial.

        Waits for nobody. Raises NotFoundError, StoreAccessError.
        """
        return self._recovery.confirm(_plugin(name))

    def close(self) -> None:
        """Unload every plugin that this manager loaded, those that require others first.

        What its jobs were doing is queued again.
        """
        if "_requests" in self.__dict__:
            self._requests.close()
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
        return self._requests.plan_install(_requirements(requests))

    def plan_upgrade(self, *names: str | PluginName, offline: bool = False) -> Plan:
        """What upgrading `names` (none: all that is not held) would do. Asks the repository.

        `offline`: nobody is asked, and only what `fetch` brought ahead is chosen from.
        """
        return self._requests.plan_upgrade(_plugins(names), offline=offline)

    def plan_uninstall(self, *names: str | PluginName) -> Plan:
        """What uninstalling `names` would do; raises RefusedError where others require them."""
        return self._parts.planner.uninstall(_plugins(names))

    def plan_rollback(self, name: str | PluginName, to: str | Version | None = None) -> Plan:
        """What rolling a plugin back would do: to version `to`, or else to the one before.

        "The one before" is the last active release that is older than the active one. It must be
        vouched for, not blocked, and fit what else is active; its bytes are verified by the next
        load. Offline, unless it was evicted. Raises as `load` does, ConflictError, and
        NotFoundError where there is none.
        """
        return self._parts.rollbacks.of_plugin(_plugin(name), _version(to))

    def plan_rollback_to(self, generation: int) -> Plan:
        """What going back to all that was active in `generation` would do.

        Offline, as far as its releases are on disk; what is not is fetched. Raises as
        `plan_rollback` does.
        """
        return self._parts.rollbacks.of_all(generation)

    # --- changing ------------------------------------------------------------------------------

    def apply(self, plan: Plan) -> Generation:
        """Carry out `plan`, all or nothing; returns the generation that is then current.

        Interrupted, it leaves everything as it was, and what had arrived is used by the next
        attempt. Raises RefusedError where the store has changed since the plan was made.
        """

        def planned() -> Plan:
            if self._store.current().number != plan.base:
                raise RefusedError(
                    "the store has changed since this was planned", remedy="Plan again."
                )
            return plan

        return self._parts.changes.carry_out(planned, fitted=False)[1]

    def _change(self, planning: Callable[[], Plan]) -> Plan:
        return self._parts.changes.carry_out(planning)[0]

    def install(self, *requests: str | PluginRequirement) -> Plan:
        """Install or change plugins as `plan_install` says; returns the plan that was done."""
        return self._requests.install(_requirements(requests))

    def upgrade(self, *names: str | PluginName, offline: bool = False) -> Plan:
        """Upgrade as `plan_upgrade` says; returns the plan that was done."""
        return self._requests.upgrade(_plugins(names), offline=offline)

    def fetch(self, *requests: str | PluginRequirement) -> Plan:
        """Fetch what installing `requests` would, and leave it at that; evicts nothing for it.

        A later install of the same, or an offline upgrade, fetches no bundle any more. Kept for a
        week, and for another each time that it is asked for.
        """
        return self._requests.install(_requirements(requests), ahead=True)

    def uninstall(self, *names: str | PluginName) -> Plan:
        """Make plugins inactive; returns the plan.

        Their files stay until the next change, so that this one can be undone.
        """
        return self._change(lambda: self.plan_uninstall(*names))

    def rollback(self, name: str | PluginName, to: str | Version | None = None) -> Plan:
        """Go back a version and hold it, as `plan_rollback` says; returns the plan."""
        return self._change(lambda: self.plan_rollback(name, to))

    def plan_hold(self, name: str | PluginName, *, held: bool = True) -> Plan:
        """What keeping upgrades away from a plugin (or letting them come again) would do."""
        before = self._store.active(_plugin(name))
        after = evolve(before, held=held, failed=before.failed if held else ())
        return self._plan_flag("hold" if held else "unhold", before, after)

    def _plan_flag(self, verb: str, before: Active, after: Active) -> Plan:
        plugin, base = before.release.plugin, self._store.current().number
        return Plan(f"{verb} {plugin}", base, (Step(plugin, before, after),))

    def hold(self, name: str | PluginName) -> Plan:
        """Keep upgrades away from a plugin."""
        return self._change(lambda: self.plan_hold(name))

    def unhold(self, name: str | PluginName) -> Plan:
        """Let upgrades change a plugin again, also to what failed on trial here."""
        return self._change(lambda: self.plan_hold(name, held=False))

    def plan_pin(self, name: str | PluginName, *, pinned: bool = True) -> Plan:
        """What keeping a plugin from ever being evicted (or letting it be again) would do."""
        before = self._store.active(_plugin(name))
        return self._plan_flag("pin" if pinned else "unpin", before, evolve(before, pinned=pinned))

    def pin(self, name: str | PluginName) -> Plan:
        """Keep a plugin's releases from being evicted, however long they are not loaded."""
        return self._change(lambda: self.plan_pin(name))

    def unpin(self, name: str | PluginName) -> Plan:
        """Let a plugin's releases be evicted again."""
        return self._change(lambda: self.plan_pin(name, pinned=False))

    def rollback_to(self, generation: int) -> Plan:
        """Go back to a whole generation, as `plan_rollback_to` says; returns the plan."""
        return self._change(lambda: self.plan_rollback_to(generation))

    def update(self, *names: str | PluginName) -> None:
        """Bring fresh signed metadata, and with it news of blocked releases; no plugin changes.

        Covers what this store has ever had, and `names`, of which `catalogue` can tell afterwards.
        """
        plugins = _plugins(names)
        self._parts.require_source()
        with self._parts.writing():
            self._parts.planner.update(plugins)

    def head_digests(self, name: str | PluginName) -> Mapping[Release, Digest]:
        """By release of a plugin, the digest of its head, as last fetched; no network.

        It changes with any byte of the release.
        """
        vouching, digests = self._parts.trust.local(), {}
        for entry in vouching.catalogue(_plugin(name)).entries:
            with suppress(NotFoundError, UntrustedError):  # listed, but nowhere to be had
                digests[entry.release] = vouching.target(entry.release).head_digest
        return digests

    def another(self) -> PluginManager:
        """Another manager of the same store and connections, for another thread."""
        return PluginManager(
            self.settings,
            expiry=self._parts.expiry,
            now=self._parts.now,
            metered=self._metered,
            transfer=self._parts.remote.transfer,
        )

    def interrupt(self) -> None:
        """Have what this manager does now, and later, raise CancelledError; from any thread."""
        self._parts.control.stop()

    # --- jobs ------------------------------------------------------------------------------------

    @property
    def jobs(self) -> Jobs:
        """What is fetched and installed in the background, and on record."""
        return self._requests.jobs

    @cached_property
    def async_jobs(self) -> AsyncJobs:
        """`jobs` for programs that run on asyncio."""
        from plugin_manager.manager._aio import AsyncJobs  # noqa: PLC0415

        return AsyncJobs(self.jobs)

    # --- verifying and repairing ---------------------------------------------------------------

    def verify(self, *names: str | PluginName, every_release: bool = False) -> Report:
        """Inspect the active releases of `names` (none: all): chain, manifest and every file.

        Earlier releases are named where they are damaged; with `every_release`, all on this disk
        are, also those that nothing needs. With none named, the store's own records too. Damage is
        reported, not raised.
        """
        return self._parts.inspector.verify(_plugins(names), every_release=every_release)

    def repair(self, *names: str | PluginName) -> Report:
        """Mend `names` (none: all, and the store's own records); reports what was found damaged.

        Of each plugin the active release (where it is named, also if it was evicted), and those on
        disk that a rollback could return to. Only damaged chunks are fetched, and none that another
        release on this disk still has. Foreign files are left alone. Raises where something cannot
        be mended.
        """
        return self._recovery.repair(_plugins(names))

    def scrub(
        self, pace: Callable[[int], None], done: Collection[Digest] = ()
    ) -> Iterator[Inspection]:
        """Inspect every release on disk but those whose heads are `done`, one after another.

        Slowly: `pace(bytes)` is called before each few hundred kilobytes are read, from the disk
        itself where the system lets go of what it has in memory; it may wait, or raise to stop.
        """
        return self._parts.inspector.scrub(pace, done)

    # --- space ---------------------------------------------------------------------------------

    def storage(self) -> Storage:
        """What the store holds, why, what would go first, and how much room there is."""
        return self._parts.housekeeping.storage(self._parts.now())

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
        return self._parts.removal.plan_evict(wanted_bytes)

    def evict(self, wanted_bytes: int) -> Cleanup:
        """Free at least `wanted_bytes` by evicting the coldest releases; all or nothing.

        A plugin whose active release goes stays installed: the next load fetches it again.
        """
        return self._parts.removal.evict(wanted_bytes)

    def plan_cleanup(self, *, unfinished: bool = False) -> Cleanup:
        """What `cleanup` would remove."""
        return self._parts.removal.plan_cleanup(unfinished=unfinished)

    def cleanup(self, *, unfinished: bool = False) -> Cleanup:
        """Remove what nobody needs any more, and evict what is over the budget or the free floor.

        What an interrupted command left is kept for a week for the next attempt; `unfinished`
        removes it at once.
        """
        return self._parts.removal.cleanup(unfinished=unfinished)

    def plan_delete(self, name: str | PluginName, version: str | Version | None = None) -> Cleanup:
        """What `delete` would remove; raises as it does."""
        return self._parts.removal.plan_delete(_plugin(name), _version(version))

    def delete(self, name: str | PluginName, version: str | Version | None = None) -> Cleanup:
        """Remove releases of a plugin that are not active from the disk: `version`, or else all.

        Raises NotFoundError where there is none, RefusedError where it is active or loaded.
        """
        return self._parts.removal.delete(_plugin(name), _version(version))


def _requirements(requests: Iterable[str | PluginRequirement]) -> list[PluginRequirement]:
    return [
        request if isinstance(request, PluginRequirement) else PluginRequirement.parse(request)
        for request in requests
    ]


def _check(what: str, given: object, *allowed: str) -> None:
    if given not in allowed:
        raise InvalidInputError(
            f"{what}={given!r} is not known", remedy=f"Give {' or '.join(map(repr, allowed))}."
        )


def _plugin(name: str | PluginName) -> PluginName:
    return name if isinstance(name, PluginName) else PluginName.parse(name)


def _plugins(names: Iterable[str | PluginName]) -> list[PluginName]:
    return [_plugin(name) for name in names]


def _version(version: str | Version | None) -> Version | None:
    return parse_version(version) if isinstance(version, str) else version
