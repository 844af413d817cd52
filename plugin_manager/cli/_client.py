"""The operator's commands: install, upgrade, roll back, look, verify, repair."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import click
from attrs import frozen

from plugin_manager._values import history_json, trial_json
from plugin_manager.cli import _output
from plugin_manager.cli._options import (
    dry_run_option,
    installed,
    json_option,
    name_argument,
    names_argument,
    requests_argument,
)
from plugin_manager.cli._output import Session, change_text, marked, shortened
from plugin_manager.cli._progress import Reporter
from plugin_manager.cli._source import settings
from plugin_manager.errors import NetworkError, NotFoundError
from plugin_manager.manager import Inspection, Plan, PluginManager, Trial
from plugin_manager.model import PluginName, size_text, utc_text
from plugin_manager.store import Active, Damage, Generation, SpacePlan

__all__ = [
    "COMMANDS",
    "change",
    "dry_run_option",
    "json_option",
    "name_argument",
    "open_manager",
]

_WORTH_TELLING_SECONDS = 1.5
MOST_GENERATIONS = 10**15 - 1


def background_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of commands that can be left to the agent."""
    command = click.option("--start-agent", is_flag=True, help="With --background: start one.")(
        command
    )
    return click.option("--background", is_flag=True, help="Leave it to the agent.")(command)


def _in_background(
    action: Literal["install", "upgrade"],
    requests: tuple[str, ...],
    *,
    dry_run: bool,
    background: bool,
    start_agent: bool,
    as_json: bool,
) -> bool:
    """Whether that was wanted, and done."""
    if (start_agent and not background) or (background and dry_run):
        raise click.UsageError("--start-agent goes with --background, --dry-run does not.")
    if background:
        from plugin_manager.cli import _agent  # noqa: PLC0415 - it knows this module

        _agent.submit(action, requests, start_agent=start_agent, as_json=as_json)
    return background


@contextmanager
def open_manager(session: Session) -> Iterator[PluginManager]:
    """The manager that the command line's options and the environment describe."""
    reporter = Reporter(quiet=session.as_json or session.quiet)
    told: dict[str, float] = {}

    def aside(text: str) -> None:
        reporter.clear()
        session.aside(text)

    try:
        yield PluginManager(
            settings(),
            progress=reporter,
            waiting=lambda holder: aside(f"Waiting for the store's lock: {holder}"),
            making_room=lambda space: _tell_space(session.tell, space) if space.evict else None,
            retrying=lambda error, seconds: _tell_pause(aside, error, seconds, told),
        )
    finally:
        reporter.close()


def _tell_pause(
    aside: Callable[[str], None], error: NetworkError, seconds: float, told: dict[str, float]
) -> None:
    """Say that it is waited; once for all files that wait for one server."""
    server = urlsplit(str(error.context.get("url", ""))).netloc
    now = time.monotonic()
    if seconds >= _WORTH_TELLING_SECONDS and now >= told.get(server, 0.0):
        told[server] = now + seconds / 2
        aside(f"{error.message}; trying again in {seconds:.0f} s")


def _tell_space(tell: Callable[[str], None], space: SpacePlan) -> None:
    tell(f"space: {_output.space_text(space)}")


