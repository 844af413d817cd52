"""The main job, end to end: publish, install, load, upgrade, roll back, refuse, repair."""

from __future__ import annotations

import inspect
import random
import shutil
import sys
from pathlib import Path

import pytest

from plugin_manager.catalogue import Catalogue
from plugin_manager.errors import (
    BlockedError,
    ConflictError,
    CorruptError,
    ExpiredError,
    IncompatibleHostError,
    InvalidInputError,
    NetworkError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
    UntrustedError,
)
from plugin_manager.manager import PluginManager, Progress
from plugin_manager.model import PluginName
from plugin_manager.store import Damage
from plugin_manager.trust import Update
from tests.world import World, snapshot

MAPS = PluginName.parse("acme/maps")
NOISE = random.Random(7).randbytes(3_000_000)


def maps(world: World, version: str, **extra: str) -> None:
    """Publish acme/maps: a package that knows its version, and 3 MB that change a little."""
    data = bytearray(NOISE)
    data[1_000_000:1_000_010] = version.encode().ljust(10)
    world.publish(
        f"acme/maps {version}",
        {
            "maps/__init__.py": f"VERSION = {version!r}\n",
            "maps/draw.py": "from maps import VERSION\ndef draw():\n    return f'map {VERSION}'\n",
            "maps/data/tiles.bin": bytes(data),
        },
        entry_points='[entry-points."app.plugins"]\nmaps = "maps.draw:draw"',
        **extra,
    )


def drawn(manager: PluginManager) -> str:
    with manager.load("acme/maps") as plugin:
        [entry_point] = plugin.entry_points_in("app.plugins")
        text: str = entry_point.load()()
        return text


def test_install_load_upgrade_roll_back_and_back_again(world: World) -> None:
    maps(world, "1.0")
    with world.online():
        manager = world.manager()
        plan = manager.install("acme/maps")
        assert [str(step) for step in plan.steps] == ["install acme/maps 1.0"]
        assert drawn(manager) == "map 1.0"
        world.fetched()
        maps(world, "1.1")
        manager.upgrade()
        assert world.fetched() < 600_000, "an upgrade fetches what changed, not 3 MB"
        assert drawn(manager) == "map 1.1"
    # From here on the network is gone.
    offline = world.manager()
    assert drawn(offline) == "map 1.1"
    metadata = snapshot(world.directory / "store/trust")
    plan = offline.rollback("acme/maps")
    assert plan.steps[0].kind == "downgrade"
    assert drawn(offline) == "map 1.0"
    assert snapshot(world.directory / "store/trust") == metadata
    assert [g.action.split()[0] for g in offline.history()] == ["rollback", "upgrade", "install"]
    with world.online():
        manager = world.manager()
        held = manager.upgrade()
        assert held.steps == ()
        assert "held at 1.0" in held.notes[0]
        manager.unhold("acme/maps")
        manager.upgrade()
        assert drawn(manager) == "map 1.1"


def test_loaded_plugin_offers_modules_resources_and_path(world: World) -> None:
    maps(world, "1.0")
    with world.online():
        world.manager().install("acme/maps")
    with world.manager().load("acme/maps") as plugin:
        assert plugin.read("maps/data/tiles.bin")[:100] == NOISE[:100]
        with plugin.open("maps/__init__.py") as file:
            assert file.read() == b"VERSION = '1.0'\n"
        assert plugin.import_module("maps").VERSION == "1.0"
        assert (plugin.directory / "maps/draw.py").is_file()


def test_rollback_to_a_named_version_and_twice(world: World) -> None:
    keep = {"PLUGINCTL_KEEP_PREVIOUS": "2"}
    with world.online():
        manager = world.manager(environment=keep)
        for version in ("1.0", "1.1", "1.2"):
            maps(world, version)
            manager.install(f"acme/maps=={version}")
    offline = world.manager(environment=keep)
    assert offline.rollback("acme/maps").action.endswith("1.2 -> 1.1")
    assert offline.rollback("acme/maps").action.endswith("1.1 -> 1.0")
    with pytest.raises(NotFoundError, match=r"no release before 1\.0.*1\.1, 1\.2"):
        offline.rollback("acme/maps")
    assert offline.rollback("acme/maps", to="1.2").action.endswith("1.0 -> 1.2")
    with pytest.raises(NotFoundError, match=r"no version 7"):
        offline.rollback("acme/maps", to="7")


