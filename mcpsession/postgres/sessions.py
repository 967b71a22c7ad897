"""Sessions in Postgres: one row each, and every change of it one statement."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime

from mcpsession.model import OpenedStream, ReplicaId, SessionId
from mcpsession.postgres.creation import Creation
from mcpsession.postgres.pool import Database
from mcpsession.postgres.records import COLUMNS, session_of
from mcpsession.postgres.rotation import Rotation
from mcpsession.records import UNCHANGED, Admission, Change, Ended, EndReason, Session
from mcpsession.settings import Settings
from mcpsession.texts import storable

GET = """
SELECT id, owner, incarnation, protocol_version, client_params, initialized, failure, log_level, metadata, ttl,
    created_at, last_active_at,
    CASE WHEN ttl IS NOT NULL THEN extract(epoch FROM expires_at - now())::float8 END AS remaining
FROM mcpsession.sessions
WHERE namespace = $1 AND id = $2 AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
"""

# Rows are locked in order of their ids: two replicas that touch the same sessions must not deadlock. expires_at is
# indexed, so it is moved only when it lags by a step; all other touches stay HOT. A touch that a crash of the server
# takes back costs at most a step of life, hence no wait for the disk. (infinity - now() fails before PG 17.)
TOUCH = """
WITH relaxed AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), locked AS (
    SELECT s.id
    FROM mcpsession.sessions s, relaxed
    WHERE s.namespace = $1 AND s.id = ANY($2::text[]) AND ($5::text IS NULL OR s.owner = $5)
        AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
    ORDER BY s.id
    FOR NO KEY UPDATE OF s
)
UPDATE mcpsession.sessions s
SET last_active_at = now(),
    expires_at = CASE
        WHEN s.expires_at <= now() + make_interval(secs => s.ttl + $3::float8)
            THEN now() + make_interval(secs => s.ttl + $3::float8 + least(s.ttl / 10, $4::float8))
        ELSE s.expires_at END
FROM locked
WHERE s.namespace = $1 AND s.id = locked.id
RETURNING s.id, CASE WHEN s.ttl IS NOT NULL THEN extract(epoch FROM s.expires_at - now())::float8 END AS remaining
"""

# The change and its invalidation are one statement: no replica can keep the old truth once it has read its mail.
CHANGE = """
WITH changed AS (
    UPDATE mcpsession.sessions
    SET ttl = CASE WHEN $6::bool THEN $7::float8 ELSE ttl END,
        last_active_at = CASE WHEN $6::bool THEN now() ELSE last_active_at END,
        expires_at = CASE
            WHEN NOT $6::bool THEN expires_at
            WHEN $7::float8 IS NULL THEN 'infinity'
            ELSE now() + make_interval(secs => $7::float8 + $8::float8 + least($7::float8 / 10, $9::float8)) END,
        log_level = coalesce($10::text, log_level),
        failure = coalesce($11::text, failure)
    WHERE namespace = $1 AND id = $2 AND ($3::text IS NULL OR owner = $3)
        AND status = 'live' AND claimed_by IS NULL AND expires_at > now() AND ($11::text IS NULL OR failure IS NULL)
    RETURNING id
)
INSERT INTO mcpsession.mail (namespace, sender, kind, session_id, expires_at)
SELECT $1, $4, 'changed', id, clock_timestamp() + make_interval(secs => $5::float8)
FROM changed
RETURNING id
"""

# The mail names incarnations: heard late, it must not end what was begun anew under the same id.
END = f"""
WITH doomed AS MATERIALIZED (
    SELECT s.id
    FROM mcpsession.sessions s
    WHERE s.namespace = $1 AND s.id = ANY($2::text[]) AND ($3::text IS NULL OR s.owner = $3)
        AND ($4::float8 IS NULL OR s.last_active_at <= now() - make_interval(secs => $4::float8))
        AND ($9::timestamptz[] IS NULL
            OR (s.id, s.last_active_at) IN (SELECT k.id, k.seen FROM unnest($2::text[], $9) AS k (id, seen)))
        AND s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now()
    ORDER BY s.id
    FOR NO KEY UPDATE OF s
), ended AS (
    UPDATE mcpsession.sessions s
    SET status = CASE WHEN $5::text = 'terminated' THEN 'terminated' ELSE 'removed' END,
        end_reason = $5, ended_at = now(), expires_at = now(), claimed_by = $6::text,
        claimed_at = CASE WHEN $6::text IS NOT NULL THEN now() END
    FROM doomed
    WHERE s.namespace = $1 AND s.id = doomed.id
    RETURNING {COLUMNS}
), hung_up AS (
    UPDATE mcpsession.streams t
    SET finished_at = now(), expires_at = now()
    FROM ended
    WHERE t.namespace = $1 AND t.session_id = ended.id AND t.id = 's'
), posted AS (
    INSERT INTO mcpsession.mail (namespace, sender, kind, body, expires_at)
    SELECT $1, $7, 'ended', json_object_agg(id, incarnation)::text,
        clock_timestamp() + make_interval(secs => $8::float8)
    FROM ended
    HAVING count(*) > 0
    RETURNING id
)
SELECT ended.*, posted.id AS mail_id,
    ARRAY(SELECT r.id FROM mcpsession.replicas r WHERE r.namespace = $1 AND r.dead_at IS NULL ORDER BY r.id) AS replicas
