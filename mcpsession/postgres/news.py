"""News for all, or for one session, in Postgres: broadcast mail that says who it is for."""

from __future__ import annotations

from collections.abc import Sequence

from asyncpg import Record

from mcpsession import news_contracts
from mcpsession.model import Mail, NewsPage, SessionId
from mcpsession.news_contracts import Reach
from mcpsession.postgres.address import DRIVER_ERRORS
from mcpsession.postgres.borrowed import borrowed, refused_by
from mcpsession.postgres.listener import channel
from mcpsession.postgres.pool import Database
from mcpsession.postgres.positions import PAGED, PAST, TRUSTED, page_of, paged, parse_position
from mcpsession.settings import Settings

# $9: within the caller's transaction the bell hangs on its commit; else the replica rings, beside all transactions.
PUBLISH = """
WITH posted AS (
    INSERT INTO mcpsession.mail
        (namespace, sender, kind, session_id, incarnation, body, topic, uri, newest_of, expires_at)
    SELECT $1, $2, 'news', $3, s.incarnation, $4, $5, $6, $7, clock_timestamp() + make_interval(secs => $8::float8)
    FROM (SELECT) AS one
    LEFT JOIN mcpsession.sessions s ON s.namespace = $1 AND s.id = $3
        AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
    WHERE $3::text IS NULL OR s.id IS NOT NULL
    RETURNING session_id
)
SELECT CASE WHEN $9::text IS NOT NULL THEN pg_notify($9::text, 'n') END AS rung, (
    SELECT t.holder
    FROM mcpsession.streams t
    JOIN mcpsession.replicas r ON r.namespace = t.namespace AND r.id = t.holder AND r.dead_at IS NULL
    WHERE t.namespace = $1 AND t.session_id = posted.session_id AND t.id = 's' AND t.finished_at IS NULL
        AND t.released_epoch < t.holder_epoch) AS holder
FROM posted
"""

# For one reader: $7 is its session, $8 its topic, $9: only of resources that the session has subscribed to. $10: of
# what is for the session, only for this incarnation of it. $11 and $12: what the reader has of this already; as the
# newest of its kind it must not hide what was committed after the reader had it.
_FOUND = f"""m.kind = 'news' AND {PAST}
        AND (m.session_id IS NULL OR m.session_id = $7) AND (m.topic IS NULL OR m.topic = $8)
        AND (m.incarnation IS NULL OR $10::bigint IS NULL OR m.incarnation = $10)
        AND m.id <> ALL($11::bigint[])
        AND ($12::text IS NULL OR NOT pg_visible_in_snapshot(m.xid, $12::text::pg_snapshot))
        AND (NOT $9::bool OR m.uri IS NULL OR EXISTS (
            SELECT FROM mcpsession.subscriptions u
            WHERE u.namespace = $1 AND u.session_id = $7 AND u.uri = m.uri))"""

MISSED = paged(_FOUND)

# Which is the newest of its kind is known only at the end of all that is unread.
NEWEST = f"""
WITH found AS (
    SELECT m.id, m.xid, m.newest_of, octet_length(m.body) AS size, max(m.id) OVER (PARTITION BY m.xid) AS last_id
    FROM mcpsession.mail m
    WHERE {_FOUND}
), unread AS (
    SELECT id, xid, size
    FROM (SELECT *, row_number() OVER (PARTITION BY newest_of ORDER BY last_id DESC, id DESC) AS age FROM found) AS f
    WHERE newest_of IS NULL OR age = 1
){PAGED}"""


class PostgresNewsLog:
    """NewsLog over the table of the mail: one statement each. `newest` looks at all that is past the position."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._namespace = settings.namespace
        self._channel = channel(settings, None)

    async def publish(
        self, mail: Mail, *, uri: str | None = None, newest_of: str | None = None, connection: object = None
    ) -> Reach | None:
        values = (self._namespace, mail.sender, mail.session_id, mail.body, mail.topic, uri, newest_of)
        args = (*values, self._settings.mail_ttl, None if connection is None else self._channel)
        if connection is None:
            row = await self._database.fetchrow(PUBLISH, *args)
        else:
            row = await self._publish_in(connection, args)
        return None if row is None else Reach(row["holder"])

    async def _publish_in(self, connection: object, args: Sequence[object]) -> Record | None:
        driver = await borrowed(connection)
        try:
            return await driver.fetchrow(PUBLISH, *args)
        except DRIVER_ERRORS as error:
            raise refused_by(driver, error) or self._database.address.translate(error) from error

    async def missed(
        self,
        position: str,
        *,
        session_id: SessionId | None = None,
        incarnation: int | None = None,
        topic: str | None = None,
        newest: bool = False,
        subscribed: bool = False,
        heard: Sequence[int] = (),
        floor: str = "",
    ) -> NewsPage | None:
        old = parse_position(position)
        if old is None:
            return None
        rows = await self._database.fetch(
            NEWEST if newest else MISSED,
            self._namespace,
            *old,
            self._settings.mail_ttl * TRUSTED,
            news_contracts.PAGE_MAILS,
            news_contracts.PAGE_BYTES,
            session_id,
            topic,
            subscribed,
            incarnation,
            heard,
            None if (seen := parse_position(floor)) is None else seen[0],
        )
        return page_of(rows, old)
