"""`close_sse_stream` and `close_standalone_sse_stream` end a response early; the client resumes, and misses nothing."""

from __future__ import annotations

import anyio
import pytest

from tests.sdk.gates import until
from tests.sdk.replicas import Client, text_of


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_a_stream_closed_by_its_handler_ends_without_the_answer_and_is_resumed_where_it_ended(
    here, there, client, at
):
    release = anyio.Event()

    async def script(ctx):
        await ctx.report_progress(1)
        await ctx.close_sse_stream()
        await ctx.report_progress(2)
        await release.wait()
        return "done"

    here.scripts["poll"] = script
    with anyio.fail_after(10):
        async with client.call(here, "poll", token="t") as response:
            before = await response.messages()
        assert all("result" not in message for message in before)
        async with client.get(there if at == "another replica" else here, response.last_id) as resumed:
            assert 200 == await resumed.started()
            release.set()
            after = await resumed.messages()
    assert [1, 2] == [message["params"]["progress"] for message in [*before, *after][:-1]]
    assert "done" == text_of(after[-1])


async def test_a_client_before_2025_11_25_has_no_first_event_id_and_its_stream_is_not_closed(here):
    async def script(ctx):
        await ctx.close_sse_stream()
        await ctx.report_progress(1)
        return "done"

    here.scripts["poll"] = script
    with anyio.fail_after(5):
        client = await Client("2025-06-18").initialize(here)
        async with client.call(here, "poll", token="t") as response:
            progress, answer = await response.messages()
    assert 1 == progress["params"]["progress"]
    assert "done" == text_of(answer)


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_a_handler_can_close_the_standalone_stream_wherever_it_is_held_and_it_is_resumed(here, there, client, at):
    async def script(ctx):
        await ctx.session.send_resource_updated("test://1")
        await standing.message()
        await ctx.close_standalone_sse_stream()
        await standing.ended()
        await ctx.session.send_resource_updated("test://2")
        return "closed"

    here.scripts["close"] = script
    holder = there if at == "another replica" else here
    with anyio.fail_after(5):
        async with client.get(holder) as standing:
            await until(lambda: len(holder.parts.standalones))
            async with client.call(here, "close") as response:
                assert "closed" == text_of(await response.message())
        async with client.get(holder, standing.last_id) as resumed:
            message = await resumed.message()
    assert "test://2" == message["params"]["uri"]
