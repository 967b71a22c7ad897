"""New sessions in Postgres: one statement, unless an id is occupied or a limit is to be kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from asyncpg import Record

from mcpsession.errors import LimitExceededError, SessionExistsError, StoreError, UnhandledError
from mcpsession.model import OpenedStream, SessionId
from mcpsession.postgres.address import UNIQUE_VIOLATION
from mcpsession.postgres.pool import Connection, Database
from mcpsession.postgres.removal import LOCK_STREAMS, REMOVE
from mcpsession.records import Admission, Session
from mcpsession.settings import Settings

# Each lost attempt means that another one's session was there and gone between two statements.
_ATTEMPTS = 10

# The position is that of this very statement's snapshot: what is posted after it is news to these sessions. In order
# of their ids, so that two replicas that create the same ones wait for each other in one direction only. A journal
# that wrote late can have left streams under a free id: then nothing is entered, and the careful way clears them first.
CREATE = """
WITH stale AS (
    SELECT 1 FROM mcpsession.streams t WHERE t.namespace = $1 AND t.session_id = ANY($2::text[]) LIMIT 1
), session AS (
    INSERT INTO mcpsession.sessions
        (namespace, id, incarnation, owner, transport, protocol_version, client_params, initialized, failure, log_level,
         metadata, state, version, ttl, expires_at)
    SELECT $1, n.id, n.incarnation, n.owner, n.transport, n.protocol_version, n.client_params, n.initialized, n.failure,
        n.log_level, n.metadata, n.state, n.version, n.ttl, CASE WHEN n.ttl IS NULL THEN 'infinity'
            ELSE now() + make_interval(secs => n.ttl + $14::float8 + least(n.ttl / 10, $15::float8)) END
    FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bool[], $9::text[],
            $10::text[], $11::text[], $12::text[], $21::bigint[], $13::float8[])
        AS n (id, incarnation, owner, transport, protocol_version, client_params, initialized, failure,
            log_level, metadata, state, version, ttl)
    WHERE NOT EXISTS (SELECT FROM stale)
    ORDER BY n.id
    RETURNING namespace, id, created_at, expires_at
), standalone AS (
    INSERT INTO mcpsession.streams (namespace, session_id, id, kind, delivered_news)
    SELECT namespace, id, 's', 'standalone', pg_current_snapshot()::text || '@' || extract(epoch FROM now())::text
    FROM session
), opening AS (
    INSERT INTO mcpsession.streams
        (namespace, session_id, id, request_ids, answered_ids, last_seq, finished_at, expires_at)
    SELECT namespace, id, $16::text, $17::text[], $17::text[], cardinality($18::text[]), now(),
        now() + make_interval(secs => $20::float8)
    FROM session
    WHERE $16::text IS NOT NULL
), entered AS (
    INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message, request_of)
    SELECT session.namespace, session.id, $16::text, e.seq, e.message, e.request_of
    FROM session, unnest($18::text[], $19::text[]) WITH ORDINALITY AS e (message, request_of, seq)
    WHERE $16::text IS NOT NULL
)
SELECT id, created_at, nullif(expires_at, 'infinity') AS expires_at FROM session
"""

# Under a limit creators take turns; without the lock each would count before the others have come.
ADMIT = """
SELECT pg_advisory_xact_lock(k.key) FROM unnest($1::bigint[]) AS k (key)
"""

# Sorted, so that it walks the index: the table may be another namespace's for the most part.
LIVING = """
SELECT count(*) AS living
FROM (
    SELECT 1
    FROM mcpsession.sessions
    WHERE namespace = $1 AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
    ORDER BY expires_at
    LIMIT $2
) AS those
"""

LIVING_OF_OWNER = """
SELECT count(*) AS living
FROM (
    SELECT 1
    FROM mcpsession.sessions
    WHERE namespace = $1 AND owner = $2 AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
    LIMIT $3
) AS those
"""

# Each id's key must be in our hands before anything under it is cleared away: whoever creates it at the same time waits
# for our transaction, or we for theirs.
HOLD = """
INSERT INTO mcpsession.sessions (namespace, id, status, expires_at)
SELECT $1, h.id, 'removed', now()
FROM unnest($2::text[]) AS h (id)
ORDER BY h.id
ON CONFLICT DO NOTHING
"""

# Handlers are owed to one that expired and nobody has claimed, and to one whose claimant is dead. (The owed are the
# business of those who have handlers.)
OCCUPIED = """
SELECT s.id,
    CASE WHEN s.status = 'terminated' THEN s.ended_at + make_interval(secs => $3::float8) > now()
        ELSE s.status = 'live' AND s.claimed_by IS NULL AND s.expires_at > now() END AS taken,
    CASE WHEN s.claimed_by IS NULL THEN s.status = 'live'
        ELSE NOT EXISTS (
            SELECT FROM mcpsession.replicas r
            WHERE r.namespace = $1 AND r.id = s.claimed_by AND r.dead_at IS NULL) END AS owed
