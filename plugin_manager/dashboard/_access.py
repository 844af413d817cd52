"""Who may talk to the dashboard: a secret of this start, from a page of this very address.

Other users of this machine reach its ports, and so do web sites, through the browser of whoever
visits them. Three things keep them out. The name that was asked for must be this machine's own (a
site that points its own name at 127.0.0.1 is refused). A request that names its page must come from
ours. And each request needs either the token, or a session, which has two halves: a cookie that no
script can read, and a key that the page keeps for its own address. Browsers send cookies to every
port of a host, so that a cookie alone proves nothing.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Mapping

from plugin_manager._attrs import frozen

__all__ = ["KEY_HEADER", "Access", "Session", "cookie_name", "refusal"]

KEY_HEADER = "x-session-key"
_SECRET_BYTES = 32
_MOST_SESSIONS = 32
_MOST_SECRET = 200
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.ASCII)


def cookie_name(host: str) -> str:
    """The name of the cookie for a `Host` that was not refused.

    Browsers keep one cookie of a name for all ports: each dashboard needs a name of its own.
    """
    port = host.removeprefix("[::1]").partition(":")[2]
    return f"plugin-manager-session-{port or 80}"


@frozen
class Session:
    """The two halves of what a page proves itself with."""

    cookie: str
    key: str


class Access:
    """The secrets of one start. `token` stays good; a code can be exchanged once.

    A code that comes again, but from the browser that has its session, is in the wrong hands, now
    or when it came first: nobody can tell, so that the session which it opened ends. `ended` is how
    often that happened.
    """

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(_SECRET_BYTES)
        self.ended = 0
        self._lock = threading.Lock()
        self._codes: dict[str, Session | None] = {}  # and what each opened
        self._sessions: dict[str, str] = {}

    def new_code(self) -> str:
        """A secret that `exchange` takes once, and then from the same browser only."""
        with self._lock:
            code = secrets.token_urlsafe(_SECRET_BYTES)
            self._codes[code] = None
            return code

    def exchange(self, secret: str, cookie: str = "") -> Session | None:
        """A session for the token or a code; None for anything else, and for a code used before.

        `cookie` is what the browser has: with that of the session which a code opened, it is given
        that session again. Without it, that session is ended.
        """
        with self._lock:
            code = next((code for code in self._codes if _same(code, secret)), None)
            if code is None and not _same(self.token, secret):
                return None
            if code and (opened := self._codes[code]):
                if opened.cookie in self._sessions and _same(opened.cookie, cookie):
                    return opened
                self.ended += self._sessions.pop(opened.cookie, None) is not None
                return None
            session = Session(
                secrets.token_urlsafe(_SECRET_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
            )
            while len(self._sessions) >= _MOST_SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))  # the oldest
            self._sessions[session.cookie] = session.key
            if code:
                self._codes[code] = session
            return session

    def allows(self, *, bearer: str, cookie: str, key: str) -> bool:
        """Whether a request has the token, or both halves of one session."""
        if _same(self.token, bearer):
            return True
        with self._lock:
            sessions = list(self._sessions.items())
        # Each is looked at, whichever matches: how long it takes tells nothing.
        found = [_same(known, cookie) & _same(its_key, key) for known, its_key in sessions]
        return any(found)


def _same(secret: str, given: str) -> bool:
    """Whether they are equal, found in a time that tells nothing of `secret`."""
    if not given.isascii() or len(given) > _MOST_SECRET:
        return False
    return secrets.compare_digest(secret, given)


def refusal(method: str, headers: Mapping[str, str], *, is_page: bool = False) -> str:
    """Why a request is refused whatever its secrets; "" where it is not.

    `headers` by their names in small letters; `is_page`: it asks for what holds no data and changes
    nothing, to which other pages may link.
    """
    host = headers.get("host", "")
    if not _HOST.fullmatch(host):
        return "this is not a name of this machine"
    if is_page:
        return ""
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return "the request comes from another page"
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return "the request comes from another page"
    if method not in {"GET", "HEAD"} and origin is None and "authorization" not in headers:
        return "a change needs an Origin, or the token as Authorization"
    return ""
