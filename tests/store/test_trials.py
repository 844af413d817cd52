"""Trials: which attempts count, and what is on the disk when."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plugin_manager.model import Digest
from plugin_manager.store import Trials, _lease, _trials

RELEASE = Digest.parse("0" * 64)


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    trials = Trials(tmp_path)
    trials.begin(RELEASE)
    return trials


def test_an_attempt_counts_once_it_has_failed(trials: Trials) -> None:
    assert trials.failed(RELEASE) == 0
    attempts = [trials.attempt(RELEASE) for _ in range(3)]
    assert trials.failed(RELEASE) == 0
    for failed, attempt in enumerate(attempts, 1):
        assert attempt
        attempt.fail()
        assert trials.failed(RELEASE) == failed
    assert trials.end(RELEASE)
    assert trials.failed(RELEASE) is None
    assert trials.attempt(RELEASE) is None


def test_an_attempt_that_is_withdrawn_while_somebody_looks_does_not_count(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(owner: Any, name: str, call: Callable[[], object]) -> None:
        """Have `call` done after the next listing, or just before the next lock."""
        function, calls = getattr(owner, name), [call]

        def replaced(*arguments: Any) -> Any:
            found = function(*arguments) if name == "entries" else None
            if calls:
                calls.pop()()
            return found if name == "entries" else function(*arguments)

        monkeypatch.setattr(owner, name, replaced)

    for owner, name in ((_trials, "entries"), (_lease.fcntl, "flock")):
        attempt = trials.attempt(RELEASE)
        assert attempt
        meanwhile(owner, name, attempt.withdraw)
        assert trials.failed(RELEASE) == 0
    # Control: one that fails meanwhile does count.
    attempt = trials.attempt(RELEASE)
    assert attempt
    meanwhile(_lease.fcntl, "flock", attempt.fail)
    assert trials.failed(RELEASE) == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENFILE])
def test_an_attempt_that_cannot_be_looked_at_does_not_count(
    trials: Trials, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    attempt = trials.attempt(RELEASE)
    assert attempt
    attempt.fail()
    assert trials.failed(RELEASE) == 1

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as context:
        context.setattr(_lease.os, "open", refuse)
        assert trials.failed(RELEASE) == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes another user")
def test_other_users_see_that_an_attempt_lives(request: pytest.FixtureRequest) -> None:
    store = Path(tempfile.mkdtemp())  # what lies above `tmp_path` is for one user only
    request.addfinalizer(lambda: shutil.rmtree(store))
    store.chmod(0o755)
    trials = Trials(store)
    trials.begin(RELEASE)
    umask = os.umask(0o077)
    try:
        attempts = [trials.attempt(RELEASE) for _ in range(3)]
    finally:
        os.umask(umask)
    assert all(attempts)

    def look(expected: int) -> None:
        child = os.fork()
        if not child:
            seen = -1
            try:
                os.setuid(65534)
                found = trials.failed(RELEASE)
                seen = 99 if found is None else found
            finally:
                os._exit(seen)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == expected

    look(0)
    for attempt in attempts:
        assert attempt
        attempt.fail()
    look(3)


@contextmanager
def synced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, list[str]]]]:
    """The directories that are made durable meanwhile, with what was in them then."""
    found: list[tuple[str, list[str]]] = []
    sync = _trials.sync_directory

    def recorded(directory: Path) -> None:
        found.append((directory.name, sorted(path.name for path in directory.iterdir())))
        sync(directory)

    with monkeypatch.context() as context:
        context.setattr(_trials, "sync_directory", recorded)
        yield found


def test_an_attempt_and_the_end_are_durable(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    with synced(monkeypatch) as found:
        attempt = trials.attempt(RELEASE)
    assert attempt
    [name] = (path.name for path in (trials._path(RELEASE)).iterdir())
    assert found[-1] == (RELEASE, [name]), "what is tried may take the machine down"
    with synced(monkeypatch) as found:
        assert trials.end(RELEASE)
    [(directory, left)] = found
    assert directory == "trials"
    assert RELEASE not in left, "a release that was confirmed does not fail later"


def test_no_more_than_a_trial_that_is_over_is_ended(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials.end(RELEASE)
    with synced(monkeypatch) as found:
        assert not trials.end(RELEASE)
    assert found == []
