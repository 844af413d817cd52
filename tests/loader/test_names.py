"""Who gets which module name: reserved, the host's, another plugin's, vendored, namespaces."""

import importlib
import importlib.metadata
import importlib.resources
import sys
import types

import pytest

from plugin_manager.errors import ModuleConflictError
from plugin_manager.loader._modules import Contents
from plugin_manager.loader._names import Elsewhere, judge
from tests.loader.releases import make_release


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A directory of the host's own modules, on `sys.path`."""
    directory = tmp_path / "host"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))

    def write(path: str, source: str = ""):
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source)
        importlib.invalidate_caches()
        return target

    yield write
    for name in [name for name in sys.modules if name.startswith("demo")]:
        del sys.modules[name]


def vendoring(name: str, *paths: str) -> dict[str, str]:
    """The files of the vendored distribution `name` that installs modules at `paths`."""
    record = "".join(f"{path},,\n" for path in paths)
    return {
        **{path: f"brought = {path!r}\n" for path in paths},
        f"{name}-1.0.dist-info/METADATA": f"Name: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/RECORD": record,
    }


@pytest.mark.parametrize(
    "path",
    ["json/__init__.py", "typing.py", "plugin_manager/x.py", "sys.py", "xml/deep/x.py"],
)
@pytest.mark.parametrize("vendored", [[], ["thing"]])
def test_reserved_names_are_refused_before_any_code_runs(loading, path, vendored):
    files = {**vendoring("thing", path), path: "raise SystemExit"}
    with pytest.raises(ModuleConflictError, match="reserved") as caught:
        loading(files, vendored=vendored)
    assert caught.value.remedy
    assert caught.value.context["plugin"] == "acme/demo"


def test_control_ordinary_names_are_not(loading):
    loading(vendoring("thing", "demo_json/__init__.py"), vendored=["thing"])


def test_an_own_module_that_the_host_could_import_is_a_conflict(loading, host):
    where = host("demo.py", "raise SystemExit('imported')")
    with pytest.raises(ModuleConflictError, match="'demo'") as caught:
        loading({"demo/__init__.py": ""})
    assert str(where) in str(caught.value)
    assert caught.value.context["where"] == str(where)


def test_an_own_module_that_the_process_made_is_a_conflict(loading, monkeypatch):
    monkeypatch.setitem(sys.modules, "demo", types.ModuleType("demo"))
    with pytest.raises(ModuleConflictError, match="made while running"):
        loading({"demo/__init__.py": ""})
    assert isinstance(sys.modules.pop("demo"), types.ModuleType)


def test_a_refused_plugin_changes_nothing(loading, host):
    host("demo_taken.py")
    before = list(sys.meta_path), list(sys.path_hooks), dict(sys.path_importer_cache)
    with pytest.raises(ModuleConflictError):
        loading({"demo_free.py": "", "demo_taken.py": ""})
    assert (list(sys.meta_path), list(sys.path_hooks)) == before[:2]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_free")


def test_a_vendored_module_that_the_host_has_is_shared(loading, host):
    where = host("demo_lib/__init__.py", "brought = 'host'\n")
    plugin = loading(
        {
            **vendoring("Demo.Lib", "demo_lib/__init__.py", "demo_lib/extra.py"),
            "demo.py": "import demo_lib\n",
        },
        vendored=["demo-lib"],
    )
    assert plugin.shared == {"demo_lib": str(where)}
    assert plugin.import_module("demo").demo_lib.brought == "host"
    assert sorted(plugin.modules) == ["demo"]
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("demo-lib")  # the host's own has no metadata
    plugin.unload()
    assert "demo_lib" in sys.modules


def test_a_vendored_module_that_the_host_lacks_is_the_plugins(loading):
    plugin = loading(vendoring("demo_lib", "demo_lib.py"), vendored=["demo-lib"])
    assert plugin.shared == {}
    assert plugin.import_module("demo_lib").brought == "demo_lib.py"


def test_what_is_vendored_is_told_by_its_record(loading, host):
    """A plugin's own module called like a distribution that it vendors is not that distribution."""
    host("demo_lib.py")
    with pytest.raises(ModuleConflictError, match="'demo_lib'"):
        loading(
            {**vendoring("demo_lib", "demo_lib_impl.py"), "demo_lib.py": ""},
            vendored=["demo-lib"],
        )


