"""The session of the request being handled, for tools: who it is, and its state; and the request itself."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
from mcp.server.mcpserver.exceptions import ToolError

from mcpsession.errors import SessionNotFoundError, StateConflictError, StoreUnavailableError
from mcpsession.records import Session
from mcpsession.sdk.request_context import CurrentRequest
from mcpsession.session_contracts import SessionStore
from mcpsession.session_state import state_text

logger = logging.getLogger(__name__)

# Each attempt re-reads; a conflict on other keys is merged, so this many losses in a row mean a very hot session.
_ATTEMPTS = 200
_PAUSE = 0.002


class CurrentSession:
    """A session as one request sees it.

    Its state is read when the request first asks for it, and what the request changed is committed before the response
    leaves, so the session's next request sees it on any replica. Requests that never ask pay nothing.
    """

    def __init__(
        self, session: Session, store: SessionStore, *, max_state_bytes: int, request: Callable[[], CurrentRequest]
    ) -> None:
        """`request` makes the same of the request whenever it is asked."""
        self._session = session
        self._store = store
        self._max_state_bytes = max_state_bytes
        self._request = request
        self._version = 0
        self._loaded: str | None = None
        self._state: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<CurrentSession {self._session.id[:6]}…>"

    @property
    def id(self) -> str:
        return self._session.id

    @property
    def owner(self) -> str:
        """The principal that created the session, as canonical JSON; empty for an anonymous client."""
        return self._session.owner

    @property
    def protocol_version(self) -> str:
        return self._session.protocol_version

    async def state(self) -> dict[str, Any]:
        """The session's state: a dict of JSON values to read and change in place.

        Values that are not JSON stay in this request and are not stored.

        Raises:
            SessionNotFoundError: the session ended meanwhile.
            StoreUnavailableError: a tool that lets it escape tells the client to try again.
        """
        if self._loaded is None:
            try:
                self._version, self._loaded = await self._load()
            except StoreUnavailableError as error:
                # What it says is for the operator: it names hosts.
                logger.warning("the state of a session cannot be read: %s", error)
                raise StateAwayError from error
            self._state = json.loads(self._loaded)
        return self._state

    async def commit(self) -> None:
        """Store what was changed. Keys changed by others meanwhile are kept.

        Raises:
            StateConflictError: another request changed the same key at the same time; nothing was stored.
            SessionNotFoundError: the session ended meanwhile.
            LimitExceededError: the state would be larger than `max_state_bytes`; nothing was stored.
        """
        if self._loaded is None:
            return
        before: dict[str, Any] = json.loads(self._loaded)
        mine = self._patch(before)
        if not mine:
            return
        # A handler that shielded itself from its session's end comes here all the same.
        await anyio.lowlevel.checkpoint_if_cancelled()
        version, theirs = self._version, dict(before)
        for attempt in range(_ATTEMPTS):
            merged = {key: value for key, value in {**theirs, **mine}.items() if value is not _GONE}
            text = state_text(merged, self._max_state_bytes)
            saved = await self._store.save_state(self.id, version, text, owner=self.owner)
            if saved is not None:
                self._version, self._loaded = saved, text
                return
            # Of all who lost this round one wins the next; apart from each other they all get their turn.
            await anyio.sleep(random.uniform(0, _PAUSE * min(attempt + 1, 10)))
            version, latest = await self._load()
            theirs = json.loads(latest)
            both = frozenset(key for key in mine if not _same(theirs.get(key, _GONE), before.get(key, _GONE)))
            if both:
                raise StateConflictError(both)
        raise StateConflictError(frozenset())

    def _patch(self, before: dict[str, Any]) -> dict[str, Any]:
        patch: dict[str, Any] = {key: _GONE for key in before if key not in self._state}
        for key, value in self._state.items():
            try:
                stored = json.loads(json.dumps(value, allow_nan=False))
            except (TypeError, ValueError):
                logger.warning("state %r is not JSON: it stays in this request and is not stored", key)
                continue
            if not _same(before.get(key, _GONE), stored):
                patch[key] = stored
        return patch

    async def _load(self) -> tuple[int, str]:
        loaded = await self._store.load_state(self.id, owner=self.owner)
        if loaded is None:
            raise SessionNotFoundError(self.id)
        return loaded


class _Gone:
    """Marks a key that was removed; equal to nothing that JSON has."""


_GONE = _Gone()


def _same(one: object, other: object) -> bool:
    """Whether two JSON values are one; Python takes 1, 1.0 and true for the same, also within lists and objects."""
    if one != other:
        return False
    return one is other or json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


CURRENT: ContextVar[CurrentSession] = ContextVar("mcpsession_current")


class StateAwayError(ToolError, StoreUnavailableError):
    """The session's state cannot be read now. No tool's fault, so none of its tracebacks either."""

    def __init__(self) -> None:
        StoreUnavailableError.__init__(self, "its state cannot be read now", "try again")


class NoSessionError(ToolError, LookupError):
    """The request has no session. A tool that lets it escape tells the client why."""

    def __init__(self) -> None:
        super().__init__(
            "this request has no session: its client speaks protocol version 2026-07-28, which has none (or this is "
            'not a request at all); sessions need a client of 2025-11-25 or older (SDK: Client(url, mode="legacy"))'
        )


def current_session() -> CurrentSession:
    """The session of the request that is being handled.

    Raises NoSessionError, a LookupError, for requests of 2026-07-28, which has no sessions, and outside of a handler.
    """
    try:
        return CURRENT.get()
    except LookupError:
        raise NoSessionError from None


def current_request() -> CurrentRequest:
    """The request that is being handled: its session, owner, id and method, its trace, where it came from.

    Equal wherever the handler asks: after any await, in tasks that it starts, in the thread of a sync tool.

    Raises NoSessionError as `current_session` does.
    """
    return current_session()._request()
