"""What verifying and repairing find, as values."""

from __future__ import annotations

from plugin_manager._attrs import frozen
from plugin_manager.errors import EvictedError, PluginManagerError
from plugin_manager.store import Active, Damage, Fault

__all__ = ["Inspection", "Report"]


@frozen
class Inspection:
    """What verifying an active release found: no `faults` and no `error` means it would load.

    `foreign` files are named, but do not count: nothing ever loads them.
    """

    active: Active
    faults: tuple[Fault, ...] = ()
    error: PluginManagerError | None = None

    @property
    def good(self) -> bool:
        """Whether all that was signed is there, unchanged, and vouched for; or was evicted."""
        return (self.error is None or self.evicted) and not self.damaged

    @property
    def evicted(self) -> bool:
        """Whether it is not on this disk, which is no damage."""
        return isinstance(self.error, EvictedError)

    @property
    def damaged(self) -> tuple[Fault, ...]:
        """The faults that a repair mends."""
        return tuple(fault for fault in self.faults if fault.damage is not Damage.FOREIGN)


@frozen
class Report:
    """What verifying or repairing found.

    `records` are sentences about the store's own records (generations, metadata) that were
    damaged; `releases` what was found of each active release, and of damaged earlier ones.
    """

    records: tuple[str, ...] = ()
    releases: tuple[Inspection, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing was damaged."""
        return not self.records and all(inspection.good for inspection in self.releases)
