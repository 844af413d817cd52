"""A real signed repository in memory, with every wheel exposed for attacks."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import evolve
from blake3 import blake3
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from urllib3.exceptions import HTTPError

from plugin_manager import catalogue as catalogue_format
from plugin_manager.bundle import encode_frame, encode_head
from plugin_manager.catalogue import Catalogue, CatalogueEntry, catalogue_path
from plugin_manager.errors import NetworkError, PluginManagerError
from plugin_manager.manifest import About, Chunking, Columns, File, Manifest, PythonLayout
from plugin_manager.model import (
    BundlePath,
    HostNeeds,
    PluginName,
    PluginRequirement,
    Release,
    Withdrawal,
    parse_version,
)
from plugin_manager.trust import Trust

Fetch = Callable[[str, int], bytes]
FetchMany = Callable[[Sequence[tuple[str, int]]], list[bytes | PluginManagerError]]

BASE = "http://repository.example/"
TOP_LEVEL = ("root", "timestamp", "snapshot", "targets")
PUBLISHED = datetime(2026, 11, 20, 12, tzinfo=UTC)


def soon(days: float = 30) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def make_release(text: str) -> Release:
    """`acme/maps 1.0` as a release."""
    name, version = text.split()
    return Release(PluginName.parse(name), parse_version(version))


def make_manifest(
    release: Release, content: bytes, requirements: tuple[PluginRequirement, ...] = ()
) -> tuple[Manifest, bytes]:
    """A manifest of one file with `content`, and its frames."""
    frame = encode_frame(content)
    chunking = Chunking(16384, 65536, 262144)
    columns = Columns(
        digests=blake3(content).digest(),
        lengths=array("I", [len(content)]),
        frames=array("I", [0]),
        offsets=array("I", [0]),
        frame_lengths=array("I", [len(frame)]),
        frame_content_lengths=array("I", [len(content)]),
    )
    file = File(BundlePath("a.txt"), len(content), False, "", chunking, 0, 1)
    manifest = Manifest(
        release, About(), requirements, HostNeeds(), (), PythonLayout(), (file,), columns
    )
    return manifest, frame


class Repository:
    """`files` is what a server would serve, by URL path; `requests` what was asked of it.

    `waves` are the same requests, those of one round trip together. With `side_by_side`, `trust`
    gives its clients a `fetch_many`.
    """

    def __init__(self, *publishers: str) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.waves: list[list[str]] = []
        self.side_by_side = False
        self.heads: dict[Release, bytes] = {}
        self.signers = {role: CryptoSigner.generate_ed25519() for role in TOP_LEVEL}
        self.root = Root(expires=soon(365))
        for role, signer in self.signers.items():
            self.root.add_key(signer.public_key, role)
        self.versions: dict[str, int] = {}  # as last signed, by role
        self.timestamp = Timestamp(expires=soon(1))
        self.snapshot = Snapshot(expires=soon(7))
        self.targets = Targets(expires=soon(365), delegations=Delegations({}, {}))
        self.roles: dict[str, Targets] = {}
        self.catalogues: dict[PluginName, Catalogue] = {}
        self.sign_root()
        self.pinned = self.files["metadata/1.root.json"]
        for publisher in publishers or ("acme",):
            self.add_publisher(publisher)
        self.publish()

    # --- the publisher's side --------------------------------------------------------------

    def add_publisher(self, publisher: str, **changes: object) -> None:
        name = f"publisher-{publisher}"
        signer = self.signers.setdefault(name, CryptoSigner.generate_ed25519())
        delegation = DelegatedRole(name, [], 1, True, paths=[f"{publisher}/*/*"])
        for key, value in changes.items():
            setattr(delegation, key, value)
        assert self.targets.delegations
        assert self.targets.delegations.roles is not None
        self.targets.delegations.roles[delegation.name] = delegation
        self.targets.add_key(signer.public_key, delegation.name)
        self.roles.setdefault(publisher, Targets(expires=soon(365)))

    def add(
        self,
        text: str,
        content: bytes = b"content",
        *,
        requirements: tuple[PluginRequirement, ...] = (),
        manifest_release: Release | None = None,
    ) -> Release:
        """Add a release such as `acme/maps 1.0`; `publish` afterwards."""
        release = make_release(text)
        manifest, frame = make_manifest(manifest_release or release, content, requirements)
        head = self.heads[release] = encode_head(manifest)
        self.put_target(release.target_path, head + frame, custom_of(head))
        entry = CatalogueEntry(
            release=release,
            length=len(head + frame),
            content_length=len(content),
            published=PUBLISHED,
            requirements=requirements,
        )
        self.change_catalogue(release.plugin, lambda entries: (*entries, entry))
        return release

    def change_catalogue(self, plugin: PluginName, change) -> None:
        old = self.catalogues.get(plugin, Catalogue(plugin))
        new = self.catalogues[plugin] = evolve(old, entries=tuple(change(old.entries)))
        self.put_target(catalogue_path(plugin), catalogue_format.render(new))

    def withdraw(self, release: Release, withdrawal: Withdrawal) -> None:
        self.change_catalogue(
            release.plugin,
            lambda entries: [
                evolve(entry, withdrawal=withdrawal) if entry.release == release else entry
                for entry in entries
            ],
        )

    def put_target(self, path: str, data: bytes, custom: object = None, hashes=("sha256",)) -> None:
        entry = TargetFile.from_data(path, data, list(hashes))
        if custom is not None:
            entry.unrecognized_fields["custom"] = custom
        self.roles[path.split("/", maxsplit=1)[0]].targets[path] = entry
        for prefixed in entry.get_prefixed_paths():
            self.files["targets/" + prefixed] = data

    def publish(self) -> None:
        """Sign everything anew, each role one version on; snapshot and timestamp last."""
        for publisher, role in self.roles.items():
            self.sign(f"publisher-{publisher}", role)
        self.sign("targets", self.targets)
        self.sign("snapshot", self.snapshot)
        self.sign("timestamp", self.timestamp)

    def sign(self, name: str, signed: Signed, version: int | None = None) -> bytes:
        signed.version = self.versions.get(name, 0) + 1 if version is None else version
        self.versions[name] = signed.version
        data = self.seal(name, signed)
        if name == "timestamp":
            self.files["metadata/timestamp.json"] = data
            return data
        self.files[f"metadata/{signed.version}.{name}.json"] = data
        if name == "snapshot":
            self.timestamp.snapshot_meta = MetaFile(signed.version)
        else:
            self.snapshot.meta[f"{name}.json"] = MetaFile(signed.version)
        return data

    def seal(self, name: str, signed: Signed) -> bytes:
        metadata = Metadata(signed)
        metadata.sign(self.signers[name])
        return metadata.to_bytes()

    def sign_root(self, *more: CryptoSigner) -> bytes:
        metadata = Metadata(self.root)
        for signer in (self.signers["root"], *more):
            metadata.sign(signer, append=True)
        data = metadata.to_bytes()
        self.files[f"metadata/{self.root.version}.root.json"] = data
        return data

    def rotate(self, role: str) -> CryptoSigner:
        """Give a top-level role another key: root's next version. Returns the old signer."""
        old, new = self.signers[role], CryptoSigner.generate_ed25519()
        self.root.revoke_key(old.public_key.keyid, role)
        self.root.add_key(new.public_key, role)
        self.signers[role] = new
        self.root.version += 1
        self.sign_root(*((old,) if role == "root" else ()))
        return old

    def local_files(self) -> dict[str, bytes]:
        """The top-level metadata as a client keeps it."""
        names = {f"root_history/{v}.root.json": f"{v}.root.json" for v in self._root_versions()}
        for role in ("snapshot", "targets"):
            names[f"{role}.json"] = f"{self.versions[role]}.{role}.json"
        names["timestamp.json"] = "timestamp.json"
        return {name: self.files[f"metadata/{path}"] for name, path in names.items()}

    def _root_versions(self) -> range:
        return range(1, self.root.version + 1)

    def role_file(self, publisher: str) -> bytes:
        name = f"publisher-{publisher}"
        return self.files[f"metadata/{self.versions[name]}.{name}.json"]

    # --- the client's side -----------------------------------------------------------------

    def fetch(self, url: str, most_bytes: int) -> bytes:
        path = url.removeprefix(BASE)
        self.requests.append(path)
        self.waves.append([path])
        if path not in self.files:
            raise NetworkError(f"{url}: not found", status=404)
        data = self.files[path]
        if len(data) > most_bytes:
            raise NetworkError(f"{url}: longer than {most_bytes} bytes")
        return data

    def many(self, fetch: Fetch) -> FetchMany:
        """What `fetch` does, for several at a time."""

        def fetch_many(asks: Sequence[tuple[str, int]]) -> list[bytes | PluginManagerError]:
            found: list[bytes | PluginManagerError] = []
            before = len(self.waves)
            for url, most_bytes in asks:
                try:
                    found.append(fetch(url, most_bytes))
                except (OSError, HTTPError) as error:
                    found.append(NetworkError(str(error)))
                except PluginManagerError as error:
                    found.append(error)
            self.waves[before:] = [[path for wave in self.waves[before:] for path in wave]]
            return found

        return fetch_many

    def trust(self, directory: Path, **changes: object) -> Trust:
        arguments = {"metadata_url": BASE + "metadata/", "fetch": self.fetch, **changes}
        if self.side_by_side:
            arguments.setdefault("fetch_many", self.many(arguments["fetch"]))
        return Trust(directory, arguments.pop("pinned_root", self.pinned), **arguments)


def custom_of(head: bytes) -> dict[str, object]:
    digest = hashlib.sha256(head).hexdigest()
    return {"plugin-manager": {"format": 1, "head": {"length": len(head), "sha256": digest}}}


def update(trust: Trust, *plugins: str) -> None:
    """Bring `trust` up to date, asking for the catalogues of `plugins`."""
    with trust.update() as conversation:
        for plugin in plugins:
            conversation.catalogue(PluginName.parse(plugin))


def seal_set(directory: Path) -> None:
    """Record the current set's files as they are: what a forger does after changing some."""
    number = (directory / "current").read_text().split()[0]
    current = directory / "sets" / number
    lines = []
    for path in sorted(current.rglob("*.json")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{digest}  {path.relative_to(current).as_posix()}\n")
    listing = "".join(lines).encode()
    (current / "SHA256SUMS").write_bytes(listing)
    (directory / "current").write_text(f"{number} {hashlib.sha256(listing).hexdigest()}\n")


def current_set(directory: Path) -> Path:
    return directory / "sets" / (directory / "current").read_text().split()[0]
