"""What Python's own tools say of a loaded release is what they say of the same files installed.

Each question is asked twice, in new processes: of a loaded release, and of the files on `sys.path`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.loader.hosts import run_host
from tests.loader.releases import make_release

FILES = {
    "demo/__init__.py": '"""A demonstration."""\nfrom demo import part\n',
    "demo/__main__.py": "import sys\nprint('main', __name__, __package__, sys.argv[1:])\n",
    "demo/part.py": """\
import logging


class Thing:
    \"\"\"A thing.\"\"\"

    def use(self):
        return 1  # used


def fail(what):
    raise ValueError(what)  # on purpose


async def later():
    return 2
""",
    "demo/tool.py": "import sys\nif __name__ == '__main__':\n    print('tool', sys.argv[1:])\n",
    "demo/sub/__init__.py": "",
    "demo/sub/deep.py": "",
    "demo/data/words.txt": "one\ntwo\n",
    "demo/data/more/blob.bin": bytes(range(256)),
    "demo_space/inner/__init__.py": "value = 3\n",
    "demo_space/inner/note.txt": "inner",
    "demo_space/loose.py": "",
    "demo_space/__main__.py": "",
    "demo_things-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo-things\n"
    "Version: 1.5\nSummary: Things.\nRequires-Dist: packaging>=20\n\nAll about things.\n",
    "demo_things-1.5.dist-info/entry_points.txt": "[demo.group]\nthing = demo.part:Thing\n"
    "deep = demo.sub.deep [extra]\n[console_scripts]\ndemo = demo.part:fail\n",
    "demo_things-1.5.dist-info/top_level.txt": "demo\ndemo_space\n",
    "demo_things-1.5.dist-info/RECORD": "demo/__init__.py,,\ndemo/part.py,,\n"
    "demo/data/words.txt,,\ndemo_space/inner/__init__.py,,\n",
}

QUESTIONS = {
    "resources": """
        import importlib.resources as r
        top = r.files("demo")
        out["names"] = sorted(p.name for p in top.iterdir() if p.name != "__pycache__")
        out["text"] = (top / "data" / "words.txt").read_text()
        out["joined"] = top.joinpath("data/more/blob.bin").read_bytes().hex()
        out["kinds"] = [(top / n).is_dir() for n in ("data", "part.py", "none")]
        with (top / "data/words.txt").open(encoding="utf-8") as stream:
            out["lines"] = stream.readlines()
        with r.as_file(top / "data" / "words.txt") as path:
            out["copy"] = path.read_text(), path.name.endswith("words.txt")
        with r.as_file(top / "data") as path:
            out["tree"] = path.name, sorted(str(p.relative_to(path)) for p in path.rglob("*"))
            out["bytes"] = (path / "more" / "blob.bin").read_bytes().hex()
        out["space"] = (r.files("demo_space") / "inner" / "note.txt").read_text()
        out["inner"] = r.files("demo_space.inner").joinpath("note.txt").read_text()
        try:
            (top / "none").read_bytes()
        except FileNotFoundError:
            out["missing"] = True
    """,
    "metadata": """
        import importlib.metadata as m
        out["version"] = m.version("demo_things"), m.version("Demo.Things")
        meta = m.metadata("demo-things")
        out["metadata"] = meta["Summary"], meta.get_payload().strip()
        out["requires"] = m.requires("demo-things")
        out["files"] = sorted(map(str, m.files("demo-things")))
        words = next(f for f in m.files("demo-things") if f.name == "words.txt")
        out["read"] = words.read_text(), words.locate().name
        out["tops"] = {k: v for k, v in m.packages_distributions().items() if "demo" in k}
        out["distribution"] = m.distribution("demo-things").name
        out["listed"] = [d.name for d in m.distributions() if "demo" in d.name]
        try:
            m.version("demo-nothing")
        except m.PackageNotFoundError:
            out["missing"] = True
    """,
    "entry points": """
        import importlib.metadata as m
        out["groups"] = sorted(g for g in m.entry_points().groups if g.startswith("demo"))
        found = sorted(m.entry_points(group="demo.group"), key=lambda e: e.name)
        out["found"] = [(e.name, e.value, e.module, e.attr, e.extras, e.dist.name) for e in found]
        out["loaded"] = [e.load().__name__ for e in found]
        [script] = m.entry_points(group="console_scripts", name="demo")
        out["script"] = script.load().__qualname__
    """,
    "inspect": """
        import inspect, demo.part
        part = demo.part
        out["class"] = inspect.getsource(part.Thing)
        out["method"] = inspect.getsource(part.Thing.use)
        out["module"] = inspect.getsource(part)
        out["lines"] = inspect.getsourcelines(part.fail)
        out["file"] = inspect.getsourcefile(part.fail).endswith("demo/part.py")
        out["doc"] = inspect.getdoc(part.Thing), inspect.getdoc(demo)
        out["owner"] = inspect.getmodule(part.fail).__name__
        out["coroutine"] = inspect.iscoroutinefunction(part.later)
        out["module name"] = inspect.getmodulename(part.__file__)
    """,
    "tracebacks": """
        import demo.part, io, logging, traceback, warnings
        try:
            demo.part.fail("so")
        except ValueError as error:
            frames = traceback.extract_tb(error.__traceback__)
            out["frame"] = frames[-1].name, frames[-1].lineno, frames[-1].line
            out["file"] = frames[-1].filename.endswith("demo/part.py")
            out["text"] = traceback.format_exception(error)[-2].splitlines()[1:]
    """,
    "pkgutil": """
        import pkgutil, demo, demo_space
        walked = pkgutil.walk_packages(demo.__path__, "demo.")
        out["walked"] = sorted((m.name, m.ispkg) for m in walked)
        spaced = pkgutil.iter_modules(demo_space.__path__)
        out["space"] = sorted((m.name, m.ispkg) for m in spaced)
        out["data"] = pkgutil.get_data("demo", "data/words.txt").decode()
        out["resolved"] = pkgutil.resolve_name("demo.part:Thing.use").__qualname__
        out["loader"] = type(pkgutil.get_loader("demo.part")).__name__ != "NoneType"
    """,
    "namespace packages": """
        import importlib, importlib.util, demo_space.inner, demo_space.loose
        out["value"] = demo_space.inner.value
        out["file"] = getattr(demo_space, "__file__", None)
        out["portions"] = len(list(demo_space.__path__))
        out["origin"] = importlib.util.find_spec("demo_space").origin
        out["package"] = demo_space.__package__, demo_space.loose.__package__
    """,
    "data files": """
        import demo, os
        here = os.path.dirname(demo.__file__)
        with open(os.path.join(here, "data", "words.txt")) as stream:
            out["words"] = stream.read()
        out["loader"] = demo.__loader__.get_data(os.path.join(here, "data/words.txt")).decode()
    """,
    "python -m": """
        import contextlib, io, runpy
        for name in ("demo", "demo.tool", "demo.sub.deep", "demo_space"):
            sys.argv = ["x", "--flag"]
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                names = runpy.run_module(name, run_name="__main__", alter_sys=True)
            out[name] = said.getvalue(), names["__name__"], names["__package__"]
    """,
    "modules": """
        import importlib, importlib.util, demo.sub.deep, pickle, copyreg
        module = demo.part
        out["names"] = [module.__name__, module.__package__, module.__spec__.name,
                        module.__spec__.parent, module.__spec__.has_location]
        out["path"] = len(demo.__path__), demo.__spec__.submodule_search_locations == demo.__path__
        out["pickled"] = type(pickle.loads(pickle.dumps(module.Thing()))).__name__
        out["reloaded"] = importlib.reload(module) is module
        out["source"] = module.__loader__.get_source("demo.part").count("\\n")
        out["package"] = module.__loader__.is_package("demo.part")
        fresh = importlib.util.module_from_spec(importlib.util.find_spec("demo.part"))
        fresh.__spec__.loader.exec_module(fresh)
        out["fresh"] = fresh is not module and fresh.Thing is not module.Thing
        try:
            import demo.none
        except ModuleNotFoundError as error:
            out["missing"] = str(error), error.name
    """,
    "whether a module is there": """
        import importlib.util, demo_space
        names = ("demo.none", "demo.part", "demo.data", "demo.data.none", "demo.sub.none",
                 "demo_space.none", "demo_space.loose", "demo_space.inner.none", "demo_none")
        out["found"] = [importlib.util.find_spec(name) is not None for name in names]
        try:
            importlib.util.find_spec("demo_none.none")
        except ModuleNotFoundError as error:
            out["error"] = error.name
    """,
}


def installed(directory: Path, script: str) -> dict[str, object]:
    """What `script` leaves in `out` where the files lie on the path."""
    program = (
        f"import json, sys\nsys.path.insert(0, {str(directory)!r})\nout = {{}}\n"
        + textwrap.dedent(script)
        + "\njson.dump(out, sys.stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-W", "ignore", "-c", program],
        capture_output=True, text=True, check=False, cwd=directory,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("script", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_a_loaded_release_answers_as_an_installed_distribution(tmp_path: Path, script: str) -> None:
    release = make_release(tmp_path / "release", FILES)
    quiet = "import warnings; warnings.simplefilter('ignore')\n"
    make_release(tmp_path / "installed", FILES)
    expected = installed(tmp_path / "installed", script)
    assert expected
    assert run_host(tmp_path, [release], script, start=quiet) == expected


def test_control_without_the_release_nothing_answers(tmp_path: Path) -> None:
    empty = tmp_path / "installed"
    empty.mkdir()
    for script in QUESTIONS.values():
        with pytest.raises(AssertionError, match=r"ModuleNotFoundError|PackageNotFoundError|Error"):
            installed(empty, script)
