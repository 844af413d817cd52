"""The values everything else is made of: names, versions, digests, paths, requirements, needs.

Each parses at the edge (`parse`) and cannot be wrong afterwards. All are frozen and hashable.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Self

from attrs import field
from packaging.version import InvalidVersion, Version

from plugin_manager._attrs import frozen
from plugin_manager.errors import InvalidInputError

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

__all__ = [
    "BundlePath",
    "Digest",
    "EntryPoint",
    "Host",
    "HostNeeds",
    "Platform",
    "PluginName",
    "PluginRequirement",
    "Release",
    "Withdrawal",
    "WithdrawalKind",
    "bytecode_tag",
    "one_line",
    "parse_specifier",
    "parse_version",
    "publisher_role",
    "role_publisher",
    "size_text",
    "utc_text",
]

_NAME_PART = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PLATFORM = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*(-[a-z0-9_]+(\.[a-z0-9_]+)*){2}", re.ASCII)

# Nearly all paths are plain: no two of ` `, `.`, `/` side by side, none at an end. One match and
# one search prove them good; only the others are held against the rules one by one.
_PLAIN_PATH = re.compile(
    r"[A-Za-z0-9_+@=,()\[\]{}-]++(?:[ ./][A-Za-z0-9_+@=,()\[\]{}-]++)*+", re.ASCII
)
_PLAIN_DEVICE = re.compile(r"/(?:con|prn|aux|nul|com[0-9]|lpt[0-9])[./]")
_DEVICE_NAME = re.compile(r"(?i:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)")
# Besides what Windows refuses: C1 controls, line separators, and the marks that reorder what
# follows them, so that a name is shown as what it is.
_FORBIDDEN_IN_PATH = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\\:*?"<>|]')
# Unicode's Default_Ignorable_Code_Point: file systems that ignore case (HFS+, ext4's casefold)
# ignore these too when they compare names.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)

PUBLISHER_ROLE_PREFIX = "publisher-"
MAX_PATH_PART_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_VERSION = 64  # characters: versions become parts of file names
MAX_SPECIFIER = 1000
MAX_PLATFORM = 150
MAX_PLATFORM_TAGS = 200  # that three sets joined by dots may stand for

# A store names the same few plugins and versions again and again: in each generation, in the
# index, in directories' names.
_REMEMBERED = 10_000


@frozen(order=True, cache_hash=True)
class PluginName:
    """`publisher/name`, each side `[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?`; ordered as text."""

    publisher: str
    name: str

    @classmethod
    @lru_cache(_REMEMBERED)
    def parse(cls, text: str) -> Self:
        """The name in `text`; raises InvalidInputError."""
        publisher, slash, name = text.partition("/")
        if not slash:
            raise InvalidInputError(
                f"{text!r} is not a plugin name",
                remedy="Write it as publisher/name, for instance acme/maps.",
            )
        cls.parse_part(publisher, "publisher")
        cls.parse_part(name, "plugin")
        return cls(publisher, name)

    @staticmethod
    def parse_part(text: str, what: str) -> str:
        """`text` if it can be one side of a name, `what` being the word for it in the error."""
        if not _NAME_PART.fullmatch(text):
            raise InvalidInputError(
                f"{text!r} is not a {what} name",
                remedy="Use 1 to 64 of a-z, 0-9 and '-', neither beginning nor ending with '-'.",
            )
        if _DEVICE_NAME.fullmatch(text):  # it becomes a directory of the store
            raise InvalidInputError(
                f"{text!r} cannot be a {what} name: it names a device on Windows",
                remedy="Choose another name.",
            )
        return text

    def __str__(self) -> str:
        return f"{self.publisher}/{self.name}"


def publisher_role(publisher: str) -> str:
    """The name of the TUF role that speaks for `publisher`."""
    return PUBLISHER_ROLE_PREFIX + publisher


def role_publisher(role: str) -> str | None:
    """The counterpart of `publisher_role`; None where `role` is not that of any publisher."""
    publisher = role.removeprefix(PUBLISHER_ROLE_PREFIX)
    try:
        PluginName.parse_part(publisher, "publisher")  # or `publisher-*` would be everyone's
    except InvalidInputError:
        return None
    return publisher if role == publisher_role(publisher) else None


@lru_cache(_REMEMBERED)
def parse_version(text: str) -> Version:
    """The PEP 440 version in `text`, which must be in normal form; raises InvalidInputError."""
    if len(text) > MAX_VERSION:
        raise InvalidInputError(
            f"version {text[:20]!r}... is longer than {MAX_VERSION} characters",
            remedy="Use a shorter version.",
        )
    try:
        version = Version(text)
    except InvalidVersion as error:
        raise InvalidInputError(
            f"{text!r} is not a version", remedy="Write it as PEP 440 says, for instance 1.4.2."
        ) from error
    if str(version) != text:
        # One spelling a version, or two releases could claim one file name.
        raise InvalidInputError(
            f"version {text!r} is not in normal form", remedy=f"Write {version}."
        )
    return version


def parse_specifier(text: str) -> SpecifierSet:
    """The PEP 440 version specifiers in `text` ("" is any); raises InvalidInputError."""
    from packaging.specifiers import (  # noqa: PLC0415 - a list of plugins does without
        InvalidSpecifier,
        SpecifierSet,
    )

    if len(text) > MAX_SPECIFIER:  # also keeps numbers below the 4,300 digits that int() takes
        raise InvalidInputError(
            f"version specifier {text[:20]!r}... is longer than {MAX_SPECIFIER} characters",
            remedy="Use fewer or shorter clauses.",
        )
    try:
        return SpecifierSet(text)
    except InvalidSpecifier as error:
        raise InvalidInputError(
            f"{text!r} is not a version specifier", remedy="Write for instance >=2,<3."
        ) from error


class Platform(str):
    """`any`, or one `packaging` tag such as `cp311-cp311-manylinux_2_17_x86_64`.

    Each of the three parts of a tag may be a set joined by dots, as in a wheel's file name.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Platform:
        """The platform in `text`; raises InvalidInputError."""
        if text == "any":
            return ANY
        fine = len(text) <= MAX_PLATFORM and _PLATFORM.fullmatch(text)
        tags = prod(part.count(".") + 1 for part in text.split("-"))
        if not (fine and tags <= MAX_PLATFORM_TAGS):
            raise InvalidInputError(
                f"{text!r} is not a platform",
                remedy="Write 'any' or a tag such as cp311-cp311-manylinux_2_17_x86_64.",
            )
        return cls(text)


