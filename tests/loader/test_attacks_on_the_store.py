"""Somebody who may write to the store, and knows its formats, changes what a load goes by.

Digests within the store are made to agree wherever they can be; what remains are the signatures.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import evolve

from plugin_manager.errors import (
    BlockedError,
    CorruptError,
    ExpiredError,
    NotFoundError,
    UntrustedError,
)
from plugin_manager.model import Digest, PluginName
from plugin_manager.store import Active
from plugin_manager.store._generations import parse, render
from tests.bundles import make_bundle, release
from tests.world import World

MAPS, TOOL = PluginName.parse("acme/maps"), PluginName.parse("globex/tool")


class Attacked:
    """A store with two plugins, one of them upgraded once; and what an intruder does to it."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory)
        for version in ("1.0", "1.1"):
            self.world.publish(f"acme/maps {version}", {"demo_maps.py": f"KIND = 'maps {version}'"})
        self.world.publish("globex/tool 1.0", {"demo_tool.py": "KIND = 'tool'"})
        with self.world.online():
            manager = self.world.manager()
            manager.install("acme/maps==1.0")
            manager.install("globex/tool")
            manager.upgrade()
        self.store = directory / "store"

    def kind(self) -> str:
        """What the module of acme/maps says of itself, loaded by a manager of its own."""
        with self.world.manager() as manager:
            kind: str = manager.load(MAPS).import_module("demo_maps").KIND
            return kind

    def active(self, plugin: PluginName = MAPS) -> Active:
        return parse((self.store / "current").read_bytes(), "current").active[plugin]

    def directory_of(self, active: Active) -> Path:
        plugin = active.release.plugin
        [found] = (self.store / "releases" / plugin.publisher / plugin.name).glob(
            f"{active.release.version}-*"
        )
        return found

    def make_current(self, active: Active) -> None:
        """Write a wholly consistent generation, both times, with `active` for its plugin."""
        current = parse((self.store / "current").read_bytes(), "current")
        forged = evolve(current, active={**current.active, active.release.plugin: active})
        put(self.store / "current", render(forged))
        put(self.store / "generations" / f"{forged.number}.json", render(forged))

    def place(self, active: Active, files: Path | dict[str, bytes]) -> None:
        """Lay out a release's directory as the store would name it."""
        example = self.directory_of(self.active())
        suffix = example.name.partition("-")[2]
        digest = str(active.digest)[: len(suffix)]
        plugin = active.release.plugin
        target = self.store / "releases" / plugin.publisher / plugin.name
        target = target / f"{active.release.version}-{digest}"
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(files, Path):
            shutil.copytree(files, target)
            return
        for path, content in files.items():
            put(target / path, content)

    def put_trust(self, files: dict[str, bytes]) -> None:
        """Change files of the current set of metadata, and every digest that names them."""
        number = (self.store / "trust/current").read_text().split()[0]
        directory = self.store / "trust/sets" / number
        for name, data in files.items():
            put(directory / name, data)
        names = sorted(
            path.relative_to(directory).as_posix()
            for path in directory.rglob("*")
            if path.is_file() and path.name != "SHA256SUMS"
        )
        listing = "".join(
            f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n"
            for name in names
        ).encode()
        put(directory / "SHA256SUMS", listing)
        put(self.store / "trust/current", f"{number} {hashlib.sha256(listing).hexdigest()}\n")


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def trust_files(trust: Path) -> dict[str, bytes]:
    number = (trust / "current").read_text().split()[0]
    directory = trust / "sets" / number
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[Attacked]:
    attacked = Attacked(tmp_path)
    yield attacked
    attacked.world.close()


def test_control_an_untouched_store_loads(attacked: Attacked) -> None:
    assert attacked.kind() == "maps 1.1"


# --- current, generations, manifests ------------------------------------------------------------


def _changed(path: Path) -> None:
    put(path, path.read_bytes().replace(b"1.1", b"1.0"))


def _emptied(path: Path) -> None:
    put(path, b"")


def _link(path: Path) -> None:
    other = path.parent.parent / "other"
    path.rename(other)
    path.symlink_to(other)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("attack", [_changed, _emptied, _link, _fifo, _directory])
def test_a_changed_current_is_refused(attacked: Attacked, attack: Callable[[Path], None]) -> None:
    attack(attacked.store / "current")
    with pytest.raises(CorruptError, match="current"):
        attacked.kind()


