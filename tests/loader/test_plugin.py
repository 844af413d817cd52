"""What a host holds after loading: files, entry points, modules, and how it ends."""

import gc
import importlib
import importlib.metadata
import io
import linecache
import os
import pkgutil
import sys
import threading
from pathlib import Path

import pytest

from plugin_manager.errors import CorruptError, NotFoundError, RefusedError
from plugin_manager.loader import LoadedPlugin, load
from plugin_manager.loader._tree import BYTECODE_TAG
from tests.loader.releases import make_release

PACKAGE = {
    "demo/__init__.py": "from demo.inner import value\n",
    "demo/inner.py": "value = 42\n\ndef greet(name):\n    return f'hello {name}'\n",
    "demo/data.txt": "some data",
}


def test_a_loaded_plugin_says_what_it_is(loading):
    plugin = loading(PACKAGE, name="acme/demo 2.1")
    assert (str(plugin.name), str(plugin.version)) == ("acme/demo", "2.1")
    assert plugin.about.summary == "A release made by hand"
    assert plugin.release == plugin.manifest.release
    assert plugin.files == tuple(PACKAGE)
    assert "acme/demo 2.1" in repr(plugin)


def test_modules_are_imported_from_the_release(loading):
    plugin = loading(PACKAGE)
    demo = plugin.import_module("demo")
    assert demo.value == 42
    assert demo.__file__ == str(plugin.directory / "demo" / "__init__.py")
    assert list(demo.__path__) == [str(plugin.directory / "demo")]
    assert demo.__spec__.origin == demo.__file__
    assert demo.__cached__ == importlib.util.cache_from_source(demo.__file__)
    assert sorted(plugin.modules) == ["demo", "demo.inner"]
    assert plugin.modules["demo"] is sys.modules["demo"] is demo
    assert importlib.import_module("demo.inner").greet("you") == "hello you"


def test_no_code_runs_before_it_is_asked_for(loading):
    plugin = loading({"demo.py": "raise SystemExit('ran')\n"})
    assert plugin.modules == {}


def test_an_import_root_below_the_top(loading):
    plugin = loading({"code/demo/__init__.py": "", "demo.txt": "no module"}, root="code")
    assert plugin.import_module("demo").__file__ == str(plugin.directory / "code/demo/__init__.py")


def test_only_the_plugins_own_modules_are_imported_through_it(loading):
    plugin = loading(PACKAGE)
    with pytest.raises(ModuleNotFoundError, match=r"acme/demo 1\.0 has no module 'json'"):
        plugin.import_module("json")
    with pytest.raises(ModuleNotFoundError, match=r"demo\.absent"):
        plugin.import_module("demo.absent")


def test_files_are_read_verified(loading):
    plugin = loading(PACKAGE)
    assert plugin.read("demo/data.txt") == b"some data"
    assert (plugin.directory / "demo" / "data.txt").read_bytes() == b"some data"
    with pytest.raises(NotFoundError, match="absent"):
        plugin.read("absent.txt")
    (plugin.directory / "demo" / "data.txt").write_bytes(b"evil data")
    with pytest.raises(CorruptError, match=r"demo/data\.txt"):
        plugin.read("demo/data.txt")
    with pytest.raises(CorruptError, match=r"demo/data\.txt"):
        plugin.open("demo/data.txt").read()
    with pytest.raises(CorruptError, match=r"demo/data\.txt"):
        plugin.verify()


def test_a_large_file_is_a_seekable_stream_judged_chunk_by_chunk(loading):
    content = os.urandom(300_000)
    plugin = loading({"model.bin": content, "empty.bin": b""})
    with plugin.open("model.bin") as stream:
        assert isinstance(stream, io.BufferedIOBase)
        assert stream.read(10) == content[:10]
        assert stream.seek(-5, os.SEEK_END) == len(content) - 5
        assert stream.read() == content[-5:]
        assert stream.read() == b""
        stream.seek(65_530)
        assert stream.read(100) == content[65_530:65_630]  # over the edge of a chunk
        stream.seek(0)
        assert stream.read() == content
        with pytest.raises(ValueError):
            stream.seek(-1)
    with pytest.raises(ValueError):
        stream.read()
    assert plugin.open("empty.bin").read() == b""

    with (plugin.directory / "model.bin").open("r+b") as file:
        file.seek(200_000)
        file.write(b"evil")
    with plugin.open("model.bin") as stream:
        assert stream.read(100) == content[:100]  # that chunk is as it was signed
        with pytest.raises(CorruptError, match=r"model\.bin"):
            stream.read()


def test_a_shortened_file_does_not_end_early(loading):
    plugin = loading({"model.bin": os.urandom(200_000)})
    with plugin.open("model.bin") as stream:
        os.truncate(plugin.directory / "model.bin", 100_000)
        with pytest.raises(CorruptError, match=r"model\.bin"):
            stream.read()


def test_entry_points_load_their_objects(loading):
    plugin = loading(
        PACKAGE,
        entry_points=[
            ("demo.greetings", "hello", "demo.inner:greet"),
            ("demo.greetings", "whole", "demo"),
            ("other", "value", "demo.inner:value.real"),
        ],
    )
    assert [(e.group, e.name) for e in plugin.entry_points] == [
        ("demo.greetings", "hello"),
        ("demo.greetings", "whole"),
        ("other", "value"),
    ]
    hello, whole = plugin.entry_points_in("demo.greetings")
    assert hello.load()("host") == "hello host"
    assert whole.load() is plugin.modules["demo"]
    assert plugin.entry_points_in("other")[0].load() == 42
    assert plugin.entry_points_in("none") == ()


