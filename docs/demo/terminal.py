"""The terminal session in docs/terminal-session.md, printed anew by real commands.

Run it with `make terminal-session`. Everything happens in a temporary directory and on loopback.
"""

from __future__ import annotations

import os
import pty
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from plugin_manager.model import PluginName, WithdrawalKind, parse_version
from plugin_manager.publishing import Repository, serve

PROJECT = Path(__file__).resolve().parents[2]
OUTPUT = PROJECT / "docs" / "terminal-session.md"
COLUMNS = 96

TOML = """\
[plugin]
name = "{name}"
version = "{version}"
summary = "{summary}"
license = "Apache-2.0"
{more}
"""

ABOUT = {
    "acme/maps": "Maps of the world, offline.",
    "acme/tiles": "Map tiles at every scale.",
    "acme/voices": "Spoken directions.",
    "globex/model": "A model that reads handwriting.",
    "globex/speech": "A model that reads aloud.",
}


class Session:
    """A store, a repository, and what was printed so far."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.repository = Repository.create(work / "repository", passphrase="demo")
        for publisher in ("acme", "globex"):
            self.repository.add_publisher(publisher)
        self.root = work / "root.json"
        self.root.write_bytes(self.repository.root_bytes())
        self.draw = random.Random(1)
        self.text: list[str] = []
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PLUGINCTL_")},
            "PYTHONPATH": str(PROJECT),
            "PLUGINCTL_STORE": str(work / "store"),
            "PLUGINCTL_HOST_VERSION": "3.9",
            "XDG_CONFIG_HOME": str(work / "home"),
            "TERM": "xterm",
            "COLUMNS": str(COLUMNS),
            "LINES": "30",
            "NO_COLOR": "1",
        }

    def publish(self, name: str, version: str, size: int = 200_000, more: str = "") -> None:
        """A release with a module and some bytes that do not compress."""
        source = self.work / "source"
        (source / "files").mkdir(parents=True)
        toml = TOML.format(name=name, version=version, summary=ABOUT[name], more=more)
        (source / "plugin.toml").write_text(toml)
        module = name.partition("/")[2]
        (source / "files" / f"{module}.py").write_text(f"VERSION = {version!r}\n")
        (source / "files" / f"{module}.bin").write_bytes(self.draw.randbytes(size))
        self.repository.publish(source)
        shutil.rmtree(source)

    # --- printing ------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A paragraph between commands."""
        self.text.append(f"\n{text}\n")

    def run(self, *arguments: str, meanwhile: Callable[[], None] | None = None) -> None:
        """Run a command on a terminal, and note what it shows and how it ends."""
        shown = " ".join(f"'{one}'" if re.search(r"[ <>*]", one) else one for one in arguments)
        main, other = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "plugin_manager.cli", *arguments],
            env=self.environment, stdout=other, stderr=other,
        )  # fmt: skip
        os.close(other)
        if meanwhile:
            threading.Thread(target=meanwhile, daemon=True).start()
        said = b""
        while True:
            try:
                part = os.read(main, 65_536)
            except OSError:
                break
            if not part:
                break
            said += part
        os.close(main)
        code = process.wait()
        lines = screen(said.decode())
        ending = [f"[exit code {code}]"] if code else []
        block = "\n".join([f"$ pluginctl {shown}", *lines, *ending])
        self.text.append(f"\n```\n{block}\n```\n")


def screen(said: str) -> list[str]:
    """The lines that stand on the terminal at the end."""
    lines, at, begin = [""], 0, True
    for part in re.findall(r"\x1b\[[\d;]*[A-Za-z]|\r?\n|[^\x1b\r\n]+", said):
        if found := re.fullmatch(r"\x1b\[(\d+)F", part):
            at, begin = at - int(found[1]), True
        elif part == "\x1b[J":
            lines[at:] = [""]
            begin = True
        elif part.endswith("\n"):
            at, begin = at + 1, True
            lines += [""] * (at == len(lines))
        elif not part.startswith("\x1b"):
            lines[at] = part if begin else lines[at] + part
            begin = False
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]


