"""What service managers are told: each file as its own tools, or libraries, read it."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from plugin_manager.agent import SERVICE_KINDS, Service, service
from plugin_manager.errors import InvalidInputError

ODD = Path('/srv/it\'s 100% "odd" $HOME \\x')
TASK = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


def made(kind: str, *words: str, store: Path = ODD, **environment: str) -> Service:
    command = [shutil.which("true") or "/bin/true", "--store", str(store), *words]
    return service(kind, store, command, environment, home=Path("/home/me"))  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="it is not installed")
@pytest.mark.parametrize("store", [Path("/srv/store"), ODD])
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, store: Path) -> None:
    one = made("systemd", store=store, PLUGINCTL_JOBS="3 %h $x")
    path = tmp_path / one.path.name
    path.write_bytes(one.data)
    done = subprocess.run(
        ["systemd-analyze", "--user", "--man=no", "verify", str(path)],
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="it is not installed")
def test_control_systemd_finds_what_is_wrong(tmp_path: Path) -> None:
    one = made("systemd")
    path = tmp_path / one.path.name
    path.write_bytes(one.data.replace(b"NoNewPrivileges=yes", b"NoNewPriviliges=yes"))
    done = subprocess.run(
        ["systemd-analyze", "--user", "--man=no", "verify", str(path)],
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "NoNewPriviliges" in done.stderr


def test_the_unit_quotes_what_systemd_would_read_otherwise() -> None:
    lines = made("systemd", PLUGINCTL_JOBS='a "b" %h').data.decode().splitlines()
    [command] = [line for line in lines if line.startswith("ExecStart=")]
    assert command.endswith(r'"/srv/it' + "'" + r's 100%% \"odd\" $$HOME \\x"')
    assert r'Environment="PLUGINCTL_JOBS=a \"b\" %%h"' in lines
    assert "NoNewPrivileges=yes" in lines
    assert "WantedBy=default.target" in lines


def test_the_launchd_agent_runs_the_command() -> None:
    one = made("launchd", PLUGINCTL_JOBS="3")
    value = plistlib.loads(one.data)
    assert value["ProgramArguments"][1:] == ["--store", str(ODD)]
    assert value["EnvironmentVariables"] == {"PLUGINCTL_JOBS": "3"}
    assert one.path == Path(f"/home/me/Library/LaunchAgents/{value['Label']}.plist")
    assert value["KeepAlive"] == {"SuccessfulExit": False}


def test_the_windows_task_runs_the_command() -> None:
    one = made("windows", "two words")
    task = ET.fromstring(one.data)
    assert task.tag == f"{TASK}Task"
    action = task.find(f"{TASK}Actions/{TASK}Exec")
    assert action is not None
    assert (action.findtext(f"{TASK}Arguments") or "").endswith('"two words"')
    assert task.findtext(f"{TASK}Principals/{TASK}Principal/{TASK}RunLevel") == "LeastPrivilege"
    assert task.findtext(f"{TASK}Settings/{TASK}ExecutionTimeLimit") == "PT0S"


@pytest.mark.parametrize("kind", SERVICE_KINDS)
def test_each_store_has_its_own_and_each_is_known_again(kind: str) -> None:
    one, other = made(kind), made(kind, store=Path("/srv/other"))
    assert one.path != other.path
    assert one.mark in one.data
    assert one == made(kind)


@pytest.mark.parametrize("kind", SERVICE_KINDS)
def test_a_line_break_begins_no_line_of_its_own(kind: str) -> None:
    with pytest.raises(InvalidInputError):
        made(kind, store=Path("/srv/x\nExecStartPre=/bin/evil"))
    with pytest.raises(InvalidInputError):
        made(kind, PLUGINCTL_JOBS="3\n[Install]")
