"""The judge has no hands: bytes in, values out, by the rules of TUF 1.0 (section 5) and ours.

    pinned root -> later roots -> timestamp -> snapshot -> targets        `Chain.verify`
    -> a publisher's role                                                 `Chain.publisher`
    -> its index, a plugin's catalogue, a bundle's entry and head          `Publisher`

Nothing here reads a file, a clock or the network, so every attack can be tried with bytes alone.
Whether a role has expired is judged apart (`Expiry.judge`), since TUF's answer online and the
host's policy offline differ. Importing this module imports python-tuf.

Errors: UntrustedError where the chain does not vouch for the bytes; InvalidInputError where it
does, but what was signed makes no sense to this program. `where` names the bytes in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define

from plugin_manager import catalogue as catalogue_format
from plugin_manager import index as index_format
from plugin_manager._attrs import frozen
from plugin_manager.catalogue import Catalogue, catalogue_path
from plugin_manager.document import Document
from plugin_manager.errors import InvalidInputError, UntrustedError
from plugin_manager.index import Index, index_path
from plugin_manager.manifest import requires_document
from plugin_manager.model import Digest, PluginName, Release, publisher_role, role_publisher
from plugin_manager.trust._lean import lean_import
from plugin_manager.trust._values import (
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    BundleTarget,
    publisher_file,
    root_file,
    root_version,
)

with lean_import():
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import (  # type: ignore[attr-defined]  # tuf re-exports without saying so
        DelegatedRole,
        Metadata,
        MetaFile,
        Root,
        Signed,
        Snapshot,
        TargetFile,
        Targets,
        Timestamp,
    )

if TYPE_CHECKING:
    from plugin_manager.bundle import Head

__all__ = ["Chain", "Publisher", "next_root", "pinned_root"]

# python-tuf accepts whatever hashlib knows, md5 included.
ALLOWED_HASHES = frozenset({"sha256", "sha512"})

S = TypeVar("S", bound=Signed)


def _untrusted(where: str, what: object) -> UntrustedError:
    return UntrustedError(
        f"{where}: {what}",
        where=where,
        remedy="Update (again); where that does not help, tell the repository's owner.",
    )


def _signed(kind: type[S], data: bytes, where: str, delegator: Root | Targets, role: str) -> S:
    """The content of `data` if it is a `kind` that `delegator`'s keys for `role` signed."""
    signed, payload, signatures = _parsed(kind, data, where)
    try:
        delegator.verify_delegate(role, payload, signatures)
    except (RepositoryError, ValueError) as error:
        raise _untrusted(where, error) from error
    return signed


def _parsed(kind: type[S], data: bytes, where: str) -> tuple[S, bytes, dict[str, Any]]:
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        payload = metadata.signed_bytes
    except RepositoryError as error:
        raise _untrusted(where, f"is not TUF metadata ({error.__cause__ or error})") from error
    if type(metadata.signed) is not kind:
        raise _untrusted(where, f"is {metadata.signed.type!r} metadata, not {kind.type!r}")
    return metadata.signed, payload, metadata.signatures


# --- roots -------------------------------------------------------------------------------------


def pinned_root(data: bytes, where: str = "pinned root") -> Root:
    """The root that the host pins: trusted as it is, but it must be sound (TUF 5.2).

    Raises InvalidInputError naming `where`. It may have expired: only the last root of the chain
    must not.
    """
    try:
        root, payload, signatures = _parsed(Root, data, where)
        root.verify_delegate(Root.type, payload, signatures)
    except (UntrustedError, RepositoryError, ValueError) as error:
        text = error.message if isinstance(error, UntrustedError) else f"{where}: {error}"
        raise InvalidInputError(
            text, where=where, remedy="Pin the root.json that the repository's owner published."
        ) from error
    return root


def next_root(root: Root, data: bytes, where: str) -> Root:
    """The root that follows `root`: one version on, signed by the old keys and its own (5.3)."""
    later = _signed(Root, data, where, root, Root.type)
    if later.version != root.version + 1:
        raise _untrusted(where, f"is version {later.version}, expected {root.version + 1}")
    return _signed(Root, data, where, later, Root.type)


def _last_root(root: Root, files: Mapping[str, bytes], place: str) -> Root:
    versions = [version for name in files if (version := root_version(name))]
    for version in range(root.version + 1, max(versions, default=0) + 1):
        name = root_file(version)
        if name not in files:
            raise _untrusted(place + name, "is missing, but later roots are there")
        root = next_root(root, files[name], place + name)
    return root


# --- the chain ---------------------------------------------------------------------------------


