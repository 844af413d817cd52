"""How the agent of a store is doing: for any process, which need not be able to be one."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from plugin_manager._attrs import frozen
from plugin_manager.agent import _record
from plugin_manager.agent._lock import holder

__all__ = ["AgentStatus", "status"]


@frozen
class AgentStatus:
    """How the agent of a store is doing.

    `pid` is None where it does not run, or in another container; `embedded`: it is a thread of a
    host. `doing` is "" where it waits. `last_update`, `last_scrub` are when these were last done
    to the end; `scrub_findings` what the last scrub (or that under way) found, in sentences. All
    but `running`, `pid` and `embedded` is what the agent noted, and anybody could have.
    """

    running: bool
    pid: int | None = None
    embedded: bool = False
    since: datetime | None = None
    doing: str = ""
    last_update: datetime | None = None
    last_scrub: datetime | None = None
    scrub_findings: tuple[str, ...] = ()


def status(store: str | os.PathLike[str]) -> AgentStatus:
    """How the agent of the store in the directory `store` is doing; for any process."""
    found, record = holder(Path(store)), _record.read(Path(store))
    return AgentStatus(
        running=found.running,
        pid=found.pid,
        embedded=found.running and not found.stoppable,
        since=record.since if found.running else None,
        doing=record.doing if found.running else "",
        last_update=record.updated,
        last_scrub=record.scrubbed,
        scrub_findings=record.findings,
    )
