"""The manifest: what a release is, needs and offers, and where each chunk of each file lies.

Written as msgpack. What repeats per file, chunk and frame is kept in columns (measured: columns
compress and parse several times better than rows), digests as raw bytes (they do not compress;
base64 would also spoil differences between two manifests).

    format        1
    plugin, version, platform, about{summary, description, license, homepage}
    requires      {plugins: [text], host, python: specifier, memory_bytes, disk_bytes}
    entry_points  {group: {name: value}}
    python        {root: path or "", vendored: [distribution name]}
    chunkings     [[least, average, most] ...]        bytes; named by files.chunkings
    files         {paths: [text], executable: bytes (0/1), tags: [text], tag: bytes (index + 1,
                   0 none), chunkings: bytes (index), chunk_counts: u32 column}
    chunks        {digests: 32 bytes each, lengths, frames, offsets: u32 columns}
    frames        {lengths, content_lengths: u32 columns}

Columns of u32 are little-endian. A file's size is the sum of its chunks' lengths. Order of files
is their order in the bundle's tar stream.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate
from operator import add, le, sub
from typing import Any, NamedTuple

import msgpack
from attrs import define, field

from plugin_manager._attrs import frozen
from plugin_manager.document import Document
from plugin_manager.errors import InvalidInputError, NotFoundError
from plugin_manager.model import (
    ANY,
    BundlePath,
    EntryPoint,
    HostNeeds,
    Platform,
    PluginName,
    PluginRequirement,
    Release,
    one_line,
    parse_specifier,
    parse_version,
)

__all__ = [
    "CHUNK_DIGEST_BYTES",
    "MAX_FRAME_BYTES",
    "About",
    "Chunk",
    "Chunking",
    "File",
    "Manifest",
    "PythonLayout",
    "parse",
    "render",
]

FORMAT = 1
CHUNK_DIGEST_BYTES = 32
MAX_FRAME_BYTES = 1024 * 1024
MAX_FRAME_OVERHEAD_BYTES = 64  # what storing adds to a frame's content is less
MAX_FILES = 1_000_000
MAX_CHUNKS = 1_500_000  # a chunk takes 44 bytes; files of 90 GiB at 64 KiB a chunk
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_DESCRIPTION = 100_000  # characters
MAX_ITEMS = MAX_FILES + 100_000
"""How much all lists and tables of a manifest may hold together, beside the paths mostly nothing:
msgpack makes a dictionary of 64 bytes out of one byte."""

TELL_PUBLISHER = "Tell the publisher, who signed it so."
"""The remedy where a signed document is malformed: nobody else can make a better one."""


class Chunking(NamedTuple):
    """FastCDC's parameters in bytes."""

    least: int
    average: int
    most: int


class Chunk(NamedTuple):
    """A piece of a file: `length` bytes at `offset` in the file, whose BLAKE3-256 is `digest`.

    In the bundle it is `length` bytes at `frame_offset` of the content of frame number `frame`.
    """

    digest: bytes
    offset: int
    length: int
    frame: int
    frame_offset: int


@frozen
class About:
    """What people are told about a plugin. Written by publishers: escape before display."""

    summary: str = field(default="", converter=one_line)
    description: str = ""
    license: str = field(default="", converter=one_line)
    homepage: str = field(default="", converter=one_line)


@frozen
class PythonLayout:
    """Where the importable part lies: `root` is a directory of the bundle ("" is its top).

    `vendored` are the normalised names of distributions brought along for the plugin's own use.
    """

    root: str = ""
    vendored: tuple[str, ...] = ()


class File(NamedTuple):
    """One file: `size` bytes, made of `chunk_count` of the manifest's chunks from `first_chunk` on.

    `tag` is "" or names the interpreter that the file is made for (`cp311`): such a file only
    speeds things up, and is neither fetched nor required elsewhere.
    """

    path: BundlePath
    size: int
    executable: bool
    tag: str
    chunking: Chunking
    first_chunk: int
    chunk_count: int


@define(eq=False)
class Columns:
    """The u32 columns and digests of all chunks and frames (see the module's docstring)."""

    digests: bytes
    lengths: array[int]
    frames: array[int]
    offsets: array[int]
    frame_lengths: array[int]
    frame_content_lengths: array[int]


