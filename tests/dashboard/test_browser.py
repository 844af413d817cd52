"""The page in a real browser, against a real store, a real repository and real servers."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from attrs import evolve
from playwright.sync_api import Browser, expect

from plugin_manager import PluginManager
from plugin_manager.cli._dashboard import _leading_to
from plugin_manager.settings import Settings
from tests.dashboard.browser import Visit, browser, needs_chromium
from tests.dashboard.conftest import Client, running, until
from tests.dashboard.scene import agent, dashboard, noise, publish, tamper
from tests.nginx import needs_nginx, nginx
from tests.world import World

pytestmark = [needs_chromium, pytest.mark.xdist_group("browser")]  # one Chromium for all


@pytest.fixture(scope="module")
def chromium_browser() -> Iterator[Browser]:
    with browser() as found:
        yield found


Visitor = Callable[..., Visit]
Server = Callable[[Callable[[], PluginManager]], Client]
Show = Callable[..., tuple[Visit, Client]]


@pytest.fixture
def serve() -> Iterator[Server]:
    """Runs dashboards until the end of the test, when all pages are closed."""
    with ExitStack() as stack:
        yield lambda make_manager: stack.enter_context(running(make_manager))


@pytest.fixture
def visitor(chromium_browser: Browser, serve: Server) -> Iterator[Visitor]:
    """Opens pages, which must have logged nothing and asked nobody else when they are closed."""
    with ExitStack() as stack:

        def opened(link: str, **more: Any) -> Visit:
            visit = Visit.of(chromium_browser, **more)
            stack.callback(visit.close)
            return visit.open(link)

        yield opened


def slowly(world: World, bytes_per_second: int, **settings: Any) -> Callable[[], PluginManager]:
    """Makes managers of the world's store that fetch no faster."""

    def make() -> PluginManager:
        known: Settings = world.manager().settings
        limited = evolve(known, max_bytes_per_second=bytes_per_second, **settings)
        return PluginManager(limited, now=world.clock)

    return make


@pytest.fixture
def show(visitor: Visitor, serve: Server) -> Show:
    """Shows the store of a world: runs a dashboard of it, and opens its page."""

    def shown(make_manager: Callable[[], PluginManager], **more: Any) -> tuple[Visit, Client]:
        client = serve(make_manager)
        return visitor(client.dashboard.link(), **more), client

    return shown


@pytest.fixture
def maps(world: World) -> World:
    """Maps 1.0 and 1.1, of which 1.0 was active before 1.1; and fonts that can be had."""
    for version in ("1.0", "1.1"):
        world.publish(f"acme/maps {version}", {"maps.py": f"x = '{version}'", "data": noise(9000)})
    world.publish("globex/fonts 1.0", {"fonts.py": "x = 1"})
    manager = world.manager()
    manager.update()
    manager.install("acme/maps==1.0")
    manager.upgrade("acme/maps")
    return world


@pytest.fixture
def model(world: World) -> World:
    """A large plugin that can be had."""
    world.publish("acme/model 1.0", {"model.bin": noise(4_000_000)})
    world.manager().update()
    return world


# --- downloads -----------------------------------------------------------------------------------


@needs_nginx
def test_installing_shows_live_progress(world: World, visitor: Visitor, serve: Server) -> None:
    world.publish("acme/model 1.0", {"model.bin": noise(4_000_000)})
    with nginx(world.repository.directory / "public", "limit_rate 400k;") as (address, _):
        world.base_url = address
        world.manager().update()
        client = serve(world.manager)
        visit = visitor(client.dashboard.link())
        visit.button("Install", "acme/model").click()
        card = visit.wait_for("acme/model", "downloading")
        told = card.locator(".progress p")
        expect(told).to_contain_text("of 4.0 MB")
        expect(told).to_contain_text("/s")
        seen: set[float] = set()
        script = "() => document.querySelector('progress')?.value ?? -1"
        until(
            lambda: visit.page.evaluate(script),
            lambda value: seen.add(value) or (value < 0 and len(seen) > 1),
        )
        assert len([value for value in seen if 0 < value < 100]) >= 2, seen  # one each half second
        visit.wait_for("acme/model", "installed")
        visit.toast("acme/model: done")
    assert world.manager().installed()


