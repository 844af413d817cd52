"""`plugin_manager._attrs.frozen` makes what `attrs.frozen` makes, of every class of the package."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

import plugin_manager
from plugin_manager import _attrs
from plugin_manager._attrs import frozen

Decorate = Callable[..., Any]


def pair(make: Callable[[Decorate], Any]) -> tuple[Any, Any]:
    """The same class as this package and as attrs make it."""
    return make(frozen), make(attrs.frozen)


def plain(decorate: Decorate) -> Any:
    @decorate
    class Plain:
        word: str
        number: int = attrs.field(default=0, eq=False)
        secret: str = attrs.field(default="", repr=False)
        shown: str = attrs.field(default="x", repr=str.upper)
        counted: list[int] = attrs.field(factory=list, hash=False)

    return Plain


def empty(decorate: Decorate) -> Any:
    @decorate
    class Empty:
        pass

    return Empty


def ordered(decorate: Decorate) -> Any:
    @decorate(order=True, cache_hash=True)
    class Ordered:
        word: str = "a"

    return Ordered


def by_identity(decorate: Decorate) -> Any:
    @decorate(eq=False)
    class ByIdentity:
        word: str = "a"

    return ByIdentity


def own(decorate: Decorate) -> Any:
    @decorate
    class Own:
        word: str = "a"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

        def __repr__(self) -> str:
            return "mine"

    return Own


MAKERS = [plain, empty, ordered, by_identity, own]


@pytest.mark.parametrize("make", MAKERS)
def test_a_class_is_as_attrs_makes_it(make: Callable[[Decorate], Any]) -> None:
    some: list[dict[str, Any]] = [{}] if make is empty else [{"word": "a"}, {"word": "b"}]
    if make is plain:
        some += [{"word": "a", "number": 1}, {"word": "a", "secret": "b"}]
        some += [{"word": "a", "counted": [1]}, {"word": "a", "shown": "y"}]
    made, expected = pair(make)
    ours, theirs = [made(**one) for one in some], [expected(**one) for one in some]
    assert list(map(repr, ours)) == list(map(repr, theirs))
    for one, other in zip(ours, theirs, strict=True):
        assert [one == it for it in ours] == [other == it for it in theirs]
        assert [one != it for it in ours] == [other != it for it in theirs]
        alike = [hash(one) == hash(it) for it in ours]
        assert alike == [hash(other) == hash(it) for it in theirs]
        assert (one == "a") == (other == "a")


def test_another_class_is_not_equal_whatever_its_values() -> None:
    made, expected = pair(plain)
    assert made("a") != expected("a")


def test_what_holds_itself_is_shown() -> None:
    @frozen
    class Loop:
        inside: list[object]

    loop = Loop([])
    loop.inside.append(loop)
    assert repr(loop) == "Loop(inside=[...])"


def test_it_stays_frozen() -> None:
    made = plain(frozen)("a")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.word = "b"


def classes() -> Iterator[type]:
    for module in pkgutil.walk_packages(plugin_manager.__path__, "plugin_manager."):
        if not module.name.endswith("__main__"):
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, type) and value.__module__ == module.name:
                    yield value


def test_no_secret_is_shown_by_any_class() -> None:
    hidden = {
        (cls.__name__, one.name)
        for cls in classes()
        if attrs.has(cls) and cls.__repr__ is _attrs._repr
        for one in attrs.fields(cls)
        if not one.repr
    }
    assert {("Settings", "tokens"), ("AgentPolicy", "webhook")} <= hidden


def test_nothing_is_compiled_for_a_class_but_how_it_is_made() -> None:
    code = (
        "import attr._make as make; compiled = []; do = make._linecache_and_compile\n"
        "make._linecache_and_compile = lambda script, *rest: (compiled.append(script), do(script,"
        " *rest))[1]\n"
        "import plugin_manager.store\n"
        "print(len(compiled), sum('def __repr__' in one for one in compiled))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, with_repr = map(int, done.stdout.split())
    assert count > 20
    assert with_repr <= 3  # those of classes that are not frozen
