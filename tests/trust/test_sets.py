"""Sets on disk: a crash at any instant and readers at any moment see the old set or the new."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from plugin_manager.durable import SET_ASIDE_PREFIX
from plugin_manager.errors import CorruptError, NotFoundError
from plugin_manager.model import PluginName
from plugin_manager.trust import _sets
from plugin_manager.trust._sets import Sets
from tests.trust.repository import Repository, update

MAPS = PluginName.parse("acme/maps")
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


def test_what_an_interrupted_commit_left_is_never_taken_for_the_set_before(tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    sets = Sets(tmp_path)
    sets.commit({"timestamp.json": b"one"})
    # One dies before it switches, the next as it removes the first thing.
    for where, name in ((Sets, "_switch"), (_sets, "remove_directory")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, die)
            with pytest.raises(KeyboardInterrupt):
                sets.commit({"timestamp.json": b"two"})
    sets.commit({"timestamp.json": b"two"})
    found = [(path / "timestamp.json").read_bytes() for path in (tmp_path / "sets").iterdir()]
    assert sorted(found) == [b"one", b"two"]


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
    assert sets_of(tmp_path) == ["10", "4", "9" * 30]


def test_numbers_at_the_end_of_what_the_pointer_holds_stay_usable(tmp_path):
    sets = Sets(tmp_path)
    for digits in (17, 18):
        (tmp_path / "sets" / ("9" * digits)).mkdir(parents=True)
    (tmp_path / "sets" / "7").write_text("a file")
    for number in range(4):
        files = {"timestamp.json": str(number).encode()}
        sets.commit(files)
        assert Sets(tmp_path).current().intact() == files
    assert len([name for name in sets_of(tmp_path) if not name.startswith(SET_ASIDE_PREFIX)]) == 2


# --- somebody else's things in the place of ours --------------------------------------------------


def sets_of(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "sets").iterdir())


def tree(directory: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(directory)): path.read_text() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


@pytest.fixture
def victim(tmp_path):
    """A directory with what matters to somebody, also under names as ours."""
    for name in ("documents", "1", "2", "7", "staging", "sets/1", "sets/photos", "root_history"):
        (tmp_path / "victim" / name).mkdir(parents=True)
        (tmp_path / "victim" / name / "precious.txt").write_text(name)
    (tmp_path / "victim" / "timestamp.json").write_text("precious")
    return tmp_path / "victim"


@pytest.fixture
def repository():
    repository = Repository("acme")
    repository.add("acme/maps 1.0")
    repository.publish()
    return repository


OWNED = [".", "sets", "staging", "sets/1", "sets/2", "current", "current.new"]


def replace(path: Path, kind: str, victim: Path) -> None:
    """Move what is at `path` away and put something else there."""
    if os.path.lexists(path):
        path.rename(path.with_name("moved-away"))
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "file":
        path.write_text("precious file")
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        shutil.copytree(victim, path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and FIFOs")
@pytest.mark.parametrize("kind", ["link", "loop", "file", "FIFO", "directory"])
@pytest.mark.parametrize("place", OWNED)
def test_what_stands_in_the_place_of_ours_is_set_aside(tmp_path, repository, victim, place, kind):
    directory = tmp_path / "store" / "trust"
    update(repository.trust(directory), "acme/maps")
    before = tree(victim)
    replace(directory / place, kind, victim)
    with contextlib.suppress(CorruptError, NotFoundError):  # and nothing else, and no waiting
        repository.trust(directory).local().catalogue(MAPS)
    for _ in range(3):
        update(repository.trust(directory), "acme/maps")
        assert repository.trust(directory).local().catalogue(MAPS).entries
        repository.publish()
    assert tree(victim) == before
    for path in (directory, directory / "sets"):
        assert path.is_dir()
        assert not path.is_symlink()
    if kind == "directory" and place in {"current", "current.new"}:
        (aside,) = directory.glob(f"{SET_ASIDE_PREFIX}*")
        assert tree(aside) == before


def test_link_that_appears_during_an_update_is_not_written_through(tmp_path, repository, victim):
    directory = tmp_path / "trust"
    before = tree(victim)
    with repository.trust(directory).update() as conversation:
        conversation.catalogue(MAPS)
        replace(directory, "link", victim)
    assert tree(victim) == before
    assert repository.trust(directory).local().catalogue(MAPS).entries


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and FIFOs")
@pytest.mark.parametrize("kind", ["link", "loop", "FIFO", "directory"])
@pytest.mark.parametrize("place", ["sets/1/timestamp.json", "sets/1/SHA256SUMS", "current"])
def test_reading_names_what_is_no_file(tmp_path, repository, victim, place, kind):
    directory = tmp_path / "trust"
    update(repository.trust(directory), "acme/maps")
    replace(directory / place, kind, victim)
    with pytest.raises(CorruptError) as caught:
        repository.trust(directory).local()
    assert caught.value.paths == (str(directory / place),)
    assert caught.value.remedy == "Run 'pluginctl update'."


def test_control_removing_without_looking_empties_a_links_target(tmp_path, victim, monkeypatch):
    def remove_all_but(self, kept):
        for path in self._sets.iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    monkeypatch.setattr(Sets, "_remove_all_but", remove_all_but)
    monkeypatch.setattr(_sets, "own_directory", lambda path: path.mkdir(exist_ok=True))
    sets = Sets(tmp_path / "trust")
    sets.directory.mkdir()
    (sets.directory / "sets").symlink_to(victim)
    sets.commit({"timestamp.json": b"one"})
    assert not (victim / "documents").exists()
