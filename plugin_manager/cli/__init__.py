"""`pluginctl`: the operator's and the publisher's command."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import click

from plugin_manager import __version__
from plugin_manager.errors import PluginManagerError

__all__ = ["main"]


class _Commands(click.Group):
    """A group that imports a command's module only when that command is asked for."""

    _CLIENT = (
        "install", "update", "upgrade", "uninstall", "rollback", "hold", "unhold",
        "list", "show", "verify", "repair", "history", "path",
    )  # fmt: skip

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [*self._CLIENT, "repo"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "repo":
            command: click.Command = import_module("plugin_manager.cli._repo").repo
            return command
        if cmd_name in self._CLIENT:
            commands: list[click.Command] = import_module("plugin_manager.cli._client").COMMANDS
            return next(command for command in commands if command.name == cmd_name)
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", metavar="DIR", help="Directory of the store. [PLUGINCTL_STORE]")
@click.option("--repository", metavar="URL", help="Repository's address. [PLUGINCTL_REPOSITORY]")
@click.option("--root", metavar="FILE", help="Pinned root metadata. [PLUGINCTL_ROOT]")
@click.option("--host-version", metavar="VERSION", help="Host's version. [PLUGINCTL_HOST_VERSION]")
@click.option("--lock-timeout", type=float, metavar="SECONDS", help="[PLUGINCTL_LOCK_TIMEOUT]")
@click.version_option(__version__, prog_name="pluginctl")
def cli(**_: object) -> None:
    """Signed plugins and model files: install, verify at every load, roll back.

    Exit codes: 0 good, 2 wrong usage, 3 and above as docs/operating.md lists them.
    """


def main() -> None:
    """Run the command; ends the process with a documented exit code."""
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
    except (KeyboardInterrupt, click.Abort):
        message = "interrupted; run the command again to go on"
        if as_json:
            _print_error("interrupted", 130, message)
        click.echo(f"pluginctl: {message}", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # or Python complains once more at exit
        sys.exit(141)


def _print_error(family: str, code: int, message: str) -> None:
    value = {"family": family, "exit_code": code, "message": message, "remedy": "See --help."}
    click.echo(json.dumps({"error": value}, indent=1))
