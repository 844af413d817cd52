"""`pluginctl watch`: live on a terminal, and a line for each change elsewhere."""

from __future__ import annotations

import os
import pty
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_client import Command
from tests.world import World

NAMES = ("acme/model", "globex/voice")


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """`pluginctl` with two jobs, a few seconds long, that wait for an agent."""
    world = World(tmp_path)
    for name in NAMES:
        world.publish(f"{name} 1.0", {"data": random.Random(name).randbytes(4_000_000)})
    command = Command(world)
    command.environment |= {
        "PLUGINCTL_AGENT_SCRUB_DAYS": "0",
        "PLUGINCTL_AGENT_UPDATE_HOURS": "0",
        "PLUGINCTL_AGENT_DESKTOP": "no",
        "PLUGINCTL_MAX_RATE": "2MB",
        "TERM": "xterm",
        "COLUMNS": "90",
    }
    with world.online():
        for name in NAMES:
            command("install", name, "--background")
        yield command
        command("agent", "stop")


def test_elsewhere_than_on_a_terminal_a_line_tells_of_a_change(command: Command) -> None:
    with subprocess.Popen(
        command.arguments("watch"), env=command.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        command("agent", "start")
        lines = process.communicate()[0].splitlines()
    changes = [re.split("[,:] ", line)[:2] for line in lines]
    assert [f"install {NAMES[0]}", "completed"] in changes
    assert [f"install {NAMES[1]}", "completed"] in changes
    assert len(changes) == len(set(map(tuple, changes)))


def test_on_a_terminal_transfers_are_painted_over(command: Command) -> None:
    main, other = pty.openpty()
    with subprocess.Popen(
        command.arguments("watch"), env=command.environment, stdout=other, stderr=other
    ) as process:
        os.close(other)
        said = _read(main)  # it watches
        command("agent", "start")
        while part := _read(main):
            said += part
    os.close(main)
    text = said.decode()
    assert process.returncode == 0
    assert re.search(r"0 of 2 done.* \d+%", text)
    assert re.search(r"\x1b\[[234]F", text), "nothing was painted over"
    for name in NAMES:
        assert text.count(f"install {name}: running") <= 1
        assert text.count(f"install {name}: completed") == 1
    assert text.rpartition("\x1b[J")[2].strip().endswith("completed")


def test_a_job_that_is_paused_ends_no_watch_of_others(command: Command) -> None:
    first, *_ = command.world.manager().jobs.all()
    command("pause", first.id)
    with subprocess.Popen(
        command.arguments("watch"), env=command.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        command("agent", "start")
        lines = process.communicate()[0].splitlines()
    assert any("paused" in line for line in lines)
    assert sum("completed" in line for line in lines) == 1
    again = command("watch", first.id, first.id[:8])  # one job, named twice
    assert again.stdout.count("paused") == 1


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # the other end is closed
        return b""
