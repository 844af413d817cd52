"""`pluginctl`: the operator's and the publisher's command."""

from __future__ import annotations

import gc
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command; ends the process with a documented exit code."""
    # A command is short, and most of what it makes stays alive to its end: looking through it for
    # garbage again and again takes a third of the time. From before anything else is imported.
    gc.set_threshold(100_000, 50, 100)
    _open_what_is_closed()
    try:
        from plugin_manager.cli._commands import run  # noqa: PLC0415 - as above

        run()
    except KeyboardInterrupt:  # before there was anything to resume
        sys.exit(130)
    finally:
        gc.freeze()  # nor once more on the way out


def _open_what_is_closed() -> None:
    """Have a standard stream that was closed lead nowhere: Python has None in its place.

    In this order, each gets the number that it is known by, and no file of the store does.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
