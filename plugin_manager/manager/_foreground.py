"""Changes that their caller waits for, on record while they last.

So that others see them and can stop them, and that they can be resumed where they break off.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

from attrs import evolve

from plugin_manager.errors import CancelledError, PluginManagerError
from plugin_manager.manager._control import Control
from plugin_manager.manager._job import may_pass
from plugin_manager.manager._plan import Plan
from plugin_manager.manager._worker import LOOK_SECONDS
from plugin_manager.model import Digest
from plugin_manager.store import JobRecords, JobState, Standing, Want, Wish

__all__ = ["on_record"]


@contextmanager
def on_record(
    records: JobRecords,
    wish: Wish,
    control: Control,
    discard: Callable[[Wish, Sequence[Digest]], None],
    now: Callable[[], datetime],
) -> Iterator[Callable[[Plan], None]]:
    """Record that the block does `wish`, which is recorded itself; gives what is told of its plan.

    Whoever wants it paused or cancelled has `control` stopped. Where it ends well, or in a way that
    no resuming would change, no record stays.
    """
    claim = records.claim(wish.id)
    if claim is None:  # somebody works at it: the block will wait for what they fetch
        yield lambda _plan: None
        return
    standing = Standing(wish.attempt, JobState.RUNNING, now())

    def planned(plan: Plan) -> None:
        nonlocal standing
        digests = tuple(step.head.digest for step in plan.steps if step.head)
        standing = evolve(standing, digests=digests)
        records.keep_standing(wish.id, standing)

    with claim:
        try:
            with _following(records, wish, control):
                yield planned
        except BaseException as error:
            with suppress(PluginManagerError):  # the caller has a failure to tell of already
                _break_off(records, standing, wish.id, error, discard)
            raise
        if wish.foreground:
            records.remove(wish.id)
        else:
            ended = evolve(standing, state=JobState.COMPLETED, updated=now())
            records.keep_standing(wish.id, ended)


@contextmanager
def _following(records: JobRecords, wish: Wish, control: Control) -> Iterator[None]:
    """Stop `control` as soon as somebody wants the job paused or cancelled."""
    over = threading.Event()

    def follow() -> None:
        mark = records.wish_mark(wish.id)
        while not over.wait(LOOK_SECONDS):
            if mark != records.wish_mark(wish.id) and (wanted := records.wish(wish.id)):
                mark = records.wish_mark(wish.id)
                control.limit(wanted.bytes_per_second)
                if wanted.want is not Want.RUN:
                    control.stop()

    watching = threading.Thread(target=follow, name=f"job-{wish.id}", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _break_off(
    records: JobRecords,
    standing: Standing,
    job: str,
    error: BaseException,
    discard: Callable[[Wish, Sequence[Digest]], None],
) -> None:
    """The block has failed with `error`: keep on record what can be resumed."""
    wish = records.wish(job)
    stopped = isinstance(error, KeyboardInterrupt | CancelledError)
    if wish is None or not standing.digests or not (stopped or may_pass(error)):
        records.remove(job)
    elif wish.want is Want.CANCEL:
        if not wish.keep:
            discard(wish, standing.digests)
        records.keep_standing(job, evolve(standing, state=JobState.CANCELLED))
    else:
        records.keep_standing(job, evolve(standing, state=JobState.PAUSED, why="interrupted"))
        records.keep_wish(evolve(wish, want=Want.PAUSE))
        error.add_note(f"'pluginctl resume {job[:8]}' goes on with it")
