"""Fetching over a far line (200 Mbit/s, 80 ms), and many small bundles: beside aria2c.

Run: .venv/bin/python -m benchmarks.far [check] [big] [many]  (prints Markdown; default: all three)
Needs nginx and aria2c; the far line needs root (see benchmarks/line.py), and without it only the
second table of `many`, on loopback, is made. Whole processes, in turn, to a file system in memory.

    check   what one plain curl reaches over this line, beside what theory says of it
    big     one bundle (--megabytes): `pluginctl install`, metadata, verification and all, beside
            aria2c of the bundle alone with so many connections (-x, -s; -k1M), verifying nothing
    many    --plugins of 50 KB each: one `pluginctl install` of all, metadata included, beside
            `aria2c -i list -j16` of their bundles alone

--congestion and --loss take several values; each pair is a run of its own. A ratio is the median of
the rounds' ratios. "Before the bundle" counts from the start of our process to the arrival, at the
server, of the first request for (the head of) a bundle.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

from attrs import define, field, frozen

from benchmarks.line import Account, Line, absent, far
from benchmarks.measuring import (
    MEGABYTE,
    Repo,
    Run,
    in_turn,
    median,
    ratio,
    run,
    work_directory,
)
from benchmarks.server import Request, Server, serve

BITS_PER_SECOND, ROUND_TRIP_SECONDS = 200e6, 0.08
PLUGIN_BYTES = 50_000
MOST_LATE_SHARE = 0.01
SEGMENT_BYTES = 1448  # of a packet of 1500: IP and TCP headers with timestamps
FIRST_WINDOW = 10  # segments (RFC 6928)
ARIA = ["aria2c", "-q", "--file-allocation=none", "--allow-overwrite=true"]


@frozen
class Place:
    """Where a benchmark runs: what its line is called, and how clients get onto it."""

    name: str
    server: Server
    line: Line | None

    def run(self, command: Sequence[str]) -> Run:
        """Run a client's `command` here."""
        if self.line is None:
            return run(command)
        return run([*self.line.inside, *command], PLUGINCTL_INSECURE_HTTP="1")

    def forget(self) -> None:
        """Begin as on a line that nobody used before."""
        if self.line is not None:
            self.line.forget()


@define
class Anatomy:
    """What our processes asked the server for."""

    requests: list[int] = field(factory=list)
    connections: list[int] = field(factory=list)
    before_requests: list[int] = field(factory=list)
    before_seconds: list[float] = field(factory=list)

    def add(self, taken: Run, requests: list[Request]) -> None:
        """Count what the server saw of `taken`."""
        first = next(index for index, one in enumerate(requests) if one.is_bundle)
        self.requests.append(len(requests))
        self.connections.append(len({one.connection for one in requests}))
        self.before_requests.append(first)
        self.before_seconds.append(requests[first].begun - taken.begun)

    def __str__(self) -> str:
        before = statistics.median(self.before_seconds)
        return (
            f"{statistics.median(self.before_requests):.0f} in {before:.2f} s | "
            f"{statistics.median(self.requests):.0f} over {statistics.median(self.connections):.0f}"
        )


@contextmanager
def far_place(public: Path, congestion: str, loss: float) -> Iterator[Place]:
    accounts: dict[str, Account] = {}
    with (
        far(
            bits_per_second=BITS_PER_SECOND,
            round_trip_seconds=ROUND_TRIP_SECONDS,
            loss=loss,
            congestion=congestion,
            accounts=accounts,
        ) as line,
        serve(public, line.server) as server,
    ):
        yield Place(f"{congestion}, {loss:.1%} lost", server, line)
    late = sum(one.late for one in accounts.values())
    share = late / sum(one.packets for one in accounts.values())
    if share > MOST_LATE_SHARE:
        print(
            f"{share:.1%} of packets were late: too busy a machine for this line", file=sys.stderr
        )


