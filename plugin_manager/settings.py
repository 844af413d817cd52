"""Settings of a manager: given by the host, or taken from the environment by the command line.

PLUGINCTL_STORE          directory of the store; default: the user's data directory
PLUGINCTL_REPOSITORY     address of the repository (holding metadata/ and targets/)
PLUGINCTL_ROOT           file with the pinned root metadata
PLUGINCTL_HOST_VERSION   version of the host application, which releases may ask for
PLUGINCTL_GRACE_DAYS     for how long expired metadata is still accepted at load; default 30
PLUGINCTL_LOCK_TIMEOUT   seconds to wait for another writer; default: for ever
PLUGINCTL_MAX_STORE      how large the store may grow, such as 20GB; default: no bound but the disk
PLUGINCTL_MIN_FREE       how much of the disk must stay free, such as 2GB or 5%; default: 3%, at
                         most 1GB
PLUGINCTL_KEEP_PREVIOUS  how many earlier releases of each plugin are kept; default 1
PLUGINCTL_KEEP_GENERATIONS  how many generations the history keeps; default 100
PLUGINCTL_TRIAL_ATTEMPTS  how many attempts a release has to show that it works, after an upgrade;
                         default 3; 0: no trials
PLUGINCTL_SYSTEM_STORE   directory of a further store that is only read, after this one
PLUGINCTL_MIRRORS        further addresses that serve the same, with spaces between them
PLUGINCTL_TOKENS         file with a line "https://host TOKEN" for each server that wants a bearer
                         token; for its owner's eyes only
PLUGINCTL_MAX_RATE       how many bytes a second to fetch at most, such as 5MB; default: no limit
PLUGINCTL_METERED        what jobs do on a connection that is paid by the byte: allow (the
                         default), pause, or ask
PLUGINCTL_QUIET_HOURS    when jobs fetch nothing, such as 08:00-18:00 or 22:00-06:00, local time;
                         several with commas between them
PLUGINCTL_JOBS           how many jobs run at a time; default 3
PLUGINCTL_AGENT_UPDATE_HOURS  how often the agent brings fresh metadata; default 6, 0: never
PLUGINCTL_AGENT_UPGRADES what it does about new releases: off, notify (the default), download, or
                         install
PLUGINCTL_AGENT_COOLDOWN_DAYS  how old a release must be for that; default 3
PLUGINCTL_AGENT_SCRUB_DAYS  how often it reads and checks every installed release; default 30, 0:
                         never
PLUGINCTL_AGENT_SCRUB_RATE  how many bytes a second it reads for that at most; default 20MB
PLUGINCTL_AGENT_REPAIR   no: it only tells of damage; default yes
PLUGINCTL_AGENT_COLLECT_HOURS  how often it removes what nobody needs; default 24, 0: never
PLUGINCTL_AGENT_IDLE_EXIT  seconds without anything to do after which it ends; default: it stays
PLUGINCTL_AGENT_START    yes: commands with --background start an agent where none runs
PLUGINCTL_AGENT_DESKTOP  no: no notifications on the desktop
PLUGINCTL_AGENT_WEBHOOK  https address that notifications are posted to
PLUGINCTL_AGENT_COMMAND  program, and its arguments, that gets each notification
PLUGINCTL_CA_BUNDLE      file with further certificate authorities for https
PLUGINCTL_INSECURE_HTTP  yes: allow plain http to other machines (content is signed all the same)

A variable that is empty counts as unset. Switches are 1, true, yes or 0, false, no, in any case.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import time, timedelta
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

from attrs import field, frozen
from packaging.version import Version

from plugin_manager.errors import InvalidInputError
from plugin_manager.model import parse_version

__all__ = [
    "AgentPolicy",
    "Limits",
    "QueuePolicy",
    "QuietHours",
    "Settings",
    "from_environment",
    "parse_quiet_hours",
    "parse_rate",
    "parse_size",
]

DEFAULT_GRACE = timedelta(days=30)
_BYTES = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([kKMGT])(i)?)?B?", re.ASCII)
_HOUR = "([01][0-9]:[0-5][0-9]|2[0-3]:[0-5][0-9])"
_HOURS = re.compile(f"{_HOUR} ?- ?{_HOUR}", re.ASCII)
DEFAULT_FREE_PERCENT = 3.0
DEFAULT_FREE_BYTES = 1_000_000_000
MAX_NUMBER = 36_500  # days: a century; seconds: more than ten hours
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


def default_store() -> Path:
    """The store of this user where nothing else is said."""
    from platformdirs import user_data_path  # noqa: PLC0415 - most say where their store is

    return user_data_path("plugin-manager", appauthor=False) / "store"


def from_environment(
    environment: Mapping[str, str],
    *,
    store: str | Path | None = None,
    repository: str | None = None,
    root: str | Path | bytes | None = None,
    host_version: str | Version | None = None,
    lock_timeout_seconds: float | None = None,
    max_store_bytes: int | str | None = None,
    min_free_bytes: int | str | None = None,
    keep_previous: int | None = None,
    system_store: str | Path | None = None,
    mirrors: Iterable[str] | None = None,
    tokens: Mapping[str, str] | None = None,
    max_bytes_per_second: int | str | None = None,
) -> Settings:
    """The settings that arguments and, where they are None, `environment` give.

    Raises InvalidInputError naming the variable, or the argument, that is wrong.
    """
    store = store or environment.get("PLUGINCTL_STORE")
    repository = repository or environment.get("PLUGINCTL_REPOSITORY", "")
    root = root or environment.get("PLUGINCTL_ROOT") or None
    host_version = host_version or environment.get("PLUGINCTL_HOST_VERSION")
    ca_bundle = environment.get("PLUGINCTL_CA_BUNDLE")
    system_store = system_store or environment.get("PLUGINCTL_SYSTEM_STORE")
    if lock_timeout_seconds is None:
        lock_timeout_seconds = _number(environment, "PLUGINCTL_LOCK_TIMEOUT", -1)
    else:
        _check_number("lock timeout", str(lock_timeout_seconds), lock_timeout_seconds)
    return Settings(
        store=_path("store", store).absolute() if store else default_store(),
        repository=parse_repository(repository) if repository else "",
        root=_path("root of trust", root) if isinstance(root, str | Path) else root,
        host_version=_version(host_version) if isinstance(host_version, str) else host_version,
        grace=timedelta(days=_number(environment, "PLUGINCTL_GRACE_DAYS", DEFAULT_GRACE.days)),
        lock_timeout_seconds=lock_timeout_seconds,
        limits=_limits(
            {
                **environment,
                **{
                    name: str(given)
                    for name, given in (
                        ("PLUGINCTL_MAX_STORE", max_store_bytes),
                        ("PLUGINCTL_MIN_FREE", min_free_bytes),
                        ("PLUGINCTL_KEEP_PREVIOUS", keep_previous),
                    )
                    if given is not None
                },
            }
        ),
        system_store=_path("system store", system_store).absolute() if system_store else None,
        trial_attempts=_count(environment, "PLUGINCTL_TRIAL_ATTEMPTS", 3, least=0),
        mirrors=_mirrors(environment) if mirrors is None else _checked_mirrors("mirrors", mirrors),
        tokens=_tokens(environment) if tokens is None else _checked_tokens("tokens", tokens),
        max_bytes_per_second=parse_rate(
            "PLUGINCTL_MAX_RATE",
            environment.get("PLUGINCTL_MAX_RATE") or ""
            if max_bytes_per_second is None
            else str(max_bytes_per_second),
        ),
        queue=_queue(environment),
        agent=_agent(environment),
        ca_bundle=_path("PLUGINCTL_CA_BUNDLE", ca_bundle) if ca_bundle else None,
        insecure_http=_switch(environment, "PLUGINCTL_INSECURE_HTTP"),
    )


def _mirrors(environment: Mapping[str, str]) -> tuple[str, ...]:
    return _checked_mirrors("PLUGINCTL_MIRRORS", environment.get("PLUGINCTL_MIRRORS", "").split())


def _checked_mirrors(where: str, addresses: Iterable[str]) -> tuple[str, ...]:
    try:
        return tuple(map(parse_repository, addresses))
    except InvalidInputError as error:
        message = f"{where}: {error.message.replace('the repository', 'the mirror')}"
        message = message.replace("repository '", "mirror '")
        raise InvalidInputError(message, remedy=error.remedy) from None


def _queue(environment: Mapping[str, str]) -> QueuePolicy:
    metered = (environment.get("PLUGINCTL_METERED") or "allow").lower()
    if metered not in {"allow", "pause", "ask"}:
        raise InvalidInputError(
            f"PLUGINCTL_METERED: {metered!r} is none of allow, pause and ask",
            remedy="Write one of them, or leave it out.",
        )
    hours = environment.get("PLUGINCTL_QUIET_HOURS", "")
    return QueuePolicy(
        jobs_at_once=_count(environment, "PLUGINCTL_JOBS", 3, least=1),
        metered=cast("Literal['allow', 'pause', 'ask']", metered),
        quiet_hours=tuple(parse_quiet_hours(one) for one in hours.split(",") if one.strip()),
    )


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


MAX_TOKENS_BYTES = 256 * 1024


def _tokens(environment: Mapping[str, str]) -> Mapping[str, str]:
    name = environment.get("PLUGINCTL_TOKENS")
    if not name:
        return {}
    path = _path("PLUGINCTL_TOKENS", name)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = file.read(MAX_TOKENS_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise InvalidInputError(
            f"file of tokens {path}: {why}", remedy="Give a text file that can be read."
        ) from error
    if os.name == "posix" and mode & 0o077:
        raise InvalidInputError(
            f"file of tokens {path}: others may read it", remedy=f"Run 'chmod 600 {path}'."
        )
    found = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise InvalidInputError(
                f"file of tokens {path}: line {number} is not a server and a token",
                remedy="Write for instance: https://plugins.example.org TOKEN",
            )
        found[words[0]] = words[1]
    return _checked_tokens(f"file of tokens {path}", found)


def _checked_tokens(where: str, tokens: Mapping[str, str]) -> Mapping[str, str]:
    """`tokens` by "scheme://host:port" as it is normally written; raises InvalidInputError."""
    found: dict[str, str] = {}
    for server, token in tokens.items():
        try:
            parts = urlsplit(parse_repository(server))
        except InvalidInputError:
            # Its text may be the token: the two words of a line are easily swapped.
            raise InvalidInputError(
                f"{where}: what should be a server is not an address",
                remedy="Write for instance: https://plugins.example.org TOKEN",
            ) from None
        if parts.path not in {"", "/"}:
            raise InvalidInputError(
                f"{where}: {server!r} is more than a server",
                remedy="Leave out what follows the server's name.",
            )
        if not re.fullmatch(r"[\x21-\x7e]+", token, re.ASCII):
            raise InvalidInputError(  # the token itself is shown nowhere
                f"{where}: the token for {server} holds a space, or what is not ASCII",
                remedy="Copy it anew.",
            )
        name = f"{parts.scheme}://{parts.netloc.lower()}"
        if found.setdefault(name, token) != token:
            raise InvalidInputError(
                f"{where}: there are two tokens for {name}", remedy="Leave one of them out."
            )
    return found


def _path(what: str, given: str | Path) -> Path:
    """The path `given`, "~" being the user's home; raises InvalidInputError."""
    try:
        encoded, path = os.fsencode(given), Path(given).expanduser()
    except (ValueError, RuntimeError):  # cannot be encoded; or no such user
        encoded, path = b"\0", Path()
    if b"\0" in encoded:
        raise InvalidInputError(
            f"{what}: {os.fspath(given)!r} is not a path", remedy="Write the path in full."
        )
    return path


