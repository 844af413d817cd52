"""The facts about this machine and interpreter, looked up."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import overload

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
        tags=_Tags(),
        bytecode_tag=bytecode_tag(),
        version=version,
        memory_bytes=_memory_bytes(),
        free_disk_bytes=_free_disk_bytes(directory),
    )


class _Tags(Sequence[str]):
    """The tags this interpreter accepts, looked up when the first release is for some platform."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return _tags()[index]

    def __len__(self) -> int:
        return len(_tags())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(other) == _tags()

    def __hash__(self) -> int:
        return hash(_tags())


@cache
def _tags() -> tuple[str, ...]:
    """Some thousand, and they cannot change as it runs."""
    from packaging.tags import sys_tags  # noqa: PLC0415 - takes longer than most that looks

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
