"""Every bit of every file of a small store flipped, one at a time; then torn blocks.

The store holds two releases of one plugin, the previous and the active one, with all that belongs
to them: generations, heads, two sets of metadata. After each flip the operations that read the
file must give exactly what was published, or refuse with an error that says that the store is
corrupt or not vouched for. Never anything else, and nothing on the disk may have changed by it.
Samples are repaired as well.

Each operation begins with a new manager, so nothing is believed because it was good before; and
each file has a child process of its own, with a copy of the store.
"""

from __future__ import annotations

import argparse
import mmap
import os
import pickle
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

from attrs import define, evolve, field, frozen
from blake3 import blake3

from plugin_manager import PluginManager
from plugin_manager.bundle import Head, read_head
from plugin_manager.catalogue import Catalogue
from plugin_manager.errors import CorruptError, NotFoundError, UntrustedError
from plugin_manager.loader import LoadedPlugin
from plugin_manager.loader import load as load_release
from plugin_manager.manager import _loading
from plugin_manager.manifest import render as render_manifest
from plugin_manager.model import bytecode_tag
from plugin_manager.publishing import serve
from plugin_manager.settings import Settings
from plugin_manager.store import (
    Active,
    Housekeeping,
    Record,
    Store,
    _chunks,
    _contents,
    _generations,
)
from plugin_manager.store._contents import Contents, contents_of
from plugin_manager.trust import Vouching, _judge, _sets
from tests.crash.scenario import copy_store, in_child
from tests.world import World

PLUGIN = "acme/tiny"
INDEX = "index"
BLOCKS_BYTES = (512, 4096)
# What disks do is simulated here.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class WrongAnswerError(Exception):
    """An operation gave something that was never published or recorded."""


# --- the store under test ----------------------------------------------------------------------


@frozen
class Release:
    """A release as it is when nothing is wrong with it."""

    active: Active
    manifest: bytes
    files: Mapping[str, bytes]
    place: str
    """Its directory, below the store's."""
    contents: Contents


@frozen
class Truth:
    """A store that is good, and what its operations answer then."""

    settings: Settings
    current: Release
    previous: Release
    catalogue: Catalogue
    history: tuple[Record, ...]

    @property
    def store(self) -> Path:
        """The store's directory."""
        return self.settings.store

    def files(self) -> list[str]:
        """Every file below the store that has a byte."""
        paths = (path for path in self.store.rglob("*") if path.is_file() and path.stat().st_size)
        return sorted(path.relative_to(self.store).as_posix() for path in paths)

    def at(self, store: Path) -> Truth:
        """The same of a copy of the store."""
        return evolve(self, settings=evolve(self.settings, store=store))


def _publish(world: World, version: str) -> None:
    world.publish(
        f"{PLUGIN} {version}",
        {
            "tiny/__init__.py": f"VERSION = {version!r}\n",
            "tiny/data.txt": f"{version}: what a plugin has to say.\n" * 10,
            "tiny/same.txt": "in both releases alike\n" * 6,
        },
        entry_points=f'[entry-points."tests"]\ntiny{version[0]} = "tiny:VERSION"',
    )


def _release(manager: PluginManager) -> Release:
    with manager.load(PLUGIN) as plugin:
        files = {path: plugin.read(path) for path in plugin.files}
        manifest = render_manifest(plugin.manifest)
        contents = contents_of(plugin.manifest, bytecode_tag())
    place = manager.path(PLUGIN).relative_to(manager.settings.store).as_posix()
    return Release(manager.installed()[0], manifest, files, place, contents)


@contextmanager
def served(repository: Path) -> Iterator[str]:
    """Serve `repository` from a process of its own, that this one has one thread when it forks."""
    told, telling = os.pipe()
    ending, lives = os.pipe()  # nobody writes: that it closes is the news
    child = os.fork()
    if child == 0:
        os.close(lives)
        with serve(repository) as server:
            os.write(telling, server.base_url.encode())
            os.close(telling)
            os.read(ending, 1)
        os._exit(0)
    os.close(telling)
    os.close(ending)
    with os.fdopen(told) as file:
        address = file.read()
    try:
        yield address
    finally:
        os.close(lives)
        os.waitpid(child, 0)


@contextmanager
def small_store(directory: Path) -> Iterator[Truth]:
    """A store with a previous and an active release, whose repository is being served."""
    world = World(directory)
    _publish(world, "1.0")
    with served(world.repository.directory) as world.base_url:
        manager = world.manager()
        manager.install(PLUGIN)
        previous = _release(manager)
        _publish(world, "2.0")
        manager.upgrade()
        manager.storage()  # fills the index
        yield Truth(
            manager.settings,
            _release(manager),
            previous,
            manager.catalogue(PLUGIN),
            tuple(manager.history()),
        )


