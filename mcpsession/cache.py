"""Sessions this replica knows, and when to forget them.

A hit costs nothing; a miss one SELECT. An entry is used only while the listener is proven alive (its last heard ping
was sent less than `cache_lease` ago), until the session's remaining life has passed, and at most `cache_ttl`. A
row just read is kept only if no invalidation was heard since before the read: it may be the older truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from mcpsession.contracts import SessionStore
from mcpsession.model import Session, SessionId
from mcpsession.settings import Settings

# Above this the oldest entries go; at about 1 KB each that is 100 MB.
_MOST = 100_000


class _Entry(NamedTuple):
    session: Session
    until: float


class SessionCache:
    """The way to a live session: from memory when that is safe, else from the store."""

    def __init__(self, store: SessionStore, settings: Settings, last_echo: Callable[[], float]) -> None:
        self._store = store
        self._settings = settings
        self._last_echo = last_echo
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
        if now >= entry.until:
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
        if session is not None and session.initialized and before == self._invalidations and self._leased(asked):
            self._keep(session, asked)
        return session

    def extend(self, session_id: SessionId, remaining: float | None) -> None:
        """A touch moved the session's end: `remaining` seconds from about now."""
        if entry := self._entries.get(session_id):
            self._keep(entry.session, time.monotonic(), remaining)

    def remaining(self, session_id: SessionId) -> float | None:
        """Seconds until the entry must be read again; None if it is not here."""
        entry = self._entries.get(session_id)
        return None if entry is None else entry.until - time.monotonic()

    def drop(self, session_id: SessionId) -> None:
        """The session changed or ended."""
        self._invalidations += 1
        self._entries.pop(session_id, None)

    def clear(self) -> None:
        """Anything may have changed."""
        self._invalidations += 1
        self._entries.clear()

    def _leased(self, now: float) -> bool:
        return now - self._last_echo() < self._settings.cache_lease

    def _keep(self, session: Session, now: float, remaining: float | None = None) -> None:
        left = session.remaining if remaining is None else remaining
        keep = self._settings.cache_ttl if left is None else min(left, self._settings.cache_ttl)
        if keep <= 0:
            return
        while len(self._entries) >= _MOST:
            del self._entries[next(iter(self._entries))]
        self._entries[session.id] = _Entry(session, now + keep)
