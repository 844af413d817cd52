"""doctor: everything that it looks for is broken here for real, and mended by what it says."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from plugin_manager.cli._doctor import FOUND_PROBLEMS
from tests.cli.test_client import Command
from tests.disks import small_disk
from tests.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.publish("acme/maps 1.0", {"maps.py": "x = 1", "tiles": os.urandom(5_000)})
    return world


@pytest.fixture
def pluginctl(world: World) -> Command:
    command = Command(world)
    with world.online():
        command("install", "acme/maps")
    world.base_url = ""
    return command


def found(pluginctl: Command, *flags: str, code: int = 0, offline: bool = True) -> dict[str, Any]:
    """The findings by topic, the worst of each; good ones, and that no agent runs, are left out."""
    arguments = (*flags, "doctor", *(["--offline"] if offline else []))
    worst: dict[str, Any] = {}
    for one in pluginctl.json(*arguments, code=code)["findings"]:
        if one["state"] != "good" and (one["topic"], one["state"]) != ("agent", "note"):
            worst.setdefault(one["topic"], one)
            assert one["remedy"] or one["state"] == "note", one
    return worst


def test_a_sound_store_is_well(world: World, pluginctl: Command) -> None:
    with world.online():
        assert found(pluginctl, offline=False) == {}
        text = pluginctl("doctor").stdout
    assert "All is well." in text
    assert "answers in" in text
    quiet = pluginctl("--quiet", "doctor", "--offline").stdout.splitlines()
    assert [line.split()[:2] for line in quiet] == [["note", "agent"]]


def test_a_store_that_is_not_there_yet_is_no_problem(world: World, pluginctl: Command) -> None:
    flags = ("--store", str(world.directory / "none"))
    assert {topic: one["state"] for topic, one in found(pluginctl, *flags).items()} == {
        "store": "note", "metadata": "warning",
    }  # fmt: skip
    assert not (world.directory / "none").exists()


def test_settings_that_are_wrong(pluginctl: Command) -> None:
    pluginctl.environment["PLUGINCTL_JOBS"] = "many"
    wrong = found(pluginctl, code=FOUND_PROBLEMS)
    assert "PLUGINCTL_JOBS" in wrong["settings"]["text"]


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_root_that_is_none(world: World, pluginctl: Command, content: str | None) -> None:
    if content is None:
        del pluginctl.environment["PLUGINCTL_ROOT"]
    else:
        world.root.write_text(content)
    assert set(found(pluginctl, code=FOUND_PROBLEMS)) == {"root"}


def test_a_store_that_is_a_file(world: World, pluginctl: Command) -> None:
    path = world.directory / "file"
    path.write_text("")
    wrong = found(pluginctl, "--store", str(path), code=FOUND_PROBLEMS)
    assert "is not a directory" in wrong["store"]["text"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_store_that_everybody_may_write_to(world: World, pluginctl: Command) -> None:
    (world.directory / "store").chmod(0o777)
    assert "everybody" in found(pluginctl, code=FOUND_PROBLEMS)["store"]["text"]
    (world.directory / "store").chmod(0o755)
    assert found(pluginctl) == {}


def test_a_disk_that_only_reads(world: World, pluginctl: Command) -> None:
    with small_disk(world.directory / "disk", 1_000_000) as disk:
        flags = ("--store", str(disk))
        assert "store" not in found(pluginctl, *flags)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        wrong = found(pluginctl, *flags, code=FOUND_PROBLEMS)
        assert "Read-only" in wrong["store"]["text"]


def test_a_disk_that_is_full(world: World, pluginctl: Command) -> None:
    with small_disk(world.directory / "disk", 2_000_000) as disk:
        flags = ("--store", str(disk / "store"))
        assert "disk" not in found(pluginctl, *flags)
        (disk / "filler").write_bytes(bytes(1_960_000))
        assert "must stay free" in found(pluginctl, *flags, code=FOUND_PROBLEMS)["disk"]["text"]


def test_a_disk_that_is_full_to_the_last_byte(world: World, pluginctl: Command) -> None:
    pluginctl.environment["PLUGINCTL_MIN_FREE"] = "0"
    with small_disk(world.directory / "disk", 2_000_000) as disk:
        flags = ("--store", str(disk / "store"))
        assert "disk" not in found(pluginctl, *flags)
        with suppress(OSError), (disk / "filler").open("wb") as file:
            while True:
                file.write(bytes(4096))
        assert "0 B are free" in found(pluginctl, *flags, code=FOUND_PROBLEMS)["disk"]["text"]


def test_a_disk_without_inodes(world: World, pluginctl: Command) -> None:
    with small_disk(world.directory / "disk", 2_000_000) as disk:
        flags = ("--store", str(disk / "store"))
        subprocess.run(["mount", "-o", "remount,nr_inodes=5000", str(disk)], check=True)
        assert "inodes" not in found(pluginctl, *flags)
        subprocess.run(["mount", "-o", "remount,nr_inodes=20", str(disk)], check=True)
        assert "inodes" in found(pluginctl, *flags, code=FOUND_PROBLEMS)


def test_a_clock_that_went_back(world: World, pluginctl: Command) -> None:
    later = time.time() + 3_600
    os.utime(world.directory / "store/trust/current", (later, later))
    assert "60 minutes" in found(pluginctl, code=FOUND_PROBLEMS)["clock"]["text"]


def test_metadata_that_expires(tmp_path: Path) -> None:
    for days, state, code in ((-2, "warning", 0), (-40, "problem", FOUND_PROBLEMS)):
        world = World(tmp_path / str(days))
        world.publish("acme/maps 1.0", {"maps.py": "x = 1"})
        pluginctl = Command(world)
        with world.online():
            pluginctl("install", "acme/maps")
        # The timestamp is good for a day: the clock of the command is put forward.
        (world.directory / "sitecustomize.py").write_text(
            "import datetime, time\n"
            "class Later(datetime.datetime):\n"
            "    @classmethod\n"
            "    def now(cls, tz=None):\n"
            f"        return super().now(tz) + datetime.timedelta(days={1 - days})\n"
            "datetime.datetime = Later\n"
        )
        path = pluginctl.environment["PYTHONPATH"]
        pluginctl.environment["PYTHONPATH"] = f"{world.directory}:{path}"
        wrong = found(pluginctl, code=code)
        assert wrong["metadata"]["state"] == state
        assert "expired" in wrong["metadata"]["text"]


def test_a_writer_that_holds_the_lock(world: World, pluginctl: Command) -> None:
    with FileLock(world.directory / "store/lock"):
        assert "another process is writing" in found(pluginctl)["lock"]["text"]
    assert found(pluginctl) == {}
    (world.directory / "store/lock-holder").write_text("pluginctl, process 1")
    assert found(pluginctl)["lock"]["state"] == "note"


def test_a_release_that_lost_a_file(world: World, pluginctl: Command) -> None:
    directory = Path(pluginctl("path", "acme/maps").stdout.strip())
    (directory / "tiles").unlink()
    wrong = found(pluginctl, code=FOUND_PROBLEMS)["plugins"]
    assert "tiles" in wrong["text"]
    assert "pluginctl repair acme/maps" in wrong["remedy"]
    with world.online():
        pluginctl("repair", "acme/maps")
    assert found(pluginctl) == {}


def test_records_that_are_damaged(world: World, pluginctl: Command) -> None:
    current = world.directory / "store/current"
    current.write_bytes(current.read_bytes().replace(b"acme", b"acne"))
    assert "damaged" in found(pluginctl, code=FOUND_PROBLEMS)["plugins"]["text"]


def test_a_host_that_a_plugin_no_longer_fits(world: World, pluginctl: Command) -> None:
    world.publish("acme/new 1.0", {"n.py": "x"}, requires='host = ">=4"')
    with world.online():
        pluginctl("--host-version", "4.0", "install", "acme/new")
    assert found(pluginctl, "--host-version", "4.1") == {}
    wrong = found(pluginctl, "--host-version", "3.0", code=FOUND_PROBLEMS)
    assert "acme/new 1.0 needs host >= 4, this host is 3.0" in wrong["plugins"]["text"]


def test_a_repository_that_does_not_answer(world: World, pluginctl: Command) -> None:
    world.base_url = "http://127.0.0.1:9/"
    assert "repository" in found(pluginctl, code=FOUND_PROBLEMS, offline=False)
    assert found(pluginctl) == {}, "offline nobody is asked"
    world.base_url = ""
    assert found(pluginctl, offline=False)["repository"]["state"] == "warning"


def test_certificates_and_proxies_are_told_without_passwords(pluginctl: Command) -> None:
    pluginctl.environment |= {
        "PLUGINCTL_CA_BUNDLE": "/nowhere/ca.pem",
        "http_proxy": "http://me:s3cret@127.0.0.1:9",
        "HTTP_PROXY": "http://me:s3cret@127.0.0.1:9",
        "no_proxy": "",
        "NO_PROXY": "",
    }
    pluginctl.world.base_url = "http://plugins.example.org/"
    pluginctl.environment["PLUGINCTL_INSECURE_HTTP"] = "1"
    wrong = found(pluginctl, code=FOUND_PROBLEMS, offline=False)
    assert "127.0.0.1:9" in wrong["proxies"]["text"]
    assert "/nowhere/ca.pem" in wrong["certificates"]["text"]
    assert "s3cret" not in str(wrong)


def test_an_index_that_is_damaged(world: World, pluginctl: Command) -> None:
    stored = next((world.directory / "store/trust/sets").glob("*/indexes/acme.json"))
    stored.write_bytes(stored.read_bytes() + b" ")
    assert "acme.json" in found(pluginctl)["metadata"]["text"]
    with world.online():
        pluginctl("update")
    assert found(pluginctl) == {}
