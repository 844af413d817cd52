"""Many processes on one store: all operations mixed at random, and some processes killed.

Every answer is judged by the process that got it: a load gives exactly what was published of
releases that one generation named while the load went on; what is loaded never vanishes. Every
change that was reported as made must be a generation of its own. In the end everything active
loads, and nothing is left over.
"""

from __future__ import annotations

import argparse
import faulthandler
import fcntl
import json
import logging
import mmap
import os
import random
import select
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import define, field, frozen

from plugin_manager import PluginManager
from plugin_manager.errors import (
    EvictedError,
    LockedError,
    NoSpaceError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
)
from plugin_manager.manager import Plan, Report
from plugin_manager.model import PluginName
from plugin_manager.store import Generation, Store
from tests.crash.scenario import RELEASES, Scenario, in_child, load_problems

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
PATIENCE_SECONDS = 300
"""A process that ends no operation for so long is taken to be in a deadlock."""
KILL_EVERY = 25
"""After about so many operations a process is killed."""

MAPS, BASE = PluginName.parse("acme/maps"), PluginName.parse("acme/base")


class WrongAnswerError(Exception):
    """An operation gave something that cannot have been right at any moment while it ran."""


# --- what members of the crowd do ----------------------------------------------------------------


@define
class Member:
    """One process of the crowd, with what it needs for an operation."""

    scenario: Scenario
    store: Path
    random: random.Random

    def manager(self) -> PluginManager:
        """A new manager: what others have done meanwhile is found on the disk."""
        return self.scenario.manager(self.store)

    def generation(self) -> Generation:
        """The current generation, read anew."""
        return Store(self.store).current()

    def between(self, first: Generation, last: Generation) -> list[Generation]:
        """All generations that were current at some moment from `first` to `last`."""
        found = [first]
        for number in range(first.number + 1, last.number):
            with suppress(NotFoundError):  # the oldest are collected at last
                found.append(Store(self.store).generation(number))
        return [*found, last]


def _expect(what: str, *, right: bool) -> None:
    if not right:
        raise WrongAnswerError(what)


def _loaded(manager: PluginManager, plugin: PluginName) -> dict[PluginName, str]:
    """Load `plugin`, compare every byte of it; the versions that were executed."""
    loaded = manager.load(plugin)
    release = f"{plugin} {loaded.version}"
    for path, content in RELEASES[release].items():
        _expect(f"{release}: {path} has other bytes", right=loaded.read(path) == content)
    module = loaded.import_module(plugin.name)
    _expect(f"{release} executed {module.VERSION}", right=str(loaded.version) == module.VERSION)
    return {plugin: module.VERSION} | ({BASE: module.BASE} if plugin == MAPS else {})


def load(member: Member) -> None:
    """What is loaded together was active together, at some moment while the load went on."""
    first, plugin = member.generation(), member.random.choice([MAPS, BASE])
    try:
        with member.manager() as manager:
            found = _loaded(manager, plugin)
    except NotFoundError:
        seen = member.between(first, member.generation())
        _expect(f"{plugin} not found, yet active", right=any(plugin not in g.active for g in seen))
        raise
    together = [
        {name: str(g.active[name].release.version) for name in found if name in g.active}
        for g in member.between(first, member.generation())
    ]
    _expect(f"{found} was never active together: {together}", right=found in together)


def stay(member: Member) -> None:
    """Load and read over and over, whatever the others do with that release meanwhile."""
    with member.manager() as manager:
        plugin = manager.load(member.random.choice([MAPS, BASE]))
        files = RELEASES[f"{plugin.name} {plugin.version}"]
        try:
            for _ in range(member.random.randrange(5, 60)):
                for path, content in files.items():
                    _expect(f"{plugin.release}: {path}", right=plugin.read(path) == content)
                plugin.verify()
                time.sleep(0.005)
        except PluginManagerError as error:
            raise WrongAnswerError("what is loaded vanished") from error


def verify(member: Member) -> None:
    first = member.generation()
    report = member.manager().verify()
    if first.number == member.generation().number:
        _expect(f"verify: {report}", right=_sound(report))


def _sound(report: Report) -> bool:
    """Whether all that is here is good; what was evicted is fetched again when it is loaded."""
    return not report.records and all(
        found.good or isinstance(found.error, EvictedError) for found in report.releases
    )


def listing(member: Member) -> None:
    first = member.generation()
    found = member.manager().installed()
    seen = member.between(first, member.generation())
    right = [[active for _, active in sorted(g.active.items())] for g in seen]
    _expect(f"installed: {found}", right=found in right)


def history(member: Member) -> None:
    numbers = [generation.number for generation in member.manager().history()]
    right = bool(not numbers or numbers == list(range(numbers[0], numbers[-1] - 1, -1)))
    _expect(f"history with gaps: {numbers}", right=right)


