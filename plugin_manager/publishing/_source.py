"""A SOURCE that is a directory: `plugin.toml` and the files beside it (docs/publishing.md)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from attrs import evolve

from plugin_manager._attrs import frozen
from plugin_manager.document import Document
from plugin_manager.errors import InvalidInputError, NotFoundError
from plugin_manager.manifest import About, PythonLayout, parse_requires
from plugin_manager.model import (
    ANY,
    BundlePath,
    EntryPoint,
    HostNeeds,
    Platform,
    PluginName,
    PluginRequirement,
    Release,
    parse_version,
)
from plugin_manager.publishing._payload import Payload, PayloadFile
from plugin_manager.publishing._toml import parse_toml, read_toml

__all__ = ["PLUGIN_FILE", "Description", "parse_description", "read_directory"]

PLUGIN_FILE = "plugin.toml"
CACHE_DIRECTORY = "__pycache__"  # what this machine left there is never published
MAX_PLUGIN_FILE_BYTES = 1024 * 1024

_TAG = re.compile(r"[a-z0-9_]{1,32}", re.ASCII)
_GLOB_PIECES = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}


@frozen
class Glob:
    """A pattern over whole paths: `*` and `?` stay within a part, `**` crosses parts."""

    text: str

    def matches(self, path: str) -> bool:
        """Whether `path` (relative, parts joined by `/`) is meant."""
        pieces = re.split(r"(\*\*/|\*\*|\*|\?)", self.text)
        return bool(re.fullmatch("".join(_GLOB_PIECES.get(p, re.escape(p)) for p in pieces), path))


@frozen
class Description:
    """A plugin.toml as a value; `files` is the directory of the payload, relative to it."""

    release: Release
    about: About
    files: BundlePath
    include: tuple[Glob, ...]
    exclude: tuple[Glob, ...]
    requirements: tuple[PluginRequirement, ...]
    needs: HostNeeds
    entry_points: tuple[EntryPoint, ...]
    python_root: str
    tags: tuple[tuple[Glob, str], ...]


def parse_description(text: str, where: str = PLUGIN_FILE) -> Description:
    """The description in `text`; raises InvalidInputError naming `where` and every fault's place.

    Unknown keys are faults: a typing error must not pass silently.
    """
    document = parse_toml(text, where)
    plugin = document.table("plugin", required=True)
    name = plugin.parsed("name", PluginName.parse)
    version = plugin.parsed("version", parse_version)
    platform = plugin.parsed("platform", Platform.parse, ANY)
    about = About(
        summary=plugin.text("summary", "", longest=500),
        description=plugin.text("description", "", longest=100_000),
        license=plugin.text("license", "", longest=500),
        homepage=plugin.text("homepage", "", longest=500),
    )
    files = plugin.parsed("files", BundlePath.parse, BundlePath("files"))
    include, exclude = (tuple(map(Glob, plugin.texts(key, []))) for key in ("include", "exclude"))
    requirements, needs = parse_requires(document.table("requires"))
    entry_points = tuple(_entry_points(document.table("entry-points")))
    python = document.table("python")
    root = "" if python.text("root", "") == "" else python.parsed("root", BundlePath.parse)
    tags = tuple(_tags(document.table("tags")))
    document.finish(where, strict=True, remedy="docs/publishing.md describes plugin.toml.")
    # or finish had raised
    assert name is not None
    assert version is not None
    assert platform is not None
    assert files is not None
    return Description(
        release=Release(name, version, platform),
        about=about,
        files=files,
        include=include,
        exclude=exclude,
        requirements=requirements,
        needs=needs,
        entry_points=entry_points,
        python_root=root or "",
        tags=tags,
    )


def _entry_points(groups: Document) -> Iterator[EntryPoint]:
    for group in groups.names():
        names = groups.table(group)
        for name in names.names():
            if not group.strip() or not name.strip():
                names.fault(name, "group and name must not be empty")
            entry = names.parsed(name, partial(EntryPoint.parse, group, name))
            if entry is not None:
                yield entry


def _tags(table: Document) -> Iterator[tuple[Glob, str]]:
    for glob in table.names():
        tag = table.parsed(glob, _parse_tag)
        if tag is not None:
            yield Glob(glob), tag


def _parse_tag(text: str) -> str:
    if not _TAG.fullmatch(text):
        raise InvalidInputError(
            f"{text!r} is not an interpreter's tag", remedy="Write for instance cp311."
        )
    return text


def read_directory(source: Path, *, platform: Platform | None = None) -> Payload:
    """What the directory `source` describes; its files stay where they are.

    Raises NotFoundError where it, or its plugin.toml, is not there, InvalidInputError for
    everything else that is wrong with it: all faults of plugin.toml together, then all those of
    the files together.
    """
    path = source / PLUGIN_FILE
    try:
        text = read_toml(path, most_bytes=MAX_PLUGIN_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            f"{source} has no {PLUGIN_FILE}" if source.exists() else f"{source} does not exist",
            remedy="Give a directory with plugin.toml, or a wheel.",
            path=str(path),
        ) from error
    description = parse_description(text, str(path))
    release = description.release
    if platform is not None:
        release = evolve(release, platform=platform)
    return Payload(
        release=release,
        about=description.about,
        files=tuple(_chosen(description, source / description.files, str(path))),
        requirements=description.requirements,
        needs=description.needs,
        entry_points=description.entry_points,
        python=PythonLayout(root=description.python_root),
    )


def _chosen(description: Description, directory: Path, where: str) -> Iterable[PayloadFile]:
    if directory.is_symlink() or not directory.is_dir():
        raise InvalidInputError(
            f"{where}: plugin.files: there is no directory {directory}",
            remedy="Put the plugin's files there, or name the directory in plugin.files.",
            path=str(directory),
        )
    found: list[PayloadFile] = []
    faults: list[str] = []
    for relative, path, status in _walk(directory):
        if any(glob.matches(relative) for glob in description.exclude):
            continue
        if description.include and not any(g.matches(relative) for g in description.include):
            continue
        if not stat.S_ISREG(status.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
            faults.append(f"{path}: is {kind}; bundles hold only regular files")
            continue
        try:
            bundle_path = BundlePath.parse(relative)
        except InvalidInputError as error:
            faults.append(f"{path}: {error.message}")
            continue
        tag = next((tag for glob, tag in description.tags if glob.matches(relative)), "")
        executable = bool(status.st_mode & stat.S_IXUSR)
        found.append(PayloadFile(bundle_path, path, executable, tag))
    if faults:
        raise InvalidInputError.of(
            str(directory), faults, remedy="Replace, rename or exclude the file."
        )
    _check_globs(description, [file.path for file in found], where)
    return found


def _walk(directory: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Everything below `directory` that is not a directory; links are never followed."""
    for parent, names, files in os.walk(directory):
        names.sort()
        here = Path(parent)
        links = [name for name in names if (here / name).is_symlink()]
        names[:] = [name for name in names if name not in links and name != CACHE_DIRECTORY]
        for name in sorted(files + links):
            path = here / name
            yield path.relative_to(directory).as_posix(), path, path.lstat()


def _check_globs(description: Description, paths: list[BundlePath], where: str) -> None:
    faults = [
        f"{place}: {glob.text!r} matches no file"
        for place, globs in (
            ("plugin.include", description.include),
            ("tags", tuple(glob for glob, _ in description.tags)),
        )
        for glob in globs
        if not any(glob.matches(path) for path in paths)
    ]
    prefix = f"{description.python_root}/"
    if description.python_root and not any(path.startswith(prefix) for path in paths):
        faults.append(f"python.root: there are no files below {description.python_root!r}")
    if faults:
        raise InvalidInputError.of(
            where, faults, remedy="Correct it in plugin.toml, or add the files."
        )
