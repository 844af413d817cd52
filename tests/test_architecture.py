"""Imports point downward only, and packages are entered through their interfaces."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import plugin_manager

PACKAGE = Path(plugin_manager.__file__).parent

# Each part may import the parts in the rows below its own, and none in its own row.
LEVELS = [
    {"cli"},
    {"dashboard"},
    {"_values"},
    {"agent"},
    {"manager"},
    {"loader"},
    {"trust", "store", "transfer", "publishing", "_host", "_connection"},
    {"resolver", "configuration", "index"},
    {"settings"},
    {"bundle", "catalogue"},
    {"manifest"},
    {"model", "document", "durable"},
    {"errors", "_attrs"},
]
LEVEL = {part: index for index, row in enumerate(LEVELS) for part in row}
# Beyond the rows: only the publisher's commands know publishing; documents hold plain values.
FORBIDDEN = {
    ("manager", "publishing"),
    ("loader", "publishing"),
    ("document", "model"),
    ("durable", "model"),
    ("model", "durable"),
}


def imports(source: str) -> Iterator[str]:
    """The dotted names below plugin_manager that `source` imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "plugin_manager":
                yield from (f"plugin_manager.{alias.name}" for alias in node.names)
            elif node.module.startswith("plugin_manager."):
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("plugin_manager."))


def violations(part: str, source: str) -> list[str]:
    found = []
    for name in imports(source):
        other, _, rest = name.removeprefix("plugin_manager.").partition(".")
        if other == part or other not in LEVEL:
            continue  # within itself, or the package's own public names
        if LEVEL[other] <= LEVEL[part] or (part, other) in FORBIDDEN:
            found.append(f"{part} imports {other}")
        if rest.startswith("_") and rest != "_":
            found.append(f"{part} enters {name}")
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_downward(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in LEVEL, f"{part} has no level: add it to docs/architecture.md and here"
    assert violations(part, path.read_text()) == []


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("store", "from plugin_manager.manager import PluginManager"),
        ("store", "from plugin_manager.trust import Trust"),
        ("trust", "import plugin_manager.transfer"),
        ("manager", "def f():\n    from plugin_manager import publishing"),
        ("manager", "from plugin_manager.store import _files"),
        ("cli", "from plugin_manager.store._store import Store"),
        ("manager", "from plugin_manager.dashboard import Dashboard"),
        ("dashboard", "from plugin_manager.cli import main"),
    ],
)
def test_control_a_wrong_import_is_found(part: str, source: str) -> None:
    assert violations(part, source)


def test_only_the_publishers_commands_import_publishing() -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name.startswith("plugin_manager.publishing") for name in imports(path.read_text()))
    }
    assert {user for user in users if not user.startswith("publishing/")} <= {"cli/_repo.py"}
