"""Native code runs from bytes that nobody can change any more."""

import ctypes
import errno
import fcntl
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from plugin_manager.errors import CorruptError
from plugin_manager.loader import _native, load
from tests.loader.releases import make_release

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory files are Linux's")


def library(module: str) -> Path:
    """The shared library of one of Python's own extension modules."""
    origin = getattr(importlib.util.find_spec(module), "origin", None) or ""
    if not origin.endswith((".so", ".pyd")):
        pytest.skip(f"{module} is built into this Python")
    return Path(origin)


@pytest.fixture(params=[True, False], ids=["sealed", "copied"])
def sealed(request, monkeypatch):
    """Both ways of mapping; the second is what other systems than Linux get."""
    if request.param and not _native._can_seal():
        pytest.skip("no memory files here")
    if not request.param:
        monkeypatch.setattr(_native, "_can_seal", lambda: False)
    return request.param


@pytest.mark.parametrize("module", ["_heapq", "_pickle"])  # the second initialises in one phase
def test_extension_modules_run_and_show_their_real_file(loading, sealed, module):
    source = library(module)
    plugin = loading({"demo/__init__.py": "", f"demo/{source.name}": source.read_bytes()})
    extension = plugin.import_module(f"demo.{module}")
    assert extension.__file__ == str(plugin.directory / "demo" / source.name)
    assert extension.__spec__.origin == extension.__file__
    assert extension.__name__ == f"demo.{module}"
    assert extension.heappop([1]) if module == "_heapq" else extension.dumps(1)
    assert extension.__loader__.get_code(extension.__name__) is None
    assert extension.__loader__.get_source(extension.__name__) is None


def test_a_changed_library_is_not_mapped(loading, sealed):
    source = library("_heapq")
    # Other bytes at the end, so that no earlier test has mapped this very library.
    content = source.read_bytes() + os.urandom(16)
    plugin = loading({"demo/__init__.py": "", f"demo/{source.name}": content})
    with (plugin.directory / "demo" / source.name).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!" if content[-1:] != b"!" else b"?")
    with pytest.raises(CorruptError, match="_heapq"):
        plugin.import_module("demo._heapq")


def test_a_broken_library_is_an_import_error(loading, sealed):
    suffix = "".join(library("_heapq").suffixes)
    plugin = loading({"demo/__init__.py": "", f"demo/bad{suffix}": b"no library"})
    with pytest.raises(ImportError, match=r"invalid ELF header|file too short|not a"):
        plugin.import_module("demo.bad")
    assert "demo.bad" not in sys.modules


def test_loading_the_same_library_again_costs_nothing_more(tmp_path, sealed):
    source = library("_heapq")
    release = make_release(tmp_path, {f"demo/{source.name}": source.read_bytes()})

    def cycle() -> int:
        with load(*release) as plugin:
            plugin.import_module("demo._heapq").heapify([])
        return len(list(Path("/dev/fd").iterdir()))

    cycle()
    before = cycle(), len(Path("/proc/self/maps").read_text().splitlines())
    for _ in range(10):
        cycle()
    after = cycle(), len(Path("/proc/self/maps").read_text().splitlines())
    assert after[0] == before[0]
    assert after[1] - before[1] < 8  # a mapped library has at least four parts


@linux
def test_sealed_bytes_cannot_be_changed(loading):
    if not _native._can_seal():
        pytest.skip("no memory files here")
    source = library("_heapq")
    plugin = loading({f"demo/{source.name}": source.read_bytes()})
    plugin.import_module("demo._heapq")
    location = _native._SEALED.location(plugin._source.tree, f"demo/{source.name}")
    descriptor = os.open(location, os.O_RDWR | os.O_CLOEXEC)
    try:
        for attack in (
            lambda: os.pwrite(descriptor, b"evil", 0),
            lambda: os.ftruncate(descriptor, 10),
            lambda: os.ftruncate(descriptor, 10_000_000),
            lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0),
        ):
            with pytest.raises(OSError) as caught:
                attack()
            assert caught.value.errno == errno.EPERM
        assert os.pread(descriptor, 1 << 24, 0) == source.read_bytes()
        assert not os.get_inheritable(int(Path(location).name))
    finally:
        os.close(descriptor)


@linux
def test_control_a_memory_file_without_seals_can_be():
    descriptor = os.memfd_create("control", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, b"good")
    assert os.pwrite(descriptor, b"evil", 0) == 4
    os.close(descriptor)


@linux
def test_descriptors_closed_by_a_daemon_are_made_anew(loading):
    if not _native._can_seal():
        pytest.skip("no memory files here")
    source = library("_heapq")
    content = source.read_bytes() + os.urandom(16)
    tree = loading({f"demo/{source.name}": content})._source.tree
    first = _native._SEALED.location(tree, f"demo/{source.name}")
    os.close(int(Path(first).name))
    second = _native._SEALED.location(tree, f"demo/{source.name}")
    # `dlopen` would take the old name for the old library, so a name never comes twice.
    assert second != first
    assert Path(second).read_bytes() == content
    assert _native._SEALED.location(tree, f"demo/{source.name}") == second


def test_copies_are_private_and_verified(loading, monkeypatch):
    monkeypatch.setattr(_native, "_can_seal", lambda: False)
    source = library("_heapq")
    plugin = loading({f"demo/{source.name}": source.read_bytes(), "demo/data.txt": "x"})
    plugin.import_module("demo._heapq")
    copy = Path(_native._mappable(plugin._source.tree, f"demo/{source.name}"))
    assert copy.read_bytes() == source.read_bytes()
    top = _native._private_directory()
    assert copy.is_relative_to(top)
    assert top.stat().st_mode & 0o777 == 0o700
    assert not list(top.rglob("data.txt"))


def test_no_error_about_other_things_is_taken_for_a_missing_sibling(loading):
    plugin = loading({"demo/libx.so": b""})
    tree = plugin._source.tree
    for message in ("undefined symbol: libx.so", "../libx.so: cannot open shared object file", ""):
        assert not _native._map_sibling(tree, ImportError(message), set())
    tried = {"libx.so"}
    error = ImportError("libx.so: cannot open shared object file: No such file or directory")
    assert not _native._map_sibling(tree, error, tried)


@linux
def test_the_message_that_siblings_are_found_by_is_this_systems():
    if not _native._can_seal():
        pytest.skip("not glibc")
    with pytest.raises(OSError) as caught:
        ctypes.CDLL("libthat-is-not-there.so.1")
    match = _native._WANTED.match(str(caught.value))
    assert match
    assert match.group(1) == "libthat-is-not-there.so.1"
