"""The public API: install, load, roll back; each a short route through trust, store and transfer.

install   trust.update > resolver > vouch for each head > store.needed > transfer > activate
load      store.current > vouch > host check > loader, which verifies what it hands out
rollback  an earlier release > vouch > verify > activate and hold; offline
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from attrs import evolve, frozen
from packaging.version import Version

from plugin_manager import resolver
from plugin_manager._host import this_host
from plugin_manager.bundle import Head
from plugin_manager.catalogue import Catalogue
from plugin_manager.errors import (
    CorruptError,
    IncompatibleHostError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
    UntrustedError,
)
from plugin_manager.loader import LoadedPlugin
from plugin_manager.loader import load as load_release
from plugin_manager.manager._plan import Plan, Progress, Step
from plugin_manager.manager._planner import Planner, keep_chains, vouched
from plugin_manager.manifest import File, Manifest
from plugin_manager.model import Host, PluginName, PluginRequirement, parse_version
from plugin_manager.settings import Settings, from_environment
from plugin_manager.store import Active, Damage, Fault, Generation, Staging, Store
from plugin_manager.trust import BundleTarget, Expiry, Trust, Vouching

if TYPE_CHECKING:
    from plugin_manager.transfer import Transfer

__all__ = ["Inspection", "PluginManager", "Report"]


_log = logging.getLogger("plugin_manager")


def _ignore(_: object) -> None:
    pass


@frozen
class Inspection:
    """What verifying an active release found: no `faults` and no `error` means it would load.

    `foreign` files are named, but do not count: nothing ever loads them.
    """

    active: Active
    faults: tuple[Fault, ...] = ()
    error: PluginManagerError | None = None

    @property
    def good(self) -> bool:
        """Whether all that was signed is there, unchanged, and still vouched for."""
        return self.error is None and not self.damaged

    @property
    def damaged(self) -> tuple[Fault, ...]:
        """The faults that a repair mends."""
        return tuple(fault for fault in self.faults if fault.damage is not Damage.FOREIGN)


@frozen
class Report:
    """What verifying or repairing found.

    `records` are sentences about the store's own records (generations, metadata) that were
    damaged; `releases` what was found of each active release.
    """

    records: tuple[str, ...] = ()
    releases: tuple[Inspection, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing was damaged."""
        return not self.records and all(inspection.good for inspection in self.releases)


