"""Every kill point: SIGKILL before each system call of each operation, and what is left then.

A system call is a point: what a process has done to the disk changes nowhere else. Each operation
is traced once; then, for every name and n, a fresh process runs it and strace kills it as it enters
its n-th call of that name. (`when=` counts calls of one name, in one thread.) Only a process that
died by SIGKILL counts.

A kill keeps what the kernel holds in memory; power cuts are another battery.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from attrs import asdict, define, field, frozen

from plugin_manager import PluginManager
from tests.crash.controls import CONTROLS
from tests.crash.scenario import (
    OPERATIONS,
    Child,
    Scenario,
    content_digest,
    copy_store,
    judge,
)

__all__ = [
    "Point",
    "Result",
    "Tally",
    "main",
    "points",
    "run_under_strace",
    "stopped",
    "sweep",
    "unfit",
]

_ATTEMPTS = 3  # how often a call is awaited that one run makes and another does not (poll, recv)
_SHOWN = 20  # losses are told in full; more of them say the same
_CALL = re.compile(r"^(?:(\d+) +)?(\w+)\((.*)")
_WRITING = re.compile(
    r"f?chmod(at)?|f(data)?sync|syncfs|f?truncate|link(at)?|mkdir(at)?|rename(at2?)?|rmdir|unlink(at)?"
    r"|symlink(at)?|utimensat|p?writev?2?|pwrite64|copy_file_range|fallocate"
)


@frozen
class Point:
    """The n-th call of one name in a run; `writes`: it may change what is on the disk."""

    name: str
    number: int
    writes: bool = False
    arguments: str = field(default="", eq=False)  # as they were in the traced run

    def __str__(self) -> str:
        return f"{self.name} #{self.number} ({self.arguments})"


@frozen
class Result:
    """What a kill at a point left: `problems`; `died` False: the call did not come."""

    point: Point
    died: bool
    problems: tuple[str, ...] = ()


@define
class Tally:
    """The figures of one operation."""

    operation: str
    points: int = 0
    died: int = 0
    states: int = 0
    seconds: float = 0.0
    losses: list[str] = field(factory=list)
    missed: list[str] = field(factory=list)

    def __str__(self) -> str:
        return (
            f"{self.operation}: {self.points} points, {self.died} died, {self.states} different "
            f"states, {len(self.losses)} losses, {self.seconds:.0f} s"
        )


def unfit() -> str:
    """Why kill points cannot be tried here; empty where they can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    try:
        process = stopped(lambda: None)
        run_under_strace(process, "-o", os.devnull)
    except RuntimeError as error:
        return str(error)
    return ""


# --- one process ---------------------------------------------------------------------------------


def stopped(work: Callable[[], object]) -> int:
    """A forked process that has stopped itself, and does `work` once it goes on."""
    process = os.fork()
    if not process:
        status = 1
        try:
            logging.disable(logging.WARNING)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            status = 0
        except BaseException as error:  # told, and then the process ends
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(status)
    os.waitpid(process, os.WUNTRACED)
    return process


def run_under_strace(process: int, *options: str) -> int:
    """Let a stopped process go on under strace; returns its exit code, negative for a signal."""
    command = ["strace", "-f", "-p", str(process), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr
        said = strace.stderr.readline()
        if "attached" not in said:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise RuntimeError(f"strace cannot attach: {said.strip()}")
        os.kill(process, signal.SIGCONT)
        _, status = os.waitpid(process, 0)
        strace.stderr.read()
    return os.waitstatus_to_exitcode(status)


def points(trace: Iterable[str]) -> list[Point]:
    """The points of a run in order, from what `strace -f` wrote; of threads the busiest counts."""
    counts: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, int], Point] = {}
    for line in trace:
        if match := _CALL.match(line):
            thread, name, arguments = match.groups()
            counts[thread, name] += 1
            number = counts[thread, name]
            writes = bool(_WRITING.fullmatch(name)) or "O_CREAT" in arguments
            found.setdefault((name, number), Point(name, number, writes, arguments[:200]))
    return list(found.values())


def _trace(work: Callable[[], object], directory: Path) -> list[Point]:
    output = directory / f"trace-{os.getpid()}"
    code = run_under_strace(stopped(work), "-o", str(output))
    assert code == 0, f"undisturbed, but under strace, the operation ended with {code}"
    found = points(output.read_text(errors="replace").splitlines())
    output.unlink()
    return found


