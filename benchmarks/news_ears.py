"""Who hears, in the client's process: a standalone stream as a bare socket, and asyncpg listeners beside it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

from benchmarks.client import ClientSession
from benchmarks.news_server import CHANNEL, STORED, STORED_CHANNEL

# Seconds in which all that was sent must have come.
PATIENCE = 10.0


class NewsLostError(Exception):
    """What was sent did not come: then no time says anything."""

    def __init__(self, what: str, came: int, sent: int) -> None:
        super().__init__(f"{what}: of {sent} sent, {came} came within {PATIENCE:g} s")


class Ear:
    """Notes how long each was on its way: from before it was sent to its bytes in this process."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._latencies: list[float] = []
        self._more = asyncio.Event()

    def note(self, now: float, sent_at: float) -> None:
        self._latencies.append(now - sent_at)
        self._more.set()

    async def take(self, number: int) -> list[float]:
        """Wait for so many, and begin anew.

        Raises NewsLostError if they do not come, or more of them do.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                while len(self._latencies) < number:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise NewsLostError(self._what, len(self._latencies), number) from None
        latencies, self._latencies = self._latencies, []
        if len(latencies) > number:
            raise NewsLostError(self._what, len(latencies), number)
        return latencies


class _Stream(asyncio.Protocol):
    """Just enough HTTP and SSE: each event of the server's comes whole, in a chunk of its own or with others."""

    def __init__(self, request: bytes, ear: Ear) -> None:
        self._request = request
        self._ear = ear
        self._rest = b""
        self.open = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                self._ear.note(now, json.loads(line[6:])["params"]["_meta"]["at"])
            elif line.startswith(b"id: "):
                self.open.set()


@asynccontextmanager
async def streaming(url: str) -> AsyncIterator[Ear]:
    """A new session's standalone stream, open."""
    session = await ClientSession.open(url)
    ear, parts = Ear("publish"), urlsplit(url)
    transport, stream = await asyncio.get_running_loop().create_connection(
        lambda: _Stream(session.request(b"GET", b""), ear), str(parts.hostname), parts.port or 80
    )
    try:
        async with asyncio.timeout(PATIENCE):
            await stream.open.wait()
        yield ear
    finally:
        transport.close()
    await session.close()


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Ear]:
    """A listening connection, and nothing more."""
    ear = Ear("pg_notify")

    def heard(connection: object, pid: int, channel: str, payload: object) -> None:
        ear.note(time.monotonic(), float(str(payload)))

    connection = await asyncpg.connect(url)
    try:
        await connection.add_listener(CHANNEL, heard)
        yield ear
    finally:
        await connection.close()


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Ear]:
    """A listening connection, and another that reads the row that each notification names."""
    ear = Ear("pg_notify of a row")
    waiting: asyncio.Queue[int] = asyncio.Queue()

    def heard(connection: object, pid: int, channel: str, payload: object) -> None:
        waiting.put_nowait(int(str(payload)))

    async def read(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        while True:
            at = await connection.fetchval("SELECT at FROM bench_stored WHERE id = $1", await waiting.get())
            ear.note(time.monotonic(), float(at))

    async with AsyncExitStack() as stack:
        listener, reader = await asyncpg.connect(url), await asyncpg.connect(url)
        stack.push_async_callback(listener.close)
        stack.push_async_callback(reader.close)
        await reader.execute(STORED)
        await listener.add_listener(STORED_CHANNEL, heard)
        task = asyncio.create_task(read(reader))
        stack.callback(task.cancel)
        yield ear
