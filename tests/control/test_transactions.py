"""How a control message gets its number in Postgres, whoever adds another at the same time or dies on the way. F81."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import asyncpg
import pytest

from mcpsession.errors import StoreUnavailableError
from mcpsession.postgres.control import APPEND, COUNT_ON
from tests.control.replicas import ControlPlace
from tests.sdk.gates import settle, until
from tests.sessions.replicas import all_at_once

WAITING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ~ 'control_heads'
"""
TERMINATE = f"SELECT pg_terminate_backend(pid) FROM ({WAITING}) AS waiting"
ROWS = (
    "SELECT version, params, expires_at = 'infinity' AS newest FROM mcpsession.control WHERE namespace = $1 ORDER BY 1"
)


@pytest.fixture
async def rival(postgres: ControlPlace) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Somebody else's connection to the same database."""
    assert postgres.url is not None
    connection = await asyncpg.connect(postgres.url)
    yield connection
    await connection.close()


async def rows(place: ControlPlace) -> list[tuple[int, str, bool]]:
    return [tuple(row) for row in await place.fetch(ROWS, place.settings["namespace"])]


async def waiting(place: ControlPlace, count: int) -> None:
    """Until so many transactions wait for their number."""
    with anyio.fail_after(5):
        while len(await place.fetch(WAITING)) < count:  # noqa: ASYNC110 (nothing announces a lock)
            await anyio.sleep(0.005)


async def test_f81_of_two_that_send_the_same_at_once_one_is_the_newest(
    postgres: ControlPlace, rival: asyncpg.Connection[Any]
) -> None:
    """Both wait for their number at the same moment."""
    namespace = postgres.settings["namespace"]
    async with postgres.new() as here, postgres.new() as there, postgres.new() as third:
        await here.send(0)
        async with anyio.create_task_group() as tasks:
            versions: list[Any] = []

            async def race() -> None:
                versions.extend(await all_at_once(lambda: here.send(1), lambda: there.send(2)))

            transaction = rival.transaction()
            await transaction.start()
            await rival.execute("SELECT FROM mcpsession.control_heads WHERE namespace = $1 FOR UPDATE", namespace)
            tasks.start_soon(race)
            await waiting(postgres, 2)
            await transaction.rollback()

        assert [2, 3] == sorted(versions)
        assert [False, False, True] == [newest for _, _, newest in await rows(postgres)]
        for replica in (here, there, third):
            await replica.reach(3)
        assert ([2], [0, 1], 3) == (here.numbers, there.numbers, len(third.numbers))


async def test_f81_the_first_two_of_a_namespace_may_come_at_once(postgres: ControlPlace) -> None:
    async with postgres.new() as here, postgres.new() as there:
        assert {1, 2} == set(await all_at_once(lambda: here.send(1), lambda: there.send(2)))
        for replica in (here, there):
            await replica.reach(2)
        assert ([2], [1]) == (here.numbers, there.numbers)


@pytest.mark.parametrize("committed", [True, False])
async def test_f81_a_version_is_seen_only_after_those_before_it(
    postgres: ControlPlace, rival: asyncpg.Connection[Any], committed: bool
) -> None:
    """However long another transaction stays open; what was rolled back leaves no gap."""
    namespace = postgres.settings["namespace"]
    async with postgres.new() as here, postgres.new() as there:
        transaction = rival.transaction()
        await transaction.start()
        assert 1 == await rival.fetchval(COUNT_ON, namespace)
        await rival.execute(APPEND, namespace, 1, "reload", "", '{"n": 1}', "rival", 60.0, 60.0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.send, 2)
            await waiting(postgres, 1)
            there.control.wake()
            await settle()
            assert ([], 0) == (there.numbers, there.control.applied)
            await (transaction.commit if committed else transaction.rollback)()

        await there.reach(2 if committed else 1)
        assert ([1, 2] if committed else [2]) == there.numbers


