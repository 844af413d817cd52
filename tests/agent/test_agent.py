"""An agent in a thread of its host: what it does unasked, against a real repository."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import evolve

from plugin_manager import JobState, PluginManager
from plugin_manager.agent import Agent, Notice, status
from plugin_manager.errors import (
    BlockedError,
    LockedError,
    NetworkError,
    NoSpaceError,
    StoreAccessError,
)
from plugin_manager.settings import AgentPolicy, QueuePolicy
from plugin_manager.transfer import Policy, Transfer
from tests.world import World

QUIET = AgentPolicy(update_hours=0, scrub_days=0, collect_hours=0, desktop=False)
UPDATING = evolve(QUIET, update_hours=6)
SCRUBBING = evolve(QUIET, scrub_days=30, scrub_bytes_per_second=None)
BIG = random.Random(3).randbytes(2_000_000)


class Running:
    """An agent that runs in the background, and what it has told."""

    def __init__(self, world: World, policy: AgentPolicy) -> None:
        self.world = world
        self.notices: list[Notice] = []
        self.manager = world.manager()
        self.agent = Agent(
            self.manager,
            policy,
            tell=self.notices.append,
            now=world.clock,
            metered=lambda: False,
            random=lambda: 0.0,
        )

    @property
    def store(self) -> Path:
        return self.manager.settings.store

    def told(self, kind: str) -> list[str]:
        return [notice.text for notice in self.notices if notice.kind == kind]

    def done(self) -> list[tuple[str, str]]:
        return [(one.kind, one.text) for one in reversed(self.manager.activity())]


def wait_for(condition: Callable[[], object], what: str = "it") -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"{what} never happened"
        time.sleep(0.05)


@contextmanager
def running(world: World, policy: AgentPolicy) -> Iterator[Running]:
    one = Running(world, policy)
    with one.agent.in_background():
        yield one


@pytest.fixture
def maps(world: World) -> Iterator[World]:
    """A world where acme/maps 1.0 is installed."""
    world.publish("acme/maps 1.0", {"maps.py": "VERSION = 1\n", "tiles": BIG})
    with world.online():
        world.manager().install("acme/maps")
        world.fetched()
        yield world


def version(world: World) -> str:
    [active] = world.manager().installed()
    return str(active.release.version)


def flip_a_bit(world: World, path: str = "tiles") -> Path:
    [active] = world.manager().installed()
    target = world.manager().path(active.release.plugin) / path
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    mode = target.stat().st_mode
    target.chmod(0o644)
    target.write_bytes(data)
    target.chmod(mode)
    return target


# --- the queue -----------------------------------------------------------------------------------


def test_it_works_at_what_others_submit_and_tells(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "VERSION = 1\n"})
    with world.online(), running(world, QUIET) as agent:
        other = world.manager()
        good, bad = other.jobs.submit("acme/maps"), other.jobs.submit("acme/none")
        wait_for(lambda: len(agent.notices) == 2)
        assert other.jobs.get(good.id).state is JobState.COMPLETED
        assert other.jobs.get(bad.id).state is JobState.FAILED
        assert agent.told("completed") == ["install acme/maps: completed"]
        assert "acme/none" in agent.told("failed")[0]
        assert {notice.plugin and notice.plugin.name for notice in agent.notices} == {
            "maps", "none",
        }  # fmt: skip
    kinds = [kind for kind, _ in agent.done()]
    assert sorted(kinds) == ["installed", "notified", "notified"]


def test_what_ended_before_is_not_told_again(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "VERSION = 1\n"})
    with world.online():
        with running(world, QUIET) as first:
            job = world.manager().jobs.submit("acme/maps")
            wait_for(lambda: first.notices)
        with running(world, QUIET) as second:
            other = world.manager().jobs.submit("acme/none")
            wait_for(lambda: second.notices)
        assert job.id != other.id
        assert [notice.kind for notice in second.notices] == ["failed"]


def test_a_job_that_does_not_fit_is_told_as_such(world: World) -> None:
    world.publish("acme/maps 1.0", {"tiles": BIG})
    told: list[Notice] = []
    with world.online():
        manager = world.manager(environment={"PLUGINCTL_MAX_STORE": "1MB"})
        manager.jobs.submit("acme/maps")
        with Agent(manager, QUIET, tell=told.append, now=world.clock).in_background():
            wait_for(lambda: told)
    assert [notice.kind for notice in told] == ["needs-space"]


def test_closing_queues_what_was_under_way(world: World) -> None:
    world.publish("acme/maps 1.0", {"tiles": BIG})
    with world.online():
        with running(world, QUIET):
            manager = world.manager()
            job = manager.jobs.submit("acme/maps", bytes_per_second=100_000)
            wait_for(lambda: manager.jobs.get(job.id).progress)
            wait_for(lambda: status(manager.settings.store).doing == "install acme/maps")
        assert manager.jobs.get(job.id).state is JobState.QUEUED
        assert not status(manager.settings.store).running


def test_one_agent_a_store(world: World) -> None:
    with running(world, QUIET) as first:
        with pytest.raises(LockedError, match="has an agent already") as caught:
            Running(world, QUIET).agent.run(threading.Event())
        assert caught.value.remedy
        assert status(first.store).running
        assert status(first.store).embedded
    with running(world, QUIET):
        pass


def test_a_host_goes_on_using_its_manager(maps: World) -> None:
    with running(maps, UPDATING) as agent:
        plugin = agent.manager.load("acme/maps")
        wait_for(lambda: status(agent.store).last_update)
    assert plugin.read("maps.py") == b"VERSION = 1\n"
    agent.manager.update()  # what stopped the agent has not stopped the host's own
    with agent.agent.in_background():  # nor another run of the agent
        agent.world.clock.advance(hours=7)
        before = status(agent.store).last_update
        wait_for(lambda: status(agent.store).last_update != before)


def test_it_ends_when_idle_if_so_configured(world: World) -> None:
    world.publish("acme/maps 1.0", {"tiles": BIG})
    with world.online():
        agent = Running(world, evolve(QUIET, idle_exit_seconds=1))
        job = world.manager().jobs.submit("acme/maps", bytes_per_second=1_000_000)
        agent.agent.run(threading.Event())
        assert world.manager().jobs.get(job.id).state is JobState.COMPLETED
        assert agent.told("completed")


def test_an_idle_agent_looks_less_often_than_a_busy_one(world: World) -> None:
    pauses: list[float | None] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout)
            return super().wait(timeout)

    world.publish("acme/maps 1.0", {"tiles": BIG})
    with world.online():
        world.manager().jobs.submit("acme/maps", bytes_per_second=1_000_000)
        Running(world, evolve(QUIET, idle_exit_seconds=1)).agent.run(Stop())
    assert set(pauses) == {0.5, 1.0}
    assert pauses == sorted(pauses)


def test_paused_jobs_do_not_keep_an_idle_agent(world: World) -> None:
    manager = world.manager()
    manager.jobs.submit("acme/maps")
    manager.jobs.pause()
    Running(world, evolve(QUIET, idle_exit_seconds=0)).agent.run(threading.Event())


def test_a_store_that_is_gone_ends_it(world: World) -> None:
    stop = threading.Event()
    agent = Running(world, QUIET)
    thread = threading.Thread(target=agent.agent.run, args=(stop,))
    thread.start()
    wait_for(lambda: status(agent.store).running)
    agent.store.rename(agent.store.with_name("elsewhere"))
    thread.join(30)
    assert not thread.is_alive()
    assert not agent.store.exists()  # and it was not made again


def test_a_store_that_cannot_be_written_to_is_said_so(world: World) -> None:
    (world.directory / "store").write_text("a file")
    with pytest.raises(StoreAccessError):
        Running(world, QUIET).agent.run(threading.Event())


# --- metadata ------------------------------------------------------------------------------------


def test_it_brings_news_of_blocked_releases(maps: World) -> None:
    maps.withdraw("acme/maps 1.0", "blocked", "it leaks")
    host = maps.manager()
    host.load("acme/maps").unload()  # control: without the news it loads
    with running(maps, UPDATING) as agent:
        wait_for(lambda: agent.told("blocked"))
        assert "it leaks" in agent.told("blocked")[0]
        with pytest.raises(BlockedError):
            maps.manager().load("acme/maps")
        maps.clock.advance(hours=7)
        before = status(agent.store).last_update
        wait_for(lambda: status(agent.store).last_update != before)
    assert len(agent.told("blocked")) == 1
    assert [kind for kind, _ in agent.done()].count("blocked") == 1
    with running(maps, UPDATING) as again:  # remembered over a restart
        maps.clock.advance(hours=7)
        before = status(agent.store).last_update
        wait_for(lambda: status(agent.store).last_update != before)
    assert again.notices == []


def test_where_the_network_fails_it_tries_again_later(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "VERSION = 1\n"})
    with world.online():
        world.manager().install("acme/maps")
    asked = []

    class Offline(PluginManager):
        def another(self) -> PluginManager:
            return Offline(self.settings, now=world.clock)

        def update(self, *names: object) -> None:
            asked.append(world.clock())
            raise NetworkError("nobody answers")

    agent = Agent(
        Offline(world.manager().settings, now=world.clock),
        UPDATING,
        now=world.clock,
        random=lambda: 0.0,
    )
    with agent.in_background():
        for minutes in (10, 20, 40):
            wait_for(lambda: len(asked) > 0)
            count = len(asked)
            world.clock.advance(minutes=minutes - 1)
            time.sleep(1.2)
            assert len(asked) == count  # not before its time
            world.clock.advance(minutes=1)
            wait_for(lambda count=count: len(asked) > count)
    assert not status(world.directory / "store").last_update


# --- upgrades ------------------------------------------------------------------------------------


def upgrading(how: str, **more: float) -> AgentPolicy:
    return evolve(UPDATING, upgrades=how, **more)  # type: ignore[arg-type]


def look(agent: Running, days: float = 0.3) -> None:
    """Let the agent look for news, some time later."""
    before = status(agent.store).last_update
    agent.world.clock.advance(days=days)
    wait_for(lambda: status(agent.store).last_update != before, "an update")
    wait_for(lambda: "metadata" not in status(agent.store).doing)
    time.sleep(0.6)


def test_releases_are_told_of_once_they_are_old_enough(maps: World) -> None:
    maps.publish("acme/maps 1.1", {"maps.py": "VERSION = 2\n", "tiles": BIG})
    with running(maps, upgrading("notify", cooldown_days=3)) as agent:
        look(agent)
        look(agent, days=2)
        assert agent.notices == []
        look(agent, days=1)
        wait_for(lambda: agent.told("upgrade"))
        look(agent)
        assert agent.told("upgrade") == [
            "upgrade acme/maps 1.0 -> 1.1 ('pluginctl upgrade acme/maps')"
        ]
    assert version(maps) == "1.0"
    assert maps.manager().jobs.all() == []


def test_what_claims_to_be_old_waits_as_long(maps: World) -> None:
    """Whoever stole a publisher's key writes whatever time he likes."""
    maps.clock.advance(days=-300)
    maps.publish("acme/maps 1.1", {"maps.py": "VERSION = 2\n"})
    maps.clock.advance(days=300)
    maps.repository.refresh()
    with running(maps, upgrading("install", cooldown_days=3)) as agent:
        look(agent)
        look(agent, days=2)
        assert version(maps) == "1.0"
        look(agent, days=1.1)
        wait_for(lambda: version(maps) == "1.1")


