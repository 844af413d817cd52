"""A dashboard as people have it: `pluginctl dashboard` as a process, and a store for it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from zlib import crc32

from attrs import frozen

from plugin_manager.agent import status
from plugin_manager.manager import PluginManager
from tests.world import World

PROJECT = Path(__file__).resolve().parents[2]


def chromium() -> str | None:
    """The path of Chromium, or None where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def noise(count: int, seed: int = 0) -> bytes:
    """Bytes that no compression makes fewer."""
    return random.Random(seed).randbytes(count)


@frozen
class Running:
    """A dashboard that runs: its process, its address, the token for programs."""

    process: subprocess.Popen[str]
    link: str
    token: str

    @property
    def address(self) -> str:
        return self.link.partition("#")[0]

    @property
    def port(self) -> int:
        return urlsplit(self.link).port or 0

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(30)


@contextmanager
def dashboard(
    world: World,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    port: int = 0,
    options: tuple[str, ...] = ("--no-browser",),
) -> Iterator[Running]:
    """`pluginctl dashboard` for the store of `world`, until the end of the block."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "plugin_manager.cli", *arguments),
            *("dashboard", *options, "--port", str(port)),
        ],
        env=_environment(world) | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    said, reader = "", None
    try:
        while not (found := re.search(r"(http://\S+#code=\S+)\n(?s:.*)Bearer (\S+)\n", said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        reader = threading.Thread(target=process.stdout.read)
        reader.start()
        yield Running(process, found[1], found[2])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if reader:
            reader.join()
        process.stdout.close()


def _environment(world: World) -> dict[str, str]:
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("PLUGINCTL_")},
        "PLUGINCTL_STORE": str(world.directory / "store"),
        "PLUGINCTL_REPOSITORY": world.base_url,
        "PLUGINCTL_ROOT": str(world.root),
        "PLUGINCTL_HOST_VERSION": "1.0",
        "PLUGINCTL_TRIAL_ATTEMPTS": "0",
        "PYTHONPATH": str(PROJECT),
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def agent(world: World, *arguments: str) -> Iterator[None]:
    """`pluginctl agent run` for the store of `world`, killed at the end of the block."""
    command = [sys.executable, "-m", "plugin_manager.cli", *arguments, "agent", "run"]
    environment = _environment(world) | {"PLUGINCTL_AGENT_DESKTOP": "no"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 30
        while status(world.directory / "store").pid != process.pid:
            assert time.monotonic() < end, "the agent does not begin"
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def publish(
    world: World,
    release: str,
    summary: str,
    size_bytes: int = 20_000,
    *,
    more: str = "",
    requires: str = "",
) -> None:
    """Publish a release with any summary, and so much that compresses badly."""
    name, version = release.split()
    source = world.directory / "sources" / name / version
    (source / "files").mkdir(parents=True)
    (source / "files" / "data.bin").write_bytes(noise(size_bytes, crc32(release.encode())))
    lines = [f'name = "{name}"', f'version = "{version}"', f"summary = {json.dumps(summary)}", more]
    text = "\n".join(["[plugin]", *lines, "[requires]", requires])
    (source / "plugin.toml").write_text(text)
    world.repository.publish(source)


def tamper(manager: PluginManager, plugin: str, file: str) -> None:
    """Change one byte of an installed file, as a failing disk or an attacker would."""
    path = manager.path(plugin) / file
    path.parent.chmod(0o755)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
