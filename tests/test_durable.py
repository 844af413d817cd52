"""A file is there wholly or not at all, and the disk's refusals become errors of ours."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin_manager import durable
from plugin_manager.durable import (
    TEMPORARY_PREFIX,
    disk_errors,
    disk_space,
    move_into_place,
    write_atomically,
)
from plugin_manager.errors import NoSpaceError, StoreAccessError
from tests.disks import small_disk


def temporaries(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(TEMPORARY_PREFIX)]


def failing(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def write_in_place(path: Path, data: bytes) -> None:
    """The broken way: what a crash or an error leaves is neither the old file nor the new one."""
    with path.open("wb") as file:
        file.write(data[:1])
        file.flush()
        os.fsync(file.fileno())


def failed_write_leaves(write: Callable[[Path, bytes], None], path: Path) -> bytes:
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="Input/output"):
        write(path, b"new")
    return path.read_bytes()


def test_what_is_written_is_there_and_directories_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a/b/file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [found.name for found in path.parent.iterdir()] == ["file"]


def test_a_failed_sync_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable.os, "fsync", failing)
    assert failed_write_leaves(write_atomically, tmp_path / "file") == b"old"
    assert temporaries(tmp_path) == []
    # Control: writing in place does not.
    assert failed_write_leaves(write_in_place, tmp_path / "file") != b"old"


def test_a_failed_rename_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable.Path, "replace", failing)
    assert failed_write_leaves(write_atomically, tmp_path / "file") == b"old"
    assert temporaries(tmp_path) == []


def test_an_interruption_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        assert temporaries(tmp_path), "control: the temporary file was there"
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(durable.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert temporaries(tmp_path) == []


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_file_has_its_mode_from_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    real_open, real_fsync = os.open, os.fsync

    def watched_open(path: object, *arguments: int) -> int:
        descriptor = real_open(path, *arguments)
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    def watched_sync(descriptor: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        real_fsync(descriptor)

    monkeypatch.setattr(durable.os, "open", watched_open)
    monkeypatch.setattr(durable.os, "fsync", watched_sync)
    write_atomically(tmp_path / "key", b"secret", mode=0o600, sync_parent=False)
    assert modes == [0o600, 0o600]
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    # Control: a file made without a mode would have been seen as readable by all.
    os.close(watched_open(tmp_path / "plain", os.O_CREAT | os.O_WRONLY, 0o666))
    assert modes[-1] == 0o666


def test_a_moved_file_is_whole_and_no_longer_where_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    move_into_place(source, tmp_path / "a/target")
    assert (tmp_path / "a/target").read_bytes() == b"data"
    assert not source.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_no_space(tmp_path: Path, number: int) -> None:
    with pytest.raises(NoSpaceError) as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path) in caught.value.message
    assert caught.value.free_bytes > 0
    assert caught.value.remedy


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EROFS, errno.EMFILE])
def test_any_other_refusal_is_the_stores_and_names_the_file(tmp_path: Path, number: int) -> None:
    with pytest.raises(StoreAccessError) as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "file"))
    assert caught.value.message == f"{tmp_path / 'file'}: {os.strerror(number)}"
    assert caught.value.context["path"] == str(tmp_path / "file")
    assert caught.value.remedy


def test_what_is_no_refusal_of_the_disk_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), disk_errors(tmp_path):
        raise ValueError("mine")


def test_free_space_of_a_directory_to_come_is_that_of_its_disk(tmp_path: Path) -> None:
    total, free = disk_space(tmp_path / "not/yet/there")
    assert total > free > 0


def test_a_disk_that_really_is_full_keeps_the_old_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256 * 1024) as disk:
        path = disk / "file"
        write_atomically(path, b"old")
        assert disk_space(disk / "below")[1] < 256 * 1024
        with pytest.raises(NoSpaceError) as caught, disk_errors(disk):
            write_atomically(path, os.urandom(1024 * 1024))
        assert str(disk) in caught.value.message
        assert path.read_bytes() == b"old"
        assert temporaries(disk) == []
        write_atomically(path, b"new")
        assert path.read_bytes() == b"new", "what the failure took was given back"
