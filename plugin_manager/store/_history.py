"""The generations on disk and the one that `current` names: reading, appending, recovering."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from plugin_manager.durable import (
    disk_errors,
    read_regular,
    set_aside,
    sync_directory,
    write_atomically,
)
from plugin_manager.errors import CorruptError, NotFoundError
from plugin_manager.model import PluginName
from plugin_manager.store import _generations
from plugin_manager.store._generations import EMPTY, Active, Change, Generation, Record

__all__ = ["History"]

R = TypeVar("R", bound=Record)

_GENERATION_NAME = re.compile(r"([1-9][0-9]{0,14})\.json", re.ASCII)
_COUNTED_NUMBERS = 10**14  # numbers from here on were planted: what follows needs a name too
_MOST_TEXT = 500  # of what a command was; `changes` say all that it did
_MOST_BYTES = _generations.MAX_GENERATION_BYTES
_REMEDY = "Run 'pluginctl repair' to go on from the newest good generation."


class History:
    """The generations of the store in `directory`. What writes is for the holder of its lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._current_path = directory / "current"
        self._read: tuple[bytes, Generation] | None = None

    # --- reading -------------------------------------------------------------------------------

    def current(self) -> Generation:
        """The current generation (the empty one in a new store); raises CorruptError.

        What this process has parsed before is not parsed again while `current` is the same.
        """
        data = self.data()
        if self._read is None or self._read[0] != data:
            self._read = data, _generations.parse(data, "current") if data else EMPTY
        return self._read[1]

    def data(self) -> bytes:
        """The content of `current`; empty in a new store only."""
        with disk_errors(self._directory):
            try:
                # An empty file is a damaged one, not a new store.
                return read_regular(self._current_path, _MOST_BYTES) or b"\n"
            except FileNotFoundError:
                if not self._has_content():
                    return b""
                raise CorruptError(
                    "current is missing", paths=("current",), remedy=_REMEDY
                ) from None

    def _has_content(self) -> bool:
        """Whether there is anything that `current` should lead to."""
        for name in ("generations", "manifests", "releases"):
            with contextlib.suppress(FileNotFoundError):
                if any((self._directory / name).iterdir()):
                    return True
        return False

    def numbers(self) -> list[int]:
        """The numbers of the generations on disk, newest first; files may be damaged."""
        try:
            names = os.listdir(self._directory / "generations")  # noqa: PTH208 - only names needed
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = (_GENERATION_NAME.fullmatch(name) for name in names)
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def path(self, number: int) -> Path:
        """The file of generation `number`."""
        return self._directory / "generations" / f"{number}.json"

    def generation(self, number: int) -> Generation:
        """The generation `number`; raises NotFoundError or CorruptError."""
        return self._parsed(number, self._data(number))

    def _parsed(self, number: int, data: bytes) -> Generation:
        name = f"generations/{number}.json"
        return self._numbered(number, _generations.parse(data, name))

    def _record(self, number: int) -> Record:
        name = f"generations/{number}.json"
        return self._numbered(number, _generations.parse_record(self._data(number), name))

    @staticmethod
    def _numbered(number: int, record: R) -> R:
        if record.number != number:
            name = f"generations/{number}.json"
            raise CorruptError(f"{name} is generation {record.number}", paths=(name,))
        return record

    def _data(self, number: int) -> bytes:
        if number == 0:
            return _generations.render(EMPTY)
        with disk_errors(self._directory):
            try:
                return read_regular(
                    self.path(number),
                    _MOST_BYTES,
                    f"generations/{number}.json",
                )
            except FileNotFoundError:
                raise NotFoundError(
                    f"there is no generation {number}",
                    remedy="'pluginctl history' lists those that there are.",
                    number=number,
                ) from None

    def records(self) -> list[Record]:
        """The readable records up to the current generation's, newest first."""
        return self.read()[0]

    def damaged(self) -> list[str]:
        """The names of the generation files, up to the current one, that cannot be read."""
        return self.read()[1]

    def read(self) -> tuple[list[Record], list[str]]:
        """Both `records` and what is `damaged`."""
        current, data = self.current(), self.data()
        good: list[Record] = [current] if current.number else []
        damaged = []
        if current.number and not self._is_copy(current.number, data):
            damaged.append(f"generations/{current.number}.json")
        for number in self.numbers():
            if number < current.number:
                try:
                    good.append(self._record(number))
                except CorruptError:
                    damaged.append(f"generations/{number}.json")
                except NotFoundError:  # collected meanwhile
                    continue
        return good, damaged

    def _is_copy(self, number: int, data: bytes) -> bool:
        try:
            return self._data(number) == data
        except (CorruptError, NotFoundError):
            # Unless it is no longer the current one, and was collected.
            return self.data() != data

    # --- writing -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Give a new store its `current`. Writes."""
        if not os.path.lexists(self._current_path) and not self._has_content():
            sync_directory(self._directory)
            self._switch(EMPTY)

    def append(
        self, changes: Mapping[PluginName, Active | None], action: str, now: datetime
    ) -> Generation:
        """Make a new current generation, with `changes` (None: no longer active). Writes."""
        current = self.current()
        active = {**current.active, **changes}
        generation = Generation(
            number=current.number + 1,
            created=now.replace(microsecond=0),
            action=action if len(action) <= _MOST_TEXT else f"{action[: _MOST_TEXT - 1]}…",
            changes=tuple(
                Change(plugin, current.active.get(plugin), after)
                for plugin, after in sorted(changes.items())
                if current.active.get(plugin) != after
            ),
            active={plugin: one for plugin, one in active.items() if one is not None},
        )
        self._switch(generation)
        return generation

    def _switch(self, generation: Generation) -> None:
        data = _generations.render(generation)
        if generation.number:
            write_atomically(self.path(generation.number), data)
        write_atomically(self._current_path, data)

    def mend(self) -> list[str]:
        """Take damaged records out of the history, the current one's being written anew.

        Returns their names. Writes.
        """
        names = self.damaged()
        current, data = self.current(), self.data()
        for name in names:
            if os.path.lexists(self._directory / name):
                set_aside(self._directory / name)
            if name == f"generations/{current.number}.json":
                write_atomically(self._directory / name, data)
        sync_directory(self._directory / "generations")
        return names

    def recover(
        self, on_disk: Callable[[], Mapping[PluginName, Active]], now: datetime
    ) -> Generation:
        """Make the newest good generation current, or one with `on_disk` where there is none.

        Writes. For where `current` is damaged.
        """
        numbers = [number for number in self.numbers() if number < _COUNTED_NUMBERS]
        good = None
        for number in numbers:
            with contextlib.suppress(CorruptError, NotFoundError):
                good = self.generation(number)
                break
        if good and good.number == numbers[0]:
            self._switch(good)
            return good
        origin = f"generation {good.number}" if good else "what is on disk"
        number = max(numbers, default=0) + 1
        while os.path.lexists(self.path(number)):
            number += 1
        recovered = Generation(
            number=number,
            created=now.replace(microsecond=0),
            action=f"repair: went on from {origin}",
            active=good.active if good else on_disk(),
        )
        self._switch(recovered)
        return recovered
