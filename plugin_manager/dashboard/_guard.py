"""What every request passes first, and every answer carries."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plugin_manager.dashboard._access import KEY_HEADER, Access, cookie_name, refusal
from plugin_manager.dashboard._connections import LET_IN
from plugin_manager.dashboard._failures import problem

__all__ = ["HEADERS", "Guard", "cookie_of"]

# The page is built by its own script from text alone: not even that script may make markup.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Guard:
    """`app` behind its checks: the name asked for, the page that asks, and what it proves."""

    _WITHOUT_SECRET = "/api/session"  # noqa: S105 - where a secret is handed in

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse to."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refused = self._refused(scope)
        await (refused or self._app)(scope, receive, guarded)

    def _refused(self, scope: Scope) -> Response | None:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            if key in headers and key in {"host", "origin", "authorization", "cookie", KEY_HEADER}:
                return problem(400, "invalid-input", f"the header {key} is there twice", "")
            headers[key] = value.decode("latin-1")
        path: str = scope["path"]
        is_api = path.startswith("/api/")
        if why := refusal(scope["method"], headers, is_page=not is_api):
            return problem(403, "refused", why, "Open the link that 'pluginctl dashboard' printed.")
        if not is_api or path == self._WITHOUT_SECRET:
            return None
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        allowed = self._access.allows(
            bearer=bearer if kind.lower() == "bearer" else "",
            cookie=cookie_of(headers["host"], headers.get("cookie", "")),
            key=headers.get(KEY_HEADER, ""),
        )
        if allowed:
            scope.setdefault("state", {})[LET_IN] = True
            return None
        return problem(
            401,
            "refused",
            "this needs the dashboard's secret",
            "Open the link that 'pluginctl dashboard' printed.",
        )


def cookie_of(host: str, header: str) -> str:
    """The session's cookie among those in a `Cookie` header; "" where it is not there."""
    # Browsers send along what every other port of this host has set, well-formed or not.
    cookies = (part.strip().partition("=") for part in header.split(";"))
    wanted = cookie_name(host)
    return next((value for name, _, value in cookies if name == wanted), "")
