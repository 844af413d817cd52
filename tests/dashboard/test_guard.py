"""The dashboard over HTTP, as those see it who should not get in."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from plugin_manager.dashboard._access import KEY_HEADER, cookie_name
from plugin_manager.dashboard._openapi import OPERATIONS
from tests.dashboard.conftest import Client, running, until
from tests.world import World

API = [one for one in OPERATIONS if one.name != "session"]
PAGE = ["/", "/app.js", "/dom.js", "/live.js", "/view.js", "/app.css", "/icon.svg"]


def filled(path: str) -> str:
    return path.format(publisher="acme", plugin="maps", job="0" * 64)


def test_the_page_itself_holds_no_data_and_needs_no_secret(client: Client) -> None:
    for path in PAGE:
        answer = client.ask("GET", path, headers={})
        assert answer.status_code == 200, path
        assert client.dashboard.token not in answer.text


@pytest.mark.parametrize("one", API, ids=lambda one: one.name)
def test_nothing_of_the_api_is_answered_without_the_secret(client: Client, one: Any) -> None:
    path, host = filled(one.path), urlsplit(client.dashboard.address).netloc
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {client.dashboard.token}"},
        {"Authorization": client.dashboard.token},
        {"Cookie": f"{cookie_name(host)}=wrong", KEY_HEADER: "wrong"},
    ):
        body = json.dumps({}) if one.method == "POST" else None
        sent = {"Origin": client.dashboard.address.rstrip("/"), **headers}
        answer = client.ask(one.method, path, headers=sent, data=body)
        assert answer.status_code == 401, (headers, answer.text)
    control = client.ask(one.method, path, json={} if one.method == "POST" else None, stream=True)
    assert control.status_code != 401
    control.close()


def test_a_session_opens_what_its_cookie_alone_does_not(client: Client) -> None:
    origin = {"Origin": client.dashboard.address.rstrip("/")}
    code = client.dashboard.link().partition("#code=")[2]
    answer = client.ask("POST", "/api/session", headers=origin, json={"secret": code})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    key = answer.json()["key"]
    session = client.session  # has kept the cookie
    assert session.cookies
    assert client.ask("GET", "/api/jobs", headers=origin).status_code == 401
    assert client.ask("GET", "/api/jobs", headers={**origin, KEY_HEADER: key}).status_code == 200
    session.cookies.clear()
    assert client.ask("GET", "/api/jobs", headers={**origin, KEY_HEADER: key}).status_code == 401
    again = client.ask("POST", "/api/session", headers=origin, json={"secret": code})
    assert again.status_code == 401
    assert "set-cookie" not in again.headers


@pytest.mark.parametrize(
    "other", ['a="b"', 'prefs={"dark": 1}', "x=\xe4", "a b=c", "flag", "=x", 'x="']
)
def test_what_another_port_keeps_in_the_browser_locks_nobody_out(
    client: Client, other: str
) -> None:
    """Browsers send the cookies of all ports of this host, well-formed or not."""
    code = client.dashboard.link().partition("#code=")[2]
    origin = {"Origin": client.dashboard.address.rstrip("/")}
    answer = client.ask("POST", "/api/session", headers=origin, json={"secret": code})
    ((name, value),) = client.session.cookies.items()
    client.session.cookies.clear()
    for cookies in (f"{other}; {name}={value}", f"{name}={value}; {other}"):
        headers = {"Cookie": cookies.encode(), KEY_HEADER: answer.json()["key"]}
        assert client.ask("GET", "/api/jobs", headers=headers).status_code == 200


def test_two_dashboards_in_one_browser_leave_each_other_alone(world: World, client: Client) -> None:
    """A browser keeps its cookies by host, whatever the port."""
    with running(world.manager) as other:
        other.session.cookies = client.session.cookies
        asked = []
        for one in (client, other):
            headers = {"Origin": one.dashboard.address.rstrip("/")}
            secret = one.dashboard.link().partition("#code=")[2]
            answer = one.ask("POST", "/api/session", headers=headers, json={"secret": secret})
            asked.append((one, {**headers, KEY_HEADER: answer.json()["key"]}))
        for one, headers in asked:
            assert one.ask("GET", "/api/jobs", headers=headers).status_code == 200


def test_a_name_that_was_pointed_at_us_gets_nothing(client: Client) -> None:
    """DNS rebinding: a site's own name that leads to 127.0.0.1."""
    bearer = {"Authorization": f"Bearer {client.dashboard.token}"}
    for path in ("/", "/app.js", "/api/state", "/api/session"):
        answer = client.ask("GET", path, headers={**bearer, "Host": "evil.example:80"})
        assert answer.status_code == 403, path
    assert client.ask("GET", "/api/jobs", headers=bearer).status_code == 200, "control"


