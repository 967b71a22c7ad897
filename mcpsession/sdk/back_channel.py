"""Server-to-client requests: who waits here for which answer, and whose answer a client has sent.

The ids are ours: the waiting replica's id and a random part. A waiter is found by session and id, so no session can
answer another's question or move its progress.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import ErrorData

from mcpsession.model import ReplicaId, SessionId
from mcpsession.records import Session

logger = logging.getLogger(__name__)

_ID = re.compile(r"([0-9a-f]{18})-[0-9a-f]{24}")

# A client that reports faster than its callback listens loses the oldest reports, never the answer.
_MOST_REPORTS = 1000

Outcome = dict[str, Any] | ErrorData


def new_request_id(replica: ReplicaId) -> str:
    return f"{replica}-{secrets.token_hex(12)}"


def waiting_replica(request_id: object) -> ReplicaId | None:
    """The replica that waits for the answer to this id; None if the id is not one of ours."""
    if isinstance(request_id, str) and (match := _ID.fullmatch(request_id)):
        return match[1]
    return None


class Waiter:
    """One unanswered question."""

    def __init__(self, incarnation: int, on_progress: ProgressFnT | None) -> None:
        self.incarnation = incarnation
        """The asking session's; another one may come to have the same id."""
        self._on_progress = on_progress
        self._outcome: Outcome | None = None
        self._reports: deque[tuple[float, float | None, str | None]] = deque(maxlen=_MOST_REPORTS)
        self._news = anyio.Event()

    def answer(self, outcome: Outcome) -> None:
        """The first answer counts."""
        if self._outcome is None:
            self._outcome = outcome
            self._news.set()

    def progress(self, progress: float, total: float | None, message: str | None) -> None:
        """The client is at it. Reported by the one who waits, in order, before the answer."""
        if self._on_progress is not None:
            self._reports.append((progress, total, message))
            self._news.set()

    async def wait(self) -> Outcome:
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            while self._reports and self._on_progress is not None:
                try:
                    await self._on_progress(*self._reports.popleft())
                except Exception:  # the boundary: a bad callback must not cost the answer
                    logger.exception("a progress callback raised")
            if self._outcome is not None:
                return self._outcome


class Waiters:
    """All questions of this replica that are not answered yet."""

    def __init__(self) -> None:
        self._waiters: dict[tuple[SessionId, str], Waiter] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    @contextmanager
    def waiting(self, session: Session, request_id: str, on_progress: ProgressFnT | None) -> Iterator[Waiter]:
        waiter = self._waiters[session.id, request_id] = Waiter(session.incarnation, on_progress)
        try:
            yield waiter
        finally:
            del self._waiters[session.id, request_id]

    def find(self, session_id: SessionId, request_id: str) -> Waiter | None:
        return self._waiters.get((session_id, request_id))

    def answer(self, session_id: SessionId, request_id: str, outcome: Outcome) -> bool:
        """Hand an answer over; False if nobody waits for it (any more)."""
        waiter = self.find(session_id, request_id)
        if waiter is not None:
            waiter.answer(outcome)
        return waiter is not None

    def fail_session(self, session_id: SessionId, incarnation: int, error: ErrorData) -> None:
        """Nobody will answer: the session has ended."""
        for (waiting_session, _), waiter in list(self._waiters.items()):
            if waiting_session == session_id and waiter.incarnation == incarnation:
                waiter.answer(error)
