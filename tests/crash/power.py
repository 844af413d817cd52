"""Power cuts: a store on a disk of its own is cut off at random moments, again and again.

A child runs commands for ever and tells which of them ended; the parent stops the file system with
EXT4_IOC_SHUTDOWN, kills the child, mounts the disk again, which replays the journal, and judges.
What is lost is what a power cut loses: all that was not written out when it came. What the disk's
own cache would lose on top is not simulated: a write that has reached the image stays.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import re
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, Self

from attrs import define, field, frozen

from plugin_manager.errors import ConflictError, NoSpaceError, PluginManagerError, RefusedError
from plugin_manager.manager import Plan, PluginManager
from plugin_manager.store import _files
from tests.crash.scenario import (
    OFFLINE,
    RELEASES,
    Child,
    Scenario,
    copy_store,
    in_child,
    load_problems,
)

_SHUTDOWN = 0x8004587D  # linux/ext4.h: EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_PIPE_BYTES = 1 << 20  # more than a child writes in a cycle, so that it never waits for the parent

MOUNT_OPTIONS = ("", "noauto_da_alloc", "data=writeback,noauto_da_alloc", "nodelalloc")
LONGEST_SECONDS = 0.25  # from the start of a child to the cut
FRESH_EVERY = 12  # cycles on one disk, on average, before it begins anew with a first start


class Cut(IntEnum):
    """How much of the journal still reaches the disk: all data too, the names only, nothing."""

    EVERYTHING = 0
    JOURNAL = 1
    NOTHING = 2


class Disk:
    """An ext4 file system in an image in memory, mounted at `top` while it is open."""

    def __init__(self, directory: Path, size_bytes: int = 24 << 20) -> None:
        self.image = directory / "image"
        self.top = directory / "disk"
        self.size_bytes = size_bytes

    def format(self) -> None:
        """Begin with an empty disk, not mounted."""
        self.image.write_bytes(b"")
        os.truncate(self.image, self.size_bytes)
        _run("mkfs.ext4", "-q", "-F", str(self.image))
        self.top.mkdir(exist_ok=True)

    def mount(self, options: str = "") -> None:
        _run("mount", "-o", ",".join(filter(None, ("loop", options))), str(self.image), self.top)

    def unmount(self) -> None:
        _run("umount", self.top)

    def cut(self, cut: Cut) -> None:
        """Stop the file system: from here on every write and every sync fails."""
        descriptor = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", cut))
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        self.format()
        return self

    def __exit__(self, *_: object) -> None:
        if os.path.ismount(self.top):
            self.unmount()


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory where the system has one, gone afterwards."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="plugin-manager-", dir=place) as name:
        yield Path(name)


def why_not() -> str:
    """Why no disk can be cut here; "" where one can."""
    if os.geteuid() != 0:
        return "only root may mount a disk"
    with scratch() as directory:
        try:
            with Disk(directory) as disk:
                disk.mount()
                disk.cut(Cut.NOTHING)
        except OSError as error:
            return str(error)
    return ""


# --- what is there, and what was promised --------------------------------------------------------


@frozen
class State:
    """What a user of the store sees.

    `active` is version and hold of each plugin, `present` the plugins whose active release is on
    disk, `earlier` the version that each can be rolled back to offline, where it can.
    """

    number: int = 0
    active: Mapping[str, tuple[str, bool]] = field(factory=dict)
    present: frozenset[str] = frozenset()
    earlier: Mapping[str, str] = field(factory=dict)

    @property
    def essence(self) -> tuple[int, Mapping[str, tuple[str, bool]]]:
        """What tells an old state from a new one."""
        return self.number, self.active

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "active": dict(self.active),
            "present": sorted(self.present),
            "earlier": dict(self.earlier),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> State:
        active = {name: (version, held) for name, (version, held) in value["active"].items()}
        return cls(value["number"], active, frozenset(value["present"]), value["earlier"])


def observe(manager: PluginManager) -> State:
    """The state of a store that nothing is wrong with."""
    installed = manager.installed()
    earlier = {}
    for active in installed:
        plugin = active.release.plugin
        with suppress(PluginManagerError):
            [step] = manager.plan_rollback(plugin).steps
            if step.after and not step.bundle_path:  # otherwise it was evicted, and is fetched
                earlier[str(plugin)] = str(step.after.release.version)
    evicted = manager.evicted()
    return State(
        number=max((generation.number for generation in manager.history()), default=0),
        active={str(a.release.plugin): (str(a.release.version), a.held) for a in installed},
        present=frozenset(str(a.release.plugin) for a in installed if a not in evicted),
        earlier=earlier,
    )


def outcome(before: State, plan: Plan) -> State:
    """The state that carrying out `plan` must lead to."""
    active, present, earlier = dict(before.active), set(before.present), dict(before.earlier)
    for step in plan.steps:
        name = str(step.plugin)
        active.pop(name, None)
        was = earlier.pop(name, None)
        if step.after:
            active[name] = str(step.after.release.version), step.after.held
            if step.kind not in {"hold", "unhold", "keep"}:  # which leave it where it was evicted
                present.add(name)
        if step.kind in {"hold", "unhold", "keep", "fetch"} and was:
            earlier[name] = was
        if step.kind == "upgrade" and step.before and name in before.present:
            earlier[name] = str(step.before.release.version)
    changed = any(step.kind not in {"keep", "fetch"} for step in plan.steps)
    return State(before.number + changed, active, frozenset(present & active.keys()), earlier)


# --- the child: commands for ever ----------------------------------------------------------------


def _plan(manager: PluginManager, state: State, choose: random.Random) -> Callable[[], Plan] | None:
    """Some change that can be planned from `state`, or None."""
    name, version = choose.choice(sorted(RELEASES)).split()
    installed = sorted(state.active)
    match choose.choice(["install", "install", "upgrade", "upgrade", "rollback", "hold", "out"]):
        case "install":
            return lambda: manager.plan_install(f"{name}=={version}")
        case "upgrade" if installed:
            return manager.plan_upgrade
        case "rollback" if state.earlier:
            return lambda: manager.plan_rollback(choose.choice(sorted(state.earlier)))
        case "hold" if installed:
            one = choose.choice(installed)
            return lambda: manager.plan_hold(one, held=not state.active[one][1])
        case "out" if installed:
            return lambda: manager.plan_uninstall(choose.choice(installed))
    return None


def _chore(manager: PluginManager, choose: random.Random) -> tuple[str, Callable[[], object]]:
    """Something that changes no version."""
    chores: dict[str, Callable[[], object]] = {
        "repair": manager.repair,
        "update": manager.update,
        "load": lambda: _load(manager),
        "gc": lambda: manager.cleanup(unfinished=choose.choice([True, False])),
        "evict": lambda: manager.evict(choose.choice([1, 100_000, 300_000])),
    }
    name = choose.choice(sorted(chores))
    return name, chores[name]


def _load(manager: PluginManager) -> None:
    with manager:
        for active in manager.installed():
            manager.load(active.release.plugin)


def work(
    scenario: Scenario, store: Path, seed: int, tell: Callable[[dict[str, Any]], None]
) -> None:
    """Run random commands until the disk fails; `tell` what is begun, done and gone wrong."""
    choose = random.Random(seed)
    try:
        state = observe(scenario.manager(store))
        while True:
            manager = scenario.manager(store)
            if choose.random() < 0.25:
                name, run = _chore(manager, choose)
                tell({"begun": name})
                with suppress(NoSpaceError) if name == "evict" else nullcontext():
                    run()  # there may be less to evict than is wanted
            elif make := _plan(manager, state, choose):
                tell({"begun": "plan"})
                try:
                    plan = make()
                except (ConflictError, RefusedError):
                    continue
                expected = outcome(state, plan)
                tell({"begun": plan.action, "expected": expected.to_json()})
                manager.apply(plan)
            state = observe(scenario.manager(store))
            tell({"done": state.to_json()})
    except PluginManagerError as error:
        tell({"error": f"{type(error).__name__}: {error}", "at": time.monotonic()})
    except BaseException:
        tell({"raw": traceback.format_exc(), "at": time.monotonic()})


# --- the judge -----------------------------------------------------------------------------------


def judge(
    scenario: Scenario, store: Path, old: State, new: State | None, begun: str, seed: int
) -> tuple[list[str], State]:
    """What is wrong with a store after a cut, and its state.

    `old` is the state that was reported, `new` the one that `begun` was to lead to, if any.
    """
    choose = random.Random(seed)
    offline = scenario.manager(store, repository=OFFLINE)
    found = observe(offline)
    # What only fetches looks the same before and after.
    done = new is not None and new.essence != old.essence and found.essence == new.essence
    promised = new if new and done else old
    problems = []
    if found.essence != promised.essence:
        problems.append(f"{found.essence} is neither {old.essence} nor {new and new.essence}")
    problems += [f"damaged: {record}" for record in offline.verify().records]
    # What was evicted is fetched again; all else loads without the network.
    evicted = begun == "evict" or not promised.present >= found.active.keys()
    problems += load_problems(scenario.manager(store) if evicted else offline)
    for name, version in sorted(promised.earlier.items()):
        if found.earlier.get(name) == version or begun == "evict":
            continue
        try:
            offline.plan_rollback(name)
        except (ConflictError, RefusedError):
            continue
        except PluginManagerError as error:
            problems.append(f"{name} cannot go back to {version}: {error}")
        else:
            problems.append(f"{name} goes back to {found.earlier.get(name)}, not {version}")
    if not problems:
        with scratch() as directory:
            copy = directory / "store"
            copy_store(store, copy)
            problems = _life_goes_on(scenario, copy, found, choose)
    return problems, found


def _life_goes_on(
    scenario: Scenario, store: Path, state: State, choose: random.Random
) -> list[str]:
    """What goes wrong with the next commands, and what the collector leaves."""
    problems: list[str] = []
    if state.earlier:
        name = choose.choice(sorted(state.earlier))
        offline = scenario.manager(store, repository=OFFLINE)
        offline.rollback(name)
        problems += load_problems(offline)
        offline.unhold(name)
    manager = scenario.manager(store)
    manager.install("acme/maps")
    manager.upgrade()
    problems += load_problems(manager)
    manager.cleanup(unfinished=True)
    problems += [f"garbage: {name}" for name in garbage(store)]
    return problems


def garbage(store: Path) -> list[str]:
    """What a collector should not have left: files half made, and releases that nobody names."""
    records = [path.read_text() for path in (store / "generations").glob("*.json")]
    heads = {head for record in records for head in _DIGEST.findall(record)}
    found = [*store.rglob(".tmp-*"), *store.rglob("*.new"), *(store / "staging").iterdir()]
    found += [path for path in (store / "manifests").iterdir() if path.name not in heads]
    named = {head[:16] for head in heads}
    found += [
        path
        for path in (store / "releases").glob("*/*/*")
        if path.name.rpartition("-")[2] not in named
    ]
    found += [path for path in (store / "trust").iterdir() if path.name not in {"current", "sets"}]
    return sorted(str(path.relative_to(store)) for path in found)


# --- cycles --------------------------------------------------------------------------------------


@define
class Cell:
    """One disk with one store, through many cuts."""

    scenario: Scenario
    disk: Disk
    choose: random.Random
    break_it: Callable[[], None] | None = None
    options: Sequence[str] = MOUNT_OPTIONS
    cuts: Sequence[Cut] = (Cut.EVERYTHING, *[Cut.JOURNAL] * 4, *[Cut.NOTHING] * 4)
    state: State = State()
    counts: Counter[str] = field(factory=Counter)
    _mounted_with: str = ""

    @property
    def store(self) -> Path:
        return self.disk.top / "store"

    def cycle(self) -> list[str]:
        """Work, cut, mount, judge; returns what was lost."""
        if not os.path.ismount(self.disk.top) or self.choose.random() < 1 / FRESH_EVERY:
            self._begin_anew()
        cut = self.choose.choice(self.cuts)
        events, moment = self._work_and_cut(cut)
        self.disk.unmount()
        options, self._mounted_with = self._mounted_with, self.choose.choice(self.options)
        self.disk.mount(self._mounted_with)
        old, new, begun, problems = self._read(events, moment)
        seed = self.choose.getrandbits(32)
        answer = in_child(lambda: _judged(self.scenario, self.store, old, new, begun, seed))
        problems += answer["problems"]
        if problems:
            where = f"{cut.name} cut, mounted with {options or 'defaults'!r}, in {begun or 'work'}"
            problems = [f"{where}: {problem}" for problem in problems]
            self._begin_anew()
        else:
            self.state = State.from_json(answer["state"])
        self.counts[f"cut {cut.name}"] += 1
        self.counts[f"in {begun.partition(' ')[0] or 'nothing'}"] += 1
        self.counts["done"] += sum("done" in event for event in events)
        return problems

    def _begin_anew(self) -> None:
        if os.path.ismount(self.disk.top):
            self.disk.unmount()
        self.disk.format()
        self._mounted_with = self.choose.choice(self.options)
        self.disk.mount(self._mounted_with)
        self.state = State()

    def _work_and_cut(self, cut: Cut) -> tuple[list[dict[str, Any]], float]:
        """What the child told, and the moment of the cut."""
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        seed = self.choose.getrandbits(32)
        child = os.fork()
        if child == 0:
            os.close(reading)
            if self.break_it:
                self.break_it()
            work(self.scenario, self.store, seed, lambda event: _tell(writing, event))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            # Half of the cuts come any time, half soon after something began: commands think for
            # longer than they write.
            events = []
            if self.choose.random() < 0.5:
                time.sleep(self.choose.uniform(0, LONGEST_SECONDS))
            else:
                events = [pipe.readline() for _ in range(self.choose.randint(1, 10))]
                time.sleep(self.choose.uniform(0, LONGEST_SECONDS / 10))
            moment = time.monotonic()
            self.disk.cut(cut)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            events += pipe.readlines()
        return [json.loads(event) for event in events if event.endswith(b"\n")], moment

    def _read(
        self, events: Sequence[dict[str, Any]], moment: float
    ) -> tuple[State, State | None, str, list[str]]:
        """Old and new state, what was in flight, and errors that the cut does not explain."""
        old, new, begun, problems = self.state, None, "", []
        for event in events:
            if "done" in event:
                old, new, begun = State.from_json(event["done"]), None, ""
            elif "begun" in event:
                begun = event["begun"]
                new = State.from_json(event["expected"]) if "expected" in event else None
            elif "raw" in event:
                problems.append(event["raw"])
            elif event["at"] < moment:
                problems.append(f"before the cut: {event['error']}")
        return old, new, begun, problems


def _tell(pipe: int, event: dict[str, Any]) -> None:
    os.write(pipe, json.dumps(event).encode() + b"\n")


def _judged(
    scenario: Scenario, store: Path, old: State, new: State | None, begun: str, seed: int
) -> dict[str, Any]:
    try:
        problems, found = judge(scenario, store, old, new, begun, seed)
    except Exception:
        return {"problems": [traceback.format_exc()], "state": State().to_json()}
    return {"problems": problems, "state": found.to_json()}


# --- controls: stores that a power cut must be seen to break -------------------------------------


def never_sync() -> None:
    """Nothing is waited for: what was reported done is lost."""
    os.fsync = os.fdatasync = lambda _: None  # type: ignore[assignment]
    _files._syncfs = lambda: lambda _: None  # type: ignore[assignment]


def sync_names_only() -> None:
    """Directories are synced, data is not: files come back empty."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
    _files._syncfs = lambda: None  # type: ignore[assignment]


