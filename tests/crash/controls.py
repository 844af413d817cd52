"""Broken variants of the store, which a battery must catch: otherwise it proves nothing.

Each is put in place in a forked process, where it ends with the process.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from plugin_manager import durable
from plugin_manager.manager import Plan
from plugin_manager.manager._changes import Changes
from plugin_manager.store import Generation, Store

__all__ = ["CONTROLS", "Control"]


@frozen
class Control:
    """A broken variant: `patch` breaks this process, and `operation` shows it."""

    operation: str
    patch: Callable[[], None]


def _replace_everywhere(name: str, broken: Callable[..., Any]) -> None:
    """Put `broken` in place of durable's function `name` wherever it has been imported."""
    sound = getattr(durable, name)
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("plugin_manager") and getattr(module, name, None) is sound:
            setattr(module, name, broken)


def _overwrite_in_place() -> None:
    def write(path: Path, data: bytes, **_: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    _replace_everywhere("write_atomically", write)


def _unlink_then_rename() -> None:
    def write(path: Path, data: bytes, **_: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(".tmp-new")
        temporary.write_bytes(data)
        path.unlink(missing_ok=True)
        temporary.rename(path)

    _replace_everywhere("write_atomically", write)


def _remove_old_first() -> None:
    place = Store.place

    def removing(self: Store, stagings: Sequence[Any]) -> None:
        for staging in stagings:
            release, digest = staging.head.manifest.release, staging.head.digest
            shutil.rmtree(self.release_directory(release, digest).parent, ignore_errors=True)
        place(self, stagings)

    Store.place = removing  # type: ignore[method-assign]


def _try_later() -> None:
    keep, activate = Changes._keep_trials, Store.activate
    kept: list[Callable[[], None]] = []

    def later(self: Changes, plan: Plan) -> None:
        kept.append(lambda: keep(self, plan))

    def activating(self: Store, *arguments: Any) -> Generation:
        generation = activate(self, *arguments)
        for one in kept:
            one()
        return generation

    Changes._keep_trials = later  # type: ignore[method-assign]
    Store.activate = activating  # type: ignore[method-assign]


CONTROLS: Mapping[str, Control] = {
    "overwrite-in-place": Control("uninstall", _overwrite_in_place),
    "unlink-then-rename": Control("uninstall", _unlink_then_rename),
    "remove-old-first": Control("upgrade", _remove_old_first),
    "trial-after-current": Control("upgrade", _try_later),
}
"""Not here, as the store mends them unasked: copying a release into its place (an install verifies
what it finds there), and going over to one before it is there (a load takes it from staging)."""
