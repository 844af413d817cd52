"""How the API refuses and fails: the family, status and exit code of every such answer."""

from __future__ import annotations

import json

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from plugin_manager._values import EXIT_CODES, error_json
from plugin_manager.errors import PluginManagerError

__all__ = ["FAMILIES", "STATUSES", "failure", "http_failure", "problem"]

_USAGE = "usage"  # as the command says of what it does not understand

FAMILIES = {**EXIT_CODES, _USAGE: 2}
"""The exit code of each family, as docs/operating.md has them."""

STATUSES = {
    400: "The request is malformed (family invalid-input).",
    401: "It lacks the token, or both halves of a session (refused).",
    403: "It asks for another host, or comes from another page (refused).",
    404: "There is no such plugin, release, job or address (not-found).",
    405: "This address does not take this method (usage).",
    408: "The request did not end in time (network).",
    409: "It cannot be done as things are; the family says why.",
    413: "The request is too long (invalid-input).",
    415: "The request is no JSON by its type (invalid-input).",
    500: "A defect in the dashboard (error).",
    502: "The repository cannot be reached (network).",
    503: "Too many pages are open (refused).",
    507: "It does not fit, and what may go does not suffice (no-space).",
}
"""What each status means."""

_STATUS_OF = {"invalid-input": 400, "not-found": 404, "network": 502, "no-space": 507}
_OTHER_STATUS = 409
_FAMILY_OF = {404: "not-found", 405: _USAGE, 408: "network"}
_OTHER_FAMILY = "invalid-input"


def problem(status: int, family: str, message: str, remedy: str) -> Response:
    """An answer that refuses."""
    error = {
        "family": family,
        "exit_code": FAMILIES[family],
        "message": message,
        "remedy": remedy,
    }
    return JSONResponse({"error": error}, status)


def failure(error: PluginManagerError) -> Response:
    """The answer where that was raised, with whatever facts it carries."""
    status = _STATUS_OF.get(error.family, _OTHER_STATUS)
    text = json.dumps({"error": error_json(error)}, default=str)
    return Response(text, status, media_type="application/json")


def http_failure(error: HTTPException) -> Response:
    """The answer to a request that no operation was found for, or that could not be read."""
    status = error.status_code
    family = _FAMILY_OF.get(status, _OTHER_FAMILY)
    messages = {404: "there is nothing at this address", 405: "it does not take this method"}
    answer = problem(
        status,
        family,
        messages.get(status, error.detail),
        "/api/openapi.json says what there is, and what each takes.",
    )
    answer.headers.update(error.headers or {})
    return answer
