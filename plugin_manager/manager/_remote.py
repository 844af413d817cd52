"""The repository and its mirrors: metadata, and heads and frames of bundles."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from plugin_manager.errors import CorruptError, NetworkError, PluginManagerError
from plugin_manager.manager._control import Control
from plugin_manager.model import Digest
from plugin_manager.settings import Settings

# requests takes 0.1 s to import, and most commands need no network.
if TYPE_CHECKING:
    from plugin_manager.manager._progress import Meter
    from plugin_manager.store import Staging
    from plugin_manager.transfer import Download, Span, Transfer
    from plugin_manager.trust import BundleTarget

__all__ = ["Remote", "new_transfer"]

_SMALL_BUNDLE_BYTES = 64 * 1024
_MOST_EARLY_BYTES = 16 * 1024 * 1024


class Remote:
    """What the servers of `settings` have, asked for side by side and from whoever is fastest.

    Parts of bundles are judged as they arrive, and asked for again where they are not what was
    signed. Raises NetworkError, UntrustedError; CancelledError once `control` was stopped.
    `retrying` is told of pauses. Touches no network until it is asked for something.
    """

    def __init__(
        self,
        settings: Settings,
        control: Control,
        retrying: Callable[[NetworkError, float], None],
        transfer: Transfer | None = None,
    ) -> None:
        self._settings = settings
        self._control = control
        self._retrying = retrying
        self._lock, self._transfer = threading.Lock(), transfer
        self._early: dict[Digest, bytes] = {}  # whole bundles, by the digests of their heads

    @property
    def transfer(self) -> Transfer:
        """The connections in use; for any thread."""
        with self._lock:
            self._transfer = self._transfer or new_transfer(self._settings)
            return self._transfer

    def fetch(self, url: str, most_bytes: int) -> bytes:
        """The content of a file of the repository."""
        [content] = self.fetch_many([(url, most_bytes)])
        if isinstance(content, PluginManagerError):
            raise content
        return content

    def fetch_many(self, asks: Sequence[tuple[str, int]]) -> list[bytes | PluginManagerError]:
        """The content of several, (address, most bytes) each, or why it cannot be had."""
        bases = self._settings.base_urls()
        requests = [
            ([f"{base}{url.removeprefix(bases[0])}" for base in bases], most_bytes)
            for url, most_bytes in asks
        ]
        with self._control.telling():
            return self.transfer.fetch_many(
                requests,
                cancelled=self._control.stopping,
                retrying=self._retrying,
                # TUF 5.3.3: the search for newer roots ends at the first that is not there.
                may_be_none=lambda index: asks[index][0].endswith(".root.json"),
            )

    def heads(self, targets: Sequence[BundleTarget]) -> list[bytes]:
        """The heads of bundles, as their publishers signed them.

        Small bundles come whole, and wait for `frames`: that is a request less, and over a slow
        line a round trip.
        """
        if not targets:
            return []
        from plugin_manager.transfer import Span  # noqa: PLC0415

        heads: dict[int, bytes] = {}
        room = _MOST_EARLY_BYTES
        stops = []
        for target in targets:
            whole = target.length <= min(_SMALL_BUNDLE_BYTES, room)
            room -= target.length if whole else 0
            stops.append(target.length if whole else target.head_length)

        def keep(index: int, data: memoryview) -> None:
            target = targets[index]
            head = bytes(data[: target.head_length])
            if Digest.of(head) != target.head_digest:
                raise CorruptError("it is not the head that was signed")
            heads[index] = head
            if len(data) == target.length:
                self._early[target.head_digest] = bytes(data)

        self._early.clear()
        self._run(
            [
                self._download(target.path, [Span(i, 0, stop)], target.length, keep)
                for i, (target, stop) in enumerate(zip(targets, stops, strict=True))
            ]
        )
        return [heads[index] for index in range(len(targets))]

    def frames(self, lacking: Sequence[tuple[Staging, str]], meter: Meter) -> None:
        """What stagings lack, each with its bundle's path; `meter` expects them already."""
        from plugin_manager.transfer import Span  # noqa: PLC0415

        def accept(staging: Staging, index: int, data: memoryview) -> None:
            staging.accept(index, data)
            meter.verified(staging.head.manifest.release, len(data))

        def accept_early(staging: Staging, span: Span, data: memoryview) -> None:
            with suppress(CorruptError):  # then it is asked for like any other
                staging.accept(span.index, data)
                meter.arrived(staging.head.manifest.release, len(data))
                meter.verified(staging.head.manifest.release, len(data))

        downloads = []
        for staging, path in lacking:
            release = staging.head.manifest.release
            spans = [Span(*span) for span in staging.spans()]
            if early := self._early.pop(staging.head.digest, None):
                for span in spans:
                    accept_early(staging, span, memoryview(early)[span.start : span.stop])
                spans = [Span(*span) for span in staging.spans()]
            if spans:
                take, count = partial(accept, staging), partial(meter.arrived, release)
                length = staging.head.bundle_length
                downloads.append(self._download(path, spans, length, take, count))
        self._run(downloads)

    def try_fetching(self, path: str, length: int) -> None:
        """Ask for one byte of a bundle of `length` bytes; raises NetworkError."""
        from plugin_manager.transfer import Span  # noqa: PLC0415

        self._run([self._download(path, [Span(0, 0, 1)], length, lambda _index, _data: None)])

    def _download(
        self,
        path: str,
        spans: Sequence[Span],
        length: int,
        sink: Callable[[int, memoryview], None],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Download:
        from plugin_manager.transfer import Download  # noqa: PLC0415

        # Versions may hold "+" and "!": some object stores read a bare plus sign as a space.
        urls = tuple(f"{base}targets/{quote(path)}" for base in self._settings.base_urls())
        return Download(urls, spans, length, sink, progress, self._retrying)

    def _run(self, downloads: Sequence[Download]) -> None:
        if not downloads:
            return
        from plugin_manager.transfer import RateLimit  # noqa: PLC0415

        limit = RateLimit()

        def set_limit(bytes_per_second: int | None) -> None:
            limit.bytes_per_second = bytes_per_second

        delivery = self.transfer.delivery(downloads, limit=limit)
        control = self._control
        with control.telling(), control.limiting(set_limit), control.cancelling(delivery.cancel):
            delivery.run()


def new_transfer(settings: Settings, **patience: int) -> Transfer:
    """Connections as `settings` want them; `patience`: further fields of the transfer's policy."""
    from plugin_manager.transfer import Policy, Transfer  # noqa: PLC0415

    transfer = Transfer(
        Policy(
            ca_bundle=settings.ca_bundle,
            insecure_http=settings.insecure_http,
            tokens=settings.tokens,
            **patience,
        )
    )
    transfer.limit.bytes_per_second = settings.max_bytes_per_second
    return transfer
