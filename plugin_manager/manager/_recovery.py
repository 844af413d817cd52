"""What does not work: mended where it is damaged, gone back from where it failed on trial."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import evolve

from plugin_manager.errors import CorruptError, EvictedError, PluginManagerError, RefusedError
from plugin_manager.manager._events import Trial
from plugin_manager.manager._parts import Parts
from plugin_manager.manager._plan import Plan
from plugin_manager.model import PluginName
from plugin_manager.store import Active, Lease

if TYPE_CHECKING:
    from plugin_manager.manager._report import Report

__all__ = ["Recovery"]

_HEAL_SECONDS = 30.0  # for how long a load waits for a writer at most
_HEAL_ATTEMPTS = 2

_log = logging.getLogger("plugin_manager")


class Recovery:
    """Looks after what is on trial, and mends what is damaged, in the store of `parts`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # --- trials --------------------------------------------------------------------------------

    def trials(self) -> Mapping[PluginName, Trial]:
        """The active releases that are on trial, by plugin."""
        store, trials = self._parts.store, self._parts.trials
        of = self._parts.settings.trial_attempts
        on_trial = set(trials.digests()) if of else set()
        found = {}
        for plugin, active in sorted(store.current().active.items()) if on_trial else ():
            attempts = trials.failed(active.digest) if active.digest in on_trial else None
            if attempts is not None:
                release = active.release
                past = (one.release for one in store.past(plugin))
                previous = next((one for one in past if one.version < release.version), None)
                found[plugin] = Trial(release, previous, attempts, of)
        return found

    def confirm(self, plugin: PluginName) -> bool:
        """Say that a plugin's active release works; returns whether it was on trial."""
        active = self._parts.store.active(plugin)
        if not self._parts.trials.end(active.digest):
            return False
        release = active.release
        self._parts.events("confirmed", plugin, release, text=f"{release} works")
        return True

    def go_back(self, failed: Active, attempts: int) -> None:
        """Activate the release before `failed`, unless that is active no longer, or not on trial.

        Raises RefusedError where that cannot be.
        """
        plugin, of = failed.release.plugin, self._parts.settings.trial_attempts
        what = f"{failed.release} failed on trial ({attempts} of {of} attempts)"
        healer = self._healer()

        def planned() -> Plan:
            generation = healer.store.current()
            active = generation.active.get(plugin)
            if active and active.digest == failed.digest:
                now = healer.trials.failed(active.digest)
                if now is not None and now >= of:
                    return healer.rollbacks.of_failed(plugin)
            return Plan("", generation.number)  # another process was here before

        try:
            plan, _ = healer.changes.carry_out(planned)
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
                self._parts.events("rolled-back", step.plugin, step.after.release, text=text)

    # --- damage --------------------------------------------------------------------------------

    def repair(self, plugins: Sequence[PluginName]) -> Report:
        """Mend `plugins` (none: all, and the store's own records); returns what was found."""
        parts = self._parts

        def repair() -> Report:
            with parts.writing():
                return parts.inspector.repair(plugins)

        report = parts.changes.patiently(repair)
        for one in report.releases:
            if not one.good:
                parts.note("repaired", one.active.release.plugin, str(one.active.release))
        return report

    def heal(self, plugin: PluginName, error: PluginManagerError) -> Lease | None:
        """Mend what a load met, as far as this host lets it, and lease it; None where not."""
        if not self._may_heal(error):
            return None
        with suppress(CorruptError):  # that may be what is to be mended
            if plugin not in self._parts.store.current().active:
                return None  # a system store is its owner's to mend
        _log.warning("%s: %s", plugin, error.message)
        healer = self._healer()

        def bring_back() -> Lease:
            with healer.writing():
                healer.inspector.repair([plugin])
                return healer.store.lease(healer.store.active(plugin))

        try:
            lease = healer.changes.patiently(bring_back)
        except PluginManagerError as failure:
            _log.warning("%s could not be brought back: %s", plugin, failure)
            return None
        what = "fetched again" if isinstance(error, EvictedError) else "repaired"
        _log.warning("%s was %s", plugin, what)
        release = healer.store.active(plugin).release
        self._parts.events("repaired", plugin, release, text=f"{release} was {what}")
        return lease

    def _may_heal(self, error: PluginManagerError) -> bool:
        settings = self._parts.settings
        if isinstance(error, EvictedError):
            return bool(settings.repository)
        return isinstance(error, CorruptError) and settings.on_corruption == "repair"

    def _healer(self) -> Parts:
        """Parts that mend what a load met; whoever waits for the load waits not for ever."""
        from plugin_manager.manager._remote import new_transfer  # noqa: PLC0415

        parts, settings = self._parts, self._parts.settings
        timeout = settings.lock_timeout_seconds
        return parts.another(
            parts.listener,
            settings=evolve(
                settings, lock_timeout_seconds=_HEAL_SECONDS if timeout < 0 else timeout
            ),
            # Somebody waits for the load: where nobody answers, that is soon said.
            transfer=parts.shared_transfer or new_transfer(settings, attempts=_HEAL_ATTEMPTS),
        )
