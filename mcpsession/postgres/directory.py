"""Sessions to look at, in Postgres: by id, page by page along an index, counted."""

from __future__ import annotations

from collections.abc import Sequence

from mcpsession.model import SessionId
from mcpsession.postgres.pool import Database
from mcpsession.postgres.records import COLUMNS, session_of
from mcpsession.records import Filter, Session, SessionStats
from mcpsession.settings import Settings
from mcpsession.texts import storable

RECORDS = f"""
SELECT {COLUMNS},
    (SELECT count(*) FROM mcpsession.events e WHERE e.namespace = s.namespace AND e.session_id = s.id) AS event_count
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND s.id = ANY($2::text[]) AND ($3::text IS NULL OR s.owner = $3)
    AND ($4::bool AND s.status <> 'removed'
        OR s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now())
"""

_WANTED = """
    AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
    AND ($3::text IS NULL OR s.transport = $3)
    AND ($4::bool IS NULL OR s.initialized = $4)
    AND ($5::text IS NULL OR s.protocol_version = $5)
    AND ($6::float8 IS NULL OR s.last_active_at <= now() - make_interval(secs => $6::float8))"""

# Two of each: with "any owner or this one" in a single statement the index by owner could not be used.
PAGE = f"""
SELECT {COLUMNS}
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND $2::text IS NULL AND s.id > $7 {_WANTED}
ORDER BY s.id
LIMIT $8
"""

PAGE_OF_OWNER = f"""
SELECT {COLUMNS}
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND s.owner = $2 AND s.id > $7 {_WANTED}
ORDER BY s.id
LIMIT $8
"""

COUNT = f"""
SELECT count(*) AS living
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND $2::text IS NULL {_WANTED}
"""

COUNT_OF_OWNER = f"""
SELECT count(*) AS living
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND s.owner = $2 {_WANTED}
"""

STATS = """
SELECT count(*) FILTER (WHERE alive) AS live, count(*) FILTER (WHERE alive AND initialized) AS initialized,
    count(*) FILTER (WHERE NOT alive AND status = 'live') AS expired,
    count(*) FILTER (WHERE status = 'terminated') AS terminated,
    count(DISTINCT owner) FILTER (WHERE alive AND owner <> '') AS owners,
    coalesce(sum(octet_length(state)) FILTER (WHERE alive), 0)::bigint AS state_bytes
FROM (
    SELECT s.*, s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now() AS alive
    FROM mcpsession.sessions s
    WHERE s.namespace = $1
) AS those
"""


class PostgresDirectory:
    """Directory over the sessions' table. A page costs one walk along an index; counts look at what they count."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._namespace = settings.namespace

    async def records(
        self, session_ids: Sequence[SessionId], *, owner: str | None = None, include_dead: bool = False
    ) -> Sequence[Session]:
        rows = await self._database.look_up(
            RECORDS, self._namespace, [*filter(storable, session_ids)], owner, include_dead
        )
        return [session_of(row, row["event_count"]) for row in rows]

    async def page(self, wanted: Filter, after: SessionId, limit: int) -> Sequence[Session]:
        statement = PAGE if wanted.owner is None else PAGE_OF_OWNER
        rows = await self._database.look_up(statement, self._namespace, *_columns(wanted), after, limit)
        return [session_of(row) for row in rows]

    async def count(self, wanted: Filter) -> int:
        statement = COUNT if wanted.owner is None else COUNT_OF_OWNER
        row = await self._database.look_up_one(statement, self._namespace, *_columns(wanted))
        return 0 if row is None else int(row["living"])

    async def stats(self) -> SessionStats:
        [row] = await self._database.fetch(STATS, self._namespace)
        return SessionStats(**row)


def _columns(wanted: Filter) -> tuple[str | None, str | None, bool | None, str | None, float | None]:
    return wanted.owner, wanted.transport, wanted.initialized, wanted.protocol_version, wanted.idle_for
