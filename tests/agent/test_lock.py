"""Who is the agent: what the kernel says, and never what a file says."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugin_manager import agent
from plugin_manager.agent import _lock
from plugin_manager.agent._lock import AgentLock, Holder, holder, terminate
from plugin_manager.store._lock import WriterLock

HOLD = """
import sys, time
from pathlib import Path
from plugin_manager.agent._lock import AgentLock
lock = AgentLock.take(Path(sys.argv[1]), stoppable=sys.argv[2] == "stoppable")
print(lock is not None, flush=True)
time.sleep(600)
"""


@contextmanager
def another(store: Path, kind: str = "stoppable") -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    command = [sys.executable, "-c", HOLD, str(store), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def test_one_agent_a_store_and_the_kernel_tells_which(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        assert holder(tmp_path) == Holder(True, process.pid, stoppable=True)
        assert AgentLock.take(tmp_path, stoppable=True) is None
        process.kill()
        process.wait()
        assert holder(tmp_path) == Holder(False)
        with AgentLock.take(tmp_path, stoppable=True) or pytest.fail("it is still locked"):
            pass


def test_one_agent_in_a_process_too(tmp_path: Path) -> None:
    with AgentLock.take(tmp_path, stoppable=False) or pytest.fail("it is locked"):
        assert AgentLock.take(tmp_path, stoppable=False) is None
        assert holder(tmp_path) == Holder(True, os.getpid())
    assert holder(tmp_path) == Holder(False)


def test_looking_does_not_end_what_this_process_holds(tmp_path: Path) -> None:
    """POSIX locks end when any descriptor of the file is closed, also one that only looked."""
    look = (
        "import sys; from pathlib import Path; from plugin_manager.agent._lock import holder;"
        "print(holder(Path(sys.argv[1])).pid)"
    )
    with AgentLock.take(tmp_path, stoppable=True) or pytest.fail("it is locked"):
        for _ in range(3):
            holder(tmp_path)
        seen = subprocess.check_output([sys.executable, "-c", look, str(tmp_path)], text=True)
        assert int(seen) == os.getpid()


@pytest.mark.parametrize(("directory", "lock"), [(0o755, 0o600), (0o775, 0o660), (0o700, 0o600)])
def test_who_may_only_read_a_store_cannot_open_its_locks(
    tmp_path: Path, directory: int, lock: int
) -> None:
    """Who can open a file can lock it: an agent's name, and the turn of all that write."""
    tmp_path.chmod(directory)
    for _ in range(2):
        with AgentLock.take(tmp_path, stoppable=False) or pytest.fail("it is locked"):
            pass
        with WriterLock(tmp_path).held(0, lambda _: None):
            pass
        for path in (tmp_path / "agent" / "lock", tmp_path / "lock"):
            assert path.stat().st_mode & 0o777 == lock
            path.chmod(0o644)  # as earlier versions made them


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs other users")
def test_another_user_cannot_pose_as_the_agent(tmp_path: Path) -> None:
    locks = (tmp_path / "agent" / "lock", tmp_path / "lock", tmp_path / "control")
    for parent in (*tmp_path.parents, tmp_path):
        if parent.stat().st_mode & 0o055 != 0o055:
            parent.chmod(0o755)
    with AgentLock.take(tmp_path, stoppable=False) or pytest.fail("it is locked"):
        pass
    with WriterLock(tmp_path).held(0, lambda _: None):
        pass
    locks[-1].touch(0o644)
    lock_them = """
import fcntl, sys
for path in sys.argv[1:]:
    try:
        fcntl.flock(open(path), fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("locked")
    except PermissionError:
        print("refused")
"""
    command = ["/usr/bin/env", "python3", "-c", lock_them, *map(str, locks)]
    said = subprocess.check_output(command, user=65534, group=65534, extra_groups=[], text=True)
    assert said.split() == ["refused", "refused", "locked"]  # the last one is the control


def test_only_the_holder_is_sent_a_signal(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        assert terminate(tmp_path) == process.pid
        assert process.wait(30) == -signal.SIGTERM
    assert terminate(tmp_path) is None


@pytest.mark.parametrize("changed", [False, True])
def test_who_no_longer_holds_it_is_sent_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """Between the first look and the signal its number may have become another's."""
    with another(tmp_path) as process:
        first = holder(tmp_path)
        looks = iter([first, Holder(False) if changed else first])
        monkeypatch.setattr(_lock, "holder", lambda _: next(looks))
        assert terminate(tmp_path) == (None if changed else process.pid)
        if changed:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
        else:
            assert process.wait(30) == -signal.SIGTERM


def test_a_host_is_never_sent_a_signal(tmp_path: Path) -> None:
    with another(tmp_path, "host") as process:
        assert holder(tmp_path) == Holder(True, process.pid, stoppable=False)
        assert terminate(tmp_path) is None
        assert process.poll() is None


@pytest.mark.parametrize("content", ["", "12345", json.dumps({"pid": 1})])
def test_what_files_say_sends_nobody_a_signal(tmp_path: Path, content: str) -> None:
    """Somebody writes this test's own number wherever a careless program would look for one."""
    (tmp_path / "agent").mkdir()
    for name in ("lock", "pid", "state.json"):
        (tmp_path / "agent" / name).write_text(content.replace("12345", str(os.getpid())))
    assert not agent.status(tmp_path).running
    assert terminate(tmp_path) is None


def test_another_program_s_locked_file_in_its_place_is_no_agent(tmp_path: Path) -> None:
    """A database, say: locked from its beginning, and far in."""
    lock_it = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w');"
        "fcntl.lockf(file, fcntl.LOCK_EX, 512, 0x40000000); print('ready', flush=True);"
        "time.sleep(600)"
    )
    (tmp_path / "agent").mkdir()
    path = tmp_path / "agent" / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", lock_it, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert holder(tmp_path) == Holder(False)
        assert terminate(tmp_path) is None
        assert process.poll() is None
        process.kill()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_file_in_its_place_is_no_agent(tmp_path: Path, kind: str) -> None:
    (tmp_path / "agent").mkdir()
    path = tmp_path / "agent" / "lock"
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").touch()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert holder(tmp_path) == Holder(False)
    with pytest.raises(OSError):
        AgentLock.take(tmp_path, stoppable=True)


def test_a_child_of_a_fork_does_not_keep_a_dead_agent_alive(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path;"
        "from plugin_manager.agent._lock import AgentLock;"
        "lock = AgentLock.take(Path(sys.argv[1]), stoppable=True);"
        "child = os.fork();"
        "child or time.sleep(600);"
        "print(child, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        try:
            assert holder(tmp_path).pid == process.pid
            process.kill()
            process.wait()
            deadline = time.monotonic() + 30  # the child may not have come to it yet
            while holder(tmp_path).running and time.monotonic() < deadline:
                time.sleep(0.05)
            assert holder(tmp_path) == Holder(False)
            assert AgentLock.take(tmp_path, stoppable=True)
        finally:
            os.kill(child, signal.SIGKILL)


def test_control_a_lock_that_a_child_inherits_outlives_its_process(tmp_path: Path) -> None:
    """As the test before, without what closes it in the child."""
    path = tmp_path / "lock"
    program = (
        "import fcntl, os, sys, time; file = open(sys.argv[1], 'w');"
        "fcntl.flock(file, fcntl.LOCK_EX); child = os.fork(); child or time.sleep(600);"
        "print(child, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            with path.open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.kill(child, signal.SIGKILL)