def test_another_sites_page_changes_nothing(client: Client, world: World) -> None:
    bearer = {"Authorization": f"Bearer {client.dashboard.token}"}
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        answer = client.ask(
            "POST", "/api/jobs/pause", headers={**bearer, "Origin": origin}, json={}
        )
        assert answer.status_code == 403
        assert not client.get("/api/jobs")["paused"]
    client.post("/api/jobs/pause")
    assert client.get("/api/jobs")["paused"], "control: it would have"


def test_a_form_cannot_change_anything(client: Client) -> None:
    """What a page can send without asking first is no JSON by its type."""
    bearer = {"Authorization": f"Bearer {client.dashboard.token}"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        headers = {**bearer, "Content-Type": kind}
        answer = client.ask("POST", "/api/jobs/pause", headers=headers, data="{}")
        assert answer.status_code == 415
    assert not client.get("/api/jobs")["paused"]


@pytest.mark.parametrize("path", [*PAGE, "/api/state", "/api/nothing", "/nothing", "/api/session"])
def test_every_answer_carries_the_policy(client: Client, path: str) -> None:
    for headers in ({}, {"Authorization": f"Bearer {client.dashboard.token}"}):
        found = client.ask("GET", path, headers=headers).headers
        policy = dict(
            part.strip().partition(" ")[::2] for part in found["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert "unsafe" not in found["content-security-policy"]
        assert "http" not in found["content-security-policy"]
        assert found["x-content-type-options"] == "nosniff"
        assert found["cache-control"] == "no-store"
        assert found["referrer-policy"] == "no-referrer"
        assert not [name for name in found if name.lower().startswith("access-control-")]


@pytest.mark.parametrize(
    "path",
    [
        *("/../_access.py", "/..%2f_access.py", "/static/../app.js", "/%2e%2e/%2e%2e/etc/passwd"),
        *("//etc/passwd", "/app.js/../../_server.py", "/app.js%00", "/.", "/static/app.js"),
        *("/etc/passwd", "/..\\_access.py", "/api/../_access.py"),
    ],
)
def test_no_path_leads_beyond_the_files_of_the_page(client: Client, path: str) -> None:
    host = client.dashboard.address.removeprefix("http://").rstrip("/")
    name, port = host.split(":")
    with socket.create_connection((name, int(port)), 10) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    status = int(answer.split()[1])
    assert status in {401, 404}, answer[:200]
    assert b"root:" not in answer
    assert b"import" not in answer


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/jobs//", "/app.js/", "//app.js"])
def test_an_address_that_is_not_quite_right_leads_nowhere(client: Client, path: str) -> None:
    """A redirection would name a host, which is the asker's to choose."""
    answer = client.ask("GET", path, allow_redirects=False)
    assert answer.status_code == 404
    assert "location" not in answer.headers


def test_long_requests_are_refused(client: Client) -> None:
    answer = client.ask("POST", "/api/install", json={"requests": ["x" * 70_000]})
    assert answer.status_code == 413
    bearer = {
        "Authorization": f"Bearer {client.dashboard.token}",
        "Content-Type": "application/json",
    }
    parts = (b" " * 8192 for _ in range(10_000))  # no length is told
    with contextlib.suppress(requests.ConnectionError):  # the answer may be lost with what we sent
        assert client.ask("POST", "/api/install", headers=bearer, data=parts).status_code == 413
    assert client.post("/api/install", {"requests": ["x" * 900]}, 400)["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"requests": "acme/maps"}',
        b'{"requests": [1]}',
        b'{"requests": ["acme/maps"], "more": 1}',
        b'{"requests": ["acme/maps"], "dry_run": "yes"}',
        b'{"requests": ["\\ud800"]}',
        b'{"requests": []}',
        b'{"requests": ["../../etc"]}',
        b"[" * 50_000,
    ],
)
def test_malformed_requests_are_refused_with_reasons(client: Client, body: bytes) -> None:
    headers = {
        "Authorization": f"Bearer {client.dashboard.token}",
        "Content-Type": "application/json",
    }
    answer = client.ask("POST", "/api/install", headers=headers, data=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]
    assert client.get("/api/jobs")["jobs"] == []


def test_headers_that_are_there_twice_are_refused(client: Client) -> None:
    host = client.dashboard.address.removeprefix("http://").rstrip("/")
    name, port = host.split(":")
    lines = [
        "GET /api/jobs HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {client.dashboard.token}",
        "Connection: close",
    ]
    for more, status in (([], 200), (["Origin: http://a", f"Origin: http://{host}"], 400)):
        with socket.create_connection((name, int(port)), 10) as connection:
            connection.sendall("\r\n".join([*lines, *more, "", ""]).encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert int(answer.split()[1]) == status


def test_watchers_are_bounded_and_those_who_leave_make_room(client: Client) -> None:
    watching = [client.ask("GET", "/api/events", stream=True) for _ in range(16)]
    assert {one.status_code for one in watching} == {200}
    assert client.ask("GET", "/api/events", stream=True).status_code == 503
    assert client.get("/api/jobs"), "others are still answered"
    for one in watching:
        one.close()

    def admitted() -> bool:
        answer = client.ask("GET", "/api/events", stream=True)
        answer.close()
        return answer.status_code == 200

    until(admitted, bool)


def test_a_stranger_who_guesses_ends_nobodys_stream(client: Client) -> None:
    origin = {"Origin": client.dashboard.address.rstrip("/")}
    with client.ask("GET", "/api/events", stream=True, timeout=15) as stream:
        parts = stream.iter_content(chunk_size=None)
        next(parts)
        guess = requests.post(
            client.dashboard.address + "api/session",
            json={"secret": "wrong"},
            headers=origin,
            timeout=30,
        )
        assert guess.status_code == 401
        assert next(parts), "the stream goes on: something comes every ten seconds"


def test_a_link_that_comes_again_ends_the_streams(client: Client) -> None:
    secret = client.dashboard.link().partition("#code=")[2]
    sent = {"headers": {"Origin": client.dashboard.address.rstrip("/")}, "timeout": 30}
    address = client.dashboard.address + "api/session"
    assert requests.post(address, json={"secret": secret}, **sent).status_code == 200
    with client.ask("GET", "/api/events", stream=True, timeout=15) as stream:
        parts = stream.iter_content(chunk_size=None)
        next(parts)
        assert requests.post(address, json={"secret": secret}, **sent).status_code == 401
        list(parts)


@pytest.mark.parametrize("job", ["%00", "..", ".", "a" * 3000, "%ff", "A" * 16, "queue.json"])
def test_what_is_no_id_of_a_job_leads_to_no_file(client: Client, job: str) -> None:
    token, netloc = client.dashboard.token, urlsplit(client.dashboard.address).netloc
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    for method, verb in (("POST", "pause"), ("POST", "forget"), ("GET", "room")):
        connection = http.client.HTTPConnection(netloc, timeout=30)
        connection.request(method, f"/api/jobs/{job}/{verb}", "{}", headers)
        answer = connection.getresponse()
        assert answer.status == 404, answer.read()
        connection.close()


def test_a_port_that_is_taken_is_said_so(world: World, client: Client) -> None:
    from plugin_manager.dashboard import Dashboard  # noqa: PLC0415
    from plugin_manager.errors import RefusedError  # noqa: PLC0415

    port = int(client.dashboard.address.rstrip("/").rpartition(":")[2])
    with pytest.raises(RefusedError, match="taken"):
        Dashboard(world.manager, port)


def test_it_listens_on_loopback_only(client: Client) -> None:
    assert client.dashboard.address.startswith("http://127.0.0.1:")
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    port = int(client.dashboard.address.rstrip("/").rpartition(":")[2])
    for address in addresses - {"127.0.0.1", "127.0.1.1", "::1"}:
        with pytest.raises(OSError), socket.create_connection((str(address), port), 2):
            pass


def test_secrets_of_one_start_are_nothing_to_the_next(world: World, client: Client) -> None:
    with running(world.manager) as later:
        headers = {"Authorization": f"Bearer {client.dashboard.token}"}
        assert later.ask("GET", "/api/jobs", headers=headers).status_code == 401
        assert later.get("/api/jobs")
