"""Children of a fork: what their parent's other threads were doing keeps them from nothing."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from plugin_manager.loader import _finder, _native, load
from tests.loader.releases import make_release
from tests.loader.test_native import library

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def in_a_child(work: Callable[[], object]) -> int:
    """With what a child of a fork ends that does `work`; hanging, by a signal, as -14."""
    child = os.fork()
    if not child:
        signal.alarm(30)
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def held_by_another_thread(monkeypatch, owner: object, name: str, work) -> Iterator[None]:
    """A thread that does `work`, and has come to a call of the function `name`."""

    def waiting(*arguments):
        if threading.current_thread() is thread:
            there.set()
            go_on.wait(120)
        return real(*arguments)

    there, go_on, real = threading.Event(), threading.Event(), getattr(owner, name)
    thread = threading.Thread(target=work)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, waiting)
        thread.start()
        try:
            assert there.wait(60)
            yield
        finally:
            go_on.set()
            thread.join()


@pytest.mark.parametrize("step", ["_judge", "_install", "_join", "_modules_of", "_leave", "_left"])
def test_a_child_loads_what_its_parent_was_just_loading_or_unloading(tmp_path, monkeypatch, step):
    files = {"demo/__init__.py": "x = 1\n", "demo_space/inner.py": "y = 2\n"}
    release = make_release(tmp_path, files)

    def use() -> None:
        with load(*release) as plugin:
            assert plugin.import_module("demo").x == 1
            assert plugin.import_module("demo_space.inner").y == 2
        assert not {name for name in sys.modules if name.startswith("demo")}

    with held_by_another_thread(monkeypatch, _finder.FINDER, step, lambda: load(*release).unload()):
        assert in_a_child(use) == 0
    use()


def test_a_child_maps_native_code_while_its_parent_was_mapping_some(tmp_path, monkeypatch):
    source = library("_heapq")
    files = {f"demo_{n}/{source.name}": source.read_bytes() + os.urandom(16) for n in "ab"}
    with (
        load(*make_release(tmp_path, files)) as plugin,
        held_by_another_thread(
            monkeypatch, _native, "_mappable", lambda: plugin.import_module("demo_a._heapq")
        ),
    ):
        assert in_a_child(lambda: plugin.import_module("demo_b._heapq")) == 0


def test_copies_of_native_code_outlive_a_child_of_a_fork(tmp_path, monkeypatch):
    monkeypatch.setattr(_native, "_private_directory", _native._private_directory.__wrapped__)
    registered = []
    monkeypatch.setattr(_native.atexit, "register", lambda *call: registered.append(call))
    directory = _native._private_directory()
    [(function, *arguments)] = registered
    assert in_a_child(lambda: function(*arguments)) == 0
    assert directory.is_dir()
    function(*arguments)
    assert not directory.exists()
