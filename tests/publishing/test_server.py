"""The development server."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from plugin_manager.errors import NotFoundError, RefusedError
from plugin_manager.publishing import DevelopmentServer, serve

BODY = bytes(range(256)) * 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    public = tmp_path / "public"
    (public / "sub").mkdir(parents=True)
    (public / "sub" / "file+1!.zst").write_bytes(BODY)
    (public / "empty").write_bytes(b"")
    (public / "x.json").write_text("{}")
    (public / "metadata").mkdir()
    (public / "metadata" / "timestamp.json").write_text("{}")
    (public / "out").symlink_to(tmp_path / "secret")
    return public


@pytest.fixture
def server(root: Path) -> Iterator[DevelopmentServer]:
    with serve(root) as running:
        yield running


@pytest.fixture
def connection(server: DevelopmentServer) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    yield client
    client.close()


def ask(
    client: http.client.HTTPConnection,
    path: str = "/sub/file+1!.zst",
    method: str = "GET",
    **headers: str,
) -> tuple[http.client.HTTPResponse, bytes]:
    client.request(
        method, path, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )
    response = client.getresponse()
    return response, response.read()


def test_a_file_comes_whole_over_a_connection_that_stays_open(
    connection: http.client.HTTPConnection,
) -> None:
    for _ in range(3):
        response, body = ask(connection)
        assert (response.status, body) == (200, BODY)
        assert response.getheader("Accept-Ranges") == "bytes"
        assert connection.sock is not None
    response, body = ask(connection, "/x.json")
    assert (response.getheader("Content-Type"), body) == ("application/json", b"{}")
    assert ask(connection, "/empty")[1] == b""


@pytest.mark.parametrize(
    ("asked", "shown", "start", "stop"),
    [
        ("bytes=0-0", "bytes 0-0/5120", 0, 1),
        ("bytes=100-199", "bytes 100-199/5120", 100, 200),
        ("bytes=5000-", "bytes 5000-5119/5120", 5000, 5120),
        ("bytes=5000-9999", "bytes 5000-5119/5120", 5000, 5120),
        ("bytes=-20", "bytes 5100-5119/5120", 5100, 5120),
        ("bytes=-9999", "bytes 0-5119/5120", 0, 5120),
    ],
)
def test_a_range_is_answered_exactly(
    connection: http.client.HTTPConnection, asked: str, shown: str, start: int, stop: int
) -> None:
    response, body = ask(connection, Range=asked)
    assert (response.status, response.getheader("Content-Range")) == (206, shown)
    assert body == BODY[start:stop]


@pytest.mark.parametrize("asked", ["bytes=5120-", "bytes=9999-10000", "bytes=-0"])
def test_a_range_behind_the_end_is_416(connection: http.client.HTTPConnection, asked: str) -> None:
    response, body = ask(connection, Range=asked)
    assert (response.status, body) == (416, b"")
    assert response.getheader("Content-Range") == "bytes */5120"
    assert ask(connection)[0].status == 200


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,5-6", "bytes=9-3", "lines=1-2", "bytes=x-", "bytes=-"]
)
def test_odd_ranges_are_answered_in_full(
    connection: http.client.HTTPConnection, asked: str
) -> None:
    assert ask(connection, Range=asked)[0].status == 200


def test_head_and_conditions(connection: http.client.HTTPConnection, root: Path) -> None:
    response, body = ask(connection, method="HEAD")
    assert (response.status, response.getheader("Content-Length"), body) == (200, "5120", b"")
    etag = response.getheader("ETag")
    assert etag
    assert ask(connection, If_None_Match=etag)[0].status == 304
    assert ask(connection, Range="bytes=0-1", If_Range=etag)[0].status == 206
    assert ask(connection, Range="bytes=0-1", If_Range='"old"')[0].status == 200
    (root / "sub" / "file+1!.zst").write_bytes(b"changed")
    assert ask(connection)[0].getheader("ETag") != etag


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/%2e%2e/secret",
        "/sub/../../secret",
        "/sub/%2e%2e%2f%2e%2e%2fsecret",
        "//etc/passwd",
        "/out",
        "/sub",
        "/",
        "/none",
        "/a%00b",
        "/..\\secret",
        "/%ff",
        "/" + "x" * 5000,
    ],
)
def test_nothing_outside_of_the_root_is_served(
    connection: http.client.HTTPConnection, path: str
) -> None:
    response, body = ask(connection, path)
    assert (response.status, body) == (404, b"")


def test_other_methods_are_refused(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, method="POST")[0].status == 501


def test_of_a_repository_only_the_public_part_is_served(root: Path) -> None:
    (root.parent / "repository.toml").write_text("")
    with serve(root.parent) as running:
        client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
        assert ask(client, "/x.json")[1] == b"{}"
        assert ask(client, "/secret")[0].status == 404
        assert ask(client, "/repository.toml")[0].status == 404
        client.close()


def test_it_listens_on_loopback_only_and_says_where(server: DevelopmentServer) -> None:
    assert server.base_url == f"http://127.0.0.1:{server.port}/"
    assert server._server.server_address[0] == "127.0.0.1"
    assert urlsplit(server.base_url).port == server.port


def test_every_answer_is_told(root: Path) -> None:
    told: list[tuple[str, str, int, int]] = []
    with serve(root, served=lambda *answer: told.append(answer)) as running:
        client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
        ask(client, Range="bytes=0-9")
        ask(client, "/none")
        ask(client, method="HEAD")
        client.close()
    path = "/sub/file+1!.zst"
    assert told == [("GET", path, 206, 10), ("GET", "/none", 404, 0), ("HEAD", path, 200, 0)]


def test_closing_cuts_open_connections_and_ends_all_threads(root: Path) -> None:
    before = set(threading.enumerate())
    with serve(root) as running:
        client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
        ask(client)
        idle = socket.create_connection(("127.0.0.1", running.port))
    assert set(threading.enumerate()) == before
    client.close()
    idle.close()


def test_a_taken_port_and_a_missing_directory_are_clear_errors(
    server: DevelopmentServer, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="cannot listen on"):
        serve(tmp_path / "public", server.port)
    with pytest.raises(NotFoundError):
        serve(tmp_path / "none")


def test_a_directory_that_is_no_repository_is_not_served(root: Path) -> None:
    for directory in (root.parent, root / "sub"):
        with pytest.raises(NotFoundError, match="is not a repository") as caught:
            serve(directory)
        assert "repo init" in caught.value.remedy
    serve(root).close()
