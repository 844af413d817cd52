"""How far a change is: counted as bytes arrive, told now and then."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from attrs import define

from plugin_manager._attrs import frozen
from plugin_manager.document import Document
from plugin_manager.model import Platform, PluginName, Release, parse_version

__all__ = ["Meter", "Progress"]

_TOLD_EVERY_SECONDS = 0.5
_SMOOTHING_SECONDS = 3.0  # the speed that is told is about that of the last so many


@frozen
class Progress:
    """How far the transfer of `release` is; or (None) all `transfers` of a change together.

    `transferred_bytes` of `total_bytes` came over the network, `reused_bytes` need not. `done`: all
    of it was verified. The speed is smoothed; `seconds_left` is None where it cannot be said.
    """

    release: Release | None
    transferred_bytes: int
    total_bytes: int
    reused_bytes: int
    bytes_per_second: float
    done: bool
    transfers: tuple[Progress, ...] = ()

    @property
    def percent(self) -> int:
        """From 0 to 100, which is said only of what is done."""
        if self.done:
            return 100
        return min(99, 100 * self.transferred_bytes // max(self.total_bytes, 1))

    @property
    def seconds_left(self) -> float | None:
        """At the present speed."""
        if self.done:
            return 0.0
        if self.bytes_per_second < 1:
            return None
        return (self.total_bytes - self.transferred_bytes) / self.bytes_per_second

    @property
    def state(self) -> str:
        """`queued`, `running` or `completed`."""
        if self.done:
            return "completed"
        return "running" if self.transferred_bytes else "queued"

    def render(self) -> dict[str, Any]:
        """As a JSON value, for another process to `parse`."""
        release = self.release
        return {
            "plugin": str(release.plugin) if release else "",
            "version": str(release.version) if release else "",
            "platform": str(release.platform) if release else "",
            "transferred_bytes": self.transferred_bytes,
            "total_bytes": self.total_bytes,
            "reused_bytes": self.reused_bytes,
            "bytes_per_second": int(self.bytes_per_second),
            "done": self.done,
            "transfers": [one.render() for one in self.transfers],
        }

    @classmethod
    def parse(cls, value: object) -> Self | None:
        """What `render` gave; None where it is anything else."""
        document = Document(value)
        try:
            found = cls._read(document)
        except RecursionError:
            return None
        return None if document.faults else found

    @classmethod
    def _read(cls, document: Document) -> Self:
        release = None
        if document.text("plugin", ""):
            plugin = document.parsed("plugin", PluginName.parse)
            version = document.parsed("version", parse_version)
            platform = document.parsed("platform", Platform.parse)
            if plugin and version and platform:
                release = Release(plugin, version, platform)
        return cls(
            release,
            document.integer("transferred_bytes"),
            document.integer("total_bytes"),
            document.integer("reused_bytes"),
            document.integer("bytes_per_second"),
            document.boolean("done"),
            tuple(cls._read(one) for one in document.tables("transfers")),
        )


@define
class _Line:
    release: Release
    total_bytes: int
    reused_bytes: int
    transferred_bytes: int = 0
    verified_bytes: int = 0
    counted_bytes: int = 0  # when the speed was last judged
    bytes_per_second: float = 0.0

    def judge_speed(self, seconds: float) -> None:
        newest = (self.transferred_bytes - self.counted_bytes) / seconds
        weight = 1 - math.exp(-seconds / _SMOOTHING_SECONDS) if self.bytes_per_second else 1.0
        self.bytes_per_second += weight * (newest - self.bytes_per_second)
        self.counted_bytes = self.transferred_bytes

    def progress(self) -> Progress:
        done = self.verified_bytes >= self.total_bytes
        return Progress(
            self.release, self.transferred_bytes, self.total_bytes, self.reused_bytes,
            0.0 if done else self.bytes_per_second, done,
        )  # fmt: skip


class Meter:
    """Counts what arrives for several releases, and tells it all together.

    `tell` is called every half second at most, and whenever a transfer begins or is done; one call
    at a time. What is told never goes backwards. Any thread may count.
    """

    def __init__(
        self, tell: Callable[[Progress], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._clock = tell, clock
        self._lock = threading.RLock()
        self._lines: dict[Release, _Line] = {}
        self._told_at = self._judged_at = clock()
        self._began = False

    def expect(self, release: Release, total_bytes: int, reused_bytes: int) -> None:
        """So much of `release` will be fetched, and so much need not."""
        self._lines[release] = _Line(release, total_bytes, reused_bytes)

    @property
    def total_bytes(self) -> int:
        """All that is expected."""
        return sum(line.total_bytes for line in self._lines.values())

    def arrived(self, release: Release, count: int) -> None:
        """Bytes that count once, whatever comes of them."""
        with self._lock:
            self._lines[release].transferred_bytes += count
            self._tell_if(changed=not self._began)
            self._began = True

    def verified(self, release: Release, count: int) -> None:
        """Bytes that arrived have been verified."""
        with self._lock:
            line = self._lines[release]
            line.verified_bytes += count
            self._tell_if(changed=line.verified_bytes >= line.total_bytes)

    def _tell_if(self, *, changed: bool) -> None:
        now = self._clock()
        if not changed and now - self._told_at < _TOLD_EVERY_SECONDS:
            return
        self._told_at = now
        if (elapsed := now - self._judged_at) >= _TOLD_EVERY_SECONDS:
            self._judged_at = now
            for line in self._lines.values():
                line.judge_speed(elapsed)
        lines = [line.progress() for line in self._lines.values()]
        self._tell(
            Progress(
                release=None,
                transferred_bytes=sum(line.transferred_bytes for line in lines),
                total_bytes=sum(line.total_bytes for line in lines),
                reused_bytes=sum(line.reused_bytes for line in lines),
                bytes_per_second=sum(line.bytes_per_second for line in lines),
                done=all(line.done for line in lines),
                transfers=tuple(lines),
            )
        )
