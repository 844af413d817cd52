"""A slice of the soak, and proof that it would notice."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve

from tests.transfer.soak import PATIENCE, soak

HASTE = evolve(PATIENCE, pause_seconds=0.01, read_timeout_seconds=0.5, rate_window_seconds=0.5)


def test_installs_through_a_failing_server_complete_and_leave_nothing_behind(
    tmp_path: Path,
) -> None:
    ends, bad = soak(tmp_path, 24, workers=4, policy=HASTE)
    assert ends == {"": 24}
    assert bad.failed >= 10


def test_control_without_further_attempts_installs_fail(tmp_path: Path) -> None:
    ends, _ = soak(tmp_path, 12, workers=4, policy=evolve(HASTE, attempts=1))
    assert ends[""] < 12
    assert any(end.startswith("network") for end in ends)
