"""Jobs: what is to be fetched and installed, and how far that is, one directory each.

    jobs/<id>/wish.json       what somebody wants; written by whoever asks, at any time
    jobs/<id>/standing.json   what became of it; written by whoever works at it, and has it claimed
    jobs/<id>/progress.json   how far it is; for others to see, and of no use after a crash
    jobs/queue.json           what holds for all of them: paused, and the limit

Each file is replaced whole. Whoever works at a job has its directory locked, which the kernel ends
with the process: then it is queued again. Who changes a wish holds `changing` for that instant, so
that nobody's is lost; nobody waits for who works.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar

from attrs import field

from plugin_manager._attrs import frozen
from plugin_manager.document import Document
from plugin_manager.durable import (
    TEMPORARY_PREFIX,
    disk_errors,
    is_real_directory,
    make_directories,
    make_real_directories,
    read_regular,
    remove_tree,
    write_atomically,
)
from plugin_manager.errors import CorruptError, InvalidInputError
from plugin_manager.model import Digest, utc_text
from plugin_manager.store._garbage import IDLE, entries
from plugin_manager.store._lease import Lease, is_occupied, occupy

__all__ = [
    "JobRecords",
    "JobState",
    "QueueWish",
    "Standing",
    "Want",
    "Wish",
    "is_over",
    "job_id",
    "state_of",
]

LEAST_PRIORITY, MOST_PRIORITY = 10, 0
_PATIENCE_SECONDS, _PAUSE_SECONDS = 5.0, 0.005
_FRESH_SECONDS = 600
_SETTLED_NS = 2_000_000_000  # two changes within a tick of the clock may look alike
_MOST_KNOWN = 1000
_HOUR = timedelta(hours=1)
_MOST_BYTES = 1024 * 1024
_FORMAT = 1
_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)

T = TypeVar("T")


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting to retry"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen unless somebody asks for it."""
        return self in {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}


class Want(StrEnum):
    """What somebody wants of a job."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


def job_id(action: str, requests: tuple[str, ...]) -> str:
    """The id of a job: by what it fetches, wherever that comes from."""
    return Digest.of(json.dumps([action, sorted(requests)]).encode())[:16]


@frozen
class Wish:
    """What somebody asked for; `requests` are requirements, as text, or names to upgrade.

    `attempt` counts how often it was started anew after it had ended. `metered`: it may run on a
    connection that is paid by the byte, whatever the policy. `deadline`: when to give up.
    `foreground`: its caller waits for it and would run it again, so that nobody else takes it up.
    `only`: the heads of all that it may bring; none are named: whatever is chosen.
    """

    action: str
    requests: tuple[str, ...]
    submitted: datetime
    priority: int = 5
    group: str = ""
    bytes_per_second: int | None = None
    metered: bool = False
    deadline: datetime | None = None
    want: Want = Want.RUN
    keep: bool = True
    foreground: bool = False
    attempt: int = 1
    only: tuple[Digest, ...] = field(default=(), repr=False)

    @property
    def id(self) -> str:
        """The job's id."""
        return job_id(self.action, self.requests)

    def render(self) -> dict[str, Any]:
        """As a JSON value."""
        return {
            "format": _FORMAT,
            "action": self.action,
            "requests": list(self.requests),
            "submitted": utc_text(self.submitted),
            "priority": self.priority,
            "group": self.group,
            "bytes_per_second": self.bytes_per_second or 0,
            "metered": self.metered,
            "deadline": utc_text(self.deadline) if self.deadline else "",
            "want": self.want.value,
            "keep": self.keep,
            "foreground": self.foreground,
            "attempt": self.attempt,
            "only": list(self.only),
        }

    @classmethod
    def parse(cls, document: Document, where: str) -> Self:
        """The wish in `document`; raises InvalidInputError."""
        document.check_format(_FORMAT, where)
        action = document.parsed("action", _one_of("install", "upgrade", "fetch"))
        requests = tuple(document.texts("requests"))
        submitted = document.parsed("submitted", _moment)
        want = document.parsed("want", _want)
        wish = cls(
            action or "",
            requests,
            submitted or _EPOCH,
            priority=document.integer("priority", least=MOST_PRIORITY, most=LEAST_PRIORITY),
            group=document.text("group", longest=200),
            bytes_per_second=document.integer("bytes_per_second") or None,
            metered=document.boolean("metered"),
            deadline=_optional_moment(document, "deadline"),
            want=want or Want.PAUSE,
            keep=document.boolean("keep"),
            foreground=document.boolean("foreground"),
            attempt=document.integer("attempt", least=1),
            only=document.parsed_each("only", Digest.parse, []),
        )
        document.finish(where)
        return wish


