"""Which server to ask, and over how many connections.

What is learned of servers holds for all that one Transfer does, but not for ever: one that failed,
lied or was slow is asked again later.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from attrs import define, field

from plugin_manager.errors import NetworkError
from plugin_manager.transfer._policy import Attempts, TryAgainError

__all__ = ["Addresses", "Hosts"]

_ABSENT = frozenset({403, 404, 410})
_FAILURE, _LIE = 1, 10
_DEMERITS_HALVE_SECONDS = 60
_MOST_HALVINGS = 64  # nothing is left by then; the powers of very large numbers are errors
_RATES_HOLD_SECONDS = 300
_RELIEF_SECONDS = 30  # after which a host that was asked too much is asked twice as much again
# Others' claims to a host are renewed at each look; a delivery that looks no more has none.
_CLAIM_SECONDS = 1.0
# How long a connection may be kept while another delivery has none.
_TURN_SECONDS = 2.0


@define(eq=False)
class _Claim:
    since: float
    renewed: float


@define(eq=False)
class _Host:
    demerits: float = 0.0
    demerits_at: float = 0.0
    bytes_per_second: float = 0.0
    news_at: float | None = None  # when it was last tried, or brought something
    busy: Counter[object] = field(factory=Counter)  # connections, by whose they are
    claims: dict[object, _Claim] = field(factory=dict)  # of those who wait for a connection
    bearable: int = 0  # connections, at the moment when they were too many; 0: never
    crowded_at: float = 0.0

    def most(self, connections: int, now: float) -> int:
        """How many of so many `connections` it is believed to bear now."""
        if not self.bearable:
            return connections
        doublings = min((now - self.crowded_at) / _RELIEF_SECONDS, _MOST_HALVINGS)
        return min(connections, int(self.bearable * math.pow(2, doublings)))

    def guilt(self, now: float) -> int:
        """Its demerits, of which time forgives: whole ones, so that equals stay equal."""
        if not self.demerits:
            return 0
        halvings = (now - self.demerits_at) / _DEMERITS_HALVE_SECONDS
        return round(self.demerits * math.pow(0.5, min(halvings, _MOST_HALVINGS)))

    def is_unknown(self, now: float) -> bool:
        return self.news_at is None or now - self.news_at > _RATES_HOLD_SECONDS

    def others(self, owner: object, now: float) -> list[tuple[int, float]]:
        """Of all others who wait: how many connections they have, and since when they wait."""
        return [
            (self.busy[other], claim.since)
            for other, claim in self.claims.items()
            if other is not owner and now - claim.renewed <= _CLAIM_SECONDS
        ]


class Hosts:
    """What a Transfer knows of the servers that it asks; for several threads.

    At most `most_connections` to one host are busy at once. Who has fewer goes first, then who has
    waited longer; an `owner` is whoever shares them: a delivery.
    """

    def __init__(self, most_connections: int, clock: Callable[[], float]) -> None:
        self._most_connections, self.clock = most_connections, clock
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    def best(self, urls: Sequence[str]) -> str:
        """The least guilty, the first of these: for what is so small that no rate tells."""
        with self._lock:
            now = self.clock()
            return min(urls, key=lambda url: self._of(url).guilt(now))

    def take(self, urls: Sequence[str], owner: object) -> str | None:
        """The address to ask next, over one of its host's connections; None while all are busy.

        Of the least guilty, each is tried once before the fastest is preferred. `give_back` it.
        """
        with self._lock:
            now = self.clock()
            least = min(self._of(url).guilt(now) for url in urls)
            found = [(url, host) for url in urls if (host := self._of(url)).guilt(now) == least]
            free = [(url, host) for url, host in found if self._admits(host, owner, now)]
            if not free:
                for _, host in found:
                    host.claims.setdefault(owner, _Claim(now, now)).renewed = now
                return None
            unknown = ((url, host) for url, host in free if host.is_unknown(now))
            fastest = max(free, key=lambda one: one[1].bytes_per_second)
            url, host = next(unknown, fastest)
            if host.is_unknown(now):
                host.bytes_per_second, host.news_at = 0.0, now
            host.busy[owner] += 1
            for _, one in found:
                one.claims.pop(owner, None)
            return url

    def _admits(self, host: _Host, owner: object, now: float) -> bool:
        if host.busy.total() >= host.most(self._most_connections, now):
            return False
        claim = host.claims.get(owner)
        mine = host.busy[owner], claim.since if claim else now
        return all(mine <= theirs for theirs in host.others(owner, now))

    def give_back(self, url: str, owner: object) -> None:
        """The connection that was taken is not busy any more."""
        with self._lock:
            busy = self._of(url).busy
            busy[owner] -= 1
            if busy[owner] <= 0:  # also after `forget`
                del busy[owner]

    def is_awaited(self, url: str, owner: object, since: float) -> bool:
        """Whether a connection that `owner` took at `since` should be left to somebody else."""
        host = self._hosts[_name(url)]
        if not host.claims:
            return False
        with self._lock:
            now = self.clock()
            mine = host.busy[owner]
            return host.busy.total() >= host.most(self._most_connections, now) and any(
                theirs + 1 < mine or (theirs == 0 and now - since >= _TURN_SECONDS)
                for theirs, _ in host.others(owner, now)
            )

    def forget(self, owner: object) -> None:
        """Nobody will act for `owner` any more."""
        with self._lock:
            for host in self._hosts.values():
                host.busy.pop(owner, None)
                host.claims.pop(owner, None)

    def bring(self, url: str, count: int, seconds: float) -> None:
        """`count` bytes that were good came from `url` in so many seconds."""
        if count and seconds > 0:
            with self._lock:
                host, rate = self._of(url), count / seconds
                before = host.bytes_per_second or rate
                host.bytes_per_second, host.news_at = (before + rate) / 2, self.clock()

    def best_bytes_per_second(self, urls: Sequence[str]) -> float:
        """How fast the fastest of these was over one connection; 0 where that is not known."""
        with self._lock:
            return max((self._of(url).bytes_per_second for url in urls), default=0.0)

    def crowd(self, url: str, since: float) -> None:
        """A request that was made at `since` was one too many for the host."""
        with self._lock:
            host, now = self._of(url), self.clock()
            if not host.bearable or since >= host.crowded_at:  # or it tells the same once more
                host.bearable, host.crowded_at = max(1, (host.busy.total() + 1) // 2), now

    def fail(self, url: str) -> None:
        """A request to `url` failed."""
        self._blame(url, _FAILURE)

    def distrust(self, url: str) -> None:
        """`url` sent what was not signed."""
        self._blame(url, _LIE)

    def _blame(self, url: str, demerits: int) -> None:
        with self._lock:
            host, now = self._of(url), self.clock()
            host.demerits, host.demerits_at = host.guilt(now) + demerits, now

    def _of(self, url: str) -> _Host:
        return self._hosts.setdefault(_name(url), _Host())


class Addresses:
    """The addresses that all serve one file, and what their failures mean. For one thread.

    Where there `may_be_none` of it, the first that says so is believed.
    """

    def __init__(
        self, urls: Sequence[str], hosts: Hosts, attempts: Attempts, *, may_be_none: bool = False
    ) -> None:
        self.left = tuple(dict.fromkeys(urls))  # that have not refused
        self.failures = 0
        self._all = len(self.left)
        self._hosts, self._attempts = hosts, attempts
        self._failing: set[str] = set()  # hosts that failed since there was progress
        self._not_before: dict[str, float] = {}  # what hosts said of when to come again
        self._may_be_none = may_be_none

    @property
    def ready(self) -> tuple[str, ...]:
        """Those to ask now: all that did not put us off, or who is the first to be over with it."""
        if not self._not_before or len(self.left) == 1:
            return self.left
        now = self._hosts.clock()
        at = {url: max(self._not_before.get(_name(url), now), now) for url in self.left}
        earliest = min(at.values())
        return tuple(url for url in self.left if at[url] == earliest)

    @property
    def standing(self) -> tuple[str, ...]:
        """Those of the `ready` whose hosts did not just fail; all where all did."""
        ready = self.ready
        return tuple(url for url in ready if _name(url) not in self._failing) or ready

    def elsewhere(self, url: str) -> tuple[str, ...]:
        """Those that stand at other hosts than `url`."""
        failing = self._failing | {_name(url)}
        return tuple(one for one in self.ready if _name(one) not in failing)

    def rule_out(self, url: str) -> bool:
        """Ask `url` for this file no more; False where it is the last."""
        left = tuple(one for one in self.left if one != url)
        self.left = left or self.left
        return bool(left)

    def failed(
        self, url: str, error: NetworkError, *, asked_at: int, progressed: bool = False
    ) -> float:
        """How long to wait before anybody is asked; 0 while there is somebody else to ask.

        `asked_at`: what `failures` was when `url` was asked: what was asked for before the last
        failure only tells the same once more. Raises NetworkError where it shall not go on.
        """
        if not isinstance(error, TryAgainError):
            return self._refused(url, error)
        self._hosts.fail(url)
        now = self._hosts.clock()
        if seconds := self._attempts.put_off_seconds(error):
            self._not_before[_name(url)] = now + seconds
        if asked_at != self.failures:
            return 0.0
        self.failures += 1
        if progressed:
            self._failing.clear()
        self._failing.add(_name(url))
        pause = self._attempts.failed(error, progressed=progressed, addresses=self._all)
        hosts = {_name(one) for one in self.left}
        if not hosts <= self._failing:
            return 0.0
        # One that says "in two minutes" does not hold up the others, which may be back sooner.
        put_off = min((self._not_before.get(host, now) for host in hosts), default=now) - now
        return self._attempts.granted(error, max(pause, put_off))

    def _refused(self, url: str, error: NetworkError) -> float:
        """`url` is of no use for this file; raises where no other is left."""
        if error.status is None:
            self._hosts.fail(url)
        elif self._may_be_none and error.status in _ABSENT:
            raise error
        self.left = tuple(one for one in self.left if one != url)
        if self.left:
            return 0.0
        if self._all == 1:
            raise error
        context = {name: value for name, value in error.context.items() if name != "status"}
        raise NetworkError(
            f"{error.message} (the last of {self._all} addresses that were tried)",
            status=error.status,
            remedy=error.remedy,
            **context,
        ) from error


def _name(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:  # it will be refused when it is asked
        return url
