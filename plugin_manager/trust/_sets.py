"""The local metadata on disk: a sequence of immutable sets, and one small file naming the current.

    current             "7 <sha256 of sets/7/SHA256SUMS>"
    sets/7/SHA256SUMS   "<sha256>  <name>" a line, as sha256sum writes them
    sets/7/<name>       root_history/N.root.json, timestamp.json, snapshot.json, targets.json,
                        publisher-P.json, catalogues/P/NAME.json, indexes/P.json

A set is written whole and made durable before `current` is replaced by one rename; so a reader,
who takes no lock, and a crash at any instant see the old set or the new one, never a mixture. The
digests find flipped bits, not forgers, who can write digests too: those meet the signatures.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from plugin_manager._attrs import frozen
from plugin_manager.durable import (
    is_real_directory,
    make_directories,
    set_aside,
    sync_directory,
)
from plugin_manager.errors import CorruptError, NotFoundError
from plugin_manager.trust._values import most_bytes

__all__ = ["SetGoneError", "Sets", "StoredSet", "own_directory", "remove_directory"]

CURRENT = "current"
LISTING = "SHA256SUMS"
MAX_LISTING_BYTES = 64 * 1024 * 1024

_POINTER = re.compile(rb"([1-9][0-9]{0,17}) ([0-9a-f]{64})\n")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_COUNTED_NUMBERS = 10**17  # numbers from here on were planted: what follows must fit in `current`
_PART = r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?"
_LINE = re.compile(
    rf"([0-9a-f]{{64}})  (timestamp\.json|snapshot\.json|targets\.json"
    rf"|root_history/[1-9][0-9]{{0,8}}\.root\.json|publisher-{_PART}\.json"
    rf"|catalogues/{_PART}/{_PART}\.json|indexes/{_PART}\.json)",
    re.ASCII,
)
_REMEDY = "Run 'pluginctl update'."


class SetGoneError(Exception):
    """A file vanished because an update has replaced the set meanwhile: read the new one."""


def _corrupt(path: Path, what: str) -> CorruptError:
    return CorruptError(f"{path} {what}", paths=(str(path),), remedy=_REMEDY)


def own_directory(path: Path) -> None:
    """Make `path` a directory itself, durably; a link or a file in its place is set aside.

    Before anything is written or deleted there: a link would lead it to somebody else's files.
    """
    if os.path.lexists(path) and not is_real_directory(path):
        set_aside(path)
    make_directories(path)


def remove_directory(path: Path) -> None:
    """Remove `path` with what it holds, as far as can be; what is no directory is set aside."""
    if is_real_directory(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        set_aside(path)


def _read(path: Path, most: int) -> bytes:
    """At most `most` bytes of a regular file; raises FileNotFoundError, CorruptError."""
    # Neither a link that leads elsewhere nor a pipe that never ends, where the system can tell.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENOTDIR}:
            raise  # the disk's doing
        raise _corrupt(path, f"cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _corrupt(path, "is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise _corrupt(path, f"is larger than {most} bytes")
    return data


@frozen(eq=False)
class StoredSet:
    """One set as its listing records it; its files are read, and checked, when asked for."""

    pointer: bytes
    directory: Path
    digests: Mapping[str, str]

    @property
    def place(self) -> str:
        """What goes before a file's name to say where it is."""
        return f"{self.directory}{os.sep}"

    def read(self, name: str) -> bytes:
        """The bytes of file `name`, which is in `digests`, exactly as they were written.

        Raises CorruptError naming the file, SetGoneError where the set was replaced meanwhile.
        """
        path = self.directory / name
        try:
            data = _read(path, most_bytes(name))
        except FileNotFoundError:
            if _read_pointer(self.directory.parent.parent) != self.pointer:
                raise SetGoneError from None
            raise _corrupt(path, "is missing") from None
        if hashlib.sha256(data).hexdigest() != self.digests[name]:
            raise _corrupt(path, "is damaged")
        return data

    def intact(self) -> dict[str, bytes]:
        """The files that are as they were written."""
        files = {}
        for name in self.digests:
            with contextlib.suppress(CorruptError, SetGoneError):
                files[name] = self.read(name)
        return files


def _read_pointer(directory: Path) -> bytes:
    try:
        return _read(directory / CURRENT, 256) or b"\n"  # empty is damaged, not new
    except FileNotFoundError:
        return b""


def _read_listing(directory: Path, pointer: bytes, digest: str | None) -> StoredSet:
    path = directory / LISTING
    listing = _read(path, MAX_LISTING_BYTES)
    if digest is not None and hashlib.sha256(listing).hexdigest() != digest:
        raise _corrupt(path, f"is not the listing that {CURRENT!r} names: one of them is damaged")
    matches = [_LINE.fullmatch(line) for line in listing.decode("ascii", "replace").splitlines()]
    digests = {match[2]: match[1] for match in matches if match}
    if len(digests) != len(matches):
        raise _corrupt(path, "is not a listing of metadata")
    return StoredSet(pointer, directory, digests)