def test_frequent_releases_starve_nobody(maps: World) -> None:
    with running(maps, upgrading("install", cooldown_days=3)) as agent:
        for number in range(1, 5):
            maps.publish(f"acme/maps 1.{number}", {"maps.py": f"VERSION = 1.{number}\n"})
            look(agent, days=1.5)
        wait_for(lambda: version(maps) != "1.0")
        assert version(maps) in {"1.1", "1.2"}


def test_what_is_lost_makes_it_wait_again_and_never_shorter(maps: World) -> None:
    maps.publish("acme/maps 1.1", {"maps.py": "VERSION = 2\n"})
    with running(maps, upgrading("install", cooldown_days=3)) as agent:
        look(agent)
    (agent.store / "agent" / "state.json").write_text("{")
    with running(maps, upgrading("install", cooldown_days=3)) as agent:
        maps.clock.advance(days=2.9)
        look(agent)
        look(agent, days=1)
        assert version(maps) == "1.0"
        look(agent, days=2.1)
        wait_for(lambda: version(maps) == "1.1")


def test_what_was_seen_while_the_clock_was_ahead_waits_no_longer_than_others(maps: World) -> None:
    maps.publish("acme/maps 1.1", {"maps.py": "VERSION = 2\n"})
    with running(maps, upgrading("install", cooldown_days=3)) as agent:
        maps.clock.advance(days=20)
        look(agent)
        maps.clock.advance(days=-20)
        look(agent, days=0.6)
        assert version(maps) == "1.0"
        look(agent, days=3.1)
        wait_for(lambda: version(maps) == "1.1")


