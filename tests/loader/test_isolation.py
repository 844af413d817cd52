"""Libraries that several parties of one process use in different versions."""

import builtins
import copy
import gc
import importlib
import importlib.metadata
import importlib.resources
import inspect
import pickle
import pkgutil
import runpy
import sys
import sysconfig
import textwrap
import threading
import traceback
import types
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.version import Version

from plugin_manager.errors import CorruptError, ModuleConflictError
from plugin_manager.loader import load
from plugin_manager.loader._isolation import OWN, Library, keep_apart
from plugin_manager.loader._names import Names
from plugin_manager.manifest import Manifest, render
from tests.bundles import release
from tests.loader.hosts import run_host
from tests.loader.releases import describe, make_release, paths_of, unpack, with_bytecode
from tests.wheels import wheels

EXTENSION = sysconfig.get_config_var("EXT_SUFFIX")


def dist_info(
    name: str, version: str, paths: Sequence[str] = (), requires: Sequence[str] = ()
) -> dict[str, str]:
    """The dist-info files of a distribution that installed `paths`."""
    needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
    directory = f"{name}-{version}.dist-info"
    return {
        f"{directory}/METADATA": f"Name: {name}\nVersion: {version}\n{needs}",
        f"{directory}/RECORD": "".join(f"{path},,\n" for path in paths),
    }


def library(
    version: str,
    files: dict[str, str | bytes] | None = None,
    *,
    name: str = "demo_lib",
    requires: Sequence[str] = (),
) -> dict[str, str | bytes]:
    """A library: a package and a submodule, or `files`, with its dist-info."""
    files = files or {
        f"{name}/__init__.py": f"version = {version!r}\nfrom . import late\n",
        f"{name}/late.py": f"from {name} import version\nclass Thing:\n    of = version\n",
    }
    return {**files, **dist_info(name, version, list(files), requires)}


def plugin_files(
    source: str, libraries: dict[str, str | bytes], *, requires: Sequence[str], name: str = "demo"
) -> dict[str, str | bytes]:
    """A plugin's own module `name` with `source`, and its libraries."""
    own = {f"{name}.py": source}
    return {**own, **dist_info(f"{name}_own", "1.0", list(own), requires), **libraries}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """`host(files)` installs files for the host."""
    directory = tmp_path / "host"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))

    def install(files: dict[str, str | bytes]) -> Path:
        for path, content in files.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        importlib.invalidate_caches()
        return directory

    yield install
    for name in [name for name in sys.modules if name.startswith("demo")]:
        del sys.modules[name]


def private_names() -> list[str]:
    return [name for name in sys.modules if name.startswith("_plugin_manager_")]


IMPORTS = """
import demo_lib
import demo_lib.late
import demo_lib.late as late
import demo_lib as renamed
from demo_lib import version, late as again
from demo_lib.late import Thing
from demo_lib import *
starred = globals()["late"]

def lazily():
    import demo_lib.late
    from demo_lib import version
    return demo_lib, demo_lib.late, version

def dynamically():
    return __import__("demo_lib"), __import__("demo_lib.late", fromlist=["Thing"])
"""


@pytest.fixture
def apart(loading, host):
    """A plugin with demo_lib 1.0, where the host has 2.0; other arguments go to `loading`."""
    host(library("2.0"))

    def make(source: str = IMPORTS, files: dict[str, str | bytes] | None = None, **facts):
        libraries = files or library("1.0")
        vendored = [path.partition("-")[0] for path in libraries if path.endswith("/METADATA")]
        files = plugin_files(source, libraries, requires=["demo_lib<2"])
        return loading(files, **{"vendored": vendored, **facts})

    return make


# --- what is shared, what is isolated, what is refused -------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "own", "requires", "isolated"),
    [
        ("2.0", "2.0", ["demo_lib<2"], False),  # the same, whatever anybody says
        ("2.0", "1.0", ["demo_lib>=1"], False),
        ("2.0", "1.0", ["demo_lib"], False),
        ("2.0", "1.0", [], False),
        ("2.0rc1", "1.0", ["demo_lib>=1"], False),
        ("2.0", "1.0", ["demo_lib<2; python_version < '3'"], False),
        ("2.0", "1.0", ["demo_lib<2; extra == 'never'"], False),
        ("2.0", "1.0", ["demo_lib<2; python_version ~= 'x'", "demo_lib @@"], False),
        ("2.0", "1.0", ["demo_lib<2"], True),
        ("2.0", "1.0", ["Demo.Lib==1.0"], True),
        ("2.0", "1.0", ["demo_lib>=1", "demo_lib<2; python_version > '3'"], True),
        ("2.0+local", "2.0", ["demo_lib==2.0"], False),
        ("2.0", "1.0", ["demo_lib===1.0"], True),
        ("nonsense", "1.0", ["demo_lib>=1"], True),
        ("nonsense", "1.0", ["demo_lib"], False),
    ],
)
def test_a_version_that_satisfies_all_requirements_is_shared(
    loading, host, hosts, own, requires, isolated
):
    host(library(hosts))
    files = plugin_files("import demo_lib\n", library(own), requires=requires)
    plugin = loading(files, vendored=["demo-lib"])
    assert (list(plugin.isolated), list(plugin.shared)) == (
        (["demo_lib"], []) if isolated else ([], ["demo_lib"])
    )
    assert plugin.import_module("demo").demo_lib.version == (own if isolated else hosts)
    assert importlib.import_module("demo_lib").version == hosts
    assert bool(private_names()) is isolated