def _kill(work: Callable[[], object], point: Point) -> bool:
    """Run `work` and kill it at `point`; returns whether it died there."""
    inject = f"inject={point.name}:signal=SIGKILL:when={point.number}"
    options = ("-o", os.devnull, "-e", f"trace={point.name}", "-e", inject)
    return run_under_strace(stopped(work), *options) == -signal.SIGKILL


# --- many ----------------------------------------------------------------------------------------


@define
class _Sweeper:
    """Kills one operation at many points, each time in a fresh copy of `template`.

    Stores that hold the same bytes are judged once: most calls only read.
    """

    scenario: Scenario
    operation: str
    template: Path
    store: Path
    work: Callable[[PluginManager], object]
    patch: Callable[[], None] = lambda: None
    verdicts: dict[str, tuple[str, ...]] = field(factory=dict)

    def _run(self) -> None:
        self.patch()
        self.work(self.scenario.manager(self.store))

    def _fresh(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        copy_store(self.template, self.store)

    def trace(self) -> list[Point]:
        """The points of an undisturbed run."""
        self._fresh()
        return _trace(self._run, self.store.parent)

    def kill(self, point: Point) -> bool:
        """Leave in `store` what a kill at `point` leaves; returns whether the process died."""
        for _ in range(_ATTEMPTS):
            self._fresh()
            if _kill(self._run, point):
                return True
        return False

    def result(self, point: Point) -> Result:
        died = self.kill(point)
        digest = content_digest(self.store)
        if digest not in self.verdicts:
            self.verdicts[digest] = tuple(judge(self.scenario, self.store, self.operation))
        return Result(point, died, self.verdicts[digest])


def _shared(
    sweeper: Callable[[int], _Sweeper], chosen: Sequence[Point], workers: int
) -> tuple[list[Result], int]:
    """The results of all `chosen` points, by several processes; and how many states there were."""

    def work(index: int) -> list[object]:
        mine = sweeper(index)
        results = [mine.result(point) for point in chosen[index::workers]]
        return [[asdict(result) for result in results], list(mine.verdicts)]

    children = [Child(partial(work, index), seconds=0) for index in range(workers)]
    results, states = [], set()
    for child in children:
        told, digests = child.result()
        states.update(digests)
        results += [
            Result(Point(**one["point"]), one["died"], tuple(one["problems"])) for one in told
        ]
    return results, len(states)


def _sweeper(
    scenario: Scenario, operation: str, index: int, patch: Callable[[], None] = lambda: None
) -> _Sweeper:
    store = scenario.directory / f"store-{index}"
    template = scenario.template(operation)
    return _Sweeper(scenario, operation, template, store, OPERATIONS[operation].run, patch)


def sweep(
    scenario: Scenario,
    operation: str,
    *,
    choose: Callable[[list[Point]], list[Point]] = list,
    workers: int = 1,
    patch: Callable[[], None] = lambda: None,
) -> Tally:
    """Kill `operation` at the points that `choose` picks of all; `patch` breaks it first."""
    started, tally = time.monotonic(), Tally(operation)
    chosen = choose(_sweeper(scenario, operation, 0, patch).trace())
    make = partial(_sweeper, scenario, operation, patch=patch)
    results, tally.states = _shared(make, chosen, workers)
    _count(tally, results, "")
    tally.seconds = time.monotonic() - started
    return tally


def _count(tally: Tally, results: Sequence[Result], where: str) -> None:
    tally.points += len(results)
    tally.died += sum(result.died for result in results)
    for result in results:
        place = f"{tally.operation}, {where}{result.point}"
        if not result.died:
            tally.missed.append(place)
        if result.problems:
            tally.losses.append(f"{place}: {'; '.join(result.problems)}")


def recovery(manager: PluginManager, operation: str) -> None:
    """What follows a crash: the same command once more, then a cleanup."""
    OPERATIONS[operation].run(manager)
    manager.cleanup(unfinished=True)


def sweep_recovery(
    scenario: Scenario,
    operation: str,
    *,
    firsts: int,
    choose: Callable[[list[Point]], list[Point]] = list,
    chance: random.Random,
    workers: int = 1,
) -> Tally:
    """Kill `operation` at `firsts` writing points, and each recovery at all of its writing points.

    The first kills are those that leave different stores.
    """
    started, tally = time.monotonic(), Tally(f"{operation}, twice")
    first = _sweeper(scenario, operation, 0)
    writing = [point for point in first.trace() if point.writes]
    chance.shuffle(writing)
    seen: set[str] = set()
    for point in writing:
        if len(seen) == firsts:
            break
        assert first.kill(point), point
        digest = content_digest(first.store)
        if digest in seen:
            continue
        seen.add(digest)
        template = scenario.directory / "killed-once"
        copy_store(first.store, template)

        def second(index: int, template: Path = template) -> _Sweeper:
            store = scenario.directory / f"store-{index}"
            again = partial(recovery, operation=operation)
            return _Sweeper(scenario, operation, template, store, again)

        chosen = choose([point for point in second(0).trace() if point.writes])
        results, states = _shared(second, chosen, workers)
        tally.states += states
        _count(tally, results, f"{point}, then ")
        shutil.rmtree(template)
    tally.seconds = time.monotonic() - started
    return tally


def run_control(scenario: Scenario, control: str, *, workers: int = 1) -> Tally:
    """Kill a broken variant where it goes over to the new state: losses are what must be found."""
    broken = CONTROLS[control]
    tally = sweep(
        scenario, broken.operation, choose=_around_the_switch, workers=workers, patch=broken.patch
    )
    tally.operation = f"control {control}"
    return tally


def _around_the_switch(every: list[Point]) -> list[Point]:
    writing = [point for point in every if point.writes]
    names = re.compile(r'(?<!/trust)/current"')
    first = next(index for index, point in enumerate(writing) if names.search(point.arguments))
    return writing[max(0, first - 2) : first + 10]


# --- the command ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the battery; 1: a loss, many missed kills, a control not caught; 2: not possible here."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash kills", description=__doc__)
    parser.add_argument("--operations", help=f"of {','.join(OPERATIONS)}; default: all")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="only each K-th point")
    parser.add_argument("--sample", type=int, metavar="N", help="only N points of each operation")
    parser.add_argument("--seed", type=int, default=0, help="of the sample; default 0")
    parser.add_argument("--twice", type=int, default=6, metavar="N", help="recoveries to kill too")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-controls", action="store_true", help="leave the broken variants out")
    parser.add_argument("--json", action="store_true", help="one line of JSON at the end")
    options = parser.parse_args(arguments)
    if reason := unfit():
        print(f"kill points cannot be tried: {reason}", file=sys.stderr)
        return 2
    names = options.operations.split(",") if options.operations else list(OPERATIONS)
    chance = random.Random(options.seed)

    def choose(every: list[Point]) -> list[Point]:
        if options.sample is not None:
            return chance.sample(every, min(options.sample, len(every)))
        return every[:: options.every]

    memory = Path("/dev/shm")
    workers = options.workers
    tallies, controls = [], []
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory,
        Scenario(Path(directory)) as scenario,
    ):
        for name in names:
            tallies.append(sweep(scenario, name, choose=choose, workers=workers))
            print(tallies[-1], flush=True)
            if options.twice:
                tallies.append(
                    sweep_recovery(
                        scenario,
                        name,
                        firsts=options.twice,
                        choose=choose,
                        chance=chance,
                        workers=workers,
                    )
                )
                print(tallies[-1], flush=True)
        for name in () if options.no_controls else CONTROLS:
            controls.append(run_control(scenario, name, workers=workers))
            print(controls[-1], flush=True)
    return _report(tallies, controls, as_json=options.json)


def _report(tallies: Sequence[Tally], controls: Sequence[Tally], *, as_json: bool) -> int:
    losses = [loss for tally in tallies for loss in tally.losses]
    missed = [place for tally in tallies for place in tally.missed]
    uncaught = [tally.operation for tally in controls if not tally.losses]
    for loss in losses[:_SHOWN]:
        print(f"LOSS {loss}")
    for place in missed[:_SHOWN]:
        print(f"did not die: {place}")
    for control in uncaught:
        print(f"not caught: {control}")
    count, died = sum(t.points for t in tallies), sum(t.died for t in tallies)
    print(
        f"kills: {count} points, {died} died, {len(losses)} losses; "
        f"{len(controls) - len(uncaught)} of {len(controls)} broken variants caught"
    )
    if as_json:
        print(json.dumps([asdict(tally) for tally in (*tallies, *controls)]))
    # A few calls depend on timing (poll, recv): where they do not come, there is no such point.
    return 1 if losses or uncaught or len(missed) > count // 100 else 0
