"""The loaders of a release's modules: each executes the very bytes that it has read and hashed.

They deliberately are no `SourceFileLoader` and no `ExtensionFileLoader`: tools that meet those
(assertion rewriting, type checking hooks) read the file again themselves.
"""

from __future__ import annotations

import _imp
import errno
import io
import linecache
import marshal
import os
import posixpath
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import abc, machinery
from importlib.util import MAGIC_NUMBER, cache_from_source
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from plugin_manager.errors import CorruptError, PluginManagerError
from plugin_manager.loader._modules import Kind
from plugin_manager.loader._native import load_extension
from plugin_manager.loader._tree import BYTECODE_TAG, Tree

if TYPE_CHECKING:
    from plugin_manager.loader._resources import ResourceReader

__all__ = ["LOADERS", "NamespaceLoader"]

_HEADER_BYTES = 16  # PEP 552: the magic number, flags, and what they say
_UNCHECKED = MAGIC_NUMBER + (0b01).to_bytes(4, "little")  # by a hash that is not to be compared

# What `module.py` becomes: ".cpython-311.pyc", "….opt-1.pyc" where this process optimises. Only of
# the name: sys.pycache_prefix may send the rest anywhere.
_BYTECODE_SUFFIX = os.path.basename(cache_from_source("x.py"))[1:]  # noqa: PTH119 - a string


class _Verified:
    """What all loaders share: the file `path` of `tree`, for the module `name`.

    Python code executes with `builtins` where they are given.
    """

    cached: str | None = None  # where the module's bytecode lies, if that is known

    def __init__(
        self, tree: Tree, name: str, path: str, builtins: dict[str, object] | None = None
    ) -> None:
        self.tree = tree
        self.name = name
        self.location = tree.location(path)
        self._path = path
        self._builtins = builtins

    def create_module(self, spec: machinery.ModuleSpec) -> ModuleType | None:
        """The module, where it is to execute with other `builtins` than the usual, else None."""
        if self._builtins is None:
            return None
        module = ModuleType(spec.name)
        vars(module)["__builtins__"] = self._builtins
        return module

    def _check_loaded(self) -> None:
        """Raise ImportError where the release was unloaded, since the module was found perhaps."""
        if self.tree.unloaded:
            release = self.tree.manifest.release
            raise ImportError(f"{release}, which has {self.name}, was unloaded", name=self.name)

    def _check_present(self) -> None:
        """Raise ImportError where the release was unloaded while the module was executed.

        `importlib` takes the module from `sys.modules` next: that would be a KeyError.
        """
        if self.tree.unloaded and self.name not in sys.modules:
            self._check_loaded()

    def get_filename(self, fullname: str) -> str:
        """The place of the module's file; raises ImportError for another module's name."""
        if fullname != self.name:
            raise ImportError(f"loader for {self.name} cannot handle {fullname}", name=fullname)
        return self.location

    def is_package(self, fullname: str) -> bool:
        """Whether the module is a package; raises ImportError for another module's name."""
        self.get_filename(fullname)
        return posixpath.basename(self._path).partition(".")[0] == "__init__"

    def get_data(self, path: str) -> bytes:
        """The verified bytes of the file at the location `path`, which must be the release's own.

        Raises OSError where it is not, CorruptError.
        """
        within = self.tree.path_of(path)
        if within is None or not self.tree.is_file(within):
            raise FileNotFoundError(errno.ENOENT, "not a file of the plugin", path)
        return self.tree.read(within)

    def get_resource_reader(self, fullname: str) -> ResourceReader | None:
        """The reader of a package's data, None for a module."""
        if not self.is_package(fullname):
            return None
        from plugin_manager.loader._resources import Resource, ResourceReader  # noqa: PLC0415 - slow

        return ResourceReader(Resource([(self.tree, posixpath.dirname(self._path))]))


