"""Jobs: on record before the first request, resumed from what hashes right."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from attrs import evolve

from plugin_manager import Job, JobState, PluginManager
from plugin_manager.errors import (
    CancelledError,
    InvalidInputError,
    NetworkError,
    NotFoundError,
    RefusedError,
)
from plugin_manager.manager import Resumption
from plugin_manager.settings import QueuePolicy, QuietHours
from plugin_manager.store import JobRecords, Want
from plugin_manager.transfer import Policy, Transfer
from tests.world import World

BIG = random.Random(3).randbytes(8_000_000)
ONE_SPAN = 1_100_000  # what one connection may have had on its way


@pytest.fixture
def model(world: World) -> Iterator[World]:
    """A world whose server has acme/model, of 8 MB."""
    world.publish("acme/model 1.0", {"model.bin": BIG})
    with world.online():
        yield world


def until(manager: PluginManager, job: str, wanted: Callable[[Job], object]) -> Job:
    """The first event of a job that is as wanted."""
    for event in manager.jobs.watch(job, timeout_seconds=60):
        if wanted(event):
            return event
    raise AssertionError(f"it never was: {manager.jobs.get(job)}")


def some_arrived(job: Job) -> bool:
    return bool(job.progress and job.progress.transferred_bytes > 4_000_000)


def half_fetched(world: World) -> tuple[PluginManager, Job]:
    """A manager, and its running job for acme/model."""
    manager = world.manager()
    job = manager.jobs.start("acme/model", bytes_per_second=4_000_000)
    return manager, until(manager, job.id, some_arrived)


def paused(world: World) -> tuple[PluginManager, Job]:
    """The same, paused."""
    manager, job = half_fetched(world)
    manager.jobs.pause(job.id)
    return manager, until(manager, job.id, lambda event: event.state is JobState.PAUSED)


def with_policy(manager: PluginManager, **policy: object) -> PluginManager:
    manager.settings = evolve(manager.settings, queue=QueuePolicy(**policy))  # type: ignore[arg-type]
    return manager


def installed(world: World) -> set[str]:
    return {str(one.release) for one in world.manager().installed()}


# --- to the end ------------------------------------------------------------------------------


def test_a_job_goes_from_queued_to_completed(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.submit("acme/model")
    watching = manager.jobs.watch(job.id)
    states = [next(watching).state]
    manager.jobs.work()
    states += [event.state for event in watching]
    assert list(dict.fromkeys(states)) == [JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED]
    done = manager.jobs.wait(job.id)
    assert (done.state, done.progress.percent) == (JobState.COMPLETED, 100)
    assert installed(model) == {"acme/model 1.0"}
    assert manager.jobs.active() == []


def test_what_is_asked_for_again_is_the_same_job(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.submit("acme/model >= 1.0", priority=7)
    again = manager.jobs.submit("acme/model>=1.0", priority=2)
    assert (again.id, again.priority, again.submitted) == (job.id, 2, job.submitted)
    assert len(manager.jobs.all()) == 1
    assert manager.jobs.submit("acme/model").id != job.id


def test_a_job_is_on_record_before_its_first_request(world: World) -> None:
    """Nobody listens there."""
    manager = world.manager()
    job = manager.jobs.submit("acme/model")
    assert job.state is JobState.QUEUED
    assert world.manager().jobs.get(job.id) == job


def test_a_set_has_one_progress(world: World) -> None:
    world.publish("acme/projector 1.0", {"p.bin": BIG[:1_000_000]})
    world.publish("acme/model 1.0", {"model.bin": BIG}, requires='plugins = ["acme/projector"]')
    with world.online():
        manager = world.manager()
        job = manager.jobs.start("acme/model", bytes_per_second=2_000_000)
        events = list(manager.jobs.watch(job.id))
    told = [event.progress for event in events if event.progress]
    assert {len(progress.transfers) for progress in told} == {2}
    assert told[-1].total_bytes > 9_000_000
    for before, after in pairwise(told):
        assert before.transferred_bytes <= after.transferred_bytes
    assert all(progress.percent < 100 for progress in told if not progress.done)
    states = {one.state for progress in told for one in progress.transfers}
    assert {"running", "completed"} <= states


def test_events_are_no_more_than_two_a_second_and_the_changes(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.start("acme/model", bytes_per_second=4_000_000)
    begun = time.monotonic()
    events = list(manager.jobs.watch(job.id))
    changes = sum(
        (one.state, one.why) != (other.state, other.why) for one, other in pairwise(events)
    )
    assert len(events) - 1 - changes <= 2 * (time.monotonic() - begun) + 1


# --- pausing, and going on -------------------------------------------------------------------


def test_a_paused_job_goes_on_from_what_arrived(model: World) -> None:
    manager, job = paused(model)
    [status] = manager.jobs.resume_status(job.id)
    assert status.resumption is Resumption.RESUMABLE
    assert status.kept_bytes > 0
    assert status.fetch_bytes < len(BIG)
    model.fetched()
    manager.jobs.limit(None, job.id)
    manager.jobs.resume(job.id)
    manager.jobs.wait(job.id, 60)
    assert model.fetched() <= status.fetch_bytes
    [status] = manager.jobs.resume_status(job.id)
    assert status.resumption is Resumption.COMPLETE


PROGRAM = """
import sys, time
from pathlib import Path
from plugin_manager import PluginManager
manager = PluginManager.open(sys.argv[1], sys.argv[2], root=Path(sys.argv[3]))
job = manager.jobs.start("acme/model", bytes_per_second=int(sys.argv[4]))
for event in manager.jobs.watch(job.id):
    done = event.progress.transferred_bytes if event.progress else 0
    print(event.state, done, flush=True)
