"""The facts about this machine and interpreter, looked up."""

from __future__ import annotations

import os
import platform
import shutil
from functools import cache
from pathlib import Path

from packaging.tags import sys_tags
from packaging.version import Version

from plugin_manager.model import Host, bytecode_tag

__all__ = ["this_host"]


def this_host(version: Version | None, directory: Path) -> Host:
    """The host that this process runs on.

    `version` is the host application's own. Free disk is that of the file system which holds
    `directory`, or will: the directory need not exist yet.
    """
    return Host(
        python=Version(platform.python_version().rstrip("+")),  # "+": built between releases
        tags=_tags(),
        bytecode_tag=bytecode_tag(),
        version=version,
        memory_bytes=_memory_bytes(),
        free_disk_bytes=_free_disk_bytes(directory),
    )


@cache
def _tags() -> tuple[str, ...]:
    """The tags this interpreter accepts: some thousand, and they cannot change as it runs."""
    return tuple(map(str, sys_tags()))


def _memory_bytes() -> int | None:
    try:
        pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX, or a name it does not know
        return None
    return pages * page_bytes if pages > 0 and page_bytes > 0 else None


def _free_disk_bytes(directory: Path) -> int | None:
    for place in (directory, *directory.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
    return None
