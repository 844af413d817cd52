"""Who goes when space is short: decided from values alone."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager.errors import NoSpaceError
from plugin_manager.model import Digest
from plugin_manager.settings import Limits
from plugin_manager.store import Kept, Resident
from plugin_manager.store._contents import Contents
from plugin_manager.store._space import (
    Sharing,
    coldest,
    eviction_order,
    plan_space,
)
from plugin_manager.store._space import distinct_bytes as counted_once
from plugin_manager.store._usage import Usage
from tests.bundles import release

NO_FLOOR = Limits(min_free_bytes=0)
ROOMY = (1 << 50, 1 << 49)


def resident(
    name: str,
    order: int = 0,
    kept: Kept = Kept.ACTIVE,
    holds: dict[int, int] | None = None,
    *,
    pinned: bool = False,
    loaded_at: int | None = None,
) -> Resident:
    """A release ("acme/a 1.0") that `holds` files: key to size."""
    what = release(name)
    sizes = {hash(name) & 0xFFFFFFFF: 100} if holds is None else holds
    return Resident(
        release=what,
        digest=Digest(name.encode().hex().ljust(64, "0")),
        directory=Path(f"/store/releases/{what.plugin}/{what.version}"),
        contents=Contents(what, array("Q", sizes), array("Q", sizes.values())),
        kept=kept,
        pinned=pinned,
        usage=Usage(order, loaded_at),
    )


def distinct_bytes(residents: Iterable[Resident]) -> int:
    """What they take together, counted anew."""
    sizes: dict[int, int] = {}
    for one in residents:
        sizes.update(zip(one.contents.keys, one.contents.sizes, strict=True))
    return sum(sizes.values())


def names(residents: Iterable[Resident]) -> list[str]:
    return [str(one.release) for one in residents]


@st.composite
def stores(draw: st.DrawFn) -> list[Resident]:
    """Releases of a few plugins that share files; equal files have equal sizes."""
    found = []
    for plugin in "abc":
        pinned = draw(st.booleans())
        for version in range(draw(st.integers(0, 3))):
            keys = draw(st.sets(st.integers(0, 8), max_size=5))
            found.append(
                resident(
                    f"acme/{plugin} {version}.0",
                    draw(st.integers(0, 9)),
                    draw(st.sampled_from(Kept)) if version else Kept.ACTIVE,
                    {key: 4096 * (key % 4) for key in keys},
                    pinned=pinned,
                )
            )
    return draw(st.permutations(found))


def test_the_order_is_garbage_undo_then_the_coldest_plugins_previous_before_its_active() -> None:
    residents = [
        resident("acme/warm 2.0", 9),
        resident("acme/warm 1.0", 1, Kept.PREVIOUS),
        resident("acme/cold 2.0", 5),
        resident("acme/cold 1.0", 4, Kept.PREVIOUS),
        resident("acme/gone 1.0", 8, Kept.UNDO),
        resident("acme/old 1.0", 7, Kept.GARBAGE),
        resident("acme/new 1.0", 0, Kept.UNFINISHED),
        resident("acme/dear 1.0", 0, pinned=True),
    ]
    expected = [
        "acme/old 1.0", "acme/gone 1.0", "acme/cold 1.0", "acme/cold 2.0", "acme/warm 1.0",
        "acme/warm 2.0",
    ]  # fmt: skip
    assert names(eviction_order(residents)) == expected
    assert names(eviction_order(reversed(residents))) == expected


def test_the_clock_has_no_say() -> None:
    early = resident("acme/a 1.0", 1, loaded_at=2_000_000_000)
    late = resident("acme/b 1.0", 2, loaded_at=5)
    assert names(eviction_order([late, early])) == ["acme/a 1.0", "acme/b 1.0"]


@given(stores(), st.sets(st.integers(0, 8)))
def test_what_is_pinned_protected_or_unfinished_never_goes(
    residents: list[Resident], chosen: set[int]
) -> None:
    protected = {one.digest for index, one in enumerate(residents) if index in chosen}
    going = eviction_order(residents, {digest for digest in protected if digest})
    assert not any(one.pinned or one.kept is Kept.UNFINISHED for one in going)
    assert not protected & {one.digest for one in going}
    rest = [one for one in residents if one not in going]
    assert all(one.pinned or one.kept is Kept.UNFINISHED or one.digest in protected for one in rest)


@given(stores(), st.integers(0, 40_000), st.sets(st.integers(0, 8)))
def test_as_few_of_the_first_go_as_free_enough_and_shared_files_free_nothing_yet(
    residents: list[Resident], wanted: int, loaded: set[int]
) -> None:
    leased = {one.digest for index, one in enumerate(residents) if index in loaded}
    order = eviction_order(residents)
    chosen, freed = coldest(residents, wanted, lambda one: one.digest in leased)

    def freed_by(gone: list[Resident]) -> int:
        rest = [one for one in residents if one not in gone]
        return distinct_bytes(residents) - distinct_bytes(rest)

    may = [one for one in order if one.digest not in leased]
    assert chosen == may[: len(chosen)]
    assert freed == freed_by(chosen)
    assert freed >= wanted or chosen == may
    assert not chosen or freed_by(chosen[:-1]) < wanted


@given(stores())
def test_freed_and_unique_bytes_are_what_is_missing_afterwards(residents: list[Resident]) -> None:
    whole = distinct_bytes(residents)
    sharing = Sharing(residents)
    assert counted_once(residents) == whole
    for one in residents:
        rest = [other for other in residents if other is not one]
        assert sharing.unique_bytes(one) == whole - distinct_bytes(rest)
    assert sum(sharing.take(one) for one in residents) == whole


def test_leases_are_asked_only_of_those_that_would_go() -> None:
    asked: list[str] = []

    def is_leased(one: Resident) -> bool:
        asked.append(str(one.release))
        return str(one.release) == "acme/a 1.0"

    residents = [resident(f"acme/{name} 1.0", order) for order, name in enumerate("abcd")]
    chosen, _ = coldest(residents, 100, is_leased)
    assert names(chosen) == ["acme/b 1.0"]
    assert asked == ["acme/a 1.0", "acme/b 1.0"]


def plan(residents: list[Resident], write: int, limits: Limits, disk: tuple[int, int] = ROOMY):  # type: ignore[no-untyped-def]
    return plan_space(residents, write, other_bytes=0, unfinished_bytes=0, limits=limits, disk=disk)


def test_what_fits_with_its_margin_evicts_nothing() -> None:
    residents = [resident("acme/a 1.0", holds={1: 1000})]
    exactly = evolve(NO_FLOOR, max_store_bytes=1000 + 1200)
    assert plan(residents, 1000, exactly).evict == ()
    assert plan(residents, 1000, exactly).needed_bytes == 1200
    assert names(plan(residents, 1001, exactly).evict) == ["acme/a 1.0"]


def test_the_floor_counts_as_much_as_the_budget() -> None:
    residents = [resident("acme/a 1.0", holds={1: 1000})]
    limits = Limits(min_free_bytes=500)
    assert plan(residents, 1000, limits, (10_000, 1700)).evict == ()
    short = plan(residents, 1000, limits, (10_000, 1699))
    assert names(short.evict) == ["acme/a 1.0"]
    assert (short.freed_bytes, short.missing_bytes) == (1000, 0)


def test_nothing_to_write_but_over_the_budget_evicts_down_to_it() -> None:
    residents = [resident(f"acme/{n} 1.0", i, holds={i: 1000}) for i, n in enumerate("abc")]
    found = plan(residents, 0, evolve(NO_FLOOR, max_store_bytes=1500))
    assert names(found.evict) == ["acme/a 1.0", "acme/b 1.0"]


def test_what_does_not_fit_says_what_is_missing_and_every_way_out() -> None:
    residents = [resident("acme/a 1.0", holds={1: 1000}, pinned=True)]
    limits = Limits(max_store_bytes=1500, min_free_bytes=100)
    short = plan_space(
        residents, 1000, other_bytes=50, unfinished_bytes=50, limits=limits, disk=(10_000, 600)
    )
    assert short.missing_bytes == 750
    with pytest.raises(NoSpaceError) as caught:
        short.require(Path("/store"))
    assert caught.value.context["plan"] is short
    assert "lacks 750 B" in caught.value.message
    assert caught.value.remedy == (
        "Free 700 B on the disk and raise the store's budget to 2.2 kB (--max-store), or "
        "unpin acme/a, or remove unfinished downloads ('pluginctl gc --unfinished')."
    )


def test_the_remedy_names_only_what_would_help() -> None:
    with pytest.raises(NoSpaceError) as caught:
        plan([], 1000, evolve(NO_FLOOR, max_store_bytes=1000)).require(Path("/store"))
    assert caught.value.remedy == "Raise the store's budget to 1.2 kB (--max-store)."


@pytest.mark.parametrize(
    ("limits", "disk", "floor"),
    [
        (Limits(), 10**11, 10**9),
        (Limits(), 10**10, 3 * 10**8),
        (Limits(min_free_bytes=5), 10**11, 5),
        (Limits(min_free_percent=10), 10**11, 10**10),
        (Limits(min_free_bytes=10**10 + 1, min_free_percent=10), 10**11, 10**10 + 1),
    ],
)
def test_how_much_stays_free(limits: Limits, disk: int, floor: int) -> None:
    assert limits.floor_bytes(disk) == floor
