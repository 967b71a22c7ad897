"""How much of the server's log a session wants: `logging/setLevel` is kept with the session, on every replica.

A session that never said wants everything. The level comes with the session that a request loads; a call that still
runs when its session changes looks again at its next log message.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any

from mcpsession.errors import MCPSessionError
from mcpsession.model import SessionId
from mcpsession.news import LEVELS, LOG_MESSAGE
from mcpsession.records import Session

logger = logging.getLogger(__name__)

_RANKS = {level: rank for rank, level in enumerate(LEVELS)}

# Past so many changes all sessions count as changed: whoever remembers one from before them looks again.
_MOST = 10_000


class SessionChanges:
    """Which sessions changed lately, as this replica heard."""

    def __init__(self) -> None:
        self._changes: dict[SessionId, int] = {}
        self._numbers = count(1)
        self._all = 0

    def note(self, session_id: SessionId) -> None:
        if len(self._changes) >= _MOST and session_id not in self._changes:
            self.note_all()
        self._changes[session_id] = next(self._numbers)

    def note_all(self) -> None:
        """Any session may have changed."""
        self._changes.clear()
        self._all = next(self._numbers)

    def latest(self, session_id: SessionId) -> int:
        """A number that grows with each change of the session; 0 while none was heard of."""
        return self._changes.get(session_id, self._all)


class LogGate:
    """Lets a session's log messages through, or not, while one request of it runs."""

    __slots__ = ("_changes", "_level", "_load", "_seen", "_session_id")

    def __init__(
        self, session: Session, changes: SessionChanges, load: Callable[[SessionId], Awaitable[Session | None]]
    ) -> None:
        self._session_id = session.id
        self._level = session.log_level
        self._changes = changes
        self._load = load
        # Nothing: a change that was heard between the session's loading and now must be looked at.
        self._seen = 0

    async def passes(self, method: str, params: Mapping[str, Any] | None) -> bool:
        """Whether a notification may be sent: any but a log message below the session's level."""
        if method != LOG_MESSAGE:
            return True
        # Taken before the look, so that a change during it is looked at by the next message.
        latest = self._changes.latest(self._session_id)
        if latest != self._seen:
            await self._look_again(latest)
        return is_wanted((params or {}).get("level"), self._level)

    def doubt(self) -> None:
        """Look at the level again before the next log message, whatever was heard."""
        self._seen = -1

    async def _look_again(self, latest: int) -> None:
        try:
            session = await self._load(self._session_id)
        except MCPSessionError as error:
            logger.warning("a session's log level could not be read again, the one known before counts: %s", error)
            return
        if session is not None:
            self._level, self._seen = session.log_level, latest


def is_wanted(level: object, wanted: str | None) -> bool:
    """Whether a message of this level is for a session that wants those from `wanted` on; None: all."""
    if wanted is None or not isinstance(level, str):
        return True
    return _RANKS.get(level, len(LEVELS)) >= _RANKS.get(wanted, 0)
