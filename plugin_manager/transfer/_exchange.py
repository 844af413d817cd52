"""One request, one answer: redirects, credentials, proxies, certificates, and errors in our words.

Whatever `requests`, `urllib3`, `http.client` or the system raise becomes a NetworkError here. Its
text names the address without credentials and query, and it is chained to the innermost cause:
the outer ones quote the whole address.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPException, IncompleteRead
from http.cookiejar import DefaultCookiePolicy
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter

from plugin_manager import __version__
from plugin_manager.errors import InvalidInputError, NetworkError
from plugin_manager.transfer._limit import Allowance, RateLimit
from plugin_manager.transfer._pace import Pace, PaceError, paced
from plugin_manager.transfer._policy import Policy, TryAgainError, origin

__all__ = ["Answer", "Client", "shown"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# RFC 9110: the server's own trouble, or "not now"; any other 4xx says that asking again is idle.
_WORTH_ANOTHER_ATTEMPT = frozenset({408, 425, 429})
# How much is read at once: twice as much where it came so fast, half where it came so slowly.
# Larger portions cost less, smaller ones tell more often how far it is.
_FAST_SECONDS, _SLOW_SECONDS = 0.02, 0.2
_LEAST_READ_BYTES, _READ_BYTES, _MOST_READ_BYTES = 16 * 1024, 256 * 1024, 1024 * 1024
_WORTH_DRAINING_BYTES = 64 * 1024
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)  # int() refuses numbers of thousands of digits
_REMEDIES = {
    401: "Put the credentials for this server into ~/.netrc, or name its token (PLUGINCTL_TOKENS).",
    403: "Check the credentials for this server, in ~/.netrc or among the tokens.",
    404: "Check the repository's address.",
    410: "Check the repository's address.",
    407: "Put the proxy's credentials into its address.",
}
_NO_FILE_SERVER = "Check the repository's address: any server of static files will do."
_FAILURES = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    HTTPException,
    OSError,
    ValueError,
    PaceError,
)


def shown(url: str) -> str:
    """`url` as it may be shown: without credentials, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stand in for `auth`, so that requests takes none from ~/.netrc."""
    return request


class _Bearer:
    """An `auth` that sends a bearer token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: we follow redirects ourselves; requests would read their bodies without bound."""


class _Adapter(HTTPAdapter):
    """Connections whose answers are all read through `pace`, trusting `context`'s authorities."""

    def __init__(self, pace: Pace, context: ssl.SSLContext | None) -> None:
        self._pace = pace
        self._context: dict[str, Any] = {} if context is None else {"ssl_context": context}
        super().__init__()

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **keywords: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, **keywords, **self._context)
        self._pace_all(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **keywords: Any) -> Any:
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **keywords, **self._context)
        if not known:
            self._pace_all(manager)
        return manager

    def _pace_all(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = {
            scheme: paced(pool_class, self._pace)
            for scheme, pool_class in manager.pool_classes_by_scheme.items()
        }


class Answer:
    """The answer to a GET: its status and header, and its body to be read piece by piece."""

    def __init__(
        self,
        response: requests.Response,
        client: Client,
        failing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._response = response
        self._client = client
        self._body = client.pace.answer
        self._failing = failing
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    @property
    def content_length(self) -> int | None:
        """The length that the header declares, or None; nonsense counts as nothing."""
        text = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not _LENGTH.fullmatch(text):
            return None
        return int(text)

    def expect(self, most_bytes: int) -> None:
        """Say, before reading, how much of the body will be read at most."""
        self._client.pace.begin_body(most_bytes)

    def read(self, buffer: memoryview) -> int:
        """Fill the beginning of `buffer` with what comes next; 0 at the end of the body."""
        client = self._client
        most = min(len(buffer), client.read_bytes)
        allowance = client.allowance(most)
        begun = client.clock()
        with self._failing():
            # Not by urllib3, whose readinto copies all bytes twice, to new memory first.
            count = self._body.readinto(buffer[: allowance.bytes if allowance else most])
            if count == 0 and self._body.length:
                raise IncompleteRead(b"", self._body.length)
            if self._body.isclosed():  # whole: the connection can serve again
                self._response.raw.release_conn()
        if allowance:
            allowance.spend(count)
        elif (seconds := client.clock() - begun) > _SLOW_SECONDS:
            client.read_bytes = max(client.read_bytes // 2, _LEAST_READ_BYTES)
        elif seconds < _FAST_SECONDS and count == client.read_bytes:
            client.read_bytes = min(client.read_bytes * 2, _MOST_READ_BYTES)
        return count

    def fill(self, buffer: memoryview, arrived: Callable[[int], None] = lambda _: None) -> None:
        """Fill all of `buffer`, calling `arrived(count)` as bytes come."""
        while buffer:
            count = self.read(buffer)
            if count == 0:
                with self._failing():
                    raise IncompleteRead(b"", len(buffer))
            arrived(count)
            buffer = buffer[count:]

    def skip(self, count: int, scratch: memoryview) -> None:
        """Read `count` bytes and forget them; `scratch` is overwritten."""
        while count:
            part = scratch[:count]
            self.fill(part)
            count -= len(part)


class Client:
    """GET requests of one thread, over connections that are kept open between them.

    All content that comes counts against `limits`.
    `latency_seconds`: the shortest time from a request to the header of its answer.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self.clock = clock
        self.read_bytes = _READ_BYTES  # at once
        self.pace = Pace(policy, clock)
        self.limits: Sequence[RateLimit] = ()
        self.latency_seconds: float | None = None
        self._session = _Session()
        self._session.headers.clear()
        self._session.headers["User-Agent"] = f"plugin-manager/{__version__}"
        # Bytes are hashed and counted as they come, so no coding may lie over them.
        self._session.headers["Accept-Encoding"] = "identity"
        # Nothing that a server says may follow us to another request.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.mount("http://", _Adapter(self.pace, None))
        self._knows_https = self._interrupted = False
        self._tokens = {origin(urlsplit(at)): token for at, token in policy.tokens.items()}
        # What the environment says of an origin, by the origin: requests would look through all
        # variables, and for ~/.netrc, at each request.
        self._session.trust_env = False
        self._environments: dict[object, tuple[Any, Any, Any]] = {}

    def interrupt(self) -> None:
        """End the request under way, if there is one; for other threads."""
        self._interrupted = True
        self.pace.interrupt()

    @property
    def is_interrupted(self) -> bool:
        """Whether somebody called `interrupt` since the last `recover`."""
        return self._interrupted

    def recover(self) -> None:
        """Be of use again after an `interrupt`, which no request may have met any more."""
        if self._interrupted:
            self._interrupted = False
            self.close()

    def allowance(self, most_bytes: int) -> Allowance | None:
        """Leave of all limits to read `most_bytes` at most, waited for; None without limits."""
        for limit in self.limits:
            if limit.bytes_per_second is not None:
                break
        else:
            return None
        begun = self.clock()
        allowance = Allowance(self.limits, most_bytes, self.pace.is_over)
        self.pace.excuse(self.clock() - begun)
        return allowance

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    @contextmanager
    def get(
        self, url: str, *, accept: frozenset[int], headers: Mapping[str, str] | None = None
    ) -> Iterator[Answer]:
        """The answer for `url` behind all redirects, its status one of `accept`.

        Raises TryAgainError or, where asking again is idle, another NetworkError;
        InvalidInputError where `url` itself is not permitted.
        """
        with self._open(url, headers or {}) as (response, address):
            answer = Answer(response, self, lambda: self._failing(address))
            if response.status_code not in accept:
                error = _status_error(response, address)
                _drain(answer)
                raise error
            coding = response.headers.get("Content-Encoding", "identity").strip().lower()
            if coding not in {"", "identity"}:
                raise NetworkError(
                    f"{shown(address)}: the server sends the content in the coding {coding!r:.40}, "
                    "which was not asked for",
                    remedy="Switch compression off in the server or proxy.",
                    url=shown(address),
                )
            yield answer

    @contextmanager
    def _open(
        self, url: str, headers: Mapping[str, str]
    ) -> Iterator[tuple[requests.Response, str]]:
        first = self._checked(url)
        address, auth = url, self._bearer(first)
        for _ in range(self._policy.most_redirects + 1):
            with self._failing(address):
                response = self._send(address, headers, auth)
            try:
                location = response.headers.get("Location")
                if response.status_code not in _REDIRECTS or location is None:
                    yield response, address
                    return
            finally:
                response.close()
            address, parts = self._redirected(address, location)
            # Once elsewhere, never again: the way back could be of the other server's making.
            if origin(parts) != origin(first):
                auth = _no_credentials
        raise NetworkError(
            f"{shown(url)}: redirected more than {self._policy.most_redirects} times",
            remedy="Give the repository's final address.",
            url=shown(url),
        )

    def _bearer(self, parts: SplitResult) -> Any:
        """The `auth` for our token for this origin; None where we have none, or it would leak."""
        token = self._tokens.get(origin(parts))
        safe = parts.scheme == "https" or _is_loopback(parts)
        return _Bearer(token) if token is not None and safe else None

    def _send(self, address: str, headers: Mapping[str, str], auth: Any) -> requests.Response:
        parts = urlsplit(address)
        if parts.scheme == "https" and not self._knows_https:
            # Reading the system's authorities takes 30 ms: not for those who never need them.
            self._session.mount("https://", _Adapter(self.pace, self._authorities()))
            self._knows_https = True
        proxies, verify, credentials = self._environment(address, parts)
        begun = self.clock()
        try:
            response = self._session.get(
                address,
                headers=dict(headers),
                auth=auth or credentials,
                proxies=proxies,
                verify=verify,
                stream=True,
                allow_redirects=False,
                timeout=(self._policy.connect_timeout_seconds, self._policy.read_timeout_seconds),
            )
        except BaseException:
            self.pace.abandon()
            raise
        latency = self.clock() - begun
        if self.latency_seconds is None or latency < self.latency_seconds:
            self.latency_seconds = latency
        return response

    def _environment(self, address: str, parts: SplitResult) -> tuple[Any, Any, Any]:
        """Proxies, authorities and credentials for an origin, as requests finds them."""
        at = origin(parts)
        if at not in self._environments:
            # A proxy has another loopback than we do.
            direct = {f"{parts.scheme}://{parts.hostname}": ""} if _is_loopback(parts) else {}
            session = requests.Session()
            found = session.merge_environment_settings(address, direct, None, None, None)
            credentials = requests.utils.get_netrc_auth(address)
            self._environments[at] = found["proxies"], found["verify"], credentials
        return self._environments[at]

    def _authorities(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        bundle = self._policy.ca_bundle
        if bundle is not None:
            try:
                context.load_verify_locations(bundle)
            except OSError as error:  # SSLError is one
                raise InvalidInputError(
                    f"certificate authorities {bundle}: {_plain(error)}",
                    remedy="Give a file with certificates in PEM form.",
                    path=str(bundle),
                ) from error
        return context

    def _checked(self, url: str) -> SplitResult:
        """The parts of an address that we were given; raises InvalidInputError."""
        try:
            parts = urlsplit(url)
            fault = self._fault(parts)
        except ValueError as error:
            raise InvalidInputError(f"{shown(url)}: not an address ({error})") from None
        if fault:
            raise InvalidInputError(
                f"{shown(url)}: {fault}",
                remedy="Use an https address, or allow plain http (PLUGINCTL_INSECURE_HTTP=1).",
            )
        return parts

    def _redirected(self, address: str, location: str) -> tuple[str, SplitResult]:
        """Where `location` leads from `address`; raises NetworkError where we do not go."""
        target = location
        try:
            target = urljoin(address, location)
            parts = urlsplit(target)
            fault = self._fault(parts)
        except ValueError:
            fault = "that is not an address"
        else:
            if parts.scheme == "http" and urlsplit(address).scheme == "https":
                fault = "plain http is not accepted after https"
            elif "@" in parts.netloc:
                fault = "it holds credentials"
        if fault:
            raise NetworkError(
                f"{shown(address)}: the server redirects to {shown(target)!r:.200}: {fault}",
                remedy="Give the repository's final address.",
                url=shown(address),
            )
        return target, parts

    def _fault(self, parts: SplitResult) -> str:
        parts.port  # noqa: B018 - raises ValueError where the port is not a number
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            return "not an http or https address"
        if parts.scheme == "http" and not self._policy.insecure_http and not _is_loopback(parts):
            return "plain http is accepted from this machine only"
        return ""

    @contextmanager
    def _failing(self, address: str) -> Iterator[None]:
        """Turn what libraries and the system raise about `address` into NetworkError."""
        try:
            yield
        except _FAILURES as error:
            causes = list(_causes(error))
            what, again, remedy = self._diagnosis(causes)
            kind = TryAgainError if again else NetworkError
            failure = kind(f"{shown(address)}: {what}", remedy=remedy, url=shown(address))
            innermost = causes[-1]
            # These quote the address with all that `shown` leaves out.
            quotes = isinstance(innermost, requests.RequestException | ValueError)
            if quotes and not isinstance(innermost, ssl.SSLError):
                raise failure from None
            raise failure from innermost

    def _diagnosis(self, causes: list[BaseException]) -> tuple[str, bool, str]:
        """What went wrong, whether another attempt may help, and what the reader can do."""
        policy = self._policy
        proxied = any(isinstance(cause, requests.exceptions.ProxyError) for cause in causes)
        who = "the proxy" if proxied else "the server"
        for cause in reversed(causes):
            match cause:
                case PaceError():
                    return f"{who} {cause}", True, ""
                case ssl.SSLCertVerificationError():
                    return (
                        f"{who}'s certificate is not trusted ({cause.verify_message})",
                        False,
                        "Name its authority's file (PLUGINCTL_CA_BUNDLE), or set the clock right.",
                    )
                case TimeoutError():
                    return f"{who} sent nothing for {policy.read_timeout_seconds:g} s", True, ""
                case IncompleteRead():
                    return "the answer ended early", True, ""
                case urllib3.exceptions.NameResolutionError():
                    return f"{who}'s name cannot be resolved", True, ""
                case urllib3.exceptions.ConnectTimeoutError():
                    seconds = policy.connect_timeout_seconds
                    return f"{who} does not answer within {seconds:g} s", True, ""
                case urllib3.exceptions.ReadTimeoutError():
                    return f"{who} sent nothing for {policy.read_timeout_seconds:g} s", True, ""
                case urllib3.exceptions.LocationValueError() | UnicodeError():
                    return "not an address", False, ""
                case ConnectionRefusedError():
                    return f"{who} refuses connections", True, ""
                case ConnectionError():
                    return f"{who} broke off the connection", True, ""
                case HTTPException() | urllib3.exceptions.InvalidHeader():
                    return f"{who} answers something that is not HTTP", True, ""
        return f"{who}: {_plain(causes[-1])}", True, ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what lies below it, innermost last.

    Not by `__context__`: that may be an error of our caller's, which it was handling.
    """
    cause: object = error
    while isinstance(cause, BaseException):
        yield cause
        below = (getattr(cause, "reason", None), *cause.args, cause.__cause__)
        cause = next((one for one in below if isinstance(one, BaseException)), None)


def _plain(error: BaseException) -> str:
    """`error` in a few words."""
    words = getattr(error, "strerror", None) or getattr(error, "reason", None)
    if words is None and type(error) is OSError:  # http.client's, about tunnels
        words = error.args[0] if error.args else None
    return _printable(words) if isinstance(words, str) else type(error).__name__


def _printable(text: str) -> str:
    return "".join(filter(str.isprintable, text))[:100]


def _status_error(response: requests.Response, address: str) -> NetworkError:
    status = response.status_code
    message = f"{shown(address)}: the server answers {status} {_printable(response.reason or '')}"
    message = message.rstrip()
    if status >= 500 or status in _WORTH_ANOTHER_ATTEMPT:
        pause = _retry_after_seconds(response.headers)
        return TryAgainError(message, status=status, pause_seconds=pause, url=shown(address))
    return NetworkError(
        message, status=status, remedy=_REMEDIES.get(status, _NO_FILE_SERVER), url=shown(address)
    )


def _retry_after_seconds(headers: Mapping[str, str]) -> float:
    """What Retry-After asks for (RFC 9110 10.2.3), or 0."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    # A moment is compared with the server's own clock: ours may be wrong. A zone may be so far off
    # that there is no such moment.
    with suppress(ValueError, TypeError, OverflowError):
        date = parsedate_to_datetime(headers["Date"]) if "Date" in headers else None
        if date is not None:
            return max(0.0, (parsedate_to_datetime(text) - date).total_seconds())
    return 0.0


def _drain(answer: Answer) -> None:
    """Read a short answer that nobody wants, so that its connection can serve the next request."""
    length = answer.content_length
    if length is not None and length <= _WORTH_DRAINING_BYTES:
        answer.expect(length)
        with suppress(NetworkError):
            answer.skip(length, memoryview(bytearray(length)))
