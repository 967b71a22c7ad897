"""What takes too long ends with an error that says so: a question to the client, and a client's call."""

from __future__ import annotations

import asyncio
import logging
import threading

import anyio
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import REQUEST_TIMEOUT

from mcpsession import current_session
from tests.sdk.gates import settle, until
from tests.sdk.newsroom import standing
from tests.sdk.replicas import Client, logged, replica, text_of
from tests.sdk.test_asking_the_client import ASK, ask
from tests.sdk.test_asking_without_a_stream import outlet


async def timed_out(ctx):
    with pytest.raises(MCPError) as raised:
        await ask(ctx)
    return raised.value.error.code


# Questions


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_f33_a_question_that_nobody_answers_is_over_and_its_late_answer_is_counted_and_harmless(
    database_url, there, at, caplog
):
    async with replica(database_url, answer_timeout=0.05) as here:
        here.scripts["ask"] = timed_out
        late = there if at == "another replica" else here
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            async with client.call(here, "ask") as response:
                asked, taken_back, answer = await response.messages()
            assert str(REQUEST_TIMEOUT) == text_of(answer)
            assert ("notifications/cancelled", asked["id"]) == (taken_back["method"], taken_back["params"]["requestId"])
            assert 0 == len(here.parts.waiters)

            # The client did nothing wrong: it could not know yet.
            assert 202 == await client.answer(late, asked, {"action": "accept"})
            await until(lambda: here.parts.telemetry.counts["mcpsession_late_answers_total"])
            async with client.echo(here) as response:
                assert "hello" == text_of(await response.message())
        assert 1 == here.parts.telemetry.counts["mcpsession_late_answers_total"]
        assert 0 == there.parts.telemetry.counts["mcpsession_late_answers_total"]
    assert [] == [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_f33_a_questions_own_timeout_counts_before_the_setting(database_url):
    async def script(ctx):
        return (await ask(ctx, timeout=10))["action"]

    async with replica(database_url, answer_timeout=0.01) as here:
        here.scripts["ask"] = script
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            async with client.call(here, "ask") as response:
                asked = await response.message()
                await anyio.sleep(0.05)
                assert 202 == await client.answer(here, asked, {"action": "accept"})
                assert "accept" == text_of(await response.message())


async def test_f33_a_question_outside_of_a_call_is_over_after_the_setting_too(database_url):
    async def script(ctx):
        with pytest.raises(MCPError) as raised:
            await outlet(ctx).send_raw_request(ASK, {"message": "sure?"}, None)
        return raised.value.error.code

    async with replica(database_url, answer_timeout=0.2) as here:
        here.scripts["ask"] = script
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            async with standing(client, here), client.call(here, "ask") as response:
                assert str(REQUEST_TIMEOUT) == text_of(await response.message())
        assert 0 == len(here.parts.waiters)


# Calls


async def test_f33_a_call_that_takes_longer_than_it_may_ends_with_an_error_and_its_handler_is_stopped(database_url):
    stopped = anyio.Event()

    async def script(ctx):
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async with replica(database_url, call_timeout=0.05) as here:
        here.scripts["long"] = script
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            async with client.call(here, "long", id=5) as response:
                (answer,) = await response.messages()
            assert stopped.is_set()
            await here.parts.journal.flushed()
            state = await logged(here, client, response.last_id)
        assert (True, 1) == (state.finished, state.last_seq)
        assert 1 == here.parts.telemetry.counts["mcpsession_overdue_calls_total"]
    assert (5, REQUEST_TIMEOUT) == (answer["id"], answer["error"]["code"])
    expected = "This call took longer than the 0.05 s that it may; whether it had effects is unknown"
    assert expected == answer["error"]["message"]


async def test_f33_a_call_in_time_is_answered_and_leaves_nothing_behind(database_url):
    async with replica(database_url, call_timeout=60.0) as here:
        release = anyio.Event()

        async def script(ctx):
            await release.wait()
            return "in time"

        here.scripts["short"] = script
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            async with client.echo(here) as response:
                assert "hello" == text_of(await response.message())
            async with client.call(here, "short") as response:
                assert "" == (await response.frame()).data
                release.set()
                assert "in time" == text_of(await response.message())
            await here.parts.in_flight.finished()
            await settle()
        assert [] == [task for task in asyncio.all_tasks() if "expire" in task.get_name()]
    assert 0 == here.parts.telemetry.counts["mcpsession_overdue_calls_total"]


async def test_f33_an_overdue_handler_takes_its_question_back_before_the_answer(database_url):
    async with replica(database_url, call_timeout=0.2) as here:
        here.scripts["ask"] = ask
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            async with client.call(here, "ask") as response:
                asked, taken_back, answer = await response.messages()
        assert 0 == len(here.parts.waiters)
    assert ("notifications/cancelled", asked["id"]) == (taken_back["method"], taken_back["params"]["requestId"])
    assert REQUEST_TIMEOUT == answer["error"]["code"]


@pytest.mark.parametrize("json_mode", [False, True])
async def test_f33_a_handler_that_does_not_listen_is_answered_for_once_and_goes_on(
    database_url, monkeypatch, json_mode
):
    """A sync tool in its thread cannot be stopped; its client need not wait for it."""
    monkeypatch.setattr("mcpsession.sdk.exchange._LAST_MOMENT", 0.05)
    release, ended = threading.Event(), anyio.Event()

    async def script(ctx):
        await anyio.to_thread.run_sync(release.wait)
        await ctx.report_progress(1)
        ended.set()
        return "too late"

    options = {"json_response": json_mode}
    async with replica(database_url, app_options=options, call_timeout=0.05) as here:
        here.scripts["deaf"] = script
        try:
            with anyio.fail_after(10):
                client = await Client().initialize(here)
                async with client.call(here, "deaf", id=5, token="t") as response:
                    answers = [await response.json()] if json_mode else await response.messages()
                assert [(5, REQUEST_TIMEOUT)] == [(one["id"], one["error"]["code"]) for one in answers]
                # It runs, and its id is not free yet.
                assert 1 == len(here.parts.in_flight)
                async with client.call(here, "deaf", id=5) as again:
                    assert 400 == await again.started()
        finally:
            release.set()
        with anyio.fail_after(10):
            await here.parts.in_flight.finished()
            if not json_mode:
                await here.parts.journal.flushed()
                state = await logged(here, client, response.last_id)
                assert (True, 1) == (state.finished, state.last_seq)


@pytest.mark.parametrize("changes", [True, False])
async def test_f33_the_result_of_an_overdue_call_counts_no_more_nor_does_what_it_changed(database_url, changes):
    async def script(ctx):
        if changes:
            (await current_session().state())["half"] = "done"
        with anyio.CancelScope(shield=True):
            await overdue.wait()
        return "swallowed its cancellation"

    overdue = anyio.Event()
    async with replica(database_url, call_timeout=0.2) as here:
        here.scripts["long"] = script
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            async with client.call(here, "long") as response:
                await until(lambda: here.parts.telemetry.counts["mcpsession_overdue_calls_total"])
                overdue.set()
                (answer,) = await response.messages()
            await settle()
            assert {} == await here.layer.sessions.state(client.session_id)
    assert REQUEST_TIMEOUT == answer["error"]["code"]


async def test_f33_what_an_overdue_handler_says_while_it_winds_up_comes_before_the_answer(database_url):
    async def script(ctx):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await settle()
                await ctx.report_progress(9)

    async with replica(database_url, call_timeout=0.05) as here:
        here.scripts["long"] = script
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            async with client.call(here, "long", token="t") as response:
                said, answer = await response.messages()
    assert (9, REQUEST_TIMEOUT) == (said["params"]["progress"], answer["error"]["code"])
