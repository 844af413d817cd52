"""The operator's commands as processes: output, JSON, exit codes, and nothing changed on errors."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from plugin_manager.cli._output import EXIT_CODES, clean, size
from tests.world import World, snapshot

PROJECT = Path(__file__).resolve().parents[2]


class Command:
    """`pluginctl` for a world's store, run as a process of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PLUGINCTL_")},
            "PLUGINCTL_STORE": str(world.directory / "store"),
            "PLUGINCTL_ROOT": str(world.root),
            "PYTHONPATH": str(PROJECT),
        }

    def arguments(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "plugin_manager.cli", *arguments]

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, "PLUGINCTL_REPOSITORY": self.world.base_url}
        done = subprocess.run(
            self.arguments(*arguments), env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    for version in ("1.0", "1.1"):
        world.publish(
            f"acme/maps {version}",
            {"maps.py": f"VERSION = {version!r}\n", "tiles": os.urandom(50_000)},
            entry_points='[entry-points."app.plugins"]\nmaps = "maps"',
        )
    return world


@pytest.fixture
def pluginctl(world: World) -> Command:
    return Command(world)


def test_a_life_in_commands(world: World, pluginctl: Command) -> None:
    with world.online():
        dry = pluginctl.json("install", "acme/maps==1.0", "--dry-run")
        assert dry["dry_run"] is True
        assert dry["steps"][0]["fetch_bytes"] > 50_000
        assert pluginctl.json("list") == []
        done = pluginctl("install", "acme/maps==1.0")
        assert "install acme/maps 1.0 (fetched 5" in done.stdout
        assert "100% of" in done.stderr
        upgraded = pluginctl.json("upgrade")
        assert upgraded["steps"][0]["kind"] == "upgrade"
    assert pluginctl.json("list")[0]["version"] == "1.1"
    shown = pluginctl.json("show", "acme/maps", "--manifest")
    assert [release["version"] for release in shown["releases"]] == ["1.0", "1.1"]
    assert {file["path"] for file in shown["files"]} >= {"maps.py", "tiles"}
    assert len(shown["files"][0]["chunks"][0]["blake3"]) == 64
    assert "acme/maps for tests" in pluginctl("show", "acme/maps").stdout
    assert Path(pluginctl("path", "acme/maps").stdout.strip(), "maps.py").is_file()
    assert pluginctl.json("verify")[0]["good"] is True
    back = pluginctl("rollback", "acme/maps")
    assert "downgrade acme/maps 1.1 -> 1.0" in back.stdout
    assert "held at 1.0" in back.stdout
    history = pluginctl.json("history")
    assert [generation["number"] for generation in history] == [3, 2, 1]
    assert "* " in pluginctl("history").stdout
    assert pluginctl.json("unhold", "acme/maps")["steps"][0]["kind"] == "unhold"
    assert pluginctl.json("hold", "acme/maps")["steps"][0]["kind"] == "hold"
    assert "acme/maps 1.0  held" in pluginctl("list").stdout
    pluginctl("uninstall", "acme/maps")
    assert "No plugin is installed" in pluginctl("list").stdout


def test_verify_names_faults_and_repair_mends_them(world: World, pluginctl: Command) -> None:
    with world.online():
        pluginctl("install", "acme/maps")
        directory = Path(pluginctl("path", "acme/maps").stdout.strip())
        (directory / "tiles").unlink()
        (directory / "maps.py").chmod(0o644)
        (directory / "maps.py").write_text("VERSION = 'evil'\n")
        (directory / "extra.pth").write_text("import os")
        text = pluginctl("verify", code=EXIT_CODES["corrupt"]).stdout
        assert "NOT GOOD" in text
        assert "damaged  maps.py" in text
        assert "missing  tiles" in text
        assert "foreign  extra.pth; never loaded" in text
        before = snapshot(world.directory / "store")
        assert "would mend" in pluginctl("repair", "--dry-run").stdout
        assert snapshot(world.directory / "store") == before
        assert "mended acme/maps 1.1: tiles (missing)" in pluginctl("repair").stdout
        assert pluginctl.json("verify", "acme/maps")[0]["good"] is True
        assert "Nothing to mend" in pluginctl("repair").stdout


@pytest.mark.parametrize(
    ("arguments", "family"),
    [
        (("install", "maps"), "invalid-input"),
        (("install", "acme/maps=>1"), "invalid-input"),
        (("install", "acme/nothing"), "not-found"),
        (("install", "acme/maps>=9"), "conflict"),
        (("rollback", "acme/maps"), "not-found"),
        (("path", "acme/other"), "not-found"),
        (("--root", "/nowhere/root.json", "install", "acme/maps"), "invalid-input"),
        (("--repository", "ftp://x/", "install", "acme/maps"), "invalid-input"),
        (("--repository", "http://127.0.0.1:9/", "install", "acme/maps==1.0"), "network"),
        (("--repository", "http://user:secret@127.0.0.1/", "list"), "invalid-input"),
        (("--host-version", "one", "list"), "invalid-input"),
    ],
)
def test_each_error_has_its_exit_code_a_remedy_and_no_effect(
    world: World, pluginctl: Command, arguments: tuple[str, ...], family: str
) -> None:
    with world.online():
        pluginctl("install", "acme/maps")
        before = snapshot(world.directory / "store")
        done = pluginctl(*arguments, code=EXIT_CODES[family])
        assert done.stderr.startswith("pluginctl: ")
        assert "Traceback" not in done.stderr
        assert "secret" not in done.stderr
        assert len(done.stderr.splitlines()) >= 2, "a remedy follows"
        error = pluginctl.json(*arguments, code=EXIT_CODES[family])["error"]
        assert error["family"] == family
        assert error["remedy"]
        assert snapshot(world.directory / "store") == before


def test_wrong_usage_is_exit_code_2(pluginctl: Command) -> None:
    assert "Usage" in pluginctl("install", code=2).stderr
    assert "No such command" in pluginctl("fly", code=2).stderr
    assert "Exit codes" in pluginctl("--help").stdout


def test_a_publishers_text_cannot_command_the_terminal(world: World, pluginctl: Command) -> None:
    world.publish(
        "globex/odd 1.0", {"x": "x"}, more='description = "\\u001b[2J\\u0007"'
    )  # fmt: skip
    world.withdraw("globex/odd 1.0", "yanked", "\x1b[31mred\x07 \u202eflip")
    with world.online():
        pluginctl("install", "globex/odd==1.0")
        text = pluginctl("show", "globex/odd").stdout
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text


def test_a_terminal_sees_percent_speed_and_time_left(world: World, pluginctl: Command) -> None:
    world.publish("globex/big 1.0", {"big": os.urandom(20_000_000)})
    with world.online():
        master, slave = pty.openpty()
        environment = {**pluginctl.environment, "PLUGINCTL_REPOSITORY": world.base_url}
        process = subprocess.Popen(
            pluginctl.arguments("install", "globex/big"),
            env=environment, stdout=slave, stderr=slave,
        )  # fmt: skip
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
        os.close(master)
        assert process.wait() == 0
    assert b"%" in shown
    assert b"B/s" in shown
    assert b"100%" in shown


def test_ctrl_c_leaves_what_arrived_for_the_next_attempt(world: World, pluginctl: Command) -> None:
    world.publish("globex/big 1.0", {"big": os.urandom(60_000_000)})
    with world.online():
        environment = {**pluginctl.environment, "PLUGINCTL_REPOSITORY": world.base_url}
        process = subprocess.Popen(
            pluginctl.arguments("install", "globex/big"), env=environment, stderr=subprocess.PIPE
        )
        staging = world.directory / "store/staging"
        deadline = time.monotonic() + 30
        while not any(staging.glob("*/big")) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode in {0, 130}, said
        if process.returncode == 130:
            assert b"run the command again to go on" in said
            assert pluginctl.json("list") == []
        pluginctl("install", "globex/big")
        assert pluginctl.json("verify")[0]["good"] is True


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4_200_000, "4.2 MB"), (9e14, "900.0 TB")],
)  # fmt: skip
def test_sizes_are_written_for_people(count: float, text: str) -> None:
    assert size(count) == text


def test_clean_keeps_plain_text_and_replaces_what_a_terminal_obeys() -> None:
    assert clean("Größe 中文\n") == "Größe 中文\n"
    assert clean("a\x1b[0m\rb\x9bc\u202ed") == "a�[0m�b�c�d"


@pytest.mark.parametrize("root", ["", "x", "{}", '{"signed": {}}', "[" * 5000, "null"])
@pytest.mark.parametrize("command", [("install", "acme/maps"), ("upgrade",)])
def test_a_malformed_root_is_named_and_makes_no_store(
    world: World, pluginctl: Command, root: str, command: tuple[str, ...]
) -> None:
    bad = world.directory / "bad-root.json"
    bad.write_text(root)
    with world.online():
        said = pluginctl("--root", str(bad), *command, code=EXIT_CODES["invalid-input"]).stderr
    assert str(bad) in said
    assert not (world.directory / "store").exists()
