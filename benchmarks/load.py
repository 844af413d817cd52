"""Loading: verified imports of real packages, small plugins, and files larger than memory likes.

Run: .venv/bin/python -m benchmarks.load [--runs 9]  (prints Markdown; wheels come through pip)
     .venv/bin/python -m benchmarks.load --big 8590 --directory .bench [--cold]
What is measured, each in fresh processes with warm caches, beside its peer in turn:
    imports       packages from PyPI, published with bytecode, installed, loaded and imported. The
                  peer is the plain import of the same files, its own bytecode cached, in a process
                  in which the same modules of Python's are there already. "Chain" is all: importing
                  this project, opening the manager, the signatures, hashing, importing; beside
                  a plain import with nothing imported before
    cryptography  the same without "chain": the manager needs cryptography itself, so that no
                  process with a manager can load it as a plugin. The loader alone does not
    small         one load of a plugin of 50 KB: the first in a process, and later ones
    --big         a file of so many megabytes, in the page cache: verified, mapped, streamed; the
                  peer is BLAKE3 on all cores over the same bytes. With --cold its pages are dropped
                  before each, and the peer reads the file in as many threads as there are cores
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import textwrap
import zipfile
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from blake3 import blake3

from benchmarks.measuring import environment, work_directory
from plugin_manager import PluginManager
from plugin_manager.manifest import (
    About,
    Chunking,
    Columns,
    File,
    Manifest,
    PythonLayout,
    render,
)
from plugin_manager.model import BundlePath, HostNeeds, PluginName, Release, parse_version
from plugin_manager.publishing import Repository, serve
from plugin_manager.store import Store
from tests.loader.hosts import make_libraries
from tests.wheels import wheels

# What to import: the package, and what users of it import next.
PACKAGES = {
    "sympy": ("sympy",),
    "django": ("django.db.models", "django.contrib.admin", "django.test"),
    "pandas": ("pandas",),
    "cryptography": ("cryptography.hazmat.bindings._rust", "cryptography.x509"),
}
TARGETS = {"sympy": 1.0, "django": 1.0, "pandas": 1.1, "cryptography": 1.3}
NO_CHAIN = {"cryptography"}
CHUNK_BYTES = 256 * 1024
CLOCK = ["perf_counter"]

# --- what the measured processes run ----------------------------------------------------------

_BEGIN = """
import sys
sys.path += [{libraries!r}]
from time import {clock} as perf_counter
"""
_HOST = """
import plugin_manager.manager._loading, plugin_manager._host, tuf.api.metadata
import plugin_manager.loader._metadata
import importlib.metadata, importlib.resources, linecache, pkgutil
"""
_HOST_WITHOUT_MANAGER = """
import plugin_manager.loader._metadata, plugin_manager.bundle
import importlib.metadata, importlib.resources, linecache, pkgutil
"""
_END = "print(perf_counter() - begun)"
_IMPORTS = """
import importlib
for module in {modules!r}:
    importlib.import_module(module)
"""
PLAIN = "sys.path += [{plain!r}]\nbegun = perf_counter()" + _IMPORTS + _END
LOADER = (
    """
from pathlib import Path
from plugin_manager.bundle import read_head
from plugin_manager.loader import load
manifest = read_head(Path({head!r}).read_bytes()).manifest
begun = perf_counter()
plugin = load(manifest, Path({release!r}), verify={verify!r})
"""
    + _IMPORTS
    + _END
)
CHAIN = (
    """
begun = perf_counter()
from plugin_manager import PluginManager
plugin = PluginManager.open({store!r}, root={root!r}).load({name!r}, verify={verify!r})
"""
    + _IMPORTS
    + _END
)
SMALL = """
import json
started = perf_counter()
import plugin_manager
package = perf_counter() - started
import plugin_manager.manager
{host}
import tuf.api.serialization.json, securesystemslib.signer
manager = plugin_manager.PluginManager.open({store!r}, root={root!r})
def load():
    begun = perf_counter()
    plugin = manager.load({name!r})
    taken = perf_counter() - begun
    plugin.unload()
    return taken
