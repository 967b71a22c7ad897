"""A session that the application created knows no client yet: until `initialize`, it answers ping and nothing else."""

from __future__ import annotations

import anyio
import pytest

from tests.sdk.asgi_client import request
from tests.sdk.gates import settle
from tests.sdk.replicas import ACCEPT, Client, hello, logged, replica, signed_in, text_of

DROPPED = "mcpsession_dropped_notifications_total"


@pytest.fixture
async def stranger(here):
    """A client that was given an id, and has not introduced itself."""
    await here.layer.sessions.create("job-1")
    return Client(session_id="job-1")


async def ask(client, at, method, params=None, *, id=1):
    """Send a request; returns the one message that answers it."""
    message = {"jsonrpc": "2.0", "id": id, "method": method} | ({} if params is None else {"params": params})
    async with client.post(at, message) as response:
        [answer] = await response.messages()
        return answer


@pytest.mark.parametrize("id", [7, "7", "a b"])
async def test_f27_before_initialize_a_request_is_refused_with_its_own_id(here, there, stranger, id):
    ran = []

    async def run(ctx):
        ran.append(1)

    there.scripts["run"] = run
    call = {"name": "act", "arguments": {"name": "run"}}
    with anyio.fail_after(5):
        answer = await ask(stranger, there, "tools/call", call, id=id)
        listed = await ask(stranger, there, "tools/list", id=id)
    # What the SDK's own gate says.
    error = {"code": -32602, "message": "Invalid request parameters", "data": ""}
    assert [{"jsonrpc": "2.0", "id": id, "error": error}] * 2 == [answer, listed]
    assert [] == ran


async def test_f27_before_initialize_a_method_that_the_server_does_not_have_is_unknown(here, stranger):
    with anyio.fail_after(5):
        answer = await ask(stranger, here, "no/such", id=3)
    assert (3, -32601) == (answer["id"], answer["error"]["code"])


async def test_f27_before_initialize_ping_is_answered(here, there, stranger):
    with anyio.fail_after(5):
        answers = [await ask(stranger, at, "ping", id=5) for at in (here, there)]
    assert [{"jsonrpc": "2.0", "id": 5, "result": {}}] * 2 == answers


async def test_f27_before_initialize_notifications_are_dropped_and_counted(database_url):
    heard = []

    def make(layer, scripts):
        from mcp.server.lowlevel.server import Server
        from mcp_types import NotificationParams

        server = Server("tests")

        async def hear(ctx, params):
            heard.append(ctx.method)

        for method in ("notifications/initialized", "notifications/roots/list_changed", "notifications/mine"):
            server.add_notification_handler(method, NotificationParams, hear)
        return server

    async with replica(database_url, make=make) as here:
        with anyio.fail_after(5):
            await here.layer.sessions.create("job-1")
            client = Client(session_id="job-1")
            for method, params in (
                ("notifications/mine", None),
                ("notifications/roots/list_changed", None),
                ("notifications/cancelled", {"requestId": 1}),
                ("notifications/progress", {"progressToken": 1, "progress": 1}),
                # There is no client that could be through with its initialization.
                ("notifications/initialized", None),
            ):
                assert 202 == await client.notify(here, method, params)
            assert 5 == here.parts.telemetry.counts[DROPPED]
            assert 0 == here.backend.mailbox.calls["broadcast"]
            await settle()
            assert [] == heard
            assert "pre_init" == await here.layer.sessions.initialization.phase("job-1")

            async with client.post(here, hello()) as response:
                await response.ended()
            assert 202 == await client.notify(here, "notifications/initialized")
            assert 202 == await client.notify(here, "notifications/mine")
            await settle()
    assert ["notifications/initialized", "notifications/mine"] == heard
    assert 5 == here.parts.telemetry.counts[DROPPED]


async def test_f27_initialize_with_the_sessions_id_initializes_that_session(here, there, stranger):
    with anyio.fail_after(5):
        async with stranger.post(there, hello(id=9)) as response:
            [answer] = await response.messages()
        assert (9, "job-1") == (answer["id"], response.headers["mcp-session-id"])
        assert "initializing" == await here.layer.sessions.initialization.phase("job-1")
        assert 202 == await stranger.notify(here, "notifications/initialized")
        assert "initialized" == await here.layer.sessions.initialization.phase("job-1")
        async with stranger.echo(here) as response:
            assert "hello" == text_of(await response.message())
        known = await here.layer.sessions.get("job-1")
    assert {"name": "tests", "version": "1"} == {key: known.client_info[key] for key in ("name", "version")}
    assert "2025-11-25" == known.protocol_version


async def test_f27_its_answer_is_a_stream_in_the_log_and_can_be_resumed(here, there, stranger):
    with anyio.fail_after(5):
        async with stranger.post(here, hello()) as response:
            frames = [await response.frame(), await response.frame()]
        await here.parts.journal.flushed()
        state = await logged(here, stranger, frames[0].id)
        assert (True, [1]) == (state.finished, [event.seq for event in state.events])
        async with stranger.get(there, frames[0].id) as resumed:
            assert [frames[1].message] == await resumed.messages()


async def test_f27_in_json_mode_it_is_answered_with_one_body(database_url):
    async with replica(database_url, app_options={"json_response": True}) as here:
        with anyio.fail_after(5):
            await here.layer.sessions.create("job-1")
            client = Client(session_id="job-1")
            async with client.post(here, hello(id=4)) as response:
                answer = await response.json()
            assert 202 == await client.notify(here, "notifications/initialized")
            async with client.echo(here) as call:
                assert "hello" == text_of(await call.json())
    assert (200, 4, "job-1") == (response.status, answer["id"], response.headers["mcp-session-id"])
    assert "result" in answer


@pytest.mark.parametrize("finished", [False, True], ids=["initializing", "initialized"])
async def test_f27_a_session_that_has_its_client_refuses_initialize_and_keeps_what_it_knows(here, there, finished):
    with anyio.fail_after(5):
        await here.layer.sessions.create("job-1")
        client = Client(session_id="job-1")
        async with client.post(here, hello()) as response:
            await response.ended()
        if finished:
            assert 202 == await client.notify(here, "notifications/initialized")
        before = await here.layer.sessions.get("job-1")
        async with client.post(there, hello("2025-03-26", id="again")) as response:
            answer = await response.json()
        assert before.client_params == (await here.layer.sessions.get("job-1")).client_params
    assert (400, "again", -32600) == (response.status, answer["id"], answer["error"]["code"])
    assert "initialized already" in answer["error"]["message"]


async def test_f27_another_principals_initialize_finds_no_session(here):
    anna, bert = signed_in(here, "anna"), signed_in(here, "bert")
    with anyio.fail_after(5):
        own = await Client().initialize(anna)
        owner = (await here.layer.sessions.get(own.session_id)).owner
        await here.layer.sessions.create("job-1", owner=owner)
        client = Client(session_id="job-1")
        for stranger in (bert, here):
            async with client.post(stranger, hello()) as response:
                await response.ended()
            assert 404 == response.status
        async with client.post(anna, hello()) as response:
            await response.ended()
        assert 200 == response.status


async def test_f27_initialize_with_an_id_that_no_session_has_creates_none(here):
    with anyio.fail_after(5):
        async with request(
            here.app, "POST", headers={**ACCEPT, "mcp-session-id": "job-1"}, json_body=hello()
        ) as response:
            await response.ended()
    assert 404 == response.status
    assert await here.layer.sessions.get("job-1") is None
