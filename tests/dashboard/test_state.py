"""What a card says and offers: purely from values."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager.dashboard._state import CardState, Known, cards, ways_to_free
from plugin_manager.errors import CorruptError, NoSpaceError
from plugin_manager.manager import Inspection, Job, JobState, Offer, Offered, Progress, Trial
from plugin_manager.manifest import About
from plugin_manager.model import Digest, Platform, PluginName, Release, parse_version
from plugin_manager.store import Active, Change, Damage, Fault, Record

MAPS = PluginName.parse("acme/maps")
HEAD = Digest(b"x" * 32)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def release(version: str) -> Release:
    return Release(MAPS, parse_version(version), Platform.parse("any"))


def active(version: str = "1.0", **flags: bool) -> Active:
    return Active(release(version), HEAD, **flags)


def offered(version: str, **more: Any) -> Offered:
    return Offered(parse_version(version), Platform.parse("any"), 1000, **more)


def offer(**more: Any) -> Offer:
    newest = parse_version("1.1")
    return evolve(
        Offer(
            MAPS,
            About(summary="Maps."),
            newest=newest,
            newest_any=newest,
            releases=(offered("1.1"), offered("1.0")),
        ),
        **more,
    )


INSTALLED = offer(active=active("1.1"))
OLD = offer(active=active("1.0"))


def job(state: JobState, *, percent: int | None = None, action: str = "install") -> Job:
    progress = None
    if percent is not None:
        one = Progress(release("1.1"), percent * 10, 1000, 0, 5.0, percent == 100)
        progress = Progress(None, percent * 10, 1000, 0, 5.0, percent == 100, (one,))
    return Job(
        "j1", action, ("acme/maps",), state, "a reason", 5, "", NOW, progress=progress,
    )  # fmt: skip


def card(known: Known) -> dict[str, Any]:
    [found] = cards(known)
    return found


@pytest.mark.parametrize(
    ("known", "state", "first"),
    [
        (Known([offer()]), "available", "install"),
        (Known([offer(newest=None, reasons=("needs host >= 4",))]), "incompatible", None),
        (Known([offer()], [job(JobState.QUEUED)]), "queued", "pause"),
        (Known([offer()], [job(JobState.RUNNING)]), "queued", "pause"),
        (Known([offer()], [job(JobState.RUNNING, percent=40)]), "downloading", "pause"),
        (Known([offer()], [job(JobState.RUNNING, percent=100)]), "installing", "pause"),
        (Known([offer()], [job(JobState.PAUSED, percent=40)]), "paused", "resume"),
        (Known([offer()], [job(JobState.WAITING, percent=40)]), "waiting", "pause"),
        (Known([offer()], [job(JobState.FAILED)]), "failed", "retry"),
        (Known([offer()], [job(JobState.CANCELLED)]), "available", "install"),
        (Known([offer()], [job(JobState.COMPLETED)]), "available", "install"),
        (Known([INSTALLED]), "installed", "verify"),
        (Known([OLD]), "update", "upgrade"),
        (Known([OLD], [job(JobState.RUNNING, percent=1, action="upgrade")]), "downloading", None),
        (Known([OLD], [job(JobState.FAILED, action="upgrade")]), "failed", "retry"),
        (Known([INSTALLED], evicted={MAPS}), "evicted", "fetch"),
        (
            Known([INSTALLED], trials={MAPS: Trial(release("1.1"), release("1.0"), 1, 3)}),
            "trial",
            "confirm",
        ),
        (Known([evolve(INSTALLED, yanked="Too fast.")]), "yanked", None),
        (Known([evolve(INSTALLED, blocked="Leaks.")]), "blocked", None),
        (
            Known(
                [INSTALLED],
                damaged={HEAD: Inspection(active("1.1"), (Fault("a.py", Damage.MISSING),))},
            ),
            "damaged",
            "repair",
        ),
    ],
)
def test_each_state_has_its_word_and_its_first_action(
    known: Known, state: str, first: str | None
) -> None:
    found = card(known)
    assert found["state"] == state
    if first:
        assert found["actions"][0] == first


def test_what_matters_most_is_said_first() -> None:
    """Blocked before damaged before evicted before withdrawn before an update."""
    damaged = {HEAD: Inspection(active("1.0"), error=CorruptError("gone"))}
    everything = Known(
        [evolve(OLD, blocked="Leaks.", yanked="Slow.")], evicted={MAPS}, damaged=damaged
    )
    assert card(everything)["reason"] == "Leaks."
    known = evolve(everything, offers=[evolve(OLD, yanked="Slow.")])
    assert card(known)["state"] == "damaged"
    known = evolve(known, damaged={})
    assert card(known)["state"] == "evicted"
    known = evolve(known, evicted=set())
    assert card(known)["state"] == "yanked"
    assert "upgrade" in card(known)["actions"]


def test_a_trial_says_how_often_it_failed_and_where_it_goes_back_to() -> None:
    found = card(Known([INSTALLED], trials={MAPS: Trial(release("1.1"), release("1.0"), 1, 3)}))
    assert found["reason"] == "failed 1 of 3 times, goes back to 1.0 if it fails"
    assert found["trial"] == {"attempts": 1, "of": 3, "previous": "1.0"}


def test_what_does_not_fit_is_told_with_its_reason_and_offers_nothing() -> None:
    found = card(Known([offer(newest=None, reasons=("acme/maps 1.1 needs host >= 4",))]))
    assert found["reason"] == "acme/maps 1.1 needs host >= 4"
    assert found["actions"] == []


def test_rolling_back_is_offered_where_there_is_an_older_release_in_the_history() -> None:
    upgrade = Record(2, NOW, "upgrade", (Change(MAPS, active("1.0"), active("1.1")),))
    install = Record(1, NOW, "install", (Change(MAPS, None, active("1.0")),))
    found = card(Known([INSTALLED], records=[upgrade, install]))
    assert found["previous"] == "1.0"
    assert "rollback" in found["actions"]
    found = card(Known([OLD], records=[install]))
    assert found["previous"] is None
    assert "rollback" not in found["actions"]


def test_rolling_back_passes_over_what_is_blocked() -> None:
    """It would be refused."""
    changes = [("1.1", "1.2"), ("1.0", "1.1")]
    records = [
        Record(2 - index, NOW, "upgrade", (Change(MAPS, active(before), active(after)),))
        for index, (before, after) in enumerate(changes)
    ]
    leaks = [offered(version, blocked="Leaks.") for version in ("1.1", "1.0")]
    now = offer(active=active("1.2"), releases=(offered("1.2"), leaks[0], offered("1.0")))
    found = card(Known([now], records=records))
    assert found["previous"] == "1.0"
    found = card(Known([evolve(now, releases=(offered("1.2"), *leaks))], records=records))
    assert found["previous"] is None
    assert "rollback" not in found["actions"]


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (active("1.0", held=True), "held: upgrades are kept away"),
        (
            evolve(active("1.0"), failed=(parse_version("1.1"),)),
            "1.1 failed on trial here: upgrades pass it over",
        ),
    ],
)
def test_an_upgrade_that_would_leave_it_as_it_is_is_not_offered(kept: Active, why: str) -> None:
    found = card(Known([offer(active=kept)]))
    assert (found["state"], found["reason"]) == ("update", why)
    assert "upgrade" not in found["actions"]
    assert "unhold" in found["actions"]
    assert card(Known([OLD]))["actions"][0] == "upgrade", "control"


def test_pins_and_holds_are_offered_as_what_is_not() -> None:
    actions = card(Known([offer(active=active("1.1", held=True, pinned=True))]))["actions"]
    assert {"unpin", "unhold"} <= set(actions)
    assert not {"pin", "hold"} & set(actions)


@given(
    st.booleans(),
    st.sampled_from([None, *JobState]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "reason"]),
)
def test_every_combination_has_a_known_state_and_no_action_twice(
    installed: bool, state: JobState | None, fits: bool, evicted: bool, blocked: str
) -> None:
    one = offer(active=active() if installed else None, blocked=blocked)
    one = one if fits else evolve(one, newest=None)
    jobs = [job(state, percent=50)] if state else []
    found = card(Known([one], jobs, {MAPS} if evicted and installed else set()))
    assert found["state"] in set(CardState)
    assert len(set(found["actions"])) == len(found["actions"])
    if state and not state.final:
        assert "cancel" in found["actions"]
        assert not {"install", "upgrade", "uninstall"} & set(found["actions"])
    assert ("uninstall" in found["actions"]) == (installed and (state is None or state.final))


def test_a_failed_job_keeps_its_reason() -> None:
    failed = evolve(job(JobState.FAILED), error=NoSpaceError("full", needed_bytes=1, free_bytes=0))
    found = card(Known([offer()], [failed]))
    assert (found["job"], found["reason"]) == ("j1", "a reason")


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (JobState.QUEUED, "queued"),
        (JobState.WAITING, "waiting"),
        (JobState.PAUSED, "paused"),
        (JobState.FAILED, "failed"),
    ],
)
def test_an_upgrade_of_all_is_told_on_what_it_would_change(state: JobState, told: str) -> None:
    """It names nothing: it could neither be seen nor be resumed or cancelled."""
    every = evolve(job(state, action="upgrade"), requests=())
    found = card(Known([OLD], [every]))
    assert (found["state"], found["job"]) == (told, "j1")
    held = offer(active=active("1.0", held=True))
    for one in (INSTALLED, held, offer()):
        assert card(Known([one], [every]))["job"] is None, "what it would leave as it is"


def test_an_active_job_is_told_rather_than_one_that_failed_before() -> None:
    failed = evolve(job(JobState.FAILED), id="j0")
    assert card(Known([offer()], [failed, job(JobState.QUEUED)]))["job"] == "j1"


def test_control_ways_to_free_need_something_that_is_kept() -> None:
    from plugin_manager.store import Storage  # noqa: PLC0415

    nothing = Storage((), (), (), frozenset(), (), 0, 0, 0, None, 0, 0)
    assert ways_to_free(nothing, 0) == []
    assert ways_to_free(nothing, 5) == [{"kind": "unfinished", "plugin": None, "bytes": 5}]


def test_what_is_wanted_is_not_offered_to_be_let_go() -> None:
    from plugin_manager.store import Resident, Storage  # noqa: PLC0415

    pinned = Resident(release("1.0"), HEAD, Path("/store/maps"), Mock(), Mock(), pinned=True)
    storage = Storage((pinned,), (7,), (), frozenset(), (), 0, 0, 0, None, 0, 0)
    assert ways_to_free(storage, 0) == [{"kind": "unpin", "plugin": str(MAPS), "bytes": 7}]
    assert ways_to_free(storage, 0, {MAPS}) == []
