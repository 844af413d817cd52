"""Working at the queue: claim what is nobody's, run what is most urgent, record what becomes of it.

One thread looks after the queue; each running job has one of its own. What another process asks
for is found on looking, four times a second.
"""

from __future__ import annotations

import logging
import os
import random as random_module
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from attrs import define, evolve

from plugin_manager.errors import CancelledError, NetworkError, PluginManagerError
from plugin_manager.manager._control import Control
from plugin_manager.manager._job import Job, may_pass
from plugin_manager.manager._listeners import Hooks
from plugin_manager.manager._plan import Plan
from plugin_manager.manager._progress import Progress
from plugin_manager.manager._schedule import Contender, chosen, obstacle
from plugin_manager.model import Digest
from plugin_manager.settings import Settings
from plugin_manager.store import (
    JobRecords,
    JobState,
    Lease,
    QueueWish,
    Standing,
    Want,
    Wish,
    state_of,
)

__all__ = ["LOOK_SECONDS", "Inbox", "Worker"]

LOOK_SECONDS = 0.25
_METERED_SECONDS = 10.0
_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 10.0, 900.0
_LONGEST_PAUSE = timedelta(seconds=_MOST_PAUSE_SECONDS)
_MOST_FAILURES = 100  # in a row, without a byte between them: a day

_log = logging.getLogger("plugin_manager")


class _Stop(StrEnum):
    """Why a running job is being stopped."""

    NOT = ""
    PAUSE = "pause"
    CANCEL = "cancel"
    MAKE_WAY = "make way"
    DEADLINE = "deadline"


@define(eq=False)
class _Held:
    """A job that this process has claimed; it runs as long as it has a `control`."""

    wish: Wish
    mark: tuple[int, int]
    claim: Lease
    standing: Standing
    progress: Progress | None = None
    error: PluginManagerError | None = None
    failures: int = 0
    control: Control | None = None
    stop: _Stop = _Stop.NOT
    stop_why: str = ""

    @property
    def job(self) -> Job:
        return Job.of(self.wish, self.standing, self.progress, self.error)


class Inbox:
    """Events for one who watches `jobs`; what is superseded before it is taken is dropped."""

    def __init__(self, jobs: frozenset[str]) -> None:
        self._jobs = jobs
        self._events: list[Job] = []
        self._some = threading.Condition()

    def put(self, job: Job) -> None:
        """Add an event."""
        if job.id not in self._jobs:
            return
        with self._some:
            last = next((one for one in reversed(self._events) if one.id == job.id), None)
            if last is not None and (last.state, last.why) == (job.state, job.why):
                self._events.remove(last)
            self._events.append(job)
            self._some.notify_all()

    def take(self, seconds: float) -> list[Job]:
        """The events since the last call, for the first of which it waits so long at most."""
        with self._some:
            self._some.wait_for(lambda: self._events, seconds)
            events, self._events = self._events, []
            return events


