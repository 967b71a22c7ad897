"""What `layer.sessions` does with the state of one session: read, merge, update, compare and set.

The state is a JSON object with a version. Every change is a compare-and-set on it: one that lost to another is made
again on the newer state, so none is lost, on however many replicas. Those of one replica take turns.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio

from mcpsession.errors import (
    LimitExceededError,
    SessionNotFoundError,
    StateConflictError,
    UpdateFailedError,
)
from mcpsession.model import SessionId
from mcpsession.session_contracts import SessionStore

# Every lost attempt means that another replica's won: so many in a row mean a session that is written all the time.
_ATTEMPTS = 100
# How long a change waits for those before it in this replica, one of which may wait for something itself.
_PATIENCE = 5.0

State = dict[str, Any]
Change = Callable[[State], State | Awaitable[State | None] | None]


class Turns:
    """Lets the changes of one session go one after the other in a replica, so that they do not lose to each other.

    A courtesy, not a lock: whoever has waited for long goes ahead, and compare-and-set decides as ever.
    """

    def __init__(self) -> None:
        self._locks: dict[SessionId, tuple[anyio.Lock, int]] = {}

    @asynccontextmanager
    async def turn(self, session_id: SessionId) -> AsyncIterator[None]:
        """Wait for one's turn. Within a turn, of whichever session: at once, so that no two wait for each other."""
        if _IN_TURN.get():
            yield
            return
        lock, users = self._locks.get(session_id, (anyio.Lock(), 0))
        self._locks[session_id] = (lock, users + 1)
        token, ours = _IN_TURN.set(True), False
        try:
            with anyio.move_on_after(_PATIENCE):
                await lock.acquire()
                ours = True
            yield
        finally:
            _IN_TURN.reset(token)
            if ours:
                lock.release()
            lock, users = self._locks.pop(session_id)
            if users > 1:
                self._locks[session_id] = (lock, users - 1)


_IN_TURN: ContextVar[bool] = ContextVar("mcpsession_in_turn", default=False)


class SessionState:
    """The part of `layer.sessions` that is about state. Sessions of another owner are as if they were not there."""

    def __init__(self, store: SessionStore, turns: Turns, *, max_state_bytes: int, owner: str | None) -> None:
        self._states = store
        self._turns = turns
        self._max_state_bytes = max_state_bytes
        self._owner = owner

    async def state(self, session_id: SessionId) -> State:
        """A copy of the session's state.

        Raises SessionNotFoundError if it is not live.
        """
        return _parsed((await self._load(session_id))[1])

    async def merge_state(self, session_id: SessionId, patch: Mapping[str, Any] | None) -> State:
        """Set the top-level keys of `patch`, leave all others; returns the new state.

        A nested object is replaced, not merged. None is a value like any other: it deletes nothing.

        Raises what `update` raises.
        """
        return await self.update(session_id, lambda state: {**state, **(patch or {})})

    async def update(self, session_id: SessionId, fn: Change) -> State:
        """Replace the state by what `fn` makes of it, atomically over all replicas; returns the new state.

        `fn`, sync or async, may change the dict in place and return None. It is called again with the newer state if
        another update came between. It sees nothing but the state: id, owner and status cannot be changed here. If it
        changes nothing, that is a touch.

        Raises:
            SessionNotFoundError: the session is not live.
            UpdateFailedError: `fn` raised, or made what is not a JSON object; nothing was stored.
            LimitExceededError: the new state is larger than `max_state_bytes`; nothing was stored.
            StateConflictError: other replicas changed it at each of many attempts.
        """
        async with self._turns.turn(session_id):
            for attempt in range(_ATTEMPTS):
                made = await self._try(session_id, fn)
                if made is not None:
                    return made
                # Another replica's came first. Apart from each other they both get on.
                await anyio.sleep(random.uniform(0, min(0.001 * (attempt + 1), 0.02)))
        raise StateConflictError

    async def compare_and_set(self, session_id: SessionId, version: int, state: Mapping[str, Any]) -> int:
        """Replace the state if its version is still `version` (see `Session.version`); returns the new version.

        Raises:
            SessionNotFoundError: the session is not live.
            StateConflictError: it was changed since; read it again.
            UpdateFailedError, LimitExceededError: it is not JSON, or larger than `max_state_bytes`.
        """
        saved = await self._states.save_state(session_id, version, self._text(state), owner=self._owner)
        if saved is None:
            await self._load(session_id)
            raise StateConflictError(version=version)
        return saved

    async def _try(self, session_id: SessionId, fn: Change) -> State | None:
        version, before = await self._load(session_id)
        state = _parsed(before)
        try:
            made = fn(state)
            if isinstance(made, Awaitable):
                made = await made
        except Exception as error:
            raise UpdateFailedError(f"the function raised {type(error).__name__}: {error}") from error
        new = state if made is None else made
        text = self._text(new)
        if text == before:
            touched = await self._states.touch([session_id], owner=self._owner)
            return _parsed(text) if session_id in touched else None
        saved = await self._states.save_state(session_id, version, text, owner=self._owner)
        # As the next reader will see it: a tuple has become a list.
        return None if saved is None else _parsed(text)

    async def _load(self, session_id: SessionId) -> tuple[int, str]:
        loaded = await self._states.load_state(session_id, owner=self._owner)
        if loaded is None:
            raise SessionNotFoundError(session_id)
        return loaded

    def _text(self, state: object) -> str:
        return state_text(state, self._max_state_bytes)


def state_text(state: object, max_bytes: int) -> str:
    """A state as it is stored.

    Raises UpdateFailedError if it is not a JSON object, LimitExceededError if it is too large.
    """
    if not isinstance(state, Mapping):
        raise UpdateFailedError(f"a state is a dict of JSON values, not {type(state).__name__}")
    try:
        # ASCII: what it holds can be stored whatever the text is.
        text = json.dumps(dict(state), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UpdateFailedError(f"the new state is not JSON: {error}") from error
    if len(text) > max_bytes:
        raise LimitExceededError("max_state_bytes", max_bytes, len(text))
    return text


def _parsed(text: str) -> State:
    state: State = json.loads(text)
    return state
