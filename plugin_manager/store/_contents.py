"""What each release on disk holds, so that space can be planned without reading every manifest.

    index/cache.db   diskcache: "<digest of the head>/<tag>" -> BLAKE3 and a record

Derived from the manifests and rebuilt from them: nobody loses anything where it is missing,
damaged or not to be written. The database is untrusted: nothing is ever unpickled from it, no file
that it names is opened or removed, and each record carries its own digest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from blake3 import blake3

from plugin_manager._attrs import frozen
from plugin_manager.durable import is_real_directory, make_real_directories, set_aside
from plugin_manager.errors import CorruptError, InvalidInputError
from plugin_manager.model import Digest, Platform, PluginName, Release, parse_version

if TYPE_CHECKING:
    from plugin_manager.manifest import Manifest

__all__ = ["Contents", "Index", "contents_of"]

_log = logging.getLogger("plugin_manager")

BLOCK_BYTES = 4096  # what file systems allot at a time
_KEY_BYTES = 8
_SEAL_BYTES = 16
_MOST_STEPS = 100  # millions of SQLite's instructions
_BUSY_SECONDS = 1.0


@frozen
class Contents:
    """What a release takes on disk: for each distinct content a key, and its bytes.

    Bytes are whole blocks. Equal files have equal keys and share their blocks between releases;
    the release's directories are one content more.
    """

    release: Release
    keys: array[int]
    sizes: array[int]

    @property
    def total_bytes(self) -> int:
        """The bytes of all files."""
        return sum(self.sizes)


def contents_of(manifest: Manifest, tag: str) -> Contents:
    """The contents of a release as installed for interpreters of `tag`."""
    sizes: dict[int, int] = {}
    copies: Counter[bytes] = Counter()
    files = manifest.files_for(tag)
    for file in files:
        content = manifest.content_key(file) + bytes([file.executable])
        # Equal files of one release do not share: each lies there for itself.
        copies[content] += 1
        sizes[_key(content + copies[content].to_bytes(4))] = blocks(file.size)
    directories = len({parent for file in files for parent in PurePosixPath(file.path).parents})
    sizes[_key(str(manifest.release).encode())] = directories * BLOCK_BYTES
    return Contents(manifest.release, array("Q", sizes), array("Q", sizes.values()))


def _key(content: bytes) -> int:
    return int.from_bytes(blake3(content).digest(_KEY_BYTES))


def blocks(size: int) -> int:
    """The bytes that a file of `size` takes on disk."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


class Index:
    """The index of the store in `directory`, for interpreters of `tag`.

    `contents` says what a release holds where it is not in the index; it raises CorruptError or
    InvalidInputError where that cannot be known.
    """

    def __init__(self, directory: Path, tag: str, contents: Callable[[Digest], Contents]) -> None:
        self._directory = directory / "index"
        self._tag = tag
        self._contents = contents

    def contents(self, digests: Iterable[Digest], *, keep: bool) -> dict[Digest, Contents]:
        """The contents of releases; with `keep`, which writes, the index then holds just these.

        Those whose manifests are missing or damaged are left out.
        """
        keys = {self._key(digest): digest for digest in digests}
        found: dict[Digest, Contents] = {}
        for key, row in _rows(self._directory):
            if key in keys:
                with contextlib.suppress(ValueError, TypeError, InvalidInputError):
                    found[keys[key]] = _parse(row)
        new: dict[Digest, Contents] = {}
        for digest in keys.values():
            if digest not in found:
                with contextlib.suppress(CorruptError, InvalidInputError):
                    new[digest] = self._contents(digest)
        if keep:
            rows = {self._key(digest): _render(one) for digest, one in new.items()}
            _keep(self._directory, rows, set(keys))
        return found | new

    def _key(self, digest: Digest) -> str:
        return f"{digest}/{self._tag}"


