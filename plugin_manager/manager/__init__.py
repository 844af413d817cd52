"""The use cases, wired: what `plugin_manager` offers to hosts and to the command line."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugin_manager.manager._activity import Activity, ActivityLog
    from plugin_manager.manager._events import Event, LoadAll, Trial
    from plugin_manager.manager._job import Job, ResumeStatus, Resumption
    from plugin_manager.manager._manager import PluginManager
    from plugin_manager.manager._offers import Offer, Offered
    from plugin_manager.manager._plan import Cleanup, Plan, Step
    from plugin_manager.manager._progress import Progress
    from plugin_manager.manager._report import Inspection, Report
    from plugin_manager.store import JobState

_HOMES = {
    "Activity": "manager._activity",
    "ActivityLog": "manager._activity",
    "Cleanup": "manager._plan",
    "Event": "manager._events",
    "Inspection": "manager._report",
    "Job": "manager._job",
    "JobState": "store",
    "LoadAll": "manager._events",
    "Offer": "manager._offers",
    "Offered": "manager._offers",
    "Plan": "manager._plan",
    "PluginManager": "manager._manager",
    "Progress": "manager._progress",
    "Report": "manager._report",
    "ResumeStatus": "manager._job",
    "Resumption": "manager._job",
    "Step": "manager._plan",
    "Trial": "manager._events",
}

__all__ = [
    "Activity",
    "ActivityLog",
    "Cleanup",
    "Event",
    "Inspection",
    "Job",
    "JobState",
    "LoadAll",
    "Offer",
    "Offered",
    "Plan",
    "PluginManager",
    "Progress",
    "Report",
    "ResumeStatus",
    "Resumption",
    "Step",
    "Trial",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: who only looks needs few of them."""
    if home := _HOMES.get(name):
        value = globals()[name] = getattr(import_module(f"plugin_manager.{home}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
