"""Faults: the disk refuses, at each call in turn; or it is full; or its own writing fails.

Each operation is traced once, then run again for every call that changes the disk, with that call
failing by strace's injection: the call is not made, and the process sees the error. Disks that are
really full, and one that accepts data it cannot keep, are real.

Whatever fails, the command ends with an error of this package that says what to do, or it
succeeds; what was active still loads, and the same command then succeeds.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from plugin_manager import durable
from plugin_manager.cli._output import EXIT_CODES, exit_code
from plugin_manager.errors import PluginManagerError
from plugin_manager.store import Kept, Resident, Store
from tests.crash import power
from tests.crash.kills import Point, points, run_under_strace, stopped, unfit
from tests.crash.power import Disk, scratch
from tests.crash.scenario import (
    OPERATIONS,
    Child,
    Scenario,
    content_digest,
    copy_store,
    in_child,
    judge,
    load_problems,
)

CALLS = {
    "openat", "write", "writev", "pwrite64", "fsync", "fdatasync", "syncfs", "ftruncate", "rename",
    "renameat", "renameat2", "mkdir", "mkdirat", "link", "linkat", "unlink", "unlinkat", "rmdir",
    "chmod", "fchmod", "fchmodat", "ioctl", "read", "pread64", "getdents64", "flock", "fallocate",
    "copy_file_range", "utimensat",
}  # fmt: skip
# What a file system without room does not refuse: it only reads, or gives room back.
_TAKES_NO_ROOM = {
    "unlink", "unlinkat", "rmdir", "chmod", "fchmod", "fchmodat", "read", "pread64", "getdents64",
    "flock", "utimensat",
}  # fmt: skip
# Python makes these again when a signal interrupts them (PEP 475), so nobody may notice.
_RESTARTED = {
    "openat", "write", "writev", "pwrite64", "fsync", "fdatasync", "ftruncate", "fchmod", "read",
    "pread64",
}  # fmt: skip
_SYNCS = {"fsync", "fdatasync", "syncfs"}
_OPENDIR = "O_NONBLOCK|O_CLOEXEC|O_DIRECTORY"  # by the C library, which starts nothing again
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_DESCRIPTOR = re.compile(r"^\d+<(.*?)>")
_QUOTED = re.compile(r'"([^"]*)"')
_EVICTED = {Kept.ACTIVE, Kept.PREVIOUS, Kept.UNDO}  # what goes for want of room alone
_ATTEMPTS = 3  # a call of one run need not come in another (reads of the network)
_TOLD_BYTES = 1 << 16
_SETS = 2  # of metadata that may stay: the current one, and the one before for its readers


@frozen
class Fault:
    """The n-th call of a name fails with `error`, such as "EIO"."""

    point: Point
    error: str

    def __str__(self) -> str:
        return f"{self.point.name} #{self.point.number} {self.error}"

    @property
    def option(self) -> str:
        """What strace is told."""
        return f"inject={self.point.name}:error={self.error}:when={self.point.number}"


def faults(every: Sequence[Point]) -> list[Fault]:
    """The faults that the calls of a run can meet."""
    found = []
    for point in every:
        if point.name in CALLS:
            found.append(Fault(point, "EIO"))
            if point.name not in _TAKES_NO_ROOM and (point.name != "openat" or point.writes):
                found.append(Fault(point, "ENOSPC"))
            if point.name in _RESTARTED:
                found.append(Fault(point, "EINTR"))
    return found


# --- one run -------------------------------------------------------------------------------------


@frozen
class Ending:
    """How a command ended: `family` is an error's, "" where it succeeded, or "raw"."""

    family: str = ""
    message: str = ""
    remedy: str = ""
    code: int = 0

    def problems(self) -> Iterator[str]:
        """What is wrong with ending like this, whatever the fault was."""
        if self.family == "raw":
            yield f"a raw error: {self.message}"
        elif self.family and not self.remedy:
            yield f"an error without a remedy: {self.message}"
        elif self.family and self.code not in set(EXIT_CODES.values()) - {EXIT_CODES["error"]}:
            yield f"exit code {self.code} is not documented: {self.message}"


def ending(work: Callable[[], object]) -> Ending:
    """Do `work` and say how it ended."""
    try:
        work()
    except PluginManagerError as error:
        return Ending(error.family, error.message, error.remedy, exit_code(error))
    except BaseException:
        return Ending("raw", traceback.format_exc())
    return Ending()


