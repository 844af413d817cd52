"""A package's data for `importlib.resources`: what the manifest lists, verified as it is read."""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Iterator, Sequence
from importlib.resources.abc import Traversable, TraversableResources
from typing import IO, Any

from plugin_manager.loader._tree import Tree, join

__all__ = ["Resource", "ResourceReader"]


class Resource(Traversable):
    """A file or directory, which may be made of several (a namespace package's portions).

    `os.fspath` gives the place on disk, for code that takes what `files` returns for a path: that
    file was verified when the plugin was loaded, or is now where it was not, but not when it is
    opened. `as_file` gives a temporary copy of bytes verified now.
    """

    def __init__(self, portions: Sequence[tuple[Tree, str]]) -> None:
        self._portions = portions

    @property
    def name(self) -> str:
        """The last part of the path."""
        tree, path = self._portions[0]
        return posixpath.basename(path) or tree.directory.name

    def is_dir(self) -> bool:
        """Whether the manifest has a directory here."""
        return any(tree.is_directory(path) for tree, path in self._portions)

    def is_file(self) -> bool:
        """Whether the manifest has a file here."""
        return any(tree.is_file(path) for tree, path in self._portions)

    def iterdir(self) -> Iterator[Resource]:
        """What the manifest has in this directory; raises NotADirectoryError."""
        if not self.is_dir():
            raise NotADirectoryError(str(self))
        names = (name for tree, path in self._portions for name in tree.children.get(path, []))
        for name in dict.fromkeys(names):
            child = self.joinpath(name)
            if child.is_file() or child.is_dir():  # files with a tag may not be installed
                yield child

    def joinpath(self, *descendants: str | os.PathLike[str]) -> Resource:
        """The resource at the joined path, which need not exist."""
        below = posixpath.join(*(os.fspath(part) for part in descendants)) if descendants else ""
        if not below:
            return self
        return Resource(
            [(tree, posixpath.normpath(join(path, below))) for tree, path in self._portions]
        )

    __truediv__ = joinpath

    def open(self, mode: str = "r", *arguments: Any, **options: Any) -> IO[Any]:
        """A stream of verified bytes, or of text as `io.TextIOWrapper` makes it from them.

        Raises FileNotFoundError, IsADirectoryError, CorruptError.
        """
        if mode not in {"r", "rt", "rb"}:
            raise ValueError(f"resources are read only; mode {mode!r}")
        for tree, path in self._portions:
            if tree.is_file(path):
                binary = tree.open(path)
                if mode == "rb":
                    return binary
                return io.TextIOWrapper(binary, *arguments, **options)
        raise (IsADirectoryError if self.is_dir() else FileNotFoundError)(str(self))

    def read_bytes(self) -> bytes:
        """The verified bytes of the file; raises as `open` does."""
        with self.open("rb") as stream:
            return bytes(stream.read())

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The verified text of the file; raises as `open` does."""
        with self.open(encoding=encoding, errors=errors) as stream:
            return str(stream.read())

    def _place(self) -> tuple[Tree, str]:
        for tree, path in self._portions:
            if tree.is_file(path) or tree.is_directory(path):
                return tree, path
        return self._portions[0]

    def __fspath__(self) -> str:
        tree, path = self._place()
        if not tree.verified_at_load and tree.is_file(path):
            tree.verified_path(path)
        return tree.location(path)

    def __str__(self) -> str:
        tree, path = self._place()
        return tree.location(path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class ResourceReader(TraversableResources):
    """What `importlib.resources` asks a loader for."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource

    def files(self) -> Resource:
        """The package's directory."""
        return self._resource
