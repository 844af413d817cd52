"""Reading nested documents (TOML, JSON, msgpack) key by key, gathering every fault with its place.

Each accessor returns a usable value even where it found a fault, so that one pass reports all:
`files[3].path: file name '../x' has a part '..'`. `finish` raises them together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Self, TypeVar

from plugin_manager.errors import InvalidInputError

__all__ = ["Document"]

T = TypeVar("T")

MAX_TEXT = 10_000
MAX_SHOWN_PLACE = 300


class Document:
    """A mapping being read; `place` is its key path ("" for the whole document).

    Raises nothing until `finish`, which must be called on the outermost document.
    """

    def __init__(self, value: object, place: str = "", faults: list[str] | None = None) -> None:
        self.place = place
        self.faults: list[str] = [] if faults is None else faults
        self._known: set[str] = set()
        self._children: list[Document] = []
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            self.value: Mapping[str, object] = value
        else:
            self.value = {}
            odd = "one with keys that are not text" if isinstance(value, Mapping) else _kind(value)
            self.fault("", f"must be a table, not {odd}")

    def fault(self, key: str, what: str) -> None:
        """Record that the value at `key` (relative to this document) is wrong."""
        path = f"{self.place}.{key}" if self.place and key else self.place or key
        if not path.isprintable() or len(path) > MAX_SHOWN_PLACE:  # keys are anybody's text
            path = ascii(path[:MAX_SHOWN_PLACE])
        self.faults.append(f"{path}: {what}" if path else what)

    @classmethod
    def of_json(cls, data: bytes, where: str, *, most_bytes: int, remedy: str = "") -> Self:
        """The document in `data`, JSON; raises InvalidInputError where that is none, or too long.

        What is too long is not even read.
        """
        if len(data) > most_bytes:
            raise InvalidInputError(
                f"{where}: is larger than {most_bytes} bytes", where=where, remedy=remedy
            )
        try:
            return cls(json.loads(data.decode("utf-8")))
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(
                f"{where}: is not JSON ({error})", where=where, remedy=remedy
            ) from error

    def _get(self, key: str, kind: type[T], word: str, default: T | None) -> T | None:
        self._known.add(key)
        if key not in self.value:
            if default is None:
                self.fault(key, "is missing")
            return default
        value = self.value[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fault(key, f"must be {word}, not {_kind(value)}")
            return default
        return value

    def text(self, key: str, default: str | None = None, *, longest: int = MAX_TEXT) -> str:
        """The string at `key`, at most `longest` characters."""
        value = self._get(key, str, "text", default)
        if value is not None and len(value) > longest:
            self.fault(key, f"is longer than {longest} characters")
            return ""
        if value and not _encodable(value):
            self.fault(key, "is not valid Unicode")
            return ""
        return value or ""

    def parsed(self, key: str, parse: Callable[[str], T], default: T | None = None) -> T | None:
        """The string at `key` after `parse`, whose InvalidInputError becomes a fault.

        None only after a fault (or where the key is absent and no default was given, a fault).
        """
        if key not in self.value and default is not None:
            self._known.add(key)
            return default
        before = len(self.faults)
        text = self.text(key)
        if len(self.faults) > before:
            return default
        try:
            return parse(text)
        except InvalidInputError as error:
            self.fault(key, str(error))
            return default

    def integer(
        self, key: str, default: int | None = None, *, least: int = 0, most: int = 2**63 - 1
    ) -> int:
        """The integer at `key` within [least, most]."""
        value = self._get(key, int, "a whole number", default)
        if value is not None and not least <= value <= most:
            self.fault(key, f"must be from {least} to {most}, not {value}")
            return least
        return least if value is None else value

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """The boolean at `key`."""
        return bool(self._get(key, bool, "true or false", default))

    def data(self, key: str) -> bytes:
        """The byte string at `key` (msgpack only)."""
        return self._get(key, bytes, "bytes", None) or b""

    def texts(self, key: str, default: list[str] | None = None) -> list[str]:
        """The list of strings at `key`."""
        value = self._get(key, list, "a list", default) or []
        good = [item for item in value if isinstance(item, str) and _encodable(item)]
        if len(good) != len(value):
            self.fault(key, "must hold only text")
        return good

    def parsed_each(
        self, key: str, parse: Callable[[str], T], default: list[str] | None = None
    ) -> tuple[T, ...]:
        """The list of strings at `key`, each after `parse`."""
        found = []
        for index, text in enumerate(self.texts(key, default)):
            try:
                found.append(parse(text))
            except InvalidInputError as error:
                self.fault(f"{key}[{index}]", str(error))
        return tuple(found)

    def table(self, key: str, *, required: bool = False) -> Document:
        """The mapping at `key` as a document of its own (empty where it is absent)."""
        self._known.add(key)
        value = self.value.get(key)
        if value is None and key not in self.value and not required:
            value = {}
        child = Document(value, f"{self.place}.{key}" if self.place else key, self.faults)
        self._children.append(child)
        return child

    def tables(self, key: str) -> Iterator[Document]:
        """The mappings in the list at `key` (none where it is absent), each as a document."""
        items = self._get(key, list, "a list of tables", []) or []
        prefix = f"{self.place}.{key}" if self.place else key
        for index, item in enumerate(items):
            child = Document(item, f"{prefix}[{index}]", self.faults)
            self._children.append(child)
            yield child

    def names(self) -> Iterator[str]:
        """The keys that are present, all of which then count as known."""
        self._known.update(self.value)
        return iter(self.value)

    def check_format(self, supported: int, where: str, *, remedy: str = "") -> None:
        """Raise InvalidInputError unless the document's `format` is `supported`.

        `remedy` is for a document that has no readable format at all.
        """
        if self.integer("format") != supported and not self.faults:
            self.faults.append(f"format: this program reads format {supported} only")
            self.finish(where, remedy="Install a newer plugin manager.")
        self.finish(where, remedy=remedy)

    def _check_unknown(self) -> None:
        for key in self.value:
            if key not in self._known:
                self.fault(key, "is not a known key")
        for child in self._children:
            child._check_unknown()

    def finish(self, where: str, *, strict: bool = False, remedy: str = "") -> None:
        """Raise InvalidInputError naming `where` if there were faults.

        `strict` makes unknown keys faults: right for what people write (a typing error must not
        pass silently), wrong for signed documents (a later minor format may add keys).
        """
        if strict:
            self._check_unknown()
        if self.faults:
            raise InvalidInputError.of(where, self.faults, remedy=remedy)


def _encodable(text: str) -> bool:
    # JSON may hold halves of surrogate pairs, which no terminal, file or network takes.
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _kind(value: object) -> str:
    names = {dict: "a table", list: "a list", str: "text", int: "a number", float: "a number"}
    return names.get(type(value), "nothing" if value is None else type(value).__name__)
