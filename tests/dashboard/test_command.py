"""`pluginctl dashboard` as a process: how it begins, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import requests

from plugin_manager.manager import JobState
from tests.dashboard.conftest import until
from tests.dashboard.scene import PROJECT, Running, dashboard, noise
from tests.world import World

ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("PLUGINCTL_")},
    "PYTHONPATH": str(PROJECT),
}


def ask(running: Running, path: str, method: str = "GET", **more: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        more.setdefault("headers", {"Authorization": f"Bearer {running.token}"})
        return session.request(method, running.address + path, timeout=30, **more)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_well_and_what_was_under_way_is_queued_again(
    world: World, number: signal.Signals
) -> None:
    world.publish("acme/model 1.0", {"model.bin": noise(4_000_000)})
    with dashboard(world, "--max-rate", "300kB") as running:
        ask(running, "api/install", "POST", json={"requests": ["acme/model"]})
        until(
            lambda: ask(running, "api/jobs").json()["jobs"][0]["state"],
            lambda state: state == "running",
        )
        watching = requests.get(
            running.address + "api/events",
            headers={"Authorization": f"Bearer {running.token}"},
            stream=True,
            timeout=30,
        )
        running.end(number)
        watching.close()
        assert running.process.returncode == 0
    [job] = world.manager().jobs.all()
    assert (job.state, job.why) == (JobState.QUEUED, "")


def test_without_the_extra_it_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['starlette'] = None; sys.argv = ['pluginctl', 'dashboard']\n"
        "from plugin_manager.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "pip install 'plugin-manager[dashboard]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_refused(world: World) -> None:
    with dashboard(world) as running:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "plugin_manager.cli"),
                *("dashboard", "--no-browser", "--port", str(running.port)),
            ],
            env={**ENVIRONMENT, "PLUGINCTL_STORE": str(world.directory / "store")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 7
    assert "is taken" in done.stderr


def test_the_browsers_arguments_hold_no_secret(world: World, tmp_path: Path) -> None:
    """Every user of the machine can read them; only its owner the file that they name."""
    script, arguments = tmp_path / "browser", tmp_path / "arguments"
    script.write_text(f'#!/bin/sh\necho "$*" > {arguments}.new\nmv {arguments}.new {arguments}\n')
    script.chmod(0o755)
    with dashboard(world, environment={"BROWSER": f"{script} %s"}, options=()) as running:
        until(arguments.exists, bool)
        said = arguments.read_text().strip()
        path = Path(unquote(urlsplit(said).path))
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        found = re.search(r'url=\S+#code=([^"]+)"', path.read_text())
        assert found
        assert found[1] not in said
        origin = {"Origin": running.address.rstrip("/")}
        answer = ask(running, "api/session", "POST", json={"secret": found[1]}, headers=origin)
        assert answer.status_code == 200, "control: it is the secret"
        running.end()
    assert not path.parent.exists()


def test_no_secret_is_in_the_store(world: World) -> None:
    with dashboard(world) as running:
        ask(running, "api/update", "POST", json={})
        code = running.link.partition("#code=")[2]
        files = [path for path in (world.directory / "store").rglob("*") if path.is_file()]
        assert files
        for path in files:
            data = path.read_bytes()
            assert running.token.encode() not in data
            assert code.encode() not in data
