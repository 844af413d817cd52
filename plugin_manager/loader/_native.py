"""Native code from verified bytes that cannot change between the check and the mapping.

Linux with glibc: the bytes go into a sealed memory file, which `dlopen` maps through its place in
/proc/self/fd. One stays open per library for the life of the process: CPython never unloads a
library, `dlopen` knows libraries by name, and loading again must find the same one. Elsewhere the
bytes go into a copy that only this user can reach, removed when the process ends.

A library finds its siblings (`libopenblas-….so` beside it) by their place, which a memory file does
not have. But glibc takes a library that is already mapped under the wanted name (its DT_SONAME), so
the siblings that the manifest has are mapped first, in the same way.
"""

from __future__ import annotations

import atexit
import os
import posixpath
import re
import shutil
import sys
import tempfile
from functools import cache
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from threading import RLock
from types import ModuleType

from blake3 import blake3

from plugin_manager.loader._tree import Tree

__all__ = ["load_extension"]

# glibc's dl-load.c and dl-deps.c, in ImportError and in ctypes' OSError alike.
_WANTED = re.compile(r"^([^\s/:]+): cannot open shared object file")
_LIBRARY = re.compile(r"\.(so|dylib|dll|pyd)($|\.)")
_MEMORY_NAME_BYTES = 200  # memfd_create(2) allows 249

_LOCK = RLock()


def _renew_lock() -> None:
    global _LOCK  # noqa: PLW0603 - a thread that the child has not may hold the old one
    _LOCK = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def load_extension(tree: Tree, path: str, spec: ModuleSpec) -> ModuleType:
    """The module that the native file `path` makes, its `__file__` as `spec` has it.

    Raises ImportError, CorruptError.
    """
    with _LOCK:
        wanted: set[str] = set()
        while True:
            location = _mappable(tree, path)
            loader = ExtensionFileLoader(spec.name, location)
            try:
                module = loader.create_module(ModuleSpec(spec.name, loader, origin=location))
                break
            except ImportError as error:
                if not _map_sibling(tree, error, wanted):
                    raise
    assert spec.origin is not None
    module.__file__ = spec.origin  # single-phase modules were given the memory file's name
    return module


def _map_sibling(tree: Tree, error: Exception, tried: set[str]) -> bool:
    """Map the library whose lack `error` tells of, if the release has it; whether it was mapped.

    `tried` bounds the attempts: no name is mapped twice for one module.
    """
    match = _WANTED.match(str(error))
    if match is None or match.group(1) in tried or not _can_seal():
        return False
    name = match.group(1)
    tried.add(name)
    sibling = next((path for path in tree.files if posixpath.basename(path) == name), None)
    if sibling is None:
        return False
    from ctypes import CDLL  # noqa: PLC0415 - most plugins have no siblings

    while True:
        try:
            # Not RTLD_GLOBAL: what needs the library has it in its own scope, and another plugin's
            # library with the same symbols must not be taken for it.
            CDLL(_mappable(tree, sibling))
        except OSError as cause:
            if not _map_sibling(tree, cause, tried):
                raise ImportError(f"{name}: {cause}", path=tree.location(sibling)) from cause
        else:
            return True


def _mappable(tree: Tree, path: str) -> str:
    """A place that holds the verified bytes of the library `path`, for good."""
    return _SEALED.location(tree, path) if _can_seal() else _private_copies(tree).location(path)


@cache
def _can_seal() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        # musl looks for siblings by place only, so it needs them side by side.
        if not os.confstr("CS_GNU_LIBC_VERSION"):
            return False
        os.close(os.memfd_create("probe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except (OSError, ValueError):
        return False
    return os.path.exists("/proc/self/fd")  # noqa: PTH110 - a fact about the system, no file


class _SealedFiles:
    """Memory files by content, each written once, sealed and kept open."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, tuple[int, int]]] = {}
        self._numbers: set[int] = set()

    def location(self, tree: Tree, path: str) -> str:
        key = tree.manifest.content_key(tree.files[path])
        number, identity = self._known.get(key, (-1, (0, 0)))
        if number < 0 or _identity(number) != identity:
            # Not made yet, or closed behind our back, as daemons do that close all descriptors.
            number = self._make(tree, path)
            self._known[key] = number, _identity(number)
        return f"/proc/self/fd/{number}"

    def _make(self, tree: Tree, path: str) -> int:
        import fcntl  # noqa: PLC0415 - not on every system

        # The name only shows in /proc/self/maps.
        label = os.fsdecode(posixpath.basename(path).encode()[:_MEMORY_NAME_BYTES])
        number = os.memfd_create(label, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        while number in self._numbers:
            # `dlopen` would take the name of a closed one for the library it once held.
            taken, number = number, fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, number + 1)
            os.close(taken)
        self._numbers.add(number)
        try:
            tree.copy(path, number)
        except BaseException:
            os.close(number)
            raise
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(number, fcntl.F_ADD_SEALS, seals)
        return number


def _identity(number: int) -> tuple[int, int]:
    try:
        status = os.fstat(number)
    except OSError:
        return -1, -1
    return status.st_dev, status.st_ino


class _PrivateCopies:
    """A release's libraries in a directory of their own, laid out as in the release."""

    def __init__(self, tree: Tree, directory: Path) -> None:
        self._directory = directory
        for path in _libraries(tree):
            copy = directory / path
            copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            copy.write_bytes(tree.read(path))
            copy.chmod(0o500)

    def location(self, path: str) -> str:
        return str(self._directory / path)


def _libraries(tree: Tree) -> list[str]:
    return [path for path in tree.files if _LIBRARY.search(path) and tree.is_file(path)]


_SEALED = _SealedFiles()
_COPIES: dict[str, _PrivateCopies] = {}


def _private_copies(tree: Tree) -> _PrivateCopies:
    layout = blake3()
    for path in _libraries(tree):
        layout.update(f"{path}\0".encode() + tree.manifest.content_key(tree.files[path]))
    key = layout.hexdigest()
    if key not in _COPIES:
        _COPIES[key] = _PrivateCopies(tree, _private_directory() / key[:16])
    return _COPIES[key]


@cache
def _private_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="plugin-manager-"))  # made with mode 0700
    atexit.register(_remove, directory, os.getpid())
    return directory


def _remove(directory: Path, owner: int) -> None:
    if os.getpid() == owner:  # a child of a fork ends before its parent has done with them
        shutil.rmtree(directory, ignore_errors=True)
