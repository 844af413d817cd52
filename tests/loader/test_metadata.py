"""Loaded plugins as importlib.metadata, and so pluggy, see them."""

import errno
import importlib.metadata
import os
import sys

import pluggy
import pytest
from packaging.utils import canonicalize_name

from plugin_manager.errors import CorruptError, ModuleConflictError, StoreAccessError
from plugin_manager.loader import _names

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
        plugin.directory / "demo_project" / "__init__.py"
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
    found, *_ = importlib.metadata.distributions(path=[str(plugin.directory)], name="demo_project")
    assert found.version == "1.2"
    assert not isinstance(found, importlib.metadata.PathDistribution)  # the verified one is first


def test_what_is_unloaded_has_left_the_metadata(loading):
    with loading(INSTALLED):
        assert importlib.metadata.version("demo_project") == "1.2"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("demo_project")


# --- what a release must not say -----------------------------------------------------------------


def metadata(name: str, version: str = "99.0") -> str:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"


@pytest.fixture
def hosts_own(tmp_path, monkeypatch):
    """A distribution that the host has installed, with an entry point; its directory."""
    directory = tmp_path / "site"
    info = directory / "Hosts_Own-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(metadata("Hosts.Own", "1.0"))
    (info / "entry_points.txt").write_text("[demo]\nhook = hosts:hook\n")
    monkeypatch.syspath_prepend(str(directory))
    return directory


def seen_of_the_host() -> tuple[str, list[str]]:
    entries = importlib.metadata.entry_points(group="demo")
    return importlib.metadata.version("hosts-own"), [entry.value for entry in entries]


IMPOSTOR = {
    "demo.py": "raise SystemExit('code ran')\n",
    "hosts.own-99.0.dist-info/METADATA": metadata("hosts_own"),
    "hosts.own-99.0.dist-info/entry_points.txt": "[demo]\nhook = demo:hook\n",
}


def test_an_own_distribution_that_the_host_has_is_a_conflict(loading, hosts_own):
    with pytest.raises(ModuleConflictError, match="distribution 'hosts-own'") as caught:
        loading(IMPOSTOR)
    assert caught.value.context["where"] == str(hosts_own)
    assert caught.value.context["distribution"] == "hosts-own"
    assert seen_of_the_host() == ("1.0", ["hosts:hook"])


def test_a_vendored_distribution_that_the_host_has_is_left_out(loading, hosts_own):
    loading(IMPOSTOR, vendored=["hosts-own"])
    assert seen_of_the_host() == ("1.0", ["hosts:hook"])
    assert importlib.metadata.version("acme.demo") == "1.0"


def test_control_without_the_judgement_it_would_speak_for_the_host(loading, hosts_own, monkeypatch):
    monkeypatch.setattr(_names, "judge_distributions", lambda _release, brought, *_: brought)
    loading(IMPOSTOR)
    assert seen_of_the_host() == ("99.0", ["demo:hook"])


def test_a_distribution_under_anothers_directory_name_is_left_out(loading, hosts_own):
    """`entry_points` goes by the name in METADATA, `version` by the directory's."""
    loading({"innocent-1.0.dist-info/METADATA": metadata("hosts-own")})
    assert seen_of_the_host() == ("1.0", ["hosts:hook"])
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("innocent")


def test_the_plugins_own_name_does_not_hide_the_hosts_distribution(loading, hosts_own):
    plugin = loading(
        {"demo.py": ""}, name="hosts/own 99.0", entry_points=[("demo", "hook", "demo:hook")]
    )
    assert seen_of_the_host() == ("1.0", ["hosts:hook"])
    assert [entry.value for entry in plugin.entry_points] == ["demo:hook"]


def test_two_plugins_with_the_same_own_distribution_conflict(loading):
    first = loading({"lib-1.0.dist-info/METADATA": metadata("lib", "1.0")}, name="acme/first 1.0")
    second = {"lib-2.0.dist-info/METADATA": metadata("lib", "2.0")}
    with pytest.raises(ModuleConflictError, match=r"from the plugin acme/first 1\.0"):
        loading(second, name="acme/second 1.0")
    first.unload()
    loading(second, name="acme/second 1.0")
    assert importlib.metadata.version("lib") == "2.0"


def test_a_distribution_called_like_another_plugin_conflicts(loading):
    loading({"data.txt": "x"}, name="acme/first 1.0")
    with pytest.raises(ModuleConflictError, match="'acme-first'"):
        loading({"acme_first-9.dist-info/METADATA": metadata("acme-first")}, name="acme/second 1.0")


def test_a_release_on_the_path_does_not_conflict_with_itself(loading, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "release"))
    loading({"lib-1.0.dist-info/METADATA": metadata("lib", "1.0")}, directory="release")
    assert importlib.metadata.version("lib") == "1.0"


