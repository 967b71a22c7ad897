"""What appends to an application's streams, and ends of their sessions, cannot do to each other in Postgres."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

import anyio
import anyio.lowlevel
import asyncpg
import pytest

from mcpsession.errors import DuplicateRequestError, SessionExistsError
from mcpsession.event_records import Entry, EventStats
from mcpsession.model import STANDALONE, NewEvent
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.records import Admission, Session
from tests.postgres.stores import living, open_session, running_backend

_HOLD_STREAM = "SELECT 1 FROM mcpsession.streams WHERE session_id = $1 AND id = $2 FOR UPDATE"
_HOLD_SESSION = "SELECT 1 FROM mcpsession.sessions WHERE id = $1 FOR UPDATE"
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
# What no session owns, of streams and events: nothing would ever remove it.
_LEFT_OVER = """
SELECT (SELECT count(*) FROM mcpsession.streams t WHERE NOT EXISTS (
        SELECT FROM mcpsession.sessions s WHERE s.namespace = t.namespace AND s.id = t.session_id))
    + (SELECT count(*) FROM mcpsession.events e WHERE NOT EXISTS (
        SELECT FROM mcpsession.streams t
        WHERE t.namespace = e.namespace AND t.session_id = e.session_id AND t.id = e.stream_id))
"""
# Of each of the application's streams: whether it has just the numbers that it should have.
_WHOLE = """
SELECT t.session_id, t.id, t.last_seq - t.trimmed_seq = count(e.seq)
        AND t.last_seq = coalesce(max(e.seq), 0) AND t.trimmed_seq + 1 = coalesce(min(e.seq), 1)
        AND t.bytes = coalesce(sum(octet_length(e.message)), 0) AS whole
