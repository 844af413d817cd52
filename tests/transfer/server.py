"""A server on loopback that does what its script says, however wrong, and counts what it costs."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import count

from attrs import define, field, frozen

__all__ = [
    "ENOUGH_BYTES",
    "Exchange",
    "Request",
    "Server",
    "answer",
    "drip",
    "endless",
    "honest",
    "in_turn",
    "raw",
    "redirect",
    "reset",
    "wrong",
]

ENOUGH_BYTES = 64 * 1024 * 1024
"""Where an endless body ends after all, so that a client without bounds fails, not hangs."""


@frozen
class Request:
    """What a client asked: the target as it wrote it, and its header with lower-case names."""

    target: str
    headers: Mapping[str, str]

    def range(self, length: int) -> tuple[int, int]:
        """The bytes [start, stop) that are asked for."""
        text = self.headers.get("range")
        if text is None:
            return 0, length
        start, last = text.removeprefix("bytes=").split("-")
        return int(start), int(last) + 1


@define
class Exchange:
    """One request being answered; `number` counts the server's requests from 0."""

    request: Request
    number: int
    connection: socket.socket
    sent_bytes: int = 0

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        view = memoryview(data)
        while view:
            sent = self.connection.send(view[:65536])
            self.sent_bytes += sent
            view = view[sent:]

    def head(self, status: str, **headers: object) -> None:
        """Send a status line and header; `_` in a name stands for `-`, None leaves it out."""
        lines = [f"HTTP/1.1 {status}"]
        lines += [
            f"{name.replace('_', '-')}: {value}"
            for name, value in headers.items()
            if value is not None
        ]
        self.send("\r\n".join([*lines, "", ""]).encode())


# Returns whether the connection stays open for another request.
Behaviour = Callable[[Exchange], bool]


@define
class Server:
    """A context manager; `behaviour` answers each request."""

    behaviour: Behaviour
    context: ssl.SSLContext | None = None
    name: str = "127.0.0.1"
    requests: list[Request] = field(factory=list)
    connections: int = 0
    sent_bytes: int = 0
    port: int = field(default=0, init=False)
    _listener: socket.socket = field(init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _open: set[socket.socket] = field(factory=set, init=False)

    def __enter__(self) -> Server:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        # A small buffer, so that what was sent is close to what was taken.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def url(self, path: str = "file") -> str:
        scheme = "http" if self.context is None else "https"
        return f"{scheme}://{self.name}:{self.port}/{path}"

    @property
    def ranges(self) -> list[str]:
        """The Range of each request, "" for none."""
        return [request.headers.get("range", "") for request in self.requests]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
        # Or a header and the body behind it wait 40 ms for each other.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError, ValueError):
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            self._open.add(connection)
            with connection, connection.makefile("rb") as reader:
                while self._answer(connection, reader):
                    pass
        self._open.discard(connection)

    def _answer(self, connection: socket.socket, reader: Iterator[bytes]) -> bool:
        first = next(reader, b"").decode("latin-1").split(" ")
        if len(first) != 3:
            return False
        headers = {}
        for line in reader:
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                break
            headers[name.strip().lower()] = value.strip()
        with self._lock:
            request = Request(first[1], headers)
            exchange = Exchange(request, len(self.requests), connection)
            self.requests.append(request)
        try:
            return self.behaviour(exchange)
        finally:
            with self._lock:
                self.sent_bytes += exchange.sent_bytes


def honest(content: bytes) -> Behaviour:
    """Serves `content` as it should be served."""
    return wrong(content)


def wrong(
    content: bytes,
    *,
    status: str = "",
    part: tuple[int, int] | None = None,
    body: Callable[[bytes], bytes] = lambda data: data,
    stay: bool = True,
    **headers: object,
) -> Behaviour:
    """Serves `content`, but with another status, range, body or header as given.

    `{start}`, `{stop}`, `{last}` and `{length}` in a header stand for the request's.
    """

    def behave(exchange: Exchange) -> bool:
        length = len(content)
        start, stop = part or exchange.request.range(length)
        partial = "range" in exchange.request.headers and not status.startswith("200")
        data = content[start:stop] if partial else content
        facts = {"start": start, "stop": stop, "last": stop - 1, "length": length}
        default: dict[str, object] = {"Content_Length": len(data)}
        if partial:
            default["Content_Range"] = f"bytes {start}-{stop - 1}/{length}"
        given = {
            name: value.format(**facts) if isinstance(value, str) else value
            for name, value in headers.items()
        }
        exchange.head(status or ("206 Partial Content" if partial else "200 OK"), **default | given)
        sent = body(data)
        exchange.send(sent)
        return stay and len(sent) == len(data)

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """The n-th request gets the n-th of `behaviours`, all later ones the last."""
    return lambda exchange: behaviours[min(exchange.number, len(behaviours) - 1)](exchange)


def answer(status: str, body: bytes = b"", **headers: object) -> Behaviour:
    """A status with a short body."""

    def behave(exchange: Exchange) -> bool:
        exchange.head(status, **{"Content_Length": len(body), **headers})
        exchange.send(body)
        return True

    return behave


def redirect(location: Callable[[Exchange], str], status: str = "302 Found") -> Behaviour:
    """Sends the client to where `location` says."""
    return lambda exchange: answer(status, Location=location(exchange))(exchange)


def raw(data: bytes) -> Behaviour:
    """Sends `data` and closes."""

    def behave(exchange: Exchange) -> bool:
        exchange.send(data)
        return False

    return behave


def endless(head: bytes, piece: bytes) -> Behaviour:
    """Sends `head`, then `piece` over and over (up to ENOUGH_BYTES)."""

    def behave(exchange: Exchange) -> bool:
        exchange.send(head)
        many = piece * (65536 // len(piece) + 1)
        while exchange.sent_bytes < ENOUGH_BYTES:
            exchange.send(many)
        return False

    return behave


def drip(head: bytes, body: bytes) -> Behaviour:
    """Sends `head` at once and `body` byte by byte, each in a packet of its own."""

    def behave(exchange: Exchange) -> bool:
        exchange.send(head)
        wait = threading.Event()
        for number in count():
            if number == len(body):
                return False
            exchange.send(body[number : number + 1])
            wait.wait(0.0005)
        raise AssertionError

    return behave


def reset(exchange: Exchange) -> bool:
    """Breaks the connection off with a TCP reset."""
    linger = struct.pack("ii", 1, 0)
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    return False
