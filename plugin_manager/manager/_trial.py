"""A release on trial, as one process uses it: what is an attempt, and what ends the trial."""

from __future__ import annotations

import atexit
import logging
from importlib.machinery import all_suffixes
from threading import Lock
from typing import Literal

from plugin_manager.durable import disk_errors
from plugin_manager.errors import CorruptError, PluginManagerError
from plugin_manager.loader import LoadedPlugin
from plugin_manager.manager._events import Events
from plugin_manager.store import Active, Attempt, Store, Trials

__all__ = ["Confirm", "TrialRun"]

Confirm = Literal["import", "host"]

_log = logging.getLogger("plugin_manager")


class TrialRun:
    """The use that this process makes of a release on trial.

    It is an attempt from `begin` on. That fails with an exception out of an import, with the
    process, and, where the host is to confirm, when it is unloaded without. Where an import
    confirms, nothing was tried as long as none began. Threads may share it.
    """

    def __init__(self, store: Store, active: Active, confirm: Confirm, events: Events) -> None:
        self._store, self._trials = store, Trials(store.directory)
        self._active, self._policy, self._events = active, confirm, events
        self._plugin: LoadedPlugin | None = None
        self._attempt: Attempt | None = None
        self._imported = False
        self._lock = Lock()

    def begin(self, plugin: LoadedPlugin) -> None:
        """Count an attempt at `plugin`, none of whose code has run."""
        if self._policy == "import" and not _has_code(plugin):
            self._confirm_quietly()  # that it loads is all that can be tried
            return
        self._plugin = plugin
        try:
            self._attempt = self._trials.attempt(self._active.digest)
        except OSError as error:
            # A store that only others may write to must load all the same.
            _log.warning(
                "%s is on trial, but attempts cannot be counted: %s", self._active.release, error
            )
        if self._attempt and self._policy == "import":
            atexit.register(self._exit)

    def imported(self, error: BaseException | None) -> None:
        """The execution of a module ended, with `error` or well."""
        if error is None:
            if self._policy == "import" and not self._imported:
                self._imported = True
                self._confirm_quietly()
        # A damaged file is refused, and repaired: that says nothing about the release.
        elif not isinstance(error, CorruptError) and (attempt := self._take()):
            _log.warning("%s, which is on trial, raised %r", self._active.release, error)
            attempt.fail()

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
            if self._policy == "import":
                attempt.withdraw()  # neither done nor failed: no import began
            else:
                attempt.fail()

    def _confirm_quietly(self) -> None:
        try:
            self.confirm()
        except PluginManagerError as error:
            _log.warning("%s works, but stays on trial: %s", self._active.release, error)

    def _exit(self) -> None:
        """The process ends in order. What it imported and has not ended may be what hung."""
        if self._plugin and not self._plugin.modules and (attempt := self._take()):
            attempt.withdraw()

    def _take(self) -> Attempt | None:
        with self._lock:
            attempt, self._attempt = self._attempt, None
        atexit.unregister(self._exit)
        return attempt


def _has_code(plugin: LoadedPlugin) -> bool:
    suffixes = tuple(all_suffixes())
    return any(path.endswith(suffixes) for path in plugin.files)
