"""Stevedore, a host's plugin manager that remembers entry points on disk, with loaded releases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from plugin_manager.manifest import render
from tests.loader.releases import make_release

PROJECT = Path(__file__).resolve().parents[2]
FILES = {"demo_driver.py": "class Driver:\n    def name(self):\n        return 'demo'\n"}
ENTRY_POINTS = [("demo.drivers", "demo", "demo_driver:Driver")]

LOAD = """
import json, sys
from pathlib import Path
from plugin_manager.loader import load
from plugin_manager.manifest import parse
def loaded():
    return load(parse(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]))
def names():
    from stevedore import ExtensionManager
    failed = []
    found = ExtensionManager(
        "demo.drivers", invoke_on_load=True,
        on_load_failure_callback=lambda manager, entry, error: failed.append(entry.name),
    )
    return found.map(lambda extension: extension.obj.name()) if found.extensions else [], failed
"""


class Hosts:
    """Processes that use stevedore, one after the other, with the same cache."""

    def __init__(self, directory: Path) -> None:
        manifest, place = make_release(directory / "release", FILES, entry_points=ENTRY_POINTS)
        (directory / "manifest").write_bytes(render(manifest))
        self.arguments = [str(directory / "manifest"), str(place)]
        self.cache = directory / "cache" / "python-entrypoints"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "XDG_CACHE_HOME": str(directory / "cache"),
        }

    def __call__(self, code: str) -> object:
        program = LOAD + textwrap.dedent(code) + "\njson.dump(out, sys.stdout)"
        done = subprocess.run(
            [sys.executable, "-c", program, *self.arguments], env=self.environment, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


WITH, WITHOUT = "with loaded():\n    out = names()", "out = names()"
FOUND, NOTHING = [["demo"], []], [[], []]


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    if sys.executable.startswith("/tmp"):
        pytest.skip("stevedore keeps nothing for an interpreter below /tmp")
    return Hosts(tmp_path)


def test_stevedore_finds_and_calls_what_a_loaded_release_offers(hosts: Hosts) -> None:
    assert hosts(WITH) == FOUND


def test_control_without_the_release_there_is_nothing(hosts: Hosts) -> None:
    assert hosts(WITHOUT) == NOTHING


def test_a_driver_is_found_by_its_name(hosts: Hosts) -> None:
    out = hosts(
        """
        with loaded():
            from stevedore.driver import DriverManager
            out = DriverManager("demo.drivers", "demo", invoke_on_load=True).driver.name()
        """
    )
    assert out == "demo"


# What the documentation says of its cache, whose key knows `sys.path`, but no loaded release.


def test_what_a_process_without_the_release_kept_hides_it_from_one_with_it(hosts: Hosts) -> None:
    hosts(WITHOUT)
    assert hosts(WITH) == NOTHING


def test_what_a_process_with_the_release_kept_is_offered_to_one_without_it(hosts: Hosts) -> None:
    hosts(WITH)
    assert hosts(WITHOUT) == [[], ["demo"]]


def test_in_one_process_the_first_look_decides(hosts: Hosts) -> None:
    assert hosts("before = names()\nwith loaded():\n    out = [before, names()]") == [
        NOTHING,
        NOTHING,
    ]


def test_with_its_cache_disabled_each_process_looks_itself(hosts: Hosts) -> None:
    hosts.cache.mkdir(parents=True)
    (hosts.cache / ".disable").touch()
    assert hosts(WITHOUT) == NOTHING
    assert hosts(WITH) == FOUND
    assert hosts(WITHOUT) == NOTHING


def test_disabling_it_does_not_forget_what_was_kept(hosts: Hosts) -> None:
    hosts(WITHOUT)
    (hosts.cache / ".disable").touch()
    assert hosts(WITH) == NOTHING
    for path in hosts.cache.glob("[!.]*"):
        path.unlink()
    assert hosts(WITH) == FOUND
