"""Serving the dashboard on loopback, until it is stopped."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import uvicorn

from plugin_manager.dashboard._access import Access
from plugin_manager.dashboard._application import application
from plugin_manager.dashboard._connections import MOST_ACCEPTED_AT_ONCE, Connection
from plugin_manager.dashboard._live import Live
from plugin_manager.dashboard._service import Service
from plugin_manager.errors import RefusedError
from plugin_manager.manager import PluginManager

__all__ = ["Dashboard"]

_MOST_HEADER_BYTES = 16 * 1024
_LAST_SECONDS = 2  # for answers under way when it is stopped


class _Server(uvicorn.Server):
    """Lets those go who watch before it waits for all answers to end."""

    def __init__(self, config: uvicorn.Config, live: Live) -> None:
        super().__init__(config)
        self._live = live

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._live.close()
        await super().shutdown(sockets)


class Dashboard:
    """A dashboard on 127.0.0.1: `port` 0 is any free one. Raises RefusedError where it is taken.

    `make_manager` makes a manager for the use of one thread. Nothing is served before `run`.
    """

    def __init__(self, make_manager: Callable[[], PluginManager], port: int = 0) -> None:
        self._access = Access()
        self._service = Service(make_manager)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen(MOST_ACCEPTED_AT_ONCE)  # who comes before `run` waits for it
        except OSError as error:
            self._socket.close()
            raise RefusedError(
                f"port {port} is taken: {error.strerror}",
                remedy="Give another --port, or none for any that is free.",
            ) from error
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        live = Live(self._service.look)
        self._service.changed = live.wake
        config = uvicorn.Config(
            application(self._service, self._access, live),
            http=Connection,
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=MOST_ACCEPTED_AT_ONCE,
            h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        self._server = _Server(config, live)

    @property
    def token(self) -> str:
        """What programs send as `Authorization: Bearer ...`."""
        return self._access.token

    def link(self) -> str:
        """An address that lets the browser in that opens it first, and no other."""
        return f"{self.address}#code={self._access.new_code()}"

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, or `stop`; jobs that were under way are queued again."""
        try:
            with contextlib.suppress(KeyboardInterrupt):
                self._server.run(sockets=[self._socket])
        finally:
            self._service.close()
            self._socket.close()

    def stop(self) -> None:
        """Make `run` return; from any thread."""
        self._server.should_exit = True
