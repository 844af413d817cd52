"""The local store: releases, generations and staging. The file system is the truth."""

from plugin_manager.store._generations import Active, Generation
from plugin_manager.store._staging import Needed, Staging
from plugin_manager.store._store import Store
from plugin_manager.store._verify import (
    Damage,
    Fault,
    foreign_files,
    open_verified,
    read_verified,
    release_faults,
)

__all__ = [
    "Active",
    "Damage",
    "Fault",
    "Generation",
    "Needed",
    "Staging",
    "Store",
    "foreign_files",
    "open_verified",
    "read_verified",
    "release_faults",
]
