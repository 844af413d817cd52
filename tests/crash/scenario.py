"""What every battery shares: a real repository, stores in known states, and the judge of them.

An operation turns a store from one known state into another. A battery disturbs it, and `judge`
says what the disturbance cost; it must cost nothing.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE, S_ISDIR, S_ISREG
from types import TracebackType
from typing import Any, Self

from attrs import evolve, frozen
from blake3 import blake3

import plugin_manager.transfer  # noqa: F401 - children find everything imported that they need
from plugin_manager import PluginManager
from plugin_manager.configuration import from_environment
from plugin_manager.errors import CorruptError, NoSpaceError, NotFoundError, PluginManagerError
from tests.world import Clock, World

__all__ = [
    "OFFLINE",
    "OPERATIONS",
    "RELEASES",
    "Child",
    "Operation",
    "Reference",
    "Scenario",
    "State",
    "content_digest",
    "copy_store",
    "in_child",
    "inventory",
    "judge",
    "load_problems",
]

OFFLINE = ""  # no repository: whoever wants one is refused at once, and need not try again
# Temporary files, and what was set aside.
_RANDOM = re.compile(r"^(\.tmp-|\.set-aside-).*")
_NUMBERED = re.compile(r"^(trust/sets/)[0-9]+")
_TRIALS = re.compile(r"trials$|trials/[0-9a-f]{64}$")
_NOISE = random.Random(11).randbytes(300_000)

# What the serving process runs: until its standard input ends, that is until its parent does.
_SERVER = """
import pathlib, sys
from plugin_manager.publishing import serve
early, late = (serve(pathlib.Path(argument)) for argument in sys.argv[1:])
with early, late:
    print(early.base_url, late.base_url, flush=True)
    sys.stdin.read()
"""


def _tiles(version: str) -> bytes:
    data = bytearray(_NOISE[:150_000])
    data[60_000:60_010] = version.encode().ljust(10)
    return bytes(data)


def _base(version: str) -> dict[str, bytes]:
    return {
        "base/__init__.py": f"VERSION = {version!r}\n".encode(),
        "base/data/world.bin": _NOISE[150_000:210_000],
    }


def _maps(version: str) -> dict[str, bytes]:
    init = f"import base\n\nVERSION = {version!r}\nBASE = base.VERSION\n"
    return {
        "maps/__init__.py": init.encode(),
        "maps/draw.py": b"from maps import VERSION\n\n\ndef draw():\n    return VERSION\n",
        "maps/data/legend.bin": _NOISE[210_000:250_000],
        "maps/data/tiles.bin": _tiles(version),
    }


RELEASES: Mapping[str, Mapping[str, bytes]] = {
    "acme/base 1.0": _base("1.0"),
    "acme/base 2.0": _base("2.0"),
    "acme/maps 1.0": _maps("1.0"),
    "acme/maps 2.0": _maps("2.0"),
    "acme/maps 3.0": _maps("3.0"),
}
"""The releases that there are, and the files of each; every acme/maps requires acme/base."""


# --- the world -----------------------------------------------------------------------------------


class Scenario:
    """A signed repository with `RELEASES`, served by a process of its own, and template stores.

    It is served as it was before the last release too, at `early_url`: stores are prepared from
    that, so that operations find new metadata. Everything lies in `directory`. Use it as a context
    manager. Its clock stands still, so that the same operation writes the same bytes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.clock: Clock
        self.base_url = self.early_url = OFFLINE
        self._root = b""
        self._server: subprocess.Popen[str] | None = None
        self._references: dict[str, Reference] = {}

    def __enter__(self) -> Self:
        world = World(self.directory)
        self.clock = world.clock
        early = self.directory / "early"
        for release, files in RELEASES.items():
            if release == "acme/maps 3.0":
                shutil.copytree(world.repository.directory, early)
            maps = release.startswith("acme/maps")
            world.publish(release, files, requires='plugins = ["acme/base>=1"]' if maps else "")
        self._root = world.root.read_bytes()
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER, early, world.repository.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout
        self.early_url, self.base_url = self._server.stdout.readline().split()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server:
            self._server.communicate()  # closes its standard input, and waits

    def manager(
        self, store: Path, *, repository: str | None = None, **settings: Any
    ) -> PluginManager:
        """A manager of `store`; `repository=OFFLINE` cuts it off; `settings` as in Settings."""
        address = self.base_url if repository is None else repository
        made = from_environment({}, store=store, repository=address or None, host_version="1.0")
        return PluginManager(evolve(made, root=self._root, **settings), now=self.clock)

    def template(self, operation: str) -> Path:
        """The store as it is before `operation`; need not exist. Copy it, never change it."""
        return self.reference(operation).template

    def reference(self, operation: str) -> Reference:
        """What `operation` does when nothing disturbs it; made once.

        Ask for it before forking: otherwise every child makes its own.
        """
        if operation not in self._references:
            self._references[operation] = _reference(self, OPERATIONS[operation])
        return self._references[operation]


