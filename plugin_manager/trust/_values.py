"""The values that go in and out of trust, and the names of the files that carry it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import ClassVar

from plugin_manager._attrs import frozen
from plugin_manager.catalogue import MAX_CATALOGUE_BYTES
from plugin_manager.errors import ExpiredError, InvalidInputError
from plugin_manager.index import MAX_INDEX_BYTES
from plugin_manager.model import Digest, PluginName, Release, publisher_role, utc_text

__all__ = [
    "SNAPSHOT",
    "TARGETS",
    "TIMESTAMP",
    "BundleTarget",
    "ExpiredRole",
    "Expiry",
    "catalogue_file",
    "catalogue_plugin",
    "index_file",
    "index_publisher",
    "most_bytes",
    "publisher_file",
    "root_file",
    "root_version",
]

TIMESTAMP = "timestamp.json"
SNAPSHOT = "snapshot.json"
TARGETS = "targets.json"

# Bounds for what no signed length bounds. A bundle's entry takes about 400 bytes of its
# publisher's role, so that 16 MiB are some 40,000 releases.
MAX_ROOT_BYTES = 512_000
MAX_TIMESTAMP_BYTES = 16_384
MAX_SNAPSHOT_BYTES = 4 * 1024 * 1024
MAX_TARGETS_BYTES = 16 * 1024 * 1024


def root_file(version: int) -> str:
    """The name, within a set, of root metadata of `version` (python-tuf's own choice)."""
    return f"root_history/{version}.root.json"


def root_version(name: str) -> int:
    """The counterpart of `root_file`; 0 where `name` is another file's."""
    match = re.fullmatch(r"root_history/([1-9]\d{0,8})\.root\.json", name, re.ASCII)
    return int(match.group(1)) if match else 0


def publisher_file(publisher: str) -> str:
    """The name, within a set, of a publisher's role."""
    return f"{publisher_role(publisher)}.json"


def catalogue_file(plugin: PluginName) -> str:
    """The name, within a set, of a plugin's catalogue."""
    return f"catalogues/{plugin}.json"


def catalogue_plugin(name: str) -> PluginName | None:
    """The counterpart of `catalogue_file`; None where `name` is another file's."""
    match = re.fullmatch(r"catalogues/(.*)\.json", name)
    try:
        return PluginName.parse(match[1]) if match else None
    except InvalidInputError:
        return None


def index_file(publisher: str) -> str:
    """The name, within a set, of a publisher's index."""
    return f"indexes/{publisher}.json"


def index_publisher(name: str) -> str | None:
    """The counterpart of `index_file`; None where `name` is another file's."""
    match = re.fullmatch(r"indexes/(.*)\.json", name)
    try:
        return PluginName.parse_part(match[1], "publisher") if match else None
    except InvalidInputError:
        return None


def most_bytes(name: str) -> int:
    """How large the file `name` of a set may be."""
    if name.startswith("root_history/"):
        return MAX_ROOT_BYTES
    if name.startswith("catalogues/"):
        return MAX_CATALOGUE_BYTES
    if name.startswith("indexes/"):
        return MAX_INDEX_BYTES
    return {TIMESTAMP: MAX_TIMESTAMP_BYTES, SNAPSHOT: MAX_SNAPSHOT_BYTES}.get(
        name, MAX_TARGETS_BYTES
    )


@frozen
class BundleTarget:
    """A release's bundle as its publisher signed it; lengths in bytes.

    `path` is the URL path below the repository's `targets/`, with the hash prefix of consistent
    snapshots. `sha256` is that of the whole bundle, `head_digest` that of its first `head_length`
    bytes, which are its head.
    """

    release: Release
    path: str
    length: int
    sha256: Digest
    head_length: int
    head_digest: Digest


@frozen
class ExpiredRole:
    """A role that expired, and that the expiry policy accepted nevertheless."""

    role: str
    expires: datetime

    def __str__(self) -> str:
        return f"{self.role} expired on {utc_text(self.expires)}"


@frozen
class Expiry:
    """For how long past its expiry signed metadata still vouches at load (None: for ever).

    It is a policy for local verification only: an update from the repository never accepts
    expired metadata.
    """

    allowance: timedelta | None

    STRICT: ClassVar[Expiry]
    """What has expired vouches for nothing."""
    IGNORED_UNSAFE: ClassVar[Expiry]
    """Expiry means nothing: whoever can keep updates away keeps known holes open, for ever."""

    @classmethod
    def grace(cls, period: timedelta) -> Expiry:
        """What has expired vouches for `period` longer, and `Vouching.expired_roles` names it."""
        if period < timedelta(0):
            raise InvalidInputError(
                f"a grace of {period} is negative", remedy="Use Expiry.STRICT for none."
            )
        return cls(period)

    def judge(self, role: str, expires: datetime, moment: datetime) -> ExpiredRole | None:
        """None where `role` is fresh at `moment`, the expired role where that is tolerated.

        Raises ExpiredError where it is not. All times are aware.
        """
        if moment < expires:
            return None
        # Subtracted, not added: the sum could lie beyond the last year that there is.
        if self.allowance is not None and moment - expires >= self.allowance:
            late = moment - expires
            since = f"{late.days} days" if late.days else f"{late.seconds // 60} minutes"
            tolerated = f" ({self.allowance} is tolerated)" if self.allowance else ""
            raise ExpiredError(
                f"the role {role!r} expired on {utc_text(expires)}, {since} ago{tolerated}",
                role=role,
                expires=expires,
                remedy="Run 'pluginctl update', and check this machine's clock; where the "
                "repository itself is stale, its owner has to sign anew.",
            )
        return ExpiredRole(role, expires)


Expiry.STRICT = Expiry(timedelta(0))
Expiry.IGNORED_UNSAFE = Expiry(None)
