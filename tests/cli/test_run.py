"""`pluginctl run` as a process, beside `python -m` on the same files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plugin_manager.cli._output import EXIT_CODES
from tests.world import World

PROJECT = Path(__file__).resolve().parents[2]

TELL = """\
import sys
print(__name__, __package__, __spec__.name, sys.modules["__main__"].__dict__ is globals())
print(sys.argv[1:])
"""
FILES = {
    "tool/__init__.py": "loaded = True\n",
    "tool/__main__.py": TELL + "from tool import loaded\nprint(loaded)\n",
    "tool/tell.py": TELL,
    "tool/first.py": "import sys\nprint(sys.argv[0] == __file__)\n",
    "tool/exits.py": "import sys\nsys.exit(int(sys.argv[1]))\n",
    "tool/says.py": "import sys\nsys.exit('it did not work')\n",
    "tool/raises.py": "def fail():\n    raise RuntimeError('on purpose')\nfail()\n",
    "tool/echo.py": "import sys\nsys.stdout.write(sys.stdin.read().upper())\n",
    "tool/late.py": "import atexit\n\n@atexit.register\ndef end():\n    import tool.says2\n",
    "tool/says2.py": "print('imported at the end')\n",
    "tool/waits.py": "import time\nprint('waiting', flush=True)\ntime.sleep(600)\n",
    "alone.py": TELL,
    "space/__main__.py": TELL,
    "space/inner.py": TELL,
}
SCRIPT = '[entry-points.console_scripts]\ntool-tell = "tool.script:main"\n'
SCRIPTS = {
    "tool/__init__.py": "",
    "tool/__main__.py": "print('not me')\n",
    "tool/script.py": "import sys\ndef main():\n    print(sys.argv)\n    return len(sys.argv)\n",
}


class Runs:
    """A world with an installed plugin; runs commands in an empty directory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.elsewhere = world.directory / "elsewhere"
        self.elsewhere.mkdir()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PLUGINCTL_", "PYTHON"))},
            "PLUGINCTL_STORE": str(world.directory / "store"),
            "PLUGINCTL_ROOT": str(world.root),
            "PYTHONPATH": str(PROJECT),
        }

    def install(self, release: str, files: dict[str, str], entry_points: str = "") -> None:
        self.world.publish(release, files, entry_points=entry_points)
        with self.world.online():
            self.world.manager().install(release.split(maxsplit=1)[0])

    def command(self, *arguments: str) -> list[str]:
        # As the installed script does it: the working directory is not on the path.
        code = "from plugin_manager.cli import main; main()"
        return [sys.executable, "-P", "-c", code, "run", *arguments]

    def __call__(
        self, *arguments: str, code: int = 0, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), env=self.environment, cwd=self.elsewhere, input=text,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def plainly(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """`python -m` on the files that were published."""
        files = self.world.directory / "sources/acme/tool/1.0/files"
        return subprocess.run(
            [sys.executable, "-m", *arguments], cwd=self.elsewhere, input=text, text=True,
            env={**self.environment, "PYTHONPATH": str(files)}, capture_output=True, check=False,
        )  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(World(tmp_path))


@pytest.fixture
def tool(runs: Runs) -> Runs:
    runs.install("acme/tool 1.0", FILES)
    return runs


@pytest.mark.parametrize(
    "arguments",
    [
        ("tool", "a", "--json", "--", "-x"),
        ("tool",),
        ("tool.tell", "--help"),
        ("tool.first",),
        ("alone", "1"),
        ("space", "1"),
        ("space.inner",),
        ("tool.exits", "0"),
        ("tool.exits", "41"),
        ("tool.echo",),
        ("tool.late",),
        ("tool.says",),
    ],
)
def test_a_module_runs_as_python_m_runs_it(tool: Runs, arguments: tuple[str, ...]) -> None:
    plain = tool.plainly(*arguments, text="some text")
    done = tool("acme/tool", *arguments, text="some text", code=plain.returncode)
    assert (done.stdout, done.stderr) == (plain.stdout, plain.stderr)
    assert plain.stdout or plain.stderr or plain.returncode or "exits" in arguments[0]


def test_an_exception_ends_it_with_its_traceback_and_source(tool: Runs) -> None:
    plain = tool.plainly("tool.raises")
    done = tool("acme/tool", "tool.raises", code=plain.returncode)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1]
    assert "raise RuntimeError('on purpose')" in done.stderr


