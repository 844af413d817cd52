"""outdated, search and info: offline, from what was last fetched; the same facts as JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_client import Command
from tests.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.publish("acme/maps 1.0", {"maps.py": "x = 1"}, more='license = "MIT"')
    world.publish("acme/maps 1.1", {"maps.py": "x = 2"}, more='license = "MIT"')
    world.publish("acme/tiles 1.0", {"t.py": "x"}, more='description = "For offline MAPS."')
    world.publish("globex/model 2.0", {"m.py": "x"}, requires='host = ">=9"')
    return world


@pytest.fixture
def pluginctl(world: World) -> Command:
    command = Command(world)
    with world.online():
        command("install", "acme/maps==1.0")
        command("update")
    world.base_url = ""
    command.environment["PLUGINCTL_HOST_VERSION"] = "1.0"
    return command


def test_what_a_newer_release_fits_is_outdated(world: World, pluginctl: Command) -> None:
    assert pluginctl("outdated").stdout.splitlines()[1].split() == ["acme/maps", "1.0", "1.1"]
    (found,) = pluginctl.json("outdated")
    assert (found["plugin"], found["newest"], found["active"]["version"]) == (
        "acme/maps", "1.1", "1.0",
    )  # fmt: skip
    with world.online():
        pluginctl("upgrade")
        world.withdraw("acme/maps 1.0", "blocked", "leaks tokens")
    assert "Nothing newer is known" in pluginctl("outdated").stdout
    assert pluginctl.json("outdated") == []


def test_outdated_asks_first_where_told_to(world: World, pluginctl: Command) -> None:
    with world.online():
        world.publish("acme/maps 3.0", {"maps.py": "x = 3"})
        assert pluginctl.json("outdated")[0]["newest"] == "1.1"
        assert pluginctl.json("outdated", "--update")[0]["newest"] == "3.0"


def test_search_tells_what_there_is_and_why_it_does_not_fit(pluginctl: Command) -> None:
    lines = pluginctl("search").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["*", "acme/tiles", "globex/model"]
    assert "needs host >= 9, this host is 1.0" in lines[3]
    assert [one["plugin"] for one in pluginctl.json("search", "maps")] == [
        "acme/maps", "acme/tiles",
    ]  # fmt: skip
    assert pluginctl.json("search", "MAPS", "offline")[0]["plugin"] == "acme/tiles"
    assert "pluginctl update" in pluginctl("search", "nothing").stdout


def test_info_of_what_is_not_installed(pluginctl: Command) -> None:
    text = pluginctl("info", "globex/model").stdout
    assert "2.0, which does not fit" in text
    assert "needs host >= 9, this host is 1.0" in text
    found = pluginctl.json("info", "acme/maps")
    assert found["license"] == "MIT"
    assert [one["version"] for one in found["releases"]] == ["1.1", "1.0"]
    assert found["active"]["version"] == "1.0"
    pluginctl.fails("not-found", "info", "acme/nothing")


def test_what_a_publisher_writes_commands_no_terminal(world: World, pluginctl: Command) -> None:
    evil = "\\u001b[2J\\u202e"
    world.publish(
        "acme/odd 1.0", {"o.py": "x"}, more=f'description = "{evil}"\nhomepage = "{evil}x"'
    )
    with world.online():
        pluginctl("update")
    pluginctl.environment["FORCE_COLOR"] = "1"
    for arguments in (("info", "acme/odd"), ("search", "odd")):
        text = pluginctl(*arguments).stdout
        assert "\x1b[2J" not in text
        assert "\u202e" not in text


def test_show_of_what_is_only_listed_says_where_that_is_told(pluginctl: Command) -> None:
    assert pluginctl.fails("not-found", "show", "globex/model")["remedy"] == (
        "'pluginctl info globex/model' tells what is known of it."
    )
    remedy = pluginctl.fails("not-found", "show", "globex/nothing")["remedy"]
    assert "info" not in remedy
    assert "pluginctl update globex/nothing" in remedy  # without its name it would be in vain
