"""Repositories: published in a safe order, good for any TUF client at every instant."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from filelock import FileLock
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import FetcherInterface, Updater

from plugin_manager import bundle
from plugin_manager.catalogue import Catalogue
from plugin_manager.catalogue import parse as parse_catalogue
from plugin_manager.errors import (
    InvalidInputError,
    LockedError,
    NoSpaceError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
    StoreAccessError,
    UntrustedError,
)
from plugin_manager.model import Platform, PluginName, WithdrawalKind, parse_version
from plugin_manager.publishing import (
    Repository,
    SigningKey,
    _configuration,
    _metadata,
    _repository,
    _target_files,
    read_public_key,
)
from plugin_manager.publishing._keys import generate_key
from tests.publishing.helpers import (
    PASSPHRASE,
    PLUGIN,
    Clock,
    bundle_file,
    contents,
    head_of,
    make_plugin,
    make_repository,
    make_wheel,
    snapshot,
)
from tests.publishing.test_keys import make_plain_key

MAPS = PluginName.parse("acme/maps")
BLOCKED, YANKED = WithdrawalKind.BLOCKED, WithdrawalKind.YANKED


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository(tmp_path: Path, clock: Clock) -> Repository:
    return make_repository(tmp_path / "repository", clock)


class Files(FetcherInterface):
    """Answers a TUF client from a directory, as a web server would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self.directory / url.removeprefix("files:/")
        if not path.is_file():
            raise DownloadHTTPError("not found", 404)
        return iter([path.read_bytes()])


class Client:
    """A plain TUF client that keeps its metadata between visits."""

    def __init__(self, repository: Repository, directory: Path) -> None:
        self.repository = repository
        self.directory = directory
        self.directory.mkdir()
        self.root = repository.root_bytes(1)

    def fetch(self, path: str) -> bytes | None:
        updater = Updater(
            str(self.directory),
            "files:/metadata/",
            str(self.directory),
            "files:/targets/",
            fetcher=Files(self.repository.public),
            bootstrap=self.root,
        )
        info = updater.get_targetinfo(path)
        if info is None:
            return None
        return Path(updater.download_target(info, str(self.directory / "x"))).read_bytes()

    def catalogue(self, plugin: str = "acme/maps") -> Catalogue | None:
        data = self.fetch(f"{plugin}/catalogue.json")
        return parse_catalogue(data) if data is not None else None

    def versions(self) -> list[str]:
        catalogue = self.catalogue()
        return [str(entry.release.version) for entry in catalogue.entries] if catalogue else []


@pytest.fixture
def client(repository: Repository, tmp_path: Path) -> Client:
    return Client(repository, tmp_path / "client")


def plugin(tmp_path: Path, version: str = "1.0", **files: str) -> Path:
    return make_plugin(
        tmp_path / f"source-{version}",
        {f"{name}.txt": text for name, text in files.items()} or {"data.txt": version},
        version=version,
    )


# --- the layout --------------------------------------------------------------------------------


def test_a_tuf_client_gets_bundle_and_catalogue(
    repository: Repository, client: Client, tmp_path: Path
) -> None:
    published = repository.publish(plugin(tmp_path))
    data = client.fetch(published.target_path)
    assert data is not None
    assert hashlib.sha256(data).hexdigest() == published.sha256
    assert len(data) == published.length
    catalogue = client.catalogue()
    assert catalogue is not None
    assert catalogue.summary == "Maps."
    (entry,) = catalogue.entries
    assert (entry.release, entry.length) == (published.release, published.length)
    assert client.fetch("acme/none/catalogue.json") is None


def test_the_metadata_is_laid_out_as_designed(
    repository: Repository, clock: Clock, tmp_path: Path
) -> None:
    published = repository.publish(plugin(tmp_path))
    metadata = repository.public / "metadata"
    said = {path.name: json.loads(path.read_bytes())["signed"] for path in metadata.iterdir()}
    root = said["1.root.json"]
    assert root["consistent_snapshot"] is True
    assert all(role["threshold"] == 1 for role in root["roles"].values())
    assert len({keyid for role in root["roles"].values() for keyid in role["keyids"]}) == 4
    (delegation,) = said["2.targets.json"]["delegations"]["roles"]
    assert (delegation["name"], delegation["paths"]) == ("publisher-acme", ["acme/*/*"])
    assert delegation["terminating"] is True
    # With their lengths, or a server could send endless ones, for hours, until they are judged.
    assert said["3.snapshot.json"]["meta"] == {
        name: {"version": 2, "length": (metadata / f"2.{name}").stat().st_size}
        for name in ("targets.json", "publisher-acme.json")
    }
    target = said["2.publisher-acme.json"]["targets"][published.target_path]
    assert list(target["hashes"]) == ["sha256"]
    head = head_of(repository, published)
    assert target["custom"] == {
        "plugin-manager": {
            "format": 1,
            "head": {"length": head.length, "sha256": str(head.digest)},
        }
    }
    days = {role.name: (role.expires - clock()).days for role in repository.status().roles}
    assert days == {
        "root": 365,
        "targets": 365,
        "snapshot": 7,
        "timestamp": 1,
        "publisher-acme": 365,
    }


