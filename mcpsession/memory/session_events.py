"""An application's own events in memory: a list for each stream, and its ids."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime

from mcpsession.event_records import Appended, Entry, EntryPage, EventStats, StoredEntry
from mcpsession.event_texts import stream_id_of
from mcpsession.memory.rows import EventRow, StreamRow
from mcpsession.memory.tables import Tables
from mcpsession.model import ReplicaId, SessionId
from mcpsession.settings import Settings
from mcpsession.texts import check_text

# A page ends with the event that fills it.
_PAGE_BYTES = 1024 * 1024


class MemorySessionEvents:
    """SessionEvents over the rows of streams."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self._tables = tables
        self._settings = settings

    async def append(
        self, session_id: SessionId, stream: str, entries: Sequence[Entry], *, owner: str | None = None
    ) -> Appended | None:
        check_text(stream, *(text for entry in entries for text in (entry.data, entry.type, entry.id or "")))
        with self._tables.lock:
            session = self._tables.live(session_id, owner)
            if session is None:
                return None
            row = self._begun(session_id, stream)
            before = row.last_seq
            now = datetime.now(UTC)
            numbers = [self._add(row, entry, now) for entry in entries]
            row.trim(self._settings.max_events, self._settings.max_replay_bytes)
            return Appended(numbers, row.last_seq - before, self._living(row), session.remaining(), now)

    async def read(
        self, session_id: SessionId, stream: str, after: int | str, limit: int, *, owner: str | None = None
    ) -> EntryPage | None:
        with self._tables.lock:
            session = self._tables.live(session_id, owner)
            if session is None:
                return None
            incarnation = session.session.incarnation
            row = self._tables.stream(session_id, stream_id_of(stream))
            if row is None:
                return EntryPage([], 0, 0, after == 0, incarnation)
            seq = after if isinstance(after, int) else row.own_ids.get(after)
            return EntryPage(_page(row, seq or 0, limit), row.last_seq, row.trimmed_seq, _knows(row, seq), incarnation)

    async def follow(self, session_id: SessionId, stream: str, follower: ReplicaId) -> bool:
        check_text(stream)
        with self._tables.lock:
            if self._tables.live(session_id) is None:
                return False
            row = self._begun(session_id, stream)
            if follower not in row.followers:
                row.followers = [*self._living(row), follower]
            return True

    async def unfollow(self, session_id: SessionId, stream: str, follower: ReplicaId) -> None:
        with self._tables.lock:
            row = self._tables.stream(session_id, stream_id_of(stream))
            if row is not None and follower in row.followers:
                row.followers.remove(follower)

    async def stats(self, session_id: SessionId | None = None, *, owner: str | None = None) -> EventStats:
        with self._tables.lock:
            rows = [
                row
                for session in self._tables.living()
                if session_id in (None, session.session.id) and owner in (None, session.session.owner)
                for row in self._tables.streams_of(session.session.id)
                if row.kind != "tracked"
            ]
            return EventStats(len(rows), sum(len(row.events) for row in rows), sum(row.bytes for row in rows))

    def _begun(self, session_id: SessionId, stream: str) -> StreamRow:
        row = self._tables.stream(session_id, stream_id_of(stream))
        if row is None:
            row = StreamRow(session_id, stream_id_of(stream), kind="application")
            self._tables.enter(row)
        return row

    def _add(self, row: StreamRow, entry: Entry, now: datetime) -> int:
        if entry.id is not None and entry.id in row.own_ids:
            return row.own_ids[entry.id]
        row.add(EventRow(row.last_seq + 1, entry.data, None, entry.type, entry.id, entry.timestamp or now))
        return row.last_seq

    def _living(self, row: StreamRow) -> list[ReplicaId]:
        return [follower for follower in row.followers if not self._tables.is_dead(follower)]


def _page(row: StreamRow, after: int, limit: int) -> list[StoredEntry]:
    entries: list[StoredEntry] = []
    room = _PAGE_BYTES
    for place in range(bisect_right(row.events, after, key=lambda event: event.seq), len(row.events)):
        if len(entries) == limit or room <= 0:
            break
        event = row.events[place]
        assert event.type is not None
        assert event.happened_at is not None
        entries.append(StoredEntry(event.seq, event.message, event.type, event.own_id, event.happened_at))
        room -= event.size
    return entries


def _knows(row: StreamRow, seq: int | None) -> bool:
    return seq is not None and seq <= row.last_seq
