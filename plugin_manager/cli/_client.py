"""The operator's commands: install, upgrade, roll back, look, verify, repair."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from plugin_manager.cli import _output
from plugin_manager.cli._output import Reporter, Session
from plugin_manager.errors import NotFoundError
from plugin_manager.manager import Inspection, Plan, PluginManager
from plugin_manager.model import PluginName, size_text, utc_text
from plugin_manager.settings import from_environment
from plugin_manager.store import Damage, Record

__all__ = ["COMMANDS"]

Command = Callable[..., Any]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
name_argument = click.argument("name")
names_argument = click.argument("names", nargs=-1, metavar="[NAME]...")


@contextmanager
def _manager(session: Session) -> Iterator[PluginManager]:
    """The manager that the command line's options and the environment describe."""
    options = click.get_current_context().find_root().params
    settings = from_environment(
        os.environ,
        store=options.get("store"),
        repository=options.get("repository"),
        root=options.get("root"),
        host_version=options.get("host_version"),
        lock_timeout_seconds=options.get("lock_timeout"),
    )
    reporter = Reporter(quiet=session.as_json)
    try:
        yield PluginManager(
            settings,
            progress=reporter,
            waiting=lambda holder: session.aside(f"Waiting for the store's lock: {holder}"),
        )
    finally:
        reporter.close()


def _session(as_json: bool) -> Session:
    return Session(as_json=as_json)


def _change(
    as_json: bool,
    dry_run: bool,
    plan_only: Callable[[PluginManager], Plan],
    carry_out: Callable[[PluginManager], Plan],
) -> None:
    session = _session(as_json)
    with _manager(session) as manager:
        plan = plan_only(manager) if dry_run else carry_out(manager)
    session.result(_output.plan_json(plan, dry_run=dry_run))
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
        session.say(
            f"{'would ' if dry_run else ''}{step}" + (f" ({', '.join(parts)})" if parts else "")
        )
    if not plan.steps:
        session.say("Nothing to do.")
    for note in plan.notes:
        session.say(f"note: {note}")