def test_without_a_cooldown_it_upgrades_at_once(maps: World) -> None:
    maps.publish("acme/maps 1.1", {"maps.py": "VERSION = 2\n"})
    with running(maps, upgrading("install", cooldown_days=0)) as agent:
        wait_for(lambda: version(maps) == "1.1")
        wait_for(lambda: agent.told("completed"))
    assert ("upgraded", "upgrade acme/maps 1.0 -> 1.1") in agent.done()


def test_off_is_off_and_what_is_held_stays(maps: World) -> None:
    maps.publish("acme/maps 1.1", {"maps.py": "VERSION = 2\n"})
    with running(maps, upgrading("off", cooldown_days=0)) as agent:
        look(agent)
    maps.manager().hold("acme/maps")
    with running(maps, upgrading("install", cooldown_days=0)) as agent:
        look(agent)
        assert maps.manager().jobs.all() == []
    assert agent.notices == []
    assert version(maps) == "1.0"


def test_what_somebody_cancelled_is_not_begun_again(maps: World) -> None:
    maps.publish("acme/maps 1.1", {"maps.py": "VERSION = 2\n", "tiles": BIG + b"more"})
    manager = maps.manager()
    manager.jobs.pause()
    with running(maps, upgrading("install", cooldown_days=0)) as agent:
        wait_for(manager.jobs.all)
        [job] = manager.jobs.all()
        manager.jobs.cancel(job.id)
        manager.jobs.resume()
        look(agent)
        look(agent)
        assert manager.jobs.get(job.id).state is JobState.CANCELLED
    assert version(maps) == "1.0"


