"""Small files, and everything around one request: status, redirects, credentials, proxies, TLS."""

from __future__ import annotations

import socket
import ssl
import traceback
from contextlib import suppress

import pytest
import requests
import trustme
from attrs import evolve

from plugin_manager.errors import InvalidInputError, NetworkError
from plugin_manager.transfer import Policy, Transfer, _exchange, _pace
from tests.transfer.helpers import FakeTime, content_of, transfer
from tests.transfer.server import (
    ENOUGH_BYTES,
    Server,
    answer,
    drip,
    endless,
    honest,
    in_turn,
    raw,
    redirect,
    reset,
    wrong,
)

CONTENT = content_of(50_000)
BOUND_BYTES = 16 * 1024 * 1024  # far below ENOUGH_BYTES, far above what sockets buffer


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def refused(behaviour, *, by: Transfer | None = None, most_bytes: int = 100_000):
    """The error that fetching from `behaviour` ends in, and the server."""
    with Server(behaviour) as server, pytest.raises(NetworkError) as caught:
        (by or transfer()).fetch(server.url(), most_bytes)
    return caught.value, server


# --- content -----------------------------------------------------------------------------------


@pytest.mark.parametrize("most_bytes", [50_000, 50_001, 10**9])
def test_whole_content_is_given(most_bytes):
    with Server(honest(CONTENT)) as server:
        assert transfer().fetch(server.url(), most_bytes) == CONTENT


def test_empty_content_is_given():
    with Server(honest(b"")) as server:
        assert transfer().fetch(server.url(), 0) == b""


def test_content_without_declared_length_is_given():
    with Server(wrong(CONTENT, Content_Length=None, stay=False)) as server:
        assert transfer().fetch(server.url(), 50_000) == CONTENT


NONSENSE_LENGTHS = ["9" * 5000, "9" * 19, "-1", "1e9", "0x10", "\u00b2", "", "1, 1"]


@pytest.mark.parametrize("length", NONSENSE_LENGTHS)
def test_lengths_that_are_nonsense_count_as_nothing_or_are_network_errors(length):
    content = wrong(CONTENT, Content_Length=length, stay=False)
    with Server(content) as server, suppress(NetworkError):
        assert transfer().fetch(server.url(), 50_000) == CONTENT
    error, _ = refused(answer("404 Not Found", b"gone", Content_Length=length))
    assert error.status == 404


def test_too_long_content_is_refused_by_its_declared_length_or_by_what_comes():
    for behaviour in (
        honest(CONTENT),
        wrong(CONTENT, Content_Length=None, stay=False),
        endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        endless(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"64\r\n" + b"x" * 100 + b"\r\n",
        ),
    ):
        error, server = refused(behaviour, most_bytes=49_999)
        assert "the server sends more than 49999 bytes" in str(error)
        assert len(server.requests) == 1
        assert server.sent_bytes < BOUND_BYTES


def test_truncated_content_is_fetched_again():
    cut = wrong(CONTENT, body=lambda data: data[:-1])
    with Server(in_turn(cut, cut, honest(CONTENT))) as server:
        assert transfer().fetch(server.url(), 50_000) == CONTENT


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP ", "identity, gzip"])
def test_content_in_a_coding_is_refused(coding):
    error, server = refused(wrong(CONTENT, Content_Encoding=coding))
    assert "coding" in str(error)
    assert len(server.requests) == 1


def test_part_in_answer_to_a_whole_request_is_refused():
    error, _ = refused(answer("206 Partial Content", b"x"))
    assert error.status == 206


# --- headers and bodies without end ------------------------------------------------------------


