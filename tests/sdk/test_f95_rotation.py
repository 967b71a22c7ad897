"""A session that got a new id: the old one is unknown to everybody, the new one is the session."""

from __future__ import annotations

import anyio

from mcpsession import current_session
from tests.sdk.gates import until
from tests.sdk.replicas import Client, hello, text_of


async def test_f95_after_a_rotation_the_old_id_is_404_everywhere_and_the_new_one_has_the_state(here, there, client):
    entered = anyio.Event()

    async def wait(ctx):
        await ctx.report_progress(1)
        entered.set()
        await anyio.sleep_forever()

    async def read(ctx):
        return (await current_session().state())["n"]

    there.scripts.update(wait=wait, read=read)
    with anyio.fail_after(10):
        await here.layer.sessions.merge_state(client.session_id, {"n": 7})
        async with client.call(there, "wait", token="t") as call, client.get(there) as standing:
            await entered.wait()
            await until(lambda: len(there.parts.standalones))
            await call.message()
            rotated = await here.layer.sessions.rotate(client.session_id)
            assert "Session ended" == (await call.message())["error"]["message"]
            await standing.ended()
        for at in (here, there):
            async with client.echo(at) as response:
                await response.ended()
            assert 404 == response.status
        async with client.post(there, hello()) as response:
            await response.ended()
        assert 404 == response.status

        again = Client(session_id=rotated.id)
        async with again.call(there, "read") as response:
            assert "7" == text_of(await response.message())
        assert 200 == await again.delete(here)
