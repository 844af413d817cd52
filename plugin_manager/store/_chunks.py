"""A release's file on the disk: opening it, its chunks, and whether they are what was signed.

Who reads hashes the bytes that he read, not the file that he could read again: between the two lies
the gap that attackers and bad disks use.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from plugin_manager.errors import CorruptError, StoreAccessError

if TYPE_CHECKING:
    from plugin_manager.manifest import File, Manifest

__all__ = [
    "BUFFER_BYTES",
    "PIECE_BYTES",
    "Buffer",
    "Chunks",
    "Damage",
    "corrupt",
    "damage_of",
    "file_damage",
    "is_signed",
    "open_regular",
    "opened",
    "regular_file",
]

# O_NONBLOCK: a FIFO in the file's place must not hang the opening.
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

PIECE_BYTES = 32 * 1024 * 1024  # of a large file, worth a thread
BUFFER_BYTES = 1024 * 1024  # no chunk is larger
_MOST_BUFFERS = max(4, os.cpu_count() or 1)
_BUFFERS: list[memoryview] = []  # free ones; taking and giving back is one step each, for threads


class Damage(StrEnum):
    """What is wrong with a file of a release."""

    DAMAGED = "damaged"
    MISSING = "missing"
    FOREIGN = "foreign"


# --- opening -----------------------------------------------------------------------------------


def open_regular(path: Path | str) -> int:
    """A descriptor of a regular file, never through a symbolic link in its last part."""
    descriptor = os.open(path, _OPEN_FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return descriptor


class regular_file:  # noqa: N801 - used as the function `open` is
    """A descriptor of a regular file, as `open_regular` gives it, closed at the end."""

    def __init__(self, path: Path | str) -> None:
        self.path = path

    def __enter__(self) -> int:
        self.descriptor = open_regular(self.path)
        return self.descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


class opened:  # noqa: N801 - used as the function `open` is
    """A descriptor of a file of a release, of its size, closed at the end.

    What the system refuses, also in the block, is a CorruptError naming the file, or a
    StoreAccessError where that is not the file's fault.
    """

    def __init__(self, directory: Path, manifest: Manifest, file: File) -> None:
        self._directory, self._manifest, self._file = directory, manifest, file

    def __enter__(self) -> int:
        try:
            self._descriptor = open_regular(f"{self._directory}/{self._file.path}")
        except OSError as error:
            raise self._corrupt(error) from error
        if os.fstat(self._descriptor).st_size != self._file.size:
            os.close(self._descriptor)
            raise corrupt(self._manifest, self._file, Damage.DAMAGED)
        return self._descriptor

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        os.close(self._descriptor)
        if isinstance(error, OSError):
            raise self._corrupt(error) from error

    def _corrupt(self, error: OSError) -> CorruptError:
        damage = damage_of(error, f"{self._directory}/{self._file.path}")
        return corrupt(self._manifest, self._file, damage)


def corrupt(manifest: Manifest, file: File, damage: Damage) -> CorruptError:
    """The error to raise for `file` of the release that `manifest` describes."""
    return CorruptError(
        f"{manifest.release}: {file.path} is {damage}",
        paths=(file.path,),
        plugin=str(manifest.release.plugin),
        remedy=f"Run 'pluginctl repair {manifest.release.plugin}'.",
    )


# What is wrong with the file or what holds it, and not with this process or its rights.
_FAULTS_OF_FILES = {
    None,  # no regular file
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENXIO,  # a FIFO, a socket, a device
    errno.ENAMETOOLONG,
    errno.EIO,
    errno.ESTALE,
    errno.EBADMSG,  # so some file systems call checksums that differ
    errno.EINVAL,
    getattr(errno, "EUCLEAN", errno.EIO),
    getattr(errno, "EREMOTEIO", errno.EIO),
    errno.ENODATA,
}


def damage_of(error: OSError, place: Path | str) -> Damage:
    """What `error` says about the file at `place`; raises StoreAccessError where it says nothing.

    A process that may open no more files, or may not read this one, has met no damage: mending
    would not help it.
    """
    if isinstance(error, FileNotFoundError):
        return Damage.MISSING
    if error.errno in _FAULTS_OF_FILES or _is_closed_to_its_owner(error, place):
        return Damage.DAMAGED
    raise StoreAccessError(
        f"{place} cannot be read: {error.strerror or error}",
        remedy="Check the permissions, and the limits of this process.",
        path=str(place),
    ) from error


def _is_closed_to_its_owner(error: OSError, place: Path | str) -> bool:
    """Whether somebody took away even its owner's right to read the file."""
    try:
        return isinstance(error, PermissionError) and not os.lstat(place).st_mode & stat.S_IRUSR
    except OSError:
        return False


