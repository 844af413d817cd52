"""A real repository behind a server that follows a script, a host's store, and the judge of both.

An *attempt* is one install or upgrade. Whatever the server did, it must have ended in the right
verdict, at bounded cost, with what was installed untouched; and afterwards the honest server must
be enough, for no more bytes than are still lacking.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Protocol

from attrs import define, evolve, field, frozen

from plugin_manager import PluginManager
from plugin_manager.configuration import from_environment
from plugin_manager.errors import PluginManagerError
from plugin_manager.manager import Cleanup
from plugin_manager.transfer import Policy, Transfer
from plugin_manager.trust._values import (
    MAX_ROOT_BYTES,
    MAX_SNAPSHOT_BYTES,
    MAX_TARGETS_BYTES,
    MAX_TIMESTAMP_BYTES,
)
from tests.transfer.server import Behaviour, Exchange, Server, answer, honest
from tests.world import World, snapshot

__all__ = [
    "NOBODY",
    "PATIENCE",
    "PLACES",
    "Asked",
    "Attempt",
    "Host",
    "RealTime",
    "Script",
    "Stage",
    "Time",
    "VirtualTime",
    "tree_bytes",
]

PLACES = (
    "root", "timestamp", "snapshot", "targets", "publisher", "catalogue", "index", "head", "body",
)  # fmt: skip
"""What a client asks for, in this order; a bundle's head and its body are two."""

PATIENCE = Policy(connections=1)
"""As published, but that one connection alone can be given virtual time."""

NOBODY = "http://127.0.0.1:9/"

NOISE = Random(1).randbytes(1_600_000)
RELEASES: Mapping[str, Mapping[str, bytes]] = {
    "acme/maps 1.0": {"maps.py": b"VERSION = '1.0'\n", "tiles": NOISE[:300_000]},
    "acme/maps 2.0": {
        "maps.py": b"VERSION = '2.0'\n",
        "tiles": NOISE[:300_000],
        "model": NOISE[300_000:1_500_000],
    },
    "globex/maps 2.0": {"other.py": b"VERSION = 'other'\n", "model": NOISE[:90_000]},
    "acme/maps 3.0": {"maps.py": b"VERSION = '3.0'\n", "tiles": NOISE[400_000:1_000_000]},
    "acme/tiny 1.0": {"tiny.py": b"VERSION = '1.0'\n"},
}

# Beside what is wanted: sockets' buffers, which a server fills before anybody reads.
BUFFERS_BYTES = 4 * 1024 * 1024
METADATA_ROOM_BYTES = 256 * 1024
_MOST_BYTES = {
    "root": MAX_ROOT_BYTES,
    "timestamp": MAX_TIMESTAMP_BYTES,
    "snapshot": MAX_SNAPSHOT_BYTES,
    "targets": MAX_TARGETS_BYTES,
    "publisher": MAX_TARGETS_BYTES,
}


class Time(Protocol):
    """How time passes for a transfer and for the server that makes it wait."""

    def clock(self) -> float: ...

    @property
    def sleep(self) -> Callable[[float], None] | None: ...

    @contextmanager
    def step(self, seconds: float) -> Iterator[None]:
        """So many seconds pass after what is sent within."""


class RealTime:
    """The machine's own; a step is a hundredth as long as it says."""

    sleep = None

    def clock(self) -> float:
        return time.monotonic()

    @contextmanager
    def step(self, seconds: float) -> Iterator[None]:
        yield
        time.sleep(seconds / 100)


class VirtualTime:
    """Passes by what is slept and by the server's steps, and by nothing else.

    A step is over when the client has looked at the clock, which it does with all that it reads:
    so no machine is too slow, and no test waits.
    """

    def __init__(self) -> None:
        self._now = 1000.0
        self._looks = 0
        self._changed = threading.Condition()

    def clock(self) -> float:
        with self._changed:
            self._looks += 1
            self._changed.notify_all()
            return self._now

    def sleep(self, seconds: float) -> None:
        with self._changed:
            self._now += seconds

    @contextmanager
    def step(self, seconds: float) -> Iterator[None]:
        with self._changed:
            seen = self._looks
        yield
        with self._changed:
            self._changed.wait_for(lambda: self._looks != seen, timeout=1)
            self._now += seconds


@frozen
class Asked:
    """One request as a script sees it; `number` counts those for this place from 0.

    `content` is what an honest server has under that address, None where it has nothing; `start`
    where the range begins that is asked for.
    """

    place: str
    number: int
    content: bytes | None
    path: str
    start: int
    headers: Mapping[str, str] = field(repr=False)
    stage: Stage = field(repr=False)
    time: Time = field(repr=False)


Script = Callable[[Asked], Behaviour | None]
"""How to answer what was asked; None: as an honest server does."""