def _render(contents: Contents) -> bytes:
    release = contents.release
    import msgpack  # noqa: PLC0415

    data: bytes = msgpack.packb(
        [
            str(release.plugin),
            str(release.version),
            str(release.platform),
            contents.keys.tobytes(),
            contents.sizes.tobytes(),
        ]
    )
    seal: bytes = blake3(data).digest(_SEAL_BYTES)
    return seal + data


def _parse(row: bytes) -> Contents:
    """The counterpart of `_render`; raises ValueError and the like for anything else."""
    seal, data = row[:_SEAL_BYTES], row[_SEAL_BYTES:]
    if blake3(data).digest(_SEAL_BYTES) != seal:
        raise ValueError("damaged")
    import msgpack  # noqa: PLC0415 - only where there are rows

    plugin, version, platform, key_bytes, size_bytes = msgpack.unpackb(data)
    keys, sizes = array("Q", key_bytes), array("Q", size_bytes)
    if len(keys) != len(sizes):
        raise ValueError("columns differ in length")
    release = Release(PluginName.parse(plugin), parse_version(version), Platform.parse(platform))
    return Contents(release, keys, sizes)


def _rows(directory: Path) -> Iterator[tuple[str, bytes]]:
    """All rows, in no order; as many as can be read.

    Read past diskcache, which writes when it opens a database: looking must not write. As it is
    read without a lock, a row may be torn, or miss; then its seal is wrong, or it is made anew.
    """
    path = directory / "cache.db"
    if _is_odd(directory) or not path.exists():
        return
    import sqlite3  # noqa: PLC0415 - loads do without

    address = f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            query = (
                "SELECT key, value FROM Cache WHERE typeof(key) = 'text' AND typeof(value) = 'blob'"
            )
            budget = iter(range(_MOST_STEPS))  # a view in the table's place could go on for ever
            database.set_progress_handler(lambda: next(budget, None) is None, 1_000_000)
            yield from database.execute(query)
    except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
        _log.debug("the index %s is not usable: %r", directory, error)


def _is_odd(directory: Path) -> bool:
    """Whether something in the index is no file: a link would lead elsewhere, a FIFO wait."""
    names = ("", "cache.db", "cache.db-wal", "cache.db-shm", "cache.db-journal")
    for name in names:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            mode = (directory / name).lstat().st_mode
            if not (stat.S_ISREG(mode) if name else stat.S_ISDIR(mode)):
                return True
    return False


def _keep(directory: Path, new: Mapping[str, bytes], keys: Collection[str]) -> None:
    """Add `new` rows and drop those that are not of `keys`; an index that resists is removed."""
    make_real_directories(directory.parent, directory)
    # diskcache expands what looks like a variable or a home, and so would write elsewhere.
    if os.path.expandvars(os.path.expanduser(directory)) != str(directory):  # noqa: PTH111
        return
    known = {key for key, _ in _rows(directory)}
    left = any((directory / f"cache.db-{end}").exists() for end in ("wal", "shm", "journal"))
    if not new and known <= set(keys) and not left:  # SQLite clears up what a kill left
        return
    try:
        _write(directory, new, keys)
    except Exception as error:  # whatever a damaged database leads to
        _log.debug("the index %s is removed: %r", directory, error)
        with contextlib.suppress(OSError):
            for path in directory.glob("cache.db*"):
                set_aside(path) if is_real_directory(path) else path.unlink()


def _write(directory: Path, new: Mapping[str, bytes], keys: Collection[str]) -> None:
    if _is_odd(directory):
        raise OSError("there is a link in the index")
    from diskcache import Cache  # noqa: PLC0415 - 17 ms, and loads do without

    from plugin_manager.store._plain_disk import PlainDisk  # noqa: PLC0415

    with (
        Cache(
            str(directory),
            timeout=_BUSY_SECONDS,
            disk=PlainDisk,
            disk_min_file_size=2**62,  # all in the database, nothing in files of its own
            eviction_policy="none",
            cull_limit=0,
            statistics=0,
        ) as cache,
        cache.transact(),
    ):
        for key, row in new.items():
            cache.set(key, row)
        for key in [key for key in cache if key not in keys]:
            cache.delete(key)