@frozen
class State:
    """What a user sees: `active` by plugin, and for each the version that a rollback brings.

    A plugin that cannot be rolled back is not in `rollback`. `trials`: what is on trial, sorted.
    """

    active: Mapping[str, str]
    rollback: Mapping[str, str]
    trials: Sequence[str]


@frozen
class Reference:
    """An operation undisturbed: the store before, the states, and all files after a cleanup."""

    template: Path
    before: State
    after: State
    files: Mapping[str, str]


# --- the operations ------------------------------------------------------------------------------


@frozen
class Operation:
    """Something that a user does: `prepare` makes the state before, `run` does it.

    Running it when it has been done succeeds and changes nothing. `damaged`: what is active need
    not load before (it must still never load wrong bytes). `fetches`: loading and rolling
    back may take the repository, otherwise they must not.
    """

    name: str
    prepare: Callable[[Scenario, Path], None]
    run: Callable[[PluginManager], object]
    damaged: bool = False
    fetches: bool = False


def _installed(*steps: str) -> Callable[[Scenario, Path], None]:
    """Prepare a store by installing `steps`, each one or more requests."""

    def prepare(scenario: Scenario, store: Path) -> None:
        manager = scenario.manager(store, repository=scenario.early_url)
        for step in steps:
            manager.install(*step.split())

    return prepare


_FIRST = "acme/base==1.0 acme/maps==1.0"
_SECOND = "acme/base==2.0 acme/maps==2.0"


def _empty(scenario: Scenario, store: Path) -> None:
    scenario.manager(store, repository=scenario.early_url).update()


def _nothing(scenario: Scenario, store: Path) -> None:
    pass


def _spoil(scenario: Scenario, store: Path) -> None:
    """Flipped bits, a missing file, a lost head and a damaged generation."""
    _installed(_FIRST, _SECOND)(scenario, store)
    manager = scenario.manager(store)
    manager.hold("acme/base")
    manager.unhold("acme/base")
    maps, base = manager.path("acme/maps"), manager.path("acme/base")
    _flip(maps / "maps/data/tiles.bin")
    _flip(maps / "maps/data/legend.bin")  # one file with that of the previous release
    (base / "base/__init__.py").unlink()
    active = {str(active.release.plugin): active for active in manager.installed()}
    (store / "manifests" / active["acme/base"].digest).unlink()
    _flip(store / "generations/3.json")


def _flip(path: Path) -> None:
    """Flip a bit in the middle of a file, in place."""
    mode, data = path.stat().st_mode, bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(mode)


def _rubbish(scenario: Scenario, store: Path) -> None:
    """Releases too old to keep, an abandoned staging, and temporary files."""
    manager = scenario.manager(store)
    for step in (_FIRST, "acme/maps==2.0", "acme/maps==3.0"):
        manager.install(*step.split())
    _interrupt(manager, "acme/base==2.0")
    for place in ("generations", "manifests"):
        (store / place / ".tmp-0123456789abcdef").write_bytes(b"half a fi")


