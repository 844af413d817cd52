"""Plans: what a change would do, to be printed or carried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from attrs import field

from plugin_manager._attrs import frozen
from plugin_manager.errors import RefusedError
from plugin_manager.model import Digest, PluginName
from plugin_manager.store import Active, Garbage, Needed, Resident, SpacePlan

if TYPE_CHECKING:
    from plugin_manager.bundle import Head

__all__ = ["Cleanup", "Plan", "Step", "brings_only"]

_NOTHING_NEEDED = Needed(0, 0, 0, 0)


@frozen
class Step:
    """One plugin's part of a plan: from `before` to `after` (None: not active).

    `bundle_path` is the bundle's place below the repository's `targets/`, "" where nothing can be
    fetched (what is on this disk, uninstall); `head` is the verified head of `after`.
    """

    plugin: PluginName
    before: Active | None
    after: Active | None
    head: Head | None = field(default=None, repr=False)
    head_bytes: bytes = field(default=b"", repr=False)
    bundle_path: str = ""
    needed: Needed = _NOTHING_NEEDED

    @property
    def kind(self) -> str:
        """`install`, `upgrade`, `downgrade`, `uninstall`; or `hold`, `unhold`, `pin`, `unpin`.

        `fetch` where it was active, but not on this disk; `keep` where nothing changes.
        """
        if self.after is None:
            return "uninstall"
        if self.before is None:
            return "install"
        if self.before.digest != self.after.digest:
            newer = self.after.release.version >= self.before.release.version
            return "upgrade" if newer else "downgrade"
        if self.before.held != self.after.held:
            return "hold" if self.after.held else "unhold"
        if self.before.failed and not self.after.failed:
            return "unhold"
        if self.before.pinned != self.after.pinned:
            return "pin" if self.after.pinned else "unpin"
        return "fetch" if self.bundle_path else "keep"

    def __str__(self) -> str:
        match self.kind:
            case "upgrade" | "downgrade":
                assert self.before is not None
                assert self.after is not None
                return (
                    f"{self.kind} {self.plugin} "
                    f"{self.before.release.version} -> {self.after.release.version}"
                )
            case "install":
                assert self.after is not None
                return f"install {self.after.release}"
            case "keep":
                return f"leave {self.plugin} as it is"
            case kind:
                return f"{kind} {self.plugin}"


@frozen
class Plan:
    """A change worked out but not made. `base` is the generation that it starts from.

    `notes` are sentences worth telling (a yanked release, a held plugin left alone). `space` says
    whether it fits and what has to be evicted for it; None where nothing is written.
    `seconds`: how long fetching would take at the speed of the last time; None where that is not
    known, or nothing is to be fetched. `trial`: what becomes of the trials of the releases that it
    makes active. An upgrade `begin`s one, and what is wished back is on trial no longer (`end`);
    where it goes back because a trial failed, those of earlier releases go on (`keep`).
    """

    action: str
    base: int
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    space: SpacePlan | None = None
    seconds: float | None = None
    trial: Literal["begin", "end", "keep"] = "begin"

    @property
    def needed(self) -> Needed:
        """The bytes of all steps together."""
        return Needed(
            fetch_bytes=sum(step.needed.fetch_bytes for step in self.steps),
            copy_bytes=sum(step.needed.copy_bytes for step in self.steps),
            share_bytes=sum(step.needed.share_bytes for step in self.steps),
            write_bytes=sum(step.needed.write_bytes for step in self.steps),
        )


def brings_only(plan: Plan, digests: Sequence[Digest]) -> Plan:
    """`plan`; raises RefusedError where it brings a release whose head is not in `digests`.

    None are named: it may bring whatever it was made to.
    """
    for step in plan.steps if digests else ():
        before, after = step.before, step.after
        if after and not ((before and before.digest == after.digest) or after.digest in digests):
            raise RefusedError(
                f"{after.release} would come as well, which was not chosen when this was asked for",
                remedy="Ask for it again.",
            )
    return plan


@frozen
class Cleanup:
    """What was (or would be) removed: garbage, and releases; `freed_bytes` in all.

    `missing_bytes`: by how much the store is beyond its limits, where nothing that may go helps.
    """

    garbage: tuple[Garbage, ...] = ()
    evicted: tuple[Resident, ...] = ()
    freed_bytes: int = 0
    missing_bytes: int = 0
