"""config: where settings come from, and changing the file; completion: in a real shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_client import PROJECT, Command
from tests.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.publish("acme/maps 1.0", {"maps.py": "x"})
    world.publish("acme/tiles 1.0", {"t.py": "x"})
    return world


@pytest.fixture
def pluginctl(world: World) -> Command:
    command = Command(world)
    command.environment["XDG_CONFIG_HOME"] = str(world.directory / "home")
    return command


def sources(found: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["source"] for one in found["settings"] if one["source"] != "default"}


def test_config_tells_where_each_value_came_from(pluginctl: Command) -> None:
    pluginctl("config", "set", "max_store", "20GB")
    pluginctl("config", "set", "jobs", "5")
    pluginctl.environment["PLUGINCTL_JOBS"] = "2"
    found = pluginctl.json("--lock-timeout", "3", "config")
    assert sources(found) == {
        "lock_timeout": "flag", "store": "environment", "root": "environment",
        "jobs": "environment", "max_store": "file",
    }  # fmt: skip
    values = {one["name"]: one["value"] for one in found["settings"]}
    assert (values["max_store"], values["jobs"], values["metered"]) == ("20GB", "2", None)
    text = pluginctl("config").stdout
    assert f"20GB{' ' * 1}" in text
    assert "config.toml" in text


def test_the_file_is_what_other_commands_go_by(world: World, pluginctl: Command) -> None:
    for name in ("store", "root"):
        value = pluginctl.environment.pop(f"PLUGINCTL_{name.upper()}")
        pluginctl("config", "set", name, value)
    with world.online():
        pluginctl("config", "set", "repository", world.base_url)
        world.base_url = ""
        pluginctl("install", "acme/maps")
    assert pluginctl.json("list")[0]["plugin"] == "acme/maps"
    pluginctl("config", "unset", "store")
    pluginctl.environment["XDG_DATA_HOME"] = str(world.directory / "data")
    assert pluginctl.json("list") == []


def test_what_is_wrong_is_refused_and_shown(pluginctl: Command) -> None:
    pluginctl.fails("invalid-input", "config", "set", "jobs", "many")
    error = pluginctl.fails("invalid-input", "config", "set", "max_stor", "1GB")
    assert error["remedy"] == "Did you mean max_store?"
    assert pluginctl.json("config", "path") == {
        "file": str(Path(pluginctl.environment["XDG_CONFIG_HOME"]) / "plugin-manager/config.toml"),
        "exists": False,
    }
    pluginctl.environment["PLUGINCTL_JOBS"] = "many"
    assert "is not a whole number" in pluginctl("config", code=3).stdout
    assert "PLUGINCTL_JOBS" in pluginctl.fails("invalid-input", "list")["message"]


def test_a_file_can_be_named_and_must_then_be_there(world: World, pluginctl: Command) -> None:
    other = world.directory / "other.toml"
    pluginctl.fails("invalid-input", "--config", str(other), "list")
    pluginctl("--config", str(other), "config", "set", "jobs", "7")
    assert sources(pluginctl.json("--config", str(other), "config"))["jobs"] == "file"
    assert "jobs" not in sources(pluginctl.json("config"))


def test_no_secret_is_shown(world: World, pluginctl: Command) -> None:
    tokens = world.directory / "tokens"
    tokens.write_text("https://a.example.org s3cret\n")
    tokens.chmod(0o600)
    pluginctl("config", "set", "tokens", str(tokens))
    pluginctl.environment["PLUGINCTL_MIRRORS"] = "https://me:s3cret@a/"
    for arguments in (("config",), ("config", "--json"), ("doctor", "--offline")):
        done = subprocess.run(
            pluginctl.arguments(*arguments), env=pluginctl.environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert "s3cret" not in done.stdout + done.stderr
        assert done.stdout


# --- completion ----------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes_commands_options_and_plugins(world: World, pluginctl: Command) -> None:
    with world.online():
        pluginctl("install", "acme/maps")
        pluginctl("update")
    directory = world.directory / "bin"
    directory.mkdir()
    script = directory / "pluginctl"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m plugin_manager.cli "$@"\n')
    script.chmod(0o755)
    environment = {
        **pluginctl.environment,
        "PATH": f"{directory}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
    }

    def completed(*words: str) -> list[str]:
        """What bash offers after these words, the last of which is begun."""
        lines = [
            "source <(pluginctl completion bash)",
            f"COMP_WORDS=(pluginctl {' '.join(repr(word) for word in words)})",
            f"COMP_CWORD={len(words)}",
            "_pluginctl_completion pluginctl",
            'printf "%s\\n" "${COMPREPLY[@]}"',
        ]
        done = subprocess.run(
            ["bash", "--norc", "-c", "\n".join(lines)], env=environment, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        return done.stdout.split()

    assert "complete" in pluginctl("completion", "bash").stdout
    assert completed("ins") == ["install"]
    assert "--dry-run" in completed("install", "--d")
    assert completed("install", "acme/") == ["acme/maps", "acme/tiles"]
    assert completed("uninstall", "") == ["acme/maps"]
    assert completed("show", "acme/") == ["acme/maps"]
    assert completed("config", "set", "max_s") == ["max_store"]
    assert completed("info", "nothing") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_scripts_too(pluginctl: Command, shell: str) -> None:
    text = pluginctl("completion", shell).stdout
    assert "_PLUGINCTL_COMPLETE" in text
    assert pluginctl.json("completion", shell) == {"shell": shell, "script": text[:-1]}
    if found := shutil.which(shell):
        subprocess.run([found, "-n"], input=text, text=True, check=True)


def test_completion_is_silent_where_nothing_can_be_read(pluginctl: Command) -> None:
    Path(pluginctl.environment["PLUGINCTL_STORE"]).write_text("no store")
    pluginctl.environment |= {
        "COMP_WORDS": "pluginctl show ", "COMP_CWORD": "2", "_PLUGINCTL_COMPLETE": "bash_complete",
    }  # fmt: skip
    done = pluginctl()
    assert (done.stdout.strip(), done.stderr) == ("", "")
