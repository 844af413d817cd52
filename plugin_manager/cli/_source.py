"""The settings of this run: the line's flags, the environment, the user's file, the defaults."""

from __future__ import annotations

import os

import click

from plugin_manager import configuration
from plugin_manager.configuration import ConfigurationFile
from plugin_manager.settings import Settings

__all__ = ["file_of", "flags_of", "settings", "settings_of"]


def settings() -> Settings:
    """What this run is told; raises InvalidInputError naming the place that is wrong."""
    return settings_of(click.get_current_context())


def settings_of(context: click.Context) -> Settings:
    """What a run with this context is told."""
    return configuration.read(flags_of(context), os.environ, file_of(context))


def flags_of(context: click.Context) -> dict[str, object]:
    """The settings that flags give, by the names of options."""
    given = context.find_root().params
    return {one.name: given.get(one.name) for one in configuration.OPTIONS if one.flag}


def file_of(context: click.Context) -> ConfigurationFile:
    """The file of settings: `--config`, PLUGINCTL_CONFIG, or else the user's."""
    named = context.find_root().params.get("config")
    required = bool(named or os.environ.get("PLUGINCTL_CONFIG"))
    environment = {**os.environ, **({"PLUGINCTL_CONFIG": str(named)} if named else {})}
    return ConfigurationFile(configuration.user_file(environment), required=required)
