"""Old, mixed and oversized metadata, all of it correctly signed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from attrs import evolve

from plugin_manager.catalogue import MAX_CATALOGUE_BYTES, Catalogue, CatalogueEntry, render
from plugin_manager.errors import PluginManagerError
from plugin_manager.model import (
    HostNeeds,
    PluginName,
    Release,
    Withdrawal,
    WithdrawalKind,
    parse_version,
)
from tests.hostile.stage import Asked, Host, Stage
from tests.hostile.ways import always, another, stale
from tests.transfer.server import Behaviour, honest
from tests.world import World

MAPS = PluginName.parse("acme/maps")


def test_a_repository_from_before_is_refused(stage: Stage, tmp_path: Path) -> None:
    host = Host.installed(stage, tmp_path)
    attempt = host.attempt(edition="old")
    assert host.judge(attempt, "untrusted") == []
    assert {asked.place for asked in attempt.asked} == {"root", "timestamp"}


def test_a_frozen_repository_has_no_news_until_it_expires(stage: Stage, tmp_path: Path) -> None:
    host = Host.installed(stage, tmp_path)
    attempt = host.attempt(edition="seen")
    assert host.judge(attempt, "conflict", recovers=False) == []
    attempt = host.attempt(edition="expired")
    assert host.judge(attempt, "expired") == []


def test_an_expired_repository_does_not_begin_a_store(stage: Stage, tmp_path: Path) -> None:
    host = Host.empty(stage, tmp_path)
    assert host.judge(host.attempt(edition="expired"), "expired") == []


@pytest.mark.parametrize(
    ("place", "edition", "verdict"),
    [
        ("timestamp", "old", "untrusted"),
        ("timestamp", "seen", "conflict"),  # a freeze: there is no 2.0 yet
        ("timestamp", "next", "network"),  # what it names is not there yet
        ("timestamp", "expired", "expired"),
        ("snapshot", "old", "untrusted"),
        ("snapshot", "seen", "untrusted"),
        ("snapshot", "next", "untrusted"),
        ("publisher", "old", "untrusted"),
        ("publisher", "seen", "untrusted"),
        ("publisher", "next", "untrusted or network"),  # longer, where its length is signed
        ("catalogue", "old", "untrusted"),
        ("catalogue", "next", "network"),  # longer than was signed
    ],
)
def test_a_mixture_of_editions_is_refused(
    place: str, edition: str, verdict: str, stage: Stage, tmp_path: Path
) -> None:
    host = Host.installed(stage, tmp_path)
    attempt = host.attempt(always(place, stale(edition)))
    assert host.judge(attempt, *verdict.split(" or ")) == []


@pytest.mark.parametrize("edition", ["old", "seen", "next"])
def test_targets_of_another_edition_are_refused(edition: str, stage: Stage, tmp_path: Path) -> None:
    host = Host.empty(stage, tmp_path)
    attempt = host.attempt(always("targets", stale(edition)))
    same = stage.file(edition, "metadata/*.targets.json") == stage.file(
        "new", "metadata/*.targets.json"
    )
    assert host.judge(attempt, "" if same else "untrusted") == []


def test_an_old_root_is_no_new_one(stage: Stage, tmp_path: Path) -> None:
    host = Host.installed(stage, tmp_path)
    root = stage.file("new", "metadata/1.root.json")
    assert host.judge(host.attempt(always("root", lambda _: honest(root))), "untrusted") == []


@pytest.mark.parametrize("place", ["publisher", "catalogue"])
def test_another_publishers_metadata_is_refused(place: str, stage: Stage, tmp_path: Path) -> None:
    pattern = {
        "publisher": "metadata/*.publisher-globex.json",
        "catalogue": "targets/globex/maps/*.catalogue.json",
    }[place]
    host = Host.installed(stage, tmp_path)
    attempt = host.attempt(always(place, another(pattern)))
    assert host.judge(attempt, "untrusted") == []


# --- values that nobody expects ----------------------------------------------------------------

ODD = [
    None, True, -1, 1.5, float("nan"), 10**400, "", "\ud800", "x" * 5000, [], {}, [[]], {"": None},
    "2026-13-40T99:99:99Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1.0.31.5", 2**63,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value within `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def odd(data: bytes, chance: Random) -> bytes:
    """Metadata with one value of what is signed replaced by another, or left out."""
    document = json.loads(data)
    inner, path = document["signed"], chance.choice(list(places(document["signed"])))
    for key in path[:-1]:
        inner = inner[key]
    if chance.random() < 0.2:
        del inner[path[-1]]
    else:
        inner[path[-1]] = chance.choice([one for one in ODD if one != inner[path[-1]]])
    return json.dumps(document).encode()


@pytest.mark.parametrize("place", ["root", "timestamp", "snapshot", "targets", "publisher"])
def test_metadata_with_an_odd_value_is_refused(place: str, stage: Stage, tmp_path: Path) -> None:
    host = Host.empty(stage, tmp_path)
    for seed in range(25):
        shutil.rmtree(host.store, ignore_errors=True)
        chance = Random(seed)

        def script(asked: Asked) -> Behaviour | None:
            if asked.place != place:
                return None
            root = stage.file("new", "metadata/1.root.json").replace(b'n":1}', b'n":2}')
            return honest(odd(asked.content or root, chance))  # noqa: B023 - called at once

        attempt = host.attempt(script, plan_only=True)
        assert attempt.verdict in {"untrusted", "network"}, (seed, attempt.error)
    assert host.judge(attempt, "untrusted", "network") == []


# --- the largest catalogue ---------------------------------------------------------------------


def enlarge(world: World, catalogue: Catalogue, catalogue_bytes: int) -> int:
    """Publish `catalogue` with so many more entries that it is hardly shorter than that."""
    repository = world.repository
    withdrawal = Withdrawal(WithdrawalKind.YANKED, "x" * 1000)
    moment = datetime(2026, 11, 20, tzinfo=UTC)
    with repository._edition() as edition:
        targets = edition.targets_of("acme")

        def entries(count: int) -> tuple[CatalogueEntry, ...]:
            return tuple(
                CatalogueEntry(
                    release=Release(MAPS, parse_version(f"0.0.{number}")),
                    length=1000,
                    content_length=1000,
                    published=moment,
                    requirements=(),
                    needs=HostNeeds(),
                    withdrawal=withdrawal,
                )
                for number in range(count)
            )

        each = len(render(evolve(catalogue, entries=entries(100)))) // 100
        count = catalogue_bytes // (each + 5) - 10
        catalogue = evolve(catalogue, entries=(*entries(count), *catalogue.entries))
        repository._files.put_catalogue(catalogue, targets)
        edition.write()
    return len(render(catalogue))


def test_a_catalogue_of_the_largest_size_is_read_and_a_larger_one_harms_only_itself(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.publish("acme/maps 1.0", {"maps.py": b"VERSION = '1.0'\n"})
    world.publish("globex/other 1.0", {"other.py": b"VERSION = '1.0'\n"})
    catalogue = next(one for one in world.repository.status().catalogues if one.plugin == MAPS)
    length = enlarge(world, catalogue, MAX_CATALOGUE_BYTES)
    assert 0.99 * MAX_CATALOGUE_BYTES < length <= MAX_CATALOGUE_BYTES
    with world.online():
        manager = world.manager()
        manager.install("acme/maps", "globex/other")
        with manager.load("acme/maps") as plugin:
            assert plugin.read("maps.py") == b"VERSION = '1.0'\n"
        enlarge(world, catalogue, MAX_CATALOGUE_BYTES + 100_000)
        with pytest.raises(PluginManagerError, match="larger than"):
            manager.install("acme/maps")
        manager.upgrade("globex/other")
    assert [str(active.release) for active in manager.installed()] == [
        "acme/maps 1.0",
        "globex/other 1.0",
    ]
    with manager.load("globex/other") as plugin:
        assert plugin.read("other.py") == b"VERSION = '1.0'\n"