class PluginManager:
    """Plugins of one store, from one repository, vouched for by one pinned root.

    Make it with `open`. Methods that change something take the store's writer lock; reading and
    loading take none. Every method raises errors of `plugin_manager.errors` only, apart from what
    plugins' own code raises. Not for several threads at once.

    `progress(Progress)` is called as bytes arrive, `waiting(holder)` once where the lock is held.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        expiry: Expiry | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        progress: Callable[[Progress], None] = _ignore,
        waiting: Callable[[str], None] = _ignore,
    ) -> None:
        self.settings = settings
        self.expiry = expiry or Expiry.grace(settings.grace)
        self.progress = progress
        self.waiting = waiting
        self._now = now
        self._store = Store(settings.store)
        self._loaded: dict[PluginName, LoadedPlugin] = {}

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
        progress: Callable[[Progress], None] = _ignore,
        waiting: Callable[[str], None] = _ignore,
    ) -> PluginManager:
        """A manager of the store in directory `store` (made at the first install).

        `repository` is the address that serves `metadata/` and `targets/`; `root` the pinned root
        metadata, as bytes or as the path of a file that ships with the host; `expiry` says whether
        loads accept expired metadata (by default for 30 days more). What is None comes from the
        environment (see `plugin_manager.settings`). Touches neither disk nor network.
        """
        settings = from_environment(
            os.environ,
            store=store,
            repository=repository,
            root=root,
            host_version=host_version,
            lock_timeout_seconds=lock_timeout_seconds,
        )
        return cls(settings, expiry=expiry, progress=progress, waiting=waiting)

    # --- parts, made when first needed ---------------------------------------------------------

    @cached_property
    def _transfer(self) -> Transfer:
        # requests takes 0.1 s to import, and most commands need no network.
        from plugin_manager.transfer import Policy, Transfer  # noqa: PLC0415

        settings = self.settings
        return Transfer(Policy(ca_bundle=settings.ca_bundle, insecure_http=settings.insecure_http))

    @cached_property
    def _trust(self) -> Trust:
        return Trust(
            self._store.trust_directory,
            self.settings.pinned_root(),
            metadata_url=self.settings.repository + "metadata/",
            targets_url=self.settings.repository + "targets/",
            root_name=self.settings.root_name,
            fetch=self._fetch,
            expiry=self.expiry,
            now=self._now,
        )

    def _fetch(self, url: str, most_bytes: int) -> bytes:
        return self._transfer.fetch(url, most_bytes)

    @cached_property
    def host(self) -> Host:
        """The facts about this machine and application that releases are matched against."""
        return this_host(self.settings.host_version, self.settings.store)

    @cached_property
    def _planner(self) -> Planner:
        return Planner(self._store, self._trust, self.host, self._fetch_head)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        timeout = self.settings.lock_timeout_seconds
        with self._store.writing(timeout_seconds=timeout, waiting=self.waiting):
            yield

    # --- looking -------------------------------------------------------------------------------

    def installed(self) -> list[Active]:
        """The active releases, by plugin."""
        return [active for _, active in sorted(self._store.current().active.items())]

    def history(self) -> list[Generation]:
        """The generations up to the current one, newest first."""
        return self._store.history()

    def path(self, name: str | PluginName) -> Path:
        """The directory of a plugin's active release. Nothing in it is verified by asking."""
        active = self._store.active(_plugin(name))
        return self._store.release_directory(active.release, active.digest)

    def manifest(self, name: str | PluginName) -> Manifest:
        """The manifest of a plugin's active release, vouched for as at a load."""
        active = self._store.active(_plugin(name))
        return vouched(self._store, self._trust.local(), active).manifest

    def catalogue(self, name: str | PluginName) -> Catalogue:
        """A plugin's catalogue as last fetched, vouched for; no network."""
        return self._trust.local().catalogue(_plugin(name))

    # --- loading -------------------------------------------------------------------------------

    def load(self, name: str | PluginName) -> LoadedPlugin:
        """The plugin's active release, everything verified now, ready to import and read.

        No network. What it requires is loaded first. Loading what this process has loaded already
        verifies it again and returns the same object. Raises NotFoundError, UntrustedError (also
        ExpiredError), BlockedError, CorruptError naming every damaged file, IncompatibleHostError,
        ModuleConflictError; RefusedError where this process still holds another release of it.
        """
        generation, vouching = self._store.current(), self._trust.local()
        loaded = None
        for release, manifest in self._order(_plugin(name), generation, vouching):
            loaded = self._load(release, manifest)
        assert loaded is not None  # the plugin itself comes last
        for role in vouching.expired_roles:
            _log.warning("accepted within the grace: %s", role)
        return loaded

    def _order(
        self, plugin: PluginName, generation: Generation, vouching: Vouching
    ) -> list[tuple[Active, Manifest]]:
        """What loading `plugin` takes, vouched for and fit: what is required, then what requires.

        Plugins may require one another; then either may come first.
        """
        found: dict[PluginName, tuple[Active, Manifest]] = {}
        order: list[tuple[Active, Manifest]] = []
        # Not recursive: how deep requirements go is the publishers' doing. An entry is a plugin to
        # enter, and who needs it; or one to leave, once what it requires is in `order`.
        waiting: list[tuple[PluginName, PluginName | None, bool]] = [(plugin, None, False)]
        while waiting:
            name, needed_by, leaving = waiting.pop()
            if leaving:
                order.append(found[name])
            elif name not in found:
                manifest = self._loadable(name, needed_by, generation, vouching)
                found[name] = generation.active[name], manifest
                waiting.append((name, None, True))
                waiting += [(one.plugin, name, False) for one in reversed(manifest.requirements)]
        return order

    def _loadable(
        self,
        plugin: PluginName,
        needed_by: PluginName | None,
        generation: Generation,
        vouching: Vouching,
    ) -> Manifest:
        active = generation.active.get(plugin)
        if active is None:
            needs = f", but {needed_by} needs it" if needed_by else ""
            raise NotFoundError(
                f"{plugin} is not installed{needs}", remedy=f"Run 'pluginctl install {plugin}'."
            )
        manifest = vouched(self._store, vouching, active).manifest
        if reasons := resolver.compatibility(manifest.needs, active.release.platform, self.host):
            raise IncompatibleHostError(
                f"{active.release} {reasons[0]}",
                remedy="Install a release that fits.",
                reasons=tuple(reasons),
            )
        return manifest

    def _load(self, active: Active, manifest: Manifest) -> LoadedPlugin:
        plugin = active.release.plugin
        loaded = self._loaded.get(plugin)
        if loaded is None or loaded.unloaded:
            directory = self._store.release_directory(active.release, active.digest)
            loaded = self._loaded[plugin] = load_release(manifest, directory)
        elif loaded.release != active.release:
            raise RefusedError(
                f"{loaded.release} is loaded in this process, {active.release} is active now",
                remedy="Unload it first, or restart the application.",
            )
        else:
            loaded.verify()
        return loaded

    def close(self) -> None:
        """Unload every plugin that this manager loaded, those that require others first."""
        while self._loaded:
            self._loaded.popitem()[1].unload()

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

        Offline. "The one before" is the newest generation's release that is older than the active
        one. The release must be vouched for, not blocked, whole on disk, and fit what else is
        active. Raises as `load` does, ConflictError, and NotFoundError where there is none.
        """
        version = parse_version(to) if isinstance(to, str) else to
        return self._planner.rollback(_plugin(name), version)

    def _require_source(self) -> None:
        """Raise InvalidInputError unless there are a repository and a sound pinned root."""
        self.settings.base_url()
        self._trust.check_root()

    def _bundle_url(self, path: str) -> str:
        # Versions may hold "+" and "!": some object stores read a bare plus sign as a space.
        return f"{self.settings.base_url()}targets/{quote(path)}"

    def _fetch_head(self, target: BundleTarget) -> bytes:
        url = self._bundle_url(target.path)
        return self._transfer.fetch_range(url, 0, target.head_length, length=target.length)

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
            self._store.require_room(plan.needed.write_bytes)
            done, total = 0, plan.needed.fetch_bytes
            staged: list[Staging] = []
            for step in plan.steps:
                if step.bundle_path:
                    done += self._bring(step, staged, done, total)
            self._store.place(staged)
            self._store.keep_heads(step.head_bytes for step in plan.steps if step.bundle_path)
            changes = {s.plugin: s.after for s in plan.steps if s.kind != "keep"}
            if not changes:
                return generation
            return self._store.activate(changes, plan.action, self._now())

    def _bring(self, step: Step, staged: list[Staging], done: int, total: int) -> int:
        """See that the step's release is on disk, or in `staged`; returns the bytes fetched."""
        assert step.after is not None
        assert step.head is not None
        manifest, store = step.head.manifest, self._store
        files = manifest.files_for(self.host.bytecode_tag)
        if not store.has(step.after):
            staging, fetched = self._assemble(step.head, files, step.bundle_path, done, total)
            staged.append(staging)
            return fetched
        damaged = {fault.path for fault in store.faults(step.after, manifest, "")}
        files = [file for file in files if file.path in damaged]
        if not files:
            return 0
        staging, fetched = self._assemble(step.head, files, step.bundle_path, done, total)
        store.replace(staging)
        return fetched

    def _assemble(
        self, head: Head, files: Sequence[File], bundle_path: str, done: int = 0, total: int = 0
    ) -> tuple[Staging, int]:
        """`files` of a release, staged and complete, and how many bytes had to be fetched.

        `done` and `total` are what the whole change has fetched so far, and will have.
        """
        with self._store.staging(head, files) as staging:
            staging.reuse()
            spans = list(staging.spans())
            fetched = sum(stop - start for _, start, stop in spans)
            if spans:
                from plugin_manager.transfer import Span  # noqa: PLC0415 - as for `_transfer`

                total = max(total, done + fetched)
                arrived = done

                def progress(count: int) -> None:
                    nonlocal arrived
                    arrived += count
                    release = head.manifest.release
                    self.progress(Progress(release, min(arrived, total), total))

                self._transfer.run(
                    self._bundle_url(bundle_path),
                    [Span(*span) for span in spans],
                    staging.accept,
                    length=head.bundle_length,
                    progress=progress,
                )
        return staging, fetched

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
        """Make plugins inactive; their files stay on disk. Returns the plan."""
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
        generation = self._store.current()
        before = self._store.active(_plugin(name))
        step = Step(before.release.plugin, before, evolve(before, held=held))
        action = f"{'hold' if held else 'unhold'} {before.release.plugin}"
        return Plan(action, generation.number, (step,))

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

    def update(self, *names: str | PluginName) -> None:
        """Bring fresh signed metadata, and with it news of blocked releases; no plugin changes.

        Covers what this store has ever had, and `names`, of which `catalogue` can tell afterwards.
        """
        plugins = [_plugin(name) for name in names]
        self._require_source()
        with self._writing(), self._trust.update() as update:
            keep_chains(self._store, update)
            for plugin in plugins:
                update.catalogue(plugin)

    # --- verifying and repairing ---------------------------------------------------------------

    def verify(self, *names: str | PluginName) -> Report:
        """Inspect the active releases of `names` (none: all): chain, manifest and every file.

        With none named, the store's own records too. Damage is reported, not raised.
        """
        try:
            self._store.read_current()
            chosen = [self._store.active(_plugin(name)) for name in names] or self.installed()
            records = [] if names else self._store.damaged_generations()
        except CorruptError as error:
            return Report(records=(error.message,))
        if not chosen:
            return Report(records=tuple(f"{record} is damaged" for record in records))
        try:
            vouching = self._trust.local()
        except (CorruptError, UntrustedError, NotFoundError) as error:
            releases = [Inspection(active, error=error) for active in chosen]
        else:
            releases = [self._inspect(vouching, active) for active in chosen]
        return Report(tuple(f"{record} is damaged" for record in records), tuple(releases))

    def _inspect(self, vouching: Vouching, active: Active) -> Inspection:
        try:
            manifest = vouched(self._store, vouching, active).manifest
        except PluginManagerError as error:
            return Inspection(active, error=error)
        faults = self._store.faults(active, manifest, self.host.bytecode_tag)
        return Inspection(active, tuple(faults))

    def repair(self, *names: str | PluginName) -> Report:
        """Mend `names` (none: all, and the store's own records); reports what was found damaged.

        Of each plugin the active release, and those that a rollback could return to. Only damaged
        chunks are fetched, and none that another release on this disk still has. Foreign files are
        left alone. Raises where something cannot be mended.
        """
        with self._writing():
            records = self._repair_records()
            chosen = [self._store.active(_plugin(name)) for name in names] or self.installed()
            if not chosen:
                return Report(tuple(records))
            try:
                vouching = self._trust.local()
                for active in chosen:
                    vouching.target(active.release)
                    vouching.catalogue(active.release.plugin)
            except (CorruptError, UntrustedError, NotFoundError) as error:
                records.append(error.message)
                vouching = self._refetch_metadata()
            releases = []
            for active in chosen:
                releases.append(self._repair(vouching, active))
                for earlier in self._store.earlier(active):
                    # One that is blocked or no longer listed is of no use to a rollback.
                    with suppress(UntrustedError, RefusedError):
                        found = self._repair(vouching, earlier)
                        releases += [] if found.good else [found]
            return Report(tuple(records), tuple(releases))

    def _repair_records(self) -> list[str]:
        records = []
        try:
            self._store.read_current()
        except CorruptError as error:
            records.append(error.message)
            self._store.recover_current(self._now())
        damaged = self._store.set_aside_damaged_generations()
        return records + [f"{record} is damaged" for record in damaged]

    def _refetch_metadata(self) -> Vouching:
        self._require_source()
        with self._trust.update() as update:
            keep_chains(self._store, update)
        return self._trust.local()

    def _repair(self, vouching: Vouching, active: Active) -> Inspection:
        found = self._inspect(vouching, active)
        if found.good:
            return found
        target = vouching.target(active.release)
        if isinstance(found.error, CorruptError):
            self._store.keep_heads([self._fetch_head(target)])
        head = vouched(self._store, vouching, active)
        faults = self._store.faults(active, head.manifest, self.host.bytecode_tag)
        damaged = {fault.path for fault in faults if fault.damage is not Damage.FOREIGN}
        files = [file for file in head.manifest.files if file.path in damaged]
        if files:
            staging, _ = self._assemble(head, files, target.path)
            if self._store.has(active):
                self._store.replace(staging)
            else:
                self._store.place([staging])
        return evolve(found, faults=tuple(faults))


def _requirements(requests: Iterable[str | PluginRequirement]) -> list[PluginRequirement]:
    return [
        request if isinstance(request, PluginRequirement) else PluginRequirement.parse(request)
        for request in requests
    ]


def _plugin(name: str | PluginName) -> PluginName:
    return name if isinstance(name, PluginName) else PluginName.parse(name)