def ours_and_peers(
    repo: Repo, place: Place, work: Path, peers: dict[str, list[str]], rounds: int
) -> tuple[dict[str, list[Run]], Anatomy]:
    store, out = work / "store", work / "out"
    anatomy = Anatomy()

    def ours() -> Run:
        place.server.requests()
        taken = place.run(repo.install(store, place.server.url))
        anatomy.add(taken, place.server.requests())
        return taken

    def clear() -> None:
        shutil.rmtree(store, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        place.forget()

    commands: dict[str, Callable[[], Run]] = {"ours": ours}
    for name, command in peers.items():
        commands[name] = partial(place.run, command)
    # No uncounted round: reading programs from the disk is all there is to warm.
    run([sys.executable, "-m", "plugin_manager.cli", "--version"])
    return in_turn(commands, rounds, clear, uncounted=0), anatomy


def print_rows(place: Place, found: dict[str, list[Run]], anatomy: Anatomy, limit: float) -> None:
    ours = found.pop("ours")
    ratios = {name: ratio(ours, peers) for name, peers in found.items()}
    for name, peers in found.items():
        print(
            f"| {place.name} | {median(ours):.2f} s | {median(peers):.2f} s | {ratios[name]:.2f} | "
            f"{name} | {anatomy} | {limit:.2f} s |",
            flush=True,
        )


HEADER = """
| line | ours | peer | ratio | peer is | before the bundle | requests | the line's limit |
|---|---|---|---|---|---|---|---|"""


def big(arguments: argparse.Namespace, work: Path) -> None:
    print(f"\nOne bundle of {arguments.megabytes} MB:\n{HEADER}")
    repo = Repo(work, {"big": arguments.megabytes * MEGABYTE})
    limit = repo.bundle_bytes() * 8 / BITS_PER_SECOND
    for congestion, loss in product(arguments.congestion, arguments.loss):
        with far_place(repo.public, congestion, loss) as place:
            bundle = place.server.url + repo.bundles[0]
            peers = {
                f"aria2c -x{count}": [
                    *ARIA,
                    *(f"-x{count}", f"-s{count}", "-k1M"),
                    *("-d", str(work / "out"), "-o", "bundle", bundle),
                ]
                for count in arguments.connections
            }
            found, anatomy = ours_and_peers(repo, place, work, peers, arguments.runs)
            print_rows(place, found, anatomy, limit)


def many(arguments: argparse.Namespace, work: Path) -> None:
    print(f"\n{arguments.plugins} plugins of {PLUGIN_BYTES // 1000} KB:\n{HEADER}")
    repo = Repo(work, {f"s{index}": PLUGIN_BYTES for index in range(arguments.plugins)})

    def measure(place: Place, limit: float) -> None:
        addresses = work / "list"
        addresses.write_text("".join(f"{place.server.url}{one}\n" for one in repo.bundles))
        peers = {
            "aria2c -i list -j16": [*ARIA, "-i", str(addresses), "-j16", "-d", str(work / "out")],
        }
        found, anatomy = ours_and_peers(repo, place, work, peers, arguments.runs)
        print_rows(place, found, anatomy, limit)

    with serve(repo.public) as server:
        measure(Place("loopback", server, None), 0.0)
    if lack := absent():
        print(f"\nNo far line: {lack}.")
        return
    limit = repo.bundle_bytes() * 8 / BITS_PER_SECOND
    for congestion, loss in product(arguments.congestion, arguments.loss):
        with far_place(repo.public, congestion, loss) as place:
            measure(place, limit)


def theory_seconds(length: int, loss: float) -> tuple[float, str]:
    """How long one connection should take for `length` bytes, and whose reckoning that is.

    Without loss: two round trips, then windows that double until they fill the line. With loss,
    for controls that take it for congestion: the rate of Mathis et al. (1997), with a window that
    grows by one segment a round trip and is halved at a loss.
    """
    if loss:
        segments = math.sqrt(3 / 2) / math.sqrt(loss)
        rate = min(segments * SEGMENT_BYTES / ROUND_TRIP_SECONDS, BITS_PER_SECOND / 8)
        return length / rate, "Mathis et al., Reno"
    rate = BITS_PER_SECOND / 8 * SEGMENT_BYTES / 1500
    seconds, window = 2 * ROUND_TRIP_SECONDS, FIRST_WINDOW * SEGMENT_BYTES
    while window < rate * ROUND_TRIP_SECONDS and length > window:
        seconds, length, window = seconds + ROUND_TRIP_SECONDS, length - window, 2 * window
    return seconds + length / rate, "slow start, then the line's rate"


def check(arguments: argparse.Namespace, work: Path) -> None:
    print(
        "\nOne plain curl:\n\n| line | bytes | curl | theory | theory is |\n|---|---|---|---|---|"
    )
    public = work / "public"
    public.mkdir()
    for congestion, loss in product(arguments.congestion, arguments.loss):
        # Under loss one connection with Reno or CUBIC gets some Mbit/s: as much as takes as long.
        crawls = loss and congestion != "bbr"
        length = arguments.megabytes * MEGABYTE // (16 if crawls else 1)
        (public / "file").write_bytes(os.urandom(length))
        with far_place(public, congestion, loss) as place:
            curl = ["curl", "-sf", "-o", str(work / "got"), f"{place.server.url}file"]
            one = {"curl": partial(place.run, curl)}
            found = in_turn(one, arguments.runs, place.forget, uncounted=0)["curl"]
        # BBR does not take loss for congestion.
        theory, whose = theory_seconds(length, loss if crawls else 0.0)
        print(
            f"| {place.name} | {length / MEGABYTE:.0f} MB | {median(found):.2f} s, "
            f"{length * 8 / MEGABYTE / median(found):.1f} Mbit/s | {theory:.2f} s, "
            f"{length * 8 / MEGABYTE / theory:.1f} Mbit/s | {whose} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = {"check": check, "big": big, "many": many}
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=64, help="of the bundle")
    parser.add_argument("--plugins", type=int, default=100)
    parser.add_argument("--congestion", nargs="+", default=["bbr", "cubic"], help="the server's")
    parser.add_argument("--loss", nargs="+", type=float, default=[0.0, 0.005])
    parser.add_argument(
        "--connections", nargs="+", type=int, default=[1, 4, 8, 16], help="aria2c's"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if not shutil.which("aria2c"):
        raise SystemExit("aria2c is not installed")
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, median of {arguments.runs}")
    for name in arguments.parts or parts:
        lack = absent()
        if lack and name != "many":
            print(f"\nNo {name}: {lack}.")
            continue
        with work_directory() as work:
            parts[name](arguments, work)


if __name__ == "__main__":
    main()
