"""No client's disconnect and no server's cancellation stops a handler; its stream gets its end in the log."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.sdk.handlers import Handlers
from tests.sdk.gates import settle
from tests.sdk.replicas import logged, text_of


@pytest.mark.parametrize("how", ["the client disconnects", "the server cancels the task"])
async def test_a_handler_outlives_its_socket_and_its_answer_is_in_the_log_and_can_be_resumed(here, there, client, how):
    release, ended = anyio.Event(), anyio.Event()

    async def script(ctx):
        try:
            await ctx.report_progress(1)
            await release.wait()
            await ctx.report_progress(2)
            return "done all the same"
        finally:
            ended.set()

    here.scripts["long"] = script
    with anyio.fail_after(10):
        async with client.call(here, "long", token="t") as response:
            assert 1 == (await response.message())["params"]["progress"]
            if how == "the client disconnects":
                response.disconnect()
            else:
                response.task.cancel()
            await settle()
            assert not ended.is_set()
            assert 1 == len(here.parts.in_flight)
            release.set()
            await ended.wait()
        await here.parts.journal.flushed()
        state = await logged(here, client, response.last_id)
        assert (True, [1, 2, 3]) == (state.finished, [event.seq for event in state.events])
        async with client.get(there, response.last_id) as resumed:
            progress, answer = await resumed.messages()
    assert 2 == progress["params"]["progress"]
    assert "done all the same" == text_of(answer)


async def test_a_task_cancelled_before_its_first_byte_leaves_a_whole_stream_in_the_log(here, client):
    entered, release, log = anyio.Event(), anyio.Event(), here.backend.log

    async def script(ctx):
        entered.set()
        await release.wait()
        return "done"

    here.scripts["long"] = script
    log.before["write"].close()
    with anyio.fail_after(5):
        async with client.call(here, "long") as response:
            await entered.wait()
            await log.before["write"].reached.wait()
            response.task.cancel()
            await response.ended()
        assert b"" == response.body
        release.set()
        log.before["write"].open()
        await here.parts.in_flight.finished()
        await here.parts.journal.flushed()
        ((stream,),) = [batch.opened for name, (batch,) in log.seen if name == "write" and batch.opened]
        state = await log.read(client.session_id, stream.stream_id, 0, 10)
        assert (True, 1) == (state.finished, len(state.events))


async def test_a_handler_in_json_mode_outlives_its_socket_too(database_url):
    from tests.sdk.replicas import Client, replica

    entered, release, ended = anyio.Event(), anyio.Event(), anyio.Event()

    async def script(ctx):
        entered.set()
        await release.wait()
        ended.set()

    async with replica(database_url, app_options={"json_response": True}) as here:
        here.scripts["long"] = script
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            async with client.call(here, "long") as response:
                await entered.wait()
                response.task.cancel()
                await settle()
            release.set()
            await ended.wait()
            await here.parts.in_flight.finished()


async def test_f32_a_duplicate_of_a_live_request_id_is_refused_and_does_not_disturb_the_first(here, client):
    release, entered = anyio.Event(), anyio.Event()

    async def script(ctx):
        entered.set()
        await release.wait()
        return "first"

    here.scripts["long"] = script
    with anyio.fail_after(5):
        async with client.call(here, "long", id=1) as first:
            await entered.wait()
            async with client.call(here, "long", id=1) as second:
                refusal = await second.json()
            assert (400, 1) == (second.status, refusal["id"])
            release.set()
            assert "first" == text_of(await first.message())


async def test_f32_of_two_live_requests_with_one_id_on_two_replicas_one_runs_to_its_end(here, there, client):
    release = anyio.Event()

    async def script(ctx):
        await release.wait()
        return "ran"

    here.scripts["long"] = there.scripts["long"] = script
    with anyio.fail_after(10):
        async with client.call(here, "long", id=1) as first:
            # Its priming frame: the stream is in the log.
            assert "" == (await first.frame()).data
            async with client.call(there, "long", id=1) as second:
                refusal = await second.json()
            assert 400 == second.status
            assert "error" in refusal
            assert 0 == len(there.parts.in_flight)
            release.set()
            assert "ran" == text_of(await first.message())


async def test_what_a_handler_shields_is_done_also_if_whoever_runs_the_replica_is_cancelled():
    handlers, of_it, cleaned = Handlers(), anyio.CancelScope(), []
    began = anyio.Event()

    async def handler():
        with of_it:
            began.set()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await settle()
                    cleaned.append("up")

    with anyio.fail_after(5):
        with anyio.CancelScope() as whole:
            async with handlers.running():
                handlers.start(handler())
                await began.wait()
                of_it.cancel()
                whole.cancel()
    assert ["up"] == cleaned
