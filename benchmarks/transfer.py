"""Fetching: one large bundle to verified and committed in the store, beside plain downloaders.

Run: .venv/bin/python -m benchmarks.transfer [--runs 5]  (prints Markdown)
Needs nginx and curl; other peers are measured where they are installed. All are whole processes,
taken in turn, on one file system in memory, so that the disk has no say; ours verifies, writes
each file of the bundle to its place and makes it the active release. Peers:
    curl           curl -o, which verifies nothing
    aria2c         four connections, and its own check of the SHA-256
    huggingface    huggingface_hub's http_get (--huggingface PYTHON: an interpreter that has it)
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trustme
from attrs import frozen

from benchmarks.end_to_end import TOML
from plugin_manager.publishing import Repository
from tests.nginx import nginx

PROJECT = Path(__file__).resolve().parents[1]
MEMORY = Path("/dev/shm")
HUGGINGFACE = """
import sys
from huggingface_hub.file_download import http_get
with open(sys.argv[2], "wb") as file:
    http_get(sys.argv[1], file, displayed_filename="bundle")
"""


@frozen
class Run:
    """What one process took."""

    seconds: float
    resident_bytes: int


def run(command: list[str], **environment: str) -> Run:
    """Run `command` to its end."""
    settings = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, cwd=PROJECT, env={**settings, **environment}, stdout=said, stderr=said
        )
        # Not wait4's ru_maxrss: it counts what this process had when it forked.
        resident = 0
        while process.poll() is None:
            resident = max(resident, resident_bytes(process.pid))
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        seconds = time.perf_counter() - begun
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)[:300]}\n{said.read().decode()}")
    return Run(seconds, resident)


def resident_bytes(process: int) -> int:
    """The most memory that `process` has had resident so far; 0 where that cannot be seen."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


class Repo:
    """A repository with one plugin, bench/big, of `megabytes` that do not compress."""

    def __init__(self, work: Path, megabytes: int) -> None:
        source, draw = work / "source", random.Random(7)
        (source / "files").mkdir(parents=True)
        with (source / "files/model.bin").open("wb") as file:
            for _ in range(megabytes):
                file.write(draw.randbytes(1_000_000))
        (source / "plugin.toml").write_text(TOML.format(name="big", version="1.0"))
        repository = Repository.create(
            work / "repository", keys_directory=work / "keys", passphrase="x"
        )
        repository.add_publisher("bench")
        repository.publish(source)
        shutil.rmtree(source)
        self.root = work / "root.json"
        self.root.write_bytes(repository.root_bytes())
        self.public = repository.public
        [bundle] = (self.public / "targets/bench/big").glob("*.tar.zst")
        self.bundle = bundle.relative_to(self.public).as_posix()
        with bundle.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()


def measure(
    repo: Repo, url: str, place: Path, arguments: argparse.Namespace, authority: Path | None
) -> None:
    bundle, out = url + repo.bundle, place / "out"
    store = place / "store"
    pluginctl = [sys.executable, "-m", "plugin_manager.cli", "--store", str(store)]
    pluginctl += ["--repository", url, "--root", str(repo.root), "install", "bench/big"]
    trusting = {"PLUGINCTL_CA_BUNDLE": str(authority)} if authority else {}
    cacert = ["--cacert", str(authority)] if authority else []
    commands: dict[str, Callable[[], Run]] = {
        "ours": lambda: run(pluginctl, **trusting),
        "curl": lambda: run(["curl", "-sf", *cacert, "-o", str(out), bundle]),
    }
    if shutil.which("aria2c"):
        ca = [f"--ca-certificate={authority}"] if authority else []
        aria = ["aria2c", "-q", "-x4", "-s4", *ca, f"--checksum=sha-256={repo.sha256}"]
        aria += ["--allow-overwrite=true", "-d", str(place), "-o", "out", bundle]
        commands["aria2c -x4, SHA-256"] = lambda: run(aria)
    if arguments.huggingface and not authority:
        peer = [arguments.huggingface, "-c", HUGGINGFACE, bundle, str(out)]
        commands["huggingface_hub"] = lambda: run(peer)
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for index in range(arguments.runs + 1):
        for name, command in commands.items():
            for path in (store, out):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            taken = command()
            if index:  # the first round warms caches
                found[name].append(taken)
    seconds = {name: statistics.median(one.seconds for one in all_) for name, all_ in found.items()}
    ours = seconds["ours"]
    resident = max(one.resident_bytes for one in found["ours"]) / 1e6
    over = " over TLS" if authority else ""
    for name, peer_seconds in seconds.items():
        if name != "ours":
            print(
                f"| {arguments.megabytes} MB{over} | {ours:.2f} s, {resident:.0f} MB resident | "
                f"{peer_seconds:.2f} s | {ours / peer_seconds:.2f} | {name} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1074, help="of the bundle (1 GiB)")
    parser.add_argument("--huggingface", metavar="PYTHON", help="which has huggingface_hub")
    parser.add_argument("--no-tls", action="store_true")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, median of {arguments.runs}")
    print("\n| what | ours | peer | ratio | peer is |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as text:
        work = Path(text)
        repo, place = Repo(work, arguments.megabytes), work / "place"
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
