"""docs/terminal-session.md is what the commands print."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENT = PROJECT / "docs" / "terminal-session.md"


@pytest.fixture(scope="module")
def terminal() -> ModuleType:
    spec = importlib.util.spec_from_file_location("terminal", PROJECT / "docs/demo/terminal.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_session_in_the_documents_is_what_commands_print(terminal: ModuleType) -> None:
    document = "\n" + DOCUMENT.read_text().split("\n\n", 2)[2]
    # 'make terminal-session' prints it anew.
    assert terminal.alike(document) == terminal.alike("\n" + terminal.printed())


def test_control_another_word_in_it_would_be_seen(terminal: ModuleType) -> None:
    document = DOCUMENT.read_text()
    for word in ("agent_scrub_rate", "Did you mean", "the agent has ended", "blocked"):
        assert word in document
        changed = document.replace(word, "something else")
        assert terminal.alike(changed) != terminal.alike(document)
    moved = re.sub(r"app-\w+", "app-zzz", document.replace("127.0.0.1:", "127.0.0.1:1"))
    assert terminal.alike(moved) == terminal.alike(document)