async def test_f81_forgetting_waits_for_a_message_that_is_on_its_way_and_forgets_it(
    postgres: ControlPlace, rival: asyncpg.Connection[Any]
) -> None:
    namespace = postgres.settings["namespace"]
    async with postgres.new() as here:
        await here.send(1)
        transaction = rival.transaction()
        await transaction.start()
        await rival.execute(COUNT_ON, namespace)
        await rival.execute(APPEND, namespace, 2, "reload", "", '{"n": 2}', "rival", 60.0, 60.0)

        async with anyio.create_task_group() as tasks:
            forgotten: list[bool] = []

            async def forget() -> None:
                forgotten.append(await here.control.forget("reload"))

            tasks.start_soon(forget)
            await waiting(postgres, 1)
            await transaction.commit()

        assert [True] == forgotten
        assert [False, False] == [newest for _, _, newest in await rows(postgres)]


async def test_f81_a_sender_whose_connection_is_ended_in_its_transaction_is_told_and_nothing_is_left_of_it(
    postgres: ControlPlace, rival: asyncpg.Connection[Any]
) -> None:
    namespace = postgres.settings["namespace"]
    async with postgres.new() as here, postgres.new() as there:
        await here.send(1)
        outcomes: list[Any] = []

        async def try_to_send() -> None:
            outcomes.extend(await all_at_once(lambda: here.send("lost")))

        async with anyio.create_task_group() as tasks, rival.transaction():
            await rival.execute("SELECT FROM mcpsession.control_heads WHERE namespace = $1 FOR UPDATE", namespace)
            tasks.start_soon(try_to_send)
            await waiting(postgres, 1)
            assert [(True,)] == [tuple(row) for row in await postgres.fetch(TERMINATE)]
            await until(lambda: outcomes)
        assert [StoreUnavailableError] == [type(outcome) for outcome in outcomes]

        assert 2 == await here.send(2)
        await there.reach(2)
        assert [1, 2] == there.numbers


async def test_f81_a_sender_that_is_cancelled_leaves_no_lock_behind(
    postgres: ControlPlace, rival: asyncpg.Connection[Any]
) -> None:
    namespace = postgres.settings["namespace"]
    async with postgres.new() as here, postgres.new() as there:
        await here.send(1)
        async with rival.transaction():
            await rival.execute("SELECT FROM mcpsession.control_heads WHERE namespace = $1 FOR UPDATE", namespace)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(here.send, "given up")
                await waiting(postgres, 1)
                tasks.cancel_scope.cancel()
        with anyio.fail_after(5):
            assert 2 == await there.send(2)
        assert [1, 2] == [version for version, _, _ in await rows(postgres)]


async def test_f81_a_message_whose_commit_nobody_confirmed_is_applied_by_the_others(
    postgres: ControlPlace,
) -> None:
    """The sender hears that the store was away, and has rung nobody."""
    async with postgres.new() as here, postgres.new(beat=0.1, dead_after=2.0) as there:
        here.rows.failing_after["append"] = lambda *_: StoreUnavailableError("a test says so")
        with pytest.raises(StoreUnavailableError):
            await here.send(1)
        await there.reach(1)
        assert [1] == there.numbers


async def test_f81_messages_and_sessions_of_one_replica_do_not_wait_for_each_other(
    postgres: ControlPlace, rival: asyncpg.Connection[Any]
) -> None:
    namespace = postgres.settings["namespace"]
    async with postgres.new() as here, postgres.new() as there:
        await here.send(1)
        async with anyio.create_task_group() as tasks, rival.transaction():
            await rival.execute("SELECT FROM mcpsession.control_heads WHERE namespace = $1 FOR UPDATE", namespace)
            tasks.start_soon(here.send, 2)
            await waiting(postgres, 1)
            with anyio.fail_after(5):
                await here.layer.sessions.create()
                await there.reach(1)
        await there.reach(2)
