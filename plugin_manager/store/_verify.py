"""Reading a release's files so that what is handed out is what was signed, and naming what is not.

Every reader hashes the bytes it read, not the file it could read again: between the two lies the
gap that attackers and bad disks use.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from attrs import frozen
from blake3 import blake3

from plugin_manager.errors import CorruptError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from _typeshed import WriteableBuffer

    from plugin_manager.manifest import Chunk, File, Manifest

__all__ = [
    "Damage",
    "Fault",
    "damaged_chunks",
    "foreign_files",
    "map_verified",
    "open_verified",
    "read_verified",
    "release_faults",
    "release_faults_slowly",
    "visible_faults",
]

S = TypeVar("S")
T = TypeVar("T")

_PARALLEL_BYTES = 16 * 1024 * 1024
_STREAM_BUFFER_BYTES = 64 * 1024


class Damage(StrEnum):
    """What is wrong with a file of a release."""

    DAMAGED = "damaged"
    MISSING = "missing"
    FOREIGN = "foreign"


@frozen
class Fault:
    """One file that is not as it was signed; `path` is relative to the release's directory."""

    path: str
    damage: Damage

    def __str__(self) -> str:
        return f"{self.path} ({self.damage})"


def read_verified(directory: Path, manifest: Manifest, file: File) -> bytes:
    """All bytes of `file` below `directory`, read once, each chunk's digest checked.

    Raises CorruptError naming the file where it is missing, is not a regular file, or differs.
    Holds the whole file in memory.
    """
    path = directory / file.path
    try:
        with _open(path) as descriptor:
            if os.fstat(descriptor).st_size != file.size:
                raise _corrupt(manifest, file, Damage.DAMAGED)
            data = _read_exactly(descriptor, file.size)
    except OSError as error:
        damage = Damage.MISSING if isinstance(error, FileNotFoundError) else Damage.DAMAGED
        raise _corrupt(manifest, file, damage) from error
    view = memoryview(data)
    for chunk in manifest.chunks(file):
        if blake3(view[chunk.offset : chunk.offset + chunk.length]).digest() != chunk.digest:
            raise _corrupt(manifest, file, Damage.DAMAGED)
    return data


def map_verified(directory: Path, manifest: Manifest, file: File) -> memoryview:
    """`file` below `directory` as a read-only mapping, hashed whole over that very mapping.

    The mapping and its descriptor last as long as the result. Whoever may write to the file can
    change a mapping afterwards. Raises CorruptError naming the file where it is missing, is not a
    regular file, or differs.
    """
    import mmap  # noqa: PLC0415 - most plugins map nothing

    try:
        with _open(directory / file.path) as descriptor:
            if os.fstat(descriptor).st_size != file.size:
                raise _corrupt(manifest, file, Damage.DAMAGED)
            if not file.size:
                return memoryview(b"")  # nothing to map
            view = memoryview(mmap.mmap(descriptor, file.size, access=mmap.ACCESS_READ))
    except OSError as error:
        damage = Damage.MISSING if isinstance(error, FileNotFoundError) else Damage.DAMAGED
        raise _corrupt(manifest, file, damage) from error

    def is_sound(chunks: Sequence[Chunk]) -> bool:
        return all(
            blake3(view[chunk.offset : chunk.offset + chunk.length]).digest() == chunk.digest
            for chunk in chunks
        )

    if not all(_each(is_sound, _pieces(manifest.chunks(file), file.size))):
        raise _corrupt(manifest, file, Damage.DAMAGED)
    return view


def open_verified(directory: Path, manifest: Manifest, file: File) -> BinaryIO:
    """A seekable stream of `file` below `directory`, each chunk hashed before any of it is given.

    For files that do not fit in memory: holds a chunk or two at a time. Raises CorruptError naming
    the file where it is missing or no regular file; reading raises it where a chunk differs.
    """
    try:
        descriptor = _open_regular(directory / file.path)
    except OSError as error:
        damage = Damage.MISSING if isinstance(error, FileNotFoundError) else Damage.DAMAGED
        raise _corrupt(manifest, file, damage) from error
    return io.BufferedReader(_VerifiedStream(descriptor, manifest, file), _STREAM_BUFFER_BYTES)


