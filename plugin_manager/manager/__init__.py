"""The use cases, wired: what `plugin_manager` offers to hosts and to the command line."""

from plugin_manager.manager._manager import PluginManager
from plugin_manager.manager._plan import Cleanup, Plan, Step
from plugin_manager.manager._progress import Progress
from plugin_manager.manager._report import Inspection, Report

__all__ = ["Cleanup", "Inspection", "Plan", "PluginManager", "Progress", "Report", "Step"]
