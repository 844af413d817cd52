"""Greets in French, with what acme/greeter offers to other languages."""

from greeter import Greeting

greet = Greeting({0: "Bonne nuit, {name}.", 6: "Bonjour, {name}.", 18: "Bonsoir, {name}."})
