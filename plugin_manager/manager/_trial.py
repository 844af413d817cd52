"""A release on trial, as one process uses it: what is an attempt, and what ends the trial."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from importlib.machinery import all_suffixes
from pathlib import Path
from threading import RLock
from traceback import walk_tb
from typing import Literal
from weakref import WeakSet

from plugin_manager.durable import disk_errors
from plugin_manager.errors import CorruptError, PluginManagerError, StoreAccessError
from plugin_manager.loader import LoadedPlugin
from plugin_manager.manager._events import Events
from plugin_manager.store import Active, Attempt, Store, Trials

__all__ = ["Confirm", "TrialRun"]

Confirm = Literal["import", "host"]

_log = logging.getLogger("plugin_manager")


class TrialRun:
    """The use that this process makes of a release on trial.

    It is an attempt from before its first code runs; where the host is to confirm, from `begin`.
    That fails with an exception out of an import, with the process, and, where the host is to
    confirm, when it is unloaded without. Threads may share it; in a child of a fork it is what it
    was in the parent, and an attempt that the parent made stays the parent's.
    """

    def __init__(self, store: Store, active: Active, confirm: Confirm, events: Events) -> None:
        self._store, self._trials = store, Trials(store.directory)
        self._active, self._policy, self._events = active, confirm, events
        self._plugin: LoadedPlugin | None = None
        self._attempt: Attempt | None = None
        self._done = False  # there shall be no other attempt
        self._imported = False
        self._lock = RLock()
        _RUNS.add(self)

    def renew_lock(self) -> None:
        """Forget who has the lock: in a child of a fork nobody is left to release it."""
        self._lock = RLock()

    def begin(self, plugin: LoadedPlugin) -> None:
        """`plugin` is loaded, and goes to the host."""
        self._plugin = plugin
        if self._policy == "host":
            self._try()
        elif not _has_code(plugin):
            self._confirm_quietly()  # that it loads is all that can be tried

    def importing(self) -> None:
        """Code of the release is about to run."""
        self._try()

    def imported(self, error: BaseException | None) -> None:
        """An import ended, with `error` or well."""
        if error is None:
            if self._policy == "import" and not self._imported:
                self._imported = True
                self._confirm_quietly()
        # A damaged file is refused, and repaired: that says nothing about the release. Nor does a
        # store that cannot be read just now, nor
        # somebody who did not want to wait. SystemExit does: it takes the host down.
        elif isinstance(error, (CorruptError, StoreAccessError, KeyboardInterrupt)):
            if attempt := self._take(done=False):
                attempt.withdraw()
        else:
            self._fail(error)

    def confirm(self) -> None:
        """End the trial; raises StoreAccessError."""
        with disk_errors(self._store.directory):
            ended = self._trials.end(self._active.digest)
        if attempt := self._take():
            attempt.withdraw()
        if ended:
            release = self._active.release
            _log.info("%s is confirmed", release)
            self._events("confirmed", release.plugin, release, text=f"{release} works")

    def end(self) -> None:
        """Nothing of the release is in use any more."""
        if attempt := self._take():
            hangs = self._plugin is not None and self._plugin.executing
            if attempt.inherited or (self._policy == "import" and not hangs):
                attempt.withdraw()  # the parent's; or neither done nor failed
            else:
                attempt.fail()

    def _try(self) -> None:
        """Have an attempt on record, unless there has been one."""
        with self._lock:
            if self._attempt or self._done:
                return
            self._done = True
            try:
                self._attempt = self._trials.attempt(self._active.digest)
            except OSError as error:
                uncounted = error
            else:
                if self._attempt and self._policy == "import":
                    atexit.register(self._exit)
                return
        # A store that only others may write to must load all the same; so must one that is full.
        _log.warning(
            "%s is on trial, but attempts cannot be counted: %s", self._active.release, uncounted
        )

    def _fail(self, error: BaseException) -> None:
        if attempt := self._take():
            _log.warning("%s, which is on trial, raised %r", self._active.release, error)
            attempt.fail()

    def _confirm_quietly(self) -> None:
        try:
            self.confirm()
        except PluginManagerError as error:
            _log.warning("%s works, but stays on trial: %s", self._active.release, error)

    def _exit(self) -> None:
        """The process ends in order. What it still imports may be what hung."""
        plugin = self._plugin
        if plugin is None or plugin.executing:
            return
        # What went out by `get_code` was executed by others, who told nobody how it ended.
        error = getattr(sys, "last_value", None)
        if isinstance(error, BaseException) and _comes_from(error, plugin.directory):
            self._fail(error)
        elif attempt := self._take():
            attempt.withdraw()

    def _take(self, *, done: bool = True) -> Attempt | None:
        """The attempt, which no other thread has taken; not `done`: there may be another."""
        with self._lock:
            attempt, self._attempt = self._attempt, None
            self._done = done
        atexit.unregister(self._exit)
        return attempt


_RUNS: WeakSet[TrialRun] = WeakSet()


def _renew_locks() -> None:
    for run in _RUNS:
        run.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def _comes_from(error: BaseException, directory: Path) -> bool:
    """Whether `error` came through code in `directory`, or is about a file there."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        files.append(error.filename or "")
    elif isinstance(error, ImportError):
        files.append(error.path or "")
    return any(file.startswith(os.path.join(directory, "")) for file in files)  # noqa: PTH118 - a prefix


def _has_code(plugin: LoadedPlugin) -> bool:
    suffixes = tuple(all_suffixes())
    return any(path.endswith(suffixes) for path in plugin.files)
