"""The agent: works at the queue of a store, and looks after what is installed.

Two threads: one attends to the queue and to who wants it to stop, the other does the tasks of
`_schedule`, one at a time. Whatever fails is tried again later, and keeps nothing else.
"""

from __future__ import annotations

import logging
import os
import random as random_module
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import evolve

from plugin_manager._connection import is_metered
from plugin_manager.agent import _record
from plugin_manager.agent._lock import AgentLock, holder
from plugin_manager.agent._notify import Notice, Notifier
from plugin_manager.agent._schedule import Due, Task, agenda, pause_after
from plugin_manager.agent._upgrades import newer_entries, request_for, requests_for
from plugin_manager.catalogue import CatalogueEntry
from plugin_manager.durable import disk_errors
from plugin_manager.errors import (
    CancelledError,
    CorruptError,
    LockedError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    PluginManagerError,
)
from plugin_manager.manager import ActivityLog, Inspection, Job, JobState, Plan, PluginManager
from plugin_manager.model import Digest, PluginName, PluginRequirement
from plugin_manager.settings import AgentPolicy
from plugin_manager.store import Active

__all__ = ["Agent"]

_LOOK_SECONDS = 0.5
_IDLE_LOOK_SECONDS = 1.0  # of what an idle agent takes, waking up is most
_SLEEP_SECONDS = 0.05  # shorter ones cost more than they pace
_KEEP_SECONDS = 5.0
_LEAST_URGENT = 8
_NICE = 10
_STOPPED_SECONDS = 30.0
_SOON = timedelta(minutes=1)  # by which what is overdue is put off as an agent begins
_NEVER = datetime.max.replace(tzinfo=UTC)
_BUSY = {JobState.QUEUED, JobState.RUNNING, JobState.WAITING}

_log = logging.getLogger("plugin_manager")


class _StoppedError(Exception):
    """The agent is to end."""


