"""Loading: which store a plugin comes from, what it requires, and in which order.

Every step reads without a lock. What another process changes meanwhile is noticed by `current`,
and the load begins anew; a lease keeps what is loaded. What failed on trial is not loaded: the
load goes back to the release before, and begins anew.
"""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from typing import Literal

from attrs import define, field

from plugin_manager import resolver
from plugin_manager._attrs import frozen
from plugin_manager.errors import (
    BlockedError,
    CorruptError,
    IncompatibleHostError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
)
from plugin_manager.loader import LoadedPlugin, check_verify
from plugin_manager.loader import load as load_release
from plugin_manager.manager._events import Events
from plugin_manager.manager._planner import vouched
from plugin_manager.manager._trial import Confirm, TrialRun
from plugin_manager.manifest import Manifest
from plugin_manager.model import Host, PluginName, Release
from plugin_manager.store import Active, Generation, Lease, Store, Trials
from plugin_manager.trust import Trust, Vouching

__all__ = ["Layer", "Loading"]

_log = logging.getLogger("plugin_manager")
_ATTEMPTS = 20
_HEALINGS = 3


@frozen
class Layer:
    """A store and what vouches for it."""

    store: Store
    trust: Trust


class _FailedTrialError(Exception):
    """`active`, of the first layer, failed on trial."""

    def __init__(self, active: Active, attempts: int) -> None:
        super().__init__()
        self.active, self.attempts = active, attempts


class _View:
    """A layer at one moment: read, and its metadata verified, when first asked for."""

    def __init__(self, layer: Layer) -> None:
        self.store = layer.store
        self.trials = Trials(layer.store.directory)
        self._trust = layer.trust

    @cached_property
    def generation(self) -> Generation:
        return self.store.current()

    @cached_property
    def vouching(self) -> Vouching:
        return self._trust.local()


@frozen
class _Found:
    view: _View
    active: Active
    manifest: Manifest