def test_what_comes_along_must_be_old_enough_too(maps: World) -> None:
    with running(maps, upgrading("install", cooldown_days=3)) as agent:
        maps.publish(
            "acme/maps 1.1", {"maps.py": "VERSION = 2\n"}, requires='plugins = ["acme/fonts"]'
        )
        look(agent)
        maps.clock.advance(days=2)
        maps.publish("acme/fonts 1.0", {"fonts.py": ""})
        look(agent, days=1.1)
        assert version(maps) == "1.0"
        look(agent, days=3.1)
        wait_for(lambda: len(maps.manager().installed()) == 2)


@contextmanager
def queued_with_fonts(world: World) -> Iterator[tuple[Running, PluginManager]]:
    """Upgrades to acme/maps 1.1, with acme/fonts 1.0, wait in a queue that is paused."""
    with running(world, upgrading("install", cooldown_days=3)) as agent:
        world.publish("acme/fonts 1.0", {"fonts.py": ""})
        world.publish(
            "acme/maps 1.1", {"maps.py": "VERSION = 2\n"}, requires='plugins = ["acme/fonts"]'
        )
        look(agent)
        manager = world.manager()
        manager.jobs.pause()
        look(agent, days=3.1)  # acme/fonts is looked at from now on
        look(agent, days=3.1)
        wait_for(manager.jobs.all)
        yield agent, manager


def test_what_comes_out_while_a_job_waits_does_not_come_along(maps: World) -> None:
    with queued_with_fonts(maps) as (_, manager):
        maps.publish("acme/fonts 1.1", {"fonts.py": "YOUNG = True\n"})
        manager.jobs.resume()
        wait_for(lambda: len(manager.installed()) == 2)
    assert [str(one.release) for one in manager.installed()] == ["acme/fonts 1.0", "acme/maps 1.1"]


