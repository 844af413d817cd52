"""The store: listing a long history, going back a version, planning an eviction.

Run: .venv/bin/python -m benchmarks.store [--runs 5]  (prints Markdown)
What is measured:
    list, storage, history   whole processes, on a store of many releases; peers in the same run,
                             taken in turn: `pip list` and `uv --version`
    activate, roll back      within a process that has done it before; "own" is without waiting
                             for the disk (fsync), which is told apart; the peer replaces one
                             symbolic link and waits for the disk once
    plan an eviction         within a process, half of the store having to go; no peer does it
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from plugin_manager import PluginManager
from plugin_manager.model import Digest, PluginName, Release, bytecode_tag, parse_version
from plugin_manager.publishing import Repository, serve
from plugin_manager.settings import Limits
from plugin_manager.store import Active, Housekeeping, Kept, Resident, Store
from plugin_manager.store._contents import Contents
from plugin_manager.store._space import plan_space
from plugin_manager.store._usage import Usage
from tests.bundles import HandMade, make_bundle

PROJECT = Path(__file__).resolve().parents[1]
FILES_EACH = 20
TOML = """[plugin]
name = "bench/big"
version = "{version}"
summary = "benchmark"
"""


def timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def run(command: list[str]) -> None:
    # With bytecode, as what is installed has it: somebody's habit of writing none is not measured.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as said:  # not a pipe, which this process would have to empty
        done = subprocess.run(
            command, cwd=PROJECT, env=environment, stdout=said, stderr=said, check=False
        )
        if done.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)[:300]}\n{said.read().decode()}")


def row(what: str, ours: float, target: str, peer: float | None = None, name: str = "") -> None:
    beside = f"{peer * 1000:.1f} ms | {ours / peer:.2f} | {name}" if peer else "- | - | -"
    print(f"| {what} | {ours * 1000:.1f} ms | {target} | {beside} |", flush=True)


# --- whole processes on a large store ------------------------------------------------------------


def install(store: Store, bundles: list[HandMade]) -> list[Active]:
    """Bring the releases of `bundles` to their places, as an install does."""
    staged = []
    for bundle in bundles:
        head = bundle.head
        with store.staging(head, head.manifest.files_for(bytecode_tag())) as staging:
            staging.reuse()
            for index, start, stop in list(staging.spans()):
                staging.accept(index, memoryview(bundle.data)[start:stop])
        staged.append(staging)
    store.place(staged)
    store.keep_heads(bundle.head_bytes for bundle in bundles)
    return [Active(bundle.head.manifest.release, bundle.head.digest) for bundle in bundles]


def large_store(directory: Path, plugins: int, generations: int) -> None:
    """A store of `plugins`, each with a previous release, after `generations` changes."""
    store, now = Store(directory), datetime.now(UTC)
    housekeeping = Housekeeping(store, Limits(min_free_bytes=0))
    first, second = (
        [
            make_bundle(
                f"bench/p{number} {version}.0",
                {f"p{number}.py": b"", "data": f"{number} {version}".encode() * 100},
            )
            for number in range(plugins)
        ]
        for version in (1, 2)
    )
    with store.writing():
        before = install(store, first)
        store.activate({one.release.plugin: one for one in before}, "install all", now)
        after = install(store, second)
        for step in range(generations - 1):
            part = after[step :: generations - 1]
            store.activate({one.release.plugin: one for one in part}, f"upgrade {step}", now)
        housekeeping.collect(now)
    assert len(housekeeping.residents(now)) == 2 * plugins
    assert len(store.history()) == generations


def measure_commands(base: Path, plugins: int, generations: int, runs: int) -> None:
    large_store(base / "large", plugins, generations)
    pluginctl = [sys.executable, "-m", "plugin_manager.cli", "--store", str(base / "large")]
    commands = {
        "list": [*pluginctl, "list"],
        "storage": [*pluginctl, "storage"],
        "history": [*pluginctl, "history"],
        "pip list": [sys.executable, "-m", "pip", "--disable-pip-version-check", "list"],
        "uv --version": [str(Path(sys.executable).with_name("uv")), "--version"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(runs + 1):
        for name, command in commands.items():
            taken = timed(lambda command=command: run(command))  # type: ignore[misc]
            if index:  # the first round warms caches
                times[name].append(taken)
    median = {name: statistics.median(found) for name, found in times.items()}
    for name in ("list", "storage", "history"):
        what = f"`pluginctl {name}`, {2 * plugins} releases, {generations} generations"
        row(what, median[name], "150 ms", median["pip list"], "pip list")
    what = "for scale: `uv --version` alone"
    row(what, median["uv --version"], "-", median["pip list"], "pip list")


# --- going back, however large -------------------------------------------------------------------


@contextmanager
def fsync_timed() -> Iterator[list[float]]:
    """How long each fsync took in this process, meanwhile."""
    sound = os.fsync
    taken: list[float] = []

    def fsync(descriptor: int) -> None:
        taken.append(timed(lambda: sound(descriptor)))

    with mock.patch.object(os, "fsync", fsync):
        yield taken


def publish(base: Path, megabytes: int) -> Repository:
    """A repository with two releases of bench/big, which share all but a line."""
    repository = Repository.create(
        base / "repository", keys_directory=base / "keys", passphrase="x"
    )
    repository.add_publisher("bench")
    draw = random.Random(3)
    for version in ("1.0", "2.0"):
        source = base / f"source-{version}"
        (source / "files").mkdir(parents=True)
        (source / "files/version.txt").write_text(version)
        with (source / "files/model.bin").open("wb") as file:
            draw.seed(3)
            for _ in range(megabytes):
                file.write(draw.randbytes(1_000_000))
        (source / "plugin.toml").write_text(TOML.format(version=version))
        repository.publish(source)
    return repository


def measure_going_back(base: Path, megabytes: int, runs: int) -> None:
    base.mkdir()
    repository = publish(base, megabytes)
    with serve(repository.directory) as server:
        manager = PluginManager.open(base / "store", server.base_url, repository.root_bytes())
        for version in ("1.0", "2.0"):
            manager.install(f"bench/big=={version}")
    store = Store(base / "store")
    [active] = manager.installed()
    link = base / "link"

    def activate() -> None:
        store.activate({active.release.plugin: active}, "activate", datetime.now(UTC))

    def replace_link() -> None:
        link.with_suffix(".new").symlink_to("elsewhere")
        link.with_suffix(".new").replace(link)
        descriptor = os.open(base, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    versions = ["1.0", "2.0"]
    actions: dict[str, Callable[[], object]] = {
        "activate": activate,
        "roll back": lambda: manager.rollback("bench/big", to=versions[0]),
        "link": replace_link,
    }
    own: dict[str, list[float]] = {name: [] for name in actions}
    waits: dict[str, list[float]] = {name: [] for name in actions}
    for index in range(2 * runs + 2):
        for name, action in actions.items():
            with store.writing() if name == "activate" else nullcontext(), fsync_timed() as taken:
                total = timed(action)
            if index > 1:
                own[name].append(total - sum(taken))
                waits[name].append(sum(taken))
        versions.reverse()
    peer = statistics.median(own["link"]) + statistics.median(waits["link"])
    for name in ("activate", "roll back"):
        waited = statistics.median(waits[name]) * 1000
        what = f"{name}, bundle of {megabytes} MB: own work (fsync besides: {waited:.1f} ms)"
        row(what, statistics.median(own[name]), "20 ms", peer, "one symlink and its fsync")


# --- planning an eviction ------------------------------------------------------------------------


def many_residents(count: int) -> list[Resident]:
    """`count` releases, two of each plugin, which share half of their files."""
    draw, found = random.Random(5), []
    versions = [parse_version("1.0"), parse_version("2.0")]
    for number in range(count):
        plugin, second = divmod(number, 2)
        release = Release(PluginName("bench", f"p{plugin}"), versions[second])
        shared = [plugin * 1000 + key for key in range(FILES_EACH // 2)]
        own = [draw.getrandbits(63) for _ in range(FILES_EACH - len(shared))]
        keys = array("Q", shared + own)
        sizes = array("Q", [4096 * (1 + key % 7) for key in keys])
        found.append(
            Resident(
                release=release,
                digest=Digest(f"{number:064x}"),
                directory=Path(f"/store/{number}"),
                contents=Contents(release, keys, sizes),
                kept=Kept.ACTIVE if second else Kept.PREVIOUS,
                usage=Usage(draw.randrange(10 * count)),
            )
        )
    return found


def measure_planning(count: int, runs: int) -> None:
    residents = many_residents(count)
    half = sum(one.total_bytes for one in residents) // 2
    limits = Limits(max_store_bytes=half // 2, min_free_bytes=0)
    evicted = 0

    def plan() -> None:
        nonlocal evicted
        found = plan_space(
            residents, 0, other_bytes=0, unfinished_bytes=0, limits=limits, disk=(1 << 60, 1 << 59)
        )
        evicted = len(found.evict)

    taken = statistics.median(timed(plan) for _ in range(runs))
    what = f"plan to evict {evicted} of {count} releases of {FILES_EACH} files"
    row(what, taken, "1000 ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--plugins", type=int, default=500, help="in the large store")
    parser.add_argument("--generations", type=int, default=100, help="of the large store")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 1000], help="of bundles")
    parser.add_argument("--residents", type=int, default=100_000, help="to plan evictions of")
    arguments = parser.parse_args()
    if arguments.generations < 2:
        parser.error("--generations must be 2 or more")
    (PROJECT / ".bench").mkdir(exist_ok=True)
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, median of {arguments.runs}")
    print("\n| what | ours | target | peer | ratio | peer is |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=PROJECT / ".bench") as text:
        base = Path(text)
        measure_commands(base, arguments.plugins, arguments.generations, arguments.runs)
        for megabytes in arguments.megabytes:
            measure_going_back(base / f"{megabytes}", megabytes, arguments.runs)
    measure_planning(arguments.residents, arguments.runs)


if __name__ == "__main__":
    main()
