"""The repository's TUF metadata: read and judged, changed in memory, written in a safe order.

What is current is said by `timestamp.json` alone: it names the snapshot, which names the versions
of the other roles. Files that a crash left behind are named by nothing, and are overwritten.

Order of writing: publishers' roles, targets, snapshot, timestamp (from here on clients see the new
state), and root last. A top-level role whose keys change is signed by the old and the new keys, so
that it is good under both roots, whichever a client has at that instant.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from attrs import define
from securesystemslib.exceptions import UnverifiedSignatureError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # tuf re-exports without saying so
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

from plugin_manager._attrs import frozen
from plugin_manager.durable import write_atomically
from plugin_manager.errors import (
    InvalidInputError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
    UntrustedError,
)
from plugin_manager.model import publisher_role
from plugin_manager.publishing._configuration import TOP_LEVEL, Configuration
from plugin_manager.publishing._keys import KeyRing, SigningKey

__all__ = ["Edition", "RoleStatus", "read_chain"]

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


@frozen
class RoleStatus:
    """One role of the metadata as it is signed: `expires` is aware, `keyids` its trusted keys."""

    name: str
    version: int
    expires: datetime
    threshold: int
    keyids: tuple[str, ...]


@define
class Chain:
    """All current metadata; `publishers` by TUF role name."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    publishers: dict[str, Metadata[Targets]]

    def role(self, name: str) -> Metadata[Any]:
        """The metadata of the role `name`."""
        found: Metadata[Any] = self.publishers.get(name) or getattr(self, name)
        return found

    def names(self) -> list[str]:
        """The names of all roles, the top-level ones first."""
        return [*TOP_LEVEL, *sorted(self.publishers)]

    def target(self, role: str, path: str) -> TargetFile | None:
        """What the publisher's role says about the target `path`, or None."""
        publisher = self.publishers.get(role)
        return publisher.signed.targets.get(path) if publisher else None

    def require(self, publisher: str) -> str:
        """The name of the publisher's role; raises NotFoundError where there is none."""
        role = publisher_role(publisher)
        if role not in self.publishers:
            raise NotFoundError(
                f"the repository has no publisher {publisher!r}",
                remedy=f"Add it with 'pluginctl repo add-publisher {publisher}'.",
            )
        return role

    def status(self, configuration: Configuration) -> tuple[RoleStatus, ...]:
        """All roles as they are signed."""
        return tuple(_status(self.role(name), name, configuration) for name in self.names())


def _status(metadata: Metadata[Any], name: str, configuration: Configuration) -> RoleStatus:
    policy = configuration.role(name)
    return RoleStatus(
        name,
        metadata.signed.version,
        metadata.signed.expires,
        policy.threshold,
        tuple(key.keyid for key in policy.active_keys),
    )


# --- reading -----------------------------------------------------------------------------------


def _read(path: Path, kind: type[S]) -> Metadata[S]:
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(
            f"the repository's metadata lacks {path.name}",
            remedy="Restore the metadata directory from a backup.",
            path=str(path),
        ) from error
    except (DeserializationError, RepositoryError) as error:
        raise InvalidInputError(
            f"{path}: is not TUF metadata ({error})",
            remedy="Restore the metadata directory from a backup.",
            path=str(path),
        ) from error
    _check(path, good=isinstance(metadata.signed, kind), what="is metadata of another kind")
    return metadata


def _newest_root(directory: Path) -> Path:
    # Clients, too, ask for one version after the other, so a gap ends the line.
    version = 1
    while (directory / f"{version + 1}.root.json").exists():
        version += 1
    return directory / f"{version}.root.json"


def _good(judge: Root | Targets, role: str, metadata: Metadata[Any]) -> bool:
    try:
        judge.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, UnverifiedSignatureError, ValueError):
        return False
    return True


def _check(path: Path, *, good: bool, what: str = "is not signed by the keys of its role") -> None:
    if not good:
        raise UntrustedError(
            f"{path}: {what}",
            remedy="Restore the metadata directory from a backup; nothing was signed.",
            path=str(path),
        )


