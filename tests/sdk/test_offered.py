"""What an MCPServer takes from a session's client with the layer, though it has no handler for it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp_types import EmptyResult, ListResourcesResult, SubscribeRequestParams

from mcpsession import SessionLayer
from tests.sdk.newsroom import ask, updated
from tests.sdk.replicas import Client, make_server, replica

URI = "test://one"


async def test_f80_a_plain_mcpserver_takes_subscriptions_and_delivers_updates(database_url: str) -> None:
    async with replica(database_url) as here, replica(database_url) as there:
        client = await Client().initialize(here)
        with anyio.fail_after(10):
            assert {} == (await ask(client, here, "resources/subscribe", {"uri": URI}))["result"]
            assert [URI] == await there.layer.sessions.subscriptions(client.session_id)
            async with client.get(there) as stream:
                await there.layer.broadcaster.publish(updated(URI))
                assert "notifications/resources/updated" == (await stream.message())["method"]
            assert {} == (await ask(client, there, "resources/unsubscribe", {"uri": URI}))["result"]


async def test_f29_a_plain_mcpserver_takes_a_log_level(database_url: str) -> None:
    async with replica(database_url) as here:
        client = await Client().initialize(here)
        with anyio.fail_after(10):
            assert {} == (await ask(client, here, "logging/setLevel", {"level": "error"}))["result"]
        session = await here.parts.sessions.get(client.session_id)
        assert session is not None
        assert "error" == session.log_level


async def test_a_handler_of_the_servers_own_stays() -> None:
    layer = SessionLayer.from_url("memory://")
    server = make_server(layer, {})

    async def own(context: Any, params: Any) -> EmptyResult:
        return EmptyResult()

    server._lowlevel_server.add_request_handler("resources/subscribe", SubscribeRequestParams, own)
    layer.session_manager(server)
    entry = server._lowlevel_server.get_request_handler("resources/subscribe")
    assert entry is not None
    assert own is entry.handler


@pytest.mark.parametrize("method", ["resources/subscribe", "resources/unsubscribe", "logging/setLevel"])
async def test_a_low_level_server_says_itself_what_it_takes(method: str) -> None:
    async def resources(context: ServerRequestContext[Any, Any], params: Any) -> ListResourcesResult:
        return ListResourcesResult(resources=[])

    server: Server[Any] = Server("tests", on_list_resources=resources)
    SessionLayer.from_url("memory://").session_manager(server)
    assert server.get_request_handler(method) is None
