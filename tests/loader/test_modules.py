"""What Python code may expect of the modules it finds itself in."""

import _imp
import importlib
import importlib.machinery
import importlib.resources
import importlib.util
import inspect
import linecache
import marshal
import pkgutil
import runpy
import sys
import traceback
from pathlib import Path

import pytest

from plugin_manager.errors import CorruptError
from plugin_manager.loader._tree import BYTECODE_TAG
from tests.loader.releases import bytecode, make_release, with_bytecode


def test_the_order_of_importlib_is_kept(loading, tmp_path):
    files = {
        "demo/__init__.py": "",
        "demo/both.py": "kind = 'module'\n",
        "demo/both/__init__.py": "kind = 'package'\n",
        "demo/only/inner.py": "kind = 'namespace'\n",
        "demo/source.py": "kind = 'source'\n",
        "demo/source/nothing.txt": "",
        "demo/two.names.py": "",
    }
    plugin = loading(files)
    ours = [plugin.import_module(f"demo.{name}").kind for name in ("both", "only.inner", "source")]
    assert ours == ["package", "namespace", "source"]
    plugin.unload()
    make_release(tmp_path / "theirs", files)
    sys.path.insert(0, str(tmp_path / "theirs"))  # the same, by importlib's own finder
    try:
        theirs = [
            importlib.import_module(f"demo.{n}").kind for n in ("both", "only.inner", "source")
        ]
    finally:
        sys.path.remove(str(tmp_path / "theirs"))
        for name in [name for name in sys.modules if name.partition(".")[0] == "demo"]:
            del sys.modules[name]
    assert ours == theirs


def test_bytecode_of_this_interpreter_is_executed(loading):
    path, data = bytecode("kind = 'bytecode'\n", "demo.py")
    plugin = loading({"demo.py": "kind = 'source'\n", path: data}, tags={path: BYTECODE_TAG})
    demo = plugin.import_module("demo")
    assert demo.kind == "bytecode"
    assert demo.__cached__ == str(plugin.directory / path)


def test_functions_from_bytecode_show_their_real_file(loading):
    files, tags = with_bytecode({"demo.py": "def f():\n    def g(): pass\n    return g\n"})
    plugin = loading(files, tags=tags)
    function = plugin.import_module("demo").f
    for code in (function.__code__, function().__code__):
        assert code.co_filename == str(plugin.directory / "demo.py")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: b"\0\0\0\0" + data[4:], id="another interpreter's"),
        pytest.param(lambda data: data[:4] + b"\0\0\0\0" + data[8:], id="a time stamp's"),
        pytest.param(lambda data: data[:4] + b"\3\0\0\0" + b"\0" * 8 + data[16:], id="stale"),
        pytest.param(lambda data: data[:10], id="cut"),
    ],
)
def test_bytecode_that_does_not_fit_is_passed_over(loading, change):
    path, data = bytecode("kind = 'bytecode'\n", "demo.py")
    plugin = loading(
        {"demo.py": "kind = 'source'\n", path: change(data)}, tags={path: BYTECODE_TAG}
    )
    assert plugin.import_module("demo").kind == "source"
    assert (plugin.directory / path).read_bytes() == change(data)  # nothing is written


@pytest.mark.parametrize(
    ("checks", "kind"), [("default", "bytecode"), ("never", "bytecode"), ("always", "source")]
)
def test_bytecode_is_compared_with_its_source_where_the_interpreter_is_told_to(
    loading, monkeypatch, checks, kind
):
    monkeypatch.setattr(_imp, "check_hash_based_pycs", checks)
    path, data = bytecode("kind = 'bytecode'\n", "demo.py")
    plugin = loading({"demo.py": "kind = 'source'\n", path: data}, tags={path: BYTECODE_TAG})
    assert plugin.import_module("demo").kind == kind


def test_bytecode_that_holds_no_code_is_an_import_error(loading):
    path, data = bytecode("", "demo.py")
    nonsense = data[:4] + b"\1\0\0\0" + data[8:16] + marshal.dumps(5)
    plugin = loading({"demo.py": "", path: nonsense}, tags={path: BYTECODE_TAG})
    with pytest.raises(ImportError, match="Non-code object"):
        plugin.import_module("demo")


