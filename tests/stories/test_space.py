"""A store of bounded size, end to end: who goes, who stays, and how what went comes back."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from plugin_manager.errors import (
    BlockedError,
    CorruptError,
    EvictedError,
    InvalidInputError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
    StoreAccessError,
)
from plugin_manager.manager import Cleanup, PluginManager
from plugin_manager.store import Kept, SpacePlan
from plugin_manager.trust import Expiry
from tests.disks import small_disk
from tests.world import World, snapshot

PROJECT = Path(__file__).resolve().parents[2]
SIZE = 200_000
EVERYTHING = 1 << 50
YEARS = 20 * 365.25 * 24 * 3600


def publish(world: World, release: str, size: int = SIZE, **extra: str) -> None:
    """Publish "acme/maps 1.0": a package that knows its version, and `size` bytes of its own."""
    name, version = release.split()
    module = name.partition("/")[2]
    world.publish(
        release,
        {
            f"{module}/__init__.py": f"VERSION = {version!r}\n",
            f"{module}/data.bin": random.Random(release).randbytes(size),
        },
        **extra,
    )


def installed(world: World, *releases: str, **environment: str) -> PluginManager:
    """A manager that has published and installed `releases`, one after another."""
    manager = world.manager(environment=environment)
    for release in releases:
        publish(world, release)
        manager.install(release.replace(" ", "=="))
    return manager


def with_settings(world: World, manager: PluginManager, **settings: Any) -> PluginManager:
    """Another manager of the same store, with other settings."""
    other = PluginManager(evolve(manager.settings, **settings), now=world.clock)
    world.managers.append(other)
    return other


def within(world: World, manager: PluginManager, budget: int) -> PluginManager:
    limits = evolve(manager.settings.limits, max_store_bytes=budget)
    return with_settings(world, manager, limits=limits)


def load(manager: PluginManager, name: str) -> str:
    """Load a plugin and let it go again; its version."""
    with manager.load(name) as plugin:
        version: str = plugin.import_module(name.partition("/")[2]).VERSION
        return version


def on_disk(manager: PluginManager) -> set[str]:
    return {str(one.release) for one in manager.storage().residents}


def names(cleanup: Cleanup) -> list[str]:
    return [str(one.release) for one in cleanup.evicted]


def evict_all(manager: PluginManager) -> list[str]:
    """Evict whatever may be evicted; what went, in order."""
    with pytest.raises(NoSpaceError) as caught:
        manager.plan_evict(EVERYTHING)
    freed = caught.value.free_bytes
    return names(manager.evict(freed)) if freed else []


# --- who goes, and who stays ---------------------------------------------------------------------


def test_the_coldest_plugin_goes_first_and_its_previous_release_before_its_active_one(
    world: World,
) -> None:
    with world.online():
        manager = installed(
            world, "acme/a 1.0", "acme/b 1.0", "acme/c 1.0", "acme/a 2.0", "acme/b 2.0"
        )
        for name in ("acme/b", "acme/c", "acme/a"):
            assert load(manager, name)
        expected = ["acme/b 1.0", "acme/b 2.0", "acme/c 1.0", "acme/a 1.0", "acme/a 2.0"]
        assert [str(one.release) for one in manager.storage().order] == expected
        assert names(manager.plan_evict(1)) == expected[:1]
        assert on_disk(manager) == set(expected), "a plan removes nothing"
        gone = manager.evict(SIZE + 20_000)
        assert names(gone) == expected[:2]
        assert gone.freed_bytes >= 2 * SIZE
        assert on_disk(manager) == set(expected[2:])
        assert evict_all(manager) == expected[2:]
        assert [str(one.release) for one in manager.installed()] == [
            "acme/a 2.0",
            "acme/b 2.0",
            "acme/c 1.0",
        ]


def test_what_was_loaded_last_by_any_process_is_warmest(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/b 1.0")
    assert names(manager.plan_evict(1)) == ["acme/a 1.0"], "installed first"
    with Elsewhere(manager, "acme/a"):
        pass
    assert names(manager.plan_evict(1)) == ["acme/b 1.0"]


def test_a_pinned_plugin_is_never_evicted_nor_is_its_previous_release(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/a 2.0", "acme/b 1.0")
        manager.pin("acme/a")
        assert evict_all(manager) == ["acme/b 1.0"]
        publish(world, "acme/a 3.0")
        manager.upgrade("acme/a")
        assert manager.installed()[0].pinned, "an upgrade stays pinned"
        full = within(world, manager, manager.used)
        publish(world, "acme/c 1.0")
        with pytest.raises(NoSpaceError, match="unpin acme/a"):
            full.install("acme/c")
        manager.unpin("acme/a")
        full.install("acme/c")
        assert "acme/a 2.0" not in on_disk(manager), "control: it was the pin"


def test_an_evicted_plugin_stays_installed_and_comes_back_at_its_next_load(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0")
        generation = manager.history()[0]
        evict_all(manager)
        assert manager.history()[0] == generation, "an eviction changes nothing that is active"
        assert [str(one.release) for one in manager.storage().evicted] == ["acme/a 1.0"]
        assert [str(one.error) for one in manager.verify().releases] != []
    offline = world.manager()
    world.base_url = "http://127.0.0.1:9/"
    for cut_off in (world.manager(), with_settings(world, offline, repository="")):
        with pytest.raises(EvictedError, match="not on this disk") as caught:
            load(cut_off, "acme/a")
        assert "Go online" in caught.value.remedy
    with world.online():
        world.fetched()
        assert load(world.manager(), "acme/a") == "1.0"
        assert world.fetched() > SIZE
        assert load(world.manager(), "acme/a") == "1.0"
        assert world.fetched() == 0, "it is here again"


def test_repair_brings_back_what_was_evicted(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/b 1.0")
        evict_all(manager)
        manager.repair("acme/a")
        assert on_disk(manager) == {"acme/a 1.0"}
        manager.repair()
        assert manager.verify().good


def test_what_another_plugin_requires_comes_back_with_it(world: World) -> None:
    with world.online():
        publish(world, "acme/base 1.0")
        publish(world, "acme/top 1.0", requires='plugins = ["acme/base"]')
        manager = world.manager()
        manager.install("acme/top")
        evict_all(manager)
        assert on_disk(manager) == set()
        assert load(manager, "acme/top") == "1.0"
        assert on_disk(manager) == {"acme/base 1.0", "acme/top 1.0"}


# --- the budget ----------------------------------------------------------------------------------


def test_a_budget_evicts_the_coldest_and_says_so_before(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/b 1.0", "acme/c 1.0")
        load(manager, "acme/a")
        publish(world, "acme/d 1.0")
        budget = manager.used + 60_000
        bounded = within(world, manager, budget)
        world.fetched()
        plan = bounded.plan_install("acme/d")
        assert world.fetched() < 10_000, "a plan fetches the head alone"
        assert plan.space is not None
        assert [str(one.release) for one in plan.space.evict] == ["acme/b 1.0"]
        assert plan.space.needed_bytes >= int(1.2 * SIZE)
        assert plan.space.missing_bytes == 0
        assert len(on_disk(manager)) == 3
        bounded.install("acme/d")
        assert on_disk(manager) == {"acme/a 1.0", "acme/c 1.0", "acme/d 1.0"}
        assert manager.used <= budget


def test_what_cannot_fit_is_refused_with_the_plan_and_nothing_is_evicted(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/b 1.0")
        publish(world, "acme/huge 1.0", 20 * SIZE)
        bounded = within(world, manager, manager.used + 100_000)
        before = snapshot(world.directory / "store/releases")
        world.fetched()
        with pytest.raises(NoSpaceError) as caught:
            bounded.install("acme/huge")
        assert world.fetched() < 2 * SIZE
        plan: Any = caught.value.context["plan"]
        assert [str(one.release) for one in plan.evict] == ["acme/a 1.0", "acme/b 1.0"]
        assert 0 < plan.missing_bytes == caught.value.context["missing_bytes"]
        assert "Raise the store's budget to" in caught.value.remedy
        assert "unfinished" not in caught.value.remedy, "there are none"
        assert snapshot(world.directory / "store/releases") == before
        enough = evolve(bounded.settings.limits, max_store_bytes=plan.needed_bytes + manager.used)
        with_settings(world, bounded, limits=enough).install("acme/huge")


def test_the_budget_that_the_remedy_names_is_enough(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0")
        publish(world, "acme/huge 1.0", 5 * SIZE)
        with pytest.raises(NoSpaceError) as caught:
            within(world, manager, manager.used).install("acme/huge")
        plan: Any = caught.value.context["plan"]
        named = plan.used_bytes - plan.freed_bytes + plan.needed_bytes
        with pytest.raises(NoSpaceError):
            within(world, manager, named - 100_000).install("acme/huge")
        within(world, manager, named + 100_000).install("acme/huge")


def test_a_budget_that_is_passed_already_is_kept_by_the_next_cleanup(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/b 1.0", "acme/c 1.0")
    bounded = within(world, manager, manager.used - SIZE)
    assert names(bounded.plan_cleanup()) == ["acme/a 1.0"]
    assert len(on_disk(manager)) == 3
    assert names(bounded.cleanup()) == ["acme/a 1.0"]
    assert bounded.used <= manager.used
    assert names(bounded.cleanup()) == []


def test_what_is_being_installed_or_replaced_is_not_evicted_for_it(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/b 1.0")
        publish(world, "acme/a 2.0")
        bounded = within(world, manager, manager.used + 60_000)
        plan = bounded.upgrade("acme/a")
        assert plan.space is not None
        assert [str(one.release) for one in plan.space.evict] == ["acme/b 1.0"]
        assert on_disk(manager) == {"acme/a 1.0", "acme/a 2.0"}
        assert load(bounded, "acme/a") == "2.0"


def test_shared_files_count_once_and_are_freed_with_their_last_holder(world: World) -> None:
    common = random.Random(5).randbytes(SIZE)
    with world.online():
        manager = world.manager()
        for version in ("1.0", "2.0"):
            world.publish(f"acme/a {version}", {"common.bin": common, "v.txt": version})
            manager.install(f"acme/a=={version}")
    storage = manager.storage()
    assert storage.release_bytes < 2 * SIZE
    assert all(unique < SIZE for unique in storage.unique_bytes)
    first = manager.evict(1)
    assert first.freed_bytes < SIZE
    assert manager.evict(1).freed_bytes >= SIZE


# --- the disk ------------------------------------------------------------------------------------


def test_the_free_floor_of_a_small_disk_is_kept(world: World) -> None:
    publish(world, "acme/a 1.0", 1_000_000)
    publish(world, "acme/b 1.0", 1_000_000)
    publish(world, "acme/c 1.0", 1_000_000)
    floor = 2_000_000
    with small_disk(world.directory / "disk", 5_000_000) as disk, world.online():
        manager = world.manager("disk/store", environment={"PLUGINCTL_MIN_FREE": str(floor)})
        manager.install("acme/a")
        manager.install("acme/b")
        plan = manager.install("acme/c")
        assert plan.space is not None
        assert [str(one.release) for one in plan.space.evict] == ["acme/a 1.0"]
        assert shutil.disk_usage(disk).free >= floor
        greedy = world.manager("disk/store", environment={"PLUGINCTL_MIN_FREE": "4500000"})
        with pytest.raises(NoSpaceError, match="must stay free") as caught:
            greedy.repair("acme/a")
        assert "on the disk" in caught.value.remedy
        assert len(on_disk(manager)) == 2
        careless = world.manager("disk/store", environment={"PLUGINCTL_MIN_FREE": "1B"})
        careless.repair("acme/a")
        assert shutil.disk_usage(disk).free < floor, "control: it was the floor"


# --- who has it loaded ---------------------------------------------------------------------------

HOLD = """
import sys
from plugin_manager import PluginManager
manager = PluginManager.open(sys.argv[1], root=sys.argv[2], host_version="1.0")
plugins = [manager.load(name) for name in sys.argv[3:]]
print("loaded", flush=True)
for line in sys.stdin:
    for plugin in plugins:
        plugin.verify()
        plugin.read(plugin.name.name + "/data.bin")
    print("whole", flush=True)
