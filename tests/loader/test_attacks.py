"""Files that change, appear or vanish under a loaded release: what runs is what was signed.

Beside each attack stands a control: the same attack on ordinary loading, where it works.
"""

import importlib
import importlib.machinery
import os
import pkgutil
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

from plugin_manager.errors import CorruptError
from plugin_manager.loader import _loaders, _tree, load
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


def test_a_release_that_is_not_there_is_corrupt(tmp_path):
    manifest, _ = make_release(tmp_path / "a", {"demo.py": GOOD})
    with pytest.raises(CorruptError, match=r"demo\.py \(missing\)"):
        load(manifest, tmp_path / "b")


@pytest.mark.parametrize("kind", ["link", "loop", "dangling", "file", "FIFO", "below a loop"])
def test_a_release_directory_that_is_none_is_corrupt_and_named(tmp_path, kind):
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
    else:
        place.parent.rmdir()
        place.parent.symlink_to(place.parent)
    with pytest.raises(CorruptError) as caught:
        load(manifest, place)
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
    load(*make_release(tmp_path, {"demo.py": GOOD})).unload()
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


class _Racer(threading.Thread):
    """Replaces a file by an evil one and back, as fast as it can."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            replace(self.path, EVIL)
            replace(self.path, GOOD)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.join()


def test_a_racing_writer_never_gets_a_wrong_module_to_run(tmp_path):
    release = make_release(tmp_path, {"demo.py": GOOD})
    seen = set()
    with _Racer(tmp_path / "demo.py"):
        for _ in range(300):
            try:
                with load(*release) as plugin:
                    seen.add(plugin.import_module("demo").kind)
            except CorruptError:
                seen.add("refused")
    assert seen <= {"good", "refused"}


def test_control_it_gets_one_where_the_file_is_read_twice(tmp_path):
    manifest, directory = make_release(tmp_path, {"demo.py": GOOD})
    plugin = load(manifest, directory)
    seen = set()
    with _Racer(tmp_path / "demo.py"):
        while "evil" not in seen:
            try:
                plugin.verify()
            except CorruptError:
                continue
            seen.add((tmp_path / "demo.py").read_text()[8:12])
    plugin.unload()


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
    assert importlib.util.find_spec("demo.real").origin == str(
        plugin.directory / "demo" / "real.py"
    )
    assert not hasattr(sys, "demo_evil")
    plugin.verify()  # what was signed is as it was signed


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


def test_names_are_claimed_before_the_host_grows_a_module_of_that_name(loading, plainly, tmp_path):
    plugin = loading({"demo.py": GOOD})
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "demo.py").write_text(EVIL)
    assert plainly(tmp_path / "host", "demo").kind == "good"
    plugin.unload()
    assert plainly(tmp_path / "host", "demo").kind == "evil"
