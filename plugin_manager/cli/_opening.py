"""The manager of one run of the command, as its options, the environment and files describe it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from plugin_manager.cli import _output
from plugin_manager.cli._output import Session
from plugin_manager.cli._source import settings
from plugin_manager.errors import NetworkError
from plugin_manager.manager import PluginManager

if TYPE_CHECKING:
    from plugin_manager.cli._progress import Reporter
    from plugin_manager.manager import Progress
    from plugin_manager.store import SpacePlan

__all__ = ["open_manager", "tell_space"]

_WORTH_TELLING_SECONDS = 1.5


class _Reporting:
    """A reporter that is made with the first progress: who only looks has none."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._reporter: Reporter | None = None

    def __call__(self, progress: Progress) -> None:
        if self._reporter is None:
            from plugin_manager.cli._progress import Reporter  # noqa: PLC0415 - see above

            self._reporter = Reporter(quiet=self._quiet)
        self._reporter(progress)

    def clear(self) -> None:
        if self._reporter:
            self._reporter.clear()

    def close(self) -> None:
        if self._reporter:
            self._reporter.close()


@contextmanager
def open_manager(session: Session) -> Iterator[PluginManager]:
    """The manager that the command line's options and the environment describe."""
    reporter = _Reporting(quiet=session.as_json or session.quiet)
    told: dict[str, float] = {}

    def aside(text: str) -> None:
        reporter.clear()
        session.aside(text)

    try:
        yield PluginManager(
            settings(),
            progress=reporter,
            waiting=lambda holder: aside(f"Waiting for the store's lock: {holder}"),
            making_room=lambda space: tell_space(session.tell, space) if space.evict else None,
            retrying=lambda error, seconds: _tell_pause(aside, error, seconds, told),
        )
    finally:
        reporter.close()


def _tell_pause(
    aside: Callable[[str], None], error: NetworkError, seconds: float, told: dict[str, float]
) -> None:
    """Say that it is waited; once for all files that wait for one server."""
    server = urlsplit(str(error.context.get("url", ""))).netloc
    now = time.monotonic()
    if seconds >= _WORTH_TELLING_SECONDS and now >= told.get(server, 0.0):
        told[server] = now + seconds / 2
        aside(f"{error.message}; trying again in {seconds:.0f} s")


def tell_space(tell: Callable[[str], None], space: SpacePlan) -> None:
    """Tell what a change needs in space, and what it evicts."""
    tell(f"space: {_output.space_text(space)}")
