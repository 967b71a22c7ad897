"""What one session, one touch, one call costs Postgres: `python -m benchmarks --only capacity`.

Bytes of the write-ahead log, bytes on disk and CPU time for one of each, from which docs/scaling.md reckons. Nothing is
compared here, and nothing else runs. After a checkpoint the log has each page once as a whole; what is measured comes
after that.
"""

import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
import psutil

from benchmarks.capacity_report import CapacityResult, Cost, Room
from benchmarks.database import Database
from mcpsession.model import Batch, NewEvent, OpenedStream, ReplicaId, SessionId, new_session_id, new_stream_id
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.records import Admission, Session
from mcpsession.settings import Settings

T = TypeVar("T")

CLIENT = (
    '{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{},"roots":{"listChanged":true},"sampling":{}},'
    '"clientInfo":{"name":"example-client","version":"1.0.0","title":"Example Client"}}'
)
# What a short tool answers: some 300 bytes.
ANSWER = '{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"%s"}],"isError":false}}' % ("x" * 200)
ME = ReplicaId("capacity")

# So many calls of a journal's batch: few at once on many replicas, or many on few.
AT_ONCE = (1, 3, 10, 30, 100)
A_TIME = 1000
LOOKED_AT = 20

WAL = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
ROOM = """
SELECT pg_table_size(c.oid) AS rows, pg_indexes_size(c.oid) AS indexes
FROM pg_class c
WHERE c.oid = ('mcpsession.' || $1::text)::regclass
"""
LET_TIME_PASS = "UPDATE mcpsession.sessions SET expires_at = expires_at - interval '2 min'"
EXPIRE_SESSIONS = "UPDATE mcpsession.sessions SET expires_at = now() - interval '1 s'"
EXPIRE_STREAMS = "UPDATE mcpsession.streams SET expires_at = now() - interval '1 s' WHERE finished_at IS NOT NULL"
# The statistics that a busy server has anyway, and pages that were written since the checkpoint.
SETTLE = "VACUUM ANALYZE mcpsession.sessions, mcpsession.streams, mcpsession.events"


async def measure_capacity(database: Database, sessions: int, calls: int, say: Callable[[str], None]) -> CapacityResult:
    """Measure on an empty, migrated database with so many sessions."""
    backend = PostgresBackend(database.url, None, Settings(namespace="capacity"))
    async with backend.running():
        watcher = await asyncpg.connect(database.url)
        try:
            return await _Measurement(backend, watcher, database.pid, say).run(sessions, calls)
        finally:
            await watcher.close()


class _Measurement:
    def __init__(
        self,
        backend: PostgresBackend,
        watcher: "asyncpg.Connection[asyncpg.Record]",
        pid: int | None,
        say: Callable[[str], None],
    ) -> None:
        self._backend = backend
        self._watcher = watcher
        self._pid = pid
        self._say = say
        self._costs: list[Cost] = []
        self._rooms: list[Room] = []

    async def run(self, sessions: int, calls: int) -> CapacityResult:
        ids = await self._create(sessions)
        await self._touch(ids)
        for at_once in AT_ONCE:
            await self._call(ids, calls, at_once)
        await self._reap(min(sessions, calls * len(AT_ONCE)) // A_TIME * A_TIME)
        return CapacityResult(sessions, calls, self._costs, self._rooms)

    async def _create(self, count: int) -> list[SessionId]:
        ids = [new_session_id() for _ in range(count)]
        before = await self._room("sessions", "streams")
        async with self._cost("a session made", count):
            for some in _by(ids, A_TIME):
                new = [
                    Session(
                        id_,
                        owner=f"user-{secrets.token_hex(4)}",
                        protocol_version="2025-11-25",
                        client_params=CLIENT,
                        initialized=True,
                        ttl=3600.0,
                    )
                    for id_ in some
                ]
                await self._backend.sessions.create(new, None, admission=Admission(), handled=False)
        self._rooms.append(Room("a live session", count, await self._room("sessions", "streams") - before))
        await self._watcher.execute(SETTLE)
        return ids

    async def _touch(self, ids: list[SessionId]) -> None:
        # The first time is the first change of the pages, too.
        for what, counted, earlier in (
            ("a touch", False, False),
            ("a touch", True, False),
            ("a touch that moves the expiry", True, True),
        ):
            if earlier:
                await self._watcher.execute(LET_TIME_PASS)
                await self._watcher.execute(SETTLE)
            async with self._cost(what, len(ids), counted=counted):
                for some in _by(ids, 500):
                    await self._backend.sessions.touch(sorted(some))
            await self._watcher.execute(SETTLE)
        some_ids = random.sample(ids, min(len(ids), LOOKED_AT * A_TIME))
        async with self._cost("a session read (cache miss)", len(some_ids)):
            for id_ in some_ids:
                await self._backend.sessions.get(id_)

    async def _call(self, ids: list[SessionId], count: int, at_once: int) -> None:
        before = await self._room("streams", "events")
        batches = list(_batches(ids, count, at_once))
        async with self._cost(f"a short call, {at_once} a batch", count):
            for batch in batches:
                await self._backend.log.write(batch, producer=ME)
        self._rooms.append(
            Room(f"a finished call, {at_once} a batch", count, await self._room("streams", "events") - before)
        )
        await self._watcher.execute(SETTLE)

    async def _reap(self, count: int) -> None:
        for name, expire in (("a finished call reaped", EXPIRE_STREAMS), ("a session reaped", EXPIRE_SESSIONS)):
            await self._watcher.execute(expire)
            await self._watcher.execute(SETTLE)
            async with self._cost(name, count):
                for _ in range(count // A_TIME):
                    await self._backend.reaping.reap(A_TIME)

    @asynccontextmanager
    async def _cost(self, what: str, count: int, *, counted: bool = True) -> AsyncIterator[None]:
        self._say(what)
        wal, cpu, began = await self._wal(), self._cpu(), time.perf_counter()
        yield
        seconds, used = time.perf_counter() - began, self._cpu()
        if counted:
            spent = None if cpu is None or used is None else (used - cpu) / count
            self._costs.append(Cost(what, count, seconds / count, (await self._wal() - wal) / count, spent))

    async def _wal(self) -> int:
        position: int = await self._watcher.fetchval(WAL)
        return position

    def _cpu(self) -> float | None:
        if self._pid is None:
            return None
        server = psutil.Process(self._pid)
        return sum(times.user + times.system for times in _times([server, *server.children(recursive=True)]))

    async def _room(self, *tables: str) -> int:
        rows = [await self._watcher.fetchrow(ROOM, table) for table in tables]
        return sum(row["rows"] + row["indexes"] for row in rows if row is not None)


def _times(processes: Iterable[psutil.Process]) -> Iterator[Any]:
    for process in processes:
        # The vacuum's processes come and go.
        try:
            yield process.cpu_times()
        except psutil.NoSuchProcess:
            continue


def _batches(ids: list[SessionId], count: int, at_once: int) -> Iterator[Batch]:
    for places in _by(range(count), at_once):
        yield Batch(
            opened=[
                OpenedStream(
                    random.choice(ids),
                    new_stream_id(),
                    # No two of one session's unfinished streams answer the same request; these are finished.
                    (str(place),),
                    [NewEvent(ANSWER, answers=str(place))],
                    finished=True,
                    method="tools/call",
                )
                for place in places
            ]
        )


def _by(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for begin in range(0, len(values), size):
        yield values[begin : begin + size]
