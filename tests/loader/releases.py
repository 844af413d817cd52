"""Releases on disk with manifests made by hand: fixed-size chunks, no publisher, no signatures."""

from __future__ import annotations

import importlib.util
import marshal
import re
import zipfile
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

from blake3 import blake3

from plugin_manager.loader._tree import BYTECODE_TAG
from plugin_manager.manifest import About, Chunking, Columns, File, Manifest, PythonLayout
from plugin_manager.model import (
    BundlePath,
    EntryPoint,
    HostNeeds,
    PluginName,
    Release,
    parse_version,
)

CHUNK_BYTES = 64 * 1024


def make_release(
    directory: Path,
    files: Mapping[str, str | bytes],
    *,
    name: str = "acme/demo 1.0",
    root: str = "",
    vendored: Sequence[str] = (),
    entry_points: Sequence[tuple[str, str, str]] = (),
    tags: Mapping[str, str] | None = None,
) -> tuple[Manifest, Path]:
    """Write `files` into `directory` and describe them: what `load` takes.

    `tags` gives files their tag. Files of `directory` that are not among `files` stay unknown.
    """
    for path, content in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
    return describe(
        directory, list(files), name=name, root=root, vendored=vendored,
        entry_points=entry_points, tags=tags or {},
    )  # fmt: skip


def describe(
    directory: Path,
    paths: Sequence[str],
    *,
    name: str = "acme/demo 1.0",
    root: str = "",
    vendored: Sequence[str] = (),
    entry_points: Sequence[tuple[str, str, str]] = (),
    tags: Mapping[str, str] | None = None,
) -> tuple[Manifest, Path]:
    """The manifest of the files `paths` as they lie in `directory`, and the directory."""
    files, lengths, digests = [], array("I"), []
    for path in paths:
        content = (directory / path).read_bytes()
        first = len(lengths)
        for start in range(0, len(content), CHUNK_BYTES):
            chunk = content[start : start + CHUNK_BYTES]
            lengths.append(len(chunk))
            digests.append(blake3(chunk).digest())
        files.append(
            File(
                path=BundlePath.parse(path),
                size=len(content),
                executable=bool((directory / path).stat().st_mode & 0o100),
                tag=(tags or {}).get(path, ""),
                chunking=Chunking(CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES),
                first_chunk=first,
                chunk_count=len(lengths) - first,
            )
        )
    plugin, version = name.split()
    columns = Columns(
        digests=b"".join(digests),
        lengths=lengths,
        frames=array("I", range(len(lengths))),  # one chunk a frame, stored
        offsets=array("I", bytes(4 * len(lengths))),
        frame_lengths=lengths,
        frame_content_lengths=lengths,
    )
    manifest = Manifest(
        release=Release(PluginName.parse(plugin), parse_version(version)),
        about=About(summary="A release made by hand"),
        requirements=(),
        needs=HostNeeds(),
        entry_points=tuple(EntryPoint.parse(*entry) for entry in entry_points),
        python=PythonLayout(root=root, vendored=tuple(vendored)),
        files=tuple(files),
        columns=columns,
    )
    return manifest, directory


def bytecode(source: str, path: str) -> tuple[str, bytes]:
    """The path and the bytes of the unchecked bytecode file of `source` at `path` (PEP 552)."""
    code = compile(source, path, "exec", dont_inherit=True)
    cached = importlib.util.cache_from_source(path)
    header = importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + importlib.util.source_hash(source.encode())
    return cached, header + marshal.dumps(code)


def with_bytecode(sources: Mapping[str, str]) -> tuple[dict[str, str | bytes], dict[str, str]]:
    """`sources` with the bytecode of each, and the tags of the bytecode files."""
    files: dict[str, str | bytes] = dict(sources)
    made = dict(bytecode(source, path) for path, source in sources.items())
    return {**files, **made}, dict.fromkeys(made, BYTECODE_TAG)


def unpack(wheel_directory: Path, directory: Path) -> list[str]:
    """Unpack all wheels of `wheel_directory` side by side; returns the names of distributions."""
    names = []
    for wheel in sorted(wheel_directory.glob("*.whl")):
        names.append(re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower())
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory)
    return names


def paths_of(directory: Path) -> list[str]:
    """The bundle paths of all files in `directory`."""
    return sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())
