"""The operator's commands that only look: at what is installed, and what there is to have.

Offline; they import as little as that takes, for they are what scripts run most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from plugin_manager._values import (
    active_json,
    history_json,
    list_json,
    offer_json,
    record_json,
    show_json,
)
from plugin_manager.cli._opening import open_manager
from plugin_manager.cli._options import GENERATIONS, json_option, name_argument, offered_argument
from plugin_manager.cli._output import Session, change_text, marked, shortened
from plugin_manager.errors import NotFoundError
from plugin_manager.model import PluginName, one_line, size_text, utc_text

if TYPE_CHECKING:
    from plugin_manager.manager import Offer, Offered
    from plugin_manager.manifest import File, Manifest
    from plugin_manager.store import Generation

__all__ = ["COMMANDS"]

_MOST_RELEASES = 10

update_option = click.option("--update", is_flag=True, help="First bring fresh signed metadata.")


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the active plugins, those of the system store too."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        listed = list_json(manager)
    session.result(listed)
    if listed:
        session.say(*map(_line, listed))
    else:
        session.say("No plugin is installed. 'pluginctl install NAME' installs one.")


def _line(listed: Mapping[str, Any]) -> str:
    platform = "" if listed["platform"] == "any" else f" ({listed['platform']})"
    marks = {
        **_marks(listed),
        "not on this disk": listed.get("on_disk") is False,
        "system": listed.get("system"),
    }
    return f"{listed['plugin']} {listed['version']}{platform}  {marked(marks)}".rstrip()


def _marks(active: Mapping[str, Any]) -> dict[str, object]:
    trial, passed_over = active.get("trial"), active["passed_over"]
    return {
        "held": active["held"],
        "pinned": active["pinned"],
        f"on trial ({trial['attempts']} of {trial['of']})" if trial else "": trial,
        f"passes over {', '.join(passed_over)}": passed_over,
    }


@click.command()
@name_argument
@click.option("--manifest", "with_manifest", is_flag=True, help="List every file and chunk.")
@json_option
def show(name: str, with_manifest: bool, as_json: bool) -> None:
    """Show a plugin: what it is, its releases, what is active, what it needs."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        plugin = PluginName.parse(name)
        try:
            value = show_json(manager, name)
        except NotFoundError as error:
            # An update brings the catalogues of what is known here; of others there is the index.
            if any(offer.plugin == plugin for offer in manager.offers()):
                error.remedy = f"'pluginctl info {plugin}' tells what is known of it."
            else:  # one without its name would be in vain
                error.remedy = f"Run 'pluginctl update {plugin}', or check its name."
            raise
        active = value["active"]
        if with_manifest and not active:
            raise NotFoundError(
                f"{plugin} is not installed", remedy=f"Run 'pluginctl install {plugin}'."
            )
        manifest = manager.manifest(plugin) if active else None
    if with_manifest and manifest:
        value["files"] = [_file_json(manifest, file) for file in manifest.files]
    session.result(value)
    session.say(f"{plugin}  {value['summary']}".rstrip())
    if manifest:
        marks = marked(_marks({**active, **value}))
        session.say(f"active    {active['version']}{f' ({marks})' if marks else ''}")
        path = value["path"]
        where = f"in {path}" if path else "not on this disk: the next load fetches them"
        size = size_text(manifest.content_length)
        session.say(f"files     {len(manifest.files)}, {size}, {where}")
        for one in value["entry_points"]:
            session.say(f"offers    {one['group']}: {one['name']} = {one['value']}")
    session.say(*map(_listed_release, reversed(value["releases"])))
    for file in value.get("files", ()):
        tag = f"  [{file['tag']}]" if file["tag"] else ""
        session.say(f"{file['size']:>12}  {file['path']}{tag}")
        for chunk in file["chunks"]:
            session.say(f"{'':14}{chunk['blake3']}  {chunk['length']:>8}  frame {chunk['frame']}")


