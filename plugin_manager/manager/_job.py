"""Jobs as values: how each stands, and whether it could go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Self

from attrs import field

from plugin_manager._attrs import frozen
from plugin_manager.errors import (
    InvalidInputError,
    LockedError,
    NetworkError,
    PluginManagerError,
    revived,
)
from plugin_manager.manager._progress import Progress
from plugin_manager.model import Digest, PluginName, PluginRequirement, Release
from plugin_manager.store import JobState, Standing, Wish

__all__ = [
    "Job",
    "ResumeStatus",
    "Resumption",
    "may_pass",
    "requests_text",
]

_FINAL_STATUSES = frozenset({401, 403, 404, 407, 410})


@frozen
class Job:
    """A job as it stands; `requests` are requirements ("acme/maps>=2"), or names to upgrade.

    `why` says what it waits for or why it failed, `retry_at` when it tries again; `progress` is
    that of all that it fetches together, `error` what it failed with.
    """

    id: str
    action: str
    requests: tuple[str, ...]
    state: JobState
    why: str
    priority: int
    group: str
    submitted: datetime
    retry_at: datetime | None = None
    progress: Progress | None = None
    error: PluginManagerError | None = field(default=None, eq=False)

    @classmethod
    def of(
        cls,
        wish: Wish,
        standing: Standing,
        progress: Progress | None,
        error: PluginManagerError | None = None,
    ) -> Self:
        """What is known of a job, put together."""
        if error is None and standing.state is JobState.FAILED:
            error = revived(standing.family, standing.why, remedy=standing.remedy)
        return cls(
            wish.id,
            wish.action,
            wish.requests,
            standing.state,
            standing.why,
            wish.priority,
            wish.group,
            wish.submitted,
            retry_at=standing.retry_at,
            progress=progress,
            error=error,
        )

    def __str__(self) -> str:
        return f"{self.action} {', '.join(self.requests) or 'everything'}"


class Resumption(StrEnum):
    """What going on with a file would do."""

    COMPLETE = "complete"
    RESUMABLE = "resumable"
    NOT_RESUMABLE = "not resumable"
    UNKNOWN = "unknown"


@frozen
class ResumeStatus:
    """Whether the fetching of a release can go on, and `why`; bytes as far as they are known."""

    release: Release | None
    digest: Digest
    resumption: Resumption
    kept_bytes: int
    fetch_bytes: int
    why: str


def requests_text(
    action: str, requests: Sequence[str | PluginRequirement | PluginName]
) -> tuple[str, ...]:
    """Requests as they are recorded, each in one way and in order; raises InvalidInputError."""
    if action not in {"install", "upgrade", "fetch"}:
        raise InvalidInputError(
            f"there are no jobs that {action!r}", remedy="Write 'install', 'upgrade' or 'fetch'."
        )
    if action != "upgrade" and not requests:
        raise InvalidInputError("nothing to install was named", remedy="Name a plugin.")
    parse: Callable[[str], object] = (
        PluginName.parse if action == "upgrade" else PluginRequirement.parse
    )
    return tuple(sorted({str(parse(str(request))) for request in requests}))


def may_pass(error: BaseException) -> bool:
    """Whether it may be gone later, by itself."""
    if isinstance(error, NetworkError):
        return error.status not in _FINAL_STATUSES
    return isinstance(error, LockedError)
