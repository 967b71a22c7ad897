"""Replicas inside the test's process: a real layer over a real database, serving tools that each test writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import asyncpg
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.mcpserver import Context, MCPServer

from mcpsession import SessionLayer
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.sdk.parts import Parts
from mcpsession.settings import Settings
from tests.sdk.asgi_client import Response, request
from tests.sdk.gates import Gated

ACCEPT = {"accept": "application/json, text/event-stream"}
VERSION = "2025-11-25"

Script = Callable[[Context], Awaitable[Any]]


@dataclass
class Replica:
    """One running replica and everything that a test wants to hold."""

    app: Any
    layer: SessionLayer
    parts: Parts
    backend: Any
    """The real backend, with its sessions, log and mailbox behind gates."""
    server: Any
    scripts: dict[str, Script] = field(default_factory=dict)
    """What the tool `act` does, by the name that it is called with."""

    @property
    def id(self) -> str:
        return self.parts.heartbeat.replica_id


def make_server(layer: SessionLayer, scripts: Mapping[str, Script]) -> MCPServer:
    server = MCPServer("tests", subscriptions=layer.subscriptions)

    @server.tool()
    async def echo(text: str) -> str:
        return text

    @server.tool()
    async def act(name: str, ctx: Context) -> str:
        return str(await scripts[name](ctx))

    return server


@asynccontextmanager
async def replica(
    url: str,
    *,
    make: Callable[[SessionLayer, Mapping[str, Script]], Any] = make_server,
    wrap: Callable[[Any], None] = lambda _: None,
    app_options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Replica]:
    """Run one replica. `wrap` may change the backend before the layer sees it."""
    chosen = Settings(**settings)
    backend: Any = PostgresBackend(url, None, chosen)
    for part in ("sessions", "initialization", "log", "mailbox", "holds", "reaping", "subscriptions", "news_log"):
        setattr(backend, part, Gated(getattr(backend, part)))
    wrap(backend)
    layer = SessionLayer(backend, chosen)
    scripts: dict[str, Script] = {}
    server = make(layer, scripts)
    app = layer.streamable_http_app(server, **(app_options or {}))
    async with app.router.lifespan_context(app), layer.running() as parts:
        yield Replica(app, layer, parts, backend, server, scripts)


class Client:
    """A client with one session, that sends each message to whichever replica it is told."""

    def __init__(self, version: str = VERSION, session_id: str = "") -> None:
        self.version = version
        self.session_id = session_id
        self._ids = count(1)

    @property
    def headers(self) -> dict[str, str]:
        return {**ACCEPT, "mcp-session-id": self.session_id, "mcp-protocol-version": self.version}

    async def initialize(self, at: Replica, capabilities: Mapping[str, Any] | None = None) -> Client:
        message = hello(self.version, capabilities=capabilities)
        async with request(at.app, "POST", headers=ACCEPT, json_body=message) as response:
            await response.ended()
            assert 200 == response.status, response.body
            self.session_id = response.headers["mcp-session-id"]
        assert 202 == await self.notify(at, "notifications/initialized")
        return self

    def post(self, at: Replica, message: Any, *, reading: bool = True) -> AbstractAsyncContextManager[Response]:
        return request(at.app, "POST", headers=self.headers, json_body=message, reading=reading)

    def call(
        self,
        at: Replica,
        name: str,
        *,
        tool: str = "act",
        id: Any = None,
        token: Any = None,
        arguments: Mapping[str, Any] | None = None,
        reading: bool = True,
    ) -> AbstractAsyncContextManager[Response]:
        """Call the tool `act` with the name of a script, or another tool."""
        params: dict[str, Any] = {"name": tool, "arguments": dict(arguments or {"name": name})}
        if token is not None:
            params["_meta"] = {"progressToken": token}
        request_id = next(self._ids) if id is None else id
        message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
        return self.post(at, message, reading=reading)

    def echo(self, at: Replica, text: str = "hello") -> AbstractAsyncContextManager[Response]:
        return self.call(at, "", tool="echo", arguments={"text": text})

    async def send(self, at: Replica, message: Any) -> int:
        """POST what has no stream for an answer; returns the status."""
        async with self.post(at, message) as response:
            await response.ended()
            return response.status

    async def notify(self, at: Replica, method: str, params: Any = None) -> int:
        message = {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}
        return await self.send(at, message)

    async def answer(self, at: Replica, asked: Any, result: Any) -> int:
        """Answer a server's request; returns the status."""
        return await self.send(at, {"jsonrpc": "2.0", "id": asked["id"], "result": result})

    def get(self, at: Replica, last_event_id: str | None = None) -> AbstractAsyncContextManager[Response]:
        headers = self.headers | ({} if last_event_id is None else {"last-event-id": last_event_id})
        return request(at.app, "GET", headers=headers)

    async def delete(self, at: Replica) -> int:
        async with request(at.app, "DELETE", headers=self.headers) as response:
            await response.ended()
            return response.status


def hello(version: str = VERSION, *, id: Any = "init", capabilities: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The message `initialize`."""
    params = {
        "protocolVersion": version,
        "capabilities": dict(capabilities or {"elicitation": {}, "sampling": {}, "roots": {}}),
        "clientInfo": {"name": "tests", "version": "1"},
    }
    return {"jsonrpc": "2.0", "id": id, "method": "initialize", "params": params}


def signed_in(at: Replica, name: str) -> Replica:
    """The replica as somebody reaches it whom the server's authentication knows."""
    user = AuthenticatedUser(AccessToken(token="secret", client_id="tests", scopes=[], subject=name))

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await at.app({**scope, "user": user}, receive, send)

    return replace(at, app=app)


async def stored(at: Replica, table: str, session_id: str | None = None) -> int:
    """How many rows a table has, of one session or of all."""
    connection = await asyncpg.connect(at.backend._direct.url)
    try:
        key = "id" if table == "sessions" else "session_id"
        where = f"{key} = $1" if session_id is not None else "$1::text IS NULL"
        found: int = await connection.fetchval(f"SELECT count(*) FROM mcpsession.{table} WHERE {where}", session_id)
        return found
    finally:
        await connection.close()


def text_of(message: Any) -> str:
    """The text that a tool returned."""
    text: str = message["result"]["content"][0]["text"]
    return text


async def logged(at: Replica, client: Client, event_id: str) -> Any:
    """What the log holds of the stream that an event id belongs to."""
    return await at.backend.log.read(client.session_id, event_id.split(".")[0], 0, 1000)
