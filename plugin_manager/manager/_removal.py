"""Making room on request: evicting, deleting, and collecting what nobody needs any more."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime

from attrs import evolve
from packaging.version import Version

from plugin_manager.durable import disk_errors
from plugin_manager.errors import (
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
)
from plugin_manager.manager._plan import Cleanup
from plugin_manager.model import PluginName, size_text
from plugin_manager.store import Garbage, Housekeeping, Resident, Store, disk_bytes

__all__ = ["Removal"]

_log = logging.getLogger("plugin_manager")


class Removal:
    """Removes from one store what is asked for, as PluginManager describes.

    `writing` gives the store's lock; `note(kind, plugin, text)` has what was evicted on record.
    """

    def __init__(
        self,
        store: Store,
        housekeeping: Housekeeping,
        writing: Callable[[], AbstractContextManager[None]],
        note: Callable[[str, PluginName | None, str], None],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._housekeeping = housekeeping
        self._writing = writing
        self._note = note
        self._now = now

    def plan_evict(self, wanted_bytes: int) -> Cleanup:
        """What would go first to free `wanted_bytes`; raises NoSpaceError."""
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
        """Free at least `wanted_bytes`, or nothing."""
        gone: list[Resident] = []
        with self._writing():
            before, freed, left = self._release_bytes(), 0, wanted_bytes
            while chosen := self.plan_evict(left).evicted:
                gone += self._housekeeping.evict(chosen)
                freed = before - self._release_bytes()
                left = max(wanted_bytes - freed, 0)
        for one in gone:
            self._note("evicted", one.release.plugin, f"{one.release} was asked to go")
        return Cleanup(evicted=tuple(gone), freed_bytes=freed)

    def _release_bytes(self) -> int:
        return self._housekeeping.storage(self._now()).release_bytes

    def plan_cleanup(self, *, unfinished: bool) -> Cleanup:
        """What `cleanup` would remove."""
        garbage, over = self._housekeeping.plan_cleanup(self._now(), unfinished=unfinished)
        garbage += self._trust_garbage()
        freed = sum(one.size_bytes for one in garbage) + over.freed_bytes
        return Cleanup(tuple(garbage), over.evict, freed, over.missing_bytes)

    def cleanup(self, *, unfinished: bool) -> Cleanup:
        """Remove garbage, and evict what is over the limits."""
        with self._writing():
            now = self._now()
            garbage = self._collect(now, unfinished=unfinished)
            over = self._housekeeping.plan_limits(now)
            evicted = self._housekeeping.evict(over.evict)
        for one in evicted:
            self._note("evicted", one.release.plugin, f"{one.release} was over the limits")
        freed = sum(one.size_bytes for one in garbage) + over.freed_bytes
        return Cleanup(tuple(garbage), tuple(evicted), freed, over.missing_bytes)

    def _collect(self, now: datetime, *, unfinished: bool = False) -> list[Garbage]:
        garbage = self._housekeeping.collect(now, unfinished=unfinished)
        return garbage + self._trust_garbage(collect=True)

    def _trust_garbage(self, *, collect: bool = False) -> list[Garbage]:
        from plugin_manager import trust  # noqa: PLC0415 - evicting does without

        directory, top = self._store.trust_directory, self._store.directory
        with disk_errors(top):
            found = [
                Garbage("metadata", path.relative_to(top).as_posix(), disk_bytes(path))
                for path in trust.garbage(directory)
            ]
        if collect:
            trust.collect(directory)
        return found

    def tidy(self) -> None:
        """Collect garbage after a change, which has succeeded whatever comes of this."""
        try:
            self._collect(self._now())
        except (PluginManagerError, OSError) as error:
            _log.warning("garbage was not collected: %s", error)

    def plan_delete(self, plugin: PluginName, version: Version | None) -> Cleanup:
        """What `delete` would remove; raises as it does."""
        active = self._store.current().active.get(plugin)
        residents = self._housekeeping.storage(self._now()).residents
        here = [one for one in residents if one.release.plugin == plugin]
        if version is not None:
            chosen = [one for one in here if one.release.version == version]
        else:
            chosen = [one for one in here if active is None or one.digest != active.digest]
        if not chosen:
            what = f"{plugin} {version}" if version else f"release of {plugin} that is not active"
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

    def delete(self, plugin: PluginName, version: Version | None) -> Cleanup:
        """Remove releases that are not active: `version`, or else all.

        Raises NotFoundError where there is none, RefusedError where it is active or loaded.
        """
        with self._writing():
            plan = self.plan_delete(plugin, version)
            gone = self._housekeeping.evict(plan.evicted)
            self.tidy()
        return evolve(plan, evicted=tuple(gone))
