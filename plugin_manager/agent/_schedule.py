"""What an agent does when: pure, from what was done when, what is wanted, and the time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from plugin_manager._attrs import frozen
from plugin_manager.agent._record import Record
from plugin_manager.settings import AgentPolicy

__all__ = ["Due", "Task", "agenda", "pause_after"]

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(minutes=10), timedelta(hours=6)
_SPREAD = timedelta(minutes=1)


class Task(StrEnum):
    """Something that an agent does unasked; those that are due at once are done in this order."""

    UPDATE = "bringing fresh metadata"
    REPAIR = "mending what is damaged"
    COLLECT = "removing what nobody needs"
    SCRUB = "checking what is installed"


_ORDER = list(Task)


@frozen
class Due:
    """A task, and from when on it is due."""

    at: datetime
    task: Task


def agenda(
    record: Record,
    policy: AgentPolicy,
    now: datetime,
    *,
    begun: datetime,
    jitter: float,
    put_off: Mapping[Task, datetime],
) -> list[Due]:
    """What is to be done and from when on, the next first, by an agent that runs since `begun`.

    `jitter` (from 0 to 1) moves updates: a tenth of their interval to both sides, and by a minute
    where one is overdue as the agent begins, so that not all ask at once who were switched on at
    once. `put_off`: what failed is not tried again before. What would have to wait for longer than
    it ever does, somebody has set the clock back for.
    """
    begun = min(begun, now)

    def every(last: datetime | None, interval: timedelta, late: timedelta) -> datetime:
        # A moment in the future: somebody has set the clock back, and it says nothing any more.
        if last is None or last > now:
            return begun + late
        return max(last + interval, begun + late)

    found = []
    if policy.update_hours:
        interval = timedelta(hours=policy.update_hours)
        spread = interval * (0.9 + 0.2 * jitter)
        late = jitter * min(_SPREAD, interval)
        found.append(Due(every(record.updated, spread, late), Task.UPDATE))
    if policy.repair and record.damaged:
        found.append(Due(begun, Task.REPAIR))
    if policy.collect_hours:
        interval = timedelta(hours=policy.collect_hours)
        found.append(Due(every(record.collected, interval, timedelta()), Task.COLLECT))
    if policy.scrub_days:
        interval = timedelta(days=policy.scrub_days)
        under_way = record.scrub_begun is not None
        at = begun if under_way else every(record.scrubbed, interval, timedelta())
        found.append(Due(at, Task.SCRUB))
    waits = {task: at for task, at in put_off.items() if at <= now + _LONGEST_PAUSE}
    found = [Due(max(one.at, waits.get(one.task, one.at)), one.task) for one in found]
    return sorted(found, key=lambda one: (max(one.at, now), _ORDER.index(one.task)))


def pause_after(failures: int) -> timedelta:
    """For how long a task is put off that has failed so many times in a row."""
    return min(_FIRST_PAUSE * (1 << min(failures - 1, 20)), _LONGEST_PAUSE)
