"""What two writers of one stream cannot do to each other, each with a connection of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import asyncpg
import pytest

from mcpsession.errors import StoreError
from mcpsession.model import Accepted, Batch, NewEvent, OpenedStream
from mcpsession.postgres.backend import PostgresBackend
from tests.postgres.stores import appended, dying, living, open_session, opened, running_backend

# Held by a bystander, so that what is tested waits for the lock with an older snapshot.
_HOLD = "SELECT 1 FROM mcpsession.streams WHERE session_id = $1 AND id = $2 FOR UPDATE"
_OPEN = """
INSERT INTO mcpsession.streams (namespace, session_id, id, producer, request_ids)
VALUES ('default', $1, 'of a third', 'r', '{1}')
"""
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[PostgresBackend]:
    async with running_backend(database_url) as backend:
        yield backend


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[PostgresBackend]:
    async with running_backend(database_url) as backend:
        yield backend


@pytest.fixture
async def bystander(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def _until_waiting(connection: asyncpg.Connection, count: int) -> None:
    while await connection.fetchval(_WAITING) < count:
        # Inside a transaction the first look would be repeated for ever.
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        await anyio.sleep(0.01)


async def _messages(backend: PostgresBackend, session: str, stream: str) -> list[tuple[int, str]]:
    state = await backend.log.read(session, stream, 0, 100)
    assert state is not None
    return [(event.seq, event.message) for event in state.events]


async def test_a_late_flush_after_a_take_over_is_refused(one: PostgresBackend, other: PostgresBackend) -> None:
    session, producer = await open_session(one), await dying(one)
    await one.log.write(opened(session, "t", "a"), producer=producer)

    assert await other.log.take_over(session, "t", 1, ["final"], by="other")
    assert [] == await one.log.write(appended(session, "t", 1, "late", finished=True), producer=producer)

    assert [(1, "a"), (2, "final")] == await _messages(one, session, "t")


@pytest.mark.parametrize("takers", [1, 3])
async def test_two_finals_are_impossible_however_they_race(
    one: PostgresBackend, other: PostgresBackend, bystander: asyncpg.Connection, takers: int
) -> None:
    """All wait for one row's lock with a snapshot in which the stream is unfinished and its producer dead."""
    session, producer = await open_session(one), await dying(one)
    await one.log.write(opened(session, "t", "a"), producer=producer)
    won: list[str] = []

    async def flush() -> None:
        if await one.log.write(appended(session, "t", 1, "own", finished=True), producer=producer):
            won.append("own")

    async def take() -> None:
        if await other.log.take_over(session, "t", 1, ["taken"], by="other"):
            won.append("taken")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, bystander.transaction():
            await bystander.execute(_HOLD, session, "t")
            tasks.start_soon(flush)
            for _ in range(takers):
                tasks.start_soon(take)
            await _until_waiting(bystander, 1 + takers)

    assert 1 == len(won)
    assert [(1, "a"), (2, won[0])] == await _messages(one, session, "t")


async def test_a_flush_that_waited_through_the_take_over_sees_it(
    one: PostgresBackend, bystander: asyncpg.Connection
) -> None:
    session = await open_session(one)
    async with living(one) as producer:
        await one.log.write(opened(session, "t"), producer=producer)
        accepted: list[object] = ["unset"]

        async def flush() -> None:
            accepted[:] = await one.log.write(appended(session, "t", 0, "late"), producer=producer)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks, bystander.transaction():
                await bystander.execute(_HOLD, session, "t")
                tasks.start_soon(flush)
                await _until_waiting(bystander, 1)
                await bystander.execute(
                    "UPDATE mcpsession.streams SET finished_at = now(), producer = 'x' WHERE id = 't'"
                )

    assert [] == accepted
    assert [] == await _messages(one, session, "t")


async def test_a_flush_that_waited_for_the_reader_returns_it(
    one: PostgresBackend, bystander: asyncpg.Connection
) -> None:
    """The reader enters itself before its first read: from then on every write must ring it."""
    session = await open_session(one)
    await one.log.write(opened(session, "t"), producer="p")
    readers: list[str | None] = []

    async def flush() -> None:
        accepted = await one.log.write(appended(session, "t", 0, "m"), producer="p")
        readers.extend(stream.reader for stream in accepted)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, bystander.transaction():
            await bystander.execute("UPDATE mcpsession.streams SET reader = 'r' WHERE id = 't'")
            tasks.start_soon(flush)
            await _until_waiting(bystander, 1)

    assert ["r"] == readers