@pytest.mark.parametrize("attack", [_changed, _emptied, _link, _fifo, _directory])
def test_a_changed_manifest_is_refused(attacked: Attacked, attack: Callable[[Path], None]) -> None:
    digest = str(attacked.active().digest)
    path = attacked.store / "manifests" / digest
    if attack is _changed:
        put(path, path.read_bytes()[:-1] + b"!")
    else:
        attack(path)
    with pytest.raises((CorruptError, UntrustedError)) as caught:
        attacked.kind()
    assert digest in f"{caught.value} {caught.value.context}"


def test_control_a_consistent_generation_chooses_among_what_is_vouched_for(
    attacked: Attacked,
) -> None:
    older = parse((attacked.store / "generations/1.json").read_bytes(), "1").active[MAPS]
    attacked.make_current(older)
    assert attacked.kind() == "maps 1.0"


def test_a_consistent_generation_does_not_bring_back_a_blocked_release(attacked: Attacked) -> None:
    attacked.world.withdraw("acme/maps 1.0", "blocked", "leaks")
    with attacked.world.online():
        attacked.world.manager().update()
    older = parse((attacked.store / "generations/1.json").read_bytes(), "1").active[MAPS]
    attacked.make_current(older)
    with pytest.raises(BlockedError, match="leaks"):
        attacked.kind()


# --- a release of another plugin, or of nobody --------------------------------------------------


def test_another_plugins_files_in_this_ones_place_are_refused(attacked: Attacked) -> None:
    active, tool = attacked.active(), attacked.active(TOOL)
    attacked.place(active, attacked.directory_of(tool))
    with pytest.raises(CorruptError) as caught:
        attacked.kind()
    assert "demo_maps.py" in caught.value.paths


def test_another_plugins_release_under_this_ones_name_is_refused(attacked: Attacked) -> None:
    active, tool = attacked.active(), attacked.active(TOOL)
    forged = Active(active.release, tool.digest)  # whose head and files are good, and signed
    attacked.place(forged, attacked.directory_of(tool))
    attacked.make_current(forged)
    with pytest.raises(UntrustedError, match=r"acme/maps 1\.1"):
        attacked.kind()


def test_another_plugins_head_under_this_ones_digest_is_refused(attacked: Attacked) -> None:
    active, tool = attacked.active(), attacked.active(TOOL)
    heads = attacked.store / "manifests"
    put(heads / str(active.digest), (heads / str(tool.digest)).read_bytes())
    attacked.place(active, attacked.directory_of(tool))
    with pytest.raises((CorruptError, UntrustedError)):
        attacked.kind()


def test_an_older_release_under_the_newer_ones_version_is_refused(attacked: Attacked) -> None:
    older = parse((attacked.store / "generations/1.json").read_bytes(), "1").active[MAPS]
    forged = Active(attacked.active().release, older.digest)
    attacked.place(forged, attacked.directory_of(older))
    attacked.make_current(forged)
    with pytest.raises(UntrustedError, match=r"acme/maps 1\.1"):
        attacked.kind()


@pytest.mark.parametrize("name", ["acme/maps 1.1", "acme/maps 9.9"])
def test_a_release_made_by_the_intruder_is_refused(attacked: Attacked, name: str) -> None:
    files = {"demo_maps.py": b"KIND = 'evil'"}
    made = make_bundle(name, files)
    forged = Active(release(name), Digest(str(made.head.digest)))
    put(attacked.store / "manifests" / str(forged.digest), made.head_bytes)
    attacked.place(forged, files)
    attacked.make_current(forged)
    with pytest.raises(UntrustedError, match=name.replace(".", r"\.")):
        attacked.kind()


def test_a_plugin_that_nobody_published_is_refused(attacked: Attacked) -> None:
    files = {"demo_evil.py": b"KIND = 'evil'"}
    made = make_bundle("acme/evil 1.0", files)
    forged = Active(release("acme/evil 1.0"), Digest(str(made.head.digest)))
    put(attacked.store / "manifests" / str(forged.digest), made.head_bytes)
    attacked.place(forged, files)
    attacked.make_current(forged)
    with pytest.raises((UntrustedError, NotFoundError)), attacked.world.manager() as manager:
        manager.load("acme/evil")


# --- the signed metadata ------------------------------------------------------------------------

