"""The public API: install, load, roll back; each a short route through trust, store and transfer.

install   trust.update > resolver > vouch for each head > store.needed > transfer > activate
load      store.current > vouch > host check > loader, which verifies what it hands out
rollback  an earlier release > vouch > activate and hold; offline, if it is on disk
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from attrs import evolve
from packaging.version import Version

from plugin_manager._connection import is_metered
from plugin_manager.configuration import from_environment
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
    UntrustedError,
)
from plugin_manager.manager._activity import ActivityLog
from plugin_manager.manager._control import Control
from plugin_manager.manager._events import Event, Events, LoadAll, Trial
from plugin_manager.manager._plan import Cleanup, Plan, Step, brings_only
from plugin_manager.model import (
    Digest,
    Host,
    PluginName,
    PluginRequirement,
    Release,
    parse_version,
    size_text,
)
from plugin_manager.settings import Settings
from plugin_manager.store import (
    Active,
    Garbage,
    Generation,
    Housekeeping,
    Lease,
    Record,
    Resident,
    SpacePlan,
    Storage,
    Store,
    Trials,
    Wish,
    disk_bytes,
)

# What looking at a store takes is imported above; what loading and changing take, where it is
# first needed: commands that only look start in half the time.
if TYPE_CHECKING:
    from plugin_manager.catalogue import Catalogue
    from plugin_manager.loader import LoadedPlugin
    from plugin_manager.manager._activity import Activity
    from plugin_manager.manager._aio import AsyncJobs
    from plugin_manager.manager._changes import Changes
    from plugin_manager.manager._inspection import Inspector
    from plugin_manager.manager._job import Follower, Hooks, ResumeStatus
    from plugin_manager.manager._jobs import Jobs
    from plugin_manager.manager._loading import Loading
    from plugin_manager.manager._offers import Offer
    from plugin_manager.manager._planner import Planner
    from plugin_manager.manager._progress import Progress
    from plugin_manager.manager._remote import Remote
    from plugin_manager.manager._report import Inspection, Report
    from plugin_manager.manifest import Manifest
    from plugin_manager.transfer import Transfer
    from plugin_manager.trust import Expiry, Trust

__all__ = ["PluginManager"]

_HEAL_SECONDS = 30.0  # for how long a load waits for a writer at most
_HEAL_ATTEMPTS = 2

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
        progress: Callable[[Progress], None] = _ignore,
        waiting: Callable[[str], None] = _ignore,
        making_room: Callable[[SpacePlan], None] = _ignore,
        retrying: Callable[[NetworkError, float], None] = lambda _error, _seconds: None,
        metered: Callable[[], bool] = is_metered,
        transfer: Transfer | None = None,
        control: Control | None = None,
        on_event: Callable[[Event], object] = _ignore,
    ) -> None:
        self.settings = settings
        self._expiry = expiry
        self.progress = progress
        self.waiting = waiting
        self.making_room = making_room
        self.retrying = retrying
        self.on_event = on_event
        self._now = now
        self._metered = metered
        self._shared_transfer = transfer
        self._control = control or Control()
        self._store = Store(settings.store)
        self._activity = ActivityLog(settings.store)
        self._housekeeping = Housekeeping(self._store, settings.limits)
        self._system = Store(settings.system_store) if settings.system_store else None

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
        on_event: Callable[[Event], object] = _ignore,
        progress: Callable[[Progress], None] = _ignore,
        waiting: Callable[[str], None] = _ignore,
        making_room: Callable[[SpacePlan], None] = _ignore,
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

    # --- parts, made when first needed ---------------------------------------------------------

    @cached_property
    def _remote(self) -> Remote:
        from plugin_manager.manager._remote import Remote  # noqa: PLC0415

        return Remote(self.settings, self._control, self.retrying, self._shared_transfer)

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
            fetch=self._remote.fetch,
            fetch_many=self._remote.fetch_many,
            expiry=self._expiry or Expiry.grace(self.settings.grace),
            now=self._now,
        )

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
            fetch_heads=self._remote.heads,
            now=self._now,
        )

    @cached_property
    def _changes(self) -> Changes:
        from plugin_manager.manager._changes import Changes  # noqa: PLC0415

        return Changes(
            self._store,
            self._housekeeping,
            self._trust,
            self._planner,
            self._remote,
            tag=self.host.bytecode_tag,
            control=self._control,
            writing=self._writing,
            tidy=self._tidy,
            listener=self,
            timeout_seconds=self.settings.lock_timeout_seconds,
            trial_attempts=self.settings.trial_attempts,
            now=self._now,
            activity=self._activity,
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        timeout = self.settings.lock_timeout_seconds
        cancelled = self._control.stopping.is_set
        with self._store.writing(
            timeout_seconds=timeout, waiting=self.waiting, cancelled=cancelled
        ):
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

    def activity(self, limit: int = 100) -> list[Activity]:
        """What happened in this store, the newest first; nobody vouches for it."""
        return self._activity.read(limit)

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

    def expiries(self) -> Mapping[str, datetime]:
        """When the signed metadata that is stored here expires, by role; raises as `load` does."""
        return self._trust.local().expiries()

    def offers(self) -> tuple[Offer, ...]:
        """Every plugin of the repository as last fetched, and what is installed; no network."""
        from plugin_manager.manager import _offers  # noqa: PLC0415

        return _offers.offers(self._trust, self._store.current().active, self.host)

    def index_faults(self) -> tuple[PluginManagerError, ...]:
        """What keeps stored indexes from being believed; 'update' brings them anew."""
        from plugin_manager.manager import _offers  # noqa: PLC0415

        return _offers.index_faults(self._trust)

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
        return _offers.find(self._trust, active, self.host, _plugin(name))

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
        plugins = [_plugin(name) for name in names]
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

    @cached_property
    def _loading(self) -> Loading:
        from plugin_manager.manager._loading import Layer, Loading  # noqa: PLC0415

        layers = [Layer(self._store, self._trust)]
        if self._system:
            layers.append(Layer(self._system, self._trust_of(self._system)))
        return Loading(
            layers,
            self.host,
            self._heal,
            self._go_back,
            self._events,
            self.settings.trial_attempts,
            self.settings.confirm,
        )

    @property
    def _events(self) -> Events:
        return Events(self._tell)

    def _tell(self, event: Event) -> None:
        absent = isinstance(event.error, NotFoundError)
        if event.kind in {"refused", "repaired", "confirmed"} and not absent:
            self._note(event.kind, event.plugin, event.text)
        self.on_event(event)  # whichever it is by then

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
        healer = self._healer()
        try:
            lease = healer._changes.patiently(lambda: healer._bring_back(plugin))
        except PluginManagerError as failure:
            _log.warning("%s could not be brought back: %s", plugin, failure)
            return None
        what = "fetched again" if evicted else "repaired"
        _log.warning("%s was %s", plugin, what)
        release = healer._store.active(plugin).release
        self._events("repaired", plugin, release, text=f"{release} was {what}")
        return lease

    def _healer(self) -> PluginManager:
        """A manager that mends what a load met; whoever waits for the load waits not for ever."""
        from plugin_manager.manager._remote import new_transfer  # noqa: PLC0415

        timeout = self.settings.lock_timeout_seconds
        return PluginManager(
            evolve(self.settings, lock_timeout_seconds=_HEAL_SECONDS if timeout < 0 else timeout),
            expiry=self._expiry,
            now=self._now,
            progress=self.progress,
            waiting=self.waiting,
            making_room=self.making_room,
            retrying=self.retrying,
            # Somebody waits for the load: where nobody answers, that is soon said.
            transfer=self._shared_transfer or new_transfer(self.settings, attempts=_HEAL_ATTEMPTS),
        )

    def _bring_back(self, plugin: PluginName) -> Lease:
        with self._writing():
            self._inspector.repair([plugin])
            return self._store.lease(self._store.active(plugin))

    def _go_back(self, failed: Active, attempts: int) -> None:
        """Activate the release before `failed`, unless that is active no longer, or not on trial.

        Raises RefusedError where that cannot be.
        """
        plugin, of = failed.release.plugin, self.settings.trial_attempts
        what = f"{failed.release} failed on trial ({attempts} of {of} attempts)"
        healer = self._healer()

        def planned() -> Plan:
            generation = healer._store.current()
            active = generation.active.get(plugin)
            if active and active.digest == failed.digest:
                now = healer._trials.failed(active.digest)
                if now is not None and now >= of:
                    return healer._planner.rollback_failed(plugin)
            return Plan("", generation.number)  # another process was here before

        try:
            plan = healer._change(planned)
        except PluginManagerError as error:
            all_the_same = f"To use it all the same, run 'pluginctl confirm {plugin}'."
            raise RefusedError(
                f"{what}, and no earlier one could be activated: {error.message}",
                remedy=f"{error.remedy} {all_the_same}".strip(),
                release=str(failed.release),
                attempts=attempts,
                cause=error.family,
            ) from error
        for step in plan.steps:
            if step.after:
                text = f"{what}: {step.after.release} is active again"
                _log.warning("%s", text)
                self._events("rolled-back", step.plugin, step.after.release, text=text)

    @cached_property
    def _trials(self) -> Trials:
        return Trials(self.settings.store)

    def trials(self) -> Mapping[PluginName, Trial]:
        """The active releases that are on trial, by plugin."""
        of = self.settings.trial_attempts
        on_trial = set(self._trials.digests()) if of else set()
        found = {}
        for active in self.installed() if on_trial else ():
            release = active.release
            attempts = self._trials.failed(active.digest) if active.digest in on_trial else None
            if attempts is not None:
                past = (one.release for one in self._store.past(release.plugin))
                previous = next((one for one in past if one.version < release.version), None)
                found[release.plugin] = Trial(release, previous, attempts, of)
        return found

    def confirm(self, name: str | PluginName) -> bool:
        """Say that a plugin's active release works; returns whether it was on trial.

        Waits for nobody. Raises NotFoundError, StoreAccessError.
        """
        release = (active := self._store.active(_plugin(name))).release
        if not self._trials.end(active.digest):
            return False
        self._events("confirmed", release.plugin, release, text=f"{release} works")
        return True

    def _repairs_at_load(self, error: PluginManagerError) -> bool:
        return isinstance(error, CorruptError) and self.settings.on_corruption == "repair"

    def close(self) -> None:
        """Unload every plugin that this manager loaded, those that require others first.

        What its jobs were doing is queued again.
        """
        if "jobs" in self.__dict__:
            self.jobs.close()
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

    def plan_upgrade(self, *names: str | PluginName, offline: bool = False) -> Plan:
        """What upgrading `names` (none: all that is not held) would do. Asks the repository.

        `offline`: nobody is asked, and only what `fetch` brought ahead is chosen from.
        """
        plugins = [self._store.active(_plugin(name)).release.plugin for name in names]
        self._require_source()
        with self._writing():
            everything = sorted(self._store.current().active)
            return self._planner.upgrade(
                plugins or everything, named=bool(plugins), offline=offline
            )

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

        return self._changes.carry_out(planned, fitted=False)[1]

    def _change(self, planning: Callable[[], Plan], follower: Follower | None = None) -> Plan:
        return self._changes.carry_out(planning, follower)[0]

    def _tidy(self) -> None:
        """Collect garbage after a change, which has succeeded whatever comes of this."""
        try:
            self._housekeeping.collect(self._now())
            self._trust_garbage(collect=True)
        except (PluginManagerError, OSError) as error:
            _log.warning("garbage was not collected: %s", error)

    def install(self, *requests: str | PluginRequirement) -> Plan:
        """Install or change plugins as `plan_install` says; returns the plan that was done."""
        wanted = _requirements(requests)
        self._require_source()
        with self.jobs.on_record("install", wanted, self._control) as follower:
            return self._change(lambda: self._planner.install(wanted), follower)

    def upgrade(self, *names: str | PluginName, offline: bool = False) -> Plan:
        """Upgrade as `plan_upgrade` says; returns the plan that was done."""
        plugins = [_plugin(name) for name in names]
        self._require_source()
        with self.jobs.on_record("upgrade", plugins, self._control) as follower:
            return self._change(lambda: self.plan_upgrade(*names, offline=offline), follower)

    def fetch(self, *requests: str | PluginRequirement) -> Plan:
        """Fetch what installing `requests` would, and leave it at that; evicts nothing for it.

        A later install of the same, or an offline upgrade, fetches no bundle any more. Kept for a
        week, and for another each time that it is asked for.
        """
        wanted = _requirements(requests)
        self._require_source()
        with self.jobs.on_record("fetch", wanted, self._control) as follower:
            return self._changes.carry_out(
                lambda: self._planner.install(wanted), follower, ahead=True
            )[0]

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
        plugins = [_plugin(name) for name in names]
        self._require_source()
        with self._writing():
            self._planner.update(plugins)

    def head_digests(self, name: str | PluginName) -> Mapping[Release, Digest]:
        """By release of a plugin, the digest of its head, as last fetched; no network.

        It changes with any byte of the release.
        """
        vouching, digests = self._trust.local(), {}
        for entry in vouching.catalogue(_plugin(name)).entries:
            with suppress(NotFoundError, UntrustedError):  # listed, but nowhere to be had
                digests[entry.release] = vouching.target(entry.release).head_digest
        return digests

    def another(self) -> PluginManager:
        """Another manager of the same store and connections, for another thread."""
        return PluginManager(
            self.settings,
            expiry=self._expiry,
            now=self._now,
            metered=self._metered,
            transfer=self._remote.transfer,
        )

    def interrupt(self) -> None:
        """Have what this manager does now, and later, raise CancelledError; from any thread."""
        self._control.stop()

    # --- jobs ------------------------------------------------------------------------------------

    @cached_property
    def jobs(self) -> Jobs:
        """What is fetched and installed in the background, and on record."""
        from plugin_manager.manager._jobs import Jobs  # noqa: PLC0415

        return Jobs(
            self.settings,
            run=self._run_job,
            discard=self._store.discard_staging,
            resume_status=self._resume_status,
            limit=self._limit,
            now=self._now,
            metered=self._metered,
        )

    @cached_property
    def async_jobs(self) -> AsyncJobs:
        """`jobs` for programs that run on asyncio."""
        from plugin_manager.manager._aio import AsyncJobs  # noqa: PLC0415

        return AsyncJobs(self.jobs)

    def _limit(self, bytes_per_second: int | None) -> None:
        self._remote.transfer.limit.bytes_per_second = bytes_per_second

    def _run_job(self, wish: Wish, hooks: Hooks) -> None:
        """Do what a job wants; in a thread of its own, so with a manager of its own."""
        other = PluginManager(
            self.settings,
            expiry=self._expiry,
            now=self._now,
            waiting=hooks.waiting,
            retrying=hooks.retrying,
            transfer=self._remote.transfer,
            control=hooks.control,
        )
        other._require_source()

        def planned() -> Plan:
            if wish.action == "upgrade":
                plan = other.plan_upgrade(*wish.requests)
            else:
                plan = other._planner.install(_requirements(wish.requests))
            return brings_only(plan, wish.only)

        other._changes.carry_out(planned, hooks, ahead=wish.action == "fetch")

    def _resume_status(self, digest: Digest) -> ResumeStatus:
        from plugin_manager.manager._resume import resume_status  # noqa: PLC0415

        return resume_status(self._store, self._trust, self.host.bytecode_tag, digest)

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
        plugins = [_plugin(name) for name in names]

        def repair() -> Report:
            with self._writing():
                report = self._inspector.repair(plugins)
            for one in report.releases:
                if not one.good:
                    self._note("repaired", one.active.release.plugin, str(one.active.release))
            return report

        return self._changes.patiently(repair)

    def scrub(
        self, pace: Callable[[int], None], done: Collection[Digest] = ()
    ) -> Iterator[Inspection]:
        """Inspect every release on disk but those whose heads are `done`, one after another.

        Slowly: `pace(bytes)` is called before each few hundred kilobytes are read, from the disk
        itself where the system lets go of what it has in memory; it may wait, or raise to stop.
        """
        return self._inspector.scrub(pace, done)

    def _note(self, kind: str, plugin: PluginName | None, text: str) -> None:
        self._activity.record(kind, plugin, text, self._now())

    @cached_property
    def _inspector(self) -> Inspector:
        from plugin_manager.manager._inspection import Inspector  # noqa: PLC0415

        return Inspector(
            self._store,
            self._trust,
            self.host.bytecode_tag,
            fetch_heads=self._remote.heads,
            assemble=self._changes.assemble_with_room,
            require_source=self._require_source,
            now=self._now,
        )

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
        for one in gone:
            self._note("evicted", one.release.plugin, f"{one.release} was asked to go")
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
        for one in evicted:
            self._note("evicted", one.release.plugin, f"{one.release} was over the limits")
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


def _check(what: str, given: object, *allowed: str) -> None:
    if given not in allowed:
        raise InvalidInputError(
            f"{what}={given!r} is not known", remedy=f"Give {' or '.join(map(repr, allowed))}."
        )


def _plugin(name: str | PluginName) -> PluginName:
    return name if isinstance(name, PluginName) else PluginName.parse(name)
