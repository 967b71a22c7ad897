"""Whoever starts a layer and is cancelled meanwhile leaves nothing running and no connection open."""

from __future__ import annotations

import anyio
import asyncpg

from mcpsession import SessionLayer
from tests.attacks.cancelling import Work
from tests.attacks.leaks import Leaks
from tests.sdk.replicas import Replica

_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mcpsession starting'"


async def test_starting_and_stopping_a_layer(here: Replica, leaks: Leaks, shared_url: str) -> None:
    """One layer, again and again: it can be started after each."""
    del here
    bystander = await asyncpg.connect(shared_url)
    layer = SessionLayer.from_url(shared_url, label="starting")

    async def work() -> int:
        async with layer:
            return await layer.sessions.count()

    async def prepare() -> Work:
        return work

    places = 0
    async for outcome in leaks.after(prepare, ("task",)):
        places += 1
        assert outcome.cancelled or outcome.made == 0
        with anyio.fail_after(10):
            while await bystander.fetchval(_CONNECTIONS):  # noqa: ASYNC110 (a row announces nothing)
                await anyio.sleep(0.01)
    await bystander.close()
    assert places >= 30
