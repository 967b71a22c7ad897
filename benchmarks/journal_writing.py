"""Who writes events, in turns: the journal, a bare INSERT of 100 rows at once, and other people's stores."""

import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

import anyio
import anyio.lowlevel
import asyncpg
import psutil

from benchmarks.store_layer import WrongResultError
from mcpsession.journal import Journal
from mcpsession.model import Replica, ReplicaId, new_replica_id, new_session_id, new_stream_id
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.records import Admission, Session
from mcpsession.settings import Settings

MESSAGE = '{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"%s"}],"isError":false}}' % ("x" * 60)

# Of one statement of the raw side.
AT_ONCE = 100
# Sessions that write at the same time.
SESSIONS = 64
# How often a session lets the others have their turn.
BURST = 10

RAW = """
INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message, request_of)
SELECT $1, e.session_id, e.stream_id, e.seq, e.message, e.request_of
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[])
    AS e (session_id, stream_id, seq, message, request_of)
"""


@dataclass(frozen=True)
class Written:
    """What one side wrote in one turn: all of it is in its table. Seconds."""

    events: int
    seconds: float
    statements: int | None
    """None where nobody counted."""
    cpu: float
    """CPU time of the process that wrote."""
    postgres: float | None
    """CPU time of Postgres; None where it is not on this machine."""

    @property
    def rate(self) -> float:
        return self.events / self.seconds


class WritingSide(Protocol):
    """Somebody who writes events for so many seconds, and is done when the last one is durable."""

    key: str
    title: str

    async def write(self, seconds: float) -> Written:
        """Raises WrongResultError if something is not there."""
        ...


class Meter:
    """CPU time of Postgres, all its processes."""

    def __init__(self, pid: int | None) -> None:
        self._server = psutil.Process(pid) if pid is not None else None

    def read(self) -> float | None:
        if self._server is None:
            return None
        own = self._server.cpu_times()
        # With those that are gone meanwhile: workers of autovacuum, connections.
        total = own.user + own.system + own.children_user + own.children_system
        for process in self._server.children(recursive=True):
            with suppress(psutil.Error):
                spent = process.cpu_times()
                total += spent.user + spent.system
        return total

    @contextmanager
    def measuring(self) -> Iterator[Callable[[int, int | None], Written]]:
        """Yield what makes a turn of the numbers of events and statements."""
        # What earlier turns left behind is nobody's burden.
        gc.collect()
        postgres, cpu, began = self.read(), time.process_time(), time.perf_counter()

        def written(events: int, statements: int | None) -> Written:
            seconds, spent, now = time.perf_counter() - began, time.process_time() - cpu, self.read()
            in_postgres = None if now is None or postgres is None else now - postgres
            return Written(events, seconds, statements, spent, in_postgres)

        yield written


class Raw:
    """Bare asyncpg: arrays of 100 rows, one statement after the other, into our table of events."""

    key = "raw"
    title = f"INSERT … unnest of {AT_ONCE} rows at once, bare asyncpg, one connection"

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", meter: Meter) -> None:
        self._connection = connection
        self._meter = meter
        self._sessions = [new_session_id() for _ in range(SESSIONS)]

    @classmethod
    @asynccontextmanager
    async def running(cls, url: str, meter: Meter) -> AsyncIterator[Self]:
        connection = await asyncpg.connect(url)
        try:
            yield cls(connection, meter)
        finally:
            await connection.close()

    async def write(self, seconds: float) -> Written:
        events = 0
        with self._meter.measuring() as written:
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                session_id, stream_id = self._sessions[events // AT_ONCE % SESSIONS], new_stream_id()
                await self._connection.execute(
                    RAW,
                    "raw",
                    [session_id for _ in range(AT_ONCE)],
                    [stream_id for _ in range(AT_ONCE)],
                    list(range(1, AT_ONCE + 1)),
                    [MESSAGE for _ in range(AT_ONCE)],
                    [None for _ in range(AT_ONCE)],
                )
                events += AT_ONCE
            return written(events, events // AT_ONCE)


class Listener:
    """Hears what became of a stream."""

    def __init__(self) -> None:
        self.refused_with: list[Exception | None] = []

    def landed(self) -> None: ...

    def read_by(self, replica: ReplicaId) -> None: ...

    def refused(self, error: Exception | None) -> None:
        self.refused_with.append(error)


class Ours:
    """The journal, with 64 sessions that write at the same time: streams of so many events, one after the other."""

    def __init__(self, journal: Journal, backend: PostgresBackend, meter: Meter, sessions: list[str]) -> None:
        self._journal = journal
        self._backend = backend
        self._meter = meter
        self._sessions = sessions
        self._per_stream = 1
        self._listener = Listener()
        self.key, self.title = "", ""

    def with_streams_of(self, events: int, key: str, title: str) -> "Ours":
        """The same journal, for other streams."""
        side = Ours(self._journal, self._backend, self._meter, self._sessions)
        side._per_stream, side.key, side.title = events, key, title
        return side

    @classmethod
    @asynccontextmanager
    async def running(cls, url: str, meter: Meter) -> AsyncIterator[Self]:
        # A small buffer: what waits in it at the end of a turn is not what the turn is about.
        settings, me = Settings(namespace="journal", journal_bytes=1024 * 1024), new_replica_id()
        backend = PostgresBackend(url, None, settings)
        async with backend.running(), backend.registry() as registry, anyio.create_task_group() as tasks:
            await registry.join(Replica(me))
            sessions = [Session(new_session_id(), initialized=True) for _ in range(SESSIONS)]
            await backend.sessions.create(sessions, admission=Admission())
            journal = Journal(backend.log, settings, lambda: me)
            tasks.start_soon(journal.run)
            yield cls(journal, backend, meter, [session.id for session in sessions])
            tasks.cancel_scope.cancel()

    async def write(self, seconds: float) -> Written:
        counted = 0

        def count(_: Any) -> None:
            nonlocal counted
            counted += 1

        wrote = [0] * SESSIONS
        with self._meter.measuring() as written:
            async with self._backend._journal.connection() as connection:
                connection.add_query_logger(count)
            until = time.perf_counter() + seconds
            async with anyio.create_task_group() as tasks:
                for number in range(SESSIONS):
                    tasks.start_soon(self._produce, number, until, wrote)
            await self._journal.flushed()
            result = written(sum(wrote), counted)
        async with self._backend._journal.connection() as connection:
            connection.remove_query_logger(count)
        if self._listener.refused_with:
            raise WrongResultError(self.title, "write", self._listener.refused_with)
        return result

    async def _produce(self, number: int, until: float, wrote: list[int]) -> None:
        session_id, events = self._sessions[number], 0
        while time.perf_counter() < until:
            request_ids = (f'"{number}.{events}"',)
            writer = self._journal.open(session_id, request_ids, self._listener, "tools/call")
            for event in range(1, self._per_stream + 1):
                writer.append(MESSAGE, final=event == self._per_stream)
                events += 1
                if events % BURST == 0:
                    await self._journal.room()
                    await anyio.lowlevel.checkpoint()
        wrote[number] = events
