"""Removes what expired, in memory.

Costs a look at every session; streams and mail lie in the order in which they expire.
"""

from __future__ import annotations

import heapq
import time
from itertools import islice

from mcpsession.memory.tables import Tables
from mcpsession.model import Reaped, SessionId

# The death stays on record for so long, for whoever still asks; then a replica that is missing counts as dead as well.
_REMEMBERED = 3600.0


class MemoryReaping:
    """Reaping, one kind after the other."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def reap(self, limit: int) -> Reaped:
        with self._tables.lock:
            now = time.monotonic()
            return Reaped(
                sessions=self._reap_sessions(limit, now),
                streams=self._reap_streams(limit, now),
                mail=self._reap_mail(limit, now),
                replicas=self._reap_replicas(limit, now),
            )

    def _reap_sessions(self, limit: int, now: float) -> int:
        expired = (session_id for session_id, row in self._tables.sessions.items() if row.expires_at <= now)
        ours = list(islice(expired, limit))
        for session_id in ours:
            del self._tables.sessions[session_id]
            self._remove_streams(session_id)
        return len(ours)

    def _remove_streams(self, session_id: SessionId) -> None:
        for row in self._tables.streams.pop(session_id, {}).values():
            if self._tables.running.get(key := (session_id, row.request_ids)) is row:
                del self._tables.running[key]

    def _reap_streams(self, limit: int, now: float) -> int:
        expiring, reaped = self._tables.expiring, 0
        while expiring and expiring[0][0] <= now and reaped < limit:
            _, _, row = heapq.heappop(expiring)
            streams = self._tables.streams.get(row.session_id, {})
            # It may be gone already, with its session.
            if streams.get(row.id) is row:
                del streams[row.id]
                if not streams and row.session_id not in self._tables.sessions:
                    del self._tables.streams[row.session_id]
                reaped += 1
        return reaped

    def _reap_mail(self, limit: int, now: float) -> int:
        expired = [mail_id for mail_id, row in self._tables.inboxes.items() if row.expires_at <= now][:limit]
        for mail_id in expired:
            del self._tables.inboxes[mail_id]
        broadcasts, old = self._tables.broadcasts, 0
        while old < len(broadcasts) and old + len(expired) < limit and broadcasts[old].expires_at <= now:
            old += 1
        if old:
            self._tables.reaped_xid = broadcasts[old - 1].mail.xid
            del broadcasts[:old]
        return old + len(expired)

    def _reap_replicas(self, limit: int, now: float) -> int:
        expired = [
            replica
            for replica, row in self._tables.replicas.items()
            if row.dead_at is not None and row.dead_at <= now - _REMEMBERED
        ][:limit]
        for replica in expired:
            del self._tables.replicas[replica]
        return len(expired)
