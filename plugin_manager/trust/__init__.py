"""Trust: what the host's pinned root vouches for, brought up to date online, verified offline.

`Trust.update` fetches (TUF, through python-tuf's client); `Trust.local` verifies the whole chain
from the pinned root over local files alone, at every load. Importing this package is cheap:
python-tuf is imported when something is first verified.
"""

from plugin_manager.trust._trust import Trust, Update, Vouching, collect, garbage
from plugin_manager.trust._values import BundleTarget, ExpiredRole, Expiry

__all__ = [
    "BundleTarget",
    "ExpiredRole",
    "Expiry",
    "Trust",
    "Update",
    "Vouching",
    "collect",
    "garbage",
]
