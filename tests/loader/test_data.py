"""Data and model files: what is verified when, as streams, mappings and paths, and who takes it."""

import importlib.resources
import io
import os
import random
import sqlite3
import threading
import time
import zipfile
from pathlib import Path
from unittest import mock

import numpy
import pytest
import safetensors
import safetensors.numpy

from plugin_manager.errors import CorruptError, NotFoundError
from plugin_manager.loader import load
from plugin_manager.store._chunks import Chunks
from tests.loader.releases import CHUNK_BYTES, make_release, with_bytecode

LARGE = 20_000_000  # several pieces for several threads


@pytest.fixture(scope="module")
def large() -> bytes:
    return random.Random(1).randbytes(LARGE)


def damage(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


# --- when ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, LARGE // 2, LARGE - 1])
def test_a_load_hashes_every_file_unless_told_not_to(tmp_path, large, at):
    manifest, place = make_release(tmp_path, {"model.bin": large, "demo.py": "x = 1\n"})
    damage(place / "model.bin", at)
    with pytest.raises(CorruptError) as caught:
        load(manifest, place)
    assert caught.value.paths == ("model.bin",)
    with load(manifest, place, verify="on-read") as plugin:
        assert plugin.import_module("demo").x == 1
        with pytest.raises(CorruptError, match=r"model\.bin"):
            plugin.verify()


def test_on_read_opens_no_file_before_it_is_used(tmp_path, large):
    files, tags = with_bytecode({"demo/__init__.py": "x = 1\n", "demo/unused.py": "y = 2\n"})
    manifest, place = make_release(tmp_path, {**files, "model.bin": large}, tags=tags)
    opened = []

    def opening(path, *arguments):
        opened.append(Path(path).relative_to(place).as_posix())
        return os_open(path, *arguments)

    os_open = os.open
    with mock.patch.object(os, "open", opening):
        with load(manifest, place, verify="on-read") as plugin:
            assert opened == []
            plugin.import_module("demo")
            assert [Path(path).suffix for path in opened] == [".pyc"]
        opened.clear()
        with load(manifest, place):
            assert set(opened) == {file.path for file in manifest.files}  # control


@pytest.mark.parametrize("verify", ["all", "on-read"])
@pytest.mark.parametrize("path", ["demo/__init__.py", "demo/inner.py", "demo/data.txt"])
def test_what_changes_after_the_load_is_refused_when_it_is_used(tmp_path, verify, path):
    files = {"demo/__init__.py": "", "demo/inner.py": "x = 1\n", "demo/data.txt": "data"}
    manifest, place = make_release(tmp_path, files)
    with load(manifest, place, verify=verify) as plugin:
        (place / path).write_text(files[path].replace("a", "e") + "#")
        use = plugin.read if path.endswith(".txt") else plugin.import_module
        with pytest.raises(CorruptError, match=path):
            use(path if path.endswith(".txt") else "demo.inner")


@pytest.mark.parametrize("verify", ["all", "on-read"])
def test_a_path_is_hashed_when_it_is_asked_for(tmp_path, large, verify):
    manifest, place = make_release(tmp_path, {"model.bin": large, "empty": b""})
    with load(manifest, place, verify=verify) as plugin:
        assert plugin.path("model.bin") == place / "model.bin"
        assert plugin.path("empty").read_bytes() == b""
        with pytest.raises(NotFoundError):
            plugin.path("absent")
        damage(place / "model.bin", LARGE - 5)
        with pytest.raises(CorruptError, match=r"model\.bin"):
            plugin.path("model.bin")
        (place / "model.bin").unlink()
        (place / "model.bin").symlink_to("/etc/passwd")
        with pytest.raises(CorruptError, match=r"model\.bin"):
            plugin.path("model.bin")


def test_resources_as_paths_are_hashed_where_the_load_did_not(tmp_path):
    manifest, place = make_release(tmp_path, {"demo/__init__.py": "", "demo/data.txt": "data"})
    with load(manifest, place, verify="on-read") as plugin:
        resource = importlib.resources.files(plugin.import_module("demo")) / "data.txt"
        assert Path(os.fspath(resource)).read_text() == "data"
        (place / "demo/data.txt").write_text("evil")
        with pytest.raises(CorruptError):
            os.fspath(resource)
        assert str(resource) == str(place / "demo/data.txt")  # words for people hash nothing


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1000, 65_536, 1_000_000, 3_000_000, 5_000_000, LARGE])
def test_a_stream_gives_the_file_in_pieces_of_any_length(loading, large, length):
    plugin = loading({"model.bin": large})
    with plugin.open("model.bin") as stream:
        assert b"".join(iter(lambda: stream.read(length), b"")) == large
    buffer = bytearray(length)
    with plugin.open("model.bin") as stream:
        parts = []
        while count := stream.readinto(buffer):
            parts.append(bytes(buffer[:count]))
        assert b"".join(parts) == large


