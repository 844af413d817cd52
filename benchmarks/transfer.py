"""Fetching: one large bundle to verified and committed in the store, beside plain downloaders.

Run: .venv/bin/python -m benchmarks.transfer [--runs 5]  (prints Markdown)
Needs nginx and curl; other peers are measured where they are installed. All are whole processes,
taken in turn, on one file system in memory, so that the disk has no say; ours verifies, writes
each file of the bundle to its place and makes it the active release. "In a running host" counts
from the call of `install`, in a process that has installed something else before. Peers:
    curl           curl -o, which verifies nothing
    aria2c         four connections, and its own check of the SHA-256
    huggingface    huggingface_hub's http_get (--huggingface PYTHON: an interpreter that has it)
A ratio is the median of the rounds' ratios. See benchmarks.far, benchmarks.resume for the rest.

What 8 GiB take in memory (publishing them takes minutes, and the disk holds them twice):
    .venv/bin/python -m benchmarks.transfer --alone --megabytes 8590 --directory .bench
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import trustme
from attrs import evolve

from benchmarks.measuring import MEGABYTE, Repo, Run, in_turn, median, ratio, run, work_directory
from tests.nginx import nginx

HUGGINGFACE = """
import sys
from huggingface_hub.file_download import http_get
with open(sys.argv[2], "wb") as file:
    http_get(sys.argv[1], file, displayed_filename="bundle")
"""

OURS = ("whole process", "in a running host")
HOST = """
import sys, time
from plugin_manager import PluginManager
store, url, root = sys.argv[1:]
PluginManager.open(store + "-other", url, root=root).install("bench/small")
manager = PluginManager.open(store, url, root=root)
begun = time.perf_counter()
manager.install("bench/big")
print(time.perf_counter() - begun)
"""


def measure(
    repo: Repo, url: str, place: Path, arguments: argparse.Namespace, authority: Path | None
) -> None:
    bundle, out, store = url + repo.bundles[0], place / "out", place / "store"
    pluginctl = repo.install(store, url, "big")
    host = [sys.executable, "-c", HOST, str(store), url, str(repo.root)]
    trusting = {"PLUGINCTL_CA_BUNDLE": str(authority)} if authority else {}
    cacert = ["--cacert", str(authority)] if authority else []

    def in_host() -> Run:
        taken = run(host, **trusting)
        return evolve(taken, seconds=float(taken.said))

    commands: dict[str, Callable[[], Run]] = {
        "whole process": lambda: run(pluginctl, **trusting),
        "in a running host": in_host,
        "curl": lambda: run(["curl", "-sf", *cacert, "-o", str(out), bundle]),
    }
    if shutil.which("aria2c"):
        ca = [f"--ca-certificate={authority}"] if authority else []
        aria = ["aria2c", "-q", "-x4", "-s4", *ca, f"--checksum=sha-256={repo.sha256()}"]
        aria += ["--allow-overwrite=true", "-d", str(place), "-o", "out", bundle]
        commands["aria2c -x4, SHA-256"] = lambda: run(aria)
    if arguments.huggingface and not authority:
        peer = [arguments.huggingface, "-c", HUGGINGFACE, bundle, str(out)]
        commands["huggingface_hub"] = lambda: run(peer)
    if arguments.alone:
        commands = {name: commands[name] for name in OURS}

    def clear() -> None:
        shutil.rmtree(store, ignore_errors=True)
        shutil.rmtree(f"{store}-other", ignore_errors=True)
        out.unlink(missing_ok=True)

    found = in_turn(commands, arguments.runs, clear, uncounted=0 if arguments.alone else 1)
    what = f"{arguments.megabytes} MB{' over TLS' if authority else ''}"
    mine = {name: found.pop(name) for name in OURS}
    for whose, ours in mine.items():
        resident = max(one.resident_bytes for one in ours) / MEGABYTE
        row = f"| {what}, {whose} | {median(ours):.2f} s, {resident:.0f} MB resident |"
        if arguments.alone:
            print(f"{row} | | |")
        for name, peers in found.items():
            print(f"{row} {median(peers):.2f} s | {ratio(ours, peers):.2f} | {name} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1074, help="of the bundle (1 GiB)")
    parser.add_argument("--huggingface", metavar="PYTHON", help="which has huggingface_hub")
    parser.add_argument("--no-tls", action="store_true")
    parser.add_argument("--alone", action="store_true", help="ours once, no peers, no TLS")
    parser.add_argument("--directory", type=Path, help="where to work; default: in memory")
    arguments = parser.parse_args()
    if arguments.alone:
        arguments.runs, arguments.no_tls = 1, True
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, median of {arguments.runs}")
    print("\n| what | ours | peer | ratio | peer is |\n|---|---|---|---|---|", flush=True)
    with work_directory(arguments.directory) as work:
        sizes = {"big": arguments.megabytes * MEGABYTE, "small": 50_000}
        repo, place = Repo(work, sizes), work / "place"
        place.mkdir()
        with nginx(repo.public) as (url, _):
            measure(repo, url, place, arguments, None)
        if arguments.no_tls:
            return
        authority = trustme.CA()
        authority.cert_pem.write_to_path(work / "authority.pem")
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(work / "server.pem")
        with nginx(repo.public, tls=work / "server.pem") as (url, _):
            measure(repo, url, place, arguments, work / "authority.pem")


if __name__ == "__main__":
    main()
