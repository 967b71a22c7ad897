"""`layer.sessions`: all that one can do with a session, over the narrow store contract."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from mcpsession.contracts import SessionStore
from mcpsession.errors import SessionNotFoundError, StateConflictError
from mcpsession.model import ReplicaId, Session, SessionId

# Every lost attempt means that another one won, so this many in a row mean a session that is written all the time.
_ATTEMPTS = 100

State = dict[str, Any]


class Sessions:
    """Sessions by id, from anywhere: a tool, another service, a shell."""

    def __init__(self, store: SessionStore, me: Callable[[], ReplicaId], ended: Callable[[], None]) -> None:
        self._store = store
        self._me = me
        self._ended = ended

    async def get(self, session_id: SessionId) -> Session | None:
        """The live session, or None. Does not touch it."""
        return await self._store.get(session_id)

    async def touch(self, session_id: SessionId) -> bool:
        """Count as activity; False if it is not live."""
        return session_id in await self._store.touch([session_id])

    async def state(self, session_id: SessionId) -> State:
        """A copy of the session's state.

        Raises SessionNotFoundError if it is not live.
        """
        _, text = await self._load(session_id)
        return _parsed(text)

    async def update(self, session_id: SessionId, fn: Callable[[State], State | Awaitable[State] | None]) -> State:
        """Replace the state by what `fn` makes of it, atomically over all replicas; returns the new state.

        `fn` may change the dict in place and return None. It is called again with the newer state if another update
        came between. If it raises, nothing is stored.

        Raises:
            SessionNotFoundError: the session is not live.
            StateConflictError: others changed it at each of many attempts.
        """
        for _ in range(_ATTEMPTS):
            version, text = await self._load(session_id)
            state = _parsed(text)
            made = fn(state)
            if isinstance(made, Awaitable):
                made = await made
            new = state if made is None else made
            if await self._store.save_state(session_id, version, json.dumps(new, allow_nan=False)) is not None:
                return new
        raise StateConflictError(frozenset())

    async def terminate(self, session_id: SessionId) -> bool:
        """End the session for good, on all replicas; False if it was not live. Its id can never be used again."""
        session = await self._store.get(session_id)
        if session is None:
            return False
        ended = await self._store.terminate(session_id, session.owner, sender=self._me())
        self._ended()
        return ended is not None

    async def _load(self, session_id: SessionId) -> tuple[int, str]:
        loaded = await self._store.load_state(session_id)
        if loaded is None:
            raise SessionNotFoundError(session_id)
        return loaded


def _parsed(text: str) -> State:
    state: State = json.loads(text)
    return state
