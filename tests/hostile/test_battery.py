"""A slice of the random battery; `python -m tests.hostile` runs more of it."""

from __future__ import annotations

from pathlib import Path

from tests.hostile.__main__ import Tally, run_round
from tests.hostile.stage import Stage


def test_whatever_a_server_mixes_ends_well_or_in_an_error_that_says_so(
    stage: Stage, tmp_path: Path
) -> None:
    tally = Tally()
    for seed in range(1, 17):
        run_round(stage, tmp_path, seed, tally)
    assert tally.faults == {}
    assert tally.ways.total() > 15
    assert {"installed", "network", "untrusted"} <= set(tally.verdicts)
