"""Which sessions want to hear of which resources, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence

from mcpsession.errors import LimitExceededError
from mcpsession.model import ReplicaId, SessionId
from mcpsession.postgres.pool import Database
from mcpsession.settings import Settings
from mcpsession.texts import storable

# A session's subscriptions are counted under its row's lock, in the next statement: each sees those before it.
LOCK_SESSION = """
SELECT id
FROM mcpsession.sessions
WHERE namespace = $1 AND id = $2 AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
FOR NO KEY UPDATE
"""

SUBSCRIBE = """
WITH counted AS (
    SELECT count(*) AS others, coalesce(bool_or(uri = $3), false) AS again
    FROM mcpsession.subscriptions
    WHERE namespace = $1 AND session_id = $2
), entered AS (
    INSERT INTO mcpsession.subscriptions (namespace, session_id, uri)
    SELECT $1, $2, $3 FROM counted WHERE NOT again AND ($4::bigint IS NULL OR others < $4)
    RETURNING session_id
), posted AS (
    INSERT INTO mcpsession.mail (namespace, sender, kind, session_id, expires_at)
    SELECT $1, $5, 'changed', session_id, clock_timestamp() + make_interval(secs => $6::float8)
    FROM entered
)
SELECT again OR $4::bigint IS NULL OR others < $4 AS fits FROM counted
"""

UNSUBSCRIBE = """
WITH gone AS (
    DELETE FROM mcpsession.subscriptions
    WHERE namespace = $1 AND session_id = $2 AND uri = $3 AND EXISTS (
        SELECT FROM mcpsession.sessions s
        WHERE s.namespace = $1 AND s.id = $2 AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now())
    RETURNING session_id
)
INSERT INTO mcpsession.mail (namespace, sender, kind, session_id, expires_at)
SELECT $1, $4, 'changed', session_id, clock_timestamp() + make_interval(secs => $5::float8)
FROM gone
RETURNING id
"""

URIS = """
SELECT u.uri
FROM mcpsession.subscriptions u
JOIN mcpsession.sessions s ON s.namespace = u.namespace AND s.id = u.session_id
WHERE u.namespace = $1 AND u.session_id = $2
    AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
ORDER BY u.uri
"""

SUBSCRIBERS = """
SELECT u.session_id
FROM mcpsession.subscriptions u
JOIN mcpsession.sessions s ON s.namespace = u.namespace AND s.id = u.session_id
WHERE u.namespace = $1 AND u.uri = $2 AND u.session_id > $3
    AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
ORDER BY u.session_id
LIMIT $4
"""


class PostgresSubscriptions:
    """ResourceSubscriptions over a table of their own."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._namespace = settings.namespace
        self._mail_ttl = settings.mail_ttl

    async def subscribe(self, session_id: SessionId, uri: str, limit: int | None, *, sender: ReplicaId) -> bool:
        if not storable(session_id):
            return False
        async with self._database.transaction() as connection:
            if await connection.fetchrow(LOCK_SESSION, self._namespace, session_id) is None:
                return False
            row = await connection.fetchrow(SUBSCRIBE, self._namespace, session_id, uri, limit, sender, self._mail_ttl)
        if row is not None and not row["fits"]:
            raise LimitExceededError("max_subscriptions_per_session", limit or 0)
        return True

    async def unsubscribe(self, session_id: SessionId, uri: str, *, sender: ReplicaId) -> bool:
        mail = await self._database.look_up_one(UNSUBSCRIBE, self._namespace, session_id, uri, sender, self._mail_ttl)
        return mail is not None

    async def uris(self, session_id: SessionId) -> Sequence[str]:
        return [row["uri"] for row in await self._database.look_up(URIS, self._namespace, session_id)]

    async def subscribers(self, uri: str, after: SessionId, limit: int) -> Sequence[SessionId]:
        rows = await self._database.look_up(SUBSCRIBERS, self._namespace, uri, after, limit)
        return [row["session_id"] for row in rows]
