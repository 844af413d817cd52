"""The local store: releases, generations and staging. The file system is the truth."""

from plugin_manager.store._garbage import Garbage, disk_bytes
from plugin_manager.store._generations import Active, Change, Generation, Record
from plugin_manager.store._housekeeping import Housekeeping, Storage
from plugin_manager.store._jobs import (
    JobRecords,
    JobState,
    QueueWish,
    Standing,
    Want,
    Wish,
    job_id,
    state_of,
)
from plugin_manager.store._lease import Lease
from plugin_manager.store._reading import (
    copy_verified,
    map_verified,
    open_verified,
    read_verified,
    use_verified,
)
from plugin_manager.store._space import Kept, Resident, SpacePlan
from plugin_manager.store._staging import Needed, Staging
from plugin_manager.store._store import Store
from plugin_manager.store._trials import Attempt, Trials
from plugin_manager.store._verify import (
    Damage,
    Fault,
    directories_of,
    foreign_files,
    odd_directories,
    release_faults,
)

__all__ = [
    "Active",
    "Attempt",
    "Change",
    "Damage",
    "Fault",
    "Garbage",
    "Generation",
    "Housekeeping",
    "JobRecords",
    "JobState",
    "Kept",
    "Lease",
    "Needed",
    "QueueWish",
    "Record",
    "Resident",
    "SpacePlan",
    "Staging",
    "Standing",
    "Storage",
    "Store",
    "Trials",
    "Want",
    "Wish",
    "copy_verified",
    "directories_of",
    "disk_bytes",
    "foreign_files",
    "job_id",
    "map_verified",
    "odd_directories",
    "open_verified",
    "read_verified",
    "release_faults",
    "state_of",
    "use_verified",
]
