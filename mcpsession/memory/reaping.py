"""Removes what expired, in memory.

Costs a look at every session; streams and mail lie in the order in which they expire.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from mcpsession.memory.tables import SessionRow, Tables
from mcpsession.model import Reaped, ReplicaId, Session, SessionId

# The death stays on record for so long, for whoever still asks; then a replica that is missing counts as dead as well.
_REMEMBERED = 3600.0


class MemoryReaping:
    """Reaping, one kind after the other."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def reap(self, limit: int, *, handled: bool = False) -> Reaped:
        with self._tables.lock:
            now = time.monotonic()
            return Reaped(
                sessions=self._reap_sessions(limit, now, handled),
                streams=self._reap_streams(limit, now),
                mail=self._reap_mail(limit, now),
                replicas=self._reap_replicas(limit, now),
            )

    async def claim(self, limit: int, *, by: ReplicaId) -> Sequence[Session]:
        with self._tables.lock:
            now = time.monotonic()
            expired = (
                row
                for row in self._tables.sessions.values()
                if not row.terminated and (row.claimed_by == by or self._free(row, now))
            )
            claimed = list(islice(expired, limit))
            for row in claimed:
                row.claimed_by = by
            return [
                replace(row.session, status="expired", remaining=None, last_active_at=row.last_active_at)
                for row in claimed
            ]

    async def remove(self, session_ids: Sequence[SessionId], *, by: ReplicaId) -> int:
        with self._tables.lock:
            rows = [(session_id, self._tables.sessions.get(session_id)) for session_id in session_ids]
            return self._remove([session_id for session_id, row in rows if row is not None and row.claimed_by == by])

    def _free(self, row: SessionRow, now: float) -> bool:
        """Expired, and claimed by nobody who lives."""
        return row.expires_at <= now and self._tables.is_dead(row.claimed_by)

    def _reap_sessions(self, limit: int, now: float, handled: bool) -> int:
        expired = (
            session_id
            for session_id, row in self._tables.sessions.items()
            if self._free(row, now) and (row.terminated or not handled)
        )
        return self._remove(list(islice(expired, limit)))

    def _remove(self, session_ids: Sequence[SessionId]) -> int:
        for session_id in session_ids:
            del self._tables.sessions[session_id]
            self._remove_streams(session_id)
        return len(session_ids)

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