FROM mcpsession.sessions s
WHERE s.namespace = $1 AND s.id = ANY($2::text[])
ORDER BY s.id
FOR UPDATE OF s
"""


class Creation:
    """Enters sessions, all or none."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._namespace = settings.namespace

    async def create(
        self, sessions: Sequence[Session], opening: OpenedStream | None, *, admission: Admission, handled: bool
    ) -> Sequence[Session]:
        """See SessionStore.create."""
        ids = [session.id for session in sessions]
        if not ids:
            return []
        if len(set(ids)) < len(ids):
            raise SessionExistsError(next(id_ for id_ in ids if ids.count(id_) > 1))
        ways = [self._enter_carefully] * _ATTEMPTS
        if admission == Admission():
            ways.insert(0, self._enter)
        for enter in ways:
            try:
                rows = await enter(sessions, opening, admission, handled)
            except StoreError as error:
                if error.sqlstate != UNIQUE_VIOLATION:
                    raise
            else:
                if rows:
                    return self._stored(sessions, rows, opening)
        raise SessionExistsError(ids[0])

    async def _enter(
        self, sessions: Sequence[Session], opening: OpenedStream | None, admission: Admission, handled: bool
    ) -> list[Record]:
        """None come back if an id has a past."""
        del admission, handled
        return await self._database.fetch(CREATE, *self._row(sessions, opening))

    async def _enter_carefully(
        self, sessions: Sequence[Session], opening: OpenedStream | None, admission: Admission, handled: bool
    ) -> list[Record]:
        ids = [session.id for session in sessions]
        async with self._database.transaction() as connection:
            await self._queue(connection, sessions, admission)
            await connection.execute(HOLD, self._namespace, ids)
            occupied = await connection.fetch(OCCUPIED, self._namespace, ids, self._settings.tombstone_ttl)
            _refuse(ids, occupied, handled)
            if len(occupied) < len(ids):
                # One was removed in between, so its key is not ours.
                return []
            await connection.execute(LOCK_STREAMS, self._namespace, ids)
            # A tombstone that stays would have been refused above: these go whole.
            await connection.execute(REMOVE, self._namespace, ids, self._settings.tombstone_ttl)
            await self._count(connection, sessions, admission)
            return await connection.fetch(CREATE, *self._row(sessions, opening))

    def _row(self, sessions: Sequence[Session], opening: OpenedStream | None) -> tuple[object, ...]:
        settings = self._settings
        events = opening.events if opening else ()
        return (
            self._namespace,
            [session.id for session in sessions],
            [session.incarnation for session in sessions],
            [session.owner for session in sessions],
            [session.transport for session in sessions],
            [session.protocol_version for session in sessions],
            [session.client_params for session in sessions],
            [session.initialized for session in sessions],
            [session.failure for session in sessions],
            [session.log_level for session in sessions],
            [json.dumps(dict(session.metadata)) for session in sessions],
            [json.dumps(dict(session.state)) for session in sessions],
            [session.ttl for session in sessions],
            settings.touch_flush,
            settings.touch_step,
            opening.stream_id if opening else None,
            list(opening.request_ids) if opening else [],
            [event.message for event in events],
            [event.request_of for event in events],
            settings.stream_ttl,
            [session.version for session in sessions],
        )

    async def _queue(self, connection: Connection, sessions: Sequence[Session], admission: Admission) -> None:
        keys = set() if admission.max_sessions is None else {_key(self._namespace)}
        if admission.max_per_owner is not None:
            keys |= {_key(self._namespace, owner) for owner in _owners(sessions)}
        if keys:
            await connection.execute(ADMIT, sorted(keys))

    async def _count(self, connection: Connection, sessions: Sequence[Session], admission: Admission) -> None:
        most = admission.max_sessions
        if most is not None:
            [row] = await connection.fetch(LIVING, self._namespace, most)
            _admit("max_sessions", most, row["living"], len(sessions))
        most = admission.max_per_owner
        if most is not None:
            for owner, count in _owners(sessions).items():
                [row] = await connection.fetch(LIVING_OF_OWNER, self._namespace, owner, most)
                _admit("max_sessions_per_owner", most, row["living"], count)

    def _stored(
        self, sessions: Sequence[Session], rows: Sequence[Record], opening: OpenedStream | None
    ) -> Sequence[Session]:
        by_id = {row["id"]: row for row in rows}
        return [
            replace(
                session,
                namespace=self._namespace,
                metadata=_copied(session.metadata),
                state=_copied(session.state),
                remaining=None if session.ttl is None else self._settings.lifetime(session.ttl),
                created_at=(row := by_id[session.id])["created_at"],
                last_active_at=row["created_at"],
                expires_at=row["expires_at"],
                event_count=len(opening.events) if opening else 0,
                initializing=False,
                status="live",
            )
            for session in sessions
        ]


def _refuse(ids: Sequence[SessionId], occupied: Sequence[Record], handled: bool) -> None:
    taken = {row["id"] for row in occupied if row["taken"]}
    if taken:
        raise SessionExistsError(next(id_ for id_ in ids if id_ in taken))
    if handled and (owed := [row["id"] for row in occupied if row["owed"]]):
        raise UnhandledError(owed)


def _owners(sessions: Sequence[Session]) -> dict[str, int]:
    """How many are new of each owner that is somebody."""
    owners = [session.owner for session in sessions if session.owner]
    return {owner: owners.count(owner) for owner in sorted(set(owners))}


def _admit(limit: str, allowed: int, living: int, new: int) -> None:
    if living + new > allowed:
        raise LimitExceededError(limit, allowed)


def _copied(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """As the store gives it back: a tuple has become a list."""
    return json.loads(json.dumps(dict(value))) if value else {}


def _key(*of: str) -> int:
    digest = hashlib.blake2b("\x00".join(("mcpsession", *of)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
