"""Trials: releases that were upgraded to and have yet to show that they work.

    trials/<digest of the head>/             the release is on trial as long as this is there
    trials/<digest of the head>/<16 digits>/ an attempt; its process holds a lock on it

Only names, so nothing in them can be malformed. The writer makes a trial before `current` names
its release. Attempts are made, and trials ended, without the writer's lock: a load waits for
nobody. Whoever is about to use a release on trial makes an attempt, locked before it can be seen.
The kernel ends the lock with the process, however that ends; an attempt that nobody holds has
failed. So those of several processes that start at once do not count until one of them dies.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from plugin_manager.durable import (
    TEMPORARY_PREFIX,
    disk_errors,
    is_real_directory,
    make_real_directories,
    remove_tree,
    sync_directory,
)
from plugin_manager.errors import InvalidInputError
from plugin_manager.model import Digest
from plugin_manager.store._garbage import Garbage, disk_bytes, entries
from plugin_manager.store._lease import Lease, is_left, occupy

__all__ = ["Attempt", "Trials"]

_ATTEMPT = re.compile(r"[0-9a-f]{16}", re.ASCII)


def _make(attempt: Path) -> None:
    """Make the directory of an attempt, which other users can see into whatever the umask."""
    attempt.mkdir()
    with contextlib.suppress(OSError):  # a file system without modes
        attempt.chmod(0o755)


class Attempt:
    """One process's use of a release on trial, until it `fail`s or is `withdraw`n, or that dies.

    Children of a fork share it: without `fail`, it fails with the last of them.
    """

    def __init__(self, directory: Path, lock: Lease) -> None:
        self._directory, self._lock, self._process = directory, lock, os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether a parent of this process made it, by whose doings it is to be judged."""
        return self._process != os.getpid()

    def fail(self) -> None:
        """Have it count, now; in a child of a fork, whose parent may go on, one of its own."""
        if self.inherited:
            with contextlib.suppress(OSError):  # the trial is over
                _make(self._directory.with_name(os.urandom(8).hex()))
        self._lock.close()

    def withdraw(self) -> None:
        """Have it never count: what is on trial was not tried."""
        if not self.inherited:
            with contextlib.suppress(OSError):  # the trial is over
                self._directory.rmdir()
        self._lock.close()


class Trials:
    """The trials in the store in `directory`; releases are named by the digests of their heads."""

    def __init__(self, directory: Path) -> None:
        self._store = directory
        self._directory = directory / "trials"

    def _path(self, release: Digest) -> Path:
        return self._directory / release

    def digests(self) -> list[Digest]:
        """The releases on trial."""
        found = []
        with disk_errors(self._store):
            for path in entries(self._directory) if is_real_directory(self._directory) else []:
                with contextlib.suppress(InvalidInputError):
                    found.append(Digest.parse(path.name))
        return found

    def failed(self, release: Digest) -> int | None:
        """How many attempts have failed; None where the release is not on trial."""
        trial = self._path(release)
        with disk_errors(self._store):
            if not is_real_directory(trial) or not is_real_directory(self._directory):
                return None
            made = [path for path in entries(trial) if _ATTEMPT.fullmatch(path.name)]
            return sum(map(is_left, made))

    def begin(self, release: Digest) -> None:
        """Put a release on trial, durably, with no attempts made. For the writer."""
        trial = self._path(release)
        with disk_errors(self._store):
            make_real_directories(self._store, self._directory)
            sync_directory(self._store)
            self._remove(trial)
            trial.mkdir()
            sync_directory(trial)
            sync_directory(self._directory)

    def end(self, release: Digest) -> bool:
        """Have a release no longer on trial, durably; whether it was. For anybody."""
        with disk_errors(self._store):
            return is_real_directory(self._directory) and self._remove(self._path(release))

    def _remove(self, trial: Path) -> bool:
        """Remove a trial, at one instant for all who look."""
        aside = trial.with_name(f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}")
        try:
            trial.rename(aside)
        except FileNotFoundError:
            return False
        sync_directory(self._directory)
        with contextlib.suppress(OSError):  # the collector does what is left
            if is_real_directory(aside):
                remove_tree(aside)
            else:
                aside.unlink()
        return True

    def attempt(self, release: Digest) -> Attempt | None:
        """An attempt at a release, durable; None where it is not on trial. For anybody.

        Raises OSError where that cannot be recorded.
        """
        trial = self._path(release)
        if not is_real_directory(self._directory) or not is_real_directory(trial):
            return None
        name = os.urandom(8).hex()
        beside = trial / f"{TEMPORARY_PREFIX}{name}"
        try:
            _make(beside)
            lock = occupy(beside)
            assert lock is not None  # nobody else knows the name
            attempt = Attempt(trial / name, lock)
            try:
                beside.rename(trial / name)
                sync_directory(trial)
            except BaseException:
                attempt.withdraw()
                raise
        except FileNotFoundError:
            return None  # the trial ended meanwhile
        return attempt

    def garbage(self, kept: set[Digest]) -> list[Garbage]:
        """The trials of all releases but `kept`, and what an interrupted `end` left."""
        found = []
        for path in entries(self._directory) if is_real_directory(self._directory) else []:
            size_bytes = disk_bytes(path)
            if path.name.startswith(TEMPORARY_PREFIX):
                found.append(Garbage("temporary", f"trials/{path.name}", size_bytes))
            else:
                with contextlib.suppress(InvalidInputError):
                    if Digest.parse(path.name) not in kept:
                        found.append(Garbage("trial", f"trials/{path.name}", size_bytes))
        return found
