"""A replica of the news benchmark: it publishes, notifies and follows when it is told to, over HTTP."""

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import asyncpg
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcpsession import SessionLayer
from mcpsession.broadcaster import Broadcaster
from mcpsession.model import News

METHOD = "notifications/tools/list_changed"
END = "bench/end"

CHANNEL, STORED_CHANNEL = "bench", "bench_stored"
NOTIFY = "SELECT pg_notify($1, $2::text)"
STORED = "CREATE TABLE IF NOT EXISTS bench_stored (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at text)"
STORE = """
WITH stored AS (INSERT INTO bench_stored (at) VALUES ($2::text) RETURNING id)
SELECT pg_notify($1, id::text) FROM stored
"""


class Station:
    """What it can be told. The clock is the machine's: time.monotonic() is one for all its processes."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster
        self._subscription: Any = None
        self._stop = anyio.Event()
        self._connection: Any = None

    async def publish(self, times: int, pause: float) -> dict[str, float]:
        """Publish one after the other, each with the time at which that began."""
        for _ in range(times):
            await self._broadcaster.publish(News(METHOD, {"_meta": {"at": time.monotonic()}}))
            await anyio.sleep(pause)
        return {}

    async def publish_on(self, pause: float) -> dict[str, float]:
        """Publish so often until told to stop."""
        self._stop = anyio.Event()
        due = time.monotonic()
        while not self._stop.is_set():
            await self.publish(1, 0.0)
            due += pause
            await anyio.sleep(max(0.0, due - time.monotonic()))
        return {}

    async def stop(self) -> dict[str, float]:
        self._stop.set()
        return {}

    async def notify(self, times: int, pause: float) -> dict[str, float]:
        """The same with nothing but pg_notify."""
        return await self._ring(NOTIFY, CHANNEL, times, pause)

    async def store(self, times: int, pause: float) -> dict[str, float]:
        """The same with a row for each, which is there for good before anyone hears of it."""
        return await self._ring(STORE, STORED_CHANNEL, times, pause)

    async def _ring(self, statement: str, channel: str, times: int, pause: float) -> dict[str, float]:
        if self._connection is None:
            self._connection = await asyncpg.connect(os.environ["MCPSESSION_URL"])
        for _ in range(times):
            await self._connection.execute(statement, channel, str(time.monotonic()))
            await anyio.sleep(pause)
        return {}

    async def publish_fast(self, at_once: int, seconds: float) -> dict[str, float]:
        """Publish as fast as that goes, and then the end."""
        began = time.monotonic()
        published = 0

        async def go_on() -> None:
            nonlocal published
            while time.monotonic() < began + seconds:
                await self._broadcaster.publish(News(METHOD, {"_meta": {"at": began}}))
                published += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(at_once):
                tasks.start_soon(go_on)
        elapsed = time.monotonic() - began
        await self._broadcaster.publish(News(END))
        return {"done": published, "seconds": elapsed}

    async def subscribe(self) -> dict[str, float]:
        """From here on, everything is to be followed."""
        self._subscription = self._broadcaster.subscribe(policy="replay")
        return {}

    async def follow(self) -> dict[str, float]:
        """Hear everything up to the end; the time counts from the first that is heard."""
        heard, began = 0, time.monotonic()
        async with self._subscription as subscription:
            async for news in subscription:
                if news.method == END:
                    break
                if not heard:
                    began = time.monotonic()
                heard += 1
        return {"done": heard, "seconds": time.monotonic() - began}


def app() -> Starlette:
    """The layer on MCPSESSION_URL with the station beside it."""
    layer = SessionLayer.from_env()
    server = MCPServer("bench", subscriptions=layer.subscriptions)
    station = Station(layer.broadcaster)
    app = layer.streamable_http_app(server)
    told = (
        *(station.publish, station.publish_on, station.stop, station.publish_fast),
        *(station.notify, station.store, station.subscribe, station.follow),
    )
    app.router.routes += [Route(f"/{tell.__name__}", _endpoint(tell), methods=["POST"]) for tell in told]
    return app


def _endpoint(tell: Callable[..., Awaitable[dict[str, float]]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(await tell(**await request.json()))

    return endpoint
