"""Where settings come from: a flag, else the environment, else a file, else a default.

What each is called, what it means and how its text is read stands in `OPTIONS`, once. A variable
that is empty counts as unset. Switches are 1, true, yes or 0, false, no, in any case.

The file is `pluginctl`'s, TOML with one key a setting; a host that embeds a manager says what it
wants itself, and no user's file changes that.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from attrs import define, field
from packaging.version import Version

from plugin_manager._attrs import frozen
from plugin_manager.durable import disk_errors, write_atomically
from plugin_manager.errors import InvalidInputError, PluginManagerError, RefusedError
from plugin_manager.model import parse_version
from plugin_manager.settings import (
    DEFAULT_GRACE,
    AgentPolicy,
    Limits,
    QueuePolicy,
    QuietHours,
    Settings,
    parse_quiet_hours,
    parse_rate,
    parse_repository,
    parse_size,
)

__all__ = [
    "OPTIONS",
    "ConfigurationFile",
    "Option",
    "Origin",
    "default_store",
    "explain",
    "from_environment",
    "option",
    "read",
    "user_file",
]

MAX_FILE_BYTES = 256 * 1024
MAX_NUMBER = 36_500  # days: a century; seconds: more than ten hours

_XDG = sys.platform not in {"darwin", "win32"}

Source = Literal["flag", "environment", "file", "default"]


@frozen
class Option:
    """One setting: `name` in the file, `variable`, what it says, and the default in words.

    `what` is the word for it in errors about a flag or an argument; `parse(where, given)` makes
    the value of a text, or of what a host gives, and raises InvalidInputError naming `where`. What
    `is_file` must be there when it is written down. What `is_secret` is shown to nobody.
    """

    name: str
    variable: str
    description: str
    default: str
    parse: Callable[[str, Any], Any]
    what: str = ""
    is_path: bool = False
    is_file: bool = False
    is_secret: bool = False

    @property
    def flag(self) -> str:
        """The command line's option, where there is one."""
        return f"--{self.name.replace('_', '-')}" if self.name in FLAGS else ""


FLAGS = frozenset(
    {"store", "repository", "root", "host_version", "lock_timeout", "max_store", "max_rate",
     "system_store"}
)  # fmt: skip


# --- reading texts -----------------------------------------------------------------------------


def _path(where: str, given: str | Path) -> Path:
    """The path `given`, "~" being the user's home; raises InvalidInputError."""
    try:
        encoded, path = os.fsencode(given), Path(given).expanduser()
    except (ValueError, RuntimeError):  # cannot be encoded; or no such user
        encoded, path = b"\0", Path()
    if b"\0" in encoded:
        raise InvalidInputError(
            f"{where}: {os.fspath(given)!r} is not a path", remedy="Write the path in full."
        )
    return path


def _absolute(where: str, given: str | Path) -> Path:
    return _path(where, given).absolute()


def _root(where: str, given: str | Path | bytes) -> bytes | Path:
    return given if isinstance(given, bytes) else _path(where, given)


def _repository(where: str, given: str) -> str:  # noqa: ARG001 - its error shows the address
    return parse_repository(given)


def _version(where: str, given: str | Version) -> Version:
    if isinstance(given, Version):
        return given
    try:
        return parse_version(given)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error.message}", remedy=error.remedy) from error


def _number(where: str, given: str | float) -> float:
    try:
        value = float(given)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= MAX_NUMBER:  # also false for nan
        raise InvalidInputError(
            f"{where}: {str(given)!r} is not a number from 0 to {MAX_NUMBER}",
            remedy="Give a number within these bounds, or leave it out.",
        )
    return value


def _count(least: int) -> Callable[[str, str | int], int]:
    def parse(where: str, given: str | int) -> int:
        text = str(given)
        if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or int(text) < least:
            raise InvalidInputError(
                f"{where}: {text!r} is not a whole number from {least} to 9999",
                remedy="Give one, or leave it out.",
            )
        return int(text)

    return parse


def _switch(where: str, given: str) -> bool:
    if given.lower() in {"1", "true", "yes"}:
        return True
    if given.lower() in {"0", "false", "no"}:
        return False
    raise InvalidInputError(f"{where}: {given!r} is neither yes nor no", remedy="Write 1 or 0.")


