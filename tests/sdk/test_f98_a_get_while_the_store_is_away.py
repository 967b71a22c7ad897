"""A GET that meets an absent store late: the session is in the cache, so the stream is the first to ask for it."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.errors import StoreUnavailableError


@pytest.mark.parametrize("with_cursor", [False, True])
async def test_f98_a_get_whose_stream_cannot_be_taken_ends_at_once_and_is_served_later(here, client, with_cursor):
    """On a read-only primary this lasts: the listener hears its echoes, so the cache is believed, and no write passes.

    The SDK's client gives up its stream after two 5xx.
    """
    with anyio.fail_after(20):
        async with client.get(here) as stream:
            while stream.last_id is None:
                assert await stream.frame() is not None
            cursor = stream.last_id if with_cursor else None
        async with client.echo(here) as call:
            await call.ended()
        assert here.parts.cache.peek(client.session_id) is not None

        here.backend.holds.failing["take"] = lambda *_: StoreUnavailableError("db.internal")
        async with client.get(here, cursor) as refused:
            assert b"retry: 5000\n\n" == await refused.ended()
        assert (200, "text/event-stream") == (refused.status, refused.headers["content-type"])

        del here.backend.holds.failing["take"]
        async with client.get(here, cursor) as served:
            assert await served.frame() is not None
