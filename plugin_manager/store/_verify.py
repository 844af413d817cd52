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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, Generic, Self, TypeVar

from attrs import field, frozen
from blake3 import blake3

from plugin_manager.errors import CorruptError, StoreAccessError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from _typeshed import WriteableBuffer

    from plugin_manager.manifest import Chunk, File, Manifest

__all__ = [
    "Damage",
    "Fault",
    "copy_verified",
    "damaged_chunks",
    "directories_of",
    "foreign_files",
    "map_verified",
    "misplaced_files",
    "odd_directories",
    "open_verified",
    "read_verified",
    "release_faults",
    "release_faults_slowly",
    "use_verified",
    "visible_faults",
]

S = TypeVar("S")
T = TypeVar("T")

_PIECE_BYTES = 8 * 1024 * 1024
# O_NONBLOCK: a FIFO in the file's place must not hang the opening.
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_BUFFER_BYTES = 1024 * 1024  # no chunk is larger
_MOST_BUFFERS = max(4, os.cpu_count() or 1)
_BUFFERS: list[memoryview] = []  # free ones; taking and giving back is one step each, for threads
_STREAM_RUN_BYTES = 4 * 1024 * 1024
_STREAM_PIECE_BYTES = 1024 * 1024
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
    with _opened(directory, manifest, file) as descriptor:
        data = _read_exactly(descriptor, file.size)
    if not _is_signed(manifest, file, memoryview(data)):
        raise _corrupt(manifest, file, Damage.DAMAGED)
    return data


def use_verified(
    directory: Path, manifest: Manifest, file: File, use: Callable[[memoryview], T]
) -> T:
    """What `use` makes of the bytes of `file`, verified as by `read_verified`.

    The memory is used again for the next file: `use` must keep no part of it. (Measured: taking
    new memory for each of a thousand modules costs as much as decoding them.)
    """
    if file.size > _BUFFER_BYTES:
        return use(memoryview(read_verified(directory, manifest, file)))
    with _Buffer() as buffer:
        if damage := _file_damage(f"{directory}/{file.path}", manifest, file, buffer):
            raise _corrupt(manifest, file, damage)
        with buffer[: file.size].toreadonly() as view:
            return use(view)


class _Buffer:
    """Memory of `_BUFFER_BYTES` on loan: nobody else uses it meanwhile."""

    __slots__ = ("_memory",)

    def __enter__(self) -> memoryview:
        try:
            self._memory = _BUFFERS.pop()
        except IndexError:
            self._memory = memoryview(bytearray(_BUFFER_BYTES))
        return self._memory

    def __exit__(self, *_: object) -> None:
        if len(_BUFFERS) < _MOST_BUFFERS:
            _BUFFERS.append(self._memory)


def copy_verified(directory: Path, manifest: Manifest, file: File, target: int) -> None:
    """Write the bytes of `file`, verified as by `read_verified`, to the descriptor `target`.

    Each chunk is written from the memory that was hashed. Where this raises, what was written is
    not to be used.
    """
    # By one thread: memory for the copy is what takes time, and a second one waits for that too
    # (measured: 15 MB take 6.9 ms by one as by two).
    with _opened(directory, manifest, file) as descriptor, _Buffer() as buffer:
        for chunk in manifest.chunks(file):
            view = buffer[: chunk.length]
            count = os.preadv(descriptor, [view], chunk.offset)
            if count != chunk.length or blake3(view).digest() != chunk.digest:
                raise _corrupt(manifest, file, Damage.DAMAGED)
            written = 0
            while written < chunk.length:
                written += os.pwrite(target, view[written:], chunk.offset + written)


def _is_signed(manifest: Manifest, file: File, view: memoryview) -> bool:
    """Whether `view` holds what the manifest says about the whole of `file`."""
    if file.chunk_count == 1:
        return len(view) == file.size and blake3(view).digest() == manifest.content_key(file)
    return all(
        blake3(view[chunk.offset : chunk.offset + chunk.length]).digest() == chunk.digest
        for chunk in manifest.chunks(file)
    )


