"""A release's files as its manifest lists them. The directory on disk is never asked what is there.

So a file that somebody dropped into the directory does not exist here, and what is read is hashed.
"""

from __future__ import annotations

import os
import posixpath
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TypeVar

from plugin_manager.errors import CorruptError
from plugin_manager.loader import _imports
from plugin_manager.manifest import File, Manifest
from plugin_manager.model import bytecode_tag
from plugin_manager.store import (
    Damage,
    Fault,
    copy_verified,
    directories_of,
    map_verified,
    odd_directories,
    open_verified,
    read_verified,
    release_faults,
    use_verified,
)

__all__ = ["BYTECODE_TAG", "Tree", "join"]

T = TypeVar("T")

# Files with this tag in the manifest are for this interpreter; others' are as if they were not.
BYTECODE_TAG = bytecode_tag()

_UNUSUAL = re.compile(r"/\.|//|/$|\\")  # in locations that `abspath` might change
_SAME_SEPARATOR = os.sep == posixpath.sep
_BEHIND_SLASH = chr(ord("/") + 1)
_MOST_NAMED = 10  # files that an error's message spells out; its `paths` has all


_TOLD_TO_NOBODY = nullcontext()


def join(directory: str, name: str) -> str:
    """The bundle path of `name` in `directory`, "" being the top."""
    return f"{directory}/{name}" if directory else name


