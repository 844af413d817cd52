"""The command that finds out what is wrong: each finding with what to do about it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import click

from plugin_manager import configuration
from plugin_manager._attrs import frozen
from plugin_manager.cli._opening import open_manager
from plugin_manager.cli._options import json_option
from plugin_manager.cli._output import Session
from plugin_manager.cli._source import file_of, flags_of
from plugin_manager.errors import NotFoundError, PluginManagerError
from plugin_manager.manager import PluginManager
from plugin_manager.model import size_text, utc_text
from plugin_manager.store import Store

__all__ = ["COMMANDS", "FOUND_PROBLEMS", "Finding"]

FOUND_PROBLEMS = 20  # documented in docs/operating.md

_CLOCK_SECONDS = 300.0
_SOON = timedelta(hours=12)
_FEW_INODES = 1_000
_REACH_SECONDS = 10.0
_STALE = timedelta(days=7)

State = Literal["good", "note", "warning", "problem"]


@frozen
class Finding:
    """What was found about `topic`; a problem keeps something from working, a warning will."""

    topic: str
    state: State
    text: str
    remedy: str = ""


@click.command()
@click.option("--offline", is_flag=True, help="Ask no server.")
@json_option
def doctor(offline: bool, as_json: bool) -> None:
    """Look for what keeps plugins from being fetched or loaded, and say what to do about it.

    Settings, clock, disk, permissions, signed metadata, locks, installed releases, the agent, and
    the repository. Changes nothing. Reads no file of a plugin: 'pluginctl verify' does. Exits
    with 20 where there is a problem.
    """
    session = Session(as_json=as_json)
    found = list(_examine(session, offline=offline))
    bad = any(one.state == "problem" for one in found)
    session.result(
        {
            "good": not bad,
            "findings": [
                {"topic": f.topic, "state": f.state, "text": f.text, "remedy": f.remedy}
                for f in found
            ],
        }
    )
    for one in found:
        if one.state == "good" and session.quiet:
            continue
        session.say(f"{_MARKS[one.state]:8} {one.topic:12} {one.text}", style=_STYLES[one.state])
        if one.remedy:
            session.say(f"{'':21} {one.remedy}")
    problems = sum(one.state == "problem" for one in found)
    warnings = sum(one.state == "warning" for one in found)
    if not session.quiet:
        session.say()
        session.say(
            f"{problems} problems, {warnings} warnings" if problems or warnings else "All is well."
        )
    if bad:
        click.get_current_context().exit(FOUND_PROBLEMS)


_MARKS: Mapping[State, str] = {
    "good": "good", "note": "note", "warning": "WARNING", "problem": "PROBLEM",
}  # fmt: skip
_STYLES: Mapping[State, str] = {"good": "", "note": "", "warning": "yellow", "problem": "red"}


def _examine(session: Session, *, offline: bool) -> Iterator[Finding]:
    settings = list(_settings())
    yield from settings
    if any(one.state == "problem" for one in settings):
        return  # nothing else can be said of a store that cannot be named
    with open_manager(session) as manager:
        checks: list[tuple[str, Callable[[PluginManager], Iterator[Finding]]]] = [
            ("store", _store),
            ("disk", _disk),
            ("inodes", _inodes),
            ("lock", _lock),
            ("clock", _clock),
            ("root", _root),
            ("metadata", _metadata),
            ("plugins", _plugins),
            ("python", _python),
            ("agent", _agent),
        ]
        if not offline:
            checks += [("proxies", _proxies), ("repository", _repository)]
        rootless = False
        for topic, check in checks:
            if not rootless or topic not in {"metadata", "plugins"}:
                for one in _checked(topic, check, manager):
                    yield one
                    rootless = rootless or (one.topic, one.state) == ("root", "problem")


def _checked(
    topic: str, check: Callable[[PluginManager], Iterator[Finding]], manager: PluginManager
) -> Iterator[Finding]:
    try:
        yield from check(manager)
    except PluginManagerError as error:
        yield Finding(topic, "problem", error.message, error.remedy)
    except OSError as error:
        yield Finding(topic, "problem", str(error), "Check the disk and its permissions.")


def _settings() -> Iterator[Finding]:
    context = click.get_current_context()
    try:
        origins = configuration.explain(flags_of(context), os.environ, file_of(context))
    except PluginManagerError as error:
        yield Finding("settings", "problem", error.message, error.remedy)
        return
    wrong = [one for one in origins if one.error]
    for one in wrong:
        assert one.error
        yield Finding("settings", "problem", one.error.message, one.error.remedy)
    if not wrong:
        given = [one.option.name for one in origins if one.source != "default"]
        yield Finding("settings", "good", f"given: {', '.join(given) or 'none'}")


# --- here ----------------------------------------------------------------------------------------


def _store(manager: PluginManager) -> Iterator[Finding]:
    store = manager.settings.store
    if not os.path.lexists(store):
        yield Finding("store", "note", f"{store} is not there; the first install makes it")
        above = next(path for path in store.parents if os.path.lexists(path))
        yield from _may_write(above)
        return
    yield from _may_write(store)
    if os.name == "posix":
        mode = store.stat().st_mode
        if mode & 0o002:
            yield Finding(
                "store", "problem", f"{store}: everybody may write to it",
                f"Run 'chmod o-w {store}'.",
            )  # fmt: skip


def _may_write(directory: Path) -> Iterator[Finding]:
    if not directory.is_dir():
        yield Finding(
            "store", "problem", f"{directory} is not a directory", "Choose another --store."
        )
        return
    try:
        # Asking for permission does not tell of read-only file systems and the like; trying does.
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".tmp-doctor-"):
            pass
    except OSError as error:
        yield Finding(
            "store", "problem", f"{directory} cannot be written to: {error.strerror}",
            "Give this user the right to, or choose another --store.",
        )  # fmt: skip
    else:
        yield Finding("store", "good", f"{directory} can be written to")


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _disk(manager: PluginManager) -> Iterator[Finding]:
    limits = manager.settings.limits
    usage = shutil.disk_usage(_existing(manager.settings.store))
    floor = limits.floor_bytes(usage.total)
    free = f"{size_text(usage.free)} are free, {size_text(floor)} must stay free"
    remedy = "Free space on the disk, or 'pluginctl evict SIZE' what was not loaded for long."
    if usage.free <= floor:
        yield Finding("disk", "problem", free, remedy)
    elif usage.free < 2 * floor:
        yield Finding("disk", "warning", f"{free}: little is left to install", remedy)
    else:
        yield Finding("disk", "good", free)


def _inodes(manager: PluginManager) -> Iterator[Finding]:
    if not hasattr(os, "statvfs"):
        return
    found = os.statvfs(_existing(manager.settings.store))
    if not found.f_files:  # a file system that makes them as needed
        return
    text = f"{found.f_favail} files more can be made"
    if found.f_favail < _FEW_INODES:
        yield Finding("inodes", "problem", text, "Remove files from this disk: its inodes run out.")
    else:
        yield Finding("inodes", "good", text)


def _lock(manager: PluginManager) -> Iterator[Finding]:
    store = manager.settings.store
    if not (store / "lock").exists():
        return
    holder = store / "lock-holder"
    if not _is_held(store / "lock"):
        if holder.exists():
            text = "a process died while it wrote; its lock is free, and nothing is left half done"
            yield Finding("lock", "note", text)
        else:
            yield Finding("lock", "good", "nobody is writing")
    else:
        age = ""
        try:
            age = f", for {time.time() - holder.stat().st_mtime:.0f} s"
            who = holder.read_text(errors="replace")[:200].strip()
        except OSError:
            who = ""
        yield Finding(
            "lock", "warning", f"another process is writing{age}: {who or 'it does not say who'}",
            "Wait for it; where it hangs, end it: the kernel frees its lock.",
        )  # fmt: skip


def _is_held(lock: Path) -> bool:
    """Whether another process has the writer's lock; raises OSError where that cannot be told."""
    if sys.platform == "win32":
        from filelock import FileLock, Timeout  # noqa: PLC0415 - as long as half of this command

        try:
            with FileLock(lock, timeout=0, mode=0o600):
                return False
        except Timeout:
            return True
    import fcntl  # noqa: PLC0415 - not everywhere

    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _clock(manager: PluginManager) -> Iterator[Finding]:
    current, now = manager.settings.store / "trust" / "current", time.time()
    try:
        ahead = current.stat().st_mtime - now
    except OSError:
        return
    if ahead > _CLOCK_SECONDS:
        yield Finding(
            "clock", "problem",
            f"the clock is {ahead / 60:.0f} minutes before the last update of the metadata",
            "Set the clock: nothing that is signed can be judged by a wrong one.",
        )  # fmt: skip
    else:
        yield Finding("clock", "good", f"{utc_text(datetime.now(UTC))}")


