"""The use cases, wired: what `plugin_manager` offers to hosts and to the command line."""

from plugin_manager.manager._inspection import Inspection, Report
from plugin_manager.manager._manager import PluginManager
from plugin_manager.manager._plan import Cleanup, Plan, Progress, Step

__all__ = ["Cleanup", "Inspection", "Plan", "PluginManager", "Progress", "Report", "Step"]
