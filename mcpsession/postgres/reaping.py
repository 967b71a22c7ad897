"""Removes what expired, in Postgres: keys first, then their rows, if they are expired still.

Costs, for each kind, one SELECT over the expiry index and, if it found something, one short transaction. Rows are
locked in order of their keys, so that any number of replicas may reap at once; a row two of them want goes to one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mcpsession.model import Reaped, ReplicaId, SessionId
from mcpsession.postgres.pool import Database
from mcpsession.postgres.records import COLUMNS, session_of
from mcpsession.postgres.removal import remove
from mcpsession.records import Session
from mcpsession.settings import Settings

# A claim of a replica that died is none. $3: those that handlers are owed for are left to who has handlers.
EXPIRED_SESSIONS = """
SELECT s.id, s.incarnation
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND s.expires_at < now()
    AND CASE WHEN $3::bool THEN s.status <> 'live' AND s.claimed_by IS NULL
        ELSE s.claimed_by IS NULL OR NOT EXISTS (
            SELECT FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.id = s.claimed_by AND r.dead_at IS NULL) END
ORDER BY s.expires_at
LIMIT $2
"""

# Each goes to one: whoever comes second passes over the rows that the first has locked.
CLAIM = f"""
WITH expired AS (
    SELECT s.id
    FROM mcpsession.sessions s
    WHERE s.namespace = $1 AND s.status = 'live' AND s.expires_at < now() AND s.claimed_by IS NULL
        AND s.id <> ALL($4::text[]) AND ($5::text[] IS NULL OR s.id = ANY($5))
    ORDER BY s.expires_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE mcpsession.sessions s
SET claimed_by = $2, claimed_at = now()
FROM expired
WHERE s.namespace = $1 AND s.id = expired.id
RETURNING {COLUMNS}
"""

# What a dead replica had claimed, or this one and lost sight of, is owed still.
CLAIM_OWED = f"""
WITH owed AS (
    SELECT s.id
    FROM mcpsession.sessions s
    WHERE s.namespace = $1 AND s.claimed_by IS NOT NULL
        AND s.id <> ALL($4::text[]) AND ($5::text[] IS NULL OR s.id = ANY($5))
        AND (s.claimed_by = $2 OR NOT EXISTS (
            SELECT FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.id = s.claimed_by AND r.dead_at IS NULL))
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE mcpsession.sessions s
SET claimed_by = $2, claimed_at = now()
FROM owed
WHERE s.namespace = $1 AND s.id = owed.id
RETURNING {COLUMNS}
"""

# last_active_at is in no index: this walks along the key, so many rows a statement.
IDLE = """
SELECT s.id, s.last_active_at <= now() - make_interval(secs => $3::float8) AS idle
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND s.id > $2 AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
ORDER BY s.id
LIMIT $4
"""

EXPIRED_STREAMS = """
SELECT session_id, id
FROM mcpsession.streams
WHERE namespace = $1 AND expires_at < now()
ORDER BY expires_at
LIMIT $2
"""

# A stream that expires is finished, or a tracked request: nothing is added to it any more.
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

EXPIRED_CONTROL = """
SELECT version
FROM mcpsession.control
WHERE namespace = $1 AND expires_at < now() AND expires_at < 'infinity'
ORDER BY expires_at
LIMIT $2
"""

# What was once replaced stays so. (Named twice, so that the planner does not read the whole log for a thousand.)
DELETE_CONTROL = """
WITH locked AS (
    SELECT version
    FROM mcpsession.control
    WHERE namespace = $1 AND version = ANY($2::bigint[])
    ORDER BY version
    FOR UPDATE
)
DELETE FROM mcpsession.control c USING locked
WHERE c.namespace = $1 AND c.version = ANY($2::bigint[]) AND c.version = locked.version
RETURNING c.version
"""


class PostgresReaping:
    """Reaping over the pool, one kind after the other."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._namespace = settings.namespace

    async def reap(self, limit: int, *, handled: bool = False) -> Reaped:
        return Reaped(
            sessions=await self._reap_sessions(limit, handled),
            streams=await self._reap_streams(limit),
            mail=await self._reap_mail(limit),
            replicas=len(await self._database.fetch(DELETE_REPLICAS, self._namespace, limit)),
            control=await self._reap_control(limit),
        )

    async def claim(
        self, limit: int, *, by: ReplicaId, busy: Collection[SessionId] = (), only: Sequence[SessionId] | None = None
    ) -> Sequence[Session]:
        args = (self._namespace, by, limit, list(busy), None if only is None else list(only))
        # The owed are few, and have waited for longer.
        rows = await self._database.fetch(CLAIM_OWED, *args) or await self._database.fetch(CLAIM, *args)
        return [session_of(row) for row in rows]

    async def idle(self, idle_for: float, after: SessionId, limit: int) -> tuple[Sequence[SessionId], SessionId | None]:
        rows = await self._database.fetch(IDLE, self._namespace, after, idle_for, limit)
        return [row["id"] for row in rows if row["idle"]], rows[-1]["id"] if len(rows) == limit else None

    async def remove(self, sessions: Sequence[tuple[SessionId, int]], *, by: ReplicaId) -> int:
        return await remove(self._database, self._settings, sessions, by=by)

    async def _reap_sessions(self, limit: int, handled: bool) -> int:
        rows = await self._database.fetch(EXPIRED_SESSIONS, self._namespace, limit, handled)
        keys = [(row["id"], row["incarnation"]) for row in rows]
        return await remove(self._database, self._settings, keys, by=None) if keys else 0

    async def _reap_streams(self, limit: int) -> int:
        keys = await self._database.fetch(EXPIRED_STREAMS, self._namespace, limit)
        if not keys:
            return 0
        sessions, streams = [key["session_id"] for key in keys], [key["id"] for key in keys]
        return len(await self._database.fetch(DELETE_STREAMS, self._namespace, sessions, streams))

    async def _reap_mail(self, limit: int) -> int:
        keys = [row["id"] for row in await self._database.fetch(EXPIRED_MAIL, self._namespace, limit)]
        return len(await self._database.fetch(DELETE_MAIL, keys)) if keys else 0

    async def _reap_control(self, limit: int) -> int:
        rows = await self._database.fetch(EXPIRED_CONTROL, self._namespace, limit)
        versions = [row["version"] for row in rows]
        return len(await self._database.fetch(DELETE_CONTROL, self._namespace, versions)) if versions else 0
