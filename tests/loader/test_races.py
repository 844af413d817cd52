"""A process that swaps what lies on the disk, as fast as it can, while a release is in use.

Whenever the swap happens: what was signed is used, or nothing. Beside each race stands a control,
a loader that checks first and reads then, which the very same racer beats.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader, ModuleSpec, SourceFileLoader
from pathlib import Path

import pytest

from plugin_manager.errors import CorruptError
from plugin_manager.loader import LoadedPlugin, load
from tests.loader.releases import bytecode, make_release, with_bytecode
from tests.loader.test_native import library

GOOD = "kind = 'good'\n"
EVIL = "kind = 'evil'\n"  # of the same length: nothing but the content tells them apart
ROUNDS = 200

# replace: another file in the place. rewrite: other bytes in the same file, so that a reader may
# meet some of both. link: a link to another file. directory: a link to another directory.
_RACER = """
import os, sys
way, path, good, evil, beside = sys.argv[1:]

def replace(source):
    os.link(source, beside)
    os.rename(beside, path)

def rewrite(data):
    os.pwrite(descriptor, data, 0)

def link(target):
    os.symlink(target, beside)
    os.rename(beside, path)

if way == "rewrite":
    descriptor = os.open(path, os.O_WRONLY)
    contents = [open(source, "rb").read() for source in (evil, good)]
print("ready", flush=True)
while True:
    if way == "replace":
        replace(evil); replace(good)
    elif way == "rewrite":
        rewrite(contents[0]); rewrite(contents[1])
    elif way == "link":
        link(evil); replace(good)
    else:
        os.rename(path, beside); os.symlink(evil, path)
        os.unlink(path); os.rename(beside, path)
