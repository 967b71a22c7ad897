"""The server's side cancels a call at moments when not everybody can know of it. The rest is in tests/requests."""

from __future__ import annotations

import json

import anyio
import anyio.lowlevel
import pytest

from tests.cluster.conftest import fetch
from tests.sdk.gates import Gated, settle, until
from tests.sdk.replicas import logged, replica, stored, text_of

CANCELLED = -32800


async def test_f35_a_call_that_is_not_in_the_log_yet_is_cancelled_where_it_runs(here, there, client):
    entered = anyio.Event()

    async def script(ctx):
        entered.set()
        await anyio.sleep_forever()

    here.scripts["wait"] = script
    write = here.backend.log.before["write"]
    with anyio.fail_after(10):
        await here.parts.journal.flushed()
        write.close()
        async with client.call(here, "wait", id=5) as response:
            await entered.wait()
            await write.reached.wait()
            # Nobody else can know of it.
            assert await there.layer.requests.cancel(client.session_id, 5) is None
            info = await here.layer.requests.cancel(client.session_id, 5, "enough")
            assert ("tools/call", here.id) == (info.method, info.replica)
            write.open()
            (answer,) = await response.messages()
    assert (CANCELLED, "Request cancelled: enough") == (answer["error"]["code"], answer["error"]["message"])


async def test_f35_a_call_that_is_cancelled_again_while_it_winds_up_is_counted_once(here, there, client):
    entered, release, heard = anyio.Event(), anyio.Event(), []

    async def script(ctx):
        entered.set()
        with anyio.CancelScope(shield=True):
            await release.wait()

    here.scripts["deaf"] = script
    here.parts.post_office.on("cancel", heard.append)
    with anyio.fail_after(10):
        async with client.call(here, "deaf", id=5) as response:
            assert "" == (await response.frame()).data
            await entered.wait()
            # Each of them comes back to this replica as mail, too.
            assert await here.layer.requests.cancel(client.session_id, 5, "first")
            assert await there.layer.requests.cancel(client.session_id, 5, "second")
            assert 202 == await client.notify(here, "notifications/cancelled", {"requestId": 5})
            await until(lambda: len(heard) == 3)
            release.set()
            (answer,) = await response.messages()
    assert "Request cancelled: first" == answer["error"]["message"]
    assert 1 == here.parts.telemetry.counts["mcpsession_cancelled_requests_total"]


async def test_f35_nobody_is_told_of_an_id_that_is_unknown(here, there, client):
    await settle()
    mail = await stored(here, "mail", client.session_id)
    for at in (here, there):
        assert await at.layer.requests.cancel(client.session_id, 5) is None
    assert mail == await stored(here, "mail", client.session_id)
    # It is not remembered, either: it was for a request that ran, and none did.
    async with client.call(here, "", tool="echo", id=5, arguments={"text": "new"}) as response:
        assert "new" == text_of(await response.message())


async def test_f35_a_cancel_that_comes_after_the_answer_does_not_wait_for_the_next_call(here, there, client):
    with anyio.fail_after(10):
        for at in (here, there):
            await at.layer._wiring.requests._cancels.everywhere(client.session_id, 5, "late")
        await settle()
        async with client.call(there, "", tool="echo", id=5, arguments={"text": "new"}) as response:
            assert "new" == text_of(await response.message())


@pytest.mark.parametrize("method", ["tools/call\x00", "x" * 100_000])
async def test_f31_a_method_that_no_server_has_is_answered_and_logged_whatever_its_text_is(
    database_url, here, client, method
):
    """The log shows the methods of calls, and cannot hold every text."""
    with anyio.fail_after(10):
        async with client.post(here, {"jsonrpc": "2.0", "id": 5, "method": method}) as response:
            (answer,) = await response.messages()
        await here.parts.journal.flushed()
        state = await logged(here, client, response.last_id)
    assert (True, [answer]) == (state.finished, [json.loads(event.message) for event in state.events])
    query = "SELECT length(method) FROM mcpsession.streams WHERE session_id = $1 AND id = $2"
    [[length]] = await fetch(database_url, query, client.session_id, response.last_id.split(".")[0])
    assert length <= 200


@pytest.mark.parametrize("moment", ["before the row is there", "when the row is there"])
async def test_f31_tracking_that_is_cancelled_on_its_way_in_leaves_nothing_behind(database_url, client, moment):
    def gate(backend):
        backend.requests = Gated(backend.requests)

    async with replica(database_url, wrap=gate) as here:
        way = here.backend.requests.before if moment == "before the row is there" else here.backend.requests.after
        way["track"].close()

        async def work():
            async with here.layer.requests.tracking(client.session_id, "job", "jobs/run"):
                await anyio.lowlevel.checkpoint()
                pytest.fail("it was cancelled")

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                await way["track"].reached.wait()
                tasks.cancel_scope.cancel()
                way["track"].open()
        assert not await here.layer.requests.has(client.session_id, "job")
