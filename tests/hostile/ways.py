"""How a server can be hostile or broken: each way makes an answer out of what was asked."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from functools import cache
from random import Random

import zstandard

from tests.hostile.stage import Asked, Script
from tests.transfer.server import (
    Behaviour,
    Exchange,
    answer,
    endless,
    honest,
    raw,
    redirect,
    reset,
    wrong,
)

__all__ = [
    "BOMB_BYTES",
    "EDITIONS",
    "RANGED",
    "WAYS",
    "Way",
    "always",
    "cut",
    "first",
    "flip_of",
    "lying_bomb",
    "mutated",
    "only",
    "silent",
]

Way = Callable[[Asked], Behaviour]

BOMB_BYTES = 256 * 1024 * 1024
_MOMENT = "Fri, 20 Nov 2026 12:00:00 GMT"
_CENTURY_LATER = "Fri, 20 Nov 2126 12:00:00 GMT"


# --- which requests are answered so ------------------------------------------------------------


def always(place: str, way: Way) -> Script:
    """All that is asked of `place` is answered in this way."""
    return lambda asked: way(asked) if asked.place == place else None


def first(place: str, way: Way, times: int = 1) -> Script:
    """The first so many requests for `place` are."""
    return only(place, way, set(range(times)))


def only(place: str, way: Way, numbers: set[int]) -> Script:
    """Those requests for `place` that have one of `numbers` are."""
    return lambda asked: way(asked) if asked.place == place and asked.number in numbers else None


# --- slowness and silence ----------------------------------------------------------------------


def silent(_: Asked) -> Behaviour:
    def behave(exchange: Exchange) -> bool:
        exchange.connection.recv(1)  # until the client has had enough
        return False

    return behave


def _head(exchange: Exchange, content: bytes) -> tuple[bytes, bytes]:
    """An honest header, and the body that belongs to it."""
    start, stop = exchange.request.range(len(content))
    if "range" in exchange.request.headers:
        status = f"206 Partial Content\r\nContent-Range: bytes {start}-{stop - 1}/{len(content)}"
    else:
        status = "200 OK"
    head = f"HTTP/1.1 {status}\r\nContent-Length: {stop - start}\r\n\r\n"
    return head.encode(), content[start:stop]


def dripping(*, header: bool, seconds: float) -> Way:
    """One byte each so many seconds; all of it would be what was asked for."""

    def way(asked: Asked) -> Behaviour:
        def behave(exchange: Exchange) -> bool:
            head, body = _head(exchange, asked.content or b"")
            if not header:
                exchange.send(head)
                head = b""
            for byte in head + body:
                with asked.time.step(seconds):
                    exchange.send(bytes([byte]))
            return True

        return behave

    return way


# --- too much, too little ----------------------------------------------------------------------


def _endless(head: str, piece: bytes) -> Way:
    """`piece` without end after an answer's header, of which `head` is the rest."""

    def way(asked: Asked) -> Behaviour:
        def behave(exchange: Exchange) -> bool:
            whole, _ = _head(exchange, asked.content or b"")
            kept = b"".join(line for line in whole.splitlines(True) if b"Length" not in line)[:-2]
            return endless(kept + head.encode(), piece)(exchange)

        return behave

    return way


def cut(offset: int, *, declared: bool = True) -> Way:
    """The answer ends after `offset` bytes of its body; negative: so many before its end."""

    def way(asked: Asked) -> Behaviour:
        length = {} if declared else {"Content_Length": None, "Connection": "close"}
        return wrong(asked.content or b"", body=lambda data: data[:offset], stay=False, **length)

    return way


def _changed(change: Callable[[bytes], bytes], **headers: object) -> Way:
    """The right answer, its body (what was asked for of it) changed and declared as it is."""

    def way(asked: Asked) -> Behaviour:
        def behave(exchange: Exchange) -> bool:
            content = asked.content or b""
            start, stop = exchange.request.range(len(content))
            data = change(content[start:stop])
            given: dict[str, object] = {"Content_Length": len(data)}
            return wrong(content, body=lambda _: data, **(given | headers))(exchange)

        return behave

    return way


