"""A session whose end this replica applied, while the store says that it lives: a fail-over lost the end."""

from __future__ import annotations

import anyio


async def test_what_ended_here_is_gone_here_also_if_the_store_lost_its_end(here, client):
    """And a request of it ends: looking for its session again and again would stop the whole replica."""
    session = await here.parts.cache.load(client.session_id)
    assert session is not None
    here.parts.ended.note(session.id, session.incarnation)
    with anyio.fail_after(5):
        async with client.echo(here) as response:
            body = await response.ended()
    assert 404 == response.status
    assert b"Session not found" in body
