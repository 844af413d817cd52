"""Files that change, appear or vanish under a loaded release: what runs is what was signed.

Beside each attack stands a control: the same attack on ordinary loading, where it works.
"""

import importlib
import importlib.machinery
import importlib.resources
import os
import pkgutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from plugin_manager.errors import CorruptError
from plugin_manager.loader import _loaders, _tree, load
from plugin_manager.store import release_faults
from tests.loader.hosts import run_host
from tests.loader.releases import bytecode, make_release, with_bytecode

GOOD = "kind = 'good'\n"
EVIL = "kind = 'evil'\n"


def replace(path: Path, content: str | bytes) -> None:
    """Put another file in the place of `path`, as quickly as a file system can."""
    other = path.with_name(path.name + ".other")
    other.write_bytes(content.encode() if isinstance(content, str) else content)
    other.replace(path)


@pytest.fixture
def plainly(monkeypatch):
    """Ordinary import from a directory, for controls."""

    def plainly(directory: Path, name: str):
        monkeypatch.syspath_prepend(str(directory))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield plainly
    for name in [name for name in sys.modules if name.startswith("demo")]:
        del sys.modules[name]


# --- what is damaged when it is loaded ----------------------------------------------------------


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")  # the same content, but whoever owns the target can change it


DAMAGE = {
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "missing": Path.unlink,
    "executable": lambda path: path.chmod(0o755),
    "a link": _link,
    "a FIFO": _fifo,
    "a directory": _directory,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("path", ["demo/__init__.py", "demo/data.bin"])
def test_damage_is_refused_at_load_naming_the_file(tmp_path, damage, path):
    release = make_release(tmp_path, {"demo/__init__.py": GOOD, "demo/data.bin": b"x" * 100_000})
    load(*release).unload()
    damage(tmp_path / path)
    with pytest.raises(CorruptError) as caught:
        load(*release)
    assert caught.value.paths == (path,)
    assert path in str(caught.value)
    assert "pluginctl repair acme/demo" in caught.value.remedy


def test_every_damaged_file_is_named(tmp_path):
    files = {f"demo/file{number:02}.py": GOOD for number in range(20)}
    release = make_release(tmp_path, files)
    for path in list(files)[:15]:
        replace(tmp_path / path, EVIL)
    with pytest.raises(CorruptError) as caught:
        load(*release)
    assert caught.value.paths == tuple(list(files)[:15])
    assert "and 5 more" in str(caught.value)


@pytest.mark.parametrize("position", [0, 10_000_000, 20_999_999])
def test_a_byte_of_a_large_file_is_enough(tmp_path, position):
    release = make_release(tmp_path, {"model.bin": bytes(21_000_000)})
    load(*release).unload()
    with (tmp_path / "model.bin").open("r+b") as file:
        file.seek(position)
        file.write(b"\1")
    with pytest.raises(CorruptError, match=r"model\.bin \(damaged\)"):
        load(*release)


@pytest.mark.parametrize("verify", ["all", "on-read"])
@pytest.mark.parametrize(
    "kind", ["missing", "link", "loop", "dangling", "file", "FIFO", "below a loop"]
)
def test_a_release_directory_that_is_none_is_corrupt_and_named(tmp_path, kind, verify):
    manifest, real = make_release(tmp_path / "elsewhere", {"demo.py": GOOD})
    place = tmp_path / "releases" / "1.0"
    place.parent.mkdir()
    if kind == "link":
        place.symlink_to(real)  # the signed content, but outside the store
    elif kind == "loop":
        place.symlink_to(place)
    elif kind == "dangling":
        place.symlink_to("nowhere")
    elif kind == "file":
        place.write_text("a file")
    elif kind == "FIFO":
        os.mkfifo(place)
    elif kind == "below a loop":
        place.parent.rmdir()
        place.parent.symlink_to(place.parent)
    with pytest.raises(CorruptError) as caught:
        load(manifest, place, verify=verify)
    assert caught.value.paths == (str(place),)
    assert str(place) in str(caught.value)
    assert "pluginctl repair acme/demo" in caught.value.remedy


def test_control_the_directory_itself_loads(loading):
    assert loading({"demo.py": GOOD}).import_module("demo").kind == "good"


# --- what changes afterwards --------------------------------------------------------------------


@pytest.mark.parametrize("with_pyc", [False, True])
@pytest.mark.parametrize(
    "attack",
    [replace, lambda path, evil: path.write_bytes(evil), None],
    ids=["replaced", "rewritten", "linked"],
)
def test_a_module_changed_after_the_load_does_not_run(loading, tmp_path, with_pyc, attack):
    files, tags = with_bytecode({"demo.py": GOOD}) if with_pyc else ({"demo.py": GOOD}, {})
    plugin = loading(files, tags=tags)
    path = list(files)[-1]
    evil = bytecode(EVIL, "demo.py")[1] if with_pyc else EVIL.encode()
    if attack is None:
        (tmp_path / "evil").write_bytes(evil)
        (plugin.directory / path).unlink()
        (plugin.directory / path).symlink_to(tmp_path / "evil")
    else:
        attack(plugin.directory / path, evil)
    with pytest.raises(CorruptError) as caught:
        plugin.import_module("demo")
    assert caught.value.paths == (path,)
    assert plugin.modules == {}


def test_control_checking_first_and_importing_then_runs_it(tmp_path, plainly):
    manifest, _ = make_release(tmp_path, {"demo.py": GOOD})
    assert release_faults(tmp_path, manifest, manifest.files) == []
    replace(tmp_path / "demo.py", EVIL)
    assert plainly(tmp_path, "demo").kind == "evil"


def _swapping(monkeypatch):
    """Let each file change right after it was read and found good."""
    read = _tree.read_verified

    def read_then_swap(directory, manifest, file):
        data = read(directory, manifest, file)
        replace(directory / file.path, EVIL)
        return data

    monkeypatch.setattr(_tree, "read_verified", read_then_swap)


def test_the_bytes_that_were_hashed_are_the_bytes_that_run(loading, monkeypatch):
    plugin = loading({"demo.py": GOOD})
    _swapping(monkeypatch)
    assert plugin.import_module("demo").kind == "good"
    assert (plugin.directory / "demo.py").read_text() == EVIL


def test_control_a_loader_that_reads_again_is_caught(loading, monkeypatch):
    plugin = loading({"demo.py": GOOD})
    _swapping(monkeypatch)
    verified = _loaders._Verified.get_data

    def get_data(self, path):
        verified(self, path)
        return Path(path).read_bytes()

    monkeypatch.setattr(_loaders._Verified, "get_data", get_data)
    assert plugin.import_module("demo").kind == "evil"


# --- what is dropped in -------------------------------------------------------------------------

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
DROPPED = {
    "demo/dropped.py": EVIL,
    "demo/dropped/__init__.py": EVIL,
    "demo/dropped.pyc": bytecode(EVIL, "x.py")[1],
    f"demo/dropped{SUFFIX}": b"\x7fELF",
    "demo/dropped/inner.py": EVIL,
    "dropped_top.py": EVIL,
    "dropped.pth": "import sys; sys.demo_evil = True\n",
}
# Each shadows a module of the release, as Python's order of suffixes or its caches would have it.
SHADOWING = {
    "demo/real/__init__.py": EVIL,
    f"demo/real{SUFFIX}": b"\x7fELF",
    bytecode(EVIL, "demo/real.py")[0]: bytecode(EVIL, "demo/real.py")[1],
    f"demo{SUFFIX}": b"\x7fELF",
}


def drop(directory: Path, files: dict[str, str | bytes]) -> None:
    for path, content in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)


