"""Greets in English, and says goodbye."""

PHRASES = {"hello": "Hello, {name}.", "goodbye": "Goodbye, {name}."}


def say(what: str, name: str) -> str:
    """The phrase for `what` ("hello" or "goodbye") with `name` in it."""
    return PHRASES[what].format(name=name)
