"""A replica of the growth benchmark: tools whose answers are as large as one likes, and what its sessions cost it."""

import gc
import itertools
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import anyio
import psutil
from mcp.server.mcpserver import Context, MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.sampler import listen_for_signals
from benchmarks.store_rows import METADATA, STATE
from mcpsession import SessionLayer
from mcpsession.postgres import address

# Notifications of one talk.
NOTIFICATIONS = 20
# Sessions of one create_many, and the texts of each size.
MANY, DIFFERENT = 1000, 16
# Sessions of one page: as many as the smallest store has.
PAGE = 10


class Counted(address.OurConnection):
    """A connection whose statements are counted."""

    done = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_query_logger(_count)


def _count(_query: object) -> None:
    Counted.done += 1


class Station:
    """The tools, and what the benchmark tells the replica."""

    def __init__(self, layer: SessionLayer) -> None:
        self._layer = layer
        self._ids: list[str] = []

    # Tools

    async def echo(self, text: str) -> str:
        """Return the text, without the hop to a thread, whose cost is nobody's growth."""
        return text

    async def say(self, size: int) -> str:
        """Return so many characters."""
        return some_text(size)

    async def talk(self, ctx: Context, size: int) -> str:
        """Report progress 20 times, with so many characters each."""
        for number in range(NOTIFICATIONS):
            await ctx.report_progress(number, NOTIFICATIONS, some_text(size))
        return "talked"

    async def pour(self, ctx: Context, events: int) -> str:
        """Report progress so many times."""
        for number in range(events):
            await ctx.report_progress(number, events, f"step {number} of {events} is done, the next one begins")
        return "poured"

    # What it is told

    async def measured(self) -> dict[str, float]:
        """What this process has used so far, and how many statements it has asked for."""
        return {"cpu": time.process_time(), "statements": Counted.done}

    async def flushed(self) -> dict[str, float]:
        """Wait until all that was answered is in the log."""
        async with self._layer.running() as parts:
            await parts.journal.flushed()
        return {}

    async def fill(self, sessions: int) -> dict[str, float]:
        """Create sessions; the seconds that took."""
        began = time.perf_counter()
        for done in range(0, sessions, MANY):
            number = min(MANY, sessions - done)
            store = self._layer.sessions
            await store.create_many(store.new_session(metadata=METADATA, state=STATE) for _ in range(number))
        return {"seconds": time.perf_counter() - began}

    async def know(self) -> dict[str, float]:
        """Learn which sessions there are."""
        self._ids = [session.id async for session in self._layer.sessions.each()]
        return {"known": len(self._ids)}

    async def remember(self) -> dict[str, float]:
        """Have all of them in the cache; bytes that this takes."""
        async with self._layer.running() as parts, anyio.create_task_group() as tasks:
            gc.collect()
            before, waiting = _resident(), iter(self._ids)

            async def load() -> None:
                for session_id in waiting:
                    await parts.cache.load(session_id)

            for _ in range(self._layer.settings.pool_size):
                tasks.start_soon(load)
        gc.collect()
        return {"cached": len(parts.cache), "bytes": _resident() - before}

    async def do(self, operation: str, times: int) -> dict[str, float]:
        """Do something so often, one after the other; the seconds that took."""
        act: Callable[[], Awaitable[object]] = getattr(self, f"_{operation}")
        for _ in range(3):
            await act()
        began = time.perf_counter()
        for _ in range(times):
            await act()
        return {"seconds": (time.perf_counter() - began) / times}

    async def reap(self) -> dict[str, float]:
        """A pass of the reaper: seconds, and how many sessions went."""
        began = time.perf_counter()
        reaped = await self._layer.reaper.run_once()
        return {"seconds": time.perf_counter() - began, "reaped": reaped.sessions}

    async def peak(self) -> dict[str, float]:
        """The most bytes that were resident since this was asked last; 0 where no system tells."""
        return {"peak": _peak(), "now": _resident()}

    async def _get(self) -> object:
        return await self._layer.sessions.get(random.choice(self._ids))

    async def _touch(self) -> object:
        return await self._layer.sessions.touch(random.choice(self._ids))

    async def _page(self) -> object:
        beginning = random.randrange(max(1, len(self._ids) - PAGE))
        after = self._ids[beginning] if len(self._ids) > PAGE else ""
        return await self._layer.sessions.list(after=after, limit=PAGE)

    async def _pass(self) -> object:
        return await self._layer.reaper.run_once()


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _peak() -> int:
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return 0
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    # From here on it counts anew.
    clear.write_text("5")
    return 1024 * int(line.split()[1])


def some_text(size: int) -> str:
    """Prose of so many characters, another one next time."""
    return next(_texts(size))


@cache
def _texts(size: int) -> Iterator[str]:
    # The Python reference: half a megabyte that Postgres compresses as it does what tools say.
    whole = "".join(topics[name] for name in sorted(topics))
    whole *= 1 + size // len(whole)
    whole += whole[:size]
    chance = random.Random(size)
    starts = [chance.randrange(len(whole) - size) for _ in range(DIFFERENT)]
    return itertools.cycle([whole[start : start + size] for start in starts])


def app() -> Starlette:
    """The layer on MCPSESSION_URL with the station beside it."""
    if path := os.environ.get("BENCH_PROFILE"):
        listen_for_signals(path, exact=os.environ.get("BENCH_PROFILE_EXACT") == "1")
    # Every connection is of this class; what it counts costs a microsecond.
    address.OurConnection = Counted  # type: ignore[misc]
    layer = SessionLayer.from_env()
    server = MCPServer("bench", subscriptions=layer.subscriptions)
    station = Station(layer)
    server.tool()(station.echo)
    for tool in (station.say, station.talk, station.pour):
        server.tool(structured_output=False)(tool)
    app = layer.streamable_http_app(server)
    told = (
        *(station.measured, station.flushed, station.fill, station.know, station.remember),
        *(station.do, station.reap, station.peak),
    )
    app.router.routes += [Route(f"/{tell.__name__}", _endpoint(tell), methods=["POST"]) for tell in told]
    return app


def _endpoint(tell: Callable[..., Awaitable[dict[str, float]]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(await tell(**await request.json()))

    return endpoint
