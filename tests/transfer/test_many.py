"""Many small files side by side."""

from __future__ import annotations

import threading
import time

import pytest

from plugin_manager.errors import CancelledError, InvalidInputError, NetworkError
from plugin_manager.transfer import Download, Policy, Span, Transfer, _delivery
from tests.transfer.helpers import content_of
from tests.transfer.server import Behaviour, Exchange, Server, answer, honest, in_turn, reset

CONTENT = content_of(5000)
IMPATIENT = Policy(attempts=4, pause_seconds=0.001, most_pause_seconds=0.01)


def numbered(latency_seconds: float = 0.0) -> Behaviour:
    """Serves each file its own content, after a while."""

    def behave(exchange: Exchange) -> bool:
        time.sleep(latency_seconds)
        return honest(CONTENT + exchange.request.target.encode())(exchange)

    return behave


def test_each_is_given_in_its_place_over_few_connections() -> None:
    with Server(numbered()) as server:
        by = Transfer()
        found = by.fetch_many([(server.url(f"{n}"), 10_000) for n in range(100)])
        assert found == [CONTENT + f"/{n}".encode() for n in range(100)]
        assert server.connections <= 16
        assert by.fetch_many([]) == []
        connections = server.connections
        by.fetch(server.url("again"), 10_000)
        assert server.connections == connections, "they are kept"


def test_a_far_server_is_asked_over_sixteen_connections_and_one_that_is_near_over_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for near_seconds, connections in ((0, 16), (1000, 2)):
        monkeypatch.setattr(_delivery, "_NEAR_SECONDS", near_seconds)
        with Server(numbered(0.02)) as server:
            Transfer().fetch_many([(server.url(f"{n}"), 10_000) for n in range(60)])
            assert server.connections == connections
    with Server(numbered()) as server:
        Transfer(Policy(connections=1)).fetch_many([(server.url(), 10_000)] * 9)
        assert server.connections == 1


def test_what_is_nearly_done_goes_on_over_as_many_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_delivery, "_NEAR_SECONDS", 0)
    monkeypatch.setattr(_delivery, "_TRIAL_SECONDS", 0.1)  # over when hardly anything is left
    threads: list[str] = []

    def sink(_index: int, _data: memoryview) -> None:
        threads.append(threading.current_thread().name)

    def serve(exchange: Exchange) -> bool:
        time.sleep(0.04)
        return honest(CONTENT)(exchange)

    with Server(serve) as server:
        Transfer().run(
            [
                Download((server.url(f"{n}"),), [Span(0, 0, len(CONTENT))], len(CONTENT), sink)
                for n in range(120)
            ]
        )
    assert len(threads) == 120
    assert len(set(threads[-20:])) > 4


def test_errors_stand_in_their_places() -> None:
    with Server(numbered()) as good, Server(answer("404 Not Found")) as lacking:
        found = Transfer().fetch_many(
            [
                (good.url("a"), 10_000),
                (lacking.url(), 10_000),
                (good.url("b"), 10),
                ("ftp://nowhere/", 10),
                ([lacking.url(), good.url("c")], 10_000),
            ]
        )
    assert found[0] == CONTENT + b"/a"
    assert isinstance(found[1], NetworkError)
    assert found[1].status == 404
    assert isinstance(found[2], NetworkError)
    assert "more than 10 bytes" in str(found[2])
    assert isinstance(found[3], InvalidInputError)
    assert found[4] == CONTENT + b"/c"


def test_each_has_attempts_of_its_own_and_pauses_hold_up_nobody() -> None:
    failing = in_turn(*[reset] * 3, answer("503 Busy", Retry_After="1"), numbered())
    with Server(numbered()) as good, Server(failing) as bad:
        order: list[str] = []

        def noting(exchange: Exchange) -> bool:
            order.append(exchange.request.target)
            return numbered()(exchange)

        good.behaviour = noting
        policy = Policy(attempts=10, pause_seconds=0.2)
        found = Transfer(policy).fetch_many(
            [(bad.url("first"), 10_000), *[(good.url(f"{n}"), 10_000) for n in range(20)]]
        )
        assert found[0] == CONTENT + b"/first"
        assert len(order) == 20
    with Server(reset) as server:
        found = Transfer(IMPATIENT).fetch_many([(server.url(), 10)] * 5)
        assert len(server.requests) == 5 * 4
    assert all("gave up after 4 attempts" in str(one) for one in found)


@pytest.mark.parametrize(
    "behaviour",
    [lambda _: bool(time.sleep(30)), answer("503 Busy", Retry_After="60")],
    ids=["silent", "pausing"],
)
def test_cancelling_ends_it_soon(behaviour: Behaviour) -> None:
    cancelled = threading.Event()
    with Server(behaviour) as server:
        threading.Timer(0.5, cancelled.set).start()
        begun = time.monotonic()
        with pytest.raises(CancelledError):
            Transfer().fetch_many([(server.url(), 10)] * 20, cancelled=cancelled)
    assert time.monotonic() - begun < 10, "the control: it would take 30 s at least"


def test_a_limit_of_nothing_can_be_cancelled() -> None:
    cancelled = threading.Event()
    by = Transfer()
    by.limit.bytes_per_second = 0
    with Server(numbered()) as server:
        threading.Timer(0.3, cancelled.set).start()
        with pytest.raises(CancelledError):
            by.fetch_many([(server.url(), 10_000)], cancelled=cancelled)


def test_the_deadline_is_for_all_together() -> None:
    with Server(answer("503 Busy", Retry_After="2")) as server:
        found = Transfer(Policy(deadline_seconds=1)).fetch_many([(server.url(), 10)] * 3)
    assert all("no time left of 1 s" in str(one) for one in found)


def test_what_is_no_error_of_ours_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("plugin_manager.transfer._small._read_all", broken)
    with Server(numbered()) as server, pytest.raises(ZeroDivisionError):
        Transfer().fetch_many([(server.url(), 10_000)] * 3)