ANY = Platform("any")


class Digest(str):
    """A SHA-256 as 64 lower-case hexadecimal digits: it names heads, and so releases."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest in `text`; raises InvalidInputError."""
        if not _SHA256.fullmatch(text):
            raise InvalidInputError(
                f"{text!r} is not a SHA-256 in hexadecimal", remedy="Write 64 of 0-9 and a-f."
            )
        return cls(text)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The digest of `data`."""
        from hashlib import sha256  # noqa: PLC0415 - OpenSSL takes 4 ms, and looking does without

        return cls(sha256(data).hexdigest())


class BundlePath(str):
    r"""The relative path of a file in a bundle, safe to create on every common file system.

    Parts are joined by `/`, in NFC, at most 255 bytes each and 1,024 together; none is empty,
    `.` or `..`, ends with a dot or a space, names a device, or holds a control character, a mark
    that reorders text, or one of `\ : * ? " < > |`.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> BundlePath:
        """The path in `text`; raises InvalidInputError saying which rule it breaks."""
        plain = _PLAIN_PATH.fullmatch(text) and len(text) <= MAX_PATH_PART_BYTES
        if plain and not _PLAIN_DEVICE.search(f"/{text.lower()}/"):
            return cls(text)
        if fault := _path_fault(text):
            raise InvalidInputError(f"file name {text!r} {fault}", remedy="Rename the file.")
        return cls(text)

    @property
    def parts(self) -> tuple[str, ...]:
        """The path's parts, at least one."""
        return tuple(self.split("/"))

    def folded(self) -> str:
        """What the path becomes on a file system that ignores case: equal means a collision."""
        return self.lower() if self.isascii() else _fold(self)