def as_they_are(_: Path) -> None:
    pass


def caches_cleared(_: Path) -> None:
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def another_hook_first(_: Path) -> None:
    """What runtime type checkers install: a hook of their own for every directory."""
    details = (importlib.machinery.SourceFileLoader, [".py"])
    sys.path_hooks.insert(0, importlib.machinery.FileFinder.path_hook(details))
    sys.path_importer_cache.clear()


def finders_cached(directory: Path) -> None:
    for path in (directory, directory / "demo"):
        sys.path_importer_cache[str(path)] = importlib.machinery.FileFinder(
            str(path), (importlib.machinery.SourceFileLoader, [".py"])
        )


@pytest.fixture
def _import_system_restored(monkeypatch):
    monkeypatch.setattr(sys, "path_hooks", list(sys.path_hooks))
    monkeypatch.setattr(sys, "path_importer_cache", dict(sys.path_importer_cache))


@pytest.mark.usefixtures("_import_system_restored")
@pytest.mark.parametrize(
    "circumstances", [as_they_are, caches_cleared, another_hook_first, finders_cached]
)
def test_dropped_in_modules_are_not_found(loading, circumstances):
    plugin = loading({"demo/__init__.py": "", "demo/real.py": GOOD})
    drop(plugin.directory, {**DROPPED, **SHADOWING})
    circumstances(plugin.directory)
    assert plugin.import_module("demo.real").kind == "good"
    for name in ("demo.dropped", "demo.dropped.inner", "dropped_top"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
    assert importlib.util.find_spec("demo.dropped") is None
    assert importlib.util.find_spec("dropped_top") is None
    assert importlib.util.find_spec("demo.real").origin == str(
        plugin.directory / "demo" / "real.py"
    )
    assert not hasattr(sys, "demo_evil")
    plugin.verify()  # what was signed is as it was signed


class Looking:
    """A finder that looks into packages' directories itself, as pyximport's does."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        for directory in path or ():
            if (file := Path(directory) / f"{name.rpartition('.')[2]}.py").exists():
                return importlib.util.spec_from_file_location(name, file)
        return None


def test_dropped_in_modules_are_not_found_by_finders_that_look_themselves(loading, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Looking])
    plugin = loading({"demo/__init__.py": ""})
    (plugin.directory / "demo" / "dropped.py").write_text(EVIL)
    plugin.import_module("demo")
    assert Looking.find_spec("demo.dropped", [str(plugin.directory / "demo")]), "control"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo.dropped")
    with pytest.raises(ModuleNotFoundError):
        importlib.util.find_spec("demo.dropped")
    monkeypatch.undo()
    assert importlib.util.find_spec("demo.dropped") is None


@pytest.mark.usefixtures("_import_system_restored")
def test_dropped_in_modules_are_not_listed(loading):
    plugin = loading({"demo/__init__.py": "", "demo/real.py": GOOD})
    finders_cached(plugin.directory)
    drop(plugin.directory, DROPPED)
    sys.path_importer_cache.clear()
    demo = plugin.import_module("demo")
    assert [module.name for module in pkgutil.iter_modules(demo.__path__)] == ["real"]


@pytest.mark.usefixtures("_import_system_restored")
def test_finders_that_the_host_made_before_the_load_are_forgotten(tmp_path):
    release = make_release(tmp_path, {"demo/__init__.py": "", "demo/real.py": GOOD})
    drop(tmp_path, DROPPED)
    finders_cached(tmp_path)
    with load(*release) as plugin:
        demo = plugin.import_module("demo")
        assert [module.name for module in pkgutil.iter_modules(demo.__path__)] == ["real"]


def test_control_plain_import_finds_what_is_dropped_in(tmp_path, plainly):
    drop(tmp_path, {"demo/__init__.py": "", "demo/real.py": GOOD, **DROPPED})
    (tmp_path / f"demo/dropped{SUFFIX}").unlink()
    assert plainly(tmp_path, "demo.dropped").kind == "evil"
    assert plainly(tmp_path, "dropped_top").kind == "evil"


@pytest.mark.parametrize("path", [path for path in SHADOWING if not path.endswith(SUFFIX)])
def test_control_plain_import_prefers_what_shadows(tmp_path, plainly, path):
    drop(tmp_path, {"demo/__init__.py": "", "demo/real.py": GOOD, path: SHADOWING[path]})
    assert plainly(tmp_path, "demo.real").kind == "evil"


STARTS = {
    "sitecustomize.py": "import sys; sys.demo_evil = True\n",
    "usercustomize.py": "import sys; sys.demo_evil = True\n",
    "dropped.pth": "import sys; sys.demo_evil = True\n",
}


def test_what_python_runs_at_its_start_does_not_run_from_a_release(tmp_path):
    release = make_release(tmp_path / "release", {"demo/__init__.py": "", "demo/part.py": GOOD})
    drop(tmp_path / "release", STARTS)
    out = run_host(
        tmp_path,
        [release],
        """
        import importlib, site
        out["kind"] = plugin.import_module("demo.part").kind
        site.main()
        out["found"] = []
        for name in ("sitecustomize", "usercustomize"):
            if importlib.util.find_spec(name) is not None:
                out["found"].append(importlib.util.find_spec(name).origin)
        out["evil"] = hasattr(sys, "demo_evil")
        """,
    )
    assert out["kind"] == "good"
    assert not [place for place in out["found"] if str(tmp_path) in place]
    assert out["evil"] is False


@pytest.mark.parametrize("name", ["sitecustomize.py", "dropped.pth"])
def test_control_it_does_from_a_directory_on_the_path(tmp_path, name):
    drop(tmp_path, {name: STARTS[name]})
    code = f"import site, sys; site.addsitedir({str(tmp_path)!r}); print(hasattr(sys, 'demo_evil'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "True\n"


# --- stale bytecode -----------------------------------------------------------------------------


def test_the_bytecode_of_an_earlier_release_is_refused(tmp_path):
    files, tags = with_bytecode({"demo.py": GOOD})
    release = make_release(tmp_path, files, tags=tags)
    cached, stale = bytecode(EVIL, "demo.py")  # signed once, with another release
    replace(tmp_path / cached, stale)
    with pytest.raises(CorruptError) as caught:
        load(*release)
    assert caught.value.paths == (cached,)
    with load(*release, verify="on-read") as plugin, pytest.raises(CorruptError):
        plugin.import_module("demo")


def test_bytecode_that_an_interpreter_left_behind_is_not_read(tmp_path):
    release = make_release(tmp_path, {"demo.py": GOOD})
    cached, stale = bytecode(EVIL, "demo.py")
    drop(tmp_path, {cached: stale})
    with load(*release) as plugin:
        assert plugin.import_module("demo").kind == "good"


def test_control_plain_import_runs_stale_bytecode(tmp_path, plainly):
    cached, stale = bytecode(EVIL, "demo.py")
    drop(tmp_path, {"demo.py": GOOD, cached: stale})
    assert plainly(tmp_path, "demo").kind == "evil"


# --- links in the place of directories ----------------------------------------------------------


@pytest.mark.parametrize("linked", ["demo", "demo/sub", "demo/sub/data"])
def test_a_link_in_the_place_of_a_directory_is_refused_and_named(tmp_path, linked):
    files = {"demo/__init__.py": "", "demo/sub/part.py": GOOD, "demo/sub/data/words.txt": "good"}
    release = make_release(tmp_path / "release", files)
    load(*release).unload()  # control: as it was
    place = tmp_path / "release" / linked
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")  # to the signed content
    with pytest.raises(CorruptError) as caught:
        load(*release)
    assert caught.value.paths == (linked,)
    assert "pluginctl repair acme/demo" in caught.value.remedy


@pytest.mark.parametrize("use", ["verify", "read"])
def test_a_link_in_the_place_of_the_release_since_the_load_began_is_refused(tmp_path, use):
    release = make_release(tmp_path / "release", {"words.txt": "good"})
    with load(*release, verify="on-read") as plugin:
        (tmp_path / "release").rename(tmp_path / "elsewhere")
        (tmp_path / "release").symlink_to(tmp_path / "elsewhere")  # to the signed content
        with pytest.raises(CorruptError) as caught:
            plugin.verify() if use == "verify" else plugin.read("words.txt")
    assert caught.value.paths == (".",)


@pytest.mark.parametrize("kind", ["file", "FIFO", "dangling", "loop"])
def test_what_is_no_directory_in_the_place_of_one_is_refused(tmp_path, kind):
    release = make_release(tmp_path / "release", {"demo.py": "", "data/words.txt": "good"})
    place = tmp_path / "release" / "data"
    place.rename(tmp_path / "elsewhere")
    if kind == "file":
        place.write_text("a file")
    elif kind == "FIFO":
        os.mkfifo(place)
    else:
        place.symlink_to(place if kind == "loop" else "nowhere")
    with pytest.raises(CorruptError) as caught:
        load(*release)
    assert caught.value.paths == ("data",)
    with load(*release, verify="on-read") as plugin, pytest.raises(CorruptError) as caught:
        plugin.read("data/words.txt")
    assert caught.value.paths == ("data",)


USES = {
    "read": lambda plugin: plugin.read("demo/sub/words.txt"),
    "open": lambda plugin: plugin.open("demo/sub/words.txt"),
    "path": lambda plugin: plugin.path("demo/sub/words.txt"),
    "memoryview": lambda plugin: plugin.memoryview("demo/sub/words.txt"),
    "verify": lambda plugin: plugin.verify(),
    "resource": lambda plugin: (
        importlib.resources.files(plugin.import_module("demo"))
        .joinpath("sub/words.txt")
        .read_text()
    ),
    "import": lambda plugin: plugin.import_module("demo.sub.part"),
    "native": lambda plugin: plugin.import_module("demo.sub.native"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("linked", ["demo", "demo/sub"])
def test_on_read_a_link_in_the_place_of_a_directory_is_refused_when_it_is_used(
    tmp_path, linked, use
):
    files = {
        "demo/__init__.py": "",
        "demo/sub/__init__.py": "",
        "demo/sub/part.py": GOOD,
        "demo/sub/words.txt": "good",
        f"demo/sub/native{SUFFIX}": b"nothing that is mapped",
        "other.py": GOOD,
    }
    release = make_release(tmp_path / "release", files)
    place = tmp_path / "release" / linked
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")  # to the signed content
    with load(*release, verify="on-read") as plugin:
        assert plugin.import_module("other").kind == "good"  # control: that is elsewhere
        with pytest.raises(CorruptError) as caught:
            USES[use](plugin)
        assert caught.value.paths == (linked,)
        assert "pluginctl repair acme/demo" in caught.value.remedy


@pytest.mark.parametrize("verify", ["all", "on-read"])
def test_a_link_put_there_after_the_load_leads_to_nothing_unsigned(tmp_path, verify):
    release = make_release(tmp_path / "release", {"demo/__init__.py": "", "demo/part.py": GOOD})
    elsewhere = tmp_path / "elsewhere"
    with load(*release, verify=verify) as plugin:
        plugin.import_module("demo")
        (tmp_path / "release" / "demo").rename(elsewhere)
        (tmp_path / "release" / "demo").symlink_to(elsewhere)
        drop(elsewhere, {"extra.py": EVIL})
        replace(elsewhere / "part.py", EVIL)
        with pytest.raises(ModuleNotFoundError):
            plugin.import_module("demo.extra")
        with pytest.raises(CorruptError) as caught:
            plugin.import_module("demo.part")
    assert caught.value.paths == ("demo/part.py",)


def test_control_plain_import_follows_the_link(tmp_path, plainly):
    drop(tmp_path / "elsewhere", {"__init__.py": "", "part.py": EVIL})
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "demo").symlink_to(tmp_path / "elsewhere")
    assert plainly(tmp_path / "release", "demo.part").kind == "evil"


# --- a plugin that writes into its own directory ------------------------------------------------

# It makes another module of its own evil, and adds one.
SELF_WRITING = f"""\
from pathlib import Path
here = Path(__file__).parent
(here / "part.py").unlink()
(here / "part.py").write_text({EVIL!r})
(here / "extra.py").write_text({EVIL!r})
"""


@pytest.mark.parametrize("verify", ["all", "on-read"])
def test_what_a_plugin_writes_into_its_own_directory_never_runs(tmp_path, verify):
    release = make_release(tmp_path, {"demo/__init__.py": SELF_WRITING, "demo/part.py": GOOD})
    with load(*release, verify=verify) as plugin:
        plugin.import_module("demo")
        assert (tmp_path / "demo/part.py").read_text() == EVIL, "it did write"
        with pytest.raises(CorruptError) as caught:
            plugin.import_module("demo.part")
        assert caught.value.paths == ("demo/part.py",)
        with pytest.raises(ModuleNotFoundError):
            plugin.import_module("demo.extra")
        with pytest.raises(CorruptError):
            plugin.verify()
    with pytest.raises(CorruptError):
        load(*release)


def test_a_plugin_cannot_write_a_release_of_its_own_for_the_next_load(tmp_path):
    writes = "from pathlib import Path\nimport sys\nPath(__file__).write_text('stays = 1')\n"
    release = make_release(tmp_path, {"demo.py": writes})
    with load(*release) as plugin:
        plugin.import_module("demo")
    for verify in ("all", "on-read"):
        with pytest.raises(CorruptError), load(*release, verify=verify) as plugin:
            plugin.import_module("demo")


def test_control_plainly_imported_it_runs_what_it_wrote(tmp_path, plainly):
    drop(tmp_path, {"demo/__init__.py": SELF_WRITING, "demo/part.py": GOOD})
    assert plainly(tmp_path, "demo.part").kind == "evil"
    assert importlib.import_module("demo.extra").kind == "evil"


# --- names --------------------------------------------------------------------------------------


def test_names_are_claimed_before_the_host_grows_a_module_of_that_name(loading, plainly, tmp_path):
    plugin = loading({"demo.py": GOOD})
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "demo.py").write_text(EVIL)
    assert plainly(tmp_path / "host", "demo").kind == "good"
    plugin.unload()
    assert plainly(tmp_path / "host", "demo").kind == "evil"