BROKEN = {
    "no METADATA": {"odd-1.0.dist-info/top_level.txt": "odd\n"},
    "empty METADATA": {"odd-1.0.dist-info/METADATA": ""},
    "no Name": {"odd-1.0.dist-info/METADATA": "Version: 1.0\n"},
    "no Version": {"odd-1.0.dist-info/METADATA": "Name: odd\n"},
    "no version": {"odd-1.0.dist-info/METADATA": metadata("odd", "one")},
    "no UTF-8 in the name": {"odd-1.0.dist-info/METADATA": b"Name: \xffodd\nVersion: 1.0\n"},
    "no name at all": {".dist-info/METADATA": metadata("")},
}


@pytest.mark.parametrize("files", BROKEN.values(), ids=BROKEN)
def test_what_is_no_distribution_is_left_out(loading, files):
    before = len(list(importlib.metadata.distributions()))
    loading(files)
    names = [distribution.name for distribution in importlib.metadata.distributions()]
    assert len(names) == before + 1  # the plugin's own
    assert "acme.demo" in names
    importlib.metadata.entry_points()
    importlib.metadata.packages_distributions()


def test_text_that_is_not_utf_8_is_read_all_the_same(loading):
    loading({"odd-1.0.dist-info/METADATA": metadata("odd", "1.0").encode() + b"Author: \xff\n"})
    assert importlib.metadata.metadata("odd")["Author"] == "\ufffd"
    importlib.metadata.entry_points()


NONSENSE = {
    "entry_points.txt": "[demo]\ngarbage\n",
    "RECORD": "a,b,c,d,e\n",
    "RECORD with a long field": '"' + "x" * 200_000,
}


@pytest.mark.parametrize("vendored", [[], ["odd"]])
@pytest.mark.parametrize("file", NONSENSE)
def test_nonsense_in_other_files_harms_nobody_else(loading, hosts_own, file, vendored):
    info = "odd-1.0.dist-info"
    loading(
        {f"{info}/METADATA": metadata("odd", "1.0"), f"{info}/{file.split()[0]}": NONSENSE[file]},
        vendored=vendored,
    )
    assert importlib.metadata.version("odd") == "1.0"
    assert seen_of_the_host() == ("1.0", ["hosts:hook"])
    importlib.metadata.packages_distributions()


def test_a_release_without_distributions_looks_none_up(loading, monkeypatch):
    def asked(_self: object, _context: object) -> list[importlib.metadata.Distribution]:
        raise AssertionError("looked for distributions")

    finder = type("Finder", (), {"find_spec": lambda *_: None, "find_distributions": asked})()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    with loading({"demo.py": ""}) as plugin:
        plugin.import_module("demo")
    with pytest.raises(AssertionError, match="looked for distributions"):
        loading({"odd-1.0.dist-info/METADATA": metadata("odd", "1.0")})


@pytest.mark.parametrize("damaged", ["METADATA", "entry_points.txt", "RECORD"])
def test_what_is_damaged_after_the_load_is_not_everybodys_trouble(loading, damaged):
    plugin = loading(INSTALLED)
    path = next(p for p in plugin.files if p.endswith(f".dist-info/{damaged}"))
    (plugin.directory / path).write_text("Metadata-Version: 2.1\nName: evil\nVersion: 9\n")
    groups = importlib.metadata.entry_points().groups
    assert "pytest11" in groups  # the host's
    names = [one.name for one in importlib.metadata.distributions()]
    assert any(canonicalize_name(name) == "demo-project" for name in names)
    assert "evil" not in names
    with pytest.raises(CorruptError, match=damaged):
        importlib.metadata.distribution("demo_project").read_text(damaged)


@pytest.mark.parametrize("closed", ["METADATA", "entry_points.txt", "RECORD"])
def test_what_this_process_may_not_read_is_not_everybodys_trouble(loading, monkeypatch, closed):
    loading(INSTALLED)
    opening = os.open

    def refusing(path, *arguments, **options):
        if str(path).endswith(f".dist-info/{closed}"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opening(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    assert "pytest11" in importlib.metadata.entry_points().groups  # the host's
    names = [one.name for one in importlib.metadata.distributions()]
    assert any(canonicalize_name(name) == "demo-project" for name in names)
    distribution = importlib.metadata.distribution("demo_project")
    assert closed != "RECORD" or distribution.files is None
    with pytest.raises(StoreAccessError, match=closed):
        distribution.read_text(closed)


def test_files_of_a_record_are_read_verified(loading):
    plugin = loading(INSTALLED)
    files = {str(path): path for path in importlib.metadata.files("demo_project")}
    path, file = next((p, f) for p, f in files.items() if p.endswith(".py"))
    assert file.read_text().encode() == file.read_binary() == plugin.read(path)
    assert file.locate() == plugin.directory / path
    assert file.hash is None or file.hash.mode
    (plugin.directory / path).write_text("evil")
    for read in (file.read_text, file.read_binary):
        with pytest.raises(CorruptError):
            read()
