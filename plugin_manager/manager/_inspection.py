"""Verifying what is active, and mending it with just what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime

from attrs import evolve

from plugin_manager.bundle import Head
from plugin_manager.errors import (
    CorruptError,
    EvictedError,
    InvalidInputError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
    UntrustedError,
)
from plugin_manager.manager._planner import keep_chains, vouched
from plugin_manager.manager._report import Inspection, Report
from plugin_manager.manifest import File
from plugin_manager.model import Digest, PluginName
from plugin_manager.store import Active, Damage, Staging, Store
from plugin_manager.trust import BundleTarget, Trust, Vouching

__all__ = ["Inspector"]


class Inspector:
    """Verifies and repairs one store. Repairing is for the holder of the writer's lock.

    `assemble(head, files, bundle_path)` gives complete staged files, fetching what is missing.
    """

    def __init__(
        self,
        store: Store,
        trust: Trust,
        tag: str,
        *,
        fetch_heads: Callable[[Sequence[BundleTarget]], list[bytes]],
        assemble: Callable[[Head, Sequence[File], str], Staging],
        require_source: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._trust = trust
        self._tag = tag
        self._fetch_heads = fetch_heads
        self._assemble = assemble
        self._require_source = require_source
        self._now = now

    def verify(self, plugins: Sequence[PluginName], *, every_release: bool) -> Report:
        """What is wrong with `plugins`; where there are none: with all, and the store's records.

        Of each plugin the active release, and those earlier ones on disk that are damaged; with
        `every_release` all that are on disk.
        """
        try:
            chosen = self._chosen(plugins)
            records = [] if plugins else self._store.damaged_generations()
        except CorruptError as error:
            return Report(records=(error.message,))
        sentences = [f"{record} is damaged" for record in records]
        others: list[Active] = []
        if every_release:
            others, lost = self._others(chosen, plugins)
            sentences += lost
        if not chosen and not others:
            return Report(tuple(sentences))
        try:
            vouching = self._trust.local()
        except (CorruptError, UntrustedError, NotFoundError) as error:
            releases = [Inspection(active, error=error) for active in (*chosen, *others)]
        else:
            releases = []
            for active in chosen:
                releases.append(self._inspect(vouching, active))
                for earlier in () if every_release else self._store.earlier(active):
                    found = self._inspect(vouching, earlier)
                    releases += [] if found.good or _is_refused(found) else [found]
            found_others = [self._inspect(vouching, active) for active in others]
            releases += [found for found in found_others if not _is_refused(found)]
        return Report(tuple(sentences), tuple(releases))

    def scrub(self, pace: Callable[[int], None], done: Collection[Digest]) -> Iterator[Inspection]:
        """Inspect all that is on disk but `done`, the active releases first; as slow as `pace`."""
        chosen = self._chosen(())
        others, _ = self._others(chosen, ())
        if not chosen and not others:
            return
        vouching = self._trust.local()
        for active in (*chosen, *others):
            if active.digest not in done:
                found = self._inspect(vouching, active, pace)
                if active in chosen or not _is_refused(found):
                    yield found

    def _others(
        self, chosen: Sequence[Active], plugins: Sequence[PluginName]
    ) -> tuple[list[Active], list[str]]:
        """The releases on disk besides `chosen`; and of those without a manifest, what is wrong."""
        known, found, lost = {active.digest for active in chosen}, [], []
        for place in self._store.places():
            if place.digest in known or (plugins and place.plugin not in plugins):
                continue
            name = f"releases/{place.plugin}/{place.name}"
            if place.digest is None:
                lost.append(f"{name}: no manifest tells what it holds ('pluginctl gc' removes it)")
                continue
            try:
                release = self._store.head(place.digest).manifest.release
            except (CorruptError, InvalidInputError) as error:
                lost.append(f"{name}: {error.message}")
            else:
                found.append(Active(release, place.digest))
        return sorted(found, key=lambda active: active.release), lost

    def _inspect(
        self, vouching: Vouching, active: Active, pace: Callable[[int], None] | None = None
    ) -> Inspection:
        try:
            manifest = vouched(self._store, vouching, active).manifest
            with self._store.lease(active):
                if pace:
                    faults = self._store.faults_slowly(active, manifest, self._tag, pace)
                else:
                    faults = self._store.faults(active, manifest, self._tag)
        except PluginManagerError as error:
            return Inspection(active, error=error)
        return Inspection(active, tuple(faults))

    def _chosen(self, plugins: Sequence[PluginName]) -> list[Active]:
        if plugins:
            return [self._store.active(plugin) for plugin in plugins]
        # Read once: another process may uninstall one of them meanwhile.
        return [active for _, active in sorted(self._store.current().active.items())]

    def _repair_records(self) -> list[str]:
        """Mend the store's records; returns sentences about what was damaged."""
        records = []
        try:
            self._store.current()
        except CorruptError as error:
            records.append(error.message)
            self._store.recover_current(self._now())
        damaged = self._store.mend_generations()
        return records + [f"{record} is damaged" for record in damaged]

    def repair(self, plugins: Sequence[PluginName]) -> Report:
        """Mend `plugins` (none: all), their earlier releases that are on disk, and the records.

        Those named are fetched where they were evicted. Returns what was found.
        """
        sentences = self._repair_records()
        chosen = self._chosen(plugins)
        if not chosen:
            return Report(tuple(sentences))
        try:
            vouching = self._trust.local()
            for active in chosen:
                vouching.target(active.release)
                vouching.catalogue(active.release.plugin)
        except (CorruptError, UntrustedError, NotFoundError) as error:
            sentences.append(error.message)
            vouching = self._refetch_metadata()
        releases = []
        for active in chosen:
            releases.append(self._repair(vouching, active, fetch=bool(plugins)))
            for earlier in self._store.earlier(active):
                # One that is blocked or no longer listed is of no use to a rollback.
                with suppress(UntrustedError, RefusedError):
                    found = self._repair(vouching, earlier)
                    releases += [] if found.good else [found]
        return Report(tuple(sentences), tuple(releases))

    def _refetch_metadata(self) -> Vouching:
        self._require_source()
        with self._trust.update(self._store.plugins()) as update:
            keep_chains(self._store, update)
        return self._trust.local()

    def _repair(self, vouching: Vouching, active: Active, *, fetch: bool = False) -> Inspection:
        """Mend a release; `fetch`: also one that was evicted."""
        found = self._inspect(vouching, active)
        if found.good and not (found.evicted and fetch):
            return found
        target = vouching.target(active.release)
        if isinstance(found.error, CorruptError):
            self._store.keep_heads(self._fetch_heads([target]))
        head = vouched(self._store, vouching, active)
        if isinstance(found.error, EvictedError) or not self._store.has(active):
            files = head.manifest.files_for(self._tag)
            self._store.place([self._assemble(head, files, target.path)])
            return found
        faults = self._store.faults(active, head.manifest, self._tag)
        damaged = {fault.path for fault in faults if fault.damage is not Damage.FOREIGN}
        files = [file for file in head.manifest.files if file.path in damaged]
        if files:
            self._store.replace(self._assemble(head, files, target.path))
        return evolve(found, faults=tuple(faults))


def _is_refused(found: Inspection) -> bool:
    """Whether no load or rollback would take it, damaged or not: blocked, or no longer listed."""
    return isinstance(found.error, UntrustedError | RefusedError)
