"""Which releases are old enough to be taken unasked."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from plugin_manager.agent._upgrades import newer_entries, request_for
from plugin_manager.catalogue import CatalogueEntry
from plugin_manager.model import (
    ANY,
    Platform,
    PluginName,
    Release,
    Withdrawal,
    WithdrawalKind,
    parse_version,
)

MAPS = PluginName.parse("acme/maps")
LINUX = Platform.parse("py3-none-manylinux_2_28_x86_64")


def entry(version: str, platform: Platform = ANY, withdrawal: str = "") -> CatalogueEntry:
    return CatalogueEntry(
        Release(MAPS, parse_version(version), platform),
        1,
        1,
        datetime(2026, 1, 1, tzinfo=UTC),
        withdrawal=Withdrawal(WithdrawalKind(withdrawal), "why") if withdrawal else None,
    )


def chosen(active: str, old: list[str], young: list[str]) -> list[str] | None:
    """Of all, those versions that would be asked for."""
    release = Release(MAPS, parse_version(active))
    entries = [entry(version) for version in (*old, *young)]
    newer = newer_entries(entries, release)
    request = request_for(release, newer, lambda one: str(one.release.version) in old)
    if request is None:
        return None
    versions = sorted(one.release.version for one in entries)
    return [str(one) for one in versions if request.specifier.contains(one, prereleases=True)]


@pytest.mark.parametrize(
    ("active", "old", "young", "expected"),
    [
        ("1.0", ["2.0"], [], ["2.0"]),
        ("1.0", [], ["2.0"], None),
        ("1.0", ["1.0", "0.9"], [], None),
        ("1.0", ["1.1", "2.0"], ["2.1"], ["1.1", "2.0"]),
        ("1.0", ["2.0"], ["1.1", "1.2"], ["2.0"]),  # a fix of an old line, published later
        ("1.0", ["1.0.post1"], ["1.1"], ["1.0.post1"]),
        ("1.0", ["2.0"], ["2.0+build2"], ["2.0"]),
        ("1.0+a", ["1.0+b"], [], ["1.0+b"]),
        ("1.0", ["2.0rc1"], [], None),
        ("2.0rc1", ["2.0rc2"], ["2.0"], ["2.0rc2"]),
    ],
)
def test_only_what_is_newer_and_old_enough_is_asked_for(
    active: str, old: list[str], young: list[str], expected: list[str] | None
) -> None:
    assert chosen(active, old, young) == expected


def test_a_version_is_as_old_as_its_youngest_release() -> None:
    release = Release(MAPS, parse_version("1.0"))
    newer = [entry("2.0"), entry("2.0", LINUX)]
    assert request_for(release, newer, lambda one: one.release.platform == ANY) is None
    assert request_for(release, newer, lambda one: True)


@pytest.mark.parametrize("kind", ["yanked", "blocked"])
def test_what_is_withdrawn_is_not_taken(kind: str) -> None:
    release = Release(MAPS, parse_version("1.0"))
    assert newer_entries([entry("2.0", withdrawal=kind)], release) == []