def honestly(_: Asked) -> None:
    """The script of an honest server."""


def _place(path: str, exchange: Exchange) -> str:
    name = path.rpartition("/")[2]
    if name.endswith(".tar.zst"):
        return "head" if exchange.request.range(1)[0] == 0 else "body"
    if name.endswith("catalogue.json"):
        return "catalogue"
    if name.endswith("plugins.json"):
        return "index"
    return name.removesuffix(".json").rpartition(".")[2].partition("-")[0]


class Front:
    """Serves the files below `public` as `script` says, and keeps account of it."""

    def __init__(
        self, stage: Stage, public: Path, script: Script, time: Time, notice: Callable[[], None]
    ) -> None:
        self._stage, self._public, self._script = stage, public, script
        self._time, self._notice = time, notice
        self._lock = threading.Lock()
        self.asked: list[Asked] = []
        self.sent_bytes: list[tuple[str, int]] = []

    def __call__(self, exchange: Exchange) -> bool:
        # Header and body are sent one after the other: the second would wait for a late receipt.
        exchange.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._notice()
        path = exchange.request.target.lstrip("/")
        file = self._public / path
        content = file.read_bytes() if file.is_file() else None
        place = _place(path, exchange)
        with self._lock:
            number = sum(one.place == place for one in self.asked)
            asked = Asked(
                place,
                number,
                content,
                path,
                exchange.request.range(0)[0],
                exchange.request.headers,
                self._stage,
                self._time,
            )
            self.asked.append(asked)
            behaviour = self._script(asked)
        if behaviour is None:
            behaviour = answer("404 Not Found") if content is None else honest(content)
        try:
            return behaviour(exchange)
        finally:
            with self._lock:
                self.sent_bytes.append((place, exchange.sent_bytes))


@frozen
class Attempt:
    """What became of an install, and what it cost; `seconds` by the attempt's own time."""

    error: Exception | None
    asked: list[Asked] = field(repr=False)
    sent_bytes: list[tuple[str, int]] = field(repr=False)
    seconds: float
    peak_bytes: int

    @property
    def verdict(self) -> str:
        """ "" for success, an error's family, or "raw" for one that is none of ours."""
        match self.error:
            case None:
                return ""
            case PluginManagerError(family=family):
                return family
        return "raw"

    def bytes_of(self, place: str) -> int:
        return sum(sent for where, sent in self.sent_bytes if where == place)


def tree_bytes(directory: Path) -> int:
    """What the files below `directory` take on the disk, each counted once."""
    found: dict[int, int] = {}
    for path in directory.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