def _size(where: str, given: str | int) -> int:
    return parse_size(where, str(given))


def _rate(where: str, given: str | int) -> int | None:
    return parse_rate(where, str(given))


def _floor(where: str, given: str | int) -> int | float:
    """How much stays free: bytes as an int, a share of the disk as a float."""
    text = str(given).strip()
    if not text.endswith("%"):
        return parse_size(where, text)
    percent = text.removesuffix("%")
    if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]+)?", percent, re.ASCII):
        raise InvalidInputError(
            f"{where}: {text!r} is not a share of the disk",
            remedy="Write for instance 5%, or an amount such as 2GB.",
        )
    return float(percent)


def _mirrors(where: str, given: str | Iterable[str]) -> tuple[str, ...]:
    try:
        return tuple(map(parse_repository, given.split() if isinstance(given, str) else given))
    except InvalidInputError as error:
        message = f"{where}: {error.message.replace('the repository', 'the mirror')}"
        message = message.replace("repository '", "mirror '")
        raise InvalidInputError(message, remedy=error.remedy) from None


def _one_of(*words: str) -> Callable[[str, str], str]:
    listed = f"{', '.join(words[:-1])} and {words[-1]}"

    def parse(where: str, given: str) -> str:
        if given.lower() not in words:
            raise InvalidInputError(
                f"{where}: {given.lower()!r} is none of {listed}",
                remedy="Write one of them, or leave it out.",
            )
        return given.lower()

    return parse


def _quiet_hours(where: str, given: str) -> tuple[QuietHours, ...]:  # noqa: ARG001 - as above
    return tuple(parse_quiet_hours(one) for one in given.split(",") if one.strip())


def _webhook(where: str, given: str) -> str:
    """An address to post to; errors do not show it, as it may be a secret by itself."""
    try:
        parts = urlsplit(given)
        parts.port  # noqa: B018 - raises where the port is not a number
    except ValueError:
        parts = urlsplit("")
    odd = not given.isprintable() or " " in given or "@" in parts.netloc
    if odd or not parts.hostname or parts.scheme not in {"https", "http"}:
        raise _no_webhook(where)
    return given


def _no_webhook(where: str) -> InvalidInputError:
    return InvalidInputError(
        f"{where}: is not an https address, or http of this machine",
        remedy="Write for instance https://hooks.example.org/plugins, without credentials.",
    )


def _is_allowed_webhook(address: str, *, insecure_http: bool) -> bool:
    parts = urlsplit(address)
    here = parts.hostname in {"127.0.0.1", "::1", "localhost"}
    return not address or parts.scheme == "https" or here or insecure_http


def _arguments(where: str, given: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(given))
    except ValueError as error:
        raise InvalidInputError(
            f"{where}: {error}", remedy="Quote each argument as a shell would want it."
        ) from None


MAX_TOKENS_BYTES = 256 * 1024


def _tokens(where: str, given: str | Path | Mapping[str, str]) -> Mapping[str, str]:
    if isinstance(given, Mapping):
        return _checked_tokens(where, given)
    path = _path(where, given)
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


# --- the settings that there are -----------------------------------------------------------------