def test_no_private_key_is_readable_by_others_or_served(
    repository: Repository, tmp_path: Path
) -> None:
    keys = list((repository.directory / "keys").iterdir())
    assert len(keys) == 5
    assert all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)
    for path in repository.public.rglob("*"):
        assert path.is_dir() or b"PRIVATE KEY" not in path.read_bytes()
    for directory in (repository.public, repository.public / "keys"):
        with pytest.raises(RefusedError, match="is served to everybody"):
            repository.add_publisher("globex", keys_directory=directory)
        with pytest.raises(RefusedError, match="is served to everybody"):
            Repository.create(
                tmp_path / "r", passphrase="x", keys_directory=tmp_path / "r" / "public" / "keys"
            )


def test_a_repository_is_not_made_twice(repository: Repository) -> None:
    before = snapshot(repository.directory)
    with pytest.raises(RefusedError, match="holds a repository already"):
        Repository.create(repository.directory, passphrase=PASSPHRASE)
    assert snapshot(repository.directory) == before


def test_keys_elsewhere_are_named_in_full_however_the_directory_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository.create(tmp_path / "r", passphrase=PASSPHRASE)
    monkeypatch.chdir(repository.directory)
    here = Repository.open(Path(), passphrase=PASSPHRASE)
    outside = here.add_publisher("acme", keys_directory=Path("../keys"))
    assert outside.uri == f"pkcs8:{tmp_path / 'keys' / 'publisher-acme.pem'}"
    inside = here.add_publisher("globex", keys_directory=Path("more/../keys"))
    assert inside.uri == "pkcs8:keys/publisher-globex.pem"


def test_a_repository_can_be_moved_with_its_keys(repository: Repository, tmp_path: Path) -> None:
    repository.directory.rename(tmp_path / "moved")
    moved = Repository.open(tmp_path / "moved", passphrase=PASSPHRASE)
    assert moved.publish(plugin(tmp_path)).changed


# --- publishing --------------------------------------------------------------------------------


def test_an_upgrade_reuses_what_the_previous_release_has(
    repository: Repository, clock: Clock, tmp_path: Path
) -> None:
    repository.publish(plugin(tmp_path, "1.0", same="same " * 100, other="1"))
    clock.advance(hours=1)
    published = repository.publish(plugin(tmp_path, "1.1", same="same " * 100, other="2"))
    assert (published.new_chunk_count, published.chunk_count) == (1, 2)
    assert [str(f.path) for f in head_of(repository, published).manifest.files] == [
        "other.txt",
        "same.txt",
    ]


def test_publishing_again_is_a_no_op_for_the_same_bytes_and_refused_for_others(
    repository: Repository, clock: Clock, tmp_path: Path
) -> None:
    first = plugin(tmp_path, "1.0", a="a" * 1000, b="b")
    second = plugin(tmp_path, "1.1", a="a" * 1000, b="c")
    one = repository.publish(first)
    clock.advance(hours=1)
    repository.publish(second)
    clock.advance(hours=1)
    repository.publish(plugin(tmp_path, "1.0.5", a="a" * 1000, b="d"))
    before = snapshot(repository.directory)
    again = repository.publish(first)
    assert (again.changed, again.sha256) == (False, one.sha256)
    # 1.0.5 lies before 1.1, but came later: it is no input of 1.1.
    assert not repository.publish(second).changed
    (first / "files" / "b.txt").write_text("other")
    with pytest.raises(RefusedError, match=r"acme/maps 1\.0 is published already, with other"):
        repository.publish(first)
    assert snapshot(repository.directory) == before


def test_two_repositories_make_the_same_bundles(
    repository: Repository, clock: Clock, tmp_path: Path
) -> None:
    other = make_repository(tmp_path / "other", clock)
    for version in ("1.0", "1.1"):
        source = plugin(tmp_path, version)
        assert repository.publish(source).sha256 == other.publish(source).sha256


def test_python_files_bring_bytecode_for_this_interpreter(
    repository: Repository, tmp_path: Path
) -> None:
    source = make_plugin(tmp_path / "s", {"pkg/m.py": "x = 1\n", "pkg/broken.py": "def (\n"})
    published = repository.publish(source)
    cache = sys.implementation.cache_tag
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    manifest = head_of(repository, published).manifest
    assert {str(file.path): file.tag for file in manifest.files} == {
        "pkg/m.py": "",
        "pkg/broken.py": "",
        f"pkg/__pycache__/m.{cache}.pyc": tag,
    }
    (source / "plugin.toml").write_text(PLUGIN.format(version="2.0"))
    without = repository.publish(source, bytecode=False)
    assert len(head_of(repository, without).manifest.files) == 2


