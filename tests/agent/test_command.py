"""`pluginctl agent` and `--background` as processes: started, stopped, killed, restarted."""

from __future__ import annotations

import fcntl
import json
import os
import plistlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plugin_manager import JobState
from plugin_manager.agent import Agent, status
from tests.cli.test_client import Command
from tests.world import World

BIG = random.Random(7).randbytes(8_000_000)


@pytest.fixture
def command(world: World) -> Iterator[Command]:
    """`pluginctl` for a world where acme/model, of 8 MB, can be installed."""
    world.publish("acme/model 1.0", {"model.bin": BIG})
    command = Command(world)
    command.environment |= {
        "PLUGINCTL_AGENT_SCRUB_DAYS": "0",
        "PLUGINCTL_AGENT_UPDATE_HOURS": "0",
        "PLUGINCTL_AGENT_DESKTOP": "no",  # whoever runs the tests may have one
    }
    with world.online():
        yield command
        command("agent", "stop")


def store(command: Command) -> Path:
    return Path(command.environment["PLUGINCTL_STORE"])


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


@contextmanager
def foreground(command: Command, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`pluginctl agent run`, once it runs."""
    environment = {**command.environment, "PLUGINCTL_REPOSITORY": command.world.base_url}
    with subprocess.Popen(
        command.arguments("agent", "run", *arguments),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for(lambda: status(store(command)).pid == process.pid or process.poll() is not None)
        try:
            yield process
        finally:
            process.kill()


def progress(command: Command, job: str) -> int:
    found = command.world.manager().jobs.get(job).progress
    return found.transferred_bytes if found else 0


def submitted(command: Command, *arguments: str) -> Any:
    return command.json("install", "acme/model", "--background", *arguments)


# --- starting and stopping -----------------------------------------------------------------------


def test_start_status_stop(command: Command) -> None:
    assert command.json("agent", "status")["running"] is False
    started = command.json("agent", "start")
    assert started["running"] is True
    assert command.json("agent", "start")["pid"] == started["pid"]  # again is no fault
    shown = command("agent", "status").stdout
    assert f"process {started['pid']}" in shown
    assert "last scrub   never" in shown
    assert os.getsid(started["pid"]) != os.getsid(0)  # it outlives this terminal
    assert command.json("agent", "stop")["running"] is False
    assert "no agent runs" in command("agent", "stop").stdout
    log = (store(command) / "agent" / "log").read_text()
    assert "runs" in log
    assert log.rstrip().endswith("ends")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_it_well_and_what_it_did_is_queued_again(command: Command, name: str) -> None:
    job = submitted(command)["job"]["id"]
    command.world.manager().jobs.limit(1_000_000, job)
    with foreground(command) as process:
        wait_for(lambda: progress(command, job) > 0)
        process.send_signal(getattr(signal, name))
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert command.world.manager().jobs.get(job).state is JobState.QUEUED


BEATING = """
import pathlib, subprocess, sys, time
sys.stdin.read()
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, *sys.orig_argv[1:], "child"], stdin=subprocess.DEVNULL)
path = pathlib.Path(sys.argv[1]) / (sys.argv[2] if len(sys.argv) > 2 else "program")
while True:
    path.write_text(str(time.time()))
    time.sleep(0.05)
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_hook_ends_with_its_agent_however_that_ends(
    command: Command, tmp_path: Path, name: str
) -> None:
    hook, beats = tmp_path / "hook.py", tmp_path / "beats"
    hook.write_text(BEATING)
    beats.mkdir()
    told = shlex.join([sys.executable, str(hook), str(beats)])
    command.environment["PLUGINCTL_AGENT_COMMAND"] = told
    submitted(command)
    with foreground(command) as process:
        wait_for(lambda: len(list(beats.iterdir())) == 2)  # the program, and what it began
        before = time.monotonic()
        process.send_signal(getattr(signal, name))
        process.communicate(timeout=60)
        # It would have gone on for 15 s with an agent, and without one for ever.
        assert time.monotonic() - before < 10
    wait_for(lambda: all(time.time() - path.stat().st_mtime > 1 for path in beats.iterdir()))


