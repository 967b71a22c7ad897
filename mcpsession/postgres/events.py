"""The log of streams in Postgres: numbers come from the locked row of the stream, never from the events.

Costs one statement a batch, however many streams are in it. Who appends, ends or takes over locks the stream's row
first, in order of the key: so there is one final, no hole, no deadlock, and a late writer is seen to be late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asyncpg import Record

from mcpsession.model import (
    Accepted,
    Batch,
    EventPage,
    NewEvent,
    ReplicaId,
    SessionId,
    StreamId,
    StreamState,
)
from mcpsession.postgres.link import Link
from mcpsession.postgres.pool import Database
from mcpsession.postgres.writing import Writing
from mcpsession.settings import Settings

LANDED = """
SELECT 1 AS landed
FROM mcpsession.streams
WHERE namespace = $1 AND session_id = $2 AND id = $3 AND last_seq >= $4 AND producer = $5
"""

# Clients read calls' streams and standalone ones, whatever they ask for.
ATTACH = """
UPDATE mcpsession.streams
SET reader = $4
WHERE namespace = $1 AND session_id = $2 AND id = $3 AND kind IN ('request', 'standalone')
    AND (expires_at IS NULL OR expires_at > now())
RETURNING id
"""

# A page ends with the event that fills a MiB, so that a reader never holds more than that and one event; which one that
# is is looked for only where there are so many bytes. It is one row with two arrays, in the order of the subquery: what
# the stream's own columns say is not sent, and not read, once for each event.
READ = """
SELECT t.last_seq, t.trimmed_seq, t.finished_at IS NOT NULL AS finished, t.taken_over, t.producer, t.request_ids,
    t.kind = 'request' AND t.finished_at IS NULL AND t.producer IS NOT NULL AND NOT EXISTS (
        SELECT FROM mcpsession.replicas r
        WHERE r.namespace = $1 AND r.id = t.producer AND r.dead_at IS NULL) AS orphaned,
    page.numbers, page.messages
FROM mcpsession.streams t
CROSS JOIN (
    SELECT array_agg(e.seq) AS numbers,
        array_agg(CASE WHEN e.request_of IS NOT NULL AND NOT EXISTS (
            SELECT FROM mcpsession.replicas r
            WHERE r.namespace = $1 AND r.id = e.request_of AND r.dead_at IS NULL) THEN '' ELSE e.message END)
            AS messages
    FROM (
        SELECT v.seq, v.message, v.request_of
        FROM mcpsession.events v
        WHERE v.namespace = $1 AND v.session_id = $2 AND v.stream_id = $3 AND v.seq > $4 AND v.seq <= coalesce((
            SELECT CASE WHEN sum(octet_length(p.message)) > 1048576 THEN (
                SELECT min(f.seq)
                FROM (
                    SELECT o.seq, sum(octet_length(o.message)) OVER (ORDER BY o.seq) AS bytes_up_to_it
                    FROM mcpsession.events o
                    WHERE o.namespace = $1 AND o.session_id = $2 AND o.stream_id = $3 AND o.seq > $4
                    ORDER BY o.seq
                    LIMIT $5) AS f
                WHERE f.bytes_up_to_it >= 1048576) END
            FROM (
                SELECT o.message
                FROM mcpsession.events o
                WHERE o.namespace = $1 AND o.session_id = $2 AND o.stream_id = $3 AND o.seq > $4
                ORDER BY o.seq
                LIMIT $5) AS p), 9223372036854775807)
        ORDER BY v.seq
        LIMIT $5) AS e) AS page
WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = $3 AND t.kind IN ('request', 'standalone')
    AND (t.expires_at IS NULL OR t.expires_at > now())
