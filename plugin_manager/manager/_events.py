"""What a manager tells its host as it happens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from plugin_manager._attrs import frozen
from plugin_manager.errors import PluginManagerError
from plugin_manager.model import PluginName, Release

if TYPE_CHECKING:
    from plugin_manager.loader import LoadedPlugin

__all__ = ["Event", "EventKind", "Events", "LoadAll", "Trial", "ignore"]

EventKind = Literal[
    "verified", "loaded", "refused", "rolled-back", "repaired", "unloaded", "confirmed"
]

_log = logging.getLogger("plugin_manager")


@frozen
class Event:
    """Something that happened to a plugin; `text` says it in a sentence.

    `verified`: the chain of signatures, and every file unless files are to be verified as they are
    read. `loaded`: ready to be imported, no code has run. `refused`: a load failed with `error`.
    `rolled-back`: `release` is active again, as a newer one failed on trial. `repaired`: it was
    damaged or evicted, and is whole. `unloaded`: nothing of it is in use any more. `confirmed`:
    its trial is over. `release` None: not known.
    """

    kind: EventKind
    plugin: PluginName
    release: Release | None = None
    error: PluginManagerError | None = None
    text: str = ""


@frozen
class Trial:
    """An active release on trial: `attempts` have failed so far; after `of`, `previous` comes back.

    `previous` None: there is none in this store.
    """

    release: Release
    previous: Release | None
    attempts: int
    of: int


@frozen
class LoadAll:
    """What `load_all` loaded, and why it refused the rest, in the order that was asked for."""

    loaded: Mapping[PluginName, LoadedPlugin]
    refused: Mapping[PluginName, PluginManagerError]


class Events:
    """Hands events to the host's `hook`, whose errors stop nothing and are logged."""

    def __init__(self, hook: Callable[[Event], object]) -> None:
        self._hook = hook

    def __call__(
        self,
        kind: EventKind,
        plugin: PluginName,
        release: Release | None = None,
        *,
        text: str,
        error: PluginManagerError | None = None,
    ) -> None:
        """Tell of an event."""
        try:
            self._hook(Event(kind, plugin, release, error, text))
        except Exception:
            _log.exception("on_event failed for %r of %s", kind, plugin)


def ignore(*_: object) -> None:
    """Is told, and forgets it."""
