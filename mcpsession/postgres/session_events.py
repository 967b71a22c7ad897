"""An application's own events in Postgres: a stream is a row, numbered and trimmed under its lock.

Costs a short transaction an append, however many events are in it, and one statement a read. Appends to one stream go
one after the other; those to different streams, of one session too, do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcpsession.event_records import Appended, Entry, EntryPage, EventStats, StoredEntry
from mcpsession.event_texts import stream_id_of
from mcpsession.model import ReplicaId, SessionId
from mcpsession.postgres.pool import Connection, Database
from mcpsession.settings import Settings
from mcpsession.texts import check_text, storable

# Locked in a statement of its own: what the next one sees has everything of whoever held the lock before.
LOCK = """
SELECT CASE WHEN s.ttl IS NOT NULL THEN extract(epoch FROM s.expires_at - now())::float8 END AS remaining
FROM mcpsession.streams t
JOIN mcpsession.sessions s ON s.namespace = t.namespace AND s.id = t.session_id
WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = $3 AND ($4::text IS NULL OR s.owner = $4)
    AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
FOR NO KEY UPDATE OF t
"""

# A stream begins: until that is committed, its session can neither end nor go.
LOCK_SESSION = """
SELECT CASE WHEN s.ttl IS NOT NULL THEN extract(epoch FROM s.expires_at - now())::float8 END AS remaining
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND s.id = $2 AND ($3::text IS NULL OR s.owner = $3)
    AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
FOR SHARE OF s
"""

BEGIN_STREAM = """
INSERT INTO mcpsession.streams (namespace, session_id, id, kind)
VALUES ($1, $2, $3, 'application')
ON CONFLICT DO NOTHING
"""

# The first of each id counts. What is too much is found from the oldest on, so that the one event that has to go costs
# a look at one; what would go at once is not entered. Deleted is only what lies past the old mark: dead rows at the
# beginning of the index must not be walked over again and again. (Subqueries and no joins where the planner, which does
# not know how much one stream holds, would walk through all of it.)
APPEND = """
WITH stream AS MATERIALIZED (
    SELECT t.last_seq, t.trimmed_seq, t.bytes, t.followers
    FROM mcpsession.streams t
    WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = $3
), given AS MATERIALIZED (
    SELECT g.place, g.event_id, g.type, g.data, g.occurred_at, octet_length(g.data)::bigint AS size,
        CASE WHEN g.event_id IS NULL THEN g.place ELSE min(g.place) OVER (PARTITION BY g.event_id) END AS first,
        (SELECT k.seq
        FROM mcpsession.events k
        WHERE k.namespace = $1 AND k.session_id = $2 AND k.stream_id = $3 AND k.event_id = g.event_id) AS known
    FROM unnest($4::text[], $5::text[], $6::text[], $7::timestamptz[])
        WITH ORDINALITY AS g (event_id, type, data, occurred_at, place)
), fresh AS MATERIALIZED (
    SELECT g.place, g.event_id, g.type, g.data, g.occurred_at, g.size,
        stream.last_seq + row_number() OVER (ORDER BY g.place) AS seq,
        sum(g.size) OVER (ORDER BY g.place) AS bytes_up_to_it
    FROM given g CROSS JOIN stream
    WHERE g.known IS NULL AND g.first = g.place
), grown AS MATERIALIZED (
    SELECT stream.last_seq + f.count AS last_seq, stream.trimmed_seq, f.count AS added, stream.bytes AS bytes_before,
        stream.bytes + f.bytes AS bytes, stream.bytes + f.bytes - $9::bigint AS too_many
    FROM stream, (SELECT count(*) AS count, coalesce(sum(size), 0)::bigint AS bytes FROM fresh) AS f
), cut AS MATERIALIZED (
    SELECT g.trimmed_seq AS old, greatest(g.trimmed_seq, least(g.last_seq - 1, greatest(
        g.last_seq - $8::bigint,
        CASE WHEN g.too_many > 0 THEN coalesce(
            (SELECT o.seq
            FROM (
                SELECT e.seq, sum(octet_length(e.message)) OVER (ORDER BY e.seq) AS bytes_up_to_it
                FROM mcpsession.events e
                WHERE e.namespace = $1 AND e.session_id = $2 AND e.stream_id = $3 AND e.seq > g.trimmed_seq) AS o
            WHERE o.bytes_up_to_it >= g.too_many
            ORDER BY o.seq
            LIMIT 1),
            (SELECT min(f.seq) FROM fresh f WHERE g.bytes_before + f.bytes_up_to_it >= g.too_many)) END))) AS new
    FROM grown g
), gone AS (
    DELETE FROM mcpsession.events e
    WHERE e.namespace = $1 AND e.session_id = $2 AND e.stream_id = $3
        AND e.seq > (SELECT old FROM cut) AND e.seq <= (SELECT new FROM cut)
    RETURNING octet_length(e.message) AS size
), entered AS (
    INSERT INTO mcpsession.events
        (namespace, session_id, stream_id, seq, message, created_at, event_id, type, occurred_at)
    SELECT $1, $2, $3, f.seq, f.data, statement_timestamp(), f.event_id, f.type, f.occurred_at
    FROM fresh f JOIN cut ON f.seq > cut.new
), counted AS (
    UPDATE mcpsession.streams t
    SET last_seq = grown.last_seq, trimmed_seq = cut.new,
        bytes = grown.bytes - (SELECT coalesce(sum(size), 0) FROM gone)
            - (SELECT coalesce(sum(f.size), 0) FROM fresh f WHERE f.seq <= cut.new)
    FROM grown, cut
    WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = $3 AND (grown.added > 0 OR cut.new > cut.old)
)
SELECT coalesce(g.known, f.seq) AS seq, grown.added, statement_timestamp() AS stored_at, ARRAY(
    SELECT r.id
    FROM mcpsession.replicas r
    WHERE r.namespace = $1 AND r.id = ANY((SELECT followers FROM stream)::text[]) AND r.dead_at IS NULL
    ORDER BY r.id) AS followers
