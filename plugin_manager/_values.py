"""The values of the package as JSON: what `--json` prints and what the dashboard's API answers.

Texts are as they were signed or recorded: whoever shows them to a person escapes them for the place
where they are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from plugin_manager.errors import PluginManagerError
from plugin_manager.model import PluginName, utc_text

if TYPE_CHECKING:
    from plugin_manager.agent import AgentStatus
    from plugin_manager.manager import (
        Activity,
        Cleanup,
        Inspection,
        Job,
        Offer,
        Plan,
        PluginManager,
        Progress,
        Report,
        Trial,
    )
    from plugin_manager.store import Active, Record, Resident, SpacePlan, Storage

__all__ = [
    "EXIT_CODES",
    "active_json",
    "activity_json",
    "agent_json",
    "cleanup_json",
    "error_json",
    "eviction_places",
    "exit_code",
    "history_json",
    "inspection_json",
    "job_json",
    "last_loaded",
    "list_json",
    "offer_json",
    "plan_json",
    "progress_json",
    "record_json",
    "report_json",
    "resident_json",
    "show_json",
    "space_json",
    "storage_json",
    "trial_json",
]

# Documented in docs/operating.md; a family keeps its number for ever.
EXIT_CODES = {
    "error": 1,
    "invalid-input": 3,
    "not-found": 4,
    "conflict": 5,
    "incompatible": 6,
    "refused": 7,
    "blocked": 8,
    "network": 9,
    "locked": 10,
    "untrusted": 11,
    "expired": 12,
    "corrupt": 13,
    "store": 14,
    "no-space": 15,
    "evicted": 16,
    "cancelled": 17,
}


def exit_code(error: PluginManagerError) -> int:
    """The documented exit code of an error's family."""
    return EXIT_CODES.get(error.family, 1)


def error_json(error: PluginManagerError) -> dict[str, Any]:
    """An error as a JSON value; a plan that does not fit is `space`, as it is of a plan."""
    context = {key: value for key, value in error.context.items() if value not in (None, ())}
    if plan := context.pop("plan", None):
        context["space"] = space_json(cast("SpacePlan", plan))
    return {
        "family": error.family,
        "exit_code": exit_code(error),
        "message": error.message,
        "remedy": error.remedy,
        **context,
    }


def active_json(active: Active) -> dict[str, Any]:
    """An active release as a JSON value."""
    return {
        "plugin": str(active.release.plugin),
        "version": str(active.release.version),
        "platform": str(active.release.platform),
        "head": str(active.digest),
        "held": active.held,
        "pinned": active.pinned,
    }


def plan_json(plan: Plan, *, dry_run: bool) -> dict[str, Any]:
    """A plan as a JSON value."""
    return {
        "action": plan.action,
        "dry_run": dry_run,
        "steps": [
            {
                "kind": step.kind,
                "plugin": str(step.plugin),
                "before": step.before and active_json(step.before),
                "after": step.after and active_json(step.after),
                "fetch_bytes": step.needed.fetch_bytes,
                "copy_bytes": step.needed.copy_bytes,
                "share_bytes": step.needed.share_bytes,
            }
            for step in plan.steps
        ],
        "notes": list(plan.notes),
        "seconds": plan.seconds,
        "space": space_json(plan.space) if plan.space else None,
    }


def space_json(space: SpacePlan) -> dict[str, Any]:
    """A space plan as a JSON value."""
    return {
        "needed_bytes": space.needed_bytes,
        "used_bytes": space.used_bytes,
        "budget_bytes": space.budget_bytes,
        "free_bytes": space.free_bytes,
        "floor_bytes": space.floor_bytes,
        "evict": [resident_json(resident) for resident in space.evict],
        "freed_bytes": space.freed_bytes,
        "missing_bytes": space.missing_bytes,
    }


def resident_json(resident: Resident) -> dict[str, Any]:
    """A release on disk as a JSON value."""
    return {
        "plugin": str(resident.release.plugin),
        "version": str(resident.release.version),
        "platform": str(resident.release.platform),
        "head": str(resident.digest) if resident.digest else None,
        "kept": resident.kept.value,
        "pinned": resident.pinned,
        "total_bytes": resident.total_bytes,
    }


def record_json(record: Record) -> dict[str, Any]:
    """What made a generation, as a JSON value."""
    return {
        "number": record.number,
        "created": utc_text(record.created),
        "action": record.action,
        "changes": [
            {
                "plugin": str(change.plugin),
                "before": change.before and active_json(change.before),
                "after": change.after and active_json(change.after),
            }
            for change in record.changes
        ],
    }


def report_json(report: Report) -> dict[str, Any]:
    """What verifying or repairing found, as a JSON value."""
    return {
        "good": report.good,
        "records": list(report.records),
        "releases": [inspection_json(inspection) for inspection in report.releases],
    }


def inspection_json(inspection: Inspection) -> dict[str, Any]:
    """What verifying found, as a JSON value."""
    return {
        **active_json(inspection.active),
        "good": inspection.good,
        "faults": [{"path": f.path, "damage": f.damage.value} for f in inspection.faults],
        "error": error_json(inspection.error) if inspection.error else None,
    }


def job_json(job: Job) -> dict[str, Any]:
    """A job as a JSON value."""
    return {
        "id": job.id,
        "action": job.action,
        "requests": list(job.requests),
        "state": job.state.value,
        "why": job.why,
        "priority": job.priority,
        "group": job.group,
        "submitted": utc_text(job.submitted),
        "retry_at": utc_text(job.retry_at) if job.retry_at else None,
        "progress": job.progress and progress_json(job.progress),
        "error": error_json(job.error) if job.error else None,
    }


