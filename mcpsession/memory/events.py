"""The log of streams in memory: numbers come from the stream, never from its events."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from mcpsession.memory.rows import EventRow, StreamRow
from mcpsession.memory.tables import Tables, check_messages
from mcpsession.model import (
    Accepted,
    AppendedStream,
    Batch,
    EventPage,
    NewEvent,
    OpenedStream,
    ReplicaId,
    SessionId,
    StreamId,
    StreamState,
)
from mcpsession.settings import Settings


class MemoryLog:
    """EventLog over a list for each stream."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self._tables = tables
        self._settings = settings

    async def write(self, batch: Batch, *, producer: ReplicaId) -> Sequence[Accepted]:
        check_messages(event for opened in batch.opened for event in opened.events)
        check_messages(event for appended in batch.appended for event in appended.events)
        with self._tables.lock:
            # Appends first: they reach what was there before the batch, as one statement in Postgres would.
            rows = [self._append(part, producer) for part in batch.appended]
            rows += [self._open(part, producer) for part in batch.opened]
            return [Accepted(row.session_id, row.id, row.reader) for row in rows if row is not None]

    def _open(self, part: OpenedStream, producer: ReplicaId) -> StreamRow | None:
        if part.stream_id in self._tables.streams.get(part.session_id, {}):
            return None
        if not part.finished and self._tables.twin(part.session_id, part.request_ids) is not None:
            return None
        row = StreamRow(part.session_id, part.stream_id, part.request_ids, producer=producer, method=part.method)
        for event in part.events:
            row.append(event)
        row.trim_to(part.trimmed)
        if part.finished:
            self._tables.enter(row)
            self._tables.finish(row)
        else:
            self._tables.run(row)
        return row

    def _append(self, part: AppendedStream, producer: ReplicaId) -> StreamRow | None:
        row = self._tables.streams.get(part.session_id, {}).get(part.stream_id)
        if row is None or row.producer != producer or row.finished or row.last_seq != part.base:
            return None
        for event in part.events:
            row.append(event)
        row.trim_to(part.trimmed)
        if part.finished:
            self._tables.finish(row)
        return row

    async def landed(self, session_id: SessionId, stream_id: StreamId, last_seq: int, *, producer: ReplicaId) -> bool:
        with self._tables.lock:
            row = self._tables.streams.get(session_id, {}).get(stream_id)
            return row is not None and row.producer == producer and row.last_seq >= last_seq

    async def append_standalone(self, appends: Sequence[tuple[SessionId, NewEvent]]) -> Mapping[SessionId, ReplicaId]:
        check_messages(event for _, event in appends)
        holders: dict[SessionId, ReplicaId] = {}
        with self._tables.lock:
            for session_id, event in appends:
                if row := self._tables.standalone(session_id):
                    row.append(event)
                    row.trim(self._settings.max_events, self._settings.max_replay_bytes)
                    if row.holder is not None:
                        holders[session_id] = row.holder
        return holders

    async def attach(self, session_id: SessionId, stream_id: StreamId, reader: ReplicaId) -> bool:
        with self._tables.lock:
            if row := self._clients(session_id, stream_id):
                row.reader = reader
            return row is not None

    async def read(self, session_id: SessionId, stream_id: StreamId, after: int, limit: int) -> StreamState | None:
        with self._tables.lock:
            row = self._clients(session_id, stream_id)
            if row is None:
                return None
            first = bisect_right(row.events, after, key=lambda event: event.seq)
            return StreamState(
                last_seq=row.last_seq,
                trimmed_seq=row.trimmed_seq,
                finished=row.finished,
                taken_over=row.taken_over,
                orphaned=self._is_orphan(row),
                producer=row.producer,
                request_ids=row.request_ids,
                events=self._page(islice(row.events, first, first + limit)),
            )

    def _clients(self, session_id: SessionId, stream_id: StreamId) -> StreamRow | None:
        """A stream that clients read."""
        row = self._tables.stream(session_id, stream_id)
        return row if row is not None and row.kind in ("request", "standalone") else None

    def _page(self, rows: Iterable[EventRow]) -> EventPage:
        events = list(rows)
        return EventPage([event.seq for event in events], [self._readable(event) for event in events])

    def _readable(self, event: EventRow) -> str:
        unheard = event.request_of is not None and self._tables.is_dead(event.request_of)
        return "" if unheard else event.message

    def _is_orphan(self, row: StreamRow) -> bool:
        return row.kind == "request" and not row.finished and self._tables.is_dead(row.producer)

    async def take_over(
        self, session_id: SessionId, stream_id: StreamId, asked: int, finals: Sequence[str], *, by: ReplicaId
    ) -> bool:
        with self._tables.lock:
            row = self._tables.streams.get(session_id, {}).get(stream_id)
            if row is None or not self._is_orphan(row):
                return False
            if finals:
                row.last_seq = max(row.last_seq, asked)
            for final in finals:
                row.append(NewEvent(final))
            row.taken_over, row.producer = True, by
            self._tables.finish(row)
            return True

    async def orphans(self, limit: int) -> Sequence[tuple[SessionId, StreamId, int, tuple[str, ...]]]:
        with self._tables.lock:
            orphans = (_open(row) for row in self._tables.running.values() if self._is_orphan(row))
            return list(islice(orphans, limit))

    async def unfinished(self, producer: ReplicaId) -> Sequence[tuple[SessionId, StreamId, int, tuple[str, ...]]]:
        with self._tables.lock:
            rows = self._tables.running.values()
            return [_open(row) for row in rows if row.producer == producer and row.kind == "request"]


def _open(row: StreamRow) -> tuple[SessionId, StreamId, int, tuple[str, ...]]:
    unanswered = tuple(request_id for request_id in row.request_ids if request_id not in row.answered_ids)
    return row.session_id, row.id, row.last_seq, unanswered
