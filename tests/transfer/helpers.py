"""Fake time, and sinks that check what they get."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from attrs import define, field

from plugin_manager.errors import CorruptError
from plugin_manager.transfer import Download, Policy, Span, Transfer

__all__ = ["Collector", "FakeTime", "content_of", "frames_of", "transfer"]


@define
class FakeTime:
    """A clock that moves by `tick_seconds` at each look, and by all that is slept."""

    tick_seconds: float = 0
    now: float = 1000
    pauses: list[float] = field(factory=list)

    def clock(self) -> float:
        self.now += self.tick_seconds
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def transfer(policy: Policy | None = None, time: FakeTime | None = None) -> Transfer:
    """A transfer that never really waits; its pauses are the longest that jitter allows."""
    time = time or FakeTime()
    return Transfer(policy, clock=time.clock, sleep=time.sleep, random=lambda: 0.0)


def content_of(length: int) -> bytes:
    """`length` bytes that do not repeat."""
    return hashlib.shake_128(b"content").digest(length)


def frames_of(length: int, frame: int) -> list[Span]:
    """Spans of `frame` bytes that cover a whole file."""
    return [
        Span(number, start, min(start + frame, length))
        for number, start in enumerate(range(0, length, frame))
    ]


@define
class Collector:
    """A sink that takes only what `content` has at the place, as a chunk's digest would."""

    content: bytes
    spans: Iterable[Span]
    taken: list[int] = field(factory=list)
    refused: list[int] = field(factory=list)
    progressed_bytes: int = 0

    def sink(self, index: int, data: memoryview) -> None:
        span = next(span for span in self.spans if span.index == index)
        if data != self.content[span.start : span.stop]:
            self.refused.append(index)
            raise CorruptError(f"frame {index} is not what was signed")
        self.taken.append(index)

    def progress(self, count: int) -> None:
        assert count > 0
        self.progressed_bytes += count

    def run(self, by: Transfer, url: str) -> None:
        spans = list(self.spans)
        by.run([Download((url,), spans, len(self.content), self.sink, self.progress)])

    def check_once(self) -> None:
        """Everything was delivered once, in whatever order, and counted once."""
        self.taken.sort()
        self.check_whole()

    def check_whole(self) -> None:
        """Everything was delivered once, in order, and counted once."""
        assert self.taken == [span.index for span in self.spans]
        assert self.progressed_bytes == sum(span.stop - span.start for span in self.spans)
