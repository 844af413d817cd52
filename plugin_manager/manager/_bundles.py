"""Heads and frames of bundles, from the repository and its mirrors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from urllib.parse import quote

from plugin_manager.errors import CorruptError, NetworkError
from plugin_manager.manager._control import Control
from plugin_manager.manager._progress import Meter
from plugin_manager.model import Digest
from plugin_manager.settings import Settings
from plugin_manager.store import Staging
from plugin_manager.transfer import Download, RateLimit, Span, Transfer
from plugin_manager.trust import BundleTarget

__all__ = ["Bundles"]

_SMALL_BUNDLE_BYTES = 64 * 1024
_MOST_EARLY_BYTES = 16 * 1024 * 1024


class Bundles:
    """Fetches parts of bundles by their paths below `targets/`, side by side.

    Each part is judged as it arrives, and asked for again where it is not what was signed. Raises
    NetworkError, UntrustedError; CancelledError once `control` was stopped. `retrying` is told of
    pauses.
    """

    def __init__(
        self,
        settings: Settings,
        transfer: Transfer,
        control: Control,
        retrying: Callable[[NetworkError, float], None],
    ) -> None:
        self._settings = settings
        self._transfer = transfer
        self._control = control
        self._retrying = retrying
        self._early: dict[Digest, bytes] = {}  # whole bundles, by the digests of their heads

    def heads(self, targets: Sequence[BundleTarget]) -> list[bytes]:
        """The heads of bundles, as their publishers signed them.

        Small bundles come whole, and wait for `frames`: that is a request less, and over a slow
        line a round trip.
        """
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
        self._run([self._download(path, [Span(0, 0, 1)], length, lambda _index, _data: None)])

    def _download(
        self,
        path: str,
        spans: Sequence[Span],
        length: int,
        sink: Callable[[int, memoryview], None],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Download:
        # Versions may hold "+" and "!": some object stores read a bare plus sign as a space.
        urls = tuple(f"{base}targets/{quote(path)}" for base in self._settings.base_urls())
        return Download(urls, spans, length, sink, progress, self._retrying)

    def _run(self, downloads: Sequence[Download]) -> None:
        if not downloads:
            return
        limit = RateLimit()

        def set_limit(bytes_per_second: int | None) -> None:
            limit.bytes_per_second = bytes_per_second

        delivery = self._transfer.delivery(downloads, limit=limit)
        with self._control.limiting(set_limit), self._control.cancelling(delivery.cancel):
            delivery.run()
