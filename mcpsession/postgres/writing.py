"""How a journal's batch gets into Postgres: streams and events of all sessions in one statement over arrays.

What is too much for a stream goes with the write that made it so. A call's stream has one writer, which counts for it;
a standalone one has many, and is looked after as soon as it has grown.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from mcpsession.errors import MCPSessionError
from mcpsession.model import Accepted, AppendedStream, Batch, NewEvent, OpenedStream, ReplicaId, SessionId, StreamId
from mcpsession.postgres.link import Link
from mcpsession.settings import Settings

logger = logging.getLogger(__name__)

# Separates request ids, which are JSON texts and hence never hold it: one text a stream keeps the arrays rectangular.
_UNIT = "\x1f"

# Opened: a conflict with the key is a repeat, one with streams_live_request a duplicate of a live request; either way
# the stream is not returned. They are inserted in order of what they can collide on, so that two replicas' batches
# wait for each other in one direction only.
# Appended: a row that was taken over, finished or has moved on does not pass the locked check, which Postgres repeats
# on the newest version of the row after it has waited for the lock.
# Every row is found by its whole key, by the way in which that is written: LATERAL is done for one after the other, and
# a conflict is looked for in the key's index. Of a join the planner may think, while it has no statistics or those of
# an empty table, that walking over all of the namespace's streams costs as little, and keep that plan while they grow
# (seen: 4 ms a call). So the check of finished_at is none that an index could serve; and whoever conflicts is there and
# locked by us, hence none of these is ever inserted: `excluded` is only how the values get to the row.
WRITE = """
WITH opened AS (
    INSERT INTO mcpsession.streams
        (namespace, session_id, id, producer, request_ids, method, answered_ids, last_seq, trimmed_seq, finished_at,
         expires_at)
    SELECT $1, o.session_id, o.id, $2, string_to_array(o.requests, E'\\x1f'), o.method,
        string_to_array(o.answered, E'\\x1f'), o.count, o.trimmed, CASE WHEN o.finished THEN now() END,
        CASE WHEN o.finished THEN now() + make_interval(secs => $3::float8) END
    FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bool[], $11::bigint[])
        AS o (session_id, id, requests, method, answered, count, finished, trimmed)
    ORDER BY o.session_id, o.requests, o.id
    ON CONFLICT DO NOTHING
    RETURNING session_id, id, reader
), given AS (
    SELECT a.session_id, a.id, a.answered, a.base, a.count, a.finished, a.trimmed
    FROM unnest($12::text[], $13::text[], $14::text[], $15::bigint[], $16::bigint[], $17::bool[], $18::bigint[])
        AS a (session_id, id, answered, base, count, finished, trimmed)
    ORDER BY a.session_id, a.id
), locked AS (
    SELECT given.session_id, given.id, s.reader, s.trimmed_seq, given.answered, given.count, given.finished,
        given.trimmed
    FROM given CROSS JOIN LATERAL (
        SELECT t.reader, t.trimmed_seq
        FROM mcpsession.streams t
        WHERE t.namespace = $1 AND t.session_id = given.session_id AND t.id = given.id AND t.producer = $2
            AND coalesce(t.finished_at, 'infinity') = 'infinity' AND t.last_seq = given.base
        FOR NO KEY UPDATE OF t) AS s
), appended AS (
    INSERT INTO mcpsession.streams AS s
        (namespace, session_id, id, answered_ids, last_seq, trimmed_seq, finished_at, expires_at)
    SELECT $1, locked.session_id, locked.id, string_to_array(locked.answered, E'\\x1f'), locked.count, locked.trimmed,
        CASE WHEN locked.finished THEN now() END,
        CASE WHEN locked.finished THEN now() + make_interval(secs => $3::float8) END
    FROM locked
    ON CONFLICT (namespace, session_id, id) DO UPDATE
    SET last_seq = s.last_seq + excluded.last_seq, trimmed_seq = greatest(s.trimmed_seq, excluded.trimmed_seq),
        answered_ids = s.answered_ids || excluded.answered_ids, finished_at = excluded.finished_at,
        expires_at = excluded.expires_at
), accepted AS (
    SELECT session_id, id, reader FROM opened
    UNION ALL
    SELECT session_id, id, reader FROM locked
), entered AS (
    INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message, request_of)
    SELECT $1, e.session_id, e.stream_id, e.seq, e.message, e.request_of
    FROM unnest($19::text[], $20::text[], $21::bigint[], $22::text[], $23::text[])
        AS e (session_id, stream_id, seq, message, request_of)
    JOIN accepted ON accepted.session_id = e.session_id AND accepted.id = e.stream_id
)
SELECT session_id, id, reader FROM accepted
"""

# The same for a batch in which something is trimmed; nearly none is. What is not entered at all need not go.
WRITE_AND_TRIM = WRITE.replace(
    ")\nSELECT session_id, id, reader FROM accepted",
    """), gone AS (
    DELETE FROM mcpsession.events e
    USING locked
    WHERE e.namespace = $1 AND e.session_id = locked.session_id AND e.stream_id = locked.id
        AND e.seq > locked.trimmed_seq AND e.seq <= locked.trimmed
)
SELECT session_id, id, reader FROM accepted""",
)

# What the application tracked under these request ids, if it is over.
MAKE_WAY = """
DELETE FROM mcpsession.streams t
USING unnest($2::text[], $3::text[]) AS o (session_id, requests)
WHERE t.namespace = $1 AND t.session_id = o.session_id AND t.request_ids = string_to_array(o.requests, E'\\x1f')
    AND t.finished_at IS NULL AND t.kind = 'tracked'
    AND (t.expires_at <= now() OR NOT EXISTS (
        SELECT FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.id = t.producer AND r.dead_at IS NULL))