def test_a_wheel_with_its_dependencies_is_a_plugin(
    repository: Repository, client: Client, tmp_path: Path
) -> None:
    wheel = make_wheel(
        tmp_path,
        requires=["greet>=1"],
        entry_points="[demo.plugins]\nmain = demo:NAME\n",
        metadata="Requires-Python: >=3.9\nSummary: A demo.\n",
    )
    make_wheel(tmp_path / "shelf", "greet")
    published = repository.publish(wheel, publisher="acme", with_dependencies=tmp_path / "shelf")
    manifest = head_of(repository, published).manifest
    assert str(published.release) == "acme/demo 1.0"
    assert manifest.python.vendored == ("greet",)
    assert [entry.value for entry in manifest.entry_points] == ["demo:NAME"]
    found = contents(repository, published)
    assert found["demo/__init__.py"] == b"NAME = 'demo'\n"
    assert found["greet/__init__.py"] == b"NAME = 'greet'\n"
    catalogue = client.catalogue("acme/demo")
    assert catalogue is not None
    assert (catalogue.summary, str(catalogue.entries[0].needs.python)) == ("A demo.", ">=3.9")
    assert not repository.publish(
        wheel, publisher="acme", with_dependencies=tmp_path / "shelf"
    ).changed


def test_one_version_for_several_platforms(repository: Repository, tmp_path: Path) -> None:
    source = plugin(tmp_path)
    platforms = ["py3-none-win_amd64", "py3-none-manylinux_2_17_x86_64"]
    for platform in platforms:
        repository.publish(source, platform=platform)
    (catalogue,) = repository.status().catalogues
    assert sorted(entry.release.platform for entry in catalogue.entries) == sorted(platforms)
    withdrawn = repository.withdraw(MAPS, parse_version("1.0"), YANKED, "Wrong.")
    assert len(withdrawn) == 2


LONG = """\
[plugin]
name = "acme/{}"
version = "{}"
platform = "py3-none-{}"
"""


def long_names(length: int) -> str:
    """A plugin.toml whose bundle is served under a name of `length` characters."""
    platform = "w" * (length - 64 - len(f".-{'p' * 64}-{'v' * 64}py3-none-.tar.zst"))
    return LONG.format("p" * 64, f"1.0+{'v' * 60}", platform)


def test_the_longest_file_name_is_published(repository: Repository, tmp_path: Path) -> None:
    source = make_plugin(tmp_path / "s", {"a": "x"}, toml=long_names(255))
    published = repository.publish(source)
    assert len(bundle_file(repository, published).name) == 255
    assert bundle_file(repository, published).exists()


def test_another_spelling_of_a_published_version_is_refused(
    repository: Repository, client: Client, tmp_path: Path
) -> None:
    repository.publish(plugin(tmp_path))
    before = snapshot(repository.directory)
    with pytest.raises(RefusedError, match=r"maps 1\.0\.0 is the same version as acme/maps 1\.0"):
        repository.publish(plugin(tmp_path, "1.0.0"))
    assert snapshot(repository.directory) == before
    assert client.versions() == ["1.0"]


def test_control_two_spellings_of_a_version_would_break_the_catalogue(
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_repository, "_check_spelling", lambda catalogue, release: None)
    repository.publish(plugin(tmp_path))
    with pytest.raises(InvalidInputError, match="is listed twice"):
        repository.publish(plugin(tmp_path, "1.0.0"))


