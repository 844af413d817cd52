"""Every operation of the API in one table: its route, what it takes, answers and does.

The routes and the OpenAPI description are both made from it, so that neither lacks what the other
has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from attrs import field, frozen

from plugin_manager import __version__
from plugin_manager.dashboard._access import KEY_HEADER, cookie_name
from plugin_manager.dashboard._schemas import SCHEMAS, reference
from plugin_manager.dashboard._service import Service, Value
from plugin_manager.document import Document

__all__ = ["OPERATIONS", "Operation", "description"]

Act: TypeAlias = Callable[[Service], Any]
Reader: TypeAlias = Callable[[Document, Mapping[str, str]], Act]


def _special(_: Document, __: Mapping[str, str]) -> Act:
    raise AssertionError("is answered by the application itself")


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
    reader: Reader = _special
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


def _texts(body: Document, key: str) -> list[str]:
    found = body.texts(key, [])
    if len(found) > 1000:
        body.fault(key, "holds more than 1000")
        return []
    return found


def _look(act: Act) -> Reader:
    return lambda _body, _path: act


def _submit(action: Literal["install", "upgrade"], key: str) -> Reader:
    def read(body: Document, _: Mapping[str, str]) -> Act:
        requests, dry_run = _texts(body, key), body.boolean("dry_run", False)
        return lambda service: service.submit(action, requests, dry_run=dry_run)

    return read


def _named(verb: str, **flags: bool) -> Reader:
    """A change of one named plugin: `plan_<verb>` of a manager plans it."""
    planner, doer = {
        "hold": ("plan_hold", "hold"),
        "unhold": ("plan_hold", "unhold"),
        "pin": ("plan_pin", "pin"),
        "unpin": ("plan_pin", "unpin"),
    }[verb]

    def read(body: Document, _: Mapping[str, str]) -> Act:
        name, dry_run = body.text("name", longest=1000), body.boolean("dry_run", False)
        return lambda service: service.change(
            lambda manager: getattr(manager, planner)(name, **flags),
            lambda manager: getattr(manager, doer)(name),
            dry_run=dry_run,
        )

    return read


def _uninstall(body: Document, _: Mapping[str, str]) -> Act:
    names, dry_run = _texts(body, "names"), body.boolean("dry_run", False)
    if not names:
        body.fault("names", "names no plugin")
    return lambda service: service.change(
        lambda manager: manager.plan_uninstall(*names),
        lambda manager: manager.uninstall(*names),
        dry_run=dry_run,
    )


def _rollback(body: Document, _: Mapping[str, str]) -> Act:
    dry_run = body.boolean("dry_run", False)
    if "generation" in body.value:
        number = body.integer("generation", most=10**15 - 1)
        return lambda service: service.change(
            lambda manager: manager.plan_rollback_to(number),
            lambda manager: manager.rollback_to(number),
            dry_run=dry_run,
        )
    name, to = body.text("name", longest=1000), body.text("to", "", longest=1000) or None
    return lambda service: service.change(
        lambda manager: manager.plan_rollback(name, to),
        lambda manager: manager.rollback(name, to),
        dry_run=dry_run,
    )


def _confirm(body: Document, _: Mapping[str, str]) -> Act:
    name = body.text("name", longest=1000)
    return lambda service: service.confirm(name)


def _verify(body: Document, _: Mapping[str, str]) -> Act:
    names = _texts(body, "names")
    return lambda service: service.verify(names)


def _repair(body: Document, _: Mapping[str, str]) -> Act:
    names, dry_run = _texts(body, "names"), body.boolean("dry_run", False)
    return lambda service: service.repair(names, dry_run=dry_run)


def _update(body: Document, _: Mapping[str, str]) -> Act:
    names = _texts(body, "names")
    return lambda service: service.update(names)


def _cleanup(body: Document, _: Mapping[str, str]) -> Act:
    unfinished, dry_run = body.boolean("unfinished", False), body.boolean("dry_run", False)
    return lambda service: service.cleanup(unfinished=unfinished, dry_run=dry_run)


def _evict(body: Document, _: Mapping[str, str]) -> Act:
    size_bytes, dry_run = body.integer("size_bytes"), body.boolean("dry_run", False)
    return lambda service: service.evict(size_bytes, dry_run=dry_run)


def _steer(verb: str, *, every: bool = False) -> Reader:
    def read(_: Document, path: Mapping[str, str]) -> Act:
        return lambda service: service.steer(verb, None if every else path["job"])

    return read


def _plugin(_: Document, path: Mapping[str, str]) -> Act:
    name = f"{path['publisher']}/{path['plugin']}"
    return lambda service: service.plugin(name)


def _room(_: Document, path: Mapping[str, str]) -> Act:
    return lambda service: service.room(path["job"])


_PLAN = reference("Plan")
_SUBMITTED: Value = {"anyOf": [reference("Submitted"), reference("Planned")]}
_CHANGED_JOBS = reference("ChangedJobs")
_FLAG: dict[str, Value] = {"name": _NAME, "dry_run": _DRY_RUN}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "session",
        "POST",
        "/api/session",
        "Exchange the secret of a link for a session of this browser",
        reference("Session"),
        takes={"secret": {"type": "string", "maxLength": 200}},
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
    Operation(
        "state",
        "GET",
        "/api/state",
        "All that the page shows",
        reference("State"),
        _look(lambda service: service.look()),
    ),
    Operation(
        "list",
        "GET",
        "/api/plugins",
        "The active plugins, as `pluginctl list`",
        {"type": "array", "items": reference("Listed")},
        _look(lambda service: service.plugins()),
    ),
    Operation(
        "offers",
        "GET",
        "/api/offers",
        "What there is to have, as `pluginctl search`",
        {"type": "array", "items": reference("Offer")},
        _look(lambda service: service.offers()),
    ),
    Operation(
        "show",
        "GET",
        "/api/plugins/{publisher}/{plugin}",
        "A plugin with its releases, as `pluginctl show`",
        reference("Shown"),
        _plugin,
    ),
    Operation(
        "storage",
        "GET",
        "/api/storage",
        "What takes the room, as `pluginctl storage`",
        reference("Storage"),
        _look(lambda service: service.storage()),
    ),
    Operation(
        "history",
        "GET",
        "/api/history",
        "The generations, newest first, as `pluginctl history`",
        {"type": "array", "items": reference("Record")},
        _look(lambda service: service.history()),
    ),
    Operation(
        "agent",
        "GET",
        "/api/agent",
        "The store's agent, as `pluginctl agent status`",
        reference("Agent"),
        _look(lambda service: service.agent()),
    ),
    Operation(
        "activity",
        "GET",
        "/api/activity",
        "What happened lately, newest first",
        {"type": "array", "items": reference("Activity")},
        _look(lambda service: service.activity()),
    ),
    Operation(
        "jobs",
        "GET",
        "/api/jobs",
        "The jobs, as `pluginctl jobs`",
        reference("Jobs"),
        _look(lambda service: service.jobs()),
    ),
    Operation(
        "room",
        "GET",
        "/api/jobs/{job}/room",
        "What a job lacks room for, and what could be let go for it",
        reference("Room"),
        _room,
    ),
    *(
        Operation(
            f"{verb}-job",
            "POST",
            f"/api/jobs/{{job}}/{verb}",
            summary,
            _CHANGED_JOBS,
            _steer(verb),
        )
        for verb, summary in (
            ("pause", "Stop a job until it is resumed"),
            ("resume", "Go on with a job, also one that failed or was cancelled"),
            ("cancel", "End a job; what has arrived is kept for another time"),
            ("forget", "Remove the record of a job that is over"),
        )
    ),
    *(
        Operation(
            f"{verb}-jobs",
            "POST",
            f"/api/jobs/{verb}",
            summary,
            _CHANGED_JOBS,
            _steer(verb, every=True),
        )
        for verb, summary in (
            ("pause", "Stop all jobs, also those to come"),
            ("resume", "Let jobs run again"),
        )
    ),
    Operation(
        "install",
        "POST",
        "/api/install",
        "Install plugins in the background; or plan it",
        _SUBMITTED,
        _submit("install", "requests"),
        {"requests": _REQUESTS, "dry_run": _DRY_RUN},
        ("requests",),
    ),
    Operation(
        "upgrade",
        "POST",
        "/api/upgrade",
        "Upgrade plugins (none: all) in the background; or plan it",
        _SUBMITTED,
        _submit("upgrade", "names"),
        {"names": _NAMES, "dry_run": _DRY_RUN},
    ),
    Operation(
        "uninstall",
        "POST",
        "/api/uninstall",
        "Make plugins inactive, as `pluginctl uninstall`",
        _PLAN,
        _uninstall,
        {"names": _NAMES, "dry_run": _DRY_RUN},
        ("names",),
    ),
    Operation(
        "rollback",
        "POST",
        "/api/rollback",
        "Go back to an earlier release and hold it, or to a generation; as `pluginctl rollback`",
        _PLAN,
        _rollback,
        {
            "name": _NAME,
            "to": {**_TEXT, "description": "The version; otherwise the one before."},
            "generation": {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
            "dry_run": _DRY_RUN,
        },
    ),
    Operation(
        "hold",
        "POST",
        "/api/hold",
        "Keep upgrades away from a plugin, as `pluginctl hold`",
        _PLAN,
        _named("hold"),
        _FLAG,
        ("name",),
    ),
    Operation(
        "unhold",
        "POST",
        "/api/unhold",
        "Let upgrades change a plugin again, as `pluginctl unhold`",
        _PLAN,
        _named("unhold", held=False),
        _FLAG,
        ("name",),
    ),
    Operation(
        "pin",
        "POST",
        "/api/pin",
        "Keep a plugin's releases from being evicted, as `pluginctl pin`",
        _PLAN,
        _named("pin"),
        _FLAG,
        ("name",),
    ),
    Operation(
        "unpin",
        "POST",
        "/api/unpin",
        "Let a plugin's releases be evicted again, as `pluginctl unpin`",
        _PLAN,
        _named("unpin", pinned=False),
        _FLAG,
        ("name",),
    ),
    Operation(
        "confirm",
        "POST",
        "/api/confirm",
        "Say that the release a plugin was upgraded to works, as `pluginctl confirm`",
        reference("Confirmed"),
        _confirm,
        {"name": _NAME},
        ("name",),
    ),
    Operation(
        "verify",
        "POST",
        "/api/verify",
        "Verify every byte of plugins (none: all), as `pluginctl verify`",
        reference("Report"),
        _verify,
        {"names": _NAMES},
    ),
    Operation(
        "repair",
        "POST",
        "/api/repair",
        "Mend damaged plugins (none: all), as `pluginctl repair`",
        reference("Repaired"),
        _repair,
        {"names": _NAMES, "dry_run": _DRY_RUN},
    ),
    Operation(
        "update",
        "POST",
        "/api/update",
        "Bring fresh signed metadata, as `pluginctl update`",
        reference("Updated"),
        _update,
        {"names": _NAMES},
    ),
    Operation(
        "gc",
        "POST",
        "/api/gc",
        "Remove what nobody needs any more, as `pluginctl gc`",
        reference("Cleanup"),
        _cleanup,
        {"unfinished": {"type": "boolean", "default": False}, "dry_run": _DRY_RUN},
    ),
    Operation(
        "evict",
        "POST",
        "/api/evict",
        "Free at least so much by evicting the coldest releases, as `pluginctl evict`",
        reference("Cleanup"),
        _evict,
        {"size_bytes": {"type": "integer", "minimum": 0}, "dry_run": _DRY_RUN},
        ("size_bytes",),
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
            "default": {
                "description": "Refused, or failed.",
                "content": {"application/json": {"schema": reference("Failure")}},
            },
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
