"""A small world for stories: a signed repository, a server on loopback, and a host's store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from plugin_manager import PluginManager
from plugin_manager.configuration import from_environment
from plugin_manager.manager import Progress
from plugin_manager.model import PluginName, WithdrawalKind, parse_version
from plugin_manager.publishing import Published, Repository, serve


class Clock:
    """A clock that stories move by hand; it begins at the real time."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, **much: float) -> None:
        self.moment += timedelta(**much)


class World:
    """One repository with publishers `acme` and `globex`, served from `online()`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.repository = Repository.create(
            directory / "repository",
            keys_directory=directory / "keys",
            passphrase="open sesame",
            now=self.clock,
        )
        for publisher in ("acme", "globex"):
            self.repository.add_publisher(publisher)
        self.root = directory / "root.json"
        self.root.write_bytes(self.repository.root_bytes())
        self.base_url = ""
        self.managers: list[PluginManager] = []
        self.answers: list[tuple[str, int, int]] = []

    # --- the publisher -------------------------------------------------------------------------

    def publish(
        self,
        release: str,
        files: Mapping[str, bytes | str],
        *,
        requires: str = "",
        entry_points: str = "",
        more: str = "",
    ) -> Published:
        """Publish `release` ("acme/maps 1.0"); `requires` and `entry_points` are TOML lines."""
        name, version = release.split()
        source = self.directory / "sources" / name / version
        for path, content in files.items():
            target = source / "files" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        plugin = f'name = "{name}"\nversion = "{version}"\nsummary = "{name} for tests"\n{more}'
        toml = f"[plugin]\n{plugin}\n[requires]\n{requires}\n{entry_points}\n"
        (source / "plugin.toml").write_text(toml)
        return self.repository.publish(source)

    def withdraw(self, release: str, kind: str, reason: str) -> None:
        name, version = release.split()
        self.repository.withdraw(
            PluginName.parse(name), parse_version(version), WithdrawalKind(kind), reason
        )

    @contextmanager
    def online(self) -> Iterator[str]:
        """Serve the repository; `fetched` counts what is answered."""
        with serve(self.repository.directory, served=self._served) as server:
            self.base_url = server.base_url
            yield server.base_url

    def _served(self, method: str, path: str, status: int, body_bytes: int) -> None:
        if method == "GET":
            self.answers.append((path, status, body_bytes))

    def fetched(self) -> int:
        """The bytes of bundles answered since the last call."""
        time.sleep(0.1)  # the server tells of an answer only after its last byte is sent
        count = sum(size for path, _, size in self.answers if path.endswith(".tar.zst"))
        self.answers.clear()
        return count

    # --- the host ------------------------------------------------------------------------------

    def manager(
        self,
        store: str = "store",
        *,
        host_version: str | None = "1.0",
        progress: Callable[[Progress], None] = lambda _: None,
        environment: Mapping[str, str] | None = None,
    ) -> PluginManager:
        settings = from_environment(
            environment or {},
            store=self.directory / store,
            repository=self.base_url or "http://127.0.0.1:9/",
            root=self.root,
            host_version=host_version,
        )
        self.managers.append(PluginManager(settings, now=self.clock, progress=progress))
        return self.managers[-1]

    def close(self) -> None:
        """Unload what the managers of this world loaded."""
        for manager in self.managers:
            manager.close()


def snapshot(directory: Path) -> dict[str, bytes | str | None]:
    """All below `directory`: relative path to content (None a directory, text a link's target)."""
    found: dict[str, bytes | str | None] = {}
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir():
            found[name] = None
        else:
            found[name] = path.read_bytes()
    return found
