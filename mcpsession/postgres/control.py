"""The control log in Postgres: a row a message, numbered by counting on one row of the namespace.

Costs a short transaction a message, one after the other within a namespace: it is for some messages a second, not for
thousands. Reading costs one statement over the primary key.
"""

from __future__ import annotations

from mcpsession import news_contracts
from mcpsession.model import ControlMessage, ReplicaId
from mcpsession.news_contracts import ControlPage, ControlPlace
from mcpsession.postgres.pool import Database
from mcpsession.settings import Settings

# Counted first, in a statement of its own: its lock makes the order of the versions that of the commits, and the next
# statement sees everything of whoever held it before.
COUNT_ON = """
INSERT INTO mcpsession.control_heads AS h (namespace, version)
VALUES ($1, 1)
ON CONFLICT (namespace) DO UPDATE SET version = h.version + 1
RETURNING version
"""

APPEND = """
WITH replaced AS (
    UPDATE mcpsession.control
    SET expires_at = clock_timestamp() + make_interval(secs => $7::float8)
    WHERE namespace = $1 AND method = $3 AND key = $4 AND expires_at = 'infinity'
), added AS (
    INSERT INTO mcpsession.control (namespace, version, method, key, params, sender, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp())
)
INSERT INTO mcpsession.mail (namespace, sender, kind, body, expires_at)
VALUES ($1, $6, 'control', $2::bigint::text, clock_timestamp() + make_interval(secs => $8::float8))
"""

# No row if the place is not of this log: it lies past the newest version, or its message is another now. The mark of a
# message is when it was added. Of what does not fit into the page, lengths are read and not the texts.
READ = """
SELECT coalesce(h.version, 0) AS head, coalesce(extract(epoch FROM last.created_at)::text, '') AS head_mark,
    coalesce(c.found, 0) AS found,
    c.version, c.method, c.key, c.params, c.sender, extract(epoch FROM c.created_at)::text AS mark
FROM (SELECT $2::bigint AS version, $3::text AS mark) AS place
LEFT JOIN mcpsession.control_heads h ON h.namespace = $1
LEFT JOIN mcpsession.control last ON last.namespace = $1 AND last.version = h.version
LEFT JOIN mcpsession.control here ON here.namespace = $1 AND here.version = place.version
LEFT JOIN (
    SELECT n.*, count(*) OVER () AS found,
        sum(octet_length(n.params)) OVER (ORDER BY n.version) - octet_length(n.params) AS bytes_before
    FROM (
        SELECT version, method, key, params, sender, created_at
        FROM mcpsession.control
        WHERE namespace = $1 AND version > $2
        ORDER BY version
        LIMIT $4) AS n
) AS c ON c.bytes_before < $5
WHERE place.version <= coalesce(h.version, 0)
    AND (place.mark = '' OR here.created_at IS NULL OR place.mark = extract(epoch FROM here.created_at)::text)
ORDER BY c.version
"""

# The same, over an index of its own: what was replaced since yesterday may be much more.
READ_NEWEST = READ.replace("version > $2", "version > $2 AND expires_at = 'infinity'")

# Whoever adds a message waits, or was waited for: there is always a newest one to be forgotten.
LOCK_HEAD = """
SELECT version
FROM mcpsession.control_heads
WHERE namespace = $1
FOR NO KEY UPDATE
"""

FORGET = """
UPDATE mcpsession.control
SET expires_at = clock_timestamp() + make_interval(secs => $4::float8)
WHERE namespace = $1 AND method = $2 AND key = $3 AND expires_at = 'infinity'
RETURNING version
"""


class PostgresControl:
    """ControlRows over two tables."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._namespace = settings.namespace
        self._ttl = settings.control_ttl
        self._mail_ttl = settings.mail_ttl

    async def append(self, method: str, key: str, params: str, *, sender: ReplicaId) -> int:
        async with self._database.transaction() as connection:
            [row] = await connection.fetch(COUNT_ON, self._namespace)
            version: int = row["version"]
            await connection.execute(
                APPEND, self._namespace, version, method, key, params, sender, self._ttl, self._mail_ttl
            )
        return version

    async def read(self, place: ControlPlace, limit: int, *, newest: bool = False) -> ControlPage | None:
        rows = await self._database.fetch(
            READ_NEWEST if newest else READ,
            self._namespace,
            place.version,
            place.mark,
            limit,
            news_contracts.PAGE_BYTES,
        )
        if not rows:
            return None
        messages = [
            ControlMessage(row["version"], row["method"], row["key"], row["params"], row["sender"])
            for row in rows
            if row["version"] is not None
        ]
        last = rows[-1]
        if last["found"] == limit or last["found"] > len(messages):
            return ControlPage(messages, ControlPlace(last["version"], last["mark"]), more=True)
        return ControlPage(messages, ControlPlace(last["head"], last["head_mark"]), more=False)

    async def forget(self, method: str, key: str) -> bool:
        async with self._database.transaction() as connection:
            await connection.fetchrow(LOCK_HEAD, self._namespace)
            return await connection.fetchrow(FORGET, self._namespace, method, key, self._ttl) is not None