class _SourceLoader(_Verified, abc.SourceLoader):  # type: ignore[misc]  # typeshed contradicts itself
    """Source, or the bytecode that the manifest has for this interpreter.

    Nothing is ever written.
    """

    def __init__(
        self, tree: Tree, name: str, path: str, builtins: dict[str, object] | None = None
    ) -> None:
        super().__init__(tree, name, path, builtins)
        directory, slash, base = path.rpartition("/")
        bytecode = f"{directory}{slash}__pycache__/{base.removesuffix('.py')}{_BYTECODE_SUFFIX}"
        file = tree.files.get(bytecode)
        self._bytecode = ""  # or its path in the manifest
        if file is not None and file.tag == BYTECODE_TAG:
            self._bytecode = bytecode
            self.cached = tree.location(bytecode)

    def get_code(self, fullname: str) -> CodeType | None:
        """The module's code; raises CorruptError, SyntaxError."""
        location = self.get_filename(fullname)
        self.tree.hand_out()
        if self._bytecode:
            try:
                return self.tree.use(self._bytecode, self._decoded)
            except CorruptError:
                if self.tree.is_file(self._bytecode):  # it need not be there
                    raise
        return self.source_to_code(self.get_data(location), location)

    def _decoded(self, data: memoryview) -> CodeType | None:
        """The code in the bytecode `data`, or that of the source, as `importlib` would choose."""
        if (
            data[: len(_UNCHECKED)] == _UNCHECKED
            and len(data) > _HEADER_BYTES
            and _imp.check_hash_based_pycs != "always"
        ):
            # What `importlib` does in the end, which for small modules takes longer to decide.
            code = marshal.loads(data[_HEADER_BYTES:])  # noqa: S302 - it is as it was signed
            if isinstance(code, CodeType):
                _imp._fix_co_filename(code, self.location)  # type: ignore[attr-defined]  # is there
                return code
        return _Bytecode(self.location, data, self.get_data).get_code(self.name)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, whose source tracebacks will show as it was signed."""
        # The form that linecache keeps for sources without a file: no time, so never out of date.
        # It wants a list, and only ever indexes, slices and joins it.
        lines: Any = _Lines(self)
        size = self.tree.files[self._path].size
        self._check_loaded()
        linecache.cache[self.location] = (size, None, lines, self.location)
        with self.tree.executing():
            super().exec_module(module)
        self._check_present()


class _Bytecode(abc.SourceLoader):
    """The choice between the bytecode `data` and the source at `location`, as `importlib` makes it.

    Bytecode with another magic number, or a time stamp, is passed over; other code is told where
    its source lies.
    """

    def __init__(self, location: str, data: memoryview, read: Callable[[str], bytes]) -> None:
        self._location, self._data, self._read = location, data, read

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 - the interface's
        return self._location

    def path_stats(self, path: str) -> dict[str, int]:  # noqa: ARG002 - the interface's
        """No time that bytecode could have: there is no other way to say that it is hashed."""
        return {"mtime": 0, "size": 0}

    def get_data(self, path: str) -> Any:
        """The source as bytes; for any other place the bytecode, which is memory on loan."""
        return self._read(path) if path == self._location else self._data


class _Lines(Sequence[str]):
    """A source's lines, read when the first is asked for; none where that fails.

    Whoever asks is about to show a traceback: the wrong time for another error.
    """

    def __init__(self, loader: _SourceLoader) -> None:
        self._loader = loader

    @cached_property
    def _lines(self) -> list[str]:
        try:
            return io.StringIO(self._loader.get_source(self._loader.name)).readlines()
        except (PluginManagerError, ImportError, SyntaxError, UnicodeDecodeError):
            return []

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: Any) -> Any:  # an index or a slice, as list has it
        return self._lines[index]


class _BytecodeLoader(_Verified, machinery.SourcelessFileLoader):  # type: ignore[misc]  # narrower
    """A module that comes as bytecode only; `get_data` is what makes its bytes verified."""

    def __init__(
        self, tree: Tree, name: str, path: str, builtins: dict[str, object] | None = None
    ) -> None:
        _Verified.__init__(self, tree, name, path, builtins)
        machinery.SourcelessFileLoader.__init__(self, name, self.location)

    def get_code(self, fullname: str) -> CodeType | None:
        """The module's code; raises CorruptError, ImportError."""
        self.tree.hand_out()
        return super().get_code(fullname)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module."""
        self._check_loaded()
        with self.tree.executing():
            super().exec_module(module)
        self._check_present()


class _ExtensionLoader(_Verified, abc.ExecutionLoader):
    """Native code, mapped from bytes that nobody can change any more."""

    def create_module(self, spec: machinery.ModuleSpec) -> ModuleType:
        """The module, its library mapped; raises ImportError, CorruptError."""
        self._check_loaded()
        # Mapping a library runs code of it already, but only what follows shows that it is good.
        with self.tree.executing(lambda: False):
            return load_extension(self.tree, self._path, spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's execution slots."""
        self._check_loaded()
        with self.tree.executing():
            machinery.ExtensionFileLoader(self.name, self.location).exec_module(module)
        self._check_present()

    def get_code(self, fullname: str) -> None:
        """None: there is no Python code."""

    def get_source(self, fullname: str) -> None:
        """None: there is no source."""


class NamespaceLoader(abc.InspectLoader):
    """The loader of a package without a file, whose portions `portions` gives when asked."""

    def __init__(self, portions: Callable[[], Sequence[tuple[Tree, str]]]) -> None:
        self._portions = portions

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002 - the interface's
        """True."""
        return True

    def get_source(self, fullname: str) -> str:  # noqa: ARG002 - the interface's
        """Nothing."""
        return ""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - the interface's
        """The code of an empty module."""
        return compile("", "<namespace package>", "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is to be executed."""

    def get_resource_reader(self, fullname: str) -> ResourceReader:  # noqa: ARG002 - the interface's
        """The reader of the data in all portions that releases brought."""
        from plugin_manager.loader._resources import Resource, ResourceReader  # noqa: PLC0415 - slow

        return ResourceReader(Resource(self._portions()))


LOADERS: dict[Kind, type[_SourceLoader | _BytecodeLoader | _ExtensionLoader]] = {
    Kind.SOURCE: _SourceLoader,
    Kind.BYTECODE: _BytecodeLoader,
    Kind.EXTENSION: _ExtensionLoader,
}
