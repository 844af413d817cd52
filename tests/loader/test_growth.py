"""No growth: a thousand loads of a plugin leave memory, descriptors and mappings as they were."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from plugin_manager.loader import LoadedPlugin, load
from tests.loader.releases import make_release, with_bytecode
from tests.world import World

LOADS = 1000
WARMING = 50
SOURCES = {
    "demo_grown/__init__.py": "from demo_grown.inner import value\n",
    "demo_grown/inner.py": "value = list(range(1000))\n",
}
LARGE = bytes(range(256)) * 40_000  # 10 MB, for threads and large reads

STATUS = Path("/proc/self/status")
needs_proc = pytest.mark.skipif(not STATUS.exists(), reason="no /proc here")


def held() -> dict[str, int]:
    """What this process holds: bytes of Python's, resident KiB, descriptors, mappings, threads."""
    gc.collect()
    status = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return {
        "traced": tracemalloc.get_traced_memory()[0],
        "resident": int(status["VmRSS"].split()[0]),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "threads": int(status["Threads"]),
    }


@contextmanager
def tracing() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def growth(cycle: Callable[[], None], cycles: int = LOADS) -> dict[str, int]:
    """By how much more is held after each third of `cycles`, at least, than before it.

    A dictionary such as `sys.modules`, or that of interned strings, is made anew in one of them;
    what leaks does in all.
    """
    with tracing():
        for _ in range(WARMING):
            cycle()
        looks = [held()]
        for _ in range(3):
            for _ in range(cycles // 3):
                cycle()
            looks.append(held())
    return {
        what: min(after[what] - before[what] for before, after in pairwise(looks))
        for what in looks[0]
    }


def assert_flat(grown: dict[str, int]) -> None:
    assert grown["traced"] < 30_000  # not 100 bytes a load
    assert grown["resident"] < 8_000  # the allocator's own ups and downs
    assert (grown["descriptors"], grown["threads"]) == (0, 0)
    assert grown["mappings"] < 20


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    world = World(tmp_path)
    world.publish("acme/grown 1.0", {**SOURCES, "demo_grown/data.bin": bytes(40_000)})
    with world.online():
        world.manager().install("acme/grown")
        yield world
    world.close()


@needs_proc
def test_a_thousand_loads_through_a_manager_leave_nothing(world):
    manager = world.manager()

    def cycle() -> None:
        with manager.load("acme/grown") as plugin:
            assert plugin.import_module("demo_grown").value[-1] == 999
            assert len(plugin.read("demo_grown/data.bin")) == 40_000

    assert_flat(growth(cycle))


@needs_proc
@pytest.mark.parametrize("verify", ["all", "on-read"])
def test_a_hundred_loads_with_a_large_file_used_in_every_way_leave_nothing(tmp_path, verify):
    files, tags = with_bytecode(SOURCES)
    release = make_release(tmp_path, {**files, "model.bin": LARGE}, tags=tags)

    def cycle() -> None:
        with load(*release, verify=verify) as plugin:
            plugin.import_module("demo_grown")
            assert plugin.memoryview("model.bin")[-1] == 255
            assert plugin.path("model.bin").name == "model.bin"
            with plugin.open("model.bin") as stream:
                assert len(stream.read(3_000_000)) == 3_000_000
            plugin.open("model.bin").read(1)  # closed by nobody

    assert_flat(growth(cycle, 100))


@needs_proc
@pytest.mark.parametrize("leak", ["plugin", "stream", "mapping"])
def test_control_what_is_kept_is_seen(tmp_path, leak):
    release = make_release(tmp_path, {**SOURCES, "model.bin": bytes(100_000)})
    kept: list[object] = []

    def cycle() -> None:
        plugin: LoadedPlugin = load(*release)
        try:
            plugin.import_module("demo_grown")
            held = {"plugin": lambda: plugin, "stream": lambda: plugin.open("model.bin")}
            kept.append(held.get(leak, lambda: plugin.memoryview("model.bin"))())
        finally:
            plugin.unload()

    with pytest.raises(AssertionError):
        assert_flat(growth(cycle, 300))
    for one in kept:
        if leak == "stream":
            one.close()  # type: ignore[attr-defined]
    kept.clear()
