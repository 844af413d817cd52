"""The parts of a manager, wired to one another: for one store, one repository, one pinned root."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from plugin_manager.errors import NotFoundError
from plugin_manager.manager._activity import ActivityLog
from plugin_manager.manager._control import Control
from plugin_manager.manager._events import Event, Events
from plugin_manager.model import Host, PluginName
from plugin_manager.settings import Settings
from plugin_manager.store import Housekeeping, Store, Trials

# What looking at a store takes is imported above; what loading and changing take, where it is
# first needed: commands that only look start in half the time.
if TYPE_CHECKING:
    from plugin_manager.manager._changes import Changes
    from plugin_manager.manager._inspection import Inspector
    from plugin_manager.manager._listeners import Listener
    from plugin_manager.manager._planner import Planner
    from plugin_manager.manager._remote import Remote
    from plugin_manager.manager._removal import Removal
    from plugin_manager.manager._rollback import Rollbacks
    from plugin_manager.transfer import Transfer
    from plugin_manager.trust import Expiry, Trust

__all__ = ["Parts"]


class Parts:
    """What works at one store, each part made when first needed.

    `listener` is told how things go on; `control` stops what they do. `transfer` may be shared
    with others; without one, connections are their own.
    """

    def __init__(
        self,
        settings: Settings,
        listener: Listener,
        *,
        expiry: Expiry | None,
        now: Callable[[], datetime],
        transfer: Transfer | None,
        control: Control,
    ) -> None:
        self.settings = settings
        self.listener = listener
        self.now = now
        self.control = control
        self.shared_transfer = transfer
        self.expiry = expiry
        self.store = Store(settings.store)
        self.system = Store(settings.system_store) if settings.system_store else None
        self.trials = Trials(settings.store)
        self.activity = ActivityLog(settings.store)
        self.housekeeping = Housekeeping(self.store, settings.limits)
        self.events = Events(self._tell)

    def another(
        self,
        listener: Listener,
        *,
        transfer: Transfer,
        settings: Settings | None = None,
        control: Control | None = None,
    ) -> Parts:
        """Others for the same store, to be stopped by `control`, or by nobody."""
        return Parts(
            settings or self.settings,
            listener,
            expiry=self.expiry,
            now=self.now,
            transfer=transfer,
            control=control or Control(),
        )

    # --- for all of them -----------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's lock."""
        with self.store.writing(
            timeout_seconds=self.settings.lock_timeout_seconds,
            waiting=self.listener.waiting,
            cancelled=self.control.stopping.is_set,
        ):
            yield

    def require_source(self) -> None:
        """Raise InvalidInputError unless there are a repository and a sound pinned root."""
        self.settings.base_url()
        self.trust.check_root()

    def note(self, kind: str, plugin: PluginName | None, text: str) -> None:
        """Have on record that something happened, for people to read."""
        self.activity.record(kind, plugin, text, self.now())

    def _tell(self, event: Event) -> None:
        absent = isinstance(event.error, NotFoundError)
        if event.kind in {"refused", "repaired", "confirmed"} and not absent:
            self.note(event.kind, event.plugin, event.text)
        self.listener.on_event(event)  # whichever it is by then

    # --- made when first needed ----------------------------------------------------------------

    @cached_property
    def remote(self) -> Remote:
        from plugin_manager.manager._remote import Remote  # noqa: PLC0415

        retrying = self.listener.retrying
        return Remote(self.settings, self.control, retrying, self.shared_transfer)

    @cached_property
    def trust(self) -> Trust:
        return self.trust_of(self.store)

    def trust_of(self, store: Store) -> Trust:
        """What vouches for the releases of `store`."""
        from plugin_manager.trust import Expiry, Trust  # noqa: PLC0415

        return Trust(
            store.trust_directory,
            self.settings.pinned_root(),
            metadata_url=self.settings.repository + "metadata/",
            targets_url=self.settings.repository + "targets/",
            root_name=self.settings.root_name,
            fetch=self.remote.fetch,
            fetch_many=self.remote.fetch_many,
            expiry=self.expiry or Expiry.grace(self.settings.grace),
            now=self.now,
        )

    @cached_property
    def host(self) -> Host:
        """The facts about this machine and application."""
        from plugin_manager._host import this_host  # noqa: PLC0415

        return this_host(self.settings.host_version, self.settings.store)

    @cached_property
    def planner(self) -> Planner:
        from plugin_manager.manager._planner import Planner  # noqa: PLC0415

        return Planner(
            self.store,
            self.housekeeping,
            self.trust,
            self.host,
            fetch_heads=self.remote.heads,
            now=self.now,
        )

    @cached_property
    def rollbacks(self) -> Rollbacks:
        from plugin_manager.manager._rollback import Rollbacks  # noqa: PLC0415

        return Rollbacks(self.store, self.trust, self.host, self.planner)

    @cached_property
    def changes(self) -> Changes:
        from plugin_manager.manager._changes import Changes  # noqa: PLC0415

        return Changes(
            self.store,
            self.housekeeping,
            self.trust,
            self.planner,
            self.remote,
            tag=self.host.bytecode_tag,
            control=self.control,
            writing=self.writing,
            tidy=self.removal.tidy,
            listener=self.listener,
            timeout_seconds=self.settings.lock_timeout_seconds,
            trial_attempts=self.settings.trial_attempts,
            now=self.now,
            note=self.note,
        )

    @cached_property
    def inspector(self) -> Inspector:
        from plugin_manager.manager._inspection import Inspector  # noqa: PLC0415

        return Inspector(
            self.store,
            self.trust,
            self.host.bytecode_tag,
            fetch_heads=self.remote.heads,
            assemble=self.changes.assemble_with_room,
            require_source=self.require_source,
            now=self.now,
        )

    @cached_property
    def removal(self) -> Removal:
        from plugin_manager.manager._removal import Removal  # noqa: PLC0415

        return Removal(self.store, self.housekeeping, self.writing, self.note, self.now)