# --- hashing -----------------------------------------------------------------------------------


class Buffer:
    """Memory of `BUFFER_BYTES` on loan: nobody else uses it meanwhile."""

    __slots__ = ("_memory",)

    def __enter__(self) -> memoryview:
        try:
            self._memory = _BUFFERS.pop()
        except IndexError:
            self._memory = memoryview(bytearray(BUFFER_BYTES))
        return self._memory

    def __exit__(self, *_: object) -> None:
        if len(_BUFFERS) < _MOST_BUFFERS:
            _BUFFERS.append(self._memory)


def is_signed(manifest: Manifest, file: File, view: memoryview) -> bool:
    """Whether `view` holds what the manifest says about the whole of `file`."""
    if file.chunk_count == 1:
        return len(view) == file.size and blake3(view).digest() == manifest.content_key(file)
    return all(
        blake3(view[chunk.offset : chunk.offset + chunk.length]).digest() == chunk.digest
        for chunk in manifest.chunks(file)
    )


def file_damage(place: str, manifest: Manifest, file: File, buffer: memoryview) -> Damage | None:
    """What is wrong with the file at `place`, if anything is; `buffer` has room for it."""
    # Straight, without the helpers above: this is done for thousands of files at each load.
    try:
        descriptor = os.open(place, _OPEN_FLAGS)
    except OSError as error:
        return damage_of(error, place)
    try:
        status, size = os.fstat(descriptor), file.size
        mode = status.st_mode
        if status.st_size != size or not stat.S_ISREG(mode):
            return Damage.DAMAGED
        if bool(mode & 0o100) != file.executable:
            return Damage.DAMAGED
        view = buffer[:size]
        if size and os.readv(descriptor, [view]) != size:
            return Damage.DAMAGED
        good = is_signed(manifest, file, view)
    except OSError as error:
        return damage_of(error, place)
    finally:
        os.close(descriptor)
    return None if good else Damage.DAMAGED


class Chunks:
    """Where the chunks of `file` begin, and their digests, to be gone through in any order.

    Not all as values: of a large model those alone take longer than its first byte.
    """

    def __init__(self, manifest: Manifest, file: File) -> None:
        first = file.first_chunk
        lengths = manifest.columns.lengths[first : first + file.chunk_count]
        self.starts = list(accumulate(lengths, initial=0))  # and where the last one ends
        self._digests = manifest.content_key(file)

    def pieces(self, piece_bytes: int, numbers: range | None = None) -> list[range]:
        """All chunks, or `numbers`, in ranges of about `piece_bytes`, each worth a thread."""
        numbers = range(len(self.starts) - 1) if numbers is None else numbers
        size = self.starts[numbers.stop] - self.starts[numbers.start] if numbers else 0
        step = max(1, -(-len(numbers) * piece_bytes // max(size, 1)))
        return [numbers[at : at + step] for at in range(0, len(numbers), step)]

    def are_signed(self, numbers: range, view: memoryview, begin: int = 0) -> bool:
        """Whether `view`, which is the file from byte `begin` on, holds those chunks."""
        return all(self._is_signed(number, self._part(number, view, begin)) for number in numbers)

    def read(self, descriptor: int, numbers: Iterable[int], view: memoryview, begin: int) -> bool:
        """Read chunks into their places in `view`; whether they are as signed. Raises OSError."""
        return all(
            self._read(descriptor, number, self._part(number, view, begin)) for number in numbers
        )

    def check(self, descriptor: int, numbers: range) -> bool:
        """Whether the file holds those chunks, read into memory on loan. Raises OSError."""
        with Buffer() as buffer:
            return all(
                self._read(descriptor, number, self._part(number, buffer, self.starts[number]))
                for number in numbers
            )

    def are_cached(self, descriptor: int, numbers: range) -> bool:
        """Whether they are in the page cache, as far as can be told by some of their bytes."""
        flag = getattr(os, "RWF_NOWAIT", 0)  # Linux
        byte = bytearray(1)
        try:
            return bool(flag) and all(
                os.preadv(descriptor, [byte], at, flag)
                for at in range(self.starts[numbers.start], self.starts[numbers.stop], BUFFER_BYTES)
            )
        except OSError:  # it would have to wait, or this file system cannot tell
            return False

    def _part(self, number: int, view: memoryview, begin: int) -> memoryview:
        return view[self.starts[number] - begin : self.starts[number + 1] - begin]

    def _is_signed(self, number: int, part: memoryview) -> bool:
        at = number * blake3.digest_size
        return blake3(part).digest() == self._digests[at : at + blake3.digest_size]

    def _read(self, descriptor: int, number: int, part: memoryview) -> bool:
        count = os.preadv(descriptor, [part], self.starts[number])
        return count == len(part) and self._is_signed(number, part)
