"""Requests that change the session itself: the server's own handler decides, then the session keeps it.

Committed before the answer leaves, so the session's next request finds it on any replica. A low-level server without
such a handler does not announce the capability, and the SDK answers -32601; to an MCPServer `offered` adds them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp.shared.exceptions import MCPError

from mcpsession.errors import MCPSessionError, SessionNotFoundError
from mcpsession.records import Change, Session
from mcpsession.sdk import wire
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.termination import announce_change
from mcpsession.texts import check_uri

Keep = Callable[[Parts, Session, Mapping[str, Any]], Awaitable[None]]


async def _set_level(parts: Parts, session: Session, params: Mapping[str, Any]) -> None:
    change = Change(log_level=params["level"])
    sender = parts.heartbeat.replica_id
    if not await parts.sessions.change(session.id, change, owner=session.owner, sender=sender):
        raise SessionNotFoundError(session.id)
    announce_change(parts, session.id)


# No bell for subscriptions: whoever holds the session's stream reads the mail that says so before it reads what is
# published later.


async def _subscribe(parts: Parts, session: Session, params: Mapping[str, Any]) -> None:
    _check_uri(params["uri"])
    limit = parts.settings.max_subscriptions_per_session
    sender = parts.heartbeat.replica_id
    if not await parts.subscriptions.subscribe(session.id, params["uri"], limit, sender=sender):
        raise SessionNotFoundError(session.id)


async def _unsubscribe(parts: Parts, session: Session, params: Mapping[str, Any]) -> None:
    _check_uri(params["uri"])
    # Of what was never subscribed there is nothing to end: the answer is the same.
    await parts.subscriptions.unsubscribe(session.id, params["uri"], sender=parts.heartbeat.replica_id)


def _check_uri(uri: str) -> None:
    try:
        check_uri(uri)
    except MCPSessionError as error:
        raise MCPError(wire.INVALID_PARAMS, str(error)) from error


KEPT: Mapping[str, Keep] = {
    "logging/setLevel": _set_level,
    "resources/subscribe": _subscribe,
    "resources/unsubscribe": _unsubscribe,
}
"""What is to be kept, by method, once the server's handler has agreed to the params."""
