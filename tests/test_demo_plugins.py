"""The sources below manifests/: what the demo publishes is complete; small changes stay small."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from plugin_manager.model import PluginRequirement, parse_specifier, parse_version
from plugin_manager.publishing import Repository

PROJECT = Path(__file__).parent.parent
MANIFESTS = PROJECT / "manifests"
SOURCES = sorted(path.parent for path in MANIFESTS.rglob("plugin.toml"))
IDS = [str(source.relative_to(MANIFESTS)) for source in SOURCES]
MAKER = MANIFESTS / "globex/tiny-model/make_weights.py"


def described(source: Path) -> dict:
    return tomllib.loads((source / "plugin.toml").read_text("utf-8"))


def make_weights(version: str, directory: Path, seed: str = "0") -> bytes:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    subprocess.run(
        [sys.executable, str(MAKER), version, str(directory)], check=True, env=environment
    )
    return (directory / "weights.bin").read_bytes()


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_a_source_lies_where_its_name_and_version_say(source):
    plugin = described(source)["plugin"]
    assert source.relative_to(MANIFESTS).as_posix() == f"{plugin['name']}/{plugin['version']}"


def test_there_is_something_of_every_kind():
    assert IDS == [
        "acme/greeter/1.0.0",
        "acme/greeter/1.1.0",
        "acme/greeter/2.0.0",
        "acme/greeter-french/1.0.0",
        "globex/tiny-model/1.0",
        "globex/tiny-model/1.1",
    ]
    (french,) = (
        PluginRequirement.parse(text)
        for text in described(MANIFESTS / "acme/greeter-french/1.0.0")["requires"]["plugins"]
    )
    assert str(french.plugin) == "acme/greeter"
    assert parse_version("1.1.0") in french.specifier
    assert parse_version("1.0.0") not in french.specifier
    newest = parse_specifier(described(MANIFESTS / "acme/greeter/2.0.0")["requires"]["host"])
    assert parse_version("1.0") not in newest  # the demo's host


def test_the_weights_are_the_same_wherever_they_are_made(tmp_path):
    assert make_weights("1.0", tmp_path / "a", "1") == make_weights("1.0", tmp_path / "b", "2")


def test_the_two_versions_of_the_model_differ_a_little(tmp_path):
    old, new = make_weights("1.0", tmp_path / "old"), make_weights("1.1", tmp_path / "new")
    assert 4_000_000 < len(old) < len(new) < 4_500_000
    layer = 256 * 1024
    old_layers, new_layers = (data[8 + int.from_bytes(data[:8], "little") :] for data in (old, new))
    changed = [
        number
        for number in range(16)
        if old_layers[number * layer :][:layer] != new_layers[number * layer :][:layer]
    ]
    assert changed == [7]


def test_every_source_can_be_published_and_an_upgrade_of_the_model_is_small(tmp_path):
    repository = Repository.create(
        tmp_path / "repository", keys_directory=tmp_path / "keys", passphrase="demo"
    )
    repository.add_publisher("acme")
    repository.add_publisher("globex")
    published = {}
    for source, name in zip(SOURCES, IDS, strict=True):
        copy = tmp_path / "sources" / name
        shutil.copytree(source, copy)
        if source.parent == MAKER.parent:
            make_weights(source.name, copy / "files")
        published[name] = repository.publish(copy)
    model = published["globex/tiny-model/1.1"]
    assert model.new_chunk_count * 4 < model.chunk_count
