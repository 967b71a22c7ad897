"""Bad input gets a clear error on every replica, and loses nothing."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.cluster.client import Client, error_of
from tests.cluster.conftest import Connect

REPLICAS = 2
SSE = {"accept": "text/event-stream"}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "1"},
    },
}


async def refused(response: httpx2.Response, status: int, message: str, code: int = -32600) -> None:
    assert response.status_code == status, response.text
    error = error_of(response)
    assert error["code"] == code
    assert message in error["message"]


@pytest.fixture(autouse=True)
async def the_session_stays(client: Client) -> Any:
    """Whatever was refused, the session goes on."""
    yield
    assert await client.status(replica=0) == 200
    assert await client.status(replica=1) == 200


# Bodies


@pytest.mark.parametrize("body", [b"", b"{", b"not json", b"\xff\xfe", b'{"jsonrpc": "2.0", "id": 1, "method": '])
async def test_a_body_that_is_not_json_is_a_parse_error(client: Client, body: bytes) -> None:
    await refused(await client.post(body, replica=1), 400, "Parse error", -32700)


@pytest.mark.parametrize(
    "body",
    [
        b"1",
        b'"text"',
        b"null",
        b"{}",
        b'{"id": 1, "method": "ping"}',
        b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": 5}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]}',
    ],
)
async def test_json_that_is_no_message_says_what_is_wrong(client: Client, body: bytes) -> None:
    await refused(await client.post(body, replica=1), 400, "Not a JSON-RPC message", -32602)


@pytest.mark.parametrize("request_id", [b"null", b"{}", b"[1]", b"true", b"1.5"])
async def test_a_request_id_is_a_number_or_a_text(client: Client, request_id: bytes) -> None:
    body = b'{"jsonrpc": "2.0", "id": %s, "method": "ping"}' % request_id
    await refused(await client.post(body, replica=1), 400, "Not a JSON-RPC message", -32602)


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
async def test_a_batch_is_refused_where_the_version_has_none(connect: Connect, version: str) -> None:
    client = await connect(version=version, replica=0)
    await refused(await client.post([PING], replica=1), 400, "Batches are not supported: send one JSON-RPC message")


async def test_a_body_too_large_is_413(client: Client) -> None:
    body = json.dumps({**PING, "params": {"filler": "x" * 70_000}}).encode()
    await refused(await client.post(body, replica=1), 413, "Request body too large: at most 65536 bytes are allowed")


async def test_an_unknown_method_and_an_unknown_tool_are_answered_in_the_stream(client: Client) -> None:
    async with client.requesting("no/such/method", {}, replica=1) as method:
        await method.end()
    assert [-32601] == [final["error"]["code"] for final in method.finals]
    async with client.calling("no_such_tool", replica=1) as tool:
        await tool.end()
    assert "no_such_tool" in str(tool.finals)


async def test_a_lone_surrogate_is_refused_and_the_replica_lives_on(client: Client) -> None:
    """Text that Postgres cannot hold, as a client can write it in ASCII."""
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\\ud800","arguments":{}}}'
    response = await client.post(body, replica=1)
    assert response.status_code in (200, 400)
    assert "error" in response.text or "isError" in response.text


async def test_nul_characters_do_not_stop_the_journal(client: Client) -> None:
    assert await client.call("put", {"key": "a\u0000b"}, replica=1) == "a\u0000b"
    assert await client.call("keys", replica=0) == "a\u0000b"


# Sessions


async def test_a_missing_session_id_says_how_to_begin(client: Client) -> None:
    stranger = Client(client._http)
    text = "Missing session ID; start with initialize"
    await refused(await stranger.post(PING, replica=1), 400, text)
    await refused(await stranger.get(replica=1, headers=SSE), 400, text)
    await refused(await stranger.delete(replica=1), 400, text)


@pytest.mark.parametrize("session_id", ["x" * 10_240, "ä" * 10, "with space", "x" * 129])
async def test_an_impossible_session_id_is_refused_without_a_look(client: Client, session_id: str) -> None:
    headers = {"mcp-session-id": session_id.encode().decode("latin-1")}
    raw = {key.encode(): value.encode("latin-1") for key, value in client.headers(1, headers).items()}
    for method in ("POST", "GET", "DELETE"):
        request = client._http.build_request(
            method, "/mcp", content=json.dumps(PING) if method == "POST" else None, headers=raw
        )
        response = await client._http.send(request)
        await refused(response, 400, "Mcp-Session-Id must be 1 to 128 visible ASCII characters")


async def test_an_unknown_session_is_404_for_every_method(client: Client) -> None:
    stranger = Client(client._http)
    stranger.session_id = "never-was"
    for response in (
        await stranger.post(PING, replica=1),
        await stranger.get(replica=1, headers=SSE),
        await stranger.delete(replica=1),
    ):
        await refused(response, 404, "Session not found: it never existed, expired, or was ended")


# Event ids


@pytest.mark.parametrize(
    "cursor", ["garbage", "1", "s.1.", "s.x.y", "x" * 5000, "AAAAAAAAAAAAAAAA.-1", "AAAAAAAAAAAAAAAA.1.2", "'; --"]
)
async def test_a_malformed_event_id_is_refused(client: Client, cursor: str) -> None:
    text = "Malformed Last-Event-ID: send back an event id of this server's as it was"
    await refused(await client.get(replica=1, headers={**SSE, "last-event-id": cursor}), 400, text)


async def test_an_unknown_event_id_is_refused(client: Client) -> None:
    response = await client.get(replica=1, headers={**SSE, "last-event-id": "A" * 16 + ".0"})
    await refused(response, 400, "Unknown Last-Event-ID: this session has no such stream, or it expired")


async def test_an_event_id_of_another_session_is_unknown(client: Client, connect: Connect) -> None:
    async with client.calling("whoami", replica=0) as stream:
        await stream.end()
    stranger = await connect(replica=1)
    response = await stranger.get(replica=1, headers={**SSE, "last-event-id": stream.ids[0]})
    await refused(response, 400, "Unknown Last-Event-ID")


async def test_a_number_past_the_end_of_a_finished_stream_gets_a_final_error(client: Client) -> None:
    """A stream that ended without a word would be resumed for ever."""
    async with client.calling("whoami", id=7, replica=0) as stream:
        await stream.end()
    cursor = stream.ids[0].partition(".")[0] + ".999"
    async with client.listening(cursor, replica=1) as beyond:
        await beyond.end()
    assert [7] == [final["id"] for final in beyond.finals]
    assert "cannot be resumed after event 999" in beyond.finals[0]["error"]["message"]


# Headers


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "text/html", ""])
async def test_a_post_must_accept_both_kinds(client: Client, accept: str) -> None:
    text = "Client must accept both application/json and text/event-stream"
    await refused(await client.post(PING, replica=1, headers={"accept": accept}), 406, text)


@pytest.mark.parametrize("accept", ["*/*", "application/*, text/*", "text/event-stream;q=0.5, application/json"])
async def test_wildcards_are_accepted(client: Client, accept: str) -> None:
    assert (await client.post(PING, replica=1, headers={"accept": accept})).status_code == 200


async def test_a_get_must_accept_events(client: Client) -> None:
    response = await client.get(replica=1, headers={"accept": "application/json"})
    await refused(response, 406, "Client must accept text/event-stream")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS"])
async def test_other_methods_are_405_and_name_the_allowed_ones(client: Client, method: str) -> None:
    response = await client._http.request(method, "/mcp", headers=client.headers(1))
    assert response.status_code == 405
    assert {"GET", "POST", "DELETE"} <= {word.strip() for word in response.headers["allow"].split(",")}


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_a_foreign_host_is_refused(client: Client, method: str) -> None:
    """DNS rebinding: a page of evil.test whose name points to 127.0.0.1."""
    headers = client.headers(1, {"host": "evil.test"})
    content = json.dumps(PING) if method == "POST" else None
    response = await client._http.request(method, "/mcp", content=content, headers=headers)
    assert (response.status_code, response.text) == (421, "Invalid Host header")


async def test_a_foreign_origin_is_refused(client: Client) -> None:
    response = await client.post(INITIALIZE, replica=1, headers={"origin": "https://evil.test"})
    assert (response.status_code, response.text) == (403, "Invalid Origin header")


async def test_a_post_that_is_not_json_by_its_content_type_is_refused(client: Client) -> None:
    response = await client.post(PING, replica=1, headers={"content-type": "text/plain"})
    assert response.status_code in (400, 415)
    assert "Content-Type" in response.text


async def test_a_bad_initialize_leaves_no_session(client: Client) -> None:
    stranger = Client(client._http)
    for params in ({}, {"protocolVersion": 5}, {"protocolVersion": "2025-11-25"}):
        response = await stranger.post({**INITIALIZE, "params": params}, replica=1)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == -32602
        assert "mcp-session-id" not in response.headers
