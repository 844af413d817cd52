"""Greets in English."""


def greet(name: str) -> str:
    """A greeting of `name`."""
    return f"Hello, {name}."
