"""Sessions for MCP servers that outgrew one process: any replica serves any request, nothing promised is lost."""

from mcpsession.errors import (
    BroadcasterClosedError,
    ConfigurationError,
    DuplicateRequestError,
    LayerClosedError,
    LimitExceededError,
    MCPSessionError,
    NewsError,
    NoRequestError,
    SessionExistsError,
    SessionNotFoundError,
    SlowSubscriberError,
    StateConflictError,
    StoreError,
    StoreUnavailableError,
)
from mcpsession.event_records import EventGap, LoggedEvent
from mcpsession.layer import SessionLayer
from mcpsession.model import Gap, Heard, News, NoStream, Published
from mcpsession.policies import Expired, Idle, Matching, Orphaned
from mcpsession.records import Filter, Session
from mcpsession.sdk.current import current_request, current_session
from mcpsession.subscription import Subscription

__all__ = [
    "BroadcasterClosedError",
    "ConfigurationError",
    "DuplicateRequestError",
    "EventError",
    "EventGap",
    "Expired",
    "Filter",
    "Gap",
    "Heard",
    "Idle",
    "LayerClosedError",
    "LimitExceededError",
    "LoggedEvent",
    "MCPSessionError",
    "Matching",
    "News",
    "NewsError",
    "NoRequestError",
    "NoStream",
    "Orphaned",
    "Published",
    "Session",
    "SessionExistsError",
    "SessionLayer",
    "SessionNotFoundError",
    "SlowSubscriberError",
    "StateConflictError",
    "StoreError",
    "StoreUnavailableError",
    "Subscription",
    "current_request",
    "current_session",
]
