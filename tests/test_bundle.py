"""The bundle's bytes: any zstd reads them, and nothing in them is believed before it is checked."""

import contextlib
import hashlib
import io
import random
import shutil
import struct
import subprocess
import tracemalloc

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from plugin_manager.bundle import (
    HEAD_MAGIC,
    HEAD_PREFIX,
    MAX_HEAD_BYTES,
    SignedHead,
    decode_frame,
    encode_frame,
    encode_head,
    parse_custom,
    read_head,
    render_custom,
)
from plugin_manager.errors import CorruptError, InvalidInputError
from plugin_manager.manifest import MAX_FRAME_BYTES, MAX_FRAME_OVERHEAD_BYTES, render
from plugin_manager.model import Digest
from tests.bundles import make_bundle
from tests.strategies import manifests

BUNDLE = make_bundle("acme/maps 2.1", {"a.txt": b"hello " * 50, "b.bin": bytes(range(256)) * 20})
MIB = 1024 * 1024


def head_around(payload: bytes) -> bytes:
    return HEAD_PREFIX.pack(HEAD_MAGIC, len(payload)) + payload


def forged_frame(declared: int) -> bytes:
    """A frame that declares `declared` bytes of content and holds one."""
    header = struct.pack("<IBBQ", zstandard.MAGIC_NUMBER, 0b1100_0000, 0, declared)
    return header + (1 << 3 | 1).to_bytes(3, "little") + b"x"


