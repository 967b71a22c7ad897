"""Sessions whose end this replica has applied: what was loaded before it must not be used after it."""

from __future__ import annotations

from collections import OrderedDict

from mcpsession.model import SessionId
from mcpsession.records import Session

# A request needs an end only for as long as it takes to load its session and to be registered.
_MOST = 20_000


class EndedSessions:
    """The latest ends, by id and incarnation. A new session with an old id is not among them."""

    def __init__(self) -> None:
        self._ended: OrderedDict[tuple[SessionId, int], None] = OrderedDict()

    def __contains__(self, session: Session) -> bool:
        return (session.id, session.incarnation) in self._ended

    def note(self, session_id: SessionId, incarnation: int) -> None:
        self._ended[session_id, incarnation] = None
        while len(self._ended) > _MOST:
            self._ended.popitem(last=False)
