"""What a host hears as it happens; and what one broken plugin does to the others: nothing."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from packaging.version import Version

from plugin_manager import PluginManager
from plugin_manager.errors import (
    BlockedError,
    CorruptError,
    IncompatibleHostError,
    InvalidInputError,
    ModuleConflictError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
)
from plugin_manager.manager import Event
from plugin_manager.model import PluginName
from tests.stories.test_trial import exhaust
from tests.world import World

MAPS = PluginName.parse("acme/maps")


def listening(manager: PluginManager) -> list[Event]:
    """The events of `manager`, as they come."""
    heard: list[Event] = []
    manager.on_event = heard.append
    return heard


def told(heard: list[Event]) -> list[str]:
    """`heard` in short, and forgotten."""
    short = [f"{event.kind} {event.release or event.plugin}" for event in heard]
    assert all(event.text for event in heard)
    heard.clear()
    return short


def installed(world: World, **settings: Any) -> PluginManager:
    """acme/base, and acme/maps that requires it, each with one module, upgraded to 2.0."""
    with world.online():
        for version in ("1.0", "2.0"):
            world.publish(f"acme/base {version}", {"base/__init__.py": f"# {version}\n"})
            world.publish(
                f"acme/maps {version}",
                {"maps/__init__.py": "import base\n", "maps/data.bin": version * 1000},
                requires='plugins = ["acme/base"]',
            )
            world.manager().install(f"acme/maps=={version}", f"acme/base=={version}")
    manager = world.manager()
    manager.settings = evolve(manager.settings, **settings)
    return manager


def damage(manager: PluginManager, name: str) -> Path:
    """Flip a byte of the plugin's first module."""
    path = manager.path(name) / f"{name.partition('/')[2]}/__init__.py"
    path.chmod(0o644)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    return path


# --- events --------------------------------------------------------------------------------------


def test_what_is_loaded_meanwhile_stays_where_a_load_is_refused(world: World) -> None:
    with world.online():
        world.publish("acme/other 1.0", {"other/__init__.py": ""})
        world.manager().install("acme/other")
    manager = installed(world)
    damage(manager, "acme/maps")
    others = []

    def load_another(event: Event) -> None:
        if event.kind == "loaded" and event.plugin.name == "base":  # which acme/maps requires
            others.append(manager.load("acme/other"))

    manager.on_event = load_another
    with pytest.raises(CorruptError):
        manager.load("acme/maps")
    [other] = others
    assert other.import_module("other").__name__ == "other"
    assert manager.load("acme/other") is other
    manager.close()
    assert other.unloaded


def test_a_load_an_import_and_an_unload_are_told(world: World) -> None:
    manager = installed(world)
    heard = listening(manager)
    plugin = manager.load("acme/maps")
    assert told(heard) == [
        "verified acme/base 2.0",
        "loaded acme/base 2.0",
        "verified acme/maps 2.0",
        "loaded acme/maps 2.0",
    ]
    plugin.import_module("maps")
    assert told(heard) == ["confirmed acme/base 2.0", "confirmed acme/maps 2.0"]
    manager.load("acme/base")
    assert told(heard) == ["verified acme/base 2.0"], "again, as it is loaded already"
    manager.close()
    assert told(heard) == ["unloaded acme/maps 2.0", "unloaded acme/base 2.0"]
    manager.close()
    assert told(heard) == []


def test_files_that_are_verified_as_they_are_read_are_told_so(world: World) -> None:
    manager = installed(world)
    heard = listening(manager)
    manager.load("acme/base", verify="on-read")
    assert [event.text for event in heard if event.kind == "verified"] == [
        "acme/base 2.0: signatures and each file as it is read"
    ]


def test_a_refusal_is_told_with_its_error(world: World) -> None:
    manager = installed(world)
    damage(manager, "acme/maps")
    heard = listening(manager)
    with pytest.raises(CorruptError) as caught:
        manager.load("acme/maps")
    *others, refused = heard
    assert (refused.kind, refused.plugin, str(refused.release), refused.error) == (
        "refused", MAPS, "acme/maps 2.0", caught.value,
    )  # fmt: skip
    # What it requires was loaded for it alone.
    assert told(others)[-1] == "unloaded acme/base 2.0"
    with pytest.raises(NotFoundError):
        manager.load("acme/nothing")
    assert told(heard)[-1] == "refused acme/nothing"


def test_what_a_refused_load_brought_along_was_not_tried(world: World) -> None:
    manager = installed(world, confirm="host")
    damage(manager, "acme/maps")
    with pytest.raises(CorruptError):
        manager.load("acme/maps")
    base = PluginName.parse("acme/base")
    assert manager.trials()[base].attempts == 0
    # Control: loaded for itself, it is.
    manager.load("acme/base").unload()
    assert manager.trials()[base].attempts == 1