def test_a_second_one_is_refused(command: Command) -> None:
    with foreground(command):
        error = command.fails("locked", "agent", "run")
        assert "has an agent already" in error["message"]


def test_a_host_s_agent_is_not_stopped_from_outside(command: Command) -> None:
    with Agent(command.world.manager()).in_background():
        error = command.fails("refused", "agent", "stop")
        assert str(os.getpid()) in error["message"]
        assert status(store(command)).running
    command("agent", "stop")


def test_a_lock_that_nobody_can_be_seen_to_hold_is_no_agent_that_runs(command: Command) -> None:
    command("agent", "start")
    command("agent", "stop")
    with (store(command) / "agent" / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        error = command.fails("locked", "agent", "start")
        assert "cannot be seen" in error["message"]
        said = command("install", "acme/model", "--background", "--start-agent").stdout
        assert "cannot be seen" in said
        assert "works at it" not in said
    assert command.json("agent", "start")["running"] is True


def test_what_keeps_it_from_starting_is_said(command: Command) -> None:
    store(command).mkdir()
    (store(command) / "agent").write_text("in the way")
    done = command("agent", "start", code=14)
    assert "Traceback" not in done.stderr
    (store(command) / "agent").unlink()
    (store(command) / "agent").mkdir()
    (store(command) / "agent" / "lock").mkdir()
    done = command("agent", "start", code=1)
    assert "did not start" in done.stderr


def test_it_ends_when_idle_if_the_environment_says_so(command: Command) -> None:
    command.environment["PLUGINCTL_AGENT_IDLE_EXIT"] = "1"
    job = submitted(command, "--start-agent")["job"]["id"]
    wait_for(lambda: not status(store(command)).running)
    assert command.world.manager().jobs.get(job).state is JobState.COMPLETED


def test_the_log_stays_bounded(command: Command) -> None:
    directory = store(command) / "agent"
    directory.mkdir(parents=True)
    (directory / "log").write_bytes(b"x" * 1_000_000)
    command("agent", "start")
    wait_for(lambda: (directory / "log").stat().st_size < 10_000)
    command("agent", "stop")
    assert {path.name for path in directory.iterdir()} >= {"log", "log.1"}


# --- in the background ---------------------------------------------------------------------------


def test_a_command_submits_and_says_what_works_at_it(command: Command) -> None:
    said = command("install", "acme/model", "--background").stdout
    assert "no agent runs" in said
    assert "pluginctl agent start" in said
    job = command.world.manager().jobs.all()[0]
    assert job.id[:8] in said
    with foreground(command):
        assert "the agent works at it" in command("install", "acme/model", "--background").stdout
        shown = command.json("watch", job.id)
        assert [one["state"] for one in shown["jobs"]] == ["completed"]
    assert [one["plugin"] for one in command.json("list")] == ["acme/model"]


def test_no_agent_is_started_unasked(command: Command) -> None:
    assert submitted(command)["agent"]["running"] is False
    command.environment["PLUGINCTL_AGENT_START"] = "yes"
    assert submitted(command)["agent"]["running"] is True


def test_upgrades_go_to_the_background_too(command: Command) -> None:
    command("install", "acme/model")
    command.world.publish("acme/model 1.1", {"model.bin": BIG[:1000]})
    value = command.json("upgrade", "--background", "--start-agent")
    assert value["job"]["action"] == "upgrade"
    command("watch", value["job"]["id"])
    assert [one["version"] for one in command.json("list")] == ["1.1"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("install", "acme/model", "--start-agent"),
        ("install", "acme/model", "--background", "--dry-run"),
        ("upgrade", "--background", "--offline"),
    ],
)
def test_what_makes_no_sense_together_is_refused(
    command: Command, arguments: tuple[str, ...]
) -> None:
    command(*arguments, code=2)
    assert command.world.manager().jobs.all() == []


def test_what_cannot_work_is_not_put_on_record(command: Command) -> None:
    command.fails("invalid-input", "install", "acme", "--background")
    command.fails("not-found", "upgrade", "acme/none", "--background")
    command.fails("invalid-input", "upgrade", "acme", "--background")
    del command.environment["PLUGINCTL_ROOT"]
    command.fails("invalid-input", "install", "acme/model", "--background")
    assert not store(command).exists() or command.world.manager().jobs.all() == []