FROM given g CROSS JOIN grown LEFT JOIN fresh f ON f.place = g.first
ORDER BY g.place
"""

# A page ends with the event that fills a MiB, so that a reader never holds more than that and one event; which one that
# is is looked for only where there are so many bytes.
READ = """
WITH place AS MATERIALIZED (
    SELECT coalesce($5::bigint, (
        SELECT k.seq
        FROM mcpsession.events k
        WHERE k.namespace = $1 AND k.session_id = $2 AND k.stream_id = $3 AND k.event_id = $6)) AS seq
)
SELECT coalesce(t.last_seq, 0) AS last_seq, coalesce(t.trimmed_seq, 0) AS trimmed_seq, place.seq AS place,
    s.incarnation,
    e.seq, e.message, e.type, e.event_id, e.happened_at
FROM mcpsession.sessions s
CROSS JOIN place
LEFT JOIN mcpsession.streams t ON t.namespace = $1 AND t.session_id = $2 AND t.id = $3
LEFT JOIN (
    SELECT v.seq, v.message, v.type, v.event_id, coalesce(v.occurred_at, v.created_at) AS happened_at
    FROM mcpsession.events v
    WHERE v.namespace = $1 AND v.session_id = $2 AND v.stream_id = $3
        AND v.seq > coalesce((SELECT seq FROM place), 0) AND v.seq <= coalesce((
            SELECT CASE WHEN sum(octet_length(p.message)) > 1048576 THEN (
                SELECT min(f.seq)
                FROM (
                    SELECT o.seq, sum(octet_length(o.message)) OVER (ORDER BY o.seq) AS bytes_up_to_it
                    FROM mcpsession.events o
                    WHERE o.namespace = $1 AND o.session_id = $2 AND o.stream_id = $3
                        AND o.seq > coalesce((SELECT seq FROM place), 0)
                    ORDER BY o.seq
                    LIMIT $7) AS f
                WHERE f.bytes_up_to_it >= 1048576) END
            FROM (
                SELECT o.message
                FROM mcpsession.events o
                WHERE o.namespace = $1 AND o.session_id = $2 AND o.stream_id = $3
                    AND o.seq > coalesce((SELECT seq FROM place), 0)
                ORDER BY o.seq
                LIMIT $7) AS p), 9223372036854775807)
    ORDER BY v.seq
    LIMIT $7) AS e ON true
WHERE s.namespace = $1 AND s.id = $2 AND ($4::text IS NULL OR s.owner = $4)
    AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
ORDER BY e.seq
"""

# Where an event's own columns begin, in the order of StoredEntry.
_ENTRY = 4

# After the lock, for the sake of a replica that has joined, and follows, since we began to wait for it.
FOLLOW = """
UPDATE mcpsession.streams t
SET followers = ARRAY(
    SELECT r.id
    FROM mcpsession.replicas r
    WHERE r.namespace = $1 AND r.id = ANY(t.followers) AND r.dead_at IS NULL
    ORDER BY r.id) || $4::text
WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = $3 AND $4::text <> ALL(t.followers)
"""

UNFOLLOW = """
UPDATE mcpsession.streams
SET followers = array_remove(followers, $4::text)
WHERE namespace = $1 AND session_id = $2 AND id = $3 AND $4::text = ANY(followers)
"""

STATS = """
WITH held AS (
    SELECT t.session_id, t.id, t.trimmed_seq
    FROM mcpsession.streams t
    JOIN mcpsession.sessions s ON s.namespace = t.namespace AND s.id = t.session_id
    WHERE t.namespace = $1 AND ($2::text IS NULL OR t.session_id = $2) AND ($3::text IS NULL OR s.owner = $3)
        AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
        AND t.kind <> 'tracked' AND (t.expires_at IS NULL OR t.expires_at > now())
)
SELECT (SELECT count(*) FROM held) AS streams, count(*) AS events,
    coalesce(sum(octet_length(e.message)), 0)::bigint AS bytes
FROM held
JOIN mcpsession.events e ON e.namespace = $1 AND e.session_id = held.session_id AND e.stream_id = held.id
    AND e.seq > held.trimmed_seq
"""


class PostgresSessionEvents:
    """SessionEvents over the tables of streams and events."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._namespace = settings.namespace

    async def append(
        self, session_id: SessionId, stream: str, entries: Sequence[Entry], *, owner: str | None = None
    ) -> Appended | None:
        check_text(stream, *(text for entry in entries for text in (entry.data, entry.type, entry.id or "")))
        if not (storable(session_id) and storable(owner or "")):
            return None
        key = (self._namespace, session_id, stream_id_of(stream))
        async with self._database.transaction() as connection:
            live, remaining = await self._lock(connection, *key, owner)
            if not live:
                return None
            rows = await connection.fetch(
                APPEND,
                *key,
                [entry.id for entry in entries],
                [entry.type for entry in entries],
                [entry.data for entry in entries],
                [entry.timestamp for entry in entries],
                self._settings.max_events,
                self._settings.max_replay_bytes,
            )
        if not rows:
            return Appended([], 0, [], remaining)
        return Appended(
            [row["seq"] for row in rows], rows[0]["added"], rows[0]["followers"], remaining, rows[0]["stored_at"]
        )

    async def read(
        self, session_id: SessionId, stream: str, after: int | str, limit: int, *, owner: str | None = None
    ) -> EntryPage | None:
        if not (storable(session_id) and storable(owner or "")):
            return None
        if not storable(stream):
            stream = _NOWHERE
        number, event_id = (after, None) if isinstance(after, int) else (None, after if storable(after) else None)
        rows = await self._database.fetch(
            READ, self._namespace, session_id, stream_id_of(stream), owner, number, event_id, limit
        )
        if not rows:
            return None
        first = rows[0]
        return EntryPage(
            # By position: a page has up to ten thousand.
            entries=[StoredEntry._make(row[_ENTRY:]) for row in rows if row[_ENTRY] is not None],
            last_seq=first["last_seq"],
            trimmed_seq=first["trimmed_seq"],
            known=first["place"] is not None and first["place"] <= first["last_seq"],
            incarnation=first["incarnation"],
        )

    async def follow(self, session_id: SessionId, stream: str, follower: ReplicaId) -> bool:
        check_text(stream)
        if not storable(session_id):
            return False
        key = (self._namespace, session_id, stream_id_of(stream))
        async with self._database.transaction() as connection:
            live, _ = await self._lock(connection, *key, None)
            if live:
                await connection.execute(FOLLOW, *key, follower)
        return live

    async def unfollow(self, session_id: SessionId, stream: str, follower: ReplicaId) -> None:
        await self._database.look_up(UNFOLLOW, self._namespace, session_id, stream_id_of(stream), follower)

    async def stats(self, session_id: SessionId | None = None, *, owner: str | None = None) -> EventStats:
        row = await self._database.look_up_one(STATS, self._namespace, session_id, owner)
        return EventStats() if row is None else EventStats(row["streams"], row["events"], row["bytes"])

    async def _lock(
        self, connection: Connection, namespace: str, session_id: SessionId, stream_id: str, owner: str | None
    ) -> tuple[bool, float | None]:
        """Lock a live session's stream, which begins if it has not; whether there is one, and how long it has left."""
        row = await connection.fetchrow(LOCK, namespace, session_id, stream_id, owner)
        if row is None and await connection.fetchrow(LOCK_SESSION, namespace, session_id, owner) is not None:
            await connection.execute(BEGIN_STREAM, namespace, session_id, stream_id)
            row = await connection.fetchrow(LOCK, namespace, session_id, stream_id, owner)
        return (False, None) if row is None else (True, row["remaining"])


# No application's stream has this id.
_NOWHERE = ""
