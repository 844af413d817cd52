"""Reading a release's files so that what is handed out is what was signed, and naming what is not.

Every reader hashes the bytes it read, not the file it could read again: between the two lies the
gap that attackers and bad disks use.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from attrs import frozen
from blake3 import blake3

from plugin_manager.errors import CorruptError
from plugin_manager.manifest import Chunk, File, Manifest

__all__ = ["Damage", "Fault", "damaged_chunks", "foreign_files", "read_verified", "release_faults"]

_READ_BYTES = 4 * 1024 * 1024


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
    path = directory / file.path
    try:
        with _open(path) as descriptor:
            if os.fstat(descriptor).st_size != file.size:
                raise _corrupt(manifest, file, Damage.DAMAGED)
            data = _read_exactly(descriptor, file.size)
    except OSError as error:
        damage = Damage.MISSING if isinstance(error, FileNotFoundError) else Damage.DAMAGED
        raise _corrupt(manifest, file, damage) from error
    view = memoryview(data)
    for chunk in manifest.chunks(file):
        if blake3(view[chunk.offset : chunk.offset + chunk.length]).digest() != chunk.digest:
            raise _corrupt(manifest, file, Damage.DAMAGED)
    return data


def _corrupt(manifest: Manifest, file: File, damage: Damage) -> CorruptError:
    return CorruptError(
        f"{manifest.release}: {file.path} is {damage}",
        paths=(file.path,),
        plugin=str(manifest.release.plugin),
        remedy=f"Run 'pluginctl repair {manifest.release.plugin}'.",
    )


class _open:  # noqa: N801 - used as the function `open` is
    """A descriptor of a regular file, never through a symbolic link in its last part."""

    def __init__(self, path: Path) -> None:
        # O_NONBLOCK: a FIFO in the file's place must not hang the opening.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self.descriptor = os.open(path, flags)

    def __enter__(self) -> int:
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            os.close(self.descriptor)
            raise OSError("not a regular file")
        return self.descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def _read_exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(descriptor, size)
        if not part:
            break  # shortened meanwhile: the chunks' digests will say so
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def damaged_chunks(path: Path, manifest: Manifest, file: File) -> Iterator[Chunk]:
    """The chunks of `file` that the file at `path` does not hold in their places.

    Bounded memory: reads at most a few MiB at a time. A missing or odd file lacks all its chunks.
    """
    chunks = manifest.chunks(file)
    try:
        with _open(path) as descriptor:
            buffer = bytearray(max((chunk.length for chunk in chunks), default=0))
            for chunk in chunks:
                view = memoryview(buffer)[: chunk.length]
                count = os.preadv(descriptor, [view], chunk.offset)
                if count != chunk.length or blake3(view).digest() != chunk.digest:
                    yield chunk
    except OSError:
        yield from chunks


def _file_fault(directory: Path, manifest: Manifest, file: File) -> Fault | None:
    path = directory / file.path
    try:
        status = path.lstat()
    except FileNotFoundError:
        return Fault(file.path, Damage.MISSING)
    except OSError:
        return Fault(file.path, Damage.DAMAGED)
    good = stat.S_ISREG(status.st_mode) and status.st_size == file.size
    if good and bool(status.st_mode & 0o100) == file.executable:
        damaged = next(damaged_chunks(path, manifest, file), None)
        if damaged is None:
            return None
    return Fault(file.path, Damage.DAMAGED)


def release_faults(
    directory: Path,
    manifest: Manifest,
    files: Iterable[File],
    *,
    hashed: Callable[[int], None] = lambda _: None,
) -> list[Fault]:
    """Which of `files` are missing or damaged below `directory`; `hashed(size)` after each file.

    Files that carry a tag may be absent: they only speed things up.
    """
    faults = []
    for file in files:
        fault = _file_fault(directory, manifest, file)
        if fault and not (file.tag and fault.damage is Damage.MISSING):
            faults.append(fault)
        hashed(file.size)
    return faults


def foreign_files(directory: Path, manifest: Manifest) -> list[Fault]:
    """What lies below `directory` without being in the manifest; never followed through links."""
    known = manifest.by_path
    directories = {""}
    for path in known:
        while (end := path.rfind("/")) != -1:
            path = path[:end]  # noqa: PLW2901 - walks up from the file to the top
            directories.add(path)
    faults = []
    for parent, names, files in os.walk(directory):
        relative = os.path.relpath(parent, directory).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        for name in list(names):
            if prefix + name not in directories or (Path(parent) / name).is_symlink():
                names.remove(name)
                faults.append(Fault(prefix + name, Damage.FOREIGN))
        faults += [Fault(prefix + n, Damage.FOREIGN) for n in files if prefix + n not in known]
    return sorted(faults, key=lambda fault: fault.path)