def test_a_failing_plugin_raises_its_own_error_and_leaves_no_half_module(loading):
    plugin = loading(
        {
            "demo/__init__.py": "import demo.bad\n",
            "demo/bad.py": "class Mine(Exception): pass\nraise Mine('x')\n",
        },
        entry_points=[("g", "n", "demo:thing")],
    )
    for attempt in (lambda: plugin.import_module("demo"), plugin.entry_points[0].load):
        with pytest.raises(Exception, match=r"^x$") as caught:
            attempt()
        assert type(caught.value).__name__ == "Mine"
        assert plugin.modules == {}


def test_unloading_removes_modules_and_can_be_repeated(loading):
    plugin = loading(PACKAGE)
    plugin.import_module("demo")
    assert not plugin.unloaded
    plugin.unload()
    plugin.unload()
    assert plugin.unloaded
    assert "unloaded" in repr(plugin)
    assert not {"demo", "demo.inner"} & set(sys.modules)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo")
    with pytest.raises(RefusedError, match="was unloaded"):
        plugin.import_module("demo")
    assert plugin.read("demo/data.txt") == b"some data"


def test_another_version_can_follow_in_the_same_process(loading):
    with loading({"demo.py": "version = 1\n"}) as first:
        assert first.import_module("demo").version == 1
    with loading({"demo.py": "version = 2\n"}, name="acme/demo 2.0") as second:
        assert second.import_module("demo").version == 2


def test_a_store_behind_a_link_is_the_same_place(tmp_path):
    manifest, place = make_release(tmp_path / "store" / "release", PACKAGE)
    (tmp_path / "link").symlink_to("store")
    (place / "demo" / "dropped.py").write_text("raise SystemExit")
    with load(manifest, tmp_path / "link" / "release") as plugin:
        demo = plugin.import_module("demo")
        assert demo.__file__ == str(place.resolve() / "demo" / "__init__.py")
        listed = pkgutil.iter_modules([str(Path(demo.__file__).resolve().parent)])
        assert [module.name for module in listed] == ["inner"]


def test_a_plugin_without_code_loads(loading):
    first = loading({"weights/data.bin": b"1"}, name="acme/model 1.0")
    second = loading({"weights/data.bin": b"2"}, name="acme/other 1.0")
    assert (first.read("weights/data.bin"), second.read("weights/data.bin")) == (b"1", b"2")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("weights")


def test_files_for_other_interpreters_are_none_of_ours(loading):
    plugin = loading(
        {"demo.py": "kind = 'plain'\n", "demo/__init__.py": "kind = 'other'\n", "fast.py": ""},
        tags={"demo/__init__.py": "cp399", "fast.py": BYTECODE_TAG},
    )
    assert plugin.files == ("demo.py", "fast.py")
    assert plugin.import_module("demo").kind == "plain"


def test_a_tagged_file_may_be_absent(loading, tmp_path):
    place = tmp_path / "release"
    manifest, _ = make_release(
        place, {"demo.py": "", "demo_fast.py": ""}, tags={"demo_fast.py": BYTECODE_TAG}
    )
    (place / "demo_fast.py").unlink()
    with load(manifest, place) as plugin:
        assert plugin.files == ("demo.py",)
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("demo_fast")


def test_threads_load_and_import_at_the_same_time(tmp_path):
    def work(number):
        files = {
            f"demo{number}/__init__.py": f"from demo{number}.a import x\n",
            f"demo{number}/a.py": f"x = {number}\n",
        }
        release = make_release(tmp_path / str(number), files, name=f"acme/demo{number} 1.0")
        for _ in range(5):
            with load(*release) as plugin:
                results.append(plugin.import_module(f"demo{number}").x == number)

    results: list[bool] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 20


def _traces() -> tuple[int, ...]:
    gc.collect()
    return (
        len(list(Path("/dev/fd").iterdir())),
        len(sys.path_importer_cache),
        len(linecache.cache),
        len(sys.modules),
        len(gc.get_objects()),
    )


def _cycle(release) -> LoadedPlugin:
    plugin = load(*release)
    demo = plugin.import_module("demo")
    linecache.getlines(demo.__file__)
    list(importlib.metadata.entry_points(group="demo"))
    list(pkgutil.iter_modules(demo.__path__))
    plugin.open("demo/data.txt").close()
    return plugin


def test_loading_and_unloading_again_and_again_leaves_nothing(tmp_path):
    warming = make_release(tmp_path / "warming", PACKAGE, entry_points=[("demo", "n", "demo")])
    release = make_release(tmp_path / "release", PACKAGE, entry_points=[("demo", "n", "demo")])
    for _ in range(3):
        _cycle(warming).unload()
    before = _traces()
    for _ in range(50):
        _cycle(release).unload()
    after = _traces()
    assert after[:-1] == before[:-1]  # not even the traces of one
    assert after[-1] - before[-1] < 50  # less than an object a cycle


def test_control_what_is_not_unloaded_is_seen(tmp_path):
    before = _traces()
    plugin = _cycle(make_release(tmp_path, PACKAGE))
    stream = plugin.open("demo/data.txt")
    after = _traces()
    stream.close()
    plugin.unload()
    assert all(more > less for more, less in zip(after, before, strict=True))