class _VerifiedStream(io.RawIOBase):
    """The chunks of a file as a raw stream; keeps the last one that was read and hashed."""

    def __init__(self, descriptor: int, manifest: Manifest, file: File) -> None:
        self._descriptor = descriptor
        self._manifest = manifest
        self._file = file
        self._chunks = manifest.chunks(file)
        self._starts = [chunk.offset for chunk in self._chunks]
        self._position = 0
        self._held: tuple[int, bytes] = (-1, b"")  # index of a chunk, its bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}
        position = base[whence] + offset
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self.closed:
            raise ValueError("read of closed file")
        if self._position >= self._file.size:
            return 0
        index = bisect_right(self._starts, self._position) - 1
        data = self._chunk(index)
        start = self._position - self._starts[index]
        with memoryview(buffer).cast("B") as view:
            count = min(len(view), len(data) - start)
            view[:count] = data[start : start + count]
        self._position += count
        return count

    def readall(self) -> bytes:
        parts = []
        while part := self.read(self._file.size):
            parts.append(part)
        return b"".join(parts)

    def _chunk(self, index: int) -> bytes:
        if self._held[0] != index:
            chunk = self._chunks[index]
            data = os.pread(self._descriptor, chunk.length, chunk.offset)
            if len(data) != chunk.length or blake3(data).digest() != chunk.digest:
                raise _corrupt(self._manifest, self._file, Damage.DAMAGED)
            self._held = index, data
        return self._held[1]

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _corrupt(manifest: Manifest, file: File, damage: Damage) -> CorruptError:
    return CorruptError(
        f"{manifest.release}: {file.path} is {damage}",
        paths=(file.path,),
        plugin=str(manifest.release.plugin),
        remedy=f"Run 'pluginctl repair {manifest.release.plugin}'.",
    )


class _open:  # noqa: N801 - used as the function `open` is
    """A descriptor of a regular file, as `_open_regular` gives it, closed at the end."""

    def __init__(self, path: Path | str) -> None:
        self.path = path

    def __enter__(self) -> int:
        self.descriptor = _open_regular(self.path)
        return self.descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def _open_regular(path: Path | str) -> int:
    """A descriptor of a regular file, never through a symbolic link in its last part."""
    # O_NONBLOCK: a FIFO in the file's place must not hang the opening.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return descriptor


def _read_exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(descriptor, size)
        if not part:
            break  # shortened meanwhile: the chunks' digests will say so
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def damaged_chunks(
    path: Path, manifest: Manifest, file: File, *, sparse: bool = False
) -> list[Chunk]:
    """The chunks of `file` that the file at `path` does not hold in their places.

    Bounded memory: a few MiB at a time for each core. A missing or odd file lacks all its chunks;
    with `sparse` so does a hole, which is not read.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - looking does without

    chunks = manifest.chunks(file)
    try:
        with _open(path) as descriptor:
            if file.size < _PARALLEL_BYTES:
                return list(_damaged(descriptor, chunks, sparse))
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                pieces = _pieces(chunks, file.size)
                found = pool.map(lambda piece: list(_damaged(descriptor, piece, sparse)), pieces)
                return [chunk for piece in found for chunk in piece]
    except OSError:
        return chunks


def _each(function: Callable[[T], S], pieces: Sequence[T]) -> list[S]:
    """What `function` makes of each of `pieces`, on all processors."""
    if len(pieces) < 2:
        return [function(piece) for piece in pieces]
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - most files are small

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(function, pieces))


def _pieces(chunks: list[Chunk], size_bytes: int) -> list[list[Chunk]]:
    """`chunks` in as many parts as are worth a thread each."""
    # Hashing and reading release the interpreter's lock. Not so for many small files: measured,
    # threads take twice as long for them as one alone.
    step = max(1, len(chunks) * _PARALLEL_BYTES // (2 * max(size_bytes, 1)))
    return [chunks[start : start + step] for start in range(0, len(chunks), step)]


def _damaged(descriptor: int, chunks: Sequence[Chunk], sparse: bool = False) -> Iterator[Chunk]:
    buffer = memoryview(bytearray(max((chunk.length for chunk in chunks), default=0)))
    data_at = -1
    for chunk in chunks:
        if sparse and data_at < chunk.offset:
            data_at = _next_data(descriptor, chunk.offset)
        if data_at >= chunk.offset + chunk.length:
            yield chunk
            continue
        view = buffer[: chunk.length]
        count = os.preadv(descriptor, [view], chunk.offset)
        if count != chunk.length or blake3(view).digest() != chunk.digest:
            yield chunk


def _next_data(descriptor: int, offset: int) -> int:
    """Where the next byte is that was ever written, at `offset` or behind it."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return sys.maxsize
        return offset  # this file system does not know
    except AttributeError:
        return offset  # nor does this system


