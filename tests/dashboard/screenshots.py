"""Takes the pictures of docs/dashboard.md: a real dashboard of a store in many states.

python -m tests.dashboard.screenshots [DIRECTORY]
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path

from attrs import evolve
from PIL import Image

from plugin_manager import PluginManager
from plugin_manager.agent import Agent
from plugin_manager.settings import AgentPolicy
from tests.dashboard.browser import Visit, browser
from tests.dashboard.scene import PROJECT, dashboard, publish, tamper
from tests.world import World

SUMMARIES = {
    "acme/maps": "Offline maps and routing for forty countries.",
    "acme/search": "Finds words and phrases in all your documents.",
    "acme/themes": "Twelve quiet colour themes for the editor.",
    "acme/translate": "Translates between nine languages, on this machine.",
    "acme/voices": "Natural voices that read aloud in twelve languages.",
    "globex/charts": "Charts from tables: bars, lines, maps and trees.",
    "globex/fonts": "Open fonts for print and screen.",
    "globex/model": "A small language model for summaries, four bits a weight.",
    "globex/ocr": "Reads the text in scans and photographs.",
    "globex/spell": "Spelling and grammar while you type.",
    "globex/vision": "Finds and names what is in a picture.",
}
SIZES = {
    "acme/maps": 14_000_000,
    "acme/voices": 22_000_000,
    "acme/translate": 9_000_000,
    "globex/charts": 16_000_000,
    "globex/model": 38_000_000,
    "globex/ocr": 3_000_000,
}
MOST_BYTES = 150_000
WIDE, PHONE = {"width": 1280, "height": 1040}, {"width": 390, "height": 844}


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / "docs" / "screenshots"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="plugin-manager-") as directory:
        world = World(Path(directory))
        with world.online():
            take(world, target)
        world.close()


def published(world: World, *releases: str, requires: str = "") -> None:
    for release in releases:
        name = release.split()[0]
        more = 'license = "Apache-2.0"\nhomepage = "https://plugins.example.org/"'
        size = SIZES.get(name, 900_000)
        publish(world, release, SUMMARIES[name], size, more=more, requires=requires)


def populate(world: World) -> PluginManager:
    """Plugins in every state."""
    manager = world.manager()
    published(world, *(f"{name} 1.0" for name in SUMMARIES if name != "globex/vision"))
    published(world, "globex/vision 1.0", requires='host = ">=4"')
    manager.install("acme/maps", "acme/themes", "acme/translate", "acme/voices")
    manager.install("acme/search", "globex/fonts", "globex/spell")
    published(world, "acme/themes 1.1")
    manager.upgrade("acme/themes")
    manager.confirm("acme/themes")
    manager.pin("acme/voices")
    published(world, "acme/translate 1.1", "acme/maps 1.1", "acme/maps 2.0")
    manager.upgrade("acme/translate")
    world.withdraw("acme/themes 1.1", "blocked", "Sends the clipboard to a server. Use 1.0.")
    world.withdraw("globex/fonts 1.0", "yanked", "Two weights are mixed up; 1.1 follows.")
    manager.update()
    tamper(manager, "acme/search", "data.bin")
    return manager


def take(world: World, target: Path) -> None:
    manager = populate(world)
    job = manager.jobs.submit("globex/charts")
    policy = AgentPolicy(scrub_days=0, update_hours=6, collect_hours=0, desktop=False)
    settings = evolve(manager.settings, max_bytes_per_second=3_000_000)
    environment = {"PLUGINCTL_TRIAL_ATTEMPTS": "3"}
    with (
        Agent(PluginManager(settings), policy).in_background(),
        dashboard(world, "--max-store", "140MB", environment=environment) as running,
        browser() as chromium,
    ):
        visit = Visit.of(chromium, viewport=WIDE).open(running.link)
        page = visit.page
        wait_for_percent(visit, "globex/charts", 30)
        manager.jobs.pause(job.id)
        visit.wait_for("globex/charts", "paused")
        visit.button("Verify now").click()
        visit.wait_for("acme/search", "damaged")
        visit.button("Install", "globex/model").click()
        wait_for_percent(visit, "globex/model", 20)
        page.mouse.move(0, 0)
        page.locator(".toast").first.wait_for(state="detached")
        save(visit, target / "overview.png")
        page.emulate_media(color_scheme="dark")
        save(visit, target / "dark.png")
        page.emulate_media(color_scheme="light")
        visit.button("Details", "acme/maps").click()
        save(visit, target / "details.png")
        page.keyboard.press("Escape")
        page.set_viewport_size(PHONE)
        save(visit, target / "phone.png")
        visit.button("Cancel", "globex/model").click()
        visit.wait_for("globex/model", "available")
        visit.close()
    manager.jobs.cancel(job.id)
    with (
        dashboard(world, "--max-store", "60MB") as running,
        browser() as chromium,
    ):
        visit = Visit.of(chromium, viewport=WIDE).open(running.link)
        visit.button("Install", "globex/model").click()
        visit.wait_for("globex/model", "failed")
        visit.button("Free space…", "globex/model").click()
        visit.page.get_by_text("is pinned").wait_for()
        visit.page.locator(".toast").first.wait_for(state="detached")
        save(visit, target / "space.png")
        visit.close()


def wait_for_percent(visit: Visit, plugin: str, percent: int) -> None:
    script = "([plugin, percent]) => document.querySelector("
    script += "`[data-plugin-card='${plugin}'] progress`)?.value >= percent"
    visit.page.wait_for_function(script, arg=[plugin, percent])


def save(visit: Visit, path: Path) -> None:
    """A picture of the top of the page, in 256 colours, of which rare ones are kept."""
    visit.page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    time.sleep(0.4)  # what moves comes to rest
    picture = Image.open(io.BytesIO(visit.page.screenshot())).convert("RGB")
    few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, 4, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    size = path.stat().st_size
    sys.stdout.write(f"{path.name}: {size} bytes\n")
    if size > MOST_BYTES:
        raise SystemExit(f"{path} is larger than {MOST_BYTES} bytes")


if __name__ == "__main__":
    main()
