"""Sessions in Postgres: one row each, and every change of it one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from mcpsession.errors import SessionExistsError, StoreError
from mcpsession.model import OpenedStream, ReplicaId, Session, SessionId, Termination
from mcpsession.postgres.pool import Database
from mcpsession.settings import Settings

_UNIQUE_VIOLATION = "23505"

# The position is that of this very statement's snapshot: what is posted after it is news to this session.
CREATE = """
WITH session AS (
    INSERT INTO mcpsession.sessions
        (namespace, id, incarnation, owner, protocol_version, client_params, initialized, log_level, metadata, ttl,
         expires_at)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10::float8,
        CASE WHEN $10::float8 IS NULL THEN 'infinity'
             ELSE now() + make_interval(secs => $10::float8 + $11::float8) END
    RETURNING namespace, id
), standalone AS (
    INSERT INTO mcpsession.streams (namespace, session_id, id, kind, delivered_news)
    SELECT namespace, id, 's', 'standalone', pg_current_snapshot()::text || '@' || extract(epoch FROM now())::text
    FROM session
), opening AS (
    INSERT INTO mcpsession.streams
        (namespace, session_id, id, request_ids, answered_ids, last_seq, finished_at, expires_at)
    SELECT namespace, id, $12::text, $13::text[], $13::text[], cardinality($14::text[]), now(),
        now() + make_interval(secs => $16::float8)
    FROM session
    WHERE $12::text IS NOT NULL
)
INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message, request_of)
SELECT session.namespace, session.id, $12::text, e.seq, e.message, e.request_of
FROM session, unnest($14::text[], $15::text[]) WITH ORDINALITY AS e (message, request_of, seq)
"""

GET = """
SELECT id, owner, incarnation, protocol_version, client_params, initialized, log_level, metadata, ttl, created_at,
    last_active_at, CASE WHEN ttl IS NOT NULL THEN extract(epoch FROM expires_at - now())::float8 END AS remaining
FROM mcpsession.sessions
WHERE namespace = $1 AND id = $2 AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
"""

COUNT = """
SELECT count(*) AS live
FROM (
    SELECT 1
    FROM mcpsession.sessions
    WHERE namespace = $1 AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
    LIMIT $2
) AS those
"""

MARK_INITIALIZED = """
UPDATE mcpsession.sessions
SET initialized = true
WHERE namespace = $1 AND id = $2 AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
RETURNING id
"""

# The change and its invalidation are one statement: no replica can keep the old truth once it has read its mail.
SET_LOG_LEVEL = """
WITH changed AS (
    UPDATE mcpsession.sessions
    SET log_level = $3
    WHERE namespace = $1 AND id = $2 AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
    RETURNING id
)
INSERT INTO mcpsession.mail (namespace, sender, kind, session_id, expires_at)
SELECT $1, $4, 'changed', id, clock_timestamp() + make_interval(secs => $5::float8)
FROM changed
RETURNING id
"""

# Rows are locked in order of their ids: two replicas that touch the same sessions must not deadlock. expires_at is
# indexed, so it is moved only when it lags by a step; all other touches stay HOT. A touch that a crash of the server
# takes back costs at most a step of life, hence no wait for the disk. (infinity - now() fails before PG 17.)
TOUCH = """
WITH relaxed AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), locked AS (
    SELECT s.id
    FROM mcpsession.sessions s, relaxed
    WHERE s.namespace = $1 AND s.id = ANY($2::text[])
        AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
    ORDER BY s.id
    FOR NO KEY UPDATE OF s
)
UPDATE mcpsession.sessions s
SET last_active_at = now(),
    expires_at = CASE
        WHEN s.ttl IS NULL THEN s.expires_at
        WHEN s.expires_at <= now() + make_interval(secs => s.ttl + $3::float8 - least(s.ttl / 10, $4::float8))
            THEN now() + make_interval(secs => s.ttl + $3::float8)
        ELSE s.expires_at END
