"""Trials: what was upgraded to has to show that it works, or the release before comes back."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from plugin_manager import PluginManager
from plugin_manager.errors import (
    BlockedError,
    ConflictError,
    CorruptError,
    LockedError,
    NetworkError,
    PluginManagerError,
    RefusedError,
    StoreAccessError,
)
from plugin_manager.manager import Event, _trial
from plugin_manager.manager._parts import Parts
from plugin_manager.model import Digest, PluginName
from plugin_manager.store import Attempt, Trials
from tests.cli.test_client import Command
from tests.stories.test_space import read_only
from tests.world import World, snapshot

PROJECT = Path(__file__).resolve().parents[2]
MAPS = PluginName.parse("acme/maps")
PATIENCE_SECONDS = 60.0

# A host: loads acme/maps, does what it is told, and says at once what it has.
HOST = """
import json, os, sys
from plugin_manager import PluginManager
store, root, confirm, then = sys.argv[1:]
events = []
manager = PluginManager.open(
    store, root=root, host_version="1.0", confirm=confirm, lock_timeout_seconds=60,
    on_event=lambda event: events.append([event.kind, str(event.release)]),
)
plugin = manager.load("acme/maps")
print(json.dumps({"version": str(plugin.version), "events": events}), flush=True)
exec(then)
"""
IMPORT = "plugin.import_module('maps')"

# Each module leaves a mark as it runs, so that tests see that none did.
MODULE = """
import os, pathlib
VERSION = {version!r}
pathlib.Path(os.environ["MARKS"], f"{{VERSION}}-{{os.getpid()}}").touch()
{misbehaviour}
"""

CRASHES = {
    "exit": "os._exit(7)",
    "kill": "import signal; os.kill(os.getpid(), signal.SIGKILL)",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "exception": "raise RuntimeError('not today')",
    "syntax error": "def",
}
HANG = "import time; time.sleep(600)"
UNLESS = """
if not pathlib.Path(os.environ["MARKS"], "go").exists():
    raise OSError("not yet")
"""
WAIT = """
import time
while not pathlib.Path(os.environ["MARKS"], "go").exists():
    time.sleep(0.01)
