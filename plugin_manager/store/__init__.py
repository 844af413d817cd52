"""The local store: releases, generations and staging; the file system is the truth."""

from plugin_manager.store._verify import (
    Damage,
    Fault,
    foreign_files,
    read_verified,
    release_faults,
)

__all__ = ["Damage", "Fault", "foreign_files", "read_verified", "release_faults"]