def test_what_was_judged_and_is_withdrawn_lets_nothing_younger_come(maps: World) -> None:
    with queued_with_fonts(maps) as (_, manager):
        maps.withdraw("acme/maps 1.1", "yanked", "it is slow")
        maps.publish("acme/maps 1.0.5", {"maps.py": "YOUNG = True\n"})
        manager.jobs.resume()
        wait_for(lambda: manager.jobs.all()[0].state is JobState.FAILED)
        assert "was not chosen" in manager.jobs.all()[0].why
        assert version(maps) == "1.0"
        # Control: who asks for the same without naming releases gets it.
        manager.install(*manager.jobs.all()[0].requests)
    assert [str(one.release) for one in manager.installed()] == [
        "acme/fonts 1.0",
        "acme/maps 1.0.5",
    ]


def test_downloading_ahead_makes_an_upgrade_need_no_network(maps: World) -> None:
    new = random.Random(4).randbytes(2_000_000)
    maps.publish("acme/maps 1.1", {"maps.py": "VERSION = 2\n", "tiles": new})
    with running(maps, upgrading("download", cooldown_days=0)) as agent:
        wait_for(lambda: agent.told("completed"))
        assert maps.fetched() >= len(new)
        look(agent)
        assert len(agent.notices) == 1
        assert maps.fetched() < 100_000
    assert version(maps) == "1.0"
    offline = PluginManager(
        evolve(maps.manager().settings, repository="http://127.0.0.1:9/"),
        now=maps.clock,
        transfer=Transfer(Policy(attempts=1)),
    )
    with pytest.raises(NetworkError):  # control: without --offline it asks
        offline.plan_upgrade()
    offline.upgrade(offline=True)
    assert version(maps) == "1.1"
    assert maps.manager().verify().good
    assert maps.manager().load("acme/maps").read("tiles") == new


def test_an_offline_upgrade_chooses_only_what_is_here(maps: World) -> None:
    for number in (1, 2):
        tiles = random.Random(number).randbytes(100_000)
        maps.publish(f"acme/maps 1.{number}", {"maps.py": "", "tiles": tiles})
    manager = maps.manager()
    assert manager.upgrade("acme/maps", offline=True).steps == ()
    manager.fetch("acme/maps==1.1")
    assert version(maps) == "1.0"
    maps.fetched()
    manager.upgrade(offline=True)
    assert version(maps) == "1.1"
    assert maps.fetched() == 0


def test_what_is_fetched_ahead_is_kept_while_it_is_asked_for(maps: World) -> None:
    maps.publish("acme/maps 1.1", {"tiles": random.Random(5).randbytes(100_000)})
    manager = maps.manager()
    manager.fetch("acme/maps==1.1")
    [staged] = (manager.settings.store / "staging").iterdir()
    week = time.time() - 8 * 86400
    for path in (staged, *staged.iterdir()):
        os.utime(path, (week, week))
    assert {one.kind for one in manager.plan_cleanup().garbage} == {"download", "manifest"}
    manager.fetch("acme/maps==1.1")
    assert manager.plan_cleanup().garbage == ()


def test_fetching_ahead_evicts_nothing(maps: World) -> None:
    maps.publish("acme/other 1.0", {"tiles": random.Random(6).randbytes(2_000_000)})
    manager = maps.manager(environment={"PLUGINCTL_MAX_STORE": "3MB"})
    with pytest.raises(NoSpaceError, match="ahead"):
        manager.fetch("acme/other")
    assert manager.evicted() == []
    manager.install("acme/other")  # control: an install may
    assert [one.release.plugin.name for one in manager.evicted()] == ["maps"]


# --- scrubbing -----------------------------------------------------------------------------------


