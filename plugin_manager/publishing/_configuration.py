"""repository.toml: for each role its threshold, how long its signature holds, and its keys.

format = 1

[roles.timestamp]            # root, targets, snapshot and timestamp, each once
threshold = 1
expiry_days = 1

[[roles.timestamp.keys]]     # one or more
uri = "pkcs8:keys/timestamp.pem"
keyid = "..."
keytype = "ed25519"
scheme = "ed25519"
public = "..."
retired = false              # true: no longer trusted; signs once more for the hand-over

[publishers.acme]            # as a role
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

from attrs import evolve
from tuf.api.metadata import (  # type: ignore[attr-defined]  # tuf re-exports without saying so
    DelegatedRole,
    Delegations,
    Key,
    Role,
    Root,
)

from plugin_manager._attrs import frozen
from plugin_manager.document import Document
from plugin_manager.errors import InvalidInputError, NotFoundError
from plugin_manager.model import PluginName, publisher_role, role_publisher
from plugin_manager.publishing._keys import SigningKey, key_document, parse_key
from plugin_manager.publishing._toml import parse_toml, read_toml

__all__ = [
    "DEFAULT_EXPIRY",
    "TOP_LEVEL",
    "Configuration",
    "RolePolicy",
    "parse",
    "read",
    "render",
]

FORMAT = 1
TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
DEFAULT_EXPIRY = {
    "root": timedelta(days=365),
    "targets": timedelta(days=365),
    "publisher": timedelta(days=365),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=1),
}
MAX_EXPIRY_DAYS = 36_500
MAX_KEYS = 100
MAX_FILE_BYTES = 64 * 1024 * 1024  # written by this program: room for 100,000 publishers

HEADING = """\
# The roles of this repository: thresholds, expiry and keys. Thresholds and expiry may be edited;
# the next 'pluginctl repo refresh' makes the metadata follow. Comments are not kept.
"""


@frozen
class RolePolicy:
    """What a role asks: `threshold` of its keys, and how long a signature holds."""

    threshold: int
    expiry: timedelta
    keys: tuple[SigningKey, ...]

    @property
    def active_keys(self) -> tuple[SigningKey, ...]:
        """The keys that metadata lists: all but the retired ones."""
        return tuple(key for key in self.keys if not key.retired)


@frozen
class Configuration:
    """repository.toml as a value: `top_level` by role name, `publishers` by publisher name."""

    top_level: Mapping[str, RolePolicy]
    publishers: Mapping[str, RolePolicy]

    def role(self, role: str) -> RolePolicy:
        """The policy of the TUF role named `role`; raises NotFoundError."""
        if role in self.top_level:
            return self.top_level[role]
        publisher = role_publisher(role)
        if publisher is None or publisher not in self.publishers:
            raise NotFoundError(
                f"there is no role {role!r} in repository.toml",
                remedy=f"Roles are {', '.join(self.roles())}.",
            )
        return self.publishers[publisher]

    def roles(self) -> list[str]:
        """The names of all TUF roles."""
        return [*TOP_LEVEL, *map(publisher_role, sorted(self.publishers))]

    def with_role(self, role: str, policy: RolePolicy) -> Configuration:
        """The configuration with `policy` for `role`."""
        if role in TOP_LEVEL:
            return evolve(self, top_level={**self.top_level, role: policy})
        publisher = role_publisher(role)
        assert publisher is not None
        return evolve(self, publishers={**self.publishers, publisher: policy})

    def root_keys_and_roles(self) -> tuple[dict[str, Key], dict[str, Role]]:
        """What root metadata must say."""
        keys: dict[str, Key] = {}
        roles = {}
        for role in TOP_LEVEL:
            policy = self.top_level[role]
            keys.update({key.keyid: key.public for key in policy.active_keys})
            roles[role] = Role([key.keyid for key in policy.active_keys], policy.threshold)
        return keys, roles

    def delegations(self) -> Delegations:
        """What top-level targets metadata must say: each publisher its own paths, and no others."""
        keys: dict[str, Key] = {}
        roles = {}
        for publisher, policy in sorted(self.publishers.items()):
            role = publisher_role(publisher)
            keys.update({key.keyid: key.public for key in policy.active_keys})
            roles[role] = DelegatedRole(
                role,
                [key.keyid for key in policy.active_keys],
                policy.threshold,
                terminating=True,
                paths=[f"{publisher}/*/*"],
            )
        return Delegations(keys, roles)

    def judge(self) -> Root:
        """A root that trusts every key named here, retired ones too: it judges what is on disk.

        Someone who can write the served files, but not repository.toml, cannot make this
        publisher sign on top of theirs.
        """
        keys: dict[str, Key] = {}
        roles = {}
        for role in TOP_LEVEL:
            policy = self.top_level[role]
            keys.update({key.keyid: key.public for key in policy.keys})
            roles[role] = Role([key.keyid for key in policy.keys], 1)
        return Root(keys=keys, roles=roles, consistent_snapshot=True)


def read(path: Path) -> Configuration:
    """The configuration in the file `path`; raises NotFoundError or InvalidInputError."""
    try:
        text = read_toml(path, most_bytes=MAX_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            f"{path.parent} is not a repository: it has no {path.name}",
            remedy="Make one with 'pluginctl repo init', or name another with --directory.",
            path=str(path),
        ) from error
    return parse(text, str(path))


def parse(text: str, where: str = "repository.toml") -> Configuration:
    """The configuration in `text`; raises InvalidInputError naming `where` and every fault."""
    document = parse_toml(text, where)
    document.check_format(FORMAT, where)
    roles = document.table("roles", required=True)
    top_level = {role: _policy(roles.table(role, required=True)) for role in TOP_LEVEL}
    publishers = {}
    table = document.table("publishers")
    for name in table.names():
        try:
            PluginName.parse_part(name, "publisher")
        except InvalidInputError as error:
            table.fault(name, str(error))
        publishers[name] = _policy(table.table(name))
    document.finish(
        where, strict=True, remedy="Correct repository.toml, or restore it from a backup."
    )
    return Configuration(top_level, publishers)


def _policy(document: Document) -> RolePolicy:
    threshold = document.integer("threshold", least=1, most=MAX_KEYS)
    days = document.integer("expiry_days", least=1, most=MAX_EXPIRY_DAYS)
    keys = tuple(key for key in map(parse_key, document.tables("keys")) if key is not None)
    policy = RolePolicy(threshold, timedelta(days=days), keys)
    if len({key.keyid for key in keys}) != len(keys):
        document.fault("keys", "names a key twice")
    if not document.faults and threshold > len(policy.active_keys):
        document.fault(
            "threshold", f"is {threshold}, but there are {len(policy.active_keys)} keys to sign"
        )
    return policy


def render(configuration: Configuration) -> str:
    """The configuration as TOML, the same for equal configurations."""
    lines = [HEADING, f"format = {FORMAT}"]
    for role in TOP_LEVEL:
        lines += _policy_lines(f"roles.{role}", configuration.top_level[role])
    for name, policy in sorted(configuration.publishers.items()):
        lines += _policy_lines(f"publishers.{name}", policy)
    return "\n".join(lines) + "\n"


def _policy_lines(table: str, policy: RolePolicy) -> Iterator[str]:
    yield f"\n[{table}]"
    yield f"threshold = {policy.threshold}"
    yield f"expiry_days = {policy.expiry.days}"
    for key in policy.keys:
        yield f"\n[[{table}.keys]]"
        for name, value in key_document(key).items():
            # A JSON string is a TOML basic string, but for DEL, which JSON leaves as it is.
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            yield f"{name} = {text}"