ENDLESS = {
    "header lines": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "tiny chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n",
    ),
    "one header line": (b"HTTP/1.1 200 OK\r\nA: ", b"b"),
    "status line": (b"HTTP/1.1 200 ", b"K"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"),
    "chunk extension": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a"),
    "chunk extensions": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1;" + b"a" * 60_000 + b"\r\nx\r\n",
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_answers_cost_bounded_bytes(name):
    error, server = refused(endless(*ENDLESS[name]), by=transfer(Policy(attempts=2)))
    assert len(server.requests) == 2
    assert server.sent_bytes < BOUND_BYTES
    assert error.status is None


@pytest.mark.parametrize("name", ["continue", "trailers", "chunk extensions"])
def test_control_without_the_bound_the_endless_answer_is_read(name, monkeypatch):
    monkeypatch.setattr(_pace, "MOST_HEADER_BYTES", 10**12)
    monkeypatch.setattr(_pace, "_SLACK_BYTES", 10**12)
    with Server(endless(*ENDLESS[name])) as server, suppress(NetworkError):
        transfer(Policy(attempts=1)).fetch(server.url(), 10**8)
    assert server.sent_bytes >= ENOUGH_BYTES


def test_header_that_drips_is_given_up():
    slow = drip(b"", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50)
    time = FakeTime(tick_seconds=0.5)
    error, server = refused(slow, by=transfer(Policy(attempts=2), time))
    assert "the server sent no whole header in 30 s" in str(error)
    assert server.sent_bytes < 2 * 300


def test_silent_server_is_given_up():
    def silent(exchange):
        exchange.connection.recv(1)  # until the client has had enough
        return False

    policy = Policy(attempts=2, read_timeout_seconds=0.05)
    error, server = refused(silent, by=transfer(policy))
    assert "the server sent nothing for 0.05 s" in str(error)
    assert len(server.requests) == 2


# --- status ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 410, 416, 451, 204, 304, 300])
def test_final_status_is_not_asked_for_again(status):
    error, server = refused(answer(f"{status} Whatever"))
    assert error.status == status
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_passing_status_is_asked_for_again(status):
    with Server(in_turn(answer(f"{status} Busy"), honest(CONTENT))) as server:
        assert transfer().fetch(server.url(), 50_000) == CONTENT
    error, server = refused(answer(f"{status} Busy"))
    assert error.status == status
    assert len(server.requests) == Policy().attempts


def test_missing_file_says_what_to_check_and_keeps_the_connection():
    with Server(in_turn(answer("404 Not Found", b"nothing here"), honest(CONTENT))) as server:
        by = transfer()
        with pytest.raises(NetworkError) as caught:
            by.fetch(server.url("a/b"), 100)
        assert str(caught.value) == (
            f"http://127.0.0.1:{server.port}/a/b: the server answers 404 Not Found. "
            "Check the repository's address."
        )
        by.fetch(server.url(), 50_000)
        assert server.connections == 1


def test_errors_with_long_bodies_are_not_read():
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: 100000000\r\n\r\n"
    _, server = refused(endless(head, b"x"))
    assert server.sent_bytes < BOUND_BYTES


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"Retry_After": "7"}, 7),
        ({"Retry_After": "0"}, 0.5),
        ({"Retry_After": "99999999999999999999"}, 120),
        ({"Retry_After": "soon"}, 0.5),
        ({"Retry_After": "-5"}, 0.5),
        (
            {
                "Date": "Fri, 20 Nov 2026 12:00:00 GMT",
                "Retry_After": "Fri, 20 Nov 2026 12:00:40 GMT",
            },
            40,
        ),
        (
            {
                "Date": "Fri, 20 Nov 2026 12:00:00 GMT",
                "Retry_After": "Thu, 19 Nov 2026 12:00:00 GMT",
            },
            0.5,
        ),
        ({"Retry_After": "Fri, 20 Nov 2099 12:00:40 GMT"}, 0.5),
        (
            {
                "Date": "Fri, 20 Nov 2026 12:00:00 GMT",
                "Retry_After": f"Fri, 20 Nov 2026 12:00:40 +{'9' * 20}",
            },
            0.5,
        ),
        (
            {
                "Date": f"Fri, 20 Nov 2026 12:00:00 -{'9' * 12}",
                "Retry_After": "Fri, 20 Nov 2026 12:00:40 GMT",
            },
            0.5,
        ),
        ({"Date": "\x00", "Retry_After": "Fri, 20 Nov 0000 99:99:99 +9999"}, 0.5),
        ({"Retry_After": "9" * 5000}, 120),
    ],
)
def test_retry_after_is_honoured_and_capped(headers, pause):
    for status in ("429 Slow down", "503 Busy"):
        time = FakeTime()
        with Server(in_turn(answer(status, **headers), honest(CONTENT))) as server:
            transfer(time=time).fetch(server.url(), 50_000)
        assert time.pauses == [pause]


# --- redirects ---------------------------------------------------------------------------------


