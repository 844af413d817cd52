"""Mirrors, and servers that want a token; and what is known before anything is fetched."""

from __future__ import annotations

import http.server
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from attrs import evolve

from plugin_manager import PluginManager
from plugin_manager.errors import NetworkError, UntrustedError
from plugin_manager.transfer import Policy, Transfer
from tests.world import World

BIG = random.Random(5).randbytes(6_000_000)
NOBODY = "http://127.0.0.1:9/"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves whole files: to whoever has `token`, and flipped where it is `lying`."""

    token = ""
    lying = False
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            self.send_error(401)
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = bytearray(path.read_bytes())
        if self.lying and path.suffix == ".zst":
            data[len(data) // 2] ^= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def server(
    world: World, *, token: str = "", lying: bool = False
) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"token": token, "lying": lying, "asked": asked})
    directory = str(world.repository.public)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=directory)
    ) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/", asked
        listening.shutdown()
        thread.join()


def manager(world: World, repository: str, *mirrors: str, **more: object) -> PluginManager:
    return PluginManager.open(
        world.directory / "store", repository, world.root, mirrors=mirrors, **more
    )  # type: ignore[arg-type]


@pytest.fixture
def model(world: World) -> World:
    world.publish("acme/model 1.0", {"model.bin": BIG})
    return world


def test_a_mirror_is_enough(model: World) -> None:
    with server(model) as (mirror, _):
        manager(model, NOBODY, mirror).install("acme/model")
    assert manager(model, NOBODY).verify().good


def test_without_a_mirror_nothing_comes(model: World) -> None:
    settings = manager(model, NOBODY).settings
    hasty = PluginManager(settings, transfer=Transfer(Policy(attempts=1)))
    with pytest.raises(NetworkError):
        hasty.install("acme/model")


@pytest.mark.parametrize("first", ["liar", "honest"])
def test_a_lying_mirror_costs_only_what_it_sent(model: World, first: str) -> None:
    with server(model, lying=True) as (liar, _), server(model) as (honest, _):
        addresses = [liar, honest] if first == "liar" else [honest, liar]
        manager(model, *addresses).install("acme/model")
    assert manager(model, NOBODY).verify().good


def test_control_a_liar_alone_is_not_believed(model: World) -> None:
    with server(model, lying=True) as (liar, _), pytest.raises(UntrustedError):
        manager(model, liar).install("acme/model")


def test_a_mirror_that_lacks_a_bundle_is_left_out_for_it(model: World, tmp_path: Path) -> None:
    with server(model) as (full, _):
        empty = evolve(manager(model, full).settings, repository=full + "nothing/", mirrors=(full,))
        PluginManager(empty).install("acme/model")


def test_a_token_goes_to_its_server_and_to_no_mirror(model: World) -> None:
    with server(model, token="s3cret") as (locked, _), server(model) as (other, asked):
        settings = manager(model, locked, tokens={locked: "s3cret"}).settings
        PluginManager(settings).install("acme/model")
        with pytest.raises(NetworkError) as caught:
            PluginManager(evolve(settings, tokens={}, store=model.directory / "b")).install(
                "acme/model"
            )
        assert caught.value.status == 401
        assert "token" in caught.value.remedy
        # The mirror would be asked with its own token, had it one.
        wrong = evolve(settings, tokens={other: "s3cret"}, store=model.directory / "c")
        with pytest.raises(NetworkError):
            PluginManager(wrong).install("acme/model")
    assert asked == []
    for path in model.directory.glob("[bc]*/**/*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes()


def test_a_plan_tells_how_long_fetching_will_take_at_the_speed_of_the_last_time(
    model: World,
) -> None:
    model.publish("acme/other 1.0", {"other.bin": random.Random(6).randbytes(3_000_000)})
    with model.online():
        fresh = model.manager()
        assert fresh.plan_install("acme/other").seconds is None
        fresh.install("acme/model")
        plan = model.manager().plan_install("acme/other")
        speed = int((fresh.settings.store / "index/bytes-per-second").read_text())
        assert plan.seconds == pytest.approx(plan.needed.fetch_bytes / speed)
        assert model.manager().plan_install("acme/model").seconds is None  # nothing to fetch


@pytest.mark.parametrize("content", [b"", b"0", b"fast", b"9" * 30, b"-1"])
def test_a_speed_that_is_none_tells_nothing(model: World, content: bytes) -> None:
    with model.online():
        fresh = model.manager()
        fresh.update("acme/model")
        (fresh.settings.store / "index/bytes-per-second").write_bytes(content)
        assert fresh.plan_install("acme/model").seconds is None