@frozen
class Standing:
    """What became of a job's attempt so far.

    `why` says what it waits for, or why it failed; `family`, `remedy` those of the error;
    `digests` name what it fetches, once that is known.
    """

    attempt: int
    state: JobState
    updated: datetime
    why: str = ""
    family: str = ""
    remedy: str = ""
    retry_at: datetime | None = None
    digests: tuple[Digest, ...] = field(default=(), repr=False)

    def render(self) -> dict[str, Any]:
        """As a JSON value."""
        return {
            "format": _FORMAT,
            "attempt": self.attempt,
            "state": self.state.value,
            "updated": utc_text(self.updated),
            "why": self.why,
            "family": self.family,
            "remedy": self.remedy,
            "retry_at": utc_text(self.retry_at) if self.retry_at else "",
            "digests": list(self.digests),
        }

    @classmethod
    def parse(cls, document: Document, where: str) -> Self:
        """The standing in `document`; raises InvalidInputError."""
        document.check_format(_FORMAT, where)
        standing = cls(
            document.integer("attempt", least=1),
            document.parsed("state", _state) or JobState.QUEUED,
            document.parsed("updated", _moment) or _EPOCH,
            why=document.text("why"),
            family=document.text("family"),
            remedy=document.text("remedy"),
            retry_at=_optional_moment(document, "retry_at"),
            digests=document.parsed_each("digests", Digest.parse),
        )
        document.finish(where)
        return standing


@frozen
class QueueWish:
    """What holds for all jobs of a store: `paused`, and the limit (None: the settings')."""

    paused: bool = False
    bytes_per_second: int | None = None


def state_of(wish: Wish, standing: Standing | None, *, claimed: bool) -> JobState:
    """Where a job stands, by what is recorded, and whether a live process has it claimed."""
    known = standing if standing and standing.attempt == wish.attempt else None
    if known and (known.state.final or claimed):
        return known.state
    if wish.want is Want.CANCEL:
        return JobState.CANCELLED
    if wish.want is Want.PAUSE or wish.foreground:  # whose caller is gone
        return JobState.PAUSED
    return JobState.QUEUED


def is_over(
    wish: Wish | None, standing: Standing | None, now: datetime, *, unfinished: bool
) -> bool:
    """Whether nobody needs the record of a job that is not claimed any more.

    What became of a job can be looked up for a week, why a command failed for an hour. What a
    command left for its next attempt stays for a week, or with `unfinished` no longer.
    """
    if wish is None:
        return True
    state = state_of(wish, standing, claimed=False)
    if not state.final and not wish.foreground:
        return False
    if unfinished and wish.foreground:
        return True
    moment = max(wish.submitted, standing.updated) if standing else wish.submitted
    return now - moment > (_HOUR if state.final and wish.foreground else IDLE)


