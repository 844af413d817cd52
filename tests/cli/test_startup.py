"""What commands that only look import: time is spent there, and no clock is needed to see it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.test_client import Command
from tests.world import World

HEAVY = {
    "asyncio", "cryptography", "difflib", "email", "msgpack", "platformdirs", "requests",
    "resolvelib", "sqlite3", "ssl", "tomllib", "tuf", "urllib3", "zstandard",
}  # fmt: skip
# To believe what is told of plugins that are not here takes the chain of signatures.
VOUCHING = {"cryptography", "msgpack", "tuf"}


@pytest.fixture
def pluginctl(tmp_path: Path) -> Command:
    world = World(tmp_path)
    world.publish("acme/maps 1.0", {"maps.py": "x"})
    command = Command(world)
    with world.online():
        command("install", "acme/maps")
    world.base_url = ""
    command.environment["XDG_CONFIG_HOME"] = str(tmp_path / "home")
    return command


def imported(pluginctl: Command, *arguments: str) -> set[str]:
    """The outermost packages that a command imports."""
    python, *rest = pluginctl.arguments(*arguments)
    done = subprocess.run(
        [python, "-X", "importtime", *rest], env=pluginctl.environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("list", set()),
        ("history", set()),
        ("jobs", set()),
        ("path acme/maps", set()),
        ("config", set()),
        ("outdated", VOUCHING),
        ("search maps", VOUCHING),
        ("info acme/maps", VOUCHING),
    ],
)
def test_who_only_looks_imports_no_more_than_that_takes(
    pluginctl: Command, command: str, needed: set[str]
) -> None:
    assert imported(pluginctl, *command.split()) & HEAVY == needed


def test_control_what_goes_online_imports_the_network(pluginctl: Command) -> None:
    with pluginctl.world.online() as address:
        found = imported(pluginctl, "--repository", address, "update")
    assert {"requests", "tuf", "zstandard"} <= found