RETURNING t.id
"""

# Many replicas write to a standalone stream. Its row is locked and counted once, however much of a call is its; and it
# is found and changed by its key, as above.
APPEND_STANDALONE = """
WITH appended AS (
    SELECT a.session_id, a.message, a.request_of,
        row_number() OVER (PARTITION BY a.session_id ORDER BY a.place) AS place
    FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS a (session_id, message, request_of, place)
), counted AS (
    SELECT session_id, max(place) AS count, sum(octet_length(message)) AS bytes
    FROM appended
    GROUP BY session_id
    ORDER BY session_id
), locked AS (
    SELECT counted.session_id, stream.last_seq, stream.trimmed_seq, stream.holder,
        stream.bytes + counted.bytes AS bytes, counted.count
    FROM counted CROSS JOIN LATERAL (
        SELECT t.last_seq, t.trimmed_seq, t.holder, t.bytes
        FROM mcpsession.streams t
        WHERE t.namespace = $1 AND t.session_id = counted.session_id AND t.id = 's'
            AND coalesce(t.finished_at, 'infinity') = 'infinity'
            AND EXISTS (
                SELECT FROM mcpsession.sessions s
                WHERE s.namespace = $1 AND s.id = t.session_id
                    AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now())
        FOR NO KEY UPDATE OF t) AS stream
), grown AS (
    INSERT INTO mcpsession.streams (namespace, session_id, id, kind, last_seq, bytes)
    SELECT $1, locked.session_id, 's', 'standalone', locked.last_seq + locked.count, locked.bytes
    FROM locked
    ON CONFLICT (namespace, session_id, id) DO UPDATE SET last_seq = excluded.last_seq, bytes = excluded.bytes
), entered AS (
    INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message, request_of)
    SELECT $1, locked.session_id, 's', locked.last_seq + appended.place, appended.message, appended.request_of
    FROM locked JOIN appended ON appended.session_id = locked.session_id
)
SELECT session_id, holder,
    last_seq + count - trimmed_seq > $5::bigint OR bytes > $6::bigint AND last_seq + count - trimmed_seq > 1 AS full
FROM locked
"""

# Judged by what this statement sees, not by the row that it may have to wait for: then it sees every event that has to
# go, and whoever comes later looks after the rest. Two at once may want the same events; each is counted by the one
# that deletes it. Deleted is only what lies past the old mark, since dead rows at the beginning of the index must not
# be walked over again and again.
TRIM_STANDALONE = """
WITH seen AS MATERIALIZED (
    SELECT t.session_id, t.last_seq, t.trimmed_seq, t.bytes - $4::bigint AS too_many
    FROM mcpsession.streams t
    WHERE t.namespace = $1 AND t.session_id = ANY($2::text[]) AND t.id = 's'
), cut AS MATERIALIZED (
    SELECT s.session_id, s.trimmed_seq AS old, greatest(s.trimmed_seq, least(s.last_seq - 1, greatest(
        s.last_seq - $3::bigint,
        CASE WHEN s.too_many > 0 THEN (
            SELECT o.seq
            FROM (
                SELECT e.seq, sum(octet_length(e.message)) OVER (ORDER BY e.seq) AS bytes_up_to_it
                FROM mcpsession.events e
                WHERE e.namespace = $1 AND e.session_id = s.session_id AND e.stream_id = 's'
                    AND e.seq > s.trimmed_seq) AS o
            WHERE o.bytes_up_to_it >= s.too_many
            ORDER BY o.seq
            LIMIT 1) END))) AS new
    FROM seen s
), locked AS (
    SELECT t.session_id, cut.old, cut.new
    FROM mcpsession.streams t JOIN cut ON cut.session_id = t.session_id
    WHERE t.namespace = $1 AND t.session_id = ANY($2::text[]) AND t.id = 's'
    ORDER BY t.session_id
    FOR NO KEY UPDATE OF t
), gone AS (
    DELETE FROM mcpsession.events e
    USING locked
    WHERE e.namespace = $1 AND e.session_id = locked.session_id AND e.stream_id = 's'
        AND e.seq > locked.old AND e.seq <= locked.new
    RETURNING e.session_id, octet_length(e.message) AS size
)
UPDATE mcpsession.streams t
SET trimmed_seq = greatest(t.trimmed_seq, locked.new),
    bytes = greatest(0, t.bytes - (SELECT coalesce(sum(g.size), 0) FROM gone g WHERE g.session_id = t.session_id))