def test_a_download_goes_on_after_the_dashboard_was_killed(
    model: World, visitor: Visitor, serve: Server
) -> None:
    model.publish("acme/model 1.1", {"model.bin": noise(16_000_000)})
    model.manager().update()
    with dashboard(model, "--max-rate", "6MB") as before:
        visit = visitor(before.link)
        visit.button("Install", "acme/model").click()
        visit.wait_for("acme/model", "downloading")
        until(
            lambda: visit.card("acme/model").locator("progress").get_attribute("value"),
            lambda value: int(value or 0) >= 50,
        )
        visit.button("Pause", "acme/model").click()
        visit.wait_for("acme/model", "paused")
        visit.expect("Failed to load resource")  # while nobody is there to answer
        before.end(signal.SIGKILL)
        visit.page.get_by_text("Reconnecting…").wait_for()
    port = before.port
    with dashboard(model, port=port) as after:
        visit.page.get_by_text("Locked", exact=True).wait_for()
        visit.page.goto("about:blank")
        visit.open(after.link)
        card = visit.wait_for("acme/model", "paused")
        assert int(card.locator("progress").get_attribute("value") or 0) >= 50, "as it was"
        visit.button("Resume", "acme/model").click()
        visit.wait_for("acme/model", "installed")
        [job] = requests.get(
            f"{after.address}api/jobs",
            headers={"Authorization": f"Bearer {after.token}"},
            timeout=30,
        ).json()["jobs"]
    assert job["progress"]["total_bytes"] <= 13_000_000, "what had arrived was not fetched again"


def test_a_download_is_paused_and_resumed_over_a_restart_of_the_agent(
    model: World, visitor: Visitor
) -> None:
    model.publish("acme/model 1.1", {"model.bin": noise(16_000_000)})
    model.manager().update()
    with ExitStack() as running_agent:
        running_agent.enter_context(agent(model, "--max-rate", "5MB"))
        with dashboard(model) as page:
            visit = visitor(page.link)
            visit.page.get_by_text("Running", exact=True).wait_for()
            visit.button("Install", "acme/model").click()
            visit.wait_for("acme/model", "downloading")
            until(
                lambda: visit.card("acme/model").locator("progress").get_attribute("value"),
                lambda value: int(value or 0) >= 30,
            )
            visit.button("Pause", "acme/model").click()
            visit.wait_for("acme/model", "paused")
            running_agent.close()  # killed
            card = visit.wait_for("acme/model", "paused")
            assert int(card.locator("progress").get_attribute("value") or 0) >= 30
            with agent(model):
                visit.button("Resume", "acme/model").click()
                visit.wait_for("acme/model", "installed")
            [job] = model.manager().jobs.all()
            visit.expect("Failed to load resource")  # once the dashboard has ended
    assert job.progress is not None
    assert job.progress.total_bytes <= 13_000_000, "what had arrived was not fetched again"


def test_a_cancelled_download_ends_and_can_be_had_again(model: World, show: Show) -> None:
    visit, client = show(slowly(model, 500_000))
    visit.button("Install", "acme/model").click()
    visit.wait_for("acme/model", "downloading")
    visit.button("Cancel", "acme/model").click()
    visit.wait_for("acme/model", "available")
    [job] = client.get("/api/jobs")["jobs"]
    assert job["state"] == "cancelled"
    assert not model.manager().installed()
    expect(visit.button("Install", "acme/model")).to_be_enabled()


def test_all_downloads_are_paused_and_resumed_at_once(world: World, show: Show) -> None:
    for name in ("acme/one", "acme/two"):
        world.publish(f"{name} 1.0", {"data": noise(3_000_000)})
    world.manager().update()
    visit, client = show(slowly(world, 200_000))
    for name in ("acme/one", "acme/two"):
        visit.button("Install", name).click()
        visit.wait_for(name, "downloading")
    visit.page.get_by_text("2 downloads").wait_for()
    visit.button("Pause all").click()
    visit.page.get_by_text("All downloads are paused.").wait_for()
    visit.button("Resume all").click()
    visit.page.get_by_text("All downloads are paused.").wait_for(state="detached")
    client.post("/api/jobs/pause")  # another page, or the command
    visit.page.get_by_text("All downloads are paused.").wait_for()


# --- what is installed ---------------------------------------------------------------------------


