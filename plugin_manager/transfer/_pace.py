"""The judge of how an answer arrives: how fast, and how much of it.

It sits right above the socket, below everything that parses, so that endless headers, endless
`100 Continue`, chunk extensions, trailers and bytes that drip all meet the same two bounds. The
timeout of a socket alone starts anew with each byte.
"""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPResponse
from typing import Any, BinaryIO, Protocol

from plugin_manager.transfer._policy import Deadline, Policy

__all__ = ["Pace", "PaceError", "paced"]

MOST_HEADER_BYTES = 256 * 1024
_SLACK_BYTES = 64 * 1024


class PaceError(Exception):
    """An answer came too slowly or was too long; the text completes a sentence about the server."""


class Pace:
    """What one answer after the other may cost. For one thread, and one answer at a time."""

    def __init__(self, policy: Policy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self.deadline: Deadline | None = None  # for all answers together
        self._answer: HTTPResponse | None = None
        self._socket: object = None
        self.stopped: Callable[[], bool] = lambda: False
        self._header = True
        self._left_bytes = 0
        self._since = 0.0
        self._look_at = 0.0  # when there is something to judge, at the latest
        self._window_bytes = 0

    def begin_header(self, answer: HTTPResponse, connection: object) -> None:
        """A request was sent; what comes now is the header of `answer`, over `connection`."""
        self._answer, self._socket = answer, connection
        if self.stopped():  # while it was connecting, when there was nothing to interrupt
            raise PaceError("was not waited for")
        self._header = True
        self._left_bytes = MOST_HEADER_BYTES
        self._begin(self._clock())

    def begin_body(self, most_bytes: int) -> None:
        """The header was read; at most `most_bytes` of content are wanted."""
        self._header = False
        # Chunked coding adds a few bytes to each chunk; more than the content itself is malice.
        self._left_bytes = 2 * most_bytes + _SLACK_BYTES
        self._begin(self._clock())

    def _begin(self, since: float) -> None:
        policy = self._policy
        self._since, self._window_bytes = since, 0
        self._look_at = since + (
            policy.read_timeout_seconds if self._header else policy.rate_window_seconds
        )
        if self.deadline is not None:
            self._look_at = min(self._look_at, self.deadline.at)

    @property
    def answer(self) -> HTTPResponse:
        """The answer that is being read."""
        assert self._answer is not None
        return self._answer

    def abandon(self) -> None:
        """Close the answer: urllib3 forgets to where it dislikes a header."""
        if self._answer is not None:
            self._answer.close()

    def interrupt(self) -> None:
        """End what is being read now, from another thread; the connection is of no more use."""
        # Not SSLSocket.shutdown, which forgets its state under the hands of whoever reads.
        with suppress(OSError, TypeError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # type: ignore[arg-type]

    def excuse(self, seconds: float) -> None:
        """It was we who let the server wait for so long."""
        self._since += seconds
        self._look_at += seconds
        if self.deadline is not None:
            self._look_at = min(self._look_at, self.deadline.at)

    def is_over(self) -> bool:
        """Whether nobody wants the rest any more: it was stopped, or the deadline has passed."""
        return self.stopped() or (self.deadline is not None and self._clock() >= self.deadline.at)

    def judge(self, count: int) -> None:
        """Take note of `count` bytes that just came; raises PaceError."""
        # Under TLS this is done for every 16 KB.
        self._left_bytes -= count
        self._window_bytes += count
        now = self._clock()
        if self._left_bytes < 0 or now >= self._look_at:
            self._look(now)

    def _look(self, now: float) -> None:
        policy = self._policy
        if self._left_bytes < 0:
            what = "a header without end" if self._header else "more bytes than were asked for"
            raise PaceError(f"sends {what}")
        if self.deadline is not None and now >= self.deadline.at:
            raise PaceError(f"took longer than {self.deadline.seconds:g} s")
        if self._header:
            raise PaceError(f"sent no whole header in {policy.read_timeout_seconds:g} s")
        elapsed = now - self._since
        if self._window_bytes < policy.least_bytes_per_second * elapsed:
            raise PaceError(f"sent only {self._window_bytes} bytes in {elapsed:.0f} s")
        self._begin(now)


class _Socket(Protocol):
    def makefile(self, mode: str, buffering: int = ...) -> Any: ...

    def recv_into(self, buffer: Any, /) -> int: ...


class _TLSSocket(_Socket, Protocol):
    def read(self, length: int, buffer: Any, /) -> int: ...


class _PacedReader(io.RawIOBase):
    """Reads from the socket itself; `raw`, its file, is there to be closed with it."""

    def __init__(self, connection: _Socket, raw: BinaryIO, pace: Pace) -> None:
        self._receive, self._raw, self._pace = connection.recv_into, raw, pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count: int = self._receive(buffer)
        self._pace.judge(count)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedTLSReader(_PacedReader):
    """The same. Bytes come in records of 16 KB: each layer between costs a tenth of the speed."""

    def __init__(self, connection: _TLSSocket, raw: BinaryIO, pace: Pace) -> None:
        super().__init__(connection, raw, pace)
        self._read, self._judge = connection.read, pace.judge

    def readinto(self, buffer: Any, /) -> int:
        count = self._read(len(buffer), buffer)
        self._judge(count)
        return count


class _PacedSocket:
    """As much of a socket as http.client's response uses."""

    def __init__(self, connection: Any, pace: Pace) -> None:
        self._connection, self._pace = connection, pace

    def makefile(self, mode: str) -> io.BufferedReader:
        raw = self._connection.makefile(mode, 0)
        kind = _PacedTLSReader if isinstance(self._connection, ssl.SSLSocket) else _PacedReader
        return io.BufferedReader(kind(self._connection, raw, self._pace))


def paced(pool_class: Any, pace: Pace) -> Any:
    """`pool_class`, a urllib3 connection pool's class, with every answer read through `pace`.

    Uses `ConnectionCls` and `response_class`, the seams that urllib3 and http.client offer.
    """

    def response(connection: _Socket, *arguments: Any, **keywords: Any) -> HTTPResponse:
        shim: Any = _PacedSocket(connection, pace)
        answer = HTTPResponse(shim, *arguments, **keywords)
        pace.begin_header(answer, connection)
        return answer

    connection_class = type(
        "PacedConnection", (pool_class.ConnectionCls,), {"response_class": staticmethod(response)}
    )
    return type("PacedPool", (pool_class,), {"ConnectionCls": connection_class})
