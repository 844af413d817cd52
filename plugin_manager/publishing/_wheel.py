"""A SOURCE that is a wheel: what its own metadata says, and its files, each checked by its RECORD.

The wheel is read member by member with own path rules; nothing is ever extracted by name. Format:
the binary distribution format (PyPA), recording installed projects, entry points specification.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from email.parser import BytesParser
from pathlib import Path

from attrs import field
from packaging.metadata import InvalidMetadata, Metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag
from packaging.utils import (
    InvalidWheelFilename,
    NormalizedName,
    canonicalize_name,
    parse_wheel_filename,
)
from packaging.version import Version

from plugin_manager._attrs import frozen
from plugin_manager.errors import InvalidInputError, NotFoundError
from plugin_manager.manifest import About
from plugin_manager.model import BundlePath, EntryPoint
from plugin_manager.publishing._payload import PayloadFile

__all__ = ["Wheel", "read_wheel", "unpack", "wheel_name"]

MAX_METADATA_BYTES = 32 * 1024 * 1024
MAX_DESCRIPTION = 100_000
MAX_LINE = 500

_COPY_BYTES = 1024 * 1024
_RECORD_HASHES = frozenset({"sha256", "sha384", "sha512"})
_IMPORTABLE_SCHEMES = frozenset({"purelib", "platlib"})
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


@frozen
class Wheel:
    """What a wheel says about itself. `dist_info` is its metadata directory's name."""

    path: Path
    name: NormalizedName
    version: Version
    tags: frozenset[Tag]
    about: About
    requires_python: SpecifierSet
    requires: tuple[Requirement, ...]
    entry_points: tuple[EntryPoint, ...]
    dist_info: str
    record: Mapping[str, tuple[str, str, str]] = field(repr=False)

    def __str__(self) -> str:
        return self.path.name


def wheel_name(path: Path) -> tuple[NormalizedName, Version, tuple[int, str], frozenset[Tag]]:
    """Name, version, build and tags, as the wheel's file name says; raises InvalidInputError.

    The build is a number and a text, 0 and "" without one.
    """
    try:
        name, version, build, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise InvalidInputError(
            f"{path}: is not the file name of a wheel ({error})",
            remedy="Give back the wheel its own name: name-version-python-abi-platform.whl.",
            path=str(path),
        ) from error
    return name, version, build or (0, ""), tags


class _Archive:
    """The members of a wheel by name; every failure names the wheel and the member."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"there is no file {path}", remedy="Check the path.", path=str(path)
            ) from error
        except _DAMAGED as error:
            raise InvalidInputError(
                f"{path}: is not a wheel, or is damaged ({error})",
                remedy="Fetch or build it again.",
                path=str(path),
            ) from error
        self.members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        if len(self.members) != sum(not info.is_dir() for info in self._zip.infolist()):
            self.close()
            raise self.fault("", "holds a name twice")

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._zip.close()

    def fault(self, member: str, what: str) -> InvalidInputError:
        """The error for `member` of this wheel."""
        place = f"{member}: " if member else ""
        return InvalidInputError(
            f"{self.path}: {place}{what}",
            remedy="Fetch or build the wheel again.",
            path=str(self.path),
            member=member,
        )

    def read(self, member: str) -> bytes:
        """A small member, whole."""
        if member not in self.members:
            raise self.fault(member, "is missing")
        if self.members[member].file_size > MAX_METADATA_BYTES:
            raise self.fault(member, f"is larger than {MAX_METADATA_BYTES} bytes")
        return b"".join(self.pieces(member))

    def text(self, member: str) -> str:
        """A small member as UTF-8."""
        try:
            return self.read(member).decode()
        except UnicodeDecodeError as error:
            raise self.fault(member, f"is not UTF-8 ({error})") from error

    def pieces(self, member: str) -> Iterator[bytes]:
        """The member's bytes, at most as many as it declares."""
        try:
            with self._zip.open(self.members[member]) as stream:
                while piece := stream.read(_COPY_BYTES):
                    yield piece
        except _DAMAGED as error:
            raise self.fault(member, f"is damaged ({error})") from error


def read_wheel(path: Path) -> Wheel:
    """What the wheel at `path` says; raises InvalidInputError naming it and the place in it."""
    name, version, _, tags = wheel_name(path)
    with _Archive(path) as archive:
        dist_info = _dist_info(archive, name)
        _check_wheel_version(archive, f"{dist_info}/WHEEL")
        place = f"{dist_info}/METADATA"
        try:
            metadata = Metadata.from_email(archive.read(place), validate=False)
            said = (canonicalize_name(metadata.name), metadata.version)
            if said != (name, version):
                raise archive.fault(place, f"is that of {said[0]} {said[1]}")
            return Wheel(
                path=path,
                name=name,
                version=version,
                tags=tags,
                about=_about(metadata),
                requires_python=metadata.requires_python or SpecifierSet(),
                requires=tuple(metadata.requires_dist or ()),
                entry_points=tuple(_entry_points(archive, f"{dist_info}/entry_points.txt")),
                dist_info=dist_info,
                record=_record(archive, f"{dist_info}/RECORD"),
            )
        except (InvalidMetadata, ExceptionGroup) as error:
            raise archive.fault(place, str(error)) from error


def _dist_info(archive: _Archive, name: NormalizedName) -> str:
    found = sorted({m.partition("/")[0] for m in archive.members if ".dist-info/" in m})
    found = [directory for directory in found if directory.endswith(".dist-info")]
    if len(found) != 1:
        raise archive.fault("", f"must have one .dist-info directory, has {len(found)}")
    if canonicalize_name(found[0].partition("-")[0]) != name:
        raise archive.fault(found[0], "does not belong to a wheel of this name")
    return found[0]


