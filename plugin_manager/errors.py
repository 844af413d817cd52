"""Every error this package raises on purpose, in families by what the caller can do about it.

An error carries facts as attributes (`context`) and a `remedy`; only the command line and the
dashboard turn them into words and exit codes.
"""

from __future__ import annotations

from collections.abc import Mapping


class PluginManagerError(Exception):
    """The base of every error raised on purpose.

    `message` is one sentence saying what is wrong and where, without a full stop at its end;
    `context` holds the facts (names, paths, numbers) for programs; `remedy` is a sentence that
    says what the reader can do, or "" where nothing is known to help.
    """

    family = "error"

    def __init__(self, message: str, *, remedy: str = "", **context: object) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.context: Mapping[str, object] = context

    def __str__(self) -> str:
        """One or two sentences: what is wrong, then what to do."""
        return f"{self.message}. {self.remedy}".strip() if self.remedy else self.message


# --- fix the input -----------------------------------------------------------------------------


class InvalidInputError(PluginManagerError):
    """Something that a person or a program handed in is malformed.

    `faults` lists every fault found, each as "place: what is wrong"; the message names the file
    or value and the first of them.
    """

    family = "invalid-input"

    def __init__(
        self, message: str, *, faults: tuple[str, ...] = (), remedy: str = "", **context: object
    ) -> None:
        super().__init__(message, remedy=remedy, faults=faults, **context)
        self.faults = faults

    @classmethod
    def of(cls, where: str, faults: list[str], *, remedy: str = "") -> InvalidInputError:
        """The error for a document `where` with `faults` (at least one)."""
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return cls(f"{where}: {faults[0]}{more}", faults=tuple(faults), remedy=remedy, where=where)


class NotFoundError(PluginManagerError):
    """A plugin, release, generation or file that was asked for does not exist."""

    family = "not-found"


class EvictedError(NotFoundError):
    """A release that is recorded, but whose files are not on this disk; they can be fetched."""

    family = "evicted"


class ConflictError(PluginManagerError):
    """No set of releases satisfies everything that was asked; `reasons` are full sentences."""

    family = "conflict"

    def __init__(
        self, message: str, *, reasons: tuple[str, ...] = (), remedy: str = "", **context: object
    ) -> None:
        super().__init__(message, remedy=remedy, reasons=reasons, **context)
        self.reasons = reasons


class IncompatibleHostError(PluginManagerError):
    """A release needs another host version, Python, platform or more memory than is here."""

    family = "incompatible"


class ModuleConflictError(PluginManagerError):
    """A plugin brings a module or a distribution that this process already has from elsewhere."""

    family = "incompatible"


class RefusedError(PluginManagerError):
    """The action is well-formed and possible, but a rule forbids it (held, depended on, ...)."""

    family = "refused"


class BlockedError(RefusedError):
    """The publisher blocked this release; `reason` is the publisher's own text."""

    family = "blocked"

    def __init__(self, message: str, *, reason: str, remedy: str = "", **context: object) -> None:
        super().__init__(message, remedy=remedy, reason=reason, **context)
        self.reason = reason


# --- try again ---------------------------------------------------------------------------------


class NetworkError(PluginManagerError):
    """A server could not be reached, or broke off, or answered nonsense; trying later may help.

    `status` is the HTTP status where the server gave one, else None.
    """

    family = "network"

    def __init__(
        self, message: str, *, status: int | None = None, remedy: str = "", **context: object
    ) -> None:
        super().__init__(message, remedy=remedy, status=status, **context)
        self.status = status


class CancelledError(PluginManagerError):
    """Somebody asked for it to stop; what had arrived is kept for another time."""

    family = "cancelled"


class LockedError(PluginManagerError):
    """Another process holds the lock for longer than the caller wished to wait."""

    family = "locked"


# --- distrust ----------------------------------------------------------------------------------


class UntrustedError(PluginManagerError):
    """Bytes that the pinned root does not vouch for: bad signature, digest, version or path."""

    family = "untrusted"


class ExpiredError(UntrustedError):
    """Signed metadata is past its expiry, further than the caller's policy allows."""

    family = "expired"


# --- heal --------------------------------------------------------------------------------------


class CorruptError(PluginManagerError):
    """Files in the store do not match what was signed or recorded; `paths` names them.

    The remedy is a repair, which fetches only what is damaged.
    """

    family = "corrupt"

    def __init__(
        self, message: str, *, paths: tuple[str, ...] = (), remedy: str = "", **context: object
    ) -> None:
        super().__init__(message, remedy=remedy, paths=paths, **context)
        self.paths = paths


class StoreAccessError(PluginManagerError):
    """A directory of this program cannot be read or written (permissions, a failing disk)."""

    family = "store"


# --- free space --------------------------------------------------------------------------------


class NoSpaceError(PluginManagerError):
    """The disk has too little room; `needed_bytes` and `free_bytes` say how much."""

    family = "no-space"

    def __init__(
        self,
        message: str,
        *,
        needed_bytes: int,
        free_bytes: int,
        remedy: str = "",
        **context: object,
    ) -> None:
        super().__init__(
            message, remedy=remedy, needed_bytes=needed_bytes, free_bytes=free_bytes, **context
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


def revived(family: str, message: str, *, remedy: str) -> PluginManagerError:
    """An error that was recorded by its family, which may be anything, and its words."""
    plain = {
        one.family: one
        for one in (
            InvalidInputError,
            NotFoundError,
            EvictedError,
            ConflictError,
            IncompatibleHostError,
            RefusedError,
            NetworkError,
            CancelledError,
            LockedError,
            UntrustedError,
            ExpiredError,
            CorruptError,
            StoreAccessError,
        )
    }
    if family == BlockedError.family:
        return BlockedError(message, reason=message, remedy=remedy)
    if family == NoSpaceError.family:
        return NoSpaceError(message, needed_bytes=0, free_bytes=0, remedy=remedy)
    return plain.get(family, PluginManagerError)(message, remedy=remedy)