class JobRecords:
    """The jobs of the store in `directory`. Takes no lock of the store's."""

    def __init__(self, directory: Path) -> None:
        self._store = directory
        self.directory = directory / "jobs"
        # What was read, by what the file was like: who works at a queue looks all the time.
        self._known: dict[tuple[str, str], tuple[tuple[int, ...], Any]] = {}

    def ids(self) -> list[str]:
        """The ids of all jobs."""
        with disk_errors(self._store):
            return [
                path.name
                for path in entries(self.directory)
                if _ID.fullmatch(path.name) and is_real_directory(path)
            ]

    def wish(self, job: str) -> Wish | None:
        """What somebody wants of `job`; None where there is none that can be read."""
        wish = self._read(job, "wish.json", Wish.parse)
        return wish if wish and wish.id == job else None

    def wish_mark(self, job: str) -> tuple[int, int]:
        """Something that is different after each change of the wish."""
        with suppress(OSError):
            status = (self.directory / job / "wish.json").lstat()
            return status.st_ino, status.st_mtime_ns
        return 0, 0

    def standing(self, job: str) -> Standing | None:
        """What became of `job`; None where nothing is known."""
        return self._read(job, "standing.json", Standing.parse)

    def progress(self, job: str) -> Mapping[str, Any]:
        """What `keep_progress` was given last, if that can be read; not to be relied on."""
        value = self._load(f"{job}/progress.json")
        return value if isinstance(value, Mapping) else {}

    def queue(self) -> QueueWish:
        """What holds for all jobs."""
        document = Document(self._load("queue.json") or {"format": _FORMAT})
        paused = document.boolean("paused", default=False)
        limit = document.integer("bytes_per_second", -1, least=-1)
        return QueueWish(paused, None if limit < 0 else limit)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Be the only one who changes wishes, for as long as it takes to read one and write it."""
        with disk_errors(self._store):
            make_directories(self._store)
            make_real_directories(self._store, self.directory)
            until = time.monotonic() + _PATIENCE_SECONDS
            while (mine := occupy(self.directory)) is None and time.monotonic() < until:
                time.sleep(_PAUSE_SECONDS)
        try:
            yield  # also where somebody was stopped within it: a wish may then be lost, no more
        finally:
            if mine:
                mine.close()

    def claim(self, job: str) -> Lease | None:
        """The right to work at `job`; None where another process has it, or it is gone."""
        with disk_errors(self._store):
            try:
                return occupy(self.directory / job)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def is_claimed(self, job: str) -> bool:
        """Whether a live process works at `job`, or means to."""
        return is_occupied(self.directory / job)

    def keep_wish(self, wish: Wish) -> None:
        """Record a wish, durably."""
        self._write(f"{wish.id}/wish.json", wish.render())

    def keep_standing(self, job: str, standing: Standing) -> None:
        """Record what became of a job; for whoever has it claimed.

        Durably where nothing follows from itself: what was queued or running when the power went is
        queued again, whatever was recorded of it.
        """
        if standing.state.final or standing.state is JobState.PAUSED:
            self._write(f"{job}/standing.json", standing.render())
        else:
            with disk_errors(self._store):
                self._replace(f"{job}/standing.json", standing.render())

    def keep_progress(self, job: str, value: Mapping[str, Any]) -> None:
        """Tell other processes how far a job is, if that is possible; a crash may lose it."""
        with suppress(OSError):
            self._replace(f"{job}/progress.json", value)

    def _replace(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a file whole; a power cut may empty it."""
        path = self.directory / name
        beside = path.with_name(f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        with os.fdopen(os.open(beside, flags, 0o644), "w") as file:
            json.dump(value, file)
        beside.replace(path)

    def keep_queue(self, queue: QueueWish) -> None:
        """Record what holds for all jobs, durably."""
        limit = queue.bytes_per_second
        value = {
            "format": _FORMAT,
            "paused": queue.paused,
            "bytes_per_second": -1 if limit is None else limit,
        }
        self._write("queue.json", value)

    def remove(self, job: str) -> None:
        """Forget a job; for whoever has it claimed."""
        with disk_errors(self._store), suppress(FileNotFoundError):
            remove_tree(self.directory / job)

    def remove_if(self, job: str, over: Callable[[Wish | None, Standing | None], bool]) -> bool:
        """Forget a job that is nobody's and, as it is now, `over`; whether that was done."""
        with self.changing():
            claim = self.claim(job)
            if claim is None:
                return False
            with claim:
                if not over(self.wish(job), self.standing(job)):
                    return False
                self.remove(job)
        return True

    def is_fresh(self, job: str) -> bool:
        """Whether the directory of a job was made a moment ago, and has no wish yet."""
        with suppress(OSError):
            age = time.time() - (self.directory / job).lstat().st_mtime
            return age < _FRESH_SECONDS and not os.path.lexists(self.directory / job / "wish.json")
        return False

    def forget_progress(self, job: str) -> None:
        """What an earlier attempt told of its progress is of no use any more."""
        with suppress(OSError):
            (self.directory / job / "progress.json").unlink(missing_ok=True)

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        path = self.directory / name
        with disk_errors(self._store):
            make_directories(self._store)
            make_real_directories(self._store, path.parent)
            write_atomically(path, json.dumps(value, indent=1).encode())

    def _load(self, name: str) -> object:
        with suppress(
            FileNotFoundError, NotADirectoryError, CorruptError, ValueError, RecursionError
        ):
            with disk_errors(self._store):
                try:
                    data = read_regular(self.directory / name, _MOST_BYTES, f"jobs/{name}")
                except (FileNotFoundError, NotADirectoryError):
                    return None
            return json.loads(data)
        return None

    def _read(self, job: str, name: str, parse: Callable[[Document, str], T]) -> T | None:
        if not _ID.fullmatch(job):  # what somebody typed, perhaps a path
            return None
        mark = self._mark(job, name)
        known = self._known.get((job, name))
        if known and mark and known[0] == mark:
            found: T | None = known[1]
            return found
        value, found = self._load(f"{job}/{name}"), None
        with suppress(InvalidInputError):
            found = None if value is None else parse(Document(value), f"jobs/{job}/{name}")
        if mark and time.time_ns() - mark[-1] > _SETTLED_NS:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[job, name] = mark, found
        return found

    def _mark(self, job: str, name: str) -> tuple[int, ...] | None:
        """Something that differs after each change of a file, once the last is some time ago."""
        with suppress(OSError):
            status = (self.directory / job / name).lstat()
            return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        return None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInputError(f"{text!r} is not a moment") from None


def _optional_moment(document: Document, key: str) -> datetime | None:
    return document.parsed(key, _moment) if document.text(key, "") else None


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise InvalidInputError(f"{text!r} is none of {', '.join(words)}")
        return text

    return parse


def _state(text: str) -> JobState:
    return JobState(_one_of(*JobState)(text))


def _want(text: str) -> Want:
    return Want(_one_of(*Want)(text))
