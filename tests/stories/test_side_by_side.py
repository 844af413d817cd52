"""Changes that fetch hold nobody up, and share what they fetch."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable

import pytest
from attrs import evolve

from plugin_manager import PluginManager
from plugin_manager.configuration import from_environment
from plugin_manager.errors import LockedError, NoSpaceError, RefusedError
from plugin_manager.manager import Progress
from tests.world import World

BIG = random.Random(3).randbytes(3_000_000)


@pytest.fixture
def slow(world: World) -> Callable[..., PluginManager]:
    """A manager whose downloads wait at their first bytes until `go` is set."""

    def make(begun: threading.Event, go: threading.Event) -> PluginManager:
        def progress(_: Progress) -> None:
            begun.set()
            assert go.wait(30)

        return world.manager(progress=progress)

    return make


def in_thread(act: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_others_change_the_store_while_bytes_arrive(
    world: World, slow: Callable[..., PluginManager]
) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "V = 1"})
    world.publish("acme/maps 2.0", {"maps.py": "V = 2"})
    world.publish("acme/model 1.0", {"model.bin": BIG})
    begun, go = threading.Event(), threading.Event()
    with world.online():
        world.manager().install("acme/maps==1.0")
        world.manager().upgrade("acme/maps")
        thread, errors = in_thread(lambda: slow(begun, go).install("acme/model"))
        assert begun.wait(30)
        other = world.manager()
        other.settings = from_environment(
            {}, store=other.settings.store, lock_timeout_seconds=2, root=world.root
        )
        other.rollback("acme/maps")  # does not wait for the download
        go.set()
        thread.join(30)
        assert errors == []
        world.fetched()
    installed = {str(one.release) for one in world.manager().installed()}
    assert installed == {"acme/maps 1.0", "acme/model 1.0"}


def test_what_was_planned_before_is_not_carried_out_over_a_later_change(
    world: World, slow: Callable[..., PluginManager]
) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "V = 1"})
    world.publish("acme/model 1.0", {"model.bin": BIG})
    begun, go = threading.Event(), threading.Event()
    with world.online():
        manager = slow(begun, go)
        plan = manager.plan_install("acme/model")
        thread, errors = in_thread(lambda: manager.apply(plan))
        assert begun.wait(30)
        go.set()  # maps comes the same way
        world.manager().install("acme/maps")
        thread.join(30)
    # Which of them was first is theirs; what is refused has changed nothing.
    assert [type(error) for error in errors] in ([], [RefusedError])
    assert "acme/maps 1.0" in {str(one.release) for one in world.manager().installed()}


def test_the_same_release_is_fetched_once(world: World, slow: Callable[..., PluginManager]) -> None:
    world.publish("acme/model 1.0", {"model.bin": BIG})
    begun, go = threading.Event(), threading.Event()
    told: list[str] = []
    with world.online():
        first, first_errors = in_thread(lambda: slow(begun, go).install("acme/model"))
        assert begun.wait(30)
        waiting = threading.Event()

        def wait(holder: str) -> None:
            told.append(holder)
            waiting.set()

        other = world.manager()
        other.waiting = wait
        second, second_errors = in_thread(lambda: other.install("acme/model"))
        assert waiting.wait(30)
        go.set()
        first.join(30)
        second.join(30)
        assert (first_errors, second_errors) == ([], [])
        assert len(BIG) < world.fetched() < 1.2 * len(BIG)
    assert told == ["another process is fetching acme/model 1.0"]
    assert world.manager().history()[0].number == 1


def test_what_is_being_fetched_is_no_garbage(
    world: World, slow: Callable[..., PluginManager]
) -> None:
    world.publish("acme/model 1.0", {"model.bin": BIG})
    begun, go = threading.Event(), threading.Event()
    with world.online():
        thread, errors = in_thread(lambda: slow(begun, go).install("acme/model"))
        assert begun.wait(30)
        assert world.manager().cleanup(unfinished=True).garbage == ()
        go.set()
        thread.join(30)
    assert errors == []


def test_who_needs_what_another_fetches_waits_for_it_as_long_as_it_may(
    world: World, slow: Callable[..., PluginManager]
) -> None:
    world.publish("acme/model 1.0", {"model.bin": BIG})
    begun, go = threading.Event(), threading.Event()
    with world.online():
        world.manager().install("acme/model")
        world.manager().evict(1)
        bringing, errors = in_thread(lambda: slow(begun, go).install("acme/model"))
        assert begun.wait(30)
        hasty = world.manager()
        hasty.settings = evolve(hasty.settings, lock_timeout_seconds=0.5)
        with pytest.raises(LockedError, match="another process is fetching acme/model"):
            hasty.install("acme/model")
        with pytest.raises(LockedError, match="another process is fetching acme/model"):
            hasty.repair("acme/model")
        loading, load_errors = in_thread(lambda: world.manager().load("acme/model"))
        go.set()
        for thread in (bringing, loading):
            thread.join(30)
        assert (errors, load_errors) == ([], [])
        assert world.fetched() < 2.2 * len(BIG)  # at first, and once more


def test_a_full_disk_while_fetching_is_said_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    world.publish("acme/model 1.0", {"model.bin": BIG})
    with world.online():
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            with pytest.raises(NoSpaceError):
                world.manager().install("acme/model")
        world.manager().install("acme/model")
