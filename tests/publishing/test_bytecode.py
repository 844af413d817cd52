"""Bytecode that does not depend on the process that makes it."""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugin_manager.model import BundlePath
from plugin_manager.publishing._bytecode import bytecode_files, compiled
from plugin_manager.publishing._payload import PayloadFile

LIBRARY = Path(os.__file__).parent
MODULES = ["argparse.py", "asyncio/base_events.py", "typing.py", "inspect.py", "email/message.py"]

PROGRAM = """
import hashlib, sys
from pathlib import Path
if sys.argv[1] == "other":  # what another program may have loaded, and interned
    import asyncio, email.message, typing, unittest.mock
    kept = [sys.intern(c) for c in "/:%. "]
from plugin_manager.publishing._bytecode import compiled
total = hashlib.sha256()
for path in sys.argv[2:]:
    total.update(compiled(Path(path).read_bytes(), Path(path).name))
print(total.hexdigest())
"""


def digest(seed: str, kind: str) -> str:
    paths = [str(LIBRARY / module) for module in MODULES]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, *paths],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_two_processes_make_the_same_bytecode() -> None:
    assert digest("1", "one") == digest("2", "other")


SOURCE = b"def f(a): return {'a', 'b c', 1} if a in ('/', 'x y') else '/'\n"


@pytest.mark.parametrize("character", ["/", ":", "\xe9"])
def test_an_interned_character_changes_nothing(character: str) -> None:
    program = """
import hashlib, marshal, sys
from plugin_manager.publishing._bytecode import compiled
source = f"x = [{sys.argv[1]!r}]".encode()
def plain():
    return hashlib.sha256(marshal.dumps(compile(source, "m.py", "exec"))).hexdigest()
before = plain()
sys.intern(sys.argv[1])
print(before == plain(), hashlib.sha256(compiled(source, "m.py")).hexdigest())
"""
    answers = set()
    for interned_first in (False, True):
        code = f"import sys; {'sys.intern(sys.argv[1])' if interned_first else ''}\n" + program
        done = subprocess.run(
            [sys.executable, "-c", code, character],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        same, found = done.stdout.split()
        answers.add(found)
        # control: plain marshal does depend on it (nobody else interns this one: pathlib does "/")
        if character == "\xe9" and not interned_first and sys.version_info < (3, 12):
            assert same == "False"
    assert len(answers) == 1


def test_what_occurs_once_is_not_kept_to_be_referred_to() -> None:
    data = compiled(b"x = 'a b'\ny = 'c d'\nz = ('c d', 5.5)\n", "m.py")
    assert data is not None
    assert b"z\3a b" in data
    assert b"\xfa\3c d" in data  # twice: the highest bit of its type says so


def test_control_marshal_alone_depends_on_who_else_owns_an_object() -> None:
    code = compile(SOURCE, "m.py", "exec")
    before = marshal.dumps(code)
    owned = [code.co_consts, *code.co_consts]
    assert marshal.dumps(code) != before
    del owned


def test_the_file_is_an_unchecked_hash_based_pyc_that_python_loads(tmp_path: Path) -> None:
    data = compiled(b"ANSWER = 42\n", BundlePath("pkg/m.py"))
    assert data is not None
    assert data[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(data[4:8], "little") == 0b01
    assert data[8:16] == importlib.util.source_hash(b"ANSWER = 42\n")
    path = tmp_path / "m.pyc"
    path.write_bytes(data)
    spec = importlib.util.spec_from_file_location("m_of_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.ANSWER == 42


@pytest.mark.parametrize(
    "source", [b"def (:\n", b"x = '\0'\n", b"\xff\xfe", b"# coding: nonsense\n", b"(" * 5000]
)
def test_what_does_not_compile_has_no_bytecode(source: bytes) -> None:
    assert compiled(source, "m.py") is None


def test_a_warning_while_compiling_is_not_shown() -> None:
    assert compiled(b"x = '\\d'\nassert (x, 1)\n", "m.py")


def test_only_sources_below_the_import_root_are_compiled(tmp_path: Path) -> None:
    source = tmp_path / "m.py"
    source.write_text("x = 1\n")
    made = tmp_path / "made"
    made.mkdir()
    paths = ["lib/m.py", "lib/pkg/n.py", "other/m.py", "lib/broken.txt", f"lib/{'x' * 240}.py"]
    files = [PayloadFile(BundlePath.parse(path), source) for path in paths]
    files.append(PayloadFile(BundlePath("lib/tagged.py"), source, tag="cp399"))
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    cache = sys.implementation.cache_tag
    assert [(file.path, file.tag) for file in bytecode_files(files, "lib", made)] == [
        (f"lib/__pycache__/m.{cache}.pyc", tag),
        (f"lib/pkg/__pycache__/n.{cache}.pyc", tag),
    ]


def test_the_digest_of_nothing_is_not_what_the_processes_print() -> None:
    assert digest("0", "one").strip() != hashlib.sha256().hexdigest()
