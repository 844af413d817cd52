"""A SOURCE, whichever kind it is: a directory with plugin.toml, or a wheel."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from attrs import evolve

from plugin_manager.errors import InvalidInputError
from plugin_manager.model import Platform, PluginName
from plugin_manager.publishing._bytecode import bytecode_files
from plugin_manager.publishing._payload import Payload
from plugin_manager.publishing._source import read_directory
from plugin_manager.publishing._vendor import read_wheel_source

__all__ = ["read_source", "with_bytecode"]


def read_source(
    source: Path,
    work: Path,
    *,
    publisher: str | None,
    platform: Platform | None,
    dependencies: Path | None,
    provided: Collection[str],
) -> Payload:
    """What the release in `source` comes to, a directory or a wheel; `work` is for files made.

    Raises InvalidInputError for arguments that do not go with it, and as the readers do.
    """
    if publisher is not None:
        PluginName.parse_part(publisher, "publisher")
    if source.suffix == ".whl":
        if publisher is None:
            raise InvalidInputError(
                f"{source}: a wheel does not say who publishes it as a plugin",
                remedy="Name the publisher with --publisher.",
            )
        return read_wheel_source(
            source,
            work,
            publisher=publisher,
            platform=platform,
            dependencies=dependencies,
            provided=provided,
        )
    if dependencies is not None:
        raise InvalidInputError(
            f"{source}: only a wheel says which dependencies to bring along",
            remedy="Leave out --with-dependencies, or give a wheel.",
        )
    payload = read_directory(source, platform=platform)
    if publisher is not None and payload.release.plugin.publisher != publisher:
        raise InvalidInputError(
            f"{source}: belongs to publisher {payload.release.plugin.publisher!r}, "
            f"not {publisher!r}",
            remedy="Leave out --publisher, or correct plugin.toml.",
        )
    return payload


def with_bytecode(payload: Payload, work: Path) -> Payload:
    """`payload` with the bytecode of its modules, made in `work`, in place of any it had."""
    directory = work / "bytecode"
    directory.mkdir()
    made = list(bytecode_files(payload.files, payload.python.root, directory))
    paths = {file.path for file in made}
    files = [file for file in payload.files if file.path not in paths]
    return evolve(payload, files=(*files, *made))
