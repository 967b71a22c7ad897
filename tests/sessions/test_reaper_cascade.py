"""What belongs to a session goes with it. F61."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from mcpsession import SessionLayer
from mcpsession.policies import Orphaned
from tests.sessions import reaping
from tests.sessions.reaping import TABLES, Store, speak, until

store = reaping.store
postgres_store = reaping.postgres_store

NOTHING = dict.fromkeys(TABLES, 0)
# The standalone stream and one of a call, with an event each.
ALL = {"sessions": 1, "streams": 2, "events": 2, "subscriptions": 2}


async def with_all(layer: SessionLayer, backend: Any, session_id: str = "session", **fields: Any) -> None:
    """A session that has something in every table."""
    await layer.sessions.create(session_id, **fields)
    await speak(backend, session_id)
    for uri in ("file:///a", "file:///b"):
        assert await backend.subscriptions.subscribe(session_id, uri, None, sender="a")


# By how the session ends: what does that, and what of its row may stay.
ENDS: dict[str, tuple[Callable[[SessionLayer], Awaitable[object]], int]] = {
    "expired": (lambda layer: reaping.all_dead(layer, "session"), 0),
    "deleted": (lambda layer: layer.sessions.delete("session"), 0),
    "cleared": (lambda layer: layer.sessions.clear_all(confirm=True), 0),
    "terminated": (lambda layer: layer.sessions.terminate("session"), 1),
}


@pytest.mark.parametrize("with_handlers", [False, True])
@pytest.mark.parametrize("end", ENDS)
async def test_f61_no_row_of_any_table_is_left_of_a_session(
    postgres_store: Store, end: str, with_handlers: bool
) -> None:
    backend = postgres_store.backend()
    async with postgres_store.layer(backend) as layer:
        # Nobody runs the calls of this test: they would be finished, with an event more.
        layer.reaper.remove_policy(Orphaned())
        if with_handlers:
            layer.on_expired(lambda session: None)
        await with_all(layer, backend, ttl=0.3)
        await with_all(layer, backend, "neighbour", ttl=None)
        assert ALL == await postgres_store.rows("session")
        ending, tombstones = ENDS[end]

        await ending(layer)
        await layer.reaper.run_once()

        assert {**NOTHING, "sessions": tombstones} == await postgres_store.rows("session")
        if end != "cleared":
            assert ALL == await postgres_store.rows("neighbour")


async def test_f61_a_replaced_session_leaves_only_the_new_one(postgres_store: Store) -> None:
    backend = postgres_store.backend()
    async with postgres_store.layer(backend) as layer:
        await with_all(layer, backend)
        await layer.sessions.register("session")
        await layer.reaper.run_once()
        assert {**NOTHING, "sessions": 1, "streams": 1} == await postgres_store.rows("session")


async def test_f61_a_tombstone_goes_when_its_time_is_over(postgres_store: Store) -> None:
    async with postgres_store.layer(tombstone_ttl=0.05) as layer:
        await layer.sessions.create("session")
        await layer.sessions.terminate("session")

        async def nothing_is_left() -> bool:
            await layer.reaper.run_once()
            return await postgres_store.rows("session") == NOTHING

        await until(nothing_is_left)


async def test_f61_streams_and_subscriptions_go_with_an_expired_session(store: Store) -> None:
    backend = store.backend()
    async with store.layer(backend) as layer:
        await with_all(layer, backend, ttl=0.3)
        await reaping.all_dead(layer, "session")
        await layer.reaper.run_once()

        for stream in ("s", "stream"):
            assert await backend.log.read("session", stream, 0, 10) is None
        assert [] == list(await backend.subscriptions.subscribers("file:///a", "", 10))
        await layer.sessions.create("session")
        assert [] == list(await backend.subscriptions.uris("session"))


async def test_f61_an_event_that_is_written_while_its_session_is_removed_does_not_stay(postgres_store: Store) -> None:
    """The journal's batch was not committed when the reaper looked."""
    backend = postgres_store.backend()
    async with postgres_store.layer(backend) as layer:
        await with_all(layer, backend, ttl=0.3)
        await reaping.all_dead(layer, "session")
        connection = await postgres_store.connect()
        try:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(
                "UPDATE mcpsession.streams SET last_seq = 2 WHERE session_id = 'session' AND id = 'stream'"
            )
            await connection.execute(
                "INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message) "
                "VALUES ($1, 'session', 'stream', 2, 'late')",
                postgres_store.settings["namespace"],
            )
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(layer.reaper.run_once)
                waiting = "SELECT 1 FROM pg_locks WHERE locktype IN ('transactionid', 'tuple') AND NOT granted"

                async def reaper_waits_or_passed() -> bool:
                    return bool(layer.reaper.stats.passes or await postgres_store.fetch(waiting))

                await until(reaper_waits_or_passed)
                await transaction.commit()
        finally:
            await connection.close()
        await layer.reaper.run_once()
        assert NOTHING == await postgres_store.rows("session")
