"""Server-to-client requests, as the SDK's dispatcher did them: one half of the DispatchContext contract."""

from __future__ import annotations

import anyio
import pytest
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp_types import REQUEST_TIMEOUT
from opentelemetry import trace

from tests.sdk.gates import settle
from tests.sdk.replicas import Client, logged, replica, text_of

ASK = "elicitation/create"
QUESTION = {"message": "sure?", "requestedSchema": {"type": "object", "properties": {}}}


def dispatch(ctx):
    """The DispatchContext behind a tool's context."""
    return ctx.session._request_outbound


async def ask(ctx, **opts):
    return await dispatch(ctx).send_raw_request(ASK, QUESTION, opts)


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_f36_an_answer_reaches_the_waiting_handler(here, there, client, at):
    async def script(ctx):
        return (await ask(ctx, timeout=10))["action"]

    here.scripts["ask"] = script
    with anyio.fail_after(5):
        async with client.call(here, "ask") as response:
            asked = await response.message()
            assert (ASK, "sure?") == (asked["method"], asked["params"]["message"])
            assert 202 == await client.answer(there if at == "another replica" else here, asked, {"action": "accept"})
            assert "accept" == text_of(await response.message())


async def test_a_clients_error_is_raised_as_the_mcp_error_that_it_is(here, there, client):
    async def script(ctx):
        with pytest.raises(MCPError) as raised:
            await ask(ctx)
        return raised.value.error.code, raised.value.error.message

    here.scripts["ask"] = script
    with anyio.fail_after(5):
        async with client.call(here, "ask") as response:
            asked = await response.message()
            error = {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -7, "message": "no"}}
            assert 202 == await client.send(there, error)
            assert "(-7, 'no')" == text_of(await response.message())


async def test_f33_a_timed_out_question_raises_request_timeout_and_tells_the_client_that_it_is_cancelled(here, client):
    async def script(ctx):
        with pytest.raises(MCPError) as raised:
            await ask(ctx, timeout=0.01)
        return raised.value.error.code

    here.scripts["ask"] = script
    with anyio.fail_after(5):
        async with client.call(here, "ask") as response:
            asked, cancelled, answer = await response.messages()
    assert ("notifications/cancelled", asked["id"]) == (cancelled["method"], cancelled["params"]["requestId"])
    assert str(REQUEST_TIMEOUT) == text_of(answer)


async def test_an_abandoned_question_is_cancelled_at_the_client(here, client):
    abandon = anyio.Event()

    async def script(ctx):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, ctx)
            await abandon.wait()
            tasks.cancel_scope.cancel()
        return "gave up"

    here.scripts["ask"] = script
    with anyio.fail_after(5):
        async with client.call(here, "ask") as response:
            asked = await response.message()
            abandon.set()
            cancelled, answer = await response.messages()
    assert ("notifications/cancelled", asked["id"]) == (cancelled["method"], cancelled["params"]["requestId"])
    assert "gave up" == text_of(answer)
    assert 0 == len(here.parts.waiters)


async def test_an_abandoned_question_is_cancelled_even_if_the_journal_is_full_at_that_moment(database_url):
    full, abandon = anyio.Event(), anyio.Event()

    async def script(ctx):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, ctx)
            await full.wait()
            await ctx.report_progress(1)
            await abandon.wait()
            tasks.cancel_scope.cancel()
        return "gave up"

    async with replica(database_url, journal_bytes=1) as here:
        here.scripts["ask"], write = script, here.backend.log.before["write"]
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            async with client.call(here, "ask", token="t") as response:
                asked = await response.message()
                await here.parts.journal.flushed()
                write.close()
                full.set()
                await write.reached.wait()
                abandon.set()
                await settle()
                write.open()
                assert "notifications/progress" == (await response.message())["method"]
                cancelled, answer = await response.messages()
    assert ("notifications/cancelled", asked["id"]) == (cancelled["method"], cancelled["params"]["requestId"])
    assert "gave up" == text_of(answer)