@click.command()
@click.argument("requests", nargs=-1, required=True, metavar="NAME[SPEC]...")
@dry_run_option
@json_option
def install(requests: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Install plugins, such as acme/maps or 'acme/maps>=2,<3', with what they require.

    What is already here is not fetched again, also after an interruption.
    """
    _change(as_json, dry_run, lambda m: m.plan_install(*requests), lambda m: m.install(*requests))


@click.command()
@names_argument
@dry_run_option
@json_option
def upgrade(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Upgrade plugins (all, where none is named) to their newest fitting releases."""
    _change(as_json, dry_run, lambda m: m.plan_upgrade(*names), lambda m: m.upgrade(*names))


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@dry_run_option
@json_option
def uninstall(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Make plugins inactive."""
    _change(as_json, dry_run, lambda m: m.plan_uninstall(*names), lambda m: m.uninstall(*names))


@click.command()
@name_argument
@click.option("--to", "to", metavar="VERSION", help="The version to go back to.")
@dry_run_option
@json_option
def rollback(name: str, to: str | None, dry_run: bool, as_json: bool) -> None:
    """Go back to the release before, offline, and hold it there."""
    _change(as_json, dry_run, lambda m: m.plan_rollback(name, to), lambda m: m.rollback(name, to))


@click.command()
@name_argument
@dry_run_option
@json_option
def hold(name: str, dry_run: bool, as_json: bool) -> None:
    """Keep upgrades away from a plugin."""
    _change(as_json, dry_run, lambda m: m.plan_hold(name), lambda m: m.hold(name))


@click.command()
@name_argument
@dry_run_option
@json_option
def unhold(name: str, dry_run: bool, as_json: bool) -> None:
    """Let upgrades change a plugin again."""
    _change(as_json, dry_run, lambda m: m.plan_hold(name, held=False), lambda m: m.unhold(name))


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the active plugins."""
    session = _session(as_json)
    with _manager(session) as manager:
        installed = manager.installed()
    session.result([_output.active_json(active) for active in installed])
    for active in installed:
        session.say(f"{active.release}{'  held' if active.held else ''}")
    if not installed:
        session.say("No plugin is installed. 'pluginctl install NAME' installs one.")


@click.command()
@name_argument
@click.option("--manifest", "with_manifest", is_flag=True, help="List every file and chunk.")
@json_option
def show(name: str, with_manifest: bool, as_json: bool) -> None:
    """Show a plugin: what it is, its releases, what is active, what it needs."""
    session = _session(as_json)
    with _manager(session) as manager:
        plugin = PluginName.parse(name)
        active = {a.release.plugin: a for a in manager.installed()}.get(plugin)
        catalogue = manager.catalogue(plugin)
        if with_manifest and active is None:
            raise NotFoundError(
                f"{plugin} is not installed", remedy=f"Run 'pluginctl install {plugin}'."
            )
        manifest = manager.manifest(plugin) if active else None
        path = manager.path(plugin) if active else None
    value: dict[str, Any] = {
        "plugin": str(plugin),
        "summary": catalogue.summary,
        "active": _output.active_json(active),
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
    if active and manifest and path:
        session.say(f"active    {active.release.version}{' (held)' if active.held else ''}")
        session.say(
            f"files     {len(manifest.files)}, {size_text(manifest.content_length)}, in {path}"
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
    session.say(f"{inspection.active.release}: {'good' if inspection.good else 'NOT GOOD'}")
    for fault in inspection.faults:
        ignored = "; never loaded" if fault.damage is Damage.FOREIGN else ""
        session.say(f"  {fault.damage.value:8} {fault.path}{ignored}")
    if inspection.error:
        session.say(f"  {inspection.error}")


@click.command()
@names_argument
@json_option
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Check the chain of signatures and every byte of the active plugins (all, or those named).

    Exits with 0 only if everything is good.
    """
    session = _session(as_json)
    with _manager(session) as manager:
        report = manager.verify(*names)
    session.result(_output.report_json(report))
    for record in report.records:
        session.say(f"the store's records: {record}")
    for inspection in report.releases:
        _tell_found(session, inspection)
    if not report.records and not report.releases:
        session.say("No plugin is installed.")
    if not report.good:
        error = next((i.error for i in report.releases if i.error), None)
        code = _output.exit_code(error) if error else _output.EXIT_CODES["corrupt"]
        click.get_current_context().exit(code)


@click.command()
@names_argument
@dry_run_option
@json_option
def repair(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Mend damaged plugins (all, or those named), fetching only the damaged chunks."""
    session = _session(as_json)
    with _manager(session) as manager:
        report = manager.verify(*names) if dry_run else manager.repair(*names)
    session.result({"dry_run": dry_run, "found": _output.report_json(report)})
    verb = "would mend" if dry_run else "mended"
    for record in report.records:
        session.say(f"{verb} the store's records: {record}")
    for inspection in report.releases:
        for fault in inspection.damaged:
            session.say(f"{verb} {inspection.active.release}: {fault.path} ({fault.damage.value})")
        if inspection.error:
            session.say(f"{verb} {inspection.active.release}: {inspection.error.message}")
    if report.good:
        session.say("Nothing to mend.")


@click.command()
@names_argument
@json_option
def update(names: tuple[str, ...], as_json: bool) -> None:
    """Bring fresh signed metadata, and news of blocked releases; change no plugin.

    Plugins that are named become known to 'show', installed or not.
    """
    session = _session(as_json)
    with _manager(session) as manager:
        manager.update(*names)
    session.result({"updated": True})
    session.say("The metadata is up to date.")


@click.command()
@json_option
def history(as_json: bool) -> None:
    """List the generations, newest first, with what changed in each."""
    session = _session(as_json)
    with _manager(session) as manager:
        records = manager.history()
    session.result([_output.record_json(record) for record in records])
    for record in records:
        session.say(_history_line(record, current=record is records[0]))
    if not records:
        session.say("No generation yet.")


def _history_line(record: Record, *, current: bool) -> str:
    mark = "*" if current else " "
    return f"{mark} {record.number:>4}  {utc_text(record.created)}  {record.action}"


@click.command()
@name_argument
@json_option
def path(name: str, as_json: bool) -> None:
    """Print the directory of a plugin's active release."""
    session = _session(as_json)
    with _manager(session) as manager:
        found: Path = manager.path(name)
    session.result({"plugin": name, "path": str(found)})
    session.say(str(found))


COMMANDS = [
    install, update, upgrade, uninstall, rollback, hold, unhold,
    list_, show, verify, repair, history, path,
]  # fmt: skip