def map_verified(directory: Path, manifest: Manifest, file: File) -> memoryview:
    """`file` below `directory` as a read-only mapping, hashed whole over that very mapping.

    The mapping and its descriptor last as long as the result. Whoever may write to the file can
    change a mapping afterwards. Raises CorruptError naming the file where it is missing, is not a
    regular file, or differs.
    """
    import mmap  # noqa: PLC0415 - most plugins map nothing

    with _opened(directory, manifest, file) as descriptor, _Threads() as threads:
        if not file.size:
            return memoryview(b"")  # nothing to map
        try:
            view = memoryview(mmap.mmap(descriptor, file.size, access=mmap.ACCESS_READ))
        except ValueError as error:  # cut off meanwhile
            raise _corrupt(manifest, file, Damage.DAMAGED) from error

        def is_sound(chunks: Sequence[Chunk]) -> bool:
            if not _is_cached(descriptor, chunks):
                # Read first: a mapping brings a cold file in by small pieces, at a third of the
                # speed, and where the disk fails, that is an error, and not the process's end.
                with _Buffer() as buffer:
                    for chunk in chunks:
                        os.preadv(descriptor, [buffer[: chunk.length]], chunk.offset)
            return all(
                blake3(view[chunk.offset : chunk.offset + chunk.length]).digest() == chunk.digest
                for chunk in chunks
            )

        if not all(threads.each(is_sound, _pieces(manifest.chunks(file), file.size))):
            raise _corrupt(manifest, file, Damage.DAMAGED)
    return view


def open_verified(directory: Path, manifest: Manifest, file: File) -> BinaryIO:
    """A seekable stream of `file` below `directory`, each chunk hashed before any of it is given.

    For files that do not fit in memory. A first read, and one after a seek, takes one chunk;
    whoever reads on gets larger pieces, hashed on all processors, into the caller's own memory
    where that has room. Raises CorruptError naming the file where it is missing or no regular
    file; reading raises it where a chunk differs or cannot be read.
    """
    try:
        descriptor = _open_regular(directory / file.path)
    except OSError as error:
        raise _corrupt(manifest, file, _damage(error, directory / file.path)) from error
    return io.BufferedReader(_VerifiedStream(descriptor, manifest, file), _STREAM_BUFFER_BYTES)


@frozen(eq=False)
class _Begun:
    """Chunks from `index` up to `stop` that are on their way into `view`."""

    index: int
    stop: int
    view: memoryview
    results: list[Callable[[], bool]]
    process: int = field(factory=os.getpid)

    def is_ours(self) -> bool:
        """Whether this process has the threads that do it, and is no fork of the one that had."""
        return self.process == os.getpid()

    def is_sound(self) -> bool:
        """Whether all are as signed, once they are there."""
        if not self.is_ours():
            return False
        found = [result() for result in self.results]  # all of them, not up to the first
        return all(found)


