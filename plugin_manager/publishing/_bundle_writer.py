"""Making a bundle: files are cut into chunks, chunks packed into frames, frames compressed.

First all files are read and cut, and each chunk is known to be new, or to be in the previous
release already. Then the frames are planned: members that changed lead, and no frame holds both
kinds of chunks (nor chunks of differently tagged files), so that an upgrade asks for few ranges and
nothing needless. Then everything is read again, checked by its digest and compressed into a
temporary file; only now the manifest is known, which stands in front.

Memory stays bounded: a few frames, and some dozens of bytes a chunk.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from attrs import define, field
from blake3 import blake3

from plugin_manager import bundle
from plugin_manager._attrs import frozen
from plugin_manager.errors import InvalidInputError
from plugin_manager.manifest import (
    CHUNK_DIGEST_BYTES,
    MAX_FRAME_BYTES,
    Chunking,
    Columns,
    File,
    Manifest,
)
from plugin_manager.model import Digest
from plugin_manager.publishing._payload import Payload, PayloadFile

__all__ = ["Bundle", "write_bundle"]

SMALL_CHUNKING = Chunking(16 * 1024, 64 * 1024, 256 * 1024)
LARGE_CHUNKING = Chunking(64 * 1024, 256 * 1024, 1024 * 1024)
LARGE_FILE_BYTES = 64 * 1024 * 1024

_TAR_BLOCK = 512
_TAR_END = bytes(2 * _TAR_BLOCK)
_COMPRESSING_THREADS = 2
_COPY_BYTES = 1024 * 1024


@frozen
class Bundle:
    """A finished bundle in the file `path`; lengths in bytes, `digest` the SHA-256 of all of it."""

    path: Path
    head: bundle.Head
    length: int
    digest: Digest
    new_chunk_count: int


class _Piece(NamedTuple):
    """A chunk as it was cut from its file."""

    offset: int
    length: int
    digest: bytes
    is_new: bool


@frozen
class _Member:
    file: PayloadFile
    chunking: Chunking
    pieces: tuple[_Piece, ...]

    @property
    def size(self) -> int:
        return sum(piece.length for piece in self.pieces)

    @property
    def order(self) -> tuple[bool, str, str]:
        """What changed leads; files that only some hosts take stand together."""
        return (not any(piece.is_new for piece in self.pieces), self.file.tag, self.file.path)


class _Read(NamedTuple):
    """Part of a frame: a chunk that is still to be read from its file."""

    path: Path
    piece: _Piece


@define
class _Frame:
    """A frame as it is planned; `parts` are bytes of the tar format, or chunks to be read."""

    size: int = 0
    kind: tuple[bool, str] | None = None  # new?, tag: of all its chunks; None: it has none yet
    parts: list[bytes | _Read] = field(factory=list)


def write_bundle(payload: Payload, directory: Path, *, previous: Manifest | None) -> Bundle:
    """The bundle of `payload`, in the existing `directory`; the same bytes for the same input.

    `previous` is the release that most hosts will upgrade from: its chunk sizes are inherited, and
    what it has already is kept apart. Raises InvalidInputError where a file changes meanwhile.
    """
    known = _digests(previous)
    members = sorted(
        (_cut(file, previous, known) for file in payload.files), key=lambda member: member.order
    )
    plan = _Plan()
    for member in members:
        plan.add(member)
    plan.finish()
    frames_path = directory / "frames"
    frame_lengths = array("I")
    with frames_path.open("wb") as output:
        for data in _compressed(plan.frames):
            frame_lengths.append(len(data))
            output.write(data)
    manifest = Manifest(
        release=payload.release,
        about=payload.about,
        requirements=payload.requirements,
        needs=payload.needs,
        entry_points=payload.entry_points,
        python=payload.python,
        files=tuple(_files(members)),
        columns=Columns(
            digests=b"".join(piece.digest for member in members for piece in member.pieces),
            lengths=array("I", (p.length for member in members for p in member.pieces)),
            frames=plan.chunk_frames,
            offsets=plan.chunk_offsets,
            frame_lengths=frame_lengths,
            frame_content_lengths=array("I", (frame.size for frame in plan.frames)),
        ),
    )
    encoded = bundle.encode_head(manifest)
    # What no client could read is never published.
    head = bundle.read_head(encoded, f"manifest of {payload.release}")
    path = directory / "bundle"
    digest = _join(encoded, frames_path, path)
    frames_path.unlink()
    new = sum(piece.is_new for member in members for piece in member.pieces)
    return Bundle(path, head, path.stat().st_size, digest, new)


def _digests(manifest: Manifest | None) -> frozenset[bytes]:
    if manifest is None:
        return frozenset()
    column = manifest.columns.digests
    return frozenset(
        column[start : start + CHUNK_DIGEST_BYTES]
        for start in range(0, len(column), CHUNK_DIGEST_BYTES)
    )


# --- cutting -----------------------------------------------------------------------------------


def _cut(file: PayloadFile, previous: Manifest | None, known: frozenset[bytes]) -> _Member:
    with file.source.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        inherited = previous.by_path.get(file.path) if previous else None
        if inherited is not None:
            chunking = inherited.chunking
        else:
            chunking = LARGE_CHUNKING if size >= LARGE_FILE_BYTES else SMALL_CHUNKING
        pieces = tuple(
            _Piece(offset, len(data), digest := blake3(data).digest(), digest not in known)
            for offset, data in _chunks(stream, size, chunking)
        )
    return _Member(file, chunking, pieces)


def _chunks(
    stream: BinaryIO, size: int, chunking: Chunking
) -> Iterator[tuple[int, bytes | memoryview]]:
    """(offset, data) of each chunk; the data is good until the next one is asked for."""
    if size <= chunking.least:  # most files; the chunker would give the same, more slowly
        data = stream.read(chunking.least + 1)
        if len(data) <= chunking.least:
            if data:
                yield 0, data
            return
        stream.seek(0)  # it grew meanwhile
    for chunk in _chunker(chunking).cut_stream(stream):
        yield chunk.offset, chunk.data


def _chunker(chunking: Chunking) -> Any:
    try:
        from pyfastcdc import FastCDC  # noqa: PLC0415 - only publishers have it
    except ImportError as error:
        raise InvalidInputError(
            "publishing needs the package pyfastcdc, which is not installed",
            remedy="Install it with: pip install 'plugin-manager[publisher]'",
        ) from error
    return FastCDC(chunking.average, min_size=chunking.least, max_size=chunking.most)


# --- planning ----------------------------------------------------------------------------------


class _Plan:
    """Packs members into frames, in order; says where each chunk came to lie."""

    def __init__(self) -> None:
        self.frames = [_Frame()]
        self.chunk_frames = array("I")
        self.chunk_offsets = array("I")

    def add(self, member: _Member) -> None:
        """Append a member: its header, its chunks, and zeros up to the next tar block."""
        size = member.size
        header = _header(member.file, size)
        first = member.pieces[0] if member.pieces else None
        if first and len(header) + first.length <= MAX_FRAME_BYTES:
            # The header goes with the first chunk, where one frame can hold both.
            self._make_room(len(header) + first.length, (first.is_new, member.file.tag))
        self._append(header)
        for piece in member.pieces:
            kind = (piece.is_new, member.file.tag)
            self._make_room(piece.length, kind)
            frame = self.frames[-1]
            self.chunk_frames.append(len(self.frames) - 1)
            self.chunk_offsets.append(frame.size)
            frame.kind = kind
            frame.parts.append(_Read(member.file.source, piece))
            frame.size += piece.length
        self._append(bytes(-size % _TAR_BLOCK))

    def finish(self) -> None:
        """End the archive."""
        self._append(_TAR_END)

    def _make_room(self, size: int, kind: tuple[bool, str]) -> None:
        frame = self.frames[-1]
        other_kind = frame.kind is not None and frame.kind != kind
        if frame.size and (other_kind or frame.size + size > MAX_FRAME_BYTES):
            self.frames.append(_Frame())

    def _append(self, data: bytes) -> None:
        if not data:
            return
        if self.frames[-1].size + len(data) > MAX_FRAME_BYTES:
            self.frames.append(_Frame())
        self.frames[-1].parts.append(data)
        self.frames[-1].size += len(data)


def _header(file: PayloadFile, size: int) -> bytes:
    info = tarfile.TarInfo(file.path)
    info.size = size
    info.mode = 0o755 if file.executable else 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _files(members: Iterable[_Member]) -> Iterator[File]:
    first = 0
    for member in members:
        yield File(
            path=member.file.path,
            size=member.size,
            executable=member.file.executable,
            tag=member.file.tag,
            chunking=member.chunking,
            first_chunk=first,
            chunk_count=len(member.pieces),
        )
        first += len(member.pieces)


# --- compressing -------------------------------------------------------------------------------


def _compressed(frames: Sequence[_Frame]) -> Iterator[bytes]:
    """The frames as zstd frames, in order; two are compressed while the next is read."""
    with ExitStack() as stack:
        reader = stack.enter_context(_Reader())
        pool = stack.enter_context(ThreadPoolExecutor(_COMPRESSING_THREADS))
        waiting: deque[Future[bytes]] = deque()
        for frame in frames:
            content = b"".join(
                part if isinstance(part, bytes) else reader.read(part) for part in frame.parts
            )
            waiting.append(pool.submit(bundle.encode_frame, content))
            if len(waiting) > _COMPRESSING_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Reader:
    """Reads chunks again, most of them from the file that is open already."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stream: BinaryIO | None = None

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def read(self, part: _Read) -> bytes:
        """The chunk's bytes; raises InvalidInputError where they are not those that were cut."""
        if self._stream is None or self._path != part.path:
            self.__exit__()
            self._path, self._stream = part.path, part.path.open("rb")
        self._stream.seek(part.piece.offset)
        data = self._stream.read(part.piece.length)
        if blake3(data).digest() != part.piece.digest:
            raise InvalidInputError(
                f"{part.path} changed while it was being published",
                remedy="Publish again when nothing writes to it.",
                path=str(part.path),
            )
        return data


def _join(head: bytes, frames: Path, path: Path) -> Digest:
    hasher = hashlib.sha256(head)
    with path.open("wb") as output, frames.open("rb") as source:
        output.write(head)
        while data := source.read(_COPY_BYTES):
            hasher.update(data)
            output.write(data)
    return Digest(hasher.hexdigest())
