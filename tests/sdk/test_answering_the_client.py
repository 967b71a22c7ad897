"""How a request ends, as the SDK's dispatcher did it: the other half of the DispatchContext contract."""

from __future__ import annotations

import anyio
import pytest
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from mcp_types import CancelledNotificationParams, ProgressNotificationParams, RequestParams

from mcpsession.sdk.app import low_level
from tests.sdk.gates import settle, until
from tests.sdk.replicas import Client, logged, replica, text_of


def low_level_server(layer, scripts):
    """A server without MCPServer: one method of its own, that does what a script says."""
    server = Server("low")

    async def act(ctx, params):
        return {"did": await scripts["act"](ctx)}

    server.add_request_handler("tests/act", RequestParams, act)
    return server


ACT = {"jsonrpc": "2.0", "id": 7, "method": "tests/act", "params": {}}


async def test_a_low_level_server_is_served_too(database_url):
    async def script(ctx):
        await ctx.session._request_outbound.notify("notifications/message", {"level": "info", "data": "working"})
        return "so"

    async with replica(database_url, make=low_level_server) as here:
        here.scripts["act"] = script
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            async with client.post(here, ACT) as response:
                news, answer = await response.messages()
    assert "working" == news["params"]["data"]
    assert {"jsonrpc": "2.0", "id": 7, "result": {"did": "so"}} == answer


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("what it said"), {"code": 0, "message": "what it said"}),
        (MCPError(-42, "mine", {"more": 1}), {"code": -42, "message": "mine", "data": {"more": 1}}),
    ],
    ids=["an unknown exception is code 0", "an MCPError is itself"],
)
async def test_what_a_handler_raises_is_what_the_sdk_makes_of_it(database_url, raised, expected):
    async def script(ctx):
        raise raised

    async with replica(database_url, make=low_level_server) as here:
        here.scripts["act"] = script
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            async with client.post(here, ACT) as response:
                assert [{"jsonrpc": "2.0", "id": 7, "error": expected}] == await response.messages()


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_a_cancelled_request_is_answered_exactly_once_with_its_error(here, there, client, at):
    entered, stopped = anyio.Event(), anyio.Event()

    async def script(ctx):
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    here.scripts["wait"] = script
    target = there if at == "another replica" else here
    with anyio.fail_after(10):
        async with client.call(here, "wait", id=5) as response:
            await entered.wait()
            for _ in range(2):
                cancel = {"requestId": 5, "reason": "enough"}
                assert 202 == await client.notify(target, "notifications/cancelled", cancel)
            await stopped.wait()
            (answer,) = await response.messages()
            assert (5, -32800) == (answer["id"], answer["error"]["code"])
            await here.parts.journal.flushed()
            state = await logged(here, client, response.last_id)
            assert (True, 1) == (state.finished, state.last_seq)


async def test_a_handler_that_swallows_its_cancellation_and_returns_is_still_answered_as_cancelled(here, client):
    entered = anyio.Event()

    async def script(ctx):
        entered.set()
        with anyio.CancelScope(shield=True):
            await ctx.session._request_outbound.cancel_requested.wait()
        return "a result that nobody wants"

    here.scripts["wait"] = script
    with anyio.fail_after(5):
        async with client.call(here, "wait", id=5) as response:
            await entered.wait()
            await client.notify(here, "notifications/cancelled", {"requestId": 5})
            (answer,) = await response.messages()
            assert -32800 == answer["error"]["code"]


async def test_a_request_is_not_answered_as_cancelled_if_its_answer_had_begun(here, client):
    async def script(ctx):
        return "in time"

    here.scripts["quick"] = script
    with anyio.fail_after(5):
        # The answer is made, and waits for a client that does not read yet.
        async with client.call(here, "quick", id=5, reading=False) as response:
            await until(lambda: here.backend.log.calls["write"] and not len(here.parts.in_flight))
            assert 202 == await client.notify(here, "notifications/cancelled", {"requestId": 5})
            await settle()
            response.read_on()
            (answer,) = await response.messages()
            assert "in time" == text_of(answer)
            await here.parts.journal.flushed()
            assert 1 == (await logged(here, client, response.last_id)).last_seq


async def test_cancelled_and_progress_reach_the_servers_own_handlers_too(here, client):
    heard = []

    async def on_cancelled(ctx, params):
        heard.append(("cancelled", params.request_id))

    async def on_progress(ctx, params):
        heard.append(("progress", params.progress))

    server = low_level(here.server)
    server.add_notification_handler("notifications/cancelled", CancelledNotificationParams, on_cancelled)
    server.add_notification_handler("notifications/progress", ProgressNotificationParams, on_progress)
    with anyio.fail_after(5):
        await client.notify(here, "notifications/cancelled", {"requestId": 99})
        await client.notify(here, "notifications/progress", {"progressToken": "any", "progress": 3})
        await until(lambda: len(heard) == 2)
    assert [("cancelled", 99), ("progress", 3)] == heard


async def test_a_cancellation_that_overtakes_its_request_is_found_by_it(here, there, client):
    async def script(ctx):
        await anyio.sleep_forever()

    here.scripts["wait"] = script
    with anyio.fail_after(10):
        # Only what was remembered can find it: the mail that says the same to all is held back.
        here.backend.mailbox.before["news"].close()
        await client.notify(here, "notifications/cancelled", {"requestId": "early"})
        async with client.call(here, "wait", id="early") as response:
            (answer,) = await response.messages()
        here.backend.mailbox.before["news"].open()
    assert -32800 == answer["error"]["code"]