class Told:
    """Memory shared with a child, which can tell how it ended without any system call."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _TOLD_BYTES)

    def tell(self, work: Callable[[], object]) -> None:
        end = ending(work)
        words = [end.family, end.message[:20_000], end.remedy[:2_000], end.code]
        data = json.dumps(words).encode()
        self._memory[: len(data) + 1] = data + b"\n"

    def ending(self) -> Ending:
        self._memory.seek(0)
        return Ending(*json.loads(self._memory.readline()))


def retried_syncs(log: Sequence[str]) -> list[str]:
    """What was synced again, or put into place, after its sync had failed.

    The kernel may have dropped what it could not write: a second sync says "fine" all the same.
    """
    failed: list[str] = []
    found = []
    for line in log:
        match = _CALL.match(line)
        if not match:
            continue
        name, arguments, result = match.groups()
        if name in _SYNCS:
            path = _DESCRIPTOR.match(arguments)
            if path and int(result) < 0 and " EINTR " not in line:
                failed.append(path[1])
            elif path and path[1] in failed:
                found.append(f"synced again: {path[1]}")
        elif name.startswith("rename") and int(result) == 0:
            source, target = _QUOTED.findall(arguments)[:2]
            aside = Path(target).name.startswith(".")
            if not aside and any(Path(path).is_relative_to(source) for path in failed):
                found.append(f"put into place: {target}")
    return found


def _after_the_switch(log: Sequence[str]) -> bool:
    """Whether the fault was met when the change was durable, and only garbage was left to remove.

    What still belongs to the switch is the sync of the directory that holds `current`.
    """
    switched = ""
    for line in log:
        if line.endswith("(INJECTED)"):
            path = _DESCRIPTOR.match(line.partition("(")[2])
            return bool(switched) and path is not None and path[1] != switched
        match = _CALL.match(line)
        if match and match[1].startswith("rename") and int(match[3]) == 0:
            target = Path(_QUOTED.findall(match[2])[1])
            if target.name == "current" and target.parent.name == "store":
                switched = str(target.parent)
    return False


@define
class Bench:
    """One operation, run again and again in fresh copies of its template, each time with a fault.

    Stores that hold the same bytes are judged once.
    """

    scenario: Scenario
    operation: str
    store: Path
    break_it: Callable[[], None] = lambda: None
    evicted: list[str] = field(factory=list)
    endings: Counter[str] = field(factory=Counter)
    missed: list[str] = field(factory=list)
    _verdicts: dict[str, list[str]] = field(factory=dict)

    def run(self) -> None:
        """The operation; in a child."""
        self.break_it()
        manager = self.scenario.manager(self.store)
        housekeeping = manager._parts.housekeeping
        evict = housekeeping.evict

        def noting(residents: Sequence[Resident]) -> list[Resident]:
            gone = evict(residents)
            self.evicted += [str(one.release) for one in gone if one.kept in _EVICTED]
            return gone

        if self.operation != "evict":  # which is there to evict
            housekeeping.evict = noting  # type: ignore[method-assign]
        OPERATIONS[self.operation].run(manager)

    def fresh(self) -> None:
        """The store as it was before."""
        shutil.rmtree(self.store, ignore_errors=True)
        copy_store(self.scenario.template(self.operation), self.store)

    def trace(self) -> list[Point]:
        """The calls of a run that nothing disturbs."""
        self.fresh()
        log = self.store.with_name(f"{self.store.name}.log")
        code = run_under_strace(stopped(self.run), "-o", str(log))
        assert code == 0, f"undisturbed, {self.operation} ended with {code}"
        return points(log.read_text(errors="replace").splitlines())

    def problems(self, fault: Fault) -> list[str]:
        """What is wrong after `fault`."""
        for _ in range(_ATTEMPTS):
            self.fresh()
            end, log = self._meet(fault)
            if met := [line for line in log if line.endswith("(INJECTED)")]:
                break
        else:
            self.missed.append(str(fault))
            return []
        if str(self.store) not in met[0]:
            self.endings["elsewhere"] += 1  # a file of the interpreter or the system: not ours
            return []
        self.endings[f"{fault.error} {end.family or 'done'}"] += 1
        found = list(end.problems())
        # The index can be made anew from the rest, so that its own faults may pass unnoticed.
        if str(self.store / "index") not in met[0]:
            if fault.error != "EINTR" or _OPENDIR not in met[0]:
                found += self._as_faulty(fault, end, tidying=_after_the_switch(log))
            found += retried_syncs(log)
        found += self.judged()
        return [f"{self.operation}, {fault}, {met[0]}: {problem}" for problem in found]

    def _meet(self, fault: Fault) -> tuple[Ending, list[str]]:
        told = Told()
        log = self.store.with_name(f"{self.store.name}.log")
        traced = ",".join({fault.point.name, *_SYNCS, "rename", "renameat", "renameat2"})
        options = ("-y", "-o", str(log), "-e", f"trace={traced}", "-e", fault.option)
        run_under_strace(stopped(lambda: told.tell(self.run)), *options)
        return told.ending(), log.read_text(errors="replace").splitlines()

    def _as_faulty(self, fault: Fault, end: Ending, *, tidying: bool) -> Iterator[str]:
        """What is wrong with ending like this after this fault.

        `tidying`: it met what comes after the change, which is done whatever becomes of that.
        """
        if fault.error == "EINTR" and fault.point.name in _RESTARTED and end.family:
            yield f"an interruption was not hidden: {end.message}"
        if fault.error != "EINTR" and fault.point.name in _SYNCS and not (end.family or tidying):
            yield "reported done, though a sync failed"
        if fault.error == "ENOSPC" and end.family not in {"", "no-space", "raw"}:
            yield f"a full disk was called {end.family}: {end.message}"
        if not end.family:
            yield from self.unfinished()

    def unfinished(self) -> Iterator[str]:
        """What is not as the operation leaves it, though it reported success."""
        manager = self.scenario.manager(self.store)
        active = {str(a.release.plugin): str(a.release.version) for a in manager.installed()}
        if active != self.scenario.reference(self.operation).after.active:
            yield f"reported done, but active is {active}"

    def judged(self) -> list[str]:
        """What the common judge says of the store, which it uses up."""
        digest = content_digest(self.store)
        if digest not in self._verdicts:
            found = judge(self.scenario, self.store, self.operation)
            if len(list((self.store / "trust/sets").glob("*"))) <= _SETS:
                found = [problem for problem in found if "run: trust/sets/" not in problem]
            self._verdicts[digest] = found
        return self._verdicts[digest]


# --- disks that are full -------------------------------------------------------------------------


@contextmanager
def mounted_memory(directory: Path, size_bytes: int) -> Iterator[Path]:
    """`directory` as a file system in memory of `size_bytes`."""
    directory.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", directory], check=True
    )
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def resize(directory: Path, size_bytes: int) -> None:
    """Make a file system in memory larger or smaller."""
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", directory], check=True)


def room_taken_meanwhile() -> None:
    """Let the disk be filled by somebody else after the room was asked for."""
    Store.require_room = lambda self, write_bytes: None  # type: ignore[method-assign]


def used_bytes(directory: Path) -> int:
    status = os.statvfs(directory)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def full_disk(bench: Bench, directory: Path, room_bytes: int) -> list[str]:
    """What is wrong after running on a disk that has `room_bytes` left."""
    plenty = 64 << 20
    with mounted_memory(directory, plenty) as disk:
        bench.store = disk / "store"
        bench.fresh()
        page = os.sysconf("SC_PAGE_SIZE")
        resize(disk, max(used_bytes(disk) + room_bytes, page))
        end, evicted = in_child(lambda: (_ending_words(bench), bench.evicted))
        found = _refused(end, {"", "no-space"})
        if end[0] or evicted:
            found += _still_loads(bench)
        resize(disk, plenty)
        found += [] if end[0] else bench.unfinished()
        # What had to go for it was told, and is no longer there as after an undisturbed run.
        found += [] if evicted else bench.judged()
    bench.endings[f"full {end[0] or 'done'}"] += 1
    return [f"{bench.operation}, {room_bytes} bytes left: {problem}" for problem in found]


def _ending_words(bench: Bench) -> list[Any]:
    end = ending(bench.run)
    return [end.family, end.message, end.remedy, end.code]


def _refused(end: Sequence[Any], families: set[str]) -> list[str]:
    found = list(Ending(*end).problems())
    if not found and end[0] not in families:
        found.append(f"ended as {end[0]}: {end[1]}")
    return found


def _still_loads(bench: Bench) -> list[str]:
    """What does not load while the disk is still as it is."""
    damaged = OPERATIONS[bench.operation].damaged
    manager = bench.scenario.manager(bench.store)
    found: list[str] = in_child(lambda: list(load_problems(manager, damaged=damaged)))
    return [f"before anything is mended: {problem}" for problem in found]


def short_writes(bench: Bench, largest_bytes: int) -> list[str]:
    """What is wrong after running with no file allowed to grow beyond `largest_bytes`.

    The write that crosses the bound is short; the next one fails.
    """
    bench.fresh()
    sound = bench.break_it

    def bounded() -> None:
        sound()
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes, hard))

    bench.break_it = bounded
    try:
        told = Told()
        Child(lambda: told.tell(bench.run)).result()
        end = told.ending()
    finally:
        bench.break_it = sound
    found = list(end.problems())
    found += _still_loads(bench) if end.family else bench.unfinished()
    found += bench.judged()
    bench.endings[f"short {end.family or 'done'}"] += 1
    return [f"{bench.operation}, files of {largest_bytes} bytes: {p}" for p in found]


def failing_writeback(bench: Bench, directory: Path, room_bytes: int) -> list[str]:
    """What is wrong after running on a disk that takes data and fails to write it out.

    The disk's image lies in memory that has `room_bytes` left.
    """
    with mounted_memory(directory, 128 << 20) as memory:
        disk = Disk(memory)
        disk.format()
        disk.mount()
        try:
            bench.store = disk.top / "store"
            bench.fresh()
            os.sync()
            resize(memory, used_bytes(memory) + room_bytes)
            end = in_child(partial(_ending_words, bench))
            found = _refused(end, {"", "no-space", "store"})
            resize(memory, 128 << 20)
            # What the kernel holds in memory is no longer what the disk has: see what that is.
            disk.cut(power.Cut.NOTHING)
            disk.unmount()
            disk.mount()
            found += [] if end[0] else bench.unfinished()
            found += bench.judged()
        finally:
            disk.unmount()
    bench.endings[f"writeback {end[0] or 'done'}"] += 1
    return [f"{bench.operation}, writing out {room_bytes} bytes: {problem}" for problem in found]


# --- controls: stores that faults must be seen to break ------------------------------------------


def sync_again() -> None:
    """A failed fsync is tried once more, which then says "fine"."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        try:
            real(descriptor)
        except OSError:
            real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


