"""The operator's commands for the room on the disk: what takes it, what goes first, making more."""

from __future__ import annotations

from collections.abc import Callable

import click

from plugin_manager._values import cleanup_json, eviction_places, last_loaded, storage_json
from plugin_manager.cli._change import change
from plugin_manager.cli._opening import open_manager
from plugin_manager.cli._options import dry_run_option, json_option, name_argument
from plugin_manager.cli._output import Session, marked
from plugin_manager.manager import Cleanup, PluginManager
from plugin_manager.model import Release, one_line, size_text
from plugin_manager.settings import parse_size
from plugin_manager.store import Storage

__all__ = ["COMMANDS"]


# --- looking -------------------------------------------------------------------------------------


@click.command()
@json_option
def storage(as_json: bool) -> None:
    """Show what takes the store's space, why it is kept, and what would be evicted first."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        found = manager.storage()
    session.result(lambda: storage_json(found))
    session.say(
        f"used       {size_text(found.used_bytes)}: "
        f"releases {size_text(found.release_bytes)}, "
        f"unfinished downloads {size_text(found.unfinished_bytes)}, "
        f"records {size_text(found.record_bytes)}"
    )
    session.say(
        f"budget     {'none' if found.budget_bytes is None else size_text(found.budget_bytes)}"
    )
    session.say(
        f"free       {size_text(found.free_bytes)} on the disk, "
        f"of which {size_text(found.floor_bytes)} must stay free"
    )
    session.say(f"available  {size_text(found.available_bytes)} without evicting anything")
    rows = _rows(found)
    if rows:
        session.say()
        session.table([_HEADS, *rows], right={2, 3, 4, 7})


_HEADS = ("PLUGIN", "RELEASE", "TOTAL", "UNIQUE", "SHARED", "LAST LOADED", "KEPT", "ORDER")


def _rows(storage: Storage) -> list[tuple[str, ...]]:
    places = eviction_places(storage)
    rows = []
    for one, unique in zip(storage.residents, storage.unique_bytes, strict=True):
        marks = {
            one.kept.value: True,
            "pinned": one.pinned,
            "loaded now": one.directory in storage.leased,
        }
        row = (
            size_text(one.total_bytes),
            size_text(unique),
            size_text(one.total_bytes - unique),
            (last_loaded(one) or "never")[:10],
            marked(marks),
            str(places.get(one.directory, "-")),
        )
        rows.append((one.release, row))
    for active in storage.evicted:
        marks = {"active": True, "pinned": active.pinned, "not on this disk": True}
        rows.append((active.release, ("-", "-", "-", "-", marked(marks), "-")))
    return [
        (str(release.plugin), str(release.version), *row)
        for release, row in sorted(rows, key=lambda one: _place_in_list(one[0]))
    ]


def _place_in_list(release: Release) -> tuple[object, ...]:
    plugin = release.plugin  # its parts: comparing a thousand releases as such takes 5 ms
    return plugin.publisher, plugin.name, release.version


# --- making room ---------------------------------------------------------------------------------


def _remove(
    as_json: bool,
    dry_run: bool,
    plan_only: Callable[[PluginManager], Cleanup],
    carry_out: Callable[[PluginManager], Cleanup],
    *,
    verb: str = "evict",
) -> None:
    """Remove, or with `dry_run` only plan it, and tell what went; `verb` is said of releases."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        done = plan_only(manager) if dry_run else carry_out(manager)
    session.result(cleanup_json(done, dry_run=dry_run))
    tell = session.say if dry_run else session.tell
    for garbage in done.garbage:
        # Whoever named it: a name with a line break must not look like a line of ours.
        name = one_line(garbage.name)
        said = f"{garbage.kind} {name} ({size_text(garbage.size_bytes)})"
        tell(f"{'would remove' if dry_run else 'removed'} {said}")
    for release in done.evicted:
        said = f"{release.release} ({release.kept.value}, {size_text(release.total_bytes)})"
        tell(f"{f'would {verb}' if dry_run else _PAST[verb]} {said}")
    if done.garbage or done.evicted:
        tell(f"{'would free' if dry_run else 'freed'} {size_text(done.freed_bytes)} in all")
    else:
        tell("Nothing to remove.")
    if done.missing_bytes:
        tell(
            f"note: {size_text(done.missing_bytes)} are beyond the budget or the free floor, and "
            "what may be evicted would not do: unpin plugins, or raise the budget"
        )


_PAST = {"evict": "evicted", "delete": "deleted"}


@click.command()
@click.option("--unfinished", is_flag=True, help="Also what interrupted commands could go on with.")
@dry_run_option
@json_option
def gc(unfinished: bool, dry_run: bool, as_json: bool) -> None:
    """Remove what nobody needs any more, and evict what is over the budget."""
    _remove(
        as_json,
        dry_run,
        lambda m: m.plan_cleanup(unfinished=unfinished),
        lambda m: m.cleanup(unfinished=unfinished),
    )


@click.command()
@click.argument("size")
@dry_run_option
@json_option
def evict(size: str, dry_run: bool, as_json: bool) -> None:
    """Free at least SIZE, such as 500MB, by evicting the coldest releases.

    Plugins stay installed: the next load fetches what was evicted.
    """
    wanted = parse_size("SIZE", size)
    _remove(as_json, dry_run, lambda m: m.plan_evict(wanted), lambda m: m.evict(wanted))


@click.command()
@name_argument
@click.argument("version", required=False)
@dry_run_option
@json_option
def delete(name: str, version: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove a plugin's releases that are not active (all, or VERSION) from the disk."""
    _remove(
        as_json,
        dry_run,
        lambda m: m.plan_delete(name, version),
        lambda m: m.delete(name, version),
        verb="delete",
    )


@click.command()
@name_argument
@dry_run_option
@json_option
def pin(name: str, dry_run: bool, as_json: bool) -> None:
    """Keep a plugin's releases from being evicted."""
    change(as_json, dry_run, lambda m: m.plan_pin(name), lambda m: m.pin(name))


@click.command()
@name_argument
@dry_run_option
@json_option
def unpin(name: str, dry_run: bool, as_json: bool) -> None:
    """Let a plugin's releases be evicted again."""
    change(as_json, dry_run, lambda m: m.plan_pin(name, pinned=False), lambda m: m.unpin(name))


COMMANDS = [storage, pin, unpin, evict, delete, gc]