FROM locked
WHERE t.namespace = $1 AND t.session_id = locked.session_id AND t.id = 's'
"""


class Writing:
    """Writes on the journal's own link."""

    def __init__(self, journal: Link, settings: Settings) -> None:
        self._journal = journal
        self._settings = settings
        self._namespace = settings.namespace

    async def write(self, batch: Batch, *, producer: ReplicaId) -> Sequence[Accepted]:
        """See EventLog.write."""
        accepted = await self._write(batch, producer)
        if batch.opened:
            reached = {(stream.session_id, stream.stream_id) for stream in accepted}
            refused = [stream for stream in batch.opened if (stream.session_id, stream.stream_id) not in reached]
            if refused and await self._make_way(refused):
                accepted += await self._write(Batch(opened=refused), producer)
        return accepted

    async def _write(self, batch: Batch, producer: ReplicaId) -> list[Accepted]:
        opened, appended = batch.opened, batch.appended
        rows = await self._journal.fetch(
            WRITE_AND_TRIM if any(stream.trimmed for stream in appended) else WRITE,
            self._namespace,
            producer,
            self._settings.stream_ttl,
            [stream.session_id for stream in opened],
            [stream.stream_id for stream in opened],
            [_UNIT.join(stream.request_ids) for stream in opened],
            [stream.method for stream in opened],
            [_answered(stream.events) for stream in opened],
            [len(stream.events) for stream in opened],
            [stream.finished for stream in opened],
            [stream.trimmed for stream in opened],
            [stream.session_id for stream in appended],
            [stream.stream_id for stream in appended],
            [_answered(stream.events) for stream in appended],
            [stream.base for stream in appended],
            [len(stream.events) for stream in appended],
            [stream.finished for stream in appended],
            [stream.trimmed for stream in appended],
            *_columns(opened, appended),
        )
        return [Accepted._make(row) for row in rows]

    async def _make_way(self, refused: Sequence[OpenedStream]) -> bool:
        """Whether something was in the way that is over and was not swept yet."""
        gone = await self._journal.fetch(
            MAKE_WAY,
            self._namespace,
            [stream.session_id for stream in refused],
            [_UNIT.join(stream.request_ids) for stream in refused],
        )
        return bool(gone)

    async def append_standalone(self, appends: Sequence[tuple[SessionId, NewEvent]]) -> Mapping[SessionId, ReplicaId]:
        """See EventLog.append_standalone."""
        rows = await self._journal.fetch(
            APPEND_STANDALONE,
            self._namespace,
            [session_id for session_id, _ in appends],
            [event.message for _, event in appends],
            [event.request_of for _, event in appends],
            self._settings.max_events,
            self._settings.max_replay_bytes,
        )
        if full := [row["session_id"] for row in rows if row["full"]]:
            await self._trim_standalone(full)
        return {row["session_id"]: row["holder"] for row in rows if row["holder"] is not None}

    async def _trim_standalone(self, session_ids: Sequence[SessionId]) -> None:
        settings = self._settings
        try:
            await self._journal.execute(
                TRIM_STANDALONE, self._namespace, session_ids, settings.max_events, settings.max_replay_bytes
            )
        except MCPSessionError as error:
            # What was appended is there, and must not be appended again for this.
            logger.warning("%d standalone streams are trimmed when they grow again: %s", len(session_ids), error)


def _columns(opened: Sequence[OpenedStream], appended: Sequence[AppendedStream]) -> tuple[Sequence[object], ...]:
    """All events that are to be kept, as columns."""
    sessions: list[SessionId] = []
    streams: list[StreamId] = []
    numbers: list[int] = []
    messages: list[str] = []
    requests_of: list[ReplicaId | None] = []
    streams_and_bases: list[tuple[OpenedStream | AppendedStream, int]] = [(stream, 0) for stream in opened]
    streams_and_bases += ((stream, stream.base) for stream in appended)
    for stream, base in streams_and_bases:
        for seq, (message, request_of, _) in enumerate(stream.events, base + 1):
            if seq > stream.trimmed:
                sessions.append(stream.session_id)
                streams.append(stream.stream_id)
                numbers.append(seq)
                messages.append(message)
                requests_of.append(request_of)
    return sessions, streams, numbers, messages, requests_of


def _answered(events: Sequence[NewEvent]) -> str:
    return _UNIT.join([event.answers for event in events if event.answers is not None])
