"""The same jobs for programs that run on asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

from plugin_manager.manager._job import Job, ResumeStatus
from plugin_manager.manager._jobs import Jobs, outcome
from plugin_manager.model import PluginRequirement

__all__ = ["AsyncJobs"]


class AsyncJobs:
    """`Jobs`, without ever blocking the event loop; the methods mean what they mean there.

    What works at the jobs is the same threads: they go on whatever becomes of a task that waits.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def submit(self, *requests: str | PluginRequirement, **wishes: Any) -> Job:
        """Record a job; works at nothing."""
        return await asyncio.to_thread(self._jobs.submit, *requests, **wishes)

    async def start(self, *requests: str | PluginRequirement, **wishes: Any) -> Job:
        """Record a job, and begin to work."""
        return await asyncio.to_thread(self._jobs.start, *requests, **wishes)

    async def pause(self, job: str | None = None) -> None:
        """Stop a job, or all, until it is resumed."""
        await asyncio.to_thread(self._jobs.pause, job)

    async def resume(self, job: str | None = None, *, metered: bool | None = None) -> None:
        """Go on with a job; or lift the pause of all."""
        await asyncio.to_thread(self._jobs.resume, job, metered=metered)

    async def cancel(self, job: str | None = None, *, keep: bool = True) -> None:
        """End a job, or all that are not over."""
        await asyncio.to_thread(self._jobs.cancel, job, keep=keep)

    async def get(self, job: str) -> Job:
        """A job as it stands."""
        return await asyncio.to_thread(self._jobs.get, job)

    async def active(self) -> Sequence[Job]:
        """The jobs that are not over."""
        return await asyncio.to_thread(self._jobs.active)

    async def all(self) -> Sequence[Job]:
        """The jobs that are on record."""
        return await asyncio.to_thread(self._jobs.all)

    async def limit(self, bytes_per_second: int | None, job: str | None = None) -> None:
        """Fetch no faster than this, a job or all together."""
        await asyncio.to_thread(self._jobs.limit, bytes_per_second, job)

    async def prioritise(self, job: str, priority: int) -> None:
        """Change a job's priority."""
        await asyncio.to_thread(self._jobs.prioritise, job, priority)

    async def forget(self, job: str) -> None:
        """Remove the record of a job that is over."""
        await asyncio.to_thread(self._jobs.forget, job)

    async def work(self) -> None:
        """Begin to work at what is queued, now and later."""
        await asyncio.to_thread(self._jobs.work)

    async def close(self) -> None:
        """Stop working."""
        await asyncio.to_thread(self._jobs.close)

    async def resume_status(self, job: str) -> Sequence[ResumeStatus]:
        """Whether what a job fetches can go on."""
        return await asyncio.to_thread(self._jobs.resume_status, job)

    async def wait(self, job: str) -> Job:
        """The job when it is over; raises what it failed with, or CancelledError (ours).

        Bound it with `asyncio.timeout`.
        """
        last = await self.get(job)
        async for event in self.watch(job):
            last = event
        return outcome(last if last.state.final else await self.get(job))

    async def watch(self, *jobs: str) -> AsyncIterator[Job]:
        """Jobs as they change, until all of them are over."""
        loop, over = asyncio.get_running_loop(), threading.Event()
        events: asyncio.Queue[Job | BaseException | None] = asyncio.Queue()

        def put(event: Job | BaseException | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def follow() -> None:
            try:
                for job in self._jobs.watch(*jobs, over=over):
                    put(job)
                put(None)
            except RuntimeError:  # the loop is closed: nobody listens any more
                return
            except BaseException as error:
                put(error)

        threading.Thread(target=follow, name="jobs-watch", daemon=True).start()
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            over.set()
