"""What the dashboard does and shows, apart from HTTP: for any thread.

A manager is not for several threads at once, so that each operation has one of its own. The queue
of jobs is one for all: what takes long is submitted to it, and worked at by this process, unless
the store has an agent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal

from attrs import evolve

from plugin_manager import __version__, agent
from plugin_manager import _values as values
from plugin_manager.dashboard._state import Known, cards, plugins_of, ways_to_free
from plugin_manager.errors import (
    BlockedError,
    LockedError,
    NetworkError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
    StoreAccessError,
)
from plugin_manager.manager import Activity, Inspection, Job, Plan, PluginManager, Report
from plugin_manager.model import Digest, PluginName, PluginRequirement, utc_text
from plugin_manager.store import Storage

__all__ = ["Service"]

_LOOK_AGAIN_SECONDS = 5.0  # other processes load, evict and scrub meanwhile
_OFFERED_AGAIN_SECONDS = 300.0  # what is signed expires, though nothing changes
_MOST_ACTIVITY = 100
_MOST_HISTORY = 200

Value = dict[str, Any]


class Service:
    """The operations and the model of one dashboard; `make_manager` makes a manager for a thread.

    `changed` is called, from any thread, after whatever may have changed what `look` gives.
    """

    def __init__(self, make_manager: Callable[[], PluginManager]) -> None:
        self._make_manager = make_manager
        self.changed: Callable[[], None] = lambda: None
        self._worker, self._reader = make_manager(), make_manager()
        self._settings = self._worker.settings
        self._is_working = False
        self._looking = threading.Lock()
        self._known = Known()
        self._sections: Value = {}
        self._model: tuple[object, Value] | None = None
        self._mark = self._find_mark()
        self._looked_at = float("-inf")
        self._offered_at = float("-inf")
        self._verifying = threading.Lock()
        self._checked: datetime | None = None
        self._record_faults: tuple[str, ...] = ()
        self._noting = threading.Lock()
        self._damaged: dict[Digest, Inspection] = {}
        self._heads: set[Digest] = set()
        self._repairs: set[Activity] = set()

    def close(self) -> None:
        """Stop working at jobs; what was under way is queued again."""
        self._worker.close()
        self._reader.close()

    def work(self) -> None:
        """Work at the queue where nobody else does; leave it to the agent where one runs."""
        has_agent = agent.status(self._settings.store).running
        if has_agent and self._is_working:
            self._worker.jobs.close()
        elif not has_agent:
            self._worker.jobs.work()
        self._is_working = not has_agent

    @contextmanager
    def _manager(self) -> Iterator[PluginManager]:
        """A manager for one operation, after which everything is looked at anew.

        Raises StoreAccessError where the store is gone: a new one would be begun in its place.
        """
        self._require_store()
        with self._make_manager() as manager:
            try:
                yield manager
            finally:
                self._looked_at = float("-inf")
                self.changed()

    # --- looking -------------------------------------------------------------------------------

    def look(self) -> Value:
        """The whole model of the page, by sections.

        What cannot be read is told among the `problems`, beside what can be.
        """
        with self._looking:
            if lost := self._find_loss():
                self._mark_as_lost(lost)
            else:
                self._read_store()
            queue = self._worker.jobs
            jobs: list[Job] = [] if lost else queue.all()
            paused = not lost and queue.paused
            damaged = dict(self._damaged)
            seen = (self._sections, self._known, jobs, paused, damaged, self.integrity())
            if self._model is None or self._model[0] != seen:
                known = evolve(self._known, jobs=jobs, damaged=damaged)
                model = {
                    **self._sections,
                    "plugins": cards(known),
                    "jobs": {"paused": paused, "jobs": [values.job_json(job) for job in jobs]},
                    "integrity": self.integrity(),
                }
                self._model = seen, model
            return self._model[1]

    def _read_store(self) -> None:
        """Read what changes seldom, where it may have changed."""
        now, mark = time.monotonic(), self._find_mark()
        same = mark == self._mark
        if same and now - self._looked_at < _LOOK_AGAIN_SECONDS:
            return
        has_offers = same and now - self._offered_at < _OFFERED_AGAIN_SECONDS
        self._mark, self._looked_at = mark, now
        problems: list[PluginManagerError] = []

        def read(question: Callable[[], Any], otherwise: Any) -> Any:
            try:
                return question()
            except PluginManagerError as error:
                if str(error) not in map(str, problems):  # one fault shows in many places
                    problems.append(error)
                return otherwise

        manager = self._reader
        storage = read(manager.storage, None)
        records = read(manager.history, [])
        evicted = read(manager.evicted, [])
        trials = read(manager.trials, {})
        activity = read(lambda: manager.activity(_MOST_ACTIVITY), [])
        offers = self._known.offers
        if not has_offers:
            before = len(problems)
            offers = read(manager.offers, offers)
            self._offered_at = now if len(problems) == before else float("-inf")
        self._known = Known(
            offers=offers,
            evicted={one.release.plugin for one in evicted},
            trials=trials,
            records=records,
        )
        self._forget(storage, activity)
        self._sections = self._made_sections(
            storage=storage and values.storage_json(storage),
            history=values.history_json(records[:_MOST_HISTORY]),
            agent=values.agent_json(agent.status(self._settings.store)),
            activity=[values.activity_json(one) for one in activity],
            problems=[values.error_json(error) for error in problems],
        )

    def _made_sections(self, **sections: Any) -> Value:
        store = {
            "directory": str(self._settings.store),
            "repository": self._settings.repository,
            "host_version": str(self._settings.host_version or "") or None,
            "program_version": __version__,
        }
        return {"store": store, **sections}

    def _find_loss(self) -> StoreAccessError | None:
        """What is wrong where the store, in which something was, holds nothing any more."""
        if not self._mark or self._find_mark():
            return None
        return StoreAccessError(
            f"the store {self._settings.store} is gone, or cannot be read",
            path=self._settings.store,
            remedy="Bring it back (mount its disk, restore its permissions), and this page goes on."
            " To begin with an empty one, start the dashboard again.",
        )

    def _require_store(self) -> None:
        if lost := self._find_loss():
            raise lost

    def _mark_as_lost(self, error: StoreAccessError) -> None:
        """Show that, and nothing else; look at everything anew once it is back."""
        if self._sections.get("problems") == [values.error_json(error)]:
            return
        self._known = Known()
        self._reader.close()
        self._reader = self._make_manager()
        self._looked_at = self._offered_at = float("-inf")
        self._sections = self._made_sections(
            storage=None,
            history=[],
            agent=values.agent_json(agent.status(self._settings.store)),
            activity=[],
            problems=[values.error_json(error)],
        )

    def _forget(self, storage: Storage | None, activity: Sequence[Activity]) -> None:
        """Drop what was found of releases that were mended or left since, by whomever."""
        heads = {offer.active.digest for offer in self._known.offers if offer.active}
        there = {one.digest for one in storage.residents} if storage else None
        with self._noting:
            repairs = _repairs(activity)
            mended = {one.plugin for one in repairs - self._repairs}
            left, self._heads, self._repairs = self._heads - heads, heads, repairs
            self._damaged = {
                head: one
                for head, one in self._damaged.items()
                if one.active.release.plugin not in mended
                and head not in left
                and (there is None or head in heads or head in there)
            }

    def _find_mark(self) -> Mapping[str, object]:
        """What is another after every change of what is active, or of the signed metadata.

        Empty where neither can be found.
        """
        found = {}
        for name in ("current", "trust/current"):
            with suppress(OSError):
                status = (self._settings.store / name).stat()
                found[name] = status.st_ino, status.st_size, status.st_mtime_ns
        return found

    def integrity(self) -> Value:
        """What was found when it was last verified here."""
        damaged = sorted(self._damaged.values(), key=lambda one: str(one.active.release))
        return {
            "verifying": self._verifying.locked(),
            "checked": utc_text(self._checked) if self._checked else None,
            "good": None if self._checked is None else not (damaged or self._record_faults),
            "records": list(self._record_faults),
            "damaged": [values.inspection_json(one) for one in damaged],
        }

    def plugins(self) -> list[Value]:
        """The active plugins, as `pluginctl list --json` tells them."""
        with self._make_manager() as manager:
            return values.list_json(manager)

    def offers(self) -> list[Value]:
        """What there is to have, as `pluginctl search --json` tells it."""
        with self._make_manager() as manager:
            return [values.offer_json(offer) for offer in manager.offers()]

    def plugin(self, name: str) -> Value:
        """A plugin, as `pluginctl show --json` tells it."""
        with self._make_manager() as manager:
            return values.show_json(manager, name)

    def storage(self) -> Value:
        """What takes the room, as `pluginctl storage --json` tells it."""
        with self._make_manager() as manager:
            return values.storage_json(manager.storage())

    def history(self) -> list[Value]:
        """The generations, as `pluginctl history --json` tells them."""
        with self._make_manager() as manager:
            return values.history_json(manager.history())

    def jobs(self) -> Value:
        """The jobs, as `pluginctl jobs --json` tells them."""
        jobs = self._worker.jobs
        return {"paused": jobs.paused, "jobs": [values.job_json(job) for job in jobs.all()]}

    def agent(self) -> Value:
        """The store's agent, as `pluginctl agent status --json` tells it."""
        return values.agent_json(agent.status(self._settings.store))

    def activity(self) -> list[Value]:
        """What happened lately, the newest first."""
        with self._make_manager() as manager:
            found = manager.activity(_MOST_ACTIVITY)
            return [values.activity_json(one) for one in found]

    def room(self, job: str) -> Value:
        """What a job lacks room for, and what a person could let go for it."""
        wanted = self._worker.jobs.get(job)
        with self._make_manager() as manager:
            space = _plan(manager, wanted.action, wanted.requests).space
            # What jobs have fetched, this one among them, is kept for them, and not on offer.
            unfinished = sum(
                one.size_bytes
                for one in manager.plan_cleanup(unfinished=True).garbage
                if one.kind in {"download", "unfinished"}
            )
            ways = ways_to_free(manager.storage(), unfinished, plugins_of(wanted))
        return {"space": values.space_json(space) if space else None, "ways": ways}

    # --- jobs ------------------------------------------------------------------------------------

    def submit(
        self, action: Literal["install", "upgrade"], requests: Sequence[str], *, dry_run: bool
    ) -> Value:
        """Install or upgrade in the background; or plan it. Raises NotFoundError at once."""
        with self._manager() as manager:
            if dry_run:
                return {"plan": values.plan_json(_plan(manager, action, requests), dry_run=True)}
            _require_known(manager, action, requests)
        job = self._worker.jobs.submit(*requests, action=action)
        self.changed()
        return {"jobs": [values.job_json(job)]}

    def steer(self, verb: str, job: str | None) -> Value:
        """Pause, resume, cancel or forget a job; or pause and resume (None) all.

        Raises StoreAccessError where the store is gone.
        """
        self._require_store()
        jobs = self._worker.jobs
        try:
            if verb == "forget" and job:
                jobs.forget(job)
                return {"jobs": [], "all": False}
            if verb == "pause":
                jobs.pause(job)
            elif verb == "resume":
                jobs.resume(job)
            elif job:
                jobs.cancel(job)
            after = [values.job_json(jobs.get(job))] if job else []
            return {"jobs": after, "all": job is None}
        finally:
            self.changed()

    # --- changes ---------------------------------------------------------------------------------

    def change(
        self,
        plan: Callable[[PluginManager], Plan],
        carry_out: Callable[[PluginManager], Plan],
        *,
        dry_run: bool,
    ) -> Value:
        """Carry out a short change; or plan it."""
        with self._manager() as manager:
            return values.plan_json((plan if dry_run else carry_out)(manager), dry_run=dry_run)

    def cleanup(self, *, unfinished: bool, dry_run: bool) -> Value:
        """Remove what nobody needs any more."""
        with self._manager() as manager:
            act = manager.plan_cleanup if dry_run else manager.cleanup
            return values.cleanup_json(act(unfinished=unfinished), dry_run=dry_run)

    def evict(self, size_bytes: int, *, dry_run: bool) -> Value:
        """Free at least so much."""
        with self._manager() as manager:
            act = manager.plan_evict if dry_run else manager.evict
            return values.cleanup_json(act(size_bytes), dry_run=dry_run)

    def confirm(self, name: str) -> Value:
        """Say that what was upgraded to works."""
        with self._manager() as manager:
            return {"plugin": name, "confirmed": manager.confirm(name)}

    def update(self, names: Sequence[str]) -> Value:
        """Bring fresh signed metadata."""
        with self._manager() as manager:
            manager.update(*names)
        return {"updated": True}

    def verify(self, names: Sequence[str]) -> Value:
        """Verify every byte of active plugins; raises RefusedError where that goes on already."""
        with self._inspecting() as manager:
            report = manager.verify(*names)
            self._note(manager, report, names)
        return values.report_json(report)

    def repair(self, names: Sequence[str], *, dry_run: bool) -> Value:
        """Mend what is damaged, and verify that it is."""
        with self._inspecting() as manager:
            found = manager.verify(*names) if dry_run else manager.repair(*names)
            self._note(manager, found if dry_run else manager.verify(*names), names)
        return {"dry_run": dry_run, "found": values.report_json(found)}

    @contextmanager
    def _inspecting(self) -> Iterator[PluginManager]:
        if not self._verifying.acquire(blocking=False):
            raise RefusedError(
                "it is being verified already", remedy="Wait until that is done, then try again."
            )
        try:
            self.changed()
            with self._manager() as manager:
                yield manager
        finally:
            self._verifying.release()
            self.changed()

    def _note(self, manager: PluginManager, report: Report, names: Sequence[str]) -> None:
        """Keep what was found of those that were looked at."""
        found = {one.active.digest: one for one in report.releases if _is_damaged(one)}
        repairs = _repairs(manager.activity(_MOST_ACTIVITY))
        with self._noting:
            self._repairs |= repairs  # before this was found
            if names:
                looked_at = set(map(PluginName.parse, names))
                kept = {
                    head: one
                    for head, one in self._damaged.items()
                    if one.active.release.plugin not in looked_at
                }
                self._damaged = kept | found
            else:
                self._damaged, self._record_faults = found, report.records
                self._checked = datetime.now(UTC)