def _halfway(scenario: Scenario, store: Path) -> None:
    """An install that was interrupted when its first bytes had come."""
    _installed("acme/base==1.0")(scenario, store)
    _interrupt(scenario.manager(store, repository=scenario.early_url), "acme/maps==2.0")
    assert any((store / "staging").iterdir()), "nothing was staged"


def _interrupt(manager: PluginManager, request: str) -> None:
    """Install, but stop when the first bytes have come."""

    def interrupt(_: object) -> None:
        raise InterruptedError

    manager.progress = interrupt
    with suppress(InterruptedError, PluginManagerError):
        manager.install(request)


def _evict(manager: PluginManager) -> None:
    """Evict all that can be evicted."""
    try:
        manager.plan_evict(1 << 50)
    except NoSpaceError as error:  # it says how much there is
        if error.free_bytes:
            manager.evict(error.free_bytes)


def _load(manager: PluginManager) -> None:
    for plugin in _versions(manager):
        manager.load(plugin).verify()
    manager.close()


def _rollback(manager: PluginManager) -> None:
    if _versions(manager)["acme/maps"] != "1.0":
        manager.rollback("acme/maps")


def _uninstall(manager: PluginManager) -> None:
    if "acme/maps" in _versions(manager):
        manager.uninstall("acme/maps")


_ALL = [
    Operation("first-start", _nothing, lambda manager: manager.install("acme/base==1.0")),
    Operation("install", _installed("acme/base==1.0"), lambda m: m.install("acme/maps==1.0")),
    Operation("resume", _halfway, lambda manager: manager.install("acme/maps==2.0")),
    Operation("install-two", _empty, lambda manager: manager.install(*_FIRST.split())),
    Operation("upgrade", _installed(_FIRST, "acme/maps==2.0"), lambda manager: manager.upgrade()),
    Operation("rollback", _installed(_FIRST, _SECOND), _rollback),
    Operation("uninstall", _installed(_FIRST, _SECOND), _uninstall),
    Operation("update", _installed(_FIRST), lambda manager: manager.update()),
    Operation("load", _installed(_FIRST, _SECOND), _load),
    Operation("repair", _spoil, lambda manager: manager.repair(), damaged=True),
    Operation("evict", _installed(_FIRST, _SECOND), _evict, fetches=True),
    Operation("gc", _rubbish, lambda manager: manager.cleanup(unfinished=True)),
]

OPERATIONS: Mapping[str, Operation] = {operation.name: operation for operation in _ALL}


# --- the judge -----------------------------------------------------------------------------------


def judge(scenario: Scenario, store: Path, operation: str) -> list[str]:
    """What is wrong with `store` after `operation` was disturbed; judged in a process of its own.

    Every active release loads, as it was published; the state is the old one or the new one; what
    could be rolled back still can (both offline, unless it was evicted). The same operation then
    succeeds and reaches the new state, and after a cleanup there are the files of an undisturbed
    run, no more and no fewer. The store is used up by it.
    """
    reference = scenario.reference(operation)
    return in_child(lambda: list(_problems(scenario, store, OPERATIONS[operation], reference)))


def _problems(
    scenario: Scenario, store: Path, operation: Operation, reference: Reference
) -> Iterator[str]:
    online = scenario.manager(store)
    loading = online if operation.fetches else scenario.manager(store, repository=OFFLINE)
    try:
        active = _versions(online)
        states = [state for state in (reference.before, reference.after) if state.active == active]
        if not states:
            yield f"neither the old nor the new state: {active}"
        yield from _trial_problems(reference, active, set(_on_trial(online)))
        yield from load_problems(loading, damaged=operation.damaged)
        if any(state.rollback for state in states):
            found = _rollbacks(scenario, store, operation, damaged=operation.damaged)
            if not operation.damaged and not any(found == state.rollback for state in states):
                yield f"rolls back to {found}"
        operation.run(online)
        if (active := _versions(online)) != reference.after.active:
            yield f"after running it again: {active}"
        yield from load_problems(loading)
        files = _cleaned(online, store)
        names = sorted(files.items() ^ reference.files.items())
        yield from (f"not as after an undisturbed run: {name} ({what})" for name, what in names)
        if (found := _rollbacks(scenario, store, operation)) != reference.after.rollback:
            yield f"after running it again, rolls back to {found}"
    except (PluginManagerError, OSError, AssertionError) as error:
        yield f"{type(error).__name__}: {error}"