OPTIONS: tuple[Option, ...] = (
    Option(
        "store", "PLUGINCTL_STORE", "directory of the store", "the user's data directory",
        _absolute, what="store", is_path=True,
    ),
    Option(
        "repository", "PLUGINCTL_REPOSITORY",
        "address of the repository, which holds metadata/ and targets/", "none", _repository,
    ),
    Option(
        "root", "PLUGINCTL_ROOT", "file with the pinned root metadata", "none", _root,
        what="root of trust", is_path=True, is_file=True,
    ),
    Option(
        "host_version", "PLUGINCTL_HOST_VERSION",
        "version of the host application, which releases may ask for", "unknown", _version,
        what="the host's version",
    ),
    Option(
        "grace_days", "PLUGINCTL_GRACE_DAYS",
        "for how many days expired metadata is still accepted at load",
        str(DEFAULT_GRACE.days), _number,
    ),
    Option(
        "lock_timeout", "PLUGINCTL_LOCK_TIMEOUT", "seconds to wait for another writer",
        "wait for ever", _number, what="lock timeout",
    ),
    Option(
        "max_store", "PLUGINCTL_MAX_STORE", "how large the store may grow, such as 20GB",
        "no bound but the disk", _size, what="the store's budget",
    ),
    Option(
        "min_free", "PLUGINCTL_MIN_FREE",
        "how much of the disk must stay free, such as 2GB or 5%", "3%, at most 1GB", _floor,
    ),
    Option(
        "keep_previous", "PLUGINCTL_KEEP_PREVIOUS",
        "how many earlier releases of each plugin are kept", "1", _count(0),
    ),
    Option(
        "keep_generations", "PLUGINCTL_KEEP_GENERATIONS",
        "how many generations the history keeps", "100", _count(2),
    ),
    Option(
        "trial_attempts", "PLUGINCTL_TRIAL_ATTEMPTS",
        "how many attempts a release has to show that it works after an upgrade, 0: no trials",
        "3", _count(0),
    ),
    Option(
        "system_store", "PLUGINCTL_SYSTEM_STORE",
        "directory of a further store that is only read, after this one", "none", _absolute,
        what="system store", is_path=True,
    ),
    Option(
        "mirrors", "PLUGINCTL_MIRRORS",
        "further addresses that serve the same, with spaces between them", "none", _mirrors,
        what="mirrors",
    ),
    Option(
        "tokens", "PLUGINCTL_TOKENS",
        'file with a line "https://host TOKEN" for each server that wants one', "none", _tokens,
        what="tokens", is_path=True,
    ),
    Option(
        "max_rate", "PLUGINCTL_MAX_RATE", "how many bytes a second to fetch at most, such as 5MB",
        "no limit", _rate,
    ),
    Option(
        "metered", "PLUGINCTL_METERED",
        "what jobs do on a connection that is paid by the byte: allow, pause or ask", "allow",
        _one_of("allow", "pause", "ask"),
    ),
    Option(
        "quiet_hours", "PLUGINCTL_QUIET_HOURS",
        "when jobs fetch nothing, local time, such as 08:00-18:00,22:00-06:00", "none",
        _quiet_hours,
    ),
    Option("jobs", "PLUGINCTL_JOBS", "how many jobs run at a time", "3", _count(1)),
    Option(
        "agent_update_hours", "PLUGINCTL_AGENT_UPDATE_HOURS",
        "how often the agent brings fresh metadata, in hours, 0: never", "6", _number,
    ),
    Option(
        "agent_upgrades", "PLUGINCTL_AGENT_UPGRADES",
        "what the agent does about new releases: off, notify, download or install", "notify",
        _one_of("off", "notify", "download", "install"),
    ),
    Option(
        "agent_cooldown_days", "PLUGINCTL_AGENT_COOLDOWN_DAYS",
        "how many days old a release must be for that", "3", _number,
    ),
    Option(
        "agent_scrub_days", "PLUGINCTL_AGENT_SCRUB_DAYS",
        "how often the agent reads and checks every installed release, in days, 0: never", "30",
        _number,
    ),
    Option(
        "agent_scrub_rate", "PLUGINCTL_AGENT_SCRUB_RATE",
        "how many bytes a second it reads for that at most", "20MB", _rate,
    ),
    Option(
        "agent_repair", "PLUGINCTL_AGENT_REPAIR", "whether it mends the damage that it finds",
        "yes", _switch,
    ),
    Option(
        "agent_collect_hours", "PLUGINCTL_AGENT_COLLECT_HOURS",
        "how often the agent removes what nobody needs, in hours, 0: never", "24", _number,
    ),
    Option(
        "agent_idle_exit", "PLUGINCTL_AGENT_IDLE_EXIT",
        "seconds without anything to do after which the agent ends", "it stays", _number,
    ),
    Option(
        "agent_start", "PLUGINCTL_AGENT_START",
        "whether commands with --background start an agent where none runs", "no", _switch,
    ),
    Option(
        "agent_desktop", "PLUGINCTL_AGENT_DESKTOP",
        "whether the agent shows notifications on the desktop", "yes", _switch,
    ),
    Option(
        "agent_webhook", "PLUGINCTL_AGENT_WEBHOOK",
        "https address that notifications are posted to", "none", _webhook, is_secret=True,
    ),
    Option(
        "agent_command", "PLUGINCTL_AGENT_COMMAND",
        "program, and its arguments, that gets each notification", "none", _arguments,
        is_secret=True,
    ),
    Option(
        "ca_bundle", "PLUGINCTL_CA_BUNDLE",
        "file with further certificate authorities for https", "the system's", _path,
        is_path=True, is_file=True,
    ),
    Option(
        "insecure_http", "PLUGINCTL_INSECURE_HTTP",
        "allow plain http to other machines (content is signed all the same)", "no", _switch,
    ),
)  # fmt: skip

