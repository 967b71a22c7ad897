"""What the replicas of the tests about news run: tools that publish, and tools that subscribe inside the process."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any, Literal

import anyio
import asyncpg
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import EmptyResult, SetLevelRequestParams, SubscribeRequestParams, UnsubscribeRequestParams
from starlette.applications import Starlette

from mcpsession import SessionLayer
from mcpsession.broadcaster import Broadcaster
from mcpsession.model import News
from tests.cluster.server import note, passed

Params = dict[str, Any]
Policy = Literal["resync", "replay"]


class Newsroom:
    """The tools of one replica. What one subscribes to is heard by the call itself, so it ends with it."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster

    async def publish(self, method: str, params: Params, session_id: str = "", topic: str = "") -> str:
        """Publish one piece of news; names what came back."""
        news = News(method, params)
        return type(await self._broadcaster.publish(news, session_id or None, topic or None)).__name__

    async def publish_text(self, method: str, size: int) -> str:
        """Publish a long text."""
        await self._broadcaster.publish(News(method, {"text": "x" * size}))
        return "published"

    async def publish_all(self, plan: list[tuple[str, Params]], pauses: list[float]) -> str:
        """Publish one after the other, with a pause after each."""
        for (method, params), pause in zip(plan, pauses, strict=True):
            await self._broadcaster.publish(News(method, params))
            await anyio.sleep(pause)
        return "published"

    async def publish_within(
        self,
        plan: list[tuple[str, Params]],
        end: Literal["COMMIT", "ROLLBACK"],
        name: str,
        gate: str = "",
        seconds: float = 0.0,
    ) -> str:
        """Publish within a transaction of one's own; end it when the gate's file is there, or after some seconds."""
        connection = await asyncpg.connect(os.environ["MCPSESSION_URL"])
        try:
            await connection.execute("BEGIN")
            for method, params in plan:
                await self._broadcaster.publish(News(method, params), conn=connection)
            note(f"{name}.published")
            if gate:
                await passed(gate)
            await anyio.sleep(seconds)
            await connection.execute(end)
        finally:
            await connection.close()
        return end

    async def hear(self, name: str, last: str, policy: Policy = "resync", topic: str = "", pause: float = 0.0) -> str:
        """Subscribe, say so in a file, and return all that was heard before a certain last method, as JSON."""
        heard: list[tuple[str, Params]] = []
        async with self._broadcaster.subscribe(topic=topic or None, policy=policy) as subscription:
            note(f"{name}.subscribed")
            async for news in subscription:
                if news.method == last:
                    break
                heard.append((news.method, dict(news.params)))
                await anyio.sleep(pause)
        return json.dumps(heard)

    async def hear_sizes(self, name: str, last: str) -> str:
        """The same, with the lengths of texts instead of the texts."""
        heard: list[tuple[str, Params]] = json.loads(await self.hear(name, last))
        return json.dumps([(method, {"size": len(params["text"])}) for method, params in heard])


async def accept(ctx: ServerRequestContext[Any, Any], params: object) -> EmptyResult:
    """Agree: the layer keeps a session's level and its subscriptions."""
    return EmptyResult()


def app() -> Starlette:
    """The newsroom, for anyone."""
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    layer = SessionLayer.from_env()
    server = MCPServer("newsroom", subscriptions=layer.subscriptions)
    room = Newsroom(layer.broadcaster)
    for tool in (room.publish, room.publish_text, room.publish_all, room.publish_within, room.hear, room.hear_sizes):
        server.tool(structured_output=False)(tool)
    lowlevel = server._lowlevel_server
    lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, accept)
    lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, accept)
    lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, accept)
    return layer.streamable_http_app(server)