def test_a_scrub_finds_a_flipped_bit_and_mends_it(maps: World) -> None:
    target = flip_a_bit(maps)
    with running(maps, SCRUBBING) as agent:
        wait_for(lambda: status(agent.store).last_scrub)
        assert target.read_bytes() == BIG
        [finding] = status(agent.store).scrub_findings
        assert finding == "acme/maps 1.0: tiles (damaged); mended"
        assert agent.told("damaged") == ["acme/maps 1.0: tiles (damaged)"]
        assert 0 < maps.fetched() < 1_100_000  # only what was damaged: a frame
    assert [kind for kind, _ in agent.done()][-3:] == ["damaged", "notified", "repaired"]
    assert maps.manager().verify().good


def test_control_a_good_store_has_no_findings(maps: World) -> None:
    with running(maps, evolve(SCRUBBING, scrub_days=7)) as agent:
        wait_for(lambda: status(agent.store).last_scrub)
        assert status(agent.store).scrub_findings == ()
        first = status(agent.store).last_scrub
        maps.clock.advance(days=6)
        time.sleep(1.2)
        assert status(agent.store).last_scrub == first
        maps.clock.advance(days=2)
        wait_for(lambda: status(agent.store).last_scrub != first)
    assert agent.notices == []
    assert maps.fetched() == 0


def test_where_it_must_not_it_mends_nothing(maps: World) -> None:
    target = flip_a_bit(maps)
    with running(maps, evolve(SCRUBBING, repair=False)) as agent:
        wait_for(lambda: status(agent.store).last_scrub)
        assert status(agent.store).scrub_findings == ("acme/maps 1.0: tiles (damaged)",)
        time.sleep(1)
    assert target.read_bytes() != BIG
    assert maps.fetched() == 0


def test_what_nothing_needs_any_more_is_found_and_not_called_mended(maps: World) -> None:
    target = flip_a_bit(maps)
    maps.manager().uninstall("acme/maps")
    with running(maps, SCRUBBING) as agent:
        wait_for(lambda: status(agent.store).last_scrub)
        wait_for(lambda: status(agent.store).scrub_findings)
        time.sleep(1)
        assert status(agent.store).scrub_findings == ("acme/maps 1.0: tiles (damaged)",)
    assert target.read_bytes() != BIG


def test_what_cannot_be_mended_offline_is_mended_later(world: World) -> None:
    world.publish("acme/maps 1.0", {"tiles": BIG})
    with world.online():
        world.manager().install("acme/maps")
    target = flip_a_bit(world)
    world.base_url = ""
    with running(world, SCRUBBING) as agent:
        wait_for(lambda: agent.told("damaged"))
    assert target.read_bytes() != BIG
    with world.online(), running(world, SCRUBBING):
        wait_for(lambda: target.read_bytes() == BIG)


def test_on_a_metered_connection_nothing_is_mended(maps: World) -> None:
    target = flip_a_bit(maps)
    manager = maps.manager()
    manager.settings = evolve(manager.settings, queue=QueuePolicy(metered="pause"))
    metered = True
    agent = Agent(manager, SCRUBBING, now=maps.clock, metered=lambda: metered)
    with agent.in_background():
        wait_for(lambda: status(manager.settings.store).last_scrub)
        assert target.read_bytes() != BIG
        metered = False
        maps.clock.advance(minutes=11)
        wait_for(lambda: target.read_bytes() == BIG)


def test_a_scrub_goes_on_where_it_was_stopped(world: World) -> None:
    for number in range(4):
        world.publish(f"acme/p{number} 1.0", {"p.bin": random.Random(number).randbytes(500_000)})
    with world.online():
        world.manager().install(*(f"acme/p{number}" for number in range(4)))
    slow = evolve(SCRUBBING, scrub_bytes_per_second=500_000)
    read: list[int] = []

    class Counting(PluginManager):
        def another(self) -> PluginManager:
            return Counting(self.settings, now=world.clock)

        def scrub(self, pace, done=()):  # type: ignore[no-untyped-def]
            read.append(len(done))
            return super().scrub(pace, done)

    manager = Counting(world.manager().settings, now=world.clock)
    with Agent(manager, slow, now=world.clock).in_background():
        # The first takes a second, and then the next is begun.
        wait_for(lambda: status(manager.settings.store).running)
        time.sleep(2.5)
    assert status(manager.settings.store).last_scrub is None
    with Agent(manager, slow, now=world.clock).in_background():
        wait_for(lambda: status(manager.settings.store).last_scrub)
    assert read[0] == 0
    assert read[1] > 0  # what it was through with is not read again


