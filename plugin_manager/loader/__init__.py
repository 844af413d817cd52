"""Loading a release's files and Python modules into this process, everything verified as it is."""

from plugin_manager.loader._plugin import LoadedPlugin, load

__all__ = ["LoadedPlugin", "load"]