# --- what is asked of a store, and the only right answers --------------------------------------


def _expect(what: str, found: object, right: object) -> None:
    if found != right:
        raise WrongAnswerError(f"{what}: {found!r:.200} instead of {right!r:.200}")


def _expect_bytes_on_disk(truth: Truth, release: Release) -> None:
    for path, content in release.files.items():
        _expect(path, (truth.store / release.place / path).read_bytes(), content)


def _check_plugin(plugin: LoadedPlugin, right: Release) -> None:
    _expect("release", plugin.release, right.active.release)
    _expect("manifest", render_manifest(plugin.manifest), right.manifest)
    for path, content in right.files.items():
        _expect(path, plugin.read(path), content)
        with plugin.open(path) as stream:
            _expect(path, stream.read(), content)
    _expect("VERSION", plugin.import_module("tiny").VERSION, str(right.active.release.version))


def load(manager: PluginManager, truth: Truth) -> None:
    """The active release, each of its files in each way, and the code that is executed."""
    _check_plugin(manager.load(PLUGIN), truth.current)
    _expect("catalogue", manager.catalogue(PLUGIN), truth.catalogue)


def verify(manager: PluginManager, truth: Truth) -> None:
    """A good report only of what is good."""
    report = manager.verify()
    if not report.good:
        raise CorruptError("verify reports damage")
    _expect("history", tuple(manager.history()), truth.history)
    _expect_bytes_on_disk(truth, truth.current)


def history(manager: PluginManager, truth: Truth) -> None:
    """No generation that never was; those that cannot be read are left out."""
    right = list(truth.history)
    _expect("installed", manager.installed(), [truth.current.active])
    for generation in manager.history():
        while right and right[0] != generation:
            del right[0]
        if not right:
            raise WrongAnswerError(f"history: {generation!r:.200} instead of what was recorded")


def rollback(manager: PluginManager, truth: Truth) -> None:
    """A way back to the previous release, and what a load gives then."""
    right = truth.previous
    [step] = manager.plan_rollback(PLUGIN).steps
    _expect("rollback", step.after, evolve(right.active, held=True))
    assert step.head is not None
    _expect("manifest", render_manifest(step.head.manifest), right.manifest)
    with load_release(step.head.manifest, truth.store / right.place) as plugin:
        _check_plugin(plugin, right)


def storage(manager: PluginManager, truth: Truth) -> None:
    """What is in the store, and what the collector would take; both only ever tell."""
    residents = {one.digest for one in manager.storage().residents}
    _expect("residents", residents, {truth.current.active.digest, truth.previous.active.digest})
    cleanup = manager.plan_cleanup(unfinished=True)
    _expect(
        "releases to be removed", [g for g in cleanup.garbage if g.name.startswith("releases/")], []
    )


def sizes(_: PluginManager, truth: Truth) -> None:
    """What each release holds, whatever the index says."""
    residents = Housekeeping(Store(truth.store)).residents(datetime.now(UTC))
    found = {one.digest: one.contents for one in residents}
    right = {one.active.digest: one.contents for one in (truth.current, truth.previous)}
    _expect("contents", found, right)


Operation = Callable[[PluginManager, Truth], None]
OPERATIONS: dict[str, Operation] = {
    function.__name__: function for function in (load, verify, history, rollback, storage, sizes)
}

# The right refusals. NotFoundError, say, would tell a host that a plugin is not installed.
REFUSALS = (CorruptError, UntrustedError)


def ask(operation: Operation, truth: Truth) -> str:
    """The refusal's family, "" for the right answer; raises WrongAnswerError for all else."""
    try:
        with PluginManager(truth.settings) as manager:
            operation(manager, truth)
    except REFUSALS as error:
        return error.family
    except WrongAnswerError:
        raise
    except Exception as error:
        raise WrongAnswerError(f"{type(error).__name__}: {error}") from error
    return ""


def readers(truth: Truth) -> dict[str, list[str]]:
    """The operations that open each file, `load` alone where it does; `load` where none does.

    Every load opens the index, but only to write.
    """
    opened: dict[str, set[str]] = {}
    now: set[str] = set()
    files = truth.files()
    top = f"{truth.store}{os.sep}"

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"open", "sqlite3.connect"}:
            path = unquote(str(arguments[0]).removeprefix("file:").partition("?")[0])
            if path.startswith(top):
                now.add(path.removeprefix(top))

    sys.addaudithook(hook)  # for the life of the process: call this in a child
    for name, operation in OPERATIONS.items():
        now = opened[name] = set()
        ask(operation, truth)
    found = {}
    for file in files:
        reading = [name for name in OPERATIONS if file in opened[name]]
        alone = "load" in reading and not file.startswith(f"{INDEX}/")
        found[file] = ["load"] if alone else reading or ["load"]
    return found