def test_rolling_back_and_forth(maps: World, show: Show) -> None:
    visit, _ = show(maps.manager)
    visit.wait_for("acme/maps", "installed")
    visit.button("Details", "acme/maps").click()
    sheet = visit.page.locator("#detail")
    sheet.get_by_role("button", name="Roll back to 1.0").click()
    visit.toast("acme/maps is back at 1.0")
    expect(sheet.locator(".version")).to_contain_text("held")
    [held] = maps.manager().installed()
    assert (str(held.release.version), held.held) == ("1.0", True)
    sheet.get_by_role("button", name="Allow upgrades").click()
    sheet.get_by_role("button", name="Upgrade to 1.1").click()
    expect(sheet.locator(".chip").first).to_have_text("Installed")
    expect(sheet.locator(".events li").first).to_contain_text("1.0 → 1.1")
    assert str(maps.manager().installed()[0].release.version) == "1.1"


def test_what_is_held_offers_to_allow_upgrades_and_no_upgrade(maps: World, show: Show) -> None:
    maps.manager().rollback("acme/maps")
    visit, _ = show(maps.manager)
    visit.wait_for("acme/maps", "update")
    expect(visit.card("acme/maps")).to_contain_text("1.1 is out")
    expect(visit.card("acme/maps")).to_contain_text("upgrades are kept away")
    assert visit.button("Upgrade to 1.1", "acme/maps").count() == 0
    visit.button("Allow upgrades", "acme/maps").click()
    visit.button("Upgrade to 1.1", "acme/maps").click()
    visit.wait_for("acme/maps", "installed")


def test_pinning_and_uninstalling(maps: World, show: Show) -> None:
    visit, _ = show(maps.manager)
    visit.button("Details", "acme/maps").click()
    sheet, ask = visit.page.locator("#detail"), visit.page.locator("#ask")
    sheet.get_by_role("button", name="Pin: ").click()
    expect(sheet.locator(".version")).to_contain_text("pinned")
    sheet.get_by_role("button", name="Uninstall").click()
    ask.get_by_role("button", name="Keep it").click()
    assert maps.manager().installed(), "nobody said so"
    sheet.get_by_role("button", name="Uninstall").click()
    visit.judge()
    ask.get_by_role("button", name="Uninstall").click()
    visit.wait_for("acme/maps", "available")
    assert maps.manager().installed() == []


def test_changes_from_elsewhere_appear_without_reloading(maps: World, show: Show) -> None:
    visit, _ = show(maps.manager)
    visit.wait_for("globex/fonts", "available")
    maps.manager().install("globex/fonts")
    visit.wait_for("globex/fonts", "installed")
    maps.publish("globex/fonts 2.0", {"fonts.py": "x = 2"})
    visit.button("Check for updates").click()
    visit.wait_for("globex/fonts", "update")
    assert visit.page.evaluate("performance.getEntriesByType('navigation').length") == 1