def test_requirements_of_vendored_libraries_count_as_well(loading, host):
    host(library("2.0"))
    other = library("1.0", {"demo_other.py": "import demo_lib\n"}, name="demo_other",
                    requires=["demo_lib<2"])  # fmt: skip
    files = plugin_files("import demo_lib, demo_other\n", {**library("1.0"), **other}, requires=[])
    plugin = loading(files, vendored=["demo-lib", "demo-other"])
    demo = plugin.import_module("demo")
    assert demo.demo_other.demo_lib is demo.demo_lib
    assert demo.demo_lib.version == "1.0"


def test_what_a_library_requires_counts_only_where_that_copy_is_used(loading, host):
    host(library("2.0"))
    other = {"demo_other.py": "import demo_lib\n"}
    host(library("3.0", other, name="demo_other", requires=["demo_lib>=2"]))
    vendored = library("1.0", other, name="demo_other", requires=["demo_lib<2"])
    files = {**library("1.0"), **vendored}
    with loading(
        plugin_files("", files, requires=["demo_lib", "demo_other"]),
        vendored=["demo-lib", "demo-other"],
    ) as plugin:
        assert sorted(plugin.shared) == ["demo_lib", "demo_other"]
    plugin = loading(
        plugin_files("", files, requires=["demo_lib", "demo_other<3"]),
        vendored=["demo-lib", "demo-other"],
    )
    assert sorted(plugin.isolated) == ["demo_lib", "demo_other"]


def test_extras_that_are_asked_for_count_through_and_through(loading, host):
    host(library("2.0"))
    one = library("1.0", {"demo_one.py": ""}, name="demo_one",
                  requires=["demo_two[more]; extra == 'all'"])  # fmt: skip
    two = library("1.0", {"demo_two.py": ""}, name="demo_two",
                  requires=["demo_lib<2; extra == 'more'"])  # fmt: skip
    libraries = {**library("1.0"), **one, **two}
    vendored = ["demo-lib", "demo-one", "demo-two"]
    files = plugin_files("", libraries, requires=["demo_one[all]"])
    assert set(loading(files, vendored=vendored).isolated) == {"demo_lib", "demo_one", "demo_two"}


def test_control_without_the_extra_they_do_not(loading, host):
    host(library("2.0"))
    one = library("1.0", {"demo_one.py": ""}, name="demo_one",
                  requires=["demo_lib<2; extra == 'all'"])  # fmt: skip
    files = plugin_files("", {**library("1.0"), **one}, requires=["demo_one"])
    assert not loading(files, vendored=["demo-lib", "demo-one"]).isolated


def test_what_is_isolated_is_told_with_both_versions(apart, tmp_path):
    plugin = apart()
    where = tmp_path / "host" / "demo_lib" / "__init__.py"
    assert plugin.isolated == {"demo_lib": f"1.0, beside 2.0 from {where}"}
    assert plugin.shared == {}
    assert plugin.import_module("demo_lib").version == "1.0"
    assert plugin.import_module("demo_lib.late").Thing.of == "1.0"
    assert {"demo_lib", "demo_lib.late"}.isdisjoint(plugin.modules)
    assert {name.partition(".")[2] for name in plugin.modules} == {"demo_lib", "demo_lib.late"}


def test_libraries_that_require_an_isolated_one_go_with_it(apart, host):
    """Also where the process has them in a fitting version, or not at all."""
    both = {"requires": ["demo_lib"]}
    files = {
        **library("1.0"),
        **library("1.0", {"demo_a.py": "import demo_lib\n"}, name="demo_a", **both),
        **library("1.0", {"demo_b.py": "import demo_a\n"}, name="demo_b", requires=["demo_a"]),
        **library("1.0", {"demo_c.py": "import demo_lib\n"}, name="demo_c"),  # does not say so
    }
    host(library("1.0", {"demo_a.py": "import demo_lib\n"}, name="demo_a", **both))
    plugin = apart("import demo_a, demo_b, demo_c, demo_lib\n", files)
    assert sorted(plugin.isolated) == ["demo_a", "demo_b", "demo_lib"]
    assert plugin.isolated["demo_b"] == "1.0"
    demo = plugin.import_module("demo")
    assert demo.demo_a.demo_lib is demo.demo_lib
    assert demo.demo_b.demo_a is demo.demo_a
    assert importlib.import_module("demo_a").demo_lib.version == "2.0"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_b")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("demo_b")
    # What is not isolated can be other code's too, and so sees what that sees.
    assert importlib.import_module("demo_c").demo_lib.version == "2.0"


def test_two_plugins_and_the_host_have_a_version_each(loading, host):
    host(library("2.0"))
    plugins = [
        loading(
            plugin_files(IMPORTS, library(version), requires=[f"demo_lib=={version}"], name=name),
            name=f"acme/{name.replace('_', '-')} {version}",
            vendored=["demo-lib"],
        )
        for name, version in (("demo_one", "1.0"), ("demo_two", "3.0"))
    ]
    one, two = plugins[0].import_module("demo_one"), plugins[1].import_module("demo_two")
    host_lib = importlib.import_module("demo_lib.late")
    assert (one.Thing.of, two.Thing.of, host_lib.Thing.of) == ("1.0", "3.0", "2.0")
    plugins[0].unload()
    assert two.lazily()[2] == "3.0"
    with pytest.raises(ModuleNotFoundError):
        one.lazily()  # never another's version


