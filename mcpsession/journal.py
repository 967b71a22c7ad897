"""Events, collected and written together.

Costs one statement a batch, however many sessions are in it, on a connection of its own. A batch lingers for 25 ms if
nobody waits for it, and leaves at once if somebody does or it is full; the next one forms while one is in flight,
strictly one after the other.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NoReturn

import anyio

from mcpsession.batches import Batches, Part, is_culpable
from mcpsession.contracts import EventLog
from mcpsession.errors import StoreError, StoreUnavailableError, StreamLostError
from mcpsession.model import NewEvent, ReplicaId, SessionId, StreamId
from mcpsession.periodic import patiently
from mcpsession.settings import Settings
from mcpsession.writer import StreamListener, StreamWriter

logger = logging.getLogger(__name__)

# Nothing beyond about 100 rows or 256 KB pays, and a larger batch keeps the others waiting.
_BATCH_STREAMS = 256
_BATCH_BYTES = 256 * 1024

# How long a batch waits for more, if nobody waits for it: most calls are answered within it, and are then one row and
# one event, and a call costs the less the more of them are in a statement (docs/decisions/0011-larger-batches.md). So
# much fills it.
_LINGER = 0.025
_ENOUGH_STREAMS = 100


class _Standalone:
    __slots__ = ("event", "over", "session_id", "since")

    def __init__(self, session_id: SessionId, event: NewEvent) -> None:
        self.session_id = session_id
        self.event = event
        self.since = time.monotonic()
        self.over = anyio.Event()
        """In the log, or refused, or given up."""


class Journal:
    """All writers of this replica, and the one that writes for them."""

    def __init__(self, log: EventLog, settings: Settings, me: Callable[[], ReplicaId]) -> None:
        self._log = log
        self._settings = settings
        self._me = me
        self._batches = Batches(log, me)
        self._is_strict = settings.durability == "strict"
        self._dirty: dict[StreamWriter, float] = {}
        """Who has something for a batch, the oldest first, and since when."""
        self._open: dict[StreamId, StreamWriter] = {}
        self._standalone: deque[_Standalone] = deque()
        self._told: dict[SessionId, _Standalone] = {}
        """The last one of each session's; they are written in order."""
        self._bytes = 0
        self._busy_since: float | None = None
        self._wake = anyio.Event()
        self._urgent = anyio.Event()
        self._room = anyio.Event()
        self._idle = anyio.Event()
        self._idle.set()
        self.on_standalone: Callable[[SessionId, ReplicaId], None] = lambda _s, _r: None
        """Called with each session whose standalone stream grew, and who holds it."""

    @property
    def age(self) -> float:
        """Seconds that the oldest unwritten event has waited."""
        return 0.0 if self._busy_since is None else time.monotonic() - self._busy_since

    @property
    def pending_bytes(self) -> int:
        return self._bytes

    def open(
        self, session_id: SessionId, request_ids: tuple[str, ...], listener: StreamListener, method: str = ""
    ) -> StreamWriter:
        """Enter a new request stream in the log, soon."""
        writer = StreamWriter(
            self,
            session_id,
            request_ids,
            listener,
            method=method,
            max_events=self._settings.max_events,
            max_bytes=self._settings.max_replay_bytes,
        )
        self._open[writer.stream_id] = writer
        self.note(writer, 0)
        return writer

    def writes(self, stream_id: StreamId) -> bool:
        """Whether this replica still writes that stream."""
        return stream_id in self._open

    def close(self, writer: StreamWriter) -> None:
        self._open.pop(writer.stream_id, None)

    def append_standalone(self, session_id: SessionId, message: str, *, request_of: ReplicaId | None = None) -> None:
        """Add to a session's standalone stream, soon. In order; at least once."""
        one = self._told[session_id] = _Standalone(session_id, NewEvent(message, request_of))
        self._standalone.append(one)
        self._grow(len(message))
        self._urgent.set()

    async def told(self, session_id: SessionId) -> None:
        """Wait until what was added to a session's standalone stream so far is in the log."""
        if last := self._told.get(session_id):
            await last.over.wait()

    def note(self, writer: StreamWriter, size: int, *, urgent: bool = False) -> None:
        if writer not in self._dirty:
            self._dirty[writer] = time.monotonic()
        self._grow(size)
        if urgent or self._is_strict or self._is_full():
            self._urgent.set()

    def forget(self, size: int) -> None:
        self._bytes = max(0, self._bytes - size)

    @property
    def has_room(self) -> bool:
        """Whether the buffer is not full. An empty buffer has room for one event of any size."""
        return self._bytes <= self._settings.journal_bytes

    async def room(self) -> None:
        """Wait while the buffer is full."""
        while not self.has_room:
            self._urgent.set()
            # One event for all who wait: a second one would leave the first waiter asleep.
            if self._room.is_set():
                self._room = anyio.Event()
            await self._room.wait()

    async def flushed(self) -> None:
        """Wait until everything appended so far is in the log."""
        if not self._idle.is_set():
            self._urgent.set()
        await self._idle.wait()

    def abandon(self) -> None:
        """Drop what is not written: this replica was declared dead, others finish its streams."""
        lost, self._dirty = list(self._dirty), {}
        self._done_with(self._standalone)
        self._standalone.clear()
        for writer in lost:
            writer.lose(StreamLostError())
        self._shrink()

    async def run(self) -> NoReturn:
        """Write until cancelled."""
        await patiently(self._write_on, name="the journal")

    def _grow(self, size: int) -> None:
        self._bytes += size
        if self._busy_since is None:
            self._busy_since = time.monotonic()
            self._idle = anyio.Event()
            # Otherwise whoever writes is at it, and looks again before it rests.
            self._wake.set()

    def _is_full(self) -> bool:
        return len(self._dirty) >= _ENOUGH_STREAMS or self._bytes >= _BATCH_BYTES

    async def _write_on(self) -> NoReturn:
        while True:
            while self._dirty or self._standalone:
                # A call that is answered within this moment is one row in one batch, with many others; nobody waits
                # for it, since its answer has left. Whoever is waited for ends the moment.
                if not self._is_full():
                    with anyio.move_on_after(_LINGER):
                        await self._urgent.wait()
                is_waited_for = self._urgent.is_set()
                if is_waited_for:
                    self._urgent = anyio.Event()
                await self._write_some(is_waited_for=is_waited_for)
            self._shrink()
            await self._wake.wait()
            self._wake = anyio.Event()

    def _shrink(self) -> None:
        left = [*islice(self._dirty.values(), 1), *(one.since for one in islice(self._standalone, 1))]
        self._busy_since = min(left, default=None)
        if not left:
            self._bytes = 0
            self._idle.set()
        if self.has_room:
            self._room.set()

    async def _write_some(self, *, is_waited_for: bool) -> None:
        writers: list[Part] = []
        size = 0
        while self._dirty and len(writers) < _BATCH_STREAMS and size < _BATCH_BYTES:
            writer = next(iter(self._dirty))
            del self._dirty[writer]
            if not writer.closed:
                size += writer.pending_size
                writers.append((writer, writer.take()))
        if is_waited_for and (self._dirty or len(self._standalone) > _BATCH_STREAMS):
            # Whoever is waited for may be among those that found no place.
            self._urgent.set()
        if writers:
            await self._batches.write(writers, self._me())
        if self._standalone:
            size += await self._write_standalone()
        self._bytes = max(0, self._bytes - size)
        self._shrink()

    async def _write_standalone(self) -> int:
        some = [self._standalone.popleft() for _ in range(min(_BATCH_STREAMS, len(self._standalone)))]
        pause = 0.05
        try:
            while True:
                try:
                    holders = await self._log.append_standalone([(one.session_id, one.event) for one in some])
                    break
                except StoreError as error:
                    if not is_culpable(error):
                        logger.warning("the journal waits %.1f s: %s", pause, error)
                        await anyio.sleep(pause)
                        pause = min(pause * 2, 1.0)
                        continue
                    if len(some) == 1:
                        logger.error("a standalone message was refused by the store: %s", error)
                        return len(some[0].event.message)
                    # One at a time: the culprit is dropped, the others keep their order.
                    self._standalone.extendleft(reversed(some[1:]))
                    self._urgent.set()
                    some = some[:1]
                except StoreUnavailableError as error:
                    logger.warning("the journal waits %.1f s: %s", pause, error)
                    await anyio.sleep(pause * random.uniform(0.5, 1.0))
                    pause = min(pause * 2, 1.0)
        finally:
            # Whatever became of them, nobody may wait for them for ever.
            self._done_with(some)
        for session_id, holder in holders.items():
            self.on_standalone(session_id, holder)
        return sum(len(one.event.message) for one in some)

    def _done_with(self, some: Iterable[_Standalone]) -> None:
        for one in some:
            one.over.set()
            if self._told.get(one.session_id) is one:
                del self._told[one.session_id]
