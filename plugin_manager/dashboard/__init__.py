"""A store in the browser: one local page, live, and the same as a JSON API.

`Dashboard` serves both on loopback, to whoever has the secret of this start. Needs the extra
`dashboard`.
"""

from plugin_manager.dashboard._server import Dashboard

__all__ = ["Dashboard"]