def test_the_second_of_two_plugins_is_isolated_where_the_host_has_none(loading):
    def plugin(name: str, version: str, requires: str):
        files = plugin_files(IMPORTS, library(version), requires=[requires], name=name)
        return loading(files, name=f"acme/{name[5:]} 1.0", vendored=["demo-lib"])

    first = plugin("demo_one", "1.0", "demo_lib<2")
    second = plugin("demo_two", "2.0", "demo_lib>=2")
    third = plugin("demo_three", "1.5", "demo_lib<2")
    assert not first.isolated
    assert second.isolated == {"demo_lib": "2.0, beside 1.0 from the plugin acme/one 1.0"}
    assert third.shared == {"demo_lib": "the plugin acme/one 1.0"}
    assert second.import_module("demo_two").Thing.of == "2.0"
    first.unload()
    assert third.import_module("demo_three").Thing.of == "1.0"


def test_what_is_shared_in_a_known_version_is_that_version_only(loading, host):
    """Or the host's copy could find parts of the plugin's."""
    host(library("2.0"))
    files = library("1.0", {"demo_lib/__init__.py": "", "demo_speed.py": ""})
    plugin = loading(plugin_files("", files, requires=["demo_lib"]), vendored=["demo-lib"])
    assert list(plugin.shared) == ["demo_lib"]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_speed")


def test_native_code_of_an_unfit_version_is_refused_before_any_code_runs(loading, host):
    where = host(library("2.0"))
    native = f"demo_lib/_speed{EXTENSION}"
    files = library("1.0", {"demo_lib/__init__.py": "raise SystemExit", native: b"never mapped"})
    before = list(sys.meta_path)
    with pytest.raises(ModuleConflictError) as caught:
        loading(
            plugin_files("raise SystemExit", files, requires=["demo_lib<2"]), vendored=["demo-lib"]
        )
    assert str(caught.value).startswith(
        "acme/demo 1.0 vendors demo-lib 1.0, this process has demo-lib 2.0 from "
        f"{where / 'demo_lib' / '__init__.py'}, and it requires demo_lib<2. "
        f"The two cannot be kept apart: demo-lib has native code (_speed{EXTENSION})"
    )
    assert "works with demo-lib 2.0" in caught.value.remedy
    assert caught.value.context["found"] == "2.0"
    assert caught.value.context["vendored"] == "1.0"
    assert sys.meta_path == before
    assert not private_names()


def test_control_native_code_of_a_fitting_version_is_shared(loading, host):
    host(library("2.0"))
    files = library("1.0", {"demo_lib/__init__.py": "", f"demo_lib/_x{EXTENSION}": b"unused"})
    plugin = loading(plugin_files("", files, requires=["demo_lib<3"]), vendored=["demo-lib"])
    assert list(plugin.shared) == ["demo_lib"]


@pytest.mark.parametrize(
    ("files", "requires", "why"),
    [
        ({"demo_user.py": "", f"demo_fast{EXTENSION}": b""}, ["demo_lib"], "demo-user has native"),
        (
            {"demo_ns/user.py": ""},
            ["demo_lib"],
            r"'demo_ns\.user' of demo-user lies in",
        ),
    ],
)
def test_what_cannot_go_along_is_a_conflict(apart, files, requires, why):
    user = library("1.0", files, name="demo_user", requires=requires)
    with pytest.raises(ModuleConflictError, match=why) as caught:
        apart("", {**library("1.0"), **user})
    assert "vendors demo-lib 1.0, this process has demo-lib 2.0" in str(caught.value)


def test_control_what_need_not_go_along_may_be_anything(apart):
    files = {f"demo_fast{EXTENSION}": b"", "demo_ns/user.py": ""}
    plugin = apart("", {**library("1.0"), **library("1.0", files, name="demo_user")})
    assert list(plugin.isolated) == ["demo_lib"]


def test_a_library_in_a_namespace_is_a_conflict(loading, host):
    files = {"demo_ns/lib.py": "version = 2\n"}
    host(library("2.0", files))
    with pytest.raises(ModuleConflictError, match="namespace package"):
        loading(plugin_files("", library("1.0", files), requires=["demo_lib<2"]),
                vendored=["demo-lib"])  # fmt: skip


def test_native_code_of_the_plugin_that_would_import_it_is_a_conflict(loading, host):
    host(library("2.0"))
    other = library("1.0", {"demo_user.py": ""}, name="demo_user", requires=["demo_lib<2"])
    own = {f"demo_own/_native{EXTENSION}": b"", "demo_own/__init__.py": ""}
    libraries = {**library("1.0"), **other, **own}
    vendored = ["demo-lib", "demo-user"]
    for requires in (["demo_lib"], ["demo_user"]):
        with pytest.raises(ModuleConflictError, match="the plugin itself, which requires demo"):
            loading(plugin_files("", libraries, requires=requires), vendored=vendored)
    del (bare := dict(plugin_files("", libraries, requires=[])))["demo_own-1.0.dist-info/METADATA"]
    with pytest.raises(ModuleConflictError, match="the plugin itself"):
        loading(bare, vendored=vendored)  # says nothing, so it may need anything
    assert loading(plugin_files("", libraries, requires=[]), vendored=vendored).isolated


