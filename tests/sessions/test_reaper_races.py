"""A touch against a reap, each held where the other needs the row. F55, F56."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import asyncpg
import pytest

from mcpsession import SessionLayer
from mcpsession.policies import Idle, Matching
from mcpsession.records import Session
from tests.sessions import reaping
from tests.sessions.reaping import Store, is_gone, until

store = reaping.store

# Ids are locked in this order, so a statement that has `a` to wait for has not locked `b` yet.
FIRST, SECOND = "a", "b"

# Whoever updates (1) or deletes (2) a session stops at the barrier, if it is closed, with the row locked.
BARRIERS = {"UPDATE": 1, "DELETE": 2}
BUILD = (
    """
    CREATE FUNCTION mcpsession.stop_at_barrier() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(CASE TG_OP WHEN 'UPDATE' THEN 1 ELSE 2 END);
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER stop_at_barrier AFTER UPDATE OR DELETE ON mcpsession.sessions
    FOR EACH ROW EXECUTE FUNCTION mcpsession.stop_at_barrier()
    """,
)
WAITING = """
SELECT 1 FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = ANY($1::text[])
"""
AT_BARRIER = ["advisory"]
FOR_A_ROW = ["transactionid", "tuple"]
ALMOST_OVER = "UPDATE mcpsession.sessions SET expires_at = now() + interval '0.3 s' WHERE id = $1"
OVER = "SELECT 1 FROM mcpsession.sessions WHERE id = $1 AND expires_at < clock_timestamp()"


@pytest.fixture
async def postgres_store(database_url: str) -> Store:
    store = Store(database_url)
    for statement in BUILD:
        await store.fetch(statement)
    return store


class Barrier:
    def __init__(self, store: Store, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._store = store
        self._connection = connection

    async def reached(self) -> None:
        await until(lambda: self._store.fetch(WAITING, AT_BARRIER))

    async def open(self) -> None:
        await self._connection.execute("SELECT pg_advisory_unlock_all()")


@asynccontextmanager
async def barrier(store: Store, event: str) -> AsyncIterator[Barrier]:
    """Hold whoever updates (or deletes) a session, before the commit, until the barrier is opened."""
    connection = await store.connect()
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", BARRIERS[event])
        yield Barrier(store, connection)
    finally:
        await connection.close()


@asynccontextmanager
async def row_locked(store: Store, session_id: str) -> AsyncIterator[None]:
    """Hold a session's row, for whoever knows what, until the block ends."""
    connection = await store.connect()
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM mcpsession.sessions WHERE id = $1 FOR UPDATE", session_id)
            yield
    finally:
        await connection.close()


async def someone_waits_for_a_row(store: Store) -> None:
    await until(lambda: store.fetch(WAITING, FOR_A_ROW))


def handled(layer: SessionLayer) -> list[str]:
    told: list[str] = []

    @layer.on_expired
    async def remember(session: Session) -> None:
        told.append(session.id)

    return told


# ---- F55: each expired session goes once ----------------------------------------------------------------------------


async def test_f55_replicas_that_reap_at_once_remove_each_session_once(store: Store) -> None:
    async with store.layer(reap_batch=20) as a, store.layer(reap_batch=20) as b, store.layer(reap_batch=20) as c:
        ids = [f"{n}" for n in range(300)]
        await a.sessions.create_many([a.sessions.new_session(session_id, ttl=0.01) for session_id in ids])
        await reaping.all_dead(a, *ids)
        removed: list[int] = []

        async def reap(layer: SessionLayer) -> None:
            removed.append((await layer.reaper.run_once()).sessions)

        async with anyio.create_task_group() as tasks:
            for layer in (a, b, c):
                tasks.start_soon(reap, layer)

        assert 300 == sum(removed)
        assert all([await is_gone(a, session_id) for session_id in ids])


# ---- F56: a touch that came first wins ------------------------------------------------------------------------------


@pytest.mark.parametrize("with_handlers", [False, True])
async def test_f56_a_session_is_not_reaped_while_its_touch_commits(postgres_store: Store, with_handlers: bool) -> None:
    """The reaper saw it expired; the touch, made in time, was not committed yet."""
    store = postgres_store
    async with store.layer() as layer, store.layer() as toucher:
        told = handled(layer) if with_handlers else []
        await layer.sessions.create("session", ttl=60.0)
        await store.fetch(ALMOST_OVER, "session")
        touched: list[bool] = []

        async def touch() -> None:
            touched.append(await toucher.sessions.touch("session"))

        async with barrier(store, "UPDATE") as held, anyio.create_task_group() as tasks:
            tasks.start_soon(touch)
            await held.reached()
            await until(lambda: store.fetch(OVER, "session"))
            tasks.start_soon(layer.reaper.run_once)
            await _reaper_waits_or_has_passed(store, layer)
            await held.open()

        assert [True] == touched
        assert [] == told
        assert await layer.sessions.get("session") is not None
        assert 0 == (await layer.reaper.run_once()).sessions


async def _reaper_waits_or_has_passed(store: Store, layer: SessionLayer) -> None:
    async def it_does() -> bool:
        return bool(layer.reaper.stats.passes or await store.fetch(WAITING, FOR_A_ROW))

    await until(it_does)