first = load()
later = sorted(load() for _ in range(101))
print(json.dumps([package, first, later[50]]))
"""


# How each way takes a whole file, `path` and `manifest` being there; what is timed is below.
WAYS = {
    "BLAKE3": "from blake3 import blake3\n"
    "run = lambda: blake3(max_threads=blake3.AUTO).update_mmap(path).digest()",
    "read": "run = read",
    "load": "run = lambda: load(manifest, directory)",
    "path": "run = lambda plugin=on_read(): plugin.path('model.bin')",
    "memoryview": "run = lambda plugin=on_read(): plugin.memoryview('model.bin')",
    "readinto": "run = lambda plugin=on_read(): stream_into(plugin, 16 << 20)",
    "small": "run = lambda plugin=on_read(): stream(plugin, 64 << 10)",
    "first": "run = lambda: on_read().open('model.bin').read(1)",
}
BIG = """
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from plugin_manager.loader import load
from plugin_manager.manifest import parse
directory = Path({directory!r})
path = directory / "model.bin"
manifest = parse(Path({manifest!r}).read_bytes())
def on_read():
    return load(manifest, directory, verify="on-read")
def read():
    size, share = path.stat().st_size, 8 << 20
    def part(start):
        buffer = bytearray(1 << 20)
        for at in range(start, min(start + share, size), len(buffer)):
            os.preadv(descriptor, [buffer], at)
    descriptor = os.open(path, os.O_RDONLY)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(part, range(0, size, share)))
def stream_into(plugin, length):
    buffer = bytearray(length)
    with plugin.open("model.bin") as stream:
        while stream.readinto(buffer):
            pass
def stream(plugin, length):
    with plugin.open("model.bin") as stream:
        while stream.read(length):
            pass
{way}
begun = perf_counter()
run()
print(perf_counter() - begun)
"""


def measured(script: str, **values: object) -> float:
    """What `script` prints, run in a process of its own that sees nothing of this environment."""
    return float(_printed(script, **values))


def _printed(script: str, **values: object) -> str:
    program = textwrap.dedent(script).format(clock=CLOCK[0], **values)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def in_turn(actions: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each of `actions` in each round; one round before warms caches."""
    names = list(actions)
    found: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds + 1):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            taken = actions[name]()
            if index:
                found[name].append(taken)
    return found


def ratio(ours: Sequence[float], peers: Sequence[float]) -> float:
    """The median over all rounds of ours / the peer's: what slowed a round slowed both."""
    return statistics.median(our / peer for our, peer in zip(ours, peers, strict=True))


# --- imports -----------------------------------------------------------------------------------


class Shelf:
    """Real packages, published, installed into a store, and unpacked for plain imports."""

    def __init__(self, work: Path, packages: Sequence[str]) -> None:
        self.work = work
        self.libraries = work / "libraries"
        make_libraries(self.libraries)
        self.few_libraries = work / "few-libraries"
        shutil.copytree(self.libraries, self.few_libraries, symlinks=True)
        for name in ("cryptography", "cffi", "_cffi_backend", "pycparser"):
            for path in self.few_libraries.glob(f"{name}*"):
                path.unlink()
        repository = Repository.create(
            work / "repository", keys_directory=work / "keys", passphrase="x"
        )
        repository.add_publisher("bench")
        for package in packages:
            directory = wheels(package)
            [wheel] = directory.glob(f"{package}-*.whl")
            repository.publish(wheel, publisher="bench", with_dependencies=directory)
            for each in directory.glob("*.whl"):
                with zipfile.ZipFile(each) as archive:
                    archive.extractall(work / "plain" / package)
        repository.publish(small_source(work))
        self.root = work / "root.json"
        self.root.write_bytes(repository.root_bytes())
        with serve(repository.directory) as server:
            manager = PluginManager.open(work / "store", server.base_url, self.root)
            manager.install(*(f"bench/{package}" for package in [*packages, "small"]))
        self._store = Store(work / "store")

    def values(self, package: str) -> dict[str, object]:
        """What the scripts above want to know."""
        active = self._store.active(PluginName.parse(f"bench/{package}"))
        return {
            "libraries": str(self.few_libraries if package in NO_CHAIN else self.libraries),
            "plain": str(self.work / "plain" / package),
            "modules": PACKAGES.get(package, ()),
            "store": str(self._store.directory),
            "root": str(self.root),
            "name": f"bench/{package}",
            "release": str(self._store.release_directory(active.release, active.digest)),
            "head": str(self._store.directory / "manifests" / str(active.digest)),
        }