def _check_wheel_version(archive: _Archive, place: str) -> None:
    version = BytesParser().parsebytes(archive.read(place)).get("Wheel-Version", "")
    if str(version).strip().partition(".")[0] != "1":
        raise archive.fault(place, f"Wheel-Version is {version!r}, this program reads 1.x")


def _about(metadata: Metadata) -> About:
    urls = {key.lower(): url for key, url in (metadata.project_urls or {}).items()}
    terms = metadata.license_expression or metadata.license or ""
    return About(
        summary=(metadata.summary or "")[:MAX_LINE],
        description=(metadata.description or "")[:MAX_DESCRIPTION],
        # Some packages put the whole text of their licence here; it is in the dist-info anyway.
        license=terms if len(terms) <= MAX_LINE and "\n" not in terms else "",
        homepage=(metadata.home_page or urls.get("homepage") or "")[:MAX_LINE],
    )


def _entry_points(archive: _Archive, place: str) -> Iterator[EntryPoint]:
    if place not in archive.members:
        return
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case, as configparser documents
    try:
        parser.read_string(archive.text(place))
        for group in parser.sections():
            for name, value in parser.items(group):
                yield EntryPoint.parse(group, name, value)
    except configparser.Error as error:
        raise archive.fault(place, f"cannot be read ({error})".replace("\n", " ")) from error
    except InvalidInputError as error:
        raise archive.fault(place, error.message) from error


def _record(archive: _Archive, place: str) -> dict[str, tuple[str, str, str]]:
    """RECORD as (algorithm, digest in URL-safe base64, size) by path."""
    rows = {}
    try:
        for number, row in enumerate(csv.reader(io.StringIO(archive.text(place))), 1):
            if not row:
                continue
            if len(row) != len(("path", "hash", "size")):
                raise archive.fault(place, f"line {number} has {len(row)} fields, not 3")
            algorithm, _, digest = row[1].partition("=")
            rows[row[0]] = (algorithm, digest, row[2])
    except csv.Error as error:
        raise archive.fault(place, f"cannot be read ({error})") from error
    return rows


def unpack(wheel: Wheel, directory: Path) -> tuple[list[PayloadFile], list[str]]:
    """The wheel's files as they lie in site-packages, and notes on what was not brought along.

    Their bytes are put into `directory`, which is made. Every file's hash is checked against
    RECORD. Scripts, headers and data, which have no place in a bundle, stay behind. Raises
    InvalidInputError naming the wheel and the member.
    """
    files = []
    left_out: set[str] = set()
    directory.mkdir()
    with _Archive(wheel.path) as archive:
        record = f"{wheel.dist_info}/RECORD"
        own = {record, f"{record}.jws", f"{record}.p7s"}
        for absent in sorted(set(wheel.record) - set(archive.members) - own):
            raise archive.fault(absent, "is in RECORD, but not in the wheel")
        moved: dict[str, str] = {}
        for number, (member, info) in enumerate(sorted(archive.members.items())):
            if stat.S_ISLNK(info.external_attr >> 16):
                raise archive.fault(member, "is a symbolic link; bundles hold only regular files")
            path, scheme = _installed_path(archive, wheel, member)
            target = directory / str(number)
            _copy(archive, member, target, None if member in own else wheel.record)
            if path is None:
                left_out.add(scheme)
                continue
            moved[member] = path
            if "__pycache__" not in path.parts:
                executable = bool((info.external_attr >> 16) & stat.S_IXUSR)
                files.append(PayloadFile(path, target, executable))
        if any(member != path for member, path in moved.items()):
            # As an installer does: RECORD says where the files are, not where they were.
            target = next(file.source for file in files if file.path == record)
            target.write_text(_rewritten(wheel, moved), "utf-8")
    notes = [f"{wheel}: left out its {scheme}" for scheme in sorted(left_out)]
    return files, notes


def _installed_path(archive: _Archive, wheel: Wheel, member: str) -> tuple[BundlePath | None, str]:
    """Where `member` belongs below the import root; None and its scheme where it does not."""
    first, _, rest = member.partition("/")
    path = member
    if first == wheel.dist_info.removesuffix(".dist-info") + ".data":
        scheme, _, path = rest.partition("/")
        if scheme not in _IMPORTABLE_SCHEMES:
            return None, scheme
    try:
        return BundlePath.parse(path), ""
    except InvalidInputError as error:
        raise archive.fault(member, error.message) from error


def _copy(
    archive: _Archive,
    member: str,
    target: Path,
    record: Mapping[str, tuple[str, str, str]] | None,
) -> None:
    """Write the member to `target`, checked by `record` where that is given."""
    algorithm, digest, size = ("sha256", "", "")
    if record is not None:
        if member not in record:
            raise archive.fault(member, "is not in RECORD")
        algorithm, digest, size = record[member]
        if algorithm not in _RECORD_HASHES:
            raise archive.fault(member, f"RECORD has no good hash for it ({algorithm or 'none'})")
    hasher = hashlib.new(algorithm)
    count = 0
    with target.open("wb") as file:
        for piece in archive.pieces(member):
            hasher.update(piece)
            count += len(piece)
            file.write(piece)
    if record is None:
        return
    found = base64.urlsafe_b64encode(hasher.digest()).rstrip(b"=").decode()
    if found != digest.rstrip("=") or (size and size != str(count)):
        raise archive.fault(member, "does not match its hash in RECORD")


def _rewritten(wheel: Wheel, moved: Mapping[str, str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for member, path in sorted(moved.items(), key=lambda item: item[1]):
        algorithm, digest, size = wheel.record.get(member, ("", "", ""))
        writer.writerow([path, f"{algorithm}={digest}" if digest else "", size])
    return text.getvalue()
