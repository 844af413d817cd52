"""What is due when: no clock, no disk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager.agent._record import Record
from plugin_manager.agent._schedule import Task, agenda, pause_after
from plugin_manager.model import PluginName
from plugin_manager.settings import AgentPolicy

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
POLICY = AgentPolicy(update_hours=6, scrub_days=30, collect_hours=24)
DONE = Record(updated=NOW, scrubbed=NOW, collected=NOW)


def planned(
    record: Record,
    now: datetime = NOW,
    policy: AgentPolicy = POLICY,
    *,
    jitter: float = 0.5,
    put_off: dict[Task, datetime] | None = None,
    begun: datetime = NOW - DAY,
) -> dict[Task, datetime]:
    found = agenda(record, policy, now, begun=begun, jitter=jitter, put_off=put_off or {})
    return {due.task: due.at for due in found}


def due(record: Record, now: datetime = NOW, **more: object) -> list[Task]:
    return [task for task, at in planned(record, now, **more).items() if at <= now]  # type: ignore[arg-type]


def test_a_new_agent_does_everything_metadata_first() -> None:
    assert due(Record()) == [Task.UPDATE, Task.COLLECT, Task.SCRUB]


def test_nothing_is_due_before_its_time() -> None:
    assert due(DONE) == []
    assert due(DONE, NOW + 5 * HOUR) == []
    assert due(DONE, NOW + 7 * HOUR) == [Task.UPDATE]
    assert due(evolve(DONE, updated=NOW + DAY), NOW + DAY) == [Task.COLLECT]
    later = NOW + 31 * DAY
    assert due(evolve(DONE, updated=later, collected=later), later) == [Task.SCRUB]


@pytest.mark.parametrize(("jitter", "hours"), [(0, 5.4), (0.5, 6), (1, 6.6)])
def test_jitter_moves_updates_by_a_tenth(jitter: float, hours: float) -> None:
    assert planned(DONE, jitter=jitter)[Task.UPDATE] == NOW + hours * HOUR


def test_who_is_switched_on_at_once_does_not_ask_at_once() -> None:
    long_ago = evolve(DONE, updated=NOW - 10 * DAY)
    first, second = (
        planned(long_ago, begun=NOW, jitter=jitter)[Task.UPDATE] for jitter in (0.1, 0.9)
    )
    assert NOW <= first < second <= NOW + timedelta(minutes=1)


def test_what_is_zero_is_never_done() -> None:
    never = AgentPolicy(update_hours=0, scrub_days=0, collect_hours=0)
    assert planned(Record(), policy=never) == {}


def test_a_scrub_under_way_goes_on_whenever_it_began() -> None:
    assert due(evolve(DONE, scrub_begun=NOW - DAY)) == [Task.SCRUB]


def test_damage_is_mended_before_anything_slow_unless_told_otherwise() -> None:
    damaged = evolve(DONE, damaged=(PluginName.parse("acme/maps"),), scrub_begun=NOW)
    assert due(damaged) == [Task.REPAIR, Task.SCRUB]
    assert due(damaged, policy=evolve(POLICY, repair=False)) == [Task.SCRUB]


def test_what_failed_is_put_off() -> None:
    later = NOW + timedelta(minutes=10)
    assert Task.UPDATE not in due(Record(), put_off={Task.UPDATE: later})
    assert Task.UPDATE in due(Record(), later, put_off={Task.UPDATE: later})


def test_a_clock_that_was_set_back_stops_nothing() -> None:
    """Control: the moments are believed where they are past."""
    future = Record(updated=NOW + 900 * DAY, scrubbed=NOW + 900 * DAY, collected=NOW + DAY)
    assert due(future) == [Task.UPDATE, Task.COLLECT, Task.SCRUB]
    assert due(DONE) == []


def test_an_agent_that_began_while_the_clock_was_ahead_goes_on() -> None:
    ahead = NOW + 900 * DAY
    damaged = evolve(Record(), damaged=(PluginName.parse("acme/maps"),))
    put_off = dict.fromkeys(Task, ahead + 6 * HOUR)
    everything = [Task.UPDATE, Task.REPAIR, Task.COLLECT, Task.SCRUB]
    assert due(damaged, NOW, begun=ahead, jitter=0.0) == everything
    assert due(damaged, NOW, put_off=put_off) == everything
    assert due(DONE, NOW + 7 * HOUR, begun=ahead, jitter=0.0) == [Task.UPDATE]
    # Control: what may be, is waited for.
    assert due(damaged, NOW, put_off=dict.fromkeys(Task, NOW + 6 * HOUR)) == []


def test_pauses_double_to_six_hours() -> None:
    assert [pause_after(n) / timedelta(minutes=1) for n in (1, 2, 3)] == [10, 20, 40]
    assert pause_after(1000) == 6 * HOUR


moments = st.none() | st.datetimes(timezones=st.just(UTC))


@given(st.builds(Record, updated=moments, scrubbed=moments, scrub_begun=moments,
                 collected=moments), st.floats(0, 1))  # fmt: skip
def test_whatever_is_remembered_each_task_comes_within_its_interval(
    record: Record, jitter: float
) -> None:
    found = planned(record, jitter=jitter, begun=NOW)
    assert set(found) == {Task.UPDATE, Task.SCRUB, Task.COLLECT}
    assert found[Task.UPDATE] <= NOW + 6.6 * HOUR
    assert found[Task.SCRUB] <= NOW + 30 * DAY
    assert found[Task.COLLECT] <= NOW + DAY
