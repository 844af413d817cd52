"""What service managers are told of an agent: a systemd user unit, a launchd agent, a Windows task.

Pure: the texts, and where they belong. Nothing in them needs rights that their user has not.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plugin_manager._attrs import frozen
from plugin_manager.errors import InvalidInputError

# Asking how an agent is doing does without what only files for service managers take.
if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

__all__ = ["SERVICE_KINDS", "Service", "service"]

Kind = Literal["systemd", "launchd", "windows"]
SERVICE_KINDS: tuple[Kind, ...] = ("systemd", "launchd", "windows")
_TASK = "http://schemas.microsoft.com/windows/2004/02/mit/task"


@frozen
class Service:
    """A file for a service manager: where it belongs, and what then has to be run by its user.

    `mark` is in every such file, and in none of anybody else's.
    """

    path: Path
    data: bytes
    enable: tuple[str, ...]
    disable: tuple[str, ...]
    mark: bytes = b"plugin-manager-agent-"


def service(
    kind: Kind | None,
    store: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    home: Path,
) -> Service:
    """The service that runs `command` as the agent of `store` for the user at `home`.

    `kind` None: that of this system. `environment` is what the agent is given; nothing secret, as
    others may read the file. Raises InvalidInputError where a text cannot be put into it.
    """
    import hashlib  # noqa: PLC0415

    texts = [*command, *environment.values(), str(store)]
    if not all(text.isprintable() for text in texts):
        raise InvalidInputError(
            "a path or a setting holds a control character", remedy="Give the store another path."
        )
    chosen = kind or {"darwin": "launchd", "win32": "windows"}.get(sys.platform, "systemd")
    # Several stores, several agents: each has a name of its own.
    name = f"plugin-manager-agent-{hashlib.sha256(str(store).encode()).hexdigest()[:8]}"
    make = {"systemd": _systemd, "launchd": _launchd, "windows": _windows}[chosen]
    return make(name, store, list(command), environment, home)


_UNIT = """\
# plugin-manager-agent- : written by 'pluginctl agent install-service'
[Unit]
Description=Plugin Manager agent of {store}
Documentation=man:systemd.service(5)
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
Type=exec
ExecStart={command}
{environment}Restart=on-failure
RestartSec=30s
TimeoutStopSec=60s
UMask=0022

# It yields to whatever its user does.
Nice=10
CPUWeight=20
IOSchedulingClass=idle

# What a user's own service manager can enforce without further rights. Those that give a service
# its own view of the file system are not among these everywhere.
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target
"""


def _quoted(text: str, *, command: bool = False) -> str:
    """`text` as one word of a unit file, none of its signs meaning anything."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text.replace("$", "$$") if command else text}"'


def _systemd(
    name: str, store: Path, command: list[str], environment: Mapping[str, str], home: Path
) -> Service:
    lines = [f"Environment={_quoted(f'{k}={v}')}\n" for k, v in sorted(environment.items())]
    text = _UNIT.format(
        store=str(store).replace("%", "%%").rstrip("\\"),
        command=" ".join(_quoted(word, command=True) for word in command),
        environment="".join(lines),
    )
    return Service(
        home / ".config" / "systemd" / "user" / f"{name}.service",
        text.encode(),
        ("systemctl --user daemon-reload", f"systemctl --user enable --now {name}.service"),
        (f"systemctl --user disable --now {name}.service", "systemctl --user daemon-reload"),
    )


def _launchd(
    name: str, store: Path, command: list[str], environment: Mapping[str, str], home: Path
) -> Service:
    import plistlib  # noqa: PLC0415

    path = home / "Library" / "LaunchAgents" / f"{name}.plist"
    value: dict[str, Any] = {
        "Label": name,
        "ProgramArguments": command,
        "EnvironmentVariables": dict(environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 30,
        "ExitTimeOut": 60,
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "Nice": 10,
        "Umask": 0o022,
        "StandardErrorPath": str(store / "agent" / "start.log"),
    }
    return Service(
        path,
        plistlib.dumps(value),
        (f"launchctl bootstrap gui/$(id -u) '{path}'",),
        (f"launchctl bootout gui/$(id -u)/{name}",),
    )


def _windows(
    name: str, store: Path, command: list[str], environment: Mapping[str, str], home: Path
) -> Service:
    import subprocess  # noqa: PLC0415
    import xml.etree.ElementTree as ET  # noqa: PLC0415

    # A task has no environment of its own: the settings go the way that the system has for that.
    task = ET.Element("Task", {"version": "1.2", "xmlns": _TASK})

    def add(parent: ET.Element, tag: str, text: str = "", **attributes: str) -> ET.Element:
        element = ET.SubElement(parent, tag, attributes)
        element.text = text or None
        return element

    about = add(task, "RegistrationInfo")
    add(about, "Description", f"Plugin Manager agent of {store} ({name})")
    trigger = add(add(task, "Triggers"), "LogonTrigger")
    add(trigger, "Enabled", "true")
    principal = add(add(task, "Principals"), "Principal", id="Author")
    add(principal, "LogonType", "InteractiveToken")
    add(principal, "RunLevel", "LeastPrivilege")
    settings = add(task, "Settings")
    add(settings, "MultipleInstancesPolicy", "IgnoreNew")
    add(settings, "DisallowStartIfOnBatteries", "false")
    add(settings, "StopIfGoingOnBatteries", "false")
    restart = add(settings, "RestartOnFailure")
    add(restart, "Interval", "PT1M")
    add(restart, "Count", "5")
    add(settings, "ExecutionTimeLimit", "PT0S")
    add(settings, "Priority", "7")
    action = add(add(task, "Actions", Context="Author"), "Exec")
    add(action, "Command", command[0])
    add(action, "Arguments", subprocess.list2cmdline(command[1:]))
    data = ET.tostring(task, encoding="utf-16", xml_declaration=True)
    path = home / "AppData" / "Local" / "plugin-manager" / f"{name}.xml"
    set_up = tuple(f'setx {key} "{value}"' for key, value in sorted(environment.items()))
    return Service(
        path,
        data,
        (*set_up, f'schtasks /Create /TN {name} /XML "{path}"', f"schtasks /Run /TN {name}"),
        (f"schtasks /End /TN {name}", f"schtasks /Delete /TN {name} /F"),
        mark="plugin-manager-agent-".encode("utf-16-le"),
    )
