"""Picking releases: what moves, what stays, what is never picked, and how conflicts are told."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest
from attrs import evolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from plugin_manager.catalogue import Catalogue, CatalogueEntry
from plugin_manager.errors import (
    ConflictError,
    IncompatibleHostError,
    NotFoundError,
    RefusedError,
)
from plugin_manager.model import (
    ANY,
    Host,
    HostNeeds,
    Platform,
    PluginName,
    PluginRequirement,
    Release,
    Withdrawal,
    WithdrawalKind,
)
from plugin_manager.resolver import (
    _explain,
    _resolve,
    _rules,
    _search,
    check,
    compatibility,
    resolve,
)

LINUX = "cp311-cp311-manylinux_2_17_x86_64"
STABLE = "cp39-abi3-manylinux_2_17_x86_64"
PURE = "py3-none-any"
HOST = Host(
    python=Version("3.11.4"),
    tags=(LINUX, STABLE, PURE),
    bytecode_tag="cp311",
    version=Version("3.9"),
    memory_bytes=8 * 2**30,
    free_disk_bytes=2**30,
)
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def name(short: str) -> PluginName:
    return PluginName("acme", short)


def entry(
    text: str, *requires: str, platform: str = ANY, blocked: str = "", yanked: str = "", **needs
) -> CatalogueEntry:
    """The entry of release "a 1.0"; `needs` as in HostNeeds, specifiers as text."""
    short, version = text.split()
    withdrawal = None
    if blocked or yanked:
        kind = WithdrawalKind.BLOCKED if blocked else WithdrawalKind.YANKED
        withdrawal = Withdrawal(kind, blocked or yanked)
    return CatalogueEntry(
        release=Release(name(short), Version(version), Platform(platform)),
        length=1,
        content_length=1,
        published=WHEN,
        requirements=tuple(PluginRequirement.parse(f"acme/{one}") for one in requires),
        needs=HostNeeds(
            **{k: SpecifierSet(v) if isinstance(v, str) else v for k, v in needs.items()}
        ),
        withdrawal=withdrawal,
    )


def all_at_hand(plugins):
    return plugins


def none_at_hand(_):
    """What `prefetch` says where everything takes a search."""
    return ()


class World:
    """Catalogues made of entries."""

    def __init__(self, *entries: CatalogueEntry) -> None:
        self.entries = entries
        self.asked: list[PluginName] = []

    def catalogue(self, plugin: PluginName) -> Catalogue:
        self.asked.append(plugin)
        mine = tuple(one for one in self.entries if one.release.plugin == plugin)
        if not mine:
            raise NotFoundError(f"there is no plugin {plugin}", plugin=str(plugin))
        return Catalogue(plugin, entries=mine)

    def resolve(
        self,
        *requests: str,
        installed: str = "",
        host: Host = HOST,
        prefetch=all_at_hand,
        **names,
    ):
        """What would be active, as "a 1.0, b 2.0"; `names` as short names joined by spaces."""
        found = resolve(
            [PluginRequirement.parse(f"acme/{one}") for one in requests],
            installed=self.releases(installed),
            catalogue=self.catalogue,
            host=host,
            prefetch=prefetch,
            **{key: {name(one) for one in value.split()} for key, value in names.items()},
        )
        assert all(plugin == one.release.plugin for plugin, one in found.items())
        return ", ".join(f"{plugin.name} {one.release.version}" for plugin, one in found.items())

    def releases(self, text: str) -> dict[PluginName, Release]:
        found = {}
        for item in filter(None, text.split(", ")):
            short, version = item.split()
            known = [
                one.release
                for one in self.entries
                if (one.release.plugin, one.release.version) == (name(short), Version(version))
            ]
            release = Release(name(short), Version(version))
            found[name(short)] = release if release in known or not known else known[0]
        return found

    def fails(self, error: type[Exception], *requests: str, **keywords):
        with pytest.raises(error) as caught:
            self.resolve(*requests, **keywords)
        return caught.value


# --- what is picked ----------------------------------------------------------------------------


def test_the_newest_that_fits_comes_with_what_it_needs():
    world = World(entry("a 1.0"), entry("a 2.0", "b>=1"), entry("b 1.0"), entry("b 1.1"))
    assert world.resolve("a") == "a 2.0, b 1.1"
    assert world.resolve("a<2") == "a 1.0"
    assert world.resolve("a", "b<1.1") == "a 2.0, b 1.0"


def test_what_is_installed_stays_unless_it_is_in_the_way():
    world = World(
        *(entry(f"b {version}") for version in ("1.0", "1.1", "2.0")),
        entry("c 1.0", "b<3"),
        entry("c 2.0"),
        entry("a 1.0", "b"),
        entry("a 2.0", "b>=1.1,<2"),
    )
    assert world.resolve("a==1.0", installed="b 1.0, c 1.0") == "a 1.0, b 1.0, c 1.0"
    assert world.resolve("a", installed="b 1.0, c 1.0") == "a 2.0, b 1.1, c 1.0"
    assert world.resolve(installed="b 1.0, c 1.0") == "b 1.0, c 1.0"


def test_a_new_dependency_yields_to_what_is_installed():
    # The newest d would need another b; an older d does not.
    world = World(
        entry("a 1.0", "d"),
        entry("b 1.0"),
        entry("b 2.0"),
        entry("d 1.0", "b"),
        entry("d 2.0", "b>=2"),
    )
    assert world.resolve("a", installed="b 1.0") == "a 1.0, b 1.0, d 1.0"


def test_control_without_undoing_moves_the_installed_one_would_move(monkeypatch):
    monkeypatch.setattr(_resolve, "preferred", lambda situation, found: found)
    with pytest.raises(AssertionError):
        test_a_new_dependency_yields_to_what_is_installed()


def test_upgrade_moves_what_it_names_to_the_newest_and_never_down():
    world = World(
        entry("a 1.0"), entry("a 2.0"), entry("b 1.0"), entry("b 2.0"), entry("c 1.0"),
        entry("c 2.0rc1"),
    )  # fmt: skip
    installed = "a 1.0, b 1.0, c 2.0rc1"
    assert world.resolve(installed=installed, upgrade="a c") == "a 2.0, b 1.0, c 2.0rc1"


def test_held_plugins_do_not_move():
    world = World(entry("a 1.0"), entry("a 2.0", "b>=2"), entry("b 1.0"), entry("b 2.0"))
    assert world.resolve("a", installed="b 1.0", held="b") == "a 1.0, b 1.0"
    assert world.resolve("b", installed="b 1.0", held="b") == "b 1.0"
    assert world.resolve(installed="b 1.0", held="b", upgrade="b") == "b 1.0"


def test_asking_for_another_version_of_a_held_plugin_is_refused():
    world = World(entry("b 1.0"), entry("b 2.0"))
    error = world.fails(RefusedError, "b>=2", installed="b 1.0", held="b")
    assert str(error) == (
        "acme/b is held at 1.0, so acme/b>=2 is not installed. Run 'pluginctl unhold acme/b' first."
    )


def test_pre_releases_come_only_where_named_or_alone():
    world = World(entry("a 1.0"), entry("a 2.0rc1"), entry("b 1.0b1"), entry("b 1.0b2"))
    assert world.resolve("a") == "a 1.0"
    assert world.resolve("a>=2.0rc1") == "a 2.0rc1"
    assert world.resolve("a>1.0") == "a 2.0rc1"
    assert world.resolve("b") == "b 1.0b2"
    assert world.resolve(installed="b 1.0b1", upgrade="b") == "b 1.0b2"


def test_yanked_releases_come_only_where_pinned_or_installed():
    world = World(
        entry("a 1.0"),
        entry("a 2.0", yanked="broken"),
        entry("c 1.0", "a==2.0"),
        entry("c 2.0", "a>=1"),
    )
    assert world.resolve("a") == "a 1.0"
    assert world.resolve("a==2.0") == "a 2.0"
    assert world.resolve("a===2.0") == "a 2.0"
    assert world.resolve("c==1.0") == "a 2.0, c 1.0"
    assert world.resolve("c", installed="a 2.0") == "a 2.0, c 2.0"
    assert world.resolve("c") == "a 1.0, c 2.0"
    world.fails(ConflictError, "a==2.*")


def test_blocked_releases_are_never_picked():
    world = World(entry("a 1.0"), entry("a 2.0", blocked="bad"), entry("b 1.0", blocked="bad"))
    assert world.resolve("a") == "a 1.0"
    world.fails(ConflictError, "a==2.0")
    world.fails(ConflictError, "b")


def test_a_blocked_installed_release_moves_or_else_hinders_nobody():
    world = World(
        entry("a 1.0"),
        entry("a 2.0", blocked="bad"),
        entry("b 1.0", blocked="bad"),
        entry("c 1.0"),
        entry("d 1.0", "b"),
    )
    assert world.resolve("c", installed="a 2.0, b 1.0") == "a 1.0, b 1.0, c 1.0"
    # But nothing new relies on it.
    world.fails(ConflictError, "d", installed="b 1.0")


def test_installed_releases_that_are_no_longer_listed_stay():
    world = World(entry("a 2.0"), entry("c 1.0"))
    assert world.resolve("c", installed="a 1.0, z 1.0") == "a 1.0, c 1.0, z 1.0"
    assert world.resolve("a", installed="a 1.0") == "a 2.0"


def test_installed_releases_that_do_not_fit_the_host_any_more_stay():
    world = World(entry("a 1.0"), entry("a 2.0", disk_bytes=2**40), entry("c 1.0"))
    assert world.resolve("c", installed="a 2.0") == "a 2.0, c 1.0"


def test_of_one_version_the_closest_platform_is_picked():
    platforms = [PURE, STABLE, LINUX, ANY, "cp312-cp312-win_amd64"]
    entries = [entry("a 1.0", platform=platform) for platform in platforms]
    for best in (LINUX, STABLE, PURE, ANY):
        found = resolve(
            [PluginRequirement(name("a"))],
            installed={},
            catalogue=World(*entries).catalogue,
            host=HOST,
        )
        assert found[name("a")].release.platform == best
        entries = [one for one in entries if one.release.platform != best]


def test_installed_platform_of_the_newest_version_stays():
    world = World(entry("a 1.0", platform=PURE), entry("a 1.0", platform=LINUX))
    pure = world.entries[0].release
    found = resolve(
        [PluginRequirement(name("a"))],
        installed={name("a"): pure},
        catalogue=world.catalogue,
        host=HOST,
    )
    assert found[name("a")].release == pure


def test_releases_that_do_not_fit_the_host_are_passed_over():
    world = World(
        entry("a 1.0"),
        entry("a 1.1", host=">=4"),
        entry("a 1.2", python=">=3.12"),
        entry("a 1.3", memory_bytes=9 * 2**30),
        entry("a 1.4", disk_bytes=2 * 2**30),
        entry("a 1.5", platform="cp312-cp312-win_amd64"),
    )
    assert world.resolve("a") == "a 1.0"
    unknown = evolve(HOST, version=None, memory_bytes=None, free_disk_bytes=None)
    assert world.resolve("a", host=unknown) == "a 1.4"
    assert world.resolve("a<1.3", host=unknown) == "a 1.0"


def test_each_catalogue_is_looked_up_once():
    world = World(entry("a 1.0"), entry("a 2.0", "b>=2"), entry("b 1.0"), entry("b 2.0"))
    world.resolve("a", installed="b 1.0")
    assert sorted(world.asked) == [name("a"), name("b")]


def levels(world: World, *requests: str, **names) -> list[str]:
    """What is told to come ahead: "a b" for plugins a and b together. The result is as without."""
    told = []

    def prefetch(plugins):
        told.append(" ".join(sorted(plugin.name for plugin in plugins)))
        return plugins

    without = world.resolve(*requests, **names, prefetch=none_at_hand)
    assert world.resolve(*requests, prefetch=prefetch, **names) == without
    return told


def test_what_will_be_needed_is_told_level_by_level():
    fan = [entry("a 1.0", "old"), entry("a 2.0", "b", "c>=2"), entry("b 1.0", "d", "c")]
    more = [entry("c 1.0", "old"), entry("c 2.0", "d", "e"), entry("d 1.0", "a"), entry("e 1.0")]
    world = World(*fan, *more, entry("old 1.0"), entry("x 1.0", "e"))
    assert levels(world, "a", "x") == ["a x", "b c e", "d"]
    # Nothing that only a release requires which is not picked, or that stays as it is.
    assert levels(world, "a<2", installed="c 1.0") == ["a c", "old"]
    assert levels(world, installed="a 1.0, old 1.0") == ["a old"]
    assert levels(world, installed="a 1.0, old 1.0", upgrade="a") == ["a old", "b c", "d e"]


def test_only_what_is_not_simple_takes_a_search(monkeypatch):
    searches = []

    def counted(situation):
        searches.append(situation)
        return _search.search(situation)

    monkeypatch.setattr(_resolve, "search", counted)
    world = World(entry("a 1.0", "b"), entry("b 1.0", "c"), entry("b 2.0", "c"), entry("c 1.0"))
    assert world.resolve("a") == "a 1.0, b 2.0, c 1.0"
    assert world.resolve("a", installed="b 1.0, c 1.0") == "a 1.0, b 1.0, c 1.0"
    assert searches == []
    # A requirement that comes too late for what was picked, and one that nothing meets.
    late = World(entry("a 1.0", "b", "c"), entry("b 1.0"), entry("b 2.0"), entry("c 1.0", "b<2"))
    assert late.resolve("a") == "a 1.0, b 1.0, c 1.0"
    assert len(searches) == 1
    late.fails(ConflictError, "a", "b>=2")
    assert len(searches) == 2
    # What is at hand only in part.
    assert world.resolve("a", prefetch=none_at_hand) == "a 1.0, b 2.0, c 1.0"
    assert len(searches) == 3


def test_what_is_told_ahead_of_is_a_guess_that_decides_nothing():
    world = World(entry("a 1.0"), entry("a 2.0", "gone"), entry("b 1.0", "c<1"), entry("c 2.0"))
    told = []
    with pytest.raises(NotFoundError, match="there is no plugin acme/gone"):
        world.resolve("a", prefetch=lambda plugins: told.append(list(plugins)) or plugins)
    assert told == [[name("a")], [name("gone")]]
    with pytest.raises(ConflictError):
        world.resolve("b", prefetch=all_at_hand)
    with pytest.raises(NotFoundError):
        world.resolve("nobody", prefetch=all_at_hand)
    assert world.resolve("c", prefetch=none_at_hand) == "c 2.0"


def test_circles_are_no_obstacle():
    world = World(entry("a 1.0", "b"), entry("b 1.0", "c"), entry("c 1.0", "a"))
    assert world.resolve("b") == "a 1.0, b 1.0, c 1.0"


def test_circles_that_a_discarded_release_left_behind_are_no_obstacle():
    world = World(entry("a 1", "a", "c<2"), entry("a 2", "a<2"), entry("c 1"), entry("c 2", "a"))
    assert world.resolve("c") == "c 1"


def test_what_only_a_discarded_release_permitted_is_not_picked():
    # The newest a pins the yanked b, but cannot be had itself.
    world = World(
        entry("a 1", "b"), entry("a 2", "b==2", "c"), entry("c 1", "a<2"),
        entry("b 1"), entry("b 2", yanked="broken"), entry("b 1.5b1"),
    )  # fmt: skip
    assert world.resolve("a") == "a 1, b 1"
    selfish = World(entry("a 1", yanked="broken"), entry("a 3", "a==1"))
    selfish.fails(ConflictError, "a")


def test_what_was_asked_for_is_the_newest_though_its_dependency_is_not():
    # The newest a would do with an older c, but it is c that was asked for.
    world = World(entry("a 1"), entry("a 2", "c<2"), entry("c 1"), entry("c 2", "a"))
    assert world.resolve("c") == "a 1, c 2"


def test_bettering_a_set_is_given_up_before_it_costs_too_much(monkeypatch):
    world = World(entry("a 1"), entry("a 2", "c<2"), entry("c 1"), entry("c 2", "a"))
    monkeypatch.setattr(_search, "MAX_TRIES", 0)
    assert world.resolve("c") == "c 1"


def chain(length: int) -> World:
    """Plugins p0, p1 ... each of which needs the next."""
    links = (entry(f"p{n} 1.0", f"p{n + 1}") for n in range(length - 1))
    return World(*links, entry(f"p{length - 1} 1.0"))


def knot(size: int) -> World:
    """Every b and every c is there for an a, and each asks for a d that no other can live with."""
    return World(
        *(entry(f"a {n}", "b", "c") for n in range(size)),
        *(entry(f"b {n}", f"d=={n}") for n in range(size)),
        *(entry(f"c {n}", f"d=={n + size}") for n in range(size)),
        *(entry(f"d {n}") for n in range(2 * size)),
    )


@pytest.fixture
def evaluations(monkeypatch):
    """How much each search, or whatever else is counted, spent of what is allowed."""
    spent = []
    spend = _rules.Listings.spend

    def counted(self, count: int) -> None:
        spent.append(count)
        spend(self, count)

    monkeypatch.setattr(_rules.Listings, "spend", counted)
    return spent


@pytest.mark.parametrize("bound", ["MAX_ROUNDS", "MAX_EVALUATIONS"])
def test_a_search_made_to_last_for_ever_is_given_up(monkeypatch, bound):
    monkeypatch.setattr(_search if bound == "MAX_ROUNDS" else _rules, bound, 8)
    error = chain(10).fails(ConflictError, "p0", prefetch=none_at_hand)
    assert "too entangled" in error.message
    assert "exact versions" in error.remedy


@pytest.mark.parametrize(
    ("world", "first"), [(knot(12), "a"), (chain(60), "p0")], ids=["knot", "chain"]
)
def test_all_searches_together_spend_no_more_than_is_allowed(
    monkeypatch, evaluations, world, first
):
    monkeypatch.setattr(_rules, "MAX_EVALUATIONS", 2_000)
    error = world.fails(ConflictError, first, prefetch=none_at_hand)
    assert "too entangled" in error.message
    assert sum(evaluations[:-1]) <= 2_000
    # Nobody goes on after that.
    assert sum(evaluations) > 2_000


def test_control_without_the_bound_they_would_spend_more(evaluations):
    assert "needs acme/d==" in knot(12).fails(ConflictError, "a").message
    assert chain(60).resolve("p0")
    assert sum(evaluations) > 8_000


def test_a_hundred_plugins_of_twenty_releases_are_far_from_the_bound(evaluations):
    world = World(
        *(
            entry(f"p{n} {version}.0", *(f"p{m}>=1" for m in (n + 1, n + 7) if m < 100))
            for n in range(100)
            for version in range(1, 21)
        )
    )
    world.resolve("p50>=11", installed=", ".join(f"p{n} 10.0" for n in range(100)))
    assert sum(evaluations) < _rules.MAX_EVALUATIONS / 20


def test_a_thousand_installed_plugins_that_require_one_another_are_far_from_it_too(evaluations):
    world = World(
        *(
            entry(f"p{n} {version}.0", *(f"p{m}>=1" for m in (n + 1, n + 7) if m < 1000))
            for n in range(1000)
            for version in (10, 11)
        )
    )
    by_plugin = {one.release.plugin: [] for one in world.entries}
    for one in world.entries:
        by_plugin[one.release.plugin].append(one)
    found = resolve(
        [PluginRequirement.parse("acme/p50>=11")],
        installed={plugin: first.release for plugin, (first, _) in by_plugin.items()},
        catalogue=lambda plugin: Catalogue(plugin, entries=tuple(by_plugin[plugin])),
        host=HOST,
    )
    assert [str(p) for p, one in found.items() if one.release.version > Version("10.0")] == [
        "acme/p50"
    ]
    assert sum(evaluations) < _rules.MAX_EVALUATIONS / 20


def test_bettering_a_set_stops_where_the_bound_is_reached(monkeypatch, evaluations):
    world = World(entry("a 1"), entry("a 2", "c<2"), entry("c 1"), entry("c 2", "a"))
    with monkeypatch.context() as without:
        without.setattr(_resolve, "preferred", lambda situation, found: found)
        assert world.resolve("c") == "c 1"
    needed = sum(evaluations)
    for more in range(30):
        monkeypatch.setattr(_rules, "MAX_EVALUATIONS", needed + more)
        assert world.resolve("c") in {"c 1", "a 1, c 2"}
    monkeypatch.setattr(_rules, "MAX_EVALUATIONS", needed)
    assert world.resolve("c") == "c 1"


def releases_each_excluded(count: int) -> World:
    return World(
        entry("a 1", *(f"b!={n}" for n in range(count))),
        *(entry(f"b {n}") for n in range(count)),
    )


def test_explaining_takes_no_more_than_a_few_looks_a_requirement(monkeypatch):
    looks = []
    candidates = _rules.Situation.candidates

    def counted(self, *arguments):
        looks.append(arguments)
        return candidates(self, *arguments)

    monkeypatch.setattr(_rules.Situation, "candidates", counted)
    for count in (10, 40):
        looks.clear()
        error = releases_each_excluded(count).fails(ConflictError, "a")
        assert len(looks) < 8 * count
        assert error.message.count(" needs ") == _explain._MOST_CLAUSES
        assert error.message.endswith(f"but there are {count - 8} more requirements of acme/b")


@pytest.mark.parametrize("unfit", [(), (entry("b 99", host=">=4"),)], ids=["fit", "unfit"])
def test_what_cannot_be_explained_within_the_bound_is_a_conflict_all_the_same(
    monkeypatch, evaluations, unfit
):
    world = World(*releases_each_excluded(20).entries, *unfit)
    with monkeypatch.context() as without:
        without.setattr(_resolve, "explained", lambda *_: ConflictError("unexplained"))
        world.fails(ConflictError, "a")
    monkeypatch.setattr(_rules, "MAX_EVALUATIONS", sum(evaluations) + 5)
    assert world.fails(ConflictError, "a").message == (
        "no set of releases meets everything that was asked for"
    )


# --- what is told ------------------------------------------------------------------------------


def test_unknown_plugin_is_named_with_who_requires_it():
    world = World(entry("a 1.0", "b>=2"))
    assert world.fails(NotFoundError, "x").message == "there is no plugin acme/x"
    error = world.fails(NotFoundError, "a")
    assert error.message == "there is no plugin acme/b (required by acme/a 1.0)"
    assert error.context["plugin"] == "acme/b"


def test_host_that_is_too_old_is_told_with_both_ways_out():
    world = World(entry("maps 1.9"), entry("maps 2.0", host=">=4"), entry("maps 2.1", host=">=4"))
    error = world.fails(IncompatibleHostError, "maps>=2")
    assert str(error) == (
        "acme/maps 2.1 needs host >= 4, this host is 3.9. "
        "Upgrade the host, or install 'acme/maps<2.0'."
    )
    facts = {key: error.context[key] for key in ("release", "fact", "need", "have")}
    assert facts == {"release": "acme/maps 2.1", "fact": "host", "need": ">= 4", "have": "3.9"}
    unknown = evolve(HOST, version=None)
    assert str(world.fails(IncompatibleHostError, "maps>=2", host=unknown)) == (
        "acme/maps 2.1 needs host >= 4, this host is of unknown version. "
        "Tell the host's version (PLUGINCTL_HOST_VERSION), or install 'acme/maps<2.0'."
    )


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        (
            {"python": ">=3.12,<4"},
            "needs Python >= 3.12, < 4, this is Python 3.11.4. Run the host with another Python.",
        ),
        (
            {"memory_bytes": 12 * 2**30},
            "needs 12.0 GiB of memory, this machine has 8.0 GiB. Use a larger machine.",
        ),
        (
            {"disk_bytes": 3 * 2**29},
            "needs 1.5 GiB of free disk, this machine has 1.0 GiB. Free some disk space.",
        ),
        (
            {"platform": "cp311-cp311-win_amd64"},
            (
                "is built for cp311-cp311-win_amd64, which this Python cannot use. "
                "Ask the publisher for a release for this platform."
            ),
        ),
    ],
)
def test_each_fact_of_the_host_is_told(needs, told):
    world = World(entry("maps 2.1", **needs))
    assert str(world.fails(IncompatibleHostError, "maps")) == f"acme/maps 2.1 {told}"


def test_host_that_is_too_old_for_a_dependency_is_told_with_who_needs_it():
    world = World(
        entry("a 1.0", "gl>=2"), entry("gl 1.0"), entry("gl 2.0", host=">=4"), entry("z 1.0")
    )
    error = world.fails(IncompatibleHostError, "a", installed="z 1.0")
    assert error.message == (
        "acme/a 1.0 needs acme/gl>=2, and acme/gl 2.0 needs host >= 4, this host is 3.9"
    )


def test_conflict_between_a_request_and_an_installed_plugin_is_told():
    world = World(
        entry("a 0.9"), entry("a 1.0", "b>=2"), entry("b 1.0"), entry("b 2.0"),
        entry("c 3.0", "b<2"),
    )  # fmt: skip
    error = world.fails(ConflictError, "a>=1", installed="b 1.0, c 3.0")
    assert str(error) == (
        "acme/a 1.0 needs acme/b>=2, but acme/c 3.0 needs acme/b<2. "
        "Ask for 'acme/a<1.0', or uninstall acme/c."
    )
    assert error.reasons == ("acme/a 1.0 needs acme/b>=2, but acme/c 3.0 needs acme/b<2.",)


def test_conflict_between_two_requests_is_told():
    world = World(entry("a 1.0", "b>=2"), entry("b 1.0"), entry("b 2.0"))
    assert str(world.fails(ConflictError, "a", "b<2")) == (
        "acme/a 1.0 needs acme/b>=2, but acme/b<2 was asked for. Ask for 'acme/b==2.0'."
    )
    assert world.fails(ConflictError, "b<2", "b>=2").message == (
        "acme/b<2 was asked for, but acme/b>=2 was asked for"
    )


def test_conflict_with_a_held_plugin_is_told():
    world = World(entry("a 1.0", "b>=2"), entry("b 1.0"), entry("b 2.0"))
    assert str(world.fails(ConflictError, "a", installed="b 1.0", held="b")) == (
        "acme/a 1.0 needs acme/b>=2, but acme/b is held at 1.0. Run 'pluginctl unhold acme/b'."
    )


def test_conflict_among_three_is_told_whole():
    world = World(
        entry("a 1", "x!=1"), entry("b 1", "x!=2"), entry("c 1", "x!=3"),
        entry("x 1"), entry("x 2"), entry("x 3"),
    )  # fmt: skip
    assert world.fails(ConflictError, "a", "b", "c").message == (
        "acme/a 1 needs acme/x!=1, acme/b 1 needs acme/x!=2, but acme/c 1 needs acme/x!=3"
    )


def test_release_that_excludes_itself_beside_one_that_cannot_be_is_told():
    # The search ends with causes of two plugins at once.
    world = World(
        entry("c 1"), entry("c 2", "d"), entry("c 3", "c<2"), entry("d 1", blocked="leaks")
    )
    with pytest.raises(ConflictError) as caught:
        world.resolve("c>=2")
    assert caught.value.reasons == (
        "acme/c 3 needs acme/c<2, but acme/c>=2 was asked for.",
        "acme/c 2 needs acme/d, but acme/d 1 is blocked by its publisher (leaks).",
    )


def test_missing_version_is_told():
    world = World(entry("a 1.0", "b>=9"), entry("b 1.0"))
    assert str(world.fails(ConflictError, "b>=3")) == (
        "acme/b>=3 was asked for, but there is no such release: the newest is 1.0. "
        "Ask for 'acme/b==1.0'."
    )
    assert world.fails(ConflictError, "a").message == (
        "acme/a 1.0 needs acme/b>=9, but there is no such release: the newest is 1.0"
    )


def test_withdrawn_releases_are_told_with_the_reason_on_one_clean_line():
    world = World(
        entry("a 1.0"),
        entry("a 2.0", blocked="steals\n\x1b[31mkeys  " + "x" * 1000),
        entry("b 1.0", yanked="slow"),
    )
    error = world.fails(ConflictError, "a>=2")
    assert error.message.startswith(
        "acme/a>=2 was asked for, but acme/a 2.0 is blocked by its publisher (steals [31mkeys xxx"
    )
    assert len(error.message) < 400
    assert error.remedy == "Ask for 'acme/a<2.0'."
    assert str(world.fails(ConflictError, "b")) == (
        "acme/b was asked for, but acme/b 1.0 is yanked by its publisher (slow). "
        "Pin 'acme/b==1.0' to have it all the same."
    )


# --- any small world ---------------------------------------------------------------------------

SHORTS = ("a", "b", "c", "d")
VERSIONS = ("1", "2", "3")
SPECIFIERS = ("", ">=2", "<2", "==1", "!=2", ">=3", "<3")

requirements = st.tuples(st.sampled_from(SHORTS), st.sampled_from(SPECIFIERS)).map("".join)


@st.composite
def worlds(draw):
    entries = []
    for short in SHORTS:
        for version in draw(st.sets(st.sampled_from(VERSIONS), min_size=1)):
            kind = draw(st.sampled_from(["", "", "", "", "blocked", "yanked", "host"]))
            requires = draw(st.lists(requirements, max_size=2))
            withdrawn = {kind: "why"} if kind in {"blocked", "yanked"} else {}
            needs = {"host": ">=4"} if kind == "host" else {}
            entries.append(entry(f"{short} {version}", *requires, **withdrawn, **needs))
    return World(*sorted(entries, key=lambda one: one.release))


def consistent(
    chosen: dict[PluginName, CatalogueEntry], requests, installed, *, pins_of_releases: bool
) -> bool:
    """Whether a set keeps all rules that can be judged on the set alone, told independently.

    `pins_of_releases` says whether a yanked release may be there because another one pins it.
    """
    pinning = list(requests)
    if pins_of_releases:
        pinning += [requirement for one in chosen.values() for requirement in one.requirements]
    pinned = {one.plugin for one in pinning if str(one.specifier).startswith("==")}
    for plugin, one in chosen.items():
        if one.blocked or one.needs.host:
            return False
        if one.yanked and plugin not in pinned and installed.get(plugin) != one.release:
            return False
        for requirement in one.requirements:
            other = chosen.get(requirement.plugin)
            if other is None or other.release.version not in requirement.specifier:
                return False
    return (
        all(
            request.plugin in chosen and chosen[request.plugin].release.version in request.specifier
            for request in requests
        )
        and installed.keys() <= chosen.keys()
    )


def every_set(world: World):
    by_plugin = {}
    for one in world.entries:
        by_plugin.setdefault(one.release.plugin, [None]).append(one)
    for choice in product(*by_plugin.values()):
        yield {one.release.plugin: one for one in choice if one is not None}


@settings(max_examples=250)
@given(
    world=worlds(),
    requests=st.lists(requirements, min_size=1, max_size=2),
    picks=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    present=st.sets(st.sampled_from(SHORTS)),
    held=st.sets(st.sampled_from(SHORTS)),
)
def test_result_keeps_all_rules_exists_where_one_can_and_moves_no_more_than_it_must(
    world, requests, picks, present, held
):
    requests = [PluginRequirement.parse(f"acme/{one}") for one in requests]
    installed = {}
    for short, pick in zip(SHORTS, picks, strict=True):
        # What is installed loads; the rules for what does not have tests of their own.
        mine = [
            one.release
            for one in world.entries
            if one.release.plugin == name(short) and not one.blocked and not one.needs.host
        ]
        if short in present and mine:
            installed[name(short)] = mine[pick % len(mine)]
    stuck = {name(short): installed[name(short)] for short in held if name(short) in installed}
    assume(
        all(
            stuck[request.plugin].version in request.specifier
            for request in requests
            if request.plugin in stuck
        )
    )
    # Whether a yanked release is pinned by another may show too late in the search: so what it
    # finds may make use of that, but it need not find what is possible only so.
    possible = [
        chosen
        for chosen in every_set(world)
        if consistent(chosen, requests, installed, pins_of_releases=False)
        and all(chosen[plugin].release == release for plugin, release in stuck.items())
    ]
    arguments = {
        "installed": installed,
        "catalogue": world.catalogue,
        "host": HOST,
        "held": set(stuck),
    }
    try:
        found = resolve(requests, **arguments)
    except (ConflictError, IncompatibleHostError) as error:
        assert possible == []
        with pytest.raises(type(error)):
            resolve(requests, **arguments, prefetch=none_at_hand)
        return
    assert resolve(requests, **arguments, prefetch=none_at_hand) == found
    assert consistent(found, requests, installed, pins_of_releases=True)
    assert all(found[plugin].release == release for plugin, release in stuck.items())
    assert list(found) == sorted(found)
    assert resolve(requests, **arguments) == found
    # Nothing is picked that nobody needs.
    needed = {request.plugin for request in requests} | set(installed)
    needed |= {one.plugin for chosen in found.values() for one in chosen.requirements}
    assert set(found) <= needed
    # What was asked for alone is the newest that can be.
    asked = {request.plugin for request in requests}
    if len(asked) == 1:
        (only,) = asked
        versions = [chosen[only].release.version for chosen in possible]
        assert found[only].release.version >= max(versions, default=Version("0"))
    # No unasked move could be undone alone.
    moved = {p for p, r in installed.items() if found[p].release != r} - asked
    stayed = {p: r for p, r in installed.items() if p not in moved}
    stayed |= {p: found[p].release for p in asked}
    for chosen in possible:
        if all(chosen[p].release == r for p, r in stayed.items()):
            assert not any(chosen[p].release == installed[p] for p in moved)


# --- checking a given set ------------------------------------------------------------------------


def checked(*entries: CatalogueEntry, **keywords) -> None:
    check({one.release.plugin: one for one in entries}, HOST, **keywords)


def test_consistent_set_passes():
    checked()
    checked(entry("a 1.0", "b>=1"), entry("b 1.0", host=">=3"))


def test_missing_and_wrong_dependencies_are_told():
    with pytest.raises(ConflictError) as caught:
        checked(entry("a 1.0", "b>=2", "c"), entry("b 1.0"), entry("d 1.0", host=">=4"))
    assert str(caught.value) == (
        "acme/a 1.0 needs acme/b>=2, but 1.0 would be active. Include acme/a in the change."
    )
    assert caught.value.reasons == (
        "acme/a 1.0 needs acme/b>=2, but 1.0 would be active.",
        "acme/a 1.0 needs acme/c, but it would not be installed.",
        "acme/d 1.0 needs host >= 4, this host is 3.9.",
    )


def test_release_that_does_not_fit_the_host_is_told():
    with pytest.raises(IncompatibleHostError) as caught:
        checked(entry("d 1.0", host=">=4"))
    assert str(caught.value) == ("acme/d 1.0 needs host >= 4, this host is 3.9. Upgrade the host.")
    assert caught.value.context["fact"] == "host"


def test_faults_elsewhere_do_not_concern():
    broken = entry("a 1.0", "b>=2", host=">=4")
    checked(broken, entry("c 1.0"), concerning={name("c")})
    for concerning in ({name("a")}, {name("b")}):
        with pytest.raises(ConflictError):
            checked(broken, entry("b 1.0"), concerning=concerning)


def test_compatibility_gives_every_reason():
    needs = HostNeeds(host=SpecifierSet(">=4"), python=SpecifierSet("<3"), memory_bytes=2**40)
    assert compatibility(needs, Platform("cp39-cp39-win32"), HOST) == [
        "needs host >= 4, this host is 3.9",
        "needs Python < 3, this is Python 3.11.4",
        "is built for cp39-cp39-win32, which this Python cannot use",
        "needs 1024.0 GiB of memory, this machine has 8.0 GiB",
    ]
    assert compatibility(HostNeeds(), ANY, HOST) == []


def test_pre_release_of_the_host_counts():
    host = evolve(HOST, version=Version("4.1b1"), python=Version("3.15.0rc2"))
    needs = HostNeeds(host=SpecifierSet(">=4"), python=SpecifierSet(">=3.11"))
    assert compatibility(needs, ANY, host) == []
