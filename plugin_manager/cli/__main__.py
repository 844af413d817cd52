"""`python -m plugin_manager.cli` is `pluginctl`."""

from plugin_manager.cli import main

main()
