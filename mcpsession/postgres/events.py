"""The log of streams in Postgres: numbers come from the locked row of the stream, never from the events.

Costs one statement a batch, however many streams are in it. Who appends, ends or takes over locks the stream's row
first, in order of the key: so there is one final, no hole, no deadlock, and a late writer is seen to be late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from asyncpg import Record

from mcpsession.model import (
    Accepted,
    AppendedStream,
    Batch,
    Event,
    NewEvent,
    OpenedStream,
    ReplicaId,
    SessionId,
    StreamId,
    StreamState,
)
from mcpsession.postgres.link import Link
from mcpsession.postgres.pool import Database
from mcpsession.settings import Settings

# Separates request ids, which are JSON texts and hence never hold it: one text a stream keeps the arrays rectangular.
_UNIT = "\x1f"

# Opened: a conflict with the key is a repeat, one with streams_live_request a duplicate of a live request; either way
# the stream is not returned. They are inserted in order of what they can collide on, so that two replicas' batches
# wait for each other in one direction only.
# Appended: a row that was taken over, finished or has moved on does not pass the locked check, which Postgres repeats
# on the newest version of the row after it has waited for the lock.
WRITE = """
WITH opened AS (
    INSERT INTO mcpsession.streams
        (namespace, session_id, id, producer, request_ids, answered_ids, last_seq, finished_at, expires_at)
    SELECT $1, o.session_id, o.id, $2, string_to_array(o.requests, E'\\x1f'), string_to_array(o.answered, E'\\x1f'),
        o.count, CASE WHEN o.finished THEN now() END,
        CASE WHEN o.finished THEN now() + make_interval(secs => $3::float8) END
    FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bool[])
        AS o (session_id, id, requests, answered, count, finished)
    ORDER BY o.session_id, o.requests, o.id
    ON CONFLICT DO NOTHING
    RETURNING session_id, id, reader
), locked AS (
    SELECT s.session_id, s.id, s.reader, a.answered, a.count, a.finished
    FROM mcpsession.streams s
    JOIN unnest($10::text[], $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::bool[])
        AS a (session_id, id, answered, base, count, finished) ON a.session_id = s.session_id AND a.id = s.id
    WHERE s.namespace = $1 AND s.producer = $2 AND s.finished_at IS NULL AND s.last_seq = a.base
    ORDER BY s.session_id, s.id
    FOR NO KEY UPDATE OF s
), appended AS (
    UPDATE mcpsession.streams s
    SET last_seq = s.last_seq + locked.count,
        answered_ids = s.answered_ids || string_to_array(locked.answered, E'\\x1f'),
        finished_at = CASE WHEN locked.finished THEN now() END,
        expires_at = CASE WHEN locked.finished THEN now() + make_interval(secs => $3::float8) END
    FROM locked
    WHERE s.namespace = $1 AND s.session_id = locked.session_id AND s.id = locked.id
), accepted AS (
    SELECT session_id, id, reader FROM opened
    UNION ALL
    SELECT session_id, id, reader FROM locked
), entered AS (
    INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message, request_of)
    SELECT $1, e.session_id, e.stream_id, e.seq, e.message, e.request_of
    FROM unnest($16::text[], $17::text[], $18::bigint[], $19::text[], $20::text[])
        AS e (session_id, stream_id, seq, message, request_of)
    JOIN accepted ON accepted.session_id = e.session_id AND accepted.id = e.stream_id
)
SELECT session_id, id, reader FROM accepted
"""

LANDED = """
SELECT 1 AS landed
FROM mcpsession.streams
WHERE namespace = $1 AND session_id = $2 AND id = $3 AND last_seq >= $4 AND producer = $5
"""

# Many replicas write to a standalone stream. Its row is locked and counted once, however much of a call is its.
APPEND_STANDALONE = """
WITH appended AS (
    SELECT a.session_id, a.message, a.request_of,
        row_number() OVER (PARTITION BY a.session_id ORDER BY a.place) AS place
    FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS a (session_id, message, request_of, place)
), counted AS (
    SELECT session_id, max(place) AS count FROM appended GROUP BY session_id
), locked AS (
    SELECT t.session_id, t.last_seq, t.holder, counted.count
    FROM mcpsession.streams t JOIN counted ON counted.session_id = t.session_id
    WHERE t.namespace = $1 AND t.id = 's' AND t.finished_at IS NULL
        AND EXISTS (
            SELECT FROM mcpsession.sessions s
            WHERE s.namespace = $1 AND s.id = t.session_id
                AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now())
    ORDER BY t.session_id
    FOR NO KEY UPDATE OF t
), grown AS (
    UPDATE mcpsession.streams t
    SET last_seq = locked.last_seq + locked.count
    FROM locked
    WHERE t.namespace = $1 AND t.session_id = locked.session_id AND t.id = 's'
), entered AS (
    INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message, request_of)
    SELECT $1, locked.session_id, 's', locked.last_seq + appended.place, appended.message, appended.request_of
    FROM locked JOIN appended ON appended.session_id = locked.session_id
)
SELECT session_id, holder FROM locked WHERE holder IS NOT NULL
"""

ATTACH = """
UPDATE mcpsession.streams
SET reader = $4
WHERE namespace = $1 AND session_id = $2 AND id = $3 AND (expires_at IS NULL OR expires_at > now())
RETURNING id
"""

# A page ends with the event that fills a MiB, so that a reader never holds more than that and one event.
READ = """
SELECT t.last_seq, t.trimmed_seq, t.finished_at IS NOT NULL AS finished, t.taken_over, t.producer, t.request_ids,
    t.kind = 'request' AND t.finished_at IS NULL AND t.producer IS NOT NULL AND NOT EXISTS (
        SELECT FROM mcpsession.replicas r
        WHERE r.namespace = $1 AND r.id = t.producer AND r.dead_at IS NULL) AS orphaned,
    e.seq,
    CASE WHEN e.request_of IS NOT NULL AND NOT EXISTS (
        SELECT FROM mcpsession.replicas r
        WHERE r.namespace = $1 AND r.id = e.request_of AND r.dead_at IS NULL) THEN '' ELSE e.message END AS message