def test_without_a_module_the_only_script_is_run(runs: Runs) -> None:
    runs.install("acme/tool 1.0", SCRIPTS, SCRIPT)
    assert "['tool-tell']" in runs("acme/tool", code=1).stdout
    assert "['tool-tell', '--flag', 'x']" in runs("acme/tool", "--flag", "x", code=3).stdout
    assert "['tool-tell', 'x']" in runs("acme/tool", "--", "x", code=2).stdout
    assert runs("acme/tool", "tool").stdout == "not me\n"


def test_without_a_script_the_only_package_with_a_main_is_run(runs: Runs) -> None:
    runs.install("acme/tool 1.0", {"tool/__init__.py": "", "tool/__main__.py": TELL, "a.py": ""})
    assert runs("acme/tool", "--x").stdout == "__main__ tool tool.__main__ True\n['--x']\n"


def test_where_it_is_not_clear_what_to_run_the_choice_is_named(tool: Runs) -> None:
    said = tool("acme/tool", code=EXIT_CODES["not-found"]).stderr
    assert "several programs: tool, space" in said or "several programs: space, tool" in said
    assert "pluginctl run acme/tool MODULE" in said
    tool.install("acme/data 1.0", {"x.txt": "x"})
    assert "neither a script" in tool("acme/data", code=EXIT_CODES["not-found"]).stderr


@pytest.mark.parametrize("module", ["json.tool", "tool.none", "click", "os", "..tool", "tool."])
def test_a_module_that_is_not_the_plugins_is_not_run(tool: Runs, module: str) -> None:
    said = tool("acme/tool", module, code=EXIT_CODES["not-found"]).stderr
    assert f"has no module {module!r}" in said


def test_a_module_of_the_working_directory_is_not_run(tool: Runs) -> None:
    (tool.elsewhere / "evil.py").write_text("print('evil')")
    (tool.elsewhere / "tool.py").write_text("print('evil')")
    tool("acme/tool", "evil", code=EXIT_CODES["not-found"])
    assert "evil" not in tool("acme/tool", "tool").stdout
    assert "evil" in tool.plainly("evil").stdout, "control: python -m does"


def test_a_changed_module_is_refused_with_its_exit_code_before_anything_runs(tool: Runs) -> None:
    [path] = (tool.world.directory / "store/releases").rglob("tell.py")
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace("print", "p_int"))
    done = tool("acme/tool", "tool.exits", "41", code=EXIT_CODES["corrupt"])
    assert "tool/tell.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_changed_while_it_runs_is_refused_with_its_exit_code(runs: Runs) -> None:
    changes = (
        "from pathlib import Path\nother = Path(__file__).with_name('other.py')\n"
        "other.unlink()\nother.write_text('print(1)')\nimport tool.other\n"
    )
    runs.install(
        "acme/tool 1.0",
        {"tool/__init__.py": "", "tool/__main__.py": changes, "tool/other.py": "print(0)"},
    )
    with_source = [*(runs.world.directory / "store/releases").rglob("other.*.pyc")]
    for path in with_source:  # so that the source is what would be read
        path.unlink()
    done = runs("acme/tool", code=EXIT_CODES["corrupt"])
    assert "tool/other.py is damaged" in done.stderr
    assert done.stdout == ""


def test_what_is_not_installed_is_not_found(tool: Runs) -> None:
    assert "not installed" in tool("acme/nothing", "x", code=EXIT_CODES["not-found"]).stderr


def test_interrupted_it_ends_with_130(tool: Runs) -> None:
    process = subprocess.Popen(
        tool.command("acme/tool", "tool.waits"), env=tool.environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"waiting\n"
    time.sleep(0.1)  # into the sleep
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said


def test_with_json_it_says_what_runs_and_what_was_refused_beside_the_plugin_s_own_output(
    tool: Runs,
) -> None:
    done = tool("--json", "acme/tool", "tool", "a", "--json")
    assert json.loads(done.stderr) == {"plugin": "acme/tool", "version": "1.0"}
    assert "['a', '--json']" in done.stdout
    failed = tool("--json", "acme/none", code=EXIT_CODES["not-found"])
    assert failed.stdout == ""
    assert json.loads(failed.stderr)["error"]["family"] == "not-found"
    # The plugin's own --json is none of ours.
    failed = tool("acme/tool", "none", "--json", code=EXIT_CODES["not-found"])
    assert failed.stderr.startswith("pluginctl: ")
    assert failed.stdout == ""
