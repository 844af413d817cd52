"""The shapes of the API's values, as JSON Schema: the same as `pluginctl ... --json` prints."""

from __future__ import annotations

from typing import Any

from plugin_manager.dashboard._failures import FAMILIES

__all__ = ["SCHEMAS", "nullable", "reference"]

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}


def reference(name: str) -> Schema:
    """The schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    """`schema`, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def _table(properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _each(name: str) -> Schema:
    return {"type": "array", "items": reference(name)}


_ACTIVE: Schema = {
    "plugin": _TEXT,
    "version": _TEXT,
    "platform": _TEXT,
    "head": {"type": "string", "description": "Digest of the signed manifest."},
    "held": _FLAG,
    "pinned": _FLAG,
}
_RESIDENT: Schema = {
    "plugin": _TEXT,
    "version": _TEXT,
    "platform": _TEXT,
    "head": nullable(_TEXT),
    "kept": {"enum": ["active", "previous", "undo", "unfinished", "garbage"]},
    "pinned": _FLAG,
    "total_bytes": _COUNT,
}
_CHANGE: Schema = {
    "plugin": _TEXT,
    "before": nullable(reference("Active")),
    "after": nullable(reference("Active")),
}
_OFFER: Schema = {
    "plugin": _TEXT,
    "summary": _TEXT,
    "description": _TEXT,
    "license": _TEXT,
    "homepage": _TEXT,
    "newest": nullable(_TEXT),
    "newest_any": nullable(_TEXT),
    "reasons": _TEXTS,
    "active": nullable(reference("Active")),
    "outdated": _FLAG,
    "yanked": _TEXT,
    "blocked": _TEXT,
    "older": _COUNT,
    "releases": {
        "type": "array",
        "items": _table(
            {
                "version": _TEXT,
                "platform": _TEXT,
                "size_bytes": _COUNT,
                "yanked": _TEXT,
                "blocked": _TEXT,
                "reasons": _TEXTS,
            }
        ),
    },
}

SCHEMAS: Schema = {
    "Active": _table(_ACTIVE),
    "Listed": _table(
        {
            **_ACTIVE,
            "passed_over": _TEXTS,
            "trial": nullable(reference("Trial")),
            "on_disk": nullable(_FLAG),
            "system": _FLAG,
        }
    ),
    "Trial": _table({"attempts": _COUNT, "of": _COUNT, "previous": nullable(_TEXT)}),
    "Confirmed": _table({"plugin": _TEXT, "confirmed": _FLAG}),
    "Resident": _table(_RESIDENT),
    "Error": {
        "type": "object",
        "properties": {
            "family": {
                "enum": list(FAMILIES),
                "description": "By what a caller can do about it; each has its exit code.",
            },
            "exit_code": {
                "enum": sorted(FAMILIES.values()),
                "description": "What `pluginctl` would end with: "
                + ", ".join(f"{code} {family}" for family, code in FAMILIES.items()),
            },
            "message": _TEXT,
            "remedy": _TEXT,
            "space": reference("Space"),
        },
        "required": ["family", "exit_code", "message", "remedy"],
        "additionalProperties": True,
    },
    "Failure": _table({"error": reference("Error")}),
    "Session": _table({"key": _TEXT}),
    "Space": _table(
        {
            "needed_bytes": _COUNT,
            "used_bytes": _COUNT,
            "budget_bytes": nullable(_COUNT),
            "free_bytes": _COUNT,
            "floor_bytes": _COUNT,
            "evict": _each("Resident"),
            "freed_bytes": _COUNT,
            "missing_bytes": _COUNT,
        }
    ),
    "Plan": _table(
        {
            "action": _TEXT,
            "dry_run": _FLAG,
            "steps": _each("Step"),
            "notes": _TEXTS,
            "seconds": nullable({"type": "number"}),
            "space": nullable(reference("Space")),
        }
    ),
    "Step": _table(
        {
            "kind": _TEXT,
            **_CHANGE,
            "fetch_bytes": _COUNT,
            "copy_bytes": _COUNT,
            "share_bytes": _COUNT,
        }
    ),
    "Planned": _table({"plan": reference("Plan")}),
    "Progress": _table(
        {
            "plugin": _TEXT,
            "version": _TEXT,
            "platform": _TEXT,
            "transferred_bytes": _COUNT,
            "total_bytes": _COUNT,
            "reused_bytes": _COUNT,
            "bytes_per_second": _COUNT,
            "done": _FLAG,
            "transfers": _each("Progress"),
            "percent": {"type": "integer", "minimum": 0, "maximum": 100},
            "seconds_left": nullable({"type": "number"}),
            "state": {"enum": ["queued", "running", "completed"]},
        }
    ),
    "Job": _table(
        {
            "id": _TEXT,
            "action": {"enum": ["install", "upgrade"]},
            "requests": _TEXTS,
            "state": _TEXT,
            "why": _TEXT,
            "priority": {"type": "integer", "minimum": 0, "maximum": 10},
            "group": _TEXT,
            "submitted": _MOMENT,
            "retry_at": nullable(_MOMENT),
            "progress": nullable(reference("Progress")),
            "error": nullable(reference("Error")),
        }
    ),
    "Jobs": _table({"paused": _FLAG, "jobs": _each("Job")}),
    "ChangedJobs": _table({"jobs": _each("Job"), "all": _FLAG}),
    "Submitted": _table({"jobs": _each("Job")}),
    "Storage": _table(
        {
            "used_bytes": _COUNT,
            "budget_bytes": nullable(_COUNT),
            "free_bytes": _COUNT,
            "floor_bytes": _COUNT,
            "available_bytes": _COUNT,
            "release_bytes": _COUNT,
            "unfinished_bytes": _COUNT,
            "record_bytes": _COUNT,
            "releases": {
                "type": "array",
                "items": _table(
                    {
                        **_RESIDENT,
                        "unique_bytes": _COUNT,
                        "shared_bytes": _COUNT,
                        "last_loaded": nullable(_MOMENT),
                        "loaded_now": _FLAG,
                        "eviction_order": nullable({"type": "integer", "minimum": 1}),
                    }
                ),
            },
            "evicted": _each("Active"),
        }
    ),
    "Way": _table(
        {
            "kind": {"enum": ["unpin", "loaded", "unfinished"]},
            "plugin": nullable(_TEXT),
            "bytes": _COUNT,
        }
    ),
    "Room": _table({"space": nullable(reference("Space")), "ways": _each("Way")}),
    "Record": _table(
        {
            "number": _COUNT,
            "created": _MOMENT,
            "action": _TEXT,
            "changes": {"type": "array", "items": _table(_CHANGE)},
            "current": _FLAG,
        }
    ),
    "Inspection": _table(
        {
            **_ACTIVE,
            "good": _FLAG,
            "faults": {"type": "array", "items": _table({"path": _TEXT, "damage": _TEXT})},
            "error": nullable(reference("Error")),
        }
    ),
    "Report": _table({"good": _FLAG, "records": _TEXTS, "releases": _each("Inspection")}),
    "Repaired": _table({"dry_run": _FLAG, "found": reference("Report")}),
    "Updated": _table({"updated": _FLAG}),
    "Cleanup": _table(
        {
            "dry_run": _FLAG,
            "garbage": {
                "type": "array",
                "items": _table({"kind": _TEXT, "name": _TEXT, "size_bytes": _COUNT}),
            },
            "evicted": _each("Resident"),
            "freed_bytes": _COUNT,
            "missing_bytes": _COUNT,
        }
    ),
    "Shown": _table(
        {
            "plugin": _TEXT,
            "summary": _TEXT,
            "active": nullable(reference("Active")),
            "passed_over": _TEXTS,
            "trial": nullable(reference("Trial")),
            "path": nullable(_TEXT),
            "releases": {
                "type": "array",
                "items": _table(
                    {
                        "version": _TEXT,
                        "platform": _TEXT,
                        "published": _MOMENT,
                        "length": _COUNT,
                        "requires": _TEXTS,
                        "host": _TEXT,
                        "python": _TEXT,
                        "withdrawn": nullable(
                            _table({"kind": {"enum": ["yanked", "blocked"]}, "reason": _TEXT})
                        ),
                    }
                ),
            },
            "entry_points": {
                "type": "array",
                "items": _table({"group": _TEXT, "name": _TEXT, "value": _TEXT}),
            },
            "license": _TEXT,
            "homepage": _TEXT,
            "content_length": _COUNT,
        },
        optional=("entry_points", "license", "homepage", "content_length"),
    ),
    "Agent": _table(
        {
            "running": _FLAG,
            "pid": nullable(_COUNT),
            "embedded": _FLAG,
            "since": nullable(_MOMENT),
            "doing": _TEXT,
            "last_update": nullable(_MOMENT),
            "last_scrub": nullable(_MOMENT),
            "scrub_findings": _TEXTS,
        }
    ),
    "Activity": _table({"when": _MOMENT, "kind": _TEXT, "plugin": nullable(_TEXT), "text": _TEXT}),
    "Integrity": _table(
        {
            "verifying": _FLAG,
            "checked": nullable(_MOMENT),
            "good": nullable(_FLAG),
            "records": _TEXTS,
            "damaged": _each("Inspection"),
        }
    ),
    "Offer": _table(_OFFER),
    "Card": _table(
        {
            **_OFFER,
            "state": _TEXT,
            "reason": _TEXT,
            "previous": nullable(_TEXT),
            "size_bytes": nullable(_COUNT),
            "job": nullable(_TEXT),
            "trial": nullable(reference("Trial")),
            "actions": _TEXTS,
        }
    ),
    "State": _table(
        {
            "store": _table(
                {
                    "directory": _TEXT,
                    "repository": _TEXT,
                    "host_version": nullable(_TEXT),
                    "program_version": _TEXT,
                }
            ),
            "plugins": _each("Card"),
            "jobs": reference("Jobs"),
            "storage": nullable(reference("Storage")),
            "history": _each("Record"),
            "integrity": reference("Integrity"),
            "agent": reference("Agent"),
            "activity": _each("Activity"),
            "problems": _each("Error"),
        }
    ),
}