def ignore_syncs() -> None:
    """A failed fsync is ignored."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        with suppress(OSError):
            real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


def ignore_writes() -> None:
    """A write that failed counts as done."""
    real = os.pwrite

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        try:
            return real(descriptor, data, offset)
        except OSError:
            return len(data)

    os.pwrite = pwrite  # type: ignore[assignment]


def pass_errors_on() -> None:
    """The system's errors reach the user as they are."""

    @contextmanager
    def nothing(_: Path) -> Iterator[None]:
        yield

    sound = durable.disk_errors
    for name, module in list(sys.modules.items()):
        if name.startswith("plugin_manager") and getattr(module, "disk_errors", None) is sound:
            module.disk_errors = nothing  # type: ignore[attr-defined]


CONTROLS: Mapping[str, tuple[Callable[[], None], str, str]] = {
    "sync-again": (sync_again, "fsync", "EIO"),
    "ignore-syncs": (ignore_syncs, "fsync", "EIO"),
    "ignore-writes": (ignore_writes, "pwrite64", "ENOSPC"),
    "pass-errors-on": (pass_errors_on, "fsync", "EIO"),
}
"""What is broken, and the call and the error that show it."""


def caught(scenario: Scenario, directory: Path, control: str) -> str:
    """What gave a broken variant of `upgrade` away; "" where nothing did."""
    break_it, call, error = CONTROLS[control]
    bench = Bench(scenario, "upgrade", directory / f"control-{control}", break_it)
    every = [f for f in faults(bench.trace()) if (f.point.name, f.error) == (call, error)]
    return next((found[0] for fault in every if (found := bench.problems(fault))), "")


