"""Waiters are found by session and id: no session can answer another's question, or move its progress."""

from __future__ import annotations

import anyio
import pytest

from tests.sdk.gates import settle, until
from tests.sdk.replicas import Client, text_of
from tests.sdk.test_asking_the_client import ask


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_another_sessions_answer_and_progress_do_nothing_to_a_question(here, there, client, at):
    heard = []

    async def on_progress(progress, total, message):
        heard.append(progress)

    async def script(ctx):
        return (await ask(ctx, on_progress=on_progress))["action"]

    here.scripts["ask"] = script
    target = there if at == "another replica" else here
    with anyio.fail_after(10):
        stranger = await Client().initialize(target)
        async with client.call(here, "ask") as response:
            asked = await response.message()
            progress = {"progressToken": asked["id"], "progress": 66}
            assert 202 == await stranger.notify(target, "notifications/progress", progress)
            assert 202 == await stranger.answer(target, asked, {"action": "decline"})
            if target is there:
                # Both were mailed; wait until they were read and deleted here.
                await until(lambda: here.backend.mailbox.calls["delete"] >= 1)
            await settle()
            assert 1 == len(here.parts.waiters)

            assert 202 == await client.notify(target, "notifications/progress", {**progress, "progress": 1})
            await until(lambda: heard)
            assert 202 == await client.answer(target, asked, {"action": "accept"})
            assert "accept" == text_of(await response.message())
    assert [1.0] == heard


async def test_an_answer_to_an_id_that_was_never_ours_is_refused_and_not_swallowed(here, client):
    with anyio.fail_after(5):
        answer = {"jsonrpc": "2.0", "id": "somebody-else", "result": {}}
        async with client.post(here, answer) as response:
            refusal = await response.json()
    assert 400 == response.status
    assert "id" not in refusal


async def test_an_answer_to_a_replica_that_nobody_knows_is_refused_and_not_swallowed(here, client):
    with anyio.fail_after(5):
        answer = {"jsonrpc": "2.0", "id": f"{'0' * 18}-{'0' * 24}", "result": {}}
        assert 400 == await client.send(here, answer)


async def test_the_end_of_a_session_ends_its_questions(here, there, client):
    async def script(ctx):
        return await ask(ctx)

    here.scripts["ask"] = script
    with anyio.fail_after(10):
        async with client.call(here, "ask") as response:
            await response.message()
            assert 200 == await client.delete(there)
            (final,) = await response.messages()
            assert "error" in final or final["result"]["isError"]
            await until(lambda: not len(here.parts.waiters))
