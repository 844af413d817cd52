"""The index: equal plugins, equal bytes; never large; nothing believed that makes no sense."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

import pytest
from attrs import evolve

from plugin_manager import index as index_format
from plugin_manager.catalogue import CatalogueEntry
from plugin_manager.errors import InvalidInputError
from plugin_manager.index import (
    COMFORTABLE_BYTES,
    MAX_INDEX_BYTES,
    Listed,
    index_path,
    parse,
    render,
)
from plugin_manager.manifest import About
from plugin_manager.model import PluginName, Release, Withdrawal, WithdrawalKind, parse_version

PUBLISHED = datetime(2026, 11, 20, 12, tzinfo=UTC)


def listed(name: str, *versions: str, about: About | None = None) -> Listed:
    plugin = PluginName("acme", name)
    entries = [
        CatalogueEntry(Release(plugin, parse_version(version)), 1_000, 2_000, PUBLISHED)
        for version in versions
    ]
    return Listed(plugin, about or About(summary=f"{name}."), tuple(entries))


def test_what_is_rendered_is_read_again() -> None:
    about = About("Maps.", "Tiles of\nthe world.", "MIT", "https://acme.example")
    maps = listed("maps", "1.0", "1.1", about=about)
    reason = Withdrawal(WithdrawalKind.BLOCKED, "leaks tokens")
    maps = evolve(maps, entries=(evolve(maps.entries[0], withdrawal=reason), maps.entries[1]))
    found = parse(render("acme", [maps, listed("a", "2.0")]))
    assert found.plugins == (listed("a", "2.0"), maps)
    assert (found.publisher, found.left_out, found.shortened) == ("acme", 0, False)


def test_the_same_plugins_give_the_same_bytes() -> None:
    plugins = [listed(f"p{number}", "1.0", "2.0") for number in range(30)]
    shuffled = random.Random(1).sample(plugins, len(plugins))
    assert render("acme", plugins) == render("acme", shuffled)


def test_old_releases_are_counted_only() -> None:
    (found,) = parse(render("acme", [listed("maps", *(f"1.{n}" for n in range(50)))])).plugins
    assert (len(found.entries), found.older) == (20, 30)
    assert str(found.entries[-1].release.version) == "1.49"


def test_a_large_index_is_shortened_the_same_way_each_time() -> None:
    about = About(summary="s" * 150, description="d" * 5_000, license="MIT")
    plugins = [listed(f"p{n}", *(f"1.{m}" for m in range(9)), about=about) for n in range(700)]
    data = render("acme", plugins)
    found = parse(data)
    assert len(data) <= COMFORTABLE_BYTES
    assert found.shortened
    assert (len(found.plugins), found.left_out) == (700, 0)
    assert found.plugins[0].about.description == "d" * 200
    assert len(found.plugins[0].entries) == 5


def test_even_the_largest_publisher_stays_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_format, "MAX_INDEX_BYTES", 40_000)
    monkeypatch.setattr(index_format, "COMFORTABLE_BYTES", 10_000)
    about = About(summary="\N{SNOWMAN}" * 9_000, description="d" * 5_000)
    data = render("acme", [listed(f"p{n:03}", "1.0", "2.0", about=about) for n in range(100)])
    found = parse(data)
    assert len(data) <= 40_000
    assert found.left_out == 100 - len(found.plugins) > 0
    assert {listed.about.summary for listed in found.plugins} == {"\N{SNOWMAN}" * 200}
    assert [str(one.plugin) for one in found.plugins[:2]] == ["acme/p000", "acme/p001"]


@pytest.mark.parametrize(("limit", "most"), [("MAX_PLUGINS", 7), ("MAX_RELEASES", 15)])
def test_no_more_is_listed_than_is_read(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    plugins = [listed(f"p{n}", "1.0", "2.0") for n in range(9)]
    everything = render("acme", plugins)
    assert len(parse(everything).plugins) == 9  # control
    monkeypatch.setattr(index_format, limit, most)
    found = parse(render("acme", plugins))
    assert (len(found.plugins), found.left_out) == (7, 2)
    with pytest.raises(InvalidInputError, match=f"more than {most} "):
        parse(everything)


def test_plugins_that_are_too_many_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    monkeypatch.setattr(index_format, "_listed", lambda *given: looked.append(given))
    plugins = [{"name": "a"}] * 3
    monkeypatch.setattr(index_format, "MAX_PLUGINS", 2)
    with pytest.raises(InvalidInputError, match="more than 2 plugins"):
        parse(json.dumps({"format": 1, "publisher": "acme", "plugins": plugins}).encode())
    assert not looked


def test_the_path_is_a_publishers_and_no_plugins() -> None:
    assert index_path("acme") == "acme/_index/plugins.json"
    with pytest.raises(InvalidInputError):
        PluginName.parse(index_path("acme").rpartition("/")[0])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"publisher": "../etc"}, "publisher"),
        ({"plugins": [{"name": "../maps"}]}, r"plugins\[0\].name"),
        ({"plugins": [{"name": "a"}, {"name": "a"}]}, "acme/a is listed twice"),
        ({"plugins": [{"name": "a", "older": -1}]}, "older"),
        ({"plugins": [{"name": "a", "releases": [{"version": "x"}]}]}, "version"),
        ({"plugins": [{"name": "a", "about": {"summary": 7}}]}, "summary"),
        ({"format": 2}, "format 1 only"),
    ],
)
def test_nonsense_is_refused_by_its_place(change: dict[str, object], fault: str) -> None:
    document = {"format": 1, "publisher": "acme", "plugins": [{"name": "a"}]}
    parse(json.dumps(document).encode())  # control
    with pytest.raises(InvalidInputError, match=fault):
        parse(json.dumps({**document, **change}).encode())


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b"null"])
def test_what_is_no_index_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse(data)


def test_what_is_too_large_is_not_even_read() -> None:
    with pytest.raises(InvalidInputError, match="is larger than"):
        parse(b" " * (MAX_INDEX_BYTES + 1))
