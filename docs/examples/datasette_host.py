"""Datasette, with the plugins that a store holds; none of them is installed with pip.

    python datasette_host.py serve data.db --port 8001

The environment names the store and the pinned root (PLUGINCTL_STORE, PLUGINCTL_ROOT).
"""

import sys

from plugin_manager import PluginManager


def load_plugins(manager: PluginManager) -> None:
    """Load what is installed, everything verified; what is refused is left out, and said."""
    for plugin, error in manager.load_all().refused.items():
        print(f"{plugin} is left out: {error}", file=sys.stderr)


def main() -> None:
    """Run datasette's own command."""
    load_plugins(PluginManager.open())
    # Only now: datasette's pluggy manager looks for entry points while this is imported.
    from datasette.cli import cli  # noqa: PLC0415

    cli()


if __name__ == "__main__":
    main()