def _is_whole(descriptor: int, manifest: Manifest, file: File, pool: ThreadPoolExecutor) -> bool:
    chunks = manifest.chunks(file)
    if file.size < _PARALLEL_BYTES:
        return next(_damaged(descriptor, chunks), None) is None
    whole = pool.map(
        lambda piece: next(_damaged(descriptor, piece), None) is None, _pieces(chunks, file.size)
    )
    return all(list(whole))  # all of them: the descriptor is closed when this returns


def _file_fault(
    directory: Path, manifest: Manifest, file: File, pool: ThreadPoolExecutor
) -> Fault | None:
    try:
        with _open(f"{directory}/{file.path}") as descriptor:
            status = os.fstat(descriptor)
            good = status.st_size == file.size
            good = good and bool(status.st_mode & 0o100) == file.executable
            if good and _is_whole(descriptor, manifest, file, pool):
                return None
    except FileNotFoundError:
        return Fault(file.path, Damage.MISSING)
    except OSError:
        pass  # a link, no file, not to be read
    return Fault(file.path, Damage.DAMAGED)


def visible_faults(directory: Path, files: Iterable[File]) -> list[Fault]:
    """Which of `files` are missing, or of another size or mode: what needs no hashing."""
    faults = []
    for file in files:
        try:
            status = os.lstat(f"{directory}/{file.path}")
        except (FileNotFoundError, NotADirectoryError):
            if not file.tag:
                faults.append(Fault(file.path, Damage.MISSING))
            continue
        good = stat.S_ISREG(status.st_mode) and status.st_size == file.size
        if not good or bool(status.st_mode & 0o100) != file.executable:
            faults.append(Fault(file.path, Damage.DAMAGED))
    return faults


def release_faults(
    directory: Path,
    manifest: Manifest,
    files: Iterable[File],
    *,
    hashed: Callable[[int], None] = lambda _: None,
    tagged: bool = False,
) -> list[Fault]:
    """Which of `files` are missing or damaged below `directory`; `hashed(size)` after each file.

    Files that carry a tag may be absent, unless `tagged`: they only speed things up. Large files
    are hashed on all processors.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - looking does without

    faults = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # starts no thread before it has work
        for file in files:
            fault = _file_fault(directory, manifest, file, pool)
            if fault and (tagged or not file.tag or fault.damage is not Damage.MISSING):
                faults.append(fault)
            hashed(file.size)
    return faults


def release_faults_slowly(
    directory: Path, manifest: Manifest, files: Iterable[File], pace: Callable[[int], None]
) -> list[Fault]:
    """As `release_faults`, on one processor and from the disk; `pace(bytes)` before each chunk."""
    files = list(files)
    faults = visible_faults(directory, files)
    known = {fault.path for fault in faults}
    for file in files:
        path = f"{directory}/{file.path}"
        if file.path in known or not os.path.lexists(path):  # a tagged one may be absent
            continue
        try:
            with _open(path) as descriptor:
                if hasattr(os, "posix_fadvise"):
                    # What the system holds in memory may be good while the disk is not.
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                for chunk in manifest.chunks(file):
                    pace(chunk.length)
                    if any(_damaged(descriptor, [chunk])):
                        faults.append(Fault(file.path, Damage.DAMAGED))
                        break
        except FileNotFoundError:
            faults.append(Fault(file.path, Damage.MISSING))
        except OSError:
            faults.append(Fault(file.path, Damage.DAMAGED))
    return faults


def foreign_files(directory: Path, manifest: Manifest) -> list[Fault]:
    """What lies below `directory` without being in the manifest; never followed through links."""
    known = manifest.by_path
    directories = {""}
    for path in known:
        while (end := path.rfind("/")) != -1:
            path = path[:end]  # noqa: PLW2901 - walks up from the file to the top
            directories.add(path)
    faults = []
    for parent, names, files in os.walk(directory):
        relative = os.path.relpath(parent, directory).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        for name in list(names):
            if prefix + name not in directories or (Path(parent) / name).is_symlink():
                names.remove(name)
                if prefix + name in known:
                    continue  # in a file's place: that file is named as damaged
                faults.append(Fault(prefix + name, Damage.FOREIGN))
        faults += [Fault(prefix + n, Damage.FOREIGN) for n in files if prefix + n not in known]
    return sorted(faults, key=lambda fault: fault.path)
