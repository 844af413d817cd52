"""The commands for the room on the disk, and for the history that they leave, as processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plugin_manager.cli._output import EXIT_CODES, change_text, shortened, table
from plugin_manager.model import Digest, PluginName, Release, parse_version
from plugin_manager.store import Active, Change
from tests.cli.test_client import Command
from tests.world import World, snapshot

SIZE = 200_000
COLD = ("acme/maps", "acme/tiles", "globex/icons")  # in the order in which they are installed


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    for plugin in COLD:
        name = plugin.split("/")[1]
        common = os.urandom(SIZE)
        for version in ("1.0", "1.1"):
            world.publish(
                f"{plugin} {version}",
                {"common": common, "own": os.urandom(SIZE), f"{name}.py": f"V = {version!r}\n"},
            )
    return world


@pytest.fixture
def pluginctl(world: World) -> Command:
    """A command whose store has all three plugins at 1.1 and, but for the last, 1.0 too."""
    with world.online():
        manager = world.manager()
        for plugin in COLD[:2]:
            manager.install(f"{plugin}==1.0")
            manager.upgrade(plugin)
        manager.install(COLD[2])
        for plugin in COLD:
            manager.load(plugin)
        manager.close()
    return Command(world)


def store(command: Command) -> dict[str, bytes | str | None]:
    """What is in the store, without its index, which is rebuilt from the rest."""
    found = snapshot(command.world.directory / "store")
    return {name: data for name, data in found.items() if not name.startswith("index/cache.db")}


def unchanged_by(command: Command, *arguments: str, code: int = 0) -> str:
    before = store(command)
    done = command(*arguments, code=code)
    assert store(command) == before
    return done.stdout


@contextmanager
def loaded_elsewhere(command: Command, plugin: str) -> Iterator[None]:
    """Another process has `plugin` loaded."""
    program = (
        "import sys, time; from plugin_manager import PluginManager; "
        f"m = PluginManager.open(); m.load({plugin!r}); print('loaded', flush=True); "
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=command.environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    with process:
        assert process.stdout.readline() == "loaded\n"
        yield
        process.stdin.close()


def rows(text: str) -> dict[tuple[str, str], list[str]]:
    """The cells of the table in `text` by plugin and release."""
    lines = text.split("\n\n", 1)[1].splitlines()
    cells = [re.split(r"  +", line) for line in lines[1:]]
    return {(cell[0], cell[1]): cell[2:] for cell in cells}


# --- storage -------------------------------------------------------------------------------------


def test_storage_shows_sizes_reasons_and_the_order_of_eviction(pluginctl: Command) -> None:
    pluginctl("pin", "acme/tiles")
    with loaded_elsewhere(pluginctl, "globex/icons"):
        text = unchanged_by(pluginctl, "storage")
        value = pluginctl.json("storage")
    assert re.search(r"^used +[12]\.\d MB: releases 1\.\d MB, unfinished downloads ", text)
    assert re.search(r"^available +\d+\.\d [MGT]B without evicting anything$", text, re.M)
    assert max(map(len, text.splitlines())) <= 100
    shown = rows(text)
    assert list(shown) == sorted(shown)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert shown["acme/maps", "1.0"][3:] == ["never", "previous", "1"]
    assert shown["acme/maps", "1.1"][4:] == ["active", "2"]
    assert shown["acme/maps", "1.1"][3] <= today
    assert shown["acme/tiles", "1.0"][4:] == ["previous, pinned", "-"]
    assert shown["acme/tiles", "1.1"][4:] == ["active, pinned", "-"]
    assert shown["globex/icons", "1.1"][4:] == ["active, loaded now", "-"]
    releases = {(one["plugin"], one["version"]): one for one in value["releases"]}
    one = releases["acme/maps", "1.0"]
    assert one["kept"] == "previous"
    assert one["total_bytes"] == one["unique_bytes"] + one["shared_bytes"]
    assert SIZE <= one["unique_bytes"] < SIZE + 20_000, "its own file"
    assert SIZE <= one["shared_bytes"] < SIZE + 20_000, "the file that 1.1 has too"
    assert one["last_loaded"] is None
    assert one["eviction_order"] == 1
    icons = releases["globex/icons", "1.1"]
    assert icons["loaded_now"] is True
    assert icons["last_loaded"].endswith("Z")
    assert icons["eviction_order"] is None
    assert value["evicted"] == []
    assert value["used_bytes"] == sum(
        value[f"{part}_bytes"] for part in ("release", "unfinished", "record")
    )
    assert value["budget_bytes"] is None


def test_what_was_evicted_stays_installed_and_is_marked(pluginctl: Command) -> None:
    assert "evicted acme/maps 1.1 (active, " in pluginctl("evict", "600kB").stdout
    text = pluginctl("storage").stdout
    assert rows(text)["acme/maps", "1.1"] == ["-", "-", "-", "-", "active, not on this disk", "-"]
    assert [one["plugin"] for one in pluginctl.json("storage")["evicted"]] == ["acme/maps"]
    assert "acme/maps 1.1  on trial (0 of 3), not on this disk\n" in pluginctl("list").stdout
    listed = {one["plugin"]: one for one in pluginctl.json("list")}
    assert listed["acme/maps"]["on_disk"] is False
    assert listed["acme/tiles"]["on_disk"] is True
    with pluginctl.world.online():
        pluginctl("repair", "acme/maps")
    assert "not on this disk" not in pluginctl("list").stdout


def test_looking_does_not_even_write_the_index(pluginctl: Command) -> None:
    index = pluginctl.world.directory / "store/index"
    before = snapshot(index)
    assert before["cache.db"]
    pluginctl("storage")
    pluginctl("gc", "--dry-run")
    assert snapshot(index) == before


def test_storage_of_no_store_is_empty_and_makes_none(world: World) -> None:
    command = Command(world)
    assert command.json("--max-store", "20GB", "storage")["available_bytes"] > 0
    assert "PLUGIN" not in command("storage").stdout
    assert not (world.directory / "store").exists()


def test_a_date_that_is_none_is_no_date(pluginctl: Command) -> None:
    head = next(
        one["head"] for one in pluginctl.json("storage")["releases"] if one["last_loaded"] is None
    )
    usage = pluginctl.world.directory / "store/index/usage"
    before = usage.read_text()
    usage.write_text(f"{before}{head} l 1000000000\n")
    assert "2001-09-09" in pluginctl("storage").stdout, "control: the line is read"
    usage.write_text(f"{before}{head} l 999999999999\n")
    assert "Traceback" not in pluginctl("storage").stderr


# --- gc, evict, delete ---------------------------------------------------------------------------


def test_gc_tells_what_it_removes_and_a_dry_run_removes_nothing(pluginctl: Command) -> None:
    directory = pluginctl.world.directory / "store"
    temporary = directory / "manifests/.tmp-0123456789abcdef"
    assert pluginctl.json("gc")["garbage"] == []
    temporary.write_bytes(bytes(10_000))
    told = unchanged_by(pluginctl, "gc", "--dry-run")
    assert "would remove temporary manifests/.tmp-0123456789abcdef (12.3 kB)\n" in told
    assert "would free 12.3 kB in all" in told
    dry = pluginctl.json("gc", "--dry-run")
    assert dry["dry_run"] is True
    assert [(one["kind"], one["size_bytes"]) for one in dry["garbage"]] == [("temporary", 12288)]
    done = pluginctl.json("gc")
    assert {**done, "dry_run": True} == dry
    assert not temporary.exists()
    assert "Nothing to remove" in pluginctl("gc").stdout


def test_gc_keeps_an_unfinished_download_unless_told(pluginctl: Command) -> None:
    download = pluginctl.world.directory / "store/staging" / ("a" * 64)
    download.mkdir()
    (download / "part").write_bytes(bytes(50_000))
    assert "Nothing to remove" in pluginctl("gc").stdout
    assert "would remove download staging/aaaa" in unchanged_by(
        pluginctl, "gc", "--dry-run", "--unfinished"
    )
    assert pluginctl.json("storage")["unfinished_bytes"] > 50_000
    assert pluginctl.json("gc", "--unfinished")["garbage"][0]["kind"] == "download"
    assert not download.exists()


def test_gc_evicts_what_is_over_the_budget(pluginctl: Command) -> None:
    used = pluginctl.json("storage")["used_bytes"]
    assert pluginctl.json("--max-store", str(used), "gc", "--dry-run")["evicted"] == []
    budget = ("--max-store", str(used - 100_000))
    assert "would evict acme/maps 1.0 (previous, " in unchanged_by(
        pluginctl, *budget, "gc", "--dry-run"
    )
    assert [one["version"] for one in pluginctl.json(*budget, "gc")["evicted"]] == ["1.0"]
    assert pluginctl.json("storage")["used_bytes"] <= used - 100_000


def test_a_dry_run_of_gc_evicts_as_much_as_gc_does(pluginctl: Command) -> None:
    (pluginctl.world.directory / "store/staging/.tmp-left").write_bytes(bytes(300_000))
    budget = ("--max-store", str(pluginctl.json("storage")["used_bytes"] - 350_000))
    dry = pluginctl.json(*budget, "gc", "--dry-run")
    assert {**pluginctl.json(*budget, "gc"), "dry_run": True} == dry


def test_evict_frees_at_least_what_was_asked_the_coldest_first(pluginctl: Command) -> None:
    told = unchanged_by(pluginctl, "evict", "300kB", "--dry-run")
    assert re.findall("would evict (.*?) [(]", told) == ["acme/maps 1.0", "acme/maps 1.1"]
    used = pluginctl.json("storage")["used_bytes"]
    done = pluginctl.json("evict", "300kB")
    assert [(one["plugin"], one["version"]) for one in done["evicted"]] == [
        ("acme/maps", "1.0"),
        ("acme/maps", "1.1"),
    ]
    assert done["freed_bytes"] >= 300_000
    assert pluginctl.json("storage")["used_bytes"] <= used - 300_000


def test_what_is_pinned_or_loaded_is_not_evicted(pluginctl: Command) -> None:
    pluginctl("pin", "acme/maps")
    with loaded_elsewhere(pluginctl, "acme/tiles"):
        told = unchanged_by(pluginctl, "evict", "600kB", "--dry-run")
        assert re.findall("would evict (.*?) [(]", told) == ["globex/icons 1.1", "acme/tiles 1.0"]
        before = store(pluginctl)
        error = pluginctl.fails("no-space", "evict", "5MB")
        assert error["needed_bytes"] == 5_000_000
        assert error["free_bytes"] >= 600_000
        assert store(pluginctl) == before, "all or nothing"
        pluginctl("unpin", "acme/maps")
        told = unchanged_by(pluginctl, "evict", "1MB", "--dry-run")
        assert "would evict acme/maps 1.1" in told, "control: it was the pin"
        assert "tiles 1.1" not in told
    told = unchanged_by(pluginctl, "evict", "1.3MB", "--dry-run")
    assert "would evict acme/tiles 1.1" in told, "control: it was the load"


def test_delete_removes_what_is_not_active_at_once(pluginctl: Command) -> None:
    told = unchanged_by(pluginctl, "delete", "acme/maps", "--dry-run")
    assert "would delete acme/maps 1.0 (previous, " in told
    assert "is active" in pluginctl.fails("refused", "delete", "acme/maps", "1.1")["message"]
    pluginctl.fails("not-found", "delete", "acme/maps", "3.0")
    assert pluginctl.json("delete", "acme/maps", "1.0", "--dry-run")["freed_bytes"] >= SIZE
    assert "deleted acme/maps 1.0 (previous, " in pluginctl("delete", "acme/maps", "1.0").stdout
    pluginctl.fails("not-found", "delete", "acme/maps")
    assert ("acme/maps", "1.0") not in rows(pluginctl("storage").stdout)
    assert pluginctl.json("verify")["good"] is True


# --- pins, generations, the list -----------------------------------------------------------------


def test_pin_and_unpin_are_changes_that_the_history_tells(pluginctl: Command) -> None:
    assert unchanged_by(pluginctl, "pin", "acme/maps", "--dry-run") == "would pin acme/maps\n"
    assert pluginctl.json("pin", "acme/maps")["steps"][0]["kind"] == "pin"
    pluginctl("hold", "acme/maps")
    assert "acme/maps 1.1  held, pinned, on trial (0 of 3)\n" in pluginctl("list").stdout
    assert pluginctl.json("list")[0]["pinned"] is True
    assert "unpin acme/maps" in pluginctl("unpin", "acme/maps").stdout
    told = [line.split("Z  ")[1] for line in pluginctl("history").stdout.splitlines()]
    assert told[:3] == ["unpin acme/maps", "hold acme/maps", "pin acme/maps"]
    assert pluginctl.json("pin", "acme/none", code=EXIT_CODES["not-found"])["error"]


def test_history_tells_changes_and_marks_the_current_generation(pluginctl: Command) -> None:
    pluginctl("rollback", "acme/maps")
    pluginctl("uninstall", "globex/icons")
    lines = unchanged_by(pluginctl, "history").splitlines()
    assert [line[0] for line in lines] == ["*", *" " * 6]
    assert [line.split("Z  ")[1] for line in lines] == [
        "- globex/icons 1.1",
        "acme/maps 1.1 -> 1.0 (hold)",
        "+ globex/icons 1.1",
        "acme/tiles 1.0 -> 1.1",
        "+ acme/tiles 1.0",
        "acme/maps 1.0 -> 1.1",
        "+ acme/maps 1.0",
    ]
    value = pluginctl.json("history")
    assert [(one["number"], one["current"]) for one in value][:2] == [(7, True), (6, False)]
    assert value[1]["changes"][0]["after"]["held"] is True
    text = unchanged_by(pluginctl, "history", "5")
    assert text.startswith("generation 5  2")
    assert text.endswith(
        "  + globex/icons 1.1\nactive in it: 3\n"
        "  acme/maps 1.1\n  acme/tiles 1.1\n  globex/icons 1.1\n"
    )
    assert [one["version"] for one in pluginctl.json("history", "5")["active"]] == ["1.1"] * 3
    assert pluginctl.json("history", "0")["active"] == []
    pluginctl.fails("not-found", "history", "99")


def test_rollback_to_a_generation_brings_all_of_it_back(pluginctl: Command) -> None:
    pluginctl("rollback", "acme/maps")
    pluginctl("uninstall", "globex/icons")
    told = unchanged_by(pluginctl, "rollback", "--generation", "5", "--dry-run")
    assert "would install globex/icons 1.1\n" in told
    assert "would upgrade acme/maps 1.0 -> 1.1\n" in told
    value = pluginctl.json("rollback", "--generation", "5")
    assert {step["kind"] for step in value["steps"]} == {"install", "upgrade"}
    assert [(one["plugin"], one["version"]) for one in pluginctl.json("list")] == [
        (plugin, "1.1") for plugin in COLD
    ]
    pluginctl.fails("not-found", "rollback", "--generation", "99")


def test_plugins_of_the_system_store_are_listed_as_such(pluginctl: Command) -> None:
    system = str(pluginctl.world.directory / "store")
    own = str(pluginctl.world.directory / "own")
    both = ("--store", own, "--system-store", system)
    with pluginctl.world.online():
        pluginctl(*both, "install", "acme/maps==1.0")
    text = unchanged_by(pluginctl, *both, "list")
    assert text == "acme/maps 1.0\nacme/tiles 1.1  system\nglobex/icons 1.1  system\n"
    assert [one["system"] for one in pluginctl.json(*both, "list")] == [False, True, True]
    assert "system" not in pluginctl("--store", own, "list").stdout


def test_wrong_usage_is_said_and_changes_nothing(pluginctl: Command) -> None:
    for arguments in [
        ("rollback",),
        ("rollback", "acme/maps", "--generation", "1"),
        ("rollback", "--generation", "1", "--to", "1.0"),
        ("rollback", "--generation", "-1"),
        ("history", "one"),
        ("history", "9" * 400),
        ("evict",),
        ("evict", "-5"),
        ("delete",),
        ("pin",),
        ("gc", "acme/maps"),
        ("storage", "acme/maps"),
    ]:
        unchanged_by(pluginctl, *arguments, "--json", code=2)
    assert pluginctl.json("rollback", code=2)["error"]["family"] == "usage"


def test_malformed_arguments_are_named(pluginctl: Command) -> None:
    for arguments, named in [
        (("evict", "much"), "'much'"),
        (("evict", ""), "SIZE"),
        (("evict", "--", "-5"), "'-5'"),
        (("--max-store", "much", "storage"), "'much'"),
        (("delete", "acme"), "acme"),
        (("delete", "acme/maps", "new!"), "new!"),
        (("pin", "maps"), "maps"),
    ]:
        assert named in pluginctl(*arguments, code=EXIT_CODES["invalid-input"]).stderr


# --- space plans ---------------------------------------------------------------------------------


@pytest.fixture
def large(world: World) -> Iterator[World]:
    world.publish("globex/large 1.0", {"large": os.urandom(700_000)})
    with world.online():
        yield world


def budget(command: Command, room: int) -> tuple[str, str]:
    """The options with which the store may grow by `room`."""
    return "--max-store", str(command.json("storage")["used_bytes"] + room)


def test_an_install_tells_what_it_needs_and_evicts_before_it_fetches(
    pluginctl: Command, large: World
) -> None:
    bound = budget(pluginctl, 500_000)
    dry = pluginctl.json(*bound, "install", "globex/large", "--dry-run")
    space = dry["space"]
    assert space["needed_bytes"] >= 1.2 * 700_000
    first = space["evict"][0]
    assert (first["plugin"], first["version"]) == ("acme/maps", "1.0")
    assert space["missing_bytes"] == 0
    assert space["freed_bytes"] + 500_000 >= space["needed_bytes"]
    assert set(space) == {
        "needed_bytes", "used_bytes", "budget_bytes", "free_bytes", "floor_bytes", "evict",
        "freed_bytes", "missing_bytes",
    }  # fmt: skip
    told = pluginctl(*bound, "install", "globex/large", "--dry-run").stdout
    assert re.search(r"^space: needs \d+\.\d kB at its peak; evicts acme/maps 1.0 \(", told, re.M)
    assert pluginctl.json("storage")["evicted"] == [], "a dry run evicts nothing"
    done = pluginctl(*bound, "install", "globex/large").stdout
    assert done.startswith("space: needs ")
    assert done.index("evicts acme/maps 1.0") < done.index("install globex/large 1.0 (fetched")
    found = pluginctl.json(*bound, "storage")
    assert found["used_bytes"] <= found["budget_bytes"]
    assert ("acme/maps", "1.0") not in {(o["plugin"], o["version"]) for o in found["releases"]}
    assert pluginctl.json("list")[-1]["plugin"] == "globex/large"


def test_a_repair_that_has_to_evict_says_so_first(pluginctl: Command, large: World) -> None:
    pluginctl("evict", "1kB")
    pluginctl("evict", "300kB")
    assert [one["plugin"] for one in pluginctl.json("storage")["evicted"]] == ["acme/maps"]
    bound = "--max-store", "1.2MB"
    done = pluginctl(*bound, "repair", "acme/maps").stdout
    assert done.startswith("space: needs ")
    assert done.index("evicts acme/tiles 1.0") < done.index("fetched acme/maps 1.1")
    assert "space:" not in pluginctl("repair", "acme/maps").stdout, "control: nothing to fetch"


def test_what_was_evicted_has_no_path_and_is_shown_as_such(pluginctl: Command) -> None:
    assert Path(pluginctl("path", "acme/maps").stdout.strip()).is_dir()
    pluginctl("evict", "1kB")
    pluginctl("evict", "300kB")
    assert "repair acme/maps" in pluginctl.fails("evicted", "path", "acme/maps")["remedy"]
    shown = pluginctl("show", "acme/maps").stdout
    assert re.search(r"^files +\d+, .*, not on this disk: the next load fetches them$", shown, re.M)
    assert pluginctl.json("show", "acme/maps")["path"] is None


def test_verify_all_names_every_release_on_this_disk(pluginctl: Command) -> None:
    plain = pluginctl("verify").stdout.splitlines()
    assert plain == ["acme/maps 1.1: good", "acme/tiles 1.1: good", "globex/icons 1.1: good"]
    every = pluginctl("verify", "--all").stdout.splitlines()
    assert every == [*plain, "acme/maps 1.0: good", "acme/tiles 1.0: good"]


def test_an_install_that_fits_does_not_talk_of_space(pluginctl: Command, large: World) -> None:
    assert "space: needs" in pluginctl("install", "globex/large", "--dry-run").stdout
    assert "space:" not in pluginctl("install", "globex/large").stdout


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_what_cannot_fit_is_refused_with_the_plan_in_numbers(
    pluginctl: Command, large: World, dry: tuple[str, ...]
) -> None:
    pluginctl("pin", "acme/tiles")
    pluginctl("update", "globex/large")
    bound = "--max-store", "800kB"
    held = {k: v for k, v in store(pluginctl).items() if not k.startswith(("trust", "lock"))}
    large.fetched()
    error = pluginctl.fails("no-space", *bound, "install", "globex/large", *dry)
    assert large.fetched() < 100_000, "heads at most"
    space: dict[str, Any] = error["space"]
    assert space["budget_bytes"] == 800_000
    assert space["missing_bytes"] == error["missing_bytes"] > 0
    assert {one["plugin"] for one in space["evict"]} == {"acme/maps", "globex/icons"}
    assert "plan" not in error
    assert "SpacePlan" not in str(error)
    assert "unpin acme/tiles" in error["remedy"]
    after = {k: v for k, v in store(pluginctl).items() if not k.startswith(("trust", "lock"))}
    assert after == held
    larger = pluginctl("--max-store", "3MB", "install", "globex/large")
    assert "install globex/large" in larger.stdout, "control: it was the budget"


# --- words ---------------------------------------------------------------------------------------


def active(version: str, *, held: bool = False, pinned: bool = False) -> Active:
    plugin = PluginName.parse("acme/maps")
    digest = Digest.parse(version.replace(".", "0").ljust(64, "0"))
    return Active(Release(plugin, parse_version(version)), digest, held, pinned)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (None, active("1.0"), "+ acme/maps 1.0"),
        (None, active("1.0", pinned=True), "+ acme/maps 1.0 (pin)"),
        (active("1.0"), None, "- acme/maps 1.0"),
        (active("1.0"), active("2.0"), "acme/maps 1.0 -> 2.0"),
        (active("2.0"), active("1.0", held=True), "acme/maps 2.0 -> 1.0 (hold)"),
        (active("2.0", held=True), active("1.0"), "acme/maps 2.0 -> 1.0 (unhold)"),
        (active("1.0", pinned=True), active("1.0", held=True), "hold, unpin acme/maps"),
    ],
)
def test_a_change_in_words(before: Active | None, after: Active | None, text: str) -> None:
    assert change_text(Change(PluginName.parse("acme/maps"), before, after)) == text


def test_long_lists_are_shortened() -> None:
    assert shortened([]) == ""
    assert shortened(["a", "b", "c"]) == "a, b, c"
    assert shortened([str(n) for n in range(100)]) == "0, 1, 2, ... and 97 more"


def test_a_tables_columns_are_as_wide_as_they_must_be() -> None:
    assert table([("a", "b"), ("long", "10")], right={1}) == ["a      b", "long  10"]
