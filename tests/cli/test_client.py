"""The operator's commands as processes: output, JSON, exit codes, and nothing changed on errors."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from plugin_manager.cli._output import EXIT_CODES, clean
from plugin_manager.model import size_text
from tests.disks import small_disk
from tests.nginx import bundle_bytes, needs_nginx, nginx
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

    def fails(self, family: str, *arguments: str) -> dict[str, Any]:
        """The error in JSON, after checking its exit code, its remedy and its words for people."""
        code = EXIT_CODES[family]
        error = self.json(*arguments, code=code)["error"]
        assert (error["family"], error["exit_code"]) == (family, code)
        assert error["remedy"]
        said = self(*arguments, code=code).stderr
        # How much of the disk is free may differ from one run to the next.
        words = error["message"] if family != "no-space" else error["message"].split(" needs ")[0]
        assert f"pluginctl: {words}" in said
        assert error["remedy"] in said or family == "no-space"
        assert "Traceback" not in said
        return error


def allocated_bytes(directory: Path) -> int:
    """The bytes that are really allocated below `directory`: holes do not count."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


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
    assert pluginctl.json("verify")["good"] is True
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
        assert pluginctl.json("verify", "acme/maps")["good"] is True
        assert "Nothing to mend" in pluginctl("repair").stdout


@pytest.mark.parametrize(
    ("arguments", "family"),
    [
        (("install", "maps"), "invalid-input"),
        (("install", "acme/maps=>1"), "invalid-input"),
        (("install", "acme/nothing"), "not-found"),
        (("install", "acme/maps>=9"), "conflict"),
        (("rollback", "acme/maps"), "not-found"),
        (("rollback", "acme/maps", "--to", "garbage!"), "invalid-input"),
        (("rollback", "acme/maps", "--to", "1.0 "), "invalid-input"),
        (("path", "acme/other"), "not-found"),
        (("--root", "/nowhere/root.json", "install", "acme/maps"), "invalid-input"),
        (("--repository", "ftp://x/", "install", "acme/maps"), "invalid-input"),
        (("--repository", "http://127.0.0.1:9/", "install", "acme/maps==1.0"), "network"),
        (("--repository", "http://user:secret@127.0.0.1/", "list"), "invalid-input"),
        (("--host-version", "one", "list"), "invalid-input"),
        (("--lock-timeout", "nan", "list"), "invalid-input"),
        (("--lock-timeout", "-1", "list"), "invalid-input"),
    ],
)
def test_each_error_has_its_exit_code_a_remedy_and_no_effect(
    world: World, pluginctl: Command, arguments: tuple[str, ...], family: str
) -> None:
    with world.online():
        pluginctl("install", "acme/maps")
        before = snapshot(world.directory / "store")
        done = pluginctl(*arguments, code=EXIT_CODES[family])
        lines = [line for line in done.stderr.splitlines() if "; trying again in " not in line]
        assert lines[0].startswith("pluginctl: ")
        assert "Traceback" not in done.stderr
        assert "secret" not in done.stderr
        assert len(lines) >= 2, "a remedy follows"
        error = pluginctl.json(*arguments, code=EXIT_CODES[family])["error"]
        assert error["family"] == family
        assert error["remedy"]
        assert snapshot(world.directory / "store") == before


def test_a_release_for_another_host_is_incompatible(world: World, pluginctl: Command) -> None:
    world.publish("acme/needy 1.0", {"x": "x"}, requires='host = ">=4"')
    with world.online():
        error = pluginctl.fails("incompatible", "--host-version", "1.0", "install", "acme/needy")
        assert error["need"] == ">= 4"
        assert error["have"] == "1.0"
        pluginctl("--host-version", "4.0", "install", "acme/needy")


def test_changing_a_held_and_removing_a_needed_plugin_is_refused(
    world: World, pluginctl: Command
) -> None:
    world.publish("acme/atlas 1.0", {"x": "x"}, requires='plugins = ["acme/maps"]')
    with world.online():
        pluginctl("install", "acme/atlas")
        assert "acme/atlas" in pluginctl.fails("refused", "uninstall", "acme/maps")["remedy"]
        pluginctl("hold", "acme/maps")
        held = pluginctl.fails("refused", "install", "acme/maps==1.0")
        assert "unhold acme/maps" in held["remedy"]
    assert len(pluginctl.json("list")) == 2


def test_going_back_to_a_blocked_release_is_blocked_with_the_publishers_reason(
    world: World, pluginctl: Command
) -> None:
    with world.online():
        pluginctl("install", "acme/maps==1.0")
        pluginctl("upgrade")
        world.withdraw("acme/maps 1.0", "blocked", "draws borders wrong")
        pluginctl("upgrade")  # brings the news
    error = pluginctl.fails("blocked", "rollback", "acme/maps")
    assert error["reason"] == "draws borders wrong"
    assert pluginctl.json("list")[0]["version"] == "1.1"


