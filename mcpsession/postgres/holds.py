"""Who writes a session's standalone stream to a socket, in Postgres: an epoch on the stream's row.

Whoever took it is settled once `released_epoch` has reached the epoch before its own: the one before has let go, is
dead, or its claim was ended by force, and then its late release changes nothing any more. The death of one that was
never settled ends no claim but its own: it may have died before it could ring whoever held the stream until then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mcpsession.errors import HoldRefusedError
from mcpsession.model import Hold, ReplicaId, SessionId
from mcpsession.postgres.pool import Database
from mcpsession.settings import Settings

# The row's lock serialises those who take at once; the holder is judged from the locked row, not from the snapshot.
# Remembered are the last two take-overs from a holder that lived and had not let go: a third within 10 s is a fight.
# (Times yet to come are from before the clock was stepped back; they say nothing.)
TAKE = """
WITH seen AS (
    SELECT t.holder, t.holder_epoch, t.released_epoch, t.takes
    FROM mcpsession.streams t
    WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = 's' AND t.finished_at IS NULL
        AND EXISTS (
            SELECT FROM mcpsession.sessions s
            WHERE s.namespace = $1 AND s.id = $2
                AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now())
    FOR NO KEY UPDATE OF t
), judged AS (
    SELECT seen.*, seen.holder IS NOT NULL AND seen.released_epoch < seen.holder_epoch AND EXISTS (
        SELECT FROM mcpsession.replicas r
        WHERE r.namespace = $1 AND r.id = seen.holder AND r.dead_at IS NULL) AS contested
    FROM seen
), ruled AS (
    SELECT judged.*,
        NOT judged.contested AND (judged.holder IS NULL OR judged.released_epoch >= judged.holder_epoch - 1) AS settled,
        judged.contested AND cardinality(judged.takes) >= 2
            AND judged.takes[1] > now() - interval '10 s' AND judged.takes[1] < now() + interval '10 s' AS refused
    FROM judged
), taken AS (
    UPDATE mcpsession.streams t
    SET holder = $3, previous_holder = ruled.holder, holder_epoch = ruled.holder_epoch + 1,
        released_epoch = CASE WHEN ruled.settled THEN ruled.holder_epoch ELSE ruled.released_epoch END,
        takes = CASE WHEN ruled.contested
            THEN (ruled.takes || now())[greatest(1, cardinality(ruled.takes)):] ELSE ruled.takes END
    FROM ruled
    WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = 's' AND NOT ruled.refused
    RETURNING t.holder_epoch, t.delivered_seq, t.delivered_news
)
SELECT ruled.refused, ruled.settled, ruled.holder AS previous,
    taken.holder_epoch AS epoch, taken.delivered_seq, taken.delivered_news
FROM ruled LEFT JOIN taken ON true
"""

# Writes only when that settles it: the taker asks several times a second.
SETTLE = """
WITH settled AS (
    UPDATE mcpsession.streams t
    SET released_epoch = greatest(t.released_epoch, $3 - 1)
    WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = 's' AND t.finished_at IS NULL AND t.holder_epoch = $3
        AND EXISTS (
            SELECT FROM mcpsession.sessions s
            WHERE s.namespace = $1 AND s.id = $2
                AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now())
        AND ($4 OR t.released_epoch >= $3 - 1 OR t.released_epoch >= $3 - 2 AND NOT EXISTS (
            SELECT FROM mcpsession.replicas r
            WHERE r.namespace = $1 AND r.id = t.previous_holder AND r.dead_at IS NULL))
    RETURNING t.holder_epoch, t.previous_holder, t.delivered_seq, t.delivered_news
)
SELECT true AS settled, holder_epoch AS epoch, previous_holder AS previous, delivered_seq, delivered_news
FROM settled
UNION ALL
SELECT false, t.holder_epoch, t.previous_holder, t.delivered_seq, t.delivered_news
FROM mcpsession.streams t
WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = 's' AND t.finished_at IS NULL AND t.holder_epoch = $3
    AND EXISTS (
        SELECT FROM mcpsession.sessions s
        WHERE s.namespace = $1 AND s.id = $2
            AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now())
    AND NOT EXISTS (SELECT FROM settled)
