"""What the page shows, as one JSON value: worked out purely from the manager's values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from attrs import field
from packaging.version import Version

from plugin_manager._attrs import frozen
from plugin_manager._values import offer_json, trial_json
from plugin_manager.manager import Inspection, Job, JobState, Offer, Trial
from plugin_manager.model import Digest, PluginName, PluginRequirement
from plugin_manager.store import Active, Record, Storage

__all__ = ["CardState", "Known", "cards", "plugins_of", "ways_to_free"]


class CardState(StrEnum):
    """What is said of a plugin first; `actions` say what can be done about it."""

    AVAILABLE = "available"
    INCOMPATIBLE = "incompatible"
    QUEUED = "queued"
    DOWNLOADING = "downloading"
    INSTALLING = "installing"
    WAITING = "waiting"
    PAUSED = "paused"
    FAILED = "failed"
    INSTALLED = "installed"
    TRIAL = "trial"
    UPDATE = "update"
    YANKED = "yanked"
    BLOCKED = "blocked"
    DAMAGED = "damaged"
    EVICTED = "evicted"


@frozen
class Known:
    """All that cards are made from, of one moment."""

    offers: Sequence[Offer] = ()
    jobs: Sequence[Job] = ()
    evicted: Collection[PluginName] = ()
    trials: Mapping[PluginName, Trial] = field(factory=dict)
    damaged: Mapping[Digest, Inspection] = field(factory=dict)
    records: Sequence[Record] = ()


def cards(known: Known) -> list[dict[str, Any]]:
    """A card for each plugin, as JSON values, by plugin."""
    jobs = _jobs_by_plugin(known)
    return [
        _card(known, offer, jobs.get(offer.plugin))
        for offer in sorted(known.offers, key=lambda one: one.plugin)
    ]


def _card(known: Known, offer: Offer, job: Job | None) -> dict[str, Any]:
    plugin, active = offer.plugin, offer.active
    state, reason = _state(known, offer, job)
    previous = _previous(known.records, offer, active) if active else None
    return {
        **offer_json(offer),
        "state": state.value,
        "reason": reason,
        "previous": str(previous) if previous else None,
        "size_bytes": _size_bytes(offer),
        "job": job.id if job else None,
        "trial": trial_json(known.trials.get(plugin)),
        "actions": _actions(offer, state, job, can_roll_back=previous is not None),
    }


def _state(known: Known, offer: Offer, job: Job | None) -> tuple[CardState, str]:
    """What is said of a plugin first, and why it is so ("" where that goes without saying)."""
    if job and not job.state.final:
        return _job_state(job), job.why
    active = offer.active
    if active is None:
        if job:
            return CardState.FAILED, job.why
        if offer.newest is None:
            return CardState.INCOMPATIBLE, _first(offer.reasons, "no release fits this host")
        return CardState.AVAILABLE, ""
    if offer.blocked:
        return CardState.BLOCKED, offer.blocked
    if found := known.damaged.get(active.digest):
        return CardState.DAMAGED, _damage_text(found)
    if job:
        return CardState.FAILED, job.why
    if offer.plugin in known.evicted:
        return CardState.EVICTED, "its files were removed to make room"
    if trial := known.trials.get(offer.plugin):
        return CardState.TRIAL, _trial_text(trial)
    if offer.yanked:
        return CardState.YANKED, offer.yanked
    if offer.outdated:
        return CardState.UPDATE, _kept_away(offer, active)
    return CardState.INSTALLED, ""


def _kept_away(offer: Offer, active: Active) -> str:
    """Why an upgrade would leave the plugin as it is, though a newer release fits; "" if not."""
    if active.held:
        return "held: upgrades are kept away"
    if offer.newest in active.failed:
        return f"{offer.newest} failed on trial here: upgrades pass it over"
    return ""


def _job_state(job: Job) -> CardState:
    match job.state:
        case JobState.PAUSED:
            return CardState.PAUSED
        case JobState.RUNNING:
            if job.progress is None:
                return CardState.QUEUED
            return CardState.INSTALLING if job.progress.done else CardState.DOWNLOADING
        case JobState.QUEUED:
            return CardState.QUEUED
        case _:
            return CardState.WAITING


def _damage_text(found: Inspection) -> str:
    if found.damaged:
        paths = [fault.path for fault in found.damaged]
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        return f"{found.damaged[0].damage.value}: {paths[0]}{more}"
    return found.error.message if found.error else "damaged"


def _trial_text(trial: Trial) -> str:
    failed = f"failed {trial.attempts} of {trial.of} times" if trial.attempts else ""
    back = f"goes back to {trial.previous.version} if it fails" if trial.previous else ""
    return ", ".join(filter(None, (failed, back)))


def _first(texts: Sequence[str], otherwise: str) -> str:
    return texts[0] if texts else otherwise


def _size_bytes(offer: Offer) -> int | None:
    """What the newest fitting release weighs; None where none fits."""
    for one in offer.releases:
        if one.version == offer.newest and one.fits:
            return one.size_bytes
    return None


def _actions(offer: Offer, state: CardState, job: Job | None, *, can_roll_back: bool) -> list[str]:
    """What can be done, the most likely first."""
    found: list[str] = []
    if job and not job.state.final:
        found.append("resume" if state is CardState.PAUSED else "pause")
        return [*found, "cancel"]
    if job:
        found += ["retry", "dismiss"]
    active = offer.active
    if active is None:
        return found or (["install"] if state is CardState.AVAILABLE else [])
    if state is CardState.DAMAGED:
        found.append("repair")
    if state is CardState.EVICTED:
        found.append("fetch")
    if state is CardState.TRIAL:
        found.append("confirm")
    kept_away = offer.outdated and _kept_away(offer, active)
    if offer.outdated and not kept_away and not (job and job.action == "upgrade"):
        found.append("upgrade")
    if can_roll_back:
        found.append("rollback")
    found += [
        "verify",
        "unpin" if active.pinned else "pin",
        "unhold" if active.held or kept_away else "hold",
        "uninstall",
    ]
    return found


def _previous(records: Iterable[Record], offer: Offer, active: Active) -> Version | None:
    """The last active version that is older than the active one, and not blocked since.

    `records` are the newest first.
    """
    now = active.release
    blocked = {one.version for one in offer.releases if one.blocked}
    for record in records:
        for change in record.changes:
            before = change.before
            older = before and before.release.plugin == now.plugin
            if not before or not older or before.release.version >= now.version:
                continue
            if before.release.version not in blocked:
                return before.release.version
    return None


def _jobs_by_plugin(known: Known) -> dict[PluginName, Job]:
    """The job that each plugin's card tells of: one that is under way, or else one that failed.

    An upgrade of all tells what it fetches once it has begun; until then it is of all that it would
    change.
    """
    found: dict[PluginName, Job] = {}
    upgradable = {
        offer.plugin
        for offer in known.offers
        if offer.active and offer.outdated and not _kept_away(offer, offer.active)
    }
    told = [job for job in known.jobs if not job.state.final or job.state is JobState.FAILED]
    for job in sorted(told, key=lambda job: (job.state.final, -job.submitted.timestamp())):
        for plugin in plugins_of(job) or upgradable:
            found.setdefault(plugin, job)
    return found


def plugins_of(job: Job) -> set[PluginName]:
    """The plugins that a job names, or is known to fetch."""
    named = {PluginRequirement.parse(request).plugin for request in job.requests}
    transfers = job.progress.transfers if job.progress else ()
    return named | {one.release.plugin for one in transfers if one.release}


def ways_to_free(
    storage: Storage, unfinished_bytes: int, wanted: Collection[PluginName] = ()
) -> list[dict[str, Any]]:
    """What a person could let go for `wanted`, as JSON values, the largest first.

    What may be evicted goes by itself, and is not named: this is what stays for a reason.
    `unfinished_bytes` are those of downloads that nobody is going to go on with.
    """
    pinned: dict[str, int] = {}
    loaded: dict[str, int] = {}
    for one, unique in zip(storage.residents, storage.unique_bytes, strict=True):
        if one.release.plugin in wanted:
            continue
        plugin = str(one.release.plugin)
        if one.directory in storage.leased:
            loaded[plugin] = loaded.get(plugin, 0) + unique
        elif one.pinned:
            pinned[plugin] = pinned.get(plugin, 0) + unique
    ways = [{"kind": "unpin", "plugin": name, "bytes": size} for name, size in pinned.items()]
    ways += [{"kind": "loaded", "plugin": name, "bytes": size} for name, size in loaded.items()]
    if unfinished_bytes:
        ways.append({"kind": "unfinished", "plugin": None, "bytes": unfinished_bytes})
    return sorted(ways, key=lambda way: -int(str(way["bytes"])))