_BY_NAME = {option.name: option for option in OPTIONS}


def option(name: str) -> Option:
    """The option called `name`, also as it is written on the command line or in the environment.

    Raises InvalidInputError, saying which was probably meant.
    """
    plain = name.lower().removeprefix("--").removeprefix("pluginctl_").replace("-", "_")
    if found := _BY_NAME.get(plain):
        return found
    raise _unknown(name, plain)


def _unknown(name: str, plain: str = "") -> InvalidInputError:
    from difflib import get_close_matches  # noqa: PLC0415 - only for who mistypes

    near = get_close_matches(plain or name, _BY_NAME, n=1)
    return InvalidInputError(
        f"there is no setting {name!r}",
        remedy=f"Did you mean {near[0]}?" if near else "'pluginctl config' lists the settings.",
    )


# --- the file ------------------------------------------------------------------------------------


def user_file(environment: Mapping[str, str]) -> Path:
    """Where this user's file lies, whether it is there or not; PLUGINCTL_CONFIG names another."""
    if named := environment.get("PLUGINCTL_CONFIG"):
        return _absolute("PLUGINCTL_CONFIG", named)
    if _XDG:
        # As platformdirs says, whose import takes longer than all else that a command reads.
        given = environment.get("XDG_CONFIG_HOME", "").strip()
        base = Path(given) if given else Path("~/.config").expanduser()
        return base / "plugin-manager" / "config.toml"
    from platformdirs import user_config_path  # noqa: PLC0415

    return user_config_path("plugin-manager", appauthor=False) / "config.toml"