class Sets:
    """The sets below `directory`. Reading takes no lock; `commit` is for one writer at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._sets = directory / "sets"

    def pointer(self) -> bytes:
        """What names the current set: equal bytes, equal content. Empty where there is none."""
        return _read_pointer(self.directory)

    def current(self) -> StoredSet:
        """The current set; raises NotFoundError where there is none, CorruptError."""
        while True:
            pointer = self.pointer()
            if not pointer:
                raise NotFoundError(
                    "no metadata of the repository is stored here yet",
                    directory=str(self.directory),
                    remedy=_REMEDY,
                )
            match = _POINTER.fullmatch(pointer)
            if not match:
                raise _corrupt(self.directory / CURRENT, "does not name a set of metadata")
            number, digest = match[1].decode(), match[2].decode()
            try:
                return _read_listing(self._sets / number, pointer, digest)
            except FileNotFoundError:
                # Either an update replaced the set between the two reads, or it is lost.
                if self.pointer() == pointer:
                    raise _corrupt(self._sets / number / LISTING, "is missing") from None

    def salvage(self) -> dict[str, bytes]:
        """The files to start an update from: the current set, or what is left of all sets.

        Older files are better than none: the client protects against rollback by what it has.
        """
        with contextlib.suppress(NotFoundError, CorruptError):
            current = self.current()
            files = current.intact()
            if len(files) == len(current.digests):
                return files
        files = {}
        for number in self._numbers():
            with contextlib.suppress(FileNotFoundError, CorruptError):
                files.update(_read_listing(self._sets / str(number), b"", None).intact())
        return files

    def _numbers(self) -> list[int]:
        if not self._sets.is_dir():
            return []
        names = (path.name for path in self._sets.iterdir())
        return sorted(int(name) for name in names if _NUMBER.fullmatch(name))

    def commit(self, files: Mapping[str, bytes]) -> None:
        """Make `files` the current set, all of it or nothing; writes nothing where it is already.

        The set before stays for readers that still hold it, older ones go.
        """
        own_directory(self.directory)
        own_directory(self._sets)
        before = ""
        with contextlib.suppress(NotFoundError, CorruptError):
            current = self.current()
            if current.intact() == files:
                self.collect()
                return
            before = current.directory.name
        numbers = self._numbers()
        last = max((n for n in numbers if n < _COUNTED_NUMBERS), default=0)
        if before:
            # `current` never named what lies behind it: interrupted updates left that. It goes
            # before there is a newer set, for which it would be taken for the one before.
            self._remove_all_but({str(n) for n in numbers if n <= int(before)})
        directory = next(
            path
            for number in itertools.count(last + 1)
            if not os.path.lexists(path := self._sets / str(number))
        )
        listing = "".join(
            f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())
        ).encode()
        _write_all(directory, {**files, LISTING: listing})
        sync_directory(self._sets)
        self._switch(f"{directory.name} {hashlib.sha256(listing).hexdigest()}\n".encode())
        self._remove_all_but({before, directory.name})

    def _switch(self, pointer: bytes) -> None:
        current, temporary = self.directory / CURRENT, self.directory / f"{CURRENT}.new"
        for path in (current, temporary):
            if is_real_directory(path):
                set_aside(path)
        temporary.unlink(missing_ok=True)
        _write(temporary, pointer)
        temporary.replace(current)
        sync_directory(self.directory)

    def garbage(self) -> list[Path]:
        """What interrupted updates left: sets that are neither the current one nor that before.

        Nothing where the current set is damaged.
        """
        try:
            current = int(self.current().directory.name)
        except (NotFoundError, CorruptError):
            return []
        whole = (n for n in self._numbers() if (self._sets / str(n) / LISTING).exists())
        kept = {current, max((number for number in whole if number < current), default=0)}
        found = [self._sets / str(number) for number in self._numbers() if number not in kept]
        temporary = self.directory / f"{CURRENT}.new"
        ours = temporary.is_file() and not temporary.is_symlink()
        return [*found, *([temporary] if ours else [])]

    def collect(self) -> None:
        """Remove what `garbage` lists, for the one writer."""
        for path in self.garbage():
            if path.is_file() and not path.is_symlink():
                path.unlink()
            else:
                remove_directory(path)

    def _remove_all_but(self, kept: set[str]) -> None:
        for path in list(self._sets.iterdir()):
            if path.name not in kept and _NUMBER.fullmatch(path.name):
                remove_directory(path)


def _write_all(directory: Path, files: Mapping[str, bytes]) -> None:
    parents = {directory}
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, data)
        while path.parent not in parents:
            path = path.parent
            parents.add(path)
    for parent in parents:
        sync_directory(parent)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
