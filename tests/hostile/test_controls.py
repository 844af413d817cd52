"""Each defence taken away in turn: the same judge must notice what then happens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from plugin_manager.store import _staging
from plugin_manager.store._housekeeping import Housekeeping
from plugin_manager.store._staging import Staging
from plugin_manager.transfer import _delivery, _pace
from plugin_manager.trust._sets import Sets
from tests.hostile.stage import PATIENCE, Asked, Host, Stage
from tests.hostile.ways import RANGED, WAYS, always, cut, first, flip_of
from tests.transfer import server
from tests.transfer.server import Behaviour

Patch = pytest.MonkeyPatch


@pytest.fixture
def host(stage: Stage, tmp_path: Path) -> Host:
    return Host.installed(stage, tmp_path)


def noticed(faults: list[str], what: str) -> bool:
    return any(what in fault for fault in faults)


def test_without_a_least_rate_a_slow_body_takes_for_ever(host: Host) -> None:
    host.policy = evolve(PATIENCE, least_bytes_per_second=0)
    attempt = host.attempt(always("catalogue", WAYS["very slow body"]))
    assert noticed(host.judge(attempt, "network"), " s, more than")


def test_without_a_bound_on_headers_they_are_read_on(host: Host, monkeypatch: Patch) -> None:
    monkeypatch.setattr(_pace, "MOST_HEADER_BYTES", 10**12)
    monkeypatch.setattr(server, "ENOUGH_BYTES", 16 * 1024 * 1024)
    attempt = host.attempt(first("head", WAYS["endless continue"]))
    assert noticed(host.judge(attempt, "", "network"), "bytes for head, more than")


def test_without_a_bound_on_attempts_a_failing_server_is_asked_on(host: Host) -> None:
    host.policy = evolve(PATIENCE, attempts=220, attempts_in_all=220)
    attempt = host.attempt(always("body", WAYS["reset"]))
    host.policy = PATIENCE
    assert noticed(host.judge(attempt, "network"), "requests, more than")


def test_without_a_cap_on_retry_after_it_is_waited_for(host: Host) -> None:
    host.policy = evolve(PATIENCE, most_retry_after_seconds=10**9)
    attempt = host.attempt(always("body", WAYS["429 for 30 years"]))
    host.policy = PATIENCE
    assert noticed(host.judge(attempt, "network"), " s, more than")


def test_without_an_end_of_redirects_a_loop_is_followed(host: Host) -> None:
    host.policy = evolve(PATIENCE, most_redirects=250)
    attempt = host.attempt(always("body", WAYS["redirect loop"]))
    host.policy = PATIENCE
    assert noticed(host.judge(attempt, "network"), "requests, more than")


def test_without_a_check_of_ranges_the_verdict_is_another(host: Host, monkeypatch: Patch) -> None:
    monkeypatch.setattr(_delivery, "_check_part", lambda *_: None)
    attempt = host.attempt(always("body", RANGED["shifted forward"]))
    assert noticed(host.judge(attempt, "network"), "verdict 'untrusted'")


def test_without_a_bound_on_refetches_bad_bytes_are_fetched_on(
    host: Host, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(_delivery, "MOST_REFETCHES", 10**6)
    attempt = host.attempt(always("body", flip_of(10)))
    assert noticed(host.judge(attempt, "untrusted"), "verdict 'network'")


def test_without_chunks_digests_corrupted_bytes_would_be_installed(
    host: Host, monkeypatch: Patch
) -> None:
    class Believing(bytes):
        def __ne__(self, other: object) -> bool:
            return False

    class Hash:
        def __init__(self, data: Any) -> None:
            pass

        def digest(self) -> bytes:
            return Believing()

    monkeypatch.setattr(_staging, "blake3", Hash)
    attempt = host.attempt(first("body", flip_of(500_000)))
    monkeypatch.undo()
    assert noticed(host.judge(attempt, "untrusted", ""), "it does not load: ")


def test_without_memory_of_what_was_seen_old_metadata_is_taken(
    host: Host, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(Sets, "salvage", lambda _: {})
    attempt = host.attempt(edition="old", request="acme/maps==1.0")
    assert noticed(host.judge(attempt, "untrusted"), "verdict ''")
    attempt = host.attempt(edition="old", request="acme/maps==9.0")
    assert noticed(host.judge(attempt, "conflict"), "timestamp went back from")


def test_without_reuse_what_had_arrived_is_fetched_again(host: Host, monkeypatch: Patch) -> None:
    attempt = host.attempt(
        lambda asked: cut(0)(asked) if asked.place == "body" and asked.number else None
    )
    original = Staging.reuse

    def forgetting(self: Staging) -> int:
        shutil.rmtree(self.directory)
        self.directory.mkdir()
        return original(self)

    monkeypatch.setattr(Staging, "reuse", forgetting)
    assert noticed(host.judge(attempt, "network"), "bytes fetched where")


def test_without_collecting_what_is_unfinished_stays(host: Host, monkeypatch: Patch) -> None:
    monkeypatch.setattr(Housekeeping, "collect", lambda *_, **__: [])
    attempt = host.attempt(
        lambda asked: cut(0)(asked) if asked.place == "body" and asked.number else None
    )
    assert noticed(host.judge(attempt, "network"), "left behind")


@pytest.mark.parametrize(
    ("vandalism", "what"),
    [
        (lambda store: (store / "current").write_bytes(b"{}"), "has changed"),
        (lambda store: shutil.rmtree(store / "releases"), "has changed"),
        (lambda store: (store / "rubbish").write_bytes(b"x"), "left behind"),
        (lambda store: (store / "trust/rubbish").write_bytes(b"x"), "left behind"),
        (lambda store: shutil.rmtree(store / "trust"), "went back"),
    ],
)
def test_a_store_that_was_touched_is_noticed(
    vandalism: Callable[[Path], None], what: str, host: Host
) -> None:
    attempt = host.attempt(always("body", WAYS["404"]))
    vandalism(host.store)
    faults = host.is_untouched()
    if not faults:
        faults = host.judge(attempt, "network")
    assert noticed(faults, what)


def test_a_store_that_grows_meanwhile_is_noticed(host: Host) -> None:
    def growing(asked: Asked) -> Behaviour | None:
        (host.store / "staging" / "rubbish").write_bytes(b"x" * 3_000_000)
        return WAYS["404"](asked) if asked.place == "body" else None

    attempt = host.attempt(growing)
    assert noticed(host.judge(attempt, "network"), "bytes on the disk, more than")


def test_an_error_that_is_none_of_ours_is_noticed(host: Host, monkeypatch: Patch) -> None:
    monkeypatch.setattr(_delivery, "parse_content_range", lambda text: 1 / 0)
    attempt = host.attempt()
    assert noticed(host.judge(attempt, "network", recovers=False), "verdict 'raw'")