def sync_after_rename() -> None:
    """A file takes its place before its data is on disk."""
    real_fsync, real_replace = os.fsync, os.replace
    waiting: list[int] = []

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            real_fsync(descriptor)
        else:
            waiting.append(os.dup(descriptor))

    def replace(source: Path, target: Path) -> None:
        real_replace(source, target)
        time.sleep(0.05)  # the gap is real but short: wide enough to be hit by a few cuts
        while waiting:
            descriptor = waiting.pop()
            real_fsync(descriptor)
            os.close(descriptor)

    os.fsync, os.replace = fsync, replace  # type: ignore[assignment]
    _files._syncfs = lambda: None  # type: ignore[assignment]


CONTROLS: Mapping[str, Callable[[], None]] = {
    "never-sync": never_sync,
    "sync-names-only": sync_names_only,
    "sync-after-rename": sync_after_rename,
}


def caught(scenario: Scenario, directory: Path, control: str, most: int, seed: int) -> str:
    """What gave a broken store away, and by which cut; "" where nothing did."""
    # Of the journal all, of the data nothing: the state that a wrong order of writing fears most.
    options, cuts = ["noauto_da_alloc"], [Cut.JOURNAL, Cut.JOURNAL, Cut.NOTHING]
    with Disk(directory) as disk:
        cell = Cell(scenario, disk, random.Random(seed), CONTROLS[control], options, cuts)
        for number in range(1, most + 1):
            if problems := cell.cycle():
                return f"by cut {number}: {problems[0]}"
    return ""


