"""The platform of a bundle that holds several wheels: where all of them run. Pure.

A wheel runs on a host that accepts one of its tags, so its tags are alternatives; a bundle needs
one alternative of each wheel. Two tags together are again one tag (the newer of two manylinux, a
full `cp311-cp311` over `cp38-abi3` over `py3-none`), or cannot be together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product

from packaging.tags import Tag

from plugin_manager.errors import InvalidInputError
from plugin_manager.model import ANY, Platform

__all__ = ["conjunction"]

# PEP 600: the old names of three manylinux platforms.
_OLD_MANYLINUX = {
    "manylinux1": "manylinux_2_5",
    "manylinux2010": "manylinux_2_12",
    "manylinux2014": "manylinux_2_17",
}
_INTERPRETER = re.compile(r"([a-z]+)(\d)(\d*)")
_VERSIONED = re.compile(r"(manylinux|musllinux|macosx)_(\d+)_(\d+)_(\w+)")
_PURE = Tag("py3", "none", "any")
# What runs on a host that takes the wider macOS build as well.
_MACOS_WIDER = {"universal2": {"arm64", "x86_64"}}


def conjunction(wheels: Sequence[tuple[str, Iterable[Tag]]]) -> Platform:
    """The platform on which all `wheels` (name, tags) run; raises InvalidInputError naming two."""
    together, names = {_PURE}, "Python 3"
    for name, tags in wheels:
        usable = {_modern(tag) for tag in tags if not _for_python_2(tag)}
        both = {pair for one, other in product(together, usable) if (pair := _both(one, other))}
        if not both:
            raise InvalidInputError(
                f"{name} is made for {_words(tags)}, which does not go together with {names} "
                f"({_words(together)})",
                remedy="Bring wheels for one platform.",
            )
        together = _widest(both)
        if together != {_PURE}:
            names = name if names == "Python 3" else f"{names} and {name}"
    return _platform(together)


def _words(tags: Iterable[Tag]) -> str:
    return " or ".join(sorted(map(str, tags)))


def _for_python_2(tag: Tag) -> bool:
    return re.fullmatch(r"(py|cp)2\d?", tag.interpreter) is not None


def _modern(tag: Tag) -> Tag:
    platform = tag.platform
    for old, new in _OLD_MANYLINUX.items():
        platform = re.sub(rf"^{old}_(?=[a-z])", f"{new}_", platform)
    return Tag(tag.interpreter, tag.abi, platform)


def _both(one: Tag, other: Tag) -> Tag | None:
    python = _both_pythons(one, other) or _both_pythons(other, one)
    machine = _both_machines(one.platform, other.platform)
    return Tag(*python, machine) if python and machine else None


def _python_version(interpreter: str) -> tuple[int, int]:
    match = _INTERPRETER.fullmatch(interpreter)
    return (int(match[2]), int(match[3] or 0)) if match else (0, 0)


def _both_pythons(one: Tag, other: Tag) -> tuple[str, str] | None:
    """Interpreter and ABI for both, `other` being the one that asks for more; None if it does not.

    `pyXY-none` and `cpXY-abi3` mean that version or newer; every other pair one version only.
    """
    if (one.interpreter, one.abi) == (other.interpreter, other.abi):
        return one.interpreter, one.abi
    least, version = _python_version(one.interpreter), _python_version(other.interpreter)
    any_python = bool(re.fullmatch(r"py\d+", one.interpreter)) and one.abi == "none"
    any_cpython = one.interpreter.startswith("cp") and one.abi == "abi3"
    if any_cpython and (not other.interpreter.startswith("cp") or other.abi.endswith("t")):
        return None  # a free-threaded build (cp313t) has no stable ABI
    if not (any_python or any_cpython):
        # Without an ABI of its own, a tag for this very interpreter gives way to one with it.
        same = one.interpreter == other.interpreter and one.abi == "none" and other.abi != "abi3"
        return (other.interpreter, other.abi) if same else None
    if other.abi == "abi3" and least > version:
        return f"cp{least[0]}{least[1]}", "abi3"
    return (other.interpreter, other.abi) if least <= version else None


def _both_machines(one: str, other: str) -> str | None:
    if "any" in {one, other}:
        return other if one == "any" else one
    if one == other:
        return one
    first, second = _VERSIONED.fullmatch(one), _VERSIONED.fullmatch(other)
    if first and second and first[1] == second[1]:
        architecture = _both_architectures(first[4], second[4])
        version = max((int(match[2]), int(match[3])) for match in (first, second))
        return f"{first[1]}_{version[0]}_{version[1]}_{architecture}" if architecture else None
    for plain, versioned in ((one, second), (other, first)):
        if versioned and versioned[1].endswith("linux") and plain == f"linux_{versioned[4]}":
            return versioned.group()
    return None


def _both_architectures(one: str, other: str) -> str | None:
    if one == other or other in _MACOS_WIDER.get(one, ()):
        return other
    return one if one in _MACOS_WIDER.get(other, ()) else None


def _widest(tags: set[Tag]) -> set[Tag]:
    """`tags` without those that another one makes needless (it runs wherever they run)."""
    return {tag for tag in tags if not any(_both(tag, other) == tag for other in tags - {tag})}


def _platform(tags: set[Tag]) -> Platform:
    if _PURE in tags:
        return ANY
    interpreters, abis, machines = (
        sorted({getattr(tag, part) for tag in tags}) for part in ("interpreter", "abi", "platform")
    )
    whole = {Tag(*parts) for parts in product(interpreters, abis, machines)}
    if whole != tags:
        raise InvalidInputError(
            f"{_words(tags)} cannot be written as one platform",
            remedy="Choose one of them with --platform.",
        )
    return Platform.parse("-".join(".".join(parts) for parts in (interpreters, abis, machines)))