def progress_json(progress: Progress) -> dict[str, Any]:
    """How far a job is, as a JSON value."""
    return {
        **progress.render(),
        "percent": progress.percent,
        "seconds_left": progress.seconds_left,
        "state": progress.state,
        "transfers": [progress_json(one) for one in progress.transfers],
    }


def storage_json(storage: Storage) -> dict[str, Any]:
    """What a store holds, as a JSON value."""
    places = eviction_places(storage)
    return {
        "used_bytes": storage.used_bytes,
        "budget_bytes": storage.budget_bytes,
        "free_bytes": storage.free_bytes,
        "floor_bytes": storage.floor_bytes,
        "available_bytes": storage.available_bytes,
        "release_bytes": storage.release_bytes,
        "unfinished_bytes": storage.unfinished_bytes,
        "record_bytes": storage.record_bytes,
        "releases": [
            {
                **resident_json(one),
                "unique_bytes": unique,
                "shared_bytes": one.total_bytes - unique,
                "last_loaded": last_loaded(one),
                "loaded_now": one.directory in storage.leased,
                "eviction_order": places.get(one.directory),
            }
            for one, unique in zip(storage.residents, storage.unique_bytes, strict=True)
        ],
        "evicted": [active_json(active) for active in storage.evicted],
    }


def eviction_places(storage: Storage) -> dict[Path, int]:
    """Each release's place in the order of eviction, from 1; what is loaded has none."""
    going = [one.directory for one in storage.order if one.directory not in storage.leased]
    return {directory: place for place, directory in enumerate(going, 1)}


def last_loaded(resident: Resident) -> str | None:
    """When a release was last loaded, by the clock of then; None: never, or nonsense."""
    seconds = resident.usage.loaded_at
    if seconds is None:
        return None
    try:
        return utc_text(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):  # a clock, or a file, that told nonsense
        return None


def cleanup_json(cleanup: Cleanup, *, dry_run: bool) -> dict[str, Any]:
    """What was removed, or with `dry_run` would be, as a JSON value."""
    return {
        "dry_run": dry_run,
        "garbage": [
            {"kind": one.kind, "name": one.name, "size_bytes": one.size_bytes}
            for one in cleanup.garbage
        ],
        "evicted": [resident_json(one) for one in cleanup.evicted],
        "freed_bytes": cleanup.freed_bytes,
        "missing_bytes": cleanup.missing_bytes,
    }


def list_json(manager: PluginManager) -> list[dict[str, Any]]:
    """The active plugins of `manager`, those of its system store too, as JSON values."""
    evicted, trials = manager.evicted(), manager.trials()

    def listed(active: Active, *, on_disk: bool | None) -> dict[str, Any]:
        return {
            **active_json(active),
            "passed_over": [str(version) for version in active.failed],
            "trial": trial_json(trials.get(active.release.plugin)) if on_disk is not None else None,
            "on_disk": on_disk,
            "system": on_disk is None,
        }

    own = [listed(one, on_disk=one not in evicted) for one in manager.installed()]
    return own + [listed(one, on_disk=None) for one in manager.system_installed()]


def trial_json(trial: Trial | None) -> dict[str, Any] | None:
    """A release's trial as a JSON value."""
    if trial is None:
        return None
    previous = trial.previous and str(trial.previous.version)
    return {"attempts": trial.attempts, "of": trial.of, "previous": previous}


def history_json(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What made each generation, newest first, as JSON values."""
    current = records[0].number if records else 0
    return [{**record_json(record), "current": record.number == current} for record in records]


def show_json(manager: PluginManager, name: str) -> dict[str, Any]:
    """A plugin that `manager` knows: what it is, its releases, what is active, as a JSON value."""
    plugin = PluginName.parse(name)
    active = {one.release.plugin: one for one in manager.installed()}.get(plugin)
    trial = manager.trials().get(plugin)
    catalogue = manager.catalogue(plugin)
    manifest = manager.manifest(plugin) if active else None
    path = manager.path(plugin) if active and active not in manager.evicted() else None
    value: dict[str, Any] = {
        "plugin": str(plugin),
        "summary": catalogue.summary,
        "active": active and active_json(active),
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
    return value


def agent_json(status: AgentStatus) -> dict[str, Any]:
    """How the store's agent is, as a JSON value."""
    return {
        "running": status.running,
        "pid": status.pid,
        "embedded": status.embedded,
        "since": utc_text(status.since) if status.since else None,
        "doing": status.doing,
        "last_update": utc_text(status.last_update) if status.last_update else None,
        "last_scrub": utc_text(status.last_scrub) if status.last_scrub else None,
        "scrub_findings": list(status.scrub_findings),
    }


def activity_json(activity: Activity) -> dict[str, Any]:
    """Something that happened, as a JSON value."""
    return {
        "when": utc_text(activity.when),
        "kind": activity.kind,
        "plugin": str(activity.plugin) if activity.plugin else None,
        "text": activity.text,
    }


def offer_json(offer: Offer) -> dict[str, Any]:
    """An offer as a JSON value."""
    about = offer.about
    return {
        "plugin": str(offer.plugin),
        "summary": about.summary,
        "description": about.description,
        "license": about.license,
        "homepage": about.homepage,
        "newest": offer.newest and str(offer.newest),
        "newest_any": offer.newest_any and str(offer.newest_any),
        "reasons": list(offer.reasons),
        "active": offer.active and active_json(offer.active),
        "outdated": offer.outdated,
        "yanked": offer.yanked,
        "blocked": offer.blocked,
        "older": offer.older,
        "releases": [
            {
                "version": str(one.version),
                "platform": str(one.platform),
                "size_bytes": one.size_bytes,
                "yanked": one.yanked,
                "blocked": one.blocked,
                "reasons": list(one.reasons),
            }
            for one in offer.releases
        ],
    }
