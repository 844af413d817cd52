"""A real nginx on loopback, for tests and benchmarks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CONFIGURATION = """
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log; {user}
events {{ worker_connections 256; }}
http {{
    access_log {work}/access.log;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    sendfile on; tcp_nopush on; keepalive_requests 100000;
    types {{ application/json json; application/zstd zst; }}
    server {{ listen 127.0.0.1:{port}{ssl}; root {directory}; {more} }}
}}
"""


def binary() -> str | None:
    """The path of nginx, or None where it is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def needs_nginx(test: Callable[..., None]) -> Callable[..., None]:
    """`test`, skipped where nginx is not installed; where CI is set, it fails there instead."""
    absent = binary() is None and not os.environ.get("CI")
    skip = pytest.mark.skipif(absent, reason="nginx is not installed")
    return pytest.mark.nginx(skip(test))


def bundle_bytes(log: Path) -> int:
    """The bytes of bundles in an access log, after a moment for nginx to write them down."""
    time.sleep(0.3)
    lines = [line.split() for line in log.read_text().splitlines() if ".tar.zst" in line]
    return sum(int(line[9]) for line in lines)


@contextmanager
def nginx(
    directory: Path, more: str = "", *, tls: Path | None = None
) -> Iterator[tuple[str, Path]]:
    """Serve `directory`; gives (base URL ending with "/", path of the access log).

    `more` are further directives for the server, such as "limit_rate 10m;"; `tls` is a PEM file
    with a certificate and its key, for https.
    """
    program = binary()
    assert program, "nginx is not installed"
    with tempfile.TemporaryDirectory(prefix="nginx-") as text:
        work = Path(text)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # As root nginx would serve as "nobody", who may not enter temporary directories.
        user = "user root;" if os.geteuid() == 0 else ""
        configuration = work / "nginx.conf"
        if tls:
            more += f"ssl_certificate {tls}; ssl_certificate_key {tls};"
        configuration.write_text(
            CONFIGURATION.format(
                work=work,
                port=port,
                ssl=" ssl" if tls else "",
                directory=directory,
                user=user,
                more=more,
            )
        )
        command = [
            program,
            "-c",
            str(configuration),
            "-p",
            str(work),
            "-e",
            str(work / "error.log"),
        ]
        process = subprocess.Popen(command)
        try:
            _wait(port, process, work / "error.log")
            yield f"{'https' if tls else 'http'}://127.0.0.1:{port}/", work / "access.log"
        finally:
            process.terminate()
            process.wait(10)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nginx did not start: {log.read_text() if log.exists() else ''}")