def read_chain(directory: Path, configuration: Configuration) -> Chain:
    """The metadata that `timestamp.json` makes current, every signature judged.

    Nothing is ever signed on top of metadata that these keys did not sign. Raises UntrustedError,
    InvalidInputError or NotFoundError naming the file.
    """
    configured = configuration.judge()
    root_path = _newest_root(directory)
    root = _read(root_path, Root)
    _check(root_path, good=_good(root.signed, "root", root) and _good(configured, "root", root))
    _check(
        root_path,
        good=root_path.name == f"{root.signed.version}.root.json",
        what="is of another version",
    )

    def top_level(name: str, kind: type[S], version: int | None = None) -> Metadata[S]:
        path = directory / (f"{name}.json" if version is None else f"{version}.{name}.json")
        metadata = _read(path, kind)
        # Either: the rotation of a lost key may have been cut off between root and the rest.
        _check(path, good=_good(root.signed, name, metadata) or _good(configured, name, metadata))
        if version is not None:
            _check(path, good=metadata.signed.version == version, what="is of another version")
        return metadata

    timestamp = top_level("timestamp", Timestamp)
    snapshot = top_level("snapshot", Snapshot, timestamp.signed.snapshot_meta.version)
    versions = snapshot.signed.meta
    targets = top_level("targets", Targets, versions["targets.json"].version)
    publishers = {}
    delegations = targets.signed.delegations
    for role in (delegations.roles or {}) if delegations else {}:
        version = versions[f"{role}.json"].version
        path = directory / f"{version}.{role}.json"
        metadata = _read(path, Targets)
        _check(path, good=_good(targets.signed, role, metadata))
        _check(path, good=metadata.signed.version == version, what="is of another version")
        publishers[role] = metadata
    return Chain(root, timestamp, snapshot, targets, publishers)


# --- changing ----------------------------------------------------------------------------------


