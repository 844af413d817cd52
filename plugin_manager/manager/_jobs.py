"""The jobs of a store: asked for, looked at, waited for.

A job is a change that outlives the process that asked for it. It is recorded before its first
request, worked at by whoever has it claimed, and resumed from the bytes that are on disk and hash
right: there is no other record of how far it came. The records in the store are all that processes
share.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Literal

from attrs import evolve

from plugin_manager.errors import CancelledError, InvalidInputError, NotFoundError, RefusedError
from plugin_manager.manager._control import Control
from plugin_manager.manager._foreground import on_record
from plugin_manager.manager._job import (
    Job,
    ResumeStatus,
    Resumption,
    requests_text,
)
from plugin_manager.manager._listeners import Follower, Hooks
from plugin_manager.manager._progress import Progress
from plugin_manager.manager._worker import LOOK_SECONDS, Inbox, Worker
from plugin_manager.model import Digest, PluginName, PluginRequirement
from plugin_manager.settings import Settings
from plugin_manager.store import JobRecords, JobState, Standing, Want, Wish, state_of

__all__ = ["Jobs", "outcome"]

_TOLD_EVERY_SECONDS = 0.5
_LONGEST_GROUP, _LONGEST_DEADLINE_SECONDS, _MOST_RATE = 200, 10 * 366 * 86400, 2**62
_STOPPED_SECONDS = 30.0  # in which whatever a job is doing comes to an end


class Jobs:
    """The jobs of one store; from any thread.

    `submit`, `pause`, `resume`, `cancel` record what is wanted, whoever works at the job. `work`
    begins to work at all that is queued, in threads of this process, until `close`; `start` begins
    that too. A job that is not over when its process ends goes on where somebody
    works at the queue again.

    Where the network fails, a job waits and tries again: after ten seconds, then twice as long up
    to a quarter of an hour. What no waiting mends (a server that refuses, no space, a release that
    cannot be installed) fails.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        run: Callable[[Wish, Hooks], None],
        discard: Callable[[Digest], None],
        resume_status: Callable[[Digest], ResumeStatus],
        limit: Callable[[int | None], None],
        now: Callable[[], datetime],
        metered: Callable[[], bool],
    ) -> None:
        self._discard_staged = discard
        self._resume_status = resume_status
        self._now = now
        self._records = JobRecords(settings.store)
        self._lock = threading.Lock()
        self._worker = Worker(
            settings,
            self._records,
            run=run,
            discard=self._discard,
            limit=limit,
            now=now,
            metered=metered,
        )

    # --- asking --------------------------------------------------------------------------------

    def submit(
        self,
        *requests: str | PluginRequirement,
        action: Literal["install", "upgrade", "fetch"] = "install",
        priority: int = 5,
        group: str = "",
        bytes_per_second: int | None = None,
        metered: bool = False,
        deadline_seconds: float | None = None,
        only: Iterable[Digest] = (),
    ) -> Job:
        """Record that `requests` shall be installed (or, as names, upgraded); works at nothing.

        To `fetch` is all of an install but the change: a later one needs no network for its bytes.

        What is asked for again is the same job, with the wishes given now; where it had ended, or
        was paused, it is queued again. `priority` is from 0, the highest, to 10; of a `group` no
        more run at once than the settings say; `bytes_per_second` limits this job alone;
        `metered` lets it run whatever the policy says of such connections. `only`: it fails, and
        changes nothing, where another release than those with these heads would be brought.
        """
        _check_priority(priority)
        _check_rate(bytes_per_second)
        now, seconds = self._now(), deadline_seconds
        if len(group) > _LONGEST_GROUP or not group.isprintable():
            raise InvalidInputError(
                f"{group[:50]!r} is no name of a group", remedy="Give a short one, in one line."
            )
        if seconds is not None and not 0 <= seconds <= _LONGEST_DEADLINE_SECONDS:  # nor nan
            raise InvalidInputError(
                f"a deadline in {seconds!r} seconds cannot be kept", remedy="Give fewer."
            )
        wish = Wish(
            action,
            requests_text(action, requests),
            now,
            priority=priority,
            group=group,
            bytes_per_second=bytes_per_second,
            metered=metered,
            deadline=None if seconds is None else now + timedelta(seconds=seconds),
            only=tuple(sorted(only)),
        )
        with self._changing():
            if known := self._records.wish(wish.id):
                again = self._state(known).final
                submitted = now if again else known.submitted
                wish = evolve(wish, attempt=known.attempt + again, submitted=submitted)
            self._records.keep_wish(wish)
        self._worker.wake()
        return self.get(wish.id)

    def start(self, *requests: str | PluginRequirement, **wishes: Any) -> Job:
        """As `submit`, and begin to work at it in this process."""
        job = self.submit(*requests, **wishes)
        self.work()
        return self.get(job.id)

    def pause(self, job: str | None = None) -> None:
        """Stop a job, until it is resumed; or (None) all, also those that are asked for later."""
        if job is None:
            self._records.keep_queue(evolve(self._records.queue(), paused=True))
        else:
            self._wish(job, want=Want.PAUSE)
        self._worker.wake()

    def resume(self, job: str | None = None, *, metered: bool | None = None) -> None:
        """Go on with a job, also one that failed or was cancelled; or (None) lift `pause()`.

        `metered=True` allows it to fetch over a connection that is paid by the byte.
        """
        if job is None:
            self._records.keep_queue(evolve(self._records.queue(), paused=False))
        else:
            wish = self._known(job)
            state = self._state(wish)
            again = state in {JobState.FAILED, JobState.CANCELLED}
            self._wish(
                job,
                want=Want.RUN,
                foreground=wish.foreground and self._records.is_claimed(wish.id),
                attempt=wish.attempt + again,
                deadline=None if again else wish.deadline,
                metered=wish.metered if metered is None else metered,
            )
        self._worker.wake()

    def cancel(self, job: str | None = None, *, keep: bool = True) -> None:
        """End a job (None: all that are not over).

        With `keep` what has arrived stays for another time, until `cleanup` finds it old; else it
        is removed. Returns when nothing more is fetched, where the job is this process's.
        """
        wanted = [job] if job else [one.id for one in self.active()]
        for one in wanted:
            if not self._state(self._known(one)).final:
                self._wish(one, want=Want.CANCEL, keep=keep)
        self._worker.wake()
        for one in wanted:
            self._end_cancelled(one)
            self._worker.wait_for_end(self._known(one).id, _STOPPED_SECONDS)

    def limit(self, bytes_per_second: int | None, job: str | None = None) -> None:
        """Fetch no faster than this, a job or (None) all together; None: as the settings say."""
        _check_rate(bytes_per_second)
        if job is None:
            queue = self._records.queue()
            self._records.keep_queue(evolve(queue, bytes_per_second=bytes_per_second))
        else:
            self._wish(job, bytes_per_second=bytes_per_second)
        self._worker.wake()

    def prioritise(self, job: str, priority: int) -> None:
        """Change a job's priority."""
        _check_priority(priority)
        self._wish(job, priority=priority)
        self._worker.wake()

    def forget(self, job: str) -> None:
        """Remove the record of a job that is over; raises RefusedError where it is not."""
        wish = self._known(job)

        def over(wish: Wish | None, standing: Standing | None) -> bool:
            return wish is None or state_of(wish, standing, claimed=False).final

        if not self._records.remove_if(wish.id, over):
            raise RefusedError(f"{wish.id} is not over", remedy="Cancel it first.")

    def _wish(self, job: str, **changes: Any) -> None:
        with self._changing():
            self._records.keep_wish(evolve(self._known(job), **changes))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock, self._records.changing():
            yield

    def _known(self, job: str) -> Wish:
        """The wish of the job whose id is `job`, or begins so; raises NotFoundError."""
        if wish := self._records.wish(job):
            return wish
        found = [one for one in self._records.ids() if job and one.startswith(job)]
        wish = self._records.wish(found[0]) if len(found) == 1 else None
        if wish is None:
            what = "are several jobs" if len(found) > 1 else "is no job"
            raise NotFoundError(f"there {what} {job!r}", remedy="'pluginctl jobs' lists them.")
        return wish

    def _state(self, wish: Wish) -> JobState:
        claimed = self._records.is_claimed(wish.id)
        return state_of(wish, self._records.standing(wish.id), claimed=claimed)

    # --- looking -------------------------------------------------------------------------------

    def get(self, job: str) -> Job:
        """A job by its id, or by how that begins; raises NotFoundError."""
        wish = self._known(job)
        if ours := self._worker.job(wish.id):
            return ours
        known = self._records.standing(wish.id)
        state = self._state(wish)
        standing = Standing(wish.attempt, state, wish.submitted)
        if known and known.attempt == wish.attempt:
            if known.state is state:
                standing = known
            elif known.state is JobState.RUNNING:
                standing = evolve(standing, why="interrupted")
        # Of an earlier attempt it is of no use.
        told = self._records.progress(wish.id) if known and known.attempt == wish.attempt else {}
        return Job.of(wish, standing, Progress.parse(told))

    def all(self) -> list[Job]:
        """All jobs that are on record, the most urgent first; those that are over at the end."""
        found = []
        for one in self._records.ids():
            with suppress(NotFoundError):
                found.append(self.get(one))
        return sorted(found, key=lambda job: (job.state.final, job.priority, job.submitted, job.id))

    def active(self) -> Sequence[Job]:
        """The jobs that are not over."""
        return [job for job in self.all() if not job.state.final]

    @property
    def paused(self) -> bool:
        """Whether all are paused."""
        return self._records.queue().paused

    def wait(self, job: str, timeout_seconds: float | None = None) -> Job:
        """The job when it is over; raises what it failed with, CancelledError, or TimeoutError."""
        events = deque(self.watch(job, timeout_seconds=timeout_seconds), maxlen=1)
        last = events.pop() if events else self.get(job)
        if not last.state.final:
            self.get(job)  # raises where its record is gone
        if not last.state.final:
            raise TimeoutError(f"{last} is not over after {timeout_seconds:g} s")
        return outcome(last)

    def watch(
        self,
        *jobs: str,
        timeout_seconds: float | None = None,
        over: threading.Event | None = None,
    ) -> Iterator[Job]:
        """Jobs (none: all that are active) as they change, until all of them are over.

        Each as it is now, then at every change of its state, and twice a second at most as bytes
        arrive; of what another process works at, as it is found on looking, four times a second.
        """
        wanted = [self._known(job).id for job in jobs] or [job.id for job in self.active()]
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._worker.telling(wanted) as inbox:
            told: dict[str, tuple[Job, float]] = {}
            digests: dict[str, tuple[Digest, ...]] = {}
            waiting = dict.fromkeys(wanted)
            while waiting:
                events = inbox.take(LOOK_SECONDS if told else 0)
                for one in list(waiting):
                    try:
                        found = self._found_on_looking(one, inbox, {event.id for event in events})
                    except NotFoundError:  # a command that ended well, or somebody removed it
                        events += self._vanished(told.get(one), digests.get(one, ()))
                        if one not in {event.id for event in events}:
                            waiting.pop(one)
                    else:
                        events += found
                        if (standing := self._records.standing(one)) and standing.digests:
                            digests[one] = standing.digests
                for event in events:
                    if event.id in waiting and _worth_telling(event, told.get(event.id)):
                        told[event.id] = event, time.monotonic()
                        yield event
                        if event.state.final:
                            waiting.pop(event.id, None)
                if (over and over.is_set()) or (until and time.monotonic() >= until):
                    return

    def _vanished(self, told: tuple[Job, float] | None, digests: Sequence[Digest]) -> list[Job]:
        """The last event of a job whose record is gone, where what it fetched is there."""
        there = [self._resume_status(one).resumption is Resumption.COMPLETE for one in digests]
        if told and there and all(there):
            return [evolve(told[0], state=JobState.COMPLETED, why="")]
        return []

    def _found_on_looking(self, job: str, inbox: Inbox, told_of: Container[str]) -> list[Job]:
        """How a job stands that another process works at, or nobody."""
        if job in told_of or self._worker.job(job):
            return []
        found = self.get(job)
        events = inbox.take(0)  # it may have been this process's for an instant
        ours = self._worker.job(job) or any(event.id == job for event in events)
        return events if ours else [*events, found]

    def resume_status(self, job: str) -> Sequence[ResumeStatus]:
        """For each release that a job fetches: whether it can go on, and from where.

        What is staged is hashed for it. Empty as long as it is not known what the job fetches.
        """
        standing = self._records.standing(self._known(job).id)
        return [self._resume_status(digest) for digest in (standing.digests if standing else ())]

    # --- working -------------------------------------------------------------------------------

    def work(self) -> None:
        """Begin to work at what is queued, now and later; calling it again does nothing."""
        self._worker.start()

    def close(self) -> None:
        """Stop working; what was under way is queued again, for whoever works at it next."""
        self._worker.close()

    @contextmanager
    def on_record(
        self, action: str, requests: Sequence[PluginRequirement | PluginName], control: Control
    ) -> Iterator[Follower]:
        """Have on record what the caller does itself, and what of it could be resumed."""
        wish = Wish(action, requests_text(action, requests), self._now(), foreground=True)
        with self._changing():
            if known := self._records.wish(wish.id):
                if self._state(known).final:
                    wish = evolve(wish, attempt=known.attempt + 1)
                else:
                    wish = evolve(known, want=Want.RUN)
            self._records.keep_wish(wish)
        try:
            with on_record(self._records, wish, control, self._discard, self._now) as follower:
                yield follower
        finally:
            control.renew()  # what was wanted of this change is not wanted of the next

    def _end_cancelled(self, job: str) -> None:
        """Do what a worker would, where nobody works at a job that was cancelled."""
        wish = self._known(job)
        if self._worker.job(wish.id) or not (claim := self._records.claim(wish.id)):
            return
        with claim:
            wanted, standing = self._records.wish(wish.id), self._records.standing(wish.id)
            if wanted is None or wanted.want is not Want.CANCEL:
                return  # somebody changed his mind
            if standing and standing.attempt == wanted.attempt and standing.state.final:
                return  # it was over before
            digests = standing.digests if standing else ()
            if not wanted.keep:
                self._discard(wanted, digests)
            ended = Standing(wanted.attempt, JobState.CANCELLED, self._now(), digests=digests)
            self._records.keep_standing(wish.id, ended)

    def _discard(self, wish: Wish, digests: Sequence[Digest]) -> None:
        """Remove what was staged for a job, but for what others fetch too."""
        others: set[Digest] = set()
        for job in self._records.ids():
            standing = self._records.standing(job)
            if job != wish.id and standing and not standing.state.final:
                others |= set(standing.digests)
        for digest in set(digests) - others:
            self._discard_staged(digest)


def _worth_telling(event: Job, told: tuple[Job, float] | None) -> bool:
    if told is None or (event.state, event.why) != (told[0].state, told[0].why):
        return True
    return event != told[0] and time.monotonic() - told[1] >= _TOLD_EVERY_SECONDS


def _check_rate(bytes_per_second: int | None) -> None:
    if bytes_per_second is not None and (
        not isinstance(bytes_per_second, int) or not 1 <= bytes_per_second <= _MOST_RATE
    ):
        raise InvalidInputError(
            f"{bytes_per_second!r} is no number of bytes a second",
            remedy="Give a whole number above 0; to stop a job there is 'pause'.",
        )


def outcome(job: Job) -> Job:
    """A job that is over, if it is completed; raises what it failed with, or CancelledError."""
    if job.state is JobState.CANCELLED:
        raise CancelledError(f"{job} was cancelled", remedy="Start it again to go on.")
    if job.error:
        raise job.error
    return job


def _check_priority(priority: int) -> None:
    if not isinstance(priority, int) or not 0 <= priority <= 10:
        raise InvalidInputError(
            f"priority {priority!r} is not from 0 to 10", remedy="0 is the most urgent."
        )