"""

# The same lock as the journal's: whoever comes second finds the stream finished, and writes nothing.
TAKE_OVER = """
WITH locked AS (
    SELECT t.last_seq, greatest(t.last_seq, $4) AS base
    FROM mcpsession.streams t
    WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = $3 AND t.kind = 'request'
        AND t.finished_at IS NULL AND t.producer IS NOT NULL AND NOT EXISTS (
            SELECT FROM mcpsession.replicas r
            WHERE r.namespace = $1 AND r.id = t.producer AND r.dead_at IS NULL)
    FOR NO KEY UPDATE OF t
), ended AS (
    UPDATE mcpsession.streams t
    SET last_seq = CASE WHEN cardinality($5::text[]) = 0 THEN locked.last_seq
            ELSE locked.base + cardinality($5::text[]) END,
        finished_at = now(), expires_at = now() + make_interval(secs => $7::float8), taken_over = true, producer = $6
    FROM locked
    WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = $3
), entered AS (
    INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message)
    SELECT $1, $2, $3, locked.base + final.place, final.message
    FROM locked, unnest($5::text[]) WITH ORDINALITY AS final (message, place)
)
SELECT 1 AS ended FROM locked
"""

ORPHANS = """
SELECT t.session_id, t.id, t.last_seq, t.request_ids, t.answered_ids
FROM mcpsession.streams t
WHERE t.namespace = $1 AND t.finished_at IS NULL AND t.producer IS NOT NULL AND t.kind = 'request'
    AND NOT EXISTS (
        SELECT FROM mcpsession.replicas r
        WHERE r.namespace = $1 AND r.id = t.producer AND r.dead_at IS NULL)
LIMIT $2
"""

UNFINISHED = """
SELECT t.session_id, t.id, t.last_seq, t.request_ids, t.answered_ids
FROM mcpsession.streams t
WHERE t.namespace = $1 AND t.producer = $2 AND t.finished_at IS NULL AND t.kind = 'request'
"""


class PostgresLog:
    """EventLog over two tables. The journal writes on a link of its own; everybody else reads over the pool."""

    def __init__(self, database: Database, journal: Link, settings: Settings) -> None:
        self._database = database
        self._writing = Writing(journal, settings)
        self._settings = settings
        self._namespace = settings.namespace

    async def write(self, batch: Batch, *, producer: ReplicaId) -> Sequence[Accepted]:
        return await self._writing.write(batch, producer=producer)

    async def landed(self, session_id: SessionId, stream_id: StreamId, last_seq: int, *, producer: ReplicaId) -> bool:
        row = await self._database.fetchrow(LANDED, self._namespace, session_id, stream_id, last_seq, producer)
        return row is not None

    async def append_standalone(self, appends: Sequence[tuple[SessionId, NewEvent]]) -> Mapping[SessionId, ReplicaId]:
        return await self._writing.append_standalone(appends)

    async def attach(self, session_id: SessionId, stream_id: StreamId, reader: ReplicaId) -> bool:
        return await self._database.fetchrow(ATTACH, self._namespace, session_id, stream_id, reader) is not None

    async def read(self, session_id: SessionId, stream_id: StreamId, after: int, limit: int) -> StreamState | None:
        row = await self._database.fetchrow(READ, self._namespace, session_id, stream_id, after, limit)
        if row is None:
            return None
        return StreamState(
            last_seq=row["last_seq"],
            trimmed_seq=row["trimmed_seq"],
            finished=row["finished"],
            taken_over=row["taken_over"],
            orphaned=row["orphaned"],
            producer=row["producer"],
            request_ids=tuple(row["request_ids"]),
            # None without any: that is what an aggregate makes of nothing.
            events=EventPage(row["numbers"] or (), row["messages"] or ()),
        )

    async def take_over(
        self, session_id: SessionId, stream_id: StreamId, asked: int, finals: Sequence[str], *, by: ReplicaId
    ) -> bool:
        ended = await self._database.fetchrow(
            TAKE_OVER, self._namespace, session_id, stream_id, asked, list(finals), by, self._settings.stream_ttl
        )
        return ended is not None

    async def orphans(self, limit: int) -> Sequence[tuple[SessionId, StreamId, int, tuple[str, ...]]]:
        return [_open(row) for row in await self._database.fetch(ORPHANS, self._namespace, limit)]

    async def unfinished(self, producer: ReplicaId) -> Sequence[tuple[SessionId, StreamId, int, tuple[str, ...]]]:
        return [_open(row) for row in await self._database.fetch(UNFINISHED, self._namespace, producer)]


def _open(row: Record) -> tuple[SessionId, StreamId, int, tuple[str, ...]]:
    unanswered = tuple(request_id for request_id in row["request_ids"] if request_id not in row["answered_ids"])
    return row["session_id"], row["id"], row["last_seq"], unanswered