class Edition:
    """The next state of the metadata in `directory`; nothing is on disk before `write`.

    From the start it holds what repository.toml asks for and the metadata does not yet say: other
    keys, thresholds, publishers. The caller holds the repository's lock.
    """

    def __init__(
        self, directory: Path, configuration: Configuration, keys: KeyRing, now: datetime
    ) -> None:
        self._directory = directory
        self._configuration = configuration
        self._keys = keys
        self._now = now.astimezone(UTC)
        self._old_root: Root | None = None
        self._changed: set[str] = set()
        self._optional: set[str] = set()
        if (directory / "1.root.json").exists():
            self.chain = read_chain(directory, configuration)
            self._old_root = self.chain.root.signed
            self._versions = {name: meta.version for name, meta in self._meta().items()}
        else:
            self.chain = self._empty()
            self._versions = {}
        self._follow_configuration()

    def _meta(self) -> dict[str, MetaFile]:
        return self.chain.snapshot.signed.meta

    def _empty(self) -> Chain:
        keys, roles = self._configuration.root_keys_and_roles()
        self._changed.update(TOP_LEVEL)
        return Chain(
            root=Metadata(Root(keys=keys, roles=roles, consistent_snapshot=True)),
            timestamp=Metadata(Timestamp()),
            snapshot=Metadata(Snapshot()),
            targets=Metadata(Targets(delegations=Delegations({}, {}))),
            publishers={},
        )

    def _follow_configuration(self) -> None:
        root, targets = self.chain.root.signed, self.chain.targets.signed
        keys, roles = self._configuration.root_keys_and_roles()
        if keys != root.keys or roles != root.roles:
            self._changed.add("root")
            self._changed.update(
                name for name in TOP_LEVEL if root.roles[name].keyids != roles[name].keyids
            )
            self._changed.update(
                name for name in TOP_LEVEL if root.roles[name].threshold < roles[name].threshold
            )
            self.chain.root = Metadata(
                Root(root.version, keys=keys, roles=roles, consistent_snapshot=True)
            )
        delegations = self._configuration.delegations()
        if delegations != targets.delegations:
            self._changed.add("targets")
            old = (targets.delegations.roles if targets.delegations else None) or {}
            new = delegations.roles or {}
            for name, role in new.items():
                if name not in old or old[name] != role:
                    self._changed.add(name)
                self.chain.publishers.setdefault(name, Metadata(Targets()))
            for name in set(old) - set(new):
                self.chain.publishers.pop(name, None)
            targets.delegations = delegations

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._changed)

    def targets_of(self, publisher: str) -> dict[str, TargetFile]:
        """The target files of a publisher, to be changed in place; its role will be signed anew.

        Raises NotFoundError for a publisher that the repository does not have.
        """
        role = self.chain.require(publisher)
        self._changed.add(role)
        return self.chain.publishers[role].signed.targets

    def renew(self, role: str, *, optional: bool = False) -> None:
        """Have `role` signed anew; an `optional` one only if enough of its keys are here."""
        if role not in self._changed and optional:
            self._optional.add(role)
        self._changed.add(role)

    def write(self) -> tuple[list[RoleStatus], list[str]]:
        """Sign everything that changed, then write it; what was signed, and what could not be.

        All signing comes first: where a key is missing or its passphrase wrong, nothing is written.
        """
        signed: dict[str, bytes] = {}
        notes = []
        for role in [*sorted(self.chain.publishers), "targets"]:
            if role not in self._changed:
                continue
            try:
                signed[role] = self._sign(role)
            except PluginManagerError as error:
                if role not in self._optional:
                    raise
                notes.append(self._not_renewed(role, error))
            else:
                version = self.chain.role(role).signed.version
                self._meta()[f"{role}.json"] = MetaFile(version, length=len(signed[role]))
        root = None
        if "root" in self._changed:
            try:
                root = self._sign("root")
            except PluginManagerError as error:
                if "root" not in self._optional:
                    raise
                notes.append(self._not_renewed("root", error))
        if signed or "snapshot" in self._changed:
            signed["snapshot"] = self._sign("snapshot")
            version = self.chain.snapshot.signed.version
            self.chain.timestamp.signed.snapshot_meta = MetaFile.from_data(
                version, signed["snapshot"], ["sha256"]
            )
        signed["timestamp"] = self._sign("timestamp")
        for role, data in signed.items():
            version = self.chain.role(role).signed.version
            name = f"{role}.json" if role == "timestamp" else f"{version}.{role}.json"
            write_atomically(self._directory / name, data)
        if root is not None:
            version = self.chain.root.signed.version
            write_atomically(self._directory / f"{version}.root.json", root)
            signed["root"] = root
        return [_status(self.chain.role(name), name, self._configuration) for name in signed], notes

    def _not_renewed(self, role: str, error: PluginManagerError) -> str:
        expires = self.chain.role(role).signed.expires
        return f"{role} expires on {expires:%Y-%m-%d} and was not signed anew: {error}"

    def _next_version(self, role: str) -> int:
        if role == "root":
            return self._old_root.version + 1 if self._old_root else 1
        if self._old_root is None:
            return 1
        if role == "timestamp":
            return self.chain.timestamp.signed.version + 1
        if role == "snapshot":
            return self.chain.timestamp.signed.snapshot_meta.version + 1
        # A publisher that was dropped and comes back goes on counting: clients remember.
        return self._versions.get(f"{role}.json", 0) + 1

    def _sign(self, role: str) -> bytes:
        policy = self._configuration.role(role)
        metadata = self.chain.role(role)
        before = (metadata.signed.version, metadata.signed.expires)
        metadata.signed.version = self._next_version(role)
        metadata.signed.expires = self._now + policy.expiry
        try:
            keys = [*policy.active_keys, *self._departing(role)]
            data = self._keys.sign(metadata, role, keys, threshold=policy.threshold)
            self._check_signatures(role, metadata)
        except PluginManagerError:
            metadata.signed.version, metadata.signed.expires = before
            raise
        return data

    def _departing(self, role: str) -> Iterator[SigningKey]:
        """The retired keys that the root on disk still trusts for `role`."""
        if self._old_root is None or role not in TOP_LEVEL:
            return
        trusted = self._old_root.roles[role].keyids
        for key in self._configuration.role(role).keys:
            if key.retired and key.keyid in trusted:
                yield key

    def _check_signatures(self, role: str, metadata: Metadata[Any]) -> None:
        judge = self.chain.root.signed if role in TOP_LEVEL else self.chain.targets.signed
        if not _good(judge, role, metadata):
            raise InvalidInputError(
                f"what was signed for role {role} does not verify with the keys in repository.toml",
                remedy="Check that each key's URI and public part belong together.",
            )
        # TUF 6.1: clients follow a new root only if the old root's keys signed it, too.
        if role == "root" and self._old_root and not _good(self._old_root, role, metadata):
            raise RefusedError(
                f"root {metadata.signed.version} must also be signed by the keys of root "
                f"{self._old_root.version}",
                remedy="Keep the old keys in repository.toml with 'retired = true' "
                "until the new root is published.",
            )
