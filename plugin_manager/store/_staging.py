"""Assembling a release: what is on disk and hashes right is kept, the rest is asked for.

There is no record of how far a download came that could lie: after any interruption the staged
bytes themselves are hashed against the manifest. One mechanism serves install, resume, upgrade,
deduplication and repair.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from attrs import define
from blake3 import blake3

from plugin_manager._attrs import frozen
from plugin_manager.durable import remove_tree
from plugin_manager.errors import CorruptError
from plugin_manager.store import _files
from plugin_manager.store._contents import BLOCK_BYTES, blocks
from plugin_manager.store._lease import Lease
from plugin_manager.store._verify import damaged_chunks, foreign_files

if TYPE_CHECKING:
    from plugin_manager.bundle import Head
    from plugin_manager.manifest import Chunk, File, Manifest

__all__ = ["InstalledTree", "Needed", "Staged", "Staging", "staged_bytes", "survey"]

_MOST_REMEMBERED = 10_000  # files


@frozen
class InstalledTree:
    """A release on disk that chunks may be copied from: its manifest and its directory."""

    manifest: Manifest
    directory: Path


@define
class _Source:
    """Where the bytes of a chunk may lie on this disk: judged again when they are read."""

    path: Path
    offset: int


@frozen
class Needed:
    """What assembling a release takes, by the manifests alone; all in bytes.

    `fetch_bytes` come over the network, `copy_bytes` from other releases or an earlier attempt,
    `share_bytes` are whole files that take no further room. `write_bytes` are whole blocks.
    """

    fetch_bytes: int
    copy_bytes: int
    share_bytes: int
    write_bytes: int


class _Sources:
    """An index of what installed releases hold: whole files by content, wanted chunks by digest."""

    def __init__(
        self, trees: Sequence[InstalledTree], manifest: Manifest, files: Sequence[File]
    ) -> None:
        wanted = _wanted(manifest, files) if trees else set()
        self.files: dict[tuple[bytes, bool], list[Path]] = {}
        self.chunks: dict[bytes, list[_Source]] = {}
        for tree in trees:
            for file in tree.manifest.files:
                key = (tree.manifest.content_key(file), file.executable)
                path = tree.directory / file.path
                self.files.setdefault(key, []).append(path)
                for chunk in tree.manifest.chunks(file):
                    if chunk.digest in wanted:
                        sources = self.chunks.setdefault(chunk.digest, [])
                        sources.append(_Source(path, chunk.offset))


def _wanted(manifest: Manifest, files: Sequence[File]) -> set[bytes]:
    return {chunk.digest for file in files for chunk in manifest.chunks(file)}


def survey(
    head: Head,
    files: Sequence[File],
    directory: Path,
    trees: Iterable[InstalledTree],
    staged: Staged,
) -> Needed:
    """What staging `files` in `directory` would take. Writes nothing; hashes what is staged."""
    manifest = head.manifest
    sources = _Sources(list(trees), manifest, files)
    frames: set[int] = set()
    parents = {parent for file in files for parent in PurePosixPath(file.path).parents}
    copy, share, write = 0, 0, 0 if directory.exists() else len(parents) * BLOCK_BYTES
    for file in files:
        path = directory / file.path
        if not path.exists() and (manifest.content_key(file), file.executable) in sources.files:
            share += file.size
            continue
        lacking = staged.lacking(path, manifest, file)
        # Also what is staged at its full size may still be holes.
        write += blocks(sum(chunk.length for chunk in lacking)) if lacking else BLOCK_BYTES
        for chunk in lacking:
            if chunk.digest in sources.chunks:
                copy += chunk.length
            else:
                frames.add(chunk.frame)
    lengths = manifest.columns.frame_lengths
    return Needed(sum(lengths[frame] for frame in frames), copy, share, write)


def staged_bytes(manifest: Manifest, files: Sequence[File], directory: Path, staged: Staged) -> int:
    """The bytes of `files` that are in `directory` and hash right."""
    return sum(
        file.size
        - sum(chunk.length for chunk in staged.lacking(directory / file.path, manifest, file))
        for file in files
    )


class Staged:
    """What staged files hold, hashed once for as long as nobody writes to them.

    Of use within a command, which asks when it plans and again when it begins; never kept on disk.
    """

    def __init__(self) -> None:
        self._found: dict[Path, tuple[tuple[int, ...], bytes, list[Chunk]]] = {}

    def lacking(self, path: Path, manifest: Manifest, file: File) -> list[Chunk]:
        """The chunks of `file` that what is staged at `path` does not hold."""
        try:
            status = path.lstat()
        except OSError:
            return manifest.chunks(file)
        if status.st_size != file.size:
            return manifest.chunks(file)
        state = (status.st_ino, status.st_mode, status.st_mtime_ns, status.st_ctime_ns)
        content = manifest.content_key(file)
        known = self._found.get(path)
        if known is None or known[:2] != (state, content):
            if len(self._found) >= _MOST_REMEMBERED:
                self._found.clear()
            known = state, content, damaged_chunks(path, manifest, file, sparse=True)
            self._found[path] = known
        return known[2]


@define
class _Writer:
    """Writes pieces of files, holding one descriptor open between pieces of the same file.

    For one thread; `made`, the directories known to be there, and `lock`, are its siblings' too.
    """

    directory: Path
    _made: set[Path]
    _lock: threading.Lock
    _path: str = ""
    _descriptor: int = -1

    def write(self, file: File, offset: int, data: memoryview | bytes) -> None:
        if self._path != file.path:
            self.close()
            path = self.directory / file.path
            self.make_parents(path)
            # Nothing that lies in staging may lead the writing elsewhere, or make it wait.
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._descriptor = os.open(path, flags, 0o600)
            self._path = file.path
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise OSError(errno.EEXIST, "somebody else's file lies here", str(path))
            if status.st_size != file.size:
                os.ftruncate(self._descriptor, file.size)
        view = memoryview(data)
        while view:
            count = os.pwrite(self._descriptor, view, offset)
            view, offset = view[count:], offset + count

    def make_parents(self, path: Path) -> None:
        """Make the directories that `path` needs, replacing what is not one."""
        missing = []
        for parent in path.parents:
            if parent in self._made or parent == self.directory:
                break
            missing.append(parent)
        if missing:
            with self._lock:
                for parent in reversed(missing):
                    if parent.is_symlink() or not parent.is_dir():
                        parent.unlink(missing_ok=True)
                        parent.mkdir()
                    self._made.add(parent)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._path, self._descriptor = "", -1


class Staging:
    """A release (or some `files` of it) being assembled in `directory`.

    First `reuse`, then `spans` says what to fetch, then each frame goes to `accept`, from any
    thread, then `finish`. `occupied`, which keeps everybody else out, ends with `vacate`.
    """

    def __init__(
        self,
        head: Head,
        files: Sequence[File],
        directory: Path,
        trees: Sequence[InstalledTree],
        *,
        staged: Staged,
        occupied: Lease,
    ) -> None:
        self.head = head
        self.files = files
        self.directory = directory
        self._trees = trees
        self._staged = staged
        self._occupied = occupied
        self._lock = threading.Lock()
        self._made: set[Path] = set()
        self._writers: list[_Writer] = []
        self._of_thread = threading.local()
        # What is still missing: the places of each chunk, and from which frames they will come.
        self._places: dict[bytes, list[tuple[File, Chunk]]] = {}
        self._frames: dict[int, list[Chunk]] = {}

    @property
    def _writer(self) -> _Writer:
        """The writer of the thread that asks."""
        writer: _Writer | None = getattr(self._of_thread, "writer", None)
        if writer is None:
            writer = self._of_thread.writer = _Writer(self.directory, self._made, self._lock)
            with self._lock:
                self._writers.append(writer)
        return writer

    def reuse(self) -> int:
        """Take what this disk already has; returns how many bytes that were.

        Bytes of an earlier attempt are kept where they hash right; whole equal files of installed
        releases are shared; single chunks are copied. All are verified on the way.
        """
        os.utime(self.directory)  # somebody is at it: see `is_fresh`
        manifest = self.head.manifest
        sources = _Sources(self._trees, manifest, self.files)
        self._remove_foreign()
        reused = 0
        for file in self.files:
            path = self.directory / file.path
            if not os.path.lexists(path):
                key = (manifest.content_key(file), file.executable)
                if any(self._share(source, file) for source in sources.files.get(key, ())):
                    reused += file.size
                    continue
            lacking = self._lacking_or_unlinked(path, file)
            if file.size == 0 and not os.path.lexists(path):
                self._writer.write(file, 0, b"")
            reused += file.size - sum(chunk.length for chunk in lacking)
            for chunk in lacking:
                if data := _read_chunk(sources.chunks.get(chunk.digest, ()), chunk):
                    self._writer.write(file, chunk.offset, data)
                    reused += chunk.length
                else:
                    places = self._places.setdefault(chunk.digest, [])
                    if not places:
                        self._frames.setdefault(chunk.frame, []).append(chunk)
                    places.append((file, chunk))
        self.close()
        return reused

    def _lacking_or_unlinked(self, path: Path, file: File) -> list[Chunk]:
        """The chunks that what is staged lacks; what must not be written to is removed first."""
        manifest = self.head.manifest
        try:
            status = path.lstat()
        except FileNotFoundError:
            return manifest.chunks(file)
        lacking = self._staged.lacking(path, manifest, file)
        odd = not stat.S_ISREG(status.st_mode)
        # A file that is shared with an installed release is good as it is, or not for writing.
        if odd or (lacking and status.st_nlink > 1) or (not lacking and status.st_size > file.size):
            _remove(path)
            return manifest.chunks(file)
        return lacking

    def _remove_foreign(self) -> None:
        """Remove what an earlier attempt, or somebody, left here that is not in the manifest."""
        for fault in foreign_files(self.directory, self.head.manifest):
            _remove(self.directory / fault.path)

    def _share(self, source: Path, file: File) -> bool:
        if damaged_chunks(source, self.head.manifest, file):
            return False
        with contextlib.suppress(OSError):
            status = source.lstat()
            if status.st_size == file.size and bool(status.st_mode & 0o100) == file.executable:
                path = self.directory / file.path
                self._writer.make_parents(path)
                return _files.clone_or_link(source, path)
        return False

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """The frames that are still missing, in order: (index, start, stop) in the bundle."""
        for index in sorted(self._frames):
            yield index, *self.head.frame_span(index)

    def accept(self, index: int, data: memoryview) -> None:
        """Take frame `index`, verify the wanted chunks in it, and write them to their places.

        Different frames may come from several threads at once. Raises CorruptError, having written
        nothing, where any of them differs from what was signed.
        """
        from plugin_manager.bundle import decode_frame  # noqa: PLC0415 - zstandard; looking does without

        manifest = self.head.manifest
        content = memoryview(decode_frame(data, manifest.columns.frame_content_lengths[index]))
        wanted = self._frames[index]
        pieces = [content[c.frame_offset : c.frame_offset + c.length] for c in wanted]
        for chunk, piece in zip(wanted, pieces, strict=True):
            if blake3(piece).digest() != chunk.digest:
                raise CorruptError(f"frame {index} holds what was not signed")
        writer = self._writer
        # No lock: no two threads have the same frame, and so none the same chunk.
        for chunk, piece in zip(wanted, pieces, strict=True):
            for file, place in self._places.pop(chunk.digest):
                writer.write(file, place.offset, piece)
        del self._frames[index]

    def finish(self) -> list[Path]:
        """Set the modes of the files, all of whose chunks must have arrived; returns their paths.

        Making them durable is for the caller, who may do it for several stagings at once.
        """
        assert not self._frames, "frames are missing"
        self.close()
        paths = []
        for file in self.files:
            path = self.directory / file.path
            if path.stat().st_nlink == 1:
                path.chmod(0o555 if file.executable else 0o444)
            paths.append(path)
        return paths

    def close(self) -> None:
        """Let go of open files; what is staged stays for a later attempt."""
        for writer in self._writers:
            writer.close()

    def vacate(self) -> None:
        """Close, and let others at it."""
        self.close()
        self._occupied.close()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink()


def _read_chunk(sources: Iterable[_Source], chunk: Chunk) -> bytes | None:
    """The bytes of `chunk` from the first source that really has them."""
    for source in sources:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with contextlib.suppress(OSError):
            descriptor = os.open(source.path, flags)
            try:
                data = os.pread(descriptor, chunk.length, source.offset)
            finally:
                os.close(descriptor)
            if blake3(data).digest() == chunk.digest:
                return data
    return None
