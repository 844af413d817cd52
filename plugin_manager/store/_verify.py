"""Which files of a release are not as they were signed."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from plugin_manager._attrs import frozen
from plugin_manager.store._chunks import (
    BUFFER_BYTES,
    PIECE_BYTES,
    Buffer,
    Chunks,
    Damage,
    damage_of,
    file_damage,
    regular_file,
)
from plugin_manager.store._threads import Threads

if TYPE_CHECKING:
    from plugin_manager.manifest import Chunk, File, Manifest

__all__ = [
    "Damage",
    "Fault",
    "damaged_chunks",
    "directories_of",
    "foreign_files",
    "misplaced_files",
    "odd_directories",
    "release_faults",
    "release_faults_slowly",
    "visible_faults",
]


@frozen
class Fault:
    """One file that is not as it was signed; `path` is relative to the release's directory."""

    path: str
    damage: Damage

    def __str__(self) -> str:
        return f"{self.path} ({self.damage})"


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
        with regular_file(path) as descriptor, Threads() as threads:
            found = threads.each(
                lambda piece: list(_damaged(descriptor, piece, sparse)), _pieces(chunks, file.size)
            )
            return [chunk for piece in found for chunk in piece]
    except PermissionError:
        return chunks
    except OSError as error:
        damage_of(error, path)
        return chunks


def _pieces(chunks: list[Chunk], size_bytes: int) -> list[list[Chunk]]:
    """`chunks`, of `size_bytes` together, in parts that are each worth a thread."""
    step = max(1, -(-len(chunks) * PIECE_BYTES // max(size_bytes, 1)))
    return [chunks[start : start + step] for start in range(0, len(chunks), step)]


def _damaged(descriptor: int, chunks: Sequence[Chunk], sparse: bool = False) -> Iterator[Chunk]:
    data_at = -1
    with Buffer() as buffer:
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


class _LargeFile:
    """A file that is hashed in pieces, by whatever threads."""

    def __init__(self, directory: Path, manifest: Manifest, file: File) -> None:
        self._path, self._file = f"{directory}/{file.path}", file
        self._chunks = Chunks(manifest, file)
        self.pieces = self._chunks.pieces(PIECE_BYTES)

    def damage(self, numbers: range) -> Damage | None:
        """What is wrong with a piece of the file, if anything is."""
        try:
            with regular_file(self._path) as descriptor:
                status = os.fstat(descriptor)
                good = status.st_size == self._file.size
                good = good and bool(status.st_mode & 0o100) == self._file.executable
                if good and self._is_sound(descriptor, numbers):
                    return None
        except OSError as error:
            return damage_of(error, self._path)
        return Damage.DAMAGED

    def _is_sound(self, descriptor: int, numbers: range) -> bool:
        if not self._chunks.are_cached(descriptor, numbers):
            return self._chunks.check(descriptor, numbers)
        # What is in memory already is hashed there, in three quarters of the time. Nothing else is
        # mapped: where a disk cannot read a mapped page, the system ends the process.
        import mmap  # noqa: PLC0415 - most plugins have no large files

        first, end = self._chunks.starts[numbers.start], self._chunks.starts[numbers.stop]
        begin = first - first % mmap.ALLOCATIONGRANULARITY
        try:
            mapped = mmap.mmap(descriptor, end - begin, access=mmap.ACCESS_READ, offset=begin)
        except ValueError:  # cut off meanwhile
            return False
        with mapped, memoryview(mapped) as view:
            return self._chunks.are_signed(numbers, view, begin)


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
            # Without a slash at the end, which would lead through a link.
            mode = os.lstat(f"{directory}/{path}" if path else directory).st_mode
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
    large = [file for file in files if file.size > BUFFER_BYTES]
    with Threads() as threads:
        # Large files are hashed by other threads while this one goes through the small ones.
        # Not those as well: for many small files threads take twice as long (measured), as most
        # of the work is Python's.
        work = []
        for file in large:
            whole = _LargeFile(directory, manifest, file)
            work.append([threads.submit(whole.damage, piece) for piece in whole.pieces])
        prefix = f"{directory}/"
        with Buffer() as buffer:
            for file in files:
                if file.size <= BUFFER_BYTES:
                    if damage := file_damage(prefix + file.path, manifest, file, buffer):
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
            with regular_file(path) as descriptor:
                if hasattr(os, "posix_fadvise"):
                    # What the system holds in memory may be good while the disk is not.
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                for chunk in manifest.chunks(file):
                    pace(chunk.length)
                    if any(_damaged(descriptor, [chunk])):
                        faults.append(Fault(file.path, Damage.DAMAGED))
                        break
        except OSError as error:
            faults.append(Fault(file.path, damage_of(error, path)))
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
