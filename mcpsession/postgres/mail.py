"""Mail between replicas in Postgres: one table, an inbox each, and a log for all with snapshots for cursors."""

from __future__ import annotations

from collections.abc import Sequence

from asyncpg import Record

from mcpsession import news_contracts
from mcpsession.model import Mail, NewsPage, ReplicaId
from mcpsession.postgres.pool import Database
from mcpsession.postgres.positions import PAST, TRUSTED, page_of, paged, parse_position
from mcpsession.settings import Settings

SEND = """
INSERT INTO mcpsession.mail (namespace, sender, recipient, kind, session_id, body, expires_at)
SELECT $1, $2, $3, $4, $5, $6, clock_timestamp() + make_interval(secs => $7::float8)
WHERE EXISTS (SELECT FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.id = $3 AND r.dead_at IS NULL)
RETURNING id
"""

BROADCAST = """
INSERT INTO mcpsession.mail (namespace, sender, kind, session_id, body, expires_at)
SELECT $1, m.sender, m.kind, m.session_id, m.body, clock_timestamp() + make_interval(secs => $6::float8)
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY
    AS m (sender, kind, session_id, body, place)
ORDER BY m.place
"""

INBOX = """
SELECT id, xid, sender, recipient, kind, session_id, body
FROM mcpsession.mail
WHERE namespace = $1 AND recipient = $2
ORDER BY id
LIMIT 50
"""

DELETE = """
DELETE FROM mcpsession.mail
WHERE namespace = $1 AND id = ANY($2::bigint[])
"""

POSITION = """
SELECT pg_current_snapshot()::text || '@' || extract(epoch FROM now())::text AS position
"""

NEWS = paged(PAST)


class PostgresMailbox:
    """Mailbox over one table. A post, a read and a delete cost one statement each."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._namespace = settings.namespace
        self._ttl = settings.mail_ttl

    async def send(self, mail: Mail) -> bool:
        row = await self._database.fetchrow(
            SEND, self._namespace, mail.sender, mail.recipient, mail.kind, mail.session_id, mail.body, self._ttl
        )
        return row is not None

    async def broadcast(self, mails: Sequence[Mail]) -> None:
        await self._database.execute(
            BROADCAST,
            self._namespace,
            [mail.sender for mail in mails],
            [mail.kind for mail in mails],
            [mail.session_id for mail in mails],
            [mail.body for mail in mails],
            self._ttl,
        )

    async def inbox(self, replica: ReplicaId) -> Sequence[Mail]:
        return [_mail(row) for row in await self._database.fetch(INBOX, self._namespace, replica)]

    async def delete(self, mail_ids: Sequence[int]) -> None:
        await self._database.execute(DELETE, self._namespace, list(mail_ids))

    async def position(self) -> str:
        [row] = await self._database.fetch(POSITION)
        return str(row["position"])

    async def news(self, position: str) -> NewsPage | None:
        old = parse_position(position)
        if old is None:
            return None
        rows = await self._database.fetch(
            NEWS, self._namespace, *old, self._ttl * TRUSTED, news_contracts.PAGE_MAILS, news_contracts.PAGE_BYTES
        )
        return page_of(rows, old)


def _mail(row: Record) -> Mail:
    return Mail(
        kind=row["kind"],
        sender=row["sender"],
        recipient=row["recipient"],
        session_id=row["session_id"],
        body=row["body"],
        id=row["id"],
        xid=row["xid"],
    )