def test_a_host_without_metadata_is_told_so(loading, host):
    host({"demo_lib.py": ""})
    files = library("1.0", {f"demo_lib{EXTENSION}": b""})
    with pytest.raises(ModuleConflictError, match="of unknown version") as caught:
        loading(plugin_files("", files, requires=["demo_lib>=1"]), vendored=["demo-lib"])
    assert "metadata" in caught.value.remedy


def test_a_release_of_libraries_alone_cannot_be_loaded_twice(loading, host):
    host(library("2.0"))
    user = library("1.0", {"demo_user.py": ""}, name="demo_user", requires=["demo_lib<2"])
    files = {**library("1.0"), **user}
    loading(files, vendored=["demo-lib", "demo-user"])
    with pytest.raises(ModuleConflictError, match="_plugin_manager_acme_demo_1_0_") as caught:
        loading(files, vendored=["demo-lib", "demo-user"])
    assert "Unload" in caught.value.remedy


@st.composite
def bundles(draw):
    """Vendored libraries with their requirements of each other, and the versions of the process."""
    names = [f"lib-{number}" for number in range(draw(st.integers(1, 5)))]
    version = st.sampled_from(["1", "2", "3"])
    requirement = st.builds(
        "{}{}{}".format,
        st.sampled_from(names),
        st.sampled_from(["==", ">=", "<", "<=", "!="]),
        version,
    )
    texts = st.lists(requirement | st.sampled_from(names), max_size=3)
    requires = texts.map(lambda found: tuple(map(Requirement, found)))
    bundled = {
        name: Library(Version(draw(version)), (f"m-{name}",), draw(requires)) for name in names
    }
    bundled[OWN] = Library(None, ("own",), draw(requires))
    found = {name: draw(st.none() | version.map(Version)) for name in names if draw(st.booleans())}
    return bundled, found


@given(bundles())
def test_the_least_is_isolated_with_which_all_that_is_used_has_what_it_requires(bundle):
    bundled, found = bundle
    modules = {name: library.modules[0] for name, library in bundled.items()}
    shared = {modules[name]: "there" for name in found}
    owned = tuple(module for module in modules.values() if module not in shared)
    names = keep_apart(
        release("acme/demo 1.0"), Names(owned, shared), bundled, lambda module, name: found[name]
    )
    assert sorted([*names.owned, *names.shared, *names.isolated]) == sorted(modules.values())
    private = {name for name, module in modules.items() if module in names.isolated}

    def consistent(private: set[str]) -> bool:
        """Whether nothing has to be isolated besides `private`."""
        for name, library in bundled.items():
            for requirement in library.requires:
                needed = requirement.name
                if needed in private and name not in {OWN, *private}:
                    return False
                is_used = name not in found or name in private
                if needed not in found or needed in private or not is_used:
                    continue
                version = found[needed]
                fits = (
                    requirement.specifier.contains(version)
                    if version
                    else not requirement.specifier
                )
                if not fits and version != bundled[needed].version:
                    return False
        return True

    assert consistent(private)
    others = [name for name in bundled if name != OWN]
    subsets = (set(some) for size in range(len(others)) for some in combinations(others, size))
    assert all(private <= some for some in subsets if consistent(some))


# --- importing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts_first", [True, False])
def test_every_form_of_import_leads_to_the_plugins_version(apart, hosts_first):
    if hosts_first:
        importlib.import_module("demo_lib.late")
    demo = apart().import_module("demo")
    lib, late = demo.demo_lib, demo.demo_lib.late
    assert lib.version == demo.version == late.Thing.of == "1.0"
    assert {demo.late, demo.again, demo.starred} == {late}
    assert (demo.renamed, demo.Thing) == (lib, late.Thing)
    assert demo.lazily() == (lib, late, "1.0")
    assert demo.dynamically() == (lib, late)
    assert sys.modules[lib.__name__] is lib
    assert sys.modules[late.__name__] is late
    assert ("demo_lib" in sys.modules) is hosts_first
    assert importlib.import_module("demo_lib").version == "2.0"


