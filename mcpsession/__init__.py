"""Sessions for MCP servers that outgrew one process: any replica serves any request, nothing promised is lost."""

from mcpsession.errors import (
    ConfigurationError,
    LimitExceededError,
    MCPSessionError,
    SessionExistsError,
    SessionNotFoundError,
    StateConflictError,
)
from mcpsession.layer import SessionLayer
from mcpsession.policies import Expired, Idle, Matching, Orphaned
from mcpsession.records import Filter, Session
from mcpsession.sdk.current import current_session

__all__ = [
    "ConfigurationError",
    "Expired",
    "Filter",
    "Idle",
    "LimitExceededError",
    "MCPSessionError",
    "Matching",
    "Orphaned",
    "Session",
    "SessionExistsError",
    "SessionLayer",
    "SessionNotFoundError",
    "StateConflictError",
    "current_session",
]
