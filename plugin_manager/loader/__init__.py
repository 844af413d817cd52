"""Loading a release's files and Python modules into this process, everything verified as it is."""

from plugin_manager.loader._plugin import LoadedPlugin, check_verify, load

__all__ = ["LoadedPlugin", "check_verify", "load"]
