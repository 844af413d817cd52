"""Real wheels from the package index become bundles, and run in hosts that do not have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plugin_manager.publishing import Published
from tests.hosts import BareHost
from tests.wheels import wheels
from tests.world import World

OPEN = """
import json, sys
from plugin_manager import PluginManager
manager = PluginManager.open(sys.argv[1], root=sys.argv[2])
def missing(*names):
    import importlib.util
    return [n for n in names if importlib.util.find_spec(n) is None]
"""


@pytest.fixture
def host(tmp_path: Path) -> BareHost:
    return BareHost(tmp_path / "host")


def publish_wheel(world: World, directory: Path, pattern: str, **more: Any) -> Published:
    [wheel] = directory.glob(pattern)
    return world.repository.publish(wheel, publisher="acme", **more)


def answer(world: World, host: BareHost, code: str) -> Any:
    return host.json(OPEN + code, str(world.directory / "store"), str(world.root))


@pytest.mark.network
def test_datasette_and_one_of_its_plugins_run_from_bundles(world: World, host: BareHost) -> None:
    taken = wheels("datasette", "datasette-pretty-json")
    publish_wheel(
        world,
        taken,
        "datasette-[0-9]*.whl",
        with_dependencies=taken,
        provided=("pip", "setuptools"),
    )
    publish_wheel(world, taken, "datasette_pretty_json-*.whl")
    with world.online():
        world.manager().install("acme/datasette", "acme/datasette-pretty-json")
    found = answer(
        world,
        host,
        """
absent = missing("datasette", "jinja2", "httpx", "yaml", "datasette_pretty_json")
with manager.load("acme/datasette-pretty-json"), manager.load("acme/datasette"):
    import asyncio
    from datasette.app import Datasette
    async def ask():
        application = Datasette(memory=True)
        await application.invoke_startup()
        page = await application.client.get("/_memory.json?sql=select+6*7+as+answer&_shape=array")
        html = await application.client.get("/")
        plugins = await application.client.get("/-/plugins.json?all=1")
        names = [plugin["name"] for plugin in plugins.json()]
        return page.json(), html.status_code, "<html" in html.text, names
    value = asyncio.run(ask())
    import datasette, jinja2
    print(json.dumps([absent, value, datasette.__file__, type(jinja2.__loader__).__module__]))
""",
    )
    absent, (rows, status, is_html, plugins), file, loader = found
    assert absent == ["datasette", "jinja2", "httpx", "yaml", "datasette_pretty_json"]
    assert rows == [{"answer": 42}]
    assert (status, is_html) == (200, True)
    assert "datasette_pretty_json" in plugins or "datasette-pretty-json" in plugins
    assert str(world.directory) in file
    assert loader.startswith("plugin_manager.loader")


@pytest.mark.network
def test_numpy_runs_with_its_native_code_and_sibling_libraries(
    world: World, host: BareHost
) -> None:
    taken = wheels("numpy")
    published = publish_wheel(world, taken, "numpy-*.whl")
    assert published.release.platform != "any"
    with world.online():
        world.manager().install("acme/numpy")
    found = answer(
        world,
        host,
        """
absent = missing("numpy")
with manager.load("acme/numpy") as plugin:
    numpy = plugin.import_module("numpy")
    matrix = numpy.arange(9.0).reshape(3, 3) + 10 * numpy.eye(3)
    with open("/proc/self/maps") as maps:
        names = {line.split(" ", 5)[-1].strip() for line in maps}
    mapped = [name for name in sorted(names) if "umpy" in name or "blas" in name]
    print(json.dumps([absent, float(numpy.linalg.det(matrix)), mapped]))
""",
    )
    absent, determinant, mapped = found
    assert absent == ["numpy"]
    assert determinant == pytest.approx(2020)
    release = str(world.directory / "store/releases")
    assert mapped, "the native code is mapped"
    assert not [line for line in mapped if line.startswith(release)], "from sealed memory only"


@pytest.mark.network
def test_cryptography_which_the_host_has_itself_is_a_clear_error(
    world: World, host: BareHost
) -> None:
    taken = wheels("cryptography")
    publish_wheel(world, taken, "cryptography-*.whl", with_dependencies=taken)
    with world.online():
        world.manager().install("acme/cryptography")
    done = host.run(
        OPEN + "manager.load('acme/cryptography')", str(world.directory / "store"), str(world.root)
    )
    assert done.returncode == 1
    assert "ModuleConflictError" in done.stderr
    assert "cryptography" in done.stderr.splitlines()[-1]


@pytest.mark.network
def test_sympy_computes_and_an_upgrade_of_it_is_small(world: World, host: BareHost) -> None:
    old, new = wheels("sympy==1.13.2"), wheels("sympy==1.13.3")
    with world.online():
        for directory in (old, new):
            publish_wheel(world, directory, "sympy-*.whl", with_dependencies=directory)
            world.manager().install("acme/sympy") if directory == old else None
        whole = world.fetched()
        world.manager().upgrade()
        changed = world.fetched()
    assert changed < whole / 2
    found = answer(
        world,
        host,
        """
absent = missing("sympy", "mpmath")
with manager.load("acme/sympy") as plugin:
    sympy = plugin.import_module("sympy")
    x = sympy.Symbol("x")
    print(json.dumps([absent, str(sympy.integrate(sympy.sin(x) ** 2, (x, 0, sympy.pi))),
                      sympy.__version__]))
""",
    )
    assert found == [["sympy", "mpmath"], "pi/2", "1.13.3"]
