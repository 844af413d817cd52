"""The host of thirty lines as a process: what is bad is left out, the others greet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.world import World

PROJECT = Path(__file__).resolve().parents[2]
HOST = PROJECT / "docs" / "examples" / "minimal_host.py"
GREETER = """\
import pluggy

@pluggy.HookimplMarker("minimal_host")
def greet(name):
    return f"{word}, {{name}}!"
"""


def publish(world: World, release: str, module: str, source: str) -> None:
    world.publish(
        release,
        {f"{module}.py": source},
        entry_points=f'[entry-points.minimal_host]\ngreeting = "{module}"',
    )


def greetings(world: World) -> tuple[list[str], str]:
    """The lines that the host prints, and what it says of those that it left out."""
    done = subprocess.run(
        [sys.executable, str(HOST), str(world.directory / "store"), str(world.root), "Ada"],
        env={k: v for k, v in os.environ.items() if not k.startswith("PLUGINCTL_")}
        | {"PYTHONPATH": str(PROJECT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines()), done.stderr


@pytest.fixture
def greeting(world: World) -> World:
    publish(world, "acme/english 1.0", "demo_english", GREETER.format(word="Hello"))
    publish(world, "globex/german 1.0", "demo_german", GREETER.format(word="Hallo"))
    world.publish("acme/data 1.0", {"data.bin": b"no code"})
    with world.online():
        world.manager().install("acme/english", "globex/german", "acme/data")
    return world


def test_it_has_thirty_lines() -> None:
    assert len(HOST.read_text().splitlines()) <= 30


def test_every_plugin_greets(greeting: World) -> None:
    assert greetings(greeting) == (["Hallo, Ada!", "Hello, Ada!"], "")


def test_a_tampered_plugin_is_left_out_before_any_of_it_runs(greeting: World) -> None:
    [path] = (greeting.directory / "store/releases").rglob("demo_english.py")
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace("Hello", "Evil!"))
    lines, said = greetings(greeting)
    assert lines == ["Hallo, Ada!"]
    assert "acme/english 1.0 is left out" in said
    assert "demo_english.py (damaged)" in said


def test_a_plugin_that_fails_as_it_is_imported_is_left_out(greeting: World) -> None:
    publish(greeting, "acme/broken 1.0", "demo_broken", "raise RuntimeError('on purpose')\n")
    with greeting.online():
        greeting.manager().install("acme/broken")
    lines, said = greetings(greeting)
    assert lines == ["Hallo, Ada!", "Hello, Ada!"]
    assert "acme/broken 1.0 is left out: on purpose" in said


def test_after_an_upgrade_and_a_rollback_it_greets_accordingly(greeting: World) -> None:
    publish(greeting, "acme/english 1.1", "demo_english", GREETER.format(word="Hi"))
    with greeting.online():
        greeting.manager().upgrade()
    assert greetings(greeting)[0] == ["Hallo, Ada!", "Hi, Ada!"]
    greeting.manager().rollback("acme/english")
    assert greetings(greeting)[0] == ["Hallo, Ada!", "Hello, Ada!"]
