"""Replicas whose tools look at requests, and stop them."""

from __future__ import annotations

import json

from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette

from mcpsession import SessionLayer, current_session
from tests.cluster.server import hang, wait, whoami


def app() -> Starlette:
    layer = SessionLayer.from_env()
    server = MCPServer("requests")
    for tool in (hang, wait, whoami):
        server.tool(structured_output=False)(tool)

    @server.tool(structured_output=False)
    async def track(key: str) -> str:
        """Track a request of the session, and leave it."""
        info = await layer.requests.track(current_session().id, key, "jobs/run")
        return info.replica

    @server.tool(structured_output=False)
    async def running() -> str:
        """What is under way for the session, as this replica sees it."""
        found = await layer.requests.list(current_session().id)
        return json.dumps({str(info.request_id): info.method for info in found})

    @server.tool(structured_output=False)
    async def cancel(key: int, reason: str) -> str:
        """Cancel a request of the session; returns how long it ran, or nothing."""
        info = await layer.requests.cancel(current_session().id, key, reason)
        return "" if info is None else str(info.duration)

    return layer.streamable_http_app(server)