@define(eq=False, slots=False)
class Manifest:
    """A parsed manifest. Do not change it: everything that is verified is verified against it."""

    release: Release
    about: About
    requirements: tuple[PluginRequirement, ...]
    needs: HostNeeds
    entry_points: tuple[EntryPoint, ...]
    python: PythonLayout
    files: tuple[File, ...]
    columns: Columns = field(repr=False)

    @cached_property
    def by_path(self) -> dict[str, File]:
        """The files by path."""
        return {file.path: file for file in self.files}

    def file(self, path: str) -> File:
        """The file at `path`; raises NotFoundError."""
        try:
            return self.by_path[path]
        except KeyError:
            raise NotFoundError(f"{self.release} has no file {path!r}", path=path) from None

    def files_for(self, tag: str) -> list[File]:
        """The files that a host with bytecode tag `tag` installs, in bundle order."""
        return [file for file in self.files if not file.tag or file.tag == tag]

    def chunks(self, file: File) -> list[Chunk]:
        """The chunks of `file` in order; their lengths add up to its size."""
        columns, first = self.columns, file.first_chunk
        stop = first + file.chunk_count
        lengths = columns.lengths[first:stop]
        digests = columns.digests
        return [
            Chunk(digests[at : at + CHUNK_DIGEST_BYTES], offset, length, frame, frame_offset)
            for at, offset, length, frame, frame_offset in zip(
                range(first * CHUNK_DIGEST_BYTES, stop * CHUNK_DIGEST_BYTES, CHUNK_DIGEST_BYTES),
                accumulate(lengths, initial=0),
                lengths,
                columns.frames[first:stop],
                columns.offsets[first:stop],
                strict=False,  # the running offsets are one longer
            )
        ]

    def content_key(self, file: File) -> bytes:
        """The digests of the file's chunks in order: equal keys mean equal content."""
        first = file.first_chunk * CHUNK_DIGEST_BYTES
        return self.columns.digests[first : first + file.chunk_count * CHUNK_DIGEST_BYTES]

    @cached_property
    def frame_starts(self) -> list[int]:
        """Where each frame begins, in bytes behind the head; one more entry for the end."""
        return list(accumulate(self.columns.frame_lengths, initial=0))

    @property
    def frames_length(self) -> int:
        """The bytes of all frames together, compressed."""
        return self.frame_starts[-1]

    @cached_property
    def content_length(self) -> int:
        """The bytes of all files together."""
        return sum(file.size for file in self.files)


# --- writing -----------------------------------------------------------------------------------


def _column(numbers: Iterable[int]) -> bytes:
    values = array("I", numbers)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def requires_document(
    requirements: Sequence[PluginRequirement], needs: HostNeeds
) -> dict[str, object]:
    """The `requires` table, the same in manifests and catalogues; what is not asked is left out."""
    document: dict[str, object] = {}
    if requirements:
        document["plugins"] = sorted(str(requirement) for requirement in requirements)
    for key, value in (
        ("host", str(needs.host)),
        ("python", str(needs.python)),
        ("memory_bytes", needs.memory_bytes),
        ("disk_bytes", needs.disk_bytes),
    ):
        if value:
            document[key] = value
    return document


def render(manifest: Manifest) -> bytes:
    """The manifest as bytes, the same for equal manifests."""
    release, about = manifest.release, manifest.about
    tags = sorted({file.tag for file in manifest.files if file.tag})
    chunkings = sorted({file.chunking for file in manifest.files})
    groups: dict[str, dict[str, str]] = {}
    for entry in sorted(manifest.entry_points):
        groups.setdefault(entry.group, {})[entry.name] = entry.value
    columns = manifest.columns
    document = {
        "format": FORMAT,
        "plugin": str(release.plugin),
        "version": str(release.version),
        "platform": str(release.platform),
        "about": {
            "summary": about.summary,
            "description": about.description,
            "license": about.license,
            "homepage": about.homepage,
        },
        "requires": requires_document(manifest.requirements, manifest.needs),
        "entry_points": groups,
        "python": {"root": manifest.python.root, "vendored": list(manifest.python.vendored)},
        "chunkings": [list(chunking) for chunking in chunkings],
        "files": {
            "paths": [str(file.path) for file in manifest.files],
            "executable": bytes(file.executable for file in manifest.files),
            "tags": tags,
            "tag": bytes(tags.index(file.tag) + 1 if file.tag else 0 for file in manifest.files),
            "chunkings": bytes(chunkings.index(file.chunking) for file in manifest.files),
            "chunk_counts": _column(file.chunk_count for file in manifest.files),
        },
        "chunks": {
            "digests": columns.digests,
            "lengths": _column(columns.lengths),
            "frames": _column(columns.frames),
            "offsets": _column(columns.offsets),
        },
        "frames": {
            "lengths": _column(columns.frame_lengths),
            "content_lengths": _column(columns.frame_content_lengths),
        },
    }
    packed: bytes = msgpack.packb(document)
    return packed


# --- reading -----------------------------------------------------------------------------------


