"""Carrying out plans: all or nothing, and without the store's lock while bytes arrive.

The lock is held to plan and make room, let go to fetch, and taken again to place what was fetched
and switch to it. Nobody else waits for a download; where the store changed meanwhile, it is planned
anew, and what has arrived stays at hand. What is being fetched is this process's alone by a lock on
its directory.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from typing import TypeVar

from plugin_manager.bundle import Head
from plugin_manager.errors import LockedError, NoSpaceError
from plugin_manager.manager._control import Control
from plugin_manager.manager._listeners import Follower, Listener, NoFollower
from plugin_manager.manager._plan import Plan, Step
from plugin_manager.manager._planner import Planner
from plugin_manager.manager._progress import Meter, Progress
from plugin_manager.manager._remote import Remote
from plugin_manager.manifest import File
from plugin_manager.model import Digest, PluginName, Release
from plugin_manager.store import (
    Active,
    Generation,
    Housekeeping,
    Staging,
    Store,
    Trials,
)
from plugin_manager.trust import Trust

__all__ = ["Changes"]

_MOVES = {"install", "upgrade", "downgrade"}
_DONE = {
    "install": "installed",
    "upgrade": "upgraded",
    "downgrade": "downgraded",
    "uninstall": "uninstalled",
}
_LOOK_AGAIN_SECONDS = 0.2
_TELLING_BYTES = 4_000_000  # less comes and goes too fast to tell how fast the network is

T = TypeVar("T")

_log = logging.getLogger("plugin_manager")


class Changes:
    """Carries out plans for one store, one at a time; `control` stops it.

    `writing` gives the store's lock, `tidy` collects garbage, `note(kind, plugin, text)` has what
    happened on record. Who fetches the same is waited for `timeout_seconds` (negative: for ever).
    `trial_attempts` 0: upgrades are not on trial.
    """

    def __init__(
        self,
        store: Store,
        housekeeping: Housekeeping,
        trust: Trust,
        planner: Planner,
        remote: Remote,
        *,
        tag: str,
        control: Control,
        writing: Callable[[], AbstractContextManager[None]],
        tidy: Callable[[], None],
        listener: Listener,
        timeout_seconds: float,
        trial_attempts: int,
        now: Callable[[], datetime],
        note: Callable[[str, PluginName, str], None],
    ) -> None:
        self._note = note
        self._store = store
        self._trials = Trials(store.directory)
        self._trial_attempts = trial_attempts
        self._housekeeping = housekeeping
        self._trust = trust
        self._planner = planner
        self._remote = remote
        self._tag = tag
        self._control = control
        self._writing = writing
        self._tidy = tidy
        self._listener = listener
        self._timeout_seconds = timeout_seconds
        self._now = now
        self._speed: float | None = None

    def carry_out(
        self,
        planning: Callable[[], Plan],
        follower: Follower | None = None,
        *,
        fitted: bool = True,
        ahead: bool = False,
    ) -> tuple[Plan, Generation]:
        """Do what `planning()` says; returns the plan, and the generation that is then current.

        It is asked with the lock held, and again where the store has changed since. What it says
        is `fitted` to the room that there is now, or has to be. `follower` is told of what will
        be fetched before anything is. `ahead`: only fetch it, for the same change another time,
        changing nothing and evicting nothing for it. Interrupted at any point it leaves everything
        as it was, and what had arrived for the next attempt.
        """
        plan: Plan | None = None
        follower = follower or NoFollower()
        with ExitStack() as open_stagings:
            staged: dict[Digest, Staging] = {}
            while True:
                with self._writing():
                    self._control.check()
                    if plan is None or plan.base != self._store.current().number:
                        plan = planning()
                    self._check(plan)
                    lacking = [step for step in plan.steps if self._lacks(step, staged)]
                    if not lacking:
                        if ahead:
                            for staging in staged.values():
                                os.utime(staging.directory)  # by which its age is told
                            return plan, self._store.current()
                        return plan, self._commit(plan, staged)
                    plan = self._make_room(plan, fitted=fitted, ahead=ahead)
                    fitted = False
                    self._store.keep_heads(step.head_bytes for step in lacking)
                    follower.planned(plan)
                    opened = self._open(lacking, open_stagings)
                if opened:
                    staged |= opened
                    wanted = [(opened[_digest(step)], step.bundle_path) for step in lacking]
                    self._assemble(wanted, follower)
                else:
                    # Whoever has one of them may wait for one of ours.
                    open_stagings.close()
                    staged = {}
                    self._wait_for_others(
                        {_digest(step): _head(step).manifest.release for step in lacking}
                    )

    def _lacks(self, step: Step, staged: dict[Digest, Staging]) -> bool:
        return (
            bool(step.bundle_path)
            and step.after is not None
            and not self._store.has(step.after)
            and step.after.digest not in staged
        )

    def _open(self, steps: Sequence[Step], open_stagings: ExitStack) -> dict[Digest, Staging]:
        """A staging for each of `steps`; none where another process has one of them."""
        with ExitStack() as opening:
            opened = {}
            for step in steps:
                head = _head(step)
                files = head.manifest.files_for(self._tag)
                try:
                    staging = opening.enter_context(self._store.staging(head, files))
                except LockedError:
                    return {}
                opened[_digest(step)] = staging
            open_stagings.push(opening.pop_all())
        return opened

    def patiently(self, act: Callable[[], T]) -> T:
        """What `act` gives, which takes the lock; again once another has fetched what it needs.

        Not for who holds the lock.
        """
        while True:
            try:
                return act()
            except LockedError as error:
                digest, release = error.context.get("digest"), error.context.get("release")
                if not isinstance(digest, Digest) or not isinstance(release, Release):
                    raise  # it is the lock of the store
                self._wait_for_others({digest: release})

    def _wait_for_others(self, fetched: Mapping[Digest, Release]) -> None:
        """Wait until nobody else fetches any of `fetched`; raises LockedError after the timeout."""
        told, begun = False, time.monotonic()
        while held := [digest for digest in fetched if self._store.is_staging(digest)]:
            if not told:
                self._listener.waiting(f"another process is fetching {fetched[held[0]]}")
                told = True
            if 0 <= self._timeout_seconds <= time.monotonic() - begun:
                raise LockedError(
                    f"another process is fetching {fetched[held[0]]}",
                    remedy="Wait for it to finish, or allow a longer --lock-timeout.",
                )
            self._control.wait(_LOOK_AGAIN_SECONDS)

    def _check(self, plan: Plan) -> None:
        """Raise where what no generation tells has changed since the plan was made."""
        for step in plan.steps:
            if step.after and step.kind in _MOVES:
                self._trust.local().refuse_blocked(step.after.release)
                if not step.bundle_path:
                    self._store.lease(step.after).close()  # it is still there

    def _make_room(self, plan: Plan, *, fitted: bool = False, ahead: bool = False) -> Plan:
        """The plan as it is now, room being made for it.

        Raises NoSpaceError before anything is evicted; with `ahead` where something would be.
        """
        while True:
            plan = plan if fitted else self._planner.fitted(plan)
            fitted = False
            if plan.space is None:
                return plan
            plan.space.require(self._store.directory)
            if plan.space.evict and ahead:
                raise NoSpaceError(
                    "fetching ahead would evict what is installed",
                    needed_bytes=plan.space.needed_bytes,
                    free_bytes=plan.space.free_bytes,
                    remedy="Free some space ('pluginctl evict'), or upgrade, which may evict.",
                )
            if plan.space.evict:
                self._try_fetching(plan)
            self._listener.making_room(plan.space)
            gone = self._housekeeping.evict(plan.space.evict)
            for one in gone:
                _log.info("evicted %s", one.release)
                note = f"{one.release} made room for another"
                self._note("evicted", one.release.plugin, note)
            # Not until the disk shows it: it may be late, and more would go for nothing. Only what
            # was loaded meanwhile, and stays, has to be made up for.
            if len(gone) == len(plan.space.evict):
                return plan

    def _try_fetching(self, plan: Plan) -> None:
        """Raise NetworkError where nothing should be evicted, as the fetch could not even begin."""
        for step in plan.steps:
            if step.head and step.needed.fetch_bytes:
                self._remote.try_fetching(step.bundle_path, step.head.bundle_length)
                return

    def _commit(self, plan: Plan, staged: dict[Digest, Staging]) -> Generation:
        """Place what was staged and switch to it."""
        steps = [step for step in plan.steps if step.bundle_path]
        placing = [step for step in steps if step.after and not self._store.has(step.after)]
        for step in steps:
            if step not in placing:
                self._mend(step)
        if self._speed:
            self._store.keep_speed(self._speed)
        self._store.place([staged[_digest(step)] for step in placing])
        self._store.keep_heads(step.head_bytes for step in steps)
        changes = {s.plugin: s.after for s in plan.steps if s.kind not in {"keep", "fetch"}}
        generation = self._store.current()
        if changes:
            self._keep_trials(plan)
            generation = self._store.activate(changes, plan.action, self._now())
            for step in plan.steps:
                if step.kind in _DONE:
                    kind, text = _done(plan, step)
                    self._note(kind, step.plugin, text)
        if placing or any(step.after is None for step in plan.steps):
            self._tidy()
        return generation

    def _keep_trials(self, plan: Plan) -> None:
        """Have on trial what `plan` upgrades to, before `current` names it, and nothing else."""
        for step in plan.steps:
            before, after = step.before, step.after
            if after is None or step.kind not in _MOVES or plan.trial == "keep":
                continue
            newer = before is not None and after.release.version > before.release.version
            if newer and plan.trial == "begin" and self._trial_attempts:
                self._trials.begin(after.digest)
            else:
                self._trials.end(after.digest)

    def _mend(self, step: Step) -> None:
        """See that a release that is on this disk already is whole."""
        assert step.after is not None
        head = _head(step)
        damaged = {fault.path for fault in self._store.faults(step.after, head.manifest, "")}
        if files := [f for f in head.manifest.files_for(self._tag) if f.path in damaged]:
            self._store.replace(self.assemble(head, files, step.bundle_path))

    def assemble(self, head: Head, files: Sequence[File], bundle_path: str) -> Staging:
        """`files` of a release, staged and complete; for the holder of the lock.

        Makes no room. Raises LockedError where another process is fetching it.
        """
        with self._store.staging(head, files) as staging:
            self._assemble([(staging, bundle_path)], NoFollower())
        return staging

    def assemble_with_room(self, head: Head, files: Sequence[File], bundle_path: str) -> Staging:
        """As `assemble`, room being made for it."""
        active = Active(head.manifest.release, head.digest)
        needed = self._store.needed(head, files)
        plugin = active.release.plugin
        step = Step(plugin, None, active, head, bundle_path=bundle_path, needed=needed)
        self._make_room(Plan("repair", self._store.current().number, (step,)))
        return self.assemble(head, files, bundle_path)

    def _assemble(self, wanted: Iterable[tuple[Staging, str]], follower: Follower) -> None:
        """Complete stagings, each with its bundle's path: from this disk, then by fetching."""

        def tell(progress: Progress) -> None:
            follower.progressed(progress)
            self._listener.progress(progress)

        lacking, meter = [], Meter(tell)
        for staging, bundle_path in wanted:
            self._control.check()
            reused = staging.reuse()
            if total := sum(stop - start for _, start, stop in staging.spans()):
                meter.expect(staging.head.manifest.release, total, reused)
                lacking.append((staging, bundle_path))
        if lacking:
            begun = time.monotonic()
            self._remote.frames(lacking, meter)
            if meter.total_bytes >= _TELLING_BYTES:
                self._speed = meter.total_bytes / (time.monotonic() - begun)


def _head(step: Step) -> Head:
    assert step.head is not None
    return step.head


def _done(plan: Plan, step: Step) -> tuple[str, str]:
    """The word for what was done, and a few more; who goes back has said so, or failed."""
    if plan.action.startswith("rollback "):
        return "rolled-back", plan.action
    return _DONE[step.kind], str(step)


def _digest(step: Step) -> Digest:
    return _head(step).digest
