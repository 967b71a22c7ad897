"""`layer.broadcaster.progress` reports on the stream of the request that is being handled, and nowhere else."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from mcpsession.errors import NoRequestError
from tests.sdk.asgi_client import request
from tests.sdk.gates import settle
from tests.sdk.newsroom import modern
from tests.sdk.replicas import text_of


async def test_f76_progress_travels_on_the_calls_own_stream(here, there, client):
    async def script(ctx):
        await there.layer.broadcaster.progress(1)
        await there.layer.broadcaster.progress(2, 3, "nearly")
        return "done"

    there.scripts["work"] = script
    with anyio.fail_after(5):
        async with client.get(here) as standing, client.call(there, "work", token="mine") as response:
            one, two, answer = await response.messages()
            await settle()
            assert [] == [frame for frame in standing.frames if frame.message]
    assert {"progressToken": "mine", "progress": 1} == one["params"]
    assert {"progressToken": "mine", "progress": 2, "total": 3, "message": "nearly"} == two["params"]
    assert "notifications/progress" == one["method"]
    assert "done" == text_of(answer)


async def test_f76_of_calls_that_run_at_once_each_reports_its_own(here, client):
    both = anyio.Event()
    arrived = []

    async def script(ctx):
        arrived.append(ctx)
        if len(arrived) == 2:
            both.set()
        await both.wait()

        async def part():
            await here.layer.broadcaster.progress(len(arrived))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(part)

    here.scripts["work"] = script
    with anyio.fail_after(5):
        async with client.call(here, "work", token="a") as a, client.call(here, "work", token="b") as b:
            for token, response in (("a", a), ("b", b)):
                assert token == (await response.message())["params"]["progressToken"]


async def test_f76_a_client_that_did_not_ask_for_progress_gets_none(here, client):
    here.scripts["work"] = lambda ctx: here.layer.broadcaster.progress(1)
    with anyio.fail_after(5):
        async with client.call(here, "work") as response:
            [answer] = await response.messages()
    assert "None" == text_of(answer)


async def test_f76_outside_of_a_request_it_says_where_it_belongs(here, client):
    with pytest.raises(NoRequestError, match="within a tool"):
        await here.layer.broadcaster.progress(1)


async def test_f76_in_a_request_of_the_era_without_sessions_it_says_what_to_use(here):
    async def script(ctx):
        with pytest.raises(NoRequestError, match=r"ctx\.report_progress"):
            await here.layer.broadcaster.progress(1)
        return "told"

    here.scripts["work"] = script
    headers, message = modern("tools/call", {"name": "act", "arguments": {"name": "work"}})
    with anyio.fail_after(5):
        async with request(here.app, "POST", headers={**headers, "mcp-name": "act"}, json_body=message) as response:
            assert "told" == text_of(await response.json())


async def test_f76_after_the_call_nothing_is_sent(here, client):
    left, done, tasks = anyio.Event(), anyio.Event(), []

    async def late():
        await left.wait()
        await here.layer.broadcaster.progress(9)
        done.set()

    async def script(ctx):
        tasks.append(asyncio.ensure_future(late()))
        return "gone"

    here.scripts["work"] = script
    with anyio.fail_after(5):
        async with client.call(here, "work", token="t") as response:
            [answer] = await response.messages()
            left.set()
            await done.wait()
            assert "gone" == text_of(answer)