# --- one file ----------------------------------------------------------------------------------


@define
class Tally:
    """What came of the damages done to one file (or to all).

    `forgotten`: after so many of the repairs no rollback was possible any more.
    """

    damages: int = 0
    repairs: int = 0
    forgotten: int = 0
    answers: Counter[str] = field(factory=Counter)
    losses: list[str] = field(factory=list)

    def add(self, other: Tally) -> None:
        """Take over the counts of `other`."""
        self.damages += other.damages
        self.repairs += other.repairs
        self.forgotten += other.forgotten
        self.answers += other.answers
        self.losses += other.losses


@frozen
class Plan:
    """What is done to one file: which operations are asked, and which samples are taken.

    Every `every`-th of its bits is flipped, every `torn_every`-th tear is made, and every
    `repair_every`-th of these damages is repaired (0: none).
    """

    file: str
    operations: tuple[str, ...]
    every: int = 1
    torn_every: int = 0
    repair_every: int = 0
    patch: Callable[[], None] = lambda: None


Damage = tuple[str, bytes]  # what is done, and what the file holds then


def flips(data: bytes, every: int) -> Iterator[Damage]:
    """Each `every`-th bit of `data` flipped."""
    for bit in range(0, len(data) * 8, every):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(flipped)


def tears(data: bytes, donors: Mapping[str, bytes]) -> Iterator[Damage]:
    """`data` as disks leave it: cut off; extended; blocks zeroed, or those of another file."""
    for length in range(0, len(data), BLOCKS_BYTES[0]):
        yield f"cut off at {length}", data[:length]
    for length in (1, *BLOCKS_BYTES):
        yield f"{length} zeros appended", data + bytes(length)
    for size in BLOCKS_BYTES:
        for start in range(0, len(data), size):
            stop = min(start + size, len(data))
            block = f"block {start}-{stop}"
            yield f"{block} zeroed", data[:start] + bytes(stop - start) + data[stop:]
            for name, other in donors.items():
                piece = other[start:stop]
                yield f"{block} of {name}", data[:start] + piece + data[start + len(piece) :]
    for name, other in donors.items():
        # A whole generation in the place of `current` is what there is just before a switch.
        if other.split(b":", 1)[0] != data.split(b":", 1)[0]:
            yield f"all of {name}", other


