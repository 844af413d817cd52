"""The command that shows a store in the browser."""

from __future__ import annotations

import os
import signal
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from html import escape
from pathlib import Path

import click
from attrs import evolve

from plugin_manager.cli._opening import open_manager
from plugin_manager.cli._options import json_option
from plugin_manager.cli._output import Session
from plugin_manager.errors import InvalidInputError
from plugin_manager.manager import PluginManager

__all__ = ["COMMANDS"]

_LOCK_SECONDS = 30.0  # a page that waits for ever looks broken


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Of this machine. [any free one]"
)
@click.option("--no-browser", is_flag=True, help="Only print the link.")
@json_option
def dashboard(port: int, no_browser: bool, as_json: bool) -> None:
    """Show plugins, downloads and space in the browser, and steer them there.

    Only this machine reaches it, and only with the link that is printed, which is good for one
    browser. Works at queued jobs, unless the store has an agent. Ctrl-C ends it.

    With --json it opens no browser and prints a line once it can be asked: its address, the file
    with the token for it, which only its owner can read and which goes as it ends, and its process.
    """
    try:
        from plugin_manager.dashboard import Dashboard  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"the dashboard needs {error.name}",
            remedy="Run pip install 'plugin-manager[dashboard]'.",
        ) from error
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        settings = manager.settings
    if settings.lock_timeout_seconds < 0:
        settings = evolve(settings, lock_timeout_seconds=_LOCK_SECONDS)
    served = Dashboard(lambda: PluginManager(settings), port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    with ExitStack() as stack:
        if session.as_json:
            file = stack.enter_context(_private("token", served.token))
            session.line({"address": served.address, "token_file": str(file), "pid": os.getpid()})
        else:
            session.say(f"The dashboard of {settings.store} is at", f"  {served.link()}")
            session.say("The link is good for one browser. Ctrl-C ends the dashboard.")
            session.aside(f"For programs: Authorization: Bearer {served.token}")
            if not no_browser:
                with suppress(OSError):  # the link was printed
                    webbrowser.open(stack.enter_context(_leading_to(served.link())))
        served.run()


@contextmanager
def _private(name: str, text: str) -> Iterator[Path]:
    """A file with `text` that only its owner can read, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="plugin-manager-") as directory:
        path = Path(directory, name)
        path.touch(0o600)
        path.write_text(text, encoding="utf-8")
        yield path


@contextmanager
def _leading_to(link: str) -> Iterator[str]:
    """The address of a file that leads its owner's browser to `link`.

    Every user of the machine can read the arguments that a browser is started with.
    """
    address = escape(link)
    page = (
        "<!doctype html><meta charset=utf-8><meta name=referrer content=no-referrer>"
        f'<meta http-equiv=refresh content="0; url={address}"><title>Plugins</title>'
        f'<a href="{address}">Open the dashboard</a>'
    )
    with _private("dashboard.html", page) as path:
        yield path.as_uri()


COMMANDS = [dashboard]
