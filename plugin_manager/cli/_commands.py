"""All commands, in sections; each one's module is imported when it is asked for."""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import NoReturn

import click

from plugin_manager import __version__
from plugin_manager.cli._examples import EXAMPLES
from plugin_manager.cli._options import Group, in_short, json_option, noted
from plugin_manager.cli._output import AS_JSON, UnreadError
from plugin_manager.errors import PluginManagerError

__all__ = ["cli", "run"]

# Whose commands they are, and the module of each.
_SECTIONS: dict[str, dict[str, str]] = {
    "To have plugins": {
        **dict.fromkeys(
            ("install", "update", "upgrade", "uninstall", "rollback", "hold", "unhold", "confirm"),
            "_client",
        ),
        "run": "_run",
    },
    "To look around": {
        **dict.fromkeys(("list", "show", "path", "history", "search", "info", "outdated"), "_look"),
    },
    "To fetch in the background": {
        **dict.fromkeys(("jobs", "watch", "pause", "resume", "cancel"), "_jobs"),
        "agent": "_agent",
        "dashboard": "_dashboard",
    },
    "To make room": dict.fromkeys(("storage", "pin", "unpin", "evict", "delete", "gc"), "_space"),
    "To find out what is wrong": {
        "doctor": "_doctor",
        **dict.fromkeys(("verify", "repair"), "_client"),
    },
    "To set up": dict.fromkeys(("config", "completion"), "_setup"),
    "To publish": {"repo": "_repo"},
}
# They change nothing, and begin nothing that would have to be ended.
_LOOKING = {*_SECTIONS["To look around"], "jobs", "storage", "doctor", "config"}
_HOMES = {name: home for names in _SECTIONS.values() for name, home in names.items()}


class _Commands(Group):
    """A group that imports a command's module only when that command is asked for: `asked`."""

    asked: str | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _HOMES if self.get_command(ctx, name)]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        home = _HOMES.get(cmd_name)
        if not home or not find_spec(f"plugin_manager.cli.{home}"):
            return None
        module = import_module(f"plugin_manager.cli.{home}")
        commands: list[click.Command] = [module.repo] if home == "_repo" else module.COMMANDS
        found = next((command for command in commands if command.name == cmd_name), None)
        if found:
            _add_examples(found, cmd_name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            from difflib import get_close_matches  # noqa: PLC0415 - only for who mistypes

            near = get_close_matches(name, self.list_commands(ctx), n=3)
            meant = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"No such command {name!r}.{meant}")
        self.asked = name
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        longest = max(map(len, _HOMES))
        for title, names in _SECTIONS.items():
            found = {name: self.get_command(ctx, name) for name in names}
            rows = [
                (name.ljust(longest), in_short(command, formatter.width - longest - 6))
                for name, command in found.items()
                if command
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _add_examples(command: click.Command, name: str) -> None:
    """Have the help of `command`, and of those below it, end with examples."""
    if examples := EXAMPLES.get(name):
        lines = "".join(f"\n  pluginctl {example}" for example in examples)
        command.epilog = f"\b\nExamples:{lines}"
    if isinstance(command, click.Group):
        for below, other in command.commands.items():
            _add_examples(other, f"{name} {below}")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", metavar="DIR", help="Directory of the store. [PLUGINCTL_STORE]")
@click.option("--repository", metavar="URL", help="Repository's address. [PLUGINCTL_REPOSITORY]")
@click.option("--root", metavar="FILE", help="Pinned root metadata. [PLUGINCTL_ROOT]")
@click.option("--host-version", metavar="VERSION", help="Host's version. [PLUGINCTL_HOST_VERSION]")
@click.option("--lock-timeout", type=float, metavar="SECONDS", help="[PLUGINCTL_LOCK_TIMEOUT]")
@click.option("--max-store", metavar="SIZE", help="Budget, such as 20GB. [PLUGINCTL_MAX_STORE]")
@click.option(
    "--max-rate", metavar="RATE", help="Bytes a second, such as 5MB. [PLUGINCTL_MAX_RATE]"
)
@click.option("--system-store", metavar="DIR", help="Searched second. [PLUGINCTL_SYSTEM_STORE]")
@click.option("--config", metavar="FILE", help="Settings in a file. [PLUGINCTL_CONFIG]")
@json_option
@click.version_option(__version__, prog_name="pluginctl")
def cli(**_: object) -> None:
    """Signed plugins and model files: install, verify at every load, roll back.

    'pluginctl COMMAND --help' shows each command's options, with examples. 'pluginctl config'
    shows the settings and where each comes from. Exit codes: 0 good, 2 wrong usage, 3 and above as
    docs/operating.md lists them.
    """


def run() -> None:
    """Run the command; ends the process with a documented exit code."""
    try:
        code = cli.main(prog_name="pluginctl", standalone_mode=False)
        _end(code if isinstance(code, int) else 0)
    except PluginManagerError as error:
        from plugin_manager.cli._output import (  # noqa: PLC0415 - errors are rare
            OutputError,
            Session,
            exit_code,
        )

        unwritten = isinstance(error, OutputError)  # and then neither would this be, as JSON
        Session(as_json=AS_JSON in noted and not unwritten).error(error)
        if unwritten:
            _drop_output()
        sys.exit(exit_code(error))
    except click.ClickException as error:
        if AS_JSON in noted or "--json" in sys.argv[1:]:
            _print_error("usage", error.exit_code, error.format_message())
        else:
            error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        remedy = _how_to_resume(error) or "run the command again to go on"
        message = f"interrupted; {remedy}"
        if AS_JSON in noted:
            _print_error("interrupted", 130, message, f"{remedy[0].upper()}{remedy[1:]}.")
        click.echo(f"pluginctl: {message}", err=True)
        sys.exit(130)
    except UnreadError:
        _drop_output()
        sys.exit(141)  # as of whoever is ended by the signal for that


def _end(code: int) -> NoReturn:
    """End the process; at once, where that leaves nothing undone.

    Python takes everything apart as it ends, which takes some 4 ms of a command that only looks.
    """
    if cli.asked in _LOOKING and threading.active_count() == 1:
        with suppress(OSError, ValueError):  # what cannot be flushed, Python complains of
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


def _drop_output() -> None:
    """Have what is left to be written lead nowhere: Python would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _how_to_resume(error: BaseException | None) -> str:
    """What was noted where there is something to resume."""
    while error is not None:
        if notes := getattr(error, "__notes__", ()):
            return str(notes[0])
        error = error.__cause__ or error.__context__
    return ""


def _print_error(family: str, code: int, message: str, remedy: str = "See --help.") -> None:
    value = {"family": family, "exit_code": code, "message": message, "remedy": remedy}
    click.echo(json.dumps({"error": value}, indent=1))
