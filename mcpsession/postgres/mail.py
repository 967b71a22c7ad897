"""Mail between replicas in Postgres: one table, an inbox each, and a log for all with snapshots for cursors.

A position in the broadcast mail is the `pg_snapshot` of the last read and its time. What a snapshot does not see is
news, whenever it commits: exactly once, however long a publisher's transaction was open. (Ids and overlap windows lost
mail in the experiment.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from asyncpg import Record

from mcpsession.model import Mail, ReplicaId
from mcpsession.postgres.pool import Database
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

# One row with the new position always comes, unless the old one cannot be used: it is too old, or its snapshot is ahead
# of this server's, which then is another timeline (a standby that was promoted without the last transactions).
NEWS = """
SELECT pg_current_snapshot()::text || '@' || extract(epoch FROM now())::text AS position,
    m.id, m.xid, m.sender, m.recipient, m.kind, m.session_id, m.body
FROM (SELECT $2::text::pg_snapshot AS snapshot) AS seen
LEFT JOIN mcpsession.mail m
    ON m.namespace = $1 AND m.recipient IS NULL
    AND m.xid >= pg_snapshot_xmin($2::text::pg_snapshot)
    AND NOT pg_visible_in_snapshot(m.xid, $2::text::pg_snapshot)
    AND ($5::bool IS FALSE OR m.kind = 'news')
WHERE pg_snapshot_xmax(seen.snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
    AND to_timestamp($3::float8) > now() - make_interval(secs => $4::float8)
ORDER BY m.xid, m.id
"""

# xmin:xmax:xip,… @ seconds. Clients send it back to us, so it is checked before Postgres sees it.
_POSITION = re.compile(r"(\d{1,19}):(\d{1,19}):((?:\d{1,19}(?:,\d{1,19})*)?)@(\d{1,12}(?:\.\d{1,9})?)", re.ASCII)
_LONGEST = 16_384
_LARGEST = 2**63 - 1

# Mail can be reaped a little earlier than `mail_ttl` after it became visible: the insert comes before the commit.
_TRUSTED = 0.9


def parse_position(position: str) -> tuple[str, float] | None:
    """The snapshot and the time of a position; None if it cannot be one."""
    match = _POSITION.fullmatch(position) if len(position) <= _LONGEST else None
    if match is None:
        return None
    xmin, xmax = int(match[1]), int(match[2])
    running = [int(xid) for xid in match[3].split(",")] if match[3] else []
    if not 0 < xmin <= xmax <= _LARGEST or running != sorted(set(running)):
        return None
    if running and not xmin <= running[0] <= running[-1] < xmax:
        return None
    return f"{xmin}:{xmax}:{match[3]}", float(match[4])


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

    async def news(self, position: str, *, only_news: bool = False) -> tuple[Sequence[Mail], str] | None:
        parsed = parse_position(position)
        if parsed is None:
            return None
        snapshot, taken_at = parsed
        rows = await self._database.fetch(NEWS, self._namespace, snapshot, taken_at, self._ttl * _TRUSTED, only_news)
        if not rows:
            return None
        return [_mail(row) for row in rows if row["id"] is not None], rows[0]["position"]


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