def fingerprint(store: Path) -> list[tuple[str, int, int, int, int]]:
    """What lies in `store`, so that any writing shows; a reader writes nothing but the index."""
    found = []
    index = str(store / INDEX)
    waiting = [str(store)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.path == index:
                    continue
                status = entry.stat(follow_symlinks=False)
                found.append(
                    (entry.path, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
                )
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return found


class Patient:
    """One file of a copy of the store, damaged in place and put back."""

    def __init__(self, truth: Truth, plan: Plan, work: Path) -> None:
        self._template, self._plan = truth, plan
        self._truth = truth.at(work / "store")
        self._path = self._truth.store / plan.file
        self.tally = Tally()
        self._copy()

    def _copy(self) -> None:
        shutil.rmtree(self._truth.store, ignore_errors=True)
        copy_store(self._template.store, self._truth.store)
        self._data = self._path.read_bytes()
        self._before = fingerprint(self._truth.store)

    def _damages(self) -> Iterator[Damage]:
        yield from flips(self._data, self._plan.every)
        if self._plan.torn_every:
            donors = {
                name: (self._template.store / name).read_bytes() for name in self._template.files()
            }
            # By content: many a block is the same in two files, or the whole file.
            made = {damaged: what for what, damaged in tears(self._data, donors)}
            made.pop(self._data, None)
            damages = ((what, damaged) for damaged, what in made.items())
            yield from islice(damages, None, None, self._plan.torn_every)

    def run(self, at: mmap.mmap) -> None:
        """Do all damages; `at` always holds the number of the one under way."""
        for number, (what, damaged) in enumerate(self._damages()):
            at[:8] = number.to_bytes(8, "big")
            self.tally.damages += 1
            sample = self._plan.repair_every and number % self._plan.repair_every == 0
            self._write(damaged)
            self._ask(what, OPERATIONS if sample else self._plan.operations)
            self._reset_index()
            self._write(self._data)
            if fingerprint(self._truth.store) != self._before:
                self._lose(what, "", "the store was changed by looking at it")
                self._copy()
            if sample:
                self.tally.repairs += 1
                self._write(damaged)
                self._repair(what)
                self._copy()
        if snapshot(self._truth.store) != snapshot(self._template.store):
            self._lose("at the end", "", "the store was changed by looking at it")

    def _reset_index(self) -> None:
        """Undo what every load writes: when a release was last used."""
        shutil.rmtree(self._truth.store / INDEX, ignore_errors=True)
        shutil.copytree(self._template.store / INDEX, self._truth.store / INDEX)

    def _write(self, data: bytes) -> None:
        status = self._path.stat()
        with self._path.open("r+b", buffering=0) as file:  # in place: its other names change too
            file.write(data)
            file.truncate()
        os.utime(self._path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _ask(self, what: str, names: Sequence[str] | Mapping[str, Operation]) -> None:
        for name in names:
            try:
                family = ask(OPERATIONS[name], self._truth)
            except WrongAnswerError as error:
                self._lose(what, name, str(error))
            else:
                self.tally.answers[f"{name}: {family or 'right'}"] += 1

    def _repair(self, what: str) -> None:
        """The store is to heal by one repair, without further help."""
        truth = self._truth
        try:
            with PluginManager(truth.settings) as manager:
                manager.repair()
            with PluginManager(truth.settings) as manager:
                _expect("installed", manager.installed(), [self._healed().active])
                _check_plugin(manager.load(PLUGIN), self._healed())
            with PluginManager(truth.settings) as manager:
                report = manager.verify()
                _expect("verified", report.good, True)
                _expect("repaired again", manager.repair().good, True)
        except Exception as error:
            self._lose(what, "repair", f"{type(error).__name__}: {error}")
        try:
            with PluginManager(truth.settings) as manager:
                rollback(manager, truth)
        except NotFoundError:
            # The one record that told what was active before is lost: no file of it is.
            if not self._plan.file.startswith("generations/"):
                self._lose(what, "rollback after repair", "the previous release is forgotten")
            self.tally.forgotten += 1
        except Exception as error:
            self._lose(what, "rollback after repair", f"{type(error).__name__}: {error}")

    def _healed(self) -> Release:
        """What is active after the repair.

        Where the very record of what is active is lost, that is what was active before.
        """
        newest = f"generations/{self._truth.history[0].number}.json"
        kept = self._path.exists() and self._path.read_bytes() == self._data
        lost = self._plan.file == newest and not kept
        return self._truth.previous if lost else self._truth.current

    def _lose(self, what: str, operation: str, why: str) -> None:
        self.tally.losses.append(f"{self._plan.file}: {what}: {operation}: {why}")


def snapshot(directory: Path) -> dict[str, bytes]:
    """The content of every file below `directory`."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


# --- all files ---------------------------------------------------------------------------------


def start(work: Callable[[], object], directory: Path) -> tuple[int, Path]:
    """Start `work` in a forked child; its id, and the file that will hold what it returned."""
    descriptor, name = tempfile.mkstemp(dir=directory)
    sys.stdout.flush()
    if child := os.fork():
        os.close(descriptor)
        return child, Path(name)
    status = 1
    try:
        with os.fdopen(descriptor, "wb") as file:
            pickle.dump(work(), file)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def run(truth: Truth, plans: Sequence[Plan], workers: int, directory: Path) -> Tally:
    """Carry out `plans`, each in a child process, `workers` of them at a time."""
    total = Tally()
    waiting = sorted(plans, key=lambda plan: (truth.store / plan.file).stat().st_size)
    running: dict[int, tuple[Plan, Path, mmap.mmap, Path]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            plan, at = waiting.pop(), mmap.mmap(-1, 8)
            work = Path(tempfile.mkdtemp(dir=directory))

            def begin(plan: Plan = plan, at: mmap.mmap = at, work: Path = work) -> Tally:
                plan.patch()
                patient = Patient(truth, plan, work)
                patient.run(at)
                return patient.tally

            child, result = start(begin, directory)
            running[child] = plan, result, at, work
        child, status = os.wait()
        if child not in running:
            continue
        plan, result, at, work = running.pop(child)
        if status == 0:
            total.add(pickle.loads(result.read_bytes()))
        else:
            number = int.from_bytes(at[:8], "big")
            total.losses.append(f"{plan.file}: damage {number}: the process died ({status})")
        result.unlink()
        shutil.rmtree(work)
    return total


def plans_of(truth: Truth, every: int, repair_every: int) -> list[Plan]:
    """Every file's plan; `current` and the generations are repaired ten times as often."""
    plans = []
    for file, operations in in_child(lambda: readers(truth)).items():
        always = file == "current" or file.startswith("generations/")
        if "sizes" in operations and file.startswith(f"{INDEX}/"):
            # All else that reads the index goes this way, and takes ten times as long.
            plans.append(Plan(file, ("sizes",), every=every, torn_every=max(1, every // 8)))
            every_whole = every * 16
        else:
            every_whole = every
        plans.append(
            Plan(
                file,
                tuple(operations),
                every=every_whole,
                torn_every=max(1, every // 8),
                repair_every=max(1, repair_every // 10)
                if always and repair_every
                else repair_every,
            )
        )
    return plans


# --- controls: a store that believes its disk, which must be caught ----------------------------


class _Agrees(bytes):
    """A digest that equals any other."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


def believe_payload() -> None:
    """Files of releases are handed out without being hashed."""
    _chunks.blake3 = _Believing


class _Believing:
    """In the place of `blake3`: whatever it is given has the digest that is wanted."""

    digest_size = blake3.digest_size

    def __init__(self, _: object) -> None:
        pass

    def digest(self) -> bytes:
        return _Agrees()


def believe_heads() -> None:
    """Manifests are taken as they lie there."""

    def vouched(store: Store, _: Vouching, active: Active) -> Head:
        return read_head((store.directory / "manifests" / active.digest).read_bytes())

    _loading.vouched = vouched


def believe_generations() -> None:
    """The digests in generations are not compared."""
    _generations.blake3 = lambda _: SimpleNamespace(hexdigest=_Agrees)


def believe_index() -> None:
    """The index's rows are taken as they lie there."""
    _contents.blake3 = lambda _: SimpleNamespace(digest=lambda _: _Agrees())


def believe_metadata() -> None:
    """Neither the local digests nor the signed ones of the metadata are compared."""
    _sets.hashlib = SimpleNamespace(sha256=lambda _: SimpleNamespace(hexdigest=_Agrees))
    _judge.Publisher.check_catalogue = lambda *_: None


def controls(truth: Truth) -> dict[str, Plan]:
    """For each kind of disbelief a plan that must find it missing."""
    current = truth.current
    damage = {
        believe_payload: (f"{current.place}/tiny/data.txt", "load"),
        believe_heads: (f"manifests/{current.active.digest}", "load"),
        believe_generations: ("current", "history"),
        believe_index: (f"{INDEX}/cache.db", "sizes"),
        believe_metadata: (_newest_set(truth) + "/catalogues/acme/tiny.json", "load"),
    }
    return {
        patch.__name__: Plan(file, (operation,), every=59, patch=patch)
        for patch, (file, operation) in damage.items()
    }


def _newest_set(truth: Truth) -> str:
    return "trust/sets/" + (truth.store / "trust/current").read_text().split()[0]


# --- the battery -------------------------------------------------------------------------------


def battery(
    every: int = 1, repair_every: int = 50, workers: int = 2, only: str = ""
) -> tuple[Tally, list[str]]:
    """The tally of all damages, and the names of the controls that were not caught."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name, small_store(Path(name)) as truth:
        directory = Path(name)
        plans = [plan for plan in plans_of(truth, every, repair_every) if only in plan.file]
        tally = run(truth, plans, workers, directory)
        missed = [
            name
            for name, plan in controls(truth).items()
            if not any("instead of" in loss for loss in run(truth, [plan], 1, directory).losses)
        ]
    return tally, missed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the battery and print its figures; 1 where anything was lost or a control missed."""
    parser = argparse.ArgumentParser(prog="bits", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--every", type=int, default=1, help="flip only every Nth bit, and make fewer tears"
    )
    parser.add_argument("--repair-every", type=int, default=50, help="repair every Nth damage")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="only files whose name holds this")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    tally, missed = battery(options.every, options.repair_every, options.workers, options.only)
    seconds = time.monotonic() - began
    for loss in tally.losses[:50]:
        print(f"LOSS {loss}")
    for answer, count in sorted(tally.answers.items()):
        print(f"  {answer:40} {count:8}")
    for name in missed:
        print(f"CONTROL NOT CAUGHT: {name}")
    print(
        f"bits: {tally.damages} damages, {tally.repairs} repaired "
        f"({tally.forgotten} forgot the previous release), {len(tally.losses)} losses, "
        f"{seconds:.0f} s"
    )
    return 1 if tally.losses or missed or not tally.damages else 0


if __name__ == "__main__":
    sys.exit(main())
