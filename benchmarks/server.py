"""nginx for benchmarks, on any address; tells of each request when it began and what it took."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from tests.nginx import binary

__all__ = ["Request", "Server", "serve"]

CONFIGURATION = """
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log; {user}
events {{ worker_connections 256; }}
http {{
    log_format timed escape=json
        '["$request_uri", $status, $body_bytes_sent, "$http_range", $connection, $msec, '
        '$request_time]';
    access_log {work}/access.log timed;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    sendfile on; tcp_nopush on; keepalive_requests 100000;
    types {{ application/json json; application/zstd zst; }}
    server {{ listen {address}:{port}; root {directory}; }}
}}
"""


@frozen
class Request:
    """What the server says of one request; `begun` is of the wall clock, to a millisecond.

    `connection` is the number of the one that it came over. `sent_bytes` of the body went to the
    kernel: a client that was killed may not have got them.
    """

    path: str
    status: int
    sent_bytes: int
    range: str
    connection: int
    begun: float

    @property
    def is_bundle(self) -> bool:
        """Whether it was for a bundle, or for its head."""
        return self.path.endswith(".tar.zst")


@frozen
class Server:
    """A server that is running; `url` ends with "/"."""

    url: str
    _log: Path

    def requests(self) -> list[Request]:
        """All requests that have ended, in the order of their beginning; forgets them then."""
        time.sleep(0.3)  # nginx writes them down a moment later
        lines = map(json.loads, self._log.read_text().splitlines())
        found = [
            Request(path, status, sent, range_, connection, ended - took)
            for path, status, sent, range_, connection, ended, took in lines
        ]
        with self._log.open("r+") as file:  # nginx appends
            file.truncate()
        return sorted(found, key=lambda one: one.begun)


@contextmanager
def serve(directory: Path, address: str = "127.0.0.1") -> Iterator[Server]:
    """Serve `directory` on `address` while the context lasts."""
    program = binary()
    if program is None:
        raise SystemExit("nginx is not installed")
    with tempfile.TemporaryDirectory(prefix="nginx-") as text:
        work = Path(text)
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        # As root nginx would serve as "nobody", who may not enter temporary directories.
        user = "user root;" if os.geteuid() == 0 else ""
        configuration = work / "nginx.conf"
        configuration.write_text(
            CONFIGURATION.format(
                work=work, address=address, port=port, directory=directory, user=user
            )
        )
        errors = work / "error.log"
        process = subprocess.Popen(
            [program, "-c", str(configuration), "-p", str(work), "-e", str(errors)]
        )
        try:
            _wait(address, port, process, errors)
            yield Server(f"http://{address}:{port}/", work / "access.log")
        finally:
            process.terminate()
            process.wait(10)


def _wait(address: str, port: int, process: subprocess.Popen[bytes], errors: Path) -> None:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit(f"nginx did not start: {errors.read_text() if errors.exists() else ''}")
