"""Working out what going back would do: of a plugin, or of a whole generation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from attrs import evolve
from packaging.version import Version

from plugin_manager import resolver
from plugin_manager.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    PluginManagerError,
)
from plugin_manager.manager._plan import Plan, Step
from plugin_manager.manager._planner import Planner, newer, vouched
from plugin_manager.manifest import Manifest
from plugin_manager.model import Host, PluginName
from plugin_manager.store import Active, Generation, Store
from plugin_manager.trust import Trust, Vouching

__all__ = ["Rollbacks"]


class Rollbacks:
    """Plans to make earlier releases active again, which must be vouched for and fit.

    They neither write nor use the network, but for the heads of what is not on this disk any more.
    """

    def __init__(self, store: Store, trust: Trust, host: Host, planner: Planner) -> None:
        self._store = store
        self._trust = trust
        self._host = host
        self._planner = planner

    def of_plugin(self, plugin: PluginName, to: Version | None) -> Plan:
        """What going back to version `to`, or else to the one before, would do; offline."""
        generation, before = self._store.current(), self._store.active(plugin)
        target = self._earlier(plugin, before, to)
        failed = newer(target.release.version, before.failed)
        target = evolve(target, held=True, pinned=before.pinned, failed=failed)
        action = f"rollback {plugin} {before.release.version} -> {target.release.version}"
        plan = self._return(action, generation, {plugin: target})
        held = (
            f"{plugin} is held at {target.release.version}: upgrades leave it alone until "
            f"'pluginctl unhold {plugin}'"
        )
        return evolve(plan, notes=(*plan.notes, held))

    def of_failed(self, plugin: PluginName) -> Plan:
        """What going back from a release that failed on trial would do; offline, if it is on disk.

        Upgrades pass its version over from then on; what is newer comes. Where others that came
        with it cannot do without it, they go back as well. Raises as `of_plugin` does.
        """
        generation, before = self._store.current(), self._store.active(plugin)
        earlier = self._earlier(plugin, before, None)
        # Also what failed before it: that stands with the release that was gone back to then.
        version = earlier.release.version
        failed = newer(version, earlier.failed, before.failed, [before.release.version])
        target = evolve(earlier, held=before.held, pinned=before.pinned, failed=failed)
        action = f"rollback {plugin} {before.release.version} -> {version}, as it failed on trial"
        try:
            plan = self._return(action, generation, {plugin: target})
        except ConflictError:
            together = self._came_with(generation, before)
            if not together:
                raise
            plan = self._return(action, generation, {**together, plugin: target})
        passed = (
            f"upgrades pass over {before.release} until 'pluginctl unhold {plugin}', and take what "
            "is newer"
        )
        return evolve(plan, notes=(*plan.notes, passed), trial="keep")

    def _came_with(self, generation: Generation, active: Active) -> dict[PluginName, Active | None]:
        """What was active before of all other plugins that changed together with `active`."""
        for record in self._store.history():
            changes = {change.plugin: change for change in record.changes}
            mine = changes.pop(active.release.plugin, None)
            if mine is None or mine.after is None or mine.after.digest != active.digest:
                continue
            now = {plugin: generation.active.get(plugin) for plugin in changes}
            return {
                plugin: evolve(
                    change.before, held=there.held, pinned=there.pinned, failed=there.failed
                )
                for plugin, change in changes.items()
                if change.before and change.after and (there := now[plugin])
                if there.digest == change.after.digest
            }
        return {}

    def of_all(self, number: int) -> Plan:
        """What going back to all that generation `number` had active would do; offline.

        What goes back to an older version is held there. Pins and other holds stay as they are.
        """
        generation, target = self._store.current(), self._store.generation(number)
        changes: dict[PluginName, Active | None] = {}
        for plugin in sorted({*generation.active, *target.active}):
            before, after = generation.active.get(plugin), target.active.get(plugin)
            if before and after:
                # Which plugins are pinned or held is today's wish, not that of then.
                back = after.release.version < before.release.version
                after = evolve(
                    after,
                    held=before.held or back,
                    pinned=before.pinned,
                    failed=newer(after.release.version, before.failed),
                )
            if before != after:
                changes[plugin] = after
        held = tuple(
            f"{plugin} is held at {after.release.version}: 'pluginctl unhold {plugin}' lifts it"
            for plugin, after in changes.items()
            if after and after.held and plugin in generation.active
            if not generation.active[plugin].held
        )
        plan = self._return(f"rollback to generation {number}", generation, changes)
        return evolve(plan, notes=(*plan.notes, *held))

    def _return(
        self, action: str, generation: Generation, changes: Mapping[PluginName, Active | None]
    ) -> Plan:
        """What making earlier releases active again would do, `changes` being vouched for here."""
        vouching = self._trust.local()
        after: dict[PluginName, resolver.Described] = {
            other: described
            for other, active in generation.active.items()
            if other not in changes and (described := self._described(vouching, active))
        }
        steps, notes = [], []
        for plugin, target in changes.items():
            before = generation.active.get(plugin)
            if target is None:
                steps.append(Step(plugin, before, None))
                continue
            head = vouched(self._store, vouching, target)
            after[plugin] = head.manifest
            entry = vouching.catalogue(plugin).entry(target.release)
            if entry and entry.yanked and entry.withdrawal:
                notes.append(f"{target.release} was yanked: {entry.withdrawal.reason}")
            if self._store.has(target):
                self._require_visible(target, head.manifest)
                steps.append(Step(plugin, before, target, head))
            else:
                notes.append(f"{target.release} is not on this disk any more and is fetched")
                [step] = self._planner.steps(vouching, [(target.release, before)])
                steps.append(evolve(step, after=target))
        resolver.check(after, self._host, concerning=set(changes))
        plan = Plan(action, generation.number, tuple(steps), tuple(notes), trial="end")
        return self._planner.fitted(plan)

    def _described(self, vouching: Vouching, active: Active) -> resolver.Described | None:
        """What an active release requires; None where its damaged files do not tell.

        One plugin's damage must not keep another from being rolled back.
        """
        with suppress(CorruptError, InvalidInputError):
            return self._store.head(active.digest).manifest
        with suppress(PluginManagerError):
            return vouching.catalogue(active.release.plugin).entry(active.release)
        return None

    def _earlier(self, plugin: PluginName, before: Active, to: Version | None) -> Active:
        if to is None:
            certain = self._store.past(plugin, certain=True)
            found = [one for one in certain if one.release.version < before.release.version]
            if found:
                return found[0]
        damaged = self._store.damaged_generations()
        if damaged and to is None:
            raise CorruptError(
                f"{damaged[0]} is damaged, so what was active before is not certain",
                paths=tuple(damaged),
                remedy="Run 'pluginctl repair', which goes on without it.",
            )
        past = list(
            {
                one.digest: Active(one.release, one.digest)
                for one in (*self._store.past(plugin), *self._store.earlier(before))
            }.values()
        )
        if to is not None:
            found = [active for active in past if active.release.version == to]
        else:
            found = [a for a in past if a.release.version < before.release.version]
        if not found:
            known = sorted({a.release.version for a in past} - {before.release.version})
            has = f"It has had {', '.join(map(str, known))}." if known else ""
            first = f"After 'pluginctl unhold {plugin}', " if before.held else ""
            which = f"version {to}" if to else f"release before {before.release.version}"
            raise NotFoundError(
                f"{plugin} has no {which} in this store",
                remedy=f"{has} {first}'pluginctl install {plugin}==VERSION' brings one.".strip(),
            )
        return found[0]

    def _require_visible(self, active: Active, manifest: Manifest) -> None:
        # What only hashing finds, the next load finds: going back takes no time, however large.
        faults = self._store.visible_faults(active, manifest, self._host.bytecode_tag)
        if faults:
            raise CorruptError(
                f"{active.release}: {', '.join(str(fault) for fault in faults[:5])}",
                paths=tuple(fault.path for fault in faults),
                remedy=f"Run 'pluginctl repair {manifest.release.plugin}'.",
            )
