"""The events: everything at first, then only what changed; whoever is slow loses nothing new."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from plugin_manager.dashboard._live import Live
from tests.dashboard.conftest import Client
from tests.world import World


def events(client: Client) -> Iterator[dict[str, Any]]:
    with client.ask("GET", "/api/events", stream=True) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines(chunk_size=1):
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


def test_everything_comes_first_and_then_what_changed(world: World, client: Client) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x = 1"})
    world.manager().install("acme/maps")
    stream = events(client)
    assert set(next(stream)) == set(client.get("/api/state"))
    client.post("/api/pin", {"name": "acme/maps"})
    for event in stream:
        assert "store" not in event, "it is as it was"
        if "plugins" in event:
            break
    assert event["plugins"][0]["active"]["pinned"]
    stream.close()


def test_what_another_process_does_is_told(world: World, client: Client) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x = 1"})
    stream = events(client)
    assert next(stream)["plugins"] == []
    world.manager().install("acme/maps")
    found = next(event["plugins"] for event in stream if event.get("plugins"))
    assert found[0]["state"] == "installed"
    stream.close()


def test_who_is_let_go_is_told_nothing_more() -> None:
    async def story() -> None:
        live = Live(lambda: {"a": 1})
        task = asyncio.create_task(live.run())
        live.admit()
        stream = live.events()
        assert await anext(stream)
        waiting = asyncio.ensure_future(anext(stream, None))
        await asyncio.sleep(0.1)
        assert not waiting.done(), "control"
        await live.let_go()
        assert await asyncio.wait_for(waiting, 5) is None
        assert await anext(live.events()), "another is begun"
        task.cancel()

    asyncio.run(story())


def test_nobody_looks_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    async def story() -> None:
        live = Live(lambda: {"a": looked.append(1)})
        task = asyncio.create_task(live.run())
        await asyncio.sleep(0)
        for _ in range(3):
            live.wake()
            await asyncio.sleep(0.05)
        assert looked == []
        assert live.admit()
        async for _ in live.events():
            break
        assert looked, "control: with a watcher it does"
        task.cancel()

    asyncio.run(story())


def test_a_look_that_fails_ends_nothing() -> None:
    failing = threading.Event()
    failing.set()

    def look() -> dict[str, Any]:
        if failing.is_set():
            raise OSError("the disk went away")
        return {"a": 1}

    async def story() -> bytes:
        live = Live(look)
        task = asyncio.create_task(live.run())
        live.admit()
        stream = live.events()
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.2)
        assert not first.done()
        failing.clear()
        live.wake()
        found = await first
        task.cancel()
        return found

    assert asyncio.run(story()) == b'data: {"a":1}\n\n'


def test_a_slow_watcher_is_told_what_is_newest() -> None:
    value = 0

    async def story() -> list[bytes]:
        nonlocal value
        live = Live(lambda: {"a": value, "b": 0})
        task = asyncio.create_task(live.run())
        live.admit()
        stream = live.events()
        told = [await anext(stream)]
        for value in range(1, 6):  # noqa: B007 - what is looked at
            live.wake()
            await asyncio.sleep(0.1)
        while told[-1] != b'data: {"a":5}\n\n':
            told.append(await anext(stream))
        task.cancel()
        return told

    told = asyncio.run(story())
    assert told[0] == b'data: {"a":0,"b":0}\n\n'
    assert len(told) < 6, "what lay between was not kept for him"