def _file_json(manifest: Manifest, file: File) -> dict[str, Any]:
    return {
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


def _listed_release(release: Mapping[str, Any]) -> str:
    requires, withdrawn = ", ".join(release["requires"]), release["withdrawn"]
    return (
        f"release   {release['version']} ({release['platform']}, {size_text(release['length'])})"
        + (f"  requires {requires}" if requires else "")
        + (f"  {withdrawn['kind']}: {withdrawn['reason']}" if withdrawn else "")
    )


@click.command()
@click.argument("number", required=False, type=GENERATIONS, metavar="[N]")
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
            **record_json(generation),
            "active": [active_json(one) for one in active],
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
        passed_over = [str(version) for version in one.failed]
        session.say(f"  {_line({**active_json(one), 'passed_over': passed_over})}")


@click.command()
@name_argument
@json_option
def path(name: str, as_json: bool) -> None:
    """Print the directory of a plugin's active release."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        found = manager.path(name)
    session.result({"plugin": name, "path": str(found)})
    session.say(str(found))


@click.command()
@click.argument("words", nargs=-1, metavar="[WORD]...")
@update_option
@json_option
def search(words: tuple[str, ...], update: bool, as_json: bool) -> None:
    """Search names, summaries and descriptions for every WORD (none: list all there is).

    Knows what the last 'pluginctl update' brought. An asterisk marks what is installed.
    """
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        if update:
            manager.update()
        found = manager.search(" ".join(words))
    session.result([offer_json(offer) for offer in found])
    if found:
        session.table([_FOUND, *map(_found, found)], right={2})
    else:
        session.say("Nothing was found. 'pluginctl update' brings what there is to have.")


_FOUND = ("", "PLUGIN", "NEWEST", "SUMMARY")


def _found(offer: Offer) -> tuple[str, ...]:
    newest = offer.newest or offer.newest_any
    summary = offer.about.summary
    if offer.newest is None and offer.reasons:
        summary = f"{summary} ({one_line(offer.reasons[0])})".strip()
    return "*" if offer.active else "", str(offer.plugin), str(newest or "-"), summary


@click.command()
@offered_argument
@update_option
@json_option
def info(name: str, update: bool, as_json: bool) -> None:
    """Tell what is known of a plugin: what it is, its releases, which fits and why others do not.

    Knows what the last 'pluginctl update' brought.
    """
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        if update:
            manager.update(name)
        offer = manager.info(name)
    session.result(lambda: offer_json(offer))
    about = offer.about
    session.say(f"{offer.plugin}  {about.summary}".rstrip(), style="bold")
    for word, text in (("license", about.license), ("homepage", about.homepage)):
        if text:
            session.say(f"{word:10}{text}")
    session.say(f"{'newest':10}{_newest(offer)}")
    if offer.active:
        marks = marked({"held": offer.active.held, "pinned": offer.active.pinned})
        active = offer.active.release.version
        session.say(f"{'installed':10}{active}{f' ({marks})' if marks else ''}")
        for verb, reason in (("blocked", offer.blocked), ("yanked", offer.yanked)):
            if reason:
                session.say(f"{'':10}{verb}: {reason}", style="red" if verb == "blocked" else "")
    for reason in offer.reasons:
        session.say(f"{'':10}{one_line(reason)}")
    if about.description:
        session.say()
        session.say(*(f"  {line}" for line in about.description.strip().splitlines()))
    if offer.releases:
        session.say()
        rows = [_release(one) for one in offer.releases[:_MOST_RELEASES]]
        session.table([("RELEASE", "PLATFORM", "SIZE", ""), *rows], right={2})
    older = offer.older + max(len(offer.releases) - _MOST_RELEASES, 0)
    if older:
        session.say(f"... and {older} older", style="faint")


def _newest(offer: Offer) -> str:
    if offer.newest is None:
        return f"{offer.newest_any or 'none'}, which does not fit" if offer.newest_any else "none"
    if offer.newest != offer.newest_any:
        return f"{offer.newest} ({offer.newest_any} does not fit)"
    return str(offer.newest)


def _release(one: Offered) -> tuple[str, ...]:
    reasons = list(one.reasons)
    if one.blocked or one.yanked:
        reasons.insert(0, f"{'blocked' if one.blocked else 'yanked'}: {one.blocked or one.yanked}")
    return str(one.version), str(one.platform), size_text(one.size_bytes), "; ".join(reasons)


@click.command()
@update_option
@json_option
def outdated(update: bool, as_json: bool) -> None:
    """List the installed plugins of which a newer release fits.

    Knows what the last 'pluginctl update', installation or upgrade brought.
    """
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        if update:
            manager.update()
        found = manager.outdated()
    session.result([offer_json(offer) for offer in found])
    if found:
        session.table([_OUTDATED, *map(_outdated, found)], right={1, 2})
    else:
        session.say("Nothing newer is known.")


_OUTDATED = ("PLUGIN", "INSTALLED", "NEWEST", "")


def _outdated(offer: Offer) -> tuple[str, ...]:
    assert offer.active
    marks = {
        "held": offer.active.held,
        f"blocked: {offer.blocked}": offer.blocked,
        f"yanked: {offer.yanked}": offer.yanked,
        f"{offer.newest_any} does not fit": offer.newest_any != offer.newest,
    }
    release = offer.active.release
    return str(release.plugin), str(release.version), str(offer.newest), marked(marks)


COMMANDS = [list_, show, history, path, search, info, outdated]
