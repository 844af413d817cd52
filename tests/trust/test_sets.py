"""Sets on disk: a crash at any instant and readers at any moment see the old set or the new."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from plugin_manager.errors import NotFoundError
from plugin_manager.trust._sets import Sets

PROJECT = Path(__file__).parents[2]


def run(program: str, directory: Path, *arguments: str) -> str:
    """Run `program` in a process of its own; returns what it printed."""
    code = "import sys; from pathlib import Path; directory = Path(sys.argv[1])\n" + PRELUDE
    done = subprocess.run(
        [sys.executable, "-c", code + textwrap.dedent(program), str(directory), *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PRELUDE = """
import os, shutil
from tests.trust.repository import *
from plugin_manager.errors import PluginManagerError
from plugin_manager.trust import _sets

repository = Repository("acme")
one = repository.add("acme/maps 1.0")
repository.publish()
trust = repository.trust(directory / "trust")
update(trust, "acme/maps")
shutil.copytree(directory / "trust", directory / "before")
two = repository.add("acme/maps 2.0")
repository.publish()

WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.symlink"}

def killed_at(step):
    # Runs one update in a child that dies at its step-th file operation. True: it died.
    child = os.fork()
    if child == 0:
        left = step
        def die(event, arguments):
            nonlocal left
            if event in WATCHED:
                if left == 0:
                    os._exit(9)
                left -= 1
        sys.addaudithook(die)
        update(repository.trust(directory / "trust"), "acme/maps")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

def state():
    fresh = repository.trust(directory / "trust")
    vouching = fresh.local()
    vouching.vouch(one, repository.heads[one])
    entries = len(vouching.catalogue(one.plugin).entries)
    if entries == 2:
        vouching.vouch(two, repository.heads[two])
    return entries
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_crash_at_any_file_operation_leaves_the_old_set_or_the_new(tmp_path):
    printed = run(
        """
        step, seen = 0, []
        while True:
            shutil.rmtree(directory / "trust")
            shutil.copytree(directory / "before", directory / "trust")
            died = killed_at(step)
            seen.append(state())
            update(repository.trust(directory / "trust"))
            assert state() == 2, step
            names = sorted(path.name for path in (directory / "trust").iterdir())
            assert names == ["current", "sets"], names
            assert len(list((directory / "trust" / "sets").iterdir())) <= 2
            if not died:
                break
            step += 1
        print(step, seen == sorted(seen), seen.count(1), seen.count(2))
        """,
        tmp_path,
    )
    steps, once_new_never_old, old, new = printed.split()
    assert int(steps) > 40
    assert once_new_never_old == "True"
    assert int(old) > 20
    assert int(new) > 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_control_update_in_place_is_caught_by_the_same_kills(tmp_path):
    """Writing into the current set, as python-tuf alone does, breaks the chain in between."""
    printed = run(
        """
        def commit(self, files):
            current = self._sets / self.current().directory.name
            for name, data in files.items():
                (current / name).write_bytes(data)
            seal_set(self.directory)
        _sets.Sets.commit = commit
        broken = step = 0
        died = True
        while died:
            shutil.rmtree(directory / "trust")
            shutil.copytree(directory / "before", directory / "trust")
            died = killed_at(step)
            try:
                state()
            except PluginManagerError:
                broken += 1
            step += 1
        print(broken)
        """,
        tmp_path,
    )
    assert int(printed) > 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_reader_in_another_process_never_sees_a_mixture(tmp_path):
    printed = run(
        """
        reader = os.fork()
        if reader == 0:
            counts = []
            while not (directory / "stop").exists():
                counts.append(state())
            print(len(counts), counts == sorted(counts), counts[0], counts[-1], flush=True)
            os._exit(0)
        for _ in range(40):
            update(repository.trust(directory / "trust"))
            repository.publish()
        (directory / "stop").touch()
        assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
        """,
        tmp_path,
    )
    reads, ordered, _, last = printed.split()
    assert int(reads) > 10
    assert (ordered, last) == ("True", "2")


def test_commit_of_the_same_files_writes_nothing(tmp_path):
    sets = Sets(tmp_path / "trust")
    files = {"timestamp.json": b"one", "catalogues/acme/maps.json": b"two"}
    with pytest.raises(NotFoundError):
        sets.current()
    sets.commit(files)
    pointer = sets.pointer()
    assert sets.current().intact() == files
    sets.commit(files)
    assert sets.pointer() == pointer
    sets.commit({**files, "timestamp.json": b"three"})
    assert sets.pointer() != pointer


def test_commit_of_the_same_files_mends_a_damaged_set(tmp_path):
    sets = Sets(tmp_path)
    files = {"timestamp.json": b"one", "targets.json": b"two"}
    sets.commit(files)
    (sets.current().directory / "targets.json").write_bytes(b"x")
    assert sets.salvage() == {"timestamp.json": b"one"}
    sets.commit(files)
    assert sets.current().intact() == files


def test_numbers_are_never_used_again_while_a_reader_may_know_them(tmp_path):
    sets = Sets(tmp_path)
    for number in range(1, 5):
        sets.commit({"timestamp.json": str(number).encode()})
        assert sets.current().directory.name == str(number)
    (tmp_path / "sets" / "9").mkdir()  # left by a crash
    (tmp_path / "sets" / ("9" * 30)).mkdir()  # planted: later numbers must stay readable
    sets.commit({"timestamp.json": b"later"})
    assert sets.current().intact() == {"timestamp.json": b"later"}
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == ["10", "4"]
