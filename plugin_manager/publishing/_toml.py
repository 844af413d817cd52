"""Reading the TOML that people write: plugin.toml and repository.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from plugin_manager.document import Document
from plugin_manager.errors import InvalidInputError

__all__ = ["parse_toml", "read_toml"]


def read_toml(path: Path, *, most_bytes: int) -> str:
    """The text of the file `path`; raises InvalidInputError naming it (too large, not UTF-8).

    OSError comes as it is: only the caller knows what it means that the file is not there.
    """
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise InvalidInputError(
            f"{path}: is larger than {most_bytes} bytes",
            remedy="Make sure that it is the right file, and shorten it.",
            path=str(path),
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{path}: is not UTF-8 ({error})", remedy="Save it as UTF-8.", path=str(path)
        ) from error


def parse_toml(text: str, where: str) -> Document:
    """The document in `text`; raises InvalidInputError naming `where`."""
    try:
        value = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInputError(
            f"{where}: is not TOML ({error})",
            remedy="Correct the file at that place.",
            where=where,
        ) from error
    return Document(value)
