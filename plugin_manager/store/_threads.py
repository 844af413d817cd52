"""Threads for hashing: as many as there are processors, and only where there is work for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["Once", "Threads"]

S = TypeVar("S")
T = TypeVar("T")


class Once(Generic[S]):
    """A call that is made once, by the first thread that asks; all get what came of it."""

    def __init__(self, function: Callable[[], S]) -> None:
        self._function = function
        self._lock = Lock()
        self._outcome: tuple[S] | BaseException | None = None

    def __call__(self) -> S:
        with self._lock:
            if self._outcome is None:
                try:
                    self._outcome = (self._function(),)
                except BaseException as error:
                    self._outcome = error
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome[0]


class Threads:
    """As many threads as there are processors, started when there is work for them."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    def submit(self, function: Callable[[T], S], argument: T) -> Callable[[], S]:
        """Begin `function(argument)`; what is returned gives its result."""
        if self._process != os.getpid():
            self._pool, self._process = None, os.getpid()  # a fork has no threads but one
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - often not needed

            self._pool = ThreadPoolExecutor(os.cpu_count() or 1)
        once = Once(partial(function, argument))
        try:
            return self._pool.submit(once).result
        except RuntimeError:
            # No thread can be started: too many are there, or the interpreter is ending. It may be
            # in the pool's queue all the same, for those that were started before.
            return once

    def each(self, function: Callable[[T], S], arguments: Sequence[T]) -> list[S]:
        """What `function` makes of each of `arguments`."""
        if len(arguments) < 2:
            return [function(argument) for argument in arguments]
        results = [self.submit(function, argument) for argument in arguments]
        return [result() for result in results]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; what was submitted and has not begun is dropped."""
        if self._pool is not None and self._process == os.getpid():
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
