"""The use cases, wired: what `plugin_manager` offers to hosts and to the command line."""

from plugin_manager.manager._manager import Inspection, PluginManager, Report
from plugin_manager.manager._plan import Plan, Progress, Step

__all__ = ["Inspection", "Plan", "PluginManager", "Progress", "Report", "Step"]
