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
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgpack
from attrs import frozen
from blake3 import blake3

from plugin_manager.durable import make_real_directories, set_aside
from plugin_manager.errors import CorruptError, InvalidInputError
from plugin_manager.manifest import Manifest
from plugin_manager.model import Digest, Platform, PluginName, Release, parse_version

if TYPE_CHECKING:
    from diskcache import Cache

__all__ = ["Contents", "Index", "contents_of"]

_log = logging.getLogger("plugin_manager")

BLOCK_BYTES = 4096  # what file systems allot at a time
_KEY_BYTES = 8
_SEAL_BYTES = 16
_BUSY_SECONDS = 1.0


@frozen
class Contents:
    """What a release takes on disk: for each distinct file a key, and its bytes.

    Bytes are whole blocks. Equal files have equal keys and share their blocks between releases.
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
    for file in manifest.files_for(tag):
        key = blake3(manifest.content_key(file) + bytes([file.executable]))
        size = -(-file.size // BLOCK_BYTES) * BLOCK_BYTES
        sizes[int.from_bytes(key.digest(_KEY_BYTES))] = size
    return Contents(manifest.release, array("Q", sizes), array("Q", sizes.values()))


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
        wanted = list(digests)
        found: dict[Digest, Contents] = {}
        with _Rows(self._directory, writing=keep) as rows:
            for digest in wanted:
                if data := rows.get(self._key(digest)):
                    with contextlib.suppress(ValueError, TypeError, InvalidInputError):
                        found[digest] = _parse(data)
            new = {}
            for digest in wanted:
                if digest not in found:
                    with contextlib.suppress(CorruptError, InvalidInputError):
                        new[digest] = self._contents(digest)
            if keep:
                rows.add({self._key(digest): _render(one) for digest, one in new.items()})
                rows.drop_others({self._key(digest) for digest in wanted})
        return found | new

    def _key(self, digest: Digest) -> str:
        return f"{digest}/{self._tag}"


def _render(contents: Contents) -> bytes:
    release = contents.release
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
    plugin, version, platform, key_bytes, size_bytes = msgpack.unpackb(data)
    keys, sizes = array("Q", key_bytes), array("Q", size_bytes)
    if len(keys) != len(sizes):
        raise ValueError("columns differ in length")
    release = Release(PluginName.parse(plugin), parse_version(version), Platform.parse(platform))
    return Contents(release, keys, sizes)


class _Rows:
    """The rows of the database: as if empty wherever it cannot be opened, read or written."""

    def __init__(self, directory: Path, *, writing: bool) -> None:
        self._directory = directory
        self._writing = writing
        self._cache: Cache | None = None

    def __enter__(self) -> Self:
        try:
            self._cache = self._open()
        except Exception as error:  # whatever a damaged database leads to
            self._give_up(error)
        return self

    def _open(self) -> Cache | None:
        directory = self._directory
        if self._writing:
            make_real_directories(directory.parent, directory)
        elif not (directory / "cache.db").exists():
            return None
        # Links would lead SQLite to other files; diskcache expands what looks like a variable.
        for name in ("", "cache.db", "cache.db-wal", "cache.db-shm", "cache.db-journal"):
            if (directory / name).is_symlink():
                raise OSError(f"{directory / name} is a link")
        if os.path.expandvars(os.path.expanduser(directory)) != str(directory):  # noqa: PTH111
            return None
        from diskcache import Cache  # noqa: PLC0415 - 17 ms, and loads do without

        from plugin_manager.store._plain_disk import PlainDisk  # noqa: PLC0415

        return Cache(
            str(directory),
            timeout=_BUSY_SECONDS,
            disk=PlainDisk,
            disk_min_file_size=2**62,  # all in the database, nothing in files of its own
            eviction_policy="none",
            cull_limit=0,
            statistics=0,
        )

    def get(self, key: str) -> bytes | None:
        row = self._try(lambda cache: cache.get(key))
        return row if isinstance(row, bytes) else None

    def add(self, rows: dict[str, bytes]) -> None:
        def add(cache: Cache) -> None:
            with cache.transact():
                for key, data in rows.items():
                    cache.set(key, data)

        if rows:
            self._try(add)

    def drop_others(self, keys: set[str]) -> None:
        def drop(cache: Cache) -> None:
            for key in [key for key in cache if key not in keys]:
                cache.delete(key)

        self._try(drop)

    def _try(self, action: Callable[[Cache], Any]) -> Any:
        if self._cache is None:
            return None
        try:
            return action(self._cache)
        except Exception as error:
            self._give_up(error)
            return None

    def _give_up(self, error: Exception) -> None:
        """Go on without the index; the writer removes it, to be made anew the next time."""
        _log.debug("the index %s is not usable: %r", self._directory, error)
        self.__exit__()
        if self._writing:
            with contextlib.suppress(OSError):
                for path in self._directory.glob("cache.db*"):
                    set_aside(path) if path.is_dir() else path.unlink()

    def __exit__(self, *_: object) -> None:
        cache, self._cache = self._cache, None
        if cache is not None:
            with contextlib.suppress(Exception):
                cache.close()
