"""Whether an import is over, of which importlib executes one module after the other.

`import maps.views` and `from maps import views` execute `maps` to its end, then `maps.views`; no
hook is called once the statement is done. So who asked for what is read off the stack.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from contextlib import suppress
from traceback import walk_stack
from types import FrameType

__all__ = ["is_over"]

_IMPORTLIB = {"importlib", "importlib._bootstrap", "importlib._bootstrap_external"} | {
    "_frozen_importlib",  # what they are called until `importlib` is imported
    "_frozen_importlib_external",
}


def is_over(release: str) -> bool:
    """Whether the running import, of something in the directory `release` (with a slash), is over.

    To be asked below the loader's `exec_module`, as that has ended well. Not over is also what
    `runpy` imports before it runs the rest, and what a module imports that is run by it. An
    `__import__` that others have put into `builtins` hides what is imported `from` the module.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_importlib(frame):
        if frame.f_code.co_name == "<module>":  # of who calls the loader himself
            return True
        frame = frame.f_back
    asked = []
    while frame is not None and _is_importlib(frame):
        function, found = frame.f_code.co_name, frame.f_locals
        if function == "_find_and_load":
            asked.append(found["name"])
        elif function == "_handle_fromlist" and _are_missing(
            found["module"].__name__, found["fromlist"]
        ):
            return False
        frame = frame.f_back
    if frame is None or not asked:
        return True
    if len(asked) > 1 or frame.f_globals.get("__name__") == "runpy":
        return False  # the executed one was the parent of another
    return not _are_missing(asked[0], _names_wanted_from(frame)) and not any(
        one.f_code.co_name == "<module>" and one.f_code.co_filename.startswith(release)
        for one, _ in walk_stack(frame)
    )


def _is_importlib(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") in _IMPORTLIB


def _names_wanted_from(frame: FrameType) -> tuple[str, ...]:
    """What the import statement that `frame` executes wants from the module; () for others."""
    import dis  # noqa: PLC0415 - slow, rarely needed

    before = None
    for instruction in dis.get_instructions(frame.f_code):
        if instruction.offset >= frame.f_lasti:
            imports = instruction.opname == "IMPORT_NAME" and isinstance(before, tuple)
            return before if imports and before else ()
        if instruction.opname != "EXTENDED_ARG":
            before = instruction.argval
    return ()


def _are_missing(name: str, wanted: Iterable[str]) -> bool:
    """Whether any of `wanted` is a module in the package `name` that is yet to be executed."""
    package = vars(sys.modules[name]) if name in sys.modules else {}
    if "__path__" not in package:
        return False
    for child in wanted:
        if child == "*":
            if _are_missing(name, (one for one in package.get("__all__", ()) if one != "*")):
                return True
        elif child not in package and f"{name}.{child}" not in sys.modules:
            with suppress(ImportError, AttributeError, ValueError):
                if importlib.util.find_spec(f"{name}.{child}") is not None:
                    return True
    return False