def test_what_was_fetched_ahead_is_upgraded_to_offline(command: Command) -> None:
    command("install", "acme/model")
    command.world.publish("acme/model 1.1", {"model.bin": BIG[:1_000_000]})
    command.world.manager().fetch("acme/model")
    command.world.base_url = "http://127.0.0.1:9/"
    command("upgrade", "--offline")
    assert [one["version"] for one in command.json("list")] == ["1.1"]


# --- killed --------------------------------------------------------------------------------------


def test_a_killed_agent_is_succeeded_by_one_that_goes_on(command: Command) -> None:
    world = command.world
    job = submitted(command)["job"]["id"]
    world.manager().jobs.limit(4_000_000, job)
    with foreground(command) as process:
        wait_for(lambda: progress(command, job) > 3_000_000)
        process.kill()
        process.wait()
    found = status(store(command))
    assert (found.running, found.doing) == (False, "")
    [resumed] = world.manager().jobs.resume_status(job)
    assert resumed.kept_bytes > 1_000_000
    world.fetched()
    world.manager().jobs.limit(None, job)
    command("agent", "start")
    command("watch", job)
    assert world.fetched() <= resumed.fetch_bytes
    assert world.manager().verify().good


def test_control_what_the_disk_lost_is_fetched_again(command: Command) -> None:
    """As the test before, but nothing is there to go on from."""
    world = command.world
    job = submitted(command)["job"]["id"]
    world.manager().jobs.limit(4_000_000, job)
    with foreground(command) as process:
        wait_for(lambda: progress(command, job) > 3_000_000)
        process.kill()
        process.wait()
    shutil.rmtree(store(command) / "staging")
    world.fetched()
    world.manager().jobs.limit(None, job)
    command("agent", "start")
    command("watch", job)
    assert world.fetched() >= len(BIG)


def test_another_takes_over_while_the_host_lives(command: Command) -> None:
    """Two on one store: the second waits for nothing but the first's end."""
    with foreground(command) as first:
        command.fails("locked", "agent", "run")
        first.kill()
        first.wait()
        with foreground(command) as second:
            assert status(store(command)).pid == second.pid


# --- services ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["systemd", "launchd", "windows"])
def test_services_are_written_once_and_removed(command: Command, tmp_path: Path, kind: str) -> None:
    command.environment |= {"HOME": str(tmp_path / "home"), "PLUGINCTL_JOBS": "2"}
    printed = subprocess.run(
        command.arguments("agent", "install-service", "--kind", kind, "--print"),
        env={**command.environment, "PLUGINCTL_REPOSITORY": command.world.base_url},
        capture_output=True,
        check=True,
    ).stdout
    assert not (tmp_path / "home").exists()
    value = command.json("agent", "install-service", "--kind", kind)
    assert str(store(command)) in value["text"]
    path = Path(value["path"])
    assert path.read_bytes() == printed
    assert path.is_relative_to(tmp_path / "home")
    command("agent", "install-service", "--kind", kind)  # again is no fault
    assert command.json("agent", "uninstall-service", "--kind", kind)["removed"] is True
    assert not path.exists()
    assert command.json("agent", "uninstall-service", "--kind", kind)["removed"] is False


def test_somebody_else_s_file_is_not_touched(command: Command, tmp_path: Path) -> None:
    command.environment["HOME"] = str(tmp_path / "home")
    path = Path(command.json("agent", "install-service", "--kind", "systemd")["path"])
    path.write_text("mine")
    command.fails("refused", "agent", "install-service", "--kind", "systemd")
    command.fails("refused", "agent", "uninstall-service", "--kind", "systemd")
    assert path.read_text() == "mine"


