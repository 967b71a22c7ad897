"""Requests under way, in Postgres: a call is its stream, and what an application tracks is a stream without events.

So one unique index refuses a second live request of the same id, whoever began the first. Costs one statement a look,
and a short transaction for what is tracked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from asyncpg import Record

from mcpsession.errors import DuplicateRequestError
from mcpsession.event_records import RequestInfo
from mcpsession.model import ReplicaId, SessionId, new_stream_id
from mcpsession.postgres.pool import Database
from mcpsession.postgres.session_events import LOCK_SESSION
from mcpsession.settings import Settings
from mcpsession.texts import check_text, storable

# What is over, and was not swept yet, must not be in the way of a new one.
FORGET = """
DELETE FROM mcpsession.streams t
WHERE t.namespace = $1 AND t.session_id = $2 AND t.request_ids = ARRAY[$3::text] AND t.kind = 'tracked'
    AND t.finished_at IS NULL
    AND (t.expires_at <= now() OR NOT EXISTS (
        SELECT FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.id = t.producer AND r.dead_at IS NULL))
"""

TRACK = """
INSERT INTO mcpsession.streams
    (namespace, session_id, id, kind, request_ids, method, producer, created_at, expires_at)
VALUES ($1, $2, $3, 'tracked', ARRAY[$4::text], $5, $6, now(), now() + make_interval(secs => $7::float8))
ON CONFLICT DO NOTHING
RETURNING session_id, $4::text AS request_id, method, producer, created_at, 0::float8 AS duration, true AS tracked
"""

COMPLETE = """
DELETE FROM mcpsession.streams t
USING mcpsession.sessions s
WHERE t.namespace = $1 AND t.session_id = $2 AND t.request_ids = ARRAY[$3::text] AND t.kind = 'tracked'
    AND t.finished_at IS NULL AND t.expires_at > now() AND ($5::timestamptz IS NULL OR t.created_at = $5)
    AND s.namespace = $1 AND s.id = $2 AND ($4::text IS NULL OR s.owner = $4)
    AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
RETURNING t.session_id, $3::text AS request_id, t.method, t.producer, t.created_at,
    extract(epoch FROM now() - t.created_at)::float8 AS duration, true AS tracked
"""

# A stream of a batch has several requests, of which some are answered. One owner's are looked for among all that run.
RUNNING = """
SELECT t.session_id, q.request_id, t.method, t.producer, t.created_at,
    extract(epoch FROM now() - t.created_at)::float8 AS duration, t.kind = 'tracked' AS tracked
FROM mcpsession.streams t
CROSS JOIN unnest(t.request_ids) AS q (request_id)
WHERE t.namespace = $1 AND t.session_id >= $3 AND (t.session_id > $3 OR q.request_id > $4)
    AND t.finished_at IS NULL AND t.kind IN ('request', 'tracked') AND (t.kind = 'request' OR t.expires_at > now())
    AND q.request_id <> ALL(t.answered_ids)
    AND EXISTS (
        SELECT FROM mcpsession.sessions s
        WHERE s.namespace = $1 AND s.id = t.session_id AND ($2::text IS NULL OR s.owner = $2)
            AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now())
    AND EXISTS (
        SELECT FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.id = t.producer AND r.dead_at IS NULL)
ORDER BY t.session_id, q.request_id
LIMIT $5
"""

RUNNING_OF_SESSION = RUNNING.replace("t.session_id >= $3", "t.session_id = $6 AND t.session_id >= $3")

FIND = """
SELECT t.session_id, $3::text AS request_id, t.method, t.producer, t.created_at,
    extract(epoch FROM now() - t.created_at)::float8 AS duration, t.kind = 'tracked' AS tracked
FROM mcpsession.streams t
WHERE t.namespace = $1 AND t.session_id = $2 AND $3::text = ANY(t.request_ids)
    AND t.finished_at IS NULL AND t.kind IN ('request', 'tracked') AND (t.kind = 'request' OR t.expires_at > now())
    AND $3::text <> ALL(t.answered_ids)
    AND EXISTS (
        SELECT FROM mcpsession.sessions s
        WHERE s.namespace = $1 AND s.id = $2 AND ($4::text IS NULL OR s.owner = $4)
            AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now())
    AND EXISTS (
        SELECT FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.id = t.producer AND r.dead_at IS NULL)
LIMIT 1
"""

# In order of the keys, so that any number of replicas may sweep at once.
SWEEP = """
WITH over AS MATERIALIZED (
    SELECT t.session_id, t.id
    FROM mcpsession.streams t
    WHERE t.namespace = $1 AND t.finished_at IS NULL AND t.producer IS NOT NULL AND t.kind = 'tracked'
        AND (t.expires_at <= now() OR NOT EXISTS (
            SELECT FROM mcpsession.replicas r
            WHERE r.namespace = $1 AND r.id = t.producer AND r.dead_at IS NULL))
    LIMIT $2
), locked AS (
    SELECT t.session_id, t.id
    FROM mcpsession.streams t JOIN over ON over.session_id = t.session_id AND over.id = t.id
    WHERE t.namespace = $1
    ORDER BY t.session_id, t.id
    FOR UPDATE OF t
)
DELETE FROM mcpsession.streams t
USING locked
WHERE t.namespace = $1 AND t.session_id = locked.session_id AND t.id = locked.id
RETURNING t.id
"""


class PostgresRequests:
    """RequestRows over the table of streams."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._namespace = settings.namespace

    async def track(
        self,
        session_id: SessionId,
        request_id: str,
        method: str,
        timeout: float,  # noqa: ASYNC109  # of the request, not of this call
        *,
        owner: str | None = None,
        by: ReplicaId,
    ) -> RequestInfo | None:
        check_text(request_id, method)
        if not (storable(session_id) and storable(owner or "")):
            return None
        async with self._database.transaction() as connection:
            if await connection.fetchrow(LOCK_SESSION, self._namespace, session_id, owner) is None:
                return None
            await connection.execute(FORGET, self._namespace, session_id, request_id)
            row = await connection.fetchrow(
                TRACK, self._namespace, session_id, new_stream_id(), request_id, method, by, timeout
            )
            if row is None:
                raise DuplicateRequestError(json.loads(request_id))
        return _info(row)

    async def complete(
        self, session_id: SessionId, request_id: str, *, owner: str | None = None, begun: datetime | None = None
    ) -> RequestInfo | None:
        row = await self._database.look_up_one(COMPLETE, self._namespace, session_id, request_id, owner, begun)
        return None if row is None else _info(row)

    async def find(self, session_id: SessionId, request_id: str, *, owner: str | None = None) -> RequestInfo | None:
        row = await self._database.look_up_one(FIND, self._namespace, session_id, request_id, owner)
        return None if row is None else _info(row)

    async def running(
        self,
        session_id: SessionId | None = None,
        *,
        owner: str | None = None,
        after: tuple[SessionId, str] = ("", ""),
        limit: int,
    ) -> Sequence[RequestInfo]:
        args = (self._namespace, owner, *after, limit)
        if session_id is None:
            rows = await self._database.look_up(RUNNING, *args)
        else:
            rows = await self._database.look_up(RUNNING_OF_SESSION, *args, session_id)
        return [_info(row) for row in rows]

    async def sweep(self, limit: int) -> int:
        return len(await self._database.fetch(SWEEP, self._namespace, limit))


def _info(row: Record) -> RequestInfo:
    return RequestInfo(
        session_id=row["session_id"],
        request_id=json.loads(row["request_id"]),
        method=row["method"],
        replica=row["producer"],
        started_at=row["created_at"],
        duration=row["duration"],
        tracked=row["tracked"],
    )
