"""The sessions that the store's operations work on, put there and taken away by SQL while nothing is measured."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

import asyncpg

from mcpsession.settings import Settings

METADATA = {"plan": "team", "region": "eu-1"}
STATE = {"count": 0, "cart": ["book", "pen"], "step": "address"}

CLIENT = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"roots": {"listChanged": True}, "sampling": {}},
    "clientInfo": {"name": "benchmark", "version": "1"},
}

EVENTS = 5

MESSAGE = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "x" * 60}]}})

ADD_SESSIONS = """
WITH session AS (
    INSERT INTO mcpsession.sessions
        (namespace, id, incarnation, owner, protocol_version, client_params, initialized, metadata, state, ttl,
         expires_at)
    SELECT $1, s.id, s.number, 'owner ' || s.number % 100, '2025-11-25', $3, true, $4, $5, $6::float8,
        now() + make_interval(secs => $7::float8)
    FROM unnest($2::text[]) WITH ORDINALITY AS s (id, number)
    RETURNING namespace, id
)
INSERT INTO mcpsession.streams (namespace, session_id, id, kind, delivered_news)
SELECT namespace, id, 's', 'standalone', pg_current_snapshot()::text || '@' || extract(epoch FROM now())::text
FROM session
"""

# Finished, and still there to be resumed: it goes with its session, not by itself.
ADD_STREAMS = """
WITH stream AS (
    INSERT INTO mcpsession.streams
        (namespace, session_id, id, request_ids, answered_ids, last_seq, finished_at, expires_at)
    SELECT $1, s.id, 'finished stream', '{1}', '{1}', $3::int, now(), now() + interval '10 minutes'
    FROM unnest($2::text[]) AS s (id)
    RETURNING namespace, session_id, id
)
INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message)
SELECT namespace, session_id, id, seq, $4
FROM stream, generate_series(1, $3::int) AS seq
"""

REMOVE = """
WITH streams_gone AS (
    DELETE FROM mcpsession.streams WHERE namespace = $1 AND session_id = ANY($2::text[])
)
DELETE FROM mcpsession.sessions
WHERE namespace = $1 AND id = ANY($2::text[])
"""

TIDY_UP = "VACUUM mcpsession.sessions, mcpsession.streams, mcpsession.events, mcpsession.mail"

ANALYZE = "ANALYZE mcpsession.sessions, mcpsession.streams, mcpsession.events, mcpsession.mail"


class Rows:
    """Over a connection of its own, which waits for as long as it takes."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings) -> None:
        self._connection = connection
        self._ttl = settings.session_ttl or 3600.0
        # For so long no touch has to move the end: all are as most are in service.
        self._remaining = settings.lifetime(self._ttl) + 3600.0

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str, settings: Settings) -> AsyncIterator[Self]:
        connection = await asyncpg.connect(url)
        try:
            yield cls(connection, settings)
        finally:
            await connection.close()

    async def add(self, namespace: str, session_ids: Sequence[str]) -> None:
        """Live sessions, initialised and just touched, with small metadata and state."""
        await self._add(namespace, session_ids, self._remaining)

    async def add_expired(self, namespace: str, session_ids: Sequence[str]) -> None:
        """Expired ones, each with a finished stream of five events besides its standalone stream."""
        await self._add(namespace, session_ids, -1.0)
        await self._connection.execute(ADD_STREAMS, namespace, session_ids, EVENTS, MESSAGE)

    async def remove(self, namespace: str, session_ids: Sequence[str]) -> None:
        """Whatever has become of them."""
        await self._connection.execute(REMOVE, namespace, session_ids)

    async def tidy_up(self) -> None:
        """What one turn leaves behind is not the next one's burden; nor autovacuum's, in the middle of it."""
        await self._connection.execute(TIDY_UP)

    async def analyze(self) -> None:
        """Let the planner know what there is, as autovacuum does after a while."""
        await self._connection.execute(ANALYZE)

    async def _add(self, namespace: str, session_ids: Sequence[str], remaining: float) -> None:
        texts = (json.dumps(value) for value in (CLIENT, METADATA, STATE))
        await self._connection.execute(ADD_SESSIONS, namespace, session_ids, *texts, self._ttl, remaining)
