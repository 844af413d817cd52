"""What a host hears of imports: the beginning before any code, success at the very end."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pickle
import runpy
import sys
import threading

import pytest

from plugin_manager.errors import InvalidInputError
from plugin_manager.loader import _imports, load
from tests.loader.releases import make_release

SAY = "import sys\nsys.heard.append(__name__)\n"
FILES = {
    "demo/__init__.py": SAY + "VALUE = 1\n",
    "demo/views.py": SAY + "def main(): pass\n",
    "demo/more.py": SAY,
    "demo/deep/__init__.py": SAY + "__all__ = ['one', 'two']\n",
    "demo/deep/one.py": SAY,
    "demo/deep/two.py": SAY,
    "demo/lazy/__init__.py": SAY + "def __getattr__(name):\n"
    "    if name != 'later': raise AttributeError(name)\n"
    "    return 1\n",
    "demo/nested.py": SAY + "import demo.more\nfrom demo import views\n",
    "space/part/__init__.py": SAY,
    "space/other/__init__.py": SAY,
}


@pytest.fixture
def heard(monkeypatch):
    found: list[str] = []
    monkeypatch.setattr(sys, "heard", found, raising=False)
    return found


@pytest.fixture
def plugin(tmp_path, heard):
    with loaded(tmp_path / "release", heard, FILES) as plugin:
        yield plugin


def loaded(directory, heard, files, **more):
    return load(
        *make_release(directory, files, **more),
        importing=lambda: heard.append("begins"),
        imported=lambda error: heard.append(repr(error) if error else "good"),
    )


STATEMENTS = {
    "import demo": ["begins demo good"],
    "import demo.views": ["begins demo", "begins demo.views good"],
    "import demo.views as v": ["begins demo", "begins demo.views good"],
    "import demo.deep.one": ["begins demo", "begins demo.deep", "begins demo.deep.one good"],
    "from demo import views": ["begins demo", "begins demo.views good"],
    "from demo import views, VALUE, more": [
        "begins demo", "begins demo.views", "begins demo.more good",
    ],
    "from demo import VALUE": ["begins demo good"],
    "from demo.views import main": ["begins demo", "begins demo.views good"],
    "from demo.deep import *": [
        "begins demo", "begins demo.deep", "begins demo.deep.one", "begins demo.deep.two good",
    ],
    "from demo.lazy import later": ["begins demo", "begins demo.lazy good"],
    "from space import part": ["begins space.part good"],
    "from space import part, other": ["begins space.part", "begins space.other good"],
    "import demo.nested": ["begins demo", "begins demo.nested demo.more demo.views good"],
    "import importlib; importlib.import_module('demo.views')": [
        "begins demo", "begins demo.views good",
    ],
    "import demo; import demo.views": ["begins demo good", "begins demo.views good"],
    # What is missing after all: not good, though nothing of the release raised.
    "from demo import views, missing": ["begins demo", "begins demo.views good"],
}  # fmt: skip


@pytest.mark.parametrize("statement", STATEMENTS)
def test_an_import_is_good_when_the_whole_of_it_is(plugin, heard, statement):
    try:
        exec(statement, {})
    except ImportError:
        assert "missing" in statement
    assert " ".join(heard) == " ".join(STATEMENTS[statement])


def test_names_beyond_the_first_256_are_read_as_well(plugin, heard):
    many = "".join(f"name{number} = {number + 1000}\n" for number in range(400))
    exec(f"{many}from demo import views\n", {})
    assert heard == ["begins", "demo", "begins", "demo.views", "good"]


def test_control_without_a_look_at_the_stack_the_parent_is_taken_for_all(
    tmp_path, heard, monkeypatch
):
    monkeypatch.setattr(_imports, "is_over", lambda _: True)
    with loaded(tmp_path, heard, FILES):
        exec("import demo.views", {})
    assert heard == ["begins", "demo", "good", "begins", "demo.views", "good"]


def test_a_host_module_that_imports_a_plugin_is_no_part_of_it(plugin, heard, tmp_path, monkeypatch):
    host = tmp_path / "host"
    host.mkdir()
    (host / "application.py").write_text("import demo.views\nimport sys\nsys.heard.append('on')\n")
    monkeypatch.syspath_prepend(host)
    importlib.import_module("application")
    del sys.modules["application"]
    assert heard == ["begins", "demo", "begins", "demo.views", "good", "on"]


def test_a_loader_that_somebody_calls_himself_executes_the_whole(plugin, heard):
    spec = importlib.util.find_spec("demo.views")
    heard.clear()
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert heard == ["begins", "demo.views", "good"]


def test_import_module_is_one_import(plugin, heard):
    plugin.import_module("demo.views")
    assert heard == ["begins", "demo", "demo.views", "good"]
    heard.clear()
    plugin.import_module("demo.views")
    assert heard == ["begins", "good"], "there already, which is as good"


def test_asking_for_a_module_that_the_release_lacks_is_neither(plugin, heard):
    with pytest.raises(ModuleNotFoundError, match=r"demo\.none"):
        plugin.import_module("demo.none")
    assert heard == ["begins", "demo"]


def test_a_module_that_lacks_another_is_no_such_question(tmp_path, heard):
    lacking = {"demo.py": "import nowhere_to_be_found\n"}
    with (
        loaded(tmp_path, heard, lacking) as plugin,
        pytest.raises(ModuleNotFoundError, match="nowhere"),
    ):
        plugin.import_module("demo")
    assert heard == ["begins", """ModuleNotFoundError("No module named 'nowhere_to_be_found'")"""]


ENTRIES = [("app", "main", "demo.views:main"), ("app", "gone", "demo.views:gone")]
METADATA = {
    "demo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
    "demo-1.0.dist-info/entry_points.txt": "[app]\nmain=demo.views:main\ngone=demo.views:gone\n",
}


@pytest.mark.parametrize("way", ["manifest", "importlib.metadata", "a distribution's"])
def test_an_entry_point_is_good_with_what_it_names_in_the_module(tmp_path, heard, way):
    files = {**FILES, **(METADATA if way == "a distribution's" else {})}
    with loaded(tmp_path, heard, files, entry_points=ENTRIES) as plugin:
        found = (
            plugin.entry_points
            if way == "manifest"
            else importlib.metadata.entry_points(group="app")
        )
        entries = {entry.name: entry for entry in found}
        assert entries["main"].load().__name__ == "main"
        assert heard == ["begins", "demo", "demo.views", "good"]
        heard.clear()
        with pytest.raises(AttributeError, match="gone"):
            entries["gone"].load()
        assert [one.partition("(")[0] for one in heard] == ["begins", "AttributeError"]
        if way == "manifest":
            assert pickle.loads(pickle.dumps(entries["main"])) == entries["main"]


def test_what_a_thread_imports_meanwhile_is_not_the_whole(tmp_path, heard):
    files = {
        "demo.py": "import importlib, sys, threading\n"
        "one = threading.Thread(target=importlib.import_module, args=('helper',))\n"
        "one.start(); one.join()\nsys.heard.append('demo')\n",
        "helper.py": SAY,
    }
    with loaded(tmp_path, heard, files):
        exec("import demo", {})
    assert heard == ["begins", "begins", "helper", "demo", "good"]


def test_of_threads_that_import_at_once_the_last_says_that_it_is_good(tmp_path, heard, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(sys, "go", go, raising=False)
    files = {"demo.py": SAY, "slow.py": SAY + "assert sys.go.wait(60)\n"}
    with loaded(tmp_path, heard, files) as plugin:
        slow = threading.Thread(target=plugin.import_module, args=("slow",))
        slow.start()
        while "slow" not in heard:
            go.wait(0.01)
        assert plugin.executing
        plugin.import_module("demo")
        assert heard == ["begins", "slow", "begins", "demo"]
        go.set()
        slow.join()
        assert heard == ["begins", "slow", "begins", "demo", "good"]
        assert not plugin.executing


def test_what_runpy_runs_is_never_good_by_what_it_imports(tmp_path, heard):
    files = {**FILES, "demo/tool.py": SAY + "import demo.more\nfrom demo.deep import one\n"}
    with loaded(tmp_path, heard, files):
        runpy.run_module("demo.tool")
        assert "demo.deep.one" in heard
        assert "good" not in heard
        exec("import demo.views", {})
        assert heard[-1] == "good"


def test_code_that_is_handed_out_begins(plugin, heard):
    assert importlib.util.find_spec("demo").loader.get_code("demo")
    assert heard == ["begins"]


@pytest.mark.parametrize("verify", ["All", True, None])
def test_any_other_way_to_verify_is_refused(tmp_path, verify):
    with pytest.raises(InvalidInputError, match="verify="):
        load(*make_release(tmp_path, FILES), verify=verify)