def _root(manager: PluginManager) -> Iterator[Finding]:
    from plugin_manager.trust import Trust  # noqa: PLC0415 - imports tuf later

    settings = manager.settings
    Trust(
        settings.store / "trust", settings.pinned_root(), metadata_url="",
        fetch=lambda _url, _most: b"", root_name=settings.root_name,
    ).check_root()  # fmt: skip
    yield Finding("root", "good", f"{settings.root_name} is sound")


def _metadata(manager: PluginManager) -> Iterator[Finding]:
    try:
        expiries = manager.expiries()
    except NotFoundError:
        yield Finding("metadata", "warning", "none was ever fetched", "Run 'pluginctl update'.")
        return
    for error in manager.index_faults():
        yield Finding("metadata", "warning", error.message, "Run 'pluginctl update'.")
    now = datetime.now(UTC)
    role, first = min(expiries.items(), key=lambda one: one[1])
    current = manager.settings.store / "trust" / "current"
    age = now - datetime.fromtimestamp(current.stat().st_mtime, UTC)
    brought = f"brought {_span(max(age, timedelta()))} ago"
    update = "Run 'pluginctl update'."
    if first <= now:
        # Beyond the grace, asking for the expiries was refused.
        left = first + manager.settings.grace - now
        yield Finding(
            "metadata", "warning",
            f"{role} expired {_span(now - first)} ago and is accepted for {_span(left)} more",
            f"{update} Where that does not help, the repository's owner has to sign anew.",
        )  # fmt: skip
    elif first - now < _SOON and age > _SOON:
        text = f"{role} expires in {_span(first - now)}, {brought}"
        yield Finding("metadata", "warning", text, update)
    elif age > _STALE:
        text = f"{brought}: news of blocked releases may be missing"
        yield Finding("metadata", "warning", text, update)
    else:
        yield Finding("metadata", "good", f"{brought}, good until {utc_text(first)} ({role})")


