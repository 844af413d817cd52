"""Unloading while others go on: what an old module, or another thread, still finds is signed.

Where the disk has something else by then, beside each test stands a control that executes it.
"""

import importlib
import os
import pkgutil
import sys
import threading
from importlib.machinery import FileFinder, SourceFileLoader
from pathlib import Path

import pytest

from plugin_manager.loader import LoadedPlugin, load
from plugin_manager.loader import _finder as finder_module
from tests.loader.releases import make_release

GOOD = "kind = 'good'\n"
EVIL = "kind = 'evil'\nimport sys\nsys.demo_evil = True\n"
FILES = {"demo/__init__.py": "", "demo/part.py": GOOD}


@pytest.fixture(autouse=True)
def _nothing_evil(monkeypatch):
    monkeypatch.setattr(sys, "path_importer_cache", dict(sys.path_importer_cache))
    yield
    for name in [name for name in sys.modules if name.startswith("demo")]:
        del sys.modules[name]
    assert not hasattr(sys, "demo_evil")


def changed(plugin: LoadedPlugin) -> Path:
    """The directory of `plugin`'s package, where one module is now another."""
    directory = plugin.directory / "demo"
    (directory / "part.py").write_text(EVIL)
    return directory


def in_a_thread(name: str) -> list[object]:
    """What a thread gets that imports `name`: a module, or an error."""

    def work() -> None:
        try:
            results.append(importlib.import_module(name))
        except BaseException as error:
            results.append(error)

    results: list[object] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return results


