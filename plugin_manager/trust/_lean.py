"""python-tuf without the signers, which take a third of its import and verify nothing.

`securesystemslib.signer` imports every kind of signer that there is: clouds, GnuPG, hardware. Of
these python-tuf needs the names `Key`, `Signature` and `Signer` alone. While `lean_import` lasts,
the thread in it is given these; whoever asks the package for anything else, or later, or in another
thread, gets the whole package, imported at that moment.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from threading import RLock, get_ident
from types import ModuleType
from typing import Any

__all__ = ["lean_import"]

_PACKAGE = "securesystemslib.signer"
_NEEDED = {"Key": "_key", "Signature": "_signature", "Signer": "_signer"}


@contextlib.contextmanager
def lean_import() -> Iterator[None]:
    """Import python-tuf here; does nothing where the signers are imported already, or changed."""
    deferred = None
    if _PACKAGE not in sys.modules:
        deferred = _Deferred.place()
    try:
        yield
    finally:
        if deferred:
            deferred.importing_thread = None


class _Deferred:
    """The package in `sys.modules`, empty until something of it is needed."""

    def __init__(self, module: ModuleType) -> None:
        self.importing_thread: int | None = get_ident()
        self._module = module
        self._needed: dict[str, Any] = {}
        self._lock = RLock()
        self._begun = False

    @classmethod
    def place(cls) -> _Deferred | None:
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or spec.loader is None:
            return None
        module = importlib.util.module_from_spec(spec)
        deferred = cls(module)
        # Complete before others can find it, but for the submodules, which need it to be found.
        vars(module)["__getattr__"] = deferred.attribute
        sys.modules[_PACKAGE] = module
        try:
            for name, submodule in _NEEDED.items():
                found = importlib.import_module(f"{_PACKAGE}.{submodule}")
                deferred._needed[name] = getattr(found, name)
            key = importlib.import_module(f"{_PACKAGE}._key")
            kinds = _Kinds(deferred, key.KEY_FOR_TYPE_AND_SCHEME)
            kinds["ed25519", "ed25519"] = key.SSlibKey
            key.KEY_FOR_TYPE_AND_SCHEME = kinds  # type: ignore[attr-defined]
        except (ImportError, AttributeError):
            deferred.whole()
        return deferred

    def attribute(self, name: str) -> Any:
        """What the package's `__getattr__` returns."""
        if self.importing_thread == get_ident() and name in self._needed:
            return self._needed[name]
        self.whole()
        try:
            return vars(self._module)[name]
        except KeyError:
            raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}") from None

    def whole(self) -> None:
        """Import the package as it is, once; others wait for it."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
            try:
                spec = self._module.__spec__
                assert spec is not None
                assert spec.loader is not None
                spec.loader.exec_module(self._module)
            except BaseException:
                self._begun = False
                raise
            vars(self._module).pop("__getattr__", None)


class _Kinds(dict[Any, Any]):
    """The kinds of keys: the commonest is there; asking for another brings all that there are."""

    def __init__(self, deferred: _Deferred, known: dict[Any, Any]) -> None:
        super().__init__(known)
        self._deferred = deferred

    def __contains__(self, kind: object) -> bool:
        if not super().__contains__(kind):
            self._deferred.whole()
        return super().__contains__(kind)
