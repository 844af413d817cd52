"""A real nginx serves the repository: no server of our own is needed."""

from __future__ import annotations

import os
import subprocess
import time

from tests.cli.test_client import Command, allocated_bytes
from tests.nginx import bundle_bytes, needs_nginx, nginx
from tests.world import World

SIZE = 40_000_000


@needs_nginx
def test_a_life_from_nginx(world: World) -> None:
    pluginctl = Command(world)
    files = {"weights.bin": os.urandom(SIZE), "labels.txt": "one\ntwo\n"}
    world.publish("globex/model 1.0", files)
    with nginx(world.repository.public) as (world.base_url, log):
        pluginctl("install", "globex/model")
        first = bundle_bytes(log)
        world.publish("globex/model 1.1", {**files, "labels.txt": "one\ntwo\nthree\n"})
        pluginctl("upgrade")
        assert bundle_bytes(log) - first < 100_000
        lines = [line for line in log.read_text().splitlines() if ".tar.zst" in line]
        assert all('" 206 ' in line for line in lines), "ranges only"
    pluginctl("rollback", "globex/model")
    assert pluginctl.json("verify")["releases"][0] | {"head": ""} == {
        "plugin": "globex/model", "version": "1.0", "platform": "any", "head": "",
        "held": True, "pinned": False, "good": True, "faults": [], "error": None,
    }  # fmt: skip


@needs_nginx
def test_a_killed_install_goes_on_where_it_was(world: World) -> None:
    pluginctl = Command(world)
    published = world.publish("globex/model 1.0", {"weights.bin": os.urandom(SIZE)})
    with nginx(world.repository.public, "limit_rate 15m;") as (world.base_url, _):
        environment = {**pluginctl.environment, "PLUGINCTL_REPOSITORY": world.base_url}
        process = subprocess.Popen(pluginctl.arguments("install", "globex/model"), env=environment)
        staging = world.directory / "store/staging"
        while allocated_bytes(staging) < SIZE // 4:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert pluginctl.json("list") == []
    kept = allocated_bytes(staging)
    with nginx(world.repository.public) as (world.base_url, log):
        pluginctl("install", "globex/model")
        again = bundle_bytes(log)
    assert again <= published.length - kept + 3_000_000
    assert pluginctl.json("verify")["good"] is True