def test_what_is_required_comes_along_and_stays(world: World) -> None:
    maps(world, "1.0")
    world.publish(
        "acme/route 1.0",
        {"maps_route.py": "import maps\nWAY = 'by ' + maps.VERSION\n"},
        requires='plugins = ["acme/maps>=1"]',
    )
    with world.online():
        manager = world.manager()
        plan = manager.install("acme/route")
        assert [step.plugin.name for step in plan.steps] == ["maps", "route"]
        with manager.load("acme/route") as plugin:
            assert plugin.import_module("maps_route").WAY == "by 1.0"
        before = snapshot(world.directory / "store")
        with pytest.raises(RefusedError, match=r"acme/route 1\.0 requires acme/maps"):
            manager.uninstall("acme/maps")
        assert snapshot(world.directory / "store") == before
        manager.uninstall("acme/maps", "acme/route")
        assert manager.installed() == []
        with pytest.raises(NotFoundError):
            manager.load("acme/maps")


def test_a_rollback_that_would_break_another_plugin_is_refused(world: World) -> None:
    maps(world, "1.0")
    with world.online():
        manager = world.manager()
        manager.install("acme/maps")
        maps(world, "2.0")
        world.publish(
            "acme/route 1.0", {"r.py": ""}, requires='plugins = ["acme/maps>=2"]'
        )  # fmt: skip
        manager.install("acme/route")
        with pytest.raises(ConflictError, match=r"acme/route 1\.0 needs acme/maps>=2"):
            manager.rollback("acme/maps")
        assert {str(a.release) for a in manager.installed()} == {"acme/maps 2.0", "acme/route 1.0"}


def test_two_plugins_are_installed_both_or_not_at_all(world: World) -> None:
    maps(world, "1.0")
    world.publish("globex/model 1.0", {"weights": NOISE[:100_000]})
    [bundle] = (world.repository.public / "targets/globex").rglob("*.tar.zst")
    good = bundle.read_bytes()
    with world.online():
        manager = world.manager()
        bundle.write_bytes(good[:-5000] + bytes(5000))
        with pytest.raises(UntrustedError):
            manager.install("acme/maps", "globex/model")
        assert manager.installed() == []
        bundle.write_bytes(good)
        world.fetched()
        manager.install("acme/maps", "globex/model")
        assert world.fetched() < 200_000, "the first attempt's verified bytes are used"
        assert len(manager.installed()) == 2


def test_a_blocked_release_neither_loads_nor_returns(world: World) -> None:
    with world.online():
        manager = world.manager()
        for version in ("1.0", "1.1"):
            maps(world, version)
            manager.install(f"acme/maps=={version}")
        world.withdraw("acme/maps 1.0", "blocked", "draws dragons")
        manager.upgrade()
        with pytest.raises(BlockedError, match="draws dragons"):
            manager.rollback("acme/maps")
        assert drawn(manager) == "map 1.1"
        world.withdraw("acme/maps 1.1", "blocked", "draws them too")
        notes = manager.upgrade().notes
        assert "acme/maps 1.1 was blocked by its publisher: draws them too, and stays" in notes[0]
        with pytest.raises(BlockedError, match="draws them too"):
            manager.load("acme/maps")
        with pytest.raises(ConflictError, match="is blocked by its publisher"):
            manager.install("acme/maps==1.1")
        maps(world, "1.2")
        manager.upgrade()
        assert drawn(manager) == "map 1.2"


def test_news_of_a_block_reaches_the_next_load(world: World) -> None:
    maps(world, "1.0")
    world.publish("acme/other 1.0", {"o.py": ""})
    with world.online():
        manager = world.manager()
        manager.install("acme/maps")
        world.withdraw("acme/maps 1.0", "blocked", "draws dragons")
        assert drawn(manager) == "map 1.0", "nobody has asked the repository yet"
        manager.install("acme/other")
        with pytest.raises(BlockedError, match="draws dragons"):
            manager.load("acme/maps")


