"""What is sure to be needed comes side by side: fewer round trips, the same verdicts, bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest

from plugin_manager.catalogue import MAX_CATALOGUE_BYTES, catalogue_path
from plugin_manager.errors import InvalidInputError, NetworkError, UntrustedError
from plugin_manager.model import PluginName
from plugin_manager.transfer import Transfer
from plugin_manager.trust import _client
from tests.transfer.server import Server, honest
from tests.trust.repository import BASE, Repository, make_release, soon, update

MIB = 1024 * 1024


def make_repository(plugins: int, publishers: int = 1) -> tuple[Repository, list[PluginName]]:
    names = [f"p{i % publishers}/plugin-{i}" for i in range(plugins)]
    repository = Repository(*dict.fromkeys(name.split("/")[0] for name in names))
    for name in names:
        repository.add(f"{name} 1.0")
    repository.publish()
    repository.side_by_side = True
    return repository, [PluginName.parse(name) for name in names]


def ask_all(trust, plugins: list[PluginName]) -> None:
    with trust.update(plugins) as conversation:
        for plugin in plugins:
            assert conversation.catalogue(plugin).plugin == plugin


def kinds(wave: list[str]) -> set[str]:
    """`{"root.json", "publisher-p0.json"}`: names without directory, version and digest."""
    names = [path.rpartition("/")[2] for path in wave]
    return {name if name == "timestamp.json" else name.split(".", 1)[1] for name in names}


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize(("plugins", "publishers"), [(1, 1), (10, 1), (100, 1), (100, 30)])
def test_first_update_takes_four_round_trips_whatever_it_brings(tmp_path, plugins, publishers):
    repository, names = make_repository(plugins, publishers)
    ask_all(repository.trust(tmp_path), names)
    roles = {f"publisher-p{i}.json" for i in range(publishers)}
    assert [kinds(wave) for wave in repository.waves] == [
        {"root.json", "timestamp.json"},
        {"snapshot.json"},
        {"targets.json", *roles},
        {"catalogue.json"},
    ]
    assert len(repository.requests) == len(set(repository.requests)) == 4 + publishers + plugins


def test_control_one_after_the_other_takes_as_many_as_there_are_files(tmp_path):
    repository, names = make_repository(10, 3)
    repository.side_by_side = False
    ask_all(repository.trust(tmp_path), names)
    assert len(repository.waves) == 4 + 3 + 10


def test_update_without_change_takes_one_round_trip(tmp_path):
    repository, names = make_repository(10, 3)
    ask_all(repository.trust(tmp_path), names)
    repository.waves.clear()
    ask_all(repository.trust(tmp_path), names)
    assert [kinds(wave) for wave in repository.waves] == [{"root.json", "timestamp.json"}]


def test_what_is_carried_along_comes_side_by_side_and_only_where_it_changed(tmp_path):
    repository, names = make_repository(10, 5)
    ask_all(repository.trust(tmp_path), names)
    for publisher in ("p1", "p2"):
        for i in range(10):
            if i % 5 == int(publisher[1]):
                repository.add(f"{publisher}/plugin-{i} 2.0")
        repository.sign(f"publisher-{publisher}", repository.roles[publisher])
    repository.sign("snapshot", repository.snapshot)
    repository.sign("timestamp", repository.timestamp)
    repository.waves.clear()
    trust = repository.trust(tmp_path)
    update(trust)
    assert [kinds(wave) for wave in repository.waves] == [
        {"root.json", "timestamp.json"},
        {"snapshot.json"},
        {"publisher-p1.json", "publisher-p2.json"},
        {"catalogue.json"},
    ]
    assert len(repository.waves[-1]) == 4
    assert len(trust.local().catalogue(PluginName.parse("p1/plugin-1")).entries) == 2


def test_prefetch_brings_what_turns_out_to_be_needed_later_at_once(tmp_path):
    repository, names = make_repository(20, 2)
    with repository.trust(tmp_path).update(names[:1]) as conversation:
        before = len(repository.waves)
        unknown = PluginName.parse("p0/nobody"), PluginName.parse("nobody/plugin")
        assert conversation.prefetch([*names, *unknown]) == names
        assert len(repository.waves) == before + 2  # the other publisher's role, the catalogues
        for name in names:
            conversation.catalogue(name)
        assert len(repository.waves) == before + 2


def test_without_fetch_many_nothing_comes_before_its_turn(tmp_path):
    repository, names = make_repository(3)
    repository.side_by_side = False
    with repository.trust(tmp_path).update(names) as conversation:
        assert conversation.prefetch(names) == ()
        assert "catalogue.json" not in set().union(*map(kinds, repository.waves))


# --- nothing is trusted for having come early ---------------------------------------------------


def test_timestamp_is_never_older_than_the_last_root(tmp_path):
    repository, names = make_repository(1)
    stale = repository.files["metadata/timestamp.json"]
    repository.rotate("timestamp")
    repository.publish()
    fresh = repository.files["metadata/timestamp.json"]
    # The old key's timestamp is served until the new root is out: as when it is published just now.
    served = []

    def fetch(url: str, most_bytes: int) -> bytes:
        path = url.removeprefix(BASE)
        if path == "metadata/timestamp.json":
            served.append("fresh" if "metadata/3.root.json" in repository.requests else "stale")
            repository.files[path] = fresh if served[-1] == "fresh" else stale
        return repository.fetch(url, most_bytes)

    ask_all(repository.trust(tmp_path, fetch=fetch), names)
    assert served == ["stale", "fresh"]


@pytest.mark.parametrize("data", [b"", b"{}", b"nonsense"])
@pytest.mark.parametrize(
    ("kind", "refused"), [("timestamp", True), ("publisher-p0", False), ("catalogue", False)]
)
def test_what_came_early_is_judged_as_what_comes_in_its_turn(tmp_path, kind, refused, data):
    repository, names = make_repository(3)

    def lying(asks):
        found = repository.many(repository.fetch)(asks)
        return [
            data if f"{kind}.json" in url else one
            for (url, _), one in zip(asks, found, strict=True)
        ]

    trust = repository.trust(tmp_path, fetch_many=lying)
    if refused:
        with pytest.raises(UntrustedError):
            ask_all(trust, names)
        assert not (tmp_path / "current").exists()
    else:
        # Refused as well, and then asked for in its turn, where this server tells the truth.
        ask_all(trust, names)
        asked = [path for path in repository.requests if path.endswith(f"{kind}.json")]
        assert len(asked) == 2 * len(set(asked))
    repository.waves.clear()
    ask_all(repository.trust(tmp_path), names)
    assert len(repository.waves) == (4 if refused else 1)


def test_control_what_is_honest_is_asked_for_once(tmp_path):
    repository, names = make_repository(3)
    ask_all(repository.trust(tmp_path), names)
    assert len(repository.requests) == len(set(repository.requests))


def test_what_could_not_come_early_is_not_waited_for_again(tmp_path):
    """The transport was patient with it; its error is told where its turn is."""
    repository, names = make_repository(4, 2)

    def failing(asks):
        return [
            NetworkError("too busy") if "timestamp" in url else found
            for (url, _), found in zip(asks, repository.many(repository.fetch)(asks), strict=True)
        ]

    with pytest.raises(NetworkError, match="too busy"):
        ask_all(repository.trust(tmp_path, fetch_many=failing), names)
    assert sum("timestamp" in path for path in repository.requests) == 1
    ask_all(repository.trust(tmp_path), names)


def test_one_catalogue_that_could_not_come_early_keeps_no_other(tmp_path):
    repository, names = make_repository(4, 2)

    def failing(asks):
        return [
            NetworkError("too busy") if f"{names[1]}/" in url else found
            for (url, _), found in zip(asks, repository.many(repository.fetch)(asks), strict=True)
        ]

    trust = repository.trust(tmp_path, fetch_many=failing)
    with trust.update(names) as update:
        for name in names:
            if name == names[1]:
                with pytest.raises(NetworkError, match="too busy"):
                    update.catalogue(name)
            assert update.catalogue(name)  # asked for anew where somebody insists


def test_publisher_that_fails_is_tried_early_once_and_then_where_it_is_asked_for(tmp_path):
    repository, names = make_repository(20, 2)
    repository.roles["p1"].expires = soon(-1)
    repository.signers["publisher-p1"] = repository.signers["publisher-p0"]
    repository.publish()
    with repository.trust(tmp_path).update(names) as conversation:
        asked = [path for path in repository.requests if "publisher-p1" in path]
        assert len(asked) == 1
        with pytest.raises(UntrustedError, match="publisher-p1 was signed by 0/1 keys"):
            conversation.catalogue(names[1])
        assert conversation.catalogue(names[0])


def test_what_may_be_larger_in_its_turn_is_asked_for_again_then():
    large = b"x" * 3 * MIB
    with Server(honest(large)) as server:
        by = Transfer()
        fetcher = _client._Fetcher(by.fetch, by.fetch_many, lambda _: {})
        for most_bytes in (16 * MIB, MIB):
            assert list(fetcher.ahead({"role": (server.url(), MIB)})) == []
            asked = len(server.requests)
            if most_bytes > MIB:
                assert fetcher.download_bytes(server.url(), most_bytes) == large
                assert len(server.requests) == asked + 1
            else:
                with pytest.raises(NetworkError, match="more than 1048576 bytes"):
                    fetcher.download_bytes(server.url(), most_bytes)
                assert len(server.requests) == asked, "control: it would say the same"


# --- bounds -------------------------------------------------------------------------------------


def test_unjudged_bytes_that_wait_are_bounded(tmp_path, monkeypatch):
    repository, names = make_repository(12, 12)
    monkeypatch.setattr(_client, "MOST_AHEAD_BYTES", 4 * MIB)
    limits = []

    def fetch_many(asks):
        limits.append([most_bytes for _, most_bytes in asks])
        return repository.many(repository.fetch)(asks)

    ask_all(repository.trust(tmp_path, fetch_many=fetch_many), names)
    roles = [one for one in limits if MIB in one]
    assert [one.count(MIB) for one in roles] == [4, 4, 4]
    assert all(sum(one) <= 4 * MIB for one in limits if 16 * MIB not in one)
    assert max(max(one) for one in limits) == 16 * MIB  # targets.json itself, in its turn


def test_endless_answers_are_not_kept(tmp_path):
    repository, names = make_repository(2)
    held = []

    def fetch_many(asks):
        found = repository.many(repository.fetch)(asks)
        return [
            one if "root" in url or "targets.json" in url else b" " * (most_bytes + 1)
            for (url, most_bytes), one in zip(asks, found, strict=True)
        ]

    original = _client._Fetcher._keep

    def keep(self, asks, found):
        original(self, asks, found)
        held.append(len(self._waiting))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_client._Fetcher, "_keep", keep)
        ask_all(repository.trust(tmp_path, fetch_many=fetch_many), names)
    assert held
    assert not any(held)


def test_large_catalogue_comes_in_its_turn(tmp_path):
    repository, names = make_repository(2)
    path = catalogue_path(names[0])
    [prefixed] = repository.roles["p0"].targets[path].get_prefixed_paths()
    padded = repository.files["targets/" + prefixed] + b" " * (MIB + 1)
    repository.put_target(path, padded)
    repository.publish()
    ask_all(repository.trust(tmp_path), names)
    assert [len(wave) for wave in repository.waves] == [2, 1, 2, 1, 1]


@pytest.mark.parametrize("side_by_side", [False, True])
def test_catalogue_that_is_signed_too_large_is_not_fetched(tmp_path, side_by_side):
    repository, names = make_repository(2)
    repository.side_by_side = side_by_side
    trust = repository.trust(tmp_path)
    ask_all(trust, names)
    repository.roles["p0"].targets[catalogue_path(names[0])].length = MAX_CATALOGUE_BYTES + 1
    repository.publish()
    repository.requests.clear()
    with trust.update(names) as conversation:
        with pytest.raises(InvalidInputError, match="larger than 16777216 bytes"):
            conversation.catalogue(names[0])
        assert conversation.catalogue(names[1])
    assert not any("catalogue.json" in path for path in repository.requests)
    # Its publisher's doing, and only that plugin's harm.
    assert trust.local().catalogue(names[1]).entry(make_release("p0/plugin-1 1.0"))


def test_portions_ascend_and_lose_nothing():
    fetcher = _client._Fetcher(None, lambda asks: [b"x"] * len(asks), dict)
    asks = {i: (f"url{i}", MIB if i % 3 else MIB + 1) for i in range(300)}
    given = list(fetcher.ahead(asks))
    assert given == [i for i in range(300) if i % 3]
    assert all(one < other for one, other in pairwise(given))