async def test_a_question_that_must_not_be_cancelled_is_not(here, client):
    async def script(ctx):
        with pytest.raises(MCPError):
            await ask(ctx, timeout=0.01, cancel_on_abandon=False)
        return "gave up"

    here.scripts["ask"] = script
    with anyio.fail_after(5):
        async with client.call(here, "ask") as response:
            assert [ASK, None] == [message.get("method") for message in await response.messages()]


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_the_progress_token_is_the_questions_id_and_progress_reaches_its_callback(here, there, client, at):
    heard, reported = [], anyio.Event()

    async def on_progress(progress, total, message):
        heard.append((progress, total, message))
        reported.set()

    async def script(ctx):
        return (await ask(ctx, on_progress=on_progress))["action"]

    here.scripts["ask"] = script
    target = there if at == "another replica" else here
    with anyio.fail_after(5):
        async with client.call(here, "ask") as response:
            asked = await response.message()
            assert asked["id"] == asked["params"]["_meta"]["progressToken"]
            progress = {"progressToken": asked["id"], "progress": 1, "total": 2, "message": "half"}
            assert 202 == await client.notify(target, "notifications/progress", progress)
            await reported.wait()
            assert 202 == await client.answer(target, asked, {"action": "accept"})
            assert "accept" == text_of(await response.message())
    assert [(1.0, 2.0, "half")] == heard


async def test_a_question_without_a_callback_asks_for_no_progress(here, client):
    async def script(ctx):
        return (await ask(ctx))["action"]

    here.scripts["ask"] = script
    with anyio.fail_after(5):
        async with client.call(here, "ask") as response:
            asked = await response.message()
            assert "progressToken" not in asked["params"].get("_meta", {})
            await client.answer(here, asked, {"action": "decline"})
            await response.message()


async def test_the_trace_context_of_the_handler_goes_with_its_question(here, client):
    context = trace.SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))

    async def script(ctx):
        with trace.use_span(trace.NonRecordingSpan(context)):
            return (await ask(ctx))["action"]

    here.scripts["ask"] = script
    with anyio.fail_after(5):
        async with client.call(here, "ask") as response:
            asked = await response.message()
            assert f"00-{0xABC:032x}-{0xDEF:016x}-01" == asked["params"]["_meta"]["traceparent"]
            await client.answer(here, asked, {"action": "accept"})
            await response.message()


async def test_json_mode_has_no_back_channel(database_url):
    async def script(ctx):
        assert not ctx.session.can_send_request
        with pytest.raises(NoBackChannelError):
            await ask(ctx)
        await ctx.report_progress(1)
        return "alone"

    async with replica(database_url, app_options={"json_response": True}) as here:
        here.scripts["ask"] = script
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            async with client.call(here, "ask", token="t") as response:
                assert "alone" == text_of(await response.json())
    assert "application/json" == response.headers["content-type"]


async def test_once_the_handler_has_returned_nothing_more_is_sent_even_before_its_answer(here, client):
    from mcpsession import current_session

    contexts, gate = [], here.backend.sessions.before["save_state"]

    async def script(ctx):
        (await current_session().state())["key"] = 1
        contexts.append(ctx)
        assert ctx.session.can_send_request
        return "done"

    here.scripts["leak"] = script
    gate.close()
    with anyio.fail_after(5):
        async with client.call(here, "leak", token="t") as response:
            # The answer waits for the state's commit; the request itself has finished.
            await gate.reached.wait()
            ctx = contexts[0]
            assert not ctx.session.can_send_request
            with pytest.raises(NoBackChannelError):
                await ask(ctx)
            await ctx.report_progress(1)
            await dispatch(ctx).notify("notifications/message", {"level": "info", "data": "late"})
            gate.open()
            (answer,) = await response.messages()
            assert "done" == text_of(answer)
            await ctx.report_progress(2)
            await settle()
            await here.parts.journal.flushed()
            assert 1 == (await logged(here, client, response.last_id)).last_seq
