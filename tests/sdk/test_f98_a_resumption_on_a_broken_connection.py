"""A resumed stream whose read fails: a connection that broke is no outage, and an outage is told at once."""

from __future__ import annotations

import anyio

from mcpsession.errors import StoreUnavailableError
from tests.sdk.replicas import text_of


async def test_f98_a_read_that_fails_once_costs_a_resumed_stream_nothing(here, there, client):
    """A client that is told to come back in 5 s misses its answer for so long."""
    go_on, failures = anyio.Event(), [StoreUnavailableError("the connection was lost")]

    async def script(ctx):
        await ctx.report_progress(1)
        await go_on.wait()
        return "done"

    here.scripts["wait"] = script
    with anyio.fail_after(10):
        async with client.call(here, "wait", token="t") as response:
            await response.message()
        async with client.get(there, response.last_id) as resumed:
            await resumed.started()
            there.backend.log.failing["read"] = lambda *_: failures.pop() if failures else None
            go_on.set()
            assert "done" == text_of(await resumed.message())
    assert ([], [1000]) == (failures, [frame.retry for frame in resumed.frames if frame.retry])


async def test_f98_a_resumed_stream_ends_with_retry_when_reads_go_on_failing(here, there, client):
    async def script(ctx):
        await ctx.report_progress(1)
        await anyio.sleep_forever()

    here.scripts["wait"] = script
    with anyio.fail_after(10):
        async with client.call(here, "wait", token="t") as response:
            await response.message()
        there.backend.log.failing["read"] = lambda *_: StoreUnavailableError("away")
        async with client.get(there, response.last_id) as resumed:
            assert (await resumed.ended()).endswith(b"retry: 5000\n\n")
