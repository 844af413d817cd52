"""An install killed half way, and run again: how soon it goes on, and what it fetches twice.

Run: .venv/bin/python -m benchmarks.resume [--megabytes 4295] [--runs 3]  (prints Markdown)
Needs nginx, and room for the bundle twice: in memory, or in --directory. Once for each signal:

    goes on after      from the start of the second process to the arrival, at the server, of its
                       first request for content of the bundle, metadata and its head included
    hashing            the peer: BLAKE3 with all cores over what the first process left on the disk,
                       mapped into memory; nothing that verifies what is there can be faster
    fetched again      what the second process fetched although the disk had it: what the server
                       sent to it, less what the disk lacked of the bundle. A span (1 MiB at most)
                       that was being written is fetched again: one a connection
    sent twice         what the server sent to both, less the length of the bundle: the above, and
                       what was in memory and in both kernels' sockets when the first process died
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen
from blake3 import blake3

from benchmarks.measuring import MEGABYTE, PROJECT, Repo, environment, run, work_directory
from benchmarks.server import Request, Server, serve


@frozen
class Resumed:
    """What one interrupted install and its second attempt took; seconds and bytes."""

    staged_bytes: int
    goes_on_seconds: float
    hashing_seconds: float
    again_bytes: int
    twice_bytes: int
    connections: int
    whole_seconds: float


def staged(store: Path) -> list[Path]:
    """The files of the release that is being assembled."""
    return [path for path in (store / "staging").rglob("*") if path.is_file()]


def extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Where a file has bytes, as [start, stop): the rest of it are holes."""
    end, stop = os.fstat(descriptor).st_size, 0
    while stop < end:
        try:
            start = os.lseek(descriptor, stop, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        stop = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, stop


def hashing_seconds(paths: list[Path]) -> tuple[int, float]:
    """How many bytes `paths` hold, and how long BLAKE3 takes for them."""
    begun, total = time.perf_counter(), 0
    for path in paths:
        with path.open("rb") as file:
            if not path.stat().st_size:
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                hasher = blake3(max_threads=blake3.AUTO)
                for start, stop in extents(file.fileno()):
                    with memoryview(mapped)[start:stop] as view:
                        hasher.update(view)
                    total += stop - start
    return total, time.perf_counter() - begun


def interrupt(command: list[str], store: Path, half_bytes: int, number: signal.Signals) -> None:
    """Run `command` until half of the bundle is there, and end it with signal `number`."""
    process = subprocess.Popen(
        command, cwd=PROJECT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    while sum(path.stat().st_blocks * 512 for path in staged(store)) < half_bytes:
        if process.poll() is not None:
            raise SystemExit("the install ended before it was half done")
        time.sleep(0.002)
    process.send_signal(number)
    if process.wait(60) == 0:
        raise SystemExit("the install was done before it could be interrupted")


def bundle_requests(server: Server) -> list[Request]:
    """What was asked for of the bundle, its head first."""
    return [one for one in server.requests() if one.is_bundle]


def once(repo: Repo, server: Server, store: Path, number: signal.Signals) -> Resumed:
    command = repo.install(store, server.url)
    length = repo.bundle_bytes()
    interrupt(command, store, length // 2, number)
    staged_bytes, seconds = hashing_seconds(staged(store))
    _, *before = bundle_requests(server)
    taken = run(command)
    head, *content = bundle_requests(server)
    length -= head.sent_bytes
    fetched = sum(one.sent_bytes for one in content)
    return Resumed(
        staged_bytes=staged_bytes,
        goes_on_seconds=content[0].begun - taken.begun,
        hashing_seconds=seconds,
        again_bytes=max(fetched - (length - staged_bytes), 0),
        twice_bytes=sum(one.sent_bytes for one in before) + fetched - length,
        connections=len({one.connection for one in content}),
        whole_seconds=taken.seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=4295, help="of the bundle (4 GiB)")
    parser.add_argument("--directory", type=Path, help="where to work; default: in memory")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, median of {arguments.runs}")
    print("\n| signal | left on disk | goes on after | hashing | ratio | fetched again ", end="")
    print("| sent twice | connections | second run in all |\n" + "|---" * 9 + "|", flush=True)
    with work_directory(arguments.directory) as work:
        repo, store = Repo(work, {"big": arguments.megabytes * MEGABYTE}), work / "store"
        with serve(repo.public) as server:
            for number in (signal.SIGKILL, signal.SIGINT):
                found = []
                for _ in range(arguments.runs):
                    found.append(once(repo, server, store, number))
                    shutil.rmtree(store)
                print_row(number, found)


def print_row(number: signal.Signals, found: list[Resumed]) -> None:
    def median(name: str) -> float:
        return statistics.median(getattr(one, name) for one in found)

    ratio = statistics.median(one.goes_on_seconds / one.hashing_seconds for one in found)
    again = max(one.again_bytes for one in found)
    twice = max(one.twice_bytes for one in found)
    print(
        f"| {number.name} | {median('staged_bytes') / MEGABYTE:.0f} MB "
        f"| {median('goes_on_seconds'):.2f} s | {median('hashing_seconds'):.2f} s | {ratio:.2f} "
        f"| {again / 1000:.0f} kB | {twice / 1000:.0f} kB | {median('connections'):.0f} "
        f"| {median('whole_seconds'):.2f} s |",
        flush=True,
    )


if __name__ == "__main__":
    main()
