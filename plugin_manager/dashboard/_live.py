"""The model of the page as server-sent events: all of it at first, then what changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from anyio import to_thread

__all__ = ["Live"]

_LOOK_SECONDS = 0.5
_QUIET_SECONDS = 10.0  # after which a client is told that we are still there
_MOST_CLIENTS = 16

_log = logging.getLogger("plugin_manager")


class Live:
    """Looks as long as somebody watches, and tells each watcher what is new to him.

    A watcher who reads slowly misses what lay between, never what is newest; nothing is kept for
    him. For one event loop; `wake` from any thread.
    """

    def __init__(self, look: Callable[[], dict[str, Any]]) -> None:
        self._look = look
        self._looked_at: dict[str, Any] | None = None
        self._sections: dict[str, str] = {}
        self._fresh = asyncio.Condition()
        self._awake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clients = 0
        self._closed = False
        self._rounds = 0

    async def run(self) -> None:
        """Look again and again, until it is cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            if self._clients:
                await self._refresh()
            self._awake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS if self._clients else None):
                    await self._awake.wait()

    async def _refresh(self) -> None:
        try:
            sections = await to_thread.run_sync(self._look)
        except Exception:  # a defect, or a disk that comes and goes: the next look may succeed
            _log.exception("the state could not be read")
            return
        if sections is self._looked_at:
            return  # nothing is new to anybody
        self._looked_at = sections
        encoded = {name: json.dumps(value, default=str) for name, value in sections.items()}
        async with self._fresh:
            self._sections = encoded
            self._fresh.notify_all()

    def wake(self) -> None:
        """Look again at once."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._awake.set)

    async def close(self) -> None:
        """Let all watchers go."""
        self._closed = True
        async with self._fresh:
            self._fresh.notify_all()

    async def let_go(self) -> None:
        """End all streams: those who still may will ask for another."""
        self._rounds += 1
        async with self._fresh:
            self._fresh.notify_all()

    def admit(self) -> bool:
        """Whether there is room for one more watcher, for whom `leave` must then be called."""
        if self._clients >= _MOST_CLIENTS or self._closed:
            return False
        self._clients += 1
        return True

    def leave(self) -> None:
        """An admitted watcher is gone."""
        self._clients -= 1

    async def events(self) -> AsyncIterator[bytes]:
        """What one watcher is sent: JSON objects with those sections that are new to him."""
        self._awake.set()
        told: dict[str, str] = {}
        sections: dict[str, str] = {}
        admitted = self._rounds
        while not self._closed and admitted == self._rounds:
            new = [name for name, value in sections.items() if told.get(name) != value]
            if new:
                parts = ",".join(f"{json.dumps(name)}:{sections[name]}" for name in new)
                yield f"data: {{{parts}}}\n\n".encode()
                told = sections
            try:
                async with asyncio.timeout(_QUIET_SECONDS), self._fresh:
                    if self._sections == told and admitted == self._rounds:
                        await self._fresh.wait()
                    sections = self._sections
            except TimeoutError:
                yield b": still here\n\n"