def parse(data: bytes, where: str = "manifest") -> Manifest:
    """The manifest in `data`; raises InvalidInputError naming `where` and every fault's place.

    Call it only with bytes whose digest is already verified: it bounds what it accepts, but the
    judge of a manifest is the signature above it.
    """
    try:
        value = _unpacked(data)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise InvalidInputError(
            f"{where}: is not msgpack ({error})", where=where, remedy=TELL_PUBLISHER
        ) from error
    document = Document(value)
    document.check_format(FORMAT, where, remedy=TELL_PUBLISHER)
    release = release_of(document)
    about = document.table("about")
    requires = document.table("requires")
    python = document.table("python")
    entry_points = tuple(_entry_points(document.table("entry_points")))
    layout = PythonLayout(
        root="" if python.text("root", "") == "" else str(python.parsed("root", BundlePath.parse)),
        vendored=tuple(python.texts("vendored", [])),
    )
    columns = _columns(document)
    files = _files(document, columns)
    requirements, needs = parse_requires(requires)
    described = About(
        summary=about.text("summary", ""),
        description=about.text("description", "", longest=MAX_DESCRIPTION),
        license=about.text("license", ""),
        homepage=about.text("homepage", ""),
    )
    document.finish(where, remedy=TELL_PUBLISHER)
    assert release is not None  # or finish had raised
    return Manifest(
        release=release,
        about=described,
        requirements=requirements,
        needs=needs,
        entry_points=entry_points,
        python=layout,
        files=files,
        columns=columns,
    )