FROM mcpsession.streams t
LEFT JOIN mcpsession.events e ON e.namespace = t.namespace AND e.session_id = t.session_id AND e.stream_id = t.id
WHERE t.kind = 'application'
GROUP BY t.namespace, t.session_id, t.id
"""


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[PostgresBackend]:
    async with running_backend(database_url, pool_size=10) as backend:
        yield backend


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[PostgresBackend]:
    async with running_backend(database_url, pool_size=10) as backend:
        yield backend


@pytest.fixture
async def bystander(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def until_waiting(connection: asyncpg.Connection, count: int, done: Sequence[object] = ()) -> None:
    """Until so many wait for a lock, or are done."""
    while await connection.fetchval(_WAITING) + len(done) < count:
        # Inside a transaction the first look would be repeated for ever.
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        await anyio.sleep(0.01)


async def in_line(
    bystander: asyncpg.Connection, hold: str, held: tuple[str, ...], *work: Callable[[], Awaitable[object]]
) -> None:
    """Have these wait, in this order, for a row that the bystander holds, as far as they need it; then let go."""
    done: list[object] = []

    async def do(part: Callable[[], Awaitable[object]]) -> None:
        done.append(await part())

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks, bystander.transaction():
            await bystander.execute(hold, *held)
            for place, part in enumerate(work, 1):
                tasks.start_soon(do, part)
                await until_waiting(bystander, place, done)


async def append(backend: PostgresBackend, session: str, stream: str = "log", *, data: str = "1") -> list[int] | None:
    appended = await backend.events.append(session, stream, [Entry(data)])
    return None if appended is None else list(appended.numbers)


async def numbers(backend: PostgresBackend, session: str, stream: str = "log") -> list[int] | None:
    page = await backend.events.read(session, stream, 0, 10_000)
    return None if page is None else [entry.seq for entry in page.entries]


@pytest.mark.parametrize("appends_first", [True, False])
async def test_an_append_that_meets_a_rotation_lands_under_the_new_id_or_nowhere(
    one: PostgresBackend, other: PostgresBackend, bystander: asyncpg.Connection, appends_first: bool
) -> None:
    session = await open_session(one)
    await append(one, session)
    results: list[list[int] | None] = []

    async def add() -> None:
        results.append(await append(one, session))

    async def rotate() -> None:
        await other.sessions.rotate(session, "new", owner=None, new_owner=None, sender="r")

    await in_line(bystander, _HOLD_STREAM, (session, "a:log"), *((add, rotate) if appends_first else (rotate, add)))

    expected = ([[2]], [1, 2]) if appends_first else ([None], [1])
    assert expected == (results, await numbers(one, "new"))
    assert None is await numbers(one, session)


@pytest.mark.parametrize("appends_first", [True, False])
@pytest.mark.parametrize("stream", ["log", "that begins"])
async def test_an_append_that_meets_its_sessions_removal_leaves_nothing_behind(
    one: PostgresBackend, other: PostgresBackend, bystander: asyncpg.Connection, appends_first: bool, stream: str
) -> None:
    """The session has ended while the append waited; its row is removed right after."""
    session = await open_session(one)
    await append(one, session)
    results: list[list[int] | None] = []

    async def add() -> None:
        results.append(await append(one, session, stream))

    async def remove() -> None:
        ended = await other.sessions.end([session], "deleted", sender="r", claim=False)
        await other.reaping.remove([(gone.id, gone.incarnation) for gone in ended.sessions], by="r")

    # Only a stream that begins needs the session's row.
    hold = (_HOLD_STREAM, (session, "a:log")) if stream == "log" else (_HOLD_SESSION, (session,))
    await in_line(bystander, *hold, *((add, remove) if appends_first else (remove, add)))

    assert ([None] if not appends_first else [[2]] if stream == "log" else [[1]]) == results
    assert None is await numbers(one, session)
    assert 0 == await bystander.fetchval(_LEFT_OVER)


async def test_whoever_begins_one_stream_at_once_begins_it_once(
    one: PostgresBackend, other: PostgresBackend, bystander: asyncpg.Connection
) -> None:
    session = await open_session(one)
    results: list[list[int] | None] = []

    async def add(backend: PostgresBackend) -> None:
        results.append(await append(backend, session))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks, bystander.transaction():
            await bystander.execute(_HOLD_SESSION, session)
            for backend in (one, other) * 4:
                tasks.start_soon(add, backend)
            await until_waiting(bystander, 8)

    assert [[number] for number in range(1, 9)] == sorted(result for result in results if result)
    assert list(range(1, 9)) == await numbers(one, session)


@pytest.mark.parametrize("limit", [{"max_events": 1}, {"max_replay_bytes": 1}])
async def test_f45_standalone_appends_that_waited_for_each_other_leave_exactly_what_is_kept(
    database_url: str, bystander: asyncpg.Connection, limit: dict[str, int]
) -> None:
    """Each has a snapshot older than what the others add, and none may leave a row behind its mark."""
    async with (
        running_backend(database_url, **limit) as one,
        running_backend(database_url, **limit) as two,
        running_backend(database_url, **limit) as three,
    ):
        session = await open_session(one)

        def adding(backend: PostgresBackend) -> Callable[[], Awaitable[object]]:
            return lambda: backend.log.append_standalone([(session, NewEvent("1"))] * 3)

        await in_line(bystander, _HOLD_STREAM, (session, STANDALONE), *map(adding, (one, two, three)))

        state = await one.log.read(session, STANDALONE, 0, 100)
        assert state is not None
        assert ([9], 8) == ([event.seq for event in state.events], state.trimmed_seq)
        rows = "SELECT array_agg(seq) FROM mcpsession.events WHERE session_id = $1"
        assert [9] == await bystander.fetchval(rows, session)
        assert 1 == await bystander.fetchval("SELECT bytes FROM mcpsession.streams WHERE session_id = $1", session)


async def test_appends_of_many_to_many_streams_in_any_order_never_deadlock(
    database_url: str, bystander: asyncpg.Connection
) -> None:
    limits = {"max_events": 20, "pool_size": 8}
    async with (
        running_backend(database_url, **limits) as one,
        running_backend(database_url, **limits) as other,
        living(one) as me,
    ):
        sessions = [await open_session(one) for _ in range(3)]
        places = [(session, f"log {number}") for session in sessions for number in range(4)]

        async def work(backend: PostgresBackend, seed: int) -> None:
            dice = random.Random(seed)
            for round_ in range(4):
                for session, stream in dice.sample(places, len(places)):
                    await backend.events.append(session, stream, [Entry("1", id=f"{dice.random()}"), Entry("2")])
                    if dice.random() < 0.2:
                        await backend.events.follow(session, stream, f"replica-{seed}")
                with suppress(DuplicateRequestError):
                    await backend.requests.track(sessions[round_ % 3], f"{round_}", "work", 0.001, by=me)
                await backend.requests.sweep(10)
                standalone = [(session, NewEvent("{}")) for session in dice.sample(sessions, 3)]
                await backend.log.append_standalone(standalone * 8)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for seed in range(6):
                    tasks.start_soon(work, (one, other)[seed % 2], seed)

        for session, stream in places:
            assert list(range(29, 49)) == await numbers(one, session, stream)
        assert [] == [row["id"] for row in await bystander.fetch(_WHOLE) if not row["whole"]]
        # As far as they are counted yet; a deadlock would have failed a writer besides.
        assert 0 == await bystander.fetchval(_DEADLOCKS)


async def test_appends_that_race_every_kind_of_end_leave_nothing_behind(
    database_url: str, bystander: asyncpg.Connection
) -> None:
    limits = {"max_events": 5, "pool_size": 8, "tombstone_ttl": 0.001}
    async with running_backend(database_url, **limits) as one, running_backend(database_url, **limits) as other:
        ids = [f"session-{number}" for number in range(4)]
        over = anyio.Event()

        async def keep_adding(backend: PostgresBackend, seed: int) -> None:
            dice = random.Random(seed)
            while not over.is_set():
                await backend.events.append(dice.choice(ids), dice.choice("ab"), [Entry("1")] * dice.randint(1, 7))

        async def keep_ending(backend: PostgresBackend, seed: int) -> None:
            dice = random.Random(seed)
            for _ in range(40):
                session_id = dice.choice(ids)
                ttl = dice.choice([0.01, 3600.0])
                with suppress(SessionExistsError):
                    await backend.sessions.create([Session(session_id, ttl=ttl)], admission=Admission())
                await anyio.lowlevel.checkpoint()
                way = dice.randrange(3)
                if way == 0:
                    await backend.sessions.end([session_id], "deleted", sender="r", claim=False)
                elif way == 1:
                    target = dice.choice(ids)
                    with suppress(SessionExistsError):
                        await backend.sessions.rotate(session_id, target, owner=None, new_owner=None, sender="r")
                await backend.reaping.reap(10)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for seed in range(4):
                    tasks.start_soon(keep_adding, (one, other)[seed % 2], seed)
                async with anyio.create_task_group() as ending:
                    for seed in range(4, 6):
                        ending.start_soon(keep_ending, (one, other)[seed % 2], seed)
                over.set()

        assert [] == [row["id"] for row in await bystander.fetch(_WHOLE) if not row["whole"]]
        for session_id in ids:
            await one.sessions.end([session_id], "deleted", sender="r", claim=False)

        async def nothing_is_left() -> bool:
            await one.reaping.reap(100)
            return await bystander.fetchval("SELECT count(*) FROM mcpsession.sessions") == 0

        with anyio.fail_after(10):
            # Tombstones have a moment to live, and nothing rings when it is over.
            while not await nothing_is_left():  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert 0 == await bystander.fetchval("SELECT count(*) FROM mcpsession.streams")
        assert 0 == await bystander.fetchval("SELECT count(*) FROM mcpsession.events")


async def test_f53_stats_are_what_sql_counts(one: PostgresBackend, bystander: asyncpg.Connection) -> None:
    sessions = [await open_session(one) for _ in range(3)]
    for place, session in enumerate(sessions):
        for stream in ("a", "b"):
            await one.events.append(session, stream, [Entry('"é"' * (place + 1))] * (place + 2))
        await one.log.append_standalone([(session, NewEvent("{}"))])

    row = await bystander.fetchrow(
        "SELECT count(*) AS events, sum(octet_length(message)) AS bytes, "
        "(SELECT count(*) FROM mcpsession.streams) AS streams FROM mcpsession.events"
    )
    assert EventStats(row["streams"], row["events"], row["bytes"]) == await one.events.stats()
    assert 9 == row["streams"]
