"""Whether a connection is metered: asked of a real bus, with a stand-in for NetworkManager."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin_manager._connection import is_metered

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <policy context="default">
    <allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
"""
MANAGER = """
import sys
from jeepney import DBusAddress, HeaderFields, MessageType, new_error, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection
connection = open_dbus_connection("SYSTEM")
connection.send_and_get_reply(message_bus.RequestName("org.freedesktop.NetworkManager"))
print("ready", flush=True)
while True:
    message = connection.receive()
    if message.header.message_type is MessageType.method_call:
        if sys.argv[1] == "refuse":
            connection.send(new_error(message, "org.freedesktop.DBus.Error.AccessDenied"))
        elif sys.argv[1] == "nonsense":
            connection.send(new_method_return(message, "v", (("s", "often"),)))
        else:
            asked = message.body == ("org.freedesktop.NetworkManager", "Metered")
            connection.send(new_method_return(message, "v", (("u", int(sys.argv[1]) * asked),)))
"""


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    daemon = shutil.which("dbus-daemon")
    if daemon is None and not os.environ.get("CI"):
        pytest.skip("dbus-daemon is not installed")
    assert daemon
    path, configuration = tmp_path / "bus", tmp_path / "bus.conf"
    configuration.write_text(BUS.format(path=path))
    command = [daemon, f"--config-file={configuration}", "--nofork", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
        yield
        process.kill()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("1", True), ("3", True), ("0", False), ("2", False), ("4", False),
     ("refuse", False), ("nonsense", False)],
)  # fmt: skip
@pytest.mark.usefixtures("bus")
def test_network_manager_is_believed(answer: str, expected: bool) -> None:
    command = [sys.executable, "-c", MANAGER, answer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as manager:
        assert manager.stdout
        assert manager.stdout.readline() == "ready\n"
        assert is_metered() is expected
        manager.kill()


@pytest.mark.usefixtures("bus")
def test_a_bus_without_it_tells_nothing() -> None:
    assert not is_metered()


def test_without_a_bus_or_the_library_nobody_can_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'none'}")
    assert not is_metered()
    monkeypatch.setitem(sys.modules, "jeepney", None)
    assert not is_metered()
