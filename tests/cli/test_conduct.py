"""What every command does alike: --json, --quiet, help with examples, suggestions."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from plugin_manager.cli._commands import cli
from plugin_manager.cli._examples import EXAMPLES
from tests.cli.test_client import Command
from tests.world import World


def commands(group: click.Group, name: str = "") -> dict[str, click.Command]:
    """All commands below `group` that do something, by their names on the line."""
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for below in group.list_commands(context):
        command = group.get_command(context, below)
        assert command is not None
        full = f"{name} {below}".strip()
        if isinstance(command, click.Group):
            found |= commands(command, full)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            found[full] = command
    return found


ALL = commands(cli)
PLAIN: set[str] = set()  # those that only people can read


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.publish("acme/maps 1.0", {"maps.py": "x"})
    return world


@pytest.fixture
def pluginctl(world: World) -> Command:
    return Command(world)


@pytest.mark.parametrize("name", [name for name in ALL if name not in PLAIN])
def test_every_command_speaks_json_and_can_be_quiet(name: str) -> None:
    options = {option for one in ALL[name].params for option in one.opts}
    assert {"--json", "--quiet"} <= options


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_are_lines_that_can_be_given(name: str) -> None:
    if name not in ALL:
        pytest.skip("not a command of this installation")
    assert EXAMPLES[name]
    for example in EXAMPLES[name]:
        words = shlex.split(example)
        if name == "completion":
            words = words[:2]  # what follows is the shell's
        context = cli.make_context("pluginctl", words, resilient_parsing=False)
        rest = [*context._protected_args, *context.args]
        command: click.Command = cli
        while isinstance(command, click.Group) and rest:
            found = command.get_command(context, rest[0])
            assert found is not None, rest
            command, rest = found, rest[1:]
        assert command.name == name.rsplit(maxsplit=1)[-1] or name == "config"
        context = command.make_context(name, rest, parent=context)
        context.close()


def test_every_command_of_the_operator_has_examples() -> None:
    lacking = {name for name in ALL if name not in EXAMPLES and not name.startswith("repo")}
    assert not lacking


def test_help_is_by_who_uses_it_and_ends_with_examples(pluginctl: Command) -> None:
    said = pluginctl("--help").stdout
    for title in ("To have plugins:", "To find out what is wrong:", "To publish:"):
        assert title in said
    assert "..." not in said.partition("COMMAND [ARGS]...")[2], "a sentence was cut in the middle"
    assert "pluginctl rollback acme/maps --to 1.2" in pluginctl("rollback", "--help").stdout


@pytest.mark.parametrize(
    ("wrong", "meant"), [("instal", "install"), ("serach", "search"), ("doktor", "doctor")]
)
def test_a_misspelt_command_is_told_what_was_meant(
    pluginctl: Command, wrong: str, meant: str
) -> None:
    assert f"Did you mean {meant}" in pluginctl(wrong, code=2).stderr
    assert meant in pluginctl.json(wrong, code=2)["error"]["message"]


def test_a_misspelt_option_is_told_what_was_meant(pluginctl: Command) -> None:
    assert "--dry-run" in pluginctl("install", "acme/maps", "--dry-ru", code=2).stderr


def test_options_for_output_may_stand_anywhere(pluginctl: Command) -> None:
    for arguments in (("--json", "list"), ("list", "--json")):
        assert json.loads(pluginctl(*arguments).stdout) == []
    assert "No plugin is installed" in pluginctl("--quiet", "list").stdout


def test_quiet_says_what_was_asked_and_nothing_that_was_done(
    world: World, pluginctl: Command
) -> None:
    with world.online():
        asked = pluginctl("install", "acme/maps", "--dry-run", "--quiet")
        assert "would install" in asked.stdout
        done = pluginctl("install", "acme/maps", "-q")
        assert (done.stdout, done.stderr) == ("", "")
        assert pluginctl("-q", "update").stdout == ""
        assert json.loads(pluginctl("-q", "upgrade", "--json").stdout)["steps"] == []
    assert "acme/maps 1.0" in pluginctl("-q", "list").stdout
    failed = pluginctl("-q", "show", "acme/none", code=4)
    assert "pluginctl:" in failed.stderr


def test_colours_never_reach_files(world: World, pluginctl: Command) -> None:
    with world.online():
        pluginctl("install", "acme/maps")
    assert "\x1b" not in pluginctl("storage").stdout
    pluginctl.environment["FORCE_COLOR"] = "1"
    assert "\x1b[1m" in pluginctl("storage").stdout
    assert "\x1b" not in pluginctl("storage", "--json").stdout
    pluginctl.environment["NO_COLOR"] = "1"
    assert "\x1b" not in pluginctl("storage").stdout


@pytest.mark.parametrize(
    "command", ["pin", "unpin", "hold", "unhold", "uninstall", "rollback", "delete", "install"]
)
def test_an_argument_that_is_not_text_is_refused_in_words(pluginctl: Command, command: str) -> None:
    arguments = [os.fsencode(one) for one in pluginctl.arguments(command)]
    done = subprocess.run(
        [*arguments, b"\xff\xfe"], env=pluginctl.environment, capture_output=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert b"Traceback" not in done.stderr


def test_a_reader_that_has_gone_ends_it_as_the_signal_would(
    world: World, pluginctl: Command
) -> None:
    with world.online():
        pluginctl("install", "acme/maps")
    for options in ([], ["--json"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            pluginctl.arguments("list", *options),
            env=pluginctl.environment, stdout=writer, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("closed", [{1}, {2}, {0, 1, 2}])
@pytest.mark.parametrize("command", ["list", "list --json", "uninstall acme/maps", "--version"])
def test_streams_that_were_closed_end_nothing(
    world: World, pluginctl: Command, command: str, closed: set[int]
) -> None:
    redirections = " ".join(f"{number}>&-" for number in sorted(closed))
    with world.online() as url:
        environment = {**pluginctl.environment, "PLUGINCTL_REPOSITORY": url}
        for words in ("install acme/maps", command):
            line = shlex.join(pluginctl.arguments(*words.split()))
            done = subprocess.run(
                ["/bin/sh", "-c", f"{line} {redirections}"],
                env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stderr
    if closed == {2}:
        assert done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_output_that_cannot_be_written_is_an_error_in_words(
    world: World, pluginctl: Command
) -> None:
    with world.online():
        pluginctl("install", "acme/maps")
    for options in ([], ["--json"]):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                pluginctl.arguments("list", *options),
                env=pluginctl.environment, stdout=full, stderr=subprocess.PIPE, check=False,
            )  # fmt: skip
        assert done.returncode == 1
        assert b"could not be written" in done.stderr
        assert b"Traceback" not in done.stderr


def test_what_a_terminal_has_no_letters_for_ends_nothing(world: World, pluginctl: Command) -> None:
    text = 'description = "f\u00fcr \u5730\u56fe"\n'
    world.publish("acme/karten 1.0", {"karten.py": "x"}, more=text)
    with world.online():
        pluginctl("install", "acme/karten")
    assert "f\u00fcr \u5730\u56fe" in pluginctl("info", "acme/karten").stdout
    environment = {**pluginctl.environment, "PYTHONIOENCODING": "iso-8859-1"}
    done = subprocess.run(
        pluginctl.arguments("info", "acme/karten"), env=environment, capture_output=True, check=True
    )
    assert b"f\xfcr ??" in done.stdout


def test_interrupted_while_it_begins_it_says_nothing(pluginctl: Command) -> None:
    code = (
        "import sys, plugin_manager.cli as cli\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "cli.main()"
    )
    python = pluginctl.arguments()[0]
    done = subprocess.run(
        [python, "-c", code], env=pluginctl.environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, b"")
