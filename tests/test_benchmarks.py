"""The benchmarks run, on small sizes: what they measure is for `make bench`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import line
from benchmarks.server import serve
from tests import nginx

PROJECT = Path(__file__).resolve().parent.parent
needs_line = pytest.mark.skipif(bool(line.absent()), reason=line.absent())
needs_aria = pytest.mark.skipif(shutil.which("aria2c") is None, reason="aria2c is not installed")


def printed(module: str, *sizes: str) -> list[str]:
    """The lines that a benchmark prints."""
    command = [sys.executable, "-m", module, "--runs", "1", *sizes]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.nginx
@pytest.mark.skipif(nginx.binary() is None, reason="nginx is not installed")
def test_the_end_to_end_benchmark_prints_its_table() -> None:
    lines = printed("benchmarks.end_to_end", "--megabytes", "2", "--plugins", "2")
    rows = [line for line in lines if line.startswith(("| one", "| 2 plugins"))]
    assert len(rows) == 8
    assert all(" s |" in row for row in rows)


def test_the_store_benchmark_prints_its_table() -> None:
    sizes = ["--plugins", "3", "--generations", "3", "--megabytes", "1", "2", "--residents", "100"]
    rows = [line for line in printed("benchmarks.store", *sizes) if " ms |" in line]
    assert len(rows) == 4 + 2 * 2 + 1


@nginx.needs_nginx
def test_the_transfer_benchmark_prints_its_table() -> None:
    peers = 1 if shutil.which("aria2c") is None else 2
    rows = [line for line in printed("benchmarks.transfer", "--megabytes", "2") if " s |" in line]
    assert len(rows) == 4 * peers  # whole processes and in a host; plain and over TLS
    assert sum("over TLS" in row for row in rows) == 2 * peers
    *_, row = printed("benchmarks.transfer", "--megabytes", "2", "--alone")
    assert "MB resident" in row


@nginx.needs_nginx
def test_the_resume_benchmark_counts_what_is_fetched_again() -> None:
    rows = [row for row in printed("benchmarks.resume", "--megabytes", "96") if "| SIG" in row]
    assert [row.split()[1] for row in rows] == ["SIGKILL", "SIGINT"]
    for row in rows:
        cells = [cell.split() for cell in row.split("|")]
        again_kilobytes, connections = int(cells[6][0]), int(cells[8][0])
        assert again_kilobytes <= connections * 1049  # the span that each was writing


@nginx.needs_nginx
@needs_aria
@needs_line
def test_the_far_benchmark_prints_its_tables() -> None:
    sizes = ["--megabytes", "2", "--plugins", "2", "--connections", "1", "4"]
    lines = printed("benchmarks.far", *sizes, "--congestion", "cubic", "--loss", "0")
    rows = [row for row in lines if row.startswith(("| cubic", "| loopback")) and " s |" in row]
    assert len(rows) == 2 + 1 + 1  # two peers; near and far


@nginx.needs_nginx
@needs_line
def test_a_line_has_a_rate_and_a_delay_and_loses(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(250_000))

    def seconds(**properties: float) -> tuple[float, int]:
        accounts: dict[str, line.Account] = {}
        with (
            line.far(accounts=accounts, **properties) as far,  # type: ignore[arg-type]
            serve(tmp_path, far.server) as server,
        ):
            begun = time.monotonic()
            fetch = [*far.inside, "curl", "-sf", "-o", "/dev/null", f"{server.url}file"]
            subprocess.run(fetch, check=True)
            taken = time.monotonic() - begun
        return taken, sum(one.lost for one in accounts.values())

    taken, lost = seconds(bits_per_second=4e6, round_trip_seconds=0.1)
    assert taken > 2 * 0.1 + 0.5  # the handshake, the request, and two million bits
    assert lost == 0
    # Without a delay, and ten times as fast: what the first took was of the line's making.
    quick, lost = seconds(bits_per_second=40e6, round_trip_seconds=0.0, queue_bytes=100_000)
    assert quick < taken
    _, lost = seconds(bits_per_second=40e6, round_trip_seconds=0.001, loss=0.1)
    assert lost > 0


@pytest.mark.parametrize("temperature", [[], ["--cold"]])
def test_the_loading_benchmark_measures_a_large_file(tmp_path, temperature) -> None:
    lines = printed("benchmarks.load", "--big", "20", "--directory", str(tmp_path), *temperature)
    names = ["read" if temperature else "BLAKE3", "load", "path", "memoryview", "readinto", "small"]
    shown = [line.split("|")[1].strip() for line in lines if line.count("|") == 6]
    assert [name for name in shown if name in names] == names
    assert "first byte" in shown


def test_the_loading_benchmark_measures_a_small_plugin() -> None:
    lines = printed("benchmarks.load", "--packages")
    assert sum(" ms |" in line for line in lines) == 3


@pytest.mark.network
def test_the_loading_benchmark_imports_real_packages() -> None:
    lines = printed("benchmarks.load", "--packages", "django", "cryptography")
    shown = [line.split("|")[1].strip() for line in lines if line.count("|") == 8]
    assert shown.count("django") == 2  # with the chain and without
    assert shown.count("cryptography") == 1
