"""What there is to have: told offline, from what was last fetched and vouched for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from plugin_manager.errors import NotFoundError, UntrustedError
from plugin_manager.manager import Offer, PluginManager
from plugin_manager.model import parse_version
from tests.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def by_name(manager: PluginManager) -> dict[str, Offer]:
    return {str(offer.plugin): offer for offer in manager.offers()}


def indexes(world: World) -> list[str]:
    return [path for path, _, _ in world.answers if "_index" in path]


def test_update_brings_what_every_publisher_offers(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x = 1"}, more='description = "Tiles of the world."')
    world.publish("acme/maps 1.1", {"maps.py": "x = 2"}, requires='host = ">=4"')
    world.publish("globex/model 2.0", {"model.py": "y = 1"})
    manager = world.manager()
    assert manager.offers() == (), "nothing was fetched"
    with world.online():
        manager = world.manager()
        manager.update()
    found = by_name(world.manager())  # offline
    assert set(found) == {"acme/maps", "globex/model"}
    maps = found["acme/maps"]
    assert (maps.newest, maps.newest_any) == (parse_version("1.0"), parse_version("1.1"))
    assert maps.about.summary == "acme/maps for tests"
    assert maps.active is None
    newest, older = maps.releases
    assert newest.reasons == ("needs host >= 4, this host is 1.0",)
    assert older.fits
    assert not newest.fits


def test_installing_brings_no_more_than_changed(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x = 1"})
    world.publish("globex/model 2.0", {"model.py": "y = 1"})
    with world.online():
        manager = world.manager()
        manager.install("acme/maps")
        assert set(by_name(manager)) == {"acme/maps"}, "no other publisher is asked"
        manager.update()
        assert set(by_name(manager)) == {"acme/maps", "globex/model"}
        world.answers.clear()
        manager.update()
        manager.upgrade()
        assert indexes(world) == []
        world.publish("globex/other 1.0", {"other.py": "z = 1"})
        manager.upgrade()
        assert len(indexes(world)) == 1
    assert set(by_name(manager)) == {"acme/maps", "globex/model", "globex/other"}


def test_outdated_is_what_a_newer_release_fits(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x = 1"})
    world.publish("acme/same 1.0", {"same.py": "x = 1"})
    world.publish("acme/high 1.0", {"high.py": "x = 1"})
    with world.online():
        manager = world.manager()
        manager.install("acme/maps", "acme/same", "acme/high")
        assert manager.outdated() == ()
        world.publish("acme/maps 1.1", {"maps.py": "x = 2"})
        world.publish("acme/maps 2.0", {"maps.py": "x = 3"})
        world.withdraw("acme/maps 2.0", "yanked", "too slow")
        world.publish("acme/high 2.0", {"high.py": "x = 2"}, requires='host = ">=9"')
        world.withdraw("acme/maps 1.0", "blocked", "leaks tokens")
        manager.update()
    (outdated,) = world.manager().outdated()
    assert (str(outdated.plugin), outdated.newest) == ("acme/maps", parse_version("1.1"))
    assert outdated.blocked == "leaks tokens"
    assert [(str(one.version), one.yanked) for one in outdated.releases] == [
        ("2.0", "too slow"),
        ("1.1", ""),
        ("1.0", ""),
    ]
    high = manager.info("acme/high")
    assert (high.newest, high.newest_any) == (parse_version("1.0"), parse_version("2.0"))


def test_search_looks_into_names_first(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x"})
    world.publish("acme/tiles 1.0", {"t.py": "x"}, more='description = "Draws MAPS quickly."')
    world.publish("globex/model 1.0", {"m.py": "x"})
    with world.online():
        world.manager().update()
    manager = world.manager()
    assert [str(offer.plugin) for offer in manager.search("maps")] == ["acme/maps", "acme/tiles"]
    assert [str(offer.plugin) for offer in manager.search("maps quickly")] == ["acme/tiles"]
    assert manager.search("nowhere") == ()
    assert len(manager.search("")) == 3


def test_info_of_what_nobody_offers_is_not_found(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x"})
    with pytest.raises(NotFoundError, match="nothing is known of acme/maps"):
        world.manager().info("acme/maps")
    with world.online():
        world.manager().update()
    assert world.manager().info("acme/maps").newest == parse_version("1.0")
    with pytest.raises(NotFoundError, match="nothing is known of acme/other"):
        world.manager().info("acme/other")


def test_what_is_installed_is_offered_though_nothing_vouches_for_it(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x"})
    with world.online():
        world.manager().install("acme/maps")
    stored = next((world.directory / "store/trust/sets").glob("*/catalogues/acme/maps.json"))
    stored.write_bytes(stored.read_bytes().replace(b"1.0", b"9.0"))
    (offer,) = world.manager().offers()
    assert offer.active is not None
    assert offer.newest is None
    assert "damaged" in offer.reasons[0]


@pytest.mark.parametrize("forged", [b'"acme"', b"maps"])
def test_an_index_that_was_tampered_with_offers_nothing(world: World, forged: bytes) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x"})
    world.publish("globex/model 1.0", {"m.py": "x"})
    directory = world.repository.public / "targets" / "acme" / "_index"
    with world.online():
        (served,) = directory.iterdir()
        data = served.read_bytes()
        served.write_bytes(data.replace(forged, forged.swapcase()))
        world.manager().update()
        assert set(by_name(world.manager())) == {"globex/model"}
        served.write_bytes(data)
        world.manager().update()
        assert set(by_name(world.manager())) == {"acme/maps", "globex/model"}, "control"


def test_a_repository_without_indexes_serves_as_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(world.repository._files), "put_index", lambda *_: None)
    world.publish("acme/maps 1.0", {"maps.py": "x"})
    world.publish("globex/model 1.0", {"m.py": "x"})
    with world.online():
        manager = world.manager()
        manager.install("acme/maps")
        manager.update()
    assert set(by_name(manager)) == {"acme/maps"}
    assert manager.info("acme/maps").newest == parse_version("1.0")
    monkeypatch.undo()
    with world.online():
        world.publish("globex/model 1.1", {"m.py": "y"})
        manager = world.manager()
        manager.update()
    assert set(by_name(manager)) == {"acme/maps", "globex/model"}


def test_an_index_that_cannot_be_had_is_no_reason_to_fail(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x"})
    (served,) = (world.repository.public / "targets" / "acme" / "_index").iterdir()
    served.unlink()
    with world.online():
        manager = world.manager()
        manager.install("acme/maps")
    with manager.load("acme/maps"):
        pass
    assert by_name(manager)["acme/maps"].newest == parse_version("1.0")
    with pytest.raises(NotFoundError):
        manager._parts.trust.local().index("acme")


def test_digests_alone_make_no_offer(world: World) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x"})
    with world.online():
        manager = world.manager()
        manager.update()
    role = next((world.directory / "store/trust/sets").glob("*/publisher-acme.json"))
    listing = role.parent / "SHA256SUMS"
    assert listing.exists()
    stored = role.parent / "indexes" / "acme.json"
    forged = stored.read_bytes().replace(b"maps", b"malw")
    was, now = (hashlib.sha256(data).hexdigest() for data in (stored.read_bytes(), forged))
    stored.write_bytes(forged)
    listing.write_text(listing.read_text().replace(was, now))
    current = world.directory / "store/trust/current"
    number = current.read_text().split()[0]
    digest = hashlib.sha256(listing.read_bytes()).hexdigest()
    current.write_text(f"{number} {digest}\n")
    other = world.manager()
    with pytest.raises(UntrustedError):
        other._parts.trust.local().index("acme")
    assert other.offers() == ()


@pytest.mark.parametrize("lost", [True, False])
def test_a_damaged_index_keeps_nothing_from_loading_and_an_update_mends_it(
    world: World, lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    world.publish("acme/maps 1.0", {"maps.py": "x"})
    world.publish("globex/model 1.0", {"m.py": "x"})
    with world.online():
        world.manager().install("acme/maps")
        world.manager().update()
        stored = next((world.directory / "store/trust/sets").glob("*/indexes/globex.json"))
        good = stored.read_bytes()
        stored.unlink() if lost else stored.write_bytes(good.replace(b"model", b"modem"))
        manager = world.manager()
        with manager.load("acme/maps"):
            assert set(by_name(manager)) == {"acme/maps"}
        assert "what globex offers is not known" in caplog.text
        (fault,) = manager.index_faults()
        assert "globex.json" in fault.message
        manager.update()
        assert set(by_name(manager)) == {"acme/maps", "globex/model"}
        assert manager.index_faults() == ()