def test_a_store_that_another_process_writes_is_locked(world: World, pluginctl: Command) -> None:
    with world.online():
        pluginctl("install", "acme/maps==1.0")
        with FileLock(world.directory / "store/lock"):
            pluginctl.fails("locked", "--lock-timeout", "0", "upgrade")
            assert pluginctl.json("list")[0]["version"] == "1.0", "readers take no lock"
        assert pluginctl.json("upgrade")["steps"], "control: it was the lock"


def test_a_repository_that_the_root_does_not_vouch_for_is_untrusted(
    world: World, pluginctl: Command, tmp_path: Path
) -> None:
    other = World(tmp_path / "other")
    with world.online():
        pluginctl.fails("untrusted", "--root", str(other.root), "install", "acme/maps")
    assert not (world.directory / "store/releases/acme").exists()


def test_a_repository_that_nobody_signs_any_more_is_expired(
    world: World, pluginctl: Command
) -> None:
    world.clock.advance(days=-400)
    world.publish("acme/maps 1.2", {"maps.py": ""})
    with world.online():
        pluginctl.fails("expired", "install", "acme/maps")
    assert not (world.directory / "store/releases/acme").exists()


def test_damage_to_the_stores_own_records_is_corrupt(world: World, pluginctl: Command) -> None:
    with world.online():
        pluginctl("install", "acme/maps")
    (world.directory / "store/current").write_text("x")
    assert pluginctl.fails("corrupt", "list")["paths"] == ["current"]
    pluginctl("repair")
    assert pluginctl.json("list")[0]["version"] == "1.1"


def test_a_store_that_cannot_be_a_directory_is_the_stores_error(
    world: World, pluginctl: Command
) -> None:
    file = world.directory / "file"
    file.write_text("mine")
    with world.online():
        for store in (file, file / "below"):
            pluginctl.fails("store", "--store", str(store), "install", "acme/maps")
    assert file.read_text() == "mine"


def test_a_disk_that_is_too_small_is_no_space_before_anything_is_fetched(
    world: World, pluginctl: Command
) -> None:
    published = world.publish("globex/big 1.0", {"big": os.urandom(3_000_000)})
    with small_disk(world.directory / "disk", 2_000_000) as disk, world.online():
        store = str(disk / "store")
        error = pluginctl.fails("no-space", "--store", store, "install", "globex/big")
        assert error["needed_bytes"] > 3_000_000 > error["free_bytes"] > 0
        assert world.fetched() < published.length // 4
        pluginctl("--store", store, "install", "acme/maps")


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


@needs_nginx
def test_a_terminal_sees_percent_speed_and_time_left(world: World, pluginctl: Command) -> None:
    world.publish("globex/big 1.0", {"big": os.urandom(20_000_000)})
    with nginx(world.repository.public, "limit_rate 1m;") as (url, _):
        master, slave = pty.openpty()
        process = subprocess.Popen(
            pluginctl.arguments("install", "globex/big"),
            env={**pluginctl.environment, "PLUGINCTL_REPOSITORY": url}, stdout=slave, stderr=slave,
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
    assert re.search(rb"\b[1-9]\d?%", shown)
    assert b"B/s" in shown
    assert re.search(rb"\d:\d\d\b", shown), "time left"
    assert b"100%" in shown


@needs_nginx
def test_ctrl_c_leaves_what_arrived_for_the_next_attempt(world: World, pluginctl: Command) -> None:
    published = world.publish("globex/big 1.0", {"big": os.urandom(40_000_000)})
    staging = world.directory / "store/staging"
    with nginx(world.repository.public, "limit_rate 15m;") as (url, _):
        process = subprocess.Popen(
            pluginctl.arguments("install", "globex/big"),
            env={**pluginctl.environment, "PLUGINCTL_REPOSITORY": url}, stderr=subprocess.PIPE,
        )  # fmt: skip
        while allocated_bytes(staging) < 10_000_000:
            assert process.poll() is None, "it ended before it could be interrupted"
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert b"goes on with it" in said
    assert b"Traceback" not in said
    assert pluginctl.json("list") == []
    kept = allocated_bytes(staging)
    assert kept >= 10_000_000
    with nginx(world.repository.public) as (world.base_url, log):
        pluginctl("install", "globex/big")
        assert bundle_bytes(log) <= published.length - kept + 3_000_000
    assert pluginctl.json("verify")["good"] is True


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4_200_000, "4.2 MB"), (9e14, "900.0 TB")],
)  # fmt: skip
def test_sizes_are_written_for_people(count: float, text: str) -> None:
    assert size_text(count) == text


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
