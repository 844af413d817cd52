"""How every command that changes what is active does it, or plans it, and tells what it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from plugin_manager.cli import _output
from plugin_manager.cli._opening import open_manager, tell_space
from plugin_manager.cli._output import Session
from plugin_manager.model import size_text

if TYPE_CHECKING:
    from plugin_manager.manager import Plan, PluginManager

__all__ = ["change"]


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
        tell_space(tell, plan.space)
        if plan.seconds:
            tell(f"time: about {_output.time_text(plan.seconds)} at the last known speed")
    for note in plan.notes:
        tell(f"note: {note}")