def test_a_yanked_release_is_picked_only_when_pinned(world: World) -> None:
    for version in ("1.0", "1.1"):
        maps(world, version)
    world.withdraw("acme/maps 1.1", "yanked", "too slow")
    with world.online():
        manager = world.manager()
        assert str(manager.install("acme/maps").steps[0]) == "install acme/maps 1.0"
        plan = manager.install("acme/maps==1.1")
        assert plan.notes == ("acme/maps 1.1 was yanked by its publisher: too slow",)
        assert drawn(manager) == "map 1.1"


def test_a_host_that_does_not_fit_is_told_before_any_byte_is_fetched(world: World) -> None:
    maps(world, "1.0", requires='host = ">=4"')
    with world.online():
        with pytest.raises(IncompatibleHostError, match=r"needs host >= 4, this host is 1\.0"):
            world.manager().install("acme/maps")
        assert world.fetched() == 0
        world.manager(host_version="4.2").install("acme/maps")
    with pytest.raises(IncompatibleHostError):
        world.manager().load("acme/maps")
    with world.manager(host_version="4.2").load("acme/maps"):
        pass


def test_a_dry_run_changes_no_plugin(world: World) -> None:
    maps(world, "1.0")
    with world.online():
        manager = world.manager()
        plan = manager.plan_install("acme/maps")
        assert plan.needed.fetch_bytes > 2_900_000
        assert manager.installed() == []
        assert list((world.directory / "store/releases").iterdir()) == []
        assert list((world.directory / "store/staging").iterdir()) == []


def test_a_plan_made_for_another_state_is_refused(world: World) -> None:
    maps(world, "1.0")
    world.publish("acme/other 1.0", {"o.py": ""})
    with world.online():
        manager = world.manager()
        plan = manager.plan_install("acme/maps")
        manager.install("acme/other")
        with pytest.raises(RefusedError, match="has changed"):
            manager.apply(plan)


def test_progress_adds_up_and_never_goes_backwards(world: World) -> None:
    maps(world, "1.0")
    world.publish("globex/model 1.0", {"weights": NOISE[:500_000]})
    seen: list[Progress] = []
    with world.online():
        world.manager(progress=seen.append).install("acme/maps", "globex/model")
    transferred = [progress.transferred_bytes for progress in seen]
    assert transferred == sorted(transferred)
    assert transferred[-1] == seen[-1].total_bytes
    assert len({progress.total_bytes for progress in seen}) == 1
    assert [progress.done for progress in seen[:-1]] == [False] * (len(seen) - 1)
    assert seen[-1].done
    assert {str(one.release) for one in seen[-1].transfers} == {"acme/maps 1.0", "globex/model 1.0"}
    assert all(one.done and one.percent == 100 for one in seen[-1].transfers)


@pytest.mark.parametrize("days_late", [10, 40])
def test_expired_metadata_is_a_policy_at_load_never_a_silent_pass(
    world: World, days_late: int
) -> None:
    maps(world, "1.0")
    with world.online():
        world.manager().install("acme/maps")
    world.clock.advance(days=1 + days_late)
    if days_late < 30:
        assert drawn(world.manager()) == "map 1.0"
    else:
        with pytest.raises(ExpiredError):
            world.manager().load("acme/maps")
    strict = world.manager(environment={"PLUGINCTL_GRACE_DAYS": "0"})
    with pytest.raises(ExpiredError):
        strict.load("acme/maps")


def test_expired_metadata_is_never_accepted_from_the_repository(world: World) -> None:
    maps(world, "1.0")
    world.clock.advance(days=-11)
    world.repository.refresh()
    world.clock.advance(days=11)
    with world.online():
        with pytest.raises(ExpiredError):
            world.manager().install("acme/maps")
        assert world.manager().installed() == []
        world.repository.refresh()
        world.manager().install("acme/maps")
        assert drawn(world.manager()) == "map 1.0"