def sources_that_are_refused() -> list[tuple[str, Callable[[Path], Any], type, str]]:
    def module(name: str) -> Callable[[Path], Any]:
        return lambda directory: {"source": make_plugin(directory / "s", {name: "x = 1\n"})}

    def toml(text: str) -> Callable[[Path], Any]:
        return lambda directory: {"source": make_plugin(directory / "s", {"a": "x"}, toml=text)}

    def wheel(**options: Any) -> Callable[[Path], Any]:
        return lambda directory: {"source": make_wheel(directory, **options), "publisher": "acme"}

    def broken_wheel(directory: Path) -> Any:
        path = directory / "demo-1.0-py3-none-any.whl"
        path.write_bytes(b"PK nonsense")
        return {"source": path, "publisher": "acme"}

    good = PLUGIN.format(version="1.0")
    return [
        ("stdlib", module("json/__init__.py"), RefusedError, "brings the module 'json'"),
        ("stdlib file", module("random.py"), RefusedError, "brings the module 'random'"),
        ("ours", module("plugin_manager/x.py"), RefusedError, "belongs to this program"),
        ("unknown key", toml(good + "nam = 1"), InvalidInputError, "plugin.nam: is not a known"),
        ("not toml", toml("[plugin"), InvalidInputError, "plugin.toml: is not TOML"),
        ("no files", toml(good + 'exclude = ["**"]'), InvalidInputError, "holds no files"),
        ("publisher", toml(good.replace("acme", "globex")), NotFoundError, "publisher 'globex'"),
        ("case", lambda d: {"source": make_plugin(d / "s", {"a": "x", "A": "x"})},
         InvalidInputError, "collides with"),
        ("wheel", broken_wheel, InvalidInputError, "is not a wheel"),
        ("wheel's stdlib", wheel(files={"os.py": ""}), RefusedError, "brings the module 'os'"),
        ("no publisher", lambda d: {"source": make_wheel(d)}, InvalidInputError, "who publishes"),
        ("bad publisher", lambda d: {"source": make_wheel(d), "publisher": "A"},
         InvalidInputError, "'A' is not a publisher name"),
        ("other publisher", lambda d: {"source": plugin(d), "publisher": "globex"},
         InvalidInputError, "belongs to publisher 'acme'"),
        ("dependencies", lambda d: {"source": plugin(d), "with_dependencies": d},
         InvalidInputError, "only a wheel"),
        ("platform", lambda d: {"source": plugin(d), "platform": "win"},
         InvalidInputError, "'win' is not a platform"),
        ("nothing", lambda d: {"source": d / "none"}, NotFoundError, "none does not exist"),
        ("long name", toml(long_names(256)), InvalidInputError, "would have 256 characters"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "kind", "fault"),
    [pytest.param(*case[1:], id=case[0]) for case in sources_that_are_refused()],
)
def test_a_bad_source_is_one_clear_error_and_changes_nothing(
    repository: Repository,
    tmp_path: Path,
    arguments: Callable[[Path], Any],
    kind: type[PluginManagerError],
    fault: str,
) -> None:
    options = arguments(tmp_path)
    before = snapshot(repository.directory)
    with pytest.raises(kind) as caught:
        repository.publish(options.pop("source"), **options)
    assert fault in caught.value.message
    assert snapshot(repository.directory) == before


def test_a_wrong_passphrase_publishes_nothing(repository: Repository, tmp_path: Path) -> None:
    thief = Repository.open(repository.directory, passphrase="guess")
    before = snapshot(repository.public / "metadata")
    with pytest.raises(InvalidInputError, match="cannot be opened with this passphrase"):
        thief.publish(plugin(tmp_path))
    assert snapshot(repository.public / "metadata") == before
    assert repository.publish(plugin(tmp_path)).changed


# --- withdrawing -------------------------------------------------------------------------------


def test_a_withdrawal_reaches_clients_with_its_reason(
    repository: Repository, client: Client, tmp_path: Path
) -> None:
    repository.publish(plugin(tmp_path))
    repository.publish(plugin(tmp_path, "1.1"))
    repository.withdraw(MAPS, parse_version("1.0"), YANKED, " Wrong roads. ")
    repository.withdraw(MAPS, parse_version("1.0"), BLOCKED, "Leaks.")
    catalogue = client.catalogue()
    assert catalogue is not None
    first, second = catalogue.entries
    assert first.withdrawal is not None
    assert (first.withdrawal.kind, first.withdrawal.reason) == (BLOCKED, "Leaks.")
    assert second.withdrawal is None


def test_a_blocked_release_is_unblocked_only_on_purpose(
    repository: Repository, client: Client, tmp_path: Path
) -> None:
    source = plugin(tmp_path)
    for platform in ("py3-none-win_amd64", "py3-none-manylinux_2_17_x86_64"):
        repository.publish(source, platform=platform)
    version, blocked = parse_version("1.0"), Platform.parse("py3-none-win_amd64")
    repository.withdraw(MAPS, version, BLOCKED, "Leaks.", platform=blocked)
    repository.withdraw(MAPS, version, BLOCKED, "Leaks much.", platform=blocked)
    before = snapshot(repository.directory)
    with pytest.raises(RefusedError, match=r"\(py3-none-win_amd64\) is blocked") as caught:
        repository.withdraw(MAPS, version, YANKED, "Wrong.")
    assert "--unblock" in caught.value.remedy
    assert snapshot(repository.directory) == before
    repository.withdraw(MAPS, version, YANKED, "It does not leak.", unblock=True)
    catalogue = client.catalogue()
    assert catalogue is not None
    assert [entry.yanked for entry in catalogue.entries] == [True, True]


