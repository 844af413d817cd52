"""Bytes from plain HTTP servers that are not trusted: bounded, retried, frame by frame.

Nothing here decides what bytes mean; the sink does. What this package promises is that whatever a
server, proxy or line does costs bounded bytes and time and ends in one of our errors.
"""

from plugin_manager.transfer._delivery import Delivery, Download
from plugin_manager.transfer._limit import RateLimit
from plugin_manager.transfer._policy import Policy
from plugin_manager.transfer._ranges import Span
from plugin_manager.transfer._transfer import Transfer

__all__ = ["Delivery", "Download", "Policy", "RateLimit", "Span", "Transfer"]
