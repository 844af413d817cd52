"""`pluginctl`: the operator's and the publisher's command."""

from __future__ import annotations

import gc
import json
import sys
from importlib import import_module

import click

from plugin_manager import __version__
from plugin_manager.errors import PluginManagerError

__all__ = ["main"]


_CLIENT = (
    "install", "update", "upgrade", "uninstall", "rollback", "hold", "unhold", "confirm",
    "list", "show", "history", "path", "verify", "repair",
)  # fmt: skip
_SPACE = ("storage", "pin", "unpin", "evict", "delete", "gc")
_JOBS = ("jobs", "pause", "resume", "cancel", "watch")
_HOMES = {
    **dict.fromkeys(_CLIENT, "_client"),
    **dict.fromkeys(_JOBS, "_jobs"),
    **dict.fromkeys(_SPACE, "_space"),
    "agent": "_agent",
    "repo": "_repo",
}


class _Commands(click.Group):
    """A group that imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if home := _HOMES.get(cmd_name):
            module = import_module(f"plugin_manager.cli.{home}")
            commands: list[click.Command] = [module.repo] if home == "_repo" else module.COMMANDS
            return next(command for command in commands if command.name == cmd_name)
        return super().get_command(ctx, cmd_name)


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
@click.version_option(__version__, prog_name="pluginctl")
def cli(**_: object) -> None:
    """Signed plugins and model files: install, verify at every load, roll back.

    Exit codes: 0 good, 2 wrong usage, 3 and above as docs/operating.md lists them.
    """


def main() -> None:
    """Run the command; ends the process with a documented exit code."""
    # A command is short, and most of what it makes stays alive to its end: looking through it for
    # garbage again and again takes a third of the time.
    gc.set_threshold(100_000, 50, 100)
    try:
        _run()
    finally:
        gc.freeze()  # nor once more on the way out


def _run() -> None:
    as_json = "--json" in sys.argv[1:]
    try:
        code = cli.main(prog_name="pluginctl", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except PluginManagerError as error:
        from plugin_manager.cli._output import Session, exit_code  # noqa: PLC0415 - errors are rare

        Session(as_json=as_json).error(error)
        sys.exit(exit_code(error))
    except click.ClickException as error:
        if as_json:
            _print_error("usage", error.exit_code, error.format_message())
        else:
            error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        message = f"interrupted; {_how_to_resume(error) or 'run the command again to go on'}"
        if as_json:
            _print_error("interrupted", 130, message)
        click.echo(f"pluginctl: {message}", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # or Python complains once more at exit
        sys.exit(141)


def _how_to_resume(error: BaseException | None) -> str:
    """What was noted where there is something to resume."""
    while error is not None:
        if notes := getattr(error, "__notes__", ()):
            return str(notes[0])
        error = error.__cause__ or error.__context__
    return ""


def _print_error(family: str, code: int, message: str) -> None:
    value = {"family": family, "exit_code": code, "message": message, "remedy": "See --help."}
    click.echo(json.dumps({"error": value}, indent=1))
