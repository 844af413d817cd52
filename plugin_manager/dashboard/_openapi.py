"""Every operation of the API in one table: its route, what it takes, answers and does.

The routes and the OpenAPI description are both made from it, so that neither lacks what the other
has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from attrs import field

from plugin_manager import __version__
from plugin_manager._attrs import frozen
from plugin_manager.dashboard import _readers as readers
from plugin_manager.dashboard._access import KEY_HEADER, cookie_name
from plugin_manager.dashboard._failures import STATUSES
from plugin_manager.dashboard._readers import Act, Reader
from plugin_manager.dashboard._schemas import SCHEMAS, reference
from plugin_manager.dashboard._service import Value

__all__ = ["OPERATIONS", "Operation", "description"]


@frozen
class Operation:
    """One operation. `reader` turns a request into what is to be done, noting faults in it.

    `takes` are the schemas of the body's keys, `required` those that must be there; `answers` is
    the schema of the answer.
    """

    name: str
    method: Literal["GET", "POST"]
    path: str
    summary: str
    answers: Value
    reader: Reader = readers.special
    takes: Mapping[str, Value] = field(factory=dict)
    required: tuple[str, ...] = ()


_TEXT: Value = {"type": "string", "maxLength": 1000}
_NAME: Value = {"type": "string", "description": "A plugin, such as acme/maps.", "maxLength": 1000}
_NAMES: Value = {"type": "array", "items": _NAME, "default": [], "maxItems": 1000}
_REQUESTS: Value = {
    "type": "array",
    "items": _TEXT,
    "maxItems": 1000,
    "description": "Requirements, such as acme/maps>=2.",
}
_DRY_RUN: Value = {
    "type": "boolean",
    "default": False,
    "description": "Say what would be done; do nothing.",
}


def _get(name: str, path: str, summary: str, answers: Value, act: Act) -> Operation:
    return Operation(name, "GET", path, summary, answers, readers.look(act))


def _post(
    name: str,
    summary: str,
    answers: Value,
    reader: Reader,
    takes: Mapping[str, Value],
    *required: str,
) -> Operation:
    return Operation(name, "POST", f"/api/{name}", summary, answers, reader, takes, required)


def _each(name: str) -> Value:
    return {"type": "array", "items": reference(name)}


_SUBMITTED: Value = {"anyOf": [reference("Submitted"), reference("Planned")]}
_ONE: dict[str, Value] = {"name": _NAME}
_SOME: dict[str, Value] = {"names": _NAMES}
_DRY: dict[str, Value] = {"dry_run": _DRY_RUN}
_SECRET: Value = {"type": "string", "maxLength": 200}
_GENERATION: Value = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}

_LOOKS = (
    _get(
        "state",
        "/api/state",
        "All that the page shows",
        reference("State"),
        lambda service: service.look(),
    ),
    _get(
        "list",
        "/api/plugins",
        "The active plugins, as `pluginctl list`",
        _each("Listed"),
        lambda service: service.plugins(),
    ),
    _get(
        "offers",
        "/api/offers",
        "What there is to have, as `pluginctl search`",
        _each("Offer"),
        lambda service: service.offers(),
    ),
    _get(
        "storage",
        "/api/storage",
        "What takes the room, as `pluginctl storage`",
        reference("Storage"),
        lambda service: service.storage(),
    ),
    _get(
        "history",
        "/api/history",
        "The generations, newest first, as `pluginctl history`",
        _each("Record"),
        lambda service: service.history(),
    ),
    _get(
        "agent",
        "/api/agent",
        "The store's agent, as `pluginctl agent status`",
        reference("Agent"),
        lambda service: service.agent(),
    ),
    _get(
        "activity",
        "/api/activity",
        "What happened lately, newest first",
        _each("Activity"),
        lambda service: service.activity(),
    ),
    _get(
        "jobs",
        "/api/jobs",
        "The jobs, as `pluginctl jobs`",
        reference("Jobs"),
        lambda service: service.jobs(),
    ),
)

_STEERING = tuple(
    Operation(name, "POST", path, summary, reference("ChangedJobs"), reader)
    for name, path, summary, reader in (
        *(
            (f"{verb}-job", f"/api/jobs/{{job}}/{verb}", summary, readers.steer(verb))
            for verb, summary in (
                ("pause", "Stop a job until it is resumed"),
                ("resume", "Go on with a job, also one that failed or was cancelled"),
                ("cancel", "End a job; what has arrived is kept for another time"),
                ("forget", "Remove the record of a job that is over"),
            )
        ),
        *(
            (f"{verb}-jobs", f"/api/jobs/{verb}", summary, readers.steer(verb, every=True))
            for verb, summary in (
                ("pause", "Stop all jobs, also those to come"),
                ("resume", "Let jobs run again"),
            )
        ),
    )
)

_FLAGS = tuple(
    _post(
        verb,
        f"{summary}, as `pluginctl {verb}`",
        reference("Plan"),
        readers.change_one(planner, verb, **flags),
        {**_ONE, **_DRY},
        "name",
    )
    for verb, summary, planner, flags in (
        ("hold", "Keep upgrades away from a plugin", "plan_hold", {}),
        ("unhold", "Let upgrades change a plugin again", "plan_hold", {"held": False}),
        ("pin", "Keep a plugin's releases from being evicted", "plan_pin", {}),
        ("unpin", "Let a plugin's releases be evicted again", "plan_pin", {"pinned": False}),
    )
)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "session",
        "POST",
        "/api/session",
        "Exchange the secret of a link for a session of this browser",
        reference("Session"),
        takes={"secret": _SECRET},
        required=("secret",),
    ),
    Operation("openapi", "GET", "/api/openapi.json", "This description", {"type": "object"}),
    Operation(
        "events",
        "GET",
        "/api/events",
        "The state as server-sent events: all sections at first, then those that change",
        {"type": "string"},
    ),
    *_LOOKS,
    Operation(
        "show",
        "GET",
        "/api/plugins/{publisher}/{plugin}",
        "A plugin with its releases, as `pluginctl show`",
        reference("Shown"),
        readers.show,
    ),
    Operation(
        "room",
        "GET",
        "/api/jobs/{job}/room",
        "What a job lacks room for, and what could be let go for it",
        reference("Room"),
        readers.room,
    ),
    *_STEERING,
    _post(
        "install",
        "Install plugins in the background; or plan it",
        _SUBMITTED,
        readers.submit("install", "requests"),
        {"requests": _REQUESTS, **_DRY},
        "requests",
    ),
    _post(
        "upgrade",
        "Upgrade plugins (none: all) in the background; or plan it",
        _SUBMITTED,
        readers.submit("upgrade", "names"),
        {**_SOME, **_DRY},
    ),
    _post(
        "uninstall",
        "Make plugins inactive, as `pluginctl uninstall`",
        reference("Plan"),
        readers.uninstall,
        {**_SOME, **_DRY},
        "names",
    ),
    _post(
        "rollback",
        "Go back to an earlier release and hold it, or to a generation; as `pluginctl rollback`",
        reference("Plan"),
        readers.rollback,
        {
            **_ONE,
            "to": {**_TEXT, "description": "The version; otherwise the one before."},
            "generation": _GENERATION,
            **_DRY,
        },
    ),
    *_FLAGS,
    _post(
        "confirm",
        "Say that the release a plugin was upgraded to works, as `pluginctl confirm`",
        reference("Confirmed"),
        readers.confirm,
        _ONE,
        "name",
    ),
    _post(
        "verify",
        "Verify every byte of plugins (none: all), as `pluginctl verify`",
        reference("Report"),
        readers.verify,
        _SOME,
    ),
    _post(
        "repair",
        "Mend damaged plugins (none: all), as `pluginctl repair`",
        reference("Repaired"),
        readers.repair,
        {**_SOME, **_DRY},
    ),
    _post(
        "update",
        "Bring fresh signed metadata, as `pluginctl update`",
        reference("Updated"),
        readers.update,
        _SOME,
    ),
    _post(
        "gc",
        "Remove what nobody needs any more, as `pluginctl gc`",
        reference("Cleanup"),
        readers.cleanup,
        {"unfinished": {"type": "boolean", "default": False}, **_DRY},
    ),
    _post(
        "evict",
        "Free at least so much by evicting the coldest releases, as `pluginctl evict`",
        reference("Cleanup"),
        readers.evict,
        {"size_bytes": {"type": "integer", "minimum": 0}, **_DRY},
        "size_bytes",
    ),
)


def description() -> Value:
    """The OpenAPI description of it all."""
    paths: dict[str, Value] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method.lower()] = _described(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Plugin Manager",
            "version": __version__,
            "description": "What the dashboard shows and does; the same values as `pluginctl "
            "... --json`. Texts are as publishers signed them: escape them where you show them.",
        },
        "paths": paths,
        "security": [{"token": []}, {"cookie": [], "key": []}],
        "components": {
            "schemas": SCHEMAS,
            "responses": {
                str(status): {
                    "description": text,
                    "content": {"application/json": {"schema": reference("Failure")}},
                }
                for status, text in STATUSES.items()
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": cookie_name(":PORT")},
                "key": {"type": "apiKey", "in": "header", "name": KEY_HEADER},
            },
        },
    }


def _described(one: Operation) -> Value:
    kind = "text/event-stream" if one.name == "events" else "application/json"
    value: Value = {
        "operationId": one.name,
        "summary": one.summary,
        "responses": {
            "200": {"description": "Done.", "content": {kind: {"schema": one.answers}}},
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in STATUSES},
        },
    }
    if names := re.findall(r"{(\w+)}", one.path):
        value["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if one.method == "POST":
        body: Value = {
            "type": "object",
            "properties": dict(one.takes),
            "additionalProperties": False,
        }
        if one.required:
            body["required"] = list(one.required)
        value["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if one.name == "session":
        value["security"] = []
    return value