def _plan(manager: PluginManager, action: str, requests: Sequence[str]) -> Plan:
    act = manager.plan_install if action == "install" else manager.plan_upgrade
    return act(*requests)


def _require_known(manager: PluginManager, action: str, requests: Sequence[str]) -> None:
    """Raise NotFoundError for what no job could work at, as far as that can be known now."""
    if action == "upgrade":
        installed = {one.release.plugin for one in manager.installed()}
        for plugin in map(PluginName.parse, requests):
            if plugin not in installed:
                raise NotFoundError(
                    f"{plugin} is not installed", remedy="Install it, or upgrade what is."
                )
        return
    unknown: list[PluginName] = []
    for plugin in [PluginRequirement.parse(request).plugin for request in requests]:
        try:
            manager.info(plugin)
        except NotFoundError:
            unknown.append(plugin)
    if unknown:
        with suppress(NetworkError, LockedError):  # a job waits for both
            manager.update(*unknown)


def _repairs(activity: Sequence[Activity]) -> set[Activity]:
    return {one for one in activity if one.kind == "repaired"}


def _is_damaged(found: Inspection) -> bool:
    """Whether it is not as it was signed: what is blocked may be, and is told of as blocked."""
    return bool(found.damaged) or not (found.good or isinstance(found.error, BlockedError))