def test_a_stream_may_be_read_anywhere_in_any_order(loading, large):
    plugin = loading({"model.bin": large})
    draw = random.Random(2)
    with plugin.open("model.bin") as stream:
        for _ in range(300):
            start = draw.choice(
                [draw.randrange(LARGE), draw.randrange(LARGE // CHUNK_BYTES) * CHUNK_BYTES]
            )
            length = draw.choice([1, 100, 70_000, 300_000, 5_000_000])
            stream.seek(start)
            for _ in range(draw.randrange(1, 5)):  # and reads on from there
                assert stream.read(length) == large[start : start + length]
                start += length


@pytest.mark.parametrize("length", [1000, 1_000_000, 5_000_000])
@pytest.mark.parametrize("at", [0, 7_000_000, LARGE - 1])
def test_a_stream_gives_nothing_of_a_damaged_chunk(loading, large, length, at):
    plugin = loading({"model.bin": large})
    damage(plugin.directory / "model.bin", at)
    given = bytearray()

    def read(stream) -> None:
        while part := stream.read(length):
            given.extend(part)

    with plugin.open("model.bin") as stream, pytest.raises(CorruptError, match=r"model\.bin"):
        read(stream)
    assert large.startswith(given)
    assert len(given) <= at // CHUNK_BYTES * CHUNK_BYTES


def test_a_refused_read_leaves_nothing_in_the_readers_memory(loading, large):
    plugin = loading({"model.bin": large})
    damage(plugin.directory / "model.bin", 6_000_000)
    buffer = bytearray(b"\xff" * 8_000_000)
    with plugin.open("model.bin") as stream, pytest.raises(CorruptError):
        stream.readinto(buffer)
    assert not any(buffer)


@pytest.mark.parametrize("way", ["read", "readinto"])
def test_an_interrupted_read_ends_when_no_thread_writes_to_the_readers_memory(loading, large, way):
    plugin = loading({"model.bin": large})
    buffer, preadv, late = bytearray(b"\xff" * 16_000_000), os.preadv, []

    def interrupted(*arguments):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.05)
        late.append(is_over.is_set())
        return preadv(*arguments)

    is_over = threading.Event()
    with plugin.open("model.bin") as stream:
        with (
            mock.patch("os.cpu_count", return_value=2),
            mock.patch("os.preadv", interrupted),
            pytest.raises(KeyboardInterrupt),
        ):
            stream.readinto(buffer) if way == "readinto" else stream.read(len(buffer))
        is_over.set()  # BufferedReader has freed the memory that it read into
        time.sleep(0.1)
        assert late == [False]  # another thread was about to write, and to go on
        assert way == "read" or not any(buffer)
        assert stream.read() == large


class Writer:
    """A thread that goes on changing a file, and changing it back."""

    def __init__(self, path: Path, good: bytes, evil: bytes) -> None:
        self._path, self._versions, self._stop = path, (evil, good), threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        with self._path.open("r+b", buffering=0) as file:
            while not self._stop.is_set():
                for content in self._versions:
                    os.pwrite(file.fileno(), content, 0)
                    time.sleep(0.0005)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("way", ["read", "stream", "readinto", "copy"])
def test_what_is_handed_out_was_hashed_even_while_somebody_writes(loading, way):
    good, evil = b"good" * 50_000, b"evil" * 50_000
    plugin = loading({"model.bin": good}, directory="racing")
    ways = {
        "read": lambda: plugin.read("model.bin"),
        "stream": lambda: plugin.open("model.bin").read(),
        "readinto": lambda: into(plugin.open("model.bin")),
        "copy": lambda: bytes(plugin.memoryview("model.bin", copy=True)),
    }

    def into(stream) -> bytes:
        buffer = bytearray(len(good))
        with stream:
            stream.readinto(buffer)
        return bytes(buffer)

    given, refused = 0, 0
    until = time.monotonic() + 60
    with Writer(plugin.directory / "model.bin", good, evil):
        while min(given, refused) < 50 and time.monotonic() < until:
            try:
                assert ways[way]() == good
                given += 1
            except CorruptError:
                refused += 1
    assert given
    assert refused  # the writer was in time


def test_control_who_reads_what_was_hashed_once_more_is_deceived(loading):
    good, evil = b"good" * 50_000, b"evil" * 50_000
    plugin = loading({"model.bin": good})
    seen = set()
    until = time.monotonic() + 30
    with Writer(plugin.directory / "model.bin", good, evil):
        while seen <= {good} and time.monotonic() < until:
            try:
                seen.add(plugin.path("model.bin").read_bytes())
            except CorruptError:
                continue
    assert not seen <= {good}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_stream_goes_on_in_a_fork(loading, large):
    plugin = loading({"model.bin": large})
    with plugin.open("model.bin") as stream:
        assert stream.read(3_000_000) == large[:3_000_000]  # threads are at work ahead
        child = os.fork()
        if not child:
            os._exit(0 if stream.read() == large[3_000_000:] else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert stream.read() == large[3_000_000:]


# --- mappings -----------------------------------------------------------------------------------


def test_a_mapping_is_verified_whole_and_cannot_be_written_to(loading, large):
    plugin = loading({"model.bin": large, "empty": b""})
    view = plugin.memoryview("model.bin")
    assert view == large
    assert view.readonly
    assert plugin.memoryview("empty") == b""
    assert plugin.memoryview("model.bin", copy=True) == large
    assert plugin.memoryview("model.bin", copy=True).readonly
    damage(plugin.directory / "model.bin", LARGE // 2)
    for copy in (False, True):
        with pytest.raises(CorruptError, match=r"model\.bin"):
            plugin.memoryview("model.bin", copy=copy)


def test_a_mapping_shows_what_is_written_later_and_a_copy_does_not(loading):
    plugin = loading({"model.bin": b"good"})
    mapped, copied = (plugin.memoryview("model.bin", copy=copy) for copy in (False, True))
    (plugin.directory / "model.bin").open("r+b").close()
    with (plugin.directory / "model.bin").open("r+b") as file:
        file.write(b"evil")
    assert (bytes(mapped), bytes(copied)) == (b"evil", b"good")  # as the threat model says


def test_large_files_are_verified_also_where_the_page_cache_cannot_be_asked(loading, large):
    with mock.patch.object(Chunks, "are_cached", return_value=False):
        plugin = loading({"model.bin": large})
        damage(plugin.directory / "model.bin", LARGE // 3)
        with pytest.raises(CorruptError):
            plugin.verify()


# --- what hosts hear ----------------------------------------------------------------------------


def test_a_host_hears_how_the_outermost_execution_ended(tmp_path):
    files = {
        "demo/__init__.py": "import demo.inner\n",
        "demo/inner.py": "",
        "demo/broken.py": "import demo.worse\n",
        "demo/worse.py": "raise ValueError('worse')\n",
        "demo/caught.py": "try:\n    import demo.worse\nexcept ValueError:\n    pass\n",
    }
    heard = []
    with load(*make_release(tmp_path, files), imported=heard.append) as plugin:
        assert heard == []
        plugin.import_module("demo")
        assert heard == [None]
        plugin.import_module("demo.caught")
        assert heard == [None, None]
        with pytest.raises(ValueError, match="worse") as caught:
            plugin.import_module("demo.broken")
        assert heard == [None, None, caught.value]


def test_code_that_is_not_as_signed_is_heard_of_too(tmp_path):
    heard = []
    manifest, place = make_release(tmp_path, {"demo.py": "x = 1\n"})
    with load(manifest, place, imported=heard.append) as plugin:
        (place / "demo.py").write_text("x = 2\n")
        with pytest.raises(CorruptError):
            plugin.import_module("demo")
    assert [type(error) for error in heard] == [CorruptError]


def test_confirming_is_passed_on(tmp_path):
    heard = []
    release = make_release(tmp_path, {"demo.py": ""})
    with load(*release, confirmed=lambda: heard.append("confirmed")) as plugin:
        assert heard == []
        plugin.confirm()
    assert heard == ["confirmed"]


# --- real libraries -----------------------------------------------------------------------------


@pytest.fixture(params=["all", "on-read"])
def model(request, tmp_path):
    """A plugin with one file of each format, in both modes."""
    array = numpy.arange(300_000, dtype="float32").reshape(300, 1000)
    saved = io.BytesIO()
    numpy.save(saved, array)
    database = tmp_path / "made.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE places (name TEXT)")
        connection.executemany("INSERT INTO places VALUES (?)", [(f"p{n}",) for n in range(9000)])
    connection.close()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("inside.txt", "text " * 100_000)
    files = {
        "model.safetensors": safetensors.numpy.save({"weights": array, "bias": array[0]}),
        "array.npy": saved.getvalue(),
        "array.raw": array.tobytes(),
        "places.db": database.read_bytes(),
        "data.zip": archive.getvalue(),
    }
    manifest, place = make_release(tmp_path / "release", files)
    with load(manifest, place, verify=request.param) as plugin:
        yield plugin, array


def test_safetensors_takes_paths_and_bytes(model):
    plugin, array = model
    with safetensors.safe_open(plugin.path("model.safetensors"), framework="numpy") as tensors:
        assert set(tensors.keys()) == {"weights", "bias"}
        assert numpy.array_equal(tensors.get_tensor("weights"), array)
        assert numpy.array_equal(tensors.get_slice("weights")[5:7], array[5:7])
    loaded = safetensors.numpy.load(plugin.read("model.safetensors"))
    assert numpy.array_equal(loaded["bias"], array[0])


def test_numpy_takes_paths_streams_and_mappings(model):
    plugin, array = model
    path = plugin.path("array.raw")
    assert numpy.array_equal(numpy.memmap(path, "float32", "r", shape=array.shape), array)
    assert numpy.array_equal(numpy.load(plugin.path("array.npy"), mmap_mode="r"), array)
    with plugin.open("array.npy") as stream:
        assert numpy.array_equal(numpy.load(stream), array)
    viewed = numpy.frombuffer(plugin.memoryview("array.raw"), "float32").reshape(array.shape)
    assert numpy.array_equal(viewed, array)
    assert not viewed.flags.writeable
    damage(plugin.directory / "array.npy", 500_000)
    with plugin.open("array.npy") as stream, pytest.raises(CorruptError):
        numpy.load(stream)


def test_sqlite_takes_paths_and_bytes(model):
    plugin, _ = model
    # Immutable: no lock, no journal, nothing written beside the file.
    with sqlite3.connect(
        f"{plugin.path('places.db').as_uri()}?mode=ro&immutable=1", uri=True
    ) as one:
        assert one.execute("SELECT count(*) FROM places").fetchone() == (9000,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            one.execute("DELETE FROM places")
    one.close()
    with sqlite3.connect(":memory:") as other:
        other.deserialize(plugin.read("places.db"))
        assert other.execute("SELECT name FROM places LIMIT 1").fetchone() == ("p0",)
    other.close()
    plugin.verify()


def test_zipfile_takes_streams_and_paths(model):
    plugin, _ = model
    with plugin.open("data.zip") as stream, zipfile.ZipFile(stream) as archive:
        assert archive.testzip() is None
        assert archive.read("inside.txt") == b"text " * 100_000
    with zipfile.ZipFile(plugin.path("data.zip")) as archive:
        assert archive.namelist() == ["inside.txt"]


def test_a_damaged_chunk_leaves_nothing_that_was_not_verified_in_the_stream(loading):
    content = random.Random(2).randbytes(3 * CHUNK_BYTES)
    plugin = loading({"demo.py": "", "data.bin": content})
    damage(plugin.directory / "data.bin", 2 * CHUNK_BYTES)  # the next would get new memory
    with plugin.open("data.bin") as stream:
        raw, part = stream.raw, bytearray(100)
        for _ in range(3):
            raw.seek(0)
            assert raw.readinto(part) == 100
            assert part == content[:100]
            raw.seek(2 * CHUNK_BYTES)
            with pytest.raises(CorruptError, match=r"data\.bin"):
                raw.readinto(part)
            for at in (2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 1):
                raw.seek(at)
                with pytest.raises(CorruptError, match=r"data\.bin"):
                    raw.readinto(part)


@pytest.mark.parametrize("whence", [3, 4, 7])
def test_seeking_in_a_way_that_there_is_not_is_a_value_error(loading, whence):
    with (
        loading({"demo.py": "", "data.bin": b"x" * 10}).open("data.bin") as stream,
        pytest.raises(ValueError, match=f"{whence}"),
    ):
        stream.seek(0, whence)


@pytest.mark.parametrize("verify", ["all", "on-read"])
def test_what_was_dropped_in_has_no_path_as_a_resource(tmp_path, verify):
    release = make_release(tmp_path, {"demo/__init__.py": "", "demo/data.txt": "data"})
    (tmp_path / "demo/evil.txt").write_text("evil")
    with load(*release, verify=verify):
        package = importlib.resources.files("demo")
        assert Path(package).joinpath("evil.txt").read_text() == "evil", "control"
        assert Path(package / "data.txt").read_text() == "data"
        with pytest.raises(FileNotFoundError):
            open(package / "evil.txt")  # noqa: PTH123, SIM115 - what takes paths does
        assert not os.path.exists(package / "evil.txt")  # noqa: PTH110