@define(eq=False, slots=False)
class Chain:
    """The verified top-level metadata; do not change it. It may have expired.

    `place` goes before the names of files in errors.
    """

    place: str
    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets

    @classmethod
    def verify(cls, pinned: bytes, files: Mapping[str, bytes], place: str) -> Chain:
        """The chain from the `pinned` root over `files`, by their names in a set."""
        root = _last_root(pinned_root(pinned), files, place)
        if not root.consistent_snapshot:
            raise _untrusted(place + root_file(root.version), "consistent snapshots are off")

        def top(kind: type[S], name: str) -> tuple[S, bytes]:
            if name not in files:
                raise _untrusted(place + name, "is missing")
            return _signed(kind, files[name], place + name, root, kind.type), files[name]

        timestamp, _ = top(Timestamp, TIMESTAMP)
        snapshot, data = top(Snapshot, SNAPSHOT)
        _check_version(timestamp.snapshot_meta, snapshot, data, place + SNAPSHOT)
        targets, data = top(Targets, TARGETS)
        _check_version(_listed(snapshot, TARGETS, place), targets, data, place + TARGETS)
        return cls(place, root, timestamp, snapshot, targets)

    @property
    def order(self) -> tuple[int, int]:
        """What never falls in good metadata, least of all when keys change.

        A timestamp counts up for as long as its root stands; a later root may begin it anew, as
        the client forgets timestamp and snapshot where their keys were changed (TUF 5.3.11).
        """
        return self.root.version, self.timestamp.version

    @property
    def expiries(self) -> dict[str, datetime]:
        """When each top-level role expires, by role. Earlier roots may have expired (5.3.10)."""
        roles = (self.root, self.timestamp, self.snapshot, self.targets)
        return {role.type: role.expires for role in roles}

    @cached_property
    def _delegated(self) -> Mapping[str, DelegatedRole]:
        delegations = self.targets.delegations
        return (delegations.roles if delegations else None) or {}

    @cached_property
    def _foreign(self) -> tuple[DelegatedRole, ...]:
        """The delegations that are not exactly one publisher's, and so might reach into others."""
        return tuple(role for role in self._delegated.values() if not _exactly_one_publisher(role))

    @property
    def publishers(self) -> tuple[str, ...]:
        """All publishers that the repository knows, in the order of their names."""
        found = map(role_publisher, self._delegated)
        return tuple(sorted(publisher for publisher in found if publisher))

    def delegates_to(self, publisher: str) -> bool:
        """Whether the repository knows `publisher`."""
        return publisher_role(publisher) in self._delegated

    def publisher_version(self, publisher: str) -> int:
        """The version of the publisher's role that the snapshot names."""
        return _listed(self.snapshot, publisher_file(publisher), self.place).version

    def publisher(self, publisher: str, data: bytes) -> Publisher:
        """The role of `publisher`, signed by the keys delegated to, of the snapshot's version."""
        name, place = publisher_file(publisher), self.place
        where = place + name
        delegation = self._delegated.get(publisher_role(publisher))
        if delegation is None:
            raise UntrustedError(
                f"the repository does not vouch for publisher {publisher} (any longer)",
                where=place + TARGETS,
                publisher=publisher,
                remedy="Ask the repository's owner why; to go on without it, remove its plugins.",
            )
        if not _exactly_one_publisher(delegation):
            raise _untrusted(place + TARGETS, f"delegates to {delegation.name} in another way")
        role = _signed(Targets, data, where, self.targets, delegation.name)
        _check_version(_listed(self.snapshot, name, place), role, data, where)
        return Publisher(publisher, role, where, self)

    def check_exclusive(self, path: str) -> None:
        """Raise UntrustedError where any role but its publisher's could speak for `path` too.

        TUF clients would ask that role first, or also: with one role a path, there is no order.
        """
        for role in self._foreign:
            if role.is_delegated_path(path):
                raise _untrusted(self.place + TARGETS, f"delegates {path} to {role.name!r} as well")
        if path in self.targets.targets:
            raise _untrusted(self.place + TARGETS, f"lists {path} beside its publisher")


def _exactly_one_publisher(role: DelegatedRole) -> bool:
    publisher = role_publisher(role.name)
    return publisher is not None and role.terminating is True and role.paths == [f"{publisher}/*/*"]


def _listed(snapshot: Snapshot, name: str, place: str) -> MetaFile:
    listed = snapshot.meta.get(name)
    if listed is None:
        raise _untrusted(place + SNAPSHOT, f"does not list {name}")
    return listed


def _check_version(listed: MetaFile, found: Signed, data: bytes, where: str) -> None:
    if found.version != listed.version:
        raise _untrusted(where, f"is version {found.version}, expected {listed.version}")
    try:
        listed.verify_length_and_hashes(data)
    except RepositoryError as error:
        raise _untrusted(where, error) from error


# --- a publisher -------------------------------------------------------------------------------


