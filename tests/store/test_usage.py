"""The order of use: appended, never a clock, and nothing that anybody relies on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from plugin_manager.model import Digest
from plugin_manager.store import _usage
from plugin_manager.store._usage import Usage, UsageLog

A, B, C = (Digest(letter * 64) for letter in "abc")


@pytest.fixture
def log(tmp_path: Path) -> UsageLog:
    (tmp_path / "index").mkdir()
    return UsageLog(tmp_path)


def use(log: UsageLog, *digests: Digest, loaded: bool = True, seconds: int = 0) -> None:
    log.append(digests, loaded=loaded, seconds=seconds)


def coldest_first(log: UsageLog) -> list[Digest]:
    return sorted(log.read(), key=lambda digest: log.read()[digest].order)


def test_the_last_use_counts_whatever_the_clock_says(log: UsageLog) -> None:
    use(log, A, seconds=3_000_000_000)
    use(log, B, seconds=5)
    use(log, C, seconds=-1_000_000)
    use(log, A, seconds=1)
    assert coldest_first(log) == [B, C, A]
    assert [log.read()[digest].loaded_at for digest in (A, B, C)] == [1, 5, 0]


def test_an_install_is_a_use_but_no_load(log: UsageLog) -> None:
    use(log, A, seconds=7)
    use(log, A, B, loaded=False, seconds=9)
    assert log.read() == {A: Usage(2, 7), B: Usage(3, None)}


@pytest.mark.parametrize("junk", [b"\0" * 40, b"\n\n", b"x" * 100 + b"\n", b"l 5\n", b"\xff\xfe"])
def test_damaged_lines_cost_no_more_than_themselves(log: UsageLog, junk: bytes) -> None:
    use(log, A, B)
    path = next(path for path in log._directory.rglob("usage"))
    path.write_bytes(junk + b"\n" + path.read_bytes() + junk)
    assert coldest_first(log) == [A, B]
    use(log, A)
    use(log, A)
    assert coldest_first(log) == [B, A]


def test_any_bytes_at_all_are_read(log: UsageLog, tmp_path: Path) -> None:
    draw = random.Random(4)
    for _ in range(200):
        (tmp_path / "index/usage").write_bytes(draw.randbytes(draw.randrange(3000)))
        log.read()


def test_without_a_place_to_write_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        use(UsageLog(tmp_path), A)
    assert UsageLog(tmp_path).read() == {}


@pytest.mark.parametrize("trap", ["link", "FIFO", "directory", "link for the directory"])
def test_what_lies_in_its_place_is_not_written_through(tmp_path: Path, trap: str) -> None:
    log, home = UsageLog(tmp_path / "store"), tmp_path / "home"
    home.mkdir()
    (home / "victim").write_text("precious")
    path = tmp_path / "store/index/usage"
    path.parent.mkdir(parents=True)
    match trap:
        case "link":
            path.symlink_to(home / "victim")
        case "FIFO":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "link for the directory":
            path.parent.rmdir()
            path.parent.symlink_to(home)
    with pytest.raises(OSError):
        use(log, A)
    assert log.read() == {}
    assert {path.name: path.read_text() for path in home.iterdir()} == {"victim": "precious"}


def test_appending_at_the_same_time_mixes_no_lines(log: UsageLog, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from plugin_manager.model import Digest
from plugin_manager.store._usage import UsageLog
log = UsageLog(Path(sys.argv[1]))
for number in range(300):
    log.append([Digest(sys.argv[2] * 64)] * 3, loaded=True, seconds=number)
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), letter]) for letter in "abcd"
    ]
    assert [process.wait() for process in running] == [0] * 4
    assert len(list(log._lines())) == 4 * 300 * 3


def test_a_long_log_is_shortened_to_the_last_uses_in_their_order(
    log: UsageLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_usage, "_LONG_BYTES", 1000)
    use(log, C, seconds=4)
    use(log, *[A, B] * 20, seconds=5)
    use(log, A, loaded=False)
    log.shorten([A, B, C])
    path = tmp_path / "index/usage"
    assert len(path.read_bytes().splitlines()) == 3
    assert coldest_first(log) == [C, B, A]
    assert [log.read()[digest].loaded_at for digest in (A, B, C)] == [5, 5, 4]
    before = path.read_bytes()
    log.shorten([A, B, C])
    assert path.read_bytes() == before


def test_loads_alone_do_not_let_it_grow_without_bound(
    log: UsageLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_usage, "_MOST_BYTES", 1000)
    for _ in range(100):
        use(log, A)
    assert (tmp_path / "index/usage").stat().st_size <= 1000
    assert log.read()[A].order > 0
