"""What the documents show as code runs, as it is shown, against a real store."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from plugin_manager import PluginManager
from tests.publishing.helpers import make_wheel
from tests.wheels import wheels
from tests.world import World

PROJECT = Path(__file__).resolve().parents[1]
LOADING = PROJECT / "docs" / "loading.md"
HOSTS = PROJECT / "docs" / "hosts.md"
EXAMPLES = sorted((PROJECT / "docs" / "examples").glob("*.py"))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[tuple[int, str]]:
    """The line where each block of `language` begins, and its code."""
    text = document.read_text()
    return [
        (text.count("\n", 0, match.start(2)) + 1, match[2])
        for match in _BLOCK.finditer(text)
        if match[1] == language
    ]


def run(document: Path, line: int, code: str, names: dict[str, Any]) -> None:
    """Execute a block as if it stood in `document`; on asyncio where it awaits."""
    compiled = compile(
        "\n" * (line - 1) + code, str(document), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    if compiled.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(compiled, names))
    else:
        exec(compiled, names)


# --- docs/loading.md ----------------------------------------------------------------------------

# What the page speaks of: installed, and only published.
INSTALLED = {
    "acme/maps 2.1": (
        {
            "maps/__init__.py": "def show():\n    return 'a view'\n",
            "maps/style.css": "body { margin: 0 }\n",
            "weights.bin": os.urandom(300_000),
            "places.db": os.urandom(10_000),
        },
        '[entry-points."app.views"]\nmap = "maps:show"',
    )
}
PUBLISHED = {
    "acme/model 1.0": {"model.bin": os.urandom(400_000)},
    "acme/projector 1.0": {"projector.bin": os.urandom(200_000)},
}


def publish_words(world: World, directory: Path) -> None:
    """A plugin that vendors a version of `requests` which the host's cannot stand in for."""
    taken = directory / "taken"
    files = {"requests/__init__.py": "__version__ = '2.28.2'\n"}
    make_wheel(taken, "requests", "2.28.2", files=files)
    words = make_wheel(directory, "words", requires=["requests<2.29"])
    world.repository.publish(words, publisher="acme", with_dependencies=taken)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginManager]:
    """A manager of a store as the page has it, its repository online, the root file at hand."""
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path)
    for release, (files, entry_points) in INSTALLED.items():
        world.publish(release, files, entry_points=entry_points)
    for release, payload in PUBLISHED.items():
        world.publish(release, payload)
    publish_words(world, tmp_path / "wheels")
    with world.online():
        manager = world.manager()
        manager.install("acme/words", *(release.split(maxsplit=1)[0] for release in INSTALLED))
        yield manager
        world.close()


def test_the_code_for_host_developers_runs(
    manager: PluginManager, capsys: pytest.CaptureFixture[str]
) -> None:
    found = blocks(LOADING, "python")
    names: dict[str, Any] = {"token": "secret", "start_serving": lambda _: None}
    plugins = []
    for line, code in found:
        names["manager"] = manager  # what opens another one only shows how
        run(LOADING, line, code, names)
        plugins.append(names.get("plugin"))
    assert len(found) >= 4
    assert "completed 100" in capsys.readouterr().out
    assert names["maps"].show() == names["view"]() == "a view"
    assert len(names["header"]) == 64
    assert plugins[0].unloaded
    assert names["words"].import_module("requests").__version__ == "2.28.2"
    assert names["requests"].__version__ != "2.28.2"


def test_control_code_that_fails_is_named_by_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\n```\n\n```python\ny = x\nmanager.flies()\n```\n")
    [first, second] = blocks(page, "python")
    names: dict[str, Any] = {"manager": object()}
    run(page, *first, names)
    with pytest.raises(AttributeError, match="flies") as caught:
        run(page, *second, names)
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno + 1) == (page, 9)


# --- docs/hosts.md ------------------------------------------------------------------------------


class Terminal:
    """A shell in a directory with the examples, where `pluginctl` and `python` are these."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = directory / "programs"
        self.programs.mkdir()
        python = f'exec "{sys.executable}"'
        self._program("python", f'{python} "$@"')
        self._program("pip", f'{python} -m pip --disable-pip-version-check "$@"')
        self._program("pluginctl", f'{python} -m plugin_manager.cli "$@"')
        for example in EXAMPLES:
            (directory / example.name).write_bytes(example.read_bytes())

    def _program(self, name: str, line: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, commands: str) -> str:
        """What `commands` print; what they leave running is ended."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PLUGINCTL_", "PYTHON"))}
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        # Files, not pipes: a server that runs on would hold those open.
        output, log = self.directory / "output.txt", self.directory / "errors.txt"
        with output.open("wb") as printed, log.open("wb") as errors:
            shell = subprocess.Popen(
                ["sh", "-eu", "-c", commands.replace("8765", str(port))], cwd=self.directory,
                env={**kept, "PATH": path, "PYTHONPATH": str(PROJECT)}, stdout=printed,
                stderr=errors, start_new_session=True,
            )  # fmt: skip
            try:
                code = shell.wait(300)
            finally:
                with suppress(ProcessLookupError):  # where nothing runs on
                    os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
        assert code == 0, output.read_text() + log.read_text()
        return output.read_text()


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


def test_the_examples_are_shown_as_they_are() -> None:
    sources = [example.read_text() for example in EXAMPLES]
    shown = [code for _, code in blocks(HOSTS, "python")]
    assert len(shown) == len(sources) == 2
    for code in shown:
        assert any(code in source for source in sources), code


def test_the_commands_for_the_minimal_host_run(terminal: Terminal) -> None:
    first = [code for _, code in blocks(HOSTS, "sh")][:2]
    assert terminal.run("".join(first)).splitlines()[-1] == "Hello, Ada!"


@pytest.mark.network
def test_the_commands_for_datasette_run(terminal: Terminal) -> None:
    wheels("datasette-pretty-json==0.3")  # skips where no package index can be reached
    said = terminal.run("".join(code for _, code in blocks(HOSTS, "sh")))
    plugins = json.loads(said[said.index("[\n") :])
    assert {plugin["name"]: plugin["version"] for plugin in plugins} == {
        "datasette-pretty-json": "0.3",
        "datasette-render-markdown": "2.2.1",
    }


def test_control_a_command_that_fails_is_noticed(terminal: Terminal) -> None:
    with pytest.raises(AssertionError, match=r"no such plugin|not installed|not found"):
        terminal.run("pluginctl --store nowhere path acme/none\necho more\n")
