"""The agent: goes on with downloads when nobody else does, and looks after what is installed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugin_manager.agent._agent import Agent
    from plugin_manager.agent._lock import terminate
    from plugin_manager.agent._notify import Notice
    from plugin_manager.agent._service import SERVICE_KINDS, Service, service
    from plugin_manager.agent._status import AgentStatus, status

_HOMES = {
    "SERVICE_KINDS": "_service",
    "Agent": "_agent",
    "AgentStatus": "_status",
    "Notice": "_notify",
    "Service": "_service",
    "service": "_service",
    "status": "_status",
    "terminate": "_lock",
}

__all__ = [
    "SERVICE_KINDS",
    "Agent",
    "AgentStatus",
    "Notice",
    "Service",
    "service",
    "status",
    "terminate",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: most only ask how an agent is doing."""
    if home := _HOMES.get(name):
        value = globals()[name] = getattr(import_module(f"plugin_manager.agent.{home}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
