"""What the application does when a session ends: its handlers, told before the session is removed.

Once for each session without faults, at least once with them: a session is claimed in the store, by one replica, before
its handlers run, and what a dead replica had claimed is claimed again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import anyio

from mcpsession.calling import call
from mcpsession.errors import MCPSessionError
from mcpsession.model import ReplicaId, SessionId, fingerprint
from mcpsession.records import Session
from mcpsession.session_contracts import Reaping
from mcpsession.settings import Settings
from mcpsession.telemetry import Telemetry

logger = logging.getLogger(__name__)

ExpiryHandler = Callable[[Session], Awaitable[None] | None]

# Few at a time: while its handlers run, a claimed session is in this replica's hands alone.
_CLAIMED = 100
_AT_ONCE = 8
# What a crash leaves is told again, and that should be little: those told are removed about so often.
_REMOVE_EVERY = 0.1


class ExpiryHandlers:
    """The handlers of this replica, and the sessions that are in their hands now."""

    def __init__(
        self, reaping: Reaping, settings: Settings, *, me: Callable[[], ReplicaId], telemetry: Telemetry
    ) -> None:
        self._reaping = reaping
        self._timeout = settings.handler_timeout
        self._me = me
        self._telemetry = telemetry
        self._handlers: list[ExpiryHandler] = []
        self._busy: dict[SessionId, int] = {}
        self._lately_held: set[SessionId] = set()
        self._claiming = anyio.Lock()
        self.closing = False
        """This replica goes: what is being told is told to its end, nothing more is begun."""

    def __len__(self) -> int:
        return len(self._handlers)

    def add(self, handler: ExpiryHandler) -> None:
        """Tell `handler` of each session that ends, after those that were added before it.

        Raises TypeError for what cannot be called.
        """
        if not callable(handler):
            raise TypeError(f"an expiry handler is a function of a session, sync or async, not {handler!r}")
        self._handlers.append(handler)

    @contextmanager
    def holding(self, session_ids: Sequence[SessionId]) -> Iterator[None]:
        """These are being told of, here: nobody else in this replica claims them meanwhile."""
        self._lately_held.update(session_ids)
        for session_id in session_ids:
            self._busy[session_id] = self._busy.get(session_id, 0) + 1
        try:
            yield
        finally:
            for session_id in session_ids:
                self._busy[session_id] -= 1
                if not self._busy[session_id]:
                    del self._busy[session_id]

    async def bury(self, only: Sequence[SessionId] | None = None) -> int:
        """Claim what expired, and what the dead had claimed; tell the handlers; remove it. Returns how many it took."""
        removed = 0
        while self._handlers and not self.closing:
            with ExitStack() as held:
                # Until they are held, another claim of this replica would take what this one claimed for forgotten.
                async with self._claiming:
                    claimed = await self._claim(only)
                    held.enter_context(self.holding([session.id for session in claimed]))
                if not claimed:
                    break
                took = await self.tell(claimed)
            removed += took
            if not took:
                # Whatever keeps them here would keep them in the next round as well.
                break
        return removed

    async def _claim(self, only: Sequence[SessionId] | None) -> Sequence[Session]:
        self._lately_held.clear()
        claimed = await self._reaping.claim(_CLAIMED, by=self._me(), busy=[*self._busy], only=only)
        # What came into other hands here while the statement was on its way is theirs.
        return [session for session in claimed if session.id not in self._lately_held]

    async def tell(self, sessions: Sequence[Session]) -> int:
        """Tell the handlers of sessions that are claimed by this replica, and remove them; returns how many it took."""
        removed = 0
        told: list[Session] = []
        waiting = list(reversed(sessions))
        all_told = anyio.Event()

        async def work() -> None:
            while waiting and not self.closing:
                session = waiting.pop()
                for handler in self._handlers:
                    await self._call(handler, session)
                told.append(session)

        async def remove() -> None:
            nonlocal removed
            gone = told.copy()
            if gone:
                keys = [(session.id, session.incarnation) for session in gone]
                removed += await self._reaping.remove(keys, by=self._me())
                del told[: len(gone)]

        async def remove_now_and_then() -> None:
            while not all_told.is_set():
                with anyio.move_on_after(_REMOVE_EVERY):
                    await all_told.wait()
                # Once more at the end, and that time whoever asked hears of it.
                with suppress(MCPSessionError):
                    await remove()

        with self.holding([session.id for session in sessions]):
            async with anyio.create_task_group() as removing:
                removing.start_soon(remove_now_and_then)
                async with anyio.create_task_group() as workers:
                    for _ in range(min(_AT_ONCE, len(sessions))):
                        workers.start_soon(work)
                all_told.set()
            await remove()
        return removed

    async def _call(self, handler: ExpiryHandler, session: Session) -> None:
        """Nothing that a handler does keeps its session, or the others, from going."""
        then = f"session {fingerprint(session.id)} goes all the same"
        if not await call(handler, session, at_most=self._timeout, what="expiry handler", then=then, logger=logger):
            self._telemetry.count("mcpsession_failed_expiry_handlers_total")