def test_a_page_that_nobody_looks_at_holds_no_connection(maps: World, show: Show) -> None:
    visit, _ = show(maps.manager)
    visit.wait_for("globex/fonts", "available")
    look = """hidden => {
        Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    visit.page.evaluate(look, True)
    maps.manager().install("globex/fonts")
    visit.page.wait_for_timeout(1500)
    visit.wait_for("globex/fonts", "available")
    visit.page.evaluate(look, False)
    visit.wait_for("globex/fonts", "installed")


def test_a_full_store_offers_what_to_free(model: World, show: Show) -> None:
    model.publish("acme/maps 1.0", {"data": noise(1_000_000)})
    model.manager().install("acme/maps")
    model.manager().pin("acme/maps")
    environment = {"PLUGINCTL_MAX_STORE": "5200kB"}
    visit, _ = show(lambda: model.manager(environment=environment))
    visit.button("Install", "acme/model").click()
    visit.wait_for("acme/model", "failed")
    cut = "element => element.scrollHeight - element.clientHeight"
    reason = visit.card("acme/model").locator(".reason")
    assert [one.evaluate(cut) for one in [reason, *reason.locator("p").all()]] == [0, 0, 0]
    visit.button("Free space…", "acme/model").click()
    ask = visit.page.locator("#ask")
    expect(ask.get_by_role("heading")).to_have_text("Not enough space")
    expect(ask).to_contain_text("acme/maps is pinned")
    visit.judge()
    ask.get_by_role("button", name="Unpin: acme/maps is pinned").click()
    expect(ask.get_by_role("heading")).to_have_text("There is room now")
    ask.get_by_role("button", name="Try again").click()
    visit.wait_for("acme/model", "installed")
    visit.wait_for("acme/maps", "evicted")
    visit.judge()


def test_a_tampered_plugin_is_found_and_repaired(maps: World, show: Show) -> None:
    tamper(maps.manager(), "acme/maps", "data")
    visit, _ = show(maps.manager)
    visit.button("Verify now").click()
    card = visit.wait_for("acme/maps", "damaged")
    expect(card).to_contain_text("Damaged: data")
    expect(visit.page.locator(".panel.integrity")).to_contain_text("1 damaged")
    visit.judge()
    visit.button("Repair", "acme/maps").click()
    visit.wait_for("acme/maps", "installed")
    visit.page.get_by_text("Everything is as it was signed").first.wait_for()
    assert maps.manager().verify().good


def test_a_blocked_plugin_says_why_and_offers_the_way_back(maps: World, show: Show) -> None:
    maps.withdraw("acme/maps 1.1", "blocked", "Leaks keys.")
    visit, _ = show(maps.manager)
    visit.button("Check for updates").click()
    card = visit.wait_for("acme/maps", "blocked")
    expect(card).to_contain_text("The publisher blocked this release: Leaks keys.")
    visit.judge()
    visit.button("Roll back to 1.0", "acme/maps").click()
    visit.wait_for("acme/maps", "installed")
    assert str(maps.manager().installed()[0].release.version) == "1.0"


# --- how it looks and is used --------------------------------------------------------------------


@pytest.fixture
def many(world: World) -> World:
    """Plugins in many states."""
    for name in ("acme/maps", "acme/routes", "acme/themes", "acme/voices", "globex/fonts"):
        world.publish(f"{name} 1.0", {"data": noise(50_000)})
    for name in ("acme/maps", "acme/themes"):
        world.publish(f"{name} 1.1", {"data": noise(50_000, 1)})
    world.publish("globex/model 1.0", {"data": noise(3_000_000)})
    world.publish("globex/vision 1.0", {"data": b"x"}, requires='host = ">=4"')
    manager = world.manager()
    manager.install("acme/maps==1.0", "acme/routes", "acme/themes", "acme/voices", "globex/fonts")
    manager.pin("acme/routes")
    world.withdraw("acme/themes 1.1", "blocked", "Leaks.")
    world.withdraw("acme/voices 1.0", "yanked", "Too fast.")
    manager.update()
    tamper(manager, "globex/fonts", "data")
    return world


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_is_fit_for_everybody(many: World, show: Show, scheme: str) -> None:
    visit, _ = show(slowly(many, 100_000), color_scheme=scheme)
    visit.button("Install", "globex/model").click()
    visit.button("Verify now").click()
    for plugin, state in {
        "acme/maps": "update",
        "acme/routes": "installed",
        "acme/themes": "blocked",
        "acme/voices": "yanked",
        "globex/fonts": "damaged",
        "globex/model": "downloading",
        "globex/vision": "incompatible",
    }.items():
        visit.wait_for(plugin, state)
    expect(visit.card("globex/vision").get_by_role("button", name="Install")).to_be_disabled()
    expect(visit.card("globex/vision")).to_contain_text("needs host >= 4, this host is 1.0")
    visit.page.get_by_role("progressbar", name="Downloading: globex/model").wait_for()
    visit.judge()
    visit.button("Details", "acme/themes").click()
    visit.judge()
    visit.page.keyboard.press("Escape")
    visit.button("Pause", "globex/model").click()
    visit.wait_for("globex/model", "paused")
    visit.page.set_viewport_size({"width": 390, "height": 844})
    visit.judge()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_part_of_the_storage_is_known_by_more_than_its_colour(
    many: World, show: Show, scheme: str
) -> None:
    visit, _ = show(many.manager, color_scheme=scheme)
    visit.wait_for("acme/themes", "blocked")
    look = """elements => elements.map(one => {
        const style = getComputedStyle(one);
        return [one.textContent, style.backgroundImage, style.backgroundColor, style.color];
    })"""
    legend = visit.page.locator(".legend .swatch").evaluate_all(look)
    bar = visit.page.locator(".bar > span").evaluate_all(look)
    assert len(legend) == len(bar) >= 6
    keys = [number or pattern for number, pattern, _, _ in legend]
    assert len(set(keys)) == len(keys)
    assert "none" not in keys
    tones = [tone for number, _, tone, _ in legend if number]
    assert len(set(tones)) == len(tones)
    assert [part[1:3] for part in bar] == [part[1:3] for part in legend], "in the same order"
    [(_, _, ground, _)] = visit.page.locator(".panel.storage").evaluate_all(look)
    for number, _, tone, ink in legend:
        if number:
            assert contrast(tone, ground) >= 3, (number, tone)
            assert contrast(tone, ink) >= 4.5, (number, tone)


def contrast(one: str, other: str) -> float:
    """Of two colours as CSS tells them, by WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_a_store_that_goes_away_is_told_and_its_return_is_seen(maps: World, show: Show) -> None:
    visit, client = show(maps.manager)
    client.post("/api/install", {"requests": ["globex/fonts"]})
    visit.toast("globex/fonts: done")
    visit.page.locator(".toast").first.wait_for(state="detached")
    store, away = maps.directory / "store", maps.directory / "away"
    store.rename(away)
    alert = visit.page.get_by_role("alert")
    expect(alert).to_contain_text("is gone, or cannot be read")
    expect(alert).to_contain_text("Bring it back")
    expect(visit.page.locator(".empty")).to_contain_text("Nothing can be shown.")
    visit.judge()
    visit.expect("409")
    visit.button("Check for updates").click()
    visit.toast("is gone, or cannot be read")
    visit.page.locator(".toast").first.wait_for(state="detached")
    away.rename(store)
    visit.wait_for("acme/maps", "installed")
    expect(alert).to_have_count(0)
    assert visit.page.locator(".toast").count() == 0, "what was done long ago is no news"


