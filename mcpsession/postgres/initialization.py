"""Who initializes a session, and with which client, in Postgres: each step one conditional UPDATE of its row."""

from __future__ import annotations

from mcpsession.model import SessionId
from mcpsession.postgres.pool import Database
from mcpsession.settings import Settings

# A claim whose lease ran out is none. Those who claim at once wait for the row's lock, and see that they came second.
CLAIM_INITIALIZATION = """
UPDATE mcpsession.sessions
SET init_claim = $3, init_claim_until = now() + make_interval(secs => $4::float8)
WHERE namespace = $1 AND id = $2 AND ($5::text IS NULL OR owner = $5)
    AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
    AND client_params IS NULL AND failure IS NULL AND NOT initialized
    AND (init_claim_until IS NULL OR init_claim_until <= now())
RETURNING id
"""

COMPLETE = """
UPDATE mcpsession.sessions
SET protocol_version = $4, client_params = $5, init_claim = NULL, init_claim_until = NULL
WHERE namespace = $1 AND id = $2 AND ($6::text IS NULL OR owner = $6)
    AND init_claim = $3 AND init_claim_until > now()
    AND status = 'live' AND claimed_by IS NULL AND expires_at > now() AND client_params IS NULL AND failure IS NULL
RETURNING id
"""

RELEASE = """
UPDATE mcpsession.sessions
SET init_claim = NULL, init_claim_until = NULL
WHERE namespace = $1 AND id = $2 AND ($4::text IS NULL OR owner = $4)
    AND init_claim = $3 AND init_claim_until > now()
    AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
RETURNING id
"""

MARK_INITIALIZED = """
UPDATE mcpsession.sessions
SET initialized = true
WHERE namespace = $1 AND id = $2 AND ($3::text IS NULL OR owner = $3)
    AND status = 'live' AND claimed_by IS NULL AND expires_at > now()
    AND client_params IS NOT NULL AND failure IS NULL
RETURNING id
"""


class PostgresInitialization:
    """Initialization over the sessions' table."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._namespace = settings.namespace

    async def claim(self, session_id: SessionId, claim: str, lease: float, *, owner: str | None = None) -> bool:
        return await self._did(CLAIM_INITIALIZATION, session_id, claim, lease, owner)

    async def complete(
        self, session_id: SessionId, claim: str, protocol_version: str, client_params: str, *, owner: str | None = None
    ) -> bool:
        return await self._did(COMPLETE, session_id, claim, protocol_version, client_params, owner)

    async def release(self, session_id: SessionId, claim: str, *, owner: str | None = None) -> bool:
        return await self._did(RELEASE, session_id, claim, owner)

    async def mark_initialized(self, session_id: SessionId, *, owner: str | None = None) -> bool:
        return await self._did(MARK_INITIALIZED, session_id, owner)

    async def _did(self, statement: str, *args: object) -> bool:
        return await self._database.look_up_one(statement, self._namespace, *args) is not None
