"""The API: what it answers is what is described, and what the command prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import jsonschema
import pytest
from attrs import evolve

from plugin_manager import PluginManager
from plugin_manager.agent import Agent
from plugin_manager.dashboard import _service
from plugin_manager.dashboard._failures import FAMILIES
from plugin_manager.dashboard._openapi import OPERATIONS, Operation, description
from plugin_manager.dashboard._schemas import SCHEMAS
from plugin_manager.errors import LockedError, NetworkError
from plugin_manager.settings import AgentPolicy
from tests.dashboard.conftest import Client, running, until
from tests.dashboard.scene import PROJECT, noise, tamper
from tests.world import World


def validate(value: object, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(
        {**schema, "components": {"schemas": SCHEMAS}},
        format_checker=jsonschema.FormatChecker(),
    ).validate(value)


def described(method: str, path: str) -> dict[str, Any]:
    """The schema of a good answer, by the path as it was asked for."""
    for known, methods in description()["paths"].items():
        parts, asked = known.split("/"), path.split("/")
        if len(parts) != len(asked) or method.lower() not in methods:
            continue
        if all(a == b or a.startswith("{") for a, b in zip(parts, asked, strict=True)):
            good = methods[method.lower()]["responses"]["200"]
            return next(iter(good["content"].values()))["schema"]
    raise AssertionError(f"{method} {path} is not described")


class Checked(Client):
    """Checks each answer against its description, and notes what was asked."""

    def get(self, path: str, status: int = 200) -> Any:
        return self.checked("GET", path, super().get(path, status), status)

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        return self.checked("POST", path, super().post(path, body, status), status)

    def checked(self, method: str, path: str, value: Any, status: int) -> Any:
        failure = {"$ref": "#/components/schemas/Failure"}
        validate(value, described(method, path) if status == 200 else failure)
        ASKED.add((method, path))
        return value


ASKED: set[tuple[str, str]] = set()


@pytest.fixture
def checked(client: Client) -> Checked:
    return Checked(client.dashboard, client.session)


def pluginctl(world: World, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "plugin_manager.cli", *arguments, "--json"],
        env={
            **os.environ,
            "PLUGINCTL_STORE": str(world.directory / "store"),
            "PLUGINCTL_REPOSITORY": world.base_url,
            "PLUGINCTL_ROOT": str(world.root),
            "PLUGINCTL_HOST_VERSION": "1.0",
            "PLUGINCTL_TRIAL_ATTEMPTS": "0",
            "PYTHONPATH": str(PROJECT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout)


def test_the_description_is_sound_and_complete(client: Client) -> None:
    found = client.get("/api/openapi.json")
    assert found == json.loads(json.dumps(description()))
    assert found["openapi"].startswith("3.1")
    names = [one["operationId"] for methods in found["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names)) == len(OPERATIONS)
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    texts = json.dumps(found)
    for name in set(json.loads(texts)["components"]["schemas"]):
        assert f"#/components/schemas/{name}" in texts, f"nothing uses {name}"


def test_every_route_is_described_and_every_description_answers(client: Client) -> None:
    """What is not described is not there: each route under /api/ comes from the one table."""
    app: Any = client.dashboard._server.config.app
    routes = {
        (method, route.path)
        for route in app._app.routes
        for method in route.methods - {"HEAD"}
        if route.path.startswith("/api")
    }
    paths = description()["paths"]
    told = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert routes == told


def test_control_a_value_that_is_not_as_described_is_found(client: Client) -> None:
    value = client.get("/api/storage")
    schema = {"$ref": "#/components/schemas/Storage"}
    validate(value, schema)
    for wrong in ({**value, "more": 1}, {**value, "used_bytes": -1}, {"used_bytes": 1}):
        with pytest.raises(jsonschema.ValidationError):
            validate(wrong, schema)


@pytest.fixture
def populated(world: World) -> World:
    world.publish("acme/maps 1.0", {"maps.py": "x = 1", "data": noise(50_000)})
    world.publish("acme/maps 1.1", {"maps.py": "x = 2", "data": noise(50_000)})
    world.publish("globex/fonts 1.0", {"fonts.py": "x = 1"})
    world.publish("globex/vision 1.0", {"vision.py": "x = 1"}, requires='host = ">=4"')
    return world


def test_a_whole_life_is_as_described(populated: World, checked: Checked) -> None:
    """Every operation, with the store in many states; each answer fits its schema."""
    checked.get("/api/state")
    assert checked.post("/api/update") == {"updated": True}
    planned = checked.post("/api/install", {"requests": ["acme/maps==1.0"], "dry_run": True})
    assert planned["plan"]["steps"][0]["after"]["version"] == "1.0"
    submitted = checked.post("/api/install", {"requests": ["acme/maps==1.0"]})
    job = submitted["jobs"][0]["id"]
    checked.wait_for("acme/maps", "update")
    assert checked.get("/api/jobs")["jobs"][0]["state"] == "completed"
    room = checked.get(f"/api/jobs/{job}/room")
    assert room["ways"] == []
    checked.post("/api/upgrade", {"names": ["acme/maps"]})
    checked.wait_for("acme/maps", "installed")
    assert checked.card("acme/maps")["previous"] == "1.0"
    dry = checked.post("/api/rollback", {"name": "acme/maps", "dry_run": True})
    assert dry["steps"][0]["kind"] == "downgrade"
    checked.post("/api/rollback", {"name": "acme/maps"})
    card = checked.card("acme/maps")
    assert (card["state"], card["active"]["version"], card["active"]["held"]) == (
        "update",
        "1.0",
        True,
    )
    for verb, mark, value in (
        ("unhold", "held", False),
        ("hold", "held", True),
        ("pin", "pinned", True),
        ("unpin", "pinned", False),
    ):
        checked.post(f"/api/{verb}", {"name": "acme/maps"})
        assert checked.card("acme/maps")["active"][mark] is value
    assert not checked.post("/api/confirm", {"name": "acme/maps"})["confirmed"]
    checked.post("/api/rollback", {"generation": 2})
    assert checked.card("acme/maps")["active"]["version"] == "1.1"
    assert checked.post("/api/verify")["good"]
    checked.post("/api/repair", {"names": ["acme/maps"], "dry_run": True})
    assert checked.post("/api/repair")["found"]["good"]
    checked.post("/api/gc", {"unfinished": True, "dry_run": True})
    checked.post("/api/gc")
    checked.post("/api/evict", {"size_bytes": 1, "dry_run": True})
    checked.post("/api/jobs/pause")
    waiting = checked.post("/api/install", {"requests": ["globex/fonts"]})["jobs"][0]["id"]
    assert checked.get("/api/state")["jobs"]["paused"]
    for verb in ("pause", "resume", "cancel"):
        checked.post(f"/api/jobs/{waiting}/{verb}")
    checked.post("/api/jobs/resume")
    until(
        lambda: {one["id"]: one for one in checked.get("/api/jobs")["jobs"]}[waiting]["state"],
        lambda state: state == "cancelled",
    )
    checked.post(f"/api/jobs/{waiting}/forget")
    assert checked.card("globex/fonts")["state"] == "available"
    card = checked.card("globex/vision")
    assert (card["state"], card["actions"]) == ("incompatible", [])
    assert "needs host >= 4" in card["reason"]
    checked.get("/api/plugins/acme/maps")
    checked.get("/api/agent")
    checked.get("/api/activity")
    checked.get("/api/history")
    checked.get("/api/plugins")
    checked.get("/api/storage")
    checked.get("/api/offers")
    checked.post("/api/uninstall", {"names": ["acme/maps"]})
    assert checked.card("acme/maps")["state"] == "available"
    for method, path, body, status in (
        ("GET", "/api/plugins/acme/nothing", None, 404),
        ("GET", "/api/plugins/acme/-", None, 400),
        ("POST", "/api/uninstall", {"names": []}, 400),
        ("POST", "/api/rollback", {}, 400),
        ("POST", "/api/install", {"requests": ["acme/nothing"]}, 404),
        ("POST", "/api/upgrade", {"names": ["globex/fonts"]}, 404),
        ("POST", "/api/rollback", {"name": "acme/maps"}, 404),
        ("POST", "/api/jobs/nothing/pause", None, 404),
        ("POST", "/api/evict", {"size_bytes": 10**15}, 507),
    ):
        if method == "GET":
            checked.get(path, status)
        else:
            checked.post(path, body, status)
    elsewhere = {"session", "openapi", "events"}
    left = [one.name for one in OPERATIONS if not is_asked(one, ASKED)]
    assert set(left) == elsewhere, "no operation is left unasked"


def is_asked(one: Operation, asked: set[tuple[str, str]]) -> bool:
    parts = one.path.split("/")
    return any(
        method == one.method
        and len(path.split("/")) == len(parts)
        and all(
            known == part or known.startswith("{")
            for known, part in zip(parts, path.split("/"), strict=True)
        )
        for method, path in asked
    )


def test_every_refusal_has_the_exit_code_of_its_family(world: World, client: Client) -> None:
    table = (PROJECT / "docs" / "operating.md").read_text().partition("## Exit codes")[2]
    documented = {one[2]: int(one[1]) for one in re.finditer(r"^\| (\d+) \| `(.+?)`", table, re.M)}
    documented["usage"] = 2
    assert documented == FAMILIES
    bearer = {"Authorization": f"Bearer {client.dashboard.token}"}
    text = {**bearer, "Content-Type": "text/plain"}
    evil = {**bearer, "Origin": "http://evil.example"}
    asked = {
        ("GET", "/api/jobs"): ({}, 401, "refused"),
        ("GET", "/api/state"): (evil, 403, "refused"),
        ("GET", "/api/nothing"): (bearer, 404, "not-found"),
        ("GET", "/nothing"): ({}, 404, "not-found"),
        ("GET", "/api/install"): (bearer, 405, "usage"),
        ("DELETE", "/api/jobs"): (bearer, 405, "usage"),
        ("POST", "/api/install"): (text, 415, "invalid-input"),
        ("POST", "/api/jobs/nothing/pause"): (bearer, 404, "not-found"),
        ("POST", "/api/rollback"): (bearer, 400, "invalid-input"),
    }
    told = description()["components"]["responses"]
    for (method, path), (headers, status, family) in asked.items():
        data = {} if method == "POST" else None
        more = {"data": "{}"} if "Content-Type" in headers else {"json": data}
        answer = client.ask(method, path, headers=headers, **more)
        assert answer.status_code == status, path
        value = answer.json()
        validate(value, {"$ref": "#/components/schemas/Failure"})
        assert (value["error"]["family"], value["error"]["exit_code"]) == (
            family,
            documented[family],
        )
        assert str(status) in told


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/install", {"requests": ["acme/maps", "acme/nothing"]}),
        ("/api/install", {"requests": ["nobody/nothing>=1"]}),
        ("/api/upgrade", {"names": ["acme/maps"]}),
        ("/api/upgrade", {"names": ["nobody/nothing"]}),
    ],
)
def test_what_nobody_knows_is_refused_at_once(
    populated: World, client: Client, path: str, body: Any
) -> None:
    for _ in range(2):
        error = client.post(path, body, 404)["error"]
        assert (error["family"], error["exit_code"]) == ("not-found", 4)
        assert error["remedy"]
    assert client.get("/api/jobs")["jobs"] == []


def test_what_is_in_the_repository_is_taken_though_it_was_never_asked_about(
    populated: World, client: Client
) -> None:
    client.post("/api/install", {"requests": ["acme/maps"]})
    client.wait_for("acme/maps", "installed")


@pytest.mark.parametrize("error", [NetworkError("down"), LockedError("busy")], ids=type)
def test_what_cannot_be_asked_about_now_waits(
    populated: World, client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(PluginManager, "update", Mock(side_effect=error))
    job = client.post("/api/install", {"requests": ["acme/maps"]})["jobs"][0]
    assert job["requests"] == ["acme/maps"]


def test_values_are_those_that_the_command_prints(populated: World, client: Client) -> None:
    manager = populated.manager()
    manager.install("acme/maps==1.0", "globex/fonts")
    manager.pin("globex/fonts")
    assert client.get("/api/plugins") == pluginctl(populated, "list")
    assert client.get("/api/offers") == pluginctl(populated, "search")
    assert client.get("/api/history") == pluginctl(populated, "history")
    assert client.get("/api/jobs") == pluginctl(populated, "jobs")
    assert client.get("/api/plugins/acme/maps") == pluginctl(populated, "show", "acme/maps")
    assert client.post("/api/verify") == pluginctl(populated, "verify")
    body = {"name": "acme/maps", "dry_run": True}
    assert client.post("/api/pin", body) == pluginctl(populated, "pin", "acme/maps", "--dry-run")
    ours, theirs = client.get("/api/storage"), pluginctl(populated, "storage")
    for free in ("free_bytes", "available_bytes"):  # others write to this disk meanwhile
        ours.pop(free), theirs.pop(free)
    assert ours == theirs
    error = client.post("/api/rollback", {"name": "acme/maps"}, 404)
    assert error == pluginctl(populated, "rollback", "acme/maps")


def test_damage_is_found_told_and_mended(populated: World, client: Client) -> None:
    manager = populated.manager()
    manager.install("acme/maps==1.1", "globex/fonts")
    tamper(manager, "acme/maps", "data")
    assert client.card("acme/maps")["state"] == "installed", "nobody has looked"
    assert not client.post("/api/verify")["good"]
    card = client.card("acme/maps")
    assert (card["state"], card["actions"][0]) == ("damaged", "repair")
    assert "data" in card["reason"]
    assert client.card("globex/fonts")["state"] == "installed"
    assert not client.get("/api/state")["integrity"]["good"]
    client.post("/api/repair", {"names": ["acme/maps"]})
    assert client.card("acme/maps")["state"] == "installed"
    assert client.get("/api/state")["integrity"]["good"]
    assert client.post("/api/verify")["good"]


def test_looking_at_one_plugin_says_nothing_of_the_others(populated: World, client: Client) -> None:
    manager = populated.manager()
    manager.install("acme/maps==1.1", "globex/fonts")
    for plugin, file in (("acme/maps", "maps.py"), ("globex/fonts", "fonts.py")):
        tamper(manager, plugin, file)
    for names in (["acme/maps"], ["globex/fonts"]):
        client.post("/api/verify", {"names": names})
    integrity = client.get("/api/state")["integrity"]
    assert [one["plugin"] for one in integrity["damaged"]] == ["acme/maps", "globex/fonts"]
    assert integrity["checked"] is None, "the whole was not looked at"


def test_an_upgrade_of_all_can_be_steered_before_it_has_begun(
    populated: World, client: Client
) -> None:
    populated.manager().install("acme/maps==1.0")
    client.post("/api/jobs/pause")
    [job] = client.post("/api/upgrade")["jobs"]
    client.post(f"/api/jobs/{job['id']}/pause")
    assert client.wait_for("acme/maps", "paused")["job"] == job["id"]
    client.post(f"/api/jobs/{job['id']}/cancel")
    assert client.wait_for("acme/maps", "update")["job"] is None


def test_damage_of_an_earlier_release_is_told_as_long_as_that_is_here(
    populated: World, client: Client
) -> None:
    """It is what rolling back would return to."""
    manager = populated.manager()
    manager.install("acme/maps==1.0")
    tamper(manager, "acme/maps", "maps.py")
    manager.upgrade("acme/maps")
    client.post("/api/verify")
    for verb in ("pin", "unpin"):  # after each of which everything is looked at anew
        client.post(f"/api/{verb}", {"name": "acme/maps"})
        [found] = client.get("/api/state")["integrity"]["damaged"]
        assert (found["plugin"], found["version"]) == ("acme/maps", "1.0")
    assert client.card("acme/maps")["state"] == "installed"
    evicted = client.post("/api/evict", {"size_bytes": 1})["evicted"]
    assert [one["version"] for one in evicted] == ["1.0"]
    assert client.get("/api/state")["integrity"]["damaged"] == []


@pytest.mark.parametrize("end", ["repair", "upgrade", "uninstall"])
def test_damage_is_forgotten_when_it_is_gone_whoever_ended_it(
    populated: World, client: Client, end: str
) -> None:
    manager = populated.manager()
    manager.install("acme/maps==1.0", "globex/fonts")
    for plugin, file in (("acme/maps", "maps.py"), ("globex/fonts", "fonts.py")):
        tamper(manager, plugin, file)
    client.post("/api/verify")
    assert client.wait_for("acme/maps", "damaged"), "control"
    getattr(populated.manager(), end)("acme/maps")
    until(lambda: client.card("acme/maps")["state"], lambda state: state != "damaged")
    [left] = client.get("/api/state")["integrity"]["damaged"]
    assert left["plugin"] == "globex/fonts", "which is as damaged as before"
    assert client.card("globex/fonts")["state"] == "damaged"


def test_withdrawn_releases_are_told_with_their_reasons(populated: World, client: Client) -> None:
    manager = populated.manager()
    manager.install("acme/maps==1.0", "globex/fonts")
    manager.upgrade("acme/maps")
    populated.withdraw("acme/maps 1.1", "blocked", "Leaks keys.")
    populated.withdraw("globex/fonts 1.0", "yanked", "Too thin.")
    client.post("/api/update")
    card = client.card("acme/maps")
    assert (card["state"], card["reason"]) == ("blocked", "Leaks keys.")
    assert "rollback" in card["actions"]
    card = client.card("globex/fonts")
    assert (card["state"], card["reason"]) == ("yanked", "Too thin.")
    client.post("/api/verify")
    assert client.get("/api/state")["integrity"]["good"], "blocked is not damaged"


def test_an_upgrade_is_on_trial_until_it_has_shown_that_it_works(populated: World) -> None:
    environment = {"PLUGINCTL_TRIAL_ATTEMPTS": "3"}
    manager = populated.manager(environment=environment)
    manager.install("acme/maps==1.0")
    manager.upgrade("acme/maps")
    with running(lambda: populated.manager(environment=environment)) as client:
        state = client.get("/api/state")
        validate(state, {"$ref": "#/components/schemas/State"})
        card = client.card("acme/maps")
        assert card["state"] == "trial"
        assert card["trial"] == {"attempts": 0, "of": 3, "previous": "1.0"}
        assert "goes back to 1.0" in card["reason"]
        assert card["actions"][:2] == ["confirm", "rollback"]
        client.post("/api/confirm", {"name": "acme/maps"})
        assert client.card("acme/maps")["state"] == "installed"


def test_an_agent_works_at_the_queue_and_the_dashboard_shows_it(populated: World) -> None:
    policy = AgentPolicy(update_hours=0, scrub_days=0, collect_hours=0, desktop=False)
    populated.publish("globex/model 1.0", {"model.bin": noise(3_000_000)})
    manager = populated.manager()
    manager.update()
    slow = evolve(manager.settings, max_bytes_per_second=1_000_000)
    with (
        Agent(PluginManager(slow, now=populated.clock), policy).in_background(),
        running(populated.manager) as client,
    ):
        found = client.get("/api/agent")
        assert found["running"]
        assert found["embedded"]
        client.post("/api/install", {"requests": ["globex/model"]})
        client.wait_for("globex/model", "downloading")
        service: Any = client.dashboard._service
        assert service._worker.jobs.active()[0].state == "running"
        assert not service._is_working, "it is left to the agent"
        client.wait_for("globex/model", "installed")
        until(lambda: client.get("/api/activity"), bool)
        state = client.get("/api/state")
        validate(state, {"$ref": "#/components/schemas/State"})
        assert state["agent"]["running"]
        assert "globex/model" in state["activity"][0]["text"] + str(state["activity"][0]["plugin"])
        until(lambda: client.get("/api/agent")["doing"], lambda doing: not doing)
        assert client.get("/api/agent") == pluginctl(populated, "agent", "status")


def test_the_dashboard_takes_over_where_an_agent_ends(populated: World) -> None:
    policy = AgentPolicy(update_hours=0, scrub_days=0, collect_hours=0, desktop=False)
    populated.publish("globex/model 1.0", {"model.bin": noise(3_000_000)})
    manager = populated.manager()
    manager.update()
    slow = evolve(manager.settings, max_bytes_per_second=1_000_000)
    with running(populated.manager) as client:
        with Agent(PluginManager(slow, now=populated.clock), policy).in_background():
            until(lambda: client.dashboard._service._is_working, lambda working: not working)
            client.post("/api/install", {"requests": ["globex/model"]})
            client.wait_for("globex/model", "downloading")
        client.wait_for("globex/model", "installed")
        assert client.dashboard._service._is_working


def test_evicted_plugins_are_told_and_fetched_again(populated: World, client: Client) -> None:
    manager = populated.manager()
    manager.install("acme/maps==1.1")
    manager.evict(1)
    card = client.card("acme/maps")
    assert (card["state"], card["actions"][0]) == ("evicted", "fetch")
    client.post("/api/install", {"requests": ["acme/maps==1.1"]})
    assert client.wait_for("acme/maps", "installed")["active"]["held"] is False


def test_what_cannot_be_read_is_a_problem_and_not_a_failure(
    populated: World, client: Client
) -> None:
    populated.manager().install("acme/maps")
    store = populated.directory / "store"
    (store / "current").unlink()
    (store / "current").write_text("nonsense")
    state = client.get("/api/state")
    validate(state, {"$ref": "#/components/schemas/State"})
    assert "current" in state["problems"][0]["message"]
    assert state["problems"][0]["remedy"]


def test_a_store_that_vanishes_is_told_and_comes_back(populated: World, client: Client) -> None:
    populated.manager().install("acme/maps")
    assert client.card("acme/maps")["state"] == "installed"
    store = populated.directory / "store"
    away = store.rename(populated.directory / "away")
    until(lambda: client.get("/api/state")["problems"], bool)
    state = client.get("/api/state")
    validate(state, {"$ref": "#/components/schemas/State"})
    [problem] = state["problems"]
    assert (problem["family"], problem["exit_code"]) == ("store", 14)
    assert str(store) in problem["message"]
    assert state["plugins"] == []
    for path, body in (
        ("update", {}),
        ("install", {"requests": ["acme/maps"]}),
        ("jobs/pause", {}),
    ):
        assert client.post(f"/api/{path}", body, 409)["error"]["family"] == "store"
    assert not store.exists()
    time.sleep(2.5)  # a round of looking after the queue
    assert not (store / "current").exists(), "no other is begun in its place"
    if store.exists():
        shutil.rmtree(store)
    away.rename(store)
    assert client.wait_for("acme/maps", "installed")
    assert client.get("/api/state")["problems"] == []
    client.post("/api/pin", {"name": "acme/maps"})


def test_a_store_that_comes_back_as_an_older_copy_is_shown(
    populated: World, client: Client
) -> None:
    """Who has seen newer metadata refuses older: what was restored is seen with new eyes."""
    populated.manager().install("acme/maps==1.0")
    store, copy = populated.directory / "store", populated.directory / "copy"
    shutil.copytree(store, copy, symlinks=True)
    populated.publish("acme/maps 1.2", {"maps.py": "x = 3"})
    client.post("/api/update")
    assert client.card("acme/maps")["newest"] == "1.2"
    shutil.rmtree(store)
    until(lambda: client.get("/api/state")["problems"], bool)
    copy.rename(store)
    assert client.wait_for("acme/maps", "update")["newest"] == "1.1"
    assert client.get("/api/state")["problems"] == []


def test_control_a_store_that_was_never_there_is_no_loss(world: World, client: Client) -> None:
    assert not (world.directory / "store" / "current").exists()
    state = client.get("/api/state")
    assert (state["problems"], state["plugins"]) == ([], [])


def test_offers_are_read_where_something_changed_and_not_otherwise(
    populated: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = PluginManager.offers

    def counted(manager: PluginManager) -> Any:
        read.append(1)
        return real(manager)

    populated.manager().install("acme/maps==1.0")
    client.get("/api/state")
    monkeypatch.setattr(PluginManager, "offers", counted)
    monkeypatch.setattr(_service, "_LOOK_AGAIN_SECONDS", 0.0)
    for _ in range(5):
        first = client.get("/api/state")
    assert read == []
    assert first["plugins"][0]["state"] == "update"
    populated.manager().upgrade("acme/maps")
    assert client.card("acme/maps")["state"] == "installed"
    assert len(read) == 1, "after a change by others"
    populated.withdraw("acme/maps 1.1", "yanked", "Too thin.")
    client.post("/api/update")
    assert client.card("acme/maps")["state"] == "yanked"
    assert len(read) == 2, "after news"
    monkeypatch.setattr(_service, "_OFFERED_AGAIN_SECONDS", 0.0)
    client.get("/api/state")
    assert len(read) == 3, "and now and then: what is signed expires"


@pytest.fixture
def full(populated: World) -> Iterator[Client]:
    populated.publish("globex/model 1.0", {"model.bin": noise(600_000)})
    populated.manager().install("acme/maps")
    populated.manager().pin("acme/maps")
    environment = {"PLUGINCTL_MAX_STORE": "700kB"}
    with running(lambda: populated.manager(environment=environment)) as client:
        yield client


def test_a_lack_of_space_says_what_could_go(full: Client) -> None:
    full.post("/api/update")
    job = full.post("/api/install", {"requests": ["globex/model"]})["jobs"][0]["id"]
    card = full.wait_for("globex/model", "failed")
    assert card["actions"] == ["retry", "dismiss"]
    [failed] = [one for one in full.get("/api/jobs")["jobs"] if one["id"] == job]
    assert failed["error"]["family"] == "no-space"
    room = full.get(f"/api/jobs/{job}/room")
    validate(room, {"$ref": "#/components/schemas/Room"})
    assert room["space"]["missing_bytes"] > 0
    assert [(way["kind"], way["plugin"]) for way in room["ways"]] == [("unpin", "acme/maps")]
    assert room["ways"][0]["bytes"] > 50_000


def test_what_a_job_has_fetched_itself_is_not_offered_to_go(populated: World) -> None:
    """It goes on from there; what another left behind may go."""
    populated.publish("globex/model 1.0", {"model.bin": noise(3_000_000)})
    slow = {"PLUGINCTL_MAX_RATE": "500kB"}
    with running(lambda: populated.manager(environment=slow)) as client:

        def kinds(job: str) -> set[str]:
            return {way["kind"] for way in client.get(f"/api/jobs/{job}/room")["ways"]}

        other = client.post("/api/install", {"requests": ["globex/fonts"]})["jobs"][0]["id"]
        client.wait_for("globex/fonts", "installed")
        job = client.post("/api/install", {"requests": ["globex/model"]})["jobs"][0]["id"]
        until(lambda: client.get("/api/storage")["unfinished_bytes"], lambda size: size > 500_000)
        client.post(f"/api/jobs/{job}/pause")
        client.wait_for("globex/model", "paused")
        assert "unfinished" not in kinds(job)
        client.post(f"/api/jobs/{job}/cancel")
        client.wait_for("globex/model", "available")
        client.post(f"/api/jobs/{job}/forget")
        assert "unfinished" in kinds(other), "control: nobody goes on with it any more"


def test_a_defect_is_told_without_its_inside(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from plugin_manager.dashboard._service import Service  # noqa: PLC0415

    def broken(_: Service) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr(Service, "storage", broken)
    answer = client.ask("GET", "/api/storage")
    assert answer.status_code == 500
    assert "inside" not in answer.text
    assert "the inside" in caplog.text
    assert answer.headers["content-security-policy"]
    assert client.get("/api/jobs")["jobs"] == [], "the others go on"
