"""How a session gets to know its client, in memory: a claim on its row, with a lease."""

from __future__ import annotations

import time
from dataclasses import replace

from mcpsession.memory.rows import SessionRow
from mcpsession.memory.tables import Tables, check_texts
from mcpsession.model import SessionId


class MemoryInitialization:
    """Initialization over the session's row."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def claim(self, session_id: SessionId, claim: str, lease: float, *, owner: str | None = None) -> bool:
        with self._tables.lock:
            row, now = self._tables.live(session_id, owner), time.monotonic()
            if row is None or row.session.phase != "pre_init" or row.is_initializing(now):
                return False
            row.initializer, row.lease_ends = claim, now + lease
            return True

    async def complete(
        self, session_id: SessionId, claim: str, protocol_version: str, client_params: str, *, owner: str | None = None
    ) -> bool:
        check_texts(protocol_version, client_params)
        with self._tables.lock:
            row = self._claimed(session_id, claim, owner)
            if row is None or row.session.phase != "pre_init":
                return False
            row.session = replace(row.session, protocol_version=protocol_version, client_params=client_params)
            row.initializer = None
            return True

    async def release(self, session_id: SessionId, claim: str, *, owner: str | None = None) -> bool:
        with self._tables.lock:
            row = self._claimed(session_id, claim, owner)
            if row is not None:
                row.initializer = None
            return row is not None

    def _claimed(self, session_id: SessionId, claim: str, owner: str | None) -> SessionRow | None:
        """The live session that this claim, which has not run out, is on."""
        row = self._tables.live(session_id, owner)
        return row if row and row.initializer == claim and row.is_initializing(time.monotonic()) else None

    async def mark_initialized(self, session_id: SessionId, *, owner: str | None = None) -> bool:
        with self._tables.lock:
            row = self._tables.live(session_id, owner)
            if row is None or row.session.failure is not None or row.session.client_params is None:
                return False
            row.session = replace(row.session, initialized=True)
            return True
