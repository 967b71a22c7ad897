"""What the application does when a session ends: its handlers, told before the session is removed.

Once for each session without faults, at least once with them: a session is claimed in the store, by one replica, before
its handlers run, and what a dead replica had claimed is claimed again.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import anyio

from mcpsession.errors import MCPSessionError
from mcpsession.model import ReplicaId, SessionId, fingerprint
from mcpsession.records import Session
from mcpsession.session_contracts import Reaping
from mcpsession.settings import Settings
from mcpsession.telemetry import Telemetry
from mcpsession.threads import in_daemon_thread

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
        self._claiming = anyio.Lock()

    def __len__(self) -> int:
        return len(self._handlers)

    def add(self, handler: ExpiryHandler) -> None:
        """Tell `handler` of each session that ends, after those that were added before it."""
        self._handlers.append(handler)

    @contextmanager
    def holding(self, session_ids: Sequence[SessionId]) -> Iterator[None]:
        """These are being told of, here: nobody else in this replica claims them meanwhile."""
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
        while self._handlers:
            with ExitStack() as held:
                # Until they are held, another claim of this replica would take what this one claimed for forgotten.
                async with self._claiming:
                    claimed = await self._reaping.claim(_CLAIMED, by=self._me(), busy=[*self._busy], only=only)
                    held.enter_context(self.holding([session.id for session in claimed]))
                if not claimed:
                    break
                removed += await self.tell(claimed)
        return removed

    async def tell(self, sessions: Sequence[Session]) -> int:
        """Tell the handlers of sessions that are claimed by this replica, and remove them; returns how many it took."""
        removed = 0
        told: list[Session] = []
        waiting = list(reversed(sessions))

        async def work() -> None:
            while waiting:
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
            while True:
                await anyio.sleep(_REMOVE_EVERY)
                # Once more at the end, and that time whoever asked hears of it.
                with suppress(MCPSessionError):
                    await remove()

        with self.holding([session.id for session in sessions]):
            async with anyio.create_task_group() as removing:
                removing.start_soon(remove_now_and_then)
                async with anyio.create_task_group() as workers:
                    for _ in range(min(_AT_ONCE, len(sessions))):
                        workers.start_soon(work)
                removing.cancel_scope.cancel()
            await remove()
        return removed

    async def _call(self, handler: ExpiryHandler, session: Session) -> None:
        try:
            with anyio.fail_after(self._timeout):
                if inspect.iscoroutinefunction(handler):
                    await handler(session)
                    return
                made = await in_daemon_thread(lambda: handler(session))
                if isinstance(made, Awaitable):
                    await made
        except Exception as error:  # the boundary: the session goes, whatever its handler does
            self._telemetry.count("mcpsession_failed_expiry_handlers_total")
            what = f"took longer than {self._timeout:g} s" if isinstance(error, TimeoutError) else "failed"
            logger.exception("an expiry handler %s; session %s is removed all the same", what, fingerprint(session.id))
