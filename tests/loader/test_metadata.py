"""Loaded plugins as importlib.metadata, and so pluggy, see them."""

import importlib.metadata
import sys

import pluggy
import pytest

INSTALLED = {
    "demo_project/__init__.py": "def hook(): return 'called'\n",
    "demo_project-1.2.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: Demo.Project\nVersion: 1.2\n"
    ),
    "demo_project-1.2.dist-info/entry_points.txt": "[demo]\nhook = demo_project:hook\n",
    "demo_project-1.2.dist-info/RECORD": "demo_project/__init__.py,,\n",
}


def test_distributions_in_the_bundle_are_found(loading):
    plugin = loading(INSTALLED)
    assert importlib.metadata.version("demo-project") == "1.2"
    assert importlib.metadata.version("Demo_Project") == "1.2"
    distribution = importlib.metadata.distribution("demo-project")
    assert distribution.read_text("absent") is None
    assert [str(file) for file in distribution.files] == ["demo_project/__init__.py"]
    assert distribution.locate_file("demo_project/__init__.py") == (
        plugin.path / "demo_project" / "__init__.py"
    )
    (entry,) = importlib.metadata.entry_points(group="demo")
    assert entry.load()() == "called"
    plugin.unload()
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("demo-project")
    assert not importlib.metadata.entry_points(group="demo")


def test_a_plugin_without_one_gets_a_distribution_of_its_own(loading):
    loading(
        {"demo.py": "def hook(): return 'called'\n"},
        name="acme/demo 3.0",
        entry_points=[("demo", "hook", "demo:hook")],
    )
    assert importlib.metadata.version("acme.demo") == "3.0"
    distribution = importlib.metadata.distribution("acme-demo")
    assert distribution.metadata["Summary"] == "A release made by hand"
    assert distribution.files is None
    (entry,) = importlib.metadata.entry_points(group="demo")
    assert entry.load()() == "called"


def test_a_plugin_that_vendors_all_its_distributions_has_one_besides(loading):
    loading(
        {**INSTALLED, "demo_own.py": "def hook(): pass\n"},
        name="acme/own 3.0",
        vendored=["demo-project"],
        entry_points=[("demo", "own", "demo_own:hook")],
    )
    names = {entry.name for entry in importlib.metadata.entry_points(group="demo")}
    assert names == {"own", "hook"}
    assert importlib.metadata.version("acme.own") == "3.0"
    assert importlib.metadata.version("demo_project") == "1.2"


def test_pluggy_finds_hooks_of_loaded_plugins(loading):
    loading(INSTALLED, entry_points=[("demo", "hook", "demo_project:hook")])
    manager = pluggy.PluginManager("demo")
    assert manager.load_setuptools_entrypoints("demo") == 1
    ((plugin, facade),) = manager.list_plugin_distinfo()
    assert plugin() == "called"
    assert facade.project_name == "Demo.Project"


def test_who_asks_about_other_directories_is_not_told_of_plugins(loading, tmp_path):
    plugin = loading(INSTALLED)
    assert list(importlib.metadata.distributions(path=[str(tmp_path / "empty")])) == []
    found, *_ = importlib.metadata.distributions(path=[str(plugin.path)], name="demo_project")
    assert found.version == "1.2"
    assert not isinstance(found, importlib.metadata.PathDistribution)  # the verified one is first


def test_a_host_without_plugins_keeps_its_import_system(loading):
    with loading(INSTALLED):
        finder = sys.meta_path[0]
        assert type(finder).__name__ == "PluginFinder"
    assert finder not in sys.meta_path