class Agent:
    """The agent of the store of `manager`, for a process of its own or a thread of a host.

    Uses the settings and connections of `manager`, and nothing else of it: the host goes on using
    it. `policy` None: that of the settings. `own_process`: this process is nothing else, and ends
    well at a SIGTERM. `tell` hears every notice, besides the ways that the policy names.
    """

    def __init__(
        self,
        manager: PluginManager,
        policy: AgentPolicy | None = None,
        *,
        own_process: bool = False,
        tell: Callable[[Notice], None] = lambda _: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        metered: Callable[[], bool] = is_metered,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._given = manager
        self._policy = policy or manager.settings.agent
        self._settings = evolve(manager.settings, agent=self._policy)
        self._store = manager.settings.store
        self._own_process = own_process
        self._heard = tell
        self._now, self._metered, self._random = now, metered, random
        self._activity = ActivityLog(self._store)

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Run in a thread while the block runs; raises as `run` does, before it."""
        stop = threading.Event()
        with self._locked() as lock:
            thread = threading.Thread(target=self._run, args=(lock, stop), name="agent")
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()

    def run(self, stop: threading.Event) -> None:
        """Be the agent until `stop` is set, or for as long as there is work where it is to end.

        What was under way is queued again. Raises LockedError where the store has an agent,
        StoreAccessError where it cannot be written to.
        """
        with self._locked() as lock:
            self._run(lock, stop)

    def _locked(self) -> AgentLock:
        with disk_errors(self._store):
            lock = AgentLock.take(self._store, stoppable=self._own_process)
        if lock is None:
            pid = holder(self._store).pid
            raise LockedError(
                f"the store {self._store} has an agent already"
                + (f": process {pid}" if pid else ""),
                remedy="'pluginctl agent status' shows it, 'pluginctl agent stop' ends it.",
                pid=pid,
            )
        return lock

    def _run(self, lock: AgentLock, stop: threading.Event) -> None:
        self._lock = lock
        _record.forget_temporary(self._store)
        self._guard = threading.RLock()
        self._begun = self._now()
        self._record = evolve(_record.read(self._store), since=self._begun, doing="")
        self._kept_at = float("-inf")
        self._keep()
        self._jitter = self._random()
        self._failures: Counter[Task] = Counter()
        self._damaged_records: set[str] = set()
        self._put_off: dict[Task, datetime] = {}
        self._stopping = threading.Event()
        self._owed_seconds, self._looked_at = 0.0, time.monotonic()
        self._busy_with: Task | None = None
        self._manager = self._given.another()
        self._notifier = Notifier(self._settings)
        jobs = self._manager.jobs
        self._known = {_mark(job) for job in self._jobs() if job.state.final}
        upkeep = threading.Thread(target=self._look_after, name="upkeep", daemon=True)
        jobs.work()
        upkeep.start()
        _log.info("the agent of %s runs", self._store)
        try:
            self._attend(lock, stop)
        finally:
            self._stopping.set()
            self._manager.interrupt()
            jobs.close()
            upkeep.join(_STOPPED_SECONDS)
            self._tell_of_jobs(self._jobs())
            self._notifier.close()
            self._set(doing="")
            _log.info("the agent of %s ends", self._store)

    # --- attending to the queue ------------------------------------------------------------------

    def _attend(self, lock: AgentLock, stop: threading.Event) -> None:
        idle_since = time.monotonic()
        idle_exit = self._policy.idle_exit_seconds
        busy = True
        while not stop.wait(_LOOK_SECONDS if busy else _IDLE_LOOK_SECONDS):
            if not lock.intact:
                _log.warning("%s is gone, or another's", self._store)
                return
            try:
                jobs = self._manager.jobs.all()
                busy = self._is_busy(jobs)
            except PluginManagerError as error:  # a disk that fails now may not for ever
                _log.warning("jobs: %s", error)
                continue
            self._tell_of_jobs(jobs)
            self._say_doing(jobs)
            if busy:
                idle_since = time.monotonic()
            elif idle_exit is not None and time.monotonic() - idle_since >= idle_exit:
                _log.info("nothing to do for %g s", idle_exit)
                return

    def _jobs(self) -> list[Job]:
        try:
            return self._manager.jobs.all()
        except PluginManagerError as error:
            _log.warning("jobs: %s", error)
            return []

    def _is_busy(self, jobs: list[Job]) -> bool:
        """Whether there is work. A scrub is none: what is left of it waits for another time."""
        paused = self._manager.jobs.paused
        wanted = {JobState.RUNNING} if paused else _BUSY
        if any(job.state in wanted for job in jobs):
            return True
        with self._guard:
            if self._busy_with not in {None, Task.SCRUB}:
                return True
        soon = self._now() + _SOON
        return any(due.task is not Task.SCRUB for due in self._due(soon))

    def _tell_of_jobs(self, jobs: list[Job]) -> None:
        for job in jobs:
            mark = _mark(job)
            if not job.state.final or mark in self._known:
                continue
            self._known.add(mark)
            if job.state is JobState.COMPLETED:
                self._tell("completed", _plugin_of(job), f"{job}: completed")
            elif job.state is JobState.FAILED:
                kind = "needs-space" if isinstance(job.error, NoSpaceError) else "failed"
                self._tell(kind, _plugin_of(job), f"{job}: {job.error or job.why}")

    def _tell(self, kind: str, plugin: PluginName | None, text: str) -> None:
        notice = Notice(kind, plugin, text, self._now())
        _log.info("%s: %s", kind, notice.text)
        self._activity.record("notified", plugin, notice.text, self._now())
        self._notifier.tell(notice)
        try:
            self._heard(notice)
        except Exception:
            _log.exception("what was to hear of %r failed", notice.text)

    def _say_doing(self, jobs: list[Job]) -> None:
        running = [str(job) for job in jobs if job.state is JobState.RUNNING]
        with self._guard:
            if self._busy_with:
                running.append(self._busy_with.value)
            doing = ", ".join(running)
            if doing != self._record.doing:
                self._set(doing=doing)

    # --- what is remembered ----------------------------------------------------------------------

    def _set(self, *, keep: bool = True, **changes: Any) -> None:
        with self._guard:
            self._record = evolve(self._record, **changes)
            if keep or time.monotonic() - self._kept_at > _KEEP_SECONDS:
                self._keep()

    def _keep(self) -> None:
        self._kept_at = time.monotonic()
        if not self._lock.intact:  # what was removed is not made again
            return
        try:
            _record.write(self._store, self._record)
        except OSError as error:  # it is done again another time, no more
            _log.warning("the agent's state is not kept: %s", error.strerror)

    def _told_already(self, what: str) -> bool:
        with self._guard:
            if what in self._record.told:
                return True
            self._set(told=(*self._record.told, what))
        return False

    # --- tasks -----------------------------------------------------------------------------------

    def _due(self, by: datetime | None = None) -> list[Due]:
        """What is due now, or will be by then."""
        with self._guard:
            now = self._now()
            found = agenda(
                self._record,
                self._policy,
                now,
                begun=self._begun,
                jitter=self._jitter,
                put_off=self._put_off,
            )
        has_source = bool(self._settings.repository and self._settings.root)
        return [
            due
            for due in found
            if due.at <= (by or now) and (has_source or due.task not in {Task.UPDATE, Task.REPAIR})
        ]

    def _look_after(self) -> None:
        _be_nice()
        with suppress(_StoppedError):
            sleep_seconds = _LOOK_SECONDS
            while not self._stopping.wait(sleep_seconds):
                due = self._due()
                if due and self._lock.intact:
                    self._do(due[0].task)
                sleep_seconds = _LOOK_SECONDS if due else _IDLE_LOOK_SECONDS

    def _do(self, task: Task) -> None:
        acts = {
            Task.UPDATE: self._update,
            Task.REPAIR: self._repair,
            Task.COLLECT: self._collect,
            Task.SCRUB: self._scrub,
        }
        before, self._busy_with = self._busy_with, task
        try:
            acts[task]()
            self._failures.pop(task, None)
            self._put_off.pop(task, None)
        except _StoppedError:
            raise
        except CancelledError as error:
            raise _StoppedError from error
        except Exception as error:
            with self._guard:
                self._failures[task] += 1
                self._put_off[task] = self._now() + pause_after(self._failures[task])
            if isinstance(error, PluginManagerError):
                _log.warning("%s: %s", task.value, error)
                if isinstance(error, CorruptError) and task is not Task.REPAIR:
                    self._found_records_damaged(str(error))
            else:
                _log.exception("%s failed", task.value)
        finally:
            self._busy_with = before

    def _collect(self) -> None:
        self._manager.cleanup()
        self._set(collected=self._now())

    # --- metadata, and what is new ---------------------------------------------------------------

    def _update(self) -> None:
        self._manager.update()
        self._set(updated=self._now())
        self._jitter = self._random()
        self._tell_of_blocked()
        if self._policy.upgrades != "off":
            self._look_for_upgrades()

    def _tell_of_blocked(self) -> None:
        for active in self._manager.installed():
            plugin = active.release.plugin
            entry = None
            with suppress(PluginManagerError):
                entry = self._manager.catalogue(plugin).entry(active.release)
            if entry and entry.blocked and entry.withdrawal:
                text = f"{active.release} is blocked by its publisher: {entry.withdrawal.reason}"
                if not self._told_already(f"blocked {active.digest}"):
                    self._activity.record("blocked", plugin, text, self._now())
                    self._tell("blocked", plugin, text)

    def _look_for_upgrades(self) -> None:
        listed: set[Digest] = set()
        for active in self._manager.installed():
            if not active.held:
                try:
                    self._look_for_upgrade(active, listed)
                except (CancelledError, NetworkError):
                    raise
                except PluginManagerError as error:  # nothing that fits, say
                    _log.info("%s stays: %s", active.release, error)
        with self._guard:
            seen = {digest: at for digest, at in self._record.seen.items() if digest in listed}
            self._set(seen=seen)

    def _look_for_upgrade(self, active: Active, listed: set[Digest]) -> None:
        plugin = active.release.plugin
        digests = self._manager.head_digests(plugin)
        entries = self._manager.catalogue(plugin).entries
        newer = [
            entry
            for entry in newer_entries(entries, active.release)
            if entry.release in digests and entry.release.version not in active.failed
        ]
        for entry in newer:
            self._saw(digests[entry.release], listed)
        request = request_for(
            active.release, newer, lambda entry: self._is_old(entry, digests[entry.release])
        )
        if request is None:
            return
        plan = self._manager.plan_install(request)
        if not plan.steps or not self._all_old(plan, listed):
            return
        self._take(request, plan)

    def _saw(self, digest: Digest, listed: set[Digest]) -> None:
        listed.add(digest)
        with self._guard:
            # Nothing was first seen in the future: somebody has set the clock back since.
            if self._record.seen.get(digest, _NEVER) > self._now():
                self._record = evolve(self._record, seen={**self._record.seen, digest: self._now()})

    def _is_old(self, entry: CatalogueEntry, digest: Digest) -> bool:
        cooldown = timedelta(days=self._policy.cooldown_days)
        seen = self._record.seen.get(digest, self._now())
        return self._now() - max(entry.published, seen) >= cooldown

    def _all_old(self, plan: Plan, listed: set[Digest]) -> bool:
        """Whether that holds for what comes along as well."""
        old = True
        for step in plan.steps:
            after = step.after
            if after is None or (step.before and step.before.digest == after.digest):
                continue
            self._saw(after.digest, listed)
            entry = self._manager.catalogue(step.plugin).entry(after.release)
            old &= entry is not None and self._is_old(entry, after.digest)
        return old

    def _take(self, request: PluginRequirement, plan: Plan) -> None:
        """Do with an upgrade what the policy says, and bring nothing but what was judged."""
        requests = requests_for(request, plan)
        match self._policy.upgrades:
            case "install":
                self._submit("install", requests, plan)
            case "download" if plan.needed.fetch_bytes:
                self._submit("fetch", requests, plan)
            case "download":
                self._manager.fetch(*requests)  # it is here; so that it is not taken for forgotten
            case _:
                digests = sorted(step.after.digest for step in plan.steps if step.after)
                if not self._told_already(f"upgrade {' '.join(digests)}"):
                    text = ", ".join(str(step) for step in plan.steps)
                    plugin = request.plugin
                    self._tell("upgrade", plugin, f"{text} ('pluginctl upgrade {plugin}')")

    def _submit(self, action: Any, requests: tuple[str, ...], plan: Plan) -> None:
        jobs = self._manager.jobs
        for job in self._jobs():
            # Whoever cancelled or paused it meant it; what failed fails again.
            same = job.action == action and job.requests == requests
            if same and job.state is not JobState.COMPLETED:
                return
        jobs.submit(
            *requests,
            action=action,
            priority=_LEAST_URGENT,
            group="agent",
            # It may wait for long, and whoever works at it asks for fresh metadata.
            only={step.after.digest for step in plan.steps if step.after},
        )

    # --- checking what is installed --------------------------------------------------------------

    def _scrub(self) -> None:
        if self._record.scrub_begun is None:
            self._set(scrub_begun=self._now(), scrub_done=(), findings=())
        done = set(self._record.scrub_done)
        for found in self._manager.scrub(self._pace, done):
            if not found.good:
                self._found_damage(found)
            # Also what is damaged: it is mended, or found again by the next scrub.
            self._set(keep=False, scrub_done=(*self._record.scrub_done, found.active.digest))
        self._set(scrubbed=self._now(), scrub_begun=None, scrub_done=())

    def _pace(self, count: int) -> None:
        """Wait for as long as `count` bytes may take; do meanwhile what is more urgent."""
        rate = self._policy.scrub_bytes_per_second
        self._owed_seconds += count / rate if rate else 0
        while True:
            if self._stopping.is_set():
                raise _StoppedError
            if time.monotonic() - self._looked_at >= _LOOK_SECONDS:
                self._looked_at = time.monotonic()
                for due in self._due():
                    if due.task is not Task.SCRUB:
                        self._do(due.task)
            if self._owed_seconds < _SLEEP_SECONDS:
                return
            # In slices: at a low rate, a chunk may take hours.
            some = min(self._owed_seconds, _LOOK_SECONDS)
            self._stopping.wait(some)
            self._owed_seconds -= some

    def _found_damage(self, found: Inspection) -> None:
        release, plugin = found.active.release, found.active.release.plugin
        what = ", ".join(map(str, found.damaged[:5])) or (found.error and found.error.message) or ""
        text = f"{release}: {what}"
        self._set(findings=(*self._record.findings, text))
        if found.error and not isinstance(found.error, CorruptError):
            return  # blocked, expired, ...: no bytes would mend that
        self._activity.record("damaged", plugin, text, self._now())
        self._tell("damaged", plugin, text)
        with self._guard:
            self._set(damaged=tuple(dict.fromkeys((*self._record.damaged, plugin))))
        if self._policy.repair and any(due.task is Task.REPAIR for due in self._due()):
            self._do(Task.REPAIR)

    def _found_records_damaged(self, text: str) -> None:
        """Tell that the store's own records are damaged, once in a run: nothing is done until then.

        Going on from an earlier record is for people to decide.
        """
        if text not in self._damaged_records:
            self._damaged_records.add(text)
            self._activity.record("damaged", None, text, self._now())
            self._tell("damaged", None, text)

    def _repair(self) -> None:
        if self._settings.queue.metered != "allow" and self._metered():
            raise NetworkError("this connection is paid by the byte", remedy="It waits.")
        failure: PluginManagerError | None = None
        for plugin in self._record.damaged:
            mended: tuple[str, ...] = ()
            try:
                report = self._manager.repair(plugin)
                mended = tuple(f"{found.active.release}: " for found in report.releases)
            except CancelledError:
                raise
            except NotFoundError:
                pass  # it was uninstalled: what is left of it, nobody loads
            except PluginManagerError as error:
                failure = error
                continue
            with self._guard:
                self._set(
                    damaged=tuple(one for one in self._record.damaged if one != plugin),
                    findings=tuple(
                        f"{text}; mended" if mended and text.startswith(mended) else text
                        for text in self._record.findings
                    ),
                )
        if failure:
            raise failure


def _mark(job: Job) -> tuple[str, datetime, JobState]:
    return job.id, job.submitted, job.state


def _plugin_of(job: Job) -> PluginName | None:
    with suppress(PluginManagerError):
        name = job.requests[0] if len(job.requests) == 1 else ""
        end = next((at for at, char in enumerate(name) if char in "<>=!~@ "), len(name))
        return PluginName.parse(name[:end])
    return None


def _be_nice() -> None:
    """Have this thread yield to others, where the system can tell it from them."""
    if sys.platform.startswith("linux"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