# --- the runner ----------------------------------------------------------------------------------


def _share(scenario: Scenario, cycles: int, seed: int) -> list[Any]:
    losses: list[str] = []
    with scratch() as directory, Disk(directory) as disk:
        cell = Cell(scenario, disk, random.Random(seed))
        for _ in range(cycles):
            losses += cell.cycle()
    return [losses, cell.counts]


def run(scenario: Scenario, cycles: int, seed: int, workers: int) -> tuple[list[str], Counter[str]]:
    """Cut `cycles` times; returns what was lost, and counts of what was done."""
    shares = [cycles // workers + (index < cycles % workers) for index in range(workers)]
    children = [
        Child(partial(_share, scenario, share, seed * 1000 + index), seconds=0)
        for index, share in enumerate(shares)
    ]
    losses: list[str] = []
    counts: Counter[str] = Counter()
    for child in children:
        lost, counted = child.result()
        losses += lost
        counts.update(counted)
    return losses, counts


def main(arguments: Sequence[str]) -> int:
    """Run the battery; returns the exit code."""
    parser = argparse.ArgumentParser(prog="power", description=__doc__)
    parser.add_argument("--cycles", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--control-cycles", type=int, default=100)
    chosen = parser.parse_args(arguments)
    if reason := why_not():
        print(f"power cuts skipped: {reason}")
        return 0
    good = True
    with scratch() as directory, Scenario(directory / "world") as scenario:
        for control in CONTROLS:
            proof = caught(scenario, directory, control, chosen.control_cycles, chosen.seed)
            print(f"control {control}: {f'caught {proof}' if proof else 'NOT CAUGHT'}")
            good = good and bool(proof)
        began = time.monotonic()
        losses, counts = run(scenario, chosen.cycles, chosen.seed, chosen.workers)
        seconds = time.monotonic() - began
    for loss in losses:
        print(f"LOSS {loss}")
    print(
        f"power: {chosen.cycles} cuts, {len(losses)} losses, {counts['done']} commands done, "
        f"{seconds:.0f} s, seed {chosen.seed}; "
        + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if name != "done")
    )
    return 0 if good and not losses else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