def _trial_problems(
    reference: Reference, active: Mapping[str, str], on_trial: set[str]
) -> Iterator[str]:
    """Whether what an upgrade brought is on trial, and nothing else.

    What was so before may have been imported meanwhile, which confirms it.
    """
    before, after = set(reference.before.trials), set(reference.after.trials)
    least, most = set[str](), before | after
    if active == reference.after.active != reference.before.active:
        least, most = after - before, after
    elif active == reference.before.active:
        most = before
    if not least <= on_trial <= most:
        yield f"of {active}, on trial are {sorted(on_trial)}"


def load_problems(manager: PluginManager, *, damaged: bool = False) -> Iterator[str]:
    """Load what is active, and compare every byte and an imported value with what was published.

    `damaged`: a refusal to load is no problem.
    """
    versions = _versions(manager)
    for plugin, version in versions.items():
        try:
            loaded = manager.load(plugin)
            files = RELEASES[f"{plugin} {version}"]
            wrong = [path for path, data in files.items() if loaded.read(path) != data]
            module = loaded.import_module(plugin.partition("/")[2])
            if wrong or version != module.VERSION:
                yield f"{plugin} {version} loads altered bytes: {wrong}, {module.VERSION}"
            if plugin == "acme/maps" and versions["acme/base"] != module.BASE:
                yield f"acme/maps uses acme/base {module.BASE}"
        except PluginManagerError as error:
            if not damaged or not isinstance(error, CorruptError):
                yield f"{plugin} {version} does not load: {error}"
    manager.close()


def _rollbacks(
    scenario: Scenario, store: Path, operation: Operation, *, damaged: bool = False
) -> dict[str, str]:
    """Where a rollback takes each plugin; done on a copy, offline where it must be, and loaded."""
    copy = store.with_name(f"{store.name}-rollback")
    found = {}
    with copied(store, copy):
        manager = scenario.manager(copy, repository=None if operation.fetches else OFFLINE)
        for plugin in _versions(manager):
            try:
                manager.rollback(plugin)
            except NotFoundError:
                continue
            except PluginManagerError:
                if damaged:
                    continue
                raise
            found[plugin] = _versions(manager)[plugin]
        problems = list(load_problems(manager, damaged=damaged))
        assert not found or not problems, f"after a rollback: {problems}"
    return found


def _versions(manager: PluginManager) -> dict[str, str]:
    return {
        str(active.release.plugin): str(active.release.version) for active in manager.installed()
    }


def _on_trial(manager: PluginManager) -> list[str]:
    return sorted(str(trial.release) for trial in manager.trials().values())


def _cleaned(manager: PluginManager, store: Path) -> dict[str, str]:
    manager.cleanup(unfinished=True)
    return inventory(store)


def _reference(scenario: Scenario, operation: Operation) -> Reference:
    template = scenario.directory / "templates" / operation.name
    template.parent.mkdir(exist_ok=True)

    def state(store: Path) -> dict[str, Any]:
        damaged = operation.damaged and store == template
        active = _versions(scenario.manager(store))
        return {
            "active": active,
            "rollback": _rollbacks(scenario, store, operation, damaged=damaged),
            "trials": _on_trial(scenario.manager(store)),
        }

    def undisturbed() -> list[Any]:
        operation.prepare(scenario, template)
        before = state(template)
        copy = template.with_name(f"{operation.name}-after")
        with copied(template, copy):
            manager = scenario.manager(copy)
            operation.run(manager)
            after = state(copy)
            problems = list(load_problems(manager))
            assert not problems, problems
            return [before, after, _cleaned(manager, copy)]

    before, after, files = in_child(undisturbed)
    return Reference(template, State(**before), State(**after), files)


