"""The hands of an update: python-tuf's client over a scratch directory, and our transport.

`tuf.ngclient.Updater` applies TUF's client workflow (5.3 to 5.7) to what the server sends, against
rollback, freeze, mix-and-match and endless data. What it brings is judged once more by `_judge`,
the same way as at every load, before it is kept. Importing this imports python-tuf's client.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # an implicit re-export
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


class _Fetcher(FetcherInterface):
    """python-tuf's transport seam over `fetch(url, most_bytes)`."""

    def __init__(self, fetch: Callable[[str, int], bytes]) -> None:
        self._transport = fetch

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
        try:
            return self._transport(url, most_bytes)
        except NetworkError as error:
            if error.status is None:
                raise
            # The search for later roots ends at the first that is not there.
            raise DownloadHTTPError(str(error), error.status) from error
        except (OSError, HTTPError) as error:
            raise NetworkError(f"{url}: {error}") from error


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
        fetch: Callable[[str, int], bytes],
    ) -> None:
        self._directory = directory
        self._metadata_url = metadata_url
        self._fetcher = _Fetcher(fetch)
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

    def refresh(self) -> Mapping[str, bytes]:
        """The repository's current top-level metadata and all roots, by their names in a set."""
        with self._in_our_words(self._metadata_url):
            self._updater.refresh()
            roots = (f"root_history/{path.name}" for path in self._directory.glob("root_history/*"))
            names = [TIMESTAMP, SNAPSHOT, TARGETS, *filter(root_version, roots)]
            return {name: (self._directory / name).read_bytes() for name in names}

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
            remedy = _WRONG_ADDRESS if error.status_code in {403, 404} else ""
            raise NetworkError(str(error), status=error.status_code, remedy=remedy) from error
        except DownloadError as error:
            raise NetworkError(f"{where}: {error}") from error
