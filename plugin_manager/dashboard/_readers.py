"""What turns a request into what is to be done, noting each fault of its body in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from plugin_manager.dashboard._service import Service
from plugin_manager.document import Document
from plugin_manager.errors import NotFoundError

__all__ = [
    "Act",
    "Reader",
    "change_one",
    "cleanup",
    "confirm",
    "evict",
    "look",
    "repair",
    "rollback",
    "room",
    "show",
    "special",
    "steer",
    "submit",
    "uninstall",
    "update",
    "verify",
]

_JOB = re.compile(r"[0-9a-f]{1,16}", re.ASCII)

Act: TypeAlias = Callable[[Service], Any]
Reader: TypeAlias = Callable[[Document, Mapping[str, str]], Act]


def special(_: Document, __: Mapping[str, str]) -> Act:
    """For what the application itself answers."""
    raise AssertionError("is answered by the application itself")


def _texts(body: Document, key: str) -> list[str]:
    found = body.texts(key, [])
    if len(found) > 1000:
        body.fault(key, "holds more than 1000")
        return []
    return found


def look(act: Act) -> Reader:
    """What `act` gives; nothing is taken."""
    return lambda _body, _path: act


def _dry_run(body: Document) -> bool:
    return body.boolean("dry_run", False)


def _name(body: Document) -> str:
    return body.text("name", longest=1000)


def submit(action: Literal["install", "upgrade"], key: str) -> Reader:
    """To install or upgrade what the body names under `key`."""

    def read(body: Document, _: Mapping[str, str]) -> Act:
        requests, dry_run = _texts(body, key), _dry_run(body)
        return lambda service: service.submit(action, requests, dry_run=dry_run)

    return read


def change_one(planner: str, doer: str, **flags: bool) -> Reader:
    """A change of one named plugin: those methods of a manager plan it, and carry it out."""

    def read(body: Document, _: Mapping[str, str]) -> Act:
        name, dry_run = _name(body), _dry_run(body)
        return lambda service: service.change(
            lambda manager: getattr(manager, planner)(name, **flags),
            lambda manager: getattr(manager, doer)(name),
            dry_run=dry_run,
        )

    return read


def uninstall(body: Document, _: Mapping[str, str]) -> Act:
    """To uninstall plugins."""
    names, dry_run = _texts(body, "names"), _dry_run(body)
    if not names:
        body.fault("names", "names no plugin")
    return lambda service: service.change(
        lambda manager: manager.plan_uninstall(*names),
        lambda manager: manager.uninstall(*names),
        dry_run=dry_run,
    )


def rollback(body: Document, _: Mapping[str, str]) -> Act:
    """To go back to a release, or to a generation."""
    dry_run = _dry_run(body)
    if "generation" in body.value:
        number = body.integer("generation", most=10**15 - 1)
        return lambda service: service.change(
            lambda manager: manager.plan_rollback_to(number),
            lambda manager: manager.rollback_to(number),
            dry_run=dry_run,
        )
    name, to = _name(body), body.text("to", "", longest=1000) or None
    return lambda service: service.change(
        lambda manager: manager.plan_rollback(name, to),
        lambda manager: manager.rollback(name, to),
        dry_run=dry_run,
    )


def confirm(body: Document, _: Mapping[str, str]) -> Act:
    """To end a trial well."""
    name = _name(body)
    return lambda service: service.confirm(name)


def verify(body: Document, _: Mapping[str, str]) -> Act:
    """To verify plugins."""
    names = _texts(body, "names")
    return lambda service: service.verify(names)


def repair(body: Document, _: Mapping[str, str]) -> Act:
    """To repair plugins."""
    names, dry_run = _texts(body, "names"), _dry_run(body)
    return lambda service: service.repair(names, dry_run=dry_run)


def update(body: Document, _: Mapping[str, str]) -> Act:
    """To bring metadata."""
    names = _texts(body, "names")
    return lambda service: service.update(names)


def cleanup(body: Document, _: Mapping[str, str]) -> Act:
    """To remove what nobody needs."""
    unfinished, dry_run = body.boolean("unfinished", False), _dry_run(body)
    return lambda service: service.cleanup(unfinished=unfinished, dry_run=dry_run)


def evict(body: Document, _: Mapping[str, str]) -> Act:
    """To free so much."""
    size_bytes, dry_run = body.integer("size_bytes"), _dry_run(body)
    return lambda service: service.evict(size_bytes, dry_run=dry_run)


def _job(path: Mapping[str, str]) -> str:
    """The id of a job in the path, or how one begins; raises NotFoundError for what is none."""
    job = path["job"]
    if not _JOB.fullmatch(job):  # nor is it ever a part of a path on the disk
        raise NotFoundError(f"there is no job {job[:50]!r}", remedy="'pluginctl jobs' lists them.")
    return job


def steer(verb: str, *, every: bool = False) -> Reader:
    """To steer the job of the path, or every one."""

    def read(_: Document, path: Mapping[str, str]) -> Act:
        job = None if every else _job(path)
        return lambda service: service.steer(verb, job)

    return read


def show(_: Document, path: Mapping[str, str]) -> Act:
    """To show the plugin of the path."""
    name = f"{path['publisher']}/{path['plugin']}"
    return lambda service: service.plugin(name)


def room(_: Document, path: Mapping[str, str]) -> Act:
    """To say what the job of the path lacks room for."""
    job = _job(path)
    return lambda service: service.room(job)
