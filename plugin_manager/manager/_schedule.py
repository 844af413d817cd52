"""Which jobs run now: by priority, within limits, and not when the policy says otherwise. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from plugin_manager._attrs import frozen
from plugin_manager.settings import QueuePolicy
from plugin_manager.store import QueueWish, Wish

__all__ = ["Contender", "chosen", "obstacle"]


@frozen
class Contender:
    """A job that could run, or is `running`; `priority` 0 is the highest."""

    id: str
    priority: int
    group: str
    submitted: datetime
    running: bool = False


def chosen(contenders: Iterable[Contender], policy: QueuePolicy) -> list[str]:
    """The ids of the jobs that shall run, the most urgent first.

    A running one makes way for one of a higher priority, not for one of its own.
    """
    found: list[str] = []
    groups: Counter[str] = Counter()
    for one in sorted(
        contenders, key=lambda one: (one.priority, not one.running, one.submitted, one.id)
    ):
        if len(found) == policy.jobs_at_once:
            break
        if one.group and policy.jobs_per_group and groups[one.group] == policy.jobs_per_group:
            continue
        found.append(one.id)
        groups[one.group] += 1
    return found


def obstacle(
    wish: Wish, queue: QueueWish, policy: QueuePolicy, *, metered: bool, local: datetime
) -> str:
    """Why a job must not fetch now; "" where it may. `local` is the time here."""
    if queue.paused:
        return "all jobs are paused"
    for hours in policy.quiet_hours:
        if hours.covers(local.time()):
            return f"quiet hours until {hours.stop:%H:%M}"
    if metered and not wish.metered:
        if policy.metered == "pause":
            return "the connection is metered"
        if policy.metered == "ask":
            return "the connection is metered: waits to be allowed"
    return ""
