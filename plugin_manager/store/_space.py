"""Who may stay when space is short: decided purely, from values, before anything is touched.

The order in which releases go: first what no kept record needs, then what was uninstalled, then
the coldest plugin's previous releases before its active one, and so on to the warmest. Cold is
what was used long ago by the count of uses (see _usage); the clock has no say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import StrEnum
from itertools import chain, compress
from pathlib import Path

from attrs import field

from plugin_manager._attrs import frozen
from plugin_manager.errors import NoSpaceError
from plugin_manager.model import Digest, PluginName, Release, size_text
from plugin_manager.settings import Limits
from plugin_manager.store._contents import Contents
from plugin_manager.store._usage import NEVER, Usage

__all__ = [
    "Kept",
    "Resident",
    "Sharing",
    "SpacePlan",
    "coldest",
    "distinct_bytes",
    "eviction_order",
    "plan_space",
]

_ROOM_MARGIN = 1.2  # of what will be written: file systems need room for themselves


class Kept(StrEnum):
    """Why a release is on disk."""

    ACTIVE = "active"
    PREVIOUS = "previous"
    UNDO = "undo"
    """The generation before the current one needs it, as for a plugin just uninstalled."""
    UNFINISHED = "unfinished"
    """Placed by a command that was interrupted before it became active."""
    GARBAGE = "garbage"


@frozen(eq=False)
class Resident:
    """A release on disk. `digest` names its head; None where that is not known any more."""

    release: Release
    digest: Digest | None
    directory: Path
    contents: Contents = field(repr=False)
    kept: Kept
    pinned: bool = False
    usage: Usage = NEVER

    @property
    def total_bytes(self) -> int:
        """What it takes on disk, what it shares with others included."""
        return self.contents.total_bytes


_CLASS = {Kept.GARBAGE: 0, Kept.UNDO: 1, Kept.PREVIOUS: 2, Kept.ACTIVE: 2}


def eviction_order(
    residents: Iterable[Resident], protected: Collection[Digest] = ()
) -> list[Resident]:
    """The releases that may be evicted, in the order in which they go.

    Never `protected` or pinned ones, or such as an interrupted command can go on with. Of releases
    that differ in nothing that counts, those that come first go first.
    """
    residents = list(residents)
    names = [str(one.release.plugin) for one in residents]
    warmth: dict[str, int] = {}
    for name, one in zip(names, residents, strict=True):
        warmth[name] = max(warmth.get(name, 0), one.usage.order)
    coldest = sorted(warmth, key=lambda name: (warmth[name], name))
    plugin_rank = {name: rank for rank, name in enumerate(coldest)}

    def rank(place: int) -> int:
        # One number, not a tuple: those of a large store would keep Python's collector busy.
        one = residents[place]
        plugin = _CLASS[one.kept] << 32 | plugin_rank[names[place]]
        return (plugin << 1 | (one.kept is Kept.ACTIVE)) << 64 | one.usage.order

    may = [
        place
        for place, one in enumerate(residents)
        if not one.pinned and one.kept is not Kept.UNFINISHED and one.digest not in protected
    ]
    return [residents[place] for place in sorted(may, key=rank)]


class Sharing:
    """How many releases hold each content, and what goes when releases go."""

    def __init__(self, residents: Iterable[Resident]) -> None:
        keys = chain.from_iterable(one.contents.keys for one in residents)
        self._holders = Counter(keys)

    def unique_bytes(self, one: Resident) -> int:
        """What removing `one` alone would free."""
        alone = (self._holders[key] == 1 for key in one.contents.keys)
        return sum(compress(one.contents.sizes, alone))

    def take(self, one: Resident) -> int:
        """Let `one` go; returns what that frees."""
        freed = self.unique_bytes(one)
        self._holders.subtract(one.contents.keys)
        return freed


def distinct_bytes(residents: Sequence[Resident]) -> int:
    """The bytes of all together, each content counted once."""
    return _left_bytes((), residents)[0]


def _left_bytes(staying: Iterable[Resident], going: Sequence[Resident]) -> list[int]:
    """The bytes left when the first n of `going` are gone, for n from 0 to all of them.

    Counted from the end: what a release adds to those behind it, and to `staying`, goes with it.
    So one pass over all contents serves for any number of evictions, without counting holders.
    """
    seen: set[int] = set()
    total, left = 0, []

    def add(contents: Contents) -> None:
        nonlocal total
        keys = contents.keys.tolist()  # each turned into an object once
        total += contents.total_bytes
        if not seen.isdisjoint(keys):
            total -= sum(compress(contents.sizes, map(seen.__contains__, keys)))
        seen.update(keys)

    for one in staying:
        add(one.contents)
    left.append(total)
    for one in reversed(going):
        add(one.contents)
        left.append(total)
    left.reverse()
    return left


@frozen
class SpacePlan:
    """Whether a change fits, and what would have to go; bytes.

    `needed_bytes` is what it takes at its peak, with a margin; `evict` goes first and frees
    `freed_bytes`; `missing_bytes` would then still be missing (0: it fits).
    """

    needed_bytes: int
    used_bytes: int
    budget_bytes: int | None
    free_bytes: int
    floor_bytes: int
    evict: tuple[Resident, ...] = ()
    freed_bytes: int = 0
    missing_bytes: int = 0
    pinned: tuple[PluginName, ...] = ()
    unfinished_bytes: int = 0

    def require(self, where: Path) -> None:
        """Raise NoSpaceError unless it fits."""
        if not self.missing_bytes:
            return
        budget = self.budget_bytes
        bound = f", the budget is {size_text(budget)}" if budget is not None else ""
        evictable = f" even with {size_text(self.freed_bytes)} evicted" if self.evict else ""
        raise NoSpaceError(
            f"{where} needs {size_text(self.needed_bytes)} and lacks "
            f"{size_text(self.missing_bytes)}{evictable}: it uses {size_text(self.used_bytes)}"
            f"{bound}, the disk has {size_text(self.free_bytes)} free, of which "
            f"{size_text(self.floor_bytes)} must stay free",
            needed_bytes=self.needed_bytes,
            free_bytes=self.free_bytes,
            missing_bytes=self.missing_bytes,
            remedy=self._remedy(),
            plan=self,
        )

    def _remedy(self) -> str:
        after = self.freed_bytes
        ways = []
        disk = self.needed_bytes + self.floor_bytes - self.free_bytes - after
        if disk > 0:
            ways.append(f"free {size_text(disk)} on the disk")
        if self.budget_bytes is not None:
            budget = self.used_bytes - after + self.needed_bytes
            if budget > self.budget_bytes:
                ways.append(f"raise the store's budget to {size_text(budget)} (--max-store)")
        ways = (
            [" and ".join(ways)] if ways else []
        )  # where both are short, either alone will not do
        if self.pinned:
            ways.append(f"unpin {', '.join(map(str, self.pinned[:3]))}")
        if self.unfinished_bytes:
            ways.append("remove unfinished downloads ('pluginctl gc --unfinished')")
        text = ", or ".join(ways)
        return f"{text[:1].upper()}{text[1:]}." if ways else ""


def plan_space(
    residents: Sequence[Resident],
    write_bytes: int,
    *,
    other_bytes: int,
    unfinished_bytes: int,
    limits: Limits,
    disk: tuple[int, int],
    protected: Collection[Digest] = (),
    is_leased: Callable[[Resident], bool] = lambda _: False,
) -> SpacePlan:
    """How `write_bytes` more would fit beside `residents`.

    `other_bytes`: what the store holds besides releases, of which `unfinished_bytes` are
    downloads; `disk`: its (total, free) bytes. `is_leased` is asked only about those that would
    go.
    """
    total, free = disk
    floor, budget = limits.floor_bytes(total), limits.max_store_bytes
    needed = int(write_bytes * _ROOM_MARGIN)

    def wanted(release_bytes: int) -> int:
        used = release_bytes + other_bytes
        over = needed + used - budget if budget is not None else 0
        return max(needed + floor - free, over, 0)

    chosen, before, after = _coldest(residents, protected, wanted, is_leased)
    freed = before - after
    missing = max(wanted(before) - freed, 0)
    return SpacePlan(
        needed_bytes=needed,
        used_bytes=before + other_bytes,
        budget_bytes=budget,
        free_bytes=free,
        floor_bytes=floor,
        evict=tuple(chosen),
        freed_bytes=freed,
        missing_bytes=missing,
        pinned=tuple(sorted({r.release.plugin for r in residents if r.pinned})) if missing else (),
        unfinished_bytes=unfinished_bytes,
    )


def coldest(
    residents: Sequence[Resident], wanted_bytes: int, is_leased: Callable[[Resident], bool]
) -> tuple[list[Resident], int]:
    """The first to go that free `wanted_bytes`, or all that may go; and what they free."""
    chosen, before, after = _coldest(residents, (), lambda _: wanted_bytes, is_leased)
    return chosen, before - after


def _coldest(
    residents: Sequence[Resident],
    protected: Collection[Digest],
    wanted: Callable[[int], int],
    is_leased: Callable[[Resident], bool],
) -> tuple[list[Resident], int, int]:
    """The first to go that free what is `wanted` of so many bytes, and the bytes before and after.

    `is_leased` is asked only about those that would go.
    """
    order = eviction_order(residents, protected)
    free: set[Resident] = set()
    while True:
        going = set(order)
        left = _left_bytes([one for one in residents if one not in going], order)
        target = left[0] - wanted(left[0])
        count = next((n for n, left_now in enumerate(left) if left_now <= target), len(order))
        leased = {one for one in order[:count] if one not in free and is_leased(one)}
        if not leased:
            return order[:count], left[0], left[count]
        free.update(order[:count])
        order = [one for one in order if one not in leased]  # others have to go in their place
