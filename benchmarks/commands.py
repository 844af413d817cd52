"""How long whole processes of commands that only look take, beside `uv --version` and `pip list`.

    python -m benchmarks.commands [--rounds 21]

The store is small: 12 plugins of two publishers, three of which have something newer. All
processes take their turns in each round; the medians of wall time and of processor time (which a
busy machine stretches less) are printed, and the median of each round's ratio to `pip list`.
Where a command takes more than 120 ms of processor time, it is named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from attrs import frozen

from benchmarks.end_to_end import TOML
from benchmarks.measuring import PROJECT, environment, in_turn, median, ratio, work_directory
from plugin_manager import PluginManager
from plugin_manager.publishing import Repository, serve

LIMIT_SECONDS = 0.120
COMMANDS = (
    "list", "show acme/p00", "info acme/p00", "outdated", "search p0", "storage", "history", "jobs",
    "config", "doctor --offline",
)  # fmt: skip


@frozen
class Taken:
    """What one process took."""

    seconds: float
    cpu_seconds: float
    resident_bytes: int = 0
    begun: float = 0.0


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def once(command: Sequence[str], settings: dict[str, str]) -> Taken:
    """Run `command` to its end."""
    cpu, begun = _cpu_seconds(), time.perf_counter()
    done = subprocess.run(
        command, cwd=PROJECT, env=environment(**settings), capture_output=True, check=False
    )
    taken = Taken(time.perf_counter() - begun, _cpu_seconds() - cpu)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout.decode()}{done.stderr.decode()}")
    return taken


def small_store(work: Path) -> dict[str, str]:
    """A store with something in it; the environment that names it."""
    repository = Repository.create(work / "repository", keys_directory=work / "k", passphrase="x")
    names = [f"{publisher}/p{n:02}" for publisher in ("acme", "globex") for n in range(6)]
    for publisher in ("acme", "globex"):
        repository.add_publisher(publisher)

    def publish(name: str, version: str) -> None:
        source = work / "source"
        (source / "files").mkdir(parents=True)
        module = f"{name.replace('/', '_')}.py"
        (source / "files" / module).write_text(f"VERSION = {version!r}\n" * 100)
        toml = TOML.format(name=name.partition("/")[2], version=version)
        toml = toml.replace('"bench/', f'"{name.partition("/")[0]}/')
        (source / "plugin.toml").write_text(toml)
        repository.publish(source)
        shutil.rmtree(source)

    root = work / "root.json"
    for name in names:
        publish(name, "1.0")
    root.write_bytes(repository.root_bytes())
    with serve(repository.directory) as server:
        manager = PluginManager.open(work / "store", server.base_url, root, host_version="1.0")
        manager.install(*names)
        for name in names[:3]:
            publish(name, "1.1")
        manager.update()
        manager.close()
    return {
        "PLUGINCTL_STORE": str(work / "store"),
        "PLUGINCTL_ROOT": str(root),
        "PLUGINCTL_REPOSITORY": "http://127.0.0.1:9/",
        "PLUGINCTL_HOST_VERSION": "1.0",
        "PYTHONPATH": str(PROJECT),
        "XDG_CONFIG_HOME": str(work / "home"),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    python = sys.executable
    uv = shutil.which("uv", path=str(Path(python).parent)) or shutil.which("uv")
    with work_directory() as work:
        settings = small_store(work)
        lines: dict[str, Sequence[str]] = {"python -c pass": [python, "-c", "pass"]}
        if uv:
            lines["uv --version"] = [uv, "--version"]
            lines["uv pip list"] = [uv, "pip", "list", "--python", python]
        lines["pip list"] = [python, "-m", "pip", "--disable-pip-version-check", "list"]
        for command in COMMANDS:
            name = f"pluginctl {command}"
            lines[name] = [python, "-m", "plugin_manager.cli", *command.split()]
        runs: dict[str, Callable[[], Taken]] = {
            name: partial(once, line, settings) for name, line in lines.items()
        }
        found = in_turn(runs, rounds, lambda: None)  # type: ignore[type-var,arg-type]
    print(
        f"{rounds} rounds on {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end"
    )
    print(f"{'':28} {'wall ms':>8} {'cpu ms':>8} {'/ pip list':>11}")
    peers = found["pip list"]
    over = []
    for name, taken in found.items():
        cpu = statistics.median(one.cpu_seconds for one in taken)  # type: ignore[attr-defined]
        print(
            f"{name:28} {median(taken) * 1000:8.0f} {cpu * 1000:8.0f} {ratio(taken, peers):11.2f}"
        )
        if name.startswith("pluginctl ") and cpu > LIMIT_SECONDS:
            over.append(name)
    if over:
        sys.exit(f"over {LIMIT_SECONDS * 1000:.0f} ms of processor time: {', '.join(over)}")


if __name__ == "__main__":
    main()