def test_redirects_are_followed_relative_and_to_other_servers():
    with Server(honest(CONTENT)) as other:
        steps = in_turn(
            redirect(lambda _: "/elsewhere"),
            redirect(lambda _: other.url("there"), "307 Temporary Redirect"),
        )
        with Server(steps) as server:
            assert transfer().fetch(server.url(), 50_000) == CONTENT
            assert [request.target for request in server.requests] == ["/file", "/elsewhere"]
        assert [request.target for request in other.requests] == ["/there"]


def test_redirects_keep_the_range():
    with Server(in_turn(redirect(lambda _: "/there"), honest(CONTENT))) as server:
        assert transfer().fetch_range(server.url(), 3, 9, length=50_000) == CONTENT[3:9]
        assert server.ranges == ["bytes=3-8", "bytes=3-8"]


def test_redirect_loop_ends():
    error, server = refused(redirect(lambda _: "/file"))
    assert "redirected more than 5 times" in str(error)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/file",
        "file:///etc/passwd",
        "http://plugins.example/file",
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "http://user:word@127.0.0.1/",
        "javascript:alert(1)",
    ],
)
def test_redirect_to_anything_else_is_refused(location):
    error, server = refused(redirect(lambda _: location))
    assert "the server redirects to" in str(error)
    assert "word" not in str(error)
    assert len(server.requests) == 1


def test_body_of_a_redirect_is_not_read():
    def behaviour(path):
        head = f"HTTP/1.1 302 Found\r\nLocation: {path}\r\n\r\n".encode()
        return in_turn(endless(head, b"x"), honest(CONTENT))

    with Server(behaviour("/there")) as server:
        assert transfer().fetch(server.url(), 50_000) == CONTENT
        assert server.sent_bytes < BOUND_BYTES
    # The control: requests by itself reads it all, even where it is told not to follow.
    with Server(behaviour("/there")) as server:
        with requests.get(server.url(), stream=True, allow_redirects=False, timeout=60):
            pass
        assert server.sent_bytes >= ENOUGH_BYTES


# --- credentials -------------------------------------------------------------------------------


def write_netrc(tmp_path) -> None:
    (tmp_path / "netrc").write_text(
        "machine 127.0.0.1 login user password word\nmachine localhost login user password word\n"
    )


def test_credentials_from_netrc_are_sent_to_the_server_they_are_for(tmp_path):
    write_netrc(tmp_path)
    with Server(honest(CONTENT)) as server:
        transfer().fetch(server.url(), 50_000)
    assert server.requests[0].headers["authorization"].startswith("Basic ")


def test_credentials_follow_redirects_only_within_an_origin(tmp_path):
    write_netrc(tmp_path)
    back: list[str] = []
    with Server(in_turn(redirect(lambda _: back[0]), honest(CONTENT))) as other:
        steps = in_turn(
            redirect(lambda _: "/same"),
            redirect(lambda _: other.url()),
            honest(CONTENT),
        )
        with Server(steps) as server:
            back.append(server.url("back"))
            transfer().fetch(server.url(), 50_000)
            sent = ["authorization" in request.headers for request in server.requests]
    # Nor on the way back, which the other server chose.
    assert sent == [True, True, False]
    assert "authorization" not in other.requests[0].headers


def test_control_without_the_rule_the_credentials_would_go_along(tmp_path, monkeypatch):
    write_netrc(tmp_path)
    monkeypatch.setattr(_exchange, "origin", lambda parts: None)
    with Server(honest(CONTENT)) as other, Server(redirect(lambda _: other.url())) as server:
        transfer().fetch(server.url(), 50_000)
    assert "authorization" in other.requests[0].headers


TOKEN = "to-ken.A~1+/=="


def test_a_token_is_sent_to_its_origin_and_takes_precedence(tmp_path):
    write_netrc(tmp_path)
    with Server(honest(CONTENT)) as server, Server(honest(CONTENT)) as other:
        by = transfer(Policy(tokens={server.url(""): TOKEN}))
        by.fetch(server.url(), 50_000)
        by.fetch(server.url().replace("http://", "http://user:word@"), 50_000)
        by.fetch(other.url(), 50_000)
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == [f"Bearer {TOKEN}"] * 2
    assert other.requests[0].headers["authorization"].startswith("Basic "), "another port"


