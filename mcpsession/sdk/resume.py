"""GET with Last-Event-ID: a request's stream goes on, on any replica.

The reader writes its name into the stream's row before its first read, so the producer's next flush, which locks that
row anyway, rings it and stops writing to its own socket. Events are read in pages until the last one was sent; while a
page of a backlog leaves, the next one is read. A stream whose producer died is finished here, with an error that says
what is known.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.lowlevel
from starlette.types import Receive, Send

from mcpsession.errors import StoreUnavailableError
from mcpsession.model import StreamState, error_finals
from mcpsession.orphans import unknown_outcome
from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.dispatch import SESSION_ENDED
from mcpsession.sdk.outbound import gone, may_write
from mcpsession.sdk.parts import Parts
from mcpsession.tails import Tail

logger = logging.getLogger(__name__)

# A page has at most a MiB besides: a reader holds the one that leaves and the next.
_PAGE = 2500
# A stream's row may be on its way: its producer has a batch in flight.
_PATIENCE = 1.0
_AWAY_RETRY_MS = 5000
UNKNOWN = "Unknown Last-Event-ID: this session has no such stream, or it expired; send the request again"
MALFORMED = "Malformed Last-Event-ID: send back an event id of this server's as it was"


class Resumption:
    """One client, reading on where it was cut."""

    def __init__(self, parts: Parts, session: Session, cursor: wire.Cursor, send: Send) -> None:
        self.session = session
        self.began = time.monotonic()
        self._parts = parts
        self._stream_id = cursor.stream_id
        self._seq = cursor.seq
        self._send = send
        self._socket = anyio.CancelScope()
        self._request_ids: Sequence[str] = ()
        self._over = False
        """The response is complete, or the client has gone."""
        self._session_ended = False
        self._tail: Tail | None = None

    @property
    def request_id(self) -> str | int | None:
        """The first that the stream answers; None until it was read."""
        return json.loads(self._request_ids[0]) if self._request_ids else None

    def let_go(self, below: int | None = None) -> None:
        """Another socket of this replica reads the stream, or this replica goes."""
        del below
        self._socket.cancel()

    def end(self) -> None:
        """The session has ended: the stream gets its last message soon."""
        self._session_ended = True
        if self._tail is not None:
            self._tail.wake()

    async def serve(self, receive: Receive) -> None:
        """Write the stream from the cursor to its end."""
        parts, key = self._parts, (self.session.id, self._stream_id)
        with parts.tails.reading(*key) as tail:
            self._tail = tail
            try:
                found = await self._attach(tail)
            except StoreUnavailableError:
                # Two 5xx and clients give up; this they take for a cut, and come back.
                await self._begin()
                await self._end(wire.retry(_AWAY_RETRY_MS))
                return
            if not found:
                await wire.refuse(self._send, 400, UNKNOWN)
                return
            await self._begin()
            with parts.readers.holding(self._stream_id, self):
                if self.session in parts.ended:
                    self.end()
                with self._socket:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._watch, receive)
                        await self._follow(tail)
                        tasks.cancel_scope.cancel()
                    return
                if not self._over:
                    with anyio.move_on_after(1.0, shield=True):
                        await self._end(b"")

    async def _watch(self, receive: Receive) -> None:
        await gone(receive)
        self._over = True
        self._socket.cancel()

    async def _attach(self, tail: Tail) -> bool:
        deadline, pause = anyio.current_time() + _PATIENCE, 0.05
        while True:
            me = self._parts.heartbeat.replica_id
            if await self._parts.log.attach(self.session.id, self._stream_id, me):
                return True
            if anyio.current_time() > deadline:
                return False
            await tail.wait(pause)
            pause *= 2

    async def _follow(self, tail: Tail) -> None:
        parts, idle_since = self._parts, anyio.current_time()
        failing_since: float | None = None
        ahead: StreamState | None = None
        while True:
            asked_at = anyio.current_time()
            try:
                state, ahead = ahead or await self._read(self._seq), None
                if state is not None and state.orphaned:
                    await self._take_over(state)
                    continue
            except StoreUnavailableError:
                # One connection that broke is no outage; for that the client need not wait.
                failing_since = failing_since or asked_at
                if anyio.current_time() - failing_since < _PATIENCE:
                    await anyio.sleep(_PATIENCE / 10)
                    continue
                await self._end(wire.retry(_AWAY_RETRY_MS))
                return
            failing_since = None
            async with self._reading_ahead(state) as pages:
                chunk, over = self._next(state)
                if chunk or over:
                    idle_since = anyio.current_time()
                    await may_write(parts, self._send)
                    self._over = over
                    await self._send({"type": "http.response.body", "body": chunk, "more_body": not over})
            if over:
                return
            ahead = pages[0] if pages else None
            if state is None or self._seq >= state.last_seq:
                await tail.wait(parts.settings.poll)
            if anyio.current_time() - idle_since > parts.settings.keep_alive:
                idle_since = anyio.current_time()
                parts.touches.note(self.session.id)
                await self._send({"type": "http.response.body", "body": wire.KEEP_ALIVE, "more_body": True})

    async def _read(self, after: int) -> StreamState | None:
        return await self._parts.log.read(self.session.id, self._stream_id, after, _PAGE)

    @asynccontextmanager
    async def _reading_ahead(self, state: StreamState | None) -> AsyncIterator[list[StreamState]]:
        """Read the page after this one, if there is one, while inside; whoever leaves finds it in the list.

        What it could not read is read again, by whoever knows what to do then.
        """
        pages: list[StreamState] = []

        async def read(after: int) -> None:
            with suppress(StoreUnavailableError):
                if (page := await self._read(after)) is not None:
                    pages.append(page)

        if state is None or not self._is_followed(state):
            yield pages
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, state.events.numbers[-1])
            # Postgres is asked before this page's frames are made.
            await anyio.lowlevel.checkpoint()
            yield pages

    def _is_followed(self, state: StreamState) -> bool:
        """Whether there is another page, and nothing missing before it."""
        numbers = state.events.numbers
        return bool(numbers) and numbers[-1] < state.last_seq and self._before_gap(state) == len(numbers)

    async def _take_over(self, state: StreamState) -> None:
        finals = unknown_outcome(state.request_ids)
        me = self._parts.heartbeat.replica_id
        if await self._parts.log.take_over(self.session.id, self._stream_id, self._seq, finals, by=me):
            self._parts.telemetry.count("mcpsession_taken_over_streams_total")

    def _next(self, state: StreamState | None) -> tuple[bytes, bool]:
        """The frames to write now, and whether they are the last."""
        if state is None:
            return self._last_words() if self._session_ended else self._give_up("the stream expired"), True
        self._request_ids = state.request_ids
        before_gap = self._before_gap(state)
        chunk = wire.events(self._stream_id, state.events[:before_gap])
        if before_gap > 0:
            self._seq = state.events.numbers[before_gap - 1]
        if before_gap < len(state.events):
            return chunk + self._give_up(f"events up to {state.trimmed_seq} of {state.last_seq} are gone"), True
        if state.finished and not state.events and self._seq >= state.last_seq:
            # The client was sent numbers that never became durable, or has the answer already.
            if state.taken_over:
                return self._finals(unknown_outcome(state.request_ids)), True
            return self._give_up(f"it ended at event {state.last_seq}, and nothing after it was kept"), True
        whole = self._seq >= state.last_seq
        if self._session_ended and whole and not state.finished:
            return chunk + self._last_words(), True
        return chunk, state.finished and whole

    def _before_gap(self, state: StreamState) -> int:
        """How many of the events come before one that is missing: mostly all, and that is seen at the last one."""
        numbers, last = state.events.numbers, self._seq
        if not numbers or numbers[-1] == last + len(numbers):
            return len(numbers)
        for place, seq in enumerate(numbers):
            if seq != last + 1 and not self._may_skip(state, seq):
                return place
            last = seq
        return len(numbers)

    @staticmethod
    def _may_skip(state: StreamState, seq: int) -> bool:
        # A stranger's final leaves out the numbers that the dead producer may have sent but never stored.
        return state.taken_over and seq > state.last_seq - len(state.request_ids)

    def _give_up(self, why: str) -> bytes:
        """A request's stream never ends without its response: clients would reconnect for ever."""
        text = f"this stream cannot be resumed after event {self._seq}: {why}; whether the call had effects is unknown"
        error = json.dumps({"code": wire.INTERNAL_ERROR, "message": text, "data": {"outcome": "unknown"}})
        return self._finals(error_finals(self._request_ids, error))

    def _last_words(self) -> bytes:
        """The producer's are the same, but what it writes now may find no stream any more."""
        return self._finals(error_finals(self._request_ids, SESSION_ENDED.model_dump_json(exclude_none=True)))

    def _finals(self, messages: Sequence[str]) -> bytes:
        return b"".join(
            wire.event(f"{self._stream_id}.{self._seq + number}", message) for number, message in enumerate(messages, 1)
        )

    async def _begin(self) -> None:
        headers = wire.stream_headers(self.session.id)
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        if self._parts.limits.retry_ms is not None:
            first = wire.retry(self._parts.limits.retry_ms)
            await self._send({"type": "http.response.body", "body": first, "more_body": True})

    async def _end(self, last: bytes) -> None:
        self._over = True
        await self._send({"type": "http.response.body", "body": last, "more_body": False})
