"""Real packages from real wheels, used in host processes where they are not installed."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from plugin_manager.loader._tree import BYTECODE_TAG
from plugin_manager.manifest import Manifest
from tests.loader.hosts import make_libraries, run_host
from tests.loader.releases import bytecode, describe, paths_of, unpack
from tests.wheels import wheels

pytestmark = pytest.mark.network


def release_of(
    directory: Path,
    *requirements: str,
    name: str,
    own: Sequence[str] = (),
    bytecode_too: bool = False,
    entry_points: Sequence[tuple[str, str, str]] = (),
) -> tuple[Manifest, Path]:
    """A release of the wheels of `requirements` and their dependencies, all but `own` vendored."""
    distributions = unpack(wheels(*requirements), directory)
    tags = {}
    if bytecode_too:
        for source in directory.rglob("*.py"):
            path = source.relative_to(directory).as_posix()
            cached, data = bytecode(source.read_text(encoding="utf-8"), path)
            (directory / cached).parent.mkdir(exist_ok=True)
            (directory / cached).write_bytes(data)
            tags[cached] = BYTECODE_TAG
    return describe(
        directory,
        paths_of(directory),
        name=name,
        vendored=[name for name in distributions if name not in own],
        entry_points=entry_points,
        tags=tags,
    )


def test_control_the_host_process_has_none_of_them(tmp_path):
    make_libraries(tmp_path / "libraries")
    names = {path.name for path in (tmp_path / "libraries").iterdir()}
    assert {"plugin_manager", "attrs", "blake3"} <= names
    assert not {"numpy", "jinja2", "markupsafe", "sympy", "datasette", "pytest"} & names


def test_jinja2_with_native_markupsafe_and_bytecode(tmp_path):
    release = release_of(tmp_path / "release", "jinja2", name="acme/templates 1.0",
                         own=["jinja2"], bytecode_too=True)  # fmt: skip
    (tmp_path / "release" / "templates").mkdir()
    out = run_host(
        tmp_path,
        [release],
        """
        import importlib.metadata, inspect
        jinja2 = plugin.import_module("jinja2")
        environment = jinja2.Environment(autoescape=True)
        out["rendered"] = environment.from_string("{{ x }}").render(x="<b>")
        import markupsafe, markupsafe._speedups
        out["native"] = markupsafe._speedups.__file__
        out["escape"] = markupsafe.escape.__module__
        out["version"] = importlib.metadata.version("jinja2")
        out["requires"] = importlib.metadata.requires("jinja2")
        out["source"] = inspect.getsource(jinja2.Environment.from_string).split("(")[0].strip()
        out["code"] = jinja2.Environment.from_string.__code__.co_filename
        loader = jinja2.PackageLoader("jinja2", "")  # through importlib and the file system
        out["cached"] = jinja2.__cached__
        plugin.unload()
        out["left"] = [n for n in sys.modules if n.startswith(("jinja2", "markupsafe"))]
        plugin = load(plugin.manifest, plugin.directory)  # native code and all, once more
        out["again"] = plugin.import_module("jinja2").Template("{{ 6 * 7 }}").render()
        """,
    )
    place = str(tmp_path / "release")
    assert out["rendered"] == "&lt;b&gt;"
    assert str(out["native"]).startswith(f"{place}/markupsafe/_speedups.")
    assert "MarkupSafe" in str(out["requires"])
    assert out["source"] == "def from_string"
    assert out["code"] == f"{place}/jinja2/environment.py"
    assert str(out["cached"]).startswith(f"{place}/jinja2/__pycache__/__init__.")
    assert out["left"] == []
    assert out["again"] == "42"


@pytest.mark.parametrize("sealed", [True, False])
def test_numpy_finds_its_sibling_libraries(tmp_path, sealed):
    release = release_of(tmp_path / "release", "numpy", name="acme/numbers 1.0", own=["numpy"])
    out = run_host(
        tmp_path,
        [release],
        """
        numpy = plugin.import_module("numpy")
        out["solved"] = numpy.linalg.solve([[3.0, 1.0], [1.0, 2.0]], [9.0, 8.0]).round(9).tolist()
        out["file"] = numpy._core._multiarray_umath.__file__
        maps = Path("/proc/self/maps")
        out["maps"] = maps.read_text() if maps.exists() else ""
        """,
        start=""
        if sealed
        else "import plugin_manager.loader._native as n; n._can_seal = lambda: False\n",
    )
    assert out["solved"] == [2.0, 3.0]
    assert str(out["file"]).startswith(str(tmp_path / "release" / "numpy"))
    # Nothing is mapped from where others could still write to it.
    assert str(tmp_path / "release") not in str(out["maps"])
    if sealed and out["maps"]:
        assert "memfd:libscipy_openblas" in str(out["maps"])


def test_sympy_with_1500_files(tmp_path):
    release = release_of(tmp_path / "release", "sympy", name="acme/algebra 1.0", own=["sympy"])
    out = run_host(
        tmp_path,
        [release],
        """
        sympy = plugin.import_module("sympy")
        x = sympy.symbols("x")
        out["integral"] = str(sympy.integrate(x ** 2 * sympy.exp(x), x))
        out["modules"] = len(plugin.modules)
        out["files"] = len(plugin.files)
        """,
    )
    assert out["integral"] == "(x**2 - 2*x + 2)*exp(x)"
    assert int(str(out["modules"])) > 300
    assert int(str(out["files"])) > 1000


def test_datasette_serves_pages_with_a_plugin_of_its_own(tmp_path):
    release = release_of(
        tmp_path / "release",
        "datasette",
        "datasette-json-html",
        name="simonw/datasette 1.0",
        own=["datasette", "datasette-json-html"],
        entry_points=[("console_scripts", "datasette", "datasette.cli:cli")],
    )
    out = run_host(
        tmp_path,
        [release],
        """
        import asyncio
        app = plugin.import_module("datasette.app")
        async def ask():
            datasette = app.Datasette(memory=True)
            await datasette.invoke_startup()
            page = await datasette.client.get("/_memory?sql=select+1")
            static = await datasette.client.get("/-/static/app.css")
            plugins = await datasette.client.get("/-/plugins.json")
            return page, static, plugins
        page, static, plugins_page = asyncio.run(ask())
        out["status"] = [page.status_code, static.status_code]
        out["page"] = "Custom SQL query" in page.text
        out["plugins"] = [entry["name"] for entry in plugins_page.json()]
        out["command"] = plugin.entry_points_in("console_scripts")[0].load().name
        out["shared"] = dict(plugin.shared)
        """,
    )
    assert out["status"] == [200, 200]
    assert out["page"] is True
    assert "datasette-json-html" in str(out["plugins"])
    assert out["command"] == "cli"
    # The project itself depends on click, so the host's copy serves.
    assert "libraries/click" in str(out["shared"])
