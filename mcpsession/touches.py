"""Which sessions were active, collected and written together."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mcpsession.model import SessionId
from mcpsession.session_contracts import SessionStore

logger = logging.getLogger(__name__)

# A statement over more ids gains nothing and holds their locks for longer.
_BATCH = 500


class Touches:
    """Costs nothing to note; one statement a flush for each 500 sessions that were active."""

    def __init__(self, store: SessionStore, extend: Callable[[SessionId, float | None], None]) -> None:
        self._store = store
        self._extend = extend
        self._active: set[SessionId] = set()

    def note(self, session_id: SessionId) -> None:
        """The session was active just now."""
        self._active.add(session_id)

    async def touch(self, session_id: SessionId) -> bool:
        """Touch one session at once; False if it is not live."""
        self._active.discard(session_id)
        remaining = await self._store.touch([session_id])
        if session_id in remaining:
            self._extend(session_id, remaining[session_id])
        return session_id in remaining

    async def flush(self) -> None:
        """Write what was noted. What could not be written is noted again."""
        active, self._active = self._active, set()
        while active:
            batch = [active.pop() for _ in range(min(_BATCH, len(active)))]
            try:
                for session_id, remaining in (await self._store.touch(batch)).items():
                    self._extend(session_id, remaining)
            except BaseException:
                self._active.update(batch, active)
                raise
