"""Leases: what a live process has loaded stays, and nothing is left of them after its death."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from plugin_manager.errors import LockedError
from plugin_manager.store import Lease, _lease
from plugin_manager.store._lease import claim

HOLD = """
import sys
from pathlib import Path
from plugin_manager.store import Lease
lease = Lease.of(Path(sys.argv[1]))
print("leased", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "release").mkdir()
    return tmp_path / "release"


def can_be_removed(release: Path) -> bool:
    claimed = claim(release)
    if claimed:
        claimed.close()
    return claimed is not None


def test_many_may_lease_and_the_last_to_go_frees_it(release: Path) -> None:
    first, second = Lease.of(release), Lease.of(release)
    assert not can_be_removed(release)
    first.close()
    first.close()
    assert not can_be_removed(release), "closing twice must not close another's"
    second.close()
    assert can_be_removed(release)


def test_a_lease_writes_nothing(release: Path) -> None:
    before = release.stat()
    with Lease.of(release):
        assert list(release.iterdir()) == []
    assert release.stat().st_mtime_ns == before.st_mtime_ns


def test_the_lease_of_a_killed_process_is_gone_with_it(release: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, release], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"leased\n"
    assert not can_be_removed(release)
    process.kill()
    process.wait()
    assert can_be_removed(release)
    process.stdin.close()
    process.stdout.close()


def test_a_program_that_is_started_does_not_inherit_it(release: Path) -> None:
    lease = Lease.of(release)
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    lease.close()
    assert can_be_removed(release)
    child.kill()
    child.wait()


def test_a_child_of_a_fork_shares_it(release: Path) -> None:
    reading, writing = os.pipe()
    lease = Lease.of(release)
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    lease.close()
    assert not can_be_removed(release)
    os.close(writing)
    os.waitpid(child, 0)
    assert can_be_removed(release)


def test_while_it_is_being_removed_a_lease_waits_and_then_finds_nothing(release: Path) -> None:
    claimed = claim(release)
    assert claimed

    def remove() -> None:
        time.sleep(0.03)
        release.rename(release.with_name("aside"))
        claimed.close()

    thread = threading.Thread(target=remove)
    thread.start()
    with pytest.raises(FileNotFoundError):
        Lease.of(release)
    thread.join()


def test_a_lease_is_of_what_lies_at_the_path_now(release: Path) -> None:
    claimed = claim(release)
    assert claimed

    def replace() -> None:
        time.sleep(0.03)
        release.rename(release.with_name("aside"))
        release.mkdir()
        claimed.close()

    thread = threading.Thread(target=replace)
    thread.start()
    with Lease.of(release):
        thread.join()
        assert not can_be_removed(release)


def test_a_lease_that_could_not_be_had_is_an_error_and_no_promise(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lease, "_PAUSE_SECONDS", 0)
    claimed = claim(release)
    assert claimed
    with claimed, pytest.raises(LockedError, match="locked by another process"):
        Lease.of(release)
    with Lease.of(release):
        assert not can_be_removed(release)


@pytest.mark.parametrize("what", ["link", "file"])
def test_what_is_no_directory_is_not_leased(tmp_path: Path, release: Path, what: str) -> None:
    odd = tmp_path / "odd"
    odd.symlink_to(release) if what == "link" else odd.write_text("x")
    with pytest.raises(OSError):
        Lease.of(odd)
    with pytest.raises(OSError):
        claim(odd)
