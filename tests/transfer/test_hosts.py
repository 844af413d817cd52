"""Several addresses for one file, what is learned of servers, and their share of connections."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest
from attrs import define, field

from plugin_manager.errors import NetworkError, UntrustedError
from plugin_manager.transfer import Download, Policy, Transfer, _delivery
from plugin_manager.transfer import _hosts as hosts_module
from plugin_manager.transfer._hosts import Hosts
from tests.transfer.helpers import Collector, FakeTime, content_of, frames_of, transfer
from tests.transfer.server import Behaviour, Exchange, Server, answer, honest, in_turn, reset, wrong

LENGTH = 2_000_000
FRAME = 20_000
CONTENT = content_of(LENGTH)
FRAMES = frames_of(LENGTH, FRAME)
FLIPPED = bytes(byte ^ 1 for byte in CONTENT)
IMPATIENT = Policy(attempts=50, pause_seconds=0.001, most_pause_seconds=0.01)

FINAL = [401, 403, 404, 410]
USELESS = {str(status): answer(f"{status} No") for status in FINAL} | {
    coding: wrong(CONTENT, Content_Encoding=coding) for coding in ("gzip", "br", "zstd", "deflate")
}


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_delivery, "_NEAR_SECONDS", 0)
    monkeypatch.setattr(_delivery, "_LEAST_PIECE_BYTES", 2 * FRAME)


def download(collector: Collector, *servers: Server) -> Download:
    urls = tuple(server.url() for server in servers)
    return Download(urls, FRAMES, LENGTH, collector.sink, collector.progress)


def a(url: str) -> str:
    return f"https://{url}.example/file"


# --- addresses that are of no use ----------------------------------------------------------------


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("name", USELESS)
def test_a_mirror_that_refuses_is_left_out_and_the_others_go_on(name: str) -> None:
    collector = Collector(CONTENT, FRAMES)
    time = FakeTime()
    with Server(USELESS[name]) as bad, Server(honest(CONTENT)) as good:
        by = transfer(time=time)
        by.run([download(collector, bad, good)])
        collector.check_once()
        # One for each connection, before the first of their answers came.
        assert 1 <= len(bad.requests) <= 8
        assert by.fetch([bad.url(), good.url()], LENGTH) == CONTENT
        assert bad.sent_bytes < 20 * 1024 * 1024
    assert time.pauses == []


@pytest.mark.parametrize("name", USELESS)
def test_where_all_refuse_the_last_is_named_and_how_many_were_tried(name: str) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(USELESS[name])) for _ in range(3)]
        urls = [server.url() for server in servers]
        with pytest.raises(NetworkError) as of_small:
            transfer().fetch(urls, LENGTH)
        with pytest.raises(NetworkError) as of_large:
            transfer().run([download(Collector(CONTENT, FRAMES), *servers)])
        assert [len(server.requests) for server in servers] == [2, 2, 2]
    for caught in (of_small, of_large):
        assert "(the last of 3 addresses that were tried)" in str(caught.value)
        assert any(url in str(caught.value) for url in urls)
        assert caught.value.status == (int(name) if name.isdigit() else None)
        assert caught.value.remedy


def test_a_refusal_rules_out_that_file_only() -> None:
    def lacks_a(exchange: Exchange) -> bool:
        lacking = exchange.request.target == "/a"
        return (answer("404 Not Found") if lacking else honest(CONTENT))(exchange)

    with Server(lacks_a) as bad, Server(honest(CONTENT)) as good:
        by = transfer()
        by.fetch([bad.url("a"), good.url("a")], LENGTH)
        by.fetch([bad.url("b"), good.url("b")], LENGTH)
        assert [request.target for request in bad.requests] == ["/a", "/b"]


def test_a_refusal_beside_failures_is_not_the_end() -> None:
    turns = in_turn(reset, answer("503 Busy"), honest(CONTENT))
    with Server(answer("404 Not Found")) as bad, Server(turns) as good:
        assert transfer().fetch([bad.url(), good.url()], LENGTH) == CONTENT
        assert len(bad.requests) == 1


def test_all_addresses_are_asked_before_it_gives_up() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(reset)) for _ in range(4)]
        urls = [server.url() for server in servers]
        good = stack.enter_context(Server(honest(CONTENT)))
        by = transfer(Policy(attempts=2))
        assert by.fetch([*urls, good.url()], LENGTH) == CONTENT
        with pytest.raises(NetworkError, match="gave up after 4 attempts at 4 addresses"):
            transfer(Policy(attempts=2)).fetch(urls, LENGTH)


# --- what is learned -----------------------------------------------------------------------------


def test_what_failed_is_asked_last_by_later_calls_and_again_when_time_has_passed() -> None:
    clock = FakeTime()
    with Server(in_turn(reset, honest(CONTENT))) as first, Server(honest(CONTENT)) as second:
        by, urls = transfer(time=clock), [first.url(), second.url()]
        for _ in range(3):
            assert by.fetch(urls, LENGTH) == CONTENT
        assert len(first.requests) == 1
        clock.now += 100
        by.fetch(urls, LENGTH)
        assert len(first.requests) == 2


@pytest.mark.usefixtures("far")
def test_a_liar_is_remembered_longer_but_not_for_ever() -> None:
    clock = FakeTime()
    by = Transfer(clock=clock.clock, sleep=clock.sleep)
    asked = []
    with Server(honest(FLIPPED)) as liar, Server(honest(CONTENT)) as good:
        for _ in range(2):
            by.run([download(Collector(CONTENT, FRAMES), liar, good)])
            asked.append(len(liar.requests))
        clock.now += 100
        by.run([download(Collector(CONTENT, FRAMES), liar, good)])
        asked.append(len(liar.requests))
        liar.behaviour = honest(CONTENT)
        clock.now += 1000
        recovered = Collector(CONTENT, FRAMES)
        by.run([download(recovered, liar, good)])
        asked.append(len(liar.requests))
    assert 1 <= asked[0] == asked[1] == asked[2] < asked[3]
    assert recovered.refused == []


@pytest.mark.usefixtures("far")
def test_where_all_lie_it_is_untrusted() -> None:
    with Server(honest(FLIPPED)) as one, Server(honest(FLIPPED)) as other:
        with pytest.raises(UntrustedError):
            Transfer(IMPATIENT).run([download(Collector(CONTENT, FRAMES), one, other)])
        assert one.requests
        assert other.requests


@pytest.mark.parametrize("rest", [answer("404 Not Found"), honest(FLIPPED)])
def test_an_honest_mirror_is_found_among_others(rest: Behaviour) -> None:
    collector = Collector(CONTENT, FRAMES)
    with Server(honest(FLIPPED)) as liar, Server(rest) as bad, Server(honest(CONTENT)) as good:
        Transfer(IMPATIENT).run([download(collector, liar, bad, good)])
    collector.check_once()


def test_rates_are_forgotten_so_that_a_slow_mirror_is_tried_again() -> None:
    clock = FakeTime()
    hosts = Hosts(16, clock.clock)
    urls, owner = [a("slow"), a("fast")], object()

    def taken(bytes_per_second: dict[str, int]) -> str:
        url = hosts.take(urls, owner)
        assert url is not None
        hosts.give_back(url, owner)
        clock.now += 1
        hosts.bring(url, bytes_per_second[url], 1)
        return url

    rates = {a("slow"): 100, a("fast"): 10_000}
    assert [taken(rates) for _ in range(4)] == [a("slow"), *[a("fast")] * 3]
    clock.now += 200
    assert taken(rates) == a("fast")
    clock.now += 200
    rates[a("slow")] = 100_000
    assert [taken(rates) for _ in range(3)] == [a("slow")] * 3


def test_guilt_is_halved_by_time() -> None:
    clock = FakeTime()
    hosts = Hosts(16, clock.clock)
    urls = [a("liar"), a("failing")]
    hosts.distrust(a("liar"))
    hosts.fail(a("failing"))
    assert hosts.best(urls) == a("failing")
    clock.now += 61
    assert hosts.best(urls) == a("failing")
    clock.now += 300
    assert hosts.best(urls) == a("liar"), "both are forgiven: the first given is the first asked"


@pytest.mark.parametrize("now", [0.0, 1e6, 1e9])
def test_a_machine_may_have_been_up_for_long(now: float) -> None:
    clock = FakeTime(now=now)
    hosts = Hosts(16, clock.clock)
    urls, owner = [a("one"), a("other")], object()
    assert hosts.best(urls) == hosts.take(urls, owner) == a("one")
    hosts.distrust(a("one"))
    assert hosts.best(urls) == a("other")
    clock.now += 1e9
    assert hosts.best(urls) == a("one")
    with Server(in_turn(reset, honest(CONTENT))) as server:
        assert transfer(time=clock).fetch(server.url(), LENGTH) == CONTENT


def test_pauses_may_be_doubled_for_ever() -> None:
    clock = FakeTime()
    policy = Policy(attempts=1200, attempts_in_all=1200, most_pause_seconds=1)
    with Server(reset) as server, pytest.raises(NetworkError, match="after 1200 attempts"):
        transfer(policy, clock).fetch(server.url(), LENGTH)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_of_a_file_that_may_be_none_the_first_who_says_so_is_believed(status: int) -> None:
    clock = FakeTime()
    with Server(answer(f"{status} No")) as main, Server(reset) as down:
        urls = [main.url(), down.url()]
        by = transfer(time=clock)
        [none] = by.fetch_many([(urls, 10)], may_be_none=lambda _: True)
        assert (len(main.requests), len(down.requests)) == (1, 0)
        [error] = by.fetch_many([(urls, 10)])
        assert down.requests, "control: of any other file, the rest are asked"
    assert isinstance(none, NetworkError)
    assert none.status == status
    assert isinstance(error, NetworkError)


def test_who_puts_us_off_does_not_hold_up_the_others() -> None:
    clock, collector = FakeTime(), Collector(CONTENT, FRAMES)
    later = answer("503 Busy", Retry_After="120")
    with Server(later) as mirror:
        with Server(in_turn(reset, reset, honest(CONTENT))) as main:
            by = transfer(time=clock)
            assert by.fetch([main.url(), mirror.url()], LENGTH) == CONTENT
        with Server(in_turn(reset, reset, honest(CONTENT))) as main:
            transfer(time=clock).run([download(collector, main, mirror)])
        assert len(mirror.requests) == 2
        collector.check_once()
        assert sum(clock.pauses) < 10
        # A deadline holds for what is really waited for.
        by = transfer(Policy(deadline_seconds=20), clock)
        with Server(in_turn(reset, honest(CONTENT))) as main:
            assert by.fetch([mirror.url(), main.url()], LENGTH) == CONTENT
        with pytest.raises(NetworkError, match="no time left of 20 s"):
            transfer(Policy(deadline_seconds=20), clock).fetch([mirror.url()], LENGTH)
        clock.pauses.clear()
        with Server(answer("503 Busy", Retry_After="90")) as other:
            with pytest.raises(NetworkError):
                transfer(Policy(attempts=3), clock).fetch([mirror.url(), other.url()], LENGTH)
            assert clock.pauses == [90], "control: where all do, the earliest is waited for"
            assert len(other.requests) == 2


# --- connections ---------------------------------------------------------------------------------


@define
class Counting:
    """Serves CONTENT slowly, and knows how many requests were ever under way at once."""

    step: int = 20_000
    seconds: float = 0.005
    busy: int = 0
    most: int = 0
    lock: threading.Lock = field(factory=threading.Lock)

    def __call__(self, exchange: Exchange) -> bool:
        start, stop = exchange.request.range(LENGTH)
        exchange.head(
            "206 Partial Content",
            Content_Length=stop - start,
            Content_Range=f"bytes {start}-{stop - 1}/{LENGTH}",
        )
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        try:
            for place in range(start, stop, self.step):
                if place + self.step >= stop:
                    with self.lock:  # the client may be done with it before we are
                        self.busy -= 1
                exchange.send(CONTENT[place : min(place + self.step, stop)])
                time.sleep(self.seconds)
        except OSError:
            with self.lock:
                self.busy -= 1
            raise
        return True


def together(by: Transfer, server: Server, deliveries: int) -> list[list[float]]:
    """When the frames of each of several deliveries came, all run at once."""
    came: list[list[float]] = [[] for _ in range(deliveries)]
    begun = time.monotonic()

    def run(mine: list[float]) -> None:
        def sink(index: int, data: memoryview) -> None:
            mine.append(time.monotonic() - begun)

        by.run([Download((server.url(),), FRAMES, LENGTH, sink)])

    threads = [threading.Thread(target=run, args=(mine,)) for mine in came]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return came


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize(("most", "deliveries"), [(3, 1), (3, 2), (2, 4), (1, 3)])
def test_connections_to_one_host_are_bounded_and_all_deliveries_go_on(
    most: int, deliveries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_module, "_TURN_SECONDS", 0.1)
    counting = Counting()
    with Server(counting) as server:
        came = together(Transfer(Policy(connections_per_host=most)), server, deliveries)
    assert [len(mine) for mine in came] == [len(FRAMES)] * deliveries
    # A connection that was left early may be seen as busy until the server notices.
    assert counting.most <= most + deliveries * 2
    # Each has begun before any other is done.
    assert max(mine[0] for mine in came) < min(max(mine) for mine in came)


def test_a_file_that_only_comes_whole_is_not_begun_anew_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts_module, "_TURN_SECONDS", 0.05)

    def whole(exchange: Exchange) -> bool:
        exchange.head("200 OK", Content_Length=LENGTH)
        for place in range(0, LENGTH, 100_000):
            exchange.send(CONTENT[place : place + 100_000])
            time.sleep(0.02)
        return True

    with Server(whole) as server:
        came = together(Transfer(Policy(connections_per_host=1)), server, 2)
        assert len(server.requests) == 2
    assert [len(mine) for mine in came] == [len(FRAMES)] * 2


@pytest.mark.usefixtures("far")
def test_control_without_turns_the_later_wait_for_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts_module._Host, "others", lambda *_: [])
    with Server(Counting()) as server:
        came = together(Transfer(Policy(connections_per_host=1)), server, 3)
    assert max(mine[0] for mine in came) >= min(max(mine) for mine in came)


def test_slots_are_never_more_than_the_bound_and_those_with_fewer_go_first() -> None:
    clock = FakeTime()
    hosts = Hosts(3, clock.clock)
    one, two, url = object(), object(), [a("host")]
    assert [hosts.take(url, one) for _ in range(4)] == [a("host")] * 3 + [None]
    assert not hosts.is_awaited(a("host"), one, clock.now)
    assert hosts.take(url, two) is None
    assert hosts.is_awaited(a("host"), one, clock.now)
    hosts.give_back(a("host"), one)
    assert hosts.take(url, one) is None, "the other has none"
    assert not hosts.is_awaited(a("host"), one, clock.now), "there is one free for it"
    assert hosts.take(url, two) == a("host")


def test_a_claim_that_is_not_renewed_lapses() -> None:
    clock = FakeTime()
    hosts = Hosts(1, clock.clock)
    one, two, url = object(), object(), [a("host")]
    assert hosts.take(url, one)
    assert hosts.take(url, two) is None
    hosts.give_back(a("host"), one)
    clock.now += 0.5
    assert hosts.take(url, one) is None
    clock.now += 1.5
    assert hosts.take(url, one) == a("host")
    hosts.forget(one)
    hosts.give_back(a("host"), one)  # by a thread that was left behind
    assert hosts.take(url, two) == a("host")
    assert hosts.take(url, one) is None


def test_a_host_that_is_full_leaves_the_work_to_another_as_good() -> None:
    hosts = Hosts(1, FakeTime().clock)
    urls, owner = [a("one"), a("two"), a("guilty")], object()
    hosts.fail(a("guilty"))
    assert [hosts.take(urls, owner) for _ in range(3)] == [a("one"), a("two"), None]