def test_repair_and_going_back_are_told(world: World) -> None:
    manager = installed(world, on_corruption="repair")
    with world.online() as url:
        manager.settings = evolve(manager.settings, repository=url)
        damage(manager, "acme/base")
        heard = listening(manager)
        manager.load("acme/base").unload()
        assert told(heard) == [
            "repaired acme/base 2.0",
            "verified acme/base 2.0",
            "loaded acme/base 2.0",
            "unloaded acme/base 2.0",
        ]
    exhaust(manager)
    manager.load("acme/maps")
    assert heard[0].kind == "rolled-back"
    assert heard[0].text == (
        "acme/maps 2.0 failed on trial (3 of 3 attempts): acme/maps 1.0 is active again"
    )


def test_a_hook_that_raises_stops_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    manager = installed(world)

    def hook(event: Event) -> None:
        raise ValueError(event.kind)

    manager.on_event = hook
    with caplog.at_level(logging.ERROR, "plugin_manager"):
        with manager.load("acme/maps") as plugin:
            plugin.import_module("maps")
        with pytest.raises(NotFoundError):
            manager.load("acme/nothing")
    kinds = [record.args[0] for record in caplog.records if isinstance(record.args, tuple)]
    assert {"verified", "loaded", "confirmed", "unloaded", "refused"} <= set(kinds)
    assert manager.trials() == {}


def test_a_hook_that_is_interrupted_leaves_nothing_loaded(world: World) -> None:
    manager = installed(world)
    for kind in ("verified", "loaded"):

        def hook(event: Event, kind: str = kind) -> None:
            if event.kind == kind:
                raise KeyboardInterrupt

        manager.on_event = hook
        with pytest.raises(KeyboardInterrupt):
            manager.load("acme/maps")
        assert leased(manager) == set()
        manager.on_event = lambda _: None
        with manager.load("acme/maps"):
            assert leased(manager) == {"acme/maps", "acme/base"}
        manager.close()


@pytest.mark.parametrize("verify", ["All", "full", "", True, None])
def test_any_other_way_to_verify_is_refused(world: World, verify: Any) -> None:
    manager = installed(world)
    damage(manager, "acme/maps")
    with pytest.raises(InvalidInputError, match="verify="):
        manager.load("acme/maps", verify=verify)
    with pytest.raises(InvalidInputError, match="verify="):
        manager.load_all("acme/base", verify=verify)
    assert leased(manager) == set()
    # Control: the default sees the damage.
    with pytest.raises(CorruptError):
        manager.load("acme/maps")


@pytest.mark.parametrize(
    "settings", [{"confirm": "never"}, {"confirm": None}, {"on_corruption": "fix"}]
)
def test_settings_that_are_none_are_refused(world: World, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(settings))):
        PluginManager.open(world.directory / "store", root=world.root, **settings)


# --- failure isolation ---------------------------------------------------------------------------


def test_one_broken_plugin_is_reported_and_the_others_are_loaded(world: World) -> None:
    files = {
        "acme/good": {"good/__init__.py": "GOOD = 1\n"},
        "acme/damaged": {"damaged/__init__.py": ""},
        "acme/needy": {"needy/__init__.py": ""},
        "acme/clashing": {"pytest/__init__.py": ""},
        "acme/later": {"later/__init__.py": ""},
        "acme/blocked": {"blocked/__init__.py": ""},
    }
    with world.online():
        for name, content in files.items():
            requires = {"acme/needy": 'plugins = ["acme/damaged"]', "acme/later": 'host = "<2"'}
            world.publish(f"{name} 1.0", content, requires=requires.get(name, ""))
        manager = world.manager()
        manager.install(*files)
        world.withdraw("acme/blocked 1.0", "blocked", "leaks")
        manager.update()
    damage(manager, "acme/damaged")
    manager = world.manager(host_version="2.0")
    heard = listening(manager)
    found = manager.load_all()
    assert {str(plugin) for plugin in found.loaded} == {"acme/good"}
    assert {str(name): type(error) for name, error in found.refused.items()} == {
        "acme/blocked": BlockedError,
        "acme/clashing": ModuleConflictError,
        "acme/damaged": CorruptError,
        "acme/later": IncompatibleHostError,
        "acme/needy": CorruptError,
    }
    assert sum(event.kind == "refused" for event in heard) == 5
    [plugin] = found.loaded.values()
    assert plugin.import_module("good").GOOD == 1
    # Control: what is mended loads; only what was asked for is.
    with world.online():
        world.manager().repair("acme/damaged")
    again = manager.load_all("acme/needy", "acme/good")
    assert [str(name) for name in again.loaded] == ["acme/needy", "acme/good"]
    assert not again.refused
    manager.close()
    with pytest.raises(InvalidInputError):
        manager.load_all("acme/good", "no name")
    assert leased(manager) == set(), "a name that is none is the host's mistake: nothing is begun"