"""


class Hosts:
    """Processes of a host of `world`, and the marks that its plugin's code leaves."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.marks = world.directory / "marks"
        self.marks.mkdir()
        self.environment = {**os.environ, "PYTHONPATH": str(PROJECT), "MARKS": str(self.marks)}

    def publish(self, version: str, misbehaviour: str = "", requires: str = "") -> None:
        module = MODULE.format(version=version, misbehaviour=misbehaviour)
        files = {"maps/__init__.py": module, "maps/more.py": "MORE = 1\n"}
        self.world.publish(f"acme/maps {version}", files, requires=requires)

    def start(self, then: str = IMPORT, *, confirm: str = "import") -> subprocess.Popen[str]:
        store, root = self.world.directory / "store", self.world.root
        return subprocess.Popen(
            [sys.executable, "-c", HOST, store, root, confirm, then],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, then: str = IMPORT, *, confirm: str = "import") -> dict[str, Any]:
        """What a host said, to its end, and its exit `code`."""
        process = self.start(then, confirm=confirm)
        said, complained = process.communicate(timeout=PATIENCE_SECONDS)
        assert said, complained
        return {**json.loads(said.splitlines()[0]), "code": process.returncode}

    def ran(self) -> set[str]:
        """The versions whose code has run."""
        return {path.name.split("-")[0] for path in self.marks.iterdir()}

    def until_run(self, version: str, count: int = 1) -> None:
        """Wait until the code of `version` runs in `count` processes."""
        until = time.monotonic() + PATIENCE_SECONDS
        while len(list(self.marks.glob(f"{version}-*"))) < count:
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.fixture
def hosts(world: World, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    hosts = Hosts(world)
    monkeypatch.setenv("MARKS", str(hosts.marks))
    return hosts


def upgraded(hosts: Hosts, misbehaviour: str = "") -> PluginManager:
    """1.0 was installed, and upgraded to 2.0, which misbehaves; the server has stopped."""
    hosts.publish("1.0")
    with hosts.world.online():
        hosts.world.manager().install("acme/maps")
        hosts.publish("2.0", misbehaviour)
        hosts.world.manager().upgrade()
    hosts.world.base_url = ""
    return hosts.world.manager()


def configured(world: World, store: str = "store", **settings: Any) -> PluginManager:
    """A manager with `settings` of its own."""
    manager = world.manager(store)
    manager.settings = evolve(manager.settings, **settings)
    return manager


def attempts(manager: PluginManager) -> int | None:
    trial = manager.trials().get(MAPS)
    return trial.attempts if trial else None


def exhaust(manager: PluginManager) -> None:
    """Have all attempts fail, as three processes that died would."""
    [active] = [one for one in manager.installed() if one.release.plugin == MAPS]
    for _ in range(3):
        attempt = Trials(manager.settings.store).attempt(active.digest)
        assert attempt
        attempt.fail()


def active(manager: PluginManager) -> str:
    return str({one.release.plugin: one for one in manager.installed()}[MAPS].release.version)


# --- what counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", CRASHES)
def test_a_release_that_crashes_or_raises_is_left_after_three_attempts(
    hosts: Hosts, way: str
) -> None:
    manager = upgraded(hosts, CRASHES[way])
    for failed in range(3):
        assert attempts(manager) == failed
        run = hosts.run()
        assert (run["version"], run["code"] != 0) == ("2.0", True)
    trust = snapshot(hosts.world.directory / "store/trust")
    for mark in hosts.marks.iterdir():
        mark.unlink()
    # The load goes back by itself, offline, and runs no code of either release.
    run = hosts.run(then="")
    assert run["version"] == "1.0"
    assert ["rolled-back", "acme/maps 1.0"] in run["events"]
    assert hosts.ran() == set()
    assert snapshot(hosts.world.directory / "store/trust") == trust
    assert manager.history()[0].action == "rollback acme/maps 2.0 -> 1.0, as it failed on trial"
    # Control: code that runs leaves its mark. And it stays at that.
    run = hosts.run()
    assert (run["version"], run["code"]) == ("1.0", 0)
    assert [kind for kind, _ in run["events"]] == ["verified", "loaded"]
    assert hosts.ran() == {"1.0"}


def test_a_hang_that_somebody_ends_counts(hosts: Hosts) -> None:
    manager = upgraded(hosts, HANG)
    for failed in range(3):
        assert attempts(manager) == failed
        process = hosts.start()
        hosts.until_run("2.0", failed + 1)
        assert attempts(manager) == failed, "nobody knows yet"
        process.kill()
        process.communicate()
    assert hosts.run(then="")["version"] == "1.0"


def test_a_hang_in_a_thread_counts_when_the_host_gives_up_in_order(hosts: Hosts) -> None:
    manager = upgraded(hosts, HANG)
    run = hosts.run(
        "import threading, time, pathlib\n"
        f"threading.Thread(target=lambda: {IMPORT}, daemon=True).start()\n"
        "while not any(pathlib.Path(os.environ['MARKS']).iterdir()): time.sleep(0.01)\n"
    )
    assert (run["code"], attempts(manager)) == (0, 1)


def test_an_exception_counts_at_once_and_once_for_each_load(hosts: Hosts) -> None:
    manager = upgraded(hosts, CRASHES["exception"])
    plugin = manager.load("acme/maps")
    for _ in range(5):
        with pytest.raises(RuntimeError, match="not today"):
            plugin.import_module("maps")
        assert attempts(manager) == 1
    plugin.unload()
    assert attempts(manager) == 1


def test_a_host_that_retries_within_its_process_gets_the_release_before(hosts: Hosts) -> None:
    manager = upgraded(hosts, CRASHES["exception"])
    for _ in range(3):
        with manager.load("acme/maps") as plugin, pytest.raises(RuntimeError):
            plugin.import_module("maps")
    with manager.load("acme/maps") as plugin:
        assert plugin.import_module("maps").VERSION == "1.0"


def test_a_successful_import_confirms(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    [trial] = manager.trials().values()
    assert (str(trial.release), str(trial.previous)) == ("acme/maps 2.0", "acme/maps 1.0")
    assert (trial.attempts, trial.of) == (0, 3)
    assert hosts.run()["code"] == 0
    assert manager.trials() == {}
    for _ in range(4):  # later crashes are no longer the upgrade's
        assert hosts.run(f"{IMPORT}; os._exit(1)")["version"] == "2.0"


def test_an_import_that_failed_and_then_succeeds_confirms(hosts: Hosts) -> None:
    manager = upgraded(hosts, UNLESS)
    plugin = manager.load("acme/maps")
    with pytest.raises(OSError, match="not yet"):
        plugin.import_module("maps")
    assert attempts(manager) == 1
    (hosts.marks / "go").touch()
    plugin.import_module("maps")
    assert attempts(manager) is None


def test_where_the_host_confirms_imports_do_not(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    assert hosts.run(confirm="host")["version"] == "2.0"
    assert attempts(manager) == 1, "it ended without having confirmed"
    assert hosts.run(f"{IMPORT}; plugin.unload(); os._exit(0)", confirm="host")["code"] == 0
    assert attempts(manager) == 2, "unloaded without having been confirmed"
    assert hosts.run(f"{IMPORT}; plugin.confirm(); os._exit(0)", confirm="host")["code"] == 0
    assert attempts(manager) is None


def test_a_host_that_never_confirms_gets_the_release_before(hosts: Hosts) -> None:
    upgraded(hosts)
    versions = [hosts.run(confirm="host")["version"] for _ in range(5)]
    assert versions == ["2.0", "2.0", "2.0", "1.0", "1.0"]


def test_what_was_loaded_but_not_imported_was_not_tried(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    assert hosts.run("")["code"] == 0, "an orderly end"
    with manager.load("acme/maps") as plugin:
        assert plugin.read("maps/more.py") == b"MORE = 1\n"
    assert attempts(manager) == 0
    # Nor by a host that is ended from outside before it needs it.
    ended = hosts.start("import time; time.sleep(600)")
    assert ended.stdout
    assert "2.0" in ended.stdout.readline()
    ended.terminate()
    ended.communicate()
    assert attempts(manager) == 0
    # Control: where the host is to confirm it is in use from the load on.
    hosts.run("os._exit(0)", confirm="host")
    assert attempts(manager) == 1


def test_nothing_runs_before_the_attempt_is_on_record(hosts: Hosts) -> None:
    manager = upgraded(hosts, HANG)
    process = hosts.start()
    hosts.until_run("2.0")
    [trial] = (hosts.world.directory / "store/trials").iterdir()
    assert len(list(trial.iterdir())) == 1
    process.kill()
    process.communicate()
    assert attempts(manager) == 1


@pytest.mark.parametrize(
    "then",
    [
        "import maps.views",
        "from maps import views",
        "plugin.import_module('maps.views')",
        "[entry.load() for entry in plugin.entry_points]",
        "import runpy; runpy.run_module('maps.views')",
    ],
)
@pytest.mark.parametrize("way", ["exit", "exception"])
def test_a_package_that_is_good_does_not_speak_for_the_module_that_was_asked_for(
    world: World, then: str, way: str
) -> None:
    hosts = Hosts(world)
    with world.online():
        for version, views in (("1.0", ""), ("2.0", f"import os\n{CRASHES[way]}\n")):
            files = {"maps/__init__.py": "", "maps/views.py": f"{views}def main(): pass\n"}
            entry = '[entry-points."app.views"]\nmain = "maps.views:main"\n'
            world.publish(f"acme/maps {version}", files, entry_points=entry)
            world.manager().install(f"acme/maps=={version}")
    versions = [hosts.run(then)["version"] for _ in range(4)]
    assert versions == ["2.0", "2.0", "2.0", "1.0"]


def test_an_entry_point_without_what_it_names_is_a_failure(world: World) -> None:
    with world.online():
        for version, module in (("1.0", "def main(): pass\n"), ("2.0", "")):
            entry = '[entry-points."app.views"]\nmain = "maps:main"\n'
            world.publish(f"acme/maps {version}", {"maps.py": module}, entry_points=entry)
            world.manager().install(f"acme/maps=={version}")
    for failed in range(3):
        manager = world.manager()
        assert attempts(manager) == failed
        with manager.load("acme/maps") as plugin, pytest.raises(AttributeError):
            plugin.entry_points[0].load()
    with world.manager().load("acme/maps") as plugin:
        plugin.entry_points[0].load()


def test_who_interrupts_a_slow_import_does_not_judge_the_release(hosts: Hosts) -> None:
    manager = upgraded(hosts, "if not pathlib.Path(os.environ['MARKS'], 'go').exists():\n"
                       "    import signal; os.kill(os.getpid(), signal.SIGINT)\n")  # fmt: skip
    for _ in range(4):
        run = hosts.run()
        assert (run["version"], run["code"] != 0) == ("2.0", True)
    assert hosts.ran() == {"2.0"}
    plugin = manager.load("acme/maps")
    with pytest.raises(KeyboardInterrupt):
        plugin.import_module("maps")
    assert attempts(manager) == 0
    # What is tried after that is an attempt as any other.
    [trial] = (hosts.world.directory / "store/trials").iterdir()
    assert list(trial.iterdir()) == []
    (hosts.marks / "go").touch()
    plugin.import_module("maps")
    assert attempts(manager) is None


def test_a_release_that_ends_its_host_in_order_is_left(hosts: Hosts) -> None:
    upgraded(hosts, "raise SystemExit(0)")
    runs = [hosts.run() for _ in range(4)]
    assert [(run["version"], run["code"]) for run in runs] == [("2.0", 0)] * 3 + [("1.0", 0)]


RUN = "import runpy; runpy.run_module('maps.more')"


def test_what_runpy_runs_is_judged_by_how_the_process_ends(hosts: Hosts) -> None:
    manager = upgraded(hosts, UNLESS)
    (hosts.marks / "go").touch()
    hosts.run(RUN)
    assert attempts(manager) == 0, "well: it is not counted, and goes on being on trial"
    hosts.run(f"{RUN}; raise OSError('of the host')")
    assert attempts(manager) == 0
    hosts.run(f"{RUN}; os._exit(1)")
    assert attempts(manager) == 1
    (hosts.marks / "go").unlink()
    hosts.run(RUN)
    assert attempts(manager) == 2


def test_a_child_of_a_fork_that_ends_in_order_is_not_its_parents_end(hosts: Hosts) -> None:
    upgraded(hosts)
    manager = configured(hosts.world, confirm="host")
    plugin = manager.load("acme/maps")
    for _ in range(3):
        in_child(manager.close)
    assert attempts(manager) == 0
    # Control: the parent's own end is one.
    plugin.unload()
    assert attempts(manager) == 1


def in_child(call: Callable[[], object]) -> None:
    """Call it in a child of a fork, which has to end well."""
    child = os.fork()
    if not child:
        code = 1
        try:
            call()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_child_of_a_fork_is_not_stuck_with_a_lock_of_another_thread(hosts: Hosts) -> None:
    upgraded(hosts)
    plugin = configured(hosts.world).load("acme/maps")
    [run] = [one for one in _trial._RUNS if one._plugin is plugin]
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with run._lock:
            held.set()
            free.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if not child:
        signal.alarm(int(PATIENCE_SECONDS))
        run.importing()
        os._exit(0)
    free.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_threads_that_begin_at_once_make_one_attempt(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgraded(hosts)
    plugin = configured(hosts.world).load("acme/maps")
    made: list[set[str]] = []
    attempt = Trials.attempt

    def slow(trials: Trials, release: Digest) -> Attempt | None:
        until = time.monotonic() + 0.5
        while not hosts.ran() and time.monotonic() < until:
            time.sleep(0.01)  # code that runs meanwhile proves that nobody keeps it back
        made.append(hosts.ran())
        return attempt(trials, release)

    monkeypatch.setattr(Trials, "attempt", slow)
    threads = [
        threading.Thread(target=plugin.import_module, args=(name,))
        for name in ("maps", "maps.more")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [set()]
    assert hosts.ran() == {"2.0"}
    plugin.unload()


def test_a_damaged_module_is_no_attempt(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    plugin = manager.load("acme/maps")
    modules = [path for path in (plugin.directory / "maps").rglob("*") if path.is_file()]
    for module in modules:  # the bytecode too
        module.chmod(0o644)
        module.write_bytes(module.read_bytes() + b"\n")
    with pytest.raises(CorruptError):
        plugin.import_module("maps")
    plugin.unload()
    assert attempts(manager) == 0


def test_a_plugin_of_data_is_confirmed_by_a_load(world: World) -> None:
    with world.online():
        for version in ("1.0", "2.0"):
            world.publish(f"acme/maps {version}", {"tiles.bin": version})
            world.manager().install(f"acme/maps=={version}")
    manager = world.manager()
    assert attempts(manager) == 0
    with configured(world, confirm="host").load("acme/maps"):
        pass
    assert attempts(manager) == 1, "the host wants to judge itself"
    with manager.load("acme/maps"):
        assert attempts(manager) is None


def test_several_workers_at_once_do_not_use_up_the_attempts(hosts: Hosts) -> None:
    manager = upgraded(hosts, WAIT)
    workers = [hosts.start() for _ in range(5)]
    hosts.until_run("2.0", 5)
    assert attempts(manager) == 0
    for killed, worker in enumerate(workers[:2], 1):
        worker.kill()
        worker.communicate()
        assert attempts(manager) == killed
    with configured(hosts.world).load("acme/maps") as plugin:
        assert str(plugin.version) == "2.0"
    (hosts.marks / "go").touch()
    for worker in workers[2:]:
        worker.communicate(timeout=PATIENCE_SECONDS)
        assert worker.returncode == 0
    assert attempts(manager) is None


def test_an_import_that_raises_in_a_forked_child_counts_though_the_parent_lives(
    hosts: Hosts,
) -> None:
    manager = upgraded(hosts, CRASHES["exception"])
    plugin = manager.load("acme/maps")
    child = os.fork()
    if not child:
        try:
            plugin.import_module("maps")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert attempts(manager) == 1
    plugin.unload()
    assert attempts(manager) == 1


def test_only_upgrades_are_on_trial(hosts: Hosts) -> None:
    hosts.publish("1.0")
    hosts.publish("2.0")
    with hosts.world.online():
        manager = hosts.world.manager()
        manager.install("acme/maps==2.0")
        assert manager.trials() == {}, "a fresh install"
        manager.install("acme/maps==1.0")
        assert manager.trials() == {}, "a downgrade"
        manager.install("acme/maps==2.0")
        assert attempts(manager) == 0, "an upgrade"
        manager.rollback("acme/maps")
        manager.rollback("acme/maps", to="2.0")
        assert manager.trials() == {}, "wished for"
        manager.uninstall("acme/maps")
        manager.install("acme/maps")
        assert manager.trials() == {}
    with pytest.raises(PluginManagerError, match="attempts"):
        PluginManager.open(hosts.world.directory / "store", trial_attempts=-1)


def test_no_attempts_no_trials(hosts: Hosts) -> None:
    hosts.publish("1.0")
    hosts.publish("2.0", CRASHES["exit"])
    with hosts.world.online():
        manager = hosts.world.manager(environment={"PLUGINCTL_TRIAL_ATTEMPTS": "0"})
        manager.install("acme/maps==1.0")
        manager.upgrade()
    assert hosts.world.manager().trials() == {}
    assert [hosts.run()["version"] for _ in range(4)] == ["2.0"] * 4


# --- going back ----------------------------------------------------------------------------------


def test_of_processes_that_go_back_at_once_one_does(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    exhaust(manager)
    before = len(manager.history())
    workers = [hosts.start(then="") for _ in range(6)]
    said = [json.loads(w.communicate(timeout=PATIENCE_SECONDS)[0]) for w in workers]
    assert {one["version"] for one in said} == {"1.0"}
    assert sum(["rolled-back", "acme/maps 1.0"] in one["events"] for one in said) == 1
    assert len(manager.history()) == before + 1


@pytest.mark.parametrize("other", ["confirms", "goes back"])
def test_what_another_process_did_while_it_waited_is_left_as_it_is(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    manager = upgraded(hosts)
    exhaust(manager)
    recovery, done = manager._recovery, []
    healer = recovery._healer

    def meanwhile() -> Parts:
        if not done:
            if other == "confirms":
                assert hosts.world.manager().confirm("acme/maps")
            else:
                hosts.run(then="")
            done.append(len(manager.history()))
        return healer()

    monkeypatch.setattr(recovery, "_healer", meanwhile)
    with manager.load("acme/maps") as plugin:
        assert str(plugin.version) == ("2.0" if other == "confirms" else "1.0")
    assert [len(manager.history())] == done


def test_upgrades_pass_over_what_failed_and_take_what_is_newer(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    manager = upgraded(hosts)
    exhaust(manager)
    with caplog.at_level(logging.WARNING), manager.load("acme/maps") as plugin:
        assert str(plugin.version) == "1.0"
    assert "2.0 failed on trial (3 of 3 attempts): acme/maps 1.0 is active again" in caplog.text
    with hosts.world.online():
        manager = hosts.world.manager()
        plan = manager.upgrade()
        assert not plan.steps
        assert "acme/maps 2.0 failed on trial here and is passed over" in plan.notes[0]
        hosts.publish("3.0", CRASHES["exception"])
        assert [str(step) for step in manager.upgrade().steps] == ["upgrade acme/maps 1.0 -> 3.0"]
        exhaust(manager)
        with manager.load("acme/maps") as plugin:
            assert str(plugin.version) == "1.0"
        assert not manager.upgrade().steps, "neither comes back"
        hosts.publish("4.0")
        manager.upgrade()
        assert active(manager) == "4.0"


def test_what_failed_can_be_asked_for_and_unheld(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    exhaust(manager)
    manager.load("acme/maps").unload()
    with hosts.world.online():
        manager = hosts.world.manager()
        with pytest.raises(ConflictError) as caught:
            manager.install("acme/maps>=2")
        assert caught.value.message == (
            "acme/maps>=2 was asked for, but acme/maps 2.0 failed on trial here"
        )
        assert "or pin 'acme/maps==2.0'" in str(caught.value)
        assert "failed on trial here before" in manager.install("acme/maps==2.0").notes[0]
        assert attempts(manager) == 0, "on trial once more, from the start"
        exhaust(manager)
        manager.load("acme/maps").unload()
        assert manager.unhold("acme/maps").steps[0].kind == "unhold"
        assert [str(step) for step in manager.upgrade().steps] == ["upgrade acme/maps 1.0 -> 2.0"]


def test_what_was_never_confirmed_is_left_as_well(hosts: Hosts) -> None:
    """2.0 was on trial when 3.0 came: it goes on being on trial when 3.0 fails."""
    hosts.publish("1.0")
    with hosts.world.online():
        manager = hosts.world.manager(environment={"PLUGINCTL_KEEP_PREVIOUS": "2"})
        manager.install("acme/maps")
        for version in ("2.0", "3.0"):
            hosts.publish(version, CRASHES["exception"])
            manager.upgrade()
            exhaust(manager)
        with manager.load("acme/maps") as plugin:
            assert str(plugin.version) == "1.0"
        assert not manager.upgrade().steps


def test_what_came_with_it_goes_back_with_it(hosts: Hosts) -> None:
    world = hosts.world
    with world.online():
        manager = world.manager()
        for version in ("1.0", "2.0"):
            hosts.publish(version)
            needs = f'plugins = ["acme/maps=={version}"]'
            world.publish(f"acme/tour {version}", {"tour/__init__.py": ""}, requires=needs)
            manager.install("acme/tour" if version == "1.0" else "acme/tour==2.0")
    exhaust(manager)
    offline = world.manager()
    with offline.load("acme/tour") as plugin:
        assert str(plugin.version) == "1.0"
    assert active(offline) == "1.0"
    offline.close()


def refusal(manager: PluginManager) -> RefusedError:
    """The error of a load that cannot go back; nothing has changed, and nothing is loaded."""
    before = active(manager)
    with pytest.raises(RefusedError, match=r"2\.0 failed on trial \(3 of 3 attempts\)") as caught:
        manager.load("acme/maps")
    assert active(manager) == before == "2.0"
    assert "pluginctl confirm acme/maps" in caught.value.remedy
    return caught.value


def test_where_the_one_before_is_blocked_the_load_is_refused(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    exhaust(manager)
    hosts.world.withdraw("acme/maps 1.0", "blocked", "it eats disks")
    with hosts.world.online():
        hosts.world.manager().update()
    error = refusal(manager)
    assert isinstance(error.__cause__, BlockedError)
    assert "it eats disks" in error.message
    # Control: what is not blocked comes back, and so does what somebody confirms.
    assert manager.confirm("acme/maps")
    with manager.load("acme/maps") as plugin:
        assert str(plugin.version) == "2.0"
    assert not manager.confirm("acme/maps")


def test_where_the_one_before_is_gone_it_is_fetched_or_the_load_refused(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    exhaust(manager)
    manager.delete("acme/maps", "1.0")
    error = refusal(manager)
    assert isinstance(error.__cause__, NetworkError), error.__cause__
    with hosts.world.online(), hosts.world.manager().load("acme/maps") as plugin:
        assert str(plugin.version) == "1.0"


def test_where_the_one_before_is_damaged_the_load_is_refused_or_repairs(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    exhaust(manager)
    [place] = (hosts.world.directory / "store/releases/acme/maps").glob("1.0-*")
    (place / "maps/more.py").unlink()
    assert isinstance(refusal(manager).__cause__, CorruptError)


def test_where_the_store_cannot_be_written_the_load_is_refused(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    with read_only(hosts.world.directory / "store", hosts.world.directory / "frozen"):
        frozen = configured(hosts.world, "frozen")
        with frozen.load("acme/maps") as plugin:  # it cannot be counted, so it is not
            assert plugin.import_module("maps").VERSION == "2.0"
            with pytest.raises(StoreAccessError):
                plugin.confirm()
        exhaust(manager)
        assert isinstance(refusal(frozen).__cause__, StoreAccessError)


def test_on_a_full_disk_it_works_and_that_it_is_not_counted_is_said_once(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = upgraded(hosts)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context, manager.load("acme/maps") as plugin:
        context.setattr(Trials, "attempt", full)
        context.setattr(Trials, "end", full)
        for name in ("maps", "maps.more", "maps"):
            plugin.import_module(name)
    assert caplog.text.count("attempts cannot be counted: [Errno 28]") == 1
    assert caplog.text.count("works, but stays on trial") == 1
    assert attempts(manager) == 0
    # Control: with room it is over.
    with manager.load("acme/maps") as plugin:
        plugin.import_module("maps")
    assert attempts(manager) is None


def test_where_another_writes_for_too_long_the_load_is_refused(hosts: Hosts) -> None:
    upgraded(hosts)
    manager = configured(hosts.world, lock_timeout_seconds=0.1)
    exhaust(manager)
    with writing(manager):
        assert isinstance(refusal(manager).__cause__, LockedError)
    with manager.load("acme/maps") as plugin:
        assert str(plugin.version) == "1.0"


@contextmanager
def writing(manager: PluginManager) -> Iterator[None]:
    """Another process holds the writer's lock."""
    code = (
        "import sys, pathlib\nfrom plugin_manager.store import Store\n"
        "with Store(pathlib.Path(sys.argv[1])).writing():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, manager.settings.store],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    try:
        yield
    finally:
        process.communicate()


def test_confirming_waits_for_no_writer(hosts: Hosts) -> None:
    upgraded(hosts)
    manager = configured(hosts.world, lock_timeout_seconds=0)
    with writing(manager):
        with manager.load("acme/maps") as plugin:
            plugin.import_module("maps")
        assert attempts(manager) is None


def test_a_system_store_is_not_rolled_back_and_its_failures_are_not_loaded(hosts: Hosts) -> None:
    exhaust(upgraded(hosts))
    before = snapshot(hosts.world.directory / "store")
    user = configured(hosts.world, "mine", system_store=hosts.world.directory / "store")
    user._parts.system = type(user._store)(hosts.world.directory / "store")
    with pytest.raises(RefusedError, match="failed on trial") as caught:
        user.load("acme/maps")
    assert f"--store {hosts.world.directory / 'store'}" in caught.value.remedy
    assert snapshot(hosts.world.directory / "store") == before


# --- the records ---------------------------------------------------------------------------------


def test_trials_go_with_their_releases(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    directory = hosts.world.directory / "store/trials"
    [trial] = directory.iterdir()
    manager.cleanup(unfinished=True)
    assert list(directory.iterdir()) == [trial], "it is active"
    exhaust(manager)
    manager.load("acme/maps").unload()
    (directory / ".tmp-0123456789abcdef").mkdir()
    (directory / "somebody's").mkdir()
    assert trial.is_dir(), "2.0 is still on this disk"
    manager.delete("acme/maps", "2.0")  # which tidies up
    assert [path.name for path in directory.iterdir()] == ["somebody's"]


def test_links_in_the_place_of_trials_are_not_followed(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    elsewhere = hosts.world.directory / "elsewhere"
    trials = hosts.world.directory / "store/trials"
    trials.rename(elsewhere)
    trials.symlink_to(elsewhere)
    before = snapshot(elsewhere)
    assert attempts(manager) is None
    with manager.load("acme/maps") as plugin:
        plugin.import_module("maps")
    manager.cleanup()
    assert snapshot(elsewhere) == before
    with hosts.world.online():
        hosts.publish("3.0")
        manager = hosts.world.manager()
        manager.upgrade()
    assert attempts(manager) == 0
    assert snapshot(elsewhere) == before


def test_threads_that_import_at_once_confirm_once(hosts: Hosts) -> None:
    upgraded(hosts)
    events: list[Event] = []
    manager = configured(hosts.world)
    manager.on_event = events.append
    plugin = manager.load("acme/maps")
    threads = [
        threading.Thread(target=plugin.import_module, args=(name,))
        for name in ("maps", "maps.more") * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plugin.unload()
    assert [event.kind for event in events].count("confirmed") == 1


def test_the_command_tells_of_trials_and_confirms(hosts: Hosts) -> None:
    manager = upgraded(hosts, CRASHES["exit"])
    pluginctl = Command(hosts.world)
    hosts.run()
    assert "acme/maps 2.0  on trial (1 of 3)" in pluginctl("list").stdout
    assert "2.0 (on trial (1 of 3))" in pluginctl("show", "acme/maps").stdout
    [listed] = pluginctl.json("list")
    assert listed["trial"] == {"attempts": 1, "of": 3, "previous": "1.0"}
    assert pluginctl("confirm", "acme/maps").stdout == "acme/maps is confirmed.\n"
    assert pluginctl.json("confirm", "acme/maps") == {"plugin": "acme/maps", "confirmed": False}
    [listed] = pluginctl.json("list")
    assert listed["trial"] is None
    assert pluginctl("list").stdout.strip() == "acme/maps 2.0"
    assert manager.trials() == {}
    pluginctl.fails("not-found", "confirm", "acme/other")


def test_the_command_tells_what_is_passed_over(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    exhaust(manager)
    manager.load("acme/maps").unload()
    pluginctl = Command(hosts.world)
    assert pluginctl("list").stdout.strip() == "acme/maps 1.0  passes over 2.0"
    assert pluginctl.json("list")[0]["passed_over"] == ["2.0"]


def test_what_was_confirmed_may_be_killed(hosts: Hosts) -> None:
    manager = upgraded(hosts)
    process = hosts.start(f"{IMPORT}; print('imported', flush=True); import time; time.sleep(600)")
    assert process.stdout
    while process.stdout.readline() != "imported\n":
        pass
    process.kill()
    process.communicate()
    assert attempts(manager) is None