def _span(much: timedelta) -> str:
    minutes = int(much.total_seconds() // 60)
    if minutes >= 2 * 24 * 60:
        return f"{minutes // (24 * 60)} days"
    return f"{minutes // 60} hours" if minutes >= 120 else f"{minutes} minutes"


def _plugins(manager: PluginManager) -> Iterator[Finding]:
    store, host = Store(manager.settings.store), manager.host
    faulty = 0
    installed = manager.installed()
    for path in store.damaged_generations():
        faulty += 1
        yield Finding("plugins", "problem", f"{path} is damaged", "Run 'pluginctl repair'.")
    evicted = manager.evicted()
    for active in installed:
        plugin = active.release.plugin
        try:
            manifest = manager.manifest(plugin)
        except PluginManagerError as error:
            faulty += 1
            yield Finding("plugins", "problem", f"{active.release}: {error.message}", error.remedy)
            continue
        if active in evicted:
            yield Finding(
                "plugins", "note", f"{active.release} was evicted; its next load fetches it"
            )
        elif faults := store.visible_faults(active, manifest, host.bytecode_tag):
            faulty += 1
            shown = ", ".join(str(fault) for fault in faults[:3])
            yield Finding(
                "plugins", "problem", f"{active.release}: {shown}",
                f"Run 'pluginctl repair {plugin}'.",
            )  # fmt: skip
        from plugin_manager import resolver  # noqa: PLC0415 - as little as is needed

        for reason in resolver.compatibility(manifest.needs, manifest.release.platform, host):
            faulty += 1
            yield Finding(
                "plugins", "problem", f"{active.release} {reason}",
                f"Run 'pluginctl upgrade {plugin}', or uninstall it.",
            )  # fmt: skip
    if not faulty:
        checked = "all files there, in their sizes; 'pluginctl verify' reads them"
        yield Finding("plugins", "good", f"{len(installed)} installed, {checked}")


def _python(manager: PluginManager) -> Iterator[Finding]:
    host = manager.host
    version = host.version or "unknown (releases that ask for one do not fit)"
    from packaging.tags import sys_tags  # noqa: PLC0415 - one; all that the host has are a thousand

    text = f"Python {host.python}, wheels for {next(sys_tags())}, host's version {version}"
    yield Finding("python", "good", text)


def _agent(manager: PluginManager) -> Iterator[Finding]:
    from plugin_manager.agent import status as status_of  # noqa: PLC0415

    status = status_of(manager.settings.store)
    if status.running:
        yield Finding("agent", "good", f"process {status.pid} {status.doing}".rstrip())
    else:
        yield Finding("agent", "note", "none runs: nothing is updated or checked by itself")
    if findings := [one for one in status.scrub_findings if not one.endswith("; mended")]:
        text = f"its last scrub found: {', '.join(findings)}"
        yield Finding("agent", "problem", text, "Run 'pluginctl repair'.")


# --- there ---------------------------------------------------------------------------------------


def _proxies(manager: PluginManager) -> Iterator[Finding]:
    bundle = manager.settings.ca_bundle
    if bundle and not bundle.is_file():
        yield Finding(
            "certificates", "problem", f"{bundle} is not a file", "Correct PLUGINCTL_CA_BUNDLE."
        )
    if not manager.settings.repository:
        return
    from requests.utils import get_environ_proxies  # noqa: PLC0415 - requests takes long

    found = get_environ_proxies(manager.settings.repository)
    scheme = urlsplit(manager.settings.repository).scheme
    if proxy := found.get(scheme) or found.get("all"):
        parts = urlsplit(proxy if "://" in proxy else f"//{proxy}")
        where = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        yield Finding("proxies", "note", f"{scheme} goes through {where}")


def _repository(manager: PluginManager) -> Iterator[Finding]:
    settings = manager.settings
    if not settings.repository:
        yield Finding(
            "repository", "warning", "none is given, so nothing can be fetched",
            "Run 'pluginctl config set repository URL'.",
        )  # fmt: skip
        return
    from plugin_manager.transfer import Policy, Transfer  # noqa: PLC0415 - imports requests

    policy = Policy(
        ca_bundle=settings.ca_bundle,
        insecure_http=settings.insecure_http,
        tokens=settings.tokens,
        attempts=1,
    )
    for number, base in enumerate(settings.base_urls()):
        topic = "mirror" if number else "repository"
        begun = time.monotonic()
        try:
            Transfer(policy).fetch([f"{base}metadata/timestamp.json"], 16_384)
        except PluginManagerError as error:
            state: State = "warning" if number else "problem"
            remedy = error.remedy or "Check the address, the network, proxies and certificates."
            yield Finding(topic, state, error.message, remedy)
        else:
            took = (time.monotonic() - begun) * 1000
            yield Finding(topic, "good", f"{base} answers in {took:.0f} ms")
            yield from _servers_clock(manager, base)


def _servers_clock(manager: PluginManager, base: str) -> Iterator[Finding]:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - only here

    import requests  # noqa: PLC0415

    settings = manager.settings
    try:
        answer = requests.head(
            f"{base}metadata/timestamp.json", timeout=_REACH_SECONDS,
            verify=str(settings.ca_bundle) if settings.ca_bundle else True,
        )  # fmt: skip
        server = parsedate_to_datetime(answer.headers["Date"])
    except (requests.RequestException, KeyError, ValueError, TypeError, OSError):
        return  # it does not tell the time
    off = (datetime.now(UTC) - server).total_seconds()
    if abs(off) > _CLOCK_SECONDS:
        way = "ahead of" if off > 0 else "behind"
        much = _span(timedelta(seconds=abs(off)))
        yield Finding(
            "clock", "warning", f"the clock is {much} {way} the server's",
            "Set this machine's clock, where the server's is right.",
        )  # fmt: skip


COMMANDS = [doctor]