def test_all_means_those_of_the_system_store_too(world: World) -> None:
    with world.online():
        world.publish("acme/base 1.0", {"base/__init__.py": ""})
        world.publish("acme/tour 1.0", {"tour/__init__.py": ""})
        world.manager("system").install("acme/base")
        world.manager().install("acme/tour")
    environment = {"PLUGINCTL_SYSTEM_STORE": str(world.directory / "system")}
    manager = world.manager(environment=environment)
    assert [str(name) for name in manager.load_all().loaded] == ["acme/tour", "acme/base"]


def test_a_failed_import_leaves_the_plugin_to_be_unloaded_and_loaded_again(world: World) -> None:
    module = "import os\nif 'BROKEN' in os.environ: raise RuntimeError\nFINE = 1\n"
    with world.online():
        world.publish("acme/maps 1.0", {"maps/__init__.py": module})
        manager = world.manager()
        manager.install("acme/maps")
    os.environ["BROKEN"] = "1"
    try:
        plugin = manager.load("acme/maps")
        with pytest.raises(RuntimeError):
            plugin.import_module("maps")
    finally:
        del os.environ["BROKEN"]
    assert leased(manager) == {"acme/maps"}
    plugin.unload()
    assert leased(manager) == set()
    with pytest.raises(RefusedError):
        plugin.import_module("maps")
    with manager.load("acme/maps") as plugin:
        assert plugin.import_module("maps").FINE == 1


def leased(manager: PluginManager) -> set[str]:
    storage = manager.storage()
    return {str(one.release.plugin) for one in storage.residents if one.directory in storage.leased}


def test_refused_loads_leave_no_lease_and_no_descriptor(world: World) -> None:
    manager = installed(world)
    damage(manager, "acme/maps")

    def refused() -> None:
        assert list(manager.load_all("acme/maps").refused) == [MAPS]

    def descriptors() -> int:
        gc.collect()  # what other tests left
        return len(list(Path("/proc/self/fd").iterdir()))

    refused()
    before = descriptors()
    for _ in range(20):
        refused()
    assert descriptors() <= before
    assert leased(manager) == set()


# --- compatibility -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requires", "other", "why"),
    [
        ('host = ">=1"', {"version": Version("0.9")}, "needs host >= 1, this host is 0.9"),
        ('python = ">=3.11"', {"python": Version("3.9")}, "needs Python >= 3.11"),
        ("memory_bytes = 1073741824", {"memory_bytes": 2**29}, "needs 1.0 GiB of memory"),
        ("", {"tags": ()}, "is built for .*, which this Python cannot use"),
    ],
)
def test_what_does_not_fit_this_host_is_refused_before_any_code_runs(
    world: World,
    requires: str,
    other: dict[str, Any],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MARK", str(world.directory / "mark"))
    module = "import os, pathlib\npathlib.Path(os.environ['MARK']).touch()\n"
    with world.online():
        manager = world.manager()
        platform = "" if requires else f'platform = "{manager.host.tags[0]}"\n'
        world.publish(
            "acme/maps 1.0", {"maps/__init__.py": module}, requires=requires, more=platform
        )
        manager.install("acme/maps")
    manager = world.manager()
    manager._parts.__dict__["host"] = evolve(manager.host, **other)
    with pytest.raises(IncompatibleHostError, match=why) as caught:
        manager.load("acme/maps")
    assert caught.value.remedy
    assert not (world.directory / "mark").exists()
    # Control: on the host that it was installed for it runs.
    with world.manager().load("acme/maps") as plugin:
        plugin.import_module("maps")
    assert (world.directory / "mark").exists()


def test_every_refusal_is_of_this_package(world: World) -> None:
    """A damaged store, in one way after the other, never makes a load raise anything else."""
    ways: dict[str, Callable[[Path], object]] = {
        "current": lambda store: (store / "current").write_bytes(b"{"),
        "trust": lambda store: (store / "trust/current").write_bytes(b"x"),
        "manifests": lambda store: [path.unlink() for path in (store / "manifests").iterdir()],
        "trials": lambda store: [_replace_by_file(p) for p in (store / "trials").iterdir()],
        "attempts": lambda store: [
            (trial / ("0" * 16)).write_bytes(b"") for trial in (store / "trials").iterdir()
        ],
    }
    installed(world)
    for name, way in ways.items():
        broken = world.directory / f"broken-{name}"
        shutil.copytree(world.directory / "store", broken, symlinks=True)
        way(broken)
        with world.manager(broken.name) as manager, suppress(PluginManagerError):
            manager.load("acme/maps")


def _replace_by_file(directory: Path) -> None:
    directory.rmdir()
    directory.touch()
