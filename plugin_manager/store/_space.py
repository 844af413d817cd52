"""Who may stay when space is short: decided purely, from values, before anything is touched.

The order in which releases go: first what no kept record needs, then what was uninstalled, then
the coldest plugin's previous releases before its active one, and so on to the warmest. Cold is
what was used long ago by the count of uses (see _usage); the clock has no say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import StrEnum
from pathlib import Path

from attrs import field, frozen

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
    "choose",
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

    Never `protected` or pinned ones, or such as an interrupted command can go on with.
    """
    residents = list(residents)
    warmth: dict[PluginName, int] = {}
    for one in residents:
        plugin = one.release.plugin
        warmth[plugin] = max(warmth.get(plugin, 0), one.usage.order)
    return sorted(
        (
            one
            for one in residents
            if not one.pinned and one.kept is not Kept.UNFINISHED and one.digest not in protected
        ),
        key=lambda one: (
            _CLASS[one.kept],
            warmth[one.release.plugin],
            str(one.release.plugin),
            one.kept is Kept.ACTIVE,
            one.usage.order,
            one.release.version,
        ),
    )


class Sharing:
    """Which contents several releases hold, and what goes when releases go.

    Most contents have one holder: only the others are counted, the rest is summed up.
    """

    def __init__(self, residents: Iterable[Resident]) -> None:
        residents = list(residents)
        seen: set[int] = set()
        shared: set[int] = set()
        for one in residents:
            shared.update(seen.intersection(one.contents.keys))
            seen.update(one.contents.keys)
        self._shared = shared
        self._holders: Counter[int] = Counter()
        sizes: dict[int, int] = {}
        for one in residents:
            if held := self._shared_of(one):
                self._holders.update(held.keys())
                sizes.update(held)
        twice = sum((count - 1) * sizes[key] for key, count in self._holders.items())
        self.distinct_bytes = sum(one.total_bytes for one in residents) - twice
        """The bytes of all together, each content counted once."""

    def _shared_of(self, one: Resident) -> dict[int, int]:
        """The contents of `one` that others hold, or held, and their sizes."""
        keys = self._shared.intersection(one.contents.keys)
        if not keys:
            return {}
        sizes = dict(zip(one.contents.keys, one.contents.sizes, strict=True))
        return {key: sizes[key] for key in keys}

    def unique_bytes(self, one: Resident) -> int:
        """What evicting `one` alone would free."""
        shared = self._shared_of(one)
        return one.total_bytes - sum(size for key, size in shared.items() if self._holders[key] > 1)

    def take(self, one: Resident) -> int:
        """Let `one` go; returns what that frees."""
        freed = one.total_bytes
        for key, size in self._shared_of(one).items():
            if self._holders[key] > 1:
                freed -= size
            self._holders[key] -= 1
        return freed


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
    sharing = Sharing(residents)
    used = sharing.distinct_bytes + other_bytes
    needed = int(write_bytes * _ROOM_MARGIN)
    floor, budget = limits.floor_bytes(total), limits.max_store_bytes
    shortage = max(
        needed + floor - free,
        needed + used - budget if budget is not None else 0,
        0,
    )
    chosen: list[Resident] = []
    freed = 0
    if shortage:
        order = eviction_order(residents, protected)
        chosen, freed = choose(sharing, order, shortage, is_leased)
    missing = max(shortage - freed, 0)
    return SpacePlan(
        needed_bytes=needed,
        used_bytes=used,
        budget_bytes=budget,
        free_bytes=free,
        floor_bytes=floor,
        evict=tuple(chosen),
        freed_bytes=freed,
        missing_bytes=missing,
        pinned=tuple(sorted({r.release.plugin for r in residents if r.pinned})) if missing else (),
        unfinished_bytes=unfinished_bytes,
    )


def choose(
    sharing: Sharing,
    order: Iterable[Resident],
    wanted_bytes: int,
    is_leased: Callable[[Resident], bool],
) -> tuple[list[Resident], int]:
    """The first of `order` that free `wanted_bytes` together, or all of it; and what they free."""
    chosen: list[Resident] = []
    freed = 0
    for one in order:
        if freed >= wanted_bytes:
            break
        if not is_leased(one):
            chosen.append(one)
            freed += sharing.take(one)
    return chosen, freed
