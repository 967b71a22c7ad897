"""Who reads a backlog again, in turns: a client that resumes its stream, `layer.events.replay`, and a bare SELECT."""

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import anyio
import asyncpg

from benchmarks.journal_writing import MESSAGE
from benchmarks.store_layer import WrongResultError
from mcpsession import SessionLayer
from mcpsession.event_texts import stream_id_of
from mcpsession.model import Batch, NewEvent, OpenedStream, new_replica_id, new_session_id, new_stream_id
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.records import Session
from mcpsession.sdk.resume import Resumption
from mcpsession.sdk.wire import Cursor
from mcpsession.settings import Settings

# What both sides fetch: the same columns of the same rows. The first is for a client's stream, the other for ours.
RAW_STREAM = """
SELECT seq, message, request_of
FROM mcpsession.events
WHERE namespace = $1 AND session_id = $2 AND stream_id = $3
ORDER BY seq
"""
RAW_EVENTS = """
SELECT seq, message, type, event_id, coalesce(occurred_at, created_at) AS happened_at
FROM mcpsession.events
WHERE namespace = $1 AND session_id = $2 AND stream_id = $3
ORDER BY seq
"""
TIDY_UP = "VACUUM ANALYZE mcpsession.events, mcpsession.streams"


@dataclass(frozen=True)
class Replayed:
    """One whole backlog, read once. Seconds."""

    events: int
    seconds: float
    cpu: float


@dataclass(frozen=True)
class Replaying:
    """One way to read it, and what it is measured against."""

    key: str
    title: str
    against: str
    read: Callable[[], Awaitable[int]]


class Backlog:
    """A call's stream and a stream of the application's, of so many events each, and all who read them."""

    def __init__(
        self, layer: SessionLayer, connection: "asyncpg.Connection[asyncpg.Record]", session: Session, events: int
    ) -> None:
        self._layer = layer
        self._connection = connection
        self._session = session
        self._stream_id = new_stream_id()
        self._events = events
        self._expected = 0
        """Bytes that the resumed client gets."""

    @classmethod
    @asynccontextmanager
    async def stored(cls, url: str, events: int) -> AsyncIterator[Self]:
        settings = Settings(namespace="replay", reap_every=None, max_events=events, retry_ms=None)
        backend = PostgresBackend(url, None, settings)
        async with SessionLayer(backend, settings) as layer:
            session = await layer.sessions.create(new_session_id())
            connection = await asyncpg.connect(url)
            try:
                backlog = cls(layer, connection, session, events)
                await backlog._fill(backend)
                yield backlog
            finally:
                await connection.close()

    async def _fill(self, backend: PostgresBackend) -> None:
        messages = [NewEvent(MESSAGE) for _ in range(self._events)]
        stream = OpenedStream(self._session.id, self._stream_id, ("1",), messages, finished=True)
        await backend.log.write(Batch(opened=[stream]), producer=new_replica_id())
        entries = [self._layer.events.entry({"n": number, "text": "x" * 60}) for number in range(self._events)]
        await self._layer.events.append_many(self._session.id, entries)
        await self._connection.execute(TIDY_UP)

    def ways(self) -> Sequence[Replaying]:
        return [
            Replaying("raw", "SELECT of the rows of a call's stream, bare asyncpg", "raw", self._raw(RAW_STREAM)),
            Replaying("resume", "a client that resumes the call: SSE frames", "raw", self._resume),
            Replaying("raw events", "SELECT of the rows of an application's stream", "raw events", self._raw_events),
            Replaying("events", "layer.events.replay: values, parsed", "raw events", self._replay),
        ]

    async def measure(self, way: Replaying) -> Replayed:
        """Raises WrongResultError if not all came back."""
        gc.collect()
        cpu, began = time.process_time(), time.perf_counter()
        read = await way.read()
        replayed = Replayed(read, time.perf_counter() - began, time.process_time() - cpu)
        if read != self._events:
            raise WrongResultError(way.title, "replay", read)
        return replayed

    def _raw(self, statement: str, stream_id: str | None = None) -> Callable[[], Awaitable[int]]:
        async def read() -> int:
            key = ("replay", self._session.id, stream_id or self._stream_id)
            return len(await self._connection.fetch(statement, *key))

        return read

    async def _raw_events(self) -> int:
        return await self._raw(RAW_EVENTS, stream_id_of("events"))()

    async def _resume(self) -> int:
        frames, over = 0, False

        async def send(message: Any) -> None:
            nonlocal frames, over
            if message["type"] == "http.response.body":
                frames += message["body"].count(b"\nevent: message\n")
                over = not message["more_body"]

        resumption = Resumption(self._layer._parts, self._session, Cursor(self._stream_id, 0, ""), send)
        await resumption.serve(anyio.sleep_forever)
        return frames if over else -1

    async def _replay(self) -> int:
        events, after, more = 0, 0, True
        while more:
            page = await self._layer.events.replay(self._session.id, after, limit=10_000)
            events, after, more = events + len(page.events), page.events[-1].seq, page.more
        return events
