from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from attrs import define, field

from plugin_manager import PluginManager
from plugin_manager.dashboard import Dashboard
from tests.world import World


@define
class Client:
    """A program that has the token, and checks what every answer carries."""

    dashboard: Dashboard
    session: requests.Session = field(factory=requests.Session)

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        more.setdefault("headers", {"Authorization": f"Bearer {self.dashboard.token}"})
        more.setdefault("timeout", 30)
        return self.session.request(method, self.dashboard.address.rstrip("/") + path, **more)

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        answer = self.ask("POST", path, json={} if body is None else body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def card(self, plugin: str) -> dict[str, Any]:
        return next(one for one in self.get("/api/state")["plugins"] if one["plugin"] == plugin)

    def wait_for(self, plugin: str, state: str) -> dict[str, Any]:
        """The card of `plugin` when it is in `state`."""
        return until(lambda: self.card(plugin), lambda card: card["state"] == state)


def until(look: Callable[[], Any], good: Callable[[Any], bool], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not good(found := look()):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


@contextmanager
def running(make_manager: Callable[[], PluginManager]) -> Iterator[Client]:
    dashboard = Dashboard(make_manager)
    thread = threading.Thread(target=dashboard.run)
    thread.start()
    client = Client(dashboard)
    client.session.trust_env = False
    try:
        yield client
    finally:
        client.session.close()
        dashboard.stop()
        thread.join(30)
        assert not thread.is_alive()


class _World(World):
    """One whose host puts nothing on trial, unless a test says so."""

    def manager(self, *arguments: Any, environment: Any = None, **more: Any) -> PluginManager:
        environment = {"PLUGINCTL_TRIAL_ATTEMPTS": "0", **(environment or {})}
        return super().manager(*arguments, environment=environment, **more)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = _World(tmp_path)
    with world.online():
        yield world
    world.close()


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with running(world.manager) as client:
        yield client