def test_a_scrub_is_as_slow_as_it_is_told(maps: World) -> None:
    with running(maps, evolve(SCRUBBING, scrub_bytes_per_second=1_000_000)) as agent:
        begun = time.monotonic()
        wait_for(lambda: status(agent.store).last_scrub)
    assert time.monotonic() - begun > 1.8  # two million bytes


def test_an_update_does_not_wait_for_a_scrub(maps: World) -> None:
    policy = evolve(SCRUBBING, scrub_bytes_per_second=50_000, update_hours=6)
    with running(maps, policy) as agent:
        wait_for(lambda: status(agent.store).last_update)
        wait_for(lambda: "checking" in status(agent.store).doing)
        look(agent)
        assert status(agent.store).last_scrub is None


def test_a_scrub_at_a_crawl_makes_way_for_what_is_urgent(maps: World) -> None:
    """A chunk takes days at this rate."""
    with running(maps, evolve(SCRUBBING, scrub_bytes_per_second=1, update_hours=6)) as agent:
        wait_for(lambda: status(agent.store).last_update)
        wait_for(lambda: "checking" in status(agent.store).doing)
        look(agent)
        assert status(agent.store).last_scrub is None


def test_an_idle_agent_leaves_a_scrub_for_another_time(maps: World) -> None:
    policy = evolve(SCRUBBING, scrub_bytes_per_second=50_000, idle_exit_seconds=1)
    agent = Running(maps, policy)
    agent.agent.run(threading.Event())
    assert status(agent.store).last_scrub is None


# --- garbage, and what is remembered -------------------------------------------------------------


def test_it_removes_what_nobody_needs(maps: World) -> None:
    manager = maps.manager()
    (manager.settings.store / ".tmp-0123456789abcdef").touch()
    with running(maps, evolve(QUIET, collect_hours=24)):
        wait_for(lambda: not (manager.settings.store / ".tmp-0123456789abcdef").exists())


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"format": 1, "scrub_done": [3]}'])
def test_a_damaged_memory_costs_only_work(maps: World, content: bytes) -> None:
    store = maps.manager().settings.store
    (store / "agent").mkdir()
    (store / "agent" / "state.json").write_bytes(content)
    with running(maps, SCRUBBING):
        wait_for(lambda: status(store).last_scrub)


def test_hearing_of_it_may_fail(maps: World) -> None:
    def fail(notice: Notice) -> None:
        raise ValueError(notice.text)

    target = flip_a_bit(maps)
    with Agent(maps.manager(), SCRUBBING, tell=fail, now=maps.clock).in_background():
        wait_for(lambda: target.read_bytes() == BIG)


def test_the_clock_may_jump(maps: World) -> None:
    with running(maps, SCRUBBING) as agent:
        wait_for(lambda: status(agent.store).last_scrub)
    maps.clock.advance(days=-10)
    with running(maps, SCRUBBING) as agent:
        wait_for(lambda: status(agent.store).last_scrub == maps.clock())


def test_a_store_that_is_removed_as_an_agent_begins_is_not_made_again(world: World) -> None:
    manager = world.manager()
    store = manager.settings.store
    agent = Agent(manager, evolve(QUIET, collect_hours=24), now=world.clock)
    with agent._locked() as lock:
        store.rename(store.with_name("elsewhere"))
        agent._run(lock, threading.Event())
    assert not store.exists()


@pytest.mark.parametrize("policy", [evolve(QUIET, collect_hours=24), SCRUBBING])
def test_damaged_records_of_the_store_are_told_of_once(maps: World, policy: AgentPolicy) -> None:
    current = maps.manager().settings.store / "current"
    current.write_text("not a record")
    with running(maps, policy) as agent:
        wait_for(lambda: agent.told("damaged"))
        maps.clock.advance(hours=1)  # it tries again, in vain
        time.sleep(1.5)
        [text] = agent.told("damaged")
    assert "current is damaged" in text
    assert "pluginctl repair" in text
    assert ("damaged", text) in agent.done()