def test_bytecode_without_the_tag_is_passed_over(loading):
    path, data = bytecode("kind = 'bytecode'\n", "demo.py")
    assert (
        loading({"demo.py": "kind = 'source'\n", path: data}).import_module("demo").kind == "source"
    )


def test_bytecode_that_was_not_installed_is_not_missed(loading):
    path, data = bytecode("kind = 'bytecode'\n", "demo.py")
    plugin = loading({"demo.py": "kind = 'source'\n", path: data}, tags={path: BYTECODE_TAG})
    (plugin.directory / path).unlink()
    assert plugin.import_module("demo").kind == "source"


def test_bytecode_serves_wherever_the_host_keeps_its_own(loading, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "prefix"))
    path, data = bytecode("kind = 'bytecode'\n", "demo.py")
    path = f"__pycache__/{Path(path).name}"
    plugin = loading({"demo.py": "kind = 'source'\n", path: data}, tags={path: BYTECODE_TAG})
    assert plugin.import_module("demo").kind == "bytecode"
    assert not (tmp_path / "prefix").exists()


def test_a_module_may_come_as_bytecode_only(loading):
    _, data = bytecode("def f(): pass\n", "demo.py")
    plugin = loading({"demo.pyc": data})
    demo = plugin.import_module("demo")
    assert demo.__file__ == str(plugin.directory / "demo.pyc")
    with pytest.raises(OSError, match="source"):
        inspect.getsource(demo.f)


def test_source_is_shown_from_verified_bytes(loading):
    plugin = loading({"demo.py": "def f():\n    raise ValueError('é')\n"})
    demo = plugin.import_module("demo")
    Path(demo.__file__).write_text("def g():\n    print('another text')\n")
    Path(demo.__file__).write_text("def f():\n    raise ValueError('é')\n")
    assert inspect.getsource(demo.f) == "def f():\n    raise ValueError('é')\n"
    try:
        demo.f()
    except ValueError:
        assert "raise ValueError('é')" in traceback.format_exc()
    assert inspect.getsource(demo) == "def f():\n    raise ValueError('é')\n"
    assert demo.__loader__.get_source("demo") == "def f():\n    raise ValueError('é')\n"


def test_changed_source_is_not_shown_and_does_not_hide_the_error(loading):
    plugin = loading({"demo.py": "def f():\n    raise ValueError('x')\n"})
    demo = plugin.import_module("demo")
    Path(demo.__file__).write_text("def f():\n    never_so('x')\n")
    try:
        demo.f()
    except ValueError:
        shown = traceback.format_exc()
    assert "never_so" not in shown
    assert f'File "{demo.__file__}", line 2, in f' in shown


def test_control_without_the_entry_changed_source_is_shown(loading):
    plugin = loading({"demo.py": "def f():\n    raise ValueError('x')\n"})
    demo = plugin.import_module("demo")
    Path(demo.__file__).write_text("def f():\n    never_so('x')\n")
    linecache.clearcache()
    try:
        demo.f()
    except ValueError:
        assert "never_so" in traceback.format_exc()


def test_pkgutil_lists_and_walks_the_manifest(loading):
    plugin = loading(
        {"demo/__init__.py": "", "demo/a.py": "", "demo/sub/__init__.py": "", "demo/sub/b.py": ""}
    )
    (plugin.directory / "demo" / "dropped.py").write_text("raise SystemExit")
    demo = plugin.import_module("demo")
    names = [(m.name, m.ispkg) for m in pkgutil.iter_modules(demo.__path__)]
    assert names == [("a", False), ("sub", True)]
    walked = [m.name for m in pkgutil.walk_packages(demo.__path__, "demo.")]
    assert walked == ["demo.a", "demo.sub", "demo.sub.b"]
    (info, *_) = pkgutil.iter_modules(demo.__path__, "demo.")
    assert info.module_finder.find_spec("demo.a").origin == str(plugin.directory / "demo" / "a.py")
    assert pkgutil.get_data("demo", "a.py") == b""
    with pytest.raises(OSError):
        pkgutil.get_data("demo", "dropped.py")


def test_a_module_runs_as_a_script(loading, capsys):
    plugin = loading(
        {"demo/__init__.py": "", "demo/__main__.py": "print(__name__, __package__, __file__)\n"}
    )
    runpy.run_module("demo", run_name="__main__")
    assert capsys.readouterr().out == f"__main__ demo {plugin.directory / 'demo' / '__main__.py'}\n"
    plugin.unload()


