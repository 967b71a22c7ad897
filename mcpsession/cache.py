"""Sessions this replica knows, and when to forget them.

A hit costs nothing; a miss one SELECT. An entry is used only while it is proven (the last look that found no mail that
is not applied here was sent less than `cache_lease` ago), until the session's remaining life has passed, and at most
`cache_ttl`. A row just read is kept only if no invalidation was heard since before the read: it may be the older truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from mcpsession.model import SessionId
from mcpsession.records import Session
from mcpsession.session_contracts import SessionStore
from mcpsession.settings import Settings

# Above this the oldest entries go; at about 1 KB each that is 100 MB.
_MOST = 100_000
# What a client says of itself has some hundred characters. One with more is read for each of its requests.
_LONGEST_PARAMS = 8192


class _Entry(NamedTuple):
    session: Session
    stale_at: float
    ends_at: float


class SessionCache:
    """The way to a live session: from memory when that is safe, else from the store."""

    def __init__(self, store: SessionStore, settings: Settings, proven_at: Callable[[], float]) -> None:
        self._store = store
        self._settings = settings
        self._proven_at = proven_at
        self._entries: dict[SessionId, _Entry] = {}
        self._invalidations = 0

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, session_id: SessionId) -> Session | None:
        """The session, if memory may be believed; None says nothing about the store."""
        entry = self._entries.get(session_id)
        if entry is None:
            return None
        now = time.monotonic()
        if now >= entry.stale_at or now >= entry.ends_at:
            del self._entries[session_id]
            return None
        return entry.session if self._leased(now) else None

    async def load(self, session_id: SessionId) -> Session | None:
        """The live session, or None.

        Raises StoreUnavailableError if it is not in memory and the store is away.
        """
        if session := self.peek(session_id):
            return session
        before, asked = self._invalidations, time.monotonic()
        session = await self._store.get(session_id)
        # Sessions not yet initialized change with the very next request.
        if session is None or not session.initialized or len(session.client_params or "") > _LONGEST_PARAMS:
            return session
        if before == self._invalidations and self._leased(asked):
            while len(self._entries) >= _MOST:
                del self._entries[next(iter(self._entries))]
            if self._settings.cache_ttl > 0:
                ends_at = math.inf if session.remaining is None else asked + session.remaining
                self._entries[session_id] = _Entry(session, asked + self._settings.cache_ttl, ends_at)
        return session

    def extend(self, session_id: SessionId, remaining: float | None) -> None:
        """A touch moved the session's end: `remaining` seconds from about now."""
        if entry := self._entries.get(session_id):
            ends_at = math.inf if remaining is None else time.monotonic() + remaining
            self._entries[session_id] = entry._replace(ends_at=ends_at)

    def remaining(self, session: Session) -> float:
        """Seconds that a session just loaded has left to live."""
        if entry := self._entries.get(session.id):
            return entry.ends_at - time.monotonic()
        return math.inf if session.remaining is None else session.remaining

    def drop(self, session_id: SessionId) -> None:
        """The session changed or ended."""
        self._invalidations += 1
        self._entries.pop(session_id, None)

    def clear(self) -> None:
        """Anything may have changed."""
        self._invalidations += 1
        self._entries.clear()

    def _leased(self, now: float) -> bool:
        return now - self._proven_at() < self._settings.cache_lease