def install(member: Member) -> Plan:
    requests = member.random.sample(
        ["acme/maps", "acme/maps==1.0", "acme/maps==2.0", "acme/base==1.0", "acme/base==2.0"], 1
    )
    return member.manager().install(*requests)


def upgrade(member: Member) -> Plan:
    return member.manager().upgrade(*member.random.choice([(), (MAPS,), (BASE,)]))


def rollback(member: Member) -> Plan:
    return member.manager().rollback(member.random.choice([MAPS, BASE]))


def unhold(member: Member) -> Plan:
    return member.manager().unhold(member.random.choice([MAPS, BASE]))


def uninstall(member: Member) -> Plan:
    return member.manager().uninstall(*member.random.choice([(MAPS,), (BASE,), (MAPS, BASE)]))


def apply(member: Member) -> Plan:
    """A plan that others may make out of date before it is carried out."""
    manager = member.manager()
    plan = manager.plan_hold(member.random.choice([MAPS, BASE]))
    time.sleep(member.random.random() / 20)
    manager.apply(plan)
    return plan


def repair(member: Member) -> None:
    report = member.manager().repair()  # holds the lock: nobody else is to blame
    _expect(f"repair: {report}", right=_sound(report))


def evict(member: Member) -> None:
    member.manager().evict(member.random.choice([1, 100_000, 300_000]))


def cleanup(member: Member) -> None:
    member.manager().cleanup(unfinished=member.random.random() < 0.5)


def storage(member: Member) -> None:
    member.manager().storage()
    member.manager().plan_cleanup()


def pin(member: Member) -> Plan:
    manager, plugin = member.manager(), member.random.choice([MAPS, BASE])
    return manager.unpin(plugin) if member.random.random() < 0.7 else manager.pin(plugin)


Operation = Callable[[Member], Plan | None]

# How often each is done, of the sum of all.
WEIGHTS: dict[Operation, int] = {
    load: 30, stay: 4, verify: 6, listing: 10, history: 3, install: 14, upgrade: 8, rollback: 8,
    unhold: 4, uninstall: 3, apply: 4, repair: 2, evict: 3, cleanup: 3, storage: 3, pin: 2,
}  # fmt: skip


@frozen
class Expected:
    """An error that is a right answer to `operations`, because of what others have done."""

    error: type[PluginManagerError]
    operations: tuple[Operation, ...]
    why: str
    says: str = ""


EXPECTED = (
    Expected(NotFoundError, (load, stay), "another process has uninstalled it", "not installed"),
    Expected(NotFoundError, (upgrade, unhold, apply, pin), "as for a load", "not installed"),
    Expected(NotFoundError, (uninstall,), "uninstalled by somebody else before", "not installed"),
    Expected(NotFoundError, (rollback,), "uninstalled, or nothing older was ever active here"),
    Expected(NoSpaceError, (evict,), "what others have loaded stays", "could be freed"),
    Expected(RefusedError, (uninstall,), "acme/maps requires acme/base", "requires acme/base"),
    Expected(RefusedError, (install,), "another process has rolled it back", "is held at"),
    Expected(RefusedError, (apply,), "another change came first", "changed since"),
)


def _expected(operation: Operation, error: PluginManagerError) -> bool:
    return any(
        type(error) is one.error and operation in one.operations and one.says in error.message
        for one in EXPECTED
    )


def attempt(member: Member, operation: Operation) -> dict[str, object]:
    """What came of doing `operation` once, to be told to the crowd's parent."""
    told: dict[str, object] = {"operation": operation.__name__}
    try:
        plan = operation(member)
    except PluginManagerError as error:
        told["outcome"] = type(error).__name__
        if not _expected(operation, error):
            told["problem"] = f"{type(error).__name__}: {error}"[:1000]
    except BaseException:
        told["outcome"] = "problem"
        told["problem"] = traceback.format_exc()[-2000:]
    else:
        told["outcome"] = "done"
        if isinstance(plan, Plan) and any(
            step.kind not in {"keep", "fetch"} for step in plan.steps
        ):
            told["made"] = [plan.base + 1, plan.action]
    return told


# --- the crowd -----------------------------------------------------------------------------------


@define
class Outcome:
    """What came of a crowd."""

    operations: int = 0
    killed: int = 0
    answers: Counter[str] = field(factory=Counter)
    problems: list[str] = field(factory=list)
    made: dict[int, str] = field(factory=dict)

    def take(self, told: Mapping[str, object]) -> None:
        """Count what a member told; two changes that became one generation are a problem."""
        self.operations += 1
        self.answers[f"{told['operation']}: {told['outcome']}"] += 1
        if "problem" in told:
            self.problems.append(f"{told['operation']}: {told['problem']}")
        if "made" in told:
            number, action = told["made"]  # type: ignore[misc]
            if number in self.made:
                self.problems.append(f"lost: generation {number} was made twice ({action})")
            self.made[number] = action


