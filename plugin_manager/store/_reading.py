"""Verified reading of a release's files: what is handed out was hashed for that very use."""

from __future__ import annotations

import io
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from attrs import field

from plugin_manager._attrs import frozen
from plugin_manager.store._chunks import (
    BUFFER_BYTES,
    PIECE_BYTES,
    Buffer,
    Chunks,
    Damage,
    corrupt,
    damage_of,
    file_damage,
    is_signed,
    open_regular,
    opened,
)
from plugin_manager.store._threads import Threads

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from plugin_manager.manifest import File, Manifest

__all__ = ["copy_verified", "map_verified", "open_verified", "read_verified", "use_verified"]

T = TypeVar("T")

_STREAM_RUN_BYTES = 4 * 1024 * 1024
_STREAM_PIECE_BYTES = 1024 * 1024
_STREAM_BUFFER_BYTES = 64 * 1024
_LOOKS_SECONDS = 0.0005  # between looks at whether other threads are done


def read_verified(directory: Path, manifest: Manifest, file: File) -> bytes:
    """All bytes of `file` below `directory`, read once, each chunk's digest checked.

    Raises CorruptError naming the file where it is missing, is not a regular file, or differs.
    Holds the whole file in memory.
    """
    with opened(directory, manifest, file) as descriptor:
        data = _read_exactly(descriptor, file.size)
    if not is_signed(manifest, file, memoryview(data)):
        raise corrupt(manifest, file, Damage.DAMAGED)
    return data


def _read_exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(descriptor, size)
        if not part:
            break  # shortened meanwhile: the chunks' digests will say so
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def use_verified(
    directory: Path, manifest: Manifest, file: File, use: Callable[[memoryview], T]
) -> T:
    """What `use` makes of the bytes of `file`, verified as by `read_verified`.

    The memory is used again for the next file: `use` must keep no part of it. (Measured: taking
    new memory for each of a thousand modules costs as much as decoding them.)
    """
    if file.size > BUFFER_BYTES:
        return use(memoryview(read_verified(directory, manifest, file)))
    with Buffer() as buffer:
        if damage := file_damage(f"{directory}/{file.path}", manifest, file, buffer):
            raise corrupt(manifest, file, damage)
        with buffer[: file.size].toreadonly() as view:
            return use(view)


def copy_verified(directory: Path, manifest: Manifest, file: File, target: int) -> None:
    """Write the bytes of `file`, verified as by `read_verified`, to the descriptor `target`.

    Each chunk is written from the memory that was hashed. Where this raises, what was written is
    not to be used.
    """
    # By one thread: memory for the copy is what takes time, and a second one waits for that too
    # (measured: 15 MB take 6.9 ms by one as by two).
    with opened(directory, manifest, file) as descriptor, Buffer() as buffer:
        chunks = Chunks(manifest, file)
        for number, (start, end) in enumerate(pairwise(chunks.starts)):
            view = buffer[: end - start]
            if not chunks.read(descriptor, range(number, number + 1), view, start):
                raise corrupt(manifest, file, Damage.DAMAGED)
            while view:
                written = os.pwrite(target, view, end - len(view))
                view = view[written:]


def map_verified(directory: Path, manifest: Manifest, file: File) -> memoryview:
    """`file` below `directory` as a read-only mapping, hashed whole over that very mapping.

    The mapping and its descriptor last as long as the result. Whoever may write to the file can
    change a mapping afterwards. Raises CorruptError naming the file where it is missing, is not a
    regular file, or differs.
    """
    import mmap  # noqa: PLC0415 - most plugins map nothing

    with opened(directory, manifest, file) as descriptor, Threads() as threads:
        if not file.size:
            return memoryview(b"")  # nothing to map
        try:
            view = memoryview(mmap.mmap(descriptor, file.size, access=mmap.ACCESS_READ))
        except ValueError as error:  # cut off meanwhile
            raise corrupt(manifest, file, Damage.DAMAGED) from error

        chunks = Chunks(manifest, file)

        def is_sound(numbers: range) -> bool:
            # Read first: a mapping brings a cold file in by small pieces, at a third of the speed,
            # and where the disk fails, that is an error, and not the process's end.
            if not chunks.are_cached(descriptor, numbers) and not chunks.check(descriptor, numbers):
                return False
            return chunks.are_signed(numbers, view)

        if not all(threads.each(is_sound, chunks.pieces(PIECE_BYTES))):
            raise corrupt(manifest, file, Damage.DAMAGED)
    return view


def open_verified(directory: Path, manifest: Manifest, file: File) -> BinaryIO:
    """A seekable stream of `file` below `directory`, each chunk hashed before any of it is given.

    For files that do not fit in memory. A first read, and one after a seek, takes one chunk;
    whoever reads on gets larger pieces, hashed on all processors, into the caller's own memory
    where that has room. Raises CorruptError naming the file where it is missing or no regular
    file; reading raises it where a chunk differs or cannot be read.
    """
    try:
        descriptor = open_regular(directory / file.path)
    except OSError as error:
        raise corrupt(manifest, file, damage_of(error, directory / file.path)) from error
    return io.BufferedReader(_VerifiedStream(descriptor, manifest, file), _STREAM_BUFFER_BYTES)


