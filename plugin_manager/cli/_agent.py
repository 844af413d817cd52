"""The agent's commands: run it, start and stop it, have the system start it; and jobs for it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import click

from plugin_manager import agent as agents
from plugin_manager import configuration
from plugin_manager._values import agent_json, job_json
from plugin_manager.cli._opening import open_manager
from plugin_manager.cli._options import Group, json_option
from plugin_manager.cli._output import Session, clean
from plugin_manager.cli._source import file_of
from plugin_manager.durable import read_regular, write_atomically
from plugin_manager.errors import (
    CorruptError,
    LockedError,
    NotFoundError,
    PluginManagerError,
    RefusedError,
    StoreAccessError,
)
from plugin_manager.manager import PluginManager
from plugin_manager.model import PluginName, utc_text
from plugin_manager.settings import Settings

__all__ = ["COMMANDS", "submit"]

_START_SECONDS = 30.0
_LOOK_SECONDS = 0.05
_LOG_BYTES = 1_000_000
_MOST_SERVICE_BYTES = 1_000_000
# What a service needs of the settings but must not be found in a file that others may read.
_SECRETS = {"PLUGINCTL_AGENT_WEBHOOK", "PLUGINCTL_AGENT_COMMAND"}
_PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}  # in any case


@click.group("agent", cls=Group)
def agent() -> None:
    """Go on with downloads, and look after what is installed, while no application runs."""


@agent.command()
@click.option("--log", type=click.Path(path_type=Path), metavar="FILE", help="Not to the terminal.")
@json_option
def run(log: Path | None, as_json: bool) -> None:
    """Be the agent of the store, in the foreground, until SIGTERM, SIGINT or SIGHUP.

    What was under way is then queued again.
    """
    stop = threading.Event()
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: stop.set())
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        _begin_log(log)
        agents.Agent(manager, own_process=True).run(stop)
    session.result(lambda: agent_json(agents.status(manager.settings.store)))


class _Plain(logging.Formatter):
    """Lines that hold nothing a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


