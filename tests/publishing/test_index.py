"""What a publisher's index says follows from its catalogues and newest manifests alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin_manager import index as index_format
from plugin_manager.errors import UntrustedError
from plugin_manager.index import Index, index_path
from plugin_manager.model import PluginName, WithdrawalKind, parse_version, publisher_role
from plugin_manager.publishing import Repository
from plugin_manager.publishing._target_files import TargetFiles
from tests.publishing.helpers import Clock, make_plugin, make_repository

TOML = """\
[plugin]
name = "acme/{name}"
version = "{version}"
summary = "{summary}"
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository(tmp_path: Path, clock: Clock) -> Repository:
    return make_repository(tmp_path / "repository", clock)


def publish(
    repository: Repository, name: str, version: str, summary: str = "Maps.", more: str = ""
) -> None:
    source = repository.directory.parent / f"{name}-{version}"
    toml = TOML.format(name=name, version=version, summary=summary) + more
    repository.publish(make_plugin(source, {f"{name}.py": version}, toml=toml))


def served(repository: Repository) -> bytes:
    target = repository._chain().target(publisher_role("acme"), index_path("acme"))
    assert target is not None
    return repository._files.path(target).read_bytes()


def read(repository: Repository) -> Index:
    return index_format.parse(served(repository))


def test_the_index_follows_each_publication(repository: Repository) -> None:
    publish(repository, "maps", "1.0", "Old.")
    publish(repository, "maps", "2.0", "New.", 'license = "MIT"\n')
    publish(repository, "maps", "1.5", "Late.")
    publish(repository, "tiles", "1.0", "Tiles.")
    maps, tiles = read(repository).plugins
    assert (maps.about.summary, maps.about.license) == ("New.", "MIT")
    assert [str(entry.release.version) for entry in maps.entries] == ["1.0", "1.5", "2.0"]
    assert tiles.plugin == PluginName("acme", "tiles")


def test_the_index_says_what_was_withdrawn(repository: Repository) -> None:
    publish(repository, "maps", "1.0")
    name, version = PluginName("acme", "maps"), parse_version("1.0")
    repository.withdraw(name, version, WithdrawalKind.BLOCKED, "leaks tokens")
    (maps,) = read(repository).plugins
    assert maps.entries[0].blocked


def test_equal_repositories_have_equal_indexes(
    repository: Repository, tmp_path: Path, clock: Clock
) -> None:
    other = make_repository(tmp_path / "other" / "repository", clock)
    releases = [("maps", "1.0", "Old."), ("tiles", "1.0", "T."), ("maps", "1.1", "New.")]
    for release in releases:
        publish(repository, *release)
    for release in reversed(releases):
        publish(other, *release)
    assert served(repository) == served(other)


@pytest.mark.parametrize("lost", [True, False])
def test_what_the_last_index_told_is_looked_up_where_it_does_not_serve(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    publish(repository, "maps", "1.0", "Maps.")
    publish(repository, "tiles", "1.0", "Tiles.")
    if lost:
        for path in (repository.public / "targets/acme/_index").iterdir():
            path.write_bytes(b"damaged")
    looked_up = []
    about = TargetFiles._about
    monkeypatch.setattr(
        TargetFiles, "_about", lambda *given: (looked_up.append(str(given[2])), about(*given))[1]
    )
    publish(repository, "maps", "1.1", "Newer.")
    assert looked_up == (["acme/tiles 1.0"] if lost else [])
    assert [one.about.summary for one in read(repository).plugins] == ["Newer.", "Tiles."]


def test_a_repository_that_never_had_one_gets_it_with_the_next_publication(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TargetFiles, "put_index", lambda *_: None)
        publish(repository, "maps", "1.0", "Maps.")
    assert repository._chain().target(publisher_role("acme"), index_path("acme")) is None
    clock.advance(days=360)
    repository.refresh()  # the publisher's role expires soon, and is signed anew
    assert [one.about.summary for one in read(repository).plugins] == ["Maps."]


def test_nothing_is_signed_over_a_damaged_catalogue(repository: Repository) -> None:
    publish(repository, "maps", "1.0")
    before = served(repository)
    for path in (repository.public / "targets/acme/maps").glob("*.catalogue.json"):
        path.write_bytes(b"{}")
    with pytest.raises(UntrustedError):
        publish(repository, "tiles", "1.0")
    assert served(repository) == before


def test_status_lists_plugins_and_not_the_index(repository: Repository) -> None:
    publish(repository, "maps", "1.0")
    assert [str(one.plugin) for one in repository.status().catalogues] == ["acme/maps"]