def small_source(work: Path) -> Path:
    """A plugin of 50 KB in ten modules and a file of data."""
    source = work / "small"
    (source / "files/small").mkdir(parents=True)
    for number in range(9):
        text = "".join(f"def f{n}(x):\n    return x * {n} + {number}\n" for n in range(120))
        (source / f"files/small/m{number}.py").write_text(text)
    (source / "files/small/__init__.py").write_text("from small import m0, m1\n")
    (source / "files/small/data.bin").write_bytes(bytes(range(256)) * 40)
    (source / "plugin.toml").write_text('[plugin]\nname = "bench/small"\nversion = "1.0"\n')
    return source


def measure_imports(shelf: Shelf, packages: Sequence[str], runs: int) -> None:
    print("| import | plain | `all` | ratio | `on-read` | ratio | target |")
    print("|---|---|---|---|---|---|---|")
    for package in packages:
        values = shelf.values(package)
        host = _HOST_WITHOUT_MANAGER if package in NO_CHAIN else _HOST
        found = in_turn(
            {
                "plain": lambda: measured(_BEGIN + host + PLAIN, **values),  # noqa: B023 - called now
                "all": lambda: measured(_BEGIN + host + LOADER, verify="all", **values),  # noqa: B023
                "on-read": lambda: measured(_BEGIN + host + LOADER, verify="on-read", **values),  # noqa: B023
            },
            runs,
        )
        _import_row(package, found, f"{TARGETS[package]:.1f}")
    print("\n| import and chain | plain | `all` | ratio | `on-read` | ratio | difference |")
    print("|---|---|---|---|---|---|---|")
    for package in [one for one in packages if one not in NO_CHAIN]:
        values = shelf.values(package)
        found = in_turn(
            {
                "plain": lambda: measured(_BEGIN + PLAIN, **values),  # noqa: B023
                "all": lambda: measured(_BEGIN + CHAIN, verify="all", **values),  # noqa: B023
                "on-read": lambda: measured(_BEGIN + CHAIN, verify="on-read", **values),  # noqa: B023
            },
            runs,
        )
        pairs = zip(found["all"], found["plain"], strict=True)
        more = statistics.median(ours - plain for ours, plain in pairs)
        _import_row(package, found, f"{more * 1000:+.0f} ms")


def _import_row(package: str, found: dict[str, list[float]], last: str) -> None:
    plain, everything, on_read = (found[name] for name in ("plain", "all", "on-read"))
    cells = [f"{statistics.median(plain) * 1000:.0f} ms"]
    for ours in (everything, on_read):
        cells += [f"{statistics.median(ours) * 1000:.0f} ms", f"{ratio(ours, plain):.2f}"]
    print(f"| {package} | {' | '.join(cells)} | {last} |", flush=True)


def measure_small(shelf: Shelf, runs: int) -> None:
    values = shelf.values("small")
    found = [json.loads(_printed(_BEGIN + SMALL, host=_HOST, **values)) for _ in range(runs)]
    package, first, later = (
        statistics.median(column) * 1000 for column in zip(*found, strict=True)
    )
    print("\n| a plugin of 50 KB | ours | target |\n|---|---|---|")
    print(f"| `import plugin_manager` | {package:.1f} ms | 60 ms |")
    print(f"| first load in a process, beyond imports | {first:.1f} ms | 25 ms |")
    print(f"| a later load, all verified (median of 101) | {later:.2f} ms | 3 ms |", flush=True)


# --- a file that is larger than memory likes -----------------------------------------------------


