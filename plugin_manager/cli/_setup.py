"""The operator's commands for setting up: settings and where they come from; completion."""

from __future__ import annotations

import os

import click

from plugin_manager.cli._options import Group, json_option, settings_argument
from plugin_manager.cli._output import Session
from plugin_manager.cli._source import file_of, flags_of
from plugin_manager.configuration import ConfigurationFile, Origin, explain, option

__all__ = ["COMMANDS"]


@click.group(cls=Group, invoke_without_command=True)
@json_option
@click.pass_context
def config(context: click.Context, as_json: bool) -> None:
    """Show every setting, and where it comes from.

    From a flag, the environment, the file, or the default: the first that says something counts.
    Exits with 3 where one is wrong.
    """
    if context.invoked_subcommand:
        return
    session = Session(as_json=as_json)
    file = file_of(context)
    origins = explain(flags_of(context), os.environ, _there(file))
    session.result({"file": str(file.path), "settings": [_origin_json(one) for one in origins]})
    session.table([_HEADS, *map(_row, origins)])
    for one in origins:
        if one.error:
            session.say(f"{one.option.name}: {one.error}", style="red")
    if any(one.error for one in origins):
        context.exit(3)


_HEADS = ("SETTING", "VALUE", "FROM")


def _there(file: ConfigurationFile) -> ConfigurationFile:
    """The file, whether it has to be there or not: who looks may be about to make it."""
    return ConfigurationFile(file.path)


def _row(one: Origin) -> tuple[str, ...]:
    where = one.source if one.source == "default" else one.place
    return one.option.name, one.text, where


def _origin_json(one: Origin) -> dict[str, object]:
    return {
        "name": one.option.name,
        "variable": one.option.variable,
        "description": one.option.description,
        "value": None if one.source == "default" else one.text,
        "default": one.option.default,
        "source": one.source,
        "place": one.place,
        "error": str(one.error) if one.error else None,
    }


@config.command("set")
@settings_argument
@click.argument("value")
@json_option
@click.pass_context
def set_(context: click.Context, name: str, value: str, as_json: bool) -> None:
    """Write a setting into the file, after checking it."""
    session = Session(as_json=as_json)
    file = _there(file_of(context))
    file.set(name, value)
    known = option(name)
    session.result({"file": str(file.path), "name": known.name, "value": file.texts[known.name]})
    session.tell(f"{known.name} = {file.texts[known.name]} in {file.path}")
    if os.environ.get(known.variable):
        session.aside(f"note: {known.variable} is set, and goes before the file", "yellow")


@config.command()
@settings_argument
@json_option
@click.pass_context
def unset(context: click.Context, name: str, as_json: bool) -> None:
    """Take a setting out of the file."""
    session = Session(as_json=as_json)
    file = _there(file_of(context))
    changed = file.unset(name)
    session.result({"file": str(file.path), "name": option(name).name, "changed": changed})
    session.tell(
        f"{option(name).name} is taken out of {file.path}" if changed else "Nothing to change."
    )


@config.command()
@json_option
@click.pass_context
def path(context: click.Context, as_json: bool) -> None:
    """Print where the file of settings is, or would be."""
    session = Session(as_json=as_json)
    file = file_of(context).path
    session.result({"file": str(file), "exists": file.exists()})
    session.say(str(file))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
@click.pass_context
def completion(context: click.Context, shell: str, as_json: bool) -> None:
    """Print what makes a shell complete commands, options and the names of plugins."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only here

    found = get_completion_class(shell)
    assert found is not None
    root = context.find_root().command
    script = found(root, {}, "pluginctl", "_PLUGINCTL_COMPLETE").source()
    Session(as_json=as_json).result({"shell": shell, "script": script})
    if not as_json:
        click.echo(script)  # as it is, tabs and all


COMMANDS = [config, completion]