def test_a_token_follows_redirects_only_within_its_origin(tmp_path):
    write_netrc(tmp_path)
    back: list[str] = []
    with Server(in_turn(redirect(lambda _: back[0]), honest(CONTENT))) as other:
        steps = in_turn(redirect(lambda _: "/same"), redirect(lambda _: other.url()), honest(b""))
        with Server(steps) as server:
            back.append(server.url("back"))
            # Not even where the other has a token of its own: it was not asked by us.
            tokens = {server.url("").rstrip("/"): TOKEN, other.url(""): "other"}
            transfer(Policy(tokens=tokens)).fetch(server.url(), 50_000)
            sent = [request.headers.get("authorization") for request in server.requests]
    assert sent == [f"Bearer {TOKEN}"] * 2 + [None]
    assert "authorization" not in other.requests[0].headers


def test_control_without_the_rule_the_token_would_go_along(monkeypatch):
    with Server(honest(CONTENT)) as other, Server(redirect(lambda _: other.url())) as server:
        by = transfer(Policy(tokens={server.url(""): TOKEN}))
        monkeypatch.setattr(_exchange, "origin", lambda parts: parts.hostname)
        monkeypatch.setattr(_exchange.Client, "_bearer", lambda *_: _exchange._Bearer(TOKEN))
        by.fetch(server.url(), 50_000)
    assert other.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_a_token_is_not_sent_in_plain_to_another_machine(monkeypatch):
    with Server(honest(CONTENT)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        by = transfer(Policy(insecure_http=True, tokens={"http://plugins.example": TOKEN}))
        by.fetch("http://plugins.example/x", 50_000)
        assert "authorization" not in proxy.requests[0].headers
        # The control: it would be, were that machine this one.
        monkeypatch.setattr(_exchange.Client, "_bearer", lambda *_: _exchange._Bearer(TOKEN))
        by.fetch("http://plugins.example/x", 50_000)
        assert proxy.requests[1].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("behaviour", [reset, answer("401 No"), raw(b"nonsense\r\n\r\n")])
def test_no_error_log_or_repr_shows_a_token(behaviour, caplog):
    caplog.set_level(0)
    with Server(behaviour) as server:
        policy = Policy(tokens={server.url(""): TOKEN})
        by = transfer(policy)
        with pytest.raises(NetworkError) as caught:
            by.fetch(server.url(), 100)
        assert TOKEN in server.requests[0].headers["authorization"]
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.context)
    assert TOKEN not in shown + repr(policy) + caplog.text


@pytest.mark.parametrize(
    ("address", "token"),
    [
        ("https://plugins.example/path", TOKEN),
        ("https://user:secret@plugins.example", TOKEN),
        ("plugins.example", TOKEN),
        ("ftp://plugins.example", TOKEN),
        ("https://plugins.example:port", TOKEN),
        ("secret", "https://plugins.example"),
        ("https://plugins.example", "secret\r\nX: y"),
        ("https://plugins.example", "secret word"),
        ("https://plugins.example", "secr\u00e9t"),
        ("https://plugins.example", ""),
    ],
)
def test_tokens_that_cannot_be_are_refused_and_not_shown(address, token):
    with pytest.raises(InvalidInputError) as caught:
        Policy(tokens={address: token})
    assert "secr" not in str(caught.value)


@pytest.mark.parametrize("behaviour", [reset, answer("404 No"), raw(b"nonsense\r\n\r\n")])
def test_errors_show_neither_credentials_nor_query(behaviour):
    with Server(behaviour) as server:
        url = f"http://user:pass-word@127.0.0.1:{server.port}/file?token=tok-en#frag"
        with pytest.raises(NetworkError) as caught:
            transfer().fetch(url, 100)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.context)
    assert f"http://127.0.0.1:{server.port}/file" in shown
    for secret in ("pass-word", "tok-en"):
        assert secret not in shown


# --- addresses and proxies ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["http://plugins.example/x", "ftp://127.0.0.1/x", "plugins.example/x", "http://[::1/", ""],
)
def test_address_that_is_not_permitted_is_refused_without_asking(url):
    with pytest.raises(InvalidInputError):
        transfer().fetch(url, 100)


