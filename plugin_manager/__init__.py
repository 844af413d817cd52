"""Plugin Manager: signed plugins and model files, verified at every load, rolled back in a blink.

    from plugin_manager import PluginManager

    manager = PluginManager.open("store", "https://plugins.example.org/", root="root.json")
    manager.install("acme/maps")
    plugin = manager.load("acme/maps")

Errors are in `plugin_manager.errors`; each family says what the caller can do about it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from plugin_manager.errors import PluginManagerError

if TYPE_CHECKING:
    from plugin_manager.loader import LoadedPlugin
    from plugin_manager.manager import (
        Event,
        Inspection,
        Job,
        JobState,
        LoadAll,
        Plan,
        PluginManager,
        Progress,
        Report,
        Step,
        Trial,
    )
    from plugin_manager.model import PluginName, PluginRequirement, Release
    from plugin_manager.settings import Settings
    from plugin_manager.trust import Expiry

__version__ = "0.1.0"

_HOMES = {
    "Event": "manager",
    "Expiry": "trust",
    "Inspection": "manager",
    "Job": "manager",
    "JobState": "manager",
    "LoadAll": "manager",
    "LoadedPlugin": "loader",
    "Plan": "manager",
    "PluginManager": "manager",
    "PluginName": "model",
    "PluginRequirement": "model",
    "Progress": "manager",
    "Release": "model",
    "Report": "manager",
    "Settings": "settings",
    "Step": "manager",
    "Trial": "manager",
}

__all__ = [
    "Event",
    "Expiry",
    "Inspection",
    "Job",
    "JobState",
    "LoadAll",
    "LoadedPlugin",
    "Plan",
    "PluginManager",
    "PluginManagerError",
    "PluginName",
    "PluginRequirement",
    "Progress",
    "Release",
    "Report",
    "Settings",
    "Step",
    "Trial",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: `import plugin_manager` stays quick."""
    if home := _HOMES.get(name):
        return getattr(import_module(f"plugin_manager.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