@pytest.mark.parametrize(
    ("name", "version", "reason", "kind"),
    [
        ("acme/maps", "9.9", "r", NotFoundError),
        ("acme/none", "1.0", "r", NotFoundError),
        ("globex/maps", "1.0", "r", NotFoundError),
        ("acme/maps", "1.0", "  ", InvalidInputError),
        ("acme/maps", "1.0", "x" * 5000, InvalidInputError),
    ],
)
def test_a_withdrawal_of_nothing_is_refused(
    repository: Repository, tmp_path: Path, name: str, version: str, reason: str, kind: type
) -> None:
    repository.publish(plugin(tmp_path))
    before = snapshot(repository.directory)
    with pytest.raises(kind):
        repository.withdraw(PluginName.parse(name), parse_version(version), YANKED, reason)
    assert snapshot(repository.directory) == before


# --- refreshing --------------------------------------------------------------------------------


def test_refresh_signs_what_expires_soon_and_nothing_else(
    repository: Repository, clock: Clock
) -> None:
    assert [role.name for role in repository.refresh().signed] == ["timestamp"]
    clock.advance(days=5)
    assert [role.name for role in repository.refresh().signed] == ["snapshot", "timestamp"]
    clock.advance(days=300)
    assert {role.name for role in repository.refresh().signed} == {
        "root",
        "targets",
        "publisher-acme",
        "snapshot",
        "timestamp",
    }
    assert all(role.expires > clock() for role in repository.status().roles)


def test_refresh_needs_only_the_keys_of_snapshot_and_timestamp(
    repository: Repository, clock: Clock
) -> None:
    for role in ("root", "targets", "publisher-acme"):
        (repository.directory / "keys" / f"{role}.pem").unlink()
    clock.advance(days=300)
    repository = Repository.open(repository.directory, passphrase=PASSPHRASE, now=clock)
    refreshed = repository.refresh()
    assert {role.name for role in refreshed.signed} == {"snapshot", "timestamp"}
    assert len(refreshed.notes) == 3
    assert all("was not signed anew" in note for note in refreshed.notes)
    (repository.directory / "keys" / "timestamp.pem").unlink()
    with pytest.raises(NotFoundError, match=r"timestamp\.pem"):
        Repository.open(repository.directory, passphrase=PASSPHRASE).refresh()


def test_a_root_that_was_renewed_is_followed_by_clients_of_the_first(
    repository: Repository, client: Client, clock: Clock, tmp_path: Path
) -> None:
    repository.publish(plugin(tmp_path))
    assert client.versions() == ["1.0"]
    clock.advance(days=300)
    repository.refresh()
    clock.advance(days=300)
    repository.refresh()
    assert repository.root_bytes() == repository.root_bytes(3) != client.root
    assert client.versions() == ["1.0"]


def test_thresholds_and_expiry_follow_repository_toml(
    repository: Repository, client: Client, clock: Clock, tmp_path: Path
) -> None:
    repository.add_key("publisher-acme")
    path = repository.directory / "repository.toml"
    text = path.read_text()
    head, table, rest = text.partition("[publishers.acme]")
    rest = rest.replace("threshold = 1", "threshold = 2", 1).replace("365", "30", 1)
    path.write_text(head + table + rest)
    repository.refresh()
    role = repository.status().roles[-1]
    assert (role.name, role.threshold, len(role.keyids)) == ("publisher-acme", 2, 2)
    assert role.expires - clock() <= timedelta(days=30)
    repository.publish(plugin(tmp_path))
    assert client.versions() == ["1.0"]
    (newest,) = [path for path in files_of_metadata(repository) if "publisher" in path.name]
    assert len(json.loads(newest.read_bytes())["signatures"]) == 2


# --- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "publisher-acme"])
def test_a_key_is_replaced_and_old_clients_follow(
    repository: Repository, client: Client, tmp_path: Path, role: str
) -> None:
    repository.publish(plugin(tmp_path))
    assert client.versions() == ["1.0"]
    (old,) = repository.keys()[role]
    new = repository.add_key(role)
    assert client.versions() == ["1.0"]
    repository.retire_key(role, old.keyid[:10])
    assert client.versions() == ["1.0"]
    assert Client(repository, tmp_path / "fresh").versions() == ["1.0"]
    found = next(status for status in repository.status().roles if status.name == role)
    assert found.keyids == (new.keyid,)
    (repository.directory / "keys" / f"{role}.pem").unlink()  # the old one is needed no more
    again = Repository.open(repository.directory, passphrase=PASSPHRASE, now=repository._now)
    again.publish(plugin(tmp_path, "1.1"))
    assert client.versions() == ["1.0", "1.1"]


def test_the_last_key_of_a_role_is_not_retired(repository: Repository) -> None:
    before = snapshot(repository.directory)
    (only,) = repository.keys()["root"]
    with pytest.raises(RefusedError, match="needs 1 keys, and would have one less"):
        repository.retire_key("root", only.keyid)
    with pytest.raises(NotFoundError, match="has 0 keys whose name begins"):
        repository.retire_key("root", "zz")
    assert snapshot(repository.directory) == before


