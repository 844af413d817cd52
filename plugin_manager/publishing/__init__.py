"""The publisher's side: signed repositories, made from directories and wheels.

Needs the extra `publisher`. Nothing of a client imports it.
"""

from plugin_manager.publishing._keys import Passphrase, SigningKey, read_public_key
from plugin_manager.publishing._metadata import RoleStatus
from plugin_manager.publishing._repository import Published, Refreshed, Repository, Status
from plugin_manager.publishing._server import DevelopmentServer, serve

__all__ = [
    "DevelopmentServer",
    "Passphrase",
    "Published",
    "Refreshed",
    "Repository",
    "RoleStatus",
    "SigningKey",
    "Status",
    "read_public_key",
    "serve",
]
