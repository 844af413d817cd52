"""Phrases by the hour from which they hold."""

from __future__ import annotations

from datetime import datetime


class Greeting:
    """Called with a name, it gives the phrase for the hour with the name in it."""

    def __init__(self, phrases: dict[int, str]) -> None:
        self.phrases = phrases

    @classmethod
    def parse(cls, text: str) -> Greeting:
        """The greeting in `text`: a line for each phrase, `HOUR PHRASE`, the first at hour 0."""
        pairs = (line.split(" ", 1) for line in text.splitlines())
        return cls({int(hour): phrase for hour, phrase in pairs})

    def __call__(self, name: str, hour: int | None = None) -> str:
        now = datetime.now().astimezone().hour if hour is None else hour
        begun = max(start for start in self.phrases if start <= now)
        return self.phrases[begun].format(name=name)
