"""Telling people and programs of what an agent did: on the desktop, by a webhook, by a command.

Each way has a thread and a short queue of its own: one that hangs, fails or is not there keeps
neither the others nor the agent from anything.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field

from plugin_manager._attrs import frozen
from plugin_manager.model import PluginName, one_line, utc_text
from plugin_manager.settings import Settings

if TYPE_CHECKING:
    import subprocess

__all__ = ["Notice", "Notifier"]

_MOST_WAITING = 50
_TIMEOUT_SECONDS = 15.0
_CLOSE_SECONDS = 2.0
_LONGEST_TEXT = 500
_ADDRESS = re.compile(r"(https?://)(?:[^\s/@]*@)?([^\s?#]*)[?#]?\S*")

_log = logging.getLogger("plugin_manager")


def _presentable(text: str) -> str:
    """`text` in a line, of addresses only what is no secret: some are signed, in their queries."""
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in
                   one_line(text))  # fmt: skip
    return _ADDRESS.sub(r"\1\2", text)[:_LONGEST_TEXT]


@frozen
class Notice:
    """Something worth telling.

    `kind` is `completed`, `failed`, `needs-space`, `upgrade` (there is one), `blocked`, `damaged`.
    """

    kind: str
    plugin: PluginName | None
    text: str = field(converter=_presentable)
    when: datetime

    def render(self) -> dict[str, Any]:
        """As a JSON value: all that hooks are given, and none of it secret."""
        return {
            "format": 1,
            "kind": self.kind,
            "plugin": str(self.plugin or ""),
            "text": self.text,
            "when": utc_text(self.when),
        }


class Notifier:
    """Tells notices in every way that `settings` name; from any thread, returning at once."""

    def __init__(self, settings: Settings) -> None:
        policy = settings.agent
        self._ways: list[_Way] = []
        self._programs = programs = _Programs()
        if policy.desktop and _has_desktop():
            self._ways.append(_Way("the desktop", lambda notice: _on_desktop(notice, programs)))
        if policy.webhook:
            self._ways.append(
                _Way("the webhook", lambda notice: _post(policy.webhook, settings, notice))
            )
        if policy.command:
            self._ways.append(
                _Way("the command", lambda notice: programs.run(policy.command, _json(notice)))
            )

    def tell(self, notice: Notice) -> None:
        """Have `notice` told, where nothing keeps it from being."""
        for way in self._ways:
            way.put(notice)

    def close(self) -> None:
        """Wait a few seconds at most until what is to be told is told; end programs that go on."""
        until = time.monotonic() + _CLOSE_SECONDS
        for way in self._ways:
            way.close(until)
        self._programs.end()


class _Way:
    """One way of telling, in a thread that begins with the first notice."""

    def __init__(self, name: str, act: Callable[[Notice], None]) -> None:
        self._name, self._act = name, act
        self._waiting: queue.Queue[Notice | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None

    def put(self, notice: Notice) -> None:
        if self._thread is None:
            # A daemon: where it hangs for good, the process ends all the same.
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(notice)
        except queue.Full:
            _log.warning("%s is too slow: %r is not told there", self._name, notice.text)

    def _work(self) -> None:
        while notice := self._waiting.get():
            try:
                self._act(notice)
            except Exception as error:
                # Only its kind: a webhook's address, which may be a secret, is in its words.
                _log.warning("%s could not be told: %s", self._name, type(error).__name__)

    def close(self, until: float) -> None:
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        if self._thread:
            self._thread.join(max(until - time.monotonic(), 0))


def _json(notice: Notice) -> bytes:
    return json.dumps(notice.render()).encode()


# A program goes on when its agent is killed, and nobody would be left to end it. Its shell is told
# so by its standard input, whose other end closes with the agent, and then ends the whole group.
_GUARD = """
exec 3<&0
IFS= read -r notice
printf %s "$notice" | "$@" 3<&- &
program=$!
{ read -r _ <&3; kill -KILL 0; } &
guard=$!
exec 3<&-
wait "$program"
status=$?
kill -KILL "$guard"
exit "$status"
"""
_SHELL = "/bin/sh"


class _Programs:
    """Programs that are run for notices, until `end`, and for no longer than this process lives."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def run(self, command: Sequence[str], data: bytes) -> None:
        """Give a line of `data` to a program; end it, and what it began, if it takes too long."""
        import subprocess  # noqa: PLC0415 - most agents need none

        if not shutil.which(command[0]):
            raise FileNotFoundError(command[0])
        # Not on Windows: there it outlives an agent that is killed.
        guarded = Path(_SHELL).exists()
        with self._guard:
            if self._ended:
                raise OSError("the agent ends")
            process = subprocess.Popen(  # noqa: S603 - as the settings say; no shell reads that
                [_SHELL, "-c", _GUARD, _SHELL, *command] if guarded else command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._running.add(process)
        with process:
            try:
                if guarded:
                    assert process.stdin
                    process.stdin.write(data + b"\n")
                    process.stdin.flush()
                    process.wait(_TIMEOUT_SECONDS)
                else:
                    process.communicate(data, _TIMEOUT_SECONDS)
            except BaseException:
                _kill(process)
                raise
            finally:
                with self._guard:
                    self._running.discard(process)
        if process.returncode:
            raise OSError(f"it ended with {process.returncode}")

    def end(self) -> None:
        """End what is running, and what that began; begin none any more."""
        with self._guard:
            self._ended = True
            for process in self._running:
                if process.poll() is None:
                    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _post(address: str, settings: Settings, notice: Notice) -> None:
    import requests  # noqa: PLC0415 - only who has a webhook needs it

    def no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request  # else those of ~/.netrc are added

    with requests.post(
        address,
        json=notice.render(),
        timeout=_TIMEOUT_SECONDS / 3,
        allow_redirects=False,
        auth=no_credentials,
        verify=str(settings.ca_bundle) if settings.ca_bundle else True,
        stream=True,  # of what is answered only the status counts
    ) as answer:
        if not answer.ok or answer.is_redirect:
            raise OSError(f"it answered {answer.status_code}")


# --- the desktop -------------------------------------------------------------------------------

_TITLES = {
    "completed": "Done",
    "failed": "Failed",
    "needs-space": "Not enough space",
    "upgrade": "Update available",
    "blocked": "Blocked by its publisher",
    "damaged": "Damaged",
}


def _has_desktop() -> bool:
    """Whether this user has a session bus, on which desktops listen."""
    if os.name != "posix":
        return False
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return bool(os.environ.get("DBUS_SESSION_BUS_ADDRESS")) or bool(
        runtime and (Path(runtime) / "bus").exists()
    )


def _on_desktop(notice: Notice, programs: _Programs) -> None:
    """Show `notice` as https://specifications.freedesktop.org/notification-spec describes."""
    import html  # noqa: PLC0415

    title = f"Plugins: {_TITLES.get(notice.kind, notice.kind)}"
    body = html.escape(notice.text, quote=False)  # servers may take markup
    if program := shutil.which("notify-send"):
        programs.run([program, "--app-name=pluginctl", "--", title, body], b"")
        return
    from jeepney import DBusAddress, new_method_call  # noqa: PLC0415 - an extra
    from jeepney.io.blocking import open_dbus_connection  # noqa: PLC0415

    server = DBusAddress(
        "/org/freedesktop/Notifications",
        bus_name="org.freedesktop.Notifications",
        interface="org.freedesktop.Notifications",
    )
    arguments: tuple[object, ...] = ("pluginctl", 0, "", title, body, [], {}, -1)
    with open_dbus_connection(bus="SESSION") as connection:
        call = new_method_call(server, "Notify", "susssasa{sv}i", arguments)
        connection.send_and_get_reply(call, timeout=_TIMEOUT_SECONDS)
