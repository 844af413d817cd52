"""The benchmarks run, on small sizes: what they measure is for `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import nginx

PROJECT = Path(__file__).resolve().parent.parent


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
