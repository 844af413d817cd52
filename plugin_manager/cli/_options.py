"""What commands have in common: options, arguments, and how a shell completes those."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from plugin_manager.cli._output import AS_JSON, QUIET

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from plugin_manager.manager import PluginManager

__all__ = [
    "GENERATIONS",
    "Group",
    "dry_run_option",
    "in_short",
    "installed",
    "json_option",
    "known_jobs",
    "name_argument",
    "names_argument",
    "noted",
    "offered_argument",
    "requests_argument",
    "settings_argument",
]

F = TypeVar("F", bound=Callable[..., Any])

GENERATIONS = click.IntRange(0, 10**15 - 1)


noted: set[str] = set()
"""What options said holds for the whole run of this process; for when its contexts are gone."""


def _note(key: str) -> Callable[[click.Context, click.Parameter, bool], bool]:
    """What an option says holds for the whole run, wherever on the line it stands."""

    def note(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
        meta = context.find_root().meta
        meta[key] = bool(value or meta.get(key))
        if meta[key]:
            noted.add(key)
        return bool(meta[key])

    return note


_json = click.option(
    "--json", "as_json", is_flag=True, callback=_note(AS_JSON), help="Print one JSON value."
)
_quiet = click.option(
    "--quiet", "-q", is_flag=True, callback=_note(QUIET), expose_value=False,
    help="Print only what was asked for, and errors.",
)  # fmt: skip


def json_option(command: F) -> F:
    """`--json`, which the command gets as `as_json`, and `--quiet`, which a Session knows."""
    return _json(_quiet(command))


dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")


def in_short(command: click.Command, room: int) -> str:
    """What `command` does, ending where a part of the sentence ends."""
    text = " ".join((command.help or "").partition("\n\n")[0].split())
    if len(text) > room:
        text = re.sub(r" \([^)]*\)", "", text)
    while len(text) > room:
        cut = text.rfind(";", 0, room)
        if cut <= 0:
            cut = max(text.rfind(mark, 0, room) for mark in (":", ",", "."))
        if cut <= 0:
            return command.get_short_help_str(room)
        text = text[:cut]
    return text.rstrip(".")


class Group(click.Group):
    """A group whose help tells what each command does in whole parts of a sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        longest = max(map(len, commands))
        rows = [
            (name, in_short(command, formatter.width - longest - 6))
            for name, command in commands.items()
            if command
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


# --- completion ----------------------------------------------------------------------------------


def _completed(
    names: Callable[[PluginManager], Iterable[tuple[str, str]]],
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    def complete(
        context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only for shells

        from plugin_manager.cli._output import clean  # noqa: PLC0415
        from plugin_manager.cli._source import settings_of  # noqa: PLC0415
        from plugin_manager.manager import PluginManager  # noqa: PLC0415

        try:
            manager = PluginManager(settings_of(context))
            return [
                CompletionItem(name, help=clean(help_text).replace("\n", " ") or None)
                for name, help_text in names(manager)
                if name.startswith(incomplete)
            ]
        except Exception:
            if os.environ.get("PLUGINCTL_COMPLETION_DEBUG"):
                raise
            return []

    return complete


def _installed(manager: PluginManager) -> Iterable[tuple[str, str]]:
    for active in manager.installed():
        yield str(active.release.plugin), str(active.release.version)


def _offered(manager: PluginManager) -> Iterable[tuple[str, str]]:
    for offer in manager.offers():
        yield str(offer.plugin), offer.about.summary


def _jobs(manager: PluginManager) -> Iterable[tuple[str, str]]:
    for job in manager.jobs.all():
        yield job.id[:8], f"{job} ({job.state.value})"


def _settings(_manager: PluginManager) -> Iterable[tuple[str, str]]:
    from plugin_manager.configuration import OPTIONS  # noqa: PLC0415

    for one in OPTIONS:
        yield one.name, one.description


installed = _completed(_installed)
known_jobs = _completed(_jobs)
name_argument = click.argument("name", shell_complete=installed)
names_argument = click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=installed)
offered_argument = click.argument("name", shell_complete=_completed(_offered))
requests_argument = click.argument(
    "requests",
    nargs=-1,
    required=True,
    metavar="NAME[SPEC]...",
    shell_complete=_completed(_offered),
)
settings_argument = click.argument("name", metavar="NAME", shell_complete=_completed(_settings))
