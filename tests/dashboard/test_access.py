"""Who is let in: names, pages, secrets; each check has a control that it can fail."""

from __future__ import annotations

import secrets

import pytest

from plugin_manager.dashboard import _access
from plugin_manager.dashboard._access import Access, refusal

GOOD = {"host": "127.0.0.1:8000", "authorization": "Bearer x"}


def test_a_code_is_good_once_and_the_token_again_and_again() -> None:
    access = Access()
    code = access.new_code()
    assert access.exchange(code)
    assert access.exchange(code) is None
    assert access.exchange(access.token)
    assert access.exchange(access.token)


def test_a_code_that_comes_from_elsewhere_ends_what_it_opened() -> None:
    access = Access()
    code, other = access.new_code(), access.exchange(access.token)
    thief = access.exchange(code)
    assert thief
    assert other
    assert access.allows(bearer="", cookie=thief.cookie, key=thief.key), "control"
    assert access.exchange(code, other.cookie) is None
    assert not access.allows(bearer="", cookie=thief.cookie, key=thief.key)
    assert access.exchange(code, thief.cookie) is None, "it stays ended"
    assert access.allows(bearer="", cookie=other.cookie, key=other.key), "others go on"


def test_a_code_opens_its_session_again_in_the_browser_that_has_it() -> None:
    access = Access()
    code = access.new_code()
    session = access.exchange(code)
    assert session
    assert access.exchange(code, session.cookie) == session
    assert access.allows(bearer="", cookie=session.cookie, key=session.key)


@pytest.mark.parametrize("wrong", ["", "x", "ä" * 43, "x" * 10_000])
def test_what_is_no_secret_opens_nothing(wrong: str) -> None:
    access = Access()
    access.new_code()
    access.exchange(access.token)
    assert access.exchange(wrong) is None
    assert not access.allows(bearer=wrong, cookie=wrong, key=wrong)


def test_a_session_needs_both_its_halves_and_no_other_sessions() -> None:
    access = Access()
    one, other = access.exchange(access.token), access.exchange(access.token)
    assert one
    assert other
    assert access.allows(bearer="", cookie=one.cookie, key=one.key)
    assert access.allows(bearer="", cookie=other.cookie, key=other.key)
    assert not access.allows(bearer="", cookie=one.cookie, key="")
    assert not access.allows(bearer="", cookie="", key=one.key)
    assert not access.allows(bearer="", cookie=one.cookie, key=other.key)
    assert not access.allows(bearer=one.cookie, cookie="", key="")


def test_sessions_are_bounded_and_the_oldest_goes() -> None:
    access = Access()
    first = access.exchange(access.token)
    assert first
    for _ in range(31):
        access.exchange(access.token)
    assert access.allows(bearer="", cookie=first.cookie, key=first.key), "control: it was good"
    access.exchange(access.token)
    assert not access.allows(bearer="", cookie=first.cookie, key=first.key)


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    real = secrets.compare_digest

    def spy(one: str, other: str) -> bool:
        compared.append((one, other))
        return real(one, other)

    access = Access()
    session, code = access.exchange(access.token), access.new_code()
    assert session
    monkeypatch.setattr(_access.secrets, "compare_digest", spy)
    access.allows(bearer="wrong", cookie="wrong", key="wrong")
    access.exchange("wrong")
    known = {one for one, _ in compared}
    assert {access.token, session.cookie, session.key, code} <= known


def test_no_two_starts_have_the_same_secrets() -> None:
    assert len({Access().token for _ in range(50)}) == 50
    assert len(Access().token) >= 43


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "localhost"])
def test_a_name_of_this_machine_is_taken(host: str) -> None:
    assert refusal("GET", {"host": host}) == ""
    assert refusal("POST", {"host": host, "origin": f"http://{host}"}) == ""


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "evil.example:8000", "127.0.0.1.evil.example:8000", "0.0.0.0:8000"),
        *("localhost.evil.example", "127.0.0.1:8000@evil.example", "LOCALHOST:8000", "127.1:8000"),
        *("localhost:8000 ", "localhost:٣", "127.0.0.1:123456", "[::1]evil"),
    ],
)
def test_any_other_name_is_refused_for_the_page_and_for_data(host: str) -> None:
    assert refusal("GET", {"host": host})
    assert refusal("GET", {"host": host}, is_page=True)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9000"},
        {"origin": "http://localhost:8000"},
        {"origin": "https://127.0.0.1:8000"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_page_is_refused_whatever_it_knows(method: str, headers: dict[str, str]) -> None:
    assert refusal(method, GOOD) == "", "control: without it, the request is taken"
    assert refusal(method, {**GOOD, **headers})


def test_a_change_must_name_its_page_or_carry_the_token() -> None:
    assert refusal("POST", {"host": "localhost"})
    assert refusal("POST", {"host": "localhost", "cookie": "x"})
    assert refusal("GET", {"host": "localhost"}) == ""
    assert refusal("POST", {"host": "localhost", "authorization": "Bearer x"}) == ""
