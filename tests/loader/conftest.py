"""What every test of the loader wants: a clean slate afterwards, and releases in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin_manager.loader import LoadedPlugin, load
from tests.loader.releases import make_release

Loading = Callable[..., LoadedPlugin]


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[Loading]:
    """`loading(files, **facts)` writes a release, loads it, and unloads it after the test."""
    loaded: list[LoadedPlugin] = []

    def loading(files, *, directory: str | None = None, **facts) -> LoadedPlugin:
        place = tmp_path / (directory or f"release-{len(loaded)}")
        place.mkdir(exist_ok=True)
        loaded.append(load(*make_release(place, files, **facts)))
        return loaded[-1]

    yield loading
    for plugin in loaded:
        plugin.unload()


@pytest.fixture(autouse=True)
def _nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails a test after which the import system is not as it was, but for what is there for good.

    That is the finder, which is at its place from the first load on, and its hook.
    """
    load(*make_release(tmp_path_factory.mktemp("first"), {})).unload()
    before = set(sys.modules), list(sys.meta_path), list(sys.path_hooks)
    yield
    added = {name for name in set(sys.modules) - before[0] if name.startswith("demo")}
    assert (added, list(sys.meta_path), list(sys.path_hooks)) == (set(), *before[1:])