class Tree:
    """The files of `manifest` in `directory` (real, absolute) that this interpreter may use.

    Paths are bundle paths (`/` between parts, "" for the top); a *location* is a full path in the
    form of the operating system. `importing` and `imported` are told of executions as `load` says.
    `unloaded` is set once no module of it is to be executed any more.
    """

    def __init__(
        self,
        manifest: Manifest,
        directory: Path,
        *,
        verified_at_load: bool = True,
        importing: Callable[[], None] = lambda: None,
        imported: Callable[[BaseException | None], None] | None = None,
    ) -> None:
        self.manifest = manifest
        self.directory = directory
        self.verified_at_load = verified_at_load
        self.unloaded = False
        self._importing, self._imported = importing, imported
        # Which threads execute something of it. A child of a fork has none but its own.
        self._executing: set[tuple[int, int]] = set()
        self.files: dict[str, File] = {file.path: file for file in manifest.files_for(BYTECODE_TAG)}
        self._sound: set[str] = set()  # directories that were no links when they were looked at
        self._top = str(directory)
        self._prefix = os.path.join(self._top, "")  # noqa: PTH118 - a string

    @cached_property
    def _paths(self) -> list[str]:
        """All paths in order: those below a directory follow one another."""
        return sorted(self.files)

    def is_directory(self, path: str) -> bool:
        """Whether `path` is a directory."""
        below = f"{path}/" if path else ""
        at = bisect_left(self._paths, below)
        return at < len(self._paths) and self._paths[at].startswith(below)

    def names(self, directory: str) -> list[str]:
        """The names of the files and directories in `directory`, each once."""
        paths, below = self._paths, f"{directory}/" if directory else ""
        found, at = [], bisect_left(paths, below)
        while at < len(paths) and paths[at].startswith(below):
            name, is_above, _ = paths[at][len(below) :].partition("/")
            found.append(name)
            at = bisect_left(paths, f"{below}{name}{_BEHIND_SLASH}", at) if is_above else at + 1
        return found

    def is_file(self, path: str) -> bool:
        """Whether `path` is a file; one that carries a tag counts only where it was installed."""
        file = self.files.get(path)
        return file is not None and (not file.tag or os.path.lexists(self.location(path)))

    def read(self, path: str) -> bytes:
        """The verified bytes of the file `path`; raises NotFoundError, CorruptError."""
        return read_verified(self.directory, self.manifest, self._file(path))

    def use(self, path: str, use: Callable[[memoryview], T]) -> T:
        """What `use` makes of the verified bytes of the file `path`, of which it keeps nothing.

        Raises as `read` does, and what `use` does.
        """
        return use_verified(self.directory, self.manifest, self._file(path), use)

    def copy(self, path: str, target: int) -> None:
        """Write the verified bytes of the file `path` to a descriptor; raises as `read` does."""
        copy_verified(self.directory, self.manifest, self._file(path), target)

    def open(self, path: str) -> BinaryIO:
        """A stream of the verified bytes of the file `path`; raises NotFoundError, CorruptError."""
        return open_verified(self.directory, self.manifest, self._file(path))

    def memoryview(self, path: str, *, copy: bool) -> memoryview:
        """The verified bytes of the file `path`, mapped, or copied; raises as `read` does."""
        if copy:
            return memoryview(self.read(path))
        return map_verified(self.directory, self.manifest, self._file(path))

    def verified_path(self, path: str) -> Path:
        """The place of the file `path`, hashed now; raises NotFoundError, CorruptError."""
        file = self._file(path)
        self._refuse(release_faults(self.directory, self.manifest, [file], tagged=True))
        return self.directory / file.path

    def executing(self, is_over: Callable[[], bool] | None = None) -> AbstractContextManager[None]:
        """Something of the release is executed meanwhile; the beginning and the end are told.

        That it ended well is told only if `is_over` (by default: the import) then says that nothing
        is to follow, and no other thread executes anything of it. What is executed within is part
        of the whole.
        """
        if self._imported is None:
            return _TOLD_TO_NOBODY
        mine = (os.getpid(), threading.get_ident())
        if mine in self._executing:
            return _TOLD_TO_NOBODY
        return self._told(mine, is_over, self._imported)

    @contextmanager
    def _told(
        self,
        mine: tuple[int, int],
        is_over: Callable[[], bool] | None,
        imported: Callable[[BaseException | None], None],
    ) -> Iterator[None]:
        self._executing.add(mine)
        try:
            self._importing()
            yield
        except BaseException as error:
            self._executing.discard(mine)
            imported(error)
            raise
        else:
            self._executing.discard(mine)
            if not self.is_executing and (is_over() if is_over else _imports.is_over(self._prefix)):
                imported(None)
        finally:
            self._executing.discard(mine)

    def hand_out(self) -> None:
        """Code of the release goes to who may execute it by himself, as `runpy` does."""
        if (
            self._imported is not None
            and (os.getpid(), threading.get_ident()) not in self._executing
        ):
            self._importing()

    @property
    def is_executing(self) -> bool:
        """Whether a thread executes something of the release."""
        process = os.getpid()
        return any(one == process for one, _ in list(self._executing))

    def _file(self, path: str) -> File:
        """The file `path`; raises NotFoundError, and CorruptError where a link leads to it."""
        file = self.files.get(path) or self.manifest.file(path)
        directory = path.rpartition("/")[0]
        if directory not in self._sound:
            self._check_above(directory)
        return file

    def _check_above(self, directory: str) -> None:
        """Raise CorruptError where `directory`, or one that leads to it, is none itself."""
        above = [directory]
        while above[-1]:
            above.append(above[-1].rpartition("/")[0])
        self._check(above)

    def verify(self) -> None:
        """Read and hash every file; raises CorruptError naming all that are not as signed."""
        self.check_directories()
        self._refuse(release_faults(self.directory, self.manifest, self.files.values()))

    def check_directories(self) -> None:
        """Raise CorruptError naming the directories that are links, or none; hashes nothing."""
        self._check(directories_of(self.files))

    def _check(self, directories: Collection[str]) -> None:
        odd = odd_directories(self.directory, directories)
        self._refuse([Fault(path or ".", Damage.DAMAGED) for path in odd])
        self._sound.update(directories)

    def _refuse(self, faults: list[Fault]) -> None:
        if not faults:
            return
        release = self.manifest.release
        named = ", ".join(map(str, faults[:_MOST_NAMED]))
        more = f" and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
        raise CorruptError(
            f"{release} is not as it was signed: {named}{more}",
            paths=tuple(fault.path for fault in faults),
            remedy=f"Run 'pluginctl repair {release.plugin}'.",
            plugin=str(release.plugin),
        )

    def location(self, path: str) -> str:
        """Where `path` lies on this machine."""
        if not path:
            return self._top
        return self._prefix + (path if _SAME_SEPARATOR else path.replace("/", os.sep))

    def path_of(self, location: object) -> str | None:
        """The path of what would lie at `location`, or None where that is outside the release."""
        # Asked for every file that the process has sources or finders of, at each load. Importlib
        # passes over what is no string, in a `__path__` for one.
        if not isinstance(location, str):
            return None
        if os.sep == location[:1] and not _UNUSUAL.search(location):
            absolute = location
        else:
            try:
                absolute = os.path.abspath(location)  # noqa: PTH100 - must not resolve links: they may lie
            except OSError:  # relative to a working directory that is gone
                return None
        if absolute == self._top:
            return ""
        if not absolute.startswith(self._prefix):
            return None
        return absolute[len(self._prefix) :].replace(os.sep, posixpath.sep)