@define
class Loading:
    """Loads plugins from `layers`, the first that has one active winning.

    `heal(plugin, error)` is asked where a plugin is damaged or was evicted; it mends it and returns
    a lease of it, lest it be evicted again at once, or None. `go_back(active, attempts)` sees that
    what failed on trial is active no longer, or raises. `trial_attempts` 0: nothing is on trial.
    """

    layers: Sequence[Layer]
    host: Host
    heal: Callable[[PluginName, PluginManagerError], Lease | None]
    go_back: Callable[[Active, int], None]
    events: Events
    trial_attempts: int
    confirm: Confirm
    _loaded: dict[PluginName, LoadedPlugin] = field(factory=dict)

    def load(
        self, plugin: PluginName, *, verify: Literal["all", "on-read"] = "all"
    ) -> LoadedPlugin:
        """As `PluginManager.load` says."""
        check_verify(verify)
        try:
            with ExitStack() as leases:
                return self._load_healing(plugin, verify, leases)
        except PluginManagerError as error:
            self.events(
                "refused", plugin, self._release(plugin), error=error, text=f"{plugin}: {error}"
            )
            raise

    def _release(self, plugin: PluginName) -> Release | None:
        """What is active of `plugin`, where that can be read."""
        for layer in self.layers:
            with suppress(PluginManagerError):
                if active := layer.store.current().active.get(plugin):
                    return active.release
        return None

    def _load_healing(
        self, plugin: PluginName, verify: Literal["all", "on-read"], leases: ExitStack
    ) -> LoadedPlugin:
        healed: Counter[PluginName] = Counter()
        for attempt in range(_ATTEMPTS):
            marks = self._marks()
            at = [plugin]  # which plugin it was, where one is damaged
            try:
                return self._load(plugin, verify, at)
            except _FailedTrialError as failed:
                if attempt + 1 == _ATTEMPTS:
                    raise RefusedError(
                        f"{plugin}: one release after the other failed on trial",
                        remedy=f"'pluginctl history' shows which; 'pluginctl rollback {plugin}'.",
                    ) from None
                self.go_back(failed.active, failed.attempts)
            except (CorruptError, NotFoundError) as error:
                if attempt + 1 == _ATTEMPTS:
                    raise
                if marks != self._marks():
                    continue  # changed by another process under our hands
                healed[at[0]] += 1
                # More than once, as others may upgrade it meanwhile.
                lease = self.heal(at[0], error) if healed[at[0]] <= _HEALINGS else None
                if lease:
                    leases.enter_context(lease)
                elif marks == self._marks():
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _marks(self) -> list[bytes]:
        return [layer.store.mark() for layer in self.layers]

    def _load(
        self, plugin: PluginName, verify: Literal["all", "on-read"], at: list[PluginName]
    ) -> LoadedPlugin:
        views = [_View(layer) for layer in self.layers]
        loaded, used = None, []
        mine: list[PluginName] = []
        trials: list[tuple[TrialRun, LoadedPlugin]] = []
        try:
            for found in self._order(plugin, views, at):
                at[0] = found.active.release.plugin
                with self._remedies_for(found.view):
                    loaded = self._load_one(found, verify, trials, mine)
                used.append(found.view)
        except BaseException:
            # What it requires was loaded for it alone: a later attempt may need another release.
            # Not what another thread has loaded meanwhile, and uses.
            for name in reversed(mine):
                if one := self._loaded.pop(name, None):
                    one.unload()
            raise
        assert loaded is not None  # the plugin itself comes last
        # Not earlier: what is unloaded as something else was refused has not been tried.
        for trial, one in trials:
            trial.begin(one)
        for role in dict.fromkeys(role for view in used for role in view.vouching.expired_roles):
            _log.warning("accepted within the grace: %s", role)
        return loaded

    def _order(
        self, plugin: PluginName, views: Sequence[_View], at: list[PluginName]
    ) -> list[_Found]:
        """What loading `plugin` takes, vouched for and fit: what is required, then what requires.

        Plugins may require one another; then either may come first.
        """
        found: dict[PluginName, _Found] = {}
        order: list[_Found] = []
        # Not recursive: how deep requirements go is the publishers' doing. An entry is a plugin to
        # enter, and who needs it; or one to leave, once what it requires is in `order`.
        waiting: list[tuple[PluginName, PluginName | None, bool]] = [(plugin, None, False)]
        while waiting:
            name, needed_by, leaving = waiting.pop()
            if leaving:
                order.append(found[name])
            elif name not in found:
                at[0] = name
                found[name] = one = self._find(name, needed_by, views)
                waiting.append((name, None, True))
                waiting += [
                    (requirement.plugin, name, False)
                    for requirement in reversed(one.manifest.requirements)
                ]
        return order

    @contextmanager
    def _remedies_for(self, view: _View) -> Iterator[None]:
        """Have errors say what to do in the store that they come from."""
        try:
            yield
        except PluginManagerError as error:
            if view.store is not self.layers[0].store:
                there = f"pluginctl --store {shlex.quote(str(view.store.directory))} "
                error.remedy = error.remedy.replace("pluginctl ", there)
            raise

    def _find(
        self, plugin: PluginName, needed_by: PluginName | None, views: Sequence[_View]
    ) -> _Found:
        for view in views:
            if active := view.generation.active.get(plugin):
                with self._remedies_for(view):
                    self._refuse_if_failed(active, view)
                    manifest = vouched(view.store, view.vouching, active).manifest
                _refuse_if_blocked(active, views)
                break
        else:
            needs = f", but {needed_by} needs it" if needed_by else ""
            raise NotFoundError(
                f"{plugin} is not installed{needs}", remedy=f"Run 'pluginctl install {plugin}'."
            )
        if reasons := resolver.compatibility(manifest.needs, active.release.platform, self.host):
            raise IncompatibleHostError(
                f"{active.release} {reasons[0]}",
                remedy="Install a release that fits.",
                reasons=tuple(reasons),
            )
        return _Found(view, active, manifest)

    def _refuse_if_failed(self, active: Active, view: _View) -> None:
        """Raise where `active` failed on trial: what is loaded already stays."""
        loaded = self._loaded.get(active.release.plugin)
        if not self.trial_attempts or (loaded and not loaded.unloaded):
            return
        attempts = view.trials.failed(active.digest)
        if attempts is None or attempts < self.trial_attempts:
            return
        if view.store is self.layers[0].store:
            raise _FailedTrialError(active, attempts)
        raise RefusedError(
            f"{active.release} failed on trial",
            remedy=f"Run 'pluginctl rollback {active.release.plugin}', or 'pluginctl confirm "
            f"{active.release.plugin}' to use it all the same.",
        )

    def _load_one(
        self,
        found: _Found,
        verify: Literal["all", "on-read"],
        trials: list[tuple[TrialRun, LoadedPlugin]],
        mine: list[PluginName],
    ) -> LoadedPlugin:
        active, store = found.active, found.view.store
        plugin, release = active.release.plugin, active.release
        loaded = self._loaded.get(plugin)
        if loaded is None or loaded.unloaded:
            loaded = self._loaded[plugin] = self._load_anew(found, verify, trials)
            mine.append(plugin)
            self.events("loaded", plugin, release, text=f"{release} is loaded")
        elif loaded.release != active.release:
            raise RefusedError(
                f"{loaded.release} is loaded in this process, {active.release} is active now",
                remedy="Unload it first, or restart the application.",
            )
        elif verify == "all":
            loaded.verify()
            self.events("verified", plugin, release, text=f"{release}: signatures and every file")
        if store is self.layers[0].store:  # the others are only read
            store.record_load([active.digest])
        return loaded

    def _load_anew(
        self,
        found: _Found,
        verify: Literal["all", "on-read"],
        trials: list[tuple[TrialRun, LoadedPlugin]],
    ) -> LoadedPlugin:
        active, store, release = found.active, found.view.store, found.active.release
        own = store is self.layers[0].store  # the others are only read
        trial = None
        if own and self.trial_attempts and found.view.trials.failed(active.digest) is not None:
            trial = TrialRun(store, active, self.confirm, self.events)
        lease = store.lease(active)

        def released() -> None:
            lease.close()
            if trial:
                trial.end()
            self.events("unloaded", release.plugin, release, text=f"{release} is unloaded")

        loaded = None
        try:
            directory = store.release_directory(release, active.digest)
            loaded = load_release(
                found.manifest,
                directory,
                verify=verify,
                released=released,
                importing=trial.importing if trial else lambda: None,
                imported=trial.imported if trial else None,
                confirmed=trial.confirm if trial else lambda: None,
            )
            how = "every file" if verify == "all" else "each file as it is read"
            text = f"{release}: signatures and {how}"
            self.events("verified", release.plugin, release, text=text)
        except BaseException:  # out of the host's hook as well, where somebody interrupts it
            if loaded:
                loaded.unload()
            lease.close()
            raise
        if trial:
            trials.append((trial, loaded))
        return loaded

    def close(self) -> None:
        """Unload everything, what requires others first."""
        while self._loaded:
            self._loaded.popitem()[1].unload()


def _refuse_if_blocked(active: Active, views: Sequence[_View]) -> None:
    """Raise BlockedError where any layer's metadata, which may be newer, blocks the release."""
    for view in views:
        try:
            view.vouching.refuse_blocked(active.release)
        except BlockedError:
            raise
        except PluginManagerError:
            continue  # it does not know the plugin, or is too old to say
