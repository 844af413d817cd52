"""Greets in English by the time of day; other plugins make a `Greeting` in their own language."""

from importlib.resources import files

from greeter._greeting import Greeting

__all__ = ["Greeting", "greet"]

greet = Greeting.parse(files("greeter").joinpath("english.txt").read_text("utf-8"))
