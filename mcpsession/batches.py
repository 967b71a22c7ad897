"""A batch on its way into the log, until the outcome of each of its parts is known.

Costs one statement, if all goes well. One whose outcome is unknown (the connection died) is asked about and repeated
until it is known: an event is written once or its stream is lost to another replica, and then the writer is told.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

import anyio

from mcpsession.contracts import EventLog
from mcpsession.errors import StoreError, StoreUnavailableError, StreamLostError
from mcpsession.model import Accepted, AppendedStream, Batch, OpenedStream, ReplicaId
from mcpsession.writer import StreamWriter

logger = logging.getLogger(__name__)

# Data that cannot be stored, a constraint, a limit: one message's fault, the same however often it is tried.
_CULPABLE = ("22", "23", "54")


Part = tuple[StreamWriter, OpenedStream | AppendedStream]
"""A writer, and what it has for this batch."""


def is_culpable(error: StoreError) -> bool:
    """Whether one message is to blame, and the others would get through without it."""
    return error.sqlstate is not None and error.sqlstate.startswith(_CULPABLE)


class Batches:
    """Writes one after the other for the replica that this process is."""

    def __init__(self, log: EventLog, me: Callable[[], ReplicaId]) -> None:
        self._log = log
        self._me = me

    async def write(self, parts: Sequence[Part], producer: ReplicaId) -> None:
        """Write these until the outcome of each is known, and tell each writer, once."""
        # Who is settled leaves the list, and is not settled again.
        left, unsure, pause = list(parts), False, 0.05
        try:
            while left:
                try:
                    if unsure:
                        await self._strike_landed(left, producer)
                    await self._write_once(left, producer)
                except StoreUnavailableError as error:
                    unsure = True
                    if self._me() != producer:
                        # Declared dead meanwhile: others finish these.
                        _lose(left, StreamLostError())
                        return
                    logger.warning("the journal waits %.1f s: %s", pause, error)
                    await anyio.sleep(pause * random.uniform(0.5, 1.0))
                    pause = min(pause * 2, 1.0)
        except Exception as error:  # the boundary: whoever waits for these must hear of it, whatever it was
            logger.exception("the journal failed on %d streams", len(left))
            _lose(left, error)

    async def _write_once(self, left: list[Part], producer: ReplicaId) -> None:
        if not left:
            return
        batch = Batch(
            opened=[part for _, part in left if isinstance(part, OpenedStream)],
            appended=[part for _, part in left if isinstance(part, AppendedStream)],
        )
        try:
            accepted = await self._log.write(batch, producer=producer)
        except StoreError as error:
            if not is_culpable(error):
                # Not one message's fault (a missing right, a dropped table): nothing is given up, somebody mends it.
                raise StoreUnavailableError(str(error), "mend it; events wait meanwhile") from error
            # Something in here cannot be stored. Halve until the culprit stands alone; the others go on.
            if len(left) == 1:
                logger.error("a stream's events were refused by the store: %s", error)
                left.pop()[0].spoil(error)
                return
            halves = left[: len(left) // 2], left[len(left) // 2 :]
            left.clear()
            for half in halves:
                await self.write(half, producer)
            return
        _settle_accepted(left, accepted)
        # What was not accepted is there already, after an attempt whose outcome was unknown, or is not ours any more.
        await self._strike_landed(left, producer)
        _lose(left, None)
        left.clear()

    async def _strike_landed(self, left: list[Part], producer: ReplicaId) -> None:
        for one in left.copy():
            writer, part = one
            if await self._landed(part, producer):
                left.remove(one)
                writer.settle(len(part.events), part.finished, None)

    async def _landed(self, part: OpenedStream | AppendedStream, producer: ReplicaId) -> bool:
        last_seq = len(part.events) + (part.base if isinstance(part, AppendedStream) else 0)
        return await self._log.landed(part.session_id, part.stream_id, last_seq, producer=producer)


def _lose(parts: Sequence[Part], error: Exception | None) -> None:
    for writer, _ in parts:
        writer.lose(error)


def _settle_accepted(left: list[Part], accepted: Sequence[Accepted]) -> None:
    """Tell those whose part is in the log; the others stay, also when somebody raises at what he is told."""
    readers = {stream.stream_id: stream.reader for stream in accepted}
    refused: list[Part] = []
    left.reverse()
    try:
        while left:
            writer, part = one = left.pop()
            if part.stream_id in readers:
                writer.settle(len(part.events), part.finished, readers[part.stream_id])
            else:
                refused.append(one)
    finally:
        left += refused
