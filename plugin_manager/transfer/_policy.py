"""How patient a transfer is, and the counting of its attempts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from attrs import field

from plugin_manager._attrs import frozen
from plugin_manager.errors import InvalidInputError, NetworkError

__all__ = ["Attempts", "Deadline", "Policy", "TryAgainError", "origin"]

_MOST_DOUBLINGS = 64  # of a pause that has been capped long before
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 2.1


def origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address; raises ValueError where the port is not a number."""
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _check_tokens(_: object, __: Any, tokens: Mapping[str, str]) -> None:
    for address, token in tokens.items():
        try:
            parts = urlsplit(address)
            scheme, host, _port = origin(parts)
        except ValueError:
            scheme, host = "", None
        # Nothing of it is shown: it may be that somebody mistook the token for the address.
        remedy = "Give tokens by origin: {'https://plugins.example.org': 'token'}."
        rest = parts.path.rstrip("/") or parts.query or parts.fragment or "@" in parts.netloc
        if scheme not in {"http", "https"} or not host or rest:
            raise InvalidInputError(
                "a token is given for something else than an origin", remedy=remedy
            )
        if not _TOKEN.fullmatch(token):
            raise InvalidInputError(
                f"the token for {host} holds what no bearer token may", remedy=remedy
            )


@frozen
class Policy:
    """What a transfer tolerates, and for how long.

    `ca_bundle` is a PEM file of certificate authorities accepted besides the system's; plain http
    is spoken with this machine only, unless `insecure_http`.

    An answer's header must be whole `read_timeout_seconds` after the request; its body may pause
    for as long, and must bring `least_bytes_per_second` over every window of
    `rate_window_seconds`, so that a byte now and then is not enough. `deadline_seconds` bounds one
    whole call including its pauses; it may be overrun by one read timeout.

    A call gives up after `attempts` failures without progress (a delivered frame) between them,
    or `attempts_in_all`. Before failure n is followed by another attempt it waits
    `pause_seconds` * 2^(n-1), at most `most_pause_seconds`, less up to half of it at random; or as
    long as the server's Retry-After says, at most `most_retry_after_seconds`.

    At most `connections` are open for one call; how many of them help is found out. All deliveries
    of one Transfer together keep at most `connections_per_host` of them busy at one host.

    `tokens` are bearer tokens (RFC 6750) by origin ("https://plugins.example.org"), sent to exactly
    that origin over https, or to this machine, and never after a redirect to another; they take
    precedence over ~/.netrc. Raises InvalidInputError where one of them cannot be.
    """

    ca_bundle: Path | None = None
    insecure_http: bool = False
    connect_timeout_seconds: float = 10
    read_timeout_seconds: float = 30
    least_bytes_per_second: float = 1024
    rate_window_seconds: float = 30
    deadline_seconds: float | None = None
    attempts: int = 6
    attempts_in_all: int = 100
    pause_seconds: float = 0.5
    most_pause_seconds: float = 30
    most_retry_after_seconds: float = 120
    most_redirects: int = 5
    connections: int = 16
    connections_per_host: int = 16
    tokens: Mapping[str, str] = field(factory=dict, validator=_check_tokens, repr=False, hash=False)


@frozen
class Deadline:
    """The moment `at`, a reading of the clock: `seconds` after the call began."""

    seconds: float
    at: float


class TryAgainError(NetworkError):
    """A failure that another attempt may mend, after `pause_seconds` if the server said so."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        pause_seconds: float = 0,
        remedy: str = "",
        **context: object,
    ) -> None:
        super().__init__(message, status=status, remedy=remedy, **context)
        self.pause_seconds = pause_seconds


class Attempts:
    """The failures of one call, and the pauses between them."""

    def __init__(
        self,
        policy: Policy,
        deadline: Deadline | None,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._deadline = deadline
        self._clock, self._random = clock, random
        self._in_a_row = 0
        self._in_all = 0

    def failed(
        self, error: TryAgainError, *, progressed: bool = False, addresses: int = 1
    ) -> float:
        """How long to wait, if there is nobody else; raises NetworkError after too many failures.

        `addresses`: how many there are to ask, all of which are asked before it is given up.
        """
        policy = self._policy
        # Progress only forgives failures up to a point: a server that hands out one frame a
        # connection must not keep us for ever.
        self._in_a_row = 1 if progressed else self._in_a_row + 1
        self._in_all += 1
        most = max(policy.attempts, addresses)
        if self._in_a_row >= most or self._in_all >= policy.attempts_in_all:
            where = f" at {addresses} addresses" if addresses > 1 else ""
            raise _given_up(error, f"gave up after {self._in_all} attempts{where}") from error
        doubled = 2.0 ** min(self._in_a_row - 1, _MOST_DOUBLINGS)
        longest = min(policy.pause_seconds * doubled, policy.most_pause_seconds)
        # Half of it at random: clients that failed together must not come back together.
        return longest * (1 - self._random() / 2)

    def put_off_seconds(self, error: TryAgainError) -> float:
        """For how long whoever answered with `error` wants to be left alone, within reason."""
        return min(error.pause_seconds, self._policy.most_retry_after_seconds)

    def granted(self, error: TryAgainError, seconds: float) -> float:
        """`seconds`; raises NetworkError where there is not so much time left to wait."""
        deadline = self._deadline
        if deadline is not None and self._clock() + seconds >= deadline.at:
            raise _given_up(error, f"no time left of {deadline.seconds:g} s") from error
        return seconds


def _given_up(error: TryAgainError, why: str) -> NetworkError:
    context = {name: value for name, value in error.context.items() if name != "status"}
    remedy = error.remedy or "Check the connection and try again: what has arrived is kept."
    return NetworkError(f"{error.message} ({why})", status=error.status, remedy=remedy, **context)
