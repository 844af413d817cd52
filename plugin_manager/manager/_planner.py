"""Working out changes: what to install, upgrade or uninstall, without doing it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from attrs import evolve
from packaging.version import Version

from plugin_manager import resolver
from plugin_manager.bundle import Head
from plugin_manager.catalogue import Catalogue, CatalogueEntry
from plugin_manager.errors import (
    CorruptError,
    InvalidInputError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
    UntrustedError,
)
from plugin_manager.manager._plan import Plan, Step
from plugin_manager.manifest import Manifest
from plugin_manager.model import (
    Host,
    PluginName,
    PluginRequirement,
    Release,
    Withdrawal,
    WithdrawalKind,
)
from plugin_manager.store import Active, Generation, Housekeeping, Needed, SpacePlan, Store
from plugin_manager.trust import BundleTarget, Trust, Update, Vouching

__all__ = ["Planner", "keep_chains", "newer", "vouched"]


def vouched(store: Store, vouching: Vouching, active: Active) -> Head:
    """The head of `active`, vouched for by the chain from the pinned root."""
    head = vouching.vouch(active.release, store.head_bytes(active.digest))
    if head.digest != active.digest:
        raise UntrustedError(f"{active.release}: the store names another manifest than it has")
    return head


def keep_chains(store: Store, update: Update) -> None:
    """Have the chain of every plugin that may be loaded or rolled back to later.

    One publisher's lapse is no reason to keep the others' news away; where that very plugin is
    asked for, the error comes again.
    """
    for plugin in sorted(store.plugins()):
        with suppress(NotFoundError, UntrustedError, InvalidInputError):
            update.catalogue(plugin)


_FAILED = Withdrawal(WithdrawalKind.YANKED, "failed on trial here", local=True)


def _passing_over(failed: Collection[Version], catalogue: Catalogue) -> Catalogue:
    """`catalogue`, with what failed here as good as yanked: picked only where pinned exactly."""
    if not failed:
        return catalogue
    entries = (
        evolve(entry, withdrawal=_FAILED)
        if entry.release.version in failed and not entry.withdrawal
        else entry
        for entry in catalogue.entries
    )
    return evolve(catalogue, entries=tuple(entries))


def newer(version: Version, *failed: Iterable[Version]) -> tuple[Version, ...]:
    """Those of the versions that `failed` on trial which are newer than `version`, in order."""
    return tuple(sorted({one for some in failed for one in some if one > version}))


class Planner:
    """Plans for one store and one repository; `fetch_heads` brings bundles' heads.

    `install` and `upgrade` update the local metadata, for which the caller holds the writer's
    lock; `uninstall` neither writes nor uses the network.
    """

    def __init__(
        self,
        store: Store,
        housekeeping: Housekeeping,
        trust: Trust,
        host: Host,
        *,
        fetch_heads: Callable[[Sequence[BundleTarget]], list[bytes]],
        now: Callable[[], datetime],
    ) -> None:
        self._now = now
        self._store = store
        self._housekeeping = housekeeping
        self._trust = trust
        self._host = host
        self._fetch_heads = fetch_heads

    def manifest(self, active: Active) -> Manifest:
        """The manifest of an active release, vouched for."""
        return vouched(self._store, self._trust.local(), active).manifest

    def update(self, plugins: Iterable[PluginName]) -> None:
        """Bring fresh metadata for all that the store knows, for `plugins`, and every index."""
        plugins = list(plugins)
        known = [*self._store.plugins(), *plugins]
        with self._trust.update(known, every_index=True) as update:
            keep_chains(self._store, update)
            for plugin in plugins:
                update.catalogue(plugin)

    def install(self, wanted: Sequence[PluginRequirement]) -> Plan:
        """What meeting the requests `wanted` would do."""
        action = "install " + ", ".join(str(requirement) for requirement in wanted)
        return self._online(action, wanted, upgrade=())

    def upgrade(
        self, plugins: Sequence[PluginName], *, named: bool = True, offline: bool = False
    ) -> Plan:
        """What moving `plugins`, which are installed, to their newest would do.

        Where they are not `named`, but all that there are, one that cannot be had stays as it is.
        `offline`: to the newest that are wholly on this disk, by the metadata that is.
        """
        active = self._store.current().active
        plugins = list(dict.fromkeys(plugins))
        held = [plugin for plugin in plugins if active[plugin].held]
        notes = tuple(
            f"{plugin} is held at {active[plugin].release.version} and stays; "
            f"'pluginctl unhold {plugin}' lifts it"
            for plugin in held
        )
        free = [plugin for plugin in plugins if plugin not in held]
        action = "upgrade " + ", ".join(str(plugin) for plugin in free)
        plan = self._online(action, [], upgrade=free, named=named, offline=offline)
        moved = {step.plugin for step in plan.steps}
        notes += tuple(
            f"{plugin} {', '.join(map(str, active[plugin].failed))} failed on trial here and is "
            f"passed over; 'pluginctl unhold {plugin}' lifts that"
            for plugin in free
            if active[plugin].failed and plugin not in moved
        )
        return evolve(plan, notes=(*notes, *plan.notes))

    def _online(
        self,
        action: str,
        requests: Sequence[PluginRequirement],
        upgrade: Collection[PluginName],
        *,
        named: bool = True,
        offline: bool = False,
    ) -> Plan:
        generation = self._store.current()
        asked_for = {request.plugin for request in requests} | {*(upgrade if named else ())}
        resolve = self._resolve_here if offline else self._resolve
        chosen = resolve(generation, requests, upgrade, asked_for)
        vouching = self._trust.local()
        # What is asked for, and what that requires, is brought back where it was evicted.
        asked: set[PluginName] = set()
        waiting = [request.plugin for request in requests]
        while waiting:
            if (plugin := waiting.pop()) in chosen and plugin not in asked:
                asked.add(plugin)
                waiting += [requirement.plugin for requirement in chosen[plugin].requirements]
        moves, notes = [], []
        for plugin, entry in sorted(chosen.items()):
            before = generation.active.get(plugin)
            if entry.withdrawal == _FAILED:
                notes.append(f"{entry.release} failed on trial here before")
            elif entry.withdrawal:
                stays = ", and stays: no other release fits" if entry.blocked else ""
                notes.append(
                    f"{entry.release} was {entry.withdrawal.kind} by its publisher: "
                    f"{entry.withdrawal.reason}{stays}"
                )
            absent = plugin in asked and before and not self._store.has(before)
            if not before or before.release != entry.release or absent:
                moves.append((entry.release, before))
        steps = self.steps(vouching, moves)
        return self.fitted(Plan(action, generation.number, tuple(steps), tuple(notes)))

    def fitted(self, plan: Plan) -> Plan:
        """`plan` with what it takes now, and whether it fits.

        What is evicted for it can no longer be copied from, so that it may take more.
        """
        without: set[Path] = set()
        while True:
            steps = tuple(
                evolve(step, needed=self._needed(step.head, without))
                if step.bundle_path and step.head and step.after and not self._store.has(step.after)
                else step
                for step in plan.steps
            )
            plan = evolve(plan, steps=steps)
            speed, fetch_bytes = self._store.last_speed(), plan.needed.fetch_bytes
            plan = evolve(plan, seconds=fetch_bytes / speed if speed and fetch_bytes else None)
            if not plan.needed.write_bytes:
                return evolve(plan, space=None)
            plan = evolve(plan, space=self.space(plan))
            assert plan.space
            going = {one.directory for one in plan.space.evict}
            if going <= without:
                return plan
            without |= going

    def _needed(self, head: Head, without: Collection[Path] = ()) -> Needed:
        files = head.manifest.files_for(self._host.bytecode_tag)
        return self._store.needed(head, files, without)

    def space(self, plan: Plan) -> SpacePlan:
        """Whether `plan` fits now, and what has to be evicted for it."""
        protected = {step.before.digest for step in plan.steps if step.before}
        active = dict(self._store.current().active)
        active |= {step.plugin: step.after for step in plan.steps if step.after}
        heads = {step.plugin: step.head for step in plan.steps if step.head}
        # What is installed, and what that requires: else it would not load offline.
        waiting = [step.plugin for step in plan.steps if step.after]
        while waiting:
            plugin = waiting.pop()
            one = active.get(plugin)
            if one is None or (one.digest in protected and plugin not in heads):
                continue
            protected.add(one.digest)
            with suppress(CorruptError, InvalidInputError):
                head = heads.pop(plugin, None) or self._store.head(one.digest)
                waiting += [requirement.plugin for requirement in head.manifest.requirements]
        return self._housekeeping.plan_space(plan.needed.write_bytes, protected, self._now())

    def _resolve(
        self,
        generation: Generation,
        requests: Sequence[PluginRequirement],
        upgrade: Iterable[PluginName],
        named: Collection[PluginName],
    ) -> Mapping[PluginName, CatalogueEntry]:
        installed = {plugin: active.release for plugin, active in generation.active.items()}
        held = {plugin for plugin, active in generation.active.items() if active.held}
        failed = {plugin: active.failed for plugin, active in generation.active.items()}
        with self._trust.update([*self._store.plugins(), *named]) as update:
            keep_chains(self._store, update)

            def catalogue(plugin: PluginName) -> Catalogue:
                try:
                    return _passing_over(failed.get(plugin, ()), update.catalogue(plugin))
                except (NotFoundError, UntrustedError, InvalidInputError):
                    # A plugin that nobody asked about stays as it is, whatever its publisher did.
                    if plugin in named or plugin not in installed:
                        raise
                    with suppress(PluginManagerError):
                        catalogue = self._trust.local().catalogue(plugin)
                        return _passing_over(failed.get(plugin, ()), catalogue)
                    raise

            return resolver.resolve(
                requests,
                installed=installed,
                held=held,
                upgrade=set(upgrade),
                catalogue=catalogue,
                host=self._host,
                prefetch=update.prefetch,
            )

    def _resolve_here(
        self,
        generation: Generation,
        requests: Sequence[PluginRequirement],
        upgrade: Iterable[PluginName],
        _named: Collection[PluginName],
    ) -> Mapping[PluginName, CatalogueEntry]:
        """As `_resolve`, of what needs no network: installed, or fetched ahead."""
        vouching = self._trust.local()

        def is_here(release: Release) -> bool:
            with suppress(CorruptError, InvalidInputError, NotFoundError):
                active = Active(release, vouching.target(release).head_digest)
                head = self._store.head(active.digest)
                return self._store.has(active) or not self._needed(head).fetch_bytes
            return False

        def catalogue(plugin: PluginName) -> Catalogue:
            whole = vouching.catalogue(plugin)
            active = generation.active.get(plugin)
            here = [
                one
                for one in whole.entries
                if (active and one.release == active.release) or is_here(one.release)
            ]
            failed = active.failed if active else ()
            return _passing_over(failed, evolve(whole, entries=tuple(here)))

        active = generation.active
        return resolver.resolve(
            requests,
            installed={plugin: one.release for plugin, one in active.items()},
            held={plugin for plugin, one in active.items() if one.held},
            upgrade=set(upgrade),
            catalogue=catalogue,
            host=self._host,
        )

    def steps(
        self, vouching: Vouching, moves: Sequence[tuple[Release, Active | None]]
    ) -> list[Step]:
        """The steps to releases, each from what is active; heads not on this disk are fetched."""
        targets = [vouching.target(release) for release, _ in moves]
        heads: dict[Release, bytes] = {}
        for target in targets:
            with suppress(CorruptError):
                heads[target.release] = self._store.head_bytes(target.head_digest)
        missing = [target for target in targets if target.release not in heads]
        for target, data in zip(missing, self._fetch_heads(missing), strict=True):
            heads[target.release] = data
        return [
            self._step(vouching, target, heads[target.release], before)
            for target, (_, before) in zip(targets, moves, strict=True)
        ]

    def _step(
        self, vouching: Vouching, target: BundleTarget, data: bytes, before: Active | None
    ) -> Step:
        release = target.release
        head = vouching.vouch(release, data)
        after = Active(
            release,
            head.digest,
            pinned=bool(before and before.pinned),
            failed=newer(release.version, before.failed if before else ()),
        )
        if before and before.digest == after.digest:
            after = before
        return Step(release.plugin, before, after, head, head_bytes=data, bundle_path=target.path)

    def uninstall(self, plugins: Sequence[PluginName]) -> Plan:
        """What making `plugins` inactive would do; raises RefusedError where others need them."""
        generation = self._store.current()
        gone = {plugin: self._store.active(plugin) for plugin in plugins}
        for plugin, active in generation.active.items():
            if plugin in gone:
                continue
            with suppress(CorruptError, InvalidInputError):
                self._refuse_if_required(active, gone)
        steps = tuple(Step(plugin, active, None) for plugin, active in sorted(gone.items()))
        action = "uninstall " + ", ".join(str(plugin) for plugin in sorted(gone))
        undo = (
            "the files stay until the next change: "
            f"'pluginctl rollback --generation {generation.number}' undoes this one"
        )
        return Plan(action, generation.number, steps, (undo,))

    def _refuse_if_required(self, active: Active, gone: Mapping[PluginName, Active]) -> None:
        for requirement in self._store.head(active.digest).manifest.requirements:
            if requirement.plugin in gone:
                raise RefusedError(
                    f"{active.release} requires {requirement.plugin}",
                    remedy=f"Uninstall {active.release.plugin} as well.",
                )
