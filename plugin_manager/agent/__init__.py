"""The agent: goes on with downloads when nobody else does, and looks after what is installed."""

from plugin_manager.agent._agent import Agent, AgentStatus, status
from plugin_manager.agent._lock import terminate
from plugin_manager.agent._notify import Notice
from plugin_manager.agent._service import SERVICE_KINDS, Service, service

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
