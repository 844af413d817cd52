"""Which releases shall be active together: pure, from catalogues and facts about the host.

The search is resolvelib's; versions and specifiers are packaging's (PEP 440). Here are the rules:
what may be picked, what stays where it is, and how a conflict is told to a person.
"""

from typing import TYPE_CHECKING

from plugin_manager.resolver._fit import Described, check, compatibility

if TYPE_CHECKING:
    from plugin_manager.resolver._resolve import resolve

__all__ = ["Described", "check", "compatibility", "resolve"]


def __getattr__(name: str) -> object:
    """Import the search when it is first asked for: looking and loading do without."""
    if name == "resolve":
        from plugin_manager.resolver._resolve import resolve  # noqa: PLC0415

        return resolve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
