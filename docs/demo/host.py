"""A greeting application: it greets in every language that somebody wrote a plugin for.

    python host.py STORE REPOSITORY_URL ROOT_FILE

It loads what is installed in STORE. Loading needs no network: each plugin is verified here and now.
"""

import sys

from plugin_manager import PluginManager, PluginManagerError

store, repository, root = sys.argv[1:]

manager = PluginManager.open(store, repository, root, host_version="1.0")
for active in manager.installed():
    try:
        plugin = manager.load(active.release.plugin)
    except PluginManagerError as error:  # one bad plugin does not take the application down
        print(f"{active.release}: left out. {error}")
        continue
    greetings = plugin.entry_points_in("demo.greetings")
    for entry_point in greetings:
        greet = entry_point.load()
        print(f"{plugin.release} says: {greet('world')}")
    if not greetings:
        size = sum(len(plugin.read(path)) for path in plugin.files)
        print(f"{plugin.release} brings {len(plugin.files)} files of data, {size:,} bytes")