def test_without_a_network_installing_says_so_and_changes_nothing(world: World) -> None:
    maps(world, "1.0")
    with world.online():
        world.manager().install("acme/maps")
    world.base_url = "http://127.0.0.1:9/"
    before = snapshot(world.directory / "store")
    with pytest.raises(NetworkError):
        world.manager().install("acme/maps==2")
    assert snapshot(world.directory / "store") == before


@pytest.mark.parametrize(
    ("request_text", "error"),
    [
        ("maps", InvalidInputError),
        ("acme/Maps", InvalidInputError),
        ("acme/maps>>2", InvalidInputError),
        ("../x/y", InvalidInputError),
        ("acme/nothing", NotFoundError),
        ("nobody/maps", NotFoundError),
        ("acme/maps>=99", ConflictError),
    ],
)
def test_a_wrong_request_gets_one_clear_error_and_changes_nothing(
    world: World, request_text: str, error: type[PluginManagerError]
) -> None:
    maps(world, "1.0")
    with world.online():
        manager = world.manager()
        manager.install("acme/maps")
        before = snapshot(world.directory / "store")
        with pytest.raises(error) as caught:
            manager.install(request_text)
        assert caught.value.remedy
        assert snapshot(world.directory / "store") == before


def files_below(store: Path) -> list[Path]:
    """Every file that a load depends on, one of each kind of name."""
    skipped = {"lock", "lock-holder"}
    return sorted(
        path
        for path in store.rglob("*")
        if path.is_file()
        and path.name not in skipped
        and path.parent.name not in {"index", "indexes", "generations"}
    )


