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
                  peer is BLAKE3 on all cores over the same bytes. With --cold (as root) the page
                  cache is dropped before each, and the peer reads the file in as many threads as
                  there are cores
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measuring import environment, work_directory
from plugin_manager import PluginManager
from plugin_manager.model import PluginName
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

# --- what the measured processes run ----------------------------------------------------------

_BEGIN = """
import sys
sys.path += [{libraries!r}]
from time import perf_counter
"""
_HOST = """
import plugin_manager.manager._loading, plugin_manager._host, tuf.api.metadata
import importlib.metadata, importlib.resources, linecache, pkgutil
"""
_HOST_WITHOUT_MANAGER = """
import plugin_manager.loader, plugin_manager.bundle
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


def measured(script: str, **values: object) -> float:
    """What `script` prints, run in a process of its own that sees nothing of this environment."""
    return float(_printed(script, **values))


def _printed(script: str, **values: object) -> str:
    program = textwrap.dedent(script).format(**values)
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
            "libraries": str(self.libraries),
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--packages", nargs="*", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--directory", type=Path, help="where to work; in memory by default")
    arguments = parser.parse_args()
    with work_directory(arguments.directory) as work:
        print(
            f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, median of {arguments.runs}\n"
        )
        shelf = Shelf(work, arguments.packages)
        measure_imports(shelf, arguments.packages, arguments.runs)
        measure_small(shelf, arguments.runs)


if __name__ == "__main__":
    main()
