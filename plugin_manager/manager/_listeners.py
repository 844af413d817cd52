"""Who is told how things go on: whoever has a manager, and who follows one change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from plugin_manager._attrs import frozen
from plugin_manager.errors import NetworkError
from plugin_manager.manager._control import Control
from plugin_manager.manager._events import Event, ignore
from plugin_manager.manager._plan import Plan
from plugin_manager.manager._progress import Progress
from plugin_manager.store import SpacePlan

__all__ = ["Follower", "Hooks", "Listener", "NoFollower", "Telling"]


class Listener(Protocol):
    """Whoever is told how things go on, as PluginManager describes."""

    @property
    def progress(self) -> Callable[[Progress], None]: ...

    @property
    def waiting(self) -> Callable[[str], None]: ...

    @property
    def making_room(self) -> Callable[[SpacePlan], None]: ...

    @property
    def retrying(self) -> Callable[[NetworkError, float], None]: ...

    @property
    def on_event(self) -> Callable[[Event], object]: ...


@frozen
class Telling:
    """A listener of which only what is given listens."""

    progress: Callable[[Progress], None] = ignore
    waiting: Callable[[str], None] = ignore
    making_room: Callable[[SpacePlan], None] = ignore
    retrying: Callable[[NetworkError, float], None] = ignore
    on_event: Callable[[Event], object] = ignore


class Follower(Protocol):
    """Whoever is told what a change does."""

    @property
    def planned(self) -> Callable[[Plan], None]:
        """To be told of what will be fetched, before it is."""

    @property
    def progressed(self) -> Callable[[Progress], None]:
        """To be told how far that is."""


class NoFollower:
    """Is told, and forgets it."""

    def planned(self, plan: Plan) -> None:
        """What will be fetched."""

    def progressed(self, progress: Progress) -> None:
        """How far that is."""


@frozen
class Hooks:
    """Who stops a change that is a job's, and is told how it goes on; from any thread."""

    control: Control
    planned: Callable[[Plan], None]
    progressed: Callable[[Progress], None]
    waiting: Callable[[str], None]
    retrying: Callable[[NetworkError, float], None]