def test_control_axe_finds_what_is_not_labelled(maps: World, show: Show) -> None:
    visit, _ = show(maps.manager)
    visit.wait_for("acme/maps", "installed")
    visit.judge()
    visit.page.evaluate("document.getElementById('search').removeAttribute('aria-label')")
    visit.page.evaluate("document.getElementById('search').removeAttribute('placeholder')")
    assert any("label" in one for one in visit.violations())


def test_control_a_page_that_logs_is_found(
    maps: World, chromium_browser: Browser, serve: Server
) -> None:
    client = serve(maps.manager)
    visit = Visit.of(chromium_browser).open(client.dashboard.link())
    visit.page.evaluate("console.error('oops')")
    with pytest.raises(AssertionError, match="oops"):
        visit.close()


def test_dark_follows_the_system_until_it_is_chosen(maps: World, show: Show) -> None:
    def is_dark() -> bool:
        script = "() => getComputedStyle(document.body).backgroundColor"
        numbers = [int(part) for part in visit.page.evaluate(script)[4:-1].split(",")]
        return sum(numbers) < 3 * 128

    visit, _ = show(maps.manager, color_scheme="dark")
    assert is_dark()
    visit.page.emulate_media(color_scheme="light")
    assert not is_dark()
    visit.button("Theme: system").click()
    visit.button("Theme: light").click()
    visit.button("Theme: dark").wait_for()
    assert is_dark()
    visit.page.reload()
    visit.button("Theme: dark").wait_for()
    assert is_dark(), "it is remembered"
    visit.wait_for("acme/maps", "installed")  # and the session lasts


@pytest.mark.parametrize("width", [320, 390, 500, 820])
def test_a_narrow_screen_shows_everything(many: World, show: Show, width: int) -> None:
    visit, _ = show(many.manager, viewport={"width": width, "height": 700})
    visit.wait_for("acme/themes", "blocked")
    page = visit.page
    assert visit.beyond_the_edge() == 0
    for one in page.locator(".filter").all():
        box = one.bounding_box()
        assert box
        assert box["x"] + box["width"] <= width, "what could be seen needs no scrolling"
    assert visit.broken_words() == []
    for name in ("Storage", "Integrity", "Agent", "Activity"):
        page.get_by_role("heading", name=name, exact=True).scroll_into_view_if_needed()
    visit.button("Details", "acme/themes").click()
    assert visit.beyond_the_edge() == 0
    assert visit.broken_words() == []
    box = page.locator("#detail").bounding_box()
    assert box
    assert box["width"] <= width
    page.locator("#detail").get_by_role("button", name="Close").click()
    expect(page.locator("#detail")).to_be_hidden()


