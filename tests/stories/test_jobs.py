"""Jobs: on record before the first request, resumed from what hashes right, whoever works at them."""

from __future__ import annotations

import random

from plugin_manager import JobState
from tests.world import World

BIG = random.Random(3).randbytes(3_000_000)


def test_a_job_runs_to_its_end(world: World) -> None:
    world.publish("acme/model 1.0", {"model.bin": BIG})
    with world.online():
        manager = world.manager()
        job = manager.jobs.start("acme/model")
        states = [one.state for one in manager.jobs.watch(job.id)]
        done = manager.jobs.wait(job.id, 30)
    assert done.state is JobState.COMPLETED
    assert states[-1] is JobState.COMPLETED
    assert [str(one.release) for one in manager.installed()] == ["acme/model 1.0"]
    assert done.progress.percent == 100


def test_pause_keeps_what_arrived(world: World) -> None:
    world.publish("acme/model 1.0", {"model.bin": BIG})
    with world.online():
        manager = world.manager()
        job = manager.jobs.start("acme/model", bytes_per_second=500_000)
        for one in manager.jobs.watch(job.id):
            if one.progress and one.progress.transferred_bytes > 600_000:
                break
        manager.jobs.pause(job.id)
        for one in manager.jobs.watch(job.id, timeout_seconds=5):
            if one.state is JobState.PAUSED:
                break
        assert manager.jobs.get(job.id).state is JobState.PAUSED
        print(manager.jobs.resume_status(job.id))
        manager.jobs.limit(None, job.id)
        manager.jobs.resume(job.id)
        manager.jobs.wait(job.id, 30)