def test_name_that_cannot_be_resolved_is_said_so():
    policy = Policy(attempts=2, insecure_http=True)
    with pytest.raises(NetworkError) as caught:
        transfer(policy).fetch("http://plugins.invalid/x", 100)
    assert "name cannot be resolved" in str(caught.value)


def test_nobody_listening_is_said_so():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NetworkError) as caught:
        transfer().fetch(f"http://127.0.0.1:{port}/x", 100)
    assert "the server refuses connections" in str(caught.value)


def test_proxy_of_the_environment_is_used_for_other_machines_only(monkeypatch):
    with Server(honest(CONTENT)) as proxy, Server(honest(CONTENT)) as server:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        by = transfer(Policy(insecure_http=True))
        assert by.fetch("http://plugins.example/x", 50_000) == CONTENT
        assert [request.target for request in proxy.requests] == ["http://plugins.example/x"]
        assert by.fetch(server.url(), 50_000) == CONTENT
        assert len(proxy.requests) == 1


def test_answers_through_a_proxy_are_bounded_too(monkeypatch):
    with Server(endless(*ENDLESS["continue"])) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        with pytest.raises(NetworkError):
            transfer(Policy(insecure_http=True, attempts=1)).fetch("http://plugins.example/x", 100)
        assert proxy.sent_bytes < BOUND_BYTES


def test_tunnels_that_a_proxy_refuses_are_said_so(monkeypatch):
    with Server(answer("407 Proxy Authentication Required")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url(""))
        with pytest.raises(NetworkError) as caught:
            transfer(Policy(attempts=1)).fetch("https://plugins.example/x", 100)
    assert "the proxy: Tunnel connection failed: 407" in str(caught.value)


# --- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def secure(authority, tmp_path):
    """A server's TLS context, and the policy of a client that trusts its authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    return context, Policy(ca_bundle=bundle)


def test_own_authority_is_trusted(secure):
    context, policy = secure
    with Server(honest(CONTENT), context, "localhost") as server:
        assert transfer(policy).fetch(server.url(), 50_000) == CONTENT
        assert transfer(policy).fetch_range(server.url(), 4, 8, length=50_000) == CONTENT[4:8]


def test_unknown_authority_and_wrong_name_are_refused_at_once(secure):
    context, policy = secure
    for name, by in (("localhost", None), ("127.0.0.1", policy)):
        with Server(honest(CONTENT), context, name) as server:
            with pytest.raises(NetworkError) as caught:
                transfer(by).fetch(server.url(), 50_000)
            assert "the server's certificate is not trusted" in str(caught.value)
            assert "PLUGINCTL_CA_BUNDLE" in caught.value.remedy
            assert server.connections == 1


def test_redirect_from_https_to_http_is_refused_even_to_loopback(secure):
    context, policy = secure
    with (
        Server(honest(CONTENT)) as plain,
        Server(redirect(lambda _: plain.url()), context, "localhost") as server,
        pytest.raises(NetworkError) as caught,
    ):
        transfer(policy).fetch(server.url(), 50_000)
    assert "plain http is not accepted after https" in str(caught.value)
    assert plain.requests == []


def test_redirect_from_http_to_https_is_followed(secure):
    context, policy = secure
    with (
        Server(honest(CONTENT), context, "localhost") as server,
        Server(redirect(lambda _: server.url())) as plain,
    ):
        assert transfer(policy).fetch(plain.url(), 50_000) == CONTENT


def test_tls_answers_are_paced_too(secure):
    context, policy = secure
    with Server(endless(*ENDLESS["continue"]), context, "localhost") as server:
        with pytest.raises(NetworkError):
            transfer(policy).fetch(server.url(), 50_000)
        assert server.sent_bytes < BOUND_BYTES


def test_a_token_is_sent_over_tls(secure):
    context, policy = secure
    with Server(honest(CONTENT), context, "localhost") as server:
        by = transfer(evolve(policy, tokens={server.url("").upper().rstrip("/"): TOKEN}))
        by.fetch(server.url(), 50_000)
    assert server.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_bad_file_of_authorities_is_named(tmp_path, content):
    bundle = tmp_path / "authorities.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(InvalidInputError) as caught:
        transfer(Policy(ca_bundle=bundle)).fetch("https://localhost/x", 100)
    assert str(bundle) in str(caught.value)