def run_all_in(path) -> list[str]:
    """The kinds of all modules that `pkgutil` finds there, executed as it gives them."""
    kinds = []
    for found in pkgutil.iter_modules(path, "demo."):
        spec = found.module_finder.find_spec(found.name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kinds.append(module.kind)
    return kinds


class LooksItself:
    """A finder that looks into packages' directories, as pyximport's does."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        for directory in path or ():
            if (file := Path(directory) / f"{name.rpartition('.')[2]}.py").exists():
                return importlib.util.spec_from_file_location(name, file)
        return None


# --- during -------------------------------------------------------------------------------------

STEPS = ["_modules_of", "_leave", "_left"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("others", [[], [LooksItself]], ids=["", "with another finder"])
def test_no_thread_finds_other_code_while_a_plugin_is_unloaded(loading, monkeypatch, step, others):
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, *others])
    plugin = loading({**FILES, "demo_space/inner.py": ""})
    demo = plugin.import_module("demo")
    changed(plugin)
    real = getattr(finder_module.FINDER, step)

    def racing(*arguments):
        got.extend(in_a_thread("demo.part"))
        sys.modules["demo"] = demo  # as a thread sees it that had it before
        got.extend(in_a_thread("demo.part"))
        return real(*arguments)

    got: list[object] = []
    monkeypatch.setattr(finder_module.FINDER, step, racing)
    plugin.unload()
    assert len(got) >= 2
    assert {type(one) for one in got} == {ModuleNotFoundError}


def test_what_was_found_before_the_unloading_is_not_executed_after_it(loading):
    plugin = loading(FILES)
    plugin.import_module("demo")
    spec = importlib.util.find_spec("demo.part")
    plugin.unload()
    with pytest.raises(ImportError, match=r"acme/demo 1\.0, which has demo\.part, was unloaded"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_an_import_during_which_the_plugin_is_unloaded_is_an_import_error(loading):
    plugin = loading({"demo/__init__.py": "import sys; sys.demo_hook(); x = 1\n"})
    sys.demo_hook = plugin.unload
    try:
        with pytest.raises(ImportError, match=r"acme/demo 1\.0, which has demo, was unloaded"):
            importlib.import_module("demo")
    finally:
        del sys.demo_hook
    assert "demo" not in sys.modules


def test_what_executes_a_module_beside_sys_modules_may_do_so(loading):
    loading(FILES)
    spec = importlib.util.find_spec("demo")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "demo" not in sys.modules


# --- after --------------------------------------------------------------------------------------


def test_an_old_package_leads_nobody_to_its_directory(loading, monkeypatch):
    plugin = loading(FILES)
    demo = plugin.import_module("demo")
    directory = changed(plugin)
    plugin.unload()
    assert run_all_in(demo.__path__) == []
    monkeypatch.setitem(sys.modules, "demo", demo)
    for finders in ([], [LooksItself]):
        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, *finders])
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("demo.part")
    monkeypatch.syspath_prepend(str(directory))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("part")


def test_control_an_ordinary_package_does(tmp_path, monkeypatch):
    (tmp_path / "part.py").write_text(EVIL)
    assert run_all_in([str(tmp_path)]) == ["evil"]
    del sys.demo_evil


def test_another_hook_in_front_changes_nothing(loading, monkeypatch):
    monkeypatch.setattr(sys, "path_hooks", list(sys.path_hooks))
    plugin = loading(FILES)
    demo = plugin.import_module("demo")
    changed(plugin)
    sys.path_hooks.insert(0, FileFinder.path_hook((SourceFileLoader, [".py"])))
    plugin.unload()
    sys.path_importer_cache.clear()
    monkeypatch.setitem(sys.modules, "demo", demo)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo.part")


def test_the_same_names_may_come_from_the_host_afterwards(loading, tmp_path, monkeypatch):
    plugin = loading(FILES)
    plugin.import_module("demo.part")
    plugin.unload()
    make_release(tmp_path / "host", {**FILES, "demo/more.py": GOOD})
    monkeypatch.syspath_prepend(str(tmp_path / "host"))
    assert importlib.import_module("demo.more").kind == "good"


def test_what_is_loaded_again_is_found_again(tmp_path, monkeypatch):
    release = make_release(tmp_path, FILES)
    for _ in range(3):
        with load(*release) as plugin:
            demo = plugin.import_module("demo")
            assert run_all_in(demo.__path__) == ["good"]
        assert run_all_in(demo.__path__) == []


# --- other ways to a directory ------------------------------------------------------------------


@pytest.mark.parametrize("way", ["link", "proc", "dots", "relative"])
def test_no_other_way_to_a_directory_of_a_release_goes_round_the_manifest(
    tmp_path, monkeypatch, way
):
    place = tmp_path / "release"
    plugin = load(*make_release(place, {"demo/_vendor/demo_inner.py": GOOD}))
    inner = place / "demo/_vendor"
    (tmp_path / "link").symlink_to(place)
    entry = {
        "link": f"{tmp_path}/link/demo/_vendor",
        "proc": f"/proc/self/root{inner}",
        "dots": f"{place}/demo/../demo/_vendor",
        "relative": os.path.relpath(inner),
    }[way]
    if not Path(entry).exists():
        pytest.skip("no /proc here")
    (inner / "demo_dropped.py").write_text(EVIL)
    monkeypatch.setattr(sys, "path", [entry, *sys.path])
    assert importlib.import_module("demo_inner").kind == "good"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_dropped")
    plugin.unload()
    assert "demo_inner" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_inner")
    with load(plugin.manifest, place):
        assert importlib.import_module("demo_inner").kind == "good"


# --- odd circumstances --------------------------------------------------------------------------


def test_whatever_a_plugin_put_into_sys_modules_it_can_be_unloaded(tmp_path):
    odd = "import sys\nsys.modules['demo.fast'] = None\nsys.modules['demo.odd'] = object()\n"
    released = []
    plugin = load(
        *make_release(tmp_path, {"demo/__init__.py": odd}), released=lambda: released.append(1)
    )
    plugin.import_module("demo")
    plugin.unload()
    assert released == [1]
    assert not {name for name in sys.modules if name.startswith("demo")}


def test_a_plugin_can_be_loaded_where_the_working_directory_is_gone(tmp_path, monkeypatch):
    release = make_release(tmp_path / "release", FILES)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError):
        Path.cwd()
    monkeypatch.setattr(sys, "path", ["relative", *sys.path])
    with load(*release) as plugin:
        assert plugin.import_module("demo.part").kind == "good"
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("demo_none")


def test_who_is_told_of_an_unloading_may_wait_for_a_thread_that_loads(tmp_path):
    other = make_release(tmp_path / "other", {"demo_other.py": ""}, name="acme/other 1.0")
    ended = threading.Event()

    def load_other() -> None:
        load(*other).unload()
        ended.set()

    def released() -> None:
        threading.Thread(target=load_other, daemon=True).start()
        waited.append(ended.wait(60))

    waited: list[bool] = []
    load(*make_release(tmp_path / "release", FILES), released=released).unload()
    assert waited == [True]