def _version(text: str) -> Version | None:
    try:
        return parse_version(text) if text else None
    except InvalidInputError as error:
        message = f"the host's version: {error.message}"
        raise InvalidInputError(message, remedy=error.remedy) from error


def _limits(environment: Mapping[str, str]) -> Limits:
    budget = environment.get("PLUGINCTL_MAX_STORE")
    floor = environment.get("PLUGINCTL_MIN_FREE", "")
    percent = floor.strip().removesuffix("%") if floor.strip().endswith("%") else ""
    if percent and not re.fullmatch(r"[0-9]{1,2}(\.[0-9]+)?", percent, re.ASCII):
        raise InvalidInputError(
            f"PLUGINCTL_MIN_FREE: {floor!r} is not a share of the disk",
            remedy="Write for instance 5%, or an amount such as 2GB.",
        )
    return Limits(
        max_store_bytes=parse_size("the store's budget", budget) if budget else None,
        min_free_bytes=parse_size("PLUGINCTL_MIN_FREE", floor) if floor and not percent else None,
        min_free_percent=float(percent) if percent else None,
        keep_previous=_count(environment, "PLUGINCTL_KEEP_PREVIOUS", 1, least=0),
        keep_generations=_count(environment, "PLUGINCTL_KEEP_GENERATIONS", 100, least=2),
    )


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