FROM locked
WHERE s.namespace = $1 AND s.id = locked.id
RETURNING s.id, CASE WHEN s.ttl IS NOT NULL THEN extract(epoch FROM s.expires_at - now())::float8 END AS remaining
"""

TERMINATE = """
WITH ended AS (
    UPDATE mcpsession.sessions
    SET status = 'terminated', state = '{}', ended_at = now(), end_reason = 'terminated',
        expires_at = now() + make_interval(secs => $5::float8)
    WHERE namespace = $1 AND id = $2 AND owner = $3
        AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
    RETURNING id
), hung_up AS (
    UPDATE mcpsession.streams t
    SET finished_at = now(), expires_at = now()
    FROM ended
    WHERE t.namespace = $1 AND t.session_id = ended.id AND t.id = 's'
), posted AS (
    INSERT INTO mcpsession.mail (namespace, sender, kind, session_id, expires_at)
    SELECT $1, $4, 'ended', id, clock_timestamp() + make_interval(secs => $6::float8)
    FROM ended
    RETURNING id
)
SELECT posted.id,
    ARRAY(SELECT r.id FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.dead_at IS NULL ORDER BY r.id) AS replicas
FROM posted
"""

LOAD_STATE = """
SELECT version, state
FROM mcpsession.sessions
WHERE namespace = $1 AND id = $2 AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
"""

SAVE_STATE = """
UPDATE mcpsession.sessions
SET state = $4, version = version + 1
WHERE namespace = $1 AND id = $2 AND version = $3
    AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
RETURNING version
"""


class PostgresSessions:
    """SessionStore over one table. A read costs one SELECT by key; a touch of many sessions one UPDATE."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._namespace = settings.namespace

    async def create(self, session: Session, opening: OpenedStream | None) -> None:
        events = opening.events if opening else ()
        try:
            await self._database.execute(
                CREATE,
                self._namespace,
                session.id,
                session.incarnation,
                session.owner,
                session.protocol_version,
                session.client_params,
                session.initialized,
                session.log_level,
                json.dumps(dict(session.metadata)),
                session.ttl,
                self._settings.slack,
                opening.stream_id if opening else None,
                list(opening.request_ids) if opening else [],
                [event.message for event in events],
                [event.request_of for event in events],
                self._settings.stream_ttl,
            )
        except StoreError as error:
            if error.sqlstate == _UNIQUE_VIOLATION:
                raise SessionExistsError(session.id) from error
            raise

    async def get(self, session_id: SessionId) -> Session | None:
        row = await self._database.fetchrow(GET, self._namespace, session_id)
        if row is None:
            return None
        values = dict(row)
        return Session(metadata=json.loads(values.pop("metadata")), **values)

    async def count(self, limit: int) -> int:
        [row] = await self._database.fetch(COUNT, self._namespace, limit)
        return int(row["live"])

    async def mark_initialized(self, session_id: SessionId) -> bool:
        return await self._database.fetchrow(MARK_INITIALIZED, self._namespace, session_id) is not None

    async def set_log_level(self, session_id: SessionId, level: str, *, sender: ReplicaId) -> bool:
        mail = await self._database.fetchrow(
            SET_LOG_LEVEL, self._namespace, session_id, level, sender, self._settings.mail_ttl
        )
        return mail is not None

    async def touch(self, session_ids: Sequence[SessionId]) -> Mapping[SessionId, float | None]:
        rows = await self._database.fetch(
            TOUCH, self._namespace, list(session_ids), self._settings.slack, self._settings.touch_step
        )
        return {row["id"]: row["remaining"] for row in rows}

    async def terminate(self, session_id: SessionId, owner: str, *, sender: ReplicaId) -> Termination | None:
        row = await self._database.fetchrow(
            TERMINATE,
            self._namespace,
            session_id,
            owner,
            sender,
            self._settings.tombstone_ttl,
            self._settings.mail_ttl,
        )
        return None if row is None else Termination(row["id"], tuple(row["replicas"]))

    async def load_state(self, session_id: SessionId) -> tuple[int, str] | None:
        row = await self._database.fetchrow(LOAD_STATE, self._namespace, session_id)
        return None if row is None else (row["version"], row["state"])

    async def save_state(self, session_id: SessionId, version: int, state: str) -> int | None:
        row = await self._database.fetchrow(SAVE_STATE, self._namespace, session_id, version, state)
        return None if row is None else row["version"]
