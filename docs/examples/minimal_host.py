"""A host in thirty lines: python minimal_host.py STORE ROOT_FILE NAME."""

import sys

import pluggy

from plugin_manager import PluginManager


class Hooks:
    @pluggy.HookspecMarker("minimal_host")
    def greet(self, name: str) -> str:
        """A greeting for `name`."""


store, root, name = sys.argv[1:]
hooks = pluggy.PluginManager("minimal_host")
hooks.add_hookspecs(Hooks)

with PluginManager.open(store, root=root) as manager:
    for active in manager.installed():
        try:
            plugin = manager.load(active.release.plugin)  # verified here and now, offline
            for entry_point in plugin.entry_points_in("minimal_host"):
                hooks.register(entry_point.load(), f"{plugin.name} {entry_point.name}")
        except Exception as error:  # refused, or broken: the others go on
            print(f"{active.release} is left out: {error}", file=sys.stderr)
    for greeting in hooks.hook.greet(name=name):
        print(greeting)
