"""The values that a manager is told: by its host, or by the command line.

Where they come from is `plugin_manager.configuration`'s to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import time, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from attrs import field
from packaging.version import Version

from plugin_manager._attrs import frozen
from plugin_manager.errors import InvalidInputError

__all__ = [
    "AgentPolicy",
    "Limits",
    "QueuePolicy",
    "QuietHours",
    "Settings",
    "parse_quiet_hours",
    "parse_rate",
    "parse_repository",
    "parse_size",
]

DEFAULT_GRACE = timedelta(days=30)
_BYTES = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([kKMGT])(i)?)?B?", re.ASCII)
_HOUR = "([01][0-9]:[0-5][0-9]|2[0-3]:[0-5][0-9])"
_HOURS = re.compile(f"{_HOUR} ?- ?{_HOUR}", re.ASCII)
DEFAULT_FREE_PERCENT = 3.0
DEFAULT_FREE_BYTES = 1_000_000_000
# What a root may be is for trust to say; this only keeps a wrong file from being read whole.
MAX_ROOT_FILE_BYTES = 16 * 1024 * 1024


@frozen
class Limits:
    """How large a store may grow, and what it keeps; bytes.

    `max_store_bytes` None: no budget. `min_free_bytes` None: 3 % of the disk, at most 1 GB.
    `keep_previous`: how many earlier releases of each active plugin; `keep_generations`: records.
    """

    max_store_bytes: int | None = None
    min_free_bytes: int | None = None
    min_free_percent: float | None = None
    keep_previous: int = 1
    keep_generations: int = 100

    def floor_bytes(self, disk_bytes: int) -> int:
        """How much of a disk of `disk_bytes` must stay free."""
        percent = self.min_free_percent
        if self.min_free_bytes is not None or percent is not None:
            return max(self.min_free_bytes or 0, int(disk_bytes * (percent or 0) / 100))
        return min(DEFAULT_FREE_BYTES, int(disk_bytes * DEFAULT_FREE_PERCENT / 100))


@frozen
class QuietHours:
    """Times of the day, `start` (included) to `stop`, that may reach past midnight."""

    start: time
    stop: time

    def covers(self, moment: time) -> bool:
        """Whether `moment` is one of them."""
        if self.start < self.stop:
            return self.start <= moment < self.stop
        return moment >= self.start or moment < self.stop

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.stop:%H:%M}"


@frozen
class QueuePolicy:
    """When jobs run: how many at a time, in all and of one group (0: as many), and not when.

    `metered`: what they do on a connection that is paid by the byte: `ask` waits for somebody to
    allow it for each job.
    """

    jobs_at_once: int = 3
    jobs_per_group: int = 0
    metered: Literal["allow", "pause", "ask"] = "allow"
    quiet_hours: tuple[QuietHours, ...] = ()


@frozen
class AgentPolicy:
    """What an agent does unasked, and how it tells of it.

    It brings metadata every `update_hours`, reads every installed release within `scrub_days` at
    `scrub_bytes_per_second` at most and with `repair` mends what it finds, removes what nobody
    needs every `collect_hours` (each 0: never). `upgrades` says what becomes of releases that are
    older than `cooldown_days`. With `idle_exit_seconds` it ends after so long without work;
    `start` lets commands start one. It tells through the `desktop`, an address that it posts to
    and a command, whose arguments come one by one.
    """

    update_hours: float = 6.0
    upgrades: Literal["off", "notify", "download", "install"] = "notify"
    cooldown_days: float = 3.0
    scrub_days: float = 30.0
    scrub_bytes_per_second: int | None = 20_000_000
    repair: bool = True
    collect_hours: float = 24.0
    idle_exit_seconds: float | None = None
    start: bool = False
    desktop: bool = True
    webhook: str = field(default="", repr=False)  # such an address may be a secret by itself
    command: tuple[str, ...] = field(default=(), repr=False)


@frozen
class Settings:
    """Everything a manager is told from outside; `repository` ends with "/" or is "".

    `mirrors` serve the same as it; `tokens` are bearer tokens by the server that gets them, such as
    "https://plugins.example.org".

    After an upgrade a release has `trial_attempts` (0: no trials) to be confirmed: by a first
    successful import, or by the host alone.

    `root` is the pinned root metadata itself, or the file that holds it, or None: then only
    commands work that neither load nor fetch anything.
    """

    store: Path
    repository: str = ""
    root: bytes | Path | None = field(default=None, repr=False)
    host_version: Version | None = None
    grace: timedelta = DEFAULT_GRACE
    lock_timeout_seconds: float = -1
    limits: Limits = field(factory=Limits)
    system_store: Path | None = None
    on_corruption: Literal["refuse", "repair"] = "refuse"
    trial_attempts: int = 3
    confirm: Literal["import", "host"] = "import"
    mirrors: tuple[str, ...] = ()
    tokens: Mapping[str, str] = field(factory=dict, repr=False)
    max_bytes_per_second: int | None = None
    queue: QueuePolicy = field(factory=QueuePolicy)
    agent: AgentPolicy = field(factory=AgentPolicy)
    ca_bundle: Path | None = None
    insecure_http: bool = False

    def pinned_root(self) -> bytes:
        """The pinned root's bytes; raises InvalidInputError where there is none."""
        if isinstance(self.root, bytes):
            return self.root
        if self.root is None:
            raise InvalidInputError(
                "no root of trust is given",
                remedy="Pass root=, or --root FILE, or set PLUGINCTL_ROOT.",
            )
        try:
            with self.root.open("rb") as file:
                data = file.read(MAX_ROOT_FILE_BYTES + 1)
        except OSError as error:
            raise InvalidInputError(
                f"root of trust {self.root}: {error.strerror}",
                remedy="Give the file that the repository's owner published.",
            ) from error
        if len(data) > MAX_ROOT_FILE_BYTES:
            raise InvalidInputError(
                f"root of trust {self.root}: larger than {MAX_ROOT_FILE_BYTES} bytes",
                remedy="Give the file that the repository's owner published.",
            )
        return data

    @property
    def root_name(self) -> str:
        """What the pinned root is called in errors: its file, where it has one."""
        return f"root of trust {self.root}" if isinstance(self.root, Path) else "pinned root"

    def base_url(self) -> str:
        """The repository's address; raises InvalidInputError where there is none."""
        if not self.repository:
            raise InvalidInputError(
                "no repository is given",
                remedy="Pass repository=, or --repository URL, or set PLUGINCTL_REPOSITORY.",
            )
        return self.repository

    def base_urls(self) -> tuple[str, ...]:
        """The repository's address and its mirrors'; raises as `base_url` does."""
        return (self.base_url(), *self.mirrors)


