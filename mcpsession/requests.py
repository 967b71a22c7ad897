"""`layer.requests`: what is under way for whom, on which replica, since when; and how to stop it, from anywhere.

Two kinds: MCP clients' calls, which the log knows by their streams, and what the application tracks itself. Costs one
statement a look, and nothing for calls that nobody looks at.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from mcpsession.allowed import ALLOWED
from mcpsession.errors import DuplicateRequestError, SessionNotFoundError, StoreError, StoreUnavailableError
from mcpsession.event_contracts import RequestRows
from mcpsession.event_records import RequestInfo
from mcpsession.model import ReplicaId, SessionId
from mcpsession.settings import Settings
from mcpsession.texts import LONGEST_METHOD, check_owner, check_session_id, check_text, request_id_text

logger = logging.getLogger(__name__)

RequestId = int | str

_PAGE = 1000
# The client reads it in its call's error.
_LONGEST_REASON = 500
# Whoever leaves a tracked request waits no longer than this for a store that is away; its time then takes it out.
_COMPLETE_DEADLINE = 5.0


class Cancels(Protocol):
    """Reaches what runs in replicas."""

    async def find(self, session_id: SessionId, request_id: RequestId, owner: str | None) -> RequestInfo | None:
        """A call that runs on this very replica, whether the log knows it or not."""
        ...

    def logs(self, session_id: SessionId, request_id: RequestId) -> bool:
        """Whether a call that runs on this very replica is in the log, or on its way there."""
        ...

    async def everywhere(self, session_id: SessionId, request_id: RequestId, reason: str) -> None:
        """Stop it wherever it runs; durable when it returns."""
        ...


class Requests:
    """Requests under way, of live sessions, on living replicas. `1` and `"1"` are two ids.

    As `layer.requests` it sees those of all owners; `of(owner)` sees one owner's only, and to it another owner's
    session and one that never was are the same. Every method raises ValueError for what can be no request's id, and
    StoreUnavailableError.

    Calls answered in JSON mode are not in the log: only the replica that runs them finds and cancels them. In that mode
    a tool that tracks itself under its own id can be found, and cancelled, from anywhere; in the other its id is under
    way already.
    """

    def __init__(
        self,
        rows: RequestRows,
        cancels: Cancels,
        settings: Settings,
        me: Callable[[], ReplicaId],
        *,
        owner: str | None = None,
    ) -> None:
        self._rows = rows
        self._cancels = cancels
        self._settings = settings
        self._me = me
        self._owner = owner

    def of(self, owner: str) -> Requests:
        """The requests of one owner's sessions; of the anonymous, for an empty one.

        Raises TypeError for what is no text: a user that is missing must not become everybody.
        """
        check_owner(owner, "requests")
        return Requests(self._rows, self._cancels, self._settings, self._me, owner=owner)

    # Tracking

    async def track(
        self,
        session_id: SessionId,
        request_id: RequestId,
        method: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # of the request, not of this call
    ) -> RequestInfo:
        """Enter a request of the application's own; on every replica it counts as under way when this returns.

        Until it is completed or cancelled, for `timeout` seconds (default: the setting `request_timeout`) at most, and
        while this replica lives.

        Raises:
            SessionNotFoundError: the session is not live.
            DuplicateRequestError: this id is under way in the session, tracked or as a client's call.
            ValueError: an id, a method (1 to 200 characters) or a timeout that cannot be.
        """
        check_session_id(session_id)
        key = request_id_text(request_id)
        if not isinstance(method, str) or not 0 < len(method) <= LONGEST_METHOD:
            raise ValueError(f"method={method!r:.80} is not allowed: a text of 1 to {LONGEST_METHOD} characters")
        check_text(method)
        seconds = self._settings.request_timeout if timeout is None else timeout
        allowed = ALLOWED["request_timeout"]
        if not allowed.admits(seconds):
            raise ValueError(f"timeout={timeout!r} is not allowed: {allowed.what}")
        if self._cancels.logs(session_id, request_id) and await self.has(session_id, request_id):
            # Its stream, which may be on its way, would find this in its place, and the call would end for it.
            raise DuplicateRequestError(request_id)
        info = await self._rows.track(session_id, key, method, float(seconds), owner=self._owner, by=self._me())
        if info is None:
            raise SessionNotFoundError(session_id)
        return info

    async def complete(self, session_id: SessionId, request_id: RequestId) -> RequestInfo | None:
        """Take out a tracked request and say how long it took; None if it is not there (any more)."""
        check_session_id(session_id)
        return await self._rows.complete(session_id, request_id_text(request_id), owner=self._owner)

    @asynccontextmanager
    async def tracking(
        self,
        session_id: SessionId,
        request_id: RequestId,
        method: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # of the request, not of this call
    ) -> AsyncIterator[RequestInfo]:
        """Track a request while inside; whatever happens in there, it is completed on the way out.

        Raises what `track` raises.
        """
        # Cut off in the middle it might be entered all the same, and nobody would complete it.
        with anyio.CancelScope(shield=True):
            info = await self.track(session_id, request_id, method, timeout=timeout)
        try:
            yield info
        finally:
            with anyio.move_on_after(_COMPLETE_DEADLINE, shield=True):
                await self._complete_if_possible(info)

    async def _complete_if_possible(self, info: RequestInfo) -> None:
        key = request_id_text(info.request_id)
        try:
            # This one: its time may have been over, and its id somebody else's since.
            await self._rows.complete(info.session_id, key, owner=self._owner, begun=info.started_at)
        except (StoreUnavailableError, StoreError) as error:
            # What happened inside matters more than this.
            logger.warning("a tracked request could not be completed: %s; it is taken out when its time is over", error)

    # Looking

    async def has(self, session_id: SessionId, request_id: RequestId) -> bool:
        """Whether it is under way."""
        return await self.get(session_id, request_id) is not None

    async def get(self, session_id: SessionId, request_id: RequestId) -> RequestInfo | None:
        """The request that is under way with this id, tracked or a client's call; None if there is none."""
        check_session_id(session_id)
        found = await self._rows.find(session_id, request_id_text(request_id), owner=self._owner)
        return found or await self._cancels.find(session_id, request_id, self._owner)

    async def list(
        self, session_id: SessionId | None = None, *, after: RequestInfo | None = None, limit: int = _PAGE
    ) -> Sequence[RequestInfo]:
        """A page of what is under way, for one session or for all; the next one begins `after` the last of this.

        What begins or ends between two pages may be missing; nothing comes twice.
        """
        if session_id is not None:
            check_session_id(session_id)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit={limit!r:.60} is not allowed: a whole number of at least 1")
        past = ("", "") if after is None else (after.session_id, request_id_text(after.request_id))
        return await self._rows.running(session_id, owner=self._owner, after=past, limit=limit)

    async def each(self, session_id: SessionId | None = None) -> AsyncIterator[RequestInfo]:
        """Every request that is under way, for one session or for all, page by page."""
        last: RequestInfo | None = None
        while page := await self.list(session_id, after=last):
            for info in page:
                yield info
            if len(page) < _PAGE:
                return
            last = page[-1]

    # Ending

    async def cancel(
        self, session_id: SessionId, request_id: RequestId, reason: str | None = None
    ) -> RequestInfo | None:
        """Stop a request wherever it runs, and say what it was and how long it took; None if it is not under way.

        A client's call ends with -32800 and the reason (its first 500 characters). A tracked one is taken out. Durable
        when it returns; the handler hears of it a moment later, and ends when it lets itself be cancelled.
        """
        key, reason = request_id_text(request_id), _checked(reason)
        found = await self.get(session_id, request_id)
        if found is not None and found.tracked:
            # Of those who complete and cancel it at once, one succeeds.
            found = await self._rows.complete(session_id, key, owner=self._owner, begun=found.started_at)
        if found is not None:
            await self._cancels.everywhere(session_id, request_id, reason)
        return found


def _checked(reason: str | None) -> str:
    if reason is None:
        return ""
    if not isinstance(reason, str):
        raise TypeError(f"a reason is text, not {type(reason).__name__}")
    check_text(reason)
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 1]}…"