@pytest.mark.parametrize("with_handlers", [False, True])
async def test_f56_a_touch_that_waited_for_the_reaper_says_that_the_session_is_dead(
    postgres_store: Store, with_handlers: bool
) -> None:
    """The touch began in time, but was held up until the reaper had the row."""
    store = postgres_store
    async with store.layer() as layer, store.layer() as toucher:
        told = handled(layer) if with_handlers else []
        for session_id in (FIRST, SECOND):
            await layer.sessions.create(session_id, ttl=60.0)
        await store.fetch(ALMOST_OVER, SECOND)
        alive: set[str] = set()

        async def touch() -> None:
            alive.update(await toucher.sessions.touch_many([FIRST, SECOND]))

        # When the reaper has the row and goes on, the touch may, too.
        async with anyio.create_task_group() as tasks, row_locked(store, FIRST):
            tasks.start_soon(touch)
            await someone_waits_for_a_row(store)
            await until(lambda: store.fetch(OVER, SECOND))
            # A claim is an update as well; the touch, which is one too, waits for its rows before it gets there.
            async with barrier(store, "UPDATE" if with_handlers else "DELETE") as held:
                tasks.start_soon(layer.reaper.run_once)
                await held.reached()

        assert {FIRST} == alive
        assert ([SECOND] if with_handlers else []) == told
        assert await is_gone(layer, SECOND)
        assert await layer.sessions.get(FIRST) is not None


async def test_f56_a_touch_waits_for_a_reaper_that_has_the_row_and_then_finds_nothing(postgres_store: Store) -> None:
    store = postgres_store
    async with store.layer() as layer, store.layer() as toucher:
        for session_id in (FIRST, SECOND):
            await layer.sessions.create(session_id, ttl=60.0)
        await store.fetch(ALMOST_OVER, SECOND)
        alive: set[str] = set()
        ended = anyio.Event()

        async def touch() -> None:
            alive.update(await toucher.sessions.touch_many([FIRST, SECOND]))
            ended.set()

        async with anyio.create_task_group() as tasks, barrier(store, "DELETE") as held:
            async with row_locked(store, FIRST):
                tasks.start_soon(touch)
                await someone_waits_for_a_row(store)
                await until(lambda: store.fetch(OVER, SECOND))
                tasks.start_soon(layer.reaper.run_once)
                await held.reached()
            # The touch goes on to the second row, which the reaper has deleted and not committed.
            await someone_waits_for_a_row(store)
            assert not ended.is_set()
            await held.open()
            with anyio.fail_after(5):
                await ended.wait()

        assert {FIRST} == alive
        assert await is_gone(layer, SECOND)


async def test_f56_sessions_that_are_touched_live_through_any_number_of_sweeps(store: Store) -> None:
    async with store.layer() as a, store.layer() as b:
        ids = [f"{n}" for n in range(20)]
        await a.sessions.create_many([a.sessions.new_session(session_id, ttl=0.5) for session_id in ids])
        await a.sessions.create("witness", ttl=1.2)
        over = anyio.Event()
        alive: list[set[str]] = []

        async def sweep(layer: SessionLayer) -> None:
            while not over.is_set():
                await layer.reaper.run_once()
                # In memory it waits for nothing.
                await anyio.lowlevel.checkpoint()

        async def touch() -> None:
            while not over.is_set():
                alive.append(await b.sessions.touch_many(ids))
                await anyio.sleep(0.05)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sweep, a)
            tasks.start_soon(sweep, b)
            tasks.start_soon(touch)
            await until(lambda: is_gone(a, "witness"))
            over.set()

        assert [set(ids)] * len(alive) == alive
        assert set(ids) == set(await a.sessions.get_many(ids))


# ---- F56, F62: policies do not end what was touched meanwhile -------------------------------------------------------


async def test_f56_an_idle_session_that_is_touched_before_it_is_ended_lives(store: Store) -> None:
    backend = store.backend()
    async with store.layer(backend) as layer:
        layer.reaper.add_policy(Idle(after=0.2))
        await layer.sessions.create("session", ttl=None)
        await layer.sessions.create("idle", ttl=None)
        await anyio.sleep(0.25)
        ending = backend.sessions.before["end"]
        ending.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer.reaper.run_once)
            with anyio.fail_after(5):
                await ending.reached.wait()
            assert await layer.sessions.touch("session")
            ending.open()
        assert await layer.sessions.get("session") is not None
        assert await layer.sessions.get("idle") is None


@pytest.mark.parametrize("what", ["touched", "changed"])
async def test_f56_a_session_that_moves_on_after_a_predicate_saw_it_is_spared(store: Store, what: str) -> None:
    backend = store.backend()
    async with store.layer(backend) as layer:
        layer.reaper.add_policy(Matching(lambda session: session.state.get("full") is True))
        for session_id in ("session", "other"):
            await layer.sessions.create(session_id, state={"full": True})
        ending = backend.sessions.before["end"]
        ending.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer.reaper.run_once)
            with anyio.fail_after(5):
                await ending.reached.wait()
            if what == "touched":
                assert await layer.sessions.touch("session")
            else:
                await layer.sessions.merge_state("session", {"full": False})
            ending.open()
        assert await layer.sessions.get("session") is not None
        assert await layer.sessions.get("other") is None
