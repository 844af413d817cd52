"""Datasette as a host: its own plugin manager finds plugins that came as bundles.

The plugins are real ones from the package index, and one of our own with a template, a static
file and a route. None of them is installed in the interpreter that runs datasette.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.wheels import wheels
from tests.world import World

pytestmark = pytest.mark.network

PROJECT = Path(__file__).resolve().parents[2]
HOST = PROJECT / "docs" / "examples" / "datasette_host.py"
PASSPHRASE = "open sesame"

# What datasette itself brings is the host's, so it stays out of the bundles.
PROVIDED = ("--provided", "datasette")
WHEELS = {
    "datasette-pretty-json": ("datasette-pretty-json==0.2.2", "datasette-pretty-json==0.3"),
    "datasette-leaflet": ("datasette-leaflet==0.2.2",),
    "datasette-cluster-map": ("datasette-cluster-map==0.18.2",),
    "datasette-search-all": ("datasette-search-all==1.1.4",),
    "datasette-render-markdown": ("datasette-render-markdown==2.2.1",),
}
MODULES = [name.replace("-", "_") for name in (*WHEELS, "datasette-visitors")]

VISITORS = {
    "datasette_visitors/__init__.py": """\
from datasette import Response, hookimpl


@hookimpl
def register_routes():
    return [(r"^/-/visitors/(?P<name>[a-z]+)$", visit)]


async def visit(datasette, request):
    name = request.url_vars["name"]
    return Response.html(await datasette.render_template("visitors.html", {"name": name}, request))
