"""A repository on the publisher's machine: what it is made of, and everything done to it.

    repository.toml      roles, thresholds, expiry, keys' URIs
    keys/                private keys, encrypted (or elsewhere)
    work/                bundles being built; emptied by the next publication
    public/metadata/     TUF metadata          } only public/ is served
    public/targets/      indexes, catalogues, bundles   }

Order of a publication: bundle, catalogue, index, then the metadata as `_metadata` says. Until the
last rename, of timestamp.json, clients see the repository as it was.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from attrs import evolve
from filelock import FileLock, Timeout
from packaging.version import Version
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # an implicit re-export

from plugin_manager import bundle
from plugin_manager._attrs import frozen
from plugin_manager.catalogue import MAX_REASON, Catalogue, CatalogueEntry
from plugin_manager.durable import disk_errors, write_atomically
from plugin_manager.errors import (
    InvalidInputError,
    LockedError,
    NotFoundError,
    RefusedError,
)
from plugin_manager.model import (
    Digest,
    Platform,
    PluginName,
    Release,
    Withdrawal,
    WithdrawalKind,
    publisher_role,
    role_publisher,
)
from plugin_manager.publishing import _configuration
from plugin_manager.publishing._bundle_writer import Bundle, write_bundle
from plugin_manager.publishing._configuration import (
    DEFAULT_EXPIRY,
    TOP_LEVEL,
    Configuration,
    RolePolicy,
)
from plugin_manager.publishing._keys import KeyRing, Passphrase, SigningKey
from plugin_manager.publishing._metadata import Chain, Edition, RoleStatus, read_chain
from plugin_manager.publishing._payload import Payload, check
from plugin_manager.publishing._sources import read_source, with_bytecode
from plugin_manager.publishing._target_files import TargetFiles, plugins_of

__all__ = ["Published", "Refreshed", "Repository", "Status"]

CONFIGURATION_FILE = "repository.toml"
RENEWAL_SHARE = 3  # a role is signed anew when less than a third of its validity is left


@frozen
class Published:
    """What a publication made; lengths in bytes. `changed` is false where it was there already.

    `new_chunk_count` of the `chunk_count` chunks are not in the previous release; `notes` are
    sentences for the person who publishes.
    """

    release: Release
    target_path: str
    length: int
    sha256: Digest
    head_length: int
    content_length: int
    file_count: int
    chunk_count: int
    new_chunk_count: int
    changed: bool
    notes: tuple[str, ...]


@frozen
class Refreshed:
    """The roles that were signed anew; `notes` name those that should be, but whose key is away."""

    signed: tuple[RoleStatus, ...]
    notes: tuple[str, ...]


@frozen
class Status:
    """The repository as clients see it."""

    roles: tuple[RoleStatus, ...]
    catalogues: tuple[Catalogue, ...]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Repository:
    """A repository directory and its keys. Methods that write take its lock, one at a time.

    Where one of them raises, or the process dies, clients go on seeing the state before, and the
    next call succeeds. Every method may raise InvalidInputError (a malformed file, a wrong
    passphrase), UntrustedError (metadata that the keys of this repository did not sign) and
    LockedError (another process is writing, for longer than `wait_seconds`).
    """

    def __init__(
        self,
        directory: Path,
        *,
        passphrase: Passphrase,
        now: Callable[[], datetime] = _utc_now,
        wait_seconds: float = 60,
    ) -> None:
        self.directory = directory.resolve()
        self._now = now
        self._wait_seconds = wait_seconds
        self._keys = KeyRing(self.directory, passphrase)
        self._files = TargetFiles(self.public / "targets")

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        passphrase: Passphrase,
        keys_directory: Path | None = None,
        keys: Mapping[str, Sequence[SigningKey]] | None = None,
        now: Callable[[], datetime] = _utc_now,
        wait_seconds: float = 60,
    ) -> Repository:
        """A new, empty, signed repository in `directory`, which is made.

        Each of the roles root, targets, snapshot and timestamp gets the `keys` named for it, or a
        new key in `keys_directory` (`directory`/keys by default). Raises RefusedError where there
        is a repository already.
        """
        self = cls(directory, passphrase=passphrase, now=now, wait_seconds=wait_seconds)
        given = keys or {}
        if strange := sorted(set(given) - set(TOP_LEVEL)):
            raise InvalidInputError(
                f"there is no role {strange[0]!r}", remedy=f"Roles are {', '.join(TOP_LEVEL)}."
            )
        with self._locked(), ExitStack() as stack:
            if self._configuration_path.exists() or self.public.exists():
                raise RefusedError(
                    f"{directory} holds a repository already", remedy="Choose another directory."
                )
            top_level = {}
            for role in TOP_LEVEL:
                role_keys = tuple(given.get(role, ())) or (
                    stack.enter_context(self._new_key(role, keys_directory)),
                )
                top_level[role] = RolePolicy(1, DEFAULT_EXPIRY[role], role_keys)
            self._apply(Configuration(top_level, {}))
        return self

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        passphrase: Passphrase = "",
        now: Callable[[], datetime] = _utc_now,
        wait_seconds: float = 60,
    ) -> Repository:
        """The repository in `directory`; raises NotFoundError where there is none.

        The passphrase is asked for when a key is first needed.
        """
        self = cls(directory, passphrase=passphrase, now=now, wait_seconds=wait_seconds)
        self._configuration()
        return self

    # --- its parts ---

    @property
    def public(self) -> Path:
        """The directory that a web server serves."""
        return self.directory / "public"

    @property
    def _metadata(self) -> Path:
        return self.public / "metadata"

    @property
    def _configuration_path(self) -> Path:
        return self.directory / CONFIGURATION_FILE

    def _configuration(self) -> Configuration:
        with disk_errors(self.directory):
            return _configuration.read(self._configuration_path)

    def _chain(self) -> Chain:
        with disk_errors(self.directory):
            return read_chain(self._metadata, self._configuration())

    @contextmanager
    def _locked(self, name: str = ".lock") -> Iterator[None]:
        with disk_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(self.directory / name, timeout=self._wait_seconds):
                    yield
            except Timeout as error:
                raise LockedError(
                    f"another process is writing to {self.directory}",
                    remedy="Wait for it to finish, then try again.",
                ) from error

    @contextmanager
    def _edition(self) -> Iterator[Edition]:
        """The metadata to be changed, under the lock; written by the caller."""
        with self._locked():
            yield Edition(self._metadata, self._configuration(), self._keys, self._now())

    def root_bytes(self, version: int | None = None) -> bytes:
        """The newest root metadata, or that of `version`: what hosts pin."""
        if version is None:
            version = self._chain().root.signed.version
        try:
            return (self._metadata / f"{version}.root.json").read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(
                f"the repository has no root {version}",
                remedy="Its roots are numbered from 1, without gaps.",
            ) from error

    def status(self) -> Status:
        """All roles and catalogues as clients see them, verified."""
        configuration = self._configuration()
        chain = self._chain()
        catalogues = []
        for role in sorted(chain.publishers):
            for plugin in plugins_of(chain.publishers[role].signed.targets):
                catalogues.append(self._files.catalogue(chain, plugin))
        return Status(chain.status(configuration), tuple(catalogues))

    # --- keys and publishers ---

    @contextmanager
    def _new_key(
        self, role: str, directory: Path | None, given: SigningKey | None = None
    ) -> Iterator[SigningKey]:
        """`given`, or a new key file for `role` under a free name, removed again on failure."""
        if given is not None:
            yield given
            return
        directory = (directory or self.directory / "keys").resolve()
        if directory.is_relative_to(self.public.resolve()):
            raise RefusedError(
                f"{directory} is inside {self.public}, which is served to everybody",
                remedy="Keep keys elsewhere.",
            )
        with self._keys.new_key(role, directory) as key:
            yield key

    def _apply(self, configuration: Configuration) -> None:
        """Write repository.toml, then make the metadata follow; the caller holds the lock.

        In this order: what a crash in between leaves undone, the next edition does. Where signing
        fails, repository.toml is put back.
        """
        path = self._configuration_path
        text = _configuration.render(configuration)
        _configuration.parse(text, str(path))
        before = path.read_bytes() if path.exists() else None
        write_atomically(path, text.encode())
        try:
            edition = Edition(self._metadata, configuration, self._keys, self._now())
            if edition.changed:
                edition.write()
        except BaseException:
            if before is None:
                path.unlink()
            else:
                write_atomically(path, before)
            raise

    def add_publisher(
        self,
        name: str,
        *,
        key: SigningKey | None = None,
        keys_directory: Path | None = None,
    ) -> SigningKey:
        """Let publisher `name` publish `name/*`, with `key` or a new one; returns the key.

        Raises RefusedError where the repository has the publisher.
        """
        PluginName.parse_part(name, "publisher")
        role = publisher_role(name)
        with self._locked():
            configuration = self._configuration()
            if name in configuration.publishers:
                raise RefusedError(
                    f"the repository has the publisher {name!r} already",
                    remedy=f"Give it one more key with 'pluginctl repo key generate {role}'.",
                )
            with self._new_key(role, keys_directory, key) as new:
                policy = RolePolicy(1, DEFAULT_EXPIRY["publisher"], (new,))
                self._apply(configuration.with_role(role, policy))
        return new

    def keys(self) -> Mapping[str, Sequence[SigningKey]]:
        """The keys of each role, as repository.toml names them."""
        configuration = self._configuration()
        return {role: configuration.role(role).keys for role in configuration.roles()}

    def add_key(
        self, role: str, *, key: SigningKey | None = None, keys_directory: Path | None = None
    ) -> SigningKey:
        """One more key that may sign for `role`: `key`, or a new one; returns the key."""
        with self._locked():
            configuration = self._configuration()
            policy = configuration.role(role)
            with self._new_key(role, keys_directory, key) as new:
                if any(new.keyid == other.keyid for other in policy.keys):
                    raise RefusedError(
                        f"role {role} has, or had, the key {new.keyid} already",
                        remedy="Use another key; a retired one does not come back.",
                    )
                policy = evolve(policy, keys=(*policy.keys, new))
                self._apply(configuration.with_role(role, policy))
        return new

    def retire_key(self, role: str, keyid: str) -> SigningKey:
        """Trust a key no longer for `role`; metadata signed by the others follows at once.

        Raises NotFoundError for a key that the role does not have, RefusedError where too few
        would be left.
        """
        with self._locked():
            configuration = self._configuration()
            policy = configuration.role(role)
            found = [key for key in policy.active_keys if key.keyid.startswith(keyid)]
            if len(found) != 1:
                raise NotFoundError(
                    f"role {role} has {len(found)} keys whose name begins with {keyid!r}",
                    remedy="'pluginctl repo key show' lists them.",
                )
            if len(policy.active_keys) <= policy.threshold:
                raise RefusedError(
                    f"role {role} needs {policy.threshold} keys, and would have one less",
                    remedy=f"Add one first, with 'pluginctl repo key generate {role}'.",
                )
            retired = evolve(found[0], retired=True)
            keys = tuple(retired if key is found[0] else key for key in policy.keys)
            self._apply(configuration.with_role(role, evolve(policy, keys=keys)))
        return retired

    def refresh(self) -> Refreshed:
        """Sign a new timestamp, and every role of whose validity less than a third is left.

        To be run several times a day. Only the keys of snapshot and timestamp have to be here;
        another role whose key is away, or does not open with this passphrase, becomes a note.
        """
        with self._edition() as edition:
            now, configuration = self._now(), self._configuration()
            for role in edition.chain.status(configuration):
                validity = configuration.role(role.name).expiry
                if role.name != "timestamp" and role.expires - now < validity / RENEWAL_SHARE:
                    edition.renew(role.name, optional=role.name != "snapshot")
                    if publisher := role_publisher(role.name):
                        self._files.put_index(edition.chain, publisher)
            signed, notes = edition.write()
        return Refreshed(tuple(signed), tuple(notes))

    # --- publishing ---

    def publish(
        self,
        source: Path,
        *,
        publisher: str | None = None,
        platform: str | None = None,
        with_dependencies: Path | None = None,
        provided: Collection[str] = (),
        bytecode: bool = True,
    ) -> Published:
        """Publish `source`: a directory with plugin.toml, or a wheel (docs/publishing.md).

        A wheel needs `publisher`, and may bring its dependencies from the directory of wheels
        `with_dependencies`, except those that every host has (`provided`). Publishing the same
        bytes again changes nothing; other bytes under the same version raise RefusedError.
        """
        with self._locked(".publish-lock"), self._work() as work:
            payload = read_source(
                source,
                work,
                publisher=publisher,
                platform=Platform.parse(platform) if platform is not None else None,
                dependencies=with_dependencies,
                provided=provided,
            )
            release = payload.release
            chain = self._chain()
            chain.require(release.plugin.publisher)
            if bytecode:
                payload = with_bytecode(payload, work)
            check(payload, str(source))
            catalogue = self._files.catalogue(chain, release.plugin)
            _check_spelling(catalogue, release)
            previous = self._files.previous(chain, catalogue, release)
            built = write_bundle(payload, work, previous=previous)
            changed = self._place(built, payload)
            manifest = built.head.manifest
            return Published(
                release=release,
                target_path=release.target_path,
                length=built.length,
                sha256=built.digest,
                head_length=built.head.length,
                content_length=manifest.content_length,
                file_count=len(manifest.files),
                chunk_count=len(manifest.columns.lengths),
                new_chunk_count=built.new_chunk_count,
                changed=changed,
                notes=payload.notes,
            )

    @contextmanager
    def _work(self) -> Iterator[Path]:
        """An empty directory on the repository's disk; what a crash left in there is removed."""
        directory = self.directory / "work"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        try:
            yield Path(tempfile.mkdtemp(dir=directory))
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _place(self, built: Bundle, payload: Payload) -> bool:
        """Make the bundle part of the repository; whether it was not, until now."""
        manifest, release = built.head.manifest, payload.release
        with self._edition() as edition:
            targets = edition.targets_of(release.plugin.publisher)
            there = targets.get(release.target_path)
            if there is not None:
                if there.hashes.get("sha256") == built.digest:
                    return False
                raise RefusedError(
                    f"{release} is published already, with other content",
                    remedy="Give the new content a new version.",
                    release=str(release),
                )
            target = TargetFile(
                built.length,
                {"sha256": str(built.digest)},
                release.target_path,
                {
                    "custom": bundle.render_custom(
                        bundle.SignedHead(built.head.length, built.head.digest)
                    )
                },
            )
            entry = CatalogueEntry(
                release=release,
                length=built.length,
                content_length=manifest.content_length,
                published=self._now().astimezone(UTC).replace(microsecond=0),
                requirements=manifest.requirements,
                needs=manifest.needs,
            )
            catalogue = self._files.catalogue(edition.chain, release.plugin)
            newest = max((other.release.version for other in catalogue.entries), default=None)
            if newest is None or release.version >= newest:
                catalogue = evolve(catalogue, summary=payload.about.summary)
            catalogue = evolve(catalogue, entries=(*catalogue.entries, entry))
            self._files.put_bundle(built.path, target, targets)
            self._files.put_catalogue(catalogue, targets)
            about = {release: payload.about}
            self._files.put_index(edition.chain, release.plugin.publisher, about)
            edition.write()
        return True

    def withdraw(
        self,
        plugin: PluginName,
        version: Version,
        kind: WithdrawalKind,
        reason: str,
        *,
        platform: Platform | None = None,
        unblock: bool = False,
    ) -> tuple[Release, ...]:
        """Withdraw the releases of `version` (for `platform`, or all), for a reason people read.

        A second withdrawal replaces the first. A blocked release is yanked, and so loads again,
        only with `unblock`; without, RefusedError is raised and nothing changed. Raises
        NotFoundError where there is no such release.
        """
        if not reason.strip() or len(reason) > MAX_REASON:
            raise InvalidInputError(
                f"the reason must have 1 to {MAX_REASON} characters",
                remedy="Say in a sentence why, and what to use instead.",
            )
        with self._edition() as edition:
            targets = edition.targets_of(plugin.publisher)
            catalogue = self._files.catalogue(edition.chain, plugin)
            meant = {
                entry.release: entry
                for entry in catalogue.entries
                if entry.release.version == version
                and (platform is None or entry.release.platform == platform)
            }
            if not meant:
                raise NotFoundError(
                    f"{plugin} has no release {version}" + (f" for {platform}" if platform else ""),
                    remedy="'pluginctl repo status' lists the releases.",
                )
            blocked = [release for release, entry in meant.items() if entry.blocked]
            if blocked and kind is not WithdrawalKind.BLOCKED and not unblock:
                raise RefusedError(
                    f"{blocked[0]} is blocked, and would load again if it were {kind}",
                    remedy="Say --unblock if that is meant.",
                    release=str(blocked[0]),
                )
            entries = tuple(
                evolve(entry, withdrawal=Withdrawal(kind, reason.strip()))
                if entry.release in meant
                else entry
                for entry in catalogue.entries
            )
            self._files.put_catalogue(evolve(catalogue, entries=entries), targets)
            self._files.put_index(edition.chain, plugin.publisher)
            edition.write()
        return tuple(sorted(meant))


def _check_spelling(catalogue: Catalogue, release: Release) -> None:
    """Refuse 1.0.0 where there is 1.0: one version to PEP 440, so no catalogue may list both."""
    listed = catalogue.entry(release)
    if listed is not None and str(listed.release.version) != str(release.version):
        raise RefusedError(
            f"{release} is the same version as {listed.release}, which is published already",
            remedy="Give the new content a new version.",
            release=str(release),
        )