def test_the_places_of_wheels_are_understood(loading, host):
    host("demo_lib.py")
    files = vendoring("demo_lib", "demo_lib.py")
    files["demo_lib-1.0.dist-info/RECORD"] = "demo_lib-1.0.data/purelib/demo_lib.py,,\n"
    assert "demo_lib" in loading(files, vendored=["demo-lib"]).shared


def test_without_a_record_top_level_names_tell(loading, host):
    host("demo_lib.py")
    files = vendoring("demo_lib", "demo_lib.py")
    del files["demo_lib-1.0.dist-info/RECORD"]
    files["demo_lib-1.0.dist-info/top_level.txt"] = "demo_lib\n"
    assert "demo_lib" in loading(files, vendored=["demo-lib"]).shared


def test_two_plugins_with_the_same_own_module_conflict(loading):
    first = loading({"demo.py": "x = 1\n"}, name="acme/first 1.0")
    with pytest.raises(ModuleConflictError, match=r"the plugin acme/first 1\.0"):
        loading({"demo.py": "x = 2\n"}, name="acme/second 1.0")
    assert first.import_module("demo").x == 1


def test_a_plugin_conflicts_with_its_own_second_copy(loading):
    loading({"demo.py": ""})
    with pytest.raises(ModuleConflictError, match="Unload"):
        loading({"demo.py": ""}, name="acme/demo 2.0")


def test_two_plugins_share_what_both_vendor_until_the_last_is_unloaded(loading):
    files = vendoring("demo_lib", "demo_lib/__init__.py", "demo_lib/late.py")
    first = loading(files, name="acme/first 1.0", vendored=["demo-lib"])
    second = loading(files, name="acme/second 1.0", vendored=["demo-lib"])
    assert second.shared == {"demo_lib": "the plugin acme/first 1.0"}
    lib = second.import_module("demo_lib")
    assert lib.__file__.startswith(str(first.directory))
    first.unload()
    assert sys.modules["demo_lib"] is lib
    (first.directory / "demo_lib" / "dropped.py").write_text("raise SystemExit")
    assert second.import_module("demo_lib.late").brought == "demo_lib/late.py"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_lib.dropped")
    second.unload()
    assert "demo_lib" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_lib")


def test_control_without_sharers_modules_go_at_once(loading):
    first = loading(vendoring("demo_lib", "demo_lib/__init__.py"), vendored=["demo-lib"])
    first.import_module("demo_lib")
    first.unload()
    assert "demo_lib" not in sys.modules


# --- namespace packages ------------------------------------------------------------------------


def test_namespace_packages_of_plugins_merge(loading):
    first = loading({"demo_ns/one.py": "", "demo_ns/deep/a.py": ""}, name="acme/first 1.0")
    namespace = first.import_module("demo_ns")
    assert first.import_module("demo_ns.deep.a")
    assert first.import_module("demo_ns.one") is namespace.one
    second = loading(
        {"demo_ns/two/__init__.py": "", "demo_ns/deep/b.py": "", "demo_ns/d.txt": "text"},
        name="acme/second 1.0",
    )
    assert second.import_module("demo_ns.two").__file__.startswith(str(second.directory))
    assert second.import_module("demo_ns.deep.b")
    assert list(namespace.__path__) == [str(p.directory / "demo_ns") for p in (first, second)]
    assert namespace.__path__[-1] == str(second.directory / "demo_ns")
    assert importlib.resources.files("demo_ns").joinpath("d.txt").read_text() == "text"
    (second.directory / "demo_ns" / "dropped.py").write_text("raise SystemExit")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_ns.dropped")
    first.unload()
    assert sys.modules["demo_ns"] is namespace
    assert list(namespace.__path__) == [str(second.directory / "demo_ns")]
    assert not hasattr(namespace, "one")
    assert "demo_ns.deep.a" not in sys.modules
    assert "demo_ns.deep.b" in sys.modules
    second.unload()
    assert "demo_ns" not in sys.modules


