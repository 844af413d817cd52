"""Install, verified load, upgrade of one file and rollback: whole processes, beside plain peers.

Run: .venv/bin/python -m benchmarks.end_to_end [--runs 5]  (prints Markdown)
Needs nginx, curl, tar and zstd. Peers in the same run, taken in turn:
    install, upgrade   curl of the bundle(s), then `tar --zstd -x`: verifies nothing
    load               plain import of the same packages from a directory, bytecode cached
    rollback           a new process that replaces one symbolic link: about what starting costs
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
from collections.abc import Callable
from pathlib import Path

from plugin_manager.publishing import Repository
from tests.nginx import nginx

PROJECT = Path(__file__).resolve().parents[1]
TOML = """[plugin]
name = "bench/{name}"
version = "{version}"
summary = "benchmark"
"""


def source(work: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    directory = work / "sources" / f"{name}-{version}"
    for path, content in files.items():
        target = directory / "files" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    (directory / "plugin.toml").write_text(TOML.format(name=name, version=version))
    return directory


def package(name: str, modules: int, seed: int, module_bytes: int) -> dict[str, bytes]:
    """An importable package of about `modules * module_bytes` bytes of source."""
    draw = random.Random(seed)
    files = {
        f"{name}/__init__.py": "".join(f"from . import m{i}\n" for i in range(modules)).encode()
    }
    for index in range(modules):
        lines = [f'"""Module {index} of {name}."""']
        while sum(map(len, lines)) < module_bytes:
            n = draw.randrange(10**9)
            lines.append(
                f"def f{n}(x, y={n}):\n    return x * {n} + y if x > {n % 97} else y - {n % 89}\n"
            )
        files[f"{name}/m{index}.py"] = "\n".join(lines).encode()
    return files


class Case:
    """One shape of repository: names of plugins, versions 1.0 and 2.0, and what to import."""

    def __init__(self, title: str, work: Path, plugins: dict[str, dict[str, bytes]]) -> None:
        self.title, self.work, self.names = title, work, list(plugins)
        repository = Repository.create(
            work / "repository", keys_directory=work / "keys", passphrase="x"
        )
        repository.add_publisher("bench")
        self.root = work / "root.json"
        self.root.write_bytes(repository.root_bytes())
        self.public = repository.public
        for name, files in plugins.items():
            repository.publish(source(work, name, "1.0", files))
        for name, files in list(plugins.items())[:1]:
            changed = next(path for path in files if path.endswith("m0.py"))
            newer = {**files, changed: files[changed] + b"\nNEW = 2\n"}
            repository.publish(source(work, name, "2.0", newer))

    def bundles(self, version: str, names: list[str]) -> list[str]:
        """The bundles' paths below the repository's public directory."""
        found = []
        for name in names:
            [path] = (self.public / "targets/bench" / name).glob(f"*.{name}-{version}-any.tar.zst")
            found.append(path.relative_to(self.public).as_posix())
        return found


def run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:300]}\n{done.stdout}{done.stderr}")


def timed(action: Callable[[], None]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def pluginctl(case: Case, store: Path, url: str, *arguments: str) -> Callable[[], None]:
    options = ["--store", str(store), "--repository", url, "--root", str(case.root)]
    command = [sys.executable, "-m", "plugin_manager.cli", *options, *arguments]
    return lambda: run(command, PROJECT)


def curl_and_tar(url: str, bundles: list[str], destination: Path) -> Callable[[], None]:
    def action() -> None:
        destination.mkdir(parents=True)
        addresses = [argument for b in bundles for argument in ("-O", url + b)]
        run(["curl", "-sf", *addresses], cwd=destination)
        for bundle in bundles:
            run(["tar", "--zstd", "-xf", bundle.rpartition("/")[2]], cwd=destination)

    return action


LOAD = """
import sys
from plugin_manager import PluginManager
manager = PluginManager.open(sys.argv[1], root=sys.argv[2])
for name in sys.argv[3:]:
    manager.load("bench/" + name).import_module("p_" + name)
