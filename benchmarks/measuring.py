"""What benchmarks of fetching share: whole processes in turn, and repositories to fetch from."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import frozen

from benchmarks.end_to_end import TOML
from plugin_manager.publishing import Repository

__all__ = ["Repo", "Run", "in_turn", "median", "ratio", "resident_bytes", "run", "work_directory"]

PROJECT = Path(__file__).resolve().parents[1]
MEMORY = Path("/dev/shm")
MEGABYTE = 1_000_000


@frozen
class Run:
    """What one process took, and what it `said`; `begun` is of the wall clock."""

    seconds: float
    resident_bytes: int
    begun: float
    said: str = ""


def environment(**further: str) -> dict[str, str]:
    """The environment of what is measured: Python may keep its bytecode, as it does everywhere."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | further


def run(command: Sequence[str], **further: str) -> Run:
    """Run `command` to its end, with `further` in its environment."""
    begun, wall = time.perf_counter(), time.time()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment(**further), stdout=said, stderr=said
        )
        # Not wait4's ru_maxrss: it counts what this process had when it forked.
        resident = 0
        while process.poll() is None:
            resident = max(resident, resident_bytes(process.pid))
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        seconds = time.perf_counter() - begun
        said.seek(0)
        text = said.read().decode()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)[:300]}\n{text}")
    return Run(seconds, resident, wall, text)


def resident_bytes(process: int) -> int:
    """The most memory that `process` has had resident so far; 0 where that cannot be seen."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def in_turn(
    commands: Mapping[str, Callable[[], Run]],
    rounds: int,
    clear: Callable[[], None],
    *,
    uncounted: int = 1,
) -> dict[str, list[Run]]:
    """What each of `commands` took in each round; `clear()` comes before each.

    The first `uncounted` rounds warm caches. Each round begins with another command, so that none
    always follows the same one.
    """
    found: dict[str, list[Run]] = {name: [] for name in commands}
    names = list(commands)
    for index in range(uncounted + rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            clear()
            taken = commands[name]()
            if index >= uncounted:
                found[name].append(taken)
    clear()
    return found


def median(runs: Sequence[Run]) -> float:
    """The median of the seconds that `runs` took."""
    return statistics.median(one.seconds for one in runs)


def ratio(ours: Sequence[Run], peers: Sequence[Run]) -> float:
    """The median over all rounds of ours / the peer's: what slowed a round slowed both."""
    return statistics.median(
        our.seconds / peer.seconds for our, peer in zip(ours, peers, strict=True)
    )


@contextmanager
def work_directory(parent: Path | None = None) -> Iterator[Path]:
    """A directory for one run, in memory so that no disk has a say, or else in `parent`."""
    if parent is None and MEMORY.is_dir():
        parent = MEMORY
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=parent) as text:
        yield Path(text)


class Repo:
    """A repository of plugins bench/<name>, each with one file of as many bytes as `sizes` says.

    They do not compress: a bundle is about as long as its file.
    """

    def __init__(self, work: Path, sizes: Mapping[str, int]) -> None:
        draw = random.Random(7)
        repository = Repository.create(
            work / "repository", keys_directory=work / "keys", passphrase="x"
        )
        repository.add_publisher("bench")
        self.names = list(sizes)
        for name, length in sizes.items():
            source = work / "source"
            (source / "files").mkdir(parents=True)
            with (source / "files/model.bin").open("wb") as file:
                for begin in range(0, length, MEGABYTE):
                    file.write(draw.randbytes(min(MEGABYTE, length - begin)))
            (source / "plugin.toml").write_text(TOML.format(name=name, version="1.0"))
            repository.publish(source)
            shutil.rmtree(source)
        self.root = work / "root.json"
        self.root.write_bytes(repository.root_bytes())
        self.public = repository.public
        self.bundles = [
            bundle.relative_to(self.public).as_posix()
            for name in self.names
            for bundle in (self.public / "targets/bench" / name).glob("*.tar.zst")
        ]

    def bundle_bytes(self) -> int:
        """The length of all bundles together."""
        return sum((self.public / bundle).stat().st_size for bundle in self.bundles)

    def sha256(self) -> str:
        """Of the first bundle."""
        with (self.public / self.bundles[0]).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def install(self, store: Path, url: str, *names: str) -> list[str]:
        """The command that installs plugins (all, if none is named) from `url` into `store`."""
        options = ["--store", str(store), "--repository", url, "--root", str(self.root)]
        wanted = [f"bench/{name}" for name in names or self.names]
        return [sys.executable, "-m", "plugin_manager.cli", *options, "install", *wanted]
