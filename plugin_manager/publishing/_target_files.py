"""The files that targets name, below public/targets: each under its digest, verified when read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # an implicit re-export

from plugin_manager import bundle
from plugin_manager import catalogue as catalogue_format
from plugin_manager import index as index_format
from plugin_manager.catalogue import Catalogue, catalogue_path
from plugin_manager.durable import move_into_place, write_atomically
from plugin_manager.errors import InvalidInputError, UntrustedError
from plugin_manager.index import Listed, index_path
from plugin_manager.manifest import About, Manifest
from plugin_manager.model import PluginName, Release, publisher_role
from plugin_manager.publishing._metadata import Chain
from plugin_manager.publishing._payload import served_name

__all__ = ["TargetFiles", "plugins_of"]


def plugins_of(targets: Iterable[str]) -> list[PluginName]:
    """The plugins whose catalogues are among `targets`, by name."""
    ending = "/catalogue.json"
    return sorted(
        PluginName.parse(path.removesuffix(ending)) for path in targets if path.endswith(ending)
    )


class TargetFiles:
    """The target files in `directory`: bundles, and the catalogues and indexes made of them.

    What is `put` is noted in `targets`, those of its publisher, to be signed. Reading raises
    UntrustedError where a file is missing or not what was signed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, target: TargetFile) -> Path:
        """Where the file for `target` lies."""
        return self._directory / served_name(target.path, target.hashes["sha256"])

    def catalogue(self, chain: Chain, plugin: PluginName) -> Catalogue:
        """The current catalogue, verified; an empty one for a plugin that has none."""
        target = chain.target(publisher_role(plugin.publisher), catalogue_path(plugin))
        if target is None:
            return Catalogue(plugin)
        return catalogue_format.parse(self._read(target), str(self.path(target)))

    def _read(self, target: TargetFile) -> bytes:
        path = self.path(target)
        try:
            data = path.read_bytes()
            target.verify_length_and_hashes(data)
        except (OSError, LengthOrHashMismatchError) as error:
            raise _damaged(path, error) from error
        return data

    def put_bundle(self, path: Path, target: TargetFile, targets: dict[str, TargetFile]) -> None:
        """Move the bundle at `path` to its place."""
        move_into_place(path, self.path(target))
        targets[target.path] = target

    def put_catalogue(self, catalogue: Catalogue, targets: dict[str, TargetFile]) -> None:
        """Have `catalogue` among `targets`."""
        data = catalogue_format.render(catalogue)
        path = catalogue_path(catalogue.plugin)
        self._put(path, data, targets)

    def _put(self, path: str, data: bytes, targets: dict[str, TargetFile]) -> None:
        target = TargetFile.from_data(path, data, ["sha256"])
        write_atomically(self.path(target), data)
        targets[path] = target

    def put_index(
        self, chain: Chain, publisher: str, known: Mapping[Release, About] | None = None
    ) -> None:
        """Make the publisher's index say what its catalogues say; `known` need not be looked up.

        Made of the catalogues each time, so that equal repositories have equal indexes.
        """
        targets = chain.publishers[publisher_role(publisher)].signed.targets
        told = {**self._told(chain, publisher), **(known or {})}
        listed = []
        for plugin in plugins_of(targets):
            entries = self.catalogue(chain, plugin).entries
            if entries:
                newest = max(entry.release for entry in entries)
                about = told[newest] if newest in told else self._about(chain, newest)
                listed.append(Listed(plugin, about, entries))
        self._put(index_path(publisher), index_format.render(publisher, listed), targets)

    def _told(self, chain: Chain, publisher: str) -> dict[Release, About]:
        """What the index told of the newest release of each plugin: most have not changed.

        Nothing where it told less than the next one may.
        """
        target = chain.target(publisher_role(publisher), index_path(publisher))
        if target is None:
            return {}
        try:
            found = index_format.parse(self._read(target))
        except (UntrustedError, InvalidInputError):
            return {}  # it is made anew
        if found.shortened:
            return {}
        return {listed.entries[-1].release: listed.about for listed in found.plugins}

    def _about(self, chain: Chain, release: Release) -> About:
        """What the manifest of a release tells of it."""
        manifest = self._manifest(chain, release)
        return manifest.about if manifest else About()

    def previous(self, chain: Chain, catalogue: Catalogue, release: Release) -> Manifest | None:
        """The manifest of the release that hosts upgrade from: the newest before this version.

        What was published after `release` itself does not count, so that publishing it again gives
        the same bytes.
        """
        same = catalogue.entry(release)
        older = [
            entry.release
            for entry in catalogue.entries
            if entry.release.platform == release.platform
            and entry.release.version < release.version
            and (same is None or entry.published <= same.published)
        ]
        if not older:
            return None
        return self._manifest(chain, max(older))

    def _manifest(self, chain: Chain, release: Release) -> Manifest | None:
        """The manifest of `release`, verified; None where its bundle is not listed."""
        target = chain.target(publisher_role(release.plugin.publisher), release.target_path)
        if target is None:
            return None
        path = self.path(target)
        head = bundle.parse_custom(target.custom, target.path, bundle_length=target.length)
        try:
            with path.open("rb") as file:
                data = file.read(head.length)
        except OSError as error:
            raise _damaged(path, error) from error
        if hashlib.sha256(data).hexdigest() != head.digest:
            raise _damaged(path, "its head does not match its digest")
        return bundle.read_head(data, str(path)).manifest


def _damaged(path: Path, what: object) -> UntrustedError:
    return UntrustedError(
        f"{path}: is missing or is not what was signed ({what})",
        remedy="Restore the file from a backup; nothing was signed.",
        path=str(path),
    )
