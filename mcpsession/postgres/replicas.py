"""Which processes run the layer, in Postgres: a counter each, and a death that is recorded once.

Costs one statement a beat, on a connection of its own, which is dialled anew by the next beat when it broke. A beat
that a crash of the server takes back harms nobody: the next one counts on. Hence it does not wait for the disk.
"""

from __future__ import annotations

from mcpsession.model import Pulse, Replica, ReplicaId
from mcpsession.postgres.link import Link
from mcpsession.postgres.positions import parse_position
from mcpsession.settings import Settings

JOIN = """
INSERT INTO mcpsession.replicas (namespace, id, label)
VALUES ($1, $2, $3)
"""

# Sorted, though any news would do: with EXISTS the planner expects some soon, and reads the table when there is none.
# A position that grows old in silence would be lost (mail_ttl); past half of it the beat asks for a fresh look, too.
# Also with one that is ahead of this server: it is of a primary whose last commits are lost, and hides this one's mail.
BEAT = """
WITH relaxed AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), beaten AS (
    UPDATE mcpsession.replicas r
    SET beats = r.beats + 1, beaten_at = now()
    FROM relaxed
    WHERE r.namespace = $1 AND r.id = $2 AND r.dead_at IS NULL
    RETURNING r.id
)
SELECT EXISTS (SELECT FROM beaten) AS alive,
    EXISTS (SELECT FROM mcpsession.mail m WHERE m.namespace = $1 AND m.recipient = $2) AS mail,
    $3::text IS NOT NULL AND (
        to_timestamp($4::float8) < now() - make_interval(secs => $5::float8 / 2)
        OR pg_snapshot_xmax($3::text::pg_snapshot) > pg_snapshot_xmax(pg_current_snapshot())
        OR (
            SELECT m.id
            FROM mcpsession.mail m
            WHERE m.namespace = $1 AND m.recipient IS NULL
                AND m.xid >= pg_snapshot_xmin($3::text::pg_snapshot)
                AND NOT pg_visible_in_snapshot(m.xid, $3::text::pg_snapshot)
            ORDER BY m.xid
            LIMIT 1) IS NOT NULL) AS news,
    coalesce(others.ids, '{}') AS ids, coalesce(others.beats, '{}') AS beats
FROM (
    SELECT array_agg(r.id) AS ids, array_agg(r.beats) AS beats
    FROM mcpsession.replicas r
    WHERE r.namespace = $1 AND r.dead_at IS NULL AND r.id <> $2
) AS others
"""

DECLARE_DEAD = """
UPDATE mcpsession.replicas
SET dead_at = now()
WHERE namespace = $1 AND id = $2 AND beats = $3 AND dead_at IS NULL
RETURNING id
"""

LEAVE = """
UPDATE mcpsession.replicas
SET dead_at = now()
WHERE namespace = $1 AND id = $2 AND dead_at IS NULL
"""


class PostgresRegistry:
    """ReplicaRegistry over one table and one link."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        self._namespace = settings.namespace
        self._mail_ttl = settings.mail_ttl
        self._beaten_over: object = None

    async def join(self, replica: Replica) -> None:
        # A beat must be quick; who is not counted on yet may take longer, or a busy server would keep it from starting.
        await self._link.warm_up()
        await self._link.execute(JOIN, self._namespace, replica.id, replica.label)

    async def beat(self, replica: ReplicaId, position: str) -> Pulse:
        # Before the first read there is no position and nothing to miss; one that cannot be used must be looked at.
        parsed = parse_position(position)
        snapshot, taken_at = parsed or (None, None)
        async with self._link.connection() as connection:
            [row] = await connection.fetch(BEAT, self._namespace, replica, snapshot, taken_at, self._mail_ttl)
            anew, self._beaten_over = connection is not self._beaten_over, connection
        unusable = bool(position) and parsed is None
        return Pulse(
            alive=row["alive"],
            mail=row["mail"],
            news=row["news"] or unusable,
            others=dict(zip(row["ids"], row["beats"], strict=True)),
            anew=anew,
        )

    async def declare_dead(self, replica: ReplicaId, beats: int) -> bool:
        return await self._link.fetchrow(DECLARE_DEAD, self._namespace, replica, beats) is not None

    async def leave(self, replica: ReplicaId) -> None:
        await self._link.execute(LEAVE, self._namespace, replica)
