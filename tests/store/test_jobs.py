"""The records of jobs: what is written comes back, and what is not ours is nobody's."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager.document import Document
from plugin_manager.errors import InvalidInputError, StoreAccessError
from plugin_manager.model import Digest
from plugin_manager.store import (
    JobRecords,
    JobState,
    QueueWish,
    Standing,
    Want,
    Wish,
    _jobs,
    job_id,
    state_of,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
moments = st.integers(0, 2**33).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
wishes = st.builds(
    Wish,
    action=st.sampled_from(["install", "upgrade"]),
    requests=st.lists(texts, max_size=3).map(tuple),
    submitted=moments,
    priority=st.integers(0, 10),
    group=texts,
    bytes_per_second=st.none() | st.integers(1, 2**40),
    metered=st.booleans(),
    deadline=st.none() | moments,
    want=st.sampled_from(Want),
    keep=st.booleans(),
    only=st.lists(st.binary().map(Digest.of), max_size=2).map(tuple),
    foreground=st.booleans(),
    attempt=st.integers(1, 1000),
)
standings = st.builds(
    Standing,
    attempt=st.integers(1, 1000),
    state=st.sampled_from(JobState),
    updated=moments,
    why=texts,
    family=texts,
    remedy=texts,
    retry_at=st.none() | moments,
    digests=st.lists(st.binary(max_size=9).map(Digest.of), max_size=3).map(tuple),
)
WISH = Wish("install", ("acme/maps>=2",), NOW)


@given(wishes)
def test_wishes_come_back(wish: Wish) -> None:
    assert Wish.parse(Document(wish.render()), "here") == wish


@given(standings)
def test_standings_come_back(standing: Standing) -> None:
    assert Standing.parse(Document(standing.render()), "here") == standing


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"action": "remove"}, {"requests": [1]}, {"submitted": "soon"},
        {"priority": 11}, {"priority": -1}, {"want": "everything"}, {"attempt": 0},
        {"deadline": "tomorrow"}, {"keep": 1},
    ],
)  # fmt: skip
def test_a_wish_that_is_none_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        Wish.parse(Document({**WISH.render(), **change}), "here")


def test_an_id_says_what_is_fetched_in_whatever_order_it_was_asked_for() -> None:
    assert job_id("install", ("a/b", "c/d")) == job_id("install", ("c/d", "a/b"))
    assert job_id("install", ("a/b",)) != job_id("upgrade", ("a/b",))
    assert job_id("install", ("a/b", "c/d")) != job_id("install", ("a/b,c/d",))


@pytest.fixture
def records(tmp_path: Path) -> JobRecords:
    return JobRecords(tmp_path / "store")


def test_nothing_is_on_record_where_there_is_no_store(records: JobRecords) -> None:
    assert records.ids() == []
    assert records.wish("0" * 16) is None
    assert records.standing("0" * 16) is None
    assert records.claim("0" * 16) is None
    assert records.queue() == QueueWish()
    assert not records.directory.exists()


@pytest.mark.parametrize("job", ["../elsewhere", "no/such", "\0", "x" * 3000, ""])
def test_what_is_no_id_is_looked_up_nowhere(records: JobRecords, job: str) -> None:
    elsewhere = records.directory.parent / "elsewhere"
    elsewhere.mkdir(parents=True)
    (elsewhere / "standing.json").write_text(
        json.dumps(Standing(1, JobState.RUNNING, NOW).render())
    )
    assert records.standing(job) is None
    assert records.wish(job) is None


def test_records_are_kept(records: JobRecords) -> None:
    standing = Standing(1, JobState.RUNNING, NOW)
    records.keep_wish(WISH)
    records.keep_standing(WISH.id, standing)
    records.keep_progress(WISH.id, {"done": False})
    records.keep_queue(QueueWish(paused=True, bytes_per_second=0))
    other = JobRecords(records.directory.parent)
    assert other.ids() == [WISH.id]
    assert (other.wish(WISH.id), other.standing(WISH.id)) == (WISH, standing)
    assert other.progress(WISH.id) == {"done": False}
    assert other.queue() == QueueWish(paused=True, bytes_per_second=0)
    other.remove(WISH.id)
    assert other.ids() == []


def test_one_process_at_a_time_has_a_job(records: JobRecords) -> None:
    records.keep_wish(WISH)
    claim = records.claim(WISH.id)
    assert claim
    assert records.is_claimed(WISH.id)
    assert records.claim(WISH.id) is None
    claim.close()
    assert not records.is_claimed(WISH.id)


def test_a_wish_under_another_job_s_id_is_none(records: JobRecords) -> None:
    """Nobody gets something else installed by moving a record."""
    records.keep_wish(WISH)
    (records.directory / WISH.id).rename(records.directory / ("0" * 16))
    assert records.wish("0" * 16) is None


def test_links_are_not_followed(records: JobRecords, tmp_path: Path) -> None:
    records.keep_wish(WISH)
    elsewhere = tmp_path / "elsewhere"
    records.directory.rename(elsewhere)
    records.directory.mkdir()
    (records.directory / WISH.id).symlink_to(elsewhere / WISH.id)
    assert records.ids() == []
    before = (elsewhere / WISH.id / "wish.json").read_bytes()
    records.keep_wish(Wish("install", ("acme/maps>=2",), NOW, priority=1))
    assert (elsewhere / WISH.id / "wish.json").read_bytes() == before


def test_a_disk_that_refuses_is_said_so(records: JobRecords) -> None:
    records.directory.parent.write_text("")
    with pytest.raises(StoreAccessError):
        records.keep_queue(QueueWish())
    assert records.ids() == []


@pytest.mark.parametrize(
    ("want", "foreground", "state", "claimed", "expected"),
    [
        (Want.RUN, False, None, False, JobState.QUEUED),
        (Want.RUN, False, JobState.RUNNING, True, JobState.RUNNING),
        (Want.RUN, False, JobState.RUNNING, False, JobState.QUEUED),  # its process died
        (Want.RUN, False, JobState.WAITING, True, JobState.WAITING),
        (Want.RUN, False, JobState.WAITING, False, JobState.QUEUED),
        (Want.RUN, True, JobState.RUNNING, False, JobState.PAUSED),
        (Want.RUN, False, JobState.FAILED, False, JobState.FAILED),
        (Want.PAUSE, False, JobState.RUNNING, True, JobState.RUNNING),  # it has not seen it yet
        (Want.PAUSE, False, JobState.PAUSED, False, JobState.PAUSED),
        (Want.PAUSE, False, None, False, JobState.PAUSED),
        (Want.CANCEL, False, None, False, JobState.CANCELLED),
        (Want.CANCEL, False, JobState.COMPLETED, False, JobState.COMPLETED),
    ],
)
def test_where_a_job_stands(
    want: Want, foreground: bool, state: JobState | None, claimed: bool, expected: JobState
) -> None:
    wish = Wish("install", ("acme/maps",), NOW, want=want, foreground=foreground, attempt=2)
    standing = state and Standing(2, state, NOW)
    assert state_of(wish, standing, claimed=claimed) is expected
    if state:  # what became of an earlier attempt is of no matter
        old = Standing(1, state, NOW)
        assert state_of(wish, old, claimed=False) is state_of(wish, None, claimed=False)


@pytest.mark.parametrize("settled", [True, False])
def test_what_has_not_changed_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    """Control: what was written a moment ago is read each time."""
    monkeypatch.setattr(_jobs, "_SETTLED_NS", -1 if settled else 10**18)
    reads: list[Path] = []
    read = _jobs.read_regular
    monkeypatch.setattr(
        _jobs, "read_regular", lambda path, *more: reads.append(path) or read(path, *more)
    )
    records, other = JobRecords(tmp_path), JobRecords(tmp_path)
    wish = Wish("install", ("acme/maps",), datetime(2026, 1, 1, tzinfo=UTC))
    with other.changing():
        other.keep_wish(wish)
    assert [records.wish(wish.id) for _ in range(3)] == [wish] * 3
    assert len(reads) == (1 if settled else 3)
    changed = evolve(wish, priority=7)
    with other.changing():
        other.keep_wish(changed)
    assert records.wish(wish.id) == changed
    (tmp_path / "jobs" / wish.id / "wish.json").unlink()
    assert records.wish(wish.id) is None
