"""Plugins, wheels and repositories made by hand, for the publisher's tests."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from plugin_manager import bundle
from plugin_manager.bundle import Head
from plugin_manager.publishing import Published, Repository

PASSPHRASE = "open sesame"

PLUGIN = """\
[plugin]
name = "acme/maps"
version = "{version}"
summary = "Maps."
"""


class Clock:
    """A clock moved by hand; it begins now, since python-tuf's client asks the computer's."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, **much: float) -> None:
        self.moment += timedelta(**much)


def make_repository(directory: Path, clock: Clock | None = None) -> Repository:
    """A repository with the publisher acme."""
    repository = Repository.create(directory, passphrase=PASSPHRASE, now=clock or Clock())
    repository.add_publisher("acme")
    return repository


def make_plugin(
    directory: Path,
    files: Mapping[str, bytes | str],
    *,
    version: str = "1.0",
    toml: str | None = None,
) -> Path:
    """A SOURCE directory with a plugin.toml and a payload."""
    for path, content in files.items():
        target = directory / "files" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "plugin.toml").write_text(toml or PLUGIN.format(version=version))
    return directory


def record_hash(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def make_wheel(
    directory: Path,
    name: str = "demo",
    version: str = "1.0",
    *,
    files: Mapping[str, bytes | str] | None = None,
    requires: Sequence[str] = (),
    metadata: str = "",
    tag: str = "py3-none-any",
    entry_points: str = "",
    change: Callable[[dict[str, bytes]], None] = lambda members: None,
    change_after_record: Callable[[dict[str, bytes]], None] = lambda members: None,
    modes: Mapping[str, int] | None = None,
) -> Path:
    """A wheel with a right RECORD; the changes see its members before and after that is made."""
    if files is None:
        files = {f"{name}/__init__.py": f"NAME = {name!r}\n"}
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {requirement}" for requirement in requires),
    ]
    members = {
        path: content.encode() if isinstance(content, str) else content
        for path, content in files.items()
    }
    members[f"{info}/METADATA"] = ("\n".join(lines) + f"\n{metadata}\n").encode()
    members[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nTag: {tag}\n".encode()
    if entry_points:
        members[f"{info}/entry_points.txt"] = entry_points.encode()
    change(members)
    rows = [f"{path},{record_hash(data)},{len(data)}" for path, data in members.items()]
    members[f"{info}/RECORD"] = ("\n".join([*rows, f"{info}/RECORD,,"]) + "\n").encode()
    change_after_record(members)
    directory.mkdir(parents=True, exist_ok=True)
    wheel = directory / f"{name.replace('-', '_')}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items():
            member = zipfile.ZipInfo(path)
            member.external_attr = (modes or {}).get(path, 0o100644) << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    return wheel


def bundle_file(repository: Repository, published: Published) -> Path:
    parent, _, name = published.target_path.rpartition("/")
    return repository.public / "targets" / parent / f"{published.sha256}.{name}"


def head_of(repository: Repository, published: Published) -> Head:
    with bundle_file(repository, published).open("rb") as file:
        return bundle.read_head(file.read(published.head_length))


def contents(repository: Repository, published: Published) -> dict[str, bytes]:
    """Every file of a bundle, put together from its chunks as a client would."""
    data = bundle_file(repository, published).read_bytes()
    head = head_of(repository, published)
    manifest = head.manifest
    frames = [
        bundle.decode_frame(data[slice(*head.frame_span(index))], length)
        for index, length in enumerate(manifest.columns.frame_content_lengths)
    ]
    return {
        str(file.path): b"".join(
            frames[chunk.frame][chunk.frame_offset : chunk.frame_offset + chunk.length]
            for chunk in manifest.chunks(file)
        )
        for file in manifest.files
    }


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file below `directory`, but for the locks."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.endswith("lock")
    }