async def test_a_duplicate_of_a_live_request_is_refused_across_replicas(
    one: PostgresBackend, other: PostgresBackend
) -> None:
    session = await open_session(one)

    assert ["t"] == [it.stream_id for it in await one.log.write(opened(session, "t", "a"), producer="p")]
    assert [] == await other.log.write(opened(session, "u", "b"), producer="q")
    assert await other.log.read(session, "u", 0, 10) is None

    await one.log.write(appended(session, "t", 1, "b", finished=True), producer="p")
    assert ["u"] == [it.stream_id for it in await other.log.write(opened(session, "u", "b"), producer="q")]


async def test_a_repeated_write_of_an_opened_stream_is_not_doubled(one: PostgresBackend) -> None:
    session = await open_session(one)
    batch = opened(session, "t", "a", "b", finished=True)

    assert 1 == len(await one.log.write(batch, producer="p"))
    assert [] == await one.log.write(batch, producer="p")
    assert await one.log.landed(session, "t", 2, producer="p")
    assert not await one.log.landed(session, "t", 3, producer="p")

    assert [(1, "a"), (2, "b")] == await _messages(one, session, "t")


async def test_a_repeated_append_is_not_doubled(one: PostgresBackend) -> None:
    session = await open_session(one)
    await one.log.write(opened(session, "t"), producer="p")

    assert 1 == len(await one.log.write(appended(session, "t", 0, "a"), producer="p"))
    assert [] == await one.log.write(appended(session, "t", 0, "a"), producer="p")

    assert [(1, "a")] == await _messages(one, session, "t")


async def test_batches_that_open_the_same_requests_in_other_orders_do_not_deadlock(
    one: PostgresBackend, other: PostgresBackend, bystander: asyncpg.Connection
) -> None:
    """Both are held up by the middle one; were each in its own order, they would then wait for each other."""
    sessions = sorted([await open_session(one) for _ in range(3)])
    accepted: list[Accepted] = []

    async def write(backend: PostgresBackend, producer: str, order: list[str]) -> None:
        streams = [OpenedStream(session, f"of {producer}", ("1",), [], False) for session in order]
        accepted.extend(await backend.log.write(Batch(opened=streams), producer=producer))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            hold_up = bystander.transaction()
            await hold_up.start()
            await bystander.execute(_OPEN, sessions[1])
            tasks.start_soon(write, one, "p", sessions)
            tasks.start_soon(write, other, "q", sessions[::-1])
            await _until_waiting(bystander, 2)
            await hold_up.rollback()

    assert sessions == sorted(stream.session_id for stream in accepted)


async def test_answered_requests_of_a_batch_get_no_other_final(one: PostgresBackend) -> None:
    """A batch of 2025-03-26 whose producer died halfway: only the rest is owed a final."""
    session, producer = await open_session(one), await dying(one)
    first = OpenedStream(session, "t", ("1", '"1"', "2"), [NewEvent("a", answers="2")], False)
    await one.log.write(Batch(opened=[first]), producer=producer)

    assert [(session, "t", 1, ("1", '"1"'))] == await one.log.orphans(10)
    assert [(session, "t", 1, ("1", '"1"'))] == await one.log.unfinished(producer)


@pytest.mark.parametrize("text", ["nul \x00", "surrogate \ud800"])
async def test_text_that_postgres_cannot_hold_is_refused_with_its_class(one: PostgresBackend, text: str) -> None:
    """The journal splits the batch by this, so nothing of it may be applied, and the link must live on."""
    session = await open_session(one)

    with pytest.raises(StoreError) as caught:
        await one.log.write(opened(session, "t", "fine", text), producer="p")
    assert (caught.value.sqlstate or "").startswith("22")
    assert "fine" not in str(caught.value)

    assert await one.log.read(session, "t", 0, 10) is None
    assert 1 == len(await one.log.write(opened(session, "t", "fine"), producer="p"))


async def test_200_standalone_streams_take_appends_from_three_connections_at_once(database_url: str) -> None:
    """Each call in its own order of sessions. Without the ordered lock this deadlocked in one call of 30."""
    async with (
        running_backend(database_url) as one,
        running_backend(database_url) as two,
        running_backend(database_url) as three,
    ):
        sessions = [await open_session(one) for _ in range(200)]

        async def append(backend: PostgresBackend, name: str, order: list[str]) -> None:
            for n in range(10):
                await backend.log.append_standalone(
                    [(session, NewEvent(f"{name}{n}{half}")) for half in "ab" for session in order]
                )

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(append, one, "x", sessions)
                tasks.start_soon(append, two, "y", sessions[::-1])
                tasks.start_soon(append, three, "z", sessions[100:] + sessions[:100])

        for session in sessions:
            found = await _messages(one, session, "s")
            assert list(range(1, 61)) == [seq for seq, _ in found]
            for name in "xyz":
                mine = [message for _, message in found if message[0] == name]
                assert [f"{name}{n}{half}" for n in range(10) for half in "ab"] == mine
