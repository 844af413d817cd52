"""Changes that their caller waits for, on record while they last.

So that others see them and can stop them, and that they can be resumed where they break off.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

from attrs import define, evolve

from plugin_manager.errors import CancelledError, PluginManagerError
from plugin_manager.manager._control import Control
from plugin_manager.manager._job import may_pass
from plugin_manager.manager._listeners import Follower, NoFollower
from plugin_manager.manager._plan import Plan
from plugin_manager.manager._progress import Progress
from plugin_manager.manager._worker import LOOK_SECONDS
from plugin_manager.model import Digest
from plugin_manager.store import JobRecords, JobState, Standing, Want, Wish

__all__ = ["on_record"]


@define
class _Recorded:
    """Puts on record what a change does."""

    records: JobRecords
    wish: Wish
    standing: Standing

    def planned(self, plan: Plan) -> None:
        digests = tuple(step.head.digest for step in plan.steps if step.head)
        self.standing = evolve(self.standing, digests=digests)
        self.records.keep_standing(self.wish.id, self.standing)

    def progressed(self, progress: Progress) -> None:
        self.records.keep_progress(self.wish.id, progress.render())


@contextmanager
def on_record(
    records: JobRecords,
    wish: Wish,
    control: Control,
    discard: Callable[[Wish, Sequence[Digest]], None],
    now: Callable[[], datetime],
) -> Iterator[Follower]:
    """Follower that the block does `wish`, which is recorded itself; gives what is told of it.

    Whoever wants it paused or cancelled has `control` stopped.
    """
    claim = records.claim(wish.id)
    if claim is None:  # somebody works at it: the block will wait for what they fetch
        yield NoFollower()
        return
    with claim:
        known = records.standing(wish.id)
        known = known if known and known.attempt == wish.attempt else None
        digests = known.digests if known else ()
        records.forget_progress(wish.id)
        standing = Standing(wish.attempt, JobState.RUNNING, now(), digests=digests)
        records.keep_standing(wish.id, standing)
        recorded = _Recorded(records, wish, standing)
        try:
            with _following(records, wish, control):
                yield recorded
        except BaseException as error:
            with suppress(PluginManagerError):  # the caller has a failure to tell of already
                ended = _broken_off(records, recorded.standing, wish, error, discard)
                if ended:
                    records.keep_standing(wish.id, evolve(ended, updated=now()))
                else:
                    records.remove(wish.id)
            raise
        with records.changing():
            wanted = records.wish(wish.id)
            if wanted is None or wanted.foreground:
                records.remove(wish.id)  # the store's history tells of it
            else:  # somebody else wanted it too, and waits for it
                ended = evolve(recorded.standing, state=JobState.COMPLETED, updated=now())
                records.keep_standing(wish.id, ended)


@contextmanager
def _following(records: JobRecords, wish: Wish, control: Control) -> Iterator[None]:
    """Stop `control` as soon as somebody wants the job paused or cancelled."""
    over = threading.Event()

    def follow() -> None:
        mark: object = None
        while True:
            if mark != records.wish_mark(wish.id) and (wanted := records.wish(wish.id)):
                mark = records.wish_mark(wish.id)
                control.limit(wanted.bytes_per_second)
                if wanted.want is not Want.RUN:
                    control.stop()
            if over.wait(LOOK_SECONDS):
                return

    watching = threading.Thread(target=follow, name=f"job-{wish.id}", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _broken_off(
    records: JobRecords,
    standing: Standing,
    wish: Wish,
    error: BaseException,
    discard: Callable[[Wish, Sequence[Digest]], None],
) -> Standing | None:
    """How the job stands whose block has failed with `error`; None where that is of no interest."""
    with records.changing():
        wish = records.wish(wish.id) or wish
        stopped = isinstance(error, KeyboardInterrupt | CancelledError)
        if wish.want is Want.CANCEL:
            if not wish.keep:
                discard(wish, standing.digests)
            return evolve(standing, state=JobState.CANCELLED)
        if not wish.foreground and wish.want is Want.RUN:
            return evolve(standing, state=JobState.QUEUED, why="interrupted")  # whose it was before
        if standing.digests and (stopped or may_pass(error)):
            records.keep_wish(evolve(wish, want=Want.PAUSE))
            error.add_note(f"'pluginctl resume {wish.id[:8]}' goes on with it")
            return evolve(standing, state=JobState.PAUSED, why="interrupted")
    if wish.foreground and not standing.digests:
        return None  # nothing was begun: it leaves everything as it was
    if not isinstance(error, PluginManagerError) or stopped:
        return evolve(standing, state=JobState.CANCELLED)
    family, remedy = error.family, error.remedy
    return evolve(standing, state=JobState.FAILED, why=error.message, family=family, remedy=remedy)
