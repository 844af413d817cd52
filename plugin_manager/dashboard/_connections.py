"""How long a connection may keep us waiting, and who must go where there are too many.

Every user of the machine can connect to a port on loopback, ask for nothing, and stay. Whoever has
shown the secret must not be shut out by that.
"""

from __future__ import annotations

import asyncio
import logging

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["LET_IN", "MOST_ACCEPTED_AT_ONCE", "Connection"]

LET_IN = "let-in"
"""Is true in the ASGI state of a request that has shown the secret."""

MOST_ACCEPTED_AT_ONCE = 64
"""The listen backlog.

The event loop accepts no more in one round, and reads a connection three rounds later at most: who
sends a request at once is read before `_MOST_STRANGERS` newer ones are there.
"""

_MOST_STRANGERS = 256
_REQUEST_SECONDS = 10.0

_log = logging.getLogger("plugin_manager.connections")
_log.setLevel(logging.ERROR)  # else strangers write on the terminal with requests that are none


class Connection(H11Protocol):
    """An HTTP connection: a stranger's, until a request on it was let in.

    A request must be there whole, its line and headers, within ten seconds of the connection's
    beginning or of the answer before. A stranger must have his answer by then too, which he may
    refuse to read. Where there are too many strangers, the oldest goes: never somebody who was let
    in, nor who has just come and will be.
    """

    _began = 0.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; at the cost of the oldest stranger, where there are too many."""
        super().connection_made(transport)
        self.logger = _log
        self._began = self.loop.time()
        self._wait_for_request()
        connections = (one for one in self.connections if isinstance(one, Connection))
        staying = (one for one in connections if not one.transport.is_closing())
        strangers = [one for one in staying if one._is_stranger]
        if len(strangers) > _MOST_STRANGERS:
            min(strangers, key=lambda one: one._began).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        if self._deadline:
            self._deadline.cancel()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._wait_for_request()

    @property
    def _is_stranger(self) -> bool:
        """Whether the last request on it, if any, was not let in."""
        return not (self.cycle and self.cycle.scope.get("state", {}).get(LET_IN))

    def _wait_for_request(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(_REQUEST_SECONDS, self._end_if_late)

    def _end_if_late(self) -> None:
        is_answering = self.cycle and not self.cycle.response_complete
        if self._is_stranger or not is_answering:
            self.transport.abort()