"""
IMPORT = """
import sys, importlib
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module("p_" + name)
"""
LINK = """
import os, sys
os.symlink("x", sys.argv[1] + ".new")
os.replace(sys.argv[1] + ".new", sys.argv[1])
"""


def one_round(
    case: Case, url: str, place: Path
) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """What to time, ours and the peer's, in the order of a plugin's life; `place` is empty."""
    store, plain, link = place / "store", place / "plain", place / "link"
    first = case.names[:1]
    link.symlink_to("y")
    python = [sys.executable, "-c"]
    plain_import = [*python, IMPORT, str(plain), *case.names]
    load = [*python, LOAD, str(store), str(case.root), *case.names]
    return {
        "install": (
            pluginctl(case, store, url, "install", *(f"bench/{n}==1.0" for n in case.names)),
            curl_and_tar(url, case.bundles("1.0", case.names), plain),
        ),
        # Not shown: it leaves bytecode for the plain import that is measured next.
        "": (lambda: None, lambda: run(plain_import)),
        "verified load and import": (lambda: run(load, PROJECT), lambda: run(plain_import)),
        "upgrade of one file": (
            pluginctl(case, store, url, "upgrade", f"bench/{first[0]}"),
            curl_and_tar(url, case.bundles("2.0", first), place / "plain2"),
        ),
        "rollback": (
            pluginctl(case, store, url, "rollback", f"bench/{first[0]}"),
            lambda: run([*python, LINK, str(link)]),
        ),
    }


def measure(case: Case, url: str, runs: int) -> list[tuple[str, float, float, str]]:
    ours: dict[str, list[float]] = {}
    peers: dict[str, list[float]] = {}
    for index in range(runs + 1):
        with tempfile.TemporaryDirectory(dir=case.work) as text:
            for what, (our, peer) in one_round(case, url, Path(text)).items():
                times = timed(our), timed(peer)
                if what and index:  # the first round warms caches and is not counted
                    ours.setdefault(what, []).append(times[0])
                    peers.setdefault(what, []).append(times[1])
    peer_names = {
        "install": "curl + tar",
        "verified load and import": "plain import",
        "upgrade of one file": "curl + tar",
        "rollback": "python, one symlink",
    }
    return [
        (what, statistics.median(times), statistics.median(peers[what]), peer_names[what])
        for what, times in ours.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--megabytes", type=int, default=200, help="size of the big bundle's content"
    )
    parser.add_argument("--plugins", type=int, default=100, help="number of small plugins")
    arguments = parser.parse_args()
    if arguments.megabytes < 2:
        parser.error("--megabytes must be 2 or more: the package beside the data has 1 MB")
    (PROJECT / ".bench").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PROJECT / ".bench") as base:
        run_all(arguments, Path(base))


def run_all(arguments: argparse.Namespace, base: Path) -> None:
    big = package("p_big", 50, 1, 20_000)
    rest = arguments.megabytes * 1_000_000 - sum(map(len, big.values()))
    big["p_big/model.bin"] = random.Random(2).randbytes(rest)
    small = {f"s{i}": package(f"p_s{i}", 5, i, 9_900) for i in range(arguments.plugins)}
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, median of {arguments.runs}")
    print("\n| what | ours | peer | ratio | peer is |\n|---|---|---|---|---|")
    for title, plugins in (
        (f"one bundle of {arguments.megabytes} MB", {"big": big}),
        (f"{arguments.plugins} plugins of 50 KB", small),
    ):
        work = base / title.replace(" ", "-")
        work.mkdir()
        case = Case(title, work, plugins)
        with nginx(case.public) as (url, _):
            for what, our, peer, name in measure(case, url, arguments.runs):
                print(
                    f"| {title}: {what} | {our:.3f} s | {peer:.3f} s | {our / peer:.2f} | {name} |"
                )


if __name__ == "__main__":
    main()
