"""What the tests of news have in common: clients that listen, and a server that takes no subscriptions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from mcp_types import EmptyResult, SubscribeRequestParams

from mcpsession import SessionLayer
from mcpsession.model import News
from mcpsession.sdk import wire
from tests.sdk.asgi_client import Frame, Response, request
from tests.sdk.gates import until
from tests.sdk.replicas import ACCEPT, Client, Replica, Script, make_server

TOOLS, PROMPTS, RESOURCES = (News(f"notifications/{kind}/list_changed") for kind in ("tools", "prompts", "resources"))
END = News("notifications/tests/end")
"""What is published last: of one publisher nothing comes after it that was published before."""

MODERN = "2026-07-28"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"


def updated(uri: str) -> News:
    return News("notifications/resources/updated", {"uri": uri})


def said(level: str, data: str) -> News:
    return News("notifications/message", {"level": level, "data": data})


def numbered(number: int) -> News:
    """News of the application's own for its clients: none of it replaces another."""
    return News("notifications/tests/numbered", {"n": number})


def make_refusing_server(layer: SessionLayer, scripts: Mapping[str, Script]) -> Any:
    """The usual server, which itself takes subscriptions, and none."""
    server = make_server(layer, scripts)

    async def refuse(ctx: Any, params: Any) -> EmptyResult:
        raise ValueError("not that one")

    server._lowlevel_server.add_request_handler("resources/subscribe", SubscribeRequestParams, refuse)
    return server


async def ask(client: Client, at: Replica, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request."""
    message = {"jsonrpc": "2.0", "id": method, "method": method, "params": dict(params)}
    async with client.post(at, message) as response:
        [answer] = await response.messages()
        return answer


async def subscribe(client: Client, at: Replica, uri: str) -> None:
    assert {} == (await ask(client, at, "resources/subscribe", {"uri": uri}))["result"]


async def unsubscribe(client: Client, at: Replica, uri: str) -> None:
    assert {} == (await ask(client, at, "resources/unsubscribe", {"uri": uri}))["result"]


async def set_level(client: Client, at: Replica, level: str) -> None:
    assert {} == (await ask(client, at, "logging/setLevel", {"level": level}))["result"]


@asynccontextmanager
async def standing(client: Client, at: Replica, last_event_id: str | None = None) -> AsyncIterator[Response]:
    """The client's standalone stream, held by a replica, that has caught up and hears."""
    streams = at.parts.standalones
    before = streams.of(client.session_id)
    async with client.get(at, last_event_id) as response:
        await until(lambda: any(new._news._floor for new in streams.of(client.session_id) if new not in before))
        yield response


def modern(method: str, params: Mapping[str, Any], id: Any = 1) -> tuple[dict[str, str], dict[str, Any]]:
    """Headers and message of a request of the era without sessions."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {"jsonrpc": "2.0", "id": id, "method": method, "params": {**params, "_meta": meta}}
    return {**ACCEPT, "mcp-protocol-version": MODERN, "mcp-method": method}, message


@asynccontextmanager
async def listening(at: Replica, id: Any = "listen", **wanted: Any) -> AsyncIterator[Response]:
    """A `subscriptions/listen` stream of the era without sessions; its first frame is not read yet."""
    headers, message = modern("subscriptions/listen", {"notifications": wanted}, id)
    async with request(at.app, "POST", headers=headers, json_body=message) as response:
        await until(lambda: response.frames or response.complete)
        yield response


async def up_to_end(stream: Response) -> list[dict[str, Any]]:
    """All messages that come before END."""
    return await up_to(stream, END.method)


async def up_to(stream: Response, method: str) -> list[dict[str, Any]]:
    messages = []
    while (message := await stream.message()) is not None and message["method"] != method:
        messages.append(message)
    assert message is not None, messages
    return messages


def news_of(messages: list[dict[str, Any]]) -> list[News]:
    return [News(message["method"], message["params"]) for message in messages]


async def heard(stream: Response) -> list[News]:
    """The news that come before END."""
    return news_of(await up_to_end(stream))


def position_of(event_id: str) -> str:
    """The position in the broadcast mail that a frame's id carries."""
    cursor = wire.parse_cursor(event_id)
    assert cursor is not None
    return cursor.position


def messages_of(stream: Response) -> list[Frame]:
    """The frames so far that carry a message."""
    return [frame for frame in stream.frames if frame.message]
