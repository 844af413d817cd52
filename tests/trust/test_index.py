"""Indexes: fetched with the rest and judged like the rest; no reason for anything to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin_manager import index as index_format
from plugin_manager.errors import ExpiredError, NetworkError, NotFoundError, UntrustedError
from plugin_manager.index import MAX_INDEX_BYTES, Listed, index_path
from plugin_manager.manifest import About
from plugin_manager.model import PluginName
from plugin_manager.trust import Trust
from tests.trust.repository import Repository, current_set, seal_set, soon
from tests.trust.test_ahead import kinds

MAPS, MODEL = PluginName.parse("acme/maps"), PluginName.parse("globex/model")


@pytest.fixture(params=[False, True], ids=["one after the other", "side by side"])
def repository(request: pytest.FixtureRequest) -> Repository:
    repository = Repository("acme", "globex")
    repository.side_by_side = request.param
    for plugin in (MAPS, MODEL):
        repository.add(f"{plugin} 1.0")
    put_indexes(repository)
    return repository


def put_indexes(repository: Repository, summary: str = "first") -> None:
    for plugin in (MAPS, MODEL):
        listed = Listed(plugin, About(summary=summary), repository.catalogues[plugin].entries)
        data = index_format.render(plugin.publisher, [listed])
        repository.put_target(index_path(plugin.publisher), data)
    repository.publish()
    repository.requests.clear()
    repository.waves.clear()


def bring(trust: Trust, *plugins: PluginName, every_index: bool = False) -> None:
    with trust.update(plugins, every_index=every_index) as update:
        for plugin in plugins:
            update.catalogue(plugin)


def asked(repository: Repository) -> list[str]:
    return [path for path in repository.requests if "plugins.json" in path]


def test_every_index_comes_and_then_only_what_changed(
    repository: Repository, tmp_path: Path
) -> None:
    trust = repository.trust(tmp_path)
    bring(trust, MAPS, every_index=True)
    assert trust.local().listed_publishers() == ("acme", "globex")
    assert [str(one.plugin) for one in trust.local().index("globex").plugins] == ["globex/model"]
    repository.requests.clear()
    repository.publish()  # signed anew, all else being as it was
    bring(trust, MAPS)
    assert asked(repository) == []
    put_indexes(repository, "second")
    bring(trust, MAPS)
    assert len(asked(repository)) == 2
    assert trust.local().index("globex").plugins[0].about.summary == "second"


def test_only_the_publishers_that_are_met_are_asked(repository: Repository, tmp_path: Path) -> None:
    trust = repository.trust(tmp_path)
    bring(trust, MAPS)
    assert trust.local().listed_publishers() == ("acme",)
    assert not any("globex" in path for path in repository.requests)
    with pytest.raises(NotFoundError, match="no index of publisher globex is stored"):
        trust.local().index("globex")


def test_an_index_takes_no_round_trip_of_its_own(tmp_path: Path) -> None:
    repository = Repository("acme", "globex")
    repository.side_by_side = True
    for plugin in (MAPS, MODEL):
        repository.add(f"{plugin} 1.0")
    put_indexes(repository)
    bring(repository.trust(tmp_path), MAPS, MODEL)
    assert kinds(repository.waves[-1]) == {"catalogue.json", "plugins.json"}
    assert len(repository.waves) == 4


@pytest.mark.parametrize("where", ["gone", "server", "forged"])
def test_an_index_that_cannot_be_had_is_done_without(
    repository: Repository, tmp_path: Path, where: str
) -> None:
    fetch = repository.fetch
    tries: list[str] = []

    def failing(url: str, most_bytes: int) -> bytes:
        if "plugins.json" not in url:
            return fetch(url, most_bytes)
        tries.append(url)
        if where == "forged":
            return fetch(url, most_bytes).replace(b"first", b"worst")
        raise NetworkError("no answer", status=404 if where == "gone" else None)

    trust = repository.trust(tmp_path, fetch=failing)
    bring(trust, MAPS, MODEL)
    assert trust.local().listed_publishers() == ()
    assert trust.local().catalogue(MAPS).plugin == MAPS
    assert tries
    trust = repository.trust(tmp_path)
    bring(trust, MAPS, MODEL)
    assert trust.local().listed_publishers() == ("acme", "globex"), "control"


def test_who_does_not_answer_is_not_waited_for_again(tmp_path: Path) -> None:
    repository = Repository("acme", "globex")
    for plugin in (MAPS, MODEL):
        repository.add(f"{plugin} 1.0")
    put_indexes(repository)
    fetch = repository.fetch
    tries: list[str] = []

    def dead(url: str, most_bytes: int) -> bytes:
        if "plugins.json" in url:
            tries.append(url)
            raise NetworkError("no answer")
        return fetch(url, most_bytes)

    bring(repository.trust(tmp_path, fetch=dead), MAPS, MODEL)
    assert len(tries) == 1


@pytest.mark.parametrize("change", ["weak hashes", "too large", "removed", "another's"])
def test_what_a_publisher_signs_wrongly_hides_its_own_offers_only(
    repository: Repository, tmp_path: Path, change: str
) -> None:
    trust = repository.trust(tmp_path)
    bring(trust, MAPS, MODEL)
    path, targets = index_path("acme"), repository.roles["acme"].targets
    if change == "weak hashes":
        repository.put_target(path, index_format.render("acme", []), hashes=("md5",))
    elif change == "too large":
        targets[path].length = MAX_INDEX_BYTES + 1
    elif change == "removed":
        del targets[path]
    else:
        repository.put_target(path, index_format.render("globex", []))
    repository.publish()
    bring(trust, MAPS, MODEL)
    assert trust.local().index("globex").publisher == "globex"
    assert trust.local().catalogue(MAPS).plugin == MAPS
    with pytest.raises(UntrustedError if change == "another's" else NotFoundError):
        trust.local().index("acme")


def test_a_publisher_that_is_gone_takes_its_index_along(
    repository: Repository, tmp_path: Path
) -> None:
    trust = repository.trust(tmp_path)
    bring(trust, every_index=True)
    assert repository.targets.delegations
    assert repository.targets.delegations.roles
    del repository.targets.delegations.roles["publisher-globex"]
    del repository.roles["globex"]
    repository.publish()
    bring(trust)
    assert trust.local().listed_publishers() == ("acme",)


def test_an_expired_publisher_offers_nothing_beyond_the_grace(
    repository: Repository, tmp_path: Path
) -> None:
    repository.roles["globex"].expires = soon(-40)
    repository.publish()
    trust = repository.trust(tmp_path)
    bring(trust, every_index=True)
    assert trust.local().index("acme").publisher == "acme"
    with pytest.raises(ExpiredError):
        trust.local().index("globex")


def test_a_forger_who_writes_digests_meets_the_signature(
    repository: Repository, tmp_path: Path
) -> None:
    trust = repository.trust(tmp_path)
    bring(trust, MAPS)
    stored = current_set(tmp_path) / "indexes" / "acme.json"
    stored.write_bytes(stored.read_bytes().replace(b"first", b"worst"))
    seal_set(tmp_path)
    with pytest.raises(UntrustedError):
        repository.trust(tmp_path).local().index("acme")


def test_an_index_that_did_not_change_is_parsed_once(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    parse = index_format.parse

    def counted(data: bytes, where: str = "") -> index_format.Index:
        parsed.append(where.rpartition("indexes")[2])
        return parse(data, where)

    monkeypatch.setattr(index_format, "parse", counted)
    trust = repository.trust(tmp_path)
    bring(trust, every_index=True)
    before = trust.local().index("acme")
    for _ in range(2):  # also where nobody looked between two updates
        repository.publish()
        bring(trust)
        trust.local()
    assert trust.local().index("acme") is before
    assert len(parsed) == 1
    put_indexes(repository, "second")
    bring(trust)
    assert trust.local().index("acme").plugins[0].about.summary == "second"
    assert len(parsed) == 2  # control
