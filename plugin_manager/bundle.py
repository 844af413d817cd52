"""The bundle's bytes: one zstd skippable frame with the manifest, then zstd frames of a tar stream.

    head     magic 0x184D2A5C (u32 LE), payload length (u32 LE), payload: zstd(manifest)
    frames   independent zstd frames, each declaring its content size (at most 1 MiB); their
             contents joined are a POSIX tar archive of the manifest's files, in its order

So `tar --zstd` reads a bundle, and a client that has the head knows every chunk's place. Format:
RFC 8878 (3.1.1 frames, 3.1.2 skippable frames). This module is pure: bytes in, values out.
"""

from __future__ import annotations

import struct
from functools import cached_property

import zstandard
from attrs import define

from plugin_manager import manifest as manifest_format
from plugin_manager._attrs import frozen
from plugin_manager.document import Document
from plugin_manager.errors import CorruptError, InvalidInputError
from plugin_manager.manifest import MAX_FRAME_BYTES, TELL_PUBLISHER, Manifest
from plugin_manager.model import Digest

__all__ = [
    "MAX_HEAD_BYTES",
    "Head",
    "SignedHead",
    "decode_frame",
    "encode_frame",
    "encode_head",
    "parse_custom",
    "read_head",
    "render_custom",
]

HEAD_MAGIC = 0x184D2A5C  # one of the sixteen that RFC 8878 sets aside for skippable frames
HEAD_PREFIX = struct.Struct("<II")
MAX_HEAD_BYTES = 64 * 1024 * 1024
MAX_MANIFEST_RATIO = 256
"""How many times larger than the head a manifest beyond 1 MiB may be: memory must cost those who
want ours some bytes of theirs. Measured: 1.5 for a wheel's files, 136 for 50,000 equal ones."""
CUSTOM_KEY = "plugin-manager"
CUSTOM_FORMAT = 1
COMPRESSION_LEVEL = 9
MANIFEST_LEVEL = 19
WORTHWHILE = 0.98  # a frame that compression shrinks less than this is stored

_STORED_BLOCK = 128 * 1024  # RFC 8878 3.1.1.2.4: Block_Maximum_Size
_STORED_HEADER = struct.Struct("<IBI")  # RFC 8878 3.1.1: magic, descriptor, content size
_RAW_BLOCK = 0


@define(eq=False, slots=False)
class Head:
    """A bundle's head: its manifest, its length in bytes, and the SHA-256 naming the release."""

    manifest: Manifest
    length: int
    digest: Digest

    def frame_span(self, index: int) -> tuple[int, int]:
        """Where frame `index` lies in the bundle: [start, stop) in bytes."""
        starts = self.manifest.frame_starts
        return self.length + starts[index], self.length + starts[index + 1]

    @cached_property
    def bundle_length(self) -> int:
        """The length of the whole bundle in bytes."""
        return self.length + self.manifest.frames_length


def encode_head(manifest: Manifest) -> bytes:
    """The head for `manifest`, the same bytes for equal manifests (and the same zstd)."""
    compressor = zstandard.ZstdCompressor(level=MANIFEST_LEVEL, write_content_size=True)
    payload = compressor.compress(manifest_format.render(manifest))
    return HEAD_PREFIX.pack(HEAD_MAGIC, len(payload)) + payload


def read_head(data: bytes, where: str = "bundle") -> Head:
    """The head in `data`, which must be all of it; raises InvalidInputError naming `where`.

    Verify the digest of `data` first. The declared size of the manifest is checked before it is
    decoded (python-zstandard ignores its own limit when a frame declares its size): it may be
    1 MiB, or `MAX_MANIFEST_RATIO` times the length of `data`.
    """
    if len(data) < HEAD_PREFIX.size or len(data) > MAX_HEAD_BYTES:
        raise InvalidInputError(
            f"{where}: not a bundle's head ({len(data)} bytes)", where=where, remedy=TELL_PUBLISHER
        )
    magic, length = HEAD_PREFIX.unpack_from(data)
    if magic != HEAD_MAGIC or length != len(data) - HEAD_PREFIX.size:
        raise InvalidInputError(
            f"{where}: does not begin with a manifest",
            where=where,
            remedy="Bundles are made by 'pluginctl repo publish'.",
        )
    most = min(manifest_format.MAX_MANIFEST_BYTES, 1024 * 1024 + MAX_MANIFEST_RATIO * len(data))
    try:
        raw = _decode(memoryview(data)[HEAD_PREFIX.size :], most)
    except (zstandard.ZstdError, ValueError) as error:
        raise InvalidInputError(
            f"{where}: manifest cannot be decoded ({error})", where=where, remedy=TELL_PUBLISHER
        ) from error
    parsed = manifest_format.parse(raw, where)
    return Head(parsed, len(data), Digest.of(data))


