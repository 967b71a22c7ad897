"""Which sessions want to hear of which resources, in memory: a set each way."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest

from mcpsession.errors import LimitExceededError
from mcpsession.memory.tables import Tables, check_texts
from mcpsession.model import Mail, ReplicaId, SessionId


class MemorySubscriptions:
    """ResourceSubscriptions over two dictionaries."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def subscribe(self, session_id: SessionId, uri: str, limit: int | None, *, sender: ReplicaId) -> bool:
        check_texts(uri)
        with self._tables.lock:
            if self._tables.live(session_id) is None:
                return False
            uris = self._tables.subscriptions.get(session_id, set())
            if uri not in uris:
                if limit is not None and len(uris) >= limit:
                    raise LimitExceededError("max_subscriptions_per_session", limit)
                self._tables.link(session_id, uri)
                self._tables.post(Mail("changed", sender, session_id=session_id))
            return True

    async def unsubscribe(self, session_id: SessionId, uri: str, *, sender: ReplicaId) -> bool:
        with self._tables.lock:
            if self._tables.live(session_id) is None or not self._tables.unlink(session_id, uri):
                return False
            self._tables.post(Mail("changed", sender, session_id=session_id))
            return True

    async def uris(self, session_id: SessionId) -> Sequence[str]:
        with self._tables.lock:
            return sorted(self._tables.subscriptions.get(session_id, ())) if self._tables.live(session_id) else []

    async def subscribers(self, uri: str, after: SessionId, limit: int) -> Sequence[SessionId]:
        with self._tables.lock:
            subscribed = self._tables.subscribers.get(uri, ())
            later = (session_id for session_id in subscribed if session_id > after and self._tables.live(session_id))
            return nsmallest(limit, later)