"""

SAVE = """
UPDATE mcpsession.streams
SET delivered_seq = $4, delivered_news = $5
WHERE namespace = $1 AND session_id = $2 AND id = 's' AND holder_epoch = $3 AND released_epoch < $3
RETURNING id
"""

# Only by one who was settled (released_epoch = $3 - 1): one who never was has written nothing, and its position would
# overwrite that of the holder before it, who is still about to let go. It speaks for those between it and the present
# holder as well: they were not settled, and cannot be any more.
RELEASE = """
UPDATE mcpsession.streams
SET released_epoch = greatest($3, holder_epoch - 1), delivered_seq = $4, delivered_news = $5,
    holder = CASE WHEN holder_epoch = $3 THEN NULL ELSE holder END
WHERE namespace = $1 AND session_id = $2 AND id = 's' AND released_epoch = $3 - 1 AND holder_epoch >= $3
RETURNING holder
"""

HOLDER = """
SELECT t.holder
FROM mcpsession.streams t
JOIN mcpsession.replicas r ON r.namespace = t.namespace AND r.id = t.holder AND r.dead_at IS NULL
WHERE t.namespace = $1 AND t.session_id = $2 AND t.id = 's' AND t.finished_at IS NULL
    AND t.released_epoch < t.holder_epoch
    AND EXISTS (
        SELECT FROM mcpsession.sessions s
        WHERE s.namespace = $1 AND s.id = $2
            AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now())
"""

# One statement for many streams: a replica asks for all that it holds, every few seconds.
CHANGED = """
SELECT h.session_id
FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS h (session_id, epoch, seq)
LEFT JOIN mcpsession.streams t ON t.namespace = $1 AND t.session_id = h.session_id AND t.id = 's'
WHERE t.holder_epoch IS DISTINCT FROM h.epoch OR t.last_seq <> h.seq OR t.finished_at IS NOT NULL
"""


class PostgresHolds:
    """Holds over the standalone stream's row: one statement each."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._namespace = settings.namespace

    async def take(self, session_id: SessionId, holder: ReplicaId) -> Hold | None:
        row = await self._database.fetchrow(TAKE, self._namespace, session_id, holder)
        if row is None:
            return None
        if row["refused"]:
            raise HoldRefusedError
        return Hold(row["epoch"], row["settled"], row["previous"], row["delivered_seq"], row["delivered_news"])

    async def settle(self, session_id: SessionId, epoch: int, *, force: bool) -> Hold | None:
        row = await self._database.fetchrow(SETTLE, self._namespace, session_id, epoch, force)
        if row is None:
            return None
        return Hold(row["epoch"], row["settled"], row["previous"], row["delivered_seq"], row["delivered_news"])

    async def save(self, session_id: SessionId, epoch: int, seq: int, news: str) -> bool:
        return await self._database.fetchrow(SAVE, self._namespace, session_id, epoch, seq, news) is not None

    async def release(self, session_id: SessionId, epoch: int, seq: int, news: str) -> ReplicaId | None:
        row = await self._database.fetchrow(RELEASE, self._namespace, session_id, epoch, seq, news)
        return None if row is None else row["holder"]

    async def holder(self, session_id: SessionId) -> ReplicaId | None:
        row = await self._database.look_up_one(HOLDER, self._namespace, session_id)
        return None if row is None else row["holder"]

    async def changed(self, held: Sequence[tuple[SessionId, int, int]]) -> Collection[SessionId]:
        columns = [list(column) for column in zip(*held, strict=True)]
        rows = await self._database.fetch(CHANGED, self._namespace, *columns)
        return {row["session_id"] for row in rows}
