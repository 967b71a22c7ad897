"""Who sends a request: its principal, and its live session."""

from __future__ import annotations

import json

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, authorization_context
from starlette.types import Scope, Send

from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.wire import Fields


def owner_of(scope: Scope) -> str:
    """The whole principal (client, issuer, subject) as canonical text; empty for an anonymous client."""
    user = scope.get("user")
    if not isinstance(user, AuthenticatedUser):
        return ""
    return json.dumps(authorization_context(user), sort_keys=True)


def recall(parts: Parts, scope: Scope, fields: Fields) -> Session | None:
    """The caller's live session where memory may be believed and has all that there is to know; costs no wait.

    None says nothing: then `find_session` does.
    """
    value = fields.get(wire.SESSION_HEADER)
    if value is None or len(value) > parts.settings.max_id_length:
        return None
    session = parts.cache.peek(value.decode("latin-1"))
    if session is None or not _is_the_callers(session, scope) or _is_near_its_end(parts, session):
        return None
    return session


async def find_session(parts: Parts, scope: Scope, fields: Fields, send: Send) -> Session | None:
    """The caller's live session; None if the request was refused.

    One answer for an id that is unknown, expired, ended, someone else's, or of a session that has failed.
    """
    if session := recall(parts, scope, fields):
        return session
    value = fields.get(wire.SESSION_HEADER)
    if value is None:
        await wire.refuse(send, 400, "Bad Request: Missing session ID; start with initialize")
        return None
    session_id = wire.session_id_of(value, parts.settings.max_id_length)
    if session_id is None:
        rule = f"1 to {parts.settings.max_id_length} visible ASCII characters"
        await wire.refuse(send, 400, f"Bad Request: Mcp-Session-Id must be {rule}")
        return None
    session = await parts.cache.load(session_id)
    if session is None or not _is_the_callers(session, scope):
        await wire.refuse(send, 404, wire.NOT_FOUND)
        return None
    if _is_near_its_end(parts, session) and not await parts.touches.touch(session_id):
        await wire.refuse(send, 404, wire.NOT_FOUND)
        return None
    return session


def _is_the_callers(session: Session, scope: Scope) -> bool:
    """Whether it may be used, and by whoever asks."""
    return session.owner == owner_of(scope) and session.failure is None


def _is_near_its_end(parts: Parts, session: Session) -> bool:
    """Whether the collected touch could come too late."""
    return parts.cache.remaining(session) < parts.settings.touch_flush
