"""Whether this machine's connection is paid by the byte, as far as its desktop knows."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["is_metered"]

# NMMetered: unknown 0, yes 1, no 2, guess-yes 3, guess-no 4.
_METERED = frozenset({1, 3})
_TIMEOUT_SECONDS = 2.0


def is_metered() -> bool:
    """Whether NetworkManager says so, or guesses; False where nobody can tell.

    Asks over D-Bus (https://networkmanager.dev/docs/api/latest/gdbus-org.freedesktop.NetworkManager.html),
    with jeepney, which the extra `desktop` brings.
    """
    if os.name != "posix":
        return False
    try:
        from jeepney import DBusAddress, Properties  # noqa: PLC0415 - an extra
        from jeepney.io.blocking import open_dbus_connection  # noqa: PLC0415
    except ImportError:
        return False
    manager = DBusAddress(
        "/org/freedesktop/NetworkManager",
        bus_name="org.freedesktop.NetworkManager",
        interface="org.freedesktop.NetworkManager",
    )
    # Whatever is wrong with a bus or with what is on it must not keep anything from working.
    with (
        suppress(Exception),
        open_dbus_connection(bus="SYSTEM") as connection,
    ):
        reply = connection.send_and_get_reply(
            Properties(manager).get("Metered"), timeout=_TIMEOUT_SECONDS
        )
        kind, value = reply.body[0]
        return kind == "u" and value in _METERED
    return False
