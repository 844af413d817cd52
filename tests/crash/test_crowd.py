"""A slice of the battery; `python -m tests.crash crowd` has more processes, for longer."""

from __future__ import annotations

import pytest

from tests.crash.crowd import CONTROLS, Control, crowd


def test_a_crowd_of_processes_loses_and_corrupts_nothing() -> None:
    outcome = crowd(processes=8, operations=250, seed=5)
    assert not outcome.problems
    assert outcome.killed
    assert outcome.made


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_a_broken_store_is_noticed(control: Control) -> None:
    outcome = crowd(processes=8, operations=500, seed=5, control=control)
    assert control.seen(outcome.problems)
