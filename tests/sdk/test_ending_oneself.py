"""A tool that ends its own session: the end is finished, although the call is one of those that it ends."""

from __future__ import annotations

import anyio

from mcpsession import current_session
from tests.sdk.gates import until


async def test_a_tool_may_delete_its_own_session_and_the_handlers_hear_of_it_once(here, client):
    told = []

    @here.layer.on_expired
    async def take_time(session):
        told.append("begun")
        await anyio.sleep(0.05)
        told.append(session.end_reason)

    async def delete(ctx):
        await here.layer.sessions.delete(current_session().id)

    here.scripts["delete"] = delete
    with anyio.fail_after(10):
        async with client.call(here, "delete") as response:
            assert "Session ended" == (await response.message())["error"]["message"]
        await until(lambda: told == ["begun", "deleted"])
        await here.layer.reaper.run_once()
    assert ["begun", "deleted"] == told
    assert await here.layer.sessions.get(client.session_id, include_dead=True) is None
