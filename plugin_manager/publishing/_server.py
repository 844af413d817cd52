"""A web server for development: static files on loopback, with byte ranges. Not for production."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from plugin_manager._attrs import frozen
from plugin_manager.errors import NotFoundError, RefusedError
from plugin_manager.publishing._repository import CONFIGURATION_FILE

__all__ = ["DevelopmentServer", "serve"]

LOOPBACK = "127.0.0.1"
_IDLE_SECONDS = 60
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)

Served = Callable[[str, str, int, int], None]
"""Called after each answer with method, path, status and the bytes of its body."""


def serve(directory: Path, port: int = 0, *, served: Served | None = None) -> DevelopmentServer:
    """A running server of `directory` on loopback; close it, or use it as a context manager.

    It must be a repository, of which only the public part is served, or the public part of one:
    nobody's home directory is ever served by mistake. `port` 0 takes a free one. Raises
    NotFoundError for any other directory, RefusedError where the port is taken.
    """
    if (directory / CONFIGURATION_FILE).exists():
        directory = directory / "public"
    elif directory.is_dir() and not (directory / "metadata" / "timestamp.json").exists():
        raise NotFoundError(
            f"{directory} is not a repository: it has neither {CONFIGURATION_FILE} nor "
            "metadata/timestamp.json",
            remedy="Name a repository, or make one with 'pluginctl repo init'.",
            path=str(directory),
        )
    if not directory.is_dir():
        raise NotFoundError(
            f"there is no directory {directory}",
            remedy="Name a repository, or make one with 'pluginctl repo init'.",
            path=str(directory),
        )
    return DevelopmentServer(directory, port, served or (lambda *_: None))


class DevelopmentServer:
    """A server in threads of its own, until `close`. `base_url` ends with a slash."""

    def __init__(self, directory: Path, port: int, served: Served) -> None:
        try:
            self._server = _Server(
                (LOOPBACK, port), partial(_Handler, root=directory.resolve(), served=served)
            )
        except OSError as error:
            raise RefusedError(
                f"cannot listen on {LOOPBACK}:{port} ({error.strerror})",
                remedy="Choose another port.",
            ) from error
        self.port: int = self._server.server_address[1]
        self.base_url = f"http://{LOOPBACK}:{self.port}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="development-server"
        )
        self._thread.start()

    def __enter__(self) -> DevelopmentServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Return when the server has ended, which only an interruption brings about."""
        self._thread.join()

    def close(self) -> None:
        """Stop; connections that are still open are cut, and every thread has ended after."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for them
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        with self._guard:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away in the middle; that is no news."""


@frozen
class _Span:
    status: HTTPStatus
    start: int
    stop: int


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "pluginctl"
    sys_version = ""
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True

    def __init__(self, *arguments: Any, root: Path, served: Served) -> None:
        self._root = root
        self._served = served
        super().__init__(*arguments)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base's name
        """Say nothing; `served` tells whoever wants to know."""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = self._file()
        if path is None:
            self._empty(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as file:
            status = path.stat()
            etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            if self.headers.get("If-None-Match") == etag:
                self._empty(HTTPStatus.NOT_MODIFIED, ETag=etag)
                return
            span = self._span(status.st_size, etag)
            if span.status is HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._empty(span.status, **{"Content-Range": f"bytes */{status.st_size}"})
                return
            self.send_response(span.status)
            self.send_header("Content-Length", str(span.stop - span.start))
            self.send_header("Content-Type", _content_type(path))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", etag)
            if span.status is HTTPStatus.PARTIAL_CONTENT:
                shown = f"bytes {span.start}-{span.stop - 1}/{status.st_size}"
                self.send_header("Content-Range", shown)
            self.end_headers()
            sent = self._send(file, span) if with_body else 0
        self._served(self.command, self.path, span.status, sent)

    def _send(self, file: BufferedReader, span: _Span) -> int:
        self.wfile.flush()
        if span.stop == span.start:
            return 0
        sent: int = self.connection.sendfile(file, span.start, span.stop - span.start)
        return sent

    def _empty(self, status: HTTPStatus, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", "0")
        self.end_headers()
        self._served(self.command, self.path, status, 0)

    def _file(self) -> Path | None:
        """The regular file that is asked for, or None; never one outside of the root."""
        parts = unquote(self.path.partition("?")[0]).split("/")[1:]
        if any(part in {"", ".", ".."} or "\0" in part or "\\" in part for part in parts):
            return None
        try:
            path = self._root.joinpath(*parts).resolve(strict=True)
        except (OSError, RuntimeError):
            return None
        # After resolving, so that no symbolic link leads out either.
        return path if path.is_relative_to(self._root) and path.is_file() else None

    def _span(self, size: int, etag: str) -> _Span:
        """What to send. Several ranges, and odd ones, are answered in full (RFC 9110 14.2)."""
        whole = _Span(HTTPStatus.OK, 0, size)
        match = _RANGE.fullmatch(self.headers.get("Range", "").replace(" ", ""))
        if not match or not any(match.groups()):
            return whole
        if self.headers.get("If-Range", etag) != etag:
            return whole
        first, last = match.groups()
        if first:
            start, stop = int(first), min(int(last) + 1, size) if last else size
            if last and int(last) < int(first):
                return whole
        else:
            start, stop = max(size - int(last), 0), size
        if start >= size:
            return _Span(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, 0)
        return _Span(HTTPStatus.PARTIAL_CONTENT, start, stop)


def _content_type(path: Path) -> str:
    return "application/json" if path.suffix == ".json" else "application/octet-stream"
