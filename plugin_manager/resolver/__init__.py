"""Which releases shall be active together: pure, from catalogues and facts about the host.

The search is resolvelib's; versions and specifiers are packaging's (PEP 440). Here are the rules:
what may be picked, what stays where it is, and how a conflict is told to a person.
"""

from plugin_manager.resolver._fit import Described, check, compatibility
from plugin_manager.resolver._resolve import resolve

__all__ = ["Described", "check", "compatibility", "resolve"]
