"""What the documents point at is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("keys/**/*.md")]
)

_CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|^\[[^\]]+\]:\s*<?([^\s>]+)", re.MULTILINE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def links(text: str) -> Iterator[str]:
    """The targets of links, images and references in `text`, outside of code."""
    for match in _LINK.finditer(_CODE.sub("", text)):
        yield match[1] or match[2]


def anchors(text: str) -> set[str]:
    """The anchors that headings in `text` get where it is shown: lower case, "-" for spaces."""
    headings = re.findall(
        r"^#+ +(.*?) *$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: Path) -> list[str]:
    """The relative links of `document` that lead nowhere."""
    found = []
    for link in links(document.read_text()):
        if _SCHEME.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = document.parent / path if path else document
        inside = target.resolve().is_relative_to(PROJECT) or PROJECT not in document.parents
        if not (inside and target.exists()) or (
            anchor and target.suffix == ".md" and anchor not in anchors(target.read_text())
        ):
            found.append(link)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(PROJECT).as_posix())
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    assert broken(document) == []


def test_the_documents_are_found_and_do_link() -> None:
    names = {path.relative_to(PROJECT).as_posix() for path in DOCUMENTS}
    assert names >= {"README.md", "CHANGELOG.md", "keys/README.md", "docs/operating.md"}
    assert any(name.startswith("docs/decisions/") for name in names)
    assert sum(1 for path in DOCUMENTS for _ in links(path.read_text())) > 10


def test_control_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading, with `code`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Top\n[a](there.md) [b](there.md#a-heading-with-code) [c](#top) [d](https://x.org/no)\n"
        "[e](gone.md) ![f](gone.png) [g](there.md#gone) [h](#gone)\n\n[i]: gone-reference.md\n"
        "`[code](not-a-link.md)`\n```\n[code](not-a-link-either.md)\n```\n"
    )
    assert broken(page) == ["gone.md", "gone.png", "there.md#gone", "#gone", "gone-reference.md"]
