"""A stream that is not ours any more: its handler is cancelled, its socket cut, the client finds the other's end."""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from mcpsession.errors import StoreError
from tests.sdk.gates import settle, until
from tests.sdk.replicas import text_of

# What a replica does that takes the producer for dead; the stranger's final skips numbers that may have been sent.
TAKE_OVER = """
WITH ended AS (
    UPDATE mcpsession.streams SET finished_at = now(), taken_over = true, producer = 'stranger', last_seq = 9
    WHERE session_id = $1 AND id = $2
)
INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message) VALUES ('default', $1, $2, 9, $3)
"""
FINAL = '{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"taken over"}}'


@pytest.fixture
async def take_over(database_url):
    connection = await asyncpg.connect(database_url)

    async def take_over(client, event_id):
        await connection.execute(TAKE_OVER, client.session_id, event_id.split(".")[0], FINAL)

    yield take_over
    await connection.close()


async def test_a_stream_that_was_taken_over_costs_its_handler_and_its_socket_and_has_the_strangers_final(
    here, there, client, take_over
):
    go_on, cancelled = anyio.Event(), anyio.Event()

    async def script(ctx):
        try:
            await ctx.report_progress(1)
            await go_on.wait()
            await ctx.report_progress(2)
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    here.scripts["long"] = script
    with anyio.fail_after(10):
        async with client.call(here, "long", id=1, token="t") as response:
            await response.message()
            await here.parts.journal.flushed()
            await take_over(client, response.last_id)
            # What is on its way to the socket when the log says no must not arrive: it was never stored.
            response.stop_reading()
            go_on.set()
            await cancelled.wait()
            await settle()
            response.read_on()
            await response.ended()
            assert [1] == [frame.message["params"]["progress"] for frame in response.frames if frame.message]
        await until(lambda: not len(here.parts.in_flight))
        async with client.get(there, response.last_id) as resumed:
            (final,) = await resumed.messages()
    assert "taken over" == final["error"]["message"]


async def test_a_reader_elsewhere_silences_the_producers_own_socket_and_gets_the_rest(here, there, client):
    go_on, finish = anyio.Event(), anyio.Event()

    async def script(ctx):
        await ctx.report_progress(1)
        await go_on.wait()
        await ctx.report_progress(2)
        await finish.wait()
        return "done"

    here.scripts["long"] = script
    with anyio.fail_after(10):
        async with client.call(here, "long", token="t") as response:
            await response.message()
            await here.parts.journal.flushed()
            async with client.get(there, response.last_id) as resumed:
                await resumed.started()
                go_on.set()
                assert 2 == (await resumed.message())["params"]["progress"]
                # The producer's own socket ends with the batch that named the reader, and gets no answer.
                await response.ended()
                finish.set()
                assert "done" == text_of(await resumed.message())
            assert all("result" not in frame.message for frame in response.frames if frame.message)


async def test_messages_that_the_store_refuses_end_their_call_with_an_error_and_no_other_call(here, client):
    log, go_on = here.backend.log, anyio.Event()

    def refuses(batch):
        texts = [event.message for part in [*batch.opened, *batch.appended] for event in part.events]
        return StoreError("a test says so", "22021") if any("poison" in text for text in texts) else None

    async def poison(ctx):
        await ctx.report_progress(1, message="poison")
        await anyio.sleep_forever()

    async def sound(ctx):
        await ctx.report_progress(1, message="sound")
        await go_on.wait()
        return "done"

    log.failing["write"] = refuses
    here.scripts.update(poison=poison, sound=sound)
    gate = log.before["write"]
    with anyio.fail_after(10):
        gate.close()
        async with client.call(here, "sound", token="t") as one:
            await gate.reached.wait()
            async with (
                client.call(here, "poison", token="t", id="p") as two,
                client.call(here, "sound", token="t") as three,
            ):
                await until(lambda: 3 == len(here.parts.in_flight))
                gate.open()
                failure = await two.json()
                assert (500, "p") == (two.status, failure["id"])
                go_on.set()
                for response in (one, three):
                    assert "sound" == (await response.message())["params"]["message"]
                    assert "done" == text_of(await response.message())
        await here.parts.journal.flushed()
        state = await log.read(client.session_id, last_stream(log), 0, 10)
        assert state.finished
        assert "could not be stored" in state.events[-1].message


def last_stream(log):
    """The stream of the batch that was poisoned, alone."""
    for name, args in reversed(log.seen):
        if name == "write" and args[0].opened and '"p"' in args[0].opened[0].request_ids:
            return args[0].opened[0].stream_id
    raise AssertionError("it was never written")
