"""Connections that stay: who asks for nothing is let go, and locks nobody out."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
import requests

from plugin_manager.dashboard import _application, _connections
from tests.dashboard.conftest import Client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connections, "_REQUEST_SECONDS", 0.5)


def connected(client: Client, data: str) -> socket.socket:
    """A connection on which that was sent."""
    host = urlsplit(client.dashboard.address).netloc
    name, port = host.split(":")
    connection = socket.create_connection((name, int(port)), 20)
    connection.sendall(data.format(host=host, token=client.dashboard.token).encode())
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that still comes, to the end of the connection; raises TimeoutError if it stays."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    return found


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


@contextlib.contextmanager
def watching(client: Client) -> Iterator[requests.Response]:
    with client.ask("GET", "/api/events", stream=True) as found:
        yield found


def goes_on(client: Client, watched: requests.Response) -> bool:
    client.post("/api/jobs/pause")
    told = (line for line in watched.iter_lines(chunk_size=1) if line.startswith(b"data: "))
    return any(json.loads(line[6:]).get("jobs", {}).get("paused") for line in told)


LET_IN = "GET /api/jobs HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
STRANGE = "GET /app.css HTTP/1.1\r\nHost: {host}\r\n\r\n"
HALF = "GET /api/jobs HTTP/1.1\r\nHost: {host}\r\n"
SLOW = {
    "nothing": "",
    "half a header": HALF,
    "half a body": (
        "POST /api/session HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
        "Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{{"
    ),
    "half a body of who is refused": (
        "POST /api/install HTTP/1.1\r\nHost: {host}\r\nContent-Length: 50\r\n\r\n{{"
    ),
    "half a second request": STRANGE + HALF,
    "half a second request of who was let in": LET_IN + HALF,
}


@pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW)
@pytest.mark.usefixtures("quick")
def test_who_does_not_end_a_request_is_let_go(client: Client, slow: str) -> None:
    with watching(client) as watched:
        with connected(client, slow) as connection:
            rest(connection)
        assert goes_on(client, watched), "control: who was let in, and waits for news, stays"


@pytest.mark.usefixtures("quick")
def test_trickling_gives_no_more_time(client: Client) -> None:
    """Each byte ends what uvicorn waits for by itself."""
    with connected(client, STRANGE + HALF) as connection:
        connection.settimeout(0.1)
        for _ in range(100):
            try:
                connection.sendall(b"x")
                if connection.recv(65536) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            raise AssertionError("it stays")


@pytest.mark.usefixtures("quick")
def test_a_stranger_who_does_not_read_his_answers_is_let_go(client: Client) -> None:
    with connected(client, "") as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = STRANGE.format(host=urlsplit(client.dashboard.address).netloc).encode()
        with pytest.raises(OSError, match=r"(?i)reset|broken"):
            connection.sendall(request * 100_000)


def test_who_asks_again_and_again_stays(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is that of one request, and not of the connection."""
    monkeypatch.setattr(_connections, "_REQUEST_SECONDS", 2.0)
    connection = HTTPConnection(urlsplit(client.dashboard.address).netloc, timeout=20)
    connection.connect()
    connection.auto_open = 0  # it is not opened again
    with contextlib.closing(connection):
        for _ in range(6):
            connection.request(
                "GET", "/api/jobs", headers={"Authorization": f"Bearer {client.dashboard.token}"}
            )
            assert json.loads(connection.getresponse().read())["jobs"] == []
            time.sleep(0.5)


@pytest.mark.parametrize("slow", ["", HALF, STRANGE + HALF], ids=["none", "half", "second"])
def test_strangers_who_stay_lock_nobody_out(client: Client, slow: str) -> None:
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(connected(client, LET_IN))
        assert owner.recv(65536).startswith(b"HTTP/1.1 200")
        watched = stack.enter_context(watching(client))
        strangers = [stack.enter_context(connected(client, slow)) for _ in range(300)]
        assert client.get("/api/jobs")["jobs"] == [], "who comes later is answered"
        assert goes_on(client, watched), "who was let in stays"
        if slow == "":  # nothing was sent back, so that their being open can be seen
            stay = [is_open(one) for one in strangers]
            assert not any(stay[:44]), "the oldest go"
            assert all(stay[50:]), "and no more than must"


def test_a_body_that_does_not_end_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of those who were let in."""
    monkeypatch.setattr(_application, "_BODY_SECONDS", 0.2)
    head = (
        "POST /api/update HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{{"
    )
    with connected(client, head) as connection:
        assert connection.recv(100).split()[1] == b"408"


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_strangers_write_nothing_on_the_terminal(
    client: Client, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    netloc = urlsplit(client.dashboard.address)
    with socket.create_connection((netloc.hostname or "", netloc.port or 0), timeout=30) as one:
        one.sendall(sent)
        assert one.recv(1000).startswith(b"HTTP/1.1 ")
    assert [one.getMessage() for one in caplog.records] == []
