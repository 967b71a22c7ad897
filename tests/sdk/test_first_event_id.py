"""No event id leaves before its stream's row is durable, unless the response leaves in the same write."""

from __future__ import annotations

import anyio

from tests.sdk.gates import settle, until
from tests.sdk.replicas import logged, text_of


async def test_a_short_calls_priming_frame_and_response_leave_in_one_write_while_the_log_is_still_busy(here, client):
    here.backend.log.before["write"].close()
    with anyio.fail_after(5):
        async with client.echo(here) as response:
            await response.ended()
    assert 1 == len(response.chunks)
    priming, answer = response.frames
    assert "" == priming.data
    assert "hello" == text_of(answer.message)
    here.backend.log.before["write"].open()


async def test_a_silent_long_call_shows_no_byte_before_its_stream_is_durable(here, client):
    release, log = anyio.Event(), here.backend.log

    async def silent(ctx):
        await release.wait()
        return "done"

    here.scripts["silent"] = silent
    log.before["write"].close()
    with anyio.fail_after(5):
        async with client.call(here, "silent") as response:
            await log.before["write"].reached.wait()
            await settle()
            assert (0, []) == (response.status, response.chunks)

            log.before["write"].open()
            priming = await response.frame()
            assert "" == priming.data
            assert (await logged(here, client, priming.id)) is not None
            release.set()
            assert "done" == text_of(await response.message())


async def test_a_talkers_frames_are_withheld_until_its_stream_is_durable(here, client):
    release, talked, log = anyio.Event(), anyio.Event(), here.backend.log

    async def talker(ctx):
        await ctx.report_progress(1)
        await ctx.report_progress(2)
        talked.set()
        await release.wait()
        return "done"

    here.scripts["talker"] = talker
    log.before["write"].close()
    with anyio.fail_after(5):
        async with client.call(here, "talker", token="t") as response:
            await log.before["write"].reached.wait()
            await talked.wait()
            await settle()
            assert (0, []) == (response.status, response.chunks)

            log.before["write"].open()
            assert [1, 2] == [(await response.message())["params"]["progress"] for _ in range(2)]
            release.set()
            assert "done" == text_of(await response.message())


async def test_with_strict_durability_even_a_short_call_waits_for_its_own_batch(database_url):
    from tests.sdk.replicas import Client, replica

    async with replica(database_url, durability="strict") as here:
        client, log = await Client().initialize(here), here.backend.log
        log.before["write"].close()
        with anyio.fail_after(5):
            async with client.echo(here) as response:
                await log.before["write"].reached.wait()
                await settle()
                assert [] == response.chunks
                log.before["write"].open()
                assert "hello" == text_of(await response.message())
                state = await logged(here, client, response.last_id)
                await until(lambda: state.finished)