class Worker:
    """Works at the jobs in `records` from `start` to `close`; for any thread.

    `run(wish, hooks)` does a job, `discard(wish, digests)` removes what it has staged,
    `limit(bytes_per_second)` holds for all together.
    """

    def __init__(
        self,
        settings: Settings,
        records: JobRecords,
        *,
        run: Callable[[Wish, Hooks], None],
        discard: Callable[[Wish, Sequence[Digest]], None],
        limit: Callable[[int | None], None],
        now: Callable[[], datetime],
        metered: Callable[[], bool],
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._settings = settings
        self._records = records
        self._carry_out = run
        self._discard = discard
        self._limit = limit
        self._now = now
        self._metered = metered
        self._random = random
        self._process = os.getpid()
        self._changed = threading.Condition(threading.RLock())
        self._held: dict[str, _Held] = {}
        self._inboxes: list[Inbox] = []
        self._supervisor: threading.Thread | None = None
        self._closing = False
        self._rate: int | None = settings.max_bytes_per_second
        # What must not be done under our lock: it takes others, under which ours is taken.
        self._later: list[Callable[[], None]] = []
        self._is_metered, self._metered_at = False, float("-inf")

    def start(self) -> None:
        """Begin to work at what is queued, now and later; calling it again does nothing."""
        self._leave_parent()
        with self._changed:
            self._closing = False
            if self._supervisor is None or not self._supervisor.is_alive():
                self._supervisor = threading.Thread(
                    target=self._supervise, name="jobs", daemon=True
                )
                self._supervisor.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop working; what was under way is queued again, for whoever works at it next."""
        self._leave_parent()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            supervisor = self._supervisor
        if supervisor is not None:
            supervisor.join()

    def _leave_parent(self) -> None:
        """In a child of a fork: what was held is the parent's, as are the threads."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._changed = threading.Condition(threading.RLock())
            self._held, self._inboxes, self._later = {}, [], []
            self._supervisor = None

    def wake(self) -> None:
        """Look at once for what is wanted."""
        with self._changed:
            self._changed.notify_all()

    def job(self, job: str) -> Job | None:
        """A job that this process has claimed."""
        with self._changed:
            held = self._held.get(job)
            return held.job if held else None

    def wait_for_end(self, job: str, timeout_seconds: float) -> None:
        """Wait until a job is not this process's any more."""
        with self._changed:
            self._changed.wait_for(lambda: job not in self._held, timeout_seconds)

    @contextmanager
    def telling(self, jobs: Iterable[str]) -> Iterator[Inbox]:
        """An inbox for how `jobs` stand, as far as they are this process's, and every change."""
        inbox = Inbox(frozenset(jobs))
        with self._changed:
            self._inboxes.append(inbox)
            for held in self._held.values():
                inbox.put(held.job)
        try:
            yield inbox
        finally:
            with self._changed:
                self._inboxes.remove(inbox)

    def _tell(self, job: Job) -> None:
        for inbox in self._inboxes:
            inbox.put(job)

    # --- the queue -------------------------------------------------------------------------------

    def _supervise(self) -> None:
        while True:
            self._look_at_connection()
            with self._changed:
                with _going_on():
                    self._adopt()
                    self._follow_wishes()
                    self._dispatch()
                if self._closing and not any(held.control for held in self._held.values()):
                    for held in list(self._held.values()):
                        self._let_go(held)
                    return
                later, self._later = self._later, []
                if not later:
                    self._changed.wait(LOOK_SECONDS)
            for act in later:
                with _going_on():
                    act()

    def _look_at_connection(self) -> None:
        with _going_on():
            matters = self._settings.queue.metered != "allow" and self._records.ids()
            if matters and time.monotonic() - self._metered_at > _METERED_SECONDS:
                self._metered_at = time.monotonic()
                self._is_metered = self._metered()

    def _adopt(self) -> None:
        """Claim what is queued and nobody's."""
        for job in self._records.ids() if not self._closing else ():
            if job in self._held or not self._is_queued(job):
                continue
            if claim := self._records.claim(job):
                mark, wish = self._records.wish_mark(job), self._records.wish(job)
                if wish is None or not self._is_queued(job):  # whoever had it has ended it
                    claim.close()
                    continue
                known = self._records.standing(job)
                known = known if known and known.attempt == wish.attempt else None
                queued = Standing(
                    wish.attempt,
                    JobState.QUEUED,
                    self._now(),
                    digests=known.digests if known else (),
                )
                self._held[job] = held = _Held(wish, mark, claim, queued)
                self._tell(held.job)

    def _is_queued(self, job: str) -> bool:
        wish, standing = self._records.wish(job), self._records.standing(job)
        if wish is None or wish.foreground:
            return False
        return state_of(wish, standing, claimed=False) is JobState.QUEUED

    def _follow_wishes(self) -> None:
        for job, held in list(self._held.items()):
            mark = self._records.wish_mark(job)
            if mark != held.mark and (wish := self._records.wish(job)):
                held.wish, held.mark = wish, mark
                if held.standing.retry_at and not held.control:
                    self._stand(held, JobState.QUEUED)  # whoever asks does not want to wait
                if control := held.control:
                    self._later.append(partial(control.limit, wish.bytes_per_second))
            if held.wish.want is Want.PAUSE:
                self._stop(held, _Stop.PAUSE)
            elif held.wish.want is Want.CANCEL:
                self._stop(held, _Stop.CANCEL)
            elif held.wish.deadline and self._now() >= held.wish.deadline:
                self._stop(held, _Stop.DEADLINE)
            elif self._closing:
                self._stop(held, _Stop.MAKE_WAY)

    def _dispatch(self) -> None:
        """Start and stop jobs, so that those run that should."""
        policy, queue = self._settings.queue, self._records.queue()
        contenders = self._contenders(queue)
        wanted = chosen(contenders, policy)
        for contender in contenders:
            held = self._held[contender.id]
            if contender.id in wanted:
                continue
            if held.control:
                self._stop(held, _Stop.MAKE_WAY, "a more urgent job is running")
            else:
                self._stand(held, JobState.QUEUED, "others are running")
        # Who makes way takes a place until it has.
        running = [held.wish.group for held in self._held.values() if held.control]
        for job in wanted:
            held, group = self._held[job], self._held[job].wish.group
            full = group and policy.jobs_per_group and running.count(group) >= policy.jobs_per_group
            if not held.control and len(running) < policy.jobs_at_once and not full:
                self._start(held)
                running.append(group)
        rate = queue.bytes_per_second
        rate = self._settings.max_bytes_per_second if rate is None else rate
        if running and rate != self._rate:
            self._rate = rate
            self._later.append(partial(self._limit, rate))

    def _contenders(self, queue: QueueWish) -> list[Contender]:
        """The jobs that may run now; what must not is stopped, or told why."""
        policy, now = self._settings.queue, self._now()
        contenders = []
        for held in self._held.values():
            if held.stop or self._closing:
                continue
            why = obstacle(
                held.wish, queue, policy, metered=self._is_metered, local=now.astimezone()
            )
            retry_at = held.standing.retry_at
            if retry_at and retry_at - now > _LONGEST_PAUSE:  # somebody set the clock back
                retry_at = None
            if why and held.control:
                self._stop(held, _Stop.MAKE_WAY, why)
            elif why:
                self._stand(held, JobState.QUEUED, why)
            elif held.control or retry_at is None or retry_at <= now:
                contenders.append(_contender(held))
        return contenders

    # --- one job ---------------------------------------------------------------------------------

    def _start(self, held: _Held) -> None:
        held.progress = held.error = None
        self._records.forget_progress(held.wish.id)
        self._stand(held, JobState.RUNNING)
        held.control = Control(held.wish.bytes_per_second)
        threading.Thread(
            target=self._run, args=(held, held.control), name=f"job-{held.wish.id}", daemon=True
        ).start()

    def _stop(self, held: _Held, stop: _Stop, why: str = "") -> None:
        if held.control is None:
            self._conclude(held, stop, why)
        elif not held.stop:
            held.stop, held.stop_why = stop, why
            self._later.append(held.control.stop)

    def _run(self, held: _Held, control: Control) -> None:
        hooks = Hooks(
            control,
            planned=partial(self._planned, held),
            progressed=partial(self._progressed, held),
            waiting=partial(self._waits, held),
            retrying=partial(self._retries, held),
        )
        error: BaseException | None = None
        try:
            self._carry_out(held.wish, hooks)
        except BaseException as failure:
            error = failure
        with self._changed:
            held.control = None
            try:
                self._ended(held, error)
            except PluginManagerError as failure:  # the record cannot be written: another time
                _log.warning("%s: %s", held.job, failure)
            self._changed.notify_all()

    def _planned(self, held: _Held, plan: Plan) -> None:
        with self._changed:
            digests = tuple(step.head.digest for step in plan.steps if step.head)
            held.standing = evolve(held.standing, digests=digests)
            self._records.keep_standing(held.wish.id, held.standing)

    def _progressed(self, held: _Held, progress: Progress) -> None:
        with self._changed:
            held.progress, held.failures = progress, 0
            self._records.keep_progress(held.wish.id, progress.render())
            if held.stop or not self._stand(held, JobState.RUNNING):
                self._tell(held.job)

    def _waits(self, held: _Held, holder: str) -> None:
        with self._changed:
            self._stand(held, JobState.RUNNING, f"waits: {holder}")

    def _retries(self, held: _Held, failure: NetworkError, seconds: float) -> None:
        with self._changed:
            self._stand(held, JobState.WAITING, failure.message, pause_seconds=seconds)

    def _ended(self, held: _Held, error: BaseException | None) -> None:
        """See what has become of a job that does not run any more."""
        if error is None:
            self._finish(held, JobState.COMPLETED)
        elif isinstance(error, CancelledError) and held.stop:
            self._conclude(held, held.stop, held.stop_why)
        elif not isinstance(error, PluginManagerError):
            _log.error("%s failed", held.job, exc_info=error)
            self._finish(held, JobState.FAILED, _unforeseen(error))
        elif may_pass(error) and held.failures < _MOST_FAILURES:
            pause = min(_PAUSE_SECONDS * 2**held.failures, _MOST_PAUSE_SECONDS)
            held.failures += 1
            held.stop = _Stop.NOT
            pause *= 1 - self._random() / 2
            self._stand(held, JobState.WAITING, error.message, pause_seconds=pause)
        else:
            self._finish(held, JobState.FAILED, error)

    def _conclude(self, held: _Held, stop: _Stop, why: str) -> None:
        """A job that was to be stopped does not run."""
        held.stop = _Stop.NOT
        wanted = self._records.wish(held.wish.id)
        if wanted and wanted.want is Want.RUN and stop in {_Stop.PAUSE, _Stop.CANCEL}:
            stop = _Stop.MAKE_WAY  # somebody changed his mind meanwhile
        match stop:
            case _Stop.PAUSE:
                self._finish(held, JobState.PAUSED)
            case _Stop.CANCEL:
                if not held.wish.keep:
                    self._discard(held.wish, held.standing.digests)
                self._finish(held, JobState.CANCELLED)
            case _Stop.DEADLINE:
                late = NetworkError(
                    "it was not done by the time that was set",
                    remedy="Start it again: what has arrived is kept.",
                )
                self._finish(held, JobState.FAILED, late)
            case _:
                self._stand(held, JobState.QUEUED, why)

    def _finish(
        self, held: _Held, state: JobState, error: PluginManagerError | None = None
    ) -> None:
        held.error = error
        if error:
            held.standing = evolve(held.standing, family=error.family, remedy=error.remedy)
        self._stand(held, state, error.message if error else "")
        self._let_go(held)

    def _let_go(self, held: _Held) -> None:
        self._held.pop(held.wish.id, None)
        held.claim.close()

    def _stand(
        self, held: _Held, state: JobState, why: str = "", *, pause_seconds: float | None = None
    ) -> bool:
        """Record and tell how a job stands; whether that is anything new."""
        before, now = held.standing, self._now()
        retry_at = None if pause_seconds is None else now + timedelta(seconds=pause_seconds)
        if (before.state, before.why, before.retry_at) == (state, why, retry_at):
            return False
        held.standing = evolve(before, state=state, why=why, retry_at=retry_at, updated=now)
        self._records.keep_standing(held.wish.id, held.standing)
        self._tell(held.job)
        return True


@contextmanager
def _going_on() -> Iterator[None]:
    """Log what goes wrong in the block, and go on: a disk that fails now may not for ever."""
    try:
        yield
    except PluginManagerError as error:
        _log.warning("jobs: %s", error)
    except Exception:
        _log.exception("jobs")


def _contender(held: _Held) -> Contender:
    wish = held.wish
    return Contender(
        wish.id, wish.priority, wish.group, wish.submitted, running=held.control is not None
    )


def _unforeseen(error: BaseException) -> PluginManagerError:
    return PluginManagerError(
        f"it failed unexpectedly: {type(error).__name__}", remedy="The log tells more."
    )
