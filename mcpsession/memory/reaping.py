"""Removes what expired, and what belonged to sessions that were ended, in memory.

Costs a look at every session; streams and mail lie in the order in which they expire.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from mcpsession.memory.rows import SessionRow
from mcpsession.memory.tables import Tables
from mcpsession.model import Reaped, ReplicaId, SessionId
from mcpsession.records import Session

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
                control=self._reap_control(limit, now),
            )

    async def claim(
        self, limit: int, *, by: ReplicaId, busy: Collection[SessionId] = (), only: Sequence[SessionId] | None = None
    ) -> Sequence[Session]:
        with self._tables.lock:
            skipped, chosen = set(busy), None if only is None else set(only)
            waiting = (
                row
                for row in self._expired(time.monotonic())
                if row.session.id not in skipped
                and (chosen is None or row.session.id in chosen)
                and self._awaits_handlers(row, by)
            )
            claimed = list(islice(waiting, limit))
            for row in claimed:
                row.claimed_by = by
            return [row.last_record() for row in claimed]

    def _expired(self, now: float) -> Iterator[SessionRow]:
        """All whose time has come: expired, ended, or tombstones for long enough. What is claimed is among them."""
        return (row for row in self._tables.sessions.values() if row.expires.tick <= now)

    def _awaits_handlers(self, row: SessionRow, by: ReplicaId) -> bool:
        """Expired and claimed by nobody, or claimed by one who died, or by this replica, which did not finish."""
        if row.claimed_by is None:
            return row.session.status == "live"
        return row.claimed_by == by or self._tables.is_dead(row.claimed_by)

    async def idle(self, idle_for: float, after: SessionId, limit: int) -> tuple[Sequence[SessionId], SessionId | None]:
        with self._tables.lock:
            since = time.monotonic() - idle_for
            rows = list(islice(self._tables.living_after(after), limit))
            last = rows[-1].session.id if len(rows) == limit else None
            return [row.session.id for row in rows if row.active.tick <= since], last

    async def remove(self, sessions: Sequence[tuple[SessionId, int]], *, by: ReplicaId) -> int:
        with self._tables.lock:
            now = time.monotonic()
            rows = [
                row
                for session_id, incarnation in dict.fromkeys(sessions)
                if (row := self._tables.sessions.get(session_id)) is not None
                and row.session.incarnation == incarnation
                and (row.session.status != "live" or row.expires.tick <= now)
                and (row.claimed_by == by or self._tables.is_dead(row.claimed_by))
            ]
            return self._remove(rows)

    def _reap_sessions(self, limit: int, now: float, handled: bool) -> int:
        # A claim of a replica that died is none; but its handlers are owed, if there are any.
        expired = (
            row
            for row in self._expired(now)
            if self._tables.is_dead(row.claimed_by)
            and not (handled and (row.session.status == "live" or row.claimed_by is not None))
        )
        return self._remove(list(islice(expired, limit)))

    def _remove(self, rows: Sequence[SessionRow]) -> int:
        for row in rows:
            if self._tables.is_tombstone(row):
                self._tables.entomb(row)
            else:
                self._tables.delete(row.session.id)
        return len(rows)

    def _reap_streams(self, limit: int, now: float) -> int:
        expiring, reaped = self._tables.expiring, 0
        while expiring and expiring[0][0] <= now and reaped < limit:
            _, _, row = heapq.heappop(expiring)
            # It may be gone already, with its session.
            if self._tables.streams.get(row.session_id, {}).get(row.id) is row:
                self._tables.discard(row)
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

    def _reap_control(self, limit: int, now: float) -> int:
        expired = set(islice((row for row in self._tables.control if row.expires_at <= now), limit))
        if expired:
            self._tables.control = [row for row in self._tables.control if row not in expired]
        return len(expired)