FROM mcpsession.streams t
LEFT JOIN (
    SELECT p.seq, p.message, p.request_of, sum(octet_length(p.message)) OVER (ORDER BY p.seq)
        - octet_length(p.message) AS before
    FROM (
        SELECT v.seq, v.message, v.request_of
        FROM mcpsession.events v
        WHERE v.namespace = $1 AND v.session_id = $2 AND v.stream_id = $3 AND v.seq > $4
        ORDER BY v.seq
        LIMIT $5) AS p) AS e ON e.before < 1048576
WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = $3 AND (t.expires_at IS NULL OR t.expires_at > now())
ORDER BY e.seq
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
        self._journal = journal
        self._settings = settings
        self._namespace = settings.namespace

    async def write(self, batch: Batch, *, producer: ReplicaId) -> Sequence[Accepted]:
        opened, appended = batch.opened, batch.appended
        events = [
            *(row for stream in opened for row in _numbered(stream, 0)),
            *(row for stream in appended for row in _numbered(stream, stream.base)),
        ]
        rows = await self._journal.fetch(
            WRITE,
            self._namespace,
            producer,
            self._settings.stream_ttl,
            [stream.session_id for stream in opened],
            [stream.stream_id for stream in opened],
            [_UNIT.join(stream.request_ids) for stream in opened],
            [_answered(stream.events) for stream in opened],
            [len(stream.events) for stream in opened],
            [stream.finished for stream in opened],
            [stream.session_id for stream in appended],
            [stream.stream_id for stream in appended],
            [_answered(stream.events) for stream in appended],
            [stream.base for stream in appended],
            [len(stream.events) for stream in appended],
            [stream.finished for stream in appended],
            *([event[column] for event in events] for column in range(5)),
        )
        return [Accepted(row["session_id"], row["id"], row["reader"]) for row in rows]

    async def landed(self, session_id: SessionId, stream_id: StreamId, last_seq: int, *, producer: ReplicaId) -> bool:
        row = await self._database.fetchrow(LANDED, self._namespace, session_id, stream_id, last_seq, producer)
        return row is not None

    async def append_standalone(self, appends: Sequence[tuple[SessionId, NewEvent]]) -> Mapping[SessionId, ReplicaId]:
        rows = await self._journal.fetch(
            APPEND_STANDALONE,
            self._namespace,
            [session_id for session_id, _ in appends],
            [event.message for _, event in appends],
            [event.request_of for _, event in appends],
        )
        return {row["session_id"]: row["holder"] for row in rows}

    async def attach(self, session_id: SessionId, stream_id: StreamId, reader: ReplicaId) -> bool:
        return await self._database.fetchrow(ATTACH, self._namespace, session_id, stream_id, reader) is not None

    async def read(self, session_id: SessionId, stream_id: StreamId, after: int, limit: int) -> StreamState | None:
        rows = await self._database.fetch(READ, self._namespace, session_id, stream_id, after, limit)
        if not rows:
            return None
        first = rows[0]
        return StreamState(
            last_seq=first["last_seq"],
            trimmed_seq=first["trimmed_seq"],
            finished=first["finished"],
            taken_over=first["taken_over"],
            orphaned=first["orphaned"],
            producer=first["producer"],
            request_ids=tuple(first["request_ids"]),
            events=[Event(row["seq"], row["message"]) for row in rows if row["seq"] is not None],
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


def _numbered(
    stream: OpenedStream | AppendedStream, base: int
) -> Iterator[tuple[SessionId, StreamId, int, str, ReplicaId | None]]:
    for place, event in enumerate(stream.events, 1):
        yield stream.session_id, stream.stream_id, base + place, event.message, event.request_of


def _answered(events: Sequence[NewEvent]) -> str:
    return _UNIT.join(event.answers for event in events if event.answers is not None)


def _open(row: Record) -> tuple[SessionId, StreamId, int, tuple[str, ...]]:
    unanswered = tuple(request_id for request_id in row["request_ids"] if request_id not in row["answered_ids"])
    return row["session_id"], row["id"], row["last_seq"], unanswered
