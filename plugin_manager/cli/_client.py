"""The operator's commands that change a store, or check it: install, roll back, verify, repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import click

from plugin_manager.cli import _output
from plugin_manager.cli._change import change
from plugin_manager.cli._opening import open_manager
from plugin_manager.cli._options import (
    GENERATIONS,
    dry_run_option,
    installed,
    json_option,
    name_argument,
    names_argument,
    requests_argument,
)
from plugin_manager.cli._output import Session
from plugin_manager.manager import Inspection
from plugin_manager.store import Damage

__all__ = ["COMMANDS", "open_manager"]


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
    type=GENERATIONS,
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


COMMANDS = [
    install, update, upgrade, uninstall, rollback, hold, unhold, confirm,
    verify, repair,
]  # fmt: skip
