"""The app of an MCPServer is what its own would be: who may come in, its own routes, its debug mode."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mcpsession import SessionLayer
from mcpsession.sdk.app import _of_its_own, low_level
from tests.cluster.server import Verifier

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


def secured() -> MCPServer[Any]:
    """A server that was told itself who may come in."""
    auth = AuthSettings(
        issuer_url=AnyHttpUrl("https://id.test"),
        resource_server_url=AnyHttpUrl("http://127.0.0.1/mcp"),
        validate_token_resource=False,
    )
    server = MCPServer("secured", auth=auth, token_verifier=Verifier(), debug=True)

    @server.custom_route("/hello", methods=["GET"])
    async def hello(request: Request) -> Response:
        del request
        return PlainTextResponse("hello")

    return server


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("nobody", 401), ("anna", 200)])
async def test_a_server_that_asks_for_tokens_asks_for_them_with_the_layer_too(token, status):
    layer = SessionLayer.from_url("memory://")
    app = layer.streamable_http_app(secured())
    headers = HEADERS if token is None else {**HEADERS, "authorization": f"Bearer {token}"}
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://127.0.0.1:8000") as client,
    ):
        assert status == (await client.post("/mcp", json=INITIALIZE, headers=headers)).status_code
        assert "hello" == (await client.get("/hello")).text


async def test_its_routes_are_those_of_its_own_app_and_the_health():
    def paths(app: Any) -> list[str]:
        return [route.path for route in app.routes]

    ours = SessionLayer.from_url("memory://").streamable_http_app(secured())
    theirs = secured().streamable_http_app()
    assert [*paths(theirs), "/healthz"] == paths(ours)
    assert theirs.debug == ours.debug
    assert [one.cls for one in theirs.user_middleware] == [one.cls for one in ours.user_middleware]


async def test_whatever_a_server_hands_to_its_app_besides_its_arguments_is_handed_to_ours(monkeypatch):
    """A seam: when a release of the SDK hands on more, this fails, and `_of_its_own` in sdk/app.py is to have it."""
    server, handed = secured(), {}
    inner = low_level(server)
    monkeypatch.setattr(inner, "streamable_http_app", lambda **options: handed.update(options))
    MCPServer.streamable_http_app(server)
    arguments = MCPServer.streamable_http_app.__kwdefaults__ or {}
    assert {name: value for name, value in handed.items() if name not in arguments} == _of_its_own(server)


async def test_an_argument_counts_more_than_what_the_server_was_told():
    layer = SessionLayer.from_url("memory://")
    app = layer.streamable_http_app(secured(), auth=None, token_verifier=None)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://127.0.0.1:8000") as client,
    ):
        assert 200 == (await client.post("/mcp", json=INITIALIZE, headers=HEADERS)).status_code