def test_the_keyboard_alone_will_do(maps: World, show: Show) -> None:
    focused = "() => document.activeElement.getAttribute('aria-label') || document.activeElement.id"
    visit, _ = show(maps.manager)
    page = visit.page
    visit.wait_for("globex/fonts", "available")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    assert page.evaluate(focused) == "Search plugins"
    page.keyboard.type("fonts")
    expect(page.locator("[data-plugin-card]")).to_have_count(1)
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate(focused) == "Install: globex/fonts":
            break
    page.keyboard.press("Enter")
    visit.wait_for("globex/fonts", "installed")
    assert page.evaluate(focused) == "Details: globex/fonts", "the focus stays near"
    page.keyboard.press("Enter")
    expect(page.locator("#detail")).to_be_visible()
    for _ in range(30):  # the focus stays within
        page.keyboard.press("Tab")
        inside = """() => document.activeElement === document.body
                       || !!document.activeElement.closest('#detail')"""
        assert page.evaluate(inside)
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    assert page.evaluate(focused) == "Details: globex/fonts", "the focus is where it was"


def test_the_focus_stays_while_things_change(model: World, show: Show) -> None:
    visit, _ = show(slowly(model, 400_000))
    visit.button("Install", "acme/model").click()
    visit.wait_for("acme/model", "downloading")
    visit.button("Cancel", "acme/model").focus()
    told = visit.card("acme/model").locator(".progress p")
    before = told.inner_text()
    until(told.inner_text, lambda text: text != before)
    label = visit.page.evaluate("() => document.activeElement.getAttribute('aria-label')")
    assert label == "Cancel: acme/model"


def test_the_focus_stays_in_the_details_when_their_button_goes(maps: World, show: Show) -> None:
    """On the page behind a dialog, which nothing reaches, it would be nowhere."""
    visit, _ = show(maps.manager)
    visit.button("Details", "acme/maps").click()
    page = visit.page
    page.locator("#detail").get_by_role("button", name="Pin: acme/maps").focus()
    page.keyboard.press("Enter")
    page.locator("#detail").get_by_role("button", name="Unpin: acme/maps").wait_for()
    assert page.evaluate("() => document.activeElement.id") == "detail-heading"
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.ariaLabel") == "Close"


# --- safe ----------------------------------------------------------------------------------------

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script><b>bold</b>&lt;i&gt;"
BIDI = "safe\u202eevil\u2066\u200f"


def test_hostile_words_of_publishers_stay_words(world: World, show: Show) -> None:
    for name, words in (("markup", MARKUP), ("bidi", BIDI), ("long", "W" * 9_990)):
        said, short = json.dumps(words), json.dumps(words[:190])
        more = f'description = {said}\nlicense = {short}\nhomepage = "javascript:alert(3)"'
        publish(world, f"acme/{name} 1.0", words[:490], more=more)
    publish(world, f"acme/{'n' * 64} 1.0", "")
    world.manager().install("acme/markup", "acme/bidi")
    world.withdraw("acme/markup 1.0", "blocked", MARKUP)
    world.withdraw("acme/bidi 1.0", "yanked", BIDI)
    world.manager().update()
    visit, _ = show(world.manager, viewport={"width": 390, "height": 844})
    page = visit.page
    card = visit.wait_for("acme/markup", "blocked")
    expect(card).to_contain_text(MARKUP)
    for plugin in ("acme/markup", "acme/bidi", "acme/long", f"acme/{'n' * 64}"):
        visit.button("Details", plugin).click()
        expect(page.locator("#detail h2")).to_have_text(plugin)
        if plugin == "acme/markup":
            expect(page.locator("#detail .description")).to_have_text(MARKUP)
            expect(page.locator("#detail")).to_contain_text("javascript:alert(3)")
            assert page.locator("#detail a").count() == 0
        assert visit.beyond_the_edge(".sheet-body") <= 0
        page.keyboard.press("Escape")
    assert visit.beyond_the_edge() <= 0
    assert page.locator("main img, main b, main script, main i").count() == 0
    text = page.evaluate("() => document.documentElement.textContent")
    assert not set(text) & set("\u202e\u2066\u200f")
    assert "safe\N{REPLACEMENT CHARACTER}evil" in text