def test_root_is_not_handed_over_without_the_old_key(
    repository: Repository, tmp_path: Path
) -> None:
    (old,) = repository.keys()["root"]
    new = generate_key(tmp_path / "new.pem", PASSPHRASE)
    path = repository.directory / "repository.toml"
    configuration = _configuration.read(path)
    policy = configuration.role("root")
    (repository.directory / "keys" / "root.pem").unlink()
    before = snapshot(repository.public)
    for keys, kind, fault in (
        (
            (evolve(old, retired=True), new),
            RefusedError,
            "must also be signed by the keys of root 1",
        ),
        ((new,), UntrustedError, "is not signed by the keys"),
    ):
        changed = configuration.with_role("root", evolve(policy, keys=keys))
        path.write_text(_configuration.render(changed))
        with pytest.raises(kind, match=fault):
            Repository.open(repository.directory, passphrase=PASSPHRASE).refresh()
        assert snapshot(repository.public) == before


def test_a_signer_of_another_kind_can_be_a_role_from_the_start(
    tmp_path: Path, clock: Clock
) -> None:
    pem, public = make_plain_key(tmp_path)
    key = SigningKey(f"file2:{pem}", read_public_key(public))
    repository = Repository.create(
        tmp_path / "r", passphrase=PASSPHRASE, keys={"root": [key]}, now=clock
    )
    repository.add_publisher("acme", key=key)
    assert sorted(path.name for path in (tmp_path / "r" / "keys").iterdir()) == [
        "snapshot.pem",
        "targets.pem",
        "timestamp.pem",
    ]
    repository.publish(plugin(tmp_path))
    assert Client(repository, tmp_path / "client").versions() == ["1.0"]