def peak_bytes(action) -> int:
    """The most memory that `action` had allocated at once."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- heads -------------------------------------------------------------------------------------


@given(manifests())
def test_a_head_is_the_same_after_writing_and_reading(manifest):
    data = encode_head(manifest)
    head = read_head(data)
    assert render(head.manifest) == render(manifest)
    assert (head.length, head.digest) == (len(data), hashlib.sha256(data).hexdigest())
    assert encode_head(head.manifest) == data


def test_a_head_knows_where_each_frame_lies():
    head = BUNDLE.head
    spans = [head.frame_span(index) for index in range(len(BUNDLE.frames))]
    assert [BUNDLE.data[start:stop] for start, stop in spans] == BUNDLE.frames
    assert head.bundle_length == len(BUNDLE.data)


@given(st.integers(0, len(BUNDLE.head_bytes) - 1), st.integers(1, 255))
def test_any_changed_byte_of_a_head_is_refused_by_its_form_or_its_digest(position, change):
    data = bytearray(BUNDLE.head_bytes)
    data[position] ^= change
    try:
        head = read_head(bytes(data))
    except InvalidInputError:
        return
    assert head.digest != BUNDLE.head.digest


def test_control_some_changes_pass_for_a_head_so_that_only_the_digest_finds_them():
    passed = 0
    for position in range(len(BUNDLE.head_bytes)):
        data = bytearray(BUNDLE.head_bytes)
        data[position] ^= 1
        try:
            read_head(bytes(data))
        except InvalidInputError:
            continue
        passed += 1
    assert passed


@given(st.binary())
@example(b"")
@example(head_around(b""))
@example(head_around(b"\x28\xb5\x2f\xfd"))
@example(head_around(forged_frame(2**40)))
@example(head_around(forged_frame(2**64 - 1)))
@example(head_around(head_around(b"skippable")))
@example(head_around(zstandard.compress(b"not msgpack")))
@example(
    head_around(
        zstandard.ZstdCompressor(write_content_size=False).compress(render(BUNDLE.head.manifest))
    )
)
def test_arbitrary_bytes_are_refused_as_a_head(data):
    for candidate in (
        data,
        head_around(data),
        BUNDLE.head_bytes[:-1],
        BUNDLE.head_bytes + data[:1] + b"x",
    ):
        with pytest.raises(InvalidInputError) as caught:
            read_head(candidate, "acme.tar.zst")
        assert "acme.tar.zst" in str(caught.value)


def test_bytes_behind_the_manifest_but_inside_the_head_are_refused():
    payload = BUNDLE.head_bytes[HEAD_PREFIX.size :]
    with pytest.raises(InvalidInputError, match="cannot be decoded"):
        read_head(head_around(payload + zstandard.compress(b"more")))


# --- frames ------------------------------------------------------------------------------------

_CONTENTS = st.binary(min_size=1, max_size=2000) | st.builds(
    lambda seed, size: random.Random(seed).randbytes(size),
    st.integers(0, 9),
    st.sampled_from([1, 128 * 1024 - 1, 128 * 1024, 128 * 1024 + 1, MAX_FRAME_BYTES]),
)


@given(_CONTENTS)
def test_a_frame_is_the_same_after_writing_and_reading_by_us_and_by_zstd(content):
    frame = encode_frame(content)
    assert decode_frame(frame, len(content)) == content
    assert zstandard.ZstdDecompressor().decompress(frame) == content
    assert len(frame) <= len(content) + MAX_FRAME_OVERHEAD_BYTES
    assert zstandard.get_frame_parameters(frame).content_size == len(content)


def test_incompressible_content_is_stored():
    content = random.Random(1).randbytes(300_000)
    assert content[200_000:201_000] in encode_frame(content)


def test_a_whole_bundle_is_one_stream_to_any_zstd():
    content = b"".join(
        decode_frame(frame, size)
        for frame, size in zip(
            BUNDLE.frames, BUNDLE.head.manifest.columns.frame_content_lengths, strict=True
        )
    )
    with zstandard.ZstdDecompressor().stream_reader(
        io.BytesIO(BUNDLE.data), read_across_frames=True
    ) as reader:
        assert reader.read() == content
    if program := shutil.which("zstd"):
        result = subprocess.run(
            [program, "-dc"], input=BUNDLE.data, stdout=subprocess.PIPE, check=True
        )
        assert result.stdout == content


@given(st.binary(max_size=300), st.integers(0, 100))
@example(b"", 0)
@example(head_around(b"skippable"), 9)
@example(forged_frame(1)[:-1], 1)
def test_arbitrary_bytes_are_refused_as_a_frame_or_hold_what_was_asked(data, length):
    with contextlib.suppress(CorruptError):
        assert len(decode_frame(data, length)) == length


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(b"x" * 99),
        encode_frame(b"x" * 101),
        encode_frame(b"x" * 100)[:-1],
        encode_frame(b"x" * 100) + b"\0",
        encode_frame(b"x" * 100) + encode_frame(b"x" * 100),
        encode_frame(b"x" * 50) + encode_frame(b"x" * 50),
        zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100),
    ],
    ids=["shorter", "longer", "truncated", "trailing byte", "twice", "in two", "undeclared"],
)
def test_a_frame_that_is_not_exactly_what_was_signed_is_corrupt(frame):
    with pytest.raises(CorruptError):
        decode_frame(frame, 100)


@given(st.data())
def test_a_changed_frame_yields_other_content_of_the_same_length_or_is_corrupt(data):
    content = b"some text, some text again and a tail 0123456789" * 3
    frame = bytearray(encode_frame(content))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(CorruptError):
        assert len(decode_frame(frame, len(content))) == len(content)


def _decoded(frame, length):
    """The content, or None where the frame is corrupt."""
    with contextlib.suppress(CorruptError):
        return bytes(decode_frame(frame, length))
    return None


@given(_CONTENTS, st.data())
def test_what_is_unpacked_in_place_is_what_zstd_says(content, data):
    frame = bytearray(encode_frame(content))
    # In the header, or where a block ends and the next begins.
    places = {
        place for start in range(0, len(frame), 128 * 1024) for place in range(start, start + 16)
    }
    for place in data.draw(
        st.sets(st.sampled_from(sorted(p for p in places if p < len(frame))), max_size=2)
    ):
        frame[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([0, 0, 0, 1, 3, 4]))
    frame = frame[: len(frame) - cut] + bytes(data.draw(st.sampled_from([0, 0, 0, 1, 3])))
    by_zstd = _decoded(bytes(frame), len(content))
    assert _decoded(memoryview(frame), len(content)) == by_zstd


def test_a_stored_frame_is_unpacked_without_further_memory():
    content = random.Random(1).randbytes(MAX_FRAME_BYTES)
    frame = memoryview(bytearray(encode_frame(content)))
    assert peak_bytes(lambda: decode_frame(frame, len(content))) < 10_000
    assert frame[: len(content)] == content
    unpacked = bytes(encode_frame(content))
    assert peak_bytes(lambda: decode_frame(unpacked, len(content))) > MAX_FRAME_BYTES, "control"


# --- what is signed about a head ---------------------------------------------------------------

DIGEST = Digest("0" * 64)


@given(st.integers(1, MAX_HEAD_BYTES))
def test_what_is_signed_about_a_head_is_the_same_after_writing_and_reading(length):
    custom = {**render_custom(SignedHead(length, DIGEST)), "someone-else": 1}
    assert parse_custom(custom, "x", bundle_length=length) == SignedHead(length, DIGEST)
    with pytest.raises(InvalidInputError, match=r"^x: custom\.plugin-manager\.head\.length: must"):
        parse_custom(custom, "x", bundle_length=length - 1)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"format": 2}, "format: this program reads 1"),
        ({"format": True}, "format: must be a whole number"),
        ({"head": None}, "head: must be a table"),
        (
            {"head": {"length": MAX_HEAD_BYTES + 1, "sha256": DIGEST}},
            "head.length: must be from 1 to",
        ),
        ({"head": {"length": 9, "sha256": "A" * 64}}, "head.sha256: 'AAA"),
    ],
)
def test_what_is_not_signed_as_we_do_is_refused(changed, fault):
    good = render_custom(SignedHead(9, DIGEST))["plugin-manager"]
    with pytest.raises(InvalidInputError) as caught:
        parse_custom({"plugin-manager": {**good, **changed}}, "x", bundle_length=2**40)
    assert caught.value.message.startswith(f"x: custom.plugin-manager.{fault}")


# --- bombs -------------------------------------------------------------------------------------

BOMB = zstandard.ZstdCompressor(level=19).compress(bytes(64 * MIB))


def test_a_frame_declaring_a_tebibyte_is_refused_before_memory_is_taken():
    def attempt():
        with pytest.raises(CorruptError, match="declares 1099511627776 bytes, more than 1000"):
            decode_frame(forged_frame(2**40), 1000)
        with pytest.raises(InvalidInputError, match="declares 1099511627776 bytes"):
            read_head(head_around(forged_frame(2**40)))

    assert peak_bytes(attempt) < MIB


def test_a_small_frame_that_would_grow_thirtythousandfold_is_refused_before_memory_is_taken():
    assert len(BOMB) * 25_000 < 64 * MIB

    def attempt():
        with pytest.raises(CorruptError, match="declares"):
            decode_frame(BOMB, MIB)

    assert peak_bytes(attempt) < MIB


def test_a_small_head_that_would_grow_to_a_large_manifest_is_refused_before_memory_is_taken():
    def attempt():
        with pytest.raises(InvalidInputError, match="manifest cannot be decoded"):
            read_head(head_around(BOMB))

    assert peak_bytes(attempt) < MIB


def test_a_manifest_of_many_equal_files_is_read_however_well_it_compresses():
    bundle = make_bundle("acme/maps 1", {f"tiles/{n:05}.png": b"x" for n in range(20_000)})
    manifest = bundle.head.manifest
    assert len(render(manifest)) > MIB
    assert len(render(manifest)) > 64 * len(bundle.head_bytes)
    assert len(manifest.files) == 20_000


def test_control_the_library_alone_would_take_the_memory_despite_its_limit():
    def attempt():
        zstandard.ZstdDecompressor().decompress(BOMB, max_output_size=MIB)

    assert peak_bytes(attempt) >= 64 * MIB
