"""Which jobs run: the most urgent that the limits admit; nobody makes way for his like."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plugin_manager.manager._schedule import Contender, chosen, obstacle
from plugin_manager.settings import QueuePolicy, QuietHours
from plugin_manager.store import QueueWish, Wish

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)

contenders = st.lists(
    st.builds(
        Contender,
        id=st.text("abcdef", min_size=1, max_size=4),
        priority=st.integers(0, 10),
        group=st.sampled_from(["", "models", "maps"]),
        submitted=st.integers(0, 5).map(lambda hours: NOON + timedelta(hours=hours)),
        running=st.booleans(),
    ),
    unique_by=lambda one: one.id,
)
policies = st.builds(QueuePolicy, jobs_at_once=st.integers(1, 4), jobs_per_group=st.integers(0, 2))


@given(contenders, policies)
def test_limits_are_kept_and_no_place_stays_empty(
    jobs: list[Contender], policy: QueuePolicy
) -> None:
    wanted = chosen(jobs, policy)
    by_id = {job.id: job for job in jobs}
    groups = Counter(by_id[job].group for job in wanted)
    assert len(wanted) <= policy.jobs_at_once
    limited = {g: n for g, n in groups.items() if g and policy.jobs_per_group}
    assert all(count <= policy.jobs_per_group for count in limited.values())
    if len(wanted) < policy.jobs_at_once:
        left = [job for job in jobs if job.id not in wanted]
        assert all(limited.get(job.group) == policy.jobs_per_group for job in left)


@given(contenders, policies)
def test_who_waits_is_no_more_urgent_than_who_runs_in_its_place(
    jobs: list[Contender], policy: QueuePolicy
) -> None:
    wanted = set(chosen(jobs, policy))
    for waiting in (job for job in jobs if job.id not in wanted):
        grouped = waiting.group and policy.jobs_per_group
        like = [job for job in jobs if job.id in wanted and job.group == waiting.group]
        group_full = grouped and len(like) == policy.jobs_per_group
        rivals = like if group_full else [job for job in jobs if job.id in wanted]
        assert all(job.priority <= waiting.priority for job in rivals)


@given(contenders, policies)
def test_a_running_job_makes_way_for_more_urgent_ones_only(
    jobs: list[Contender], policy: QueuePolicy
) -> None:
    running = [job for job in jobs if job.running]
    assume(set(chosen(running, policy)) == {job.id for job in running})  # as they could be
    wanted = set(chosen(jobs, policy))
    for stopped in (job for job in running if job.id not in wanted):
        begun = [job for job in jobs if job.id in wanted and not job.running]
        assert any(job.priority < stopped.priority for job in begun)
        if not (stopped.group and policy.jobs_per_group):
            assert all(job.priority < stopped.priority for job in begun)


def test_first_come_first_served_among_equals() -> None:
    jobs = [
        Contender(name, 5, "", NOON + timedelta(minutes=minutes))
        for name, minutes in (("c", 3), ("a", 1), ("b", 2))
    ]
    assert chosen(jobs, QueuePolicy(jobs_at_once=2)) == ["a", "b"]


def wish(**more: object) -> Wish:
    return Wish("install", ("acme/maps",), NOON, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("queue", "policy", "metered", "allowed", "expected"),
    [
        (QueueWish(), QueuePolicy(), True, False, ""),
        (QueueWish(paused=True), QueuePolicy(), False, True, "all jobs are paused"),
        (QueueWish(), QueuePolicy(metered="pause"), False, False, ""),
        (QueueWish(), QueuePolicy(metered="pause"), True, False, "the connection is metered"),
        (QueueWish(), QueuePolicy(metered="pause"), True, True, ""),
        (
            QueueWish(),
            QueuePolicy(metered="ask"),
            True,
            False,
            "the connection is metered: waits to be allowed",
        ),
        (QueueWish(), QueuePolicy(metered="ask"), True, True, ""),
    ],
)
def test_what_keeps_a_job_from_fetching(
    queue: QueueWish, policy: QueuePolicy, metered: bool, allowed: bool, expected: str
) -> None:
    found = obstacle(wish(metered=allowed), queue, policy, metered=metered, local=NOON)
    assert found == expected


def test_quiet_hours_keep_every_job_from_fetching() -> None:
    policy = QueuePolicy(quiet_hours=(QuietHours(time(8), time(18)), QuietHours(time(22), time(2))))
    told = {
        hour: obstacle(
            wish(metered=True), QueueWish(), policy, metered=False, local=NOON.replace(hour=hour)
        )
        for hour in (1, 2, 8, 17, 18, 23)
    }
    early, work = "quiet hours until 02:00", "quiet hours until 18:00"
    assert told == {1: early, 2: "", 8: work, 17: work, 18: "", 23: early}
