"""`pluginctl dashboard --json`: what a program is told that starts one."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
import requests

from tests.cli.test_client import Command
from tests.world import World

pytest.importorskip("starlette")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_is_told_in_a_line_how_to_ask(tmp_path: Path, number: signal.Signals) -> None:
    command = Command(World(tmp_path))
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\ntouch {opened}\n")
    browser.chmod(0o755)
    with subprocess.Popen(
        command.arguments("dashboard", "--json"),
        env={**command.environment, "BROWSER": f"{browser} %s"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            assert process.stderr
            told = json.loads(process.stdout.readline())
            assert told.keys() == {"address", "token_file", "pid"}
            assert told["pid"] == process.pid
            file = Path(told["token_file"])
            assert file.stat().st_mode & 0o777 == 0o600
            assert file.parent.stat().st_mode & 0o777 == 0o700
            token = file.read_text()
            with requests.Session() as session:
                session.trust_env = False
                for given, status in ((token, 200), (token[:-1], 401)):
                    headers = {"Authorization": f"Bearer {given}"}
                    address = told["address"] + "api/storage"
                    answer = session.get(address, headers=headers, timeout=30)
                    assert answer.status_code == status
            process.send_signal(number)
            rest, said = process.stdout.read(), process.stderr.read()
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert rest == ""
    assert token not in said
    assert not file.parent.exists()
    assert not opened.exists()