# --- stores as files -----------------------------------------------------------------------------


def copy_store(source: Path, target: Path) -> None:
    """Make `target` a copy of the store `source`, which need not exist, with times and links."""
    if source.exists():
        subprocess.run(["cp", "-a", "-T", "--", source, target], check=True)


@contextmanager
def copied(source: Path, target: Path) -> Iterator[None]:
    """A copy of `source` for a while."""
    copy_store(source, target)
    try:
        yield
    finally:
        shutil.rmtree(target, ignore_errors=True)


def inventory(store: Path) -> dict[str, str]:
    """What lies in `store`: relative name to kind, mode and digest.

    Sets of metadata are numbered by how many attempts there were, so their numbers do not count;
    nor do the bytes of the index, which is no truth, nor the log of activities, on which nobody
    relies: who is killed before his line is written has none. What is on trial depends on what was
    loaded meanwhile, too.
    """
    found: dict[str, str] = {}
    for path in sorted(store.rglob("*")):
        name = _NUMBERED.sub(r"\1*", _name(path, store))
        while name in found:
            name += " again"
        if name in {"lock", "lock-holder", "index/activity.jsonl"} or _TRIALS.match(name):
            continue
        passing = name == "trust/current" or name.startswith("index/")
        found[name] = _described(path).split()[0] if passing else _described(path)
    return found


def _name(path: Path, store: Path) -> str:
    """The name of `path` in `store`, without what is random in it."""
    return "/".join(_RANDOM.sub(r"\1", part) for part in path.relative_to(store).parts)


def _described(path: Path) -> str:
    status = path.lstat()
    mode = f"{S_IMODE(status.st_mode):o}"
    if S_ISDIR(status.st_mode):
        return f"directory {mode}"
    if S_ISREG(status.st_mode):
        return f"file {mode} {blake3(path.read_bytes()).hexdigest()[:16]}"
    return f"other {status.st_mode:o}"


def content_digest(store: Path) -> str:
    """Equal for stores that hold the same; random names and process numbers do not count.

    Of the index only names and sizes count: SQLite salts what it writes.
    """
    links: dict[int, int] = {}
    lines = []
    for path in sorted(store.rglob("*")):
        name, status = _name(path, store), path.lstat()
        if name == "lock-holder":
            what = ""
        elif name.startswith("index/"):
            what = str(status.st_size)
        else:
            # Which files are one file matters: a repair of one must not spoil the other.
            what = f"{_described(path)} {links.setdefault(status.st_ino, len(links))}"
        lines.append(f"{name} {what}")
    return blake3("\n".join(lines).encode()).hexdigest()


# --- processes -----------------------------------------------------------------------------------


class Child:
    """A forked process that does `work`; `seconds`: it is ended then (0: never)."""

    def __init__(self, work: Callable[[], Any], *, seconds: int = 120) -> None:
        self._reading, writing = os.pipe()
        self.process = os.fork()
        if not self.process:
            status = 1
            try:
                logging.disable(logging.WARNING)  # that something was fetched again is no news
                signal.alarm(seconds)  # a deadlock must not stop the battery
                os.close(self._reading)
                with os.fdopen(writing, "w") as file:
                    json.dump(work(), file)
                status = 0
            except BaseException as error:  # told, and then the process ends
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                os._exit(status)
        os.close(writing)

    def result(self) -> Any:
        """What `work` returned, as JSON knows it; raises ChildProcessError where it failed."""
        with os.fdopen(self._reading) as file:
            text = file.read()
        _, status = os.waitpid(self.process, 0)
        if status:
            code = os.waitstatus_to_exitcode(status)
            raise ChildProcessError(f"a child ended with status {code}")
        return json.loads(text)


def in_child(work: Callable[[], Any], *, seconds: int = 120) -> Any:
    """What `work` returns, from a forked process; as Child."""
    return Child(work, seconds=seconds).result()