class _VerifiedStream(io.RawIOBase):
    """The chunks of a file as a raw stream. For one thread at a time, as `BufferedReader` sees to.

    What is read goes into memory of this process, is hashed there, and only then given or kept.
    """

    def __init__(self, descriptor: int, manifest: Manifest, file: File) -> None:
        self._descriptor = descriptor
        self._manifest = manifest
        self._file = file
        # Not all chunks as values: of a large model those alone take longer than the first byte.
        first = file.first_chunk
        lengths = manifest.columns.lengths[first : first + file.chunk_count]
        self._starts = list(accumulate(lengths, initial=0))
        self._digests = manifest.content_key(file)
        self._threads = _Threads()
        self._position = 0
        self._held_at, self._held = 0, memoryview(b"")  # verified bytes, and where they lie
        self._next = -1  # where the last read that verified something ended
        self._run_bytes = 0  # how much was read at once
        self._free: list[bytearray] = []  # memory that was used before
        self._ahead: _Begun | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}
        if whence not in base:
            raise ValueError(f"seeking by {whence} is not supported")
        position = base[whence] + offset
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self.closed:
            raise ValueError("read of closed file")
        with memoryview(buffer).cast("B") as view:
            if self._position >= self._file.size or not view:
                return 0
            if not 0 <= self._position - self._held_at < len(self._held):
                index = bisect_right(self._starts, self._position) - 1
                if count := self._fill(view, index):
                    self._position += count
                    return count
                self._hold(index)
            start = self._position - self._held_at
            count = min(len(view), len(self._held) - start)
            view[:count] = self._held[start : start + count]
        self._position += count
        return count

    def _fill(self, view: memoryview, index: int) -> int:
        """Read whole chunks from `index` on straight into `view`; how many bytes, 0 for none."""
        start = self._starts[index]
        if self._position != start or len(view) < _STREAM_RUN_BYTES or self._ahead is not None:
            return 0
        stop = bisect_right(self._starts, start + len(view)) - 1
        self._run_bytes = self._starts[stop] - start
        if not self._read(index, stop, view).is_sound():
            view[:] = bytes(len(view))
            raise _corrupt(self._manifest, self._file, Damage.DAMAGED)
        self._next = self._starts[stop]
        return self._run_bytes

    def _hold(self, index: int) -> None:
        """Have the chunk `index`, and where somebody reads on more, and still more on the way."""
        start = self._starts[index]
        reads_on = start == self._next
        self._give_back(self._held)
        self._held = memoryview(b"")  # lest a failure leave there what was not verified
        begun, self._ahead = self._ahead, None
        if begun is None or begun.index != index or not begun.is_ours():
            if begun is not None and begun.is_sound():
                self._give_back(begun.view)
            stop = self._run(index, 2 * self._run_bytes if reads_on else 1)
            begun = self._begin(index, stop)
        if not begun.is_sound():
            raise _corrupt(self._manifest, self._file, Damage.DAMAGED)
        self._held_at, self._held = start, begun.view
        self._run_bytes, self._next = len(begun.view), start + len(begun.view)
        if reads_on and self._next < self._file.size:
            self._ahead = self._begin(begun.stop, self._run(begun.stop, 2 * self._run_bytes))

    def _run(self, index: int, size: int) -> int:
        """The chunk before which a read of about `size` bytes from chunk `index` on ends."""
        end = self._starts[index] + min(size, _STREAM_RUN_BYTES)
        return max(index + 1, bisect_right(self._starts, end) - 1)

    def _begin(self, index: int, stop: int) -> _Begun:
        """Begin to read chunks into memory of this stream."""
        size = self._starts[stop] - self._starts[index]
        memory = self._free.pop() if self._free else bytearray()
        if len(memory) < size:
            memory = bytearray(size)
        return self._read(index, stop, memoryview(memory)[:size])

    def _give_back(self, view: memoryview) -> None:
        # Only what no thread writes to any more: where one was interrupted, new memory is taken.
        if isinstance(view.obj, bytearray):
            self._free.append(view.obj)

    def _read(self, index: int, stop: int, view: memoryview) -> _Begun:
        """Begin to read the chunks from `index` up to `stop` into `view`, and to verify them."""
        starts, begin = self._starts, self._starts[index]

        def is_sound(piece: range) -> bool:
            for number in piece:
                part = view[starts[number] - begin : starts[number + 1] - begin]
                try:
                    count = os.preadv(self._descriptor, [part], starts[number])
                except OSError:
                    return False  # the disk cannot
                at = number * blake3.digest_size
                digest = self._digests[at : at + blake3.digest_size]
                if count != len(part) or blake3(part).digest() != digest:
                    return False
            return True

        step = max(1, (stop - index) * _STREAM_PIECE_BYTES // (starts[stop] - begin))
        pieces = [range(at, min(at + step, stop)) for at in range(index, stop, step)]
        if len(pieces) == 1 and not self._run_bytes:
            return _Begun(index, stop, view, [partial(is_sound, pieces[0])])
        return _Begun(index, stop, view, [self._threads.submit(is_sound, one) for one in pieces])

    def readall(self) -> bytes:
        parts = []
        while part := self.read(self._file.size):
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        if not self.closed:
            self._threads.close()
            os.close(self._descriptor)
        super().close()


def _corrupt(manifest: Manifest, file: File, damage: Damage) -> CorruptError:
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


def _damage(error: OSError, place: Path | str) -> Damage:
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


class _opened:  # noqa: N801 - used as the function `open` is
    """A descriptor of a file of a release, of its size, closed at the end.

    What the system refuses, also in the block, is a CorruptError naming the file, or a
    StoreAccessError where that is not the file's fault.
    """

    def __init__(self, directory: Path, manifest: Manifest, file: File) -> None:
        self._directory, self._manifest, self._file = directory, manifest, file

    def __enter__(self) -> int:
        try:
            self._descriptor = _open_regular(f"{self._directory}/{self._file.path}")
        except OSError as error:
            raise self._corrupt(error) from error
        if os.fstat(self._descriptor).st_size != self._file.size:
            os.close(self._descriptor)
            raise _corrupt(self._manifest, self._file, Damage.DAMAGED)
        return self._descriptor

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        os.close(self._descriptor)
        if isinstance(error, OSError):
            raise self._corrupt(error) from error

    def _corrupt(self, error: OSError) -> CorruptError:
        damage = _damage(error, f"{self._directory}/{self._file.path}")
        return _corrupt(self._manifest, self._file, damage)


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
    descriptor = os.open(path, _OPEN_FLAGS)
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
    with `sparse` so does a hole, which is not read. Raises StoreAccessError where it could be read
    but for this process's limits.
    """
    chunks = manifest.chunks(file)
    try:
        with _open(path) as descriptor, _Threads() as threads:
            found = threads.each(
                lambda piece: list(_damaged(descriptor, piece, sparse)), _pieces(chunks, file.size)
            )
            return [chunk for piece in found for chunk in piece]
    except PermissionError:
        return chunks
    except OSError as error:
        _damage(error, path)
        return chunks


class _Once(Generic[S]):
    """A call that is made once, by the first thread that asks; all get what came of it."""

    def __init__(self, function: Callable[[], S]) -> None:
        self._function = function
        self._lock = Lock()
        self._outcome: tuple[S] | BaseException | None = None

    def __call__(self) -> S:
        with self._lock:
            if self._outcome is None:
                try:
                    self._outcome = (self._function(),)
                except BaseException as error:
                    self._outcome = error
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome[0]


class _Threads:
    """As many threads as there are processors, started when there is work for them."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    def submit(self, function: Callable[[T], S], argument: T) -> Callable[[], S]:
        """Begin `function(argument)`; what is returned gives its result."""
        if self._process != os.getpid():
            self._pool, self._process = None, os.getpid()  # a fork has no threads but one
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - often not needed

            self._pool = ThreadPoolExecutor(os.cpu_count() or 1)
        once = _Once(partial(function, argument))
        try:
            return self._pool.submit(once).result
        except RuntimeError:
            # No thread can be started: too many are there, or the interpreter is ending. It may be
            # in the pool's queue all the same, for those that were started before.
            return once

    def each(self, function: Callable[[T], S], arguments: Sequence[T]) -> list[S]:
        """What `function` makes of each of `arguments`."""
        if len(arguments) < 2:
            return [function(argument) for argument in arguments]
        results = [self.submit(function, argument) for argument in arguments]
        return [result() for result in results]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; what was submitted and has not begun is dropped."""
        if self._pool is not None and self._process == os.getpid():
            self._pool.shutdown(cancel_futures=True)
        self._pool = None


def _pieces(
    chunks: list[Chunk], size_bytes: int, piece_bytes: int = _PIECE_BYTES
) -> list[list[Chunk]]:
    """`chunks` in parts of about `piece_bytes`, each worth a thread."""
    step = max(1, -(-len(chunks) * piece_bytes // max(size_bytes, 1)))
    return [chunks[start : start + step] for start in range(0, len(chunks), step)]


def _damaged(descriptor: int, chunks: Sequence[Chunk], sparse: bool = False) -> Iterator[Chunk]:
    data_at = -1
    with _Buffer() as buffer:
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


def _file_damage(place: str, manifest: Manifest, file: File, buffer: memoryview) -> Damage | None:
    """What is wrong with the file at `place`, if anything is; `buffer` has room for it."""
    # Straight, without the helpers above: this is done for thousands of files at each load.
    try:
        descriptor = os.open(place, _OPEN_FLAGS)
    except OSError as error:
        return _damage(error, place)
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
        good = _is_signed(manifest, file, view)
    except OSError as error:
        return _damage(error, place)
    finally:
        os.close(descriptor)
    return None if good else Damage.DAMAGED


def _is_sound(descriptor: int, chunks: Sequence[Chunk]) -> bool:
    """Whether a file holds `chunks`, which follow on one another, in their places."""
    if not _is_cached(descriptor, chunks):
        return next(_damaged(descriptor, chunks), None) is None
    # What is in memory already is hashed there, in three quarters of the time. Nothing else is
    # mapped: where a disk cannot read a mapped page, the system ends the process.
    import mmap  # noqa: PLC0415 - most plugins have no large files

    first = chunks[0].offset
    begin = first - first % mmap.ALLOCATIONGRANULARITY
    end = chunks[-1].offset + chunks[-1].length
    try:
        mapped = mmap.mmap(descriptor, end - begin, access=mmap.ACCESS_READ, offset=begin)
    except ValueError:  # cut off meanwhile
        return False
    with mapped, memoryview(mapped) as view:
        for chunk in chunks:
            at = chunk.offset - begin
            with view[at : at + chunk.length] as part:
                if blake3(part).digest() != chunk.digest:
                    return False
    return True


def _is_cached(descriptor: int, chunks: Sequence[Chunk]) -> bool:
    """Whether the first byte of each of `chunks` is in the page cache, as far as can be told."""
    flag = getattr(os, "RWF_NOWAIT", 0)  # Linux
    byte = bytearray(1)
    try:
        return bool(flag) and all(
            os.preadv(descriptor, [byte], chunk.offset, flag) for chunk in chunks
        )
    except OSError:  # it would have to wait, or this file system cannot tell
        return False


class _LargeFile:
    """A file that is hashed in pieces, by whatever threads."""

    def __init__(self, directory: Path, manifest: Manifest, file: File) -> None:
        self._path, self._file = f"{directory}/{file.path}", file
        self.pieces = _pieces(manifest.chunks(file), file.size)

    def damage(self, chunks: Sequence[Chunk]) -> Damage | None:
        """What is wrong with a piece of the file, if anything is."""
        try:
            with _open(self._path) as descriptor:
                status = os.fstat(descriptor)
                good = status.st_size == self._file.size
                good = good and bool(status.st_mode & 0o100) == self._file.executable
                if good and _is_sound(descriptor, chunks):
                    return None
        except OSError as error:
            return _damage(error, self._path)
        return Damage.DAMAGED


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


def odd_directories(directory: Path, paths: Iterable[str]) -> list[str]:
    """Those of `paths` below `directory` that are links, or anything else but directories.

    Files behind them may be as they were signed, but whoever owns them can change them. What is
    missing is not among these.
    """
    odd = []
    for path in paths:
        try:
            mode = os.lstat(f"{directory}/{path}").st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            mode = 0  # it leads nowhere
        if not stat.S_ISDIR(mode):
            odd.append(path)
    return odd


def misplaced_files(directory: Path, files: Collection[File]) -> list[Fault]:
    """Those of `files` that lie behind `odd_directories`: damaged, whatever they hold."""
    parents = directories_of(file.path for file in files)
    odd = tuple(f"{path}/" for path in odd_directories(directory, parents - {""}))
    return [Fault(file.path, Damage.DAMAGED) for file in files if file.path.startswith(odd)]


def directories_of(paths: Iterable[str]) -> set[str]:
    """The directories that hold `paths`, with those above and "" for the top."""
    found = {""}
    for path in paths:
        while (path := path.rpartition("/")[0]) not in found:
            found.add(path)
    return found


def release_faults(
    directory: Path,
    manifest: Manifest,
    files: Collection[File],
    *,
    hashed: Callable[[int], None] = lambda _: None,
    tagged: bool = False,
) -> list[Fault]:
    """Which of `files` are missing or damaged below `directory`; `hashed(size)` after each file.

    Files that carry a tag may be absent, unless `tagged`: they only speed things up. Large files
    are hashed on all processors.
    """
    found: dict[str, Damage] = {}
    large = [file for file in files if file.size > _BUFFER_BYTES]
    with _Threads() as threads:
        # Large files are hashed by other threads while this one goes through the small ones.
        # Not those as well: for many small files threads take twice as long (measured), as most
        # of the work is Python's.
        work = []
        for file in large:
            whole = _LargeFile(directory, manifest, file)
            work.append([threads.submit(whole.damage, piece) for piece in whole.pieces])
        prefix = f"{directory}/"
        with _Buffer() as buffer:
            for file in files:
                if file.size <= _BUFFER_BYTES:
                    if damage := _file_damage(prefix + file.path, manifest, file, buffer):
                        found[file.path] = damage
                    hashed(file.size)
        for file, results in zip(large, work, strict=True):
            damages = [result() for result in results]
            if damage := next(filter(None, damages), None):
                found[file.path] = damage
            hashed(file.size)
    return [
        Fault(file.path, found[file.path])
        for file in files
        if file.path in found and (tagged or not file.tag or found[file.path] is not Damage.MISSING)
    ]


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
        except OSError as error:
            faults.append(Fault(file.path, _damage(error, path)))
    return faults


def foreign_files(directory: Path, manifest: Manifest) -> list[Fault]:
    """What lies below `directory` without being in the manifest; never followed through links."""
    known = manifest.by_path
    directories = directories_of(known)
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
