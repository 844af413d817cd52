"""A slice of the battery; `python -m tests.crash machine` takes many more steps."""

from __future__ import annotations

import pytest

from tests.crash.machine import CONTROLS, Control, is_caught, run


def test_the_store_does_what_its_model_says() -> None:
    assert run(1000, 1) >= 1000


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_a_broken_store_is_noticed(control: Control) -> None:
    assert is_caught(control, 5000, 1)
