"""`layer.sessions.initialization`: how a session that was created without its client gets to know it.

The HTTP way needs none of it: there `initialize` creates the session with its client in one commit. It is for
applications that make sessions themselves, and for other transports.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from mcpsession.admission import check_ttl
from mcpsession.errors import IllegalTransitionError, LimitExceededError, MetadataError, SessionNotFoundError
from mcpsession.model import ReplicaId, SessionId
from mcpsession.records import TRANSITIONS, Change, Phase, Session
from mcpsession.session_contracts import Directory, Initialization, SessionStore
from mcpsession.texts import check_text

_LEASE = 30.0
# They are kept with the session, in the row and in every replica's cache.
MOST_CLIENT_PARAMS = 65_536


class Initializing:
    """Phases only move as `mcpsession.records.TRANSITIONS` says; any other move raises and changes nothing."""

    def __init__(
        self,
        initialization: Initialization,
        store: SessionStore,
        directory: Directory,
        me: Callable[[], ReplicaId],
        changed: Callable[[SessionId], None],
        *,
        owner: str | None,
    ) -> None:
        self._initialization = initialization
        self._store = store
        self._directory = directory
        self._me = me
        self._changed = changed
        self._owner = owner

    async def claim(self, session_id: SessionId, *, lease: float = _LEASE) -> str:
        """Become the one who initializes the session: `pre_init` to `initializing`. Of many at once one succeeds.

        Returns the claim, for `complete`. After `lease` seconds, or `release`, it can be claimed again.

        Raises SessionNotFoundError, IllegalTransitionError; ValueError for a lease that is not above 0.
        """
        check_ttl(lease)
        claim = secrets.token_urlsafe(12)
        if not await self._initialization.claim(session_id, claim, lease, owner=self._owner):
            raise await self._refusal(session_id, "initializing", "somebody is at it, or has been")
        return claim

    async def complete(
        self,
        session_id: SessionId,
        claim: str,
        *,
        protocol_version: str,
        client_info: Mapping[str, Any],
        client_capabilities: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the client and the negotiated version; neither can be changed later.

        Raises SessionNotFoundError; IllegalTransitionError: the claim has run out or was not this one; MetadataError,
        LimitExceededError: what the client says is no JSON, or too much.
        """
        check_text(protocol_version)
        params = {
            "protocolVersion": protocol_version,
            "clientInfo": dict(client_info),
            "capabilities": dict(client_capabilities or {}),
        }
        try:
            text = json.dumps(params, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise MetadataError(str(error)) from error
        if len(text) > MOST_CLIENT_PARAMS:
            raise LimitExceededError("client_params", MOST_CLIENT_PARAMS, len(text), remedy="send less")
        if not await self._initialization.complete(session_id, claim, protocol_version, text, owner=self._owner):
            raise await self._refusal(session_id, "initializing", "the claim has run out, or was not this one")

    async def release(self, session_id: SessionId, claim: str) -> bool:
        """Give the claim up: back to `pre_init`. False if it has run out already or was not this one."""
        return await self._initialization.release(session_id, claim, owner=self._owner)

    async def mark_initialized(self, session_id: SessionId) -> None:
        """The client sent `notifications/initialized`: `initializing` to `initialized`. Again is free.

        Raises SessionNotFoundError, IllegalTransitionError: its client is not known yet, or it has failed.
        """
        if not await self._initialization.mark_initialized(session_id, owner=self._owner):
            raise await self._refusal(session_id, "initialized", "its client is not known yet; complete() comes first")

    async def fail(self, session_id: SessionId, reason: str) -> None:
        """Record that the session cannot be used any more: to `error`. Its requests get 404; it stays for diagnosis.

        Raises SessionNotFoundError, IllegalTransitionError: it has failed already.
        """
        check_text(reason)
        change = Change(failure=reason)
        if not await self._store.change(session_id, change, owner=self._owner, sender=self._me()):
            raise await self._refusal(session_id, "error", "it has failed already")
        self._changed(session_id)

    async def phase(self, session_id: SessionId) -> Phase:
        """Where the session stands; `closed` also for one that does not exist (any more)."""
        session = await self._record(session_id)
        return "closed" if session is None else session.phase

    async def _refusal(self, session_id: SessionId, wanted: Phase, why: str) -> Exception:
        session = await self._record(session_id)
        if session is None:
            return SessionNotFoundError(session_id)
        if wanted not in TRANSITIONS[session.phase] | {session.phase}:
            why = f"from there comes only {', '.join(sorted(TRANSITIONS[session.phase]))}"
        return IllegalTransitionError(session_id, session.phase, wanted, why)

    async def _record(self, session_id: SessionId) -> Session | None:
        found = await self._directory.records([session_id], owner=self._owner)
        return found[0] if found else None