def test_a_signer_that_does_not_fit_leaves_nothing_behind(
    repository: Repository, tmp_path: Path
) -> None:
    pem, public = make_plain_key(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = make_plain_key(tmp_path / "other")
    before = snapshot(repository.directory)
    for uri in ("nonsense:x", f"file2:{other}"):
        with pytest.raises(InvalidInputError):
            repository.add_publisher("globex", key=SigningKey(uri, read_public_key(public)))
    with pytest.raises(InvalidInputError, match="passphrase is empty"):
        Repository.open(repository.directory, passphrase="").add_publisher("globex")
    assert snapshot(repository.directory) == before
    assert pem.exists()


def test_publishers_are_kept_apart(repository: Repository, client: Client, tmp_path: Path) -> None:
    repository.add_publisher("globex")
    repository.publish(plugin(tmp_path))
    globex = PLUGIN.format(version="1.0").replace("acme", "globex")
    repository.publish(make_plugin(tmp_path / "g", {"a": "x"}, toml=globex))
    names = [str(catalogue.plugin) for catalogue in repository.status().catalogues]
    assert names == ["acme/maps", "globex/maps"]
    assert client.catalogue("globex/maps") is not None
    with pytest.raises(RefusedError, match="has the publisher 'acme' already"):
        repository.add_publisher("acme")
    with pytest.raises(InvalidInputError):
        repository.add_publisher("../x")


# --- tampering and crashes ---------------------------------------------------------------------


def files_of_metadata(repository: Repository) -> Iterator[Path]:
    metadata = repository.public / "metadata"
    newest: dict[str, tuple[int, Path]] = {}
    for path in metadata.iterdir():
        version, _, name = path.name.partition(".")
        number, role = (int(version), name) if version.isdigit() else (0, path.name)
        newest[role] = max(newest.get(role, (-1, path)), (number, path))
    yield from (path for _, path in newest.values())


def test_nothing_is_signed_on_top_of_tampered_metadata(
    repository: Repository, tmp_path: Path
) -> None:
    repository.publish(plugin(tmp_path))
    source = plugin(tmp_path, "1.1")
    paths = list(files_of_metadata(repository))
    assert len(paths) == 5
    for path in paths:
        good = path.read_bytes()
        signed = json.loads(good)
        signed["signed"]["expires"] = "2099-01-01T00:00:00Z"
        for bad in (json.dumps(signed).encode(), b"{}", b"", b"\xff", good[:-10]):
            path.write_bytes(bad)
            before = snapshot(repository.directory)
            with pytest.raises((UntrustedError, InvalidInputError)) as caught:
                repository.publish(source)
            assert str(path) in caught.value.message
            assert snapshot(repository.directory) == before
        path.unlink()
        with pytest.raises(PluginManagerError):
            repository.publish(source)
        path.write_bytes(good)
    assert repository.publish(source).changed


def test_a_whole_foreign_repository_in_its_place_is_not_signed(
    repository: Repository, tmp_path: Path
) -> None:
    attacker = make_repository(tmp_path / "attacker")
    attacker.publish(plugin(tmp_path, "6.6"))
    shutil.rmtree(repository.public)
    shutil.copytree(attacker.public, repository.public)
    with pytest.raises(UntrustedError, match=r"1\.root\.json: is not signed"):
        repository.publish(plugin(tmp_path))


def test_tampered_targets_are_not_built_upon(repository: Repository, tmp_path: Path) -> None:
    published = repository.publish(plugin(tmp_path))
    path = bundle_file(repository, published)
    good = path.read_bytes()
    path.write_bytes(good[:12] + bytes([good[12] ^ 1]) + good[13:])
    with pytest.raises(UntrustedError) as caught:
        repository.publish(plugin(tmp_path, "1.1"))
    assert str(path) in caught.value.message
    path.write_bytes(good)
    (catalogue,) = path.parent.glob("*.catalogue.json")
    catalogue.write_bytes(catalogue.read_bytes().replace(b"Maps", b"Mops"))
    with pytest.raises(UntrustedError) as caught:
        repository.publish(plugin(tmp_path, "1.1"))
    assert str(catalogue) in caught.value.message


class Crash(BaseException):
    """The power goes."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Let the step-th write (counted from 0) and all after it not happen; says how many did."""
    count = 0

    def counting(real: Callable[..., None]) -> Callable[..., None]:
        def write(*arguments: Any, **options: Any) -> None:
            nonlocal count
            if count == step:
                raise Crash
            count += 1
            real(*arguments, **options)

        return write

    for module, name in (
        (_repository, "write_atomically"),
        (_target_files, "move_into_place"),
        (_target_files, "write_atomically"),
        (_metadata, "write_atomically"),
    ):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    return lambda: count


@pytest.mark.parametrize("action", ["publish", "withdraw", "rotate timestamp", "rotate root"])
def test_a_crash_between_any_two_writes_leaves_a_good_repository_that_goes_on(
    repository: Repository, client: Client, tmp_path: Path, action: str
) -> None:
    repository.publish(plugin(tmp_path))
    for role in ("root", "timestamp"):
        repository.add_key(role)
    pristine = tmp_path / "pristine"
    shutil.copytree(repository.directory, pristine)
    new = plugin(tmp_path, "1.1")
    (tmp_path / "clients").mkdir()

    def act() -> None:
        if action == "publish":
            repository.publish(new)
        elif action == "withdraw":
            repository.withdraw(MAPS, parse_version("1.0"), YANKED, "Wrong.")
        else:
            role = action.split()[1]
            repository.retire_key(role, repository.keys()[role][0].keyid)

    steps = 0
    for step in range(20):
        shutil.rmtree(repository.directory)
        shutil.copytree(pristine, repository.directory)
        visitor = Client(repository, tmp_path / "clients" / str(step))
        assert visitor.versions() == ["1.0"]
        with pytest.MonkeyPatch.context() as patch:
            written = crash_at(patch, step)
            try:
                act()
            except Crash:
                steps = written() + 1
            else:
                break
        assert visitor.versions() in (["1.0"], ["1.0", "1.1"])
        repository.publish(plugin(tmp_path, "1.2"))
        assert visitor.versions()[-1] == "1.2"
        assert Client(repository, tmp_path / "clients" / f"{step}-fresh").versions()
    # bundle, catalogue, publisher, snapshot, timestamp; toml, snapshot?, timestamp, root
    assert steps >= {"publish": 5, "withdraw": 4}.get(action, 3)


def test_control_root_before_the_timestamp_would_break_a_client_in_between(
    repository: Repository, client: Client, tmp_path: Path
) -> None:
    """What the order of writing defends against: the new root with the old timestamp."""
    repository.publish(plugin(tmp_path))
    repository.add_key("timestamp")
    repository.refresh()
    old = repository.keys()["timestamp"][0]
    timestamp = repository.public / "metadata" / "timestamp.json"
    only_old = Metadata[Any].from_file(str(timestamp))
    only_old.signatures = {old.keyid: only_old.signatures[old.keyid]}
    repository.retire_key("timestamp", old.keyid)
    assert client.versions() == ["1.0"]
    only_old.to_file(str(timestamp))
    with pytest.raises((RepositoryError, DownloadError)):
        Client(repository, tmp_path / "fresh").versions()


def test_control_a_timestamp_written_first_is_caught(
    repository: Repository, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.publish(plugin(tmp_path))
    real = _metadata.write_atomically

    def only_the_timestamp(path: Path, data: bytes) -> None:
        if path.name == "timestamp.json":
            real(path, data)

    monkeypatch.setattr(_metadata, "write_atomically", only_the_timestamp)
    repository.publish(plugin(tmp_path, "1.1"))
    with pytest.raises((RepositoryError, DownloadError)):
        client.versions()


def test_what_a_crash_left_is_never_taken_for_the_newest(
    repository: Repository, client: Client, tmp_path: Path
) -> None:
    repository.publish(plugin(tmp_path))
    metadata = repository.public / "metadata"
    (metadata / "99.snapshot.json").write_bytes(b"garbage")
    (metadata / "3.publisher-acme.json").write_bytes(b"garbage")
    (repository.directory / "work" / "left").mkdir(parents=True)
    repository.publish(plugin(tmp_path, "1.1"))
    assert client.versions() == ["1.0", "1.1"]
    assert not (repository.directory / "work").exists()


def publish_in_a_process(directory: str, source: str) -> None:
    Repository.open(Path(directory), passphrase=PASSPHRASE).publish(Path(source))


def test_processes_publish_one_after_the_other(
    repository: Repository, client: Client, tmp_path: Path
) -> None:
    versions = [f"1.{number}" for number in range(6)]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=publish_in_a_process,
            args=(str(repository.directory), str(plugin(tmp_path, version))),
        )
        for version in versions
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert client.versions() == versions


def test_what_the_disk_refuses_is_one_clear_error_with_the_files_name(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = plugin(tmp_path)
    before = snapshot(repository.directory)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(NoSpaceError, match="the disk is full"):
            repository.publish(source)
    assert snapshot(repository.directory) == before
    key = repository.directory / "keys" / "timestamp.pem"
    key.rename(tmp_path / "aside")
    key.mkdir()
    fresh = Repository.open(repository.directory, passphrase=PASSPHRASE)
    with pytest.raises(StoreAccessError, match=r"timestamp\.pem: Is a directory"):
        fresh.refresh()
    (repository.directory / "repository.toml").unlink()
    (repository.directory / "repository.toml").mkdir()
    with pytest.raises(StoreAccessError, match=r"repository\.toml"):
        fresh.status()


PUBLISH = """
import sys
from pathlib import Path
from plugin_manager.publishing import Repository
repository = Repository.open(Path(sys.argv[1]), passphrase=sys.argv[2])
print(repository.publish(Path(sys.argv[3]), publisher="acme",
                         with_dependencies=Path(sys.argv[3]).parent / "shelf").sha256)
"""


def test_processes_with_other_hash_seeds_make_the_same_bundle(
    repository: Repository, tmp_path: Path
) -> None:
    code = "S = {'a', 'b c', 'd'}\ndef f(x): return x in {'/', 'y z', 3} or {**x}\n"
    wheel = make_wheel(tmp_path, requires=["greet"], files={"demo/__init__.py": code})
    make_wheel(tmp_path / "shelf", "greet", files={f"greet/m{i}.py": code for i in range(9)})
    digests = set()
    for seed in ("1", "2"):
        directory = tmp_path / seed
        shutil.copytree(repository.directory, directory)
        done = subprocess.run(
            [sys.executable, "-c", PUBLISH, directory, PASSPHRASE, wheel],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_a_writer_that_waits_too_long_says_who_is_in_the_way(
    repository: Repository, tmp_path: Path
) -> None:
    impatient = Repository.open(repository.directory, passphrase=PASSPHRASE, wait_seconds=0)
    for lock in (".lock", ".publish-lock"):
        with (
            FileLock(repository.directory / lock),
            pytest.raises(LockedError, match="another process is writing"),
        ):
            impatient.publish(plugin(tmp_path))
    with FileLock(repository.directory / ".publish-lock"):
        impatient.refresh()  # a long publication does not keep the timestamp from being signed


def test_an_initialisation_that_was_cut_off_is_finished_by_refresh(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, 3)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a dead process tidies nothing
        with pytest.raises(Crash):
            Repository.create(tmp_path / "r", passphrase=PASSPHRASE)
    repository = Repository.open(tmp_path / "r", passphrase=PASSPHRASE)
    repository.refresh()
    repository.add_publisher("acme")
    repository.publish(plugin(tmp_path))
    assert Client(repository, tmp_path / "client").versions() == ["1.0"]


def test_the_head_in_the_metadata_is_the_bundles_beginning(
    repository: Repository, tmp_path: Path
) -> None:
    published = repository.publish(plugin(tmp_path))
    targets = Metadata[Targets].from_file(
        str(repository.public / "metadata" / "2.publisher-acme.json")
    )
    custom = targets.signed.targets[published.target_path].custom["plugin-manager"]
    data = bundle_file(repository, published).read_bytes()[: custom["head"]["length"]]
    assert hashlib.sha256(data).hexdigest() == custom["head"]["sha256"]
    assert bundle.read_head(data).bundle_length == published.length