@define(slots=False)
class ConfigurationFile:
    """The file at `path`; one that is not there says nothing.

    Methods raise InvalidInputError naming the file and every key that is wrong, and
    StoreAccessError where the disk refuses.
    """

    path: Path
    required: bool = field(default=False, kw_only=True)

    @cached_property
    def texts(self) -> Mapping[str, str]:
        """What the file says, as texts, by the names of options."""
        source = self._read()
        return self._texts(self._parsed(source)) if source else {}

    def _read(self) -> str:
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            if self.required:
                raise InvalidInputError(
                    f"{self.path}: there is no such file",
                    remedy="'pluginctl config set NAME VALUE' makes one.",
                ) from error
            return ""
        except OSError as error:
            raise InvalidInputError(
                f"{self.path}: {error.strerror}", remedy="Give a file that can be read."
            ) from error
        # Whoever may write here says which root is trusted.
        if os.name == "posix" and mode & stat.S_IWOTH:
            raise InvalidInputError(
                f"{self.path}: everybody may write to it", remedy=f"Run 'chmod o-w {self.path}'."
            )
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = "\0"
        if len(data) > MAX_FILE_BYTES or "\0" in text:
            raise InvalidInputError(
                f"{self.path}: is not a file of settings", remedy="Write it as TOML."
            )
        return text

    def _parsed(self, source: str) -> Mapping[str, object]:
        import tomllib  # noqa: PLC0415 - many have no such file

        try:
            return tomllib.loads(source)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InvalidInputError(
                f"{self.path}: is not TOML ({error})", remedy="Correct that line."
            ) from error

    def _texts(self, document: Mapping[str, object]) -> dict[str, str]:
        faults, texts = [], {}
        for key, value in document.items():
            try:
                if key not in _BY_NAME:
                    raise _unknown(key)
                texts[key] = _text(value)
            except InvalidInputError as error:
                faults.append(f"{key if key.isprintable() else ascii(key)}: {error}")
        if faults:
            raise InvalidInputError.of(str(self.path), faults, remedy="Correct the file.")
        return texts

    def set(self, name: str, text: str) -> None:
        """Have the file say `text` for the option `name`, all else staying as it is written.

        Nothing is written where anything in the file would be wrong then.
        """
        known = option(name)
        if known.is_path:
            text = str(_absolute(known.name, text))
        known.parse(known.name, text)
        if known.is_file and not Path(text).is_file():
            raise InvalidInputError(
                f"{known.name}: there is no file {text}", remedy="Name a file that is there."
            )
        self._change(known.name, f"{known.name} = {_quoted(text)}")

    def unset(self, name: str) -> bool:
        """Have the file say nothing for the option `name`; whether it did."""
        known = option(name)
        if known.name not in self._parsed(self._read_if_there()):
            return False
        self._change(known.name, None)
        return True

    def _read_if_there(self) -> str:
        return ConfigurationFile(self.path)._read()

    def _change(self, name: str, line: str | None) -> None:
        before = self._read_if_there()
        end = "\r" if "\r\n" in before else ""
        lines = before.split("\n")
        if not lines[-1]:
            lines.pop()
        elif end:
            lines[-1] += end
        matching = re.compile(rf"\s*{re.escape(name)}\s*=")
        at = next((n for n, one in enumerate(lines) if matching.match(one)), None)
        if at is not None:
            comment = _comment(lines[at])
            lines[at : at + 1] = [] if line is None else [f"{line}{comment}{end}"]
        elif line is not None:
            table = next((n for n, one in enumerate(lines) if one.lstrip().startswith("[")), None)
            lines.insert(len(lines) if table is None else table, f"{line}{end}")
        after = "".join(f"{one}\n" for one in lines)
        # A value may go over several lines, or a key be written in another way.
        expected = {key: value for key, value in self._parsed(before).items() if key != name}
        try:
            found = dict(self._parsed(after))
        except InvalidInputError:
            found = {}
        changed = found.pop(name, None)
        if found != expected or (changed is None) != (line is None):
            raise RefusedError(
                f"{self.path}: {name} is written there in a way that only a person can change",
                remedy="Edit the file.",
            )
        if line is not None:
            self._texts({**found, name: changed})
        with disk_errors(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self.path.resolve(), after.encode())
        self.__dict__.pop("texts", None)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return (" " if any("://" in one for one in value) else ",").join(value)
    raise InvalidInputError("must be text, a number, true or false, or a list of texts")


def _comment(line: str) -> str:
    """The comment that `line`, a key and its value, ends with, and the space before it."""
    import tomllib  # noqa: PLC0415 - as above

    for mark in re.finditer(r"[ \t]*#", line):
        with contextlib.suppress(tomllib.TOMLDecodeError):  # within the value
            tomllib.loads(line[: mark.start()])
            return line[mark.start() :].rstrip()
    return ""


def _quoted(text: str) -> str:
    # JSON's strings are TOML's, but that TOML also escapes DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# --- putting it together -------------------------------------------------------------------------


@frozen
class Origin:
    """Where the value of `option` came from: `text` is what stands there, `place` names it.

    `error` says what is wrong with it. No secret is ever in one: tokens are named by their file.
    """

    option: Option
    source: Source
    text: str
    place: str = ""
    error: PluginManagerError | None = None


_Found = dict[str, tuple[Source, str, Any]]


def _found(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: ConfigurationFile | None
) -> _Found:
    texts = file.texts if file else {}
    found: _Found = {}
    for one in OPTIONS:
        given = flags.get(one.name)
        # None, or an empty text or path, says nothing; no mirrors and a number 0 do.
        if given is not None and given not in ("", b""):
            found[one.name] = "flag", one.flag, given
        elif text := environment.get(one.variable):
            found[one.name] = "environment", one.variable, text
        elif text := texts.get(one.name):
            assert file is not None
            if one.is_path:
                text = str(file.path.parent / _path(one.name, text))
            found[one.name] = "file", str(file.path), text
    return found