def flip(data: bytes) -> bytes:
    """`data` with one bit in its middle changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data


def flip_of(offset: int) -> Way:
    """One bit of byte `offset` of what is asked for has changed."""
    return _changed(
        lambda data: data[:offset] + flip(data[offset : offset + 1]) + data[offset + 1 :]
    )


def _as_long(data: bytes, length: int) -> bytes:
    return data[:length].ljust(length, b"\0")


@cache
def _bomb(*, declares: bool) -> bytes:
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=declares)
    return compressor.compress(bytes(BOMB_BYTES))


def bomb(*, declares: bool) -> Way:
    """Frames that unpack to 256 MiB of zeros, and say so or not."""
    return _changed(lambda data: _as_long(_bomb(declares=declares), len(data)))


def _lying_bomb(data: bytes) -> bytes:
    """A bomb that declares just what was signed for the frame in its place."""
    size = zstandard.get_frame_parameters(data).content_size
    parts = bytearray(_bomb(declares=True))
    # A header with a field of four bytes for the size: RFC 8878 3.1.1.1.
    parameters = parts[4]
    assert parameters >> 6 == 2, "256 MiB take four bytes"
    place = 5 + (0 if parameters & 0x20 else 1)
    parts[place : place + 4] = size.to_bytes(4, "little")
    return _as_long(bytes(parts), len(data))


# --- somebody else's ---------------------------------------------------------------------------


def stale(edition: str) -> Way:
    """What was, or will be, right under another address: correctly signed, only not that."""
    return lambda asked: honest(asked.stage.counterpart(edition, asked))


def another(pattern: str, *, as_long: bool = False) -> Way:
    """Another file of the repository under the name that was asked for."""

    def way(asked: Asked) -> Behaviour:
        content = asked.stage.file("next", pattern)
        return honest(_as_long(content, len(asked.content or b"")) if as_long else content)

    return way


# --- ranges ------------------------------------------------------------------------------------


def _ranged(**headers: object) -> Way:
    return lambda asked: wrong(asked.content or b"", **headers)


def _shifted(by: int) -> Way:
    """Bytes from another place, with the range that they really are or one that is a lie."""

    def way(asked: Asked) -> Behaviour:
        def behave(exchange: Exchange) -> bool:
            content = asked.content or b""
            start, stop = exchange.request.range(len(content))
            part = (start + by, stop + by)
            return wrong(content, part=part)(exchange)

        return behave

    return way


def _several_parts(asked: Asked) -> Behaviour:
    def behave(exchange: Exchange) -> bool:
        content = asked.content or b""
        start, stop = exchange.request.range(len(content))
        part = f"--x\r\nContent-Range: bytes {start}-{stop - 1}/{len(content)}\r\n\r\n".encode()
        body = part + content[start:stop] + b"\r\n--x--\r\n"
        kind = "multipart/byteranges; boundary=x"
        exchange.head("206 Partial Content", Content_Type=kind, Content_Length=len(body))
        exchange.send(body)
        return True

    return behave


# --- anything ----------------------------------------------------------------------------------


def mutated(seed: int, *, header: bool) -> Way:
    """The right answer, but for a few bytes of its header or body that chance has changed."""

    def way(asked: Asked) -> Behaviour:
        def behave(exchange: Exchange) -> bool:
            chance = Random(seed)
            head, body = _head(exchange, asked.content or b"")
            data = bytearray(head if header else body)
            for _ in range(chance.randint(1, 4)):
                place = chance.randrange(len(data) + 1)
                with_what = chance.choice(
                    [b"", b"\0", b"\r", b"\n", b":", b" ", chance.randbytes(3)]
                )
                data[place : place + chance.randint(0, 3)] = with_what
            exchange.send(bytes(data) + body if header else head + bytes(data))
            return False

        return behave

    return way


def _twice(asked: Asked) -> Behaviour:
    """The right answer, and at once another one that nobody asked for."""

    def behave(exchange: Exchange) -> bool:
        honest(asked.content or b"")(exchange)
        return answer("200 OK", b"forged")(exchange)

    return behave


# --- all of them -------------------------------------------------------------------------------

_CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"

WAYS: dict[str, Way] = {
    "slow header": dripping(header=True, seconds=0.5),
    "slow body": dripping(header=False, seconds=0.5),
    "very slow body": dripping(header=False, seconds=20),
    "endless header": lambda _: endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "endless header line": lambda _: endless(b"HTTP/1.1 200 OK\r\nA: ", b"b"),
    "endless continue": lambda _: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "endless body": _endless("\r\n", b"x"),
    "endless tiny chunks": _endless(_CHUNKED, b"1\r\nx\r\n"),
    "endless chunk extension": _endless(_CHUNKED + "1;", b"a"),
    "endless trailers": _endless(_CHUNKED + "0\r\n", b"A: b\r\n"),
    "cut off": cut(100),
    "cut off before the last byte": cut(-1),
    "nothing": lambda _: raw(b""),
    "reset": lambda _: reset,
    "not HTTP": lambda _: raw(b"\x00\xff\r\n\r\n"),
    "zero length": _changed(lambda _: b""),
    "too long": _changed(lambda data: data + b" " * 100),
    "one bit flipped": _changed(flip),
    "noise": _changed(lambda data: zlib.compress(data)[:1] * len(data)),
    "bomb that says so": bomb(declares=True),
    "bomb that says nothing": bomb(declares=False),
    "gzip": _changed(gzip.compress, Content_Encoding="gzip"),
    "gzip bomb": _changed(lambda _: gzip.compress(bytes(2**24)), Content_Encoding="gzip"),
    "gzip as transfer coding": _changed(
        gzip.compress, Content_Length=None, Transfer_Encoding="gzip", Connection="close"
    ),
    "404": lambda _: answer("404 Not Found"),
    "416": lambda _: answer("416 Range Not Satisfiable", Content_Range="bytes */5"),
    "500": lambda _: answer("500 Internal Server Error"),
    "503": lambda _: answer("503 Service Unavailable"),
    "503 until soon": lambda _: answer("503 No", Retry_After="soon"),
    "503 until yesterday": lambda _: answer("503 No", Retry_After=_MOMENT),
    "503 for a century": lambda _: answer("503 No", Retry_After=_CENTURY_LATER, Date=_MOMENT),
    "429 for nothing": lambda _: answer("429 Too Many Requests", Retry_After="0"),
    "429 for 30 years": lambda _: answer("429 Too Many Requests", Retry_After="999999999"),
    "429 for endless digits": lambda _: answer("429 Too Many", Retry_After="9" * 5000),
    "206 without being asked": lambda asked: answer("206 Partial Content", asked.content or b""),
    "204": lambda _: answer("204 No Content"),
    "304": lambda _: answer("304 Not Modified"),
    "two lengths": _changed(lambda data: data, stay=False, Content_Length="5, 5"),
    "negative length": _changed(lambda data: data, stay=False, Content_Length="-5"),
    "digits of another script": _changed(lambda data: data, stay=False, Content_Length="\u0665"),
    "an answer too many": _twice,
    "a thousand headers": lambda _: raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n"),
    "redirect to a port too high": lambda _: redirect(lambda _: "http://127.0.0.1:99999/"),
    "redirect to what is no name": lambda _: redirect(lambda _: "http://\xff..\xfe/"),
    "redirect to a long address": lambda _: redirect(lambda _: "/" + "a" * 60_000),
    "redirect to nothing": lambda _: redirect(lambda _: ""),
    "redirect loop": lambda asked: redirect(lambda _: f"/{asked.path}"),
    "redirect to a file": lambda _: redirect(lambda _: "file:///etc/hosts"),
    "redirect with credentials": lambda _: redirect(lambda _: "http://user:word@127.0.0.1:9/"),
    "redirect to nowhere": lambda _: redirect(lambda _: "http://[/"),
    "redirect to another machine": lambda _: redirect(lambda _: "http://192.0.2.1/"),
}  # fmt: skip
"""By name, those that make sense for any address."""

RANGED: dict[str, Way] = {
    "whole instead of a part": _ranged(status="200 OK"),
    "whole without a length": _ranged(status="200 OK", Content_Length=None, Connection="close"),
    "shifted forward": _shifted(1),
    "shifted back": _shifted(-1),
    "other total": _ranged(Content_Range="bytes {start}-{last}/999999999"),
    "unknown total": _ranged(Content_Range="bytes {start}-{last}/*"),
    "shorter part": _ranged(Content_Range="bytes {start}-{start}/{length}"),
    "other unit": _ranged(Content_Range="chunks {start}-{last}/{length}"),
    "no range": _ranged(Content_Range=None),
    "several parts": _several_parts,
}
"""By name, those that need a request for a range."""

EDITIONS: dict[str, Way] = {
    "of an older edition": stale("old"),
    "of the edition known": stale("seen"),
    "of the edition to come": stale("next"),
    "another publisher's": another("targets/globex/maps/*.tar.zst"),
    "another plugin's": another("targets/acme/tiny/*.tar.zst"),
    "another release's, as long": another("targets/acme/maps/*maps-1.0*", as_long=True),
}
"""By name, those that answer with what was correctly signed, for another place or time."""


def lying_bomb() -> Way:
    """A bomb that declares the length that was signed."""
    return _changed(_lying_bomb)
