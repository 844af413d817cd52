"""Bytecode that is the same in every process: `__pycache__/module.cpython-311.pyc`.

Unchecked hash-based pyc files (PEP 552): the bundle's signature already says that source and
bytecode belong together.
"""

from __future__ import annotations

import importlib.util
import marshal
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType

from plugin_manager.errors import InvalidInputError
from plugin_manager.model import BundlePath, bytecode_tag
from plugin_manager.publishing._payload import PayloadFile

__all__ = ["bytecode_files", "compiled"]

_UNCHECKED_HASH = (0b01).to_bytes(4, "little")  # PEP 552


def compiled(source: bytes, path: str) -> bytes | None:
    """The pyc file for `source`, `path` being what tracebacks show; None if it does not compile.

    The same bytes in every process of the same Python version.
    """
    # A one-character string is shared by the whole process, and marshal writes whether somebody
    # interned it. So all of them are.
    for code_point in range(256):
        sys.intern(chr(code_point))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # str: marshal refuses subclasses of it
            code = compile(source, str(path), "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, OverflowError, RecursionError):
        return None
    # marshal also writes whether an object has other owners, lest it be written twice. With an
    # owner here for each that occurs twice, the answer does not depend on how often it is looked
    # at; what occurs once is this code's alone, or everybody's always. (With an owner for each,
    # sympy is decoded a tenth slower; format 2, which never writes it, by a third.)
    owned = _repeated(code)
    dumped = marshal.dumps(code)
    del owned
    return (
        importlib.util.MAGIC_NUMBER
        + _UNCHECKED_HASH
        + importlib.util.source_hash(source)
        + dumped
    )  # fmt: skip


def _repeated(code: CodeType) -> list[object]:
    """The objects that occur more than once in `code`."""
    occurring, repeated = set(), {}
    for value in _reachable(code):
        if id(value) in occurring:
            repeated[id(value)] = value
        occurring.add(id(value))
    return list(repeated.values())


def _reachable(code: CodeType) -> Iterator[object]:
    waiting: list[object] = [code]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, CodeType):
            waiting += (
                value.co_consts,
                value.co_names,
                value.co_varnames,
                value.co_cellvars,
                value.co_freevars,
                value.co_name,
                value.co_qualname,
                value.co_filename,
                value.co_linetable,
                value.co_exceptiontable,
            )
        elif isinstance(value, tuple | frozenset):
            waiting += value


def bytecode_files(
    files: Iterable[PayloadFile], root: str, directory: Path
) -> Iterator[PayloadFile]:
    """A tagged bytecode file for each Python source below the import root `root` ("" is the top).

    They are written into `directory`. A source that does not compile here has none.
    """
    prefix = f"{root}/" if root else ""
    for number, file in enumerate(files):
        if file.tag or not file.path.endswith(".py") or not file.path.startswith(prefix):
            continue
        parent, slash, name = file.path.rpartition("/")
        cache_name = f"{name.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"
        try:
            path = BundlePath.parse(f"{parent}{slash}__pycache__/{cache_name}")
        except InvalidInputError:
            continue  # too long a name
        data = compiled(file.source.read_bytes(), file.path)
        if data is not None:
            target = directory / f"{number}.pyc"
            target.write_bytes(data)
            yield PayloadFile(path, target, tag=bytecode_tag())