def _count(environment: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = environment.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or int(text) < least:
        raise InvalidInputError(
            f"{name}: {text!r} is not a whole number from {least} to 9999",
            remedy="Give one, or leave it out.",
        )
    return int(text)


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    return _check_number(name, text, value)


def _check_number(name: str, text: str, value: float) -> float:
    if not 0 <= value <= MAX_NUMBER:  # also false for nan
        raise InvalidInputError(
            f"{name}: {text!r} is not a number from 0 to {MAX_NUMBER}",
            remedy="Give a number within these bounds, or leave it out.",
        )
    return value


def _switch(environment: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    text = environment.get(name, "")
    if not text:
        return default
    if text.lower() in {"1", "true", "yes"}:
        return True
    if text.lower() in {"0", "false", "no"}:
        return False
    raise InvalidInputError(f"{name}: {text!r} is neither yes nor no", remedy="Write 1 or 0.")


_UPGRADES = ("off", "notify", "download", "install")


def _agent(environment: Mapping[str, str]) -> AgentPolicy:
    upgrades = (environment.get("PLUGINCTL_AGENT_UPGRADES") or "notify").lower()
    if upgrades not in _UPGRADES:
        raise InvalidInputError(
            f"PLUGINCTL_AGENT_UPGRADES: {upgrades!r} is none of {', '.join(_UPGRADES)}",
            remedy="Write one of them, or leave it out.",
        )
    idle = environment.get("PLUGINCTL_AGENT_IDLE_EXIT")
    insecure = _switch(environment, "PLUGINCTL_INSECURE_HTTP")
    webhook = environment.get("PLUGINCTL_AGENT_WEBHOOK", "")
    return AgentPolicy(
        update_hours=_number(environment, "PLUGINCTL_AGENT_UPDATE_HOURS", 6),
        upgrades=cast("Literal['off', 'notify', 'download', 'install']", upgrades),
        cooldown_days=_number(environment, "PLUGINCTL_AGENT_COOLDOWN_DAYS", 3),
        scrub_days=_number(environment, "PLUGINCTL_AGENT_SCRUB_DAYS", 30),
        scrub_bytes_per_second=parse_rate(
            "PLUGINCTL_AGENT_SCRUB_RATE", environment.get("PLUGINCTL_AGENT_SCRUB_RATE") or "20MB"
        ),
        repair=_switch(environment, "PLUGINCTL_AGENT_REPAIR", default=True),
        collect_hours=_number(environment, "PLUGINCTL_AGENT_COLLECT_HOURS", 24),
        idle_exit_seconds=_number(environment, "PLUGINCTL_AGENT_IDLE_EXIT", 0) if idle else None,
        start=_switch(environment, "PLUGINCTL_AGENT_START"),
        desktop=_switch(environment, "PLUGINCTL_AGENT_DESKTOP", default=True),
        webhook=check_webhook(webhook, insecure_http=insecure) if webhook else "",
        command=_arguments("PLUGINCTL_AGENT_COMMAND", environment),
    )


def check_webhook(address: str, *, insecure_http: bool) -> str:
    """`address`, if it is one that may be posted to; raises InvalidInputError, not showing it."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - raises where the port is not a number
    except ValueError:
        parts, host = urlsplit(""), ""
    http = insecure_http or host in {"127.0.0.1", "::1", "localhost"}
    if (
        not address.isprintable()
        or " " in address
        or not host
        or "@" in parts.netloc
        or not (parts.scheme == "https" or (parts.scheme == "http" and http))
    ):
        raise InvalidInputError(
            "PLUGINCTL_AGENT_WEBHOOK is not an https address (http only to this machine)",
            remedy="Write for instance https://hooks.example.org/plugins, without credentials.",
        )
    return address


def _arguments(name: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(environment.get(name, "")))
    except ValueError as error:
        raise InvalidInputError(
            f"{name}: {error}", remedy="Quote each argument as a shell would want it."
        ) from None