def test_control_the_browser_itself_refuses_markup_from_strings(maps: World, show: Show) -> None:
    """Were the script ever changed to make markup of text, the policy would stop it."""
    visit, _ = show(maps.manager)
    visit.expect("TrustedHTML")
    visit.expect("Content Security Policy")
    script = """() => { try { document.body.innerHTML = '<b>x</b>'; return 'made'; }
                        catch (error) { return error.name; } }"""
    assert visit.page.evaluate(script) == "TypeError"
    inline = """() => { const s = document.createElement('style');
        s.append('body { display: none }'); document.head.append(s);
        return getComputedStyle(document.body).display; }"""
    assert visit.page.evaluate(inline) == "block"


def test_a_link_lets_one_browser_in_and_leaves_no_trace(
    maps: World, visitor: Visitor, serve: Server
) -> None:
    client = serve(maps.manager)
    link = client.dashboard.link()
    visit = visitor(link)
    visit.wait_for("acme/maps", "installed")
    assert "#" not in visit.page.url
    visit.page.reload()
    visit.wait_for("acme/maps", "installed")
    assert visit.page.evaluate("document.cookie") == "", "no script can read it"
    for address in (client.dashboard.address, link):  # another tab of the same browser
        tab = visit.page.context.new_page()
        tab.goto(address)
        tab.get_by_text("Live", exact=True).wait_for()
        tab.close()
    visit.expect("401")
    other = visitor_of_locked(visit, link)
    expect(other.page.get_by_role("alert")).to_contain_text("This link was used before")
    assert other.page.locator("[data-plugin-card]").count() == 0
    other.judge()
    other.close()
    # Nobody can tell which of the two came by it wrongly.
    visit.page.get_by_text("Locked", exact=True).wait_for()


def test_a_file_leads_the_browser_in(maps: World, visitor: Visitor, serve: Server) -> None:
    client = serve(maps.manager)
    with _leading_to(client.dashboard.link()) as address:
        visit = visitor(address)
        visit.wait_for("acme/maps", "installed")
        assert "#" not in visit.page.url


def visitor_of_locked(visit: Visit, link: str) -> Visit:
    browser = visit.page.context.browser
    assert browser
    other = Visit.of(browser)
    other.expect("401")
    other.page.goto(link)
    return other


def test_another_site_can_neither_frame_nor_ask_nor_change_anything(
    maps: World, visitor: Visitor, serve: Server, tmp_path: Path
) -> None:
    """A page on another port of this machine, which browsers send our cookie to."""
    from tests.dashboard.elsewhere import site  # noqa: PLC0415

    client = serve(maps.manager)
    with site() as (address, asked):
        visit = visitor(client.dashboard.link())
        visit.wait_for("acme/maps", "installed")
        page = visit.page.context.new_page()
        page.goto(address)
        tried = page.evaluate(
            """async (target) => {
                const ask = (path, options) =>
                    fetch(target + path, {credentials: "include", ...options})
                        .then((answer) => answer.status).catch((error) => error.name);
                const frame = document.createElement("iframe");
                frame.src = target; document.body.append(frame);
                await new Promise((done) => { frame.onload = done; setTimeout(done, 3000); });
                let framed = "closed";
                try {
                    framed = frame.contentDocument?.body?.innerText ?? framed;
                } catch { /* as it should be */ }
                return {
                    read: await ask("api/state"),
                    change: await ask("api/jobs/pause", {method: "POST", mode: "no-cors",
                        body: "{}", headers: {"Content-Type": "text/plain"}}),
                    json: await ask("api/jobs/pause", {method: "POST", body: "{}",
                        headers: {"Content-Type": "application/json"}}),
                    framed,
                };
            }""",
            client.dashboard.address,
        )
        assert tried["read"] == tried["json"] == "TypeError"
        assert tried["framed"] == "closed"
        assert not client.get("/api/jobs")["paused"]
        # The cookie went to that other port: alone it opens nothing.
        cookie = next(header for header in asked if header)
        answer = client.ask("GET", "/api/state", headers={"Cookie": cookie})
        assert answer.status_code == 401
