"""Writers that append events at full speed, each on a connection of its own, as the journals of as many replicas do."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

import anyio

from benchmarks.store_layer import WrongResultError
from mcpsession.model import (
    AppendedStream,
    Batch,
    NewEvent,
    OpenedStream,
    new_replica_id,
    new_session_id,
    new_stream_id,
)
from mcpsession.postgres.events import PostgresLog
from mcpsession.postgres.link import Link
from mcpsession.postgres.pool import Database
from mcpsession.settings import Settings

EVENT = NewEvent('{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"%s"}]}}' % ("x" * 60))


class Writer:
    """One stream, and who writes it, one event after the other."""

    def __init__(self, log: PostgresLog) -> None:
        self._log = log
        self._me = new_replica_id()
        self._session_id, self._stream_id = new_session_id(), new_stream_id()
        self._written = 0

    async def open(self) -> None:
        stream = OpenedStream(self._session_id, self._stream_id, ("1",), [], finished=False)
        await self._write(Batch(opened=[stream]))

    async def append(self) -> None:
        stream = AppendedStream(self._session_id, self._stream_id, self._written, [EVENT], finished=False)
        await self._write(Batch(appended=[stream]))
        self._written += 1

    async def _write(self, batch: Batch) -> None:
        if len(await self._log.write(batch, producer=self._me)) != 1:
            raise WrongResultError("appends", "write", None)


class Appends:
    """All writers, at rest between two turns."""

    def __init__(self, writers: list[Writer]) -> None:
        self._writers = writers

    @classmethod
    @asynccontextmanager
    async def running(cls, url: str, writers: int) -> AsyncIterator[Self]:
        """Connected while inside, in a namespace of their own: no replica takes their streams for orphans."""
        settings = Settings(namespace="appends", label="appends")
        database = Database(url, settings)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(database.running())
            all = []
            for _ in range(writers):
                link = await stack.enter_async_context(Link(database.address).closing())
                all.append(Writer(PostgresLog(database, link, settings)))
            for writer in all:
                await writer.open()
            yield cls(all)

    async def turn(self, seconds: float) -> float:
        """Append as fast as that goes; returns events per second."""
        appended = 0
        began = time.perf_counter()

        async def go_on(writer: Writer) -> None:
            nonlocal appended
            while time.perf_counter() < began + seconds:
                await writer.append()
                appended += 1

        async with anyio.create_task_group() as tasks:
            for writer in self._writers:
                tasks.start_soon(go_on, writer)
        return appended / (time.perf_counter() - began)