def test_imports_in_threads_and_in_code_made_while_running(apart):
    source = """
        def run(out):
            exec("import demo_lib.late as x", scope := {})
            exec("from demo_lib import version", globals())
            out += [scope["x"].Thing.of, version, eval("__import__('demo_lib').version")]
    """
    demo = apart(inspect.cleandoc(source)).import_module("demo")
    out = []
    threads = [threading.Thread(target=demo.run, args=(out,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert out == ["1.0"] * 24


def test_circular_imports_and_missing_names(apart):
    files = {
        "demo_lib/__init__.py": "import demo_lib.a\nversion = demo_lib.a.value\n",
        "demo_lib/a.py": "import demo_lib.b\nfrom demo_lib.b import other\nvalue = other\n",
        "demo_lib/b.py": (
            "import demo_lib, sys\nfrom . import a\n"
            "assert demo_lib is sys.modules[__package__]\n"
            "assert a is sys.modules[__package__ + '.a']\nother = 'in a circle'\n"
        ),
    }
    plugin = apart("import demo_lib\n", library("1.0", files))
    assert plugin.import_module("demo").demo_lib.version == "in a circle"
    with pytest.raises(ModuleNotFoundError, match=r"demo_lib\.none"):
        plugin.import_module("demo_lib.none")
    package = plugin.import_module("demo_lib").__name__.partition(".")[0]
    for name in ("demo", "none"):  # nothing but the isolated has private names
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"{package}.{name}")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("demo_lib.a")  # the host's has none


def test_a_replaced_import_of_the_process_still_sees_all(apart, monkeypatch):
    demo = apart().import_module("demo")
    seen, original = [], builtins.__import__

    def recording(name, *arguments, **options):
        seen.append(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", recording)
    demo.lazily()
    assert [name.partition(".")[2] for name in seen[:2]] == ["demo_lib.late", "demo_lib"]


@pytest.mark.parametrize("sourceless", [True, False])
def test_signed_bytecode_is_isolated_too(apart, tmp_path, sourceless):
    if sourceless:
        code = {f"demo_lib/{n}": t for n, t in (("__init__.py", "version = 7\n"), ("late.py", ""))}
        made, _ = with_bytecode(code)
        files = {
            path.replace("__pycache__/", "").replace(f".{sys.implementation.cache_tag}", ""): data
            for path, data in made.items()
            if path.endswith(".pyc")
        }
        plugin = apart("import demo_lib\n", library("1.0", files))
        assert plugin.import_module("demo").demo_lib.version == 7
        return
    files, tags = with_bytecode({"demo_lib/__init__.py": "def lazily():\n    import demo_lib\n"
                                                         "    return demo_lib\n"})  # fmt: skip
    plugin = apart("import demo_lib\n", library("1.0", files), tags=tags)
    demo_lib = plugin.import_module("demo").demo_lib
    assert demo_lib.lazily() is demo_lib


def test_native_code_that_imports_gets_what_it_expects(apart):
    """`PyImport_Import` (here of the C unpickler) takes the public name from `sys.modules`."""
    source = "import pickle\ndef restore(data):\n    return pickle.loads(data)\n"
    demo = apart(source).import_module("demo")
    assert "demo_lib" not in sys.modules
    assert demo.restore(b"cdemo_lib.late\nThing\n.").of == "2.0"


def test_python_code_that_imports_as_native_code_does_gets_its_own(apart, host):
    """As Python's documentation writes it out: at a module's top that is what C passes."""
    source = """
        import pickle
        top = __import__("demo_lib", globals(), locals(), [], 0).version
        late = __import__("demo_lib.late", globals(), locals(), [], 0).late.Thing.of
        native = pickle.loads(b"cdemo_lib.late\\nThing\\n.").of
        only_public = pickle.loads(b"cdemo_lib.newer\\nversion\\n.")
        def called():
            return __import__("demo_lib", globals(), locals(), [], 0).version
        """
    host({"demo_lib/newer.py": "version = '2.0'\n"})
    demo = apart(textwrap.dedent(source)).import_module("demo")
    assert (demo.top, demo.late, demo.called()) == ("1.0", "1.0", "1.0")
    assert (demo.native, demo.only_public) == ("2.0", "2.0")


# --- what Python's other tools make of it --------------------------------------------------------


def test_objects_can_be_pickled_and_copied(apart):
    demo = apart(IMPORTS + "thing = Thing()\n").import_module("demo")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert type(pickle.loads(pickle.dumps(demo.thing, protocol))) is demo.Thing
    assert pickle.loads(pickle.dumps(demo.thing, 0)).of == "1.0"
    assert type(copy.deepcopy(demo.thing)) is demo.Thing


def test_tracebacks_and_sources_are_those_of_the_version(apart):
    source = "version = '1.0'\n\ndef fail():\n    raise ValueError('of the plugin')\n"
    plugin = apart("import demo_lib\n", library("1.0", {"demo_lib/__init__.py": source}))
    fail = plugin.import_module("demo").demo_lib.fail
    assert inspect.getsource(fail).startswith("def fail")
    assert inspect.getmodule(fail).version == "1.0"
    with pytest.raises(ValueError) as caught:
        fail()
    shown = "".join(traceback.format_exception(caught.value))
    assert "raise ValueError('of the plugin')" in shown
    assert str(plugin.directory) in shown


def test_resources_are_found_through_the_module(apart, host):
    host({"demo_lib/data.txt": "host"})
    source = """
        import importlib.resources as r, pkgutil
        def read():
            return r.files(__name__).joinpath("data.txt").read_text()
        def read_too():
            return pkgutil.get_data(__name__, "data.txt").decode()
        def read_by_literal_name():
            return r.files("demo_lib").joinpath("data.txt").read_text()
    """
    files = {"demo_lib/__init__.py": inspect.cleandoc(source), "demo_lib/data.txt": "plugin"}
    lib = apart("import demo_lib\n", library("1.0", files)).import_module("demo").demo_lib
    assert (lib.read(), lib.read_too()) == ("plugin", "plugin")
    assert importlib.resources.files(lib).joinpath("data.txt").read_text() == "plugin"
    assert lib.read_by_literal_name() == "host"  # a limit, which the documentation states


def test_pkgutil_lists_and_walks(apart):
    lib = apart("import demo_lib\n").import_module("demo").demo_lib
    prefix = f"{lib.__name__}."
    assert [one.name for one in pkgutil.walk_packages(lib.__path__, prefix)] == [f"{prefix}late"]
    found = pkgutil.resolve_name(f"{lib.__name__}.late:Thing")
    assert found is lib.late.Thing


def test_metadata_answers_the_code_of_the_plugin_with_its_version(apart):
    source = """
        from importlib.metadata import entry_points, metadata, version
        __version__ = version("demo_lib")
        by_own_name = version(__name__)
        def late():
            return metadata("Demo.Lib")["Version"], [e.name for e in entry_points(group="demo")]
    """
    files = {"demo_lib/__init__.py": inspect.cleandoc(source)}
    files = library("1.0", files)
    files["demo_lib-1.0.dist-info/entry_points.txt"] = (
        "# what it offers\n[demo]\nlate = demo_lib:late\nother=json:loads\n"
    )
    plugin = apart("import demo_lib\nfrom importlib.metadata import version\n", files)
    demo = plugin.import_module("demo")
    assert (demo.demo_lib.__version__, demo.demo_lib.by_own_name) == ("1.0", "1.0")
    assert demo.demo_lib.late() == ("1.0", ["late", "other"])
    # The host has and sees its own.
    assert importlib.metadata.version("demo_lib") == "2.0"
    assert demo.version("demo_lib") == "2.0"  # it is who calls that counts, and that is this test
    assert not importlib.metadata.entry_points(group="demo")
    names = [found.metadata["Name"] for found in importlib.metadata.distributions()]
    assert names.count("demo_lib") == 1
    private = demo.demo_lib.__name__
    late, other = importlib.metadata.distribution(private).entry_points
    assert late.value == f"{private}:late"
    assert late.load() is demo.demo_lib.late
    assert other.load().__module__ == "json"
    plugin.unload()
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version(private)


def test_the_plugins_entry_points_may_lead_to_what_is_isolated(apart):
    plugin = apart(entry_points=[("demo", "thing", "demo_lib.late:Thing"), ("demo", "own", "demo")])
    thing, own = plugin.entry_points
    assert thing.load().of == "1.0"
    assert own.load().Thing is thing.load()


def test_names_in_strings_lead_to_the_process(apart):
    """A limit, which the documentation states with the way out."""
    source = """
        import importlib
        def by_literal_name():
            return importlib.import_module("demo_lib").version
        def from_here():
            return importlib.import_module(f"{__name__}.late").Thing.of
        def relative():
            return importlib.import_module(".late", __package__).Thing.of
    """
    files = library("1.0", {"demo_lib/__init__.py": inspect.cleandoc(source) + "\nversion = 'own'",
                            "demo_lib/late.py": "class Thing:\n    of = 'own'\n"})  # fmt: skip
    lib = apart("import demo_lib\n", files).import_module("demo").demo_lib
    assert (lib.by_literal_name(), lib.from_here(), lib.relative()) == ("2.0", "own", "own")
    assert runpy.run_module("demo")["demo_lib"].version == "2.0"


def test_what_is_added_to_builtins_later_is_not_seen(apart, monkeypatch):
    """Another limit."""
    source = "import builtins\ndef both():\n    return builtins.demo_later, demo_later\n"
    monkeypatch.setattr(builtins, "demo_later", 1, raising=False)
    demo = apart(source).import_module("demo")
    assert demo.both() == (1, 1)
    monkeypatch.setattr(builtins, "demo_later", 2)
    assert demo.both() == (2, 1)


def test_reloading_a_module_keeps_it_apart(apart):
    demo = apart().import_module("demo")
    assert importlib.reload(demo).lazily()[2] == "1.0"
    assert importlib.reload(demo.late).Thing.of == "1.0"


# --- verified, unloaded, loaded again ------------------------------------------------------------


def test_a_changed_file_is_refused_and_a_dropped_one_not_found(apart):
    plugin = apart("")
    place = plugin.directory / "demo_lib"
    signed = (place / "late.py").read_bytes()
    (place / "dropped.py").write_text("raise SystemExit")
    (place / "late.py").write_text("raise SystemExit")
    with pytest.raises(CorruptError, match=r"late\.py"):
        plugin.import_module("demo_lib")
    (place / "late.py").write_bytes(signed)
    assert plugin.import_module("demo_lib").late.Thing.of == "1.0"
    with pytest.raises(ModuleNotFoundError):
        plugin.import_module("demo_lib.dropped")


def test_what_judges_versions_is_verified_on_read_too(host, tmp_path):
    host(library("2.0"))
    files = plugin_files("import demo_lib\n", library("1.0"), requires=["demo_lib<2"])
    made = make_release(tmp_path, files, vendored=["demo-lib"])
    metadata = tmp_path / "demo_own-1.0.dist-info" / "METADATA"
    signed = metadata.read_bytes()
    metadata.write_bytes(signed.replace(b"<2", b"<9"))  # would share the host's
    with pytest.raises(CorruptError, match="METADATA"):
        load(*made, verify="on-read")
    metadata.write_bytes(signed)
    with load(*made, verify="on-read") as plugin:
        assert plugin.import_module("demo").demo_lib.version == "1.0"


def test_unloading_leaves_nothing_and_loading_again_works(apart):
    for version in ("1.0", "1.1", "1.0"):
        plugin = apart(files=library(version), name=f"acme/demo {version}")
        demo = plugin.import_module("demo")
        assert demo.Thing.of == version
        plugin.unload()
        assert not private_names()
        assert not [name for name in sys.modules if name == "demo"]
        with pytest.raises(ModuleNotFoundError):
            demo.lazily()


def test_unloaded_modules_can_be_collected(apart):
    def modules() -> int:
        gc.collect()
        return sum(
            isinstance(found, types.ModuleType) and found.__name__.startswith("_plugin_manager_")
            for found in gc.get_objects()
        )

    before = modules()
    plugin = apart()
    plugin.import_module("demo")
    assert modules() > before
    plugin.unload()
    assert modules() == before


def test_control_without_an_import_of_its_own_the_plugin_gets_the_hosts(apart, monkeypatch):
    monkeypatch.setattr("plugin_manager.loader._finder.Source._builtins", lambda *_: None)
    assert apart().import_module("demo").lazily()[2] == "2.0"


def test_without_isolation_modules_execute_with_the_usual_builtins(loading):
    plugin = loading(plugin_files(IMPORTS, library("1.0"), requires=["demo_lib<2"]),
                     vendored=["demo-lib"])  # fmt: skip
    assert not plugin.isolated
    assert vars(plugin.import_module("demo"))["__builtins__"] is vars(builtins)


# --- real libraries ------------------------------------------------------------------------------


def real_plugin(
    directory: Path, name: str, source: str, requires: Sequence[str], *libraries: str
) -> tuple[Manifest, Path]:
    """A release with the module `name`, which requires `requires`, and the wheels of `libraries`.

    What those depend on is vendored too.
    """
    vendored = unpack(wheels(*libraries), directory)
    own = {f"{name}.py": inspect.cleandoc(source)}
    for path, content in {**own, **dist_info(f"{name}_own", "1.0", list(own), requires)}.items():
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(content)
    return describe(
        directory, paths_of(directory), name=f"acme/{name.replace('_', '-')} 1.0", vendored=vendored
    )


_FETCH = """
import requests, urllib3
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

def fetch(url):
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=Retry(total=1)))
        answer = session.get(url, timeout=30)
    try:
        session.get(url.replace("http:", "nonsense:"))
    except requests.exceptions.InvalidSchema as error:
        caught = type(error).__module__
    try:
        from requests.packages.urllib3.util import Retry as made_up
    except ModuleNotFoundError:
        made_up = None  # a limit, which the documentation states
    return {
        "made up": made_up is not None,
        "agent": answer.json(), "requests": requests.__version__, "urllib3": urllib3.__version__,
        "raw": type(answer.raw).__module__, "caught": caught,
        "is": requests.packages.urllib3 is urllib3, "idna": requests.packages.idna.__name__,
    }
"""

_SERVE = """
import http.server, json, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(self.headers["User-Agent"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"
"""

_USE = f"""
{_SERVE}
import importlib.metadata
import requests, urllib3
old, new = [plugin.import_module(f"words_{{number}}") for number, plugin in enumerate(plugins)]
out["old"], out["new"] = old.fetch(url), new.fetch(url)
out["host"] = [requests.__version__, urllib3.__version__, requests.get(url).json()]
out["installed"] = [importlib.metadata.version(name) for name in ("requests", "urllib3")]
out["isolated"] = [sorted(plugin.isolated) for plugin in plugins]
out["shared"] = [sorted(plugin.shared) for plugin in plugins]
for plugin in plugins:
    plugin.unload()
out["left"] = [name for name in sys.modules if name.startswith("_plugin_manager_")]
again = load(plugins[0].manifest, plugins[0].directory).import_module("words_0").fetch(url)
out["again"] = again == out["old"]
"""


def two_with_requests(directory: Path) -> list[tuple[Manifest, Path]]:
    old = ("requests==2.28.2", "urllib3==1.26.20")
    new = ("requests==2.31.0", "urllib3==2.0.7")
    return [
        real_plugin(directory / "old", "words_0", _FETCH, ["requests<2.29"], *old),
        real_plugin(
            directory / "new", "words_1", _FETCH, ["requests==2.31.0", "urllib3<2.1"], *new
        ),
    ]


@pytest.mark.network
def test_three_versions_of_requests_and_urllib3_in_one_process(tmp_path):
    out = run_host(tmp_path, two_with_requests(tmp_path), _USE)
    for name, requests, urllib3 in (("old", "2.28.2", "1.26.20"), ("new", "2.31.0", "2.0.7")):
        used = out[name]
        assert used["agent"] == f"python-requests/{requests}"
        assert (used["requests"], used["urllib3"]) == (requests, urllib3)
        assert used["raw"].startswith("_plugin_manager_acme_words_")
        assert used["raw"].endswith(".urllib3.response")
        assert used["caught"].endswith(".requests.exceptions")
        assert used["is"] is True
        assert used["made up"] is False
        assert used["idna"] == "idna"  # the host's version satisfies
    requests, urllib3, agent = out["host"]
    assert out["installed"] == [requests, urllib3]
    assert agent == f"python-requests/{requests}"
    assert requests not in {"2.28.2", "2.31.0"}
    assert out["isolated"] == [["requests", "urllib3"]] * 2
    assert "idna" in out["shared"][0]
    assert out["left"] == []
    assert out["again"] is True


@pytest.mark.network
def test_control_without_isolation_both_get_the_hosts_version(tmp_path):
    share = """
        import plugin_manager.loader._finder as finder
        finder.PluginFinder._judge_versions = lambda self, source, names: names
    """
    out = run_host(tmp_path, two_with_requests(tmp_path), _USE, start=inspect.cleandoc(share))
    host = out["host"][0]
    assert out["old"]["requests"] == out["new"]["requests"] == host
    assert out["isolated"] == [[], []]


_RENDER = """
import jinja2, markupsafe

environment = jinja2.Environment(autoescape=True, loader=jinja2.DictLoader({
    "base": "<{% block body %}{% endblock %}>",
    "page": "{% extends 'base' %}{% block body %}{{ x }}{% endblock %}",
}))

def render(x):
    return environment.get_template("page").render(x=x)

def broken():
    return environment.from_string("{{ nothing.at.all }}").render()
"""

_TEMPLATES = """
import importlib.metadata, traceback
first, second = [plugin.import_module(f"pages_{n}") for n, plugin in enumerate(plugins)]
out["rendered"] = [first.render("<b>"), second.render("<b>")]
out["versions"] = [importlib.metadata.version("jinja2"), importlib.metadata.version("markupsafe")]
out["names"] = [module.jinja2.__name__ for module in (first, second)]
out["files"] = [module.jinja2.environment.__file__ for module in (first, second)]
out["markupsafe"] = first.markupsafe is second.markupsafe
try:
    second.broken()
except second.jinja2.UndefinedError as error:
    out["traceback"] = traceback.format_exc()
    out["other"] = isinstance(error, first.jinja2.UndefinedError)
out["described"] = dict(plugins[1].isolated)
"""


@pytest.mark.network
def test_pure_jinja2_is_isolated_beside_native_markupsafe_that_is_shared(tmp_path):
    """The code that jinja2 makes of templates imports jinja2 by name."""
    releases = [
        real_plugin(tmp_path / "0", "pages_0", _RENDER, ["jinja2<3.1.5"],
                    "jinja2==3.1.4", "markupsafe==2.1.5"),
        real_plugin(tmp_path / "1", "pages_1", _RENDER, ["jinja2>=3.1.5"],
                    "jinja2==3.1.6", "markupsafe==3.0.2"),
    ]  # fmt: skip
    out = run_host(tmp_path, releases, _TEMPLATES)
    assert out["rendered"] == ["<&lt;b&gt;>"] * 2
    assert out["versions"] == ["3.1.4", "2.1.5"]
    assert out["names"][0] == "jinja2"
    assert out["names"][1].startswith("_plugin_manager_acme_pages_1_1_0_")
    assert out["files"] == [str(tmp_path / n / "jinja2" / "environment.py") for n in "01"]
    assert out["markupsafe"] is True
    assert "rewrite_traceback_stack" in out["traceback"]  # the source, of the right file
    assert str(tmp_path / "0") not in out["traceback"]
    assert out["other"] is False
    assert out["described"] == {"jinja2": "3.1.6, beside 3.1.4 from the plugin acme/pages-0 1.0"}


@pytest.mark.network
def test_native_markupsafe_in_an_unfit_version_is_refused(tmp_path):
    releases = [
        real_plugin(tmp_path / "0", "pages_0", _RENDER, ["jinja2"],
                    "jinja2==3.1.4", "markupsafe==2.1.5"),
        real_plugin(tmp_path / "1", "pages_1", "raise SystemExit", ["jinja2", "markupsafe>=3"],
                    "jinja2==3.1.6", "markupsafe==3.0.2"),
    ]  # fmt: skip
    script = """
        from plugin_manager.errors import ModuleConflictError
        before = set(sys.modules)
        try:
            load(manifest, place)
        except ModuleConflictError as error:
            out["message"], out["remedy"] = error.message, error.remedy
        out["new"] = [name for name in set(sys.modules) - before if "plugin_manager" not in name]
        out["rendered"] = plugin.import_module("pages_0").render("<b>")
    """
    manifest, place = releases[1]
    path = tmp_path / "second.manifest"
    path.write_bytes(render(manifest))
    start = f"""
        from plugin_manager.manifest import parse as parse_manifest
        manifest = parse_manifest(Path({str(path)!r}).read_bytes())
        place = Path({str(place)!r})
    """
    out = run_host(tmp_path, releases[:1], script, start=inspect.cleandoc(start))
    assert out["message"].startswith(
        "acme/pages-1 1.0 vendors markupsafe 3.0.2, this process has markupsafe 2.1.5 from the "
        "plugin acme/pages-0 1.0"
    )
    assert "requires markupsafe>=3" in out["message"]
    assert "native code (_speedups." in out["message"]
    assert "works with markupsafe 2.1.5" in out["remedy"]
    assert out["rendered"] == "<&lt;b&gt;>"
