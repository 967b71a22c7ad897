"""The end of a session: recorded once, applied on every replica, told to the expiry handlers, then cleared away.

A crash after the record loses nothing: every replica reads the mail, another one tells the handlers (a claim of the
dead is none), and any reaper removes what is left.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import TypeVar

import anyio
import anyio.abc

from mcpsession.acknowledgements import Acknowledgements
from mcpsession.errors import MCPSessionError
from mcpsession.expiry import ExpiryHandlers
from mcpsession.finishing import finish
from mcpsession.model import Mail, ReplicaId, SessionId, fingerprint
from mcpsession.post_office import PostOffice
from mcpsession.records import Ended, EndReason
from mcpsession.session_contracts import Reaping, SessionStore
from mcpsession.settings import Settings
from mcpsession.telemetry import Telemetry

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Endings:
    """Ends sessions from here, and applies the endings that other replicas recorded."""

    def __init__(
        self,
        store: SessionStore,
        reaping: Reaping,
        handlers: ExpiryHandlers,
        post_office: PostOffice,
        settings: Settings,
        *,
        me: Callable[[], ReplicaId],
        tasks: Callable[[], anyio.abc.TaskGroup | None],
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._reaping = reaping
        self._handlers = handlers
        self._post_office = post_office
        self._settings = settings
        self._me = me
        self._tasks = tasks
        self._telemetry = telemetry
        self._acknowledgements = Acknowledgements()
        self.apply: Callable[[SessionId, int], None] = lambda _s, _i: None
        """Ends everything of a session (id, incarnation) that is in this replica. Idempotent."""
        post_office.on("ended", self._hear)
        post_office.on_acknowledged = self._acknowledgements.hear

    async def end(
        self,
        session_ids: Sequence[SessionId],
        reason: EndReason,
        *,
        owner: str | None = None,
        idle_for: float | None = None,
        seen: Sequence[datetime | None] | None = None,
    ) -> Ended:
        """End those that live, everywhere.

        Returns when every live replica has applied it, or the time has passed after which none can still believe that
        they live. `clear_away` is to follow.
        """
        # Once begun it is finished: a client that hangs up after its DELETE still meant it.
        with anyio.CancelScope(shield=True):
            ended = await self._store.end(
                session_ids,
                reason,
                owner=owner,
                idle_for=idle_for,
                seen=seen,
                sender=self._me(),
                claim=bool(self._handlers),
            )
            await self.announce(ended, reason)
        return ended

    async def announce(self, ended: Ended, reason: EndReason) -> None:
        """Apply here, and wait for the others, what was recorded."""
        for session in ended.sessions:
            self.apply(session.id, session.incarnation)
            logger.info("session %s: %s", fingerprint(session.id), reason)
        if not ended.mail_id:
            return
        self._post_office.ring_all()
        self._telemetry.count("mcpsession_ended_sessions_total", len(ended.sessions))
        others = set(ended.replicas) - {self._me()}
        await self._acknowledgements.wait(ended.mail_id, others, at_most=self._settings.cache_lease)

    async def clear_away(self, ended: Ended) -> None:
        """Tell the expiry handlers of sessions that were just ended, and remove what belonged to them.

        If the store is away, or this replica dies here, a reaper does it later.
        """
        try:
            if self._handlers:
                await self._handlers.tell(ended.sessions)
            elif ended.sessions:
                keys = [(session.id, session.incarnation) for session in ended.sessions]
                await self._reaping.remove(keys, by=self._me())
        except MCPSessionError as error:
            logger.warning("what belonged to %d ended sessions waits for the reaper: %s", len(ended.sessions), error)

    async def end_and_clear_away(
        self,
        session_ids: Sequence[SessionId],
        reason: EndReason,
        *,
        owner: str | None = None,
        idle_for: float | None = None,
        seen: Sequence[datetime | None] | None = None,
    ) -> Ended:
        """Both, and return when the handlers are through.

        Once begun it is finished, also if the caller is cancelled: it may be a call of the very session that ends.
        """

        async def both() -> Ended:
            with self.holding(session_ids):
                ended = await self.end(session_ids, reason, owner=owner, idle_for=idle_for, seen=seen)
                await self.clear_away(ended)
            return ended

        return await self.finish(both)

    async def finish(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it to its end, whatever becomes of the caller."""
        tasks = self._tasks()
        return await work() if tasks is None else await finish(tasks, work)

    @contextmanager
    def holding(self, session_ids: Sequence[SessionId]) -> Iterator[None]:
        """Between an `end` and its `clear_away` nobody else of this replica takes care of these sessions."""
        with self._handlers.holding(session_ids) if self._handlers else nullcontext():
            yield

    def _hear(self, mail: Mail) -> None:
        for session_id, incarnation in json.loads(mail.body).items():
            self.apply(session_id, incarnation)
        self._post_office.acknowledge(mail)