# --- the runner ----------------------------------------------------------------------------------

ROOMS = range(0, 900_000, 4096)
SIZES = (0, 1, 100, 1000, 4095, 4096, 4097, *range(10_000, 160_000, 7_000))
WRITEBACKS = range(0, 1_500_000, 60_000)


def _task(
    scenario: Scenario, operation: str, tasks: Sequence[tuple[str, Any]], place: Path
) -> list[Any]:
    """The problems that one worker finds at its share of `tasks`, and its counts."""
    place.mkdir(exist_ok=True)
    bench = Bench(scenario, operation, place / "store")
    cramped = Bench(scenario, operation, place / "store", room_taken_meanwhile)
    found: list[str] = []
    for kind, value in tasks:
        bench.store = cramped.store = place / "store"
        match kind:
            case "fault":
                found += bench.problems(value)
            case "room":
                # Every fourth time as it is: asked in advance, the disk says that it is too small.
                chosen = bench if value % (4 * 4096) == 0 else cramped
                found += full_disk(chosen, place / "disk", value)
            case "size":
                found += short_writes(bench, value)
            case "writeback":
                found += failing_writeback(cramped, place / "memory", value)
    return [found, bench.endings + cramped.endings, bench.missed]


def tasks_of(scenario: Scenario, operation: str, directory: Path) -> list[tuple[str, Any]]:
    """Everything that is tried with one operation."""
    bench = Bench(scenario, operation, directory / "trace")
    found: list[tuple[str, Any]] = [("fault", fault) for fault in faults(bench.trace())]
    found += [("room", room) for room in ROOMS]
    found += [("size", size) for size in SIZES]
    if not power.why_not():
        found += [("writeback", room) for room in WRITEBACKS]
    return found