"""
FILE_WAYS = ["replace", "rewrite", "link"]


@contextmanager
def racing(way: str, path: Path, evil: bytes | Path) -> Iterator[None]:
    """A process that changes `path` to `evil` and back; afterwards it is as it was."""
    work = path.parent.parent / f"racer-{path.name}"
    work.mkdir()
    good = work / "good"
    if isinstance(evil, bytes):
        good.write_bytes(path.read_bytes())
        (work / "evil").write_bytes(evil)
        evil = work / "evil"
        assert good.stat().st_size == evil.stat().st_size
    command = [sys.executable, "-I", "-S", "-c", _RACER, way, path, good, evil, work / "beside"]
    racer = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE)
    try:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"ready\n"
        yield
    finally:
        racer.kill()
        racer.communicate()
        if way == "directory":
            if path.is_symlink():
                path.unlink()
            if (work / "beside").exists():
                (work / "beside").rename(path)
        else:
            path.unlink(missing_ok=True)
            shutil.copyfile(good, path)
        shutil.rmtree(work)


def outcomes(attempt: Callable[[], object], rounds: int = ROUNDS) -> set[object]:
    """What `attempt` gave in many rounds, "refused" where it raised CorruptError.

    Goes on until both good and refused came up: before that the two did not really race.
    """
    seen: set[object] = set()
    count = 0
    while count < rounds or not {"good", "refused"} <= seen:
        count += 1
        try:
            seen.add(attempt())
        except CorruptError:
            seen.add("refused")
    return seen


def until_evil(attempt: Callable[[], object]) -> None:
    """Try until an evil one comes up, in a control."""
    while attempt() != "evil":
        pass


# --- modules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["all", "on-read"])
@pytest.mark.parametrize("with_pyc", [False, True], ids=["source", "bytecode"])
@pytest.mark.parametrize("way", FILE_WAYS)
def test_no_unsigned_module_runs(tmp_path, way, with_pyc, verify):
    files, tags = (
        with_bytecode({"demo/part.py": GOOD}) if with_pyc else ({"demo/part.py": GOOD}, {})
    )
    release = make_release(tmp_path / "release", {"demo/__init__.py": "", **files}, tags=tags)
    path = list(files)[-1]
    evil = bytecode(EVIL, "demo/part.py")[1] if with_pyc else EVIL.encode()

    def attempt() -> str:
        with load(*release, verify=verify) as plugin:
            return plugin.import_module("demo.part").kind

    with racing(way, tmp_path / "release" / path, evil):
        assert outcomes(attempt) == {"good", "refused"}
    with load(*release) as plugin:
        assert plugin.import_module("demo.part").kind == "good"


@pytest.mark.parametrize("way", FILE_WAYS)
def test_control_a_loader_that_checks_first_runs_an_unsigned_module(tmp_path, way):
    path = tmp_path / "release" / "demo.py"
    path.parent.mkdir()
    path.write_text(GOOD)

    def attempt() -> str:
        if path.read_text() != GOOD:
            return "refused"
        loader = SourceFileLoader("demo_naive", str(path))
        code = loader.source_to_code(loader.get_data(str(path)), str(path))
        names: dict[str, str] = {}
        try:
            exec(code, names)
        except (SyntaxError, NameError):  # of a half-written one
            return "evil"
        return names["kind"]

    with racing(way, path, EVIL.encode()):
        until_evil(attempt)


@pytest.mark.parametrize("verify", ["all", "on-read"])
@pytest.mark.parametrize("swapped", ["release", "release/demo"])
def test_no_module_of_a_directory_that_is_swapped_in_runs(tmp_path, swapped, verify):
    files = {"demo/__init__.py": "", "demo/part.py": GOOD, "demo/data.txt": "good"}
    release = make_release(tmp_path / "place" / "release", files)
    make_release(tmp_path / "evil" / "release", {**files, "demo/part.py": EVIL})
    (tmp_path / "evil/release/demo/data.txt").write_text("evil")

    def attempt() -> str:
        with load(*release, verify=verify) as plugin:
            found = plugin.read("demo/data.txt").decode()
            return found if found != "good" else plugin.import_module("demo.part").kind

    with racing("directory", tmp_path / "place" / swapped, tmp_path / "evil" / swapped):
        assert outcomes(attempt) == {"good", "refused"}


def test_control_in_a_directory_that_is_swapped_plain_reading_meets_the_evil(tmp_path):
    for place, text in (("place/release", GOOD), ("evil/release", EVIL)):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "demo.py").write_text(text)
    path = tmp_path / "place/release/demo.py"

    def attempt() -> str:
        try:
            return "evil" if path.read_text() == GOOD and path.read_text() == EVIL else "good"
        except OSError:
            return "refused"

    with racing("directory", path.parent, tmp_path / "evil/release"):
        until_evil(attempt)


# --- native libraries ---------------------------------------------------------------------------


def libraries(nonce: bytes) -> tuple[str, bytes, bytes]:
    """The name of a real extension module, it and one that says something else."""
    source = library("_heapq")
    content = source.read_bytes() + nonce  # so that no earlier round has mapped this very one
    assert content.count(b"Heap queues\n") == 1
    return source.name, content, content.replace(b"Heap queues\n", b"Evil queues\n")


def said(module: object) -> str:
    return "good" if module.__about__.startswith("Heap queues") else "evil"  # type: ignore[attr-defined]


@pytest.mark.parametrize("verify", ["all", "on-read"])
@pytest.mark.parametrize("way", FILE_WAYS)
def test_no_unsigned_library_is_mapped(tmp_path, way, verify):
    number = iter(range(1_000_000))

    def attempt() -> str:
        place = tmp_path / str(next(number)) / "release"
        name, good, evil = libraries(os.urandom(16))
        release = make_release(place, {"demo/__init__.py": "", f"demo/{name}": good})
        with racing(way, place / "demo" / name, evil), load(*release, verify=verify) as plugin:
            return said(plugin.import_module("demo._heapq"))

    assert outcomes(attempt, rounds=15) == {"good", "refused"}


@pytest.mark.parametrize("way", ["replace", "link"])  # rewriting what is mapped ends the process
def test_control_a_loader_that_checks_first_maps_an_unsigned_library(tmp_path, way):
    number = iter(range(1_000_000))

    def attempt() -> str:
        place = tmp_path / str(next(number)) / "release"
        place.mkdir(parents=True)
        name, good, evil = libraries(os.urandom(16))
        path = place / name
        path.write_bytes(good)
        with racing(way, path, evil):
            while hashlib.sha256(path.read_bytes()).digest() != hashlib.sha256(good).digest():
                pass
            loader = ExtensionFileLoader("_heapq", str(path))
            module = loader.create_module(ModuleSpec("_heapq", loader, origin=str(path)))
            loader.exec_module(module)
            return said(module)

    until_evil(attempt)


# --- data ---------------------------------------------------------------------------------------

SIZE = 300_000  # a few chunks


def _by_stream(plugin: LoadedPlugin) -> bytes:
    with plugin.open("demo/data.bin") as stream:
        return b"".join(iter(lambda: stream.read(10_000), b""))


def _by_seeking(plugin: LoadedPlugin) -> bytes:
    with plugin.open("demo/data.bin") as stream:
        parts = []
        for offset in (SIZE - 1000, 0, SIZE // 2, 0):  # the same ones twice, too
            stream.seek(offset)
            parts.append(stream.read(1000))
        return b"".join(parts)


def _by_resources(plugin: LoadedPlugin) -> bytes:
    plugin.import_module("demo")
    return (importlib.resources.files("demo") / "data.bin").read_bytes()


def _by_copy(plugin: LoadedPlugin) -> bytes:
    plugin.import_module("demo")
    with importlib.resources.as_file(importlib.resources.files("demo") / "data.bin") as copy:
        return copy.read_bytes()


def _by_copy_of_directory(plugin: LoadedPlugin) -> bytes:
    plugin.import_module("demo")
    with importlib.resources.as_file(importlib.resources.files("demo")) as copy:
        return (copy / "data.bin").read_bytes()


DATA_WAYS: dict[str, Callable[[LoadedPlugin], bytes | None]] = {
    "read": lambda plugin: plugin.read("demo/data.bin"),
    "memoryview": lambda plugin: bytes(plugin.memoryview("demo/data.bin", copy=True)),
    "mapped": lambda plugin: bytes(plugin.memoryview("demo/data.bin")),
    "stream": _by_stream,
    "seeking": _by_seeking,
    "resources": _by_resources,
    "copy": _by_copy,
    "copy of a directory": _by_copy_of_directory,
    "pkgutil": lambda plugin: pkgutil.get_data("demo", "data.bin"),
}


@pytest.mark.parametrize("verify", ["all", "on-read"])
@pytest.mark.parametrize(
    ("way", "using"),
    [
        pytest.param(way, using, id=f"{way}-{name}")
        for way in FILE_WAYS
        for name, using in DATA_WAYS.items()
        # Who may write to a file can change a mapping of it; `copy=True` is for those who mind.
        if (way, name) != ("rewrite", "mapped")
    ],
)
def test_no_unsigned_byte_of_data_is_handed_out(tmp_path, way, using, verify):
    files = {"demo/__init__.py": "", "demo/data.bin": b"g" * SIZE}
    release = make_release(tmp_path / "release", files)

    def attempt() -> str:
        with load(*release, verify=verify) as plugin:
            data = using(plugin)
        assert data
        return "good" if set(data) == {ord("g")} else "evil"

    with racing(way, tmp_path / "release/demo/data.bin", b"e" * SIZE):
        assert outcomes(attempt, rounds=60) == {"good", "refused"}


@pytest.mark.parametrize("way", FILE_WAYS)
def test_control_who_checks_first_and_reads_then_gets_unsigned_bytes(tmp_path, way):
    files = {"demo/__init__.py": "", "demo/data.bin": b"g" * SIZE}
    plugin = load(*make_release(tmp_path / "release", files))

    def attempt() -> str:
        try:
            plugin.verify()
        except CorruptError:
            return "refused"
        return "evil" if b"e" in (plugin.directory / "demo/data.bin").read_bytes() else "good"

    with racing(way, tmp_path / "release/demo/data.bin", b"e" * SIZE), plugin:
        until_evil(attempt)