def _unpacked(data: bytes) -> Any:
    """The value in `data`; raises as msgpack does, also where it holds too many items."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"is larger than {MAX_MANIFEST_BYTES} bytes")
    left = MAX_ITEMS

    def counted(made: Any) -> Any:
        nonlocal left
        left -= 1 + len(made)
        if left < 0:
            raise ValueError(f"holds more than {MAX_ITEMS} items")
        return made

    # Room for a list is taken when its length is read, so never for more than there are bytes.
    most_items = min(MAX_FILES, len(data))
    return msgpack.unpackb(
        data,
        strict_map_key=True,
        object_hook=counted,
        list_hook=counted,
        max_array_len=most_items,
        max_map_len=most_items,
        max_str_len=4 * MAX_DESCRIPTION,
        max_bin_len=MAX_CHUNKS * CHUNK_DIGEST_BYTES,
        max_ext_len=0,
    )


def release_of(document: Document) -> Release | None:
    """The release that `plugin`, `version` and `platform` of a document name; None on a fault."""
    plugin = document.parsed("plugin", PluginName.parse)
    version = document.parsed("version", parse_version)
    platform = document.parsed("platform", Platform.parse, ANY)
    if plugin is None or version is None or platform is None:
        return None
    return Release(plugin, version, platform)


def parse_requires(document: Document) -> tuple[tuple[PluginRequirement, ...], HostNeeds]:
    """The counterpart of `requires_document`."""
    any_version = parse_specifier("")
    return (
        document.parsed_each("plugins", PluginRequirement.parse, []),
        HostNeeds(
            host=document.parsed("host", parse_specifier, any_version) or any_version,
            python=document.parsed("python", parse_specifier, any_version) or any_version,
            memory_bytes=document.integer("memory_bytes", 0),
            disk_bytes=document.integer("disk_bytes", 0),
        ),
    )


def _entry_points(groups: Document) -> Iterator[EntryPoint]:
    for group in groups.names():
        names = groups.table(group)
        for name in names.names():
            entry = names.parsed(name, partial(EntryPoint.parse, group, name))
            if entry is not None:
                yield entry


def _u32(document: Document, key: str) -> array[int]:
    data = document.data(key)
    if len(data) % 4:
        document.fault(key, "is not a column of 32-bit numbers")
        data = b""
    values = array("I")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _columns(document: Document) -> Columns:
    chunks, frames = (
        document.table("chunks", required=True),
        document.table("frames", required=True),
    )
    columns = Columns(
        digests=chunks.data("digests"),
        lengths=_u32(chunks, "lengths"),
        frames=_u32(chunks, "frames"),
        offsets=_u32(chunks, "offsets"),
        frame_lengths=_u32(frames, "lengths"),
        frame_content_lengths=_u32(frames, "content_lengths"),
    )
    count = len(columns.lengths)
    if len(columns.digests) != count * CHUNK_DIGEST_BYTES:
        chunks.fault("digests", f"must be {count} digests of {CHUNK_DIGEST_BYTES} bytes")
    if len(columns.frames) != count or len(columns.offsets) != count:
        chunks.fault("frames", "columns of chunks differ in length")
    if count > MAX_CHUNKS:
        chunks.fault("lengths", f"more than {MAX_CHUNKS} chunks")
    if len(columns.frame_lengths) != len(columns.frame_content_lengths):
        frames.fault("lengths", "columns of frames differ in length")
    for index, size in enumerate(columns.frame_content_lengths):
        if not 0 < size <= MAX_FRAME_BYTES:
            frames.fault(f"content_lengths[{index}]", f"must be from 1 to {MAX_FRAME_BYTES}")
            break
    if document.faults:
        return columns
    sizes = columns.frame_content_lengths
    for index, (length, size) in enumerate(zip(columns.frame_lengths, sizes, strict=True)):
        if not 0 < length <= size + MAX_FRAME_OVERHEAD_BYTES:
            frames.fault(f"lengths[{index}]", f"cannot be the length of a frame of {size} bytes")
            break
    # Without a loop of Python: models have tens of thousands of chunks, and this is on every load.
    if not (
        max(columns.frames, default=-1) < len(sizes)
        and 0 not in columns.lengths
        and all(
            map(
                le,
                map(add, columns.offsets, columns.lengths),
                map(sizes.__getitem__, columns.frames),
            )
        )
    ):
        chunks.fault("lengths", "a chunk does not lie within a frame")
    return columns


def _files(document: Document, columns: Columns) -> tuple[File, ...]:
    table = document.table("files", required=True)
    paths = table.parsed_each("paths", BundlePath.parse)
    executable, tag_column = table.data("executable"), table.data("tag")
    tags, chunking_column = table.texts("tags", []), table.data("chunkings")
    counts = _u32(table, "chunk_counts")
    chunkings = _chunkings(document)
    if document.faults:
        return ()
    if not len(paths) == len(executable) == len(tag_column) == len(chunking_column) == len(counts):
        table.fault("paths", "columns of files differ in length")
    if len(paths) > MAX_FILES:
        table.fault("paths", f"more than {MAX_FILES} files")
    if sum(counts) != len(columns.lengths):
        table.fault("chunk_counts", "do not add up to the number of chunks")
    if tags != sorted(set(filter(None, tags))):
        table.fault("tags", "must be distinct, sorted and not empty")
    if max(tag_column, default=0) > len(tags):
        table.fault("tag", "names a tag that is not there")
    if max(chunking_column, default=-1) >= len(chunkings):
        table.fault("chunkings", "names a chunking that is not there")
    if max(executable, default=0) > 1:
        table.fault("executable", "must be 0 or 1 for each file")
    for index, what in path_collisions(paths):
        table.fault(f"paths[{index}]", what)
    if document.faults:
        return ()
    starts = list(accumulate(counts, initial=0))
    offsets = list(accumulate(columns.lengths, initial=0))
    bounds = [offsets[start] for start in starts]
    tag_names = ["", *tags]
    return tuple(
        map(
            File,
            paths,
            map(sub, bounds[1:], bounds),
            map(bool, executable),
            map(tag_names.__getitem__, tag_column),
            map(chunkings.__getitem__, chunking_column),
            starts,
            counts,
        )
    )


def _chunkings(document: Document) -> list[Chunking]:
    value = document.value.get("chunkings")
    if not isinstance(value, list):
        document.fault("chunkings", "must be a list")
        return []
    found = []
    for index, item in enumerate(value):
        if (
            isinstance(item, list)
            and len(item) == len(Chunking._fields)
            and all(type(number) is int for number in item)
            and 0 < item[0] <= item[1] <= item[2] <= MAX_FRAME_BYTES
        ):
            found.append(Chunking(*item))
        else:
            document.fault(f"chunkings[{index}]", "must be [least, average, most] in bytes")
    return found


def _may_collide(paths: Sequence[BundlePath]) -> bool:
    """Whether two files, two spellings of directories, or one of each, fold to the same name."""
    directories: set[str] = set()
    for path in {path.rpartition("/")[0] for path in paths}:
        parent = path
        while parent and parent not in directories:
            directories.add(parent)
            parent = parent.rpartition("/")[0]
    names = {path.folded() for path in paths}
    names.update(BundlePath(directory).folded() for directory in directories)
    return len(names) != len(paths) + len(directories)


def path_collisions(paths: Sequence[BundlePath]) -> Iterator[tuple[int, str]]:
    """Each (index, what is wrong) where two paths cannot both exist on every file system.

    Two files whose names differ only in case (or Unicode form), or a file where another path
    needs a directory, or two directories that differ only in case.
    """
    if not _may_collide(paths):
        return
    seen: dict[str, str] = {}  # folded path -> how it was spelled; directories end with "/"
    for index, path in enumerate(paths):
        folded = path.folded()
        if (other := seen.get(folded) or seen.get(folded + "/")) is not None:
            yield index, f"{path!r} collides with {other!r}"
            continue
        seen[folded] = path
        end = path.find("/")
        while end != -1:
            directory = path[:end]
            key = BundlePath(directory).folded()
            if key in seen:
                yield index, f"{path!r} needs a directory where {seen[key]!r} is a file"
                break
            if seen.setdefault(key + "/", directory) != directory:
                yield index, f"{path!r} collides with {seen[key + '/']!r}"
                break
            end = path.find("/", end + 1)
