"""A real Chromium, watched: what it logs, whom it asks, and what axe says of a page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from attrs import define, field
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.dashboard.scene import chromium

SECONDS = 30_000


# Where CI is set, tests without it fail instead.
needs_chromium = pytest.mark.skipif(
    chromium() is None and not os.environ.get("CI"), reason="Chromium is not installed"
)


@contextmanager
def browser() -> Iterator[Browser]:
    path = chromium()
    assert path, "Chromium is not installed"
    with sync_playwright() as playwright:
        # Its own sandbox does not work for root, nor in most containers.
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@define
class Visit:
    """One page, and everything about it that must not be."""

    page: Page
    logged: list[str] = field(factory=list)
    hosts: set[str] = field(factory=set)
    expected: list[str] = field(factory=list)

    @classmethod
    def of(cls, browser: Browser, **more: Any) -> Visit:
        more.setdefault("viewport", {"width": 1320, "height": 900})
        more.setdefault("reduced_motion", "reduce")
        visit = cls(browser.new_context(**more).new_page())
        page = visit.page
        page.set_default_timeout(SECONDS)
        page.on("console", lambda message: visit.logged.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: visit.logged.append(f"error: {error}"))
        page.on("request", lambda request: visit.hosts.add(urlsplit(request.url).netloc))
        page.on("dialog", lambda dialog: visit.logged.append(f"dialog: {dialog.message}"))
        return visit

    def open(self, link: str) -> Visit:
        self.page.goto(link)
        self.page.get_by_text("Live", exact=True).wait_for()
        return self

    def card(self, plugin: str) -> Locator:
        return self.page.locator(f'[data-plugin-card="{plugin}"]')

    def button(self, name: str, plugin: str = "") -> Locator:
        """The button of that name on the page, or on a plugin's card."""
        if not plugin:
            return self.page.get_by_role("button", name=name)
        return self.card(plugin).get_by_role("button", name=f"{name}: {plugin}")

    def wait_for(self, plugin: str, state: str) -> Locator:
        found = self.card(plugin)
        found.locator(f'.chip[data-state="{state}"]').wait_for()
        return found

    def beyond_the_edge(self, selector: str = "html") -> float:
        """How many pixels of it one would have to scroll sideways for."""
        script = "selector => document.querySelector(selector).scrollWidth - innerWidth"
        return float(self.page.evaluate(script, selector))

    def broken_words(self) -> list[str]:
        """The names and headings of which a word goes on in another line."""
        found: list[str] = self.page.evaluate(
            """() => [...document.querySelectorAll("h1, h2, .name")].flatMap((one) => {
                const broken = [];
                const texts = document.createTreeWalker(one, NodeFilter.SHOW_TEXT);
                while (texts.nextNode()) {
                    for (const word of texts.currentNode.data.matchAll(/\\S+/g)) {
                        const range = document.createRange();
                        range.setStart(texts.currentNode, word.index);
                        range.setEnd(texts.currentNode, word.index + word[0].length);
                        if (range.getClientRects().length > 1) broken.push(word[0]);
                    }
                }
                return broken;
            })"""
        )
        return found

    def toast(self, text: str) -> None:
        self.page.locator(".toast", has_text=text).first.wait_for()

    def expect(self, part: str) -> None:
        """A message that a test provokes."""
        self.expected.append(part)

    def close(self) -> None:
        """Raise where the page logged anything, or asked another host."""
        self.page.context.close()
        unexpected = [one for one in self.logged if not any(part in one for part in self.expected)]
        others = {host for host in self.hosts if not host.startswith("127.0.0.1:")}
        if unexpected or others - {""}:
            raise AssertionError(f"logged {unexpected}, asked {others}")

    def judge(self) -> None:
        """Raise where axe finds anything serious."""
        if found := self.violations():
            raise AssertionError("\n".join(found))

    def violations(self) -> list[str]:
        if not self.page.evaluate("typeof window.axe === 'object'"):
            self.page.evaluate(AXE_FILE_PATH.read_text(encoding="utf-8"))
        found = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {one['help']}: {[node['html'][:300] for node in one['nodes'][:3]]}"
            for one in found["violations"]
            if one["impact"] in {"serious", "critical"}
        ]