class _Loan:
    """Memory that threads write to, until it is taken back."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self._writers = set[int]()
        self._is_over = False

    def use(self, numbers: range, read: Callable[[Iterable[int], memoryview], bool]) -> bool:
        """What `read` says of the chunks `numbers`; False where the memory is taken back."""
        writer = get_ident()
        try:
            # Before the look: who takes it back sees one or is seen.
            self._writers.add(writer)
            going_on = takewhile(lambda _: not self._is_over, numbers)
            return read(going_on, self.view) and not self._is_over
        finally:
            self._writers.discard(writer)

    def take_back(self) -> None:
        """Return when nobody writes there any more, whatever signals say meanwhile."""
        try:
            self._is_over = True
            # No lock: one that is interrupted as it is taken is never given back.
            while self._writers:
                time.sleep(_LOOKS_SECONDS)
        except BaseException:
            self.take_back()


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
        self._chunks = Chunks(manifest, file)
        self._starts = self._chunks.starts
        self._threads = Threads()
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
        view = memoryview(buffer).cast("B")
        try:
            count = self._give(view)
        finally:
            with suppress(BufferError):  # the traceback of an error holds parts of it
                view.release()
        self._position += count
        return count

    def _give(self, view: memoryview) -> int:
        """Put into `view` what is at the position; how many bytes."""
        if self._position >= self._file.size or not view:
            return 0
        if not 0 <= self._position - self._held_at < len(self._held):
            index = bisect_right(self._starts, self._position) - 1
            if count := self._fill(view, index):
                return count
            self._hold(index)
        start = self._position - self._held_at
        count = min(len(view), len(self._held) - start)
        view[:count] = self._held[start : start + count]
        return count

    def _fill(self, view: memoryview, index: int) -> int:
        """Read whole chunks from `index` on straight into `view`; how many bytes, 0 for none."""
        start = self._starts[index]
        if self._position != start or len(view) < _STREAM_RUN_BYTES or self._ahead is not None:
            return 0
        stop = bisect_right(self._starts, start + len(view)) - 1
        self._run_bytes = self._starts[stop] - start
        loan = _Loan(view)
        try:
            good = self._read(index, stop, loan, ahead=False).is_sound()
        except BaseException:
            # Ctrl-C: BufferedReader frees the memory then, whoever still writes there.
            loan.take_back()
            view[:] = bytes(len(view))
            raise
        if not good:
            view[:] = bytes(len(view))
            raise corrupt(self._manifest, self._file, Damage.DAMAGED)
        self._next = self._starts[stop]
        return self._run_bytes

    def _hold(self, index: int) -> None:
        """Have the chunk `index`, and where somebody reads on more, and still more on the way."""
        start = self._starts[index]
        reads_on = start == self._next
        # First, lest a failure leave there what was not verified.
        held, self._held = self._held, memoryview(b"")
        self._give_back(held)
        begun, self._ahead = self._ahead, None
        if begun is None or begun.index != index or not begun.is_ours():
            if begun is not None and begun.is_sound():
                self._give_back(begun.view)
            stop = self._run(index, 2 * self._run_bytes if reads_on else 1)
            begun = self._begin(index, stop, ahead=False)
        if not begun.is_sound():
            raise corrupt(self._manifest, self._file, Damage.DAMAGED)
        self._held_at, self._held = start, begun.view
        self._run_bytes, self._next = len(begun.view), start + len(begun.view)
        if reads_on and self._next < self._file.size:
            stop = self._run(begun.stop, 2 * self._run_bytes)
            self._ahead = self._begin(begun.stop, stop, ahead=True)

    def _run(self, index: int, size: int) -> int:
        """The chunk before which a read of about `size` bytes from chunk `index` on ends."""
        end = self._starts[index] + min(size, _STREAM_RUN_BYTES)
        return max(index + 1, bisect_right(self._starts, end) - 1)

    def _begin(self, index: int, stop: int, *, ahead: bool) -> _Begun:
        """Begin to read chunks into memory of this stream."""
        size = self._starts[stop] - self._starts[index]
        memory = self._free.pop() if self._free else bytearray()
        if len(memory) < size:
            memory = bytearray(size)
        return self._read(index, stop, _Loan(memoryview(memory)[:size]), ahead=ahead)

    def _give_back(self, view: memoryview) -> None:
        # Only what no thread writes to any more: where one was interrupted, new memory is taken.
        if isinstance(view.obj, bytearray):
            self._free.append(view.obj)

    def _read(self, index: int, stop: int, loan: _Loan, *, ahead: bool) -> _Begun:
        """Begin to read the chunks from `index` up to `stop` into `loan`, and to verify them.

        Where that is not `ahead`, a part is left to the thread that waits for it.
        """
        begin = self._starts[index]

        def read(numbers: Iterable[int], view: memoryview) -> bool:
            return self._chunks.read(self._descriptor, numbers, view, begin)

        def is_sound(numbers: range) -> bool:
            try:
                return loan.use(numbers, read)
            except OSError:
                return False  # the disk cannot

        share = max(_STREAM_PIECE_BYTES, len(loan.view) // (os.cpu_count() or 1))
        pieces = self._chunks.pieces(share, range(index, stop))
        waiting = [] if ahead else [partial(is_sound, pieces.pop(0))]
        others = [self._threads.submit(is_sound, piece) for piece in pieces]
        return _Begun(index, stop, loan.view, [*waiting, *others])

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
