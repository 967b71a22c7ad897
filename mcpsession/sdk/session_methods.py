"""Requests that change the session itself: the server's own handler decides, then the session keeps it.

Committed before the answer leaves, so the session's next request finds it on any replica. A server that does not have
such a handler does not announce the capability, and the SDK answers -32601.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcpsession.errors import SessionNotFoundError
from mcpsession.records import Change, Session
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.termination import announce_change

Keep = Callable[[Parts, Session, Mapping[str, Any]], Awaitable[None]]


async def _set_level(parts: Parts, session: Session, params: Mapping[str, Any]) -> None:
    change = Change(log_level=params["level"])
    sender = parts.heartbeat.replica_id
    if not await parts.sessions.change(session.id, change, owner=session.owner, sender=sender):
        raise SessionNotFoundError(session.id)
    announce_change(parts, session.id)


async def _subscribe(parts: Parts, session: Session, params: Mapping[str, Any]) -> None:
    limit = parts.settings.max_subscriptions_per_session
    if not await parts.subscriptions.subscribe(session.id, params["uri"], limit):
        raise SessionNotFoundError(session.id)


async def _unsubscribe(parts: Parts, session: Session, params: Mapping[str, Any]) -> None:
    await parts.subscriptions.unsubscribe(session.id, params["uri"])


KEPT: Mapping[str, Keep] = {
    "logging/setLevel": _set_level,
    "resources/subscribe": _subscribe,
    "resources/unsubscribe": _unsubscribe,
}
"""What is to be kept, by method, once the server's handler has agreed to the params."""
