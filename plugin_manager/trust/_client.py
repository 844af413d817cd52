"""The hands of an update: python-tuf's client over a scratch directory, and our transport.

`tuf.ngclient.Updater` applies TUF's client workflow (5.3 to 5.7) to what the server sends, against
rollback, freeze, mix-and-match and endless data. What it brings is judged once more by `_judge`,
the same way as at every load, before it is kept. Importing this imports python-tuf's client.

The workflow asks for one file after another. Where it is known what will be asked for next, that
is fetched side by side with what is asked for now, and waits for its turn: the transport is ahead
of the workflow, the workflow is what it is.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import (  # type: ignore[attr-defined]  # implicit re-exports
    Metadata,
    MetaFile,
    Snapshot,
    TargetFile,
)
from tuf.ngclient import (  # type: ignore[attr-defined]  # likewise
    FetcherInterface,
    Updater,
    UpdaterConfig,
)
from urllib3.exceptions import HTTPError

from plugin_manager.durable import disk_errors
from plugin_manager.errors import (
    ExpiredError,
    NetworkError,
    PluginManagerError,
    UntrustedError,
)
from plugin_manager.trust._values import (
    MAX_ROOT_BYTES,
    MAX_SNAPSHOT_BYTES,
    MAX_TARGETS_BYTES,
    MAX_TIMESTAMP_BYTES,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    publisher_file,
    root_version,
)

__all__ = ["Client"]

_WRONG_ADDRESS = "Check the repository's address: below it lie metadata/ and targets/."

MOST_AHEAD_BYTES = 64 * 1024 * 1024
"""How much may wait for its turn at once: nobody has judged it yet."""
MOST_AHEAD_BYTES_EACH = 1024 * 1024
"""What may be larger than that comes in its turn, or its limit alone would use up what may wait."""

ROOT = "root.json"

T = TypeVar("T")
Ask = tuple[str, int]  # the address of a file, and how many bytes it may have at most
Following = Callable[[str], Mapping[str, Ask]]
Fetch = Callable[[str, int], bytes]
FetchMany = Callable[[Sequence[Ask]], "list[bytes | PluginManagerError]"]


class _Fetcher(FetcherInterface):
    """python-tuf's transport seam over `fetch(url, most_bytes)`, and over `fetch_many` for several.

    `following(url)` says what is sure to be asked for after `url`. What comes of it is told in its
    turn: a server that is down has been waited for once already.
    """

    def __init__(
        self,
        fetch: Fetch,
        fetch_many: FetchMany | None,
        following: Callable[[str], Mapping[str, Ask]],
    ) -> None:
        self._transport = fetch
        self._fetch_many = fetch_many
        self._following = following
        self._waiting: dict[str, bytes | NetworkError] = {}

    @property
    def goes_ahead(self) -> bool:
        """Whether anything is ever fetched ahead."""
        return self._fetch_many is not None

    def ahead(self, asks: Mapping[T, Ask]) -> Iterator[T]:
        """Those of the keys of `asks` whose files wait, fetched side by side in portions.

        Ask for each as it is given: what waits is forgotten when the next portion is fetched. What
        could not be had, or may be too large to wait, is left out.
        """
        rest = dict(asks)
        portion = {key: ask for key, ask in asks.items() if ask[0] in self._waiting}
        while True:
            yield from [
                key
                for key, (url, _) in portion.items()
                if isinstance(self._waiting.get(url), bytes)
            ]
            rest = {key: ask for key, ask in rest.items() if key not in portion}
            if not (portion := self._portion(rest)):
                return
            self._keep(portion.values(), self._many([*portion.values()]))

    def _portion(self, asks: Mapping[T, Ask]) -> dict[T, Ask]:
        """As many of `asks` as may wait at once."""
        portion, left = {}, MOST_AHEAD_BYTES if self.goes_ahead else 0
        for key, (url, most_bytes) in asks.items():
            if most_bytes <= min(left, MOST_AHEAD_BYTES_EACH):
                portion[key] = url, most_bytes
                left -= most_bytes
        return portion

    def _many(self, asks: Sequence[Ask]) -> list[bytes | PluginManagerError]:
        assert self._fetch_many
        return self._fetch_many(asks)

    def _keep(self, asks: Iterable[Ask], found: Iterable[bytes | PluginManagerError]) -> None:
        self._waiting = {
            url: data
            for (url, most_bytes), data in zip(asks, found, strict=True)
            if isinstance(data, NetworkError)
            or (isinstance(data, bytes) and len(data) <= most_bytes)
        }

    def _fetch(self, url: str) -> Iterator[bytes]:
        return iter((self._whole(url, MAX_TARGETS_BYTES),))

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """The body of `url`. The limit goes down to the transport, which reads no further.

        The inherited method learns of the limit only after `_fetch` has everything.
        """
        data = self._whole(url, max_length)
        if len(data) > max_length:
            raise DownloadLengthMismatchError(f"{url} is longer than {max_length} bytes")
        yield io.BytesIO(data)

    def _whole(self, url: str, most_bytes: int) -> bytes:
        ahead = self._waiting.pop(url, None)
        if isinstance(ahead, bytes):
            return ahead
        try:
            if ahead is not None and not _allowed_less(ahead, most_bytes):
                raise ahead
            return self._with_following(url, most_bytes)
        except NetworkError as error:
            if error.status is None:
                raise
            # The search for later roots ends at the first that is not there.
            raise DownloadHTTPError(error.message, error.status) from error
        except (OSError, HTTPError) as error:
            raise NetworkError(f"{url}: {error}") from error

    def _with_following(self, url: str, most_bytes: int) -> bytes:
        following = self._portion(self._following(url))
        if not following:
            return self._transport(url, most_bytes)
        data, *found = self._many([(url, most_bytes), *following.values()])
        self._keep(following.values(), found)
        if isinstance(data, PluginManagerError):
            raise data
        return data


def _allowed_less(error: NetworkError, most_bytes: int) -> bool:
    """Whether `error` only says that a file has more bytes than were allowed for early."""
    allowed = error.context.get("most_bytes")
    return isinstance(allowed, int) and allowed < most_bytes


class Client:
    """One update's conversation with the repository; for one use, by one thread.

    `directory` is scratch space, with the local metadata to start from in the names of a set.
    Raises UntrustedError, ExpiredError (whatever the host's policy), NetworkError, and what
    `disk_errors` makes of the disk's errors.
    """

    def __init__(
        self,
        directory: Path,
        pinned_root: bytes,
        *,
        metadata_url: str,
        targets_url: str,
        fetch: Fetch,
        fetch_many: FetchMany | None = None,
    ) -> None:
        self._directory = directory
        self._metadata_url = metadata_url
        self._targets_url = targets_url
        self._fetcher = _Fetcher(fetch, fetch_many, self._following)
        self._expected: Collection[str] = ()
        self._had: Mapping[str, MetaFile] = {}
        config = UpdaterConfig(
            root_max_length=MAX_ROOT_BYTES,
            timestamp_max_length=MAX_TIMESTAMP_BYTES,
            snapshot_max_length=MAX_SNAPSHOT_BYTES,
            targets_max_length=MAX_TARGETS_BYTES,
        )
        with self._in_our_words(metadata_url):
            self._updater = Updater(
                str(directory),
                metadata_url,
                target_base_url=targets_url,
                fetcher=self._fetcher,
                config=config,
                bootstrap=pinned_root,
            )

    def refresh(self, expected: Collection[str] = ()) -> Mapping[str, bytes]:
        """The repository's current top-level metadata and all roots, by their names in a set.

        The roles of the publishers that are `expected` to be asked for come along where they can.
        """
        self._expected, self._had = expected, self._listed()
        with self._in_our_words(self._metadata_url):
            self._updater.refresh()
            roots = (f"root_history/{path.name}" for path in self._directory.glob("root_history/*"))
            names = [TIMESTAMP, SNAPSHOT, TARGETS, *filter(root_version, roots)]
            return {name: (self._directory / name).read_bytes() for name in names}

    def _following(self, url: str) -> Mapping[str, Ask]:
        name = url.removeprefix(self._metadata_url).partition(".")[2]
        # Whether there is a later root or not, the timestamp comes next, at the latest behind the
        # last root: it is fetched anew with each, and so never before the root that it is under.
        if name == ROOT:
            return {TIMESTAMP: (self._metadata_url + TIMESTAMP, MAX_TIMESTAMP_BYTES)}
        # By then the client has laid down the snapshot, which names the versions of all roles.
        return self._changed(self._expected) if name == TARGETS else {}

    def _changed(self, publishers: Iterable[str]) -> dict[str, Ask]:
        """The roles, by publisher, that the client will not find here in the version it wants."""
        listed, asks = self._listed(), {}
        for publisher in publishers:
            name = publisher_file(publisher)
            wanted, had = listed.get(name), self._had.get(name)
            here = had and wanted and had.version == wanted.version
            if wanted and not (here and (self._directory / name).exists()):
                url = f"{self._metadata_url}{wanted.version}.{name}"
                asks[publisher] = url, wanted.length or MOST_AHEAD_BYTES_EACH
        return asks

    def _listed(self) -> Mapping[str, MetaFile]:
        """What the snapshot in the directory lists; nothing where none is there."""
        with suppress(OSError, RepositoryError):
            snapshot = Metadata[Any].from_bytes((self._directory / SNAPSHOT).read_bytes()).signed
            if isinstance(snapshot, Snapshot):
                return snapshot.meta
        return {}

    @property
    def goes_ahead(self) -> bool:
        """Whether anything is ever fetched ahead."""
        return self._fetcher.goes_ahead

    def publishers_ahead(self, publishers: Iterable[str]) -> Iterator[str]:
        """Those of `publishers` whose roles are at hand, fetched ahead where they changed.

        Ask for each as it is given.
        """
        changed = self._changed(publishers)
        yield from [publisher for publisher in publishers if publisher not in changed]
        yield from self._fetcher.ahead(changed)

    def targets_ahead(self, entries: Mapping[T, TargetFile]) -> Iterator[T]:
        """The keys of those `entries` whose targets were fetched ahead.

        Download each as it is given.
        """
        asks = {key: (self._target_url(entry), entry.length) for key, entry in entries.items()}
        return self._fetcher.ahead(asks)

    def _target_url(self, entry: TargetFile) -> str:
        # As `Updater.download_target` makes it: by the first of the hashes.
        return self._targets_url + entry.get_prefixed_paths()[0]

    def publisher(self, publisher: str, path: str) -> bytes:
        """The role of `publisher`, fetched where it changed in order to look up target `path`.

        Empty where the delegations lead the client another way.
        """
        name = publisher_file(publisher)
        with self._in_our_words(self._metadata_url + name):
            self._updater.get_targetinfo(path)
            file = self._directory / name
            return file.read_bytes() if file.exists() else b""

    def expired_publisher(self, publisher: str, version: int) -> bytes:
        """The role of `publisher` in `version`, not verified: the client keeps no expired ones."""
        url = f"{self._metadata_url}{version}.{publisher_file(publisher)}"
        with self._in_our_words(url):
            return self._fetcher.download_bytes(url, MAX_TARGETS_BYTES)

    def download(self, entry: TargetFile) -> bytes:
        """The target that `entry` describes, of its length and with its hashes."""
        path = self._directory / "target"
        with self._in_our_words(entry.path):
            self._updater.download_target(entry, str(path))
            return path.read_bytes()

    @contextmanager
    def _in_our_words(self, where: str) -> Iterator[None]:
        try:
            with disk_errors(self._directory):  # the network's were told apart by the fetcher
                yield
        except ExpiredMetadataError as error:
            raise ExpiredError(
                f"{where}: {error}",
                where=where,
                remedy="Check this machine's clock. Where it is right, the repository's owner has "
                "to sign anew ('pluginctl repo refresh'), or somebody holds updates back.",
            ) from error
        except (RepositoryError, DownloadLengthMismatchError, ValueError) as error:
            raise UntrustedError(
                f"{where}: {error}",
                where=where,
                remedy="Nothing was changed. Try another network or mirror; where that does not "
                "help, tell the repository's owner.",
            ) from error
        except DownloadHTTPError as error:
            below = getattr(error.__cause__, "remedy", "")
            remedy = _WRONG_ADDRESS if error.status_code in {403, 404} else below
            raise NetworkError(str(error), status=error.status_code, remedy=remedy) from error
        except DownloadError as error:
            raise NetworkError(f"{where}: {error}") from error