def test_a_main_at_the_top_is_not_the_process_s_own(loading):
    main = sys.modules["__main__"]
    for name in ("demo", "other"):
        files = {"__main__.py": "raise SystemExit\n", "__main__/part.py": "", f"{name}.py": ""}
        plugin = loading(files, name=f"acme/{name} 1.0")
        with pytest.raises(ModuleNotFoundError):
            plugin.import_module("__main__")
        assert plugin.import_module(name)
    assert importlib.import_module("__main__") is main


def test_reloading_a_module_reads_it_again(loading):
    plugin = loading({"demo.py": "count = globals().get('count', 0) + 1\n"})
    demo = plugin.import_module("demo")
    assert importlib.reload(demo) is demo
    assert demo.count == 2
    assert importlib.util.find_spec("demo").loader is not None


def test_a_package_may_extend_its_own_path(loading):
    plugin = loading(
        {
            "demo/__init__.py": "import os\n__path__.append(os.path.join(__path__[0], 'more'))\n",
            "demo/more/extra.py": "kind = 'extra'\n",
        }
    )
    assert plugin.import_module("demo.extra").kind == "extra"
    (plugin.directory / "demo" / "more" / "dropped.py").write_text("raise SystemExit")
    with pytest.raises(ModuleNotFoundError):
        plugin.import_module("demo.dropped")


@pytest.mark.parametrize("odd", ["pathlib.Path('more')", "b'more'", "1"])
def test_what_is_no_string_in_a_path_is_passed_over(loading, odd):
    plugin = loading(
        {"demo/__init__.py": f"import pathlib\n__path__.insert(0, {odd})\n", "demo/part.py": ""}
    )
    plugin.import_module("demo.part")
    with pytest.raises(ModuleNotFoundError):
        plugin.import_module("demo.none")