"""


def working(world: World, bytes_per_second: int) -> subprocess.Popen[str]:
    """Another process that starts a job for acme/model and works at it."""
    settings = world.manager().settings
    arguments = [str(settings.store), settings.repository, str(world.root), str(bytes_per_second)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True
    )


def wait_for_bytes(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout
    for line in process.stdout:
        if int(line.split()[-1]) > count:
            return
    raise AssertionError("it ended before")


def test_a_killed_process_leaves_a_job_that_another_goes_on_with(model: World) -> None:
    with working(model, 4_000_000) as process:
        wait_for_bytes(process, 4_000_000)
        process.kill()
    manager = model.manager()
    [job] = manager.jobs.all()
    assert (job.state, job.why) == (JobState.QUEUED, "interrupted")
    [status] = manager.jobs.resume_status(job.id)
    # What each connection had half of is all that is lost.
    assert status.kept_bytes > 4_000_000 - 2 * ONE_SPAN
    model.fetched()
    manager.jobs.limit(None, job.id)
    manager.jobs.work()
    manager.jobs.wait(job.id, 60)
    assert model.fetched() <= status.fetch_bytes
    assert model.manager().verify().good


def test_another_process_sees_and_steers_a_job(model: World) -> None:
    with working(model, 500_000) as process:
        wait_for_bytes(process, 100_000)
        manager = model.manager()
        [job] = manager.jobs.active()
        assert job.state is JobState.RUNNING
        assert until(manager, job.id, lambda event: event.progress).progress.total_bytes > len(BIG)
        manager.jobs.pause(job.id)
        until(manager, job.id, lambda event: event.state is JobState.PAUSED)
        manager.jobs.limit(None, job.id)
        manager.jobs.resume(job.id)  # it is that process which works at the queue
        until(manager, job.id, lambda event: event.state is JobState.COMPLETED)
        process.wait(30)


def test_progress_survives_a_change_of_address(model: World) -> None:
    manager, job = half_fetched(model)
    manager.jobs.close()
    model.fetched()
    with model.online():  # at another port
        other = model.manager()
        assert other.settings.repository != manager.settings.repository
        other.jobs.work()
        other.jobs.limit(None, job.id)
        other.jobs.wait(job.id, 60)
        assert model.fetched() < len(BIG) - 1_000_000


def test_closing_queues_what_was_running(model: World) -> None:
    manager, job = half_fetched(model)
    manager.close()
    assert manager.jobs.get(job.id).state is JobState.QUEUED


def test_what_a_job_wants_is_no_garbage_however_old(model: World) -> None:
    manager, job = paused(model)
    model.clock.advance(days=400)
    assert model.manager().cleanup(unfinished=True).garbage == ()
    [status] = manager.jobs.resume_status(job.id)
    assert status.kept_bytes > 0


def test_records_of_what_is_over_go_after_a_week(model: World) -> None:
    manager = model.manager()
    manager.jobs.wait(manager.jobs.start("acme/model").id)
    assert model.manager().cleanup().garbage == ()
    model.clock.advance(days=8)
    assert {one.kind for one in model.manager().cleanup().garbage} == {"job"}
    assert manager.jobs.all() == []


# --- cancelling ------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False])
def test_cancelling_stops_the_bytes_and_keeps_what_arrived_or_not(model: World, keep: bool) -> None:
    manager, job = half_fetched(model)
    begun = time.monotonic()
    manager.jobs.cancel(job.id, keep=keep)
    assert manager.jobs.get(job.id).state is JobState.CANCELLED
    assert time.monotonic() - begun < 10  # a second, where nothing else runs on this machine
    with pytest.raises(CancelledError):
        manager.jobs.wait(job.id)
    staged = list((manager.settings.store / "staging").iterdir())
    assert bool(staged) is keep
    assert installed(model) == set()


def test_cancelling_all(model: World) -> None:
    manager = model.manager()
    jobs = [manager.jobs.submit("acme/model"), manager.jobs.submit("acme/other")]
    manager.jobs.cancel()
    assert {manager.jobs.get(job.id).state for job in jobs} == {JobState.CANCELLED}


def test_what_another_job_fetches_too_is_not_removed(model: World) -> None:
    manager, first = paused(model)
    second = manager.jobs.start("acme/model==1.0", bytes_per_second=100_000)
    until(manager, second.id, lambda event: event.progress)
    manager.jobs.cancel(second.id, keep=False)
    [status] = manager.jobs.resume_status(first.id)
    assert status.kept_bytes > 0


def test_a_cancelled_job_may_be_started_again(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.submit("acme/model")
    manager.jobs.cancel(job.id)
    manager.jobs.start("acme/model")
    assert manager.jobs.wait(job.id, 60).state is JobState.COMPLETED


def test_only_what_is_over_is_forgotten(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.submit("acme/model")
    with pytest.raises(RefusedError):
        manager.jobs.forget(job.id)
    manager.jobs.cancel(job.id)
    manager.jobs.forget(job.id)
    with pytest.raises(NotFoundError):
        manager.jobs.get(job.id)


# --- failing, and trying again ---------------------------------------------------------------


def test_what_no_waiting_mends_fails_with_its_error(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.start("acme/nothing")
    with pytest.raises(NotFoundError):
        manager.jobs.wait(job.id, 60)
    seen = model.manager().jobs.get(job.id)  # as another process sees it
    assert (seen.state, seen.error.family) == (JobState.FAILED, "not-found")
    assert seen.error.message == manager.jobs.get(job.id).why


def test_a_job_waits_for_the_network_and_says_so(world: World) -> None:
    world.publish("acme/model 1.0", {"model.bin": BIG})
    offline = world.manager()
    manager = PluginManager(
        offline.settings, now=world.clock, transfer=Transfer(Policy(attempts=2, pause_seconds=0.1))
    )
    job = manager.jobs.start("acme/model")
    waiting = until(manager, job.id, lambda event: "refuses connections" in event.why)
    assert waiting.state is JobState.WAITING
    waiting = until(
        manager, job.id, lambda event: event.retry_at and event.retry_at > world.clock() + SOON
    )
    assert world.clock() + SOON < waiting.retry_at <= world.clock() + timedelta(seconds=10)
    manager.jobs.close()
    with world.online():
        back = world.manager()
        back.jobs.work()
        assert back.jobs.wait(job.id, 60).state is JobState.COMPLETED


SOON = timedelta(seconds=4)


def test_a_waiting_job_tries_again_when_it_is_time(world: World) -> None:
    world.publish("acme/model 1.0", {"model.bin": BIG})
    with world.online() as url:
        settings = world.manager().settings
    manager = PluginManager(
        settings, now=world.clock, transfer=Transfer(Policy(attempts=1, pause_seconds=0.1))
    )
    job = manager.jobs.start("acme/model")
    waiting = until(manager, job.id, lambda event: event.state is JobState.WAITING)
    assert waiting.retry_at
    world.clock.advance(seconds=11)
    again = until(
        manager,
        job.id,
        lambda event: event.state is JobState.WAITING and event.retry_at > waiting.retry_at,
    )
    assert again.retry_at - world.clock() > timedelta(seconds=9)  # twice as long
    assert url
    manager.jobs.close()


def test_a_deadline_ends_a_job(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.start("acme/model", bytes_per_second=300_000, deadline_seconds=60)
    until(manager, job.id, lambda event: event.progress)
    model.clock.advance(seconds=61)
    with pytest.raises(NetworkError, match="by the time"):
        manager.jobs.wait(job.id, 60)


def test_a_blocked_release_cannot_be_resumed(model: World) -> None:
    manager, job = paused(model)
    model.withdraw("acme/model 1.0", "blocked", "it lies")
    model.manager().update("acme/model")
    [status] = manager.jobs.resume_status(job.id)
    assert status.resumption is Resumption.NOT_RESUMABLE
    assert "it lies" in status.why


def test_without_a_manifest_nobody_can_tell_what_is_there(model: World) -> None:
    manager, job = paused(model)
    for path in (manager.settings.store / "manifests").iterdir():
        path.unlink()
    [status] = manager.jobs.resume_status(job.id)
    assert status.resumption is Resumption.UNKNOWN


# --- the queue -------------------------------------------------------------------------------


@pytest.fixture
def several(world: World) -> Iterator[World]:
    """A world with acme/p0 to acme/p4, of 600 kB each."""
    for index in range(5):
        content = random.Random(index).randbytes(600_000)
        world.publish(f"acme/p{index} 1.0", {"p.bin": content})
    with world.online():
        yield world


def test_a_more_urgent_job_overtakes_and_no_byte_is_lost(several: World) -> None:
    manager = with_policy(several.manager(), jobs_at_once=1)
    slow = manager.jobs.start("acme/p0", priority=6, bytes_per_second=200_000)
    until(manager, slow.id, lambda event: event.progress)
    urgent = manager.jobs.start("acme/p1", priority=0)
    waiting = until(manager, slow.id, lambda event: event.state is JobState.QUEUED)
    assert waiting.why == "a more urgent job is running"
    manager.jobs.wait(urgent.id, 60)
    assert manager.jobs.get(slow.id).state is not JobState.COMPLETED
    manager.jobs.limit(None, slow.id)
    manager.jobs.wait(slow.id, 60)
    assert several.fetched() < 2 * 600_000 * 1.05 + 600_000  # one span of the first at most


def test_no_more_run_than_the_limits_say(several: World) -> None:
    manager = with_policy(several.manager(), jobs_at_once=3, jobs_per_group=2)
    jobs = [
        manager.jobs.submit(f"acme/p{i}", group="models" if i < 4 else "", bytes_per_second=300_000)
        for i in range(5)
    ]
    manager.jobs.work()
    running: dict[str, Job] = {}
    most, most_of_group = 0, 0
    for event in manager.jobs.watch(*(job.id for job in jobs)):
        running.pop(event.id, None)
        if event.state is JobState.RUNNING:
            running[event.id] = event
        most = max(most, len(running))
        most_of_group = max(most_of_group, sum(one.group == "models" for one in running.values()))
    assert (most, most_of_group) == (3, 2)
    assert len(installed(several)) == 5


def test_two_processes_share_the_queue_and_do_each_job_once(several: World) -> None:
    first, second = several.manager(), several.manager()
    jobs = [first.jobs.submit(f"acme/p{index}") for index in range(5)]
    first.jobs.work()
    second.jobs.work()
    for job in jobs:
        first.jobs.wait(job.id, 60)
    assert several.fetched() < 5 * 600_000 * 1.05
    assert len(installed(several)) == 5


def test_the_pause_of_all_holds_for_those_to_come_and_for_others(several: World) -> None:
    manager = several.manager()
    manager.jobs.pause()
    job = manager.jobs.start("acme/p0")
    assert until(manager, job.id, lambda event: event.why).why == "all jobs are paused"
    assert several.manager().jobs.paused
    several.manager().jobs.resume()
    manager.jobs.wait(job.id, 60)


def test_the_pause_of_all_stops_what_runs(several: World) -> None:
    manager = several.manager()
    job = manager.jobs.start("acme/p0", bytes_per_second=100_000)
    until(manager, job.id, lambda event: event.progress)
    manager.jobs.pause()
    assert until(manager, job.id, lambda event: event.state is JobState.QUEUED)
    manager.jobs.close()


def test_quiet_hours_are_kept(several: World) -> None:
    hours = QuietHours(
        (several.clock().astimezone() - timedelta(hours=1)).time(),
        (several.clock().astimezone() + timedelta(hours=1)).time(),
    )
    manager = with_policy(several.manager(), quiet_hours=(hours,))
    job = manager.jobs.start("acme/p0")
    assert "quiet hours until" in until(manager, job.id, lambda event: event.why).why
    several.clock.advance(hours=2)
    manager.jobs.wait(job.id, 60)


@pytest.mark.parametrize("policy", ["pause", "ask"])
def test_on_a_metered_connection_a_job_waits_until_it_is_allowed(
    several: World, policy: str
) -> None:
    settings = with_policy(several.manager(), metered=policy).settings
    manager = PluginManager(settings, now=several.clock, metered=lambda: True)
    job = manager.jobs.start("acme/p0")
    assert "metered" in until(manager, job.id, lambda event: event.why).why
    manager.jobs.resume(job.id, metered=True)
    manager.jobs.wait(job.id, 60)
    manager.close()


def test_a_limit_for_all_may_change_while_they_run(several: World) -> None:
    manager = several.manager()
    manager.jobs.limit(50_000)
    job = manager.jobs.start("acme/p0")
    until(manager, job.id, lambda event: event.progress)
    several.manager().jobs.limit(None)  # from elsewhere
    manager.jobs.wait(job.id, 60)


# --- in the foreground -----------------------------------------------------------------------


def pluginctl(world: World, *arguments: str, **options: object) -> subprocess.Popen[str]:
    settings = world.manager().settings
    command = [sys.executable, "-m", "plugin_manager.cli", "--store", str(settings.store)]
    command += ["--repository", settings.repository, "--root", str(world.root), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )  # type: ignore[call-overload]


def run(world: World, *arguments: str) -> tuple[int, str]:
    with pluginctl(world, *arguments) as process:
        out, _ = process.communicate(timeout=60)
    return process.returncode, out


def wait_for_staged(world: World) -> None:
    staging = world.manager().settings.store / "staging"
    for _ in range(600):
        with_bytes = [p for p in staging.glob("*/*") if p.stat().st_blocks * 512 > 2_000_000]
        if with_bytes:
            return
        time.sleep(0.05)
    raise AssertionError("nothing arrived")


def test_an_interrupted_command_leaves_a_job_and_says_how_to_resume_it(model: World) -> None:
    with pluginctl(model, "--max-rate", "3MB", "install", "acme/model") as process:
        wait_for_staged(model)
        listed = json.loads(run(model, "jobs", "--json")[1])
        assert [job["state"] for job in listed["jobs"]] == ["running"]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    [job] = re.findall(r"'pluginctl resume (\w+)' goes on with it", said)
    assert model.manager().jobs.get(job).state is JobState.PAUSED
    [status] = model.manager().jobs.resume_status(job)
    assert status.kept_bytes > 1_000_000
    model.fetched()
    with pluginctl(model, "resume", job) as process:
        out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "acme/model 1.0" in out
    assert model.fetched() <= status.fetch_bytes
    assert model.manager().jobs.all() == []  # the store's history tells of what ended well


def test_a_killed_command_leaves_a_job_that_nobody_takes_up_unasked(model: World) -> None:
    with pluginctl(model, "--max-rate", "3MB", "install", "acme/model") as process:
        wait_for_staged(model)
        process.kill()
    manager = model.manager()
    [job] = manager.jobs.all()
    assert (job.state, job.why) == (JobState.PAUSED, "interrupted")
    manager.jobs.work()
    time.sleep(1)
    assert manager.jobs.get(job.id).state is JobState.PAUSED
    manager.jobs.resume(job.id)
    manager.jobs.wait(job.id, 60)


def test_a_command_can_be_stopped_from_elsewhere(model: World) -> None:
    with pluginctl(model, "--max-rate", "1MB", "install", "acme/model") as process:
        wait_for_staged(model)
        [job] = model.manager().jobs.active()
        model.manager().jobs.cancel(job.id, keep=False)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 17, said
    assert model.manager().jobs.get(job.id).state is JobState.CANCELLED
    assert list((model.manager().settings.store / "staging").iterdir()) == []


def test_a_command_that_fails_otherwise_leaves_no_job(model: World) -> None:
    with pytest.raises(NotFoundError):
        model.manager().install("acme/nothing")
    assert model.manager().jobs.all() == []


def test_the_commands_for_jobs(several: World) -> None:
    manager = several.manager()
    job = manager.jobs.submit("acme/p0", priority=3)
    assert "queued" in run(several, "jobs")[1]
    assert run(several, "pause", job.id[:6]) == (0, "paused install acme/p0\n")
    value = json.loads(run(several, "jobs", "--json")[1])
    assert value["jobs"][0]["state"] == "paused"
    assert value["jobs"][0]["priority"] == 3
    assert run(several, "cancel")[0] == 2
    assert run(several, "cancel", job.id, "--remove")[0] == 0
    assert manager.jobs.get(job.id).state is JobState.CANCELLED
    assert run(several, "watch", job.id) == (0, "install acme/p0: cancelled\n")
    assert run(several, "pause", "00000000")[0] == 4


# --- at odd moments ------------------------------------------------------------------------------


def test_who_waits_for_another_s_command_learns_of_its_end(model: World) -> None:
    with pluginctl(model, "--max-rate", "4MB", "install", "acme/model") as process:
        wait_for_staged(model)
        manager = model.manager()
        [job] = manager.jobs.active()
        assert until(manager, job.id, lambda event: event.progress).progress.total_bytes > len(BIG)
        assert manager.jobs.wait(job.id, 60).state is JobState.COMPLETED
        process.communicate(timeout=30)


def test_a_record_that_is_removed_ends_the_waiting(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.submit("acme/model")
    watching = manager.jobs.watch(job.id)
    next(watching)
    JobRecords(manager.settings.store).remove(job.id)
    assert list(watching) == []
    with pytest.raises(NotFoundError):
        manager.jobs.wait(job.id)


def test_a_child_of_a_fork_keeps_nothing_locked(model: World) -> None:
    manager, job = half_fetched(model)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        manager.jobs.limit(None, job.id)
        manager.jobs.wait(job.id, 30)
        assert model.manager().load("acme/model").read("model.bin") == BIG
        manager.jobs.start("acme/model")
        assert manager.jobs.wait(job.id, 30).state is JobState.COMPLETED
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_going_on_offline_keeps_what_could_be_resumed(model: World) -> None:
    manager, job = paused(model)
    settings = evolve(manager.settings, repository="http://127.0.0.1:9/")
    offline = PluginManager(settings, transfer=Transfer(Policy(attempts=1)))
    with pytest.raises(NetworkError):
        offline.install("acme/model")
    [status] = manager.jobs.resume_status(job.id)
    assert status.kept_bytes > 0


def test_a_command_that_breaks_off_leaves_a_queued_job_queued(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.submit("acme/model", priority=1)
    settings = evolve(manager.settings, repository="http://127.0.0.1:9/")
    with pytest.raises(NetworkError):
        PluginManager(settings, transfer=Transfer(Policy(attempts=1))).install("acme/model")
    after = manager.jobs.get(job.id)
    assert (after.state, after.priority) == (JobState.QUEUED, 1)


def test_a_job_that_a_command_is_doing_already_is_done_once(model: World) -> None:
    with pluginctl(model, "--max-rate", "4MB", "install", "acme/model") as process:
        wait_for_staged(model)
        manager = model.manager()
        job = manager.jobs.start("acme/model")
        assert manager.jobs.wait(job.id, 60).state is JobState.COMPLETED
        process.communicate(timeout=30)
    assert [record.number for record in manager.history()] == [1]


def test_what_is_completed_cannot_be_cancelled(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.start("acme/model")
    manager.jobs.wait(job.id)
    manager.jobs.cancel(job.id)
    assert manager.jobs.wait(job.id).state is JobState.COMPLETED


def test_a_manager_goes_on_after_one_of_its_commands_was_stopped(model: World) -> None:
    settings = evolve(model.manager().settings, max_bytes_per_second=2_000_000)
    manager, errors = PluginManager(settings, now=model.clock), []

    def install() -> None:
        try:
            manager.install("acme/model")
        except CancelledError as error:
            errors.append(error)

    thread = threading.Thread(target=install)
    thread.start()
    wait_for_staged(model)
    [job] = model.manager().jobs.active()
    model.manager().jobs.pause(job.id)
    thread.join(30)
    assert [error.message for error in errors] == ["it was stopped"]
    manager.update("acme/model")
    manager._parts.remote.transfer.limit.bytes_per_second = None
    manager.install("acme/model")


def test_a_job_that_waits_for_the_store_can_be_cancelled(model: World) -> None:
    manager = model.manager()
    manager.jobs.submit("acme/model")
    with manager._store.writing():
        other = model.manager()
        other.jobs.work()
        [job] = other.jobs.all()
        until(other, job.id, lambda event: "waits" in event.why)
        other.jobs.cancel(job.id)
        assert other.jobs.get(job.id).state is JobState.CANCELLED
        other.jobs.close()


def test_what_a_host_says_of_the_connection_may_fail(several: World) -> None:
    def broken() -> bool:
        raise OSError("no bus")

    settings = with_policy(several.manager(), metered="pause").settings
    manager = PluginManager(settings, now=several.clock, metered=broken)
    job = manager.jobs.start("acme/p0")
    assert manager.jobs.wait(job.id, 60).state is JobState.COMPLETED
    manager.close()


def test_starting_again_while_it_is_being_cancelled_starts_it(model: World) -> None:
    manager, job = half_fetched(model)
    records = JobRecords(manager.settings.store)
    wish = records.wish(job.id)
    assert wish
    records.keep_wish(evolve(wish, want=Want.CANCEL))
    manager.jobs.start("acme/model")
    assert manager.jobs.wait(job.id, 60).state is JobState.COMPLETED


@pytest.mark.parametrize(
    "wishes",
    [
        {"priority": 11}, {"priority": 2.5}, {"group": "x" * 201}, {"group": "a\nb"},
        {"bytes_per_second": 0}, {"bytes_per_second": -1}, {"bytes_per_second": 1.5},
        {"deadline_seconds": float("nan")}, {"deadline_seconds": 1e12}, {"action": "remove"},
    ],
)  # fmt: skip
def test_wishes_that_make_no_sense_are_refused(world: World, wishes: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        world.manager().jobs.submit("acme/model", **wishes)  # type: ignore[arg-type]
    assert caught.value.remedy
    assert world.manager().jobs.all() == []


def test_what_it_failed_with_is_the_same_whoever_asks(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.start("acme/nothing")
    for one in (manager, manager, model.manager()):
        with pytest.raises(NotFoundError):
            one.jobs.wait(job.id, 60)


def test_progress_of_an_earlier_attempt_is_not_shown(model: World) -> None:
    manager = model.manager()
    job = manager.jobs.start("acme/model")
    manager.jobs.wait(job.id)
    assert manager.jobs.submit("acme/model").progress is None


def test_wishes_of_several_processes_do_not_undo_one_another(model: World) -> None:
    job = model.manager().jobs.submit("acme/model")

    def prioritise() -> None:
        other = model.manager()
        for index in range(60):
            other.jobs.prioritise(job.id, index % 10)

    threads = [threading.Thread(target=prioritise) for _ in range(2)]
    for thread in threads:
        thread.start()
    mine = model.manager()
    for _ in range(30):
        mine.jobs.pause(job.id)
        assert mine.jobs.get(job.id).state is JobState.PAUSED
        mine.jobs.resume(job.id)
    mine.jobs.pause(job.id)
    for thread in threads:
        thread.join()
    assert mine.jobs.get(job.id).state is JobState.PAUSED


def test_jobs_are_not_lost_to_those_who_clean_up(model: World) -> None:
    over = threading.Event()

    def clean() -> None:
        while not over.is_set():
            model.manager().cleanup()

    thread = threading.Thread(target=clean)
    thread.start()
    try:
        manager = model.manager()
        jobs = [manager.jobs.submit(f"acme/p{index}") for index in range(60)]
    finally:
        over.set()
        thread.join()
    assert {job.id for job in manager.jobs.all()} == {job.id for job in jobs}


# --- on asyncio ------------------------------------------------------------------------------


def test_the_same_on_asyncio(several: World) -> None:
    async def story() -> list[Job]:
        manager = several.manager()
        jobs = manager.async_jobs
        first = await jobs.start("acme/p0", bytes_per_second=400_000)
        second = await jobs.start("acme/p1")
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.02)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await jobs.pause(first.id)
        while (await jobs.get(first.id)).state is not JobState.PAUSED:
            await asyncio.sleep(0.05)
        await jobs.resume(first.id)
        events = [event async for event in jobs.watch(first.id, second.id)]
        done = await jobs.wait(first.id)
        assert done.state is JobState.COMPLETED
        assert await jobs.active() == []
        with pytest.raises(NotFoundError):
            await jobs.wait((await jobs.start("acme/nothing")).id)
        ticking.cancel()
        assert ticks > 10  # the loop was never kept waiting for long
        return events

    events = asyncio.run(story())
    assert [event.state for event in events if event.state.final] == [JobState.COMPLETED] * 2
    assert len(installed(several)) == 2


def test_a_task_that_stops_watching_leaves_no_thread(several: World) -> None:
    async def story() -> None:
        jobs = several.manager().async_jobs
        job = await jobs.submit("acme/p0")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await jobs.wait(job.id)

    asyncio.run(story())
    for _ in range(100):
        if "jobs-watch" not in {thread.name for thread in threading.enumerate()}:
            return
        time.sleep(0.05)
    raise AssertionError("it still watches")


# --- the records -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wish.json", "standing.json", "progress.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 9}', b"\xff", b"[" * 100_000, None]
)
def test_damaged_records_harm_nobody_else(
    several: World, name: str, content: bytes | None, tmp_path: Path
) -> None:
    manager = several.manager()
    spoilt, sound = manager.jobs.submit("acme/p0"), manager.jobs.submit("acme/p1")
    path = manager.settings.store / "jobs" / spoilt.id / name
    path.unlink(missing_ok=True)
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    manager.jobs.work()
    manager.jobs.wait(sound.id, 60)
    if name != "wish.json":
        manager.jobs.wait(spoilt.id, 60)
    else:
        assert spoilt.id not in {job.id for job in manager.jobs.all()}
        manager.cleanup()
        assert spoilt.id not in JobRecords(manager.settings.store).ids()