""",
    "datasette_visitors/templates/visitors.html": "{% extends 'base.html' %}{% block content %}"
    "<p class='visitors'>Welcome, {{ name }}</p>{% endblock %}",
    "datasette_visitors/static/visitors.css": ".visitors { color: teal }\n",
}


class Site:
    """A repository, a store with the plugins installed, a database, and hosts for them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.root = directory / "root.json"
        self.database = directory / "data.db"

    @property
    def environment(self) -> dict[str, str]:
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("PLUGINCTL_", "PYTHON"))}
        return {
            **plain,
            "PLUGINCTL_STORE": str(self.store),
            "PLUGINCTL_ROOT": str(self.root),
            "PLUGINCTL_PASSPHRASE": PASSPHRASE,
            "PYTHONPATH": str(PROJECT),
        }

    def pluginctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "plugin_manager.cli", *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done

    def copied_to(self, directory: Path) -> Site:
        """The same with a store of its own, which a test may change."""
        other = Site(directory)
        other.root, other.database = self.root, self.database
        shutil.copytree(self.store, other.store, symlinks=True)
        return other

    def release(self, plugin: str) -> Path:
        return Path(self.pluginctl("path", plugin).stdout.strip())

    def ask(self, *paths: str) -> tuple[dict[str, Any], str]:
        """Status and text of `paths` as datasette's own client gets them, and standard error."""
        code = f"""
import asyncio, json, sys
sys.path.insert(0, {str(HOST.parent)!r})
from datasette_host import load_plugins
from plugin_manager import PluginManager
manager = PluginManager.open()
load_plugins(manager)
from datasette.app import Datasette
async def ask():
    application = Datasette([sys.argv[1]])
    await application.invoke_startup()
    answers = {{}}
    for path in sys.argv[2:]:
        answer = await application.client.get(path)
        answers[path] = [answer.status_code, answer.text]
    return answers
print(json.dumps(asyncio.run(ask())))
"""
        done = subprocess.run(
            [sys.executable, "-c", code, str(self.database), *paths],
            env=self.environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    @contextmanager
    def serving(self) -> Iterator[Served]:
        """The example as its own process on loopback."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = self.directory / "host.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(HOST), "serve", str(self.database), "--port", str(port)],
                env=self.environment, stdout=output, stderr=output,
            )  # fmt: skip
        served = Served(f"http://127.0.0.1:{port}", log)
        try:
            deadline = time.monotonic() + 120
            while b"Uvicorn running" not in log.read_bytes():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield served
        finally:
            process.terminate()
            process.wait(30)


class Served:
    """A host that answers over HTTP."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def plugins(self) -> dict[str, dict[str, Any]]:
        return {plugin["name"]: plugin for plugin in json.loads(self.get("/-/plugins.json")[1])}


@pytest.fixture(scope="module")
def whole_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    world = World(tmp_path_factory.mktemp("datasette"))
    site = Site(world.directory)
    repository = ["--directory", str(world.repository.directory)]
    files = world.directory / "visitors" / "files"
    for path, content in VISITORS.items():
        (files / path).parent.mkdir(parents=True, exist_ok=True)
        (files / path).write_text(content)
    (files.parent / "plugin.toml").write_text(
        '[plugin]\nname = "acme/datasette-visitors"\nversion = "1.0"\n'
        '[entry-points.datasette]\nvisitors = "datasette_visitors"\n'
    )
    site.pluginctl("repo", "publish", str(files.parent), *repository)
    with world.online() as url:
        client = ["--repository", url]
        for requirements in WHEELS.values():
            for requirement in requirements:
                taken = wheels(requirement)
                name = requirement.partition("==")[0]
                [wheel] = taken.glob(f"{name.replace('-', '_')}-*.whl")
                site.pluginctl(
                    "repo", "publish", str(wheel), "--publisher", "acme", *PROVIDED, *repository,
                    *leaflet_is_a_plugin(name), "--with-dependencies", str(taken),
                )  # fmt: skip
                site.pluginctl(*client, "install", f"acme/{requirement}")
        site.pluginctl(*client, "install", "acme/datasette-visitors")
    make_database(site.database)
    yield site
    world.close()


def leaflet_is_a_plugin(name: str) -> list[str]:
    """It comes as a bundle of its own, so that other plugins can use it too."""
    return ["--provided", "datasette-leaflet"] if name == "datasette-cluster-map" else []


@pytest.fixture
def site(whole_site: Site, tmp_path: Path) -> Site:
    return whole_site.copied_to(tmp_path)


def make_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript("""
            create table places (name text, latitude real, longitude real, facts text,
                                 story_markdown text);
            insert into places values ('Hut', 47.1, 11.2, '{"beds": 6}', 'A *very* old hut');
            create virtual table places_fts using fts5(name, content=places);
        """)
    connection.close()


TABLE = "/data/places"
STATIC = "/-/static-plugins"
PRETTY_NEW, PRETTY_OLD = '<pre style="white-space: pre-wrap">{', "<pre>{"
PRETTY = re.compile(r"<pre[^>]*>\{")


def test_the_plugins_are_not_installed_in_this_interpreter() -> None:
    assert importlib.util.find_spec("datasette") is not None, "the host is"
    assert [name for name in MODULES if importlib.util.find_spec(name)] == []


def test_what_datasette_depends_on_is_not_in_the_bundles(site: Site) -> None:
    brought = {
        name: sorted(path.name for path in site.release(f"acme/{name}").iterdir())
        for name in WHEELS
    }
    assert brought["datasette-pretty-json"] == [
        "datasette_pretty_json", "datasette_pretty_json-0.3.dist-info",
    ]  # fmt: skip
    markdown = brought["datasette-render-markdown"]
    assert {"datasette_render_markdown", "markdown", "bleach"} <= set(markdown)
    everything = {file for files in brought.values() for file in files}
    assert not {"datasette", "jinja2", "httpx", "uvicorn", "pluggy", "click"} & everything
    assert not [file for file in everything if re.match(r"(datasette|jinja2|httpx)-\d", file)]


def test_datasettes_own_client_sees_every_plugin_at_work(site: Site) -> None:
    answers, said = site.ask("/-/plugins.json", TABLE, "/-/search?q=hut", "/-/visitors/ada")
    assert "left out" not in said
    assert {status for status, _ in answers.values()} == {200}
    plugins = {plugin["name"]: plugin for plugin in json.loads(answers["/-/plugins.json"][1])}
    # As distributions with a version, ours by publisher and name.
    assert set(plugins) == {*WHEELS, "acme.datasette-visitors"}
    assert plugins["datasette-pretty-json"]["version"] == "0.3"
    assert plugins["acme.datasette-visitors"]["version"] == "1.0"
    assert plugins["datasette-cluster-map"]["static"]
    assert plugins["datasette-search-all"]["templates"]
    table = answers[TABLE][1]
    assert PRETTY_NEW in table
    assert "<em>very</em>" in table, "vendored markdown"
    assert f"{STATIC}/datasette-cluster-map/datasette-cluster-map.js" in table
    assert f"{STATIC}/datasette-leaflet/leaflet-v1.7.1.js" in table
    assert "Search all tables" in answers["/-/search?q=hut"][1]
    assert "Welcome, ada" in answers["/-/visitors/ada"][1]


def test_control_without_the_store_datasette_has_no_plugins(site: Site) -> None:
    site.store = site.directory / "empty"
    answers, _ = site.ask("/-/plugins.json", TABLE, "/-/visitors/ada")
    assert json.loads(answers["/-/plugins.json"][1]) == []
    assert not PRETTY.search(answers[TABLE][1])
    assert "<em>" not in answers[TABLE][1]
    assert answers["/-/visitors/ada"][0] == 404


def test_a_real_process_serves_pages_templates_and_static_files(site: Site) -> None:
    script = "datasette_cluster_map/static/datasette-cluster-map.js"
    with site.serving() as host:
        assert set(host.plugins()) == {*WHEELS, "acme.datasette-visitors"}
        assert PRETTY_NEW in host.get(TABLE)[1]
        assert "Welcome, grace" in host.get("/-/visitors/grace")[1]
        served = host.get(f"{STATIC}/datasette-cluster-map/datasette-cluster-map.js")
        assert served == (200, (site.release("acme/datasette-cluster-map") / script).read_text())
        assert host.get(f"{STATIC}/acme.datasette-visitors/visitors.css") == (
            200, VISITORS["datasette_visitors/static/visitors.css"],
        )  # fmt: skip
        assert host.get(f"{STATIC}/datasette-cluster-map/none.js")[0] == 404


def test_after_a_rollback_the_host_shows_the_earlier_behaviour(site: Site) -> None:
    with site.serving() as host:
        assert PRETTY_NEW in host.get(TABLE)[1]
    done = site.pluginctl("rollback", "acme/datasette-pretty-json")
    assert "0.3 -> 0.2.2" in done.stdout
    with site.serving() as host:
        page = host.get(TABLE)[1]
        assert PRETTY_OLD in page
        assert PRETTY_NEW not in page
        assert host.plugins()["datasette-pretty-json"]["version"] == "0.2.2"
        assert "<em>very</em>" in page, "the others are as they were"


def tamper(site: Site) -> Path:
    """Change a module of a plugin in the store, keeping its size; returns the release."""
    release = site.release("acme/datasette-pretty-json")
    file = release / "datasette_pretty_json" / "__init__.py"
    text = file.read_text()
    file.unlink()  # it may be read-only
    file.write_text(text.replace("pre-wrap", "pre-evil"))
    return release


def test_a_tampered_plugin_is_refused_and_the_host_serves_with_the_others(site: Site) -> None:
    tamper(site)
    with site.serving() as host:
        status, page = host.get(TABLE)
        assert status == 200
        assert not PRETTY.search(page)
        assert "<em>very</em>" in page
        assert set(host.plugins()) == {*WHEELS, "acme.datasette-visitors"} - {
            "datasette-pretty-json"
        }
        said = host.log.read_text()
    assert "acme/datasette-pretty-json is left out: acme/datasette-pretty-json 0.3 is not" in said
    assert "datasette_pretty_json/__init__.py (damaged)" in said


def test_control_installed_by_path_the_tampered_plugin_would_run(site: Site) -> None:
    release = tamper(site)
    shutil.rmtree(release / "datasette_pretty_json" / "__pycache__")  # it would be believed
    code = """
import asyncio, sys
from datasette.app import Datasette
async def ask():
    application = Datasette([sys.argv[1]])
    await application.invoke_startup()
    return (await application.client.get("/data/places")).text
print(asyncio.run(ask()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(site.database)], capture_output=True, text=True,
        env={**site.environment, "PYTHONPATH": f"{PROJECT}{os.pathsep}{release}"}, check=True,
    )  # fmt: skip
    assert "pre-evil" in done.stdout
