"""Deletes what expired, and finishes the streams of the dead.

Runs on every replica, with jitter and without a leader: each pass is a few deletes in batches over expiry indexes, and
whatever two replicas both want is deleted by one of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence

import anyio

from mcpsession.contracts import EventLog, Reaping
from mcpsession.model import (
    AppendedStream,
    Batch,
    NewEvent,
    Reaped,
    ReplicaId,
    Session,
    SessionId,
    StreamId,
    error_finals,
)
from mcpsession.settings import Settings
from mcpsession.telemetry import Telemetry

logger = logging.getLogger(__name__)

_PAUSE = 0.02

ExpiryHandler = Callable[[Session], Awaitable[None] | None]
# Few at a time: while its handler runs, a claimed session is in this replica's hands alone.
_CLAIMED = 20
_HANDLER_DEADLINE = 30.0

OUTCOME_UNKNOWN = -32603
"""JSON-RPC's internal error: the replica that ran the call died, and whether the call had effects is unknown."""


def unknown_outcome(request_ids: Sequence[str]) -> list[str]:
    """The finals of a stream whose producer died: one for each request that it had not answered."""
    text = "the replica that ran this call died; whether the call had effects is unknown, check before you repeat it"
    error = json.dumps({"code": OUTCOME_UNKNOWN, "message": text, "data": {"outcome": "unknown"}})
    return error_finals(request_ids, error)


class Reaper:
    """One pass at a time; `run_once` is all there is to it, the layer repeats it."""

    def __init__(
        self,
        reaping: Reaping,
        log: EventLog,
        settings: Settings,
        *,
        me: Callable[[], ReplicaId],
        telemetry: Telemetry,
    ) -> None:
        self._reaping = reaping
        self._log = log
        self._settings = settings
        self._me = me
        self._telemetry = telemetry
        self._handlers: list[ExpiryHandler] = []
        self.writes: Callable[[StreamId], bool] = lambda _: True
        """Whether this replica still writes a stream of its own."""
        self.on_finished: Callable[[SessionId, StreamId], None] = lambda _s, _t: None
        """Called for each stream that was finished for a dead producer, to wake its local readers."""

    def on_expired(self, handler: ExpiryHandler) -> None:
        """Call `handler` with each session that expires, before it is removed."""
        self._handlers.append(handler)

    async def run_once(self) -> Reaped:
        """Remove all that expired, and finish what the dead left open."""
        await self.finish_orphans()
        await self.finish_strays()
        total = Reaped()
        while True:
            reaped = await self._reaping.reap(self._settings.reap_batch, handled=bool(self._handlers))
            total = Reaped(
                total.sessions + reaped.sessions,
                total.streams + reaped.streams,
                total.mail + reaped.mail,
                total.replicas + reaped.replicas,
            )
            if max(reaped.sessions, reaped.streams, reaped.mail, reaped.replicas) < self._settings.reap_batch:
                break
            await anyio.sleep(_PAUSE)
        self._telemetry.count("mcpsession_reaped_sessions_total", total.sessions)
        return total

    async def bury(self) -> int:
        """Claim what expired, tell the handlers, remove it: once without faults, at least once with them.

        A job of its own, because handlers may take their time; one at a time in a replica.
        """
        removed = 0
        while self._handlers and (claimed := await self._reaping.claim(_CLAIMED, by=self._me())):
            for session in claimed:
                for handler in self._handlers:
                    await self._tell(handler, session)
                # One by one: what a crash leaves is told again, and that should be little.
                removed += await self._reaping.remove([session.id], by=self._me())
        return removed

    async def _tell(self, handler: ExpiryHandler, session: Session) -> None:
        try:
            with anyio.fail_after(_HANDLER_DEADLINE):
                told = handler(session)
                if isinstance(told, Awaitable):
                    await told
        except Exception:  # the boundary: the session goes, whatever its handler does
            self._telemetry.count("mcpsession_failed_expiry_handlers_total")
            logger.exception("an expiry handler failed; the session is removed all the same")

    async def finish_orphans(self) -> int:
        """Write the finals that dead producers owe; returns how many streams that ended."""
        ended = 0
        while orphans := await self._log.orphans(self._settings.reap_batch):
            before = ended
            for session_id, stream_id, last_seq, request_ids in orphans:
                finals = unknown_outcome(request_ids)
                if await self._log.take_over(session_id, stream_id, last_seq, finals, by=self._me()):
                    ended += 1
                    self.on_finished(session_id, stream_id)
            if ended == before or len(orphans) < self._settings.reap_batch:
                break
        if ended:
            self._telemetry.count("mcpsession_taken_over_streams_total", ended)
            logger.warning("finished %d streams of dead replicas: their calls' outcomes are unknown", ended)
        return ended

    async def finish_strays(self) -> int:
        """Finish streams that are in this replica's name, but that it does not write any more."""
        me, ended = self._me(), 0
        for session_id, stream_id, last_seq, request_ids in await self._log.unfinished(me):
            if self.writes(stream_id):
                continue
            finals = [NewEvent(message) for message in unknown_outcome(request_ids)]
            stray = AppendedStream(session_id, stream_id, last_seq, finals, finished=True)
            if await self._log.write(Batch(appended=[stray]), producer=me):
                ended += 1
                self.on_finished(session_id, stream_id)
        if ended:
            logger.warning("finished %d streams of this replica that it no longer ran", ended)
        return ended