def test_a_changed_byte_in_any_file_of_the_store_is_refused_with_its_name(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps/__init__.py": "VERSION = 1\n", "maps/t.txt": "tiles"})
    with world.online():
        world.manager().install("acme/maps")
    store = world.directory / "store"
    draw = random.Random(3)
    for path in files_below(store):
        good, mode = path.read_bytes(), path.stat().st_mode
        for position in {0, len(good) - 1, *(draw.randrange(len(good)) for _ in range(3))}:
            bad = bytearray(good)
            bad[position] ^= 1 << draw.randrange(8)
            path.unlink()
            path.write_bytes(bad)
            with pytest.raises(PluginManagerError) as caught:
                world.manager().load("acme/maps").unload()
            name = path.relative_to(store).as_posix()
            named = f"{caught.value} {caught.value.context}"
            assert path.name in named or name in named, (name, str(caught.value))
        path.write_bytes(good)
        path.chmod(mode)
    world.manager().load("acme/maps").unload()


def test_control_an_untouched_store_loads(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps/__init__.py": "VERSION = 1\n"})
    with world.online():
        world.manager().install("acme/maps")
    world.manager().load("acme/maps").unload()


def test_every_missing_file_of_the_store_is_noticed_and_repaired(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps/__init__.py": "VERSION = 1\n", "maps/t.txt": "tiles"})
    with world.online():
        world.manager().install("acme/maps")
        store, pristine = world.directory / "store", world.directory / "pristine"
        shutil.copytree(store, pristine)
        for path in files_below(store):
            path.unlink()
            if path.suffix != ".pyc":  # bytecode only speeds things up
                with pytest.raises(PluginManagerError):
                    world.manager().load("acme/maps").unload()
            world.manager().repair()
            world.manager().load("acme/maps").unload()
            assert world.manager().verify().good
            shutil.rmtree(store)
            shutil.copytree(pristine, store)


def test_a_link_in_the_place_of_a_directory_is_refused_and_repaired(world: World) -> None:
    files = {"demo/__init__.py": "", "demo/sub/part.py": "kind = 'good'", "demo/sub/big.bin": "x"}
    world.publish("acme/maps 1.0", files)
    world.publish("acme/maps 1.1", files)
    with world.online():
        manager = world.manager()
        manager.install("acme/maps==1.0")
        manager.upgrade()
        for place in sorted((world.directory / "store/releases/acme/maps").iterdir()):
            elsewhere = world.directory / f"elsewhere-{place.name}"
            (place / "demo/sub").rename(elsewhere)
            (place / "demo/sub").symlink_to(elsewhere)  # to the signed content
        with pytest.raises(CorruptError) as caught:
            manager.load("acme/maps")
        assert caught.value.paths == ("demo/sub",)
        with pytest.raises(CorruptError, match=r"demo/sub/part\.py"):
            manager.rollback("acme/maps")
        inspections = manager.verify().releases
        assert len(inspections) == 2
        for inspection in inspections:
            assert {fault.path for fault in inspection.damaged} >= {"demo/sub/part.py"}
            assert not inspection.good
        manager.repair("acme/maps")
        assert manager.verify().good
        with manager.load("acme/maps") as plugin:
            assert plugin.import_module("demo.sub.part").kind == "good"
            assert not (plugin.directory / "demo/sub").is_symlink()
        kept = {path.name for path in elsewhere.iterdir()}
    assert kept >= {"part.py", "big.bin"}, "what the link led to is somebody's own"


def test_repair_fetches_only_the_damaged_chunk(world: World) -> None:
    maps(world, "1.0")
    with world.online():
        manager = world.manager()
        manager.install("acme/maps")
        world.fetched()
        path = manager.path("acme/maps") / "maps/data/tiles.bin"
        data = bytearray(path.read_bytes())
        data[2_000_000] ^= 1
        path.unlink()
        path.write_bytes(data)
        [found] = manager.verify().releases
        assert [(f.path, f.damage) for f in found.faults] == [
            ("maps/data/tiles.bin", Damage.DAMAGED)
        ]
        with pytest.raises(CorruptError, match=r"tiles\.bin"):
            manager.load("acme/maps")
        manager.repair()
        assert 0 < world.fetched() < 1_200_000
        assert drawn(manager) == "map 1.0"
        assert manager.verify().good


def test_repair_works_offline_where_another_release_has_the_chunks(world: World) -> None:
    with world.online():
        manager = world.manager()
        for version in ("1.0", "1.1"):
            maps(world, version)
            manager.install(f"acme/maps=={version}")
    path = manager.path("acme/maps") / "maps/data/tiles.bin"
    data = bytearray(path.read_bytes())
    data[2_500_000] ^= 1
    path.unlink()
    path.write_bytes(data)
    offline = world.manager()
    offline.repair("acme/maps")
    assert drawn(offline) == "map 1.1"


def test_damaged_history_makes_rollback_ask_rather_than_guess(world: World) -> None:
    with world.online():
        manager = world.manager()
        for version in ("1.0", "1.1", "1.2"):
            maps(world, version)
            manager.install(f"acme/maps=={version}")
        manager.hold("acme/maps")
    (world.directory / "store/generations/3.json").write_bytes(b"{}")
    with pytest.raises(CorruptError, match=r"generations/3\.json is damaged"):
        manager.rollback("acme/maps")
    assert manager.verify().records == ("generations/3.json is damaged",)
    assert manager.plan_rollback("acme/maps", to="1.0").steps[0].kind == "downgrade"
    assert manager.repair().records == ("generations/3.json is damaged",)
    assert manager.verify().good
    assert manager.rollback("acme/maps").action.endswith("1.2 -> 1.1"), "it is on disk"


def test_older_damage_does_not_keep_a_rollback_from_what_is_certain(world: World) -> None:
    with world.online():
        manager = world.manager()
        for version in ("1.0", "1.1", "1.2"):
            maps(world, version)
            manager.install(f"acme/maps=={version}")
    (world.directory / "store/generations/2.json").write_bytes(b"{}")
    assert manager.rollback("acme/maps").action.endswith("1.2 -> 1.1")


def test_repair_tells_what_it_mended_and_a_dry_run_what_it_would(world: World) -> None:
    maps(world, "1.0")
    with world.online():
        manager = world.manager()
        manager.install("acme/maps")
        (world.directory / "store/current").write_text("x")
        assert world.manager().verify().records == ("current is damaged",)
        assert world.manager().repair().records == ("current is damaged",)
        [snapshot_file] = (world.directory / "store/trust").rglob("snapshot.json")
        snapshot_file.write_text("x")
        found = world.manager().verify()
        assert not found.good
        assert "snapshot.json" in str(found.releases[0].error)
        assert "snapshot.json" in world.manager().repair().records[0]
        assert world.manager().verify().good


def test_damage_to_a_shared_file_is_mended_in_both_releases(world: World) -> None:
    shared = {"maps/__init__.py": "", "maps/same.bin": NOISE[:50_000]}
    with world.online():
        manager = world.manager()
        for version in ("1.0", "1.1"):
            world.publish(f"acme/maps {version}", {**shared, "maps/v.txt": version})
            manager.install(f"acme/maps=={version}")
        path = manager.path("acme/maps") / "maps/same.bin"
        path.chmod(0o644)
        with path.open("r+b") as file:  # in place: whoever shares the blocks is hit as well
            file.write(b"damage")
        manager.repair()
    assert manager.verify().good
    manager.rollback("acme/maps")
    assert manager.verify().good


def test_one_plugins_damage_does_not_keep_another_from_going_back(world: World) -> None:
    world.publish("globex/tool 1.0", {"tool.py": ""})
    with world.online():
        manager = world.manager()
        manager.install("globex/tool")
        for version in ("1.0", "1.1"):
            maps(world, version)
            manager.install(f"acme/maps=={version}")
    [tool] = [active for active in manager.installed() if active.release.plugin.name == "tool"]
    (world.directory / "store/manifests" / tool.digest).write_bytes(b"junk")
    manager.rollback("acme/maps")
    manager.uninstall("acme/maps")


def test_an_update_brings_news_and_changes_no_plugin(world: World) -> None:
    maps(world, "1.0")
    world.publish("globex/tool 1.0", {"tool.py": ""})
    with world.online():
        manager = world.manager()
        manager.install("acme/maps")
        generations = manager.history()
        world.withdraw("acme/maps 1.0", "blocked", "draws dragons")
        manager.update("globex/tool")
        assert manager.history() == generations
        with pytest.raises(BlockedError):
            manager.load("acme/maps")
        assert [str(entry.release) for entry in manager.catalogue("globex/tool").entries] == [
            "globex/tool 1.0"
        ]


def test_plugins_that_require_one_another_load_and_long_chains_too(world: World) -> None:
    world.publish("acme/a 1.0", {"chain_a.py": ""}, requires='plugins = ["acme/b"]')
    world.publish("acme/b 1.0", {"chain_b.py": ""}, requires='plugins = ["acme/a"]')
    with world.online():
        manager = world.manager()
        manager.install("acme/a")
        manager.load("acme/a")
        limit = sys.getrecursionlimit()
        for number in range(60):
            requires = f'plugins = ["acme/c{number + 1}"]' if number < 59 else ""
            world.publish(f"acme/c{number} 1.0", {f"chain_c{number}.txt": ""}, requires=requires)
        manager.install("acme/c0")
    depth = len(inspect.stack(0))
    sys.setrecursionlimit(depth + 60)
    try:
        manager.load("acme/c0")
    finally:
        sys.setrecursionlimit(limit)


def test_what_is_wrong_with_a_plugin_is_said_where_it_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "V = 1"})
    world.publish("globex/sums 1.0", {"sums.py": "V = 1"})
    original = Update.catalogue

    def catalogue(self: Update, plugin: PluginName) -> Catalogue:
        if str(plugin) == "acme/maps":
            raise InvalidInputError("acme signed nonsense")
        return original(self, plugin)

    with world.online():
        world.manager().install("acme/maps", "globex/sums")
        world.publish("globex/sums 2.0", {"sums.py": "V = 2"})
        monkeypatch.setattr(Update, "catalogue", catalogue)
        with pytest.raises(InvalidInputError, match="nonsense"):
            world.manager().plan_upgrade("acme/maps")
        [step] = world.manager().plan_upgrade().steps  # others' news come all the same
    assert str(step) == "upgrade globex/sums 1.0 -> 2.0"
