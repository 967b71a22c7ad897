"""How dead sessions go from Postgres, with all that belongs to them.

Locks first, deletes in the next statement of the transaction: its snapshot then sees every event of those streams, also
what a journal wrote while we waited for its lock. In one statement such an event would stay for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcpsession.model import ReplicaId, SessionId
from mcpsession.postgres.pool import Database
from mcpsession.settings import Settings

# A touch that came first keeps its own.
LOCK_SESSIONS = """
SELECT s.id, s.incarnation
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND s.id = ANY($2::text[])
    AND (s.expires_at <= now() OR s.status = 'removed' OR s.claimed_by = $3::text)
    AND (s.claimed_by IS NOT DISTINCT FROM $3::text OR NOT EXISTS (
        SELECT FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.id = s.claimed_by AND r.dead_at IS NULL))
ORDER BY s.id
FOR UPDATE OF s
"""

LOCK_STREAMS = """
SELECT id
FROM mcpsession.streams
WHERE namespace = $1 AND session_id = ANY($2::text[])
ORDER BY session_id, id
FOR UPDATE
"""

# What is left of a terminated session is its id, for a while: a tombstone.
REMOVE = """
WITH events_gone AS (
    DELETE FROM mcpsession.events WHERE namespace = $1 AND session_id = ANY($2::text[])
), streams_gone AS (
    DELETE FROM mcpsession.streams WHERE namespace = $1 AND session_id = ANY($2::text[])
), subscriptions_gone AS (
    DELETE FROM mcpsession.subscriptions WHERE namespace = $1 AND session_id = ANY($2::text[])
), kept AS (
    UPDATE mcpsession.sessions
    SET state = '{}', metadata = '{}', client_params = NULL, claimed_by = NULL, claimed_at = NULL,
        expires_at = ended_at + make_interval(secs => $3::float8)
    WHERE namespace = $1 AND id = ANY($2::text[])
        AND status = 'terminated' AND ended_at + make_interval(secs => $3::float8) > now()
)
DELETE FROM mcpsession.sessions
WHERE namespace = $1 AND id = ANY($2::text[])
    AND (status <> 'terminated' OR ended_at + make_interval(secs => $3::float8) <= now())
"""


async def remove(
    database: Database, settings: Settings, keys: Sequence[tuple[SessionId, int]], *, by: ReplicaId | None
) -> int:
    """Remove dead sessions that nobody has claimed who lives, but for `by`; returns how many it took."""
    namespace = settings.namespace
    async with database.transaction() as connection:
        rows = await connection.fetch(LOCK_SESSIONS, namespace, [id_ for id_, _ in keys], by)
        # What was begun anew under the same id is another session.
        meant = set(keys)
        ours = [row["id"] for row in rows if (row["id"], row["incarnation"]) in meant]
        if ours:
            await connection.execute(LOCK_STREAMS, namespace, ours)
            await connection.execute(REMOVE, namespace, ours, settings.tombstone_ttl)
    return len(ours)