def big_release(work: Path, megabytes: int) -> dict[str, object]:
    """A release of one file of random bytes, in chunks of 256 KiB, as the scripts want it."""
    directory = work / "big"
    directory.mkdir()
    block = random.Random(5).randbytes(64 * CHUNK_BYTES)
    count = megabytes * 1_000_000 // CHUNK_BYTES
    digests = []
    with (directory / "model.bin").open("wb") as file:
        for number in range(count):
            at = number % 64 * CHUNK_BYTES
            chunk = number.to_bytes(8) + block[at + 8 : at + CHUNK_BYTES]
            digests.append(blake3(chunk).digest())
            file.write(chunk)
    lengths = array("I", [CHUNK_BYTES]) * count
    manifest = Manifest(
        release=Release(PluginName.parse("bench/big"), parse_version("1.0")),
        about=About(),
        requirements=(),
        needs=HostNeeds(),
        entry_points=(),
        python=PythonLayout(),
        files=(
            File(
                path=BundlePath.parse("model.bin"),
                size=count * CHUNK_BYTES,
                executable=False,
                tag="",
                chunking=Chunking(CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES),
                first_chunk=0,
                chunk_count=count,
            ),
        ),
        columns=Columns(
            digests=b"".join(digests),
            lengths=lengths,
            frames=array("I", range(count)),
            offsets=array("I", bytes(4 * count)),
            frame_lengths=lengths,
            frame_content_lengths=lengths,
        ),
    )
    (work / "big.manifest").write_bytes(render(manifest))
    make_libraries(work / "libraries")
    return {
        "directory": str(directory),
        "manifest": str(work / "big.manifest"),
        "libraries": str(work / "libraries"),
    }


def measure_big(work: Path, megabytes: int, runs: int, *, cold: bool) -> None:
    values = big_release(work, megabytes)
    file = Path(str(values["directory"])) / "model.bin"

    def one(way: str) -> float:
        if cold:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return measured(_BEGIN + BIG, way=WAYS[way], **values)

    peer = "read" if cold else "BLAKE3"
    ways = [way for way in WAYS if way != ("BLAKE3" if cold else "read")]
    found = in_turn({way: partial(one, way) for way in ways}, runs)
    base = statistics.median(found[peer])
    size, state = (
        file.stat().st_size / 1e9,
        "not in the page cache" if cold else "in the page cache",
    )
    print(f"| {size:.1f} GB {state} | seconds | GB/s | {peer} / this | target |")
    print("|---|---|---|---|---|")
    verified = 0.95 if cold else 0.85
    targets = {"load": f"{verified}", "path": f"{verified}", "memoryview": f"{verified}"}
    for way in ways:
        taken = statistics.median(found[way])
        if way == "first":
            print(f"| first byte | {taken * 1000:.1f} ms | - | - | 10 ms |")
            continue
        speed = f"{statistics.median(found[way]):.2f} | {size / taken:.1f}"
        print(
            f"| {way} | {speed} | {ratio(found[peer], found[way]):.2f} | {targets.get(way, '')} |"
        )
    for way in ("readinto", "small"):
        part = ratio(found["load"], found[way])
        print(f"| {way} beside load | | | {part:.2f} | {0.8 if way == 'readinto' else ''} |")
    print(f"\nThe peer took {base:.2f} s.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--packages", nargs="*", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--directory", type=Path, help="where to work; in memory by default")
    parser.add_argument("--big", type=int, default=0, help="megabytes of one file, instead")
    parser.add_argument(
        "--cpu", action="store_true", help="time of processors instead, on a busy machine"
    )
    parser.add_argument("--cold", action="store_true", help="with --big: from the disk")
    arguments = parser.parse_args()
    with work_directory(arguments.directory) as work:
        print(
            f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, median of {arguments.runs}\n"
        )
        if arguments.big:
            measure_big(work, arguments.big, arguments.runs, cold=arguments.cold)
            return
        shelf = Shelf(work, arguments.packages)
        measure_imports(shelf, arguments.packages, arguments.runs)
        measure_small(shelf, arguments.runs)


if __name__ == "__main__":
    main()
