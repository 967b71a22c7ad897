"""Sessions for MCP servers that outgrew one process: any replica serves any request of any session."""

from mcpsession.errors import MCPSessionError
from mcpsession.layer import SessionLayer
from mcpsession.records import Session
from mcpsession.sdk.current import current_session

__all__ = ["MCPSessionError", "Session", "SessionLayer", "current_session"]