@frozen(eq=False)
class Publisher:
    """A publisher's verified role. `where` names its file; it may have expired."""

    name: str
    role: Targets
    where: str
    chain: Chain

    def entry(self, path: str) -> TargetFile | None:
        """The entry of target `path`, its hashes allowed ones; None where it is not listed."""
        if path.partition("/")[0] != self.name:
            raise _untrusted(self.where, f"has no say over {path}")
        self.chain.check_exclusive(path)
        entry = self.role.targets.get(path)
        if entry is None:
            return None
        if not set(entry.hashes) <= ALLOWED_HASHES or "sha256" not in entry.hashes:
            raise _untrusted(
                self.where, f"{path} has the hashes {', '.join(sorted(entry.hashes))}, not sha256"
            )
        return entry

    def catalogue(self, plugin: PluginName, data: bytes, where: str) -> Catalogue:
        """The catalogue of `plugin` in `data`."""
        self.check_catalogue(plugin, data, where)
        found = catalogue_format.parse(data, where)
        if found.plugin != plugin:
            raise _untrusted(where, f"is the catalogue of {found.plugin}, not of {plugin}")
        return found

    def check_catalogue(self, plugin: PluginName, data: bytes, where: str) -> None:
        """Raise UntrustedError unless `data` is what the publisher signed as its catalogue."""
        entry = self.entry(catalogue_path(plugin))
        if entry is None:
            raise _untrusted(self.where, f"lists no catalogue of {plugin}")
        self._check(entry, data, where)

    def index(self, data: bytes, where: str, parsed: Index | None = None) -> Index:
        """The publisher's index in `data`, of which `parsed` was made if that is given."""
        self.check_index(data, where)
        found = parsed or index_format.parse(data, where)
        if found.publisher != self.name:
            raise _untrusted(where, f"is the index of {found.publisher}, not of {self.name}")
        return found

    def check_index(self, data: bytes, where: str) -> None:
        """Raise UntrustedError unless `data` is what the publisher signed as its index."""
        entry = self.entry(index_path(self.name))
        if entry is None:
            raise _untrusted(self.where, "lists no index")
        self._check(entry, data, where)

    def _check(self, entry: TargetFile, data: bytes, where: str) -> None:
        try:
            entry.verify_length_and_hashes(data)
        except RepositoryError as error:
            raise _untrusted(where, error) from error

    def bundle(self, release: Release) -> BundleTarget:
        """The bundle of `release` as it was signed."""
        path = release.target_path
        entry = self.entry(path)
        if entry is None:
            raise UntrustedError(
                f"{self.where}: the publisher does not vouch for {release} (any longer)",
                where=self.where,
                release=str(release),
                remedy=f"Upgrade {release.plugin}.",
            )
        from plugin_manager.bundle import parse_custom  # noqa: PLC0415 - looking does without zstd

        where = f"{self.where}: {path}"
        head = parse_custom(entry.custom, where, bundle_length=entry.length)
        hashes = Document(entry.hashes, "hashes")
        sha256 = hashes.parsed("sha256", Digest.parse)
        hashes.finish(where, remedy="The publisher has to sign it anew.")
        assert sha256 is not None  # or finish had raised
        directory, _, name = path.rpartition("/")
        return BundleTarget(
            release=release,
            path=f"{directory}/{sha256}.{name}",
            length=entry.length,
            sha256=sha256,
            head_length=head.length,
            head_digest=head.digest,
        )

    def vouch(self, release: Release, catalogue: Catalogue, data: bytes) -> Head:
        """The head in `data`, if it is the signed one of `release`, as `catalogue` promises it.

        A signed digest alone would not do: the publisher may have signed a release of one plugin
        under the name of another, or a catalogue that promises what the manifest does not.
        """
        from plugin_manager.bundle import read_head  # noqa: PLC0415 - as above

        entry = catalogue.entry(release)
        if entry is None:
            raise UntrustedError(
                f"the catalogue of {release.plugin} does not list {release} (any longer)",
                where=self.where,
                release=str(release),
                remedy=f"Upgrade {release.plugin}.",
            )
        entry.refuse_if_blocked()
        bundle = self.bundle(release)
        where = f"manifest of {release}"
        digest = hashlib.sha256(data).hexdigest()
        if len(data) != bundle.head_length or digest != bundle.head_digest:
            raise _untrusted(where, "is not the one that was signed")
        head = read_head(data, where)
        if head.manifest.release != release:
            raise _untrusted(where, f"is that of {head.manifest.release}")
        if not head.bundle_length == bundle.length == entry.length:
            raise _untrusted(
                where,
                f"makes a bundle of {head.bundle_length} bytes, where {bundle.length} were signed "
                f"and the catalogue says {entry.length}",
            )
        promised = requires_document(entry.requirements, entry.needs)
        if requires_document(head.manifest.requirements, head.manifest.needs) != promised:
            raise _untrusted(where, "requires something else than the catalogue says")
        return head
