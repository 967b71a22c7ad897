"""The mode `auto`: an answer that is there at once is one JSON body, and all else a stream as ever."""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from mcpsession.errors import ConfigurationError
from mcpsession.sdk import exchange
from mcpsession.settings import Settings
from tests.sdk.gates import settle
from tests.sdk.replicas import Client, replica, text_of

AUTO = {"response_mode": "auto"}


async def _streams(url: str, session_id: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval("SELECT count(*) FROM mcpsession.streams WHERE session_id = $1", session_id)
    finally:
        await connection.close()


@pytest.fixture
async def auto(database_url):
    async with replica(database_url, **AUTO) as one:
        yield one


@pytest.fixture
async def caller(auto):
    with anyio.fail_after(10):
        return await Client().initialize(auto)


async def test_an_answer_without_a_word_before_it_is_a_json_body_and_in_no_log(database_url, auto, caller):
    await auto.parts.journal.flushed()
    before = await _streams(database_url, caller.session_id)
    with anyio.fail_after(5):
        async with caller.echo(auto) as response:
            body = await response.ended()
    assert (200, "application/json") == (response.status, response.headers["content-type"])
    assert caller.session_id == response.headers["mcp-session-id"]
    assert b'"hello"' in body
    await auto.parts.journal.flushed()
    assert before == await _streams(database_url, caller.session_id)


async def test_a_handler_that_says_something_first_gets_a_stream(auto, caller):
    async def script(ctx):
        await ctx.report_progress(1)
        return "said"

    auto.scripts["say"] = script
    with anyio.fail_after(5):
        async with caller.call(auto, "say", token="t") as response:
            progress, answer = await response.messages()
    assert "text/event-stream" == response.headers["content-type"]
    assert "notifications/progress" == progress["method"]
    assert "said" == text_of(answer)


async def test_a_handler_that_takes_longer_gets_a_stream_before_its_answer(auto, caller):
    go_on = anyio.Event()

    async def script(ctx):
        await go_on.wait()
        return "late"

    auto.scripts["wait"] = script
    with anyio.fail_after(5):
        async with caller.call(auto, "wait") as response:
            # The priming frame comes while nothing has been said.
            await response.started()
            go_on.set()
            (answer,) = await response.messages()
    assert "text/event-stream" == response.headers["content-type"]
    assert "late" == text_of(answer)


async def test_a_call_that_got_a_stream_can_be_resumed_elsewhere(database_url, auto, caller):
    async def script(ctx):
        await ctx.report_progress(1)
        await anyio.sleep(0.05)
        return "resumed"

    auto.scripts["say"] = script
    async with replica(database_url, **AUTO) as other:
        with anyio.fail_after(10):
            async with caller.call(auto, "say", token="t") as response:
                first = await response.frame()
                response.disconnect()
            async with caller.get(other, first.id) as resumed:
                _, answer = await resumed.messages()
    assert "resumed" == text_of(answer)


async def test_a_handler_that_closes_its_stream_has_one(auto, caller):
    async def script(ctx):
        await ctx.request_context.close_sse_stream()
        return "later"

    auto.scripts["close"] = script
    with anyio.fail_after(5):
        async with caller.call(auto, "close") as response:
            await response.ended()
    assert "text/event-stream" == response.headers["content-type"]


async def test_a_call_that_is_cancelled_at_once_is_answered_as_json(auto, caller):
    with anyio.fail_after(5):
        await caller.notify(auto, "notifications/cancelled", {"requestId": "early"})
        async with caller.call(auto, "never", id="early") as response:
            body = await response.ended()
    assert "application/json" == response.headers["content-type"]
    assert b"-32800" in body


async def test_a_call_in_auto_is_in_flight_until_it_is_answered(auto, caller):
    with anyio.fail_after(5):
        async with caller.echo(auto) as response:
            await response.ended()
        await settle()
    assert 0 == len(auto.parts.in_flight)


async def test_a_call_that_is_severed_within_the_moment_enters_no_stream(database_url, auto, caller, monkeypatch):
    """Others have recorded this replica's death; what a handler that does not listen says then is nobody's."""
    monkeypatch.setattr(exchange, "_MOMENT", 3600.0)
    began, go_on = anyio.Event(), anyio.Event()

    async def script(ctx):
        with anyio.CancelScope(shield=True):
            began.set()
            await go_on.wait()
            await ctx.report_progress(1)

    auto.scripts["deaf"] = script
    await auto.parts.journal.flushed()
    before = await _streams(database_url, caller.session_id)
    with anyio.fail_after(5):
        async with caller.call(auto, "deaf", token="t") as response:
            await began.wait()
            auto.parts.in_flight.sever_all()
            await response.ended()
            go_on.set()
            await auto.parts.in_flight.finished()
    assert 500 == response.status
    await auto.parts.journal.flushed()
    assert before == await _streams(database_url, caller.session_id)


def test_auto_and_strict_exclude_each_other():
    with pytest.raises(ConfigurationError, match="in no log"):
        Settings(response_mode="auto", durability="strict")