ROLES = [
    "timestamp.json", "snapshot.json", "targets.json", "publisher-acme.json",
    "catalogues/acme/maps.json",
]  # fmt: skip


def test_control_metadata_whose_digests_were_written_anew_loads(attacked: Attacked) -> None:
    attacked.put_trust(trust_files(attacked.store / "trust"))
    assert attacked.kind() == "maps 1.1"


@pytest.mark.parametrize("name", ROLES[:-1])  # a catalogue is named by its digest, not signed
def test_metadata_signed_by_others_is_refused(
    attacked: Attacked, name: str, tmp_path: Path
) -> None:
    other = Attacked(tmp_path / "other")  # the same plugins, other keys
    attacked.put_trust({name: trust_files(other.store / "trust")[name]})
    with pytest.raises(UntrustedError, match=Path(name).name):
        attacked.kind()


def test_a_whole_set_of_another_repository_is_refused(attacked: Attacked, tmp_path: Path) -> None:
    other = Attacked(tmp_path / "other")
    shutil.rmtree(attacked.store)
    shutil.copytree(other.store, attacked.store)
    with pytest.raises(UntrustedError):
        attacked.kind()


@pytest.mark.parametrize("name", ROLES)
def test_metadata_changed_by_hand_is_refused(attacked: Attacked, name: str) -> None:
    data = trust_files(attacked.store / "trust")[name]
    changed = data.replace(b'"version"', b'"versiom"', 1)
    changed = data.replace(b"1.1", b"1.0", 1) if changed == data else changed
    assert changed != data
    attacked.put_trust({name: changed})
    with pytest.raises(UntrustedError):
        attacked.kind()


def news_of_a_block(attacked: Attacked) -> dict[str, bytes]:
    """Block the active release and let the store know; returns the metadata of before."""
    older = trust_files(attacked.store / "trust")
    attacked.world.withdraw("acme/maps 1.1", "blocked", "leaks")
    with attacked.world.online():
        attacked.world.manager().update()
    with pytest.raises(BlockedError):
        attacked.kind()
    return older


@pytest.mark.parametrize("name", [name for name in ROLES if name != "targets.json"])
def test_one_older_file_among_newer_metadata_is_refused(attacked: Attacked, name: str) -> None:
    older = news_of_a_block(attacked)
    assert older[name] != trust_files(attacked.store / "trust")[name]
    attacked.put_trust({name: older[name]})
    with pytest.raises(UntrustedError, match="json"):
        attacked.kind()


def test_all_but_the_timestamp_older_is_refused(attacked: Attacked) -> None:
    older = news_of_a_block(attacked)
    newest = trust_files(attacked.store / "trust")["timestamp.json"]
    attacked.put_trust({**older, "timestamp.json": newest})
    with pytest.raises(UntrustedError, match="snapshot"):
        attacked.kind()


def test_a_whole_older_set_lasts_until_it_expires_or_the_repository_is_asked(
    attacked: Attacked,
) -> None:
    older = news_of_a_block(attacked)
    attacked.put_trust(older)
    # Signed, consistent and not expired: without the network it is what a device that was offline
    # has. The threat model says so.
    assert attacked.kind() == "maps 1.1"
    attacked.world.clock.advance(days=2)
    strict = attacked.world.manager(environment={"PLUGINCTL_GRACE_DAYS": "0"})
    with pytest.raises(ExpiredError):
        strict.load(MAPS)
    attacked.world.clock.advance(days=30)
    with pytest.raises(ExpiredError):
        attacked.kind()
    attacked.world.clock.advance(days=-32)
    with attacked.world.online():
        attacked.world.manager().update()
    with pytest.raises(BlockedError, match="leaks"):
        attacked.kind()


def test_a_manager_that_has_verified_newer_metadata_takes_no_older(attacked: Attacked) -> None:
    older = news_of_a_block(attacked)
    with attacked.world.online(), attacked.world.manager() as manager:
        with pytest.raises(BlockedError):
            manager.load(MAPS)
        attacked.put_trust(older)
        with pytest.raises(UntrustedError, match="older metadata") as caught:
            manager.load(MAPS)
        assert "pluginctl update" in caught.value.remedy
        assert attacked.kind() == "maps 1.1", "control: one that has not, does"
        manager.update()
        with pytest.raises(BlockedError, match="leaks"):
            manager.load(MAPS)
