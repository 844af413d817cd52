"""Many installs through a server that fails one request in ten, each time in another way.

Run: .venv/bin/python -m tests.transfer.soak [--installs 1000] [--workers 8] [--seed 1]
Each install begins with an empty store. It must complete, verify, hold just what was published,
and leave nothing behind that a later command would have to collect.

One way of failing ends a command at once: an answer in a coding that was not asked for, which is
how a proxy is set up and not chance. Then, and only then, the install is asked for once more.
"""

from __future__ import annotations

import argparse
import gzip
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from plugin_manager.configuration import from_environment
from plugin_manager.errors import NetworkError, PluginManagerError
from plugin_manager.manager import Cleanup, PluginManager
from plugin_manager.transfer import Policy, Transfer
from tests.transfer.server import Behaviour, Exchange, Server, answer, honest, raw, reset, wrong
from tests.world import World

# As published, but for shorter patience: what is slow here would keep each attempt for a minute.
PATIENCE = Policy(attempts=10, read_timeout_seconds=2, rate_window_seconds=2)
PLUGINS = {
    "acme/base": {"base.py": b"VALUE = 1\n", "tables": random.Random(1).randbytes(300_000)},
    "acme/top": {"top.py": b"import base\n" * 50, "text": b"to be or not to be\n" * 9000},
    "globex/model": {"weights": random.Random(2).randbytes(1_700_000)},
}


SLOW_SECONDS = 0.2  # between two bytes of a slow answer
MOST_COMMANDS = 10  # for one install, where the coding was wrong


def slow(content: bytes) -> Behaviour:
    """Serves `content` so slowly that no patience is enough, until the client hangs up."""

    def behave(exchange: Exchange) -> bool:
        start, stop = exchange.request.range(len(content))
        part = {"Content_Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        partial = "range" in exchange.request.headers
        status = "206 Partial Content" if partial else "200 OK"
        exchange.head(status, Content_Length=stop - start, **(part if partial else {}))
        for place in range(start, stop):
            exchange.send(content[place : place + 1])
            time.sleep(SLOW_SECONDS)
        return True

    return behave


def failing(content: bytes, chance: random.Random, *, bundle: bool) -> tuple[str, Behaviour]:
    """One of the ways in which to serve `content` badly, and its name."""
    cut = chance.randrange(len(content) + 1)
    moment = "Fri, 20 Nov 2026 12:00:00 GMT"
    ways = {
        "reset": reset,
        "nothing": raw(b""),
        "nonsense": raw(b"\x00\xff\r\n\r\n"),
        "503": answer("503 Service Unavailable"),
        "503, a date": answer("503 Service Unavailable", Retry_After=moment, Date=moment),
        "429": answer("429 Too Many Requests", Retry_After="0"),
        "429, nonsense": answer("429 Too Many Requests", Retry_After="soon"),
        "500": answer("500 Internal Server Error"),
        "cut off": wrong(content, body=lambda data: data[: min(cut, len(data))], stay=False),
        "slow": slow(content),
        "gzip": wrong(content, body=gzip.compress, Content_Length=None, Content_Encoding="gzip"),
    }
    if bundle:  # changed metadata is refused, not asked for again
        place = chance.randrange(len(content))
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        ways |= {
            "flipped": honest(flipped),
            "whole": wrong(content, status="200 OK"),
            "wrong range": wrong(content, Content_Range="bytes 5-9/10"),
            "shifted range": wrong(content, part=(1, len(content))),
            "no range": wrong(content, Content_Range=None),
            "nothing of it": wrong(content, body=lambda _: b"", Content_Length=0),
            "several parts": wrong(
                content, Content_Type="multipart/byteranges", Content_Range=None
            ),
        }
    name = chance.choice(sorted(ways))
    return name, ways[name]


class Bad:
    """Serves `directory`, failing each request with the probability `rate`."""

    def __init__(self, directory: Path, rate: float, seed: int) -> None:
        self._directory, self._rate = directory, rate
        self._chance, self._lock = random.Random(seed), threading.Lock()
        self.asked = 0
        self.ways: Counter[str] = Counter()

    @property
    def failed(self) -> int:
        """How many requests were served badly."""
        return self.ways.total()

    def __call__(self, exchange: Exchange) -> bool:
        path = self._directory / exchange.request.target.lstrip("/")
        if not path.is_file():
            return answer("404 Not Found")(exchange)
        content, bundle = path.read_bytes(), path.name.endswith(".tar.zst")
        with self._lock:
            self.asked += 1
            behaviour = honest(content)
            if self._chance.random() < self._rate:
                way, behaviour = failing(content, self._chance, bundle=bundle)
                self.ways[way] += 1
        return behaviour(exchange)


def install(world: World, url: str, name: str, policy: Policy) -> str:
    """Install into an empty store; "" where all is well, else what is not."""
    store = Path(tempfile.mkdtemp(dir=world.directory))
    settings = from_environment({}, store=store, repository=url, root=world.root)
    manager = PluginManager(settings, transfer=Transfer(policy))
    try:
        for _ in range(MOST_COMMANDS):
            try:
                manager.install(name)
                break
            except NetworkError as error:
                if "in the coding" not in error.message:
                    raise
        for active in manager.installed():
            directory = manager.path(active.release.plugin)
            found = {p.name: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
            right = PLUGINS[str(active.release.plugin)]
            if {path: found.get(path) for path in right} != right:
                return f"{active.release} is not what was published"
        if not manager.verify(every_release=True).good:
            return "it does not verify"
        if manager.plan_cleanup(unfinished=True) != Cleanup():
            return f"it leaves something behind: {manager.plan_cleanup(unfinished=True)}"
    except PluginManagerError as error:
        return f"{error.family}: {error}"
    finally:
        shutil.rmtree(store)
    return ""


def soak(
    directory: Path,
    installs: int,
    *,
    workers: int = 8,
    seed: int = 1,
    rate: float = 0.1,
    policy: Policy | None = None,
) -> tuple[Counter[str], Bad]:
    """What became of `installs` ("": all is well), and the server."""
    world = World(directory)
    for name, files in PLUGINS.items():
        requires = 'plugins = ["acme/base"]' if name == "acme/top" else ""
        world.publish(f"{name} 1.0", files, requires=requires)
    names = random.Random(seed).choices(sorted(PLUGINS), k=installs)
    bad = Bad(world.repository.public, rate, seed)
    policy = policy or PATIENCE
    with Server(bad) as server, ThreadPoolExecutor(workers) as pool:
        url = f"http://127.0.0.1:{server.port}/"
        ends = pool.map(lambda name: install(world, url, name, policy), names)
        return Counter(ends), bad


def main() -> int:
    """Run it as published; the exit code is 0 where nothing went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--installs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as text:
        ends, bad = soak(
            Path(text), arguments.installs, workers=arguments.workers, seed=arguments.seed
        )
    for end, count in ends.items():
        if end:
            print(f"{count} x {end}")
    print(", ".join(f"{count} x {way}" for way, count in sorted(bad.ways.items())))
    print(
        f"soak: {arguments.installs} installs, {arguments.installs - ends['']} went wrong; "
        f"{bad.failed} of {bad.asked} requests failed; {time.monotonic() - begun:.0f} s"
    )
    return 0 if ends == {"": arguments.installs} else 1


if __name__ == "__main__":
    sys.exit(main())