def _decode(data: memoryview | bytes, most: int) -> bytes:
    parameters = zstandard.get_frame_parameters(data)
    if not 0 <= parameters.content_size <= most or parameters.dict_id:
        raise ValueError(f"declares {parameters.content_size} bytes, more than {most}")
    return zstandard.ZstdDecompressor().decompress(
        data, max_output_size=most, allow_extra_data=False
    )


def encode_frame(content: bytes) -> bytes:
    """One zstd frame holding `content` (1 byte to 1 MiB), stored where compression hardly helps."""
    assert 0 < len(content) <= MAX_FRAME_BYTES
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_content_size=True)
    packed = compressor.compress(content)
    return packed if len(packed) < len(content) * WORTHWHILE else _stored_frame(content)


def _stored_header(content_length: int) -> bytes:
    return _STORED_HEADER.pack(zstandard.MAGIC_NUMBER, 0b1010_0000, content_length)


def _stored_frame(content: bytes) -> bytes:
    # Level 9 leaves a few entropy-coded blocks in nearly incompressible data, which then decodes
    # at a fraction of the speed of a copy. So such frames are written as raw blocks only.
    parts = [_stored_header(len(content))]
    for start in range(0, len(content), _STORED_BLOCK):
        block = content[start : start + _STORED_BLOCK]
        last = start + _STORED_BLOCK >= len(content)
        parts.append((len(block) << 3 | last).to_bytes(3, "little"))
        parts.append(block)
    return b"".join(parts)


def decode_frame(data: bytes | memoryview, content_length: int) -> bytes | memoryview:
    """The content of the zstd frame `data`, exactly `content_length` bytes.

    A stored frame that may be written to is unpacked in its place, its bytes being moved. Raises
    CorruptError where the frame is not one, or declares or holds another length. The content is
    not yet trustworthy: its chunks are judged by their digests.
    """
    if isinstance(data, memoryview) and not data.readonly:
        blocks = _stored_blocks(data, content_length)
        if blocks:
            # Four times as fast as decoding to new memory, all of which has to be mapped first.
            place = 0
            for start, stop in blocks:
                data[place : place + stop - start] = data[start:stop]
                place += stop - start
            return data[:place]
    try:
        content = _decode(memoryview(data), content_length)
    except (zstandard.ZstdError, ValueError) as error:
        raise CorruptError(f"frame cannot be decoded: {error}") from error
    if len(content) != content_length:
        raise CorruptError(f"frame holds {len(content)} bytes where {content_length} were signed")
    return content


def _stored_blocks(data: memoryview, content_length: int) -> list[tuple[int, int]] | None:
    """Where the content of a frame that `_stored_frame` wrote lies; None for any other frame."""
    if bytes(data[: _STORED_HEADER.size]) != _stored_header(content_length):
        return None
    blocks, place, last = [], _STORED_HEADER.size, False
    while not last and place + 3 <= len(data):
        header = int.from_bytes(data[place : place + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind != _RAW_BLOCK or size > _STORED_BLOCK:
            return None
        blocks.append((place + 3, place + 3 + size))
        place += 3 + size
    whole = last and place == len(data)
    return blocks if whole and sum(e - s for s, e in blocks) == content_length else None


# --- what is signed about a head ---------------------------------------------------------------


@frozen
class SignedHead:
    """What the publisher signs about a bundle's head: its length in bytes, and its SHA-256."""

    length: int
    digest: Digest


def render_custom(head: SignedHead) -> dict[str, object]:
    """The `custom` of a bundle's entry in TUF targets metadata."""
    return {
        CUSTOM_KEY: {
            "format": CUSTOM_FORMAT,
            "head": {"length": head.length, "sha256": str(head.digest)},
        }
    }


def parse_custom(custom: object, where: str, *, bundle_length: int) -> SignedHead:
    """The counterpart of `render_custom`, for a bundle of `bundle_length` bytes.

    Raises InvalidInputError naming `where` and every fault. What others put into `custom` beside
    ours is theirs.
    """
    document = Document({"custom": custom})
    ours = document.table("custom", required=True).table(CUSTOM_KEY, required=True)
    if ours.integer("format") != CUSTOM_FORMAT:
        ours.fault("format", f"this program reads {CUSTOM_FORMAT}")
    head = ours.table("head", required=True)
    length = head.integer("length", least=1, most=min(MAX_HEAD_BYTES, bundle_length))
    digest = head.parsed("sha256", Digest.parse)
    document.finish(where, remedy="A newer plugin manager may know what this is.")
    assert digest is not None  # or finish had raised
    return SignedHead(length, digest)