class Crowd:
    """Processes that work on `store` until there were enough operations, or a problem."""

    def __init__(
        self,
        scenario: Scenario,
        store: Path,
        processes: int,
        seed: int,
        control: Control | None = None,
    ) -> None:
        self._scenario, self._store, self._control = scenario, store, control
        self._processes = processes
        self._random = random.Random(seed)
        self._reading, self._writing = os.pipe()
        self._ending = mmap.mmap(-1, 1)
        self._stacks = store.with_name("stacks.txt")
        self._seen: dict[int, float] = {}  # when each process last told anything
        self.outcome = Outcome()

    def run(self, operations: int) -> Outcome:
        """Let `operations` be done; of a control, until the first problem."""
        outcome = self.outcome
        for _ in range(self._processes):
            self._begin()
        control = self._control
        while outcome.operations < operations:
            if control and control.seen(outcome.problems):
                break
            for told in self._news():
                outcome.take(told)
                if self._random.randrange(KILL_EVERY) == 0:
                    self._kill()
            if self._stuck() or self._died():
                break
        self._ending[0] = 1
        self._finish()
        return outcome

    def _begin(self) -> None:
        seed = self._random.getrandbits(64)
        sys.stdout.flush()
        if child := os.fork():
            self._seen[child] = time.monotonic()
            return
        status = 1
        try:
            with self._stacks.open("a") as stacks:
                logging.disable()  # that something was fetched again is no news here
                faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
                if control := self._control:
                    control.broken()
                member = Member(self._scenario, self._store, random.Random(seed))
                self._work(member)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _work(self, member: Member) -> None:
        weights = self._control.weights if self._control else WEIGHTS
        while not self._ending[0]:
            [operation] = member.random.choices(list(weights), list(weights.values()))
            told = {"process": os.getpid(), **attempt(member, operation)}
            # At most PIPE_BUF bytes, so it arrives in one piece or, from the killed, not at all.
            os.write(self._writing, json.dumps(told).encode()[:4000] + b"\n")

    def _news(self) -> Iterator[Mapping[str, object]]:
        if not select.select([self._reading], [], [], 1.0)[0]:
            return
        data = os.read(self._reading, 65536)
        while not data.endswith(b"\n"):
            data += os.read(self._reading, 65536)
        for line in data.splitlines():
            told = json.loads(line)
            if told["process"] in self._seen:
                self._seen[told["process"]] = time.monotonic()
            yield told

    def _kill(self) -> None:
        """Kill a process, at a moment that is nobody's choice, and let another come."""
        victim = self._random.choice(list(self._seen))
        del self._seen[victim]
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        self.outcome.killed += 1
        self._begin()

    def _died(self) -> bool:
        """Whether a process ended by itself."""
        child, status = os.waitpid(-1, os.WNOHANG) if self._seen else (0, 0)
        if child in self._seen:
            del self._seen[child]
            self.outcome.problems.append(f"a process died with status {status}")
            return True
        return False

    def _stuck(self) -> bool:
        """Whether a process has not told anything for too long; then its stack is kept."""
        late = time.monotonic() - PATIENCE_SECONDS
        stuck = [child for child, seen in self._seen.items() if seen < late]
        if stuck:
            for child in self._seen:
                os.kill(child, signal.SIGUSR1)
            time.sleep(1)  # they write their stacks
            self.outcome.problems.append(
                f"deadlock: {stuck} of {list(self._seen)}\n{self._stacks.read_text()}"
            )
            for child in self._seen:
                os.kill(child, signal.SIGKILL)
        return bool(stuck)

    def _finish(self) -> None:
        """Wait for all to end what they are about; hear them out, lest the pipe fills up."""
        for child in self._seen:
            self._seen[child] = time.monotonic()
        while self._seen:
            for told in self._news():
                self.outcome.take(told)
            for child in list(self._seen):
                if os.waitpid(child, os.WNOHANG)[0]:
                    del self._seen[child]
            if self._stuck():
                for child in list(self._seen):
                    os.waitpid(child, 0)
                    del self._seen[child]
        os.close(self._writing)
        while data := os.read(self._reading, 65536):
            for line in data.splitlines():
                self.outcome.take(json.loads(line))
        os.close(self._reading)


# --- afterwards ----------------------------------------------------------------------------------


def aftermath(scenario: Scenario, store: Path, outcome: Outcome) -> list[str]:
    """What is wrong with a store that a crowd has left."""
    return in_child(lambda: list(_aftermath(scenario, store, outcome)))


