"""The use cases, wired: what `plugin_manager` offers to hosts and to the command line."""

from plugin_manager.manager._activity import Activity, ActivityLog
from plugin_manager.manager._events import Event, LoadAll, Trial
from plugin_manager.manager._job import Job, ResumeStatus, Resumption
from plugin_manager.manager._manager import PluginManager
from plugin_manager.manager._offers import Offer, Offered
from plugin_manager.manager._plan import Cleanup, Plan, Step
from plugin_manager.manager._progress import Progress
from plugin_manager.manager._report import Inspection, Report
from plugin_manager.store import JobState

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
