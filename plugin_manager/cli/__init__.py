"""`pluginctl`: the operator's and the publisher's command."""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command; ends the process with a documented exit code."""
    # A command is short, and most of what it makes stays alive to its end: looking through it for
    # garbage again and again takes a third of the time. From before anything else is imported.
    gc.set_threshold(100_000, 50, 100)
    try:
        from plugin_manager.cli._commands import run  # noqa: PLC0415 - as above

        run()
    except KeyboardInterrupt:  # before there was anything to resume
        sys.exit(130)
    finally:
        gc.freeze()  # nor once more on the way out