def printed() -> str:
    """What the session prints, as a document without its head."""
    with tempfile.TemporaryDirectory(prefix="app-") as directory:
        session = Session(Path(directory))
        play(session)
    return "".join(session.text)


def alike(document: str) -> list[str]:
    """The lines of a session without what differs from one run, or machine, to the next."""
    lines = [""]
    for line in document.splitlines():
        if re.match(r"(good|note|WARNING|PROBLEM) +(disk|inodes|proxies|python) ", line):
            continue
        if re.search(r"[\u2500-\u259f]|\d%.* of |running|^(doing|last \w+) ", line):
            continue  # how far it was when somebody looked
        plain = re.sub(r"/\S*/app-\w+", "/app", line)
        plain = re.sub(r"\b[0-9a-f]{8}\b|\d[\d.:TZ-]*", "0", plain)
        plain = re.sub(r"\b0 ?([kMGT]?B|s|minutes?|hours?)\b", "0", plain)
        plain = " ".join(plain.split())
        if plain != lines[-1]:
            lines.append(plain)
    return lines[1:]


def main() -> None:
    """Print the session into docs/terminal-session.md."""
    text = printed()
    date = time.strftime("%Y-%m-%d", time.gmtime())
    head = (
        "# A terminal session\n\nWhat `make terminal-session` printed, command by command, on "
        f"{date}; where progress was painted over and\nover, its last painting is shown.\n"
    )
    OUTPUT.write_text(head + text)
    print(f"written: {OUTPUT}")


def play(session: Session) -> None:
    """Publish, serve, and go through the story."""
    session.publish("acme/maps", "2.0", more='description = "Draws itself without a network."')
    session.publish("acme/tiles", "1.0", 3_000_000)
    session.publish("acme/voices", "1.0", 1_500_000)
    session.publish("globex/model", "1.0", 8_000_000)
    session.publish("globex/speech", "1.0", 40_000_000)
    with serve(session.repository.directory) as server:
        tell(session, server.base_url)


def tell(session: Session, address: str) -> None:
    """The story."""
    session.say("Settings that stay go into a file; each command says where it got them from.")
    session.run("config", "set", "repository", address)
    session.run("config", "set", "root", str(session.root))
    session.run("--max-store", "20GB", "config")
    session.say("What is there to have, and what of it fits:")
    session.run("update")
    session.run("search")
    session.run("search", "handwriting")
    session.run("instal", "acme/maps")
    session.say("Several plugins come side by side, with a line for each and one for all.")
    session.run("install", "acme/maps", "acme/tiles", "acme/voices", "globex/model")
    session.run("list")
    session.say(
        "The publishers go on: a newer release, one for a newer host, and one that was a mistake."
    )
    session.publish("acme/tiles", "1.1", 3_000_000)
    session.publish("acme/maps", "3.0", more='[requires]\nhost = ">=4"')
    session.repository.withdraw(
        PluginName.parse("globex/model"), parse_version("1.0"), WithdrawalKind.BLOCKED,
        "leaks what it reads",
    )  # fmt: skip
    session.publish("globex/model", "1.1", 8_000_000)
    session.run("outdated", "--update")
    session.run("info", "acme/maps")
    session.run("info", "globex/model")
    session.run("upgrade", "--dry-run")
    session.run("--quiet", "upgrade")
    session.run("rollback", "acme/tiles")
    session.run("history")
    session.run("storage")
    session.say("What may take long is left to the agent, which goes on when no command runs:")
    session.run("install", "globex/speech", "--background")
    session.run("agent", "start")
    session.run("watch")
    session.run("jobs")
    session.run("agent", "status")
    session.run("agent", "stop")
    session.say("Something was deleted by hand, and the network is gone:")
    next((session.work / "store/releases/acme/voices").glob("*/voices.bin")).unlink()
    session.run("--repository", "http://127.0.0.1:9/", "doctor")
    session.run("repair", "acme/voices")
    session.run("doctor")


if __name__ == "__main__":
    main()
