"""A GET that still comes to a replica that drains: its client must try again, and not give up."""

from __future__ import annotations

import anyio

from mcpsession.sdk.drain import drain


async def test_f99_a_get_on_a_replica_that_drains_ends_at_once_and_is_served_elsewhere(here, there, client):
    """A balancer needs a moment to notice a drain, and the SDK's client gives up after two 5xx."""
    with anyio.fail_after(20):
        async with client.echo(there) as call:
            await call.ended()
        await drain(there.parts, 0.1)
        for cursor in (None, call.last_id):
            async with client.get(there, cursor) as refused:
                assert b"retry: 1000\n\n" == await refused.ended()
            assert (200, "text/event-stream") == (refused.status, refused.headers["content-type"])
        async with client.get(here, call.frames[0].id) as served:
            await served.ended()
    assert [call.frames[-1].message] == [frame.message for frame in served.frames if frame.message]