def _begin_log(path: Path | None) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if path:
        from logging.handlers import RotatingFileHandler  # noqa: PLC0415

        handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, delay=True)
    handler.setFormatter(_Plain("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("plugin_manager")
    log.addHandler(handler)
    log.setLevel(logging.INFO)


@agent.command()
@json_option
def start(as_json: bool) -> None:
    """Start the agent of the store, detached from this terminal, unless it runs already."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        before = agents.status(manager.settings.store)
        status = _start(manager.settings)
    session.result(agent_json(status))
    verb = "runs already" if before.running else "runs now"
    session.tell(f"the agent {verb}: {_who(status)}")


def _command(settings: Settings) -> list[str]:
    """The command line of an agent with these settings, whatever directory it begins in."""
    # Safely: a file there that is called as a module is would be imported in its place.
    command = [sys.executable, "-P", "-m", "plugin_manager.cli", "--store", str(settings.store)]
    file = file_of(click.get_current_context())
    if file.required:  # a file that was named; the user's own is found again
        command += ["--config", str(file.path)]
    if settings.repository:
        command += ["--repository", settings.repository]
    if isinstance(settings.root, Path):
        command += ["--root", str(settings.root.absolute())]
    if settings.host_version:
        command += ["--host-version", str(settings.host_version)]
    for option, value in (
        ("--max-store", settings.limits.max_store_bytes),
        ("--max-rate", settings.max_bytes_per_second),
        ("--system-store", settings.system_store),
    ):
        if value is not None:
            command += [option, str(value)]
    return [*command, "agent", "run"]


def _start(settings: Settings) -> agents.AgentStatus:
    """Start an agent unless one runs; how it is doing then."""
    import subprocess  # noqa: PLC0415 - asking how it is doing does without

    status = agents.status(settings.store)
    if status.running and status.pid is None:
        raise LockedError(
            f"the agent's lock of {settings.store} is held by {_who(status)}",
            remedy="It may be an agent in another container; 'lsof' as root tells who has it.",
        )
    if status.running:
        return status
    directory = settings.store / "agent"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        first = directory / "start.log"  # what it says before it has a log
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(first, flags, 0o644), "wb") as file:
            process = subprocess.Popen(  # noqa: S603 - this very program
                [*_command(settings), "--log", str(directory / "log")],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
    except OSError as error:
        raise StoreAccessError(
            f"{directory}: {error.strerror}", remedy="Check the permissions and the disk."
        ) from error
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        status = agents.status(settings.store)
        if status.running and status.pid:
            return status
        if process.poll() is not None:
            break
        time.sleep(_LOOK_SECONDS)
    try:
        said = read_regular(first, _LOG_BYTES).decode(errors="replace").strip()
    except (OSError, CorruptError):
        said = ""
    raise PluginManagerError(
        f"the agent did not start{f': {said[-500:]}' if said else ''}",
        remedy="'pluginctl agent run' shows what it says.",
    )


@agent.command()
@click.option("--timeout", type=float, default=60.0, metavar="SECONDS", help="To wait; default 60.")
@json_option
def stop(timeout: float, as_json: bool) -> None:
    """End the agent of the store; what it was doing is queued again."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        store = manager.settings.store
        status = agents.status(store)
        if status.running:
            _stop(store, status, timeout)
    session.result(agent_json(agents.status(store)))
    session.tell("the agent has ended" if status.running else "no agent runs")


def _stop(store: Path, status: agents.AgentStatus, timeout: float) -> None:
    if status.embedded:
        raise RefusedError(
            f"the agent is a part of another program ({_who(status)})",
            remedy="End that program, or have it end its agent.",
        )
    try:
        agents.terminate(store)
    except PermissionError:
        raise RefusedError(
            f"the agent ({_who(status)}) is another user's", remedy="Ask that user to stop it."
        ) from None
    until = time.monotonic() + timeout
    while agents.status(store).pid == status.pid:
        if time.monotonic() >= until:
            raise LockedError(
                f"the agent ({_who(status)}) has not ended after {timeout:g} s",
                remedy="It ends what it is placing first; wait for longer.",
            )
        time.sleep(_LOOK_SECONDS)


@agent.command("status")
@json_option
def status_(as_json: bool) -> None:
    """Show whether the agent runs, what it is doing, and what it last did."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        status = agents.status(manager.settings.store)
    session.result(agent_json(status))
    if status.running:
        since = f" since {utc_text(status.since)}" if status.since else ""
        session.say(f"agent        runs{since}: {_who(status)}")
        session.say(f"doing        {status.doing or 'nothing just now'}")
    else:
        session.say("agent        does not run; 'pluginctl agent start' starts it")
    for word, moment in (("last update", status.last_update), ("last scrub", status.last_scrub)):
        session.say(f"{word:12} {utc_text(moment) if moment else 'never'}")
    for finding in status.scrub_findings:
        session.say(f"found        {finding}")


def _who(status: agents.AgentStatus) -> str:
    if status.pid is None:
        return "a process that cannot be seen from here"
    return f"process {status.pid}{', which does more than that' if status.embedded else ''}"


# --- services ----------------------------------------------------------------------------------

kind_option = click.option("--kind", type=click.Choice(agents.SERVICE_KINDS), help="For which.")


def _is_secret(name: str, value: str) -> bool:
    return name in _SECRETS or (name.upper() in _PROXIES and "@" in value)


def _service(settings: Settings, kind: Any) -> tuple[agents.Service, list[str]]:
    """The service, and the names of variables that are left out of it, being secret."""
    wanted = {
        name: value
        for name, value in os.environ.items()
        if value and (name.startswith("PLUGINCTL_") or name.upper() in _PROXIES)
    }
    left_out = sorted(name for name, value in wanted.items() if _is_secret(name, value))
    environment = {name: value for name, value in wanted.items() if name not in left_out}
    if home := os.environ.get("XDG_CONFIG_HOME", "").strip():  # there is the user's own file
        environment["XDG_CONFIG_HOME"] = str(Path(home).absolute())
    # These are in the command line, as they were found.
    for name in ("CONFIG", "STORE", "REPOSITORY", "ROOT", "HOST_VERSION", "SYSTEM_STORE"):
        environment.pop(f"PLUGINCTL_{name}", None)
    # A service begins in another directory.
    for option in configuration.OPTIONS:
        if option.is_path and option.variable in environment:
            path = Path(environment[option.variable]).expanduser()
            environment[option.variable] = str(path.absolute())
    command = _command(settings)
    service = agents.service(kind, settings.store, command, environment, home=Path.home())
    return service, left_out


@agent.command("install-service")
@kind_option
@click.option("--print", "only_print", is_flag=True, help="Print it; write nothing.")
@json_option
def install_service(kind: Any, only_print: bool, as_json: bool) -> None:
    """Write what has the system start the agent as you log in; say what turns that on.

    A systemd user unit, a launchd agent or a Windows task.
    """
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        service, left_out = _service(manager.settings, kind)
    text = service.data.decode("utf-16" if service.data[:1] in {b"\xff", b"\xfe"} else "utf-8")
    if not only_print:
        _refuse_foreign(service)
        try:
            write_atomically(service.path, service.data)
        except OSError as error:
            raise StoreAccessError(
                f"{service.path}: {error.strerror}", remedy="Check the permissions and the disk."
            ) from error
    session.result(
        {
            "path": str(service.path),
            "written": not only_print,
            "text": text,
            "enable": list(service.enable),
        }
    )
    if only_print:
        if not as_json:
            click.echo(service.data, nl=False)  # as it would be written, byte by byte
        return
    session.tell(f"wrote {service.path}; to turn it on:", *(f"  {one}" for one in service.enable))
    if left_out:
        session.tell(f"left out, as others may read the file: {', '.join(left_out)}")


@agent.command("uninstall-service")
@kind_option
@json_option
def uninstall_service(kind: Any, as_json: bool) -> None:
    """Remove what 'install-service' wrote. Says what turns it off."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        service, _ = _service(manager.settings, kind)
    there = os.path.lexists(service.path)
    if there:
        _refuse_foreign(service)
        try:
            service.path.unlink()
        except OSError as error:
            raise StoreAccessError(
                f"{service.path}: {error.strerror}", remedy="Check the permissions."
            ) from error
    session.result({"path": str(service.path), "removed": there, "disable": list(service.disable)})
    if there:
        session.tell(
            f"removed {service.path}; to turn it off:", *(f"  {one}" for one in service.disable)
        )
    else:
        session.tell(f"there is no {service.path}")


def _refuse_foreign(service: agents.Service) -> None:
    """Raise RefusedError where somebody else's file lies in the place of ours."""
    if not os.path.lexists(service.path):
        return
    try:
        data = read_regular(service.path, _MOST_SERVICE_BYTES)
    except (OSError, CorruptError):
        data = b""
    if service.mark not in data:
        raise RefusedError(
            f"{service.path} is not of this program's making", remedy="Move it away first."
        )


# --- jobs for it -------------------------------------------------------------------------------


def submit(
    action: Literal["install", "upgrade"],
    requests: tuple[str, ...],
    *,
    start_agent: bool,
    as_json: bool,
) -> None:
    """Put on record what an agent is to do, and tell whether there is one."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        _refuse_unknown(manager, action, requests)
        job = manager.jobs.submit(*requests, action=action)
        status = agents.status(manager.settings.store)
        if not status.running and (start_agent or manager.settings.agent.start):
            status = _start(manager.settings)
    session.result({"job": job_json(job), "agent": agent_json(status)})
    session.tell(f"job {job.id[:8]}: {job}, {job.state.value}")
    if status.running and status.pid is None:
        session.tell(f"the agent's lock is held by {_who(status)}: an agent, or else it waits")
    elif status.running:
        session.tell(f"the agent works at it; 'pluginctl watch {job.id[:8]}' shows how far it is")
    else:
        session.tell(
            "no agent runs, so it waits: 'pluginctl agent start' starts one, and --start-agent "
            "does so along with this"
        )


def _refuse_unknown(manager: PluginManager, action: str, requests: tuple[str, ...]) -> None:
    """Raise what would fail at once, rather than leave it to a job: there is nothing to work with.

    InvalidInputError where a setting lacks or a name is none, NotFoundError for an upgrade of what
    is not installed.
    """
    manager.settings.base_url()
    manager.settings.pinned_root()
    if action == "upgrade":
        named = set(map(PluginName.parse, requests))
        if unknown := named - {one.release.plugin for one in manager.installed()}:
            plugin = min(map(str, unknown))
            raise NotFoundError(
                f"{plugin} is not installed",
                remedy=f"'pluginctl list' shows what is; 'pluginctl install {plugin}' installs it.",
            )


COMMANDS = [agent]
