"""A gigabyte that outlives its host, its agent and another agent, and is fetched once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin_manager import JobState, PluginManager
from plugin_manager.agent import status
from plugin_manager.manager import Resumption
from tests.cli.test_client import PROJECT
from tests.world import World

SIZE = 1_000_000_000
ONE_SPAN = 1_100_000  # what one connection may have had on its way
CONNECTIONS = 16

HOST = """
import sys
from pathlib import Path
from plugin_manager import PluginManager
manager = PluginManager.open(sys.argv[1], sys.argv[2], root=Path(sys.argv[3]))
job = manager.jobs.start("acme/model", bytes_per_second=150_000_000)
print(job.id, flush=True)
manager.jobs.wait(job.id)
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world in memory where that has room for it: what is told here is not about disks."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 6 * SIZE
    with tempfile.TemporaryDirectory(dir=memory if roomy else tmp_path) as directory:
        world = World(Path(directory))
        yield world
        world.close()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def pluginctl(world: World, *arguments: str) -> str:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PLUGINCTL_")},
        "PLUGINCTL_STORE": str(world.directory / "store"),
        "PLUGINCTL_ROOT": str(world.root),
        "PLUGINCTL_REPOSITORY": world.base_url,
        "PLUGINCTL_AGENT_SCRUB_DAYS": "0",
        "PLUGINCTL_AGENT_DESKTOP": "no",
        "PYTHONPATH": str(PROJECT),
    }
    command = [sys.executable, "-m", "plugin_manager.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def transferred(manager: PluginManager, job: str) -> int:
    progress = manager.jobs.get(job).progress
    return progress.transferred_bytes if progress else 0


def kept(manager: PluginManager, job: str) -> int:
    """The bytes on disk that hash right, of a job that nobody works at."""
    found = manager.jobs.get(job)
    assert (found.state, found.why) == (JobState.QUEUED, "interrupted")
    [resumed] = manager.jobs.resume_status(job)
    assert resumed.resumption is Resumption.RESUMABLE
    return resumed.kept_bytes


def test_a_gigabyte_survives_its_host_and_its_agent(world: World) -> None:
    content = os.urandom(SIZE)
    world.publish("acme/model 1.0", {"model.bin": content})
    with world.online() as url:
        store = world.directory / "store"
        command = [sys.executable, "-c", HOST, str(store), url, str(world.root)]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as host:
            assert host.stdout
            job = host.stdout.readline().strip()
            manager = world.manager()
            wait_for(lambda: transferred(manager, job) > 0.2 * SIZE)
            host.kill()
        after_host = kept(manager, job)
        assert after_host > 0.2 * SIZE - CONNECTIONS * ONE_SPAN
        from_host = world.fetched()

        pluginctl(world, "agent", "start")  # takes it up unasked
        wait_for(lambda: transferred(manager, job) > 0.3 * SIZE)
        seen = status(store)
        assert seen.doing == "install acme/model"
        assert seen.pid
        os.kill(seen.pid, 9)
        wait_for(lambda: not status(store).running)
        after_agent = kept(manager, job)
        assert after_agent > after_host + 0.3 * SIZE - CONNECTIONS * ONE_SPAN
        from_agent = world.fetched()

        manager.jobs.limit(None, job)
        pluginctl(world, "agent", "start")
        assert "completed" in pluginctl(world, "watch", job)
        to_the_end = world.fetched()
        pluginctl(world, "agent", "stop")

        assert to_the_end <= 1.01 * (SIZE - after_agent)
        assert from_host + from_agent + to_the_end <= SIZE + 3 * CONNECTIONS * ONE_SPAN
        assert (manager.path("acme/model") / "model.bin").read_bytes() == content
