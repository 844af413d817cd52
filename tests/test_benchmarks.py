"""The benchmarks run, on small sizes: what they measure is for `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import nginx

PROJECT = Path(__file__).resolve().parent.parent


@pytest.mark.nginx
@pytest.mark.skipif(nginx.binary() is None, reason="nginx is not installed")
def test_the_end_to_end_benchmark_prints_its_table() -> None:
    sizes = ["--runs", "1", "--megabytes", "2", "--plugins", "2"]
    command = [sys.executable, "-m", "benchmarks.end_to_end", *sizes]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| one", "| 2 plugins"))]
    assert len(rows) == 8
    assert all(" s |" in row for row in rows)
