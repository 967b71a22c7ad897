"""Finishes what the dead left open: streams whose producer died, or forgot them, and requests that they tracked."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence

from mcpsession.contracts import EventLog
from mcpsession.errors import MCPSessionError
from mcpsession.event_contracts import RequestRows
from mcpsession.model import AppendedStream, Batch, NewEvent, ReplicaId, SessionId, StreamId, error_finals
from mcpsession.settings import Settings
from mcpsession.telemetry import Telemetry

logger = logging.getLogger(__name__)

OUTCOME_UNKNOWN = -32603
"""JSON-RPC's internal error: the replica that ran the call died, and whether the call had effects is unknown."""


def unknown_outcome(request_ids: Sequence[str]) -> list[str]:
    """The finals of a stream whose producer died: one for each request that it had not answered."""
    text = "the replica that ran this call died; whether the call had effects is unknown, check before you repeat it"
    error = json.dumps({"code": OUTCOME_UNKNOWN, "message": text, "data": {"outcome": "unknown"}})
    return error_finals(request_ids, error)


class Orphans:
    """Runs on every replica; whatever two of them want to finish is finished by one."""

    def __init__(
        self,
        log: EventLog,
        requests: RequestRows,
        settings: Settings,
        *,
        me: Callable[[], ReplicaId],
        telemetry: Telemetry,
    ) -> None:
        self._log = log
        self._requests = requests
        self._batch = settings.reap_batch
        self._me = me
        self._telemetry = telemetry
        self.writes: Callable[[StreamId], bool] = lambda _: True
        """Whether this replica still writes a stream of its own."""
        self.on_finished: Callable[[SessionId, StreamId], None] = lambda _s, _t: None
        """Called for each stream that was finished, to wake its local readers."""

    async def finish_orphans(self) -> int:
        """Write the finals that dead producers owe, and forget the requests that they tracked, or whose time is over;
        returns how many streams that ended."""
        ended = 0
        while orphans := await self._log.orphans(self._batch):
            before = ended
            for session_id, stream_id, last_seq, request_ids in orphans:
                finals = unknown_outcome(request_ids)
                if await self._log.take_over(session_id, stream_id, last_seq, finals, by=self._me()):
                    ended += 1
                    self.on_finished(session_id, stream_id)
            if ended == before or len(orphans) < self._batch:
                break
        if ended:
            self._telemetry.count("mcpsession_taken_over_streams_total", ended)
            logger.warning("finished %d streams of dead replicas: their calls' outcomes are unknown", ended)
        await self._sweep_requests()
        return ended

    async def _sweep_requests(self) -> None:
        swept = self._batch
        while swept == self._batch:
            swept = await self._requests.sweep(self._batch)
            if swept:
                self._telemetry.count("mcpsession_swept_requests_total", swept)
                logger.info("forgot %d requests that were never completed", swept)

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

    async def try_to_finish(self, *, strays: bool) -> None:
        """One of the two; if the store is away, the reaper does it later."""
        try:
            await (self.finish_strays() if strays else self.finish_orphans())
        except MCPSessionError as error:
            logger.warning("streams that nobody writes wait for the reaper: %s", error)
