"""Telling of it: a real bus, a real server, real processes; and none that hangs stops anything."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests

from plugin_manager.agent import Notice
from plugin_manager.agent import _notify as notify
from plugin_manager.agent._notify import Notifier
from plugin_manager.model import PluginName
from plugin_manager.settings import AgentPolicy, Settings

MOMENT = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOTICE = Notice("completed", PluginName.parse("acme/maps"), "install acme/maps: completed", MOMENT)


def notifier(**policy: object) -> Notifier:
    policy.setdefault("desktop", False)
    return Notifier(Settings(Path("/none"), agent=AgentPolicy(**policy)))  # type: ignore[arg-type]


def tell(one: Notifier, *notices: Notice) -> float:
    """How long telling them takes the caller, and then closing, in seconds."""
    begun = time.monotonic()
    for notice in notices or (NOTICE,):
        one.tell(notice)
    one.close()
    return time.monotonic() - begun


# --- what is told --------------------------------------------------------------------------------


def test_a_notice_is_one_printable_line_without_secrets() -> None:
    text = "failed:\nhttps://me:pw@host/x/y?X-Signature=abc#f and \x1b[31mhttp://h?token=1"
    notice = Notice("failed", None, text, MOMENT)
    assert notice.text == "failed: https://host/x/y and \N{REPLACEMENT CHARACTER}[31mhttp://h"
    assert len(Notice("failed", None, "x" * 10_000, MOMENT).text) == 500
    assert notice.render()["plugin"] == ""


# --- the command ---------------------------------------------------------------------------------

KEEP = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"


def test_a_command_gets_each_notice_as_json(tmp_path: Path) -> None:
    one = notifier(command=(sys.executable, "-c", KEEP, str(tmp_path / "it; $(touch no)")))
    tell(one, NOTICE, NOTICE)
    lines = (tmp_path / "it; $(touch no)").read_text().splitlines()  # and no shell saw its name
    assert [json.loads(line) for line in lines] == [NOTICE.render()] * 2
    assert NOTICE.render() == {
        "format": 1,
        "kind": "completed",
        "plugin": "acme/maps",
        "text": "install acme/maps: completed",
        "when": "2026-11-20T12:00:00Z",
    }


def test_a_command_that_hangs_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "_TIMEOUT_SECONDS", 0.5)
    beat = (
        "import pathlib, subprocess, sys, time\n"
        "if len(sys.argv) == 2: subprocess.Popen([sys.executable, *sys.orig_argv[1:], 'child'])\n"
        "while True: pathlib.Path(sys.argv[1]).touch(); time.sleep(0.05)"
    )
    path = tmp_path / "beat"
    tell(notifier(command=(sys.executable, "-c", beat, str(path))))
    assert "the command could not be told: TimeoutExpired" in caplog.text
    last = path.stat().st_mtime_ns
    time.sleep(0.5)
    assert path.stat().st_mtime_ns == last


def test_closing_ends_a_command_that_goes_on_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_CLOSE_SECONDS", 0.1)
    beat = (
        "import pathlib, subprocess, sys, time\n"
        "if len(sys.argv) == 2: subprocess.Popen([sys.executable, *sys.orig_argv[1:], 'child'])\n"
        "while True: pathlib.Path(sys.argv[1]).touch(); time.sleep(0.05)"
    )
    path = tmp_path / "beat"
    one = notifier(command=(sys.executable, "-c", beat, str(path)))
    one.tell(NOTICE)
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    one.tell(NOTICE)  # nor does the next one begin
    one.close()
    time.sleep(0.5)
    last = path.stat().st_mtime_ns
    time.sleep(0.5)
    assert path.stat().st_mtime_ns == last


def test_what_a_command_leaves_behind_as_it_ends_well_goes_on(tmp_path: Path) -> None:
    leave = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', "
        "'import sys, time; time.sleep(1); open(sys.argv[1], \"w\")', sys.argv[1]])"
    )
    tell(notifier(command=(sys.executable, "-c", leave, str(tmp_path / "left"))))
    deadline = time.monotonic() + 60
    while not (tmp_path / "left").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "command", [("/no/such/program",), (sys.executable, "-c", "import sys; sys.exit(3)")]
)
def test_one_bad_hook_keeps_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: tuple[str, ...]
) -> None:
    one = notifier(command=command, webhook="http://127.0.0.1:9/T0KEN")
    heard: list[Notice] = []
    one._ways.append(notify._Way("the test", heard.append))
    tell(one)
    assert heard == [NOTICE]
    assert "the command could not be told" in caplog.text
    assert "the webhook could not be told" in caplog.text
    assert "T0KEN" not in caplog.text


def test_what_hangs_for_good_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_CLOSE_SECONDS", 0.3)
    one, over = notifier(), threading.Event()
    one._ways.append(notify._Way("the test", lambda _: over.wait(60) and None))
    try:
        assert tell(one, *[NOTICE] * 500) < 10
    finally:
        over.set()


# --- the webhook ---------------------------------------------------------------------------------


class Hook:
    """A server on loopback, and what was posted to it."""

    def __init__(self, status: int = 204, **headers: str) -> None:
        posted: list[tuple[str, dict[str, str], bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posted.append((self.path, dict(self.headers), body))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST  # noqa: N815 - as the library wants it

            def log_message(self, *_: object) -> None:
                pass

        self.posted = posted
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_webhook_is_posted_json_without_anybody_s_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    with Hook() as hook:
        tell(notifier(webhook=hook.address))
        [(path, headers, body)] = hook.posted
        assert (path, json.loads(body)) == ("/hook", NOTICE.render())
        assert headers["Content-Type"] == "application/json"
        assert "Authorization" not in headers
        requests.post(hook.address, json={}, timeout=10)  # control: by default they are sent
        assert "Authorization" in hook.posted[-1][1]


def test_a_webhook_is_not_led_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    with Hook() as other, Hook(307, Location=other.address) as hook:
        tell(notifier(webhook=hook.address))
        assert len(hook.posted) == 1
        assert other.posted == []
    assert "the webhook could not be told: OSError" in caplog.text


def test_a_webhook_that_never_answers_takes_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "_TIMEOUT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tell(notifier(webhook=f"http://127.0.0.1:{silent.getsockname()[1]}/"))
    assert "the webhook could not be told: ReadTimeout" in caplog.text


# --- the desktop ---------------------------------------------------------------------------------

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <policy context="default">
    <allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
"""
SERVICE = """
import json
from jeepney import MessageType, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection
connection = open_dbus_connection("SESSION")
connection.send_and_get_reply(message_bus.RequestName("org.freedesktop.Notifications"))
print("ready", flush=True)
while True:
    message = connection.receive()
    if message.header.message_type is MessageType.method_call:
        print(json.dumps(message.body), flush=True)
        connection.send(new_method_return(message, "u", (1,)))
"""


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A service that shows notifications on a session bus of its own; it prints what it is told."""
    daemon = shutil.which("dbus-daemon")
    if daemon is None and not os.environ.get("CI"):
        pytest.skip("dbus-daemon is not installed")
    assert daemon
    path, configuration = tmp_path / "bus", tmp_path / "bus.conf"
    configuration.write_text(BUS.format(path=path))
    command = [daemon, f"--config-file={configuration}", "--nofork", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bus:
        assert bus.stdout
        bus.stdout.readline()
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={path}")
        command = [sys.executable, "-c", SERVICE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            assert service.stdout
            assert service.stdout.readline() == "ready\n"
            yield service
            service.kill()
        bus.kill()


def test_a_desktop_shows_it_over_the_bus(
    desktop: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    notice = Notice("needs-space", None, "<b>install</b> acme/maps & more", MOMENT)
    tell(notifier(desktop=True), notice)
    assert desktop.stdout
    name, _, _, title, body, *_ = json.loads(desktop.stdout.readline())
    assert (name, title) == ("pluginctl", "Plugins: Not enough space")
    assert body == "&lt;b&gt;install&lt;/b&gt; acme/maps &amp; more"  # nobody's markup


def test_a_desktop_s_own_program_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "notify-send"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/shown\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/none")
    tell(notifier(desktop=True), Notice("failed", None, "--help", MOMENT))
    assert (tmp_path / "shown").read_text().splitlines() == [
        "--app-name=pluginctl", "--", "Plugins: Failed", "--help",
    ]  # fmt: skip


def test_without_a_desktop_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert notifier(desktop=True)._ways == []


def test_a_desktop_that_is_not_there_is_only_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path / 'none'}")
    tell(notifier(desktop=True))
    assert "the desktop could not be told" in caplog.text
    monkeypatch.setitem(sys.modules, "jeepney", None)
    tell(notifier(desktop=True))
    assert "the desktop could not be told: ModuleNotFoundError" in caplog.text