def _value(one: Option, source: Source, place: str, given: Any) -> Any:
    if source == "flag":
        return one.parse(one.what or one.variable, given)
    if source == "environment":
        return one.parse(one.variable, given)
    try:
        return one.parse(one.name, given)
    except InvalidInputError as error:
        raise InvalidInputError(f"{place}: {error.message}", remedy=error.remedy) from error


def explain(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: ConfigurationFile | None = None,
) -> tuple[Origin, ...]:
    """Where each setting comes from, also those that are wrong; raises as the file's methods do."""
    found, origins = _found(flags, environment, file), []
    for one in OPTIONS:
        if one.name not in found:
            origins.append(Origin(one, "default", one.default))
            continue
        source, place, given = found[one.name]
        error = None
        try:
            _value(one, source, place, given)
        except PluginManagerError as wrong:
            error = wrong
        # An address that was refused may hold a password.
        plain = isinstance(given, str | Path | int | float) and not one.is_secret
        shown = plain and not (error and "@" in str(given))
        origins.append(Origin(one, source, str(given) if shown else "(not shown)", place, error))
    return tuple(origins)


def read(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: ConfigurationFile | None = None,
) -> Settings:
    """The settings that `flags` (by the options' names), `environment` and `file` make.

    The first that says anything counts. Raises InvalidInputError naming the place that is wrong.
    """
    found = _found(flags, environment, file)
    values = {name: _value(_BY_NAME[name], *where) for name, where in found.items()}
    floor = values.get("min_free")
    webhook = values.get("agent_webhook", "")
    if not _is_allowed_webhook(webhook, insecure_http=values.get("insecure_http", False)):
        raise _no_webhook(found["agent_webhook"][1])
    agent = {field: values[name] for name, field in _AGENT_FIELDS.items() if name in values}
    queue, limits = QueuePolicy(), Limits()
    return Settings(
        store=values.get("store") or default_store(),
        repository=values.get("repository", ""),
        root=values.get("root"),
        host_version=values.get("host_version"),
        grace=timedelta(days=values["grace_days"]) if "grace_days" in values else DEFAULT_GRACE,
        lock_timeout_seconds=values.get("lock_timeout", -1),
        limits=Limits(
            max_store_bytes=values.get("max_store"),
            min_free_bytes=floor if isinstance(floor, int) else None,
            min_free_percent=floor if isinstance(floor, float) else None,
            keep_previous=values.get("keep_previous", limits.keep_previous),
            keep_generations=values.get("keep_generations", limits.keep_generations),
        ),
        system_store=values.get("system_store"),
        trial_attempts=values.get("trial_attempts", 3),
        mirrors=values.get("mirrors", ()),
        tokens=values.get("tokens", {}),
        max_bytes_per_second=values.get("max_rate"),
        queue=QueuePolicy(
            jobs_at_once=values.get("jobs", queue.jobs_at_once),
            metered=cast("Literal['allow', 'pause', 'ask']", values.get("metered", queue.metered)),
            quiet_hours=values.get("quiet_hours", queue.quiet_hours),
        ),
        agent=AgentPolicy(**agent),
        ca_bundle=values.get("ca_bundle"),
        insecure_http=values.get("insecure_http", False),
    )


_AGENT_FIELDS = {
    "agent_update_hours": "update_hours",
    "agent_upgrades": "upgrades",
    "agent_cooldown_days": "cooldown_days",
    "agent_scrub_days": "scrub_days",
    "agent_scrub_rate": "scrub_bytes_per_second",
    "agent_repair": "repair",
    "agent_collect_hours": "collect_hours",
    "agent_idle_exit": "idle_exit_seconds",
    "agent_start": "start",
    "agent_desktop": "desktop",
    "agent_webhook": "webhook",
    "agent_command": "command",
}


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
    """The settings that arguments and, where they are None, `environment` give; no file.

    Raises InvalidInputError naming the variable, or the argument, that is wrong.
    """
    arguments = {
        "store": store,
        "repository": repository,
        "root": root,
        "host_version": host_version,
        "lock_timeout": lock_timeout_seconds,
        "max_store": max_store_bytes,
        "min_free": min_free_bytes,
        "keep_previous": keep_previous,
        "system_store": system_store,
        "mirrors": mirrors,
        "tokens": tokens,
        "max_rate": max_bytes_per_second,
    }
    return read(arguments, environment)