def run(
    scenario: Scenario,
    operation: str,
    tasks: Sequence[tuple[str, Any]],
    directory: Path,
    workers: int,
) -> tuple[list[str], Counter[str], list[str]]:
    """The problems found, how the commands ended, and the faults that did not come about."""
    children = [
        Child(
            partial(
                _task, scenario, operation, tasks[index::workers], directory / f"worker-{index}"
            ),
            seconds=0,
        )
        for index in range(workers)
    ]
    problems: list[str] = []
    endings: Counter[str] = Counter()
    missed: list[str] = []
    for child in children:
        found, ended, not_met = child.result()
        problems += found
        endings.update(ended)
        missed += not_met
    return problems, endings, missed


def why_not() -> str:
    """Why no faults can be made here; "" where they can."""
    if reason := unfit():
        return reason
    return "" if os.geteuid() == 0 else "only root may mount a disk"


def main(arguments: Sequence[str]) -> int:
    """Run the battery; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash faults", description=__doc__)
    parser.add_argument("--operations", help=f"of {','.join(OPERATIONS)}; default: all")
    parser.add_argument("--kinds", default="fault,room,size,writeback", help="default: all")
    parser.add_argument("--sample", type=int, metavar="N", help="only N of each operation")
    parser.add_argument("--seed", type=int, default=0, help="of the sample; default 0")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args(arguments)
    if reason := why_not():
        print(f"faults cannot be tried: {reason}", file=sys.stderr)
        return 1
    names = chosen.operations.split(",") if chosen.operations else list(OPERATIONS)
    chance, count, failures = random.Random(chosen.seed), 0, 0
    with scratch() as directory, Scenario(directory / "world") as scenario:
        for control in CONTROLS:
            proof = caught(scenario, directory, control)
            print(f"control {control}: {f'caught: {proof}' if proof else 'NOT CAUGHT'}")
            failures += not proof
        for name in names:
            began = time.monotonic()
            tasks = [t for t in tasks_of(scenario, name, directory) if t[0] in chosen.kinds]
            if chosen.sample is not None:
                tasks = chance.sample(tasks, min(chosen.sample, len(tasks)))
            problems, endings, missed = run(scenario, name, tasks, directory, chosen.workers)
            for problem in problems:
                print(f"LOSS {problem}")
            print(
                f"{name}: {len(tasks)} faults, {len(problems)} problems, {len(missed)} not met, "
                f"{time.monotonic() - began:.0f} s; "
                + ", ".join(f"{end} {times}" for end, times in sorted(endings.items())),
                flush=True,
            )
            count += len(tasks)
            failures += len(problems)
    print(f"faults: {count} tried, {failures} problems")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
