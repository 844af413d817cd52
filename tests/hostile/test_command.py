"""The command itself, a process of its own with the patience that it really has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugin_manager.cli._output import EXIT_CODES
from tests.hostile.stage import Attempt, Front, Host, Script, Stage, VirtualTime, honestly
from tests.hostile.ways import EDITIONS, WAYS, always
from tests.transfer.server import Server

PROJECT = Path(__file__).resolve().parents[2]


def pluginctl(host: Host, script: Script, edition: str = "new") -> tuple[str, Attempt]:
    """What `pluginctl install` says is wrong ("" for nothing), and what it cost."""
    front = Front(host.stage, host.stage.edition(edition), script, VirtualTime(), int)
    with Server(front) as server:
        environment = {name: text for name, text in os.environ.items() if "PLUGINCTL" not in name}
        environment |= {
            "PLUGINCTL_STORE": str(host.store),
            "PLUGINCTL_ROOT": str(host.stage.world.root),
            "PLUGINCTL_REPOSITORY": server.url(""),
            "PYTHONPATH": str(PROJECT),
        }
        command = [sys.executable, "-m", "plugin_manager.cli"]
        done = subprocess.run(
            [*command, "install", "acme/maps==2.0", "--json"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert "Traceback" not in done.stderr
    attempt = Attempt(None, front.asked, front.sent_bytes, 0, 0)
    if done.returncode == 0:
        return "", attempt
    error = json.loads(done.stdout)["error"]
    assert EXIT_CODES[error["family"]] == done.returncode
    return error["family"], attempt


@pytest.mark.parametrize(
    ("family", "place", "name"),
    [
        ("network", "timestamp", "endless body"),
        ("network", "head", "redirect with credentials"),
        ("network", "body", "gzip bomb"),
        ("untrusted", "snapshot", "of an older edition"),
        ("", "body", "an answer too many"),
    ],
)
def test_the_command_says_what_is_wrong_and_leaves_what_was_installed(
    family: str, place: str, name: str, stage: Stage, tmp_path: Path
) -> None:
    host = Host.installed(stage, tmp_path)
    said, attempt = pluginctl(host, always(place, {**WAYS, **EDITIONS}[name]))
    assert said == family
    assert sum(sent for _, sent in attempt.sent_bytes) < 8_000_000
    if family:
        assert host.is_untouched() == []
        said, attempt = pluginctl(host, honestly)
    assert said == ""
    assert host.is_good("2.0") == []


def test_the_command_refuses_what_has_expired_and_what_is_from_before(
    stage: Stage, tmp_path: Path
) -> None:
    host = Host.installed(stage, tmp_path)
    for edition, family in (("expired", "expired"), ("old", "untrusted")):
        said, _ = pluginctl(host, honestly, edition)
        assert said == family
    assert host.is_untouched() == []
