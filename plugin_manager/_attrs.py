"""`attrs.frozen`, with the methods that are alike in all classes written once.

attrs compiles `__repr__`, `__eq__` and `__hash__` for each class while its module is imported: of a
command that only looks, with some sixty classes, that was a twelfth of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

import attrs

__all__ = ["frozen"]

_EQUALITY = frozenset({"eq", "order", "cache_hash", "hash", "unsafe_hash"})
_METHODS = frozenset({"__eq__", "__ne__", "__hash__"})


@recursive_repr()
def _repr(self: Any) -> str:
    shown = (
        f"{one.name}={(repr if one.repr is True else one.repr)(getattr(self, one.name))}"
        for one in self.__attrs_attrs__
        if one.repr
    )
    return f"{type(self).__qualname__.rpartition('>.')[2]}({', '.join(shown)})"


def _getter(names: list[str]) -> Callable[[Any], Any]:
    return attrgetter(*names) if names else lambda _: ()


def _add_equality(cls: Any) -> None:
    """Make instances of `cls` equal, and hash alike, where all fields that count are equal."""
    fields = attrs.fields(cls)
    assert not any(one.eq_key for one in fields), cls
    compared = _getter([one.name for one in fields if one.eq])
    hashed = _getter([one.name for one in fields if (one.eq if one.hash is None else one.hash)])

    def __eq__(self: Any, other: object) -> Any:  # noqa: N807 - it becomes that
        if other.__class__ is not self.__class__:
            return NotImplemented
        return compared(self) == compared(other)

    def __hash__(self: Any) -> int:  # noqa: N807 - as above
        return hash(hashed(self))

    cls.__eq__, cls.__hash__ = __eq__, __hash__


if TYPE_CHECKING:
    from attrs import frozen
else:

    def frozen(cls=None, **options):
        """What `attrs.frozen` returns, whose options it takes."""

        def decorated(cls):
            own = vars(cls).keys()
            plain_repr = "repr" not in options and "__repr__" not in own
            plain_equality = not (_EQUALITY & options.keys() or _METHODS & own)
            given = {**options, **({"repr": False} if plain_repr else {})}
            if plain_equality:
                given["eq"] = False
            made = attrs.frozen(**given)(cls)
            if plain_repr:
                made.__repr__ = _repr
            if plain_equality:
                _add_equality(made)
            return made

        return decorated if cls is None else decorated(cls)
