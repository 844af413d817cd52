"""What commands that only look import: time is spent there, and no clock is needed to see it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.test_client import Command
from tests.world import World

HEAVY = {
    "asyncio", "concurrent", "cryptography", "decimal", "difflib", "diskcache", "email",
    "filelock", "html", "http", "msgpack", "packaging.specifiers", "platformdirs",
    "plugin_manager.agent._agent", "plugin_manager.bundle", "plugin_manager.cli._client",
    "plugin_manager.cli._progress", "plugin_manager.dashboard", "plugin_manager.loader",
    "plugin_manager.manager._job", "plugin_manager.manager._offers",
    "plugin_manager.manager._progress", "plugin_manager.manager._report",
    "plugin_manager.publishing", "plugin_manager.transfer", "plugin_manager.trust", "requests",
    "resolvelib", "rich", "securesystemslib.signer._gpg_signer", "shutil", "sqlite3", "ssl",
    "starlette", "tomllib", "tuf", "unittest", "urllib3", "zstandard",
}  # fmt: skip
# To believe what is told of plugins that are not here takes the chain of signatures; python-tuf
# needs shutil.
VOUCHING = {
    "cryptography", "msgpack", "packaging.specifiers", "plugin_manager.trust", "shutil", "tuf",
}  # fmt: skip
OFFERS = {*VOUCHING, "plugin_manager.manager._offers"}
MANIFESTS = {*VOUCHING, "plugin_manager.bundle", "zstandard"}


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
    """The modules that a command imports."""
    python, *rest = pluginctl.arguments(*arguments)
    done = subprocess.run(
        [python, "-X", "importtime", *rest], env=pluginctl.environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("list", set()),
        ("history", set()),
        ("path acme/maps", set()),
        ("config", set()),
        ("jobs", {"plugin_manager.manager._progress"}),
        ("storage", {"msgpack", "sqlite3"}),
        ("agent status", set()),
        ("show acme/maps", MANIFESTS),
        ("outdated", OFFERS),
        ("search maps", OFFERS),
        ("info acme/maps", OFFERS),
        ("doctor --offline", OFFERS | MANIFESTS),
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


@pytest.mark.parametrize(("command", "at_once"), [("list", True), ("pin acme/maps", False)])
def test_only_who_looks_ends_without_taking_everything_apart(
    pluginctl: Command, command: str, at_once: bool
) -> None:
    python = pluginctl.arguments()[0]
    code = (
        "import atexit; atexit.register(print, 'the end')\n"
        "from plugin_manager.cli import main; main()"
    )
    done = subprocess.run(
        [python, "-c", code, *command.split()], env=pluginctl.environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert "acme/maps" in done.stdout
    assert ("the end" not in done.stdout) == at_once