class Stage:
    """What attempts share: the repository in several editions, and stores to begin from.

    Editions: "old" (acme/maps 1.0), "seen" (what the installed store knows), "new" (acme/maps 2.0),
    "next" (3.0), "expired" (the same, its timestamp signed three days ago).
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.world = World(directory / "world")
        self.needed_bytes = 0
        self._publish("acme/maps 1.0")
        self._edition("old")
        self._publish("globex/maps 2.0")
        self._publish("acme/tiny 1.0")
        self._edition("seen")
        with self.world.online():
            self.world.manager("installed").install("acme/maps")
            self._publish("acme/maps 2.0")
            self._edition("new")
            self._publish("acme/maps 3.0")
            self._edition("next")
            self.world.clock.advance(days=-3)
            self.world.repository.refresh()
            self._edition("expired")

    def _publish(self, release: str) -> None:
        self.world.publish(release, RELEASES[release])

    def _edition(self, name: str) -> None:
        shutil.copytree(self.world.repository.public, self.edition(name))

    def edition(self, name: str) -> Path:
        return self.directory / "editions" / name

    def file(self, edition: str, pattern: str) -> bytes:
        """The newest file of `edition` that matches `pattern`."""
        found = self.edition(edition).glob(pattern)
        return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name)).read_bytes()

    def counterpart(self, edition: str, asked: Asked) -> bytes:
        """What `edition` has in the place of what was asked."""
        match asked.place:
            case "head" | "body":
                return self.file(edition, "targets/acme/maps/*.tar.zst")
            case "catalogue":
                return self.file(edition, "targets/acme/maps/*.catalogue.json")
            case "publisher":
                return self.file(edition, "metadata/*.publisher-acme.json")
            case place:
                return self.file(edition, f"metadata/*{place}.json")


@define
class Host:
    """A store, empty or with acme/maps 1.0 in it, and attempts to install into it."""

    stage: Stage
    store: Path
    policy: Policy = PATIENCE
    context: ssl.SSLContext | None = None
    environment: Mapping[str, str] = field(factory=dict)
    before: dict[str, bytes | str | None] = field(init=False)
    before_bytes: int = field(init=False)
    _metadata: dict[str, int] = field(init=False)
    _peak: int = 0

    @classmethod
    def installed(cls, stage: Stage, directory: Path, policy: Policy = PATIENCE) -> Host:
        store = directory / "store"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(stage.world.directory / "installed", store, symlinks=True)
        return cls(stage, store, policy)

    @classmethod
    def empty(cls, stage: Stage, directory: Path, policy: Policy = PATIENCE) -> Host:
        store = directory / "store"
        shutil.rmtree(store, ignore_errors=True)
        return cls(stage, store, policy)

    def __attrs_post_init__(self) -> None:
        self.remember()

    def remember(self) -> None:
        """What is here now must still be here after an attempt that fails."""
        self.before = kept(self.store)
        self.before_bytes = tree_bytes(self.store)
        self._metadata = metadata_versions(self.store)

    def manager(
        self, url: str = NOBODY, time: Time | None = None, store: str = ""
    ) -> PluginManager:
        settings = from_environment(
            self.environment,
            store=self.store.with_name(store) if store else self.store,
            repository=url,
            root=self.stage.world.root,
        )
        time = time or VirtualTime()
        transfer = Transfer(self.policy, clock=time.clock, sleep=time.sleep, random=lambda: 0.0)
        return PluginManager(settings, progress=lambda _: self._notice(), transfer=transfer)

    def _notice(self) -> None:
        self._peak = max(self._peak, tree_bytes(self.store))

    def attempt(
        self,
        script: Script = honestly,
        *,
        edition: str = "new",
        request: str = "acme/maps==2.0",
        time: Time | None = None,
        plan_only: bool = False,
    ) -> Attempt:
        """Install `request` from a server that has `edition` and follows `script`."""
        time = time or VirtualTime()
        self._peak = 0
        front = Front(self.stage, self.stage.edition(edition), script, time, self._notice)
        name = "localhost" if self.context else "127.0.0.1"
        with Server(front, self.context, name) as server:
            manager = self.manager(server.url(""), time)
            begun = time.clock()
            error: Exception | None = None
            try:
                if plan_only:
                    manager.plan_install(request)
                else:
                    manager.install(request)
            except Exception as caught:
                error = caught
            seconds = time.clock() - begun
            manager._parts.remote.transfer.close()
            self._notice()
        return Attempt(error, front.asked, front.sent_bytes, seconds, self._peak)

    # --- the judge -------------------------------------------------------------------------------

    def judge(
        self, attempt: Attempt, *verdicts: str, calls: int = 1, recovers: bool = True
    ) -> list[str]:
        """What is wrong about `attempt`, which should have ended in one of `verdicts`.

        `calls`: how many transfers may have exhausted their patience. Without `recovers` nothing
        is installed from the honest server after a failure, so that another can follow it.
        """
        faults = []
        if attempt.verdict not in verdicts:
            faults.append(f"verdict {attempt.verdict!r}: {attempt.error}")
        faults += self._costs(attempt, calls)
        if attempt.error is None:
            faults += self.is_good("2.0")
        else:
            faults += self.is_untouched()
            if recovers:
                faults += self._leaves_nothing()
                faults += self._recovers()
        return faults

    def _costs(self, attempt: Attempt, calls: int) -> list[str]:
        policy, faults = self.policy, []
        frames = 3
        requests = (len(PLACES) + policy.attempts * (frames + calls)) * (policy.most_redirects + 1)
        if len(attempt.asked) > requests:
            faults.append(f"{len(attempt.asked)} requests, more than {requests}")
        wanted = {
            asked.place: _MOST_BYTES.get(asked.place, len(asked.content or b""))
            for asked in attempt.asked
        }
        for place, sent in attempt.sent_bytes:
            if sent > (most := 2 * wanted[place] + BUFFERS_BYTES):
                faults.append(f"{sent} bytes for {place}, more than {most}")
        pauses = max(policy.most_pause_seconds, policy.most_retry_after_seconds)
        once = policy.read_timeout_seconds + policy.rate_window_seconds + pauses
        seconds = calls * policy.attempts * once
        if attempt.seconds > seconds:
            faults.append(f"{attempt.seconds:.0f} s, more than {seconds:.0f} s")
        room = self.before_bytes + self._room_bytes()
        if attempt.peak_bytes > room:
            faults.append(f"{attempt.peak_bytes} bytes on the disk, more than {room}")
        return faults

    def _room_bytes(self) -> int:
        content = max(sum(map(len, files.values())) for files in RELEASES.values())
        return content + METADATA_ROOM_BYTES

    def is_good(self, version: str, name: str = "acme/maps") -> list[str]:
        """What is wrong about `version` being installed, loading, and nothing else being there."""
        manager, faults = self.manager(), []
        found = [str(active.release) for active in manager.installed()]
        if f"{name} {version}" not in found:
            return [f"installed is {found}, not {version}"]
        right = RELEASES[f"{name} {version}"]
        try:
            with manager.load(name) as plugin:
                faults += [f"{p} differs" for p, data in right.items() if plugin.read(p) != data]
            if not manager.verify(every_release=True).good:
                faults.append("it does not verify")
        except PluginManagerError as error:
            faults.append(f"it does not load: {error}")
        if (left := manager.plan_cleanup(unfinished=True)) != Cleanup():
            faults.append(f"left behind: {left}")
        return faults

    def is_untouched(self) -> list[str]:
        """What has changed about what was installed, though nothing should have."""
        faults = []
        if not self._keeps(self.store, more_manifests=True):
            faults.append("what was installed has changed")
        elif any(name.startswith("releases/") for name in self.before):
            faults += [f for f in self.is_good("1.0") if not f.startswith("left behind")]
        after = metadata_versions(self.store)
        faults += [
            f"{role} went back from {version} to {after.get(role)}"
            for role, version in self._metadata.items()
            if after.get(role, 0) < version
        ]
        return faults

    def _keeps(self, store: Path, *, more_manifests: bool = False) -> bool:
        """`more_manifests`: that of what is to be resumed may have come."""
        after = kept(store)
        if more_manifests:
            for name in after.keys() - self.before.keys():
                if name.startswith("manifests/"):
                    del after[name]
        if not self.before and not self.manager(store=store.name).installed():
            after.pop("current", None)  # a new store says that nothing is in it
        return after == self.before

    def _leaves_nothing(self) -> list[str]:
        """Once what could be resumed is given up, the store (a copy of it) is as it was."""
        if not self.store.exists():
            return []
        copy = self.store.with_name("copy")
        shutil.copytree(self.store, copy, symlinks=True)
        try:
            manager = self.manager(store="copy")
            manager.cleanup(unfinished=True)
            faults = []
            strange = sorted(
                path.relative_to(copy).as_posix()
                for path in (
                    *copy.iterdir(),
                    *copy.glob("staging/*"),
                    *copy.glob("jobs/*"),
                    *copy.glob("trust/*"),
                )
                if path.relative_to(copy).as_posix() not in _USUAL
            )
            if strange:
                faults.append(f"left behind: {strange}")
            if not self._keeps(copy):
                faults.append("cleaning up changed what was installed")
            if (left := manager.plan_cleanup(unfinished=True)) != Cleanup():
                faults.append(f"cleaning up leaves {left}")
            if tree_bytes(copy) > self.before_bytes + METADATA_ROOM_BYTES:
                faults.append(f"{tree_bytes(copy)} bytes where {self.before_bytes} were before")
            return faults
        finally:
            shutil.rmtree(copy)

    def _recovers(self) -> list[str]:
        """The honest server is enough afterwards, and is asked for no more than is lacking."""
        with Server(
            Front(self.stage, self.stage.edition("new"), honestly, VirtualTime(), int),
            self.context,
            "localhost" if self.context else "127.0.0.1",
        ) as server:
            try:
                lacking = self.manager(server.url("")).plan_install("acme/maps==2.0")
            except PluginManagerError as error:
                return [f"no plan from the honest server: {error}"]
        attempt = self.attempt()
        faults = [f"then: {fault}" for fault in self.is_good("2.0")]
        most = lacking.needed.fetch_bytes + 600 * 3  # headers of answers
        if attempt.verdict:
            faults.append(f"no install from the honest server: {attempt.error}")
        if attempt.bytes_of("body") > most:
            faults.append(f"{attempt.bytes_of('body')} bytes fetched where {most} were lacking")
        return faults


_KEPT = ("releases", "manifests", "generations", "current")
_USUAL = {*_KEPT, "staging", "jobs", "trust", "index", "lock", "trust/current", "trust/sets"}


def kept(store: Path) -> dict[str, bytes | str | None]:
    """All that says what is installed, by path: None a directory, text a link's target."""
    return {
        name: content
        for name, content in snapshot(store).items()
        if name.partition("/")[0] in _KEPT and content is not None
    }


def metadata_versions(store: Path) -> dict[str, int]:
    """The versions of the current local metadata, by role."""
    sets = sorted(store.glob("trust/sets/*"), key=lambda path: int(path.name))
    return {
        path.stem: json.loads(path.read_bytes())["signed"]["version"]
        for path in (sets[-1].glob("*.json") if sets else ())
    }


def hasty(policy: Policy = PATIENCE) -> Policy:
    """For silence, which is waited for in real seconds, and for real time."""
    return evolve(policy, attempts=2, read_timeout_seconds=0.5)
