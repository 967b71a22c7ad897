"""Of many that initialize one session at once, on whichever replicas, one does."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack

import anyio
import pytest

from tests.sdk.gates import settle
from tests.sdk.replicas import Client, hello, make_server, replica, text_of


@pytest.fixture
async def stranger(here):
    await here.layer.sessions.create("job-1")
    return Client(session_id="job-1")


async def all_at_once(client, messages):
    """Send many messages, each to its replica; returns status and message of each answer."""
    answers = []
    async with AsyncExitStack() as stack:
        responses = [await stack.enter_async_context(client.post(at, message)) for at, message in messages]
        for response in responses:
            await response.ended()
            message = response.frames[-1].message if response.status == 200 else json.loads(response.body)
            answers.append((response.status, message))
    return answers


@pytest.mark.parametrize("same_id", [False, True], ids=["with ids of their own", "with the same id"])
async def test_f28_of_twenty_at_once_on_two_replicas_one_succeeds(here, there, stranger, same_id):
    versions = ["2025-03-26", "2025-06-18", "2025-11-25"]
    ids = ["init" if same_id else f"init-{number}" for number in range(20)]
    messages = [
        ((here, there)[number % 2], hello(versions[number % 3], id=request_id)) for number, request_id in enumerate(ids)
    ]
    with anyio.fail_after(10):
        answers = await all_at_once(stranger, messages)
        won = [message for status, message in answers if status == 200]
        assert 1 == len(won)
        assert {200, 400, 409} >= {status for status, _ in answers}
        assert ids == [message["id"] for _, message in answers]
        assert all("error" in message for status, message in answers if status != 200)
        # The version is the winner's, for good.
        assert won[0]["result"]["protocolVersion"] == (await here.layer.sessions.get("job-1")).protocol_version
        assert 202 == await stranger.notify(here, "notifications/initialized")
        async with stranger.echo(there) as response:
            assert "hello" == text_of(await response.message())


async def test_f28_while_one_initializes_another_is_refused_with_its_id_and_told_to_try_again(here, there, stranger):
    completing = here.backend.initialization.before["complete"]
    completing.close()
    with anyio.fail_after(5):
        async with stranger.post(here, hello(id="first")) as first:
            await completing.reached.wait()
            async with stranger.post(there, hello(id="second")) as second:
                refusal = await second.json()
            assert (409, "1") == (second.status, second.headers["retry-after"])
            assert "second" == refusal["id"]
            assert "another request initializes this session" in refusal["error"]["message"]
            # Refused before its handler ran.
            assert 0 == there.backend.initialization.calls["complete"]
            completing.open()
            [answer] = await first.messages()
    assert "first" == answer["id"]


async def test_f28_a_failed_handler_gives_its_claim_back(database_url):
    def make(layer, scripts):
        server = make_server(layer, scripts)

        async def veto(ctx, call_next):
            if ctx.method == "initialize" and ctx.params["clientInfo"]["version"] == "0":
                raise ValueError("not you")
            return await call_next(ctx)

        server._lowlevel_server.middleware.append(veto)
        return server

    async with replica(database_url, make=make) as here:
        with anyio.fail_after(5):
            await here.layer.sessions.create("job-1")
            client = Client(session_id="job-1")
            bad = hello(id="bad")
            bad["params"]["clientInfo"]["version"] = "0"
            async with client.post(here, bad) as response:
                refusal = await response.json()
            assert (400, "bad", "not you") == (response.status, refusal["id"], refusal["error"]["message"])
            assert "pre_init" == await here.layer.sessions.initialization.phase("job-1")
            async with client.post(here, hello()) as response:
                await response.ended()
    assert 200 == response.status


async def test_f28_a_claim_whose_replica_died_with_it_runs_out(here, there, stranger):
    with anyio.fail_after(10):
        assert await there.parts.initialization.claim("job-1", "of one who died", 0.3)
        async with stranger.post(here, hello()) as response:
            await response.ended()
        assert 409 == response.status
        while response.status == 409:
            async with stranger.post(here, hello()) as response:
                await response.ended()
        assert 200 == response.status
        assert not await there.parts.initialization.complete("job-1", "of one who died", "2025-03-26", "{}")
        assert "2025-11-25" == (await here.layer.sessions.get("job-1")).protocol_version


async def test_f28_a_client_that_hangs_up_has_its_session_initialized_all_the_same(here, there, stranger):
    claimed = here.backend.initialization.after["claim"]
    claimed.close()
    with anyio.fail_after(5):
        async with stranger.post(here, hello()) as response:
            await claimed.reached.wait()
            response.disconnect()
            response.task.cancel()
            claimed.open()
            await settle()
        async with stranger.post(there, hello()) as response:
            await response.ended()
        assert 400 == response.status
        assert 202 == await stranger.notify(there, "notifications/initialized")


async def test_f28_a_session_that_ends_while_it_is_initialized_is_not_found(here, there, stranger):
    completing = here.backend.initialization.before["complete"]
    completing.close()
    with anyio.fail_after(5):
        async with stranger.post(here, hello(id=1)) as response:
            await completing.reached.wait()
            assert await there.layer.sessions.terminate("job-1")
            completing.open()
            refusal = await response.json()
    assert (404, 1) == (response.status, refusal["id"])