def change(
    as_json: bool,
    dry_run: bool,
    plan_only: Callable[[PluginManager], Plan],
    carry_out: Callable[[PluginManager], Plan],
) -> None:
    """Do what a command says, or with `dry_run` only plan it, and tell what it did."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        if dry_run:
            plan = plan_only(manager)
            if plan.space:
                plan.space.require(manager.settings.store)  # what would fail says so
        else:
            plan = carry_out(manager)
    session.result(_output.plan_json(plan, dry_run=dry_run))
    tell = session.say if dry_run else session.tell  # what was asked, and what was done
    for step in plan.steps:
        needed = step.needed
        parts = [
            f"{verb} {size_text(count)}"
            for verb, count in (
                ("to fetch" if dry_run else "fetched", needed.fetch_bytes),
                ("reused", needed.copy_bytes + needed.share_bytes),
            )
            if count
        ]
        tell(f"{'would ' if dry_run else ''}{step}" + (f" ({', '.join(parts)})" if parts else ""))
    if not plan.steps:
        tell("Nothing to do.")
    elif dry_run and plan.space:
        _tell_space(tell, plan.space)
        if plan.seconds:
            tell(f"time: about {_output.time_text(plan.seconds)} at the last known speed")
    for note in plan.notes:
        tell(f"note: {note}")


@click.command()
@requests_argument
@dry_run_option
@background_options
@json_option
def install(
    requests: tuple[str, ...], dry_run: bool, background: bool, start_agent: bool, as_json: bool
) -> None:
    """Install plugins, such as acme/maps or 'acme/maps>=2,<3', with what they require.

    What is already here is not fetched again, also after an interruption.
    """
    if _in_background(
        "install",
        requests,
        dry_run=dry_run,
        background=background,
        start_agent=start_agent,
        as_json=as_json,
    ):
        return
    change(as_json, dry_run, lambda m: m.plan_install(*requests), lambda m: m.install(*requests))


@click.command()
@names_argument
@dry_run_option
@background_options
@click.option("--offline", is_flag=True, help="To what was fetched ahead; ask nobody.")
@json_option
def upgrade(
    names: tuple[str, ...],
    *,
    dry_run: bool,
    background: bool,
    start_agent: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Upgrade plugins (all, where none is named) to their newest fitting releases."""
    if offline and (background or start_agent):
        raise click.UsageError("What is fetched already needs no background.")
    if _in_background(
        "upgrade",
        names,
        dry_run=dry_run,
        background=background,
        start_agent=start_agent,
        as_json=as_json,
    ):
        return
    change(
        as_json,
        dry_run,
        lambda m: m.plan_upgrade(*names, offline=offline),
        lambda m: m.upgrade(*names, offline=offline),
    )


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=installed)
@dry_run_option
@json_option
def uninstall(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Make plugins inactive."""
    change(as_json, dry_run, lambda m: m.plan_uninstall(*names), lambda m: m.uninstall(*names))


@click.command()
@click.argument("name", required=False, shell_complete=installed)
@click.option("--to", "to", metavar="VERSION", help="The version to go back to.")
@click.option(
    "--generation",
    type=click.IntRange(0, MOST_GENERATIONS),
    metavar="N",
    help="Go back to all that was active in generation N.",
)
@dry_run_option
@json_option
def rollback(
    name: str | None, to: str | None, generation: int | None, dry_run: bool, as_json: bool
) -> None:
    """Go back to the release before, offline, and hold it there; or to a whole generation."""
    if (name is None) == (generation is None):
        raise click.UsageError("Give either a NAME or --generation N.")
    if generation is not None:
        if to is not None:
            raise click.UsageError("--to goes with a NAME, not with --generation.")
        number = generation
        change(
            as_json, dry_run, lambda m: m.plan_rollback_to(number), lambda m: m.rollback_to(number)
        )
    elif name is not None:
        plugin = name
        change(
            as_json,
            dry_run,
            lambda m: m.plan_rollback(plugin, to),
            lambda m: m.rollback(plugin, to),
        )


@click.command()
@name_argument
@dry_run_option
@json_option
def hold(name: str, dry_run: bool, as_json: bool) -> None:
    """Keep upgrades away from a plugin."""
    change(as_json, dry_run, lambda m: m.plan_hold(name), lambda m: m.hold(name))


@click.command()
@name_argument
@dry_run_option
@json_option
def unhold(name: str, dry_run: bool, as_json: bool) -> None:
    """Let upgrades change a plugin again."""
    change(as_json, dry_run, lambda m: m.plan_hold(name, held=False), lambda m: m.unhold(name))


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the active plugins, those of the system store too."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        evicted = manager.evicted()
        trials = manager.trials()
        listed = [
            _Listed(active, on_disk=active not in evicted, trial=trials.get(active.release.plugin))
            for active in manager.installed()
        ]
        listed += [_Listed(active, system=True) for active in manager.system_installed()]
    session.result(
        [
            {
                **_output.active_json(one.active),
                "passed_over": [str(version) for version in one.active.failed],
                "trial": trial_json(one.trial),
                "on_disk": one.on_disk,
                "system": one.system,
            }
            for one in listed
        ]
    )
    for one in listed:
        session.say(str(one))
    if not listed:
        session.say("No plugin is installed. 'pluginctl install NAME' installs one.")


@frozen
class _Listed:
    """A line of the list; `on_disk` None: another store's."""

    active: Active
    on_disk: bool | None = None
    system: bool = False
    trial: Trial | None = None

    def __str__(self) -> str:
        marks = {
            **_marks(self.active, self.trial),
            "not on this disk": self.on_disk is False,
            "system": self.system,
        }
        return f"{self.active.release}  {marked(marks)}".rstrip()


def _marks(active: Active, trial: Trial | None) -> dict[str, object]:
    return {
        "held": active.held,
        "pinned": active.pinned,
        f"on trial ({trial.attempts} of {trial.of})" if trial else "": trial,
        f"passes over {', '.join(map(str, active.failed))}": active.failed,
    }


@click.command()
@name_argument
@json_option
def confirm(name: str, as_json: bool) -> None:
    """Say that a plugin works: the release that it was upgraded to is on trial no longer."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        confirmed = manager.confirm(name)
    session.result({"plugin": name, "confirmed": confirmed})
    session.say(f"{name} is confirmed." if confirmed else f"{name} is not on trial.")


@click.command()
@name_argument
@click.option("--manifest", "with_manifest", is_flag=True, help="List every file and chunk.")
@json_option
def show(name: str, with_manifest: bool, as_json: bool) -> None:
    """Show a plugin: what it is, its releases, what is active, what it needs."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        plugin = PluginName.parse(name)
        active = {a.release.plugin: a for a in manager.installed()}.get(plugin)
        trial = manager.trials().get(plugin)
        try:
            catalogue = manager.catalogue(plugin)
        except NotFoundError as error:
            # An update brings the catalogues of what is known here; of others there is the index.
            if any(offer.plugin == plugin for offer in manager.offers()):
                error.remedy = f"'pluginctl info {plugin}' tells what is known of it."
            raise
        if with_manifest and active is None:
            raise NotFoundError(
                f"{plugin} is not installed", remedy=f"Run 'pluginctl install {plugin}'."
            )
        manifest = manager.manifest(plugin) if active else None
        path = manager.path(plugin) if active and active not in manager.evicted() else None
    value: dict[str, Any] = {
        "plugin": str(plugin),
        "summary": catalogue.summary,
        "active": active and _output.active_json(active),
        "passed_over": [str(version) for version in active.failed] if active else [],
        "trial": trial_json(trial),
        "path": str(path) if path else None,
        "releases": [
            {
                "version": str(entry.release.version),
                "platform": str(entry.release.platform),
                "published": utc_text(entry.published),
                "length": entry.length,
                "requires": [str(requirement) for requirement in entry.requirements],
                "host": str(entry.needs.host),
                "python": str(entry.needs.python),
                "withdrawn": {
                    "kind": entry.withdrawal.kind.value,
                    "reason": entry.withdrawal.reason,
                }
                if entry.withdrawal
                else None,
            }
            for entry in catalogue.entries
        ],
    }
    if manifest is not None:
        value["entry_points"] = [
            {"group": e.group, "name": e.name, "value": e.value} for e in manifest.entry_points
        ]
        value["license"], value["homepage"] = manifest.about.license, manifest.about.homepage
        value["content_length"] = manifest.content_length
        if with_manifest:
            value["files"] = [
                {
                    "path": file.path,
                    "size": file.size,
                    "executable": file.executable,
                    "tag": file.tag,
                    "chunks": [
                        {
                            "blake3": chunk.digest.hex(),
                            "length": chunk.length,
                            "frame": chunk.frame,
                            "frame_offset": chunk.frame_offset,
                        }
                        for chunk in manifest.chunks(file)
                    ],
                }
                for file in manifest.files
            ]
    session.result(value)
    session.say(f"{plugin}  {catalogue.summary}".rstrip())
    if active and manifest:
        marks = marked(_marks(active, trial))
        session.say(f"active    {active.release.version}{f' ({marks})' if marks else ''}")
        where = f"in {path}" if path else "not on this disk: the next load fetches them"
        session.say(
            f"files     {len(manifest.files)}, {size_text(manifest.content_length)}, {where}"
        )
        for entry_point in manifest.entry_points:
            session.say(f"offers    {entry_point.group}: {entry_point.name} = {entry_point.value}")
    for entry in reversed(catalogue.entries):
        requires = ", ".join(map(str, entry.requirements))
        withdrawn = entry.withdrawal
        session.say(
            f"release   {entry.release.version} "
            f"({entry.release.platform}, {size_text(entry.length)})"
            + (f"  requires {requires}" if requires else "")
            + (f"  {withdrawn.kind}: {withdrawn.reason}" if withdrawn else "")
        )
    for file in value.get("files", []):
        session.say(
            f"{file['size']:>12}  {file['path']}" + (f"  [{file['tag']}]" if file["tag"] else "")
        )
        for chunk in file["chunks"]:
            session.say(f"{'':14}{chunk['blake3']}  {chunk['length']:>8}  frame {chunk['frame']}")


def _tell_found(session: Session, inspection: Inspection) -> None:
    verdict = (
        "not on this disk" if inspection.evicted else "good" if inspection.good else "NOT GOOD"
    )
    session.say(f"{inspection.active.release}: {verdict}")
    for fault in inspection.faults:
        ignored = "; never loaded" if fault.damage is Damage.FOREIGN else ""
        session.say(f"  {fault.damage.value:8} {fault.path}{ignored}")
    if inspection.error:
        session.say(f"  {inspection.error}")


@click.command()
@names_argument
@click.option("--all", "every_release", is_flag=True, help="All releases on disk, not only active.")
@json_option
def verify(names: tuple[str, ...], every_release: bool, as_json: bool) -> None:
    """Check signatures and every byte of the active plugins (all, or those named).

    Exits with 0 only if everything is good.
    """
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        report = manager.verify(*names, every_release=every_release)
    session.result(_output.report_json(report))
    for record in report.records:
        session.say(f"the store's records: {record}")
    for inspection in report.releases:
        _tell_found(session, inspection)
    if not report.records and not report.releases:
        session.say("No plugin is installed.")
    if not report.good:
        error = next((i.error for i in report.releases if i.error and not i.good), None)
        code = _output.exit_code(error) if error else _output.EXIT_CODES["corrupt"]
        click.get_current_context().exit(code)


@click.command()
@names_argument
@dry_run_option
@json_option
def repair(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Mend damaged plugins (all, or those named), fetching only the damaged chunks."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        report = manager.verify(*names) if dry_run else manager.repair(*names)
    session.result({"dry_run": dry_run, "found": _output.report_json(report)})
    verb = "would mend" if dry_run else "mended"
    for record in report.records:
        session.say(f"{verb} the store's records: {record}")
    for inspection in report.releases:
        for fault in inspection.damaged:
            session.say(f"{verb} {inspection.active.release}: {fault.path} ({fault.damage.value})")
        if inspection.evicted:
            if names:
                session.say(
                    f"{'would fetch' if dry_run else 'fetched'} {inspection.active.release}"
                )
        elif inspection.error:
            session.say(f"{verb} {inspection.active.release}: {inspection.error.message}")
    if report.good and not (names and any(one.evicted for one in report.releases)):
        session.say("Nothing to mend.")


@click.command()
@names_argument
@json_option
def update(names: tuple[str, ...], as_json: bool) -> None:
    """Bring fresh signed metadata, and news of blocked releases; change no plugin.

    Plugins that are named become known to 'show', installed or not.
    """
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        manager.update(*names)
    session.result({"updated": True})
    session.tell("The metadata is up to date.")


@click.command()
@click.argument("number", required=False, type=click.IntRange(0, MOST_GENERATIONS), metavar="[N]")
@json_option
def history(number: int | None, as_json: bool) -> None:
    """List the generations, newest first, with what changed; or all that was active in one."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        if number is not None:
            _tell_generation(session, manager.generation(number))
            return
        records = manager.history()
    current = records[0].number if records else 0
    session.result(history_json(records))
    width = len(str(current))
    for record in records:
        mark = "*" if record.number == current else " "
        changes = shortened([change_text(one) for one in record.changes]) or record.action
        session.say(f"{mark} {record.number:>{width}}  {utc_text(record.created)}  {changes}")
    if not records:
        session.say("No generation yet.")


def _tell_generation(session: Session, generation: Generation) -> None:
    active = [one for _, one in sorted(generation.active.items())]
    session.result(
        {
            **_output.record_json(generation),
            "active": [_output.active_json(one) for one in active],
        }
    )
    session.say(
        f"generation {generation.number}  {utc_text(generation.created)}  "
        f"{shortened(generation.action.split(', '))}"
    )
    for changed in generation.changes:
        session.say(f"  {change_text(changed)}")
    session.say(f"active in it: {len(active)}")
    for one in active:
        session.say(f"  {_Listed(one)}")


@click.command()
@name_argument
@json_option
def path(name: str, as_json: bool) -> None:
    """Print the directory of a plugin's active release."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        found: Path = manager.path(name)
    session.result({"plugin": name, "path": str(found)})
    session.say(str(found))


COMMANDS = [
    install, update, upgrade, uninstall, rollback, hold, unhold, confirm,
    list_, show, history, path, verify, repair,
]  # fmt: skip