def _aftermath(scenario: Scenario, store: Path, outcome: Outcome) -> Iterator[str]:
    try:
        with Store(store).writing(timeout_seconds=0):
            pass
    except LockedError as error:
        yield f"the lock is held: {error}"
        return
    try:
        manager = scenario.manager(store)
        current = Store(store).current().number
        if outcome.made and current < max(outcome.made):
            yield f"lost: generation {current} is current, {max(outcome.made)} was made"
        for generation in manager.history():
            made = outcome.made.get(generation.number, generation.action)
            if made != generation.action:
                yield f"lost: generation {generation.number}: {made}, not {generation.action}"
        if not _sound(report := manager.verify()):
            yield f"verify: {report}"
        yield from load_problems(manager)
        for active in manager.installed():
            with suppress(NotFoundError, EvictedError):  # nothing older, or evicted
                manager.plan_rollback(active.release.plugin)
        manager.cleanup(unfinished=True)
        yield from (f"left over: {name}" for name in leftovers(store))
        yield from load_problems(manager)
    except PluginManagerError as error:
        yield f"{type(error).__name__}: {error}"


def leftovers(store: Path) -> list[str]:
    """What lies in `store` and belongs to no finished operation, or is too old to be kept."""
    found = [
        release
        for plugin in store.glob("releases/*/*")
        for release in sorted(plugin.iterdir(), key=_placed)[:-2]  # the active and the previous one
    ]
    found += [*store.glob("staging/*"), *store.glob("trust/staging"), *store.glob("lock-holder")]
    found += [path for path in store.rglob("*") if path.name.startswith((".tmp-", ".set-aside-"))]
    found += store.rglob("*.new")
    return sorted(path.relative_to(store).as_posix() for path in found)


def _placed(release: Path) -> int:
    return release.stat().st_ctime_ns


# --- controls: a store that is broken, which must be seen ----------------------------------------


@frozen
class Control:
    """A way to break each process, the operations that show it soonest, and what shows it."""

    name: str
    broken: Callable[[], None]
    weights: Mapping[Operation, int]
    shows: str = ""

    def seen(self, problems: Sequence[str]) -> bool:
        """Whether `problems` tell of it."""
        return any(self.shows in problem for problem in problems)


def _grant(*, directories: bool) -> None:
    """Have this process believe that it gets every lock on a directory, or on any other file."""
    flock = fcntl.flock

    def granted(file: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode) != directories:
            flock(file, operation)

    fcntl.flock = granted


def without_lock() -> None:
    """Everybody is a writer at once."""
    _grant(directories=False)


def without_leases() -> None:
    """Nobody sees that a release is loaded."""
    _grant(directories=True)


def vanish(member: Member) -> None:
    """Remove a release, whoever has it loaded."""
    releases = list(member.store.glob("releases/*/*/*"))
    shutil.rmtree(member.random.choice(releases), ignore_errors=True)


_VANISHED = "what is loaded vanished"

CONTROLS = [
    Control("without lock", without_lock, WEIGHTS),
    Control("vanishing", lambda: None, {stay: 8, vanish: 1, repair: 1}, _VANISHED),
    Control("without leases", without_leases, {install: 1, stay: 8, evict: 2}, _VANISHED),
]


# --- the battery ---------------------------------------------------------------------------------


def crowd(processes: int, operations: int, seed: int, control: Control | None = None) -> Outcome:
    """Let a crowd loose on a new store, and judge what it left; a control ends when it is seen."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name, Scenario(Path(name)) as scenario:
        store = Path(name) / "crowded"
        scenario.manager(store).install("acme/maps==1.0", "acme/base==1.0")
        outcome = Crowd(scenario, store, processes, seed, control).run(operations)
        if not control:
            outcome.problems += aftermath(scenario, store, outcome)
        return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the battery and print its figures; 1 where anything was wrong or a control missed."""
    parser = argparse.ArgumentParser(prog="crowd", description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    outcome = crowd(options.processes, options.operations, options.seed)
    seconds = time.monotonic() - began
    missed = [
        control.name
        for control in CONTROLS
        if not control.seen(crowd(8, 2000, options.seed, control).problems)
    ]
    for problem in outcome.problems[:20]:
        print(f"PROBLEM {problem}")
    for answer, count in sorted(outcome.answers.items()):
        print(f"  {answer:40} {count:8}")
    for name in missed:
        print(f"CONTROL NOT CAUGHT: {name}")
    print(
        f"crowd: {options.processes} processes, {outcome.operations} operations, "
        f"{len(outcome.made)} changes, {outcome.killed} killed, {len(outcome.problems)} problems, "
        f"{seconds:.0f} s"
    )
    return 1 if outcome.problems or missed else 0


if __name__ == "__main__":
    sys.exit(main())
