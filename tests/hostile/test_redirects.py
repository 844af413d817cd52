"""Redirects to other servers, with credentials in reach, and from https to http."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from attrs import evolve

from plugin_manager.transfer import _exchange
from tests.hostile.stage import PATIENCE, Asked, Front, Host, Script, Stage, VirtualTime, honestly
from tests.hostile.ways import WAYS, always
from tests.transfer.server import Behaviour, Server, redirect


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home whose .netrc knows both names of this machine."""
    home = tmp_path / "home"
    home.mkdir()
    lines = (f"machine {name} login user password word\n" for name in ("127.0.0.1", "localhost"))
    (home / ".netrc").write_text("".join(lines))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("NETRC", raising=False)


@contextmanager
def elsewhere(stage: Stage, script: Script = honestly) -> Iterator[tuple[Front, Server]]:
    """Another server, by another name, that has all that the repository has."""
    front = Front(stage, stage.edition("new"), script, VirtualTime(), int)
    with Server(front, name="localhost") as server:
        yield front, server


def sending_to(server: Server) -> Script:
    """All that is there is to be had from `server`."""
    return lambda asked: redirect(lambda _: server.url(asked.path)) if asked.content else None


def sent(asked: list[Asked]) -> set[bool]:
    return {"authorization" in one.headers for one in asked}


def test_another_server_is_followed_to_but_gets_no_credentials(
    stage: Stage, tmp_path: Path
) -> None:
    host = Host.installed(stage, tmp_path)
    with elsewhere(stage) as (front, other):
        attempt = host.attempt(sending_to(other))
    assert host.judge(attempt, "") == []
    assert sent(attempt.asked) == {True}
    assert len(front.asked) >= 6
    assert sent(front.asked) == {False}


def test_control_without_the_rule_the_credentials_go_along(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_exchange, "origin", lambda parts: None)
    host = Host.installed(stage, tmp_path)
    with elsewhere(stage) as (front, other):
        host.attempt(sending_to(other))
    assert sent(front.asked) == {True}


@pytest.mark.parametrize("name", ["one bit flipped", "endless header", "503", "redirect to a file"])
def test_a_server_redirected_to_is_trusted_no_more_than_the_first(
    name: str, stage: Stage, tmp_path: Path
) -> None:
    host = Host.installed(stage, tmp_path)
    with elsewhere(stage, always("body", WAYS[name])) as (front, other):
        attempt = host.attempt(sending_to(other))
    verdict = "untrusted" if name == "one bit flipped" else "network"
    assert host.judge(attempt, verdict) == []
    assert sent(front.asked) == {False}


def test_two_servers_that_send_the_client_to_one_another_end(stage: Stage, tmp_path: Path) -> None:
    host = Host.installed(stage, tmp_path)
    back: list[str] = []

    def and_back(asked: Asked) -> Behaviour:
        return redirect(lambda _: back[0] + asked.path)

    with elsewhere(stage, always("body", and_back)) as (front, other):

        def script(asked: Asked) -> Behaviour | None:
            back[:] = [f"http://{asked.headers['host']}/"]
            return sending_to(other)(asked) if asked.place == "body" else None

        attempt = host.attempt(script)
    assert host.judge(attempt, "network") == []
    assert len(front.asked) + sum(one.place == "body" for one in attempt.asked) == 6
    assert sent(front.asked) == {False}


@pytest.mark.parametrize("place", ["timestamp", "body"])
def test_from_https_nothing_leads_to_http(place: str, stage: Stage, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    policy = evolve(PATIENCE, ca_bundle=tmp_path / "authority.pem")
    host = Host.installed(stage, tmp_path, policy)
    host.context = context
    with elsewhere(stage) as (front, other):
        attempt = host.attempt(
            always(place, lambda asked: redirect(lambda _: other.url(asked.path)))
        )
    assert host.judge(attempt, "network") == []
    assert "plain http is not accepted after https" in str(attempt.error)
    assert front.asked == []