"""


class Elsewhere:
    """Another process that has loaded plugins; it ends at the end."""

    def __init__(self, manager: PluginManager, *plugins: str) -> None:
        arguments = [str(manager.settings.store), str(manager.settings.root), *plugins]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._said() == "loaded\n"

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def is_whole(self) -> bool:
        """Whether that process still finds every byte of what it has loaded."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._said() == "whole\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def test_what_another_live_process_has_loaded_is_never_removed(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/b 1.0")
        with Elsewhere(manager, "acme/a") as elsewhere:
            [path] = manager.storage().leased
            assert path == manager.path("acme/a")
            assert evict_all(manager) == ["acme/b 1.0"]
            for version in ("2.0", "3.0"):
                publish(world, f"acme/a {version}")
                manager.upgrade("acme/a")
            with pytest.raises(RefusedError, match=r"acme/a 1\.0 is loaded by a running process"):
                manager.delete("acme/a", "1.0")
            manager.cleanup(unfinished=True)
            assert elsewhere.is_whole()
            assert on_disk(manager) >= {"acme/a 1.0"}
        manager.cleanup()
        assert "acme/a 1.0" not in on_disk(manager), "control: it was the process"


def test_the_lease_of_a_killed_process_ends_with_it(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0")
    with Elsewhere(manager, "acme/a") as elsewhere:
        assert evict_all(manager) == []
        before = snapshot(world.directory / "store")
        elsewhere.kill()
        assert snapshot(world.directory / "store") == before, "nobody tidied up"
        assert manager.storage().leased == frozenset()
        assert evict_all(manager) == ["acme/a 1.0"]


def test_unloading_ends_the_lease_of_this_process(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0")
    plugin = manager.load("acme/a")
    assert evict_all(manager) == []
    assert plugin.read("a/__init__.py")
    plugin.unload()
    assert evict_all(manager) == ["acme/a 1.0"]


# --- stores that are only read -------------------------------------------------------------------


@contextmanager
def read_only(directory: Path, mounted: Path) -> Iterator[Path]:
    """`directory` once more at `mounted`, where even root cannot write."""
    mounted.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    done = subprocess.run(
        ["mount", "--bind", directory, mounted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", mounted], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (mounted / "control").touch()
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)


def test_a_store_that_cannot_be_written_is_read_and_loaded_from(world: World) -> None:
    with world.online():
        installed(world, "acme/a 1.0", "acme/a 2.0")
        publish(world, "acme/a 3.0")
        with read_only(world.directory / "store", world.directory / "frozen"):
            manager = world.manager("frozen")
            before = snapshot(world.directory / "store")
            assert load(manager, "acme/a") == "2.0"
            assert manager.verify().good
            assert [str(one.release) for one in manager.installed()] == ["acme/a 2.0"]
            assert len(manager.history()) == 2
            assert len(manager.storage().residents) == 2
            assert manager.plan_rollback("acme/a").steps[0].kind == "downgrade"
            assert manager.plan_cleanup() == Cleanup()
            assert manager.plan_evict(1).freed_bytes >= SIZE
            changes: list[Callable[[], object]] = [
                manager.upgrade,
                lambda: manager.rollback("acme/a"),
                lambda: manager.evict(1),
                manager.cleanup,
            ]
            for change in changes:
                with pytest.raises(StoreAccessError):
                    change()
            assert snapshot(world.directory / "store") == before


def open_below(directory: Path) -> list[str]:
    """The files below `directory` that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(descriptor.readlink()))
    return [name for name in found if name.startswith(f"{directory}/")]


@pytest.mark.parametrize("place", ["store", "frozen"])
def test_looking_at_a_store_leaves_none_of_its_files_open(world: World, place: str) -> None:
    with world.online():
        installed(world, "acme/a 1.0")
    with read_only(world.directory / "store", world.directory / "frozen"):
        manager = world.manager(place)
        manager.storage()
        manager.plan_cleanup()
        assert open_below(world.directory) == []


def test_a_release_loaded_from_a_read_only_mount_is_leased_for_those_who_can_write(
    world: World,
) -> None:
    with world.online():
        writer = installed(world, "acme/a 1.0")
    with read_only(world.directory / "store", world.directory / "frozen"):
        plugin = world.manager("frozen").load("acme/a")
        assert evict_all(writer) == []
        plugin.unload()
        assert evict_all(writer) == ["acme/a 1.0"]


def test_a_system_store_is_searched_second_and_never_written(world: World) -> None:
    with world.online():
        publish(world, "acme/a 1.0")
        publish(world, "acme/b 1.0")
        world.manager("system").install("acme/a", "acme/b")
        publish(world, "acme/a 2.0")
        system = world.directory / "system"
        with read_only(system, world.directory / "shared") as shared:
            user = world.manager(environment={"PLUGINCTL_SYSTEM_STORE": str(shared)})
            before = snapshot(system)
            assert load(user, "acme/a") == "1.0"
            assert {str(one.release) for one in user.system_installed()} == {
                "acme/a 1.0",
                "acme/b 1.0",
            }
            user.install("acme/a")
            assert load(user, "acme/a") == "2.0"
            assert load(user, "acme/b") == "1.0"
            assert [str(one.release) for one in user.system_installed()] == ["acme/b 1.0"]
            assert evict_all(user) == ["acme/a 2.0"]
            assert load(user, "acme/a") == "2.0", "the user's own is fetched again"
            user.uninstall("acme/a")
            assert load(user, "acme/a") == "1.0"
            assert snapshot(system) == before


def test_a_block_known_to_the_user_alone_holds_for_the_system_store_too(world: World) -> None:
    with world.online():
        publish(world, "acme/a 1.0")
        owner = world.manager("system")
        owner.install("acme/a")
        user = world.manager(
            environment={"PLUGINCTL_SYSTEM_STORE": str(world.directory / "system")}
        )
        world.withdraw("acme/a 1.0", "blocked", "draws dragons")
        assert load(user, "acme/a") == "1.0", "nobody has heard of it"
        user.update("acme/a")
        with pytest.raises(BlockedError, match="draws dragons"):
            user.load("acme/a")
        assert load(owner, "acme/a") == "1.0", "control: it was the user's newer metadata"


def test_a_plugin_of_the_user_may_require_one_of_the_system_store(world: World) -> None:
    with world.online():
        publish(world, "acme/base 1.0")
        publish(world, "acme/top 1.0", requires='plugins = ["acme/base"]')
        world.manager("system").install("acme/top")
        user = world.manager(
            environment={"PLUGINCTL_SYSTEM_STORE": str(world.directory / "system")}
        )
        publish(world, "acme/top 2.0", requires='plugins = ["acme/base"]')
        user.install("acme/top")
        assert load(user, "acme/top") == "2.0"


@pytest.mark.parametrize("damaged", [True, False])
def test_errors_of_the_system_store_say_what_to_do_there(world: World, damaged: bool) -> None:
    with world.online():
        owner = world.manager("system")
        publish(world, "acme/a 1.0")
        owner.install("acme/a")
        if damaged:
            damage(owner, "a/data.bin")
        else:
            owner.evict(SIZE)
        user = world.manager(environment={"PLUGINCTL_SYSTEM_STORE": str(owner.settings.store)})
        with pytest.raises(CorruptError if damaged else EvictedError) as caught:
            user.load("acme/a")
        command = f"pluginctl --store {owner.settings.store} repair acme/a"
        assert command in caught.value.remedy
        with pytest.raises(PluginManagerError) as own:  # control: one's own is mended without it
            with_settings(world, owner, repository="").load("acme/a")
        assert "repair acme/a" in own.value.remedy
        assert "--store" not in own.value.remedy


# --- damage met by a load ------------------------------------------------------------------------


def damage(manager: PluginManager, file: str) -> None:
    path = manager.path("acme/a") / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("what", ["file", "missing file", "manifest", "current", "metadata"])
def test_a_load_that_meets_damage_heals_it_where_the_host_allows(world: World, what: str) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0")
        store, [active] = world.directory / "store", manager.installed()
        match what:
            case "file":
                damage(manager, "a/data.bin")
            case "missing file":
                (manager.path("acme/a") / "a/__init__.py").unlink()
            case "manifest":
                (store / "manifests" / active.digest).write_bytes(b"x")
            case "current":
                (store / "current").write_bytes(b"x")
            case "metadata":
                [path] = (store / "trust").rglob("snapshot.json")
                path.write_bytes(b"x")
        with pytest.raises(CorruptError):
            load(world.manager(), "acme/a")
        healing = with_settings(world, manager, on_corruption="repair")
        assert load(healing, "acme/a") == "1.0"
        assert load(world.manager(), "acme/a") == "1.0", "it is mended for everybody"
        assert world.manager().verify().good


def test_healing_fetches_only_the_damage_and_fails_offline_with_the_damages_name(
    world: World,
) -> None:
    with world.online():
        publish(world, "acme/a 1.0", 4_000_000)
        manager = world.manager()
        manager.install("acme/a")
        damage(manager, "a/data.bin")
        healing = with_settings(world, manager, on_corruption="repair")
        world.fetched()
        assert load(healing, "acme/a") == "1.0"
        assert 0 < world.fetched() < 2_000_000
        damage(manager, "a/data.bin")
    with pytest.raises(CorruptError, match=r"data\.bin"):
        load(with_settings(world, healing, repository="http://127.0.0.1:9/"), "acme/a")


# --- saying it first -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["install", "repair", "load"])
def test_what_has_to_go_is_told_before_it_goes_and_before_a_byte_is_fetched(
    world: World, how: str
) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0")
        manager.evict(SIZE)
        publish(world, "acme/b 1.0")
        manager.install("acme/b")
        assert on_disk(manager) == {"acme/b 1.0"}
        told: list[tuple[SpacePlan, set[str], int]] = []
        world.fetched()

        def tell(space: SpacePlan) -> None:
            told.append((space, on_disk(manager), world.fetched()))

        budget = manager.used + SIZE // 2
        limits = evolve(manager.settings.limits, max_store_bytes=budget)
        settings = evolve(manager.settings, limits=limits)
        bounded = PluginManager(settings, now=world.clock, making_room=tell)
        match how:
            case "install":
                bounded.install("acme/a")
            case "repair":
                bounded.repair("acme/a")
            case "load":
                assert load(bounded, "acme/a") == "1.0"
        assert on_disk(manager) == {"acme/a 1.0"}
        [(space, before, fetched)] = told
        assert [str(one.release) for one in space.evict] == ["acme/b 1.0"]
        assert space.needed_bytes >= SIZE
        assert before == {"acme/b 1.0"}, "nothing had gone yet"
        assert fetched < SIZE // 4, "metadata at most"
        assert world.fetched() >= SIZE, "control: the rest came afterwards"


def test_nothing_is_evicted_for_a_fetch_that_cannot_begin(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0")
        manager.evict(SIZE)
        publish(world, "acme/b 1.0")
        manager.install("acme/b")
    limits = evolve(manager.settings.limits, max_store_bytes=manager.used + SIZE // 2)
    bounded = with_settings(world, manager, limits=limits)
    with pytest.raises(NetworkError):
        bounded.repair("acme/a")
    assert on_disk(manager) == {"acme/b 1.0"}


# --- what is kept to go back to ------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_as_many_earlier_releases_are_kept_as_the_host_says(world: World, keep: int) -> None:
    with world.online():
        manager = installed(
            world,
            *(f"acme/a {version}.0" for version in range(1, 5)),
            PLUGINCTL_KEEP_PREVIOUS=str(keep),
        )
    expected = {f"acme/a {version}.0" for version in range(4 - keep, 5)}
    manager.cleanup()
    kept = manager.storage().residents
    assert {str(one.release) for one in kept if one.kept is not Kept.UNDO} == expected
    assert on_disk(manager) <= expected | {"acme/a 3.0"}, "what undoing the last change takes"


def test_as_many_generations_are_kept_as_the_host_says(world: World) -> None:
    with world.online():
        manager = installed(
            world,
            *(f"acme/a {version}.0" for version in range(1, 7)),
            PLUGINCTL_KEEP_GENERATIONS="3",
        )
    assert [record.number for record in manager.history()] == [6, 5, 4]
    heads = list((world.directory / "store/manifests").iterdir())
    # Generation 4 went from 3.0 to 4.0: the kept records name four releases.
    assert len(heads) == 4
    with pytest.raises(NotFoundError, match="there is no generation 3"):
        manager.rollback_to(3)


def test_an_uninstall_can_be_undone_until_the_next_change(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0")
        publish(world, "acme/b 1.0")
    manager.uninstall("acme/a")
    [resident] = manager.storage().residents
    assert resident.kept is Kept.UNDO
    world.manager().rollback_to(1)
    assert load(world.manager(), "acme/a") == "1.0"
    manager.uninstall("acme/a")
    with world.online():
        world.manager().install("acme/b")
    assert on_disk(manager) == {"acme/b 1.0"}


def test_going_back_to_a_whole_generation_restores_all_that_was_active(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/b 1.0", "acme/a 2.0")
        manager.pin("acme/b")
        target = {plugin: one.digest for plugin, one in manager.generation(2).active.items()}
        publish(world, "acme/c 1.0")
        manager.install("acme/c")
    offline = world.manager()
    plan = offline.plan_rollback_to(2)
    assert [str(step) for step in plan.steps] == [
        "downgrade acme/a 2.0 -> 1.0",
        "uninstall acme/c",
    ], "which plugins are pinned is not of then"
    offline.rollback_to(2)
    current = offline.generation(offline.history()[0].number)
    assert {plugin: one.digest for plugin, one in current.active.items()} == target
    assert [str(one.release) for one in current.active.values() if one.held] == ["acme/a 1.0"]
    assert load(offline, "acme/a") == "1.0"


def test_going_back_to_a_generation_fetches_what_was_removed(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/a 2.0", "acme/a 3.0")
        assert "acme/a 1.0" not in on_disk(manager)
        plan = manager.rollback_to(1)
        assert any("not on this disk any more and is fetched" in note for note in plan.notes)
        assert load(manager, "acme/a") == "1.0"
        evict_all(manager)
        manager.rollback_to(2)
        assert load(manager, "acme/a") == "2.0"


def test_going_back_to_a_generation_is_refused_where_one_release_is_blocked(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/b 1.0", "acme/a 2.0", "acme/b 2.0")
        world.withdraw("acme/a 1.0", "blocked", "draws dragons")
        manager.update()
    before = snapshot(world.directory / "store/generations")
    with pytest.raises(BlockedError, match="draws dragons") as caught:
        manager.rollback_to(2)
    assert caught.value.reason == "draws dragons"
    assert snapshot(world.directory / "store/generations") == before
    manager.rollback_to(3)
    assert load(manager, "acme/b") == "1.0", "control: others may be gone back to"


def test_going_back_to_a_yanked_release_warns(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/a 2.0")
        world.withdraw("acme/a 1.0", "yanked", "too slow")
        manager.update()
    plan = manager.rollback_to(1)
    assert "acme/a 1.0 was yanked: too slow" in plan.notes
    assert load(manager, "acme/a") == "1.0"


# --- clocks --------------------------------------------------------------------------------------


def test_clock_jumps_of_decades_do_not_change_the_order_of_eviction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.online():
        installed(world, "acme/a 1.0", "acme/b 1.0", "acme/c 1.0", "acme/d 1.0")
    moment, real = world.clock.moment, time.time
    settings = world.manager().settings
    for name, jump in (("c", YEARS), ("a", -YEARS), ("d", 0), ("b", -2 * YEARS)):
        world.clock.moment = moment
        world.clock.advance(seconds=jump)
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        manager = PluginManager(settings, expiry=Expiry.IGNORED_UNSAFE, now=world.clock)
        assert load(manager, f"acme/{name}") == "1.0"
    expected = [f"acme/{name} 1.0" for name in "cadb"]
    for jump in (-YEARS, YEARS, 0):
        world.clock.moment = moment
        world.clock.advance(seconds=jump)
        manager = PluginManager(settings, now=world.clock)
        assert [str(one.release) for one in manager.storage().order] == expected
        times = [one.usage.loaded_at or 0 for one in manager.storage().order]
        assert times != sorted(times), "control: by the clock it would be another order"
    assert evict_all(world.manager()) == expected


# --- the index -----------------------------------------------------------------------------------


class Trap:
    """Something that leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


def rows(index: Path, statement: str, *values: object) -> None:
    """Write to the index's database, as it was or as nobody else would."""
    with sqlite3.connect(index / "cache.db") as database:
        assert database.execute(statement, values).rowcount
    database.close()


def spoil(index: Path, home: Path, how: str) -> None:
    """Do to the index what only an enemy, or a bad disk, would."""
    match how:
        case "deleted":
            shutil.rmtree(index)
        case "damaged":
            for path in index.iterdir():
                path.write_bytes(random.Random(3).randbytes(5000))
        case "truncated":
            for path in index.iterdir():
                path.write_bytes(path.read_bytes()[:1000])
        case "emptied":
            for path in index.iterdir():
                path.write_bytes(b"")
        case "pickled rows":
            trap = pickle.dumps(Trap(home / "trace"))
            rows(index, "update Cache set mode = 4, value = ?", trap)
            rows(index, "update Cache set key = ?, raw = 0 where rowid = 1", trap)
        case "pickled settings":
            trap = pickle.dumps(Trap(home / "trace"))
            rows(index, "update Settings set value = ?", trap)
        case "files outside":
            rows(index, "update Cache set mode = 2, filename = ?, value = null", "../../../thesis")
        case "absolute files":
            rows(
                index,
                "update Cache set mode = 2, filename = ?, value = null",
                str(home / "thesis"),
            )
        case "other values":
            rows(index, "update Cache set value = ?", b"\xff" * 500)
        case "other tables":
            rows(index, "update Cache set size = 0")
            with sqlite3.connect(index / "cache.db") as database:
                database.execute("drop table Cache")
            database.close()
        case "endless view":
            with sqlite3.connect(index / "cache.db") as database:
                database.execute("alter table Cache rename to Other")
                database.execute(
                    "create view Cache as with recursive n(x) as (select 1 union all "
                    "select x + 1 from n) select 'k' as key, x'00' as value from n where x < 0"
                )
            database.close()
        case "links":
            for path in list(index.iterdir()):
                path.unlink()
                path.symlink_to(home / "thesis")
        case "link for the directory":
            shutil.rmtree(index)
            index.symlink_to(home)
        case "directories":
            for path in list(index.iterdir()):
                path.unlink()
                (path / "x").mkdir(parents=True)
        case "FIFO":
            for path in list(index.iterdir()):
                path.unlink()
                os.mkfifo(path)


HOW = [
    "deleted", "damaged", "truncated", "emptied", "pickled rows", "pickled settings",
    "files outside", "absolute files", "other values", "other tables", "endless view", "links",
    "link for the directory", "directories", "FIFO",
]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_whatever_becomes_of_the_index_nothing_is_lost_and_it_is_made_anew(
    world: World, how: str
) -> None:
    home = world.directory / "home"
    home.mkdir()
    (home / "thesis").write_text("precious")
    before = snapshot(home)
    index = world.directory / "store/index"
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/a 2.0", "acme/b 1.0")
        release_bytes = manager.storage().release_bytes
        bounded = within(world, manager, manager.used + 60_000)
        spoil(index, home, how)
        assert load(manager, "acme/a") == "2.0"
        storage = world.manager().storage()
        assert storage.release_bytes == release_bytes
        assert {str(one.release) for one in storage.residents} == {
            "acme/a 1.0",
            "acme/a 2.0",
            "acme/b 1.0",
        }
        publish(world, "acme/c 1.0")
        plan = bounded.install("acme/c")
        assert plan.space is not None
        assert len(plan.space.evict) == 1
        assert load(bounded, "acme/c") == "1.0"
        manager.cleanup()
        for name in ("acme/a", "acme/b"):
            assert load(manager, name)
    assert snapshot(home) == before, "nothing outside was opened for writing, or unpickled"
    assert not index.is_symlink()
    assert (index / "cache.db").is_file()
    assert (index / "cache.db").read_bytes().startswith(b"SQLite format 3")


def test_control_the_trap_goes_off_where_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "trace")))
    assert (tmp_path / "trace").is_dir()


# --- plans of another time -----------------------------------------------------------------------


def test_a_plan_made_before_a_block_does_not_bring_the_blocked_release_back(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/a 2.0")
        plan = manager.plan_rollback("acme/a")
        world.withdraw("acme/a 1.0", "blocked", "it eats files")
        world.manager().update()
        with pytest.raises(BlockedError, match="eats files"):
            manager.apply(plan)
        assert load(world.manager(), "acme/a") == "2.0"


def test_a_plan_to_go_back_to_what_was_evicted_meanwhile_is_refused(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/a 2.0")
    plan = manager.plan_rollback("acme/a")
    manager.delete("acme/a", "1.0")
    with pytest.raises(EvictedError):
        manager.apply(plan)
    assert manager.history()[0].number == 2


def test_a_plan_that_counted_on_sharing_with_what_went_is_measured_anew(world: World) -> None:
    shared = random.Random(7).randbytes(SIZE)
    with world.online():
        for name in ("acme/a", "acme/b"):
            world.publish(f"{name} 1.0", {f"{name[5:]}.bin": shared})
        manager = world.manager()
        manager.install("acme/a")
        plan = manager.plan_install("acme/b")
        assert plan.needed.write_bytes < SIZE
        assert manager.evict(1).evicted
        tight = within(world, manager, manager.used + SIZE // 2)
        with pytest.raises(NoSpaceError):
            tight.apply(plan)
        assert names(manager.plan_evict(0)) == []
        manager.apply(plan)
        assert on_disk(manager) == {"acme/b 1.0"}


def test_what_is_evicted_for_a_plan_is_not_counted_on_by_it(world: World) -> None:
    shared = random.Random(7).randbytes(SIZE)
    with world.online():
        world.publish("acme/a 1.0", {"a.bin": shared})
        world.publish("acme/b 1.0", {"b.bin": shared, "c.bin": random.Random(8).randbytes(SIZE)})
        manager = world.manager()
        manager.install("acme/a")
        tight = within(world, manager, manager.used + SIZE)
        plan = tight.plan_install("acme/b")
        assert plan.space
        assert names(manager.plan_evict(1)) == ["acme/a 1.0"]
        assert plan.needed.write_bytes > 2 * SIZE, "with acme/a gone, its file has to come again"
        with pytest.raises(NoSpaceError):
            tight.apply(plan)
        assert on_disk(manager) == {"acme/a 1.0"}


def test_many_small_files_are_counted_as_the_disk_counts_them(world: World) -> None:
    files = {f"many/{number:03}/x": str(number) for number in range(300)}
    with world.online():
        world.publish("acme/many 1.0", files)
        manager = world.manager()
        with pytest.raises(NoSpaceError):
            within(world, manager, 1_000_000).install("acme/many")
        plan = manager.install("acme/many")
    directory = manager.path("acme/many")
    taken = sum(path.lstat().st_blocks * 512 for path in (directory, *directory.rglob("*")))
    assert plan.needed.write_bytes == taken == manager.storage().release_bytes


def test_installing_what_was_evicted_brings_it_back(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/b 1.0")
        evict_all(manager)
        generation = manager.history()[0].number
        plan = manager.install("acme/a")
        assert [str(step) for step in plan.steps] == ["fetch acme/a"]
        assert on_disk(manager) == {"acme/a 1.0"}
        assert manager.history()[0].number == generation, "nothing else is active than before"
        assert manager.upgrade().steps == (), "what nobody asks for stays where it is"


def test_what_was_evicted_is_no_damage(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0")
        evict_all(manager)
        report = manager.verify()
        assert report.good
        assert [one.evicted for one in report.releases] == [True]
        manager.repair()
        assert on_disk(manager) == set(), "a repair of all fetches nothing that only went"


def test_nothing_is_evicted_for_a_floor_that_cannot_be_reached(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/b 1.0")
    limits = evolve(manager.settings.limits, min_free_bytes=EVERYTHING)
    hopeless = with_settings(world, manager, limits=limits)
    assert hopeless.plan_cleanup().evicted == ()
    assert hopeless.cleanup().evicted == ()
    assert len(on_disk(manager)) == 2


def test_a_system_store_that_is_damaged_keeps_no_plugin_of_the_user_from_loading(
    world: World,
) -> None:
    system = world.directory / "system"
    system.mkdir()
    (system / "current").write_text("junk")
    with world.online():
        manager = with_settings(world, installed(world, "acme/a 1.0"), system_store=system)
        assert load(manager, "acme/a") == "1.0"
        with pytest.raises(CorruptError, match="current is damaged"):
            manager.load("acme/other")


def test_a_system_store_is_not_written_even_where_it_could_be(world: World) -> None:
    with world.online():
        installed(world, "acme/a 1.0")
        (world.directory / "store").rename(world.directory / "system")
        system = world.directory / "system"
        before = snapshot(system)
        manager = with_settings(world, world.manager("own"), system_store=system)
        assert load(manager, "acme/a") == "1.0"
        assert snapshot(system) == before
        usage = world.manager("system")
        assert load(usage, "acme/a") == "1.0"
        assert snapshot(system) != before, "control: a load of its own is noted"


def test_looking_at_a_store_that_is_not_there_finds_nothing_and_makes_nothing(world: World) -> None:
    manager = world.manager("nowhere")
    assert manager.plan_cleanup(unfinished=True).garbage == ()
    assert manager.storage().residents == ()
    assert manager.history() == []
    assert not (world.directory / "nowhere").exists()


def test_what_only_looks_tells_of_a_damaged_previous_release_too(world: World) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/a 2.0")
        [previous] = (world.directory / "store/releases/acme/a").glob("1.0-*")
        path = previous / "a/data.bin"
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
        found = manager.verify("acme/a")
        assert [(str(one.active.release), one.good) for one in found.releases] == [
            ("acme/a 2.0", True),
            ("acme/a 1.0", False),
        ]
        manager.repair("acme/a")
        assert len(manager.verify().releases) == 1


def test_verifying_every_release_names_also_the_good_and_those_that_nothing_needs(
    world: World,
) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0", "acme/a 2.0", "acme/b 1.0")
        manager.uninstall("acme/b")
    directory = world.directory / "store/releases/acme"
    [uninstalled] = (directory / "b").iterdir()
    (uninstalled / "b/data.bin").write_bytes(b"x" * SIZE)
    (uninstalled / "foreign").write_bytes(b"x")
    (directory / "c/1.0-0123456789abcdef").mkdir(parents=True)
    assert manager.verify().good, "what is not active, and no previous release, is not looked at"
    report = manager.verify(every_release=True)
    assert not report.good
    found = {str(one.active.release): one for one in report.releases}
    assert list(found) == ["acme/a 2.0", "acme/a 1.0", "acme/b 1.0"]
    assert found["acme/a 1.0"].good
    assert {(str(f.path), f.damage.value) for f in found["acme/b 1.0"].faults} == {
        ("b/data.bin", "damaged"),
        ("foreign", "foreign"),
    }
    [sentence] = report.records
    assert sentence.startswith("releases/acme/c/1.0-0123456789abcdef: no manifest")
    one = manager.verify("acme/a", every_release=True)
    assert one.good
    assert len(one.releases) == 2


@pytest.mark.parametrize("wanted", [float("nan"), 1.5, "10MB", -1, None])
def test_an_eviction_of_no_number_of_bytes_is_refused(world: World, wanted: Any) -> None:
    with world.online():
        manager = installed(world, "acme/a 1.0")
    for ask in (manager.evict, manager.plan_evict):
        with pytest.raises(InvalidInputError, match="not a number of bytes"):
            ask(wanted)
    assert on_disk(manager) == {"acme/a 1.0"}


def test_limits_can_be_given_when_opening(world: World) -> None:
    manager = PluginManager.open(
        world.directory / "store", min_free_bytes=5, keep_previous=3, max_store_bytes=7
    )
    limits = manager.settings.limits
    assert (limits.min_free_bytes, limits.keep_previous, limits.max_store_bytes) == (5, 3, 7)
    with pytest.raises(InvalidInputError, match="KEEP_PREVIOUS"):
        PluginManager.open(world.directory / "store", keep_previous=-1)
