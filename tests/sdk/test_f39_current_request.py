"""What a handler can know of its request: `current_request()`, the same wherever it asks."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
import pytest
from mcp.server.mcpserver import MCPServer

from mcpsession import current_request, current_session
from mcpsession.sdk.current import NoSessionError
from mcpsession.sdk.request_context import CurrentRequest, Trace, remote_of, trace_of
from tests.sdk.asgi_client import request
from tests.sdk.replicas import Client, replica, signed_in, text_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
OTHER = f"00-{'1' * 32}-{'2' * 16}-00"


async def test_f39_it_says_whose_request_it_is_and_where_it_came_from(here):
    seen = []

    async def script(ctx):
        seen.append(current_request())

    here.scripts["look"] = script
    alice = signed_in(here, "alice")
    with anyio.fail_after(10):
        before = datetime.now(UTC)
        client = await Client().initialize(alice)
        params = {"name": "act", "arguments": {"name": "look"}, "_meta": {"traceparent": PARENT, "tracestate": "a=1"}}
        message = {"jsonrpc": "2.0", "id": "seven", "method": "tools/call", "params": params}
        async with client.post(alice, message) as response:
            await response.ended()
    (found,) = seen
    assert ("seven", "tools/call", "2025-11-25") == (found.request_id, found.method, found.protocol_version)
    assert (client.session_id, here.id, ("127.0.0.1", 1)) == (found.session_id, found.replica, found.remote)
    assert "alice" in found.owner
    assert (Trace(TRACE, SPAN, True, "a=1"), TRACE) == (found.trace, found.trace_id)
    assert PARENT == found.trace.traceparent
    # The clock of the wall may be set a little while the test runs.
    assert before - timedelta(seconds=5) < found.began_at < datetime.now(UTC) + timedelta(seconds=5)
    assert client.session_id not in repr(found)
    assert "alice" not in repr(found)


async def test_f39_it_is_equal_across_awaits_in_child_tasks_and_in_threads(here, there, client):
    seen = []

    async def look():
        await anyio.lowlevel.checkpoint()
        seen.append(current_request())

    async def script(ctx):
        seen.append(current_request())
        await look()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
        seen.append(await anyio.to_thread.run_sync(current_request))
        async with client.call(there, "other", id=2) as response:
            await response.message()

    async def other(ctx):
        seen.append(current_request())

    here.scripts["look"], there.scripts["other"] = script, other
    with anyio.fail_after(10):
        async with client.call(here, "look", id=1) as response:
            await response.message()
    first = seen[0]
    assert [first] * 4 == seen[:4]
    assert (2, there.id) == (seen[4].request_id, seen[4].replica)
    assert first != seen[4]


async def test_f39_a_sync_tool_has_it_in_its_thread(database_url):
    def make(layer, scripts):
        server = MCPServer("tests")

        @server.tool()
        def look() -> str:
            return f"{current_request().request_id} of {current_session().id}"

        return server

    async with replica(database_url, make=make) as here:
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            async with client.call(here, "", tool="look", id=9, arguments={"any": 1}) as response:
                assert f"9 of {client.session_id}" == text_of(await response.message())


async def test_f39_requests_at_once_have_each_its_own(here, client):
    both, seen = anyio.Event(), {}

    async def script(ctx):
        seen[ctx.request_id] = None
        if len(seen) == 2:
            both.set()
        await both.wait()
        seen[ctx.request_id] = current_request().request_id

    here.scripts["look"] = script
    with anyio.fail_after(10):
        async with client.call(here, "look", id=1) as one, client.call(here, "look", id=2) as two:
            await one.message()
            await two.message()
    assert {"1": 1, "2": 2} == {str(key): value for key, value in seen.items()}


def test_f39_outside_of_a_request_there_is_none():
    with pytest.raises(NoSessionError):
        current_request()


async def test_f39_a_request_of_2026_has_none(here):
    async def script(ctx):
        with pytest.raises(NoSessionError):
            current_request()
        return "none"

    here.scripts["look"] = script
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "act",
    }
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "act", "arguments": {"name": "look"}, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    with anyio.fail_after(10):
        async with request(here.app, "POST", headers=headers, json_body=message) as response:
            assert b"none" in await response.ended()


# Traces


@pytest.mark.parametrize(
    ("meta", "headers", "expected"),
    [
        ({}, [], None),
        ({"traceparent": PARENT}, [], Trace(TRACE, SPAN, True)),
        ({}, [(b"traceparent", PARENT.encode())], Trace(TRACE, SPAN, True)),
        ({"traceparent": OTHER}, [(b"traceparent", PARENT.encode())], Trace("1" * 32, "2" * 16, False)),
        ({"traceparent": "bad"}, [(b"traceparent", PARENT.encode())], Trace(TRACE, SPAN, True)),
        (
            {"traceparent": OTHER},
            [(b"traceparent", PARENT.encode()), (b"tracestate", b"a=1")],
            Trace("1" * 32, "2" * 16, False),
        ),
        (
            {},
            [(b"traceparent", PARENT.encode()), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")],
            Trace(TRACE, SPAN, True, "a=1,b=2"),
        ),
        ({"traceparent": f" {PARENT}\t", "tracestate": " a=1 "}, [], Trace(TRACE, SPAN, True, "a=1")),
        ({"traceparent": f"cc-{TRACE}-{SPAN}-00-what-comes-later"}, [], Trace(TRACE, SPAN, False)),
        ({"traceparent": PARENT, "tracestate": 7}, [], Trace(TRACE, SPAN, True)),
        ({"traceparent": PARENT, "tracestate": "x" * 513}, [], Trace(TRACE, SPAN, True)),
    ],
)
def test_f39_a_trace_is_that_of_the_params_or_else_of_the_header(meta, headers, expected):
    assert expected == trace_of({"_meta": meta}, headers)


@pytest.mark.parametrize(
    "parent",
    [
        None, 7, "", [], "00", PARENT.upper(), PARENT[:-1], f"{PARENT}0", f"{PARENT}-more", f"ff{PARENT[2:]}",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}", PARENT.replace("-", "_"),
        "\u0660" * 55, "\ud800",
    ],
)  # fmt: skip
def test_f39_a_malformed_trace_is_none(parent):
    assert trace_of({"_meta": {"traceparent": parent}}, []) is None
    if isinstance(parent, str):
        assert trace_of(None, [(b"traceparent", parent.encode("latin-1", "replace"))]) is None


@pytest.mark.parametrize("params", [None, {}, {"_meta": None}, {"_meta": []}, {"_meta": "x"}])
def test_f39_params_without_a_meta_have_no_trace(params):
    assert trace_of(params, []) is None


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (("10.0.0.1", 80), ("10.0.0.1", 80)), (["::1", 0], ("::1", 0)), (None, None),
        ("a socket's path", None), (("only",), None), ((b"x", 1), None),
    ],
)  # fmt: skip
def test_f39_the_remote_address_is_what_the_server_says_or_none(client, expected):
    assert expected == remote_of({"client": client})
    assert remote_of({}) is None


def test_f39_it_is_made_only_when_somebody_asks(monkeypatch):
    from mcpsession.sdk.current import CURRENT, CurrentSession

    asked = []
    made = CurrentRequest(
        session_id="s", owner="", request_id=1, method="m", protocol_version="v", trace=None, remote=None, replica="r",
        began_at=datetime.fromtimestamp(time.time(), UTC),
    )  # fmt: skip

    def make():
        asked.append(1)
        return made

    current = CurrentSession(None, None, max_state_bytes=1, request=make)
    token = CURRENT.set(current)
    try:
        assert [] == asked
        assert made is current_request()
        assert [1] == asked
    finally:
        CURRENT.reset(token)
