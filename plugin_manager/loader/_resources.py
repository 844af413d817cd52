"""A package's data for `importlib.resources`: what the manifest lists, verified as it is read."""

from __future__ import annotations

import errno
import io
import os
import posixpath
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import resources
from importlib.resources.abc import Traversable, TraversableResources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from plugin_manager.loader._tree import Tree, join

__all__ = ["Resource", "ResourceReader"]


class Resource(Traversable):
    """A file or directory, which may be made of several (a namespace package's portions).

    `os.fspath` gives the place on disk, for code that takes what `files` returns for a path: that
    file was verified when the plugin was loaded, or is now where it was not, but not when it is
    opened. It raises FileNotFoundError for what the manifest has not. `as_file` gives a temporary
    copy, of a directory too, of bytes verified now.
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
        names = (name for tree, path in self._portions for name in tree.names(path))
        for name in dict.fromkeys(names):
            child = self.joinpath(name)
            if child.is_file() or child.is_dir():  # files with a tag may not be installed
                yield child

    def joinpath(self, *descendants: str | os.PathLike[str]) -> Resource:
        """The resource at the joined path, which need not exist."""
        below = posixpath.join(*(os.fspath(part) for part in descendants)) if descendants else ""
        if not below:
            return self
        joined = ((tree, posixpath.normpath(join(path, below))) for tree, path in self._portions)
        return Resource([(tree, "" if path == "." else path) for tree, path in joined])

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
        if not self.is_file() and not self.is_dir():
            # Whatever lies there, it is none of the plugin's.
            raise FileNotFoundError(errno.ENOENT, "not in the plugin", str(self))
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


if sys.version_info < (3, 12):  # whose `as_file` takes files only, and real paths
    _generic: Any = resources.as_file  # a single-dispatch function, which typeshed does not say
    _file_as_file: Callable[[Resource], AbstractContextManager[Path]] = _generic.dispatch(object)

    def _as_file(resource: Resource) -> AbstractContextManager[Path]:
        return (_directory_as_file if resource.is_dir() else _file_as_file)(resource)

    _generic.register(Resource, _as_file)

    @contextmanager
    def _directory_as_file(resource: Resource) -> Iterator[Path]:
        with TemporaryDirectory() as directory:
            yield _copied(resource, Path(directory))

    def _copied(resource: Resource, directory: Path) -> Path:
        target = directory / resource.name
        if resource.is_dir():
            target.mkdir()
            for child in resource.iterdir():
                _copied(child, target)
        else:
            with resource.open("rb") as source, target.open("xb") as copy:
                shutil.copyfileobj(source, copy)
        return target
