from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.stage import Stage


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Read by all, changed by none."""
    return Stage(tmp_path_factory.mktemp("stage"))
