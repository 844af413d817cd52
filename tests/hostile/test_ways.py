"""Every way in which a server can be wrong, in every place, while an older release is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.stage import PATIENCE, PLACES, Host, Stage, hasty
from tests.hostile.ways import EDITIONS, RANGED, WAYS, Way, always, first, flip_of, only, silent

PLACES_TRIED = ("timestamp", "catalogue", "head", "body")
NETWORK = ("network",) * 4

# What is not said here is given up as the line's or the server's fault.
VERDICTS: dict[str, tuple[str, str, str, str]] = {
    "endless body": ("network", "network", "untrusted", "untrusted"),
    "endless tiny chunks": ("network", "network", "untrusted", "network"),
    "zero length": ("untrusted", "untrusted", "network", "network"),
    # White space behind signed metadata is none of its business; a target has one length.
    "too long": ("", "network", "network", "network"),
    "one bit flipped": ("untrusted",) * 4,
    "noise": ("untrusted",) * 4,
    "bomb that says so": ("untrusted",) * 4,
    "bomb that says nothing": ("untrusted",) * 4,
    "gzip as transfer coding": ("untrusted", "untrusted", "untrusted", "network"),
    "two lengths": ("",) * 4,
    "negative length": ("",) * 4,
    "digits of another script": ("",) * 4,
    "an answer too many": ("",) * 4,
}
SERVED_WHOLE = ("whole instead of a part", "whole without a length")


def test_an_honest_server_is_enough_for_a_new_store_and_for_an_upgrade(
    stage: Stage, tmp_path: Path
) -> None:
    for make, content in ((Host.installed, 1_200_000), (Host.empty, 1_500_000)):
        host = make(stage, tmp_path)
        attempt = host.attempt()
        assert host.judge(attempt, "") == []
        assert content <= attempt.bytes_of("body") < content + 10_000
        assert sum(sent for _, sent in attempt.sent_bytes) < content + 20_000


def try_each(stage: Stage, directory: Path, way: Way, verdicts: dict[str, str]) -> None:
    """One attempt for each place with its verdict, one after the other on the same store."""
    host = Host.installed(stage, directory)
    for place, verdict in verdicts.items():
        attempt = host.attempt(always(place, way))
        recovers = place == "body"
        assert host.judge(attempt, verdict, recovers=recovers) == [], place
        if not verdict:
            host = Host.installed(stage, directory)


@pytest.mark.parametrize("name", WAYS)
def test_whatever_the_server_does_costs_little_and_changes_nothing(
    name: str, stage: Stage, tmp_path: Path
) -> None:
    verdicts = dict(zip(PLACES_TRIED, VERDICTS.get(name, NETWORK), strict=True))
    try_each(stage, tmp_path, WAYS[name], verdicts)


@pytest.mark.parametrize("name", RANGED)
def test_wrong_ranges_are_refused_and_whole_files_are_read_through(
    name: str, stage: Stage, tmp_path: Path
) -> None:
    verdict = "" if name in SERVED_WHOLE else "network"
    try_each(stage, tmp_path, RANGED[name], {"head": verdict, "body": verdict})


@pytest.mark.parametrize("place", ["timestamp", "body"])
def test_silence_is_given_up(place: str, stage: Stage, tmp_path: Path) -> None:
    host = Host.installed(stage, tmp_path, hasty())
    attempt = host.attempt(always(place, silent))
    host.policy = PATIENCE  # a busy machine may be silent for as long
    assert host.judge(attempt, "network") == []


@pytest.mark.parametrize("place", ["root", "snapshot", "targets", "publisher"])
def test_other_metadata_is_no_better_a_place_for_it(
    place: str, stage: Stage, tmp_path: Path
) -> None:
    host = Host.empty(stage, tmp_path)  # an upgrade has no need of new targets
    ways = {
        "slow body": "network",
        "endless header": "network",
        "503": "network",
        "redirect loop": "network",
        "gzip": "network",
        "noise": "untrusted",
        "zero length": "untrusted",
    }
    for name, verdict in ways.items():
        if place == "root" and name == "slow body":
            continue  # there is no further root that could be slow
        attempt = host.attempt(always(place, WAYS[name]))
        assert host.judge(attempt, verdict, recovers=name == "zero length") == [], name


@pytest.mark.parametrize("place", ["snapshot", "targets", "publisher"])
def test_endless_metadata_costs_no_more_than_its_bound(
    place: str, stage: Stage, tmp_path: Path
) -> None:
    host = Host.empty(stage, tmp_path)
    attempt = host.attempt(always(place, WAYS["endless body"]))
    assert host.judge(attempt, "network") == []


# --- what passes -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reset", "503", "cut off", "slow body", "endless continue"])
def test_what_passes_is_survived_within_one_command(
    name: str, stage: Stage, tmp_path: Path
) -> None:
    host = Host.empty(stage, tmp_path)
    fail = {place: first(place, WAYS[name], host.policy.attempts - 1) for place in PLACES}
    attempt = host.attempt(lambda asked: asked.content and fail[asked.place](asked))
    assert host.judge(attempt, "", calls=len(PLACES)) == []
    assert len(attempt.asked) >= 7 * host.policy.attempts


@pytest.mark.parametrize("place", ["head", "body"])
@pytest.mark.parametrize("bad", [{0}, {0, 1}, {0, 1, 2}, {1}, {0, 2}])
def test_some_corrupted_answers_are_survived_and_the_rest_is_not_fetched_again(
    place: str, bad: set[int], stage: Stage, tmp_path: Path
) -> None:
    host = Host.installed(stage, tmp_path)
    attempt = host.attempt(only(place, flip_of(10), bad))
    assert host.judge(attempt, "") == []
    if place == "body":  # the first frame is 1 MB, and what was on its way behind it some more
        assert attempt.bytes_of("body") < 1_250_000 * (1 + len(bad))


@pytest.mark.parametrize("place", ["head", "body"])
def test_answers_that_stay_corrupted_are_distrusted_after_the_fourth(
    place: str, stage: Stage, tmp_path: Path
) -> None:
    host = Host.installed(stage, tmp_path)
    attempt = host.attempt(first(place, flip_of(10), 4))
    assert host.judge(attempt, "untrusted") == []
    assert sum(asked.place == place for asked in attempt.asked) == 4


# --- what is signed, but for another place or time ---------------------------------------------


@pytest.mark.parametrize("name", EDITIONS)
def test_what_is_signed_for_another_bundle_is_not_taken_for_this(
    name: str, stage: Stage, tmp_path: Path
) -> None:
    verdict = "untrusted" if name.endswith("as long") else "network"
    try_each(stage, tmp_path, EDITIONS[name], {"head": verdict, "body": verdict})
