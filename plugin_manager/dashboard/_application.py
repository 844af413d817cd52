"""The dashboard as an ASGI application: the page, its events, and the API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from plugin_manager.dashboard._access import Access, cookie_name
from plugin_manager.dashboard._failures import failure, http_failure, problem
from plugin_manager.dashboard._guard import Guard, cookie_of
from plugin_manager.dashboard._live import Live
from plugin_manager.dashboard._openapi import OPERATIONS, Operation, description
from plugin_manager.dashboard._service import Service
from plugin_manager.document import Document
from plugin_manager.errors import InvalidInputError, PluginManagerError

__all__ = ["application"]

_MOST_BODY_BYTES = 64 * 1024
_BODY_SECONDS = 10.0
_WORK_SECONDS = 2.0
_PAGE = {
    "index.html": "text/html",
    "app.js": "text/javascript",
    "dom.js": "text/javascript",
    "live.js": "text/javascript",
    "view.js": "text/javascript",
    "app.css": "text/css",
    "icon.svg": "image/svg+xml",
}

_log = logging.getLogger("plugin_manager")


def application(service: Service, access: Access, live: Live) -> ASGIApp:
    """The whole of it, behind its guard."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(live.run()), asyncio.create_task(_keep_working(service))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def session(request: Request) -> Response:
        document = await _body(request)
        secret = document.text("secret", longest=200)
        document.finish("the request", strict=True)
        host, ended = request.headers["host"], access.ended
        found = access.exchange(secret, cookie_of(host, request.headers.get("cookie", "")))
        if found is None:
            if access.ended != ended:
                await live.let_go()  # the page of that session must not go on watching
            return problem(
                401,
                "refused",
                "this link was used before, and what it opened is locked now; or it is of an "
                "earlier start",
                "Run 'pluginctl dashboard' again. Where you did not use it before, somebody else "
                "did.",
            )
        answer = JSONResponse({"key": found.key})
        answer.set_cookie(
            cookie_name(host), found.cookie, httponly=True, samesite="strict", path="/api/"
        )
        return answer

    async def events(_: Request) -> Response:
        if not live.admit():
            return problem(503, "refused", "too many pages are open", "Close some, then try again.")
        return _Events(live)

    async def openapi(_: Request) -> Response:
        return JSONResponse(description())

    special = {"session": session, "events": events, "openapi": openapi}
    routes = [
        Route(
            one.path,
            special[one.name] if one.name in special else _endpoint(service, one),
            methods=[one.method],
            name=one.name,
        )
        for one in OPERATIONS
    ]
    routes += [_file_route(name, kind) for name, kind in _PAGE.items()]
    handlers: Any = {
        PluginManagerError: _refuse,
        HTTPException: _refuse_http,
        Exception: _fail,
    }
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False  # an address is right, or it is not there
    return Guard(app, access)


class _Events(StreamingResponse):
    """The events for one watcher, who was admitted."""

    def __init__(self, live: Live) -> None:
        super().__init__(live.events(), media_type="text/event-stream")
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.leave()


async def _keep_working(service: Service) -> None:
    """See again and again to it that somebody works at the queue."""
    while True:
        try:
            await to_thread.run_sync(service.work)
        except PluginManagerError as error:
            _log.warning("jobs are not worked at: %s", error)
        await asyncio.sleep(_WORK_SECONDS)


def _endpoint(service: Service, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        document = await _body(request) if operation.method == "POST" else Document({})
        take = operation.reader(document, request.path_params)
        document.finish("the request", strict=True)
        try:
            return _json(await to_thread.run_sync(take, service))
        except PluginManagerError:
            raise
        except Exception as error:  # a defect in one must not end the others
            return await _fail(request, error)

    return endpoint


async def _body(request: Request) -> Document:
    """The JSON object in a request, of bounded length."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":
        raise HTTPException(415, "a request must be application/json")
    data = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > _MOST_BODY_BYTES:
                    raise HTTPException(413, "the request is too long")
    except TimeoutError:
        raise HTTPException(408, "the request did not end") from None
    except ClientDisconnect:
        raise HTTPException(400, "the request broke off") from None
    try:
        return Document(json.loads(data))
    except (ValueError, RecursionError):
        raise InvalidInputError("the request is no JSON", remedy="Send a JSON object.") from None


def _file_route(name: str, kind: str) -> Route:
    """The route of one file of the page: no path of a request ever leads to the disk."""
    data = (files("plugin_manager.dashboard") / "static" / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(data, media_type=kind)

    return Route("/" if name == "index.html" else f"/{name}", answer, methods=["GET"])


async def _refuse(_: Request, error: PluginManagerError) -> Response:
    return failure(error)


async def _refuse_http(_: Request, error: HTTPException) -> Response:
    return http_failure(error)


async def _fail(_: Request, error: Exception) -> Response:
    _log.error("a request failed", exc_info=error)
    return problem(500, "error", "a defect in the dashboard", "Its log says more; report it.")


def _json(value: object) -> Response:
    """`value` with whatever facts an error in it carries."""
    return Response(json.dumps(value, default=str), media_type="application/json")