@pytest.mark.parametrize("imported_before", [True, False])
def test_namespace_packages_merge_with_the_hosts(loading, host, imported_before):
    host("demo_ns/hosts.py", "x = 'host'\n")
    host("demo_ns/deep/hosts.py", "x = 'host'\n")
    if imported_before:
        importlib.import_module("demo_ns.deep")
        path = sys.modules["demo_ns"].__path__
    plugin = loading({"demo_ns/own.py": "x = 'own'\n", "demo_ns/deep/own.py": "x = 'own'\n"})
    for name in ("demo_ns", "demo_ns.deep"):
        assert importlib.import_module(f"{name}.hosts").x == "host"
        assert importlib.import_module(f"{name}.own").x == "own"
    assert sorted(plugin.modules) == ["demo_ns.deep.own", "demo_ns.own"]
    plugin.unload()
    assert "demo_ns.own" not in sys.modules
    if imported_before:
        assert sys.modules["demo_ns"].__path__ is path
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_ns.own")
    assert importlib.import_module("demo_ns.deep.hosts").x == "host"


def test_a_namespace_of_which_the_host_decides_is_left_alone(loading, host):
    host("demo_ns/__init__.py")
    path = importlib.import_module("demo_ns").__path__
    plugin = loading(vendoring("demo_lib", "demo_ns/lib.py"), vendored=["demo-lib"])
    assert list(plugin.shared) == ["demo_ns.lib"]
    assert sys.modules["demo_ns"].__path__ is path
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_ns.lib")


def test_another_plugins_data_is_no_part_of_a_namespace(loading):
    first = loading({"demo_ns/one.py": "", "demo_ns/deep/data.txt": ""}, name="acme/first 1.0")
    first.import_module("demo_ns.one")
    second = loading({"demo_ns/deep/own.py": ""}, name="acme/second 1.0")
    second.import_module("demo_ns.deep.own")
    assert list(sys.modules["demo_ns.deep"].__path__) == [
        str(second.directory / "demo_ns" / "deep")
    ]


def test_within_a_merged_namespace_names_are_judged_one_by_one(loading, host):
    host("demo_ns/taken.py", "brought = 'host'\n")
    files = vendoring("demo_lib", "demo_ns/taken.py", "demo_ns/free.py")
    plugin = loading(files, vendored=["demo-lib"])
    assert list(plugin.shared) == ["demo_ns.taken"]
    assert importlib.import_module("demo_ns.taken").brought == "host"
    assert importlib.import_module("demo_ns.free").brought == "demo_ns/free.py"
    plugin.unload()
    for name in ("demo_ns.taken", "demo_ns"):
        sys.modules.pop(name, None)
    with pytest.raises(ModuleConflictError, match=r"demo_ns\.taken"):
        loading({"demo_ns/taken.py": ""})


def test_a_regular_package_and_a_namespace_of_one_name_conflict(loading, host):
    loading({"demo_ns/__init__.py": ""}, name="acme/first 1.0")
    with pytest.raises(ModuleConflictError, match="acme/first"):
        loading({"demo_ns/own.py": ""}, name="acme/second 1.0")
    loading({"demo_other/own.py": ""}, name="acme/third 1.0")
    with pytest.raises(ModuleConflictError, match="acme/third"):
        loading({"demo_other/__init__.py": ""}, name="acme/fourth 1.0")
    host("demo_hosts/__init__.py")
    with pytest.raises(ModuleConflictError, match="demo_hosts"):
        loading({"demo_hosts/own.py": ""}, name="acme/fifth 1.0")


def test_a_directory_of_the_host_that_only_could_be_a_namespace_is_no_obstacle(loading, host):
    host("demo/readme.txt")
    assert loading({"demo/__init__.py": "x = 1\n"}).import_module("demo").x == 1


def test_but_one_that_is_imported_is(loading, host):
    host("demo/readme.txt")
    importlib.import_module("demo")
    with pytest.raises(ModuleConflictError, match="the directory"):
        loading({"demo/__init__.py": ""})


# --- the judgement itself ----------------------------------------------------------------------


def test_the_judgement_is_pure(tmp_path):
    release = make_release(tmp_path, {"demo.py": ""})[0].release
    brought = Contents({"demo": "demo.py", "lib": "lib.py"}, {})
    names = judge(release, brought, {"lib": "lib"}, lambda name: None)
    assert (names.owned, dict(names.shared)) == (("demo", "lib"), {})
    names = judge(
        release, brought, {"lib": "lib"}, lambda name: Elsewhere("X") if name == "lib" else None
    )
    assert (names.owned, dict(names.shared)) == (("demo",), {"lib": "X"})