FROM ended CROSS JOIN posted
"""

LOAD_STATE = """
SELECT version, state
FROM mcpsession.sessions
WHERE namespace = $1 AND id = $2 AND ($3::text IS NULL OR owner = $3)
    AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
"""

SAVE_STATE = """
UPDATE mcpsession.sessions
SET state = $4, version = version + 1, last_active_at = now(),
    expires_at = CASE
        WHEN expires_at <= now() + make_interval(secs => ttl + $6::float8)
            THEN now() + make_interval(secs => ttl + $6::float8 + least(ttl / 10, $7::float8))
        ELSE expires_at END
WHERE namespace = $1 AND id = $2 AND version = $3 AND ($5::text IS NULL OR owner = $5)
    AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
RETURNING version
"""


class PostgresSessions:
    """SessionStore over one table. A read costs one SELECT by key; a touch, or an end, of many sessions one UPDATE."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._namespace = settings.namespace
        self._creation = Creation(database, settings)
        self._rotation = Rotation(database, settings)

    async def create(
        self,
        sessions: Sequence[Session],
        opening: OpenedStream | None = None,
        *,
        admission: Admission,
        handled: bool = False,
    ) -> Sequence[Session]:
        return await self._creation.create(sessions, opening, admission=admission, handled=handled)

    async def get(self, session_id: SessionId) -> Session | None:
        row = await self._database.look_up_one(GET, self._namespace, session_id)
        if row is None:
            return None
        values = dict(row)
        # Thousands are kept, of a few kinds of clients: their texts are kept once, while any of them is.
        for shared in ("client_params", "protocol_version"):
            if values[shared] is not None:
                values[shared] = sys.intern(values[shared])
        return Session(metadata=json.loads(values.pop("metadata")), namespace=self._namespace, **values)

    async def touch(
        self, session_ids: Sequence[SessionId], *, owner: str | None = None
    ) -> Mapping[SessionId, float | None]:
        settings = self._settings
        rows = await self._database.look_up(
            TOUCH, self._namespace, [*filter(storable, session_ids)], settings.touch_flush, settings.touch_step, owner
        )
        return {row["id"]: row["remaining"] for row in rows}

    async def change(
        self, session_id: SessionId, change: Change, *, owner: str | None = None, sender: ReplicaId
    ) -> bool:
        settings, new_ttl = self._settings, change.ttl is not UNCHANGED
        mail = await self._database.look_up_one(
            CHANGE,
            self._namespace,
            session_id,
            owner,
            sender,
            settings.mail_ttl,
            new_ttl,
            change.ttl if new_ttl else None,
            settings.touch_flush,
            settings.touch_step,
            None if change.log_level is UNCHANGED else change.log_level,
            None if change.failure is UNCHANGED else change.failure,
        )
        return mail is not None

    async def end(
        self,
        session_ids: Sequence[SessionId],
        reason: EndReason,
        *,
        owner: str | None = None,
        idle_for: float | None = None,
        seen: Sequence[datetime | None] | None = None,
        sender: ReplicaId,
        claim: bool,
    ) -> Ended:
        if seen is None:
            session_ids = [*filter(storable, session_ids)]
        rows = await self._database.look_up(
            END,
            self._namespace,
            session_ids,
            owner,
            idle_for,
            reason,
            sender if claim else None,
            sender,
            self._settings.mail_ttl,
            seen,
        )
        if not rows:
            return Ended()
        return Ended([session_of(row) for row in rows], rows[0]["mail_id"], tuple(rows[0]["replicas"]))

    async def rotate(
        self, session_id: SessionId, new_id: SessionId, *, owner: str | None, new_owner: str | None, sender: ReplicaId
    ) -> Ended:
        return await self._rotation.rotate(session_id, new_id, owner=owner, new_owner=new_owner, sender=sender)

    async def load_state(self, session_id: SessionId, *, owner: str | None = None) -> tuple[int, str] | None:
        row = await self._database.look_up_one(LOAD_STATE, self._namespace, session_id, owner)
        return None if row is None else (row["version"], row["state"])

    async def save_state(
        self, session_id: SessionId, version: int, state: str, *, owner: str | None = None
    ) -> int | None:
        settings = self._settings
        row = await self._database.look_up_one(
            SAVE_STATE, self._namespace, session_id, version, state, owner, settings.touch_flush, settings.touch_step
        )
        return None if row is None else row["version"]
