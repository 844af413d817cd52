"""Small bundles made by hand: fixed-size chunks, no publisher, no signatures."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from functools import partial

from attrs import define
from blake3 import blake3

from plugin_manager.bundle import Head, encode_frame, encode_head, read_head
from plugin_manager.manifest import About, Chunking, Columns, File, Manifest, PythonLayout
from plugin_manager.model import (
    BundlePath,
    EntryPoint,
    HostNeeds,
    PluginName,
    PluginRequirement,
    Release,
    parse_version,
)

CHUNK_BYTES = 4096
FRAME_BYTES = 4 * CHUNK_BYTES


@define
class HandMade:
    """A bundle's head and frames."""

    head_bytes: bytes
    frames: list[bytes]

    @property
    def head(self) -> Head:
        return read_head(self.head_bytes)

    @property
    def data(self) -> bytes:
        return self.head_bytes + b"".join(self.frames)


def release(text: str) -> Release:
    """The release written `acme/maps 1.0`."""
    name, version = text.split()
    return Release(PluginName.parse(name), parse_version(version))


def make_bundle(
    name: str,
    files: Mapping[str, bytes],
    *,
    executable: frozenset[str] = frozenset(),
    tags: Mapping[str, str] | None = None,
    requires: tuple[str, ...] = (),
    needs: HostNeeds | None = None,
    entry_points: tuple[EntryPoint, ...] = (),
) -> HandMade:
    """A bundle of release `name` ("acme/maps 1.0") with `files`."""
    make_column = partial(array, "I")
    digests = b""
    lengths, frame_of, offsets, listed = make_column(), make_column(), make_column(), []
    frames: list[bytearray] = [bytearray()]
    for path, content in files.items():
        first = len(lengths)
        for start in range(0, len(content), CHUNK_BYTES):
            piece = content[start : start + CHUNK_BYTES]
            if len(frames[-1]) + len(piece) > FRAME_BYTES:
                frames.append(bytearray())
            digests += blake3(piece).digest()
            lengths.append(len(piece))
            frame_of.append(len(frames) - 1)
            offsets.append(len(frames[-1]))
            frames[-1] += piece
        listed.append(
            File(
                path=BundlePath.parse(path),
                size=len(content),
                executable=path in executable,
                tag=(tags or {}).get(path, ""),
                chunking=Chunking(CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES),
                first_chunk=first,
                chunk_count=len(lengths) - first,
            )
        )
    if not frames[-1]:
        frames.pop()
    encoded = [encode_frame(bytes(frame)) for frame in frames]
    manifest = Manifest(
        release=release(name),
        about=About("made by hand"),
        requirements=tuple(PluginRequirement.parse(text) for text in requires),
        needs=needs or HostNeeds(),
        entry_points=entry_points,
        python=PythonLayout(),
        files=tuple(listed),
        columns=Columns(
            digests,
            lengths,
            frame_of,
            offsets,
            make_column(len(frame) for frame in encoded),
            make_column(len(frame) for frame in frames),
        ),
    )
    return HandMade(encode_head(manifest), encoded)
