"""A replica of the fail-over benchmark: its tools run on, ask and stop, and say when."""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcpsession import SessionLayer
from mcpsession.broadcaster import Broadcaster
from mcpsession.model import News

# News of which each piece counts: of lists that changed, a client that was away hears the newest.
METHOD = "notifications/message"
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
# So many publications are on their way at once.
AT_ONCE = 16


class Station:
    """The tools, and what the benchmark tells them. The clock is the machine's: one for all its processes."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster
        self._gates: dict[str, anyio.Event] = defaultdict(anyio.Event)
        self._stopped_at: dict[str, float] = {}

    # Tools

    async def echo(self, text: str) -> str:
        """Return the text."""
        return text

    async def walk(self, ctx: Context, name: str) -> str:
        """Report step 1 at once and step 2 at the first gate; return at the second."""
        await ctx.report_progress(1)
        await self._gates[f"{name}.step"].wait()
        await ctx.report_progress(2)
        await self._gates[f"{name}.end"].wait()
        return "walked"

    async def hang(self, ctx: Context, name: str) -> str:
        """Report step 1 and wait until stopped; note when."""
        try:
            await ctx.report_progress(1)
            await anyio.sleep_forever()
        finally:
            self._stopped_at[name] = time.monotonic()
            self._gates[f"{name}.stopped"].set()
        return "never"

    async def ask(self, ctx: Context) -> str:
        """Ask the user at what time this was asked."""
        answer = await ctx.session.elicit_form(str(time.monotonic()), SCHEMA, related_request_id=ctx.request_id)
        return f"{answer.action} {(answer.content or {}).get('answer')}"

    # What it is told

    async def open_gates(self, *names: str) -> float:
        """Let a tool go on."""
        for name in names:
            self._gates[name].set()
        return 0.0

    async def stopped(self, name: str) -> float:
        """When that call of `hang` was stopped; waits for it."""
        await self._gates[f"{name}.stopped"].wait()
        return self._stopped_at[name]

    async def publish(self, session_id: str, number: int) -> float:
        """Publish so many for one session, which hears each of them; returns the seconds that took."""
        began, waiting = time.monotonic(), iter(range(number))

        async def go_on() -> None:
            for n in waiting:
                await self._broadcaster.publish(News(METHOD, {"level": "info", "data": n}), session_id=session_id)

        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE):
                tasks.start_soon(go_on)
        return time.monotonic() - began


def app() -> Starlette:
    """The layer on MCPSESSION_URL with the station beside it."""
    layer = SessionLayer.from_env()
    server = MCPServer("bench", subscriptions=layer.subscriptions)
    station = Station(layer.broadcaster)
    for tool in (station.echo, station.walk, station.hang, station.ask):
        server.tool(structured_output=False)(tool)
    app = layer.streamable_http_app(server)
    told = (station.open_gates, station.stopped, station.publish)
    app.router.routes += [Route(f"/{tell.__name__}", _endpoint(tell), methods=["POST"]) for tell in told]
    return app


def _endpoint(tell: Callable[..., Awaitable[float]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        arguments: list[Any] = await request.json()
        return JSONResponse(await tell(*arguments))

    return endpoint
