"""A new id for a living session, in Postgres: its row is copied, all else moves, the old row becomes a tombstone."""

from __future__ import annotations

from dataclasses import replace

from mcpsession.errors import SessionExistsError, StoreError
from mcpsession.model import ReplicaId, SessionId
from mcpsession.postgres.address import UNIQUE_VIOLATION
from mcpsession.postgres.pool import Database
from mcpsession.postgres.records import COLUMNS, session_of
from mcpsession.postgres.removal import LOCK_STREAMS
from mcpsession.records import Ended, new_incarnation
from mcpsession.settings import Settings
from mcpsession.texts import storable

LOCK_LIVE = f"""
SELECT {COLUMNS}
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND s.id = $2 AND ($3::text IS NULL OR s.owner = $3)
    AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
FOR UPDATE OF s
"""

# After the locks, as with a removal: what a journal wrote while we waited for them moves, too.
ROTATE = """
WITH copied AS (
    INSERT INTO mcpsession.sessions
        (namespace, id, incarnation, owner, transport, protocol_version, client_params, initialized, init_claim,
         init_claim_until, failure, log_level, metadata, state, version, ttl, created_at, last_active_at, expires_at)
    SELECT namespace, $3, $4, coalesce($5::text, owner), transport, protocol_version, client_params, initialized,
        init_claim, init_claim_until, failure, log_level, metadata, state, version, ttl, created_at, last_active_at,
        expires_at
    FROM mcpsession.sessions
    WHERE namespace = $1 AND id = $2
), streams_moved AS (
    -- The holder and the followers hear that the old session ended; nobody waits for them.
    UPDATE mcpsession.streams SET session_id = $3, holder = NULL, released_epoch = holder_epoch, followers = '{}'
    WHERE namespace = $1 AND session_id = $2
), events_moved AS (
    UPDATE mcpsession.events SET session_id = $3 WHERE namespace = $1 AND session_id = $2
), subscriptions_moved AS (
    UPDATE mcpsession.subscriptions SET session_id = $3 WHERE namespace = $1 AND session_id = $2
), news_moved AS (
    -- What its client has not heard yet; the transactions stay the same, and so do positions.
    UPDATE mcpsession.mail SET session_id = $3, incarnation = $4
    WHERE namespace = $1 AND session_id = $2 AND kind = 'news'
), buried AS (
    UPDATE mcpsession.sessions
    SET status = 'terminated', end_reason = 'terminated', ended_at = now(), state = '{}', metadata = '{}',
        client_params = NULL, expires_at = now() + make_interval(secs => $7::float8)
    WHERE namespace = $1 AND id = $2
    RETURNING id, incarnation, ended_at
)
INSERT INTO mcpsession.mail (namespace, sender, kind, body, expires_at)
SELECT $1, $6, 'ended', json_build_object(id, incarnation)::text, clock_timestamp() + make_interval(secs => $8::float8)
FROM buried
RETURNING id, (SELECT ended_at FROM buried) AS ended_at,
    ARRAY(SELECT r.id FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.dead_at IS NULL ORDER BY r.id) AS replicas
"""


class Rotation:
    """Rotates ids, one transaction each."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._namespace = settings.namespace

    async def rotate(
        self, session_id: SessionId, new_id: SessionId, *, owner: str | None, new_owner: str | None, sender: ReplicaId
    ) -> Ended:
        """See SessionStore.rotate."""
        settings, incarnation = self._settings, new_incarnation()
        if not (storable(session_id) and storable(owner or "")):
            return Ended()
        try:
            async with self._database.transaction() as connection:
                old = await connection.fetchrow(LOCK_LIVE, self._namespace, session_id, owner)
                if old is None:
                    return Ended()
                await connection.execute(LOCK_STREAMS, self._namespace, [session_id])
                mail = await connection.fetchrow(
                    ROTATE,
                    self._namespace,
                    session_id,
                    new_id,
                    incarnation,
                    new_owner,
                    sender,
                    settings.tombstone_ttl,
                    settings.mail_ttl,
                )
        except StoreError as error:
            if error.sqlstate == UNIQUE_VIOLATION:
                raise SessionExistsError(new_id) from error
            raise
        assert mail is not None
        session = session_of(old)
        ended = replace(session, status="terminated", end_reason="terminated", ended_at=mail["ended_at"], remaining=0.0)
        successor = replace(
            session, id=new_id, owner=session.owner if new_owner is None else new_owner, incarnation=incarnation
        )
        return Ended([ended], mail["id"], tuple(mail["replicas"]), successor)
