"""Removes what expired, in Postgres: keys first, then their rows, if they are expired still.

Costs, for each kind, one SELECT over the expiry index and, if it found something, one short transaction. Rows are
locked in order of their keys, so that any number of replicas may reap at once; a row two of them want goes to one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from mcpsession.model import Reaped, ReplicaId, Session, SessionId
from mcpsession.postgres.pool import Database
from mcpsession.settings import Settings

# A claim of a replica that died is none.
EXPIRED_SESSIONS = """
SELECT s.id
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND s.expires_at < now() AND ($3::bool IS FALSE OR s.status <> 'live')
    AND NOT EXISTS (
        SELECT FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.id = s.claimed_by AND r.dead_at IS NULL)
ORDER BY s.expires_at
LIMIT $2
"""

# Each goes to one: whoever comes second passes over the rows that the first has locked.
CLAIM = """
WITH expired AS (
    SELECT s.id
    FROM mcpsession.sessions s
    WHERE s.namespace = $1 AND s.status = 'live' AND s.expires_at < now()
        AND (s.claimed_by = $2 OR NOT EXISTS (
            SELECT FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.id = s.claimed_by AND r.dead_at IS NULL))
    ORDER BY s.expires_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE mcpsession.sessions s
SET claimed_by = $2, claimed_at = now()
FROM expired
WHERE s.namespace = $1 AND s.id = expired.id
RETURNING s.id, s.owner, s.incarnation, s.protocol_version, s.client_params, s.initialized, s.log_level, s.metadata,
    s.ttl, s.created_at, s.last_active_at
"""

# Locks first, deletes in the next statement of the transaction: its snapshot then sees every event of those streams,
# also what a journal wrote while we waited for its lock. In one statement such an event would stay for ever.
LOCK_SESSIONS = """
SELECT s.id
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND s.id = ANY($2::text[]) AND s.expires_at < now()
    AND (s.claimed_by IS NOT DISTINCT FROM $3::text OR NOT EXISTS (
        SELECT FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.id = s.claimed_by AND r.dead_at IS NULL))
ORDER BY s.id
FOR UPDATE OF s
"""

LOCK_STREAMS_OF_SESSIONS = """
SELECT id
FROM mcpsession.streams
WHERE namespace = $1 AND session_id = ANY($2::text[])
ORDER BY session_id, id
FOR UPDATE
"""

DELETE_SESSIONS = """
WITH events_gone AS (
    DELETE FROM mcpsession.events WHERE namespace = $1 AND session_id = ANY($2::text[])
), streams_gone AS (
    DELETE FROM mcpsession.streams WHERE namespace = $1 AND session_id = ANY($2::text[])
), subscriptions_gone AS (
    DELETE FROM mcpsession.subscriptions WHERE namespace = $1 AND session_id = ANY($2::text[])
)
DELETE FROM mcpsession.sessions
WHERE namespace = $1 AND id = ANY($2::text[])
"""

EXPIRED_STREAMS = """
SELECT session_id, id
FROM mcpsession.streams
WHERE namespace = $1 AND expires_at < now()
ORDER BY expires_at
LIMIT $2
"""

# A stream that expires is finished: nothing is added to it any more.
DELETE_STREAMS = """
WITH locked AS (
    SELECT t.session_id, t.id
    FROM mcpsession.streams t
    JOIN unnest($2::text[], $3::text[]) AS k (session_id, id) ON k.session_id = t.session_id AND k.id = t.id
    WHERE t.namespace = $1 AND t.expires_at < now()
    ORDER BY t.session_id, t.id
    FOR UPDATE OF t
), events_gone AS (
    DELETE FROM mcpsession.events e USING locked
    WHERE e.namespace = $1 AND e.session_id = locked.session_id AND e.stream_id = locked.id
)
DELETE FROM mcpsession.streams t USING locked
WHERE t.namespace = $1 AND t.session_id = locked.session_id AND t.id = locked.id
RETURNING t.id
"""

EXPIRED_MAIL = """
SELECT id
FROM mcpsession.mail
WHERE namespace = $1 AND expires_at < now()
ORDER BY expires_at
LIMIT $2
"""

DELETE_MAIL = """
WITH locked AS (
    SELECT id FROM mcpsession.mail WHERE id = ANY($1::bigint[]) AND expires_at < now() ORDER BY id FOR UPDATE
)
DELETE FROM mcpsession.mail m USING locked
WHERE m.id = locked.id
RETURNING m.id
"""

# The death stays on record for an hour, for whoever still asks; then a replica that is missing counts as dead as well.
DELETE_REPLICAS = """
WITH locked AS (
    SELECT id
    FROM mcpsession.replicas
    WHERE namespace = $1 AND dead_at < now() - interval '1 hour'
    ORDER BY id
    LIMIT $2
    FOR UPDATE
)
DELETE FROM mcpsession.replicas r USING locked
WHERE r.namespace = $1 AND r.id = locked.id
RETURNING r.id
"""


class PostgresReaping:
    """Reaping over the pool, one kind after the other."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._namespace = settings.namespace

    async def reap(self, limit: int, *, handled: bool = False) -> Reaped:
        return Reaped(
            sessions=await self._reap_sessions(limit, handled),
            streams=await self._reap_streams(limit),
            mail=await self._reap_mail(limit),
            replicas=len(await self._database.fetch(DELETE_REPLICAS, self._namespace, limit)),
        )

    async def claim(self, limit: int, *, by: ReplicaId) -> Sequence[Session]:
        return [
            Session(metadata=json.loads(values.pop("metadata")), status="expired", **values)
            for values in map(dict, await self._database.fetch(CLAIM, self._namespace, by, limit))
        ]

    async def remove(self, session_ids: Sequence[SessionId], *, by: ReplicaId) -> int:
        return await self._delete_sessions(session_ids, by)

    async def _reap_sessions(self, limit: int, handled: bool) -> int:
        rows = await self._database.fetch(EXPIRED_SESSIONS, self._namespace, limit, handled)
        return await self._delete_sessions([row["id"] for row in rows], None) if rows else 0

    async def _delete_sessions(self, session_ids: Sequence[SessionId], claimant: ReplicaId | None) -> int:
        async with self._database.transaction() as connection:
            rows = await connection.fetch(LOCK_SESSIONS, self._namespace, list(session_ids), claimant)
            ours = [row["id"] for row in rows]
            await connection.execute(LOCK_STREAMS_OF_SESSIONS, self._namespace, ours)
            await connection.execute(DELETE_SESSIONS, self._namespace, ours)
        return len(ours)

    async def _reap_streams(self, limit: int) -> int:
        keys = await self._database.fetch(EXPIRED_STREAMS, self._namespace, limit)
        if not keys:
            return 0
        sessions, streams = [key["session_id"] for key in keys], [key["id"] for key in keys]
        return len(await self._database.fetch(DELETE_STREAMS, self._namespace, sessions, streams))

    async def _reap_mail(self, limit: int) -> int:
        keys = [row["id"] for row in await self._database.fetch(EXPIRED_MAIL, self._namespace, limit)]
        return len(await self._database.fetch(DELETE_MAIL, keys)) if keys else 0
