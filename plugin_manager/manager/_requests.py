"""What is asked for, to be installed, upgraded or fetched: planned, done at once, or as a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

from plugin_manager.manager._job import ResumeStatus
from plugin_manager.manager._jobs import Jobs
from plugin_manager.manager._listeners import Hooks, Telling
from plugin_manager.manager._parts import Parts
from plugin_manager.manager._plan import Plan, brings_only
from plugin_manager.model import Digest, PluginName, PluginRequirement
from plugin_manager.store import Wish

__all__ = ["Requests"]


class Requests:
    """Requests to the repository of `parts`; `metered` says whether the connection is.

    What is done at once is on record while it lasts, so that others see it and can stop it.
    """

    def __init__(self, parts: Parts, metered: Callable[[], bool]) -> None:
        self._parts = parts
        self._metered = metered

    def plan_install(self, wanted: Sequence[PluginRequirement]) -> Plan:
        """What `install` would do; keeps fresh metadata."""
        self._parts.require_source()
        with self._parts.writing():
            return self._parts.planner.install(wanted)

    def plan_upgrade(self, plugins: Sequence[PluginName], *, offline: bool) -> Plan:
        """What `upgrade` would do; keeps fresh metadata."""
        for plugin in plugins:
            self._parts.store.active(plugin)  # what is not there must not make a store
        self._parts.require_source()
        with self._parts.writing():
            return _upgrade(self._parts, plugins, offline=offline)

    def install(self, wanted: Sequence[PluginRequirement], *, ahead: bool = False) -> Plan:
        """Meet the requests `wanted`; `ahead`: only fetch what that takes."""
        action = "fetch" if ahead else "install"
        return self._carry_out(action, wanted, lambda: self._parts.planner.install(wanted))

    def upgrade(self, plugins: Sequence[PluginName], *, offline: bool) -> Plan:
        """Move `plugins` (none: all) to their newest; `offline`: of what is on this disk."""
        planned = partial(_upgrade, self._parts, plugins, offline=offline)
        return self._carry_out("upgrade", plugins, planned)

    def _carry_out(
        self,
        action: str,
        requests: Sequence[PluginRequirement | PluginName],
        planned: Callable[[], Plan],
    ) -> Plan:
        self._parts.require_source()
        with self.jobs.on_record(action, requests, self._parts.control) as follower:
            changes = self._parts.changes
            return changes.carry_out(planned, follower, ahead=action == "fetch")[0]

    @cached_property
    def jobs(self) -> Jobs:
        """Those that are met in the background."""
        parts = self._parts
        return Jobs(
            parts.settings,
            run=self._run,
            discard=parts.store.discard_staging,
            resume_status=self._resume_status,
            limit=self._limit,
            now=parts.now,
            metered=self._metered,
        )

    def close(self) -> None:
        """Stop working at jobs; what was under way is queued again."""
        if "jobs" in self.__dict__:
            self.jobs.close()

    def _run(self, wish: Wish, hooks: Hooks) -> None:
        """Do what a job wants; in a thread of its own, so with parts of its own."""
        parts = self._parts.another(
            Telling(waiting=hooks.waiting, retrying=hooks.retrying),
            transfer=self._parts.remote.transfer,
            control=hooks.control,
        )
        parts.require_source()

        def planned() -> Plan:
            if wish.action == "upgrade":
                plugins = [PluginName.parse(name) for name in wish.requests]
                plan = _upgrade(parts, plugins, offline=False)
            else:
                wanted = [PluginRequirement.parse(request) for request in wish.requests]
                plan = parts.planner.install(wanted)
            return brings_only(plan, wish.only)

        parts.changes.carry_out(planned, hooks, ahead=wish.action == "fetch")

    def _limit(self, bytes_per_second: int | None) -> None:
        self._parts.remote.transfer.limit.bytes_per_second = bytes_per_second

    def _resume_status(self, digest: Digest) -> ResumeStatus:
        from plugin_manager.manager._resume import resume_status  # noqa: PLC0415 - listing does without

        parts = self._parts
        return resume_status(parts.store, parts.trust, parts.host.bytecode_tag, digest)


def _upgrade(parts: Parts, plugins: Sequence[PluginName], *, offline: bool) -> Plan:
    chosen = [parts.store.active(plugin).release.plugin for plugin in plugins]
    everything = sorted(parts.store.current().active)
    return parts.planner.upgrade(chosen or everything, named=bool(chosen), offline=offline)
