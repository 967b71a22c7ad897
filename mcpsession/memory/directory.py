"""Sessions to look at, in memory.

A page costs its own length; a count, and the statistics, a look at every session.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from mcpsession.memory.rows import SessionRow
from mcpsession.memory.tables import Tables
from mcpsession.model import SessionId
from mcpsession.records import Filter, Session, SessionStats


class MemoryDirectory:
    """Directory over the rows of the sessions."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def records(
        self, session_ids: Sequence[SessionId], *, owner: str | None = None, include_dead: bool = False
    ) -> Sequence[Session]:
        with self._tables.lock:
            now, records = time.monotonic(), []
            for session_id in dict.fromkeys(session_ids):
                row = self._tables.sessions.get(session_id)
                if row is None or owner not in (None, row.session.owner):
                    continue
                if row.is_live(now):
                    records.append(row.record(event_count=self._event_count(session_id)))
                elif include_dead and row.session.status != "removed":
                    records.append(row.last_record(event_count=self._event_count(session_id)))
            return records

    def _event_count(self, session_id: SessionId) -> int:
        return sum(len(stream.events) for stream in self._tables.streams.get(session_id, {}).values())

    async def page(self, wanted: Filter, after: SessionId, limit: int) -> Sequence[Session]:
        with self._tables.lock:
            now = time.monotonic()
            found = (row for row in self._tables.living_after(after) if _fits(row, wanted, now))
            return [row.record() for row in islice(found, limit)]

    async def count(self, wanted: Filter) -> int:
        with self._tables.lock:
            now = time.monotonic()
            return sum(_fits(row, wanted, now) for row in self._tables.living())

    async def stats(self) -> SessionStats:
        with self._tables.lock:
            living = list(self._tables.living())
            statuses = Counter(row.session.status for row in self._tables.sessions.values())
            return SessionStats(
                live=len(living),
                initialized=sum(row.session.initialized for row in living),
                expired=statuses["live"] - len(living),
                terminated=statuses["terminated"],
                owners=len({row.session.owner for row in living} - {""}),
                state_bytes=sum(len(row.state.encode()) for row in living),
            )


def _fits(row: SessionRow, wanted: Filter, now: float) -> bool:
    session = row.session
    return (
        wanted.owner in (None, session.owner)
        and wanted.transport in (None, session.transport)
        and wanted.initialized in (None, session.initialized)
        and wanted.protocol_version in (None, session.protocol_version)
        and (wanted.idle_for is None or row.active.tick <= now - wanted.idle_for)
    )