def parse_repository(text: str) -> str:
    """The repository address in `text`, ending with "/"; raises InvalidInputError."""
    # What may hold a password is not shown.
    shown = "the repository's address" if "@" in text else f"repository {text!r}"
    # urlsplit drops some of these in silence, and no server is asked for a path that holds one.
    if any(char.isspace() or not char.isprintable() for char in text):
        raise InvalidInputError(
            f"{shown} holds a space or a control character",
            remedy="Leave it out, or write a space within a path as %20.",
        )
    example = "Write for instance https://plugins.example.org/."
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - raises where the port is not a number
    except ValueError as error:
        why = "" if "@" in text else f" ({error})"
        raise InvalidInputError(f"{shown} is not an address{why}", remedy=example) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInputError(f"{shown} is not an address", remedy=example)
    if "@" in parts.netloc:
        raise InvalidInputError(
            "the repository's address must not hold credentials",
            remedy="Put credentials into ~/.netrc.",
        )
    if "?" in text or "#" in text:
        raise InvalidInputError(
            f"{shown} holds a query or a fragment", remedy="Leave out what follows '?' or '#'."
        )
    return text if text.endswith("/") else f"{text}/"


def parse_quiet_hours(text: str) -> QuietHours:
    """The hours that `text` ("22:00-06:00") names."""
    match = _HOURS.fullmatch(text.strip())
    if not match or match[1] == match[2]:
        raise InvalidInputError(
            f"quiet hours: {text.strip()!r} are not times of the day",
            remedy="Write for instance 22:00-06:00.",
        )
    start, stop = time.fromisoformat(match[1]), time.fromisoformat(match[2])
    return QuietHours(start, stop)


def parse_rate(what: str, text: str) -> int | None:
    """The bytes a second that `text` says: an amount, with or without "/s"; None for ""."""
    rate = parse_size(what, text.strip().removesuffix("/s")) if text.strip() else None
    if rate == 0:
        raise InvalidInputError(
            f"{what}: nothing would ever come at {text!r}",
            remedy="Give a rate such as 500kB; 'pluginctl pause' stops jobs.",
        )
    return rate


def parse_size(what: str, text: str) -> int:
    """The number of bytes that `text` ("20GB", "512MiB", "1000") says."""
    match = _BYTES.fullmatch(text.strip())
    if not match:
        raise InvalidInputError(
            f"{what}: {text!r} is not a number of bytes",
            remedy="Write for instance 500MB, 20GB or 1TiB.",
        )
    prefix, binary = (match[2] or "").upper(), bool(match[3])
    return int(float(match[1]) * (1024 if binary else 1000) ** " KMGT".index(prefix or " "))
