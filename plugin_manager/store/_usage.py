r"""In which order releases were last used: an append-only file, never a clock.

    index/usage   "<digest of the head> <l or i> <seconds since 1970>\n" for each load and install

What stands further down was used later. The time is only for showing. A load appends one line
without any lock, and goes on where it cannot (a read-only store). Nobody relies on this file:
without it, or with damaged lines, releases count as never used.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

from plugin_manager._attrs import frozen
from plugin_manager.durable import (
    is_real_directory,
    read_regular,
    write_atomically,
)
from plugin_manager.errors import CorruptError
from plugin_manager.model import Digest

__all__ = ["NEVER", "Usage", "UsageLog"]

_LINE = re.compile(rb"([0-9a-f]{64}) ([li]) ([0-9]{1,12})")
# Loads alone do not let it grow beyond this; the next command that writes shortens it.
_MOST_BYTES = 32 * 1024 * 1024
_LONG_BYTES = 256 * 1024
_LINE_BYTES = 64 + 1 + 1 + 1 + 10 + 1


@frozen
class Usage:
    """When a release was last used: `order` counts up with each use (0: never).

    `loaded_at`: when it was last loaded, in seconds since 1970 by the clock of then; None: never.
    """

    order: int = 0
    loaded_at: int | None = None


NEVER = Usage()


class UsageLog:
    """The log of the store in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "index" / "usage"

    def append(self, digests: Iterable[Digest], *, loaded: bool, seconds: int) -> None:
        """Record that `digests` are used now; raises OSError where it cannot be written."""
        kind = "l" if loaded else "i"
        lines = "".join(f"{digest} {kind} {max(0, seconds)}\n" for digest in digests)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        if not is_real_directory(self._path.parent):  # a link would lead elsewhere
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self._path))
        descriptor = os.open(self._path, flags, 0o644)
        try:
            if os.fstat(descriptor).st_size + len(lines) <= _MOST_BYTES:
                os.write(descriptor, lines.encode())  # one write: those of two do not mix
        finally:
            os.close(descriptor)

    def read(self) -> dict[Digest, Usage]:
        """The last use of each release."""
        found: dict[Digest, Usage] = {}
        for order, (digest, kind, seconds) in enumerate(self._lines(), 1):
            before = found.get(digest, NEVER)
            found[digest] = Usage(order, int(seconds) if kind == b"l" else before.loaded_at)
        return found

    def _lines(self) -> Iterable[tuple[Digest, bytes, bytes]]:
        if not is_real_directory(self._path.parent):
            return
        try:
            data = read_regular(self._path, _MOST_BYTES)
        except (OSError, CorruptError):
            return
        for line in data.split(b"\n"):
            if match := _LINE.fullmatch(line):
                yield Digest(match[1].decode()), match[2], match[3]

    def shorten(self, keep: Iterable[Digest]) -> None:
        """Where the log is long, leave in it the last uses of `keep` alone. Writes."""
        try:
            length = self._path.lstat().st_size
        except OSError:
            return
        known = set(keep)
        if length <= max(_LONG_BYTES, 4 * _LINE_BYTES * len(known)):
            return
        last = {d: use for d, use in self.read().items() if d in known}
        lines = []
        for digest, use in sorted(last.items(), key=lambda item: item[1].order):
            kind = "i" if use.loaded_at is None else "l"
            lines.append(f"{digest} {kind} {use.loaded_at or 0}\n")
        write_atomically(self._path, "".join(lines).encode())