def _fold(text: str) -> str:
    # Unicode 3.13, D145 (canonical caseless match), without what is ignorable.
    plain = _IGNORABLE.sub("", unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", plain.casefold())


def _path_fault(text: str) -> str:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if len(encoded) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    if not text.isascii() and unicodedata.normalize("NFC", text) != text:
        return "is not in Unicode's normal form NFC"
    return next(filter(None, map(_part_fault, text.split("/"))), "")


def _part_fault(part: str) -> str:
    if part == "":
        return "is empty, absolute, or has an empty part"
    visible = part if part.isascii() else _IGNORABLE.sub("", part)
    if visible in {"", ".", ".."}:
        return f"has a part {part!r}"
    if match := _FORBIDDEN_IN_PATH.search(part):
        return f"holds the character {match.group()!r}"
    if part[-1] in ". ":
        return f"has a part ending with a dot or a space ({part!r})"
    if len(part.encode()) > MAX_PATH_PART_BYTES:
        return f"has a part longer than {MAX_PATH_PART_BYTES} bytes"
    if _DEVICE_NAME.fullmatch(part.split(".", 1)[0].rstrip(" ")):
        return f"has a part that names a device on Windows ({part!r})"
    return ""


@frozen
class PluginRequirement:
    """What a plugin, or a person, asks of another plugin: a name and the versions that will do."""

    plugin: PluginName
    specifier: SpecifierSet = field(factory=lambda: parse_specifier(""))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The requirement in `text`, such as `acme/maps>=2,<3`; raises InvalidInputError."""
        match = re.match(r"[^\s<>=!~@]*", text.strip())
        name = match.group() if match else ""
        rest = text.strip()[len(name) :].strip()
        if rest.startswith("@"):  # name@version, as npm and VS Code write it
            rest = f"=={rest[1:].strip()}"
        return cls(PluginName.parse(name), parse_specifier(rest))

    def __str__(self) -> str:
        return f"{self.plugin}{self.specifier}"


@frozen(order=True, cache_hash=True)
class Release:
    """One version of a plugin for one platform; the name of a bundle."""

    plugin: PluginName
    version: Version
    platform: Platform = ANY

    @property
    def target_path(self) -> str:
        """The TUF target path of the release's bundle (relative to `targets/`)."""
        return f"{self.plugin}/{self.plugin.name}-{self.version}-{self.platform}.tar.zst"

    def __str__(self) -> str:
        shown = "" if self.platform == ANY else f" ({self.platform})"
        return f"{self.plugin} {self.version}{shown}"


def size_text(count: float) -> str:
    """A number of bytes for people: `4.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def one_line(text: str) -> str:
    """`text` on one line, whatever white space or line break it holds.

    Others' words are shown between ours: a line of their own would look like one of ours.
    """
    return " ".join(text.split())


class WithdrawalKind(StrEnum):
    """How far a publisher withdrew a release."""

    YANKED = "yanked"
    """Not picked anew, except where it is pinned exactly; what is installed goes on loading."""
    BLOCKED = "blocked"
    """Refused at install, at load and at rollback."""


@frozen
class Withdrawal:
    """A publisher's withdrawal of a release, with the reason it gives (shown to people).

    `local`: this host passes the release over by itself, and `reason` is what became of it. Such
    a one is never written to a catalogue.
    """

    kind: WithdrawalKind
    reason: str = field(converter=one_line)
    local: bool = False


@frozen(order=True)
class EntryPoint:
    """A named object that a plugin offers, as in Python packaging: `group`, `name`, `value`.

    `value` is `module`, or `module:attribute.path`. `group` and `name` can be written as a line of
    `entry_points.txt`: neither holds `=`, a bracket, a line break or anything unprintable.
    """

    _LABEL = re.compile(r"[^\s=\[\]#;](?:[^=\[\]]*[^\s=\[\]])?")

    group: str
    name: str
    value: str

    # Old wheels may add extras in brackets, which mean nothing here.
    _VALUE = re.compile(
        r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\s*"
        r"(?::\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\s*)?(?:\[[^\[\]]*\])?",
        re.ASCII,
    )

    @classmethod
    def parse(cls, group: str, name: str, value: str) -> Self:
        """The entry point; raises InvalidInputError."""
        for text in (group, name):
            if not cls._LABEL.fullmatch(text) or not text.isprintable():
                raise InvalidInputError(
                    f"{text!r} cannot be the group or name of an entry point",
                    remedy="Use letters, digits, '_', '-' and '.'.",
                )
        match = cls._VALUE.fullmatch(value.strip())
        if not match:
            raise InvalidInputError(
                f"entry point {group}:{name} has the value {value!r}",
                remedy="Write module or module:attribute.",
            )
        module, attribute = match.groups()
        return cls(group, name, f"{module}:{attribute}" if attribute else module)

    @property
    def module(self) -> str:
        """The dotted name of the module to import."""
        return self.value.partition(":")[0]

    @property
    def attribute(self) -> str:
        """The dotted attribute within the module, or ""."""
        return self.value.partition(":")[2]


@frozen
class HostNeeds:
    """What a release asks of the machine and the application it runs in; sizes in bytes, 0: none.

    `disk_bytes` is room that the plugin needs while it works, beyond its own files.
    """

    host: SpecifierSet = field(factory=lambda: parse_specifier(""))
    python: SpecifierSet = field(factory=lambda: parse_specifier(""))
    memory_bytes: int = 0
    disk_bytes: int = 0


@frozen
class Host:
    """The facts about this machine and application that releases are matched against.

    `version` is the host application's own (None: unknown, matches only what asks for nothing);
    `tags` are the `packaging` tags that this interpreter accepts, as text, most specific first;
    `bytecode_tag` is the manifest tag of files made for this very interpreter (`cp311`);
    `memory_bytes` is physical memory (None: unknown, passes); `free_disk_bytes` likewise.
    """

    python: Version
    tags: Sequence[str]
    bytecode_tag: str
    version: Version | None = None
    memory_bytes: int | None = None
    free_disk_bytes: int | None = None

    def rank(self, platform: str) -> int | None:
        """How well a release for `platform` fits, 0 being best; None: it does not run here."""
        if platform == ANY:
            return sys.maxsize
        wanted = set(_expand(platform))
        return next((rank for rank, tag in enumerate(self.tags) if tag in wanted), None)


def bytecode_tag() -> str:
    """The manifest tag of files made for the running interpreter: `cp311`."""
    name = {"cpython": "cp", "pypy": "pp"}.get(sys.implementation.name, sys.implementation.name)
    return f"{name}{sys.version_info.major}{sys.version_info.minor}"


def _expand(platform: str) -> Iterable[str]:
    interpreters, abis, machines = platform.split("-")
    return (
        f"{interpreter}-{abi}-{machine}"
        for interpreter in interpreters.split(".")
        for abi in abis.split(".")
        for machine in machines.split(".")
    )


def utc_text(moment: datetime) -> str:
    """`moment` (aware) as `2026-11-20T12:00:00Z`, in whole seconds."""
    # Not strftime: its %Y has fewer than four digits before the year 1000 on some systems.
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
