"""A request that is refused for now carries its own id: the SDK's client shows its caller no error without one."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.errors import StoreUnavailableError
from mcpsession.sdk.drain import drain


def away(at):
    at.backend.sessions.failing["get"] = lambda *_: StoreUnavailableError("away")


@pytest.mark.parametrize("id", [7, "seven"])
async def test_f98_while_the_store_is_away_a_request_is_told_so_under_its_id(there, client, id):
    away(there)
    with anyio.fail_after(10):
        async with client.call(there, "tell", id=id) as response:
            refusal = await response.json()
    assert (503, "5") == (response.status, response.headers["retry-after"])
    assert (id, "The session store is away; try again") == (refusal["id"], refusal["error"]["message"])


async def test_f98_what_is_no_request_is_refused_without_an_id(there, client):
    away(there)
    answer = {"jsonrpc": "2.0", "id": "somebody's question", "result": {}}
    with anyio.fail_after(10):
        for message in (answer, {"jsonrpc": "2.0", "method": "notifications/cancelled"}):
            async with client.post(there, message) as response:
                assert "id" not in await response.json()
            assert 503 == response.status


async def test_f99_a_request_after_the_drain_is_told_that_the_replica_is_shutting_down(there, client):
    with anyio.fail_after(10):
        await drain(there.parts, 0.01)
        async with client.call(there, "tell", id=7) as response:
            refusal = await response.json()
    assert (503, 7) == (response.status, refusal["id"])
    assert "This replica is shutting down; try again" == refusal["error"]["message"]