def test_a_plugin_may_put_a_directory_of_its_own_on_the_path(loading, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    plugin = loading(
        {
            "demo/__init__.py": "import sys\nsys.path.insert(0, __path__[0] + '/_vendor')\n"
            "import demo_vendored\n",
            "demo/_vendor/demo_vendored.py": "",
        }
    )
    (plugin.directory / "demo" / "_vendor" / "demo_dropped.py").write_text("raise SystemExit")
    plugin.import_module("demo")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_dropped")
    assert "demo_vendored" in plugin.modules
    plugin.unload()
    assert "demo_vendored" not in sys.modules


def test_a_directory_of_data_in_a_namespace_package_is_no_module(loading):
    plugin = loading({"space/inner/__init__.py": "", "space/data/words.txt": "one"})
    assert plugin.import_module("space.inner")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("space.data")  # nobody would own it, nor take it away again
    assert importlib.util.find_spec("space.data") is None


def test_importers_that_a_plugin_brings_are_asked(loading, monkeypatch):
    """As `six.moves` does: modules that exist in no file, by a finder at the list's end."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    plugin = loading(
        {
            "demo/__init__.py": "import sys\nfrom importlib.machinery import ModuleSpec\n"
            "class Finder:\n"
            "    @staticmethod\n"
            "    def find_spec(name, path=None, target=None):\n"
            "        return ModuleSpec(name, Finder) if name == 'demo.made' else None\n"
            "    create_module = staticmethod(lambda spec: None)\n"
            "    exec_module = staticmethod(lambda module: setattr(module, 'kind', 'made'))\n"
            "sys.meta_path.append(Finder)\n",
        }
    )
    assert plugin.import_module("demo.made").kind == "made"
    plugin.unload()
    assert "demo.made" not in sys.modules


# --- resources ---------------------------------------------------------------------------------

RESOURCES = {
    "demo/__init__.py": "",
    "demo/plain.txt": "text é\n",
    "demo/data/one.bin": b"\0\1",
    "demo/data/deep/two.txt": "two",
    "demo/sub/__init__.py": "",
    "demo/sub/inside.txt": "inside",
}


def test_resources_are_what_the_manifest_has(loading):
    plugin = loading(RESOURCES)
    (plugin.directory / "demo" / "dropped.txt").write_text("dropped")
    plugin.import_module("demo")
    files = importlib.resources.files("demo")
    assert sorted(child.name for child in files.iterdir()) == [
        "__init__.py", "data", "plain.txt", "sub",
    ]  # fmt: skip
    assert (files / "plain.txt").read_text(encoding="utf-8") == "text é\n"
    assert files.joinpath("data", "one.bin").read_bytes() == b"\0\1"
    assert files.joinpath("data/deep/two.txt").is_file()
    assert (files / "data").is_dir()
    assert not (files / "data").is_file()
    assert not files.joinpath("dropped.txt").is_file()
    assert (files / "data" / ".." / "plain.txt").is_file()
    assert [child.name for child in (files / "..").iterdir()] == ["demo"]
    assert importlib.resources.files("demo.sub").joinpath("inside.txt").read_text() == "inside"
    assert importlib.resources.files("demo.data").joinpath("one.bin").read_bytes() == b"\0\1"
    with (files / "plain.txt").open(encoding="utf-8") as stream:
        assert list(stream) == ["text é\n"]
    for missing in ("dropped.txt", "absent", "../../../outside"):
        with pytest.raises(FileNotFoundError):
            files.joinpath(missing).read_bytes()
    with pytest.raises(IsADirectoryError):
        (files / "data").open("rb")
    with pytest.raises(NotADirectoryError):
        list((files / "plain.txt").iterdir())
    with pytest.raises(ValueError):
        (files / "plain.txt").open("wb")


def test_resources_serve_code_that_wants_paths(loading):
    plugin = loading(RESOURCES)
    plugin.import_module("demo")
    files = importlib.resources.files("demo")
    assert Path(files / "plain.txt") == plugin.directory / "demo" / "plain.txt"
    assert str(files) == str(plugin.directory / "demo")
    with importlib.resources.as_file(files / "plain.txt") as path:
        assert path.read_text(encoding="utf-8") == "text é\n"
        assert not path.is_relative_to(plugin.directory)
    reader = sys.modules["demo"].__loader__.get_resource_reader("demo")
    assert reader.is_resource("plain.txt")
    assert not reader.is_resource("data")
    assert "plain.txt" in reader.contents()
    assert reader.open_resource("plain.txt").read() == "text é\n".encode()


def test_resources_for_this_interpreter_count_where_they_are_installed(loading):
    files = {"demo/__init__.py": "", "demo/fast.bin": b"1", "demo/slow.bin": b"2"}
    plugin = loading(files, tags={"demo/fast.bin": BYTECODE_TAG, "demo/slow.bin": BYTECODE_TAG})
    (plugin.directory / "demo" / "fast.bin").unlink()
    plugin.import_module("demo")
    names = {child.name for child in importlib.resources.files("demo").iterdir()}
    assert names == {"__init__.py", "slow.bin"}


def test_a_directory_as_files_is_a_verified_copy(loading):
    plugin = loading(RESOURCES)
    plugin.import_module("demo")
    drop = plugin.directory / "demo" / "data" / "dropped.bin"
    drop.write_bytes(b"unsigned")
    signed = {path for path in plugin.files if path.startswith("demo/")}
    with importlib.resources.as_file(importlib.resources.files("demo")) as path:
        assert path.name == "demo"
        assert not path.is_relative_to(plugin.directory)
        copied = {f"demo/{one.relative_to(path)}" for one in path.rglob("*") if one.is_file()}
        assert copied == signed
        assert all((path.parent / name).read_bytes() == plugin.read(name) for name in copied)
    assert not path.parent.exists()
    (plugin.directory / "demo" / "plain.txt").write_text("text e!\n")
    with (
        pytest.raises(CorruptError, match=r"demo/plain\.txt"),
        importlib.resources.as_file(importlib.resources.files("demo")),
    ):
        pass


def test_changed_resources_are_refused(loading):
    plugin = loading(RESOURCES)
    plugin.import_module("demo")
    (plugin.directory / "demo" / "plain.txt").write_text("text e!\n")
    with pytest.raises(CorruptError, match=r"demo/plain\.txt"):
        importlib.resources.files("demo").joinpath("plain.txt").read_bytes()
    with (
        pytest.raises(CorruptError, match=r"demo/plain\.txt"),
        importlib.resources.as_file(importlib.resources.files("demo") / "plain.txt"),
    ):
        pass