def test_what_others_may_read_holds_no_secret(command: Command, tmp_path: Path) -> None:
    command.environment |= {
        "HOME": str(tmp_path),
        "PLUGINCTL_AGENT_WEBHOOK": "https://hooks.example.org/T0KEN",
        "PLUGINCTL_JOBS": "2",
    }
    done = command("agent", "install-service", "--kind", "systemd")
    assert "PLUGINCTL_AGENT_WEBHOOK" in done.stdout
    value = command.json("agent", "install-service", "--kind", "systemd", "--print")
    assert "T0KEN" not in value["text"]
    assert "PLUGINCTL_JOBS=2" in value["text"]


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_an_agent_has_the_settings_of_the_file_that_was_named(
    command: Command, tmp_path: Path, how: str
) -> None:
    """The file says when it ends; the service begins in another directory."""
    (tmp_path / "named.toml").write_text("agent_idle_exit = 1\n")
    (tmp_path / "tokens").touch(0o600)
    relative = os.path.relpath(tmp_path / "named.toml")
    command.environment["PLUGINCTL_TOKENS"] = os.path.relpath(tmp_path / "tokens")
    flags = []
    if how == "flag":
        flags = ["--config", relative]
    else:
        command.environment["PLUGINCTL_CONFIG"] = relative
    value = command.json(*flags, "agent", "install-service", "--kind", "launchd", "--print")
    plan = plistlib.loads(value["text"].encode())
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": command.environment["PYTHONPATH"]}
    environment |= plan["EnvironmentVariables"]
    assert Path(environment["PLUGINCTL_TOKENS"]).is_absolute()
    subprocess.run(plan["ProgramArguments"], env=environment, cwd="/", timeout=60, check=True)
    assert command.json(*flags, "agent", "start")["running"] is True
    wait_for(lambda: not status(store(command)).running)
    job = command.json(*flags, "install", "acme/model", "--background", "--start-agent")["job"]
    wait_for(lambda: not status(store(command)).running)
    assert command.world.manager().jobs.get(job["id"]).state is JobState.COMPLETED


def test_the_command_of_a_service_is_one_that_runs(command: Command) -> None:
    """What the unit starts is started here, as the service manager would."""
    value = command.json("agent", "install-service", "--kind", "launchd", "--print")
    plan = plistlib.loads(value["text"].encode())
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": command.environment["PYTHONPATH"]}
    environment |= plan["EnvironmentVariables"]
    with subprocess.Popen(plan["ProgramArguments"], env=environment, cwd="/") as process:
        wait_for(lambda: status(store(command)).pid == process.pid)
        assert json.loads(command("agent", "stop", "--json").stdout)["running"] is False
        assert process.wait(60) == 0
    assert plan["ProgramArguments"][0] == sys.executable


def test_an_agent_imports_nothing_from_the_directory_it_was_started_in(
    command: Command, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "logging.py").write_text("raise SystemExit('not the one that was meant')")
    python, *rest = command.arguments("agent", "start", "--json")
    done = subprocess.run(
        [python, "-P", *rest],  # as the script 'pluginctl', which has its own directory there
        cwd=elsewhere, env=command.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["running"] is True


def test_a_service_finds_the_users_file_and_the_proxies(command: Command, tmp_path: Path) -> None:
    """Variables of a shell that a service manager does not know of."""
    command.environment["XDG_CONFIG_HOME"] = str(tmp_path / "elsewhere")
    command.environment |= {"https_proxy": "http://proxy:3128", "NO_PROXY": "127.0.0.1"}
    command.environment["ALL_PROXY"] = "http://me:secret@proxy:3128"
    command("config", "set", "agent_idle_exit", "0")
    value = command.json("agent", "install-service", "--kind", "launchd", "--print")
    assert "secret" not in value["text"]
    plan = plistlib.loads(value["text"].encode())
    given = plan["EnvironmentVariables"]
    assert (given["https_proxy"], given["NO_PROXY"]) == ("http://proxy:3128", "127.0.0.1")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": command.environment["PYTHONPATH"]}
    # It ends by itself, which only the file says.
    subprocess.run(
        plan["ProgramArguments"], env=environment | given, cwd="/", timeout=60, check=True
    )
    command.environment["HOME"] = str(tmp_path / "home")
    assert "ALL_PROXY" in command("agent", "install-service", "--kind", "launchd").stdout
