"""A layer by itself: entered, left, entered again, and nothing leaked; on every kind of store alike. F23, F24."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest

from mcpsession import SessionLayer
from mcpsession.contracts import Backend
from mcpsession.errors import MCPSessionError
from tests.sessions.replicas import Place, get, until


def threads() -> set[str]:
    """The hearts that beat; a worker of the event loop's pool is nobody's."""
    return {thread.name for thread in threading.enumerate() if thread.name == "mcpsession-heartbeat"}


async def connections(place: Place) -> int:
    """How many there are to this test's database, without the one that asks."""
    [row] = await place.fetch(
        """
        SELECT count(*) AS others FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        """
    )
    return int(row["others"])


async def nothing_is_left(place: Place, tasks: set[asyncio.Task[Any]]) -> None:
    assert tasks == asyncio.all_tasks()
    assert set() == threads()
    if place.url is not None:

        async def no_connection_is_left() -> bool:
            return await connections(place) == 0

        # The server notices a closed socket a moment later.
        await until(no_connection_is_left)


async def test_f23_a_layer_entered_twice_nested_leaks_nothing(place: Place) -> None:
    tasks = asyncio.all_tasks()
    layer = place.replica()

    async with layer:
        await layer.sessions.create("session")
        before = len(asyncio.all_tasks())
        async with layer:
            assert await layer.sessions.get("session") is not None
            assert before == len(asyncio.all_tasks())
            assert 1 == len(threads())
        # Who leaves first does not stop it for the other.
        assert await layer.sessions.touch("session")
        assert "ok" == layer.health().status

    assert "stopped" == layer.health().status
    await nothing_is_left(place, tasks)


async def test_f23_a_layer_can_be_entered_again_and_finds_what_it_left(place: Place) -> None:
    tasks = asyncio.all_tasks()
    layer = place.replica()
    async with layer:
        await layer.sessions.create("session", state={"n": 1})
    for number in range(1, 4):
        async with layer:
            assert {"n": number} == await layer.sessions.state("session")
            await layer.sessions.merge_state("session", {"n": number + 1})

    await nothing_is_left(place, tasks)


async def test_f23_a_layer_that_was_used_by_many_at_once_leaks_nothing(place: Place) -> None:
    tasks = asyncio.all_tasks()
    layer = place.replica()

    async def use(number: int) -> None:
        async with layer:
            await layer.sessions.create(f"{number}")
            await layer.sessions.delete(f"{number}")

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(use, number)

    await nothing_is_left(place, tasks)


async def test_f23_a_layer_that_is_entered_while_it_is_being_left_is_a_new_replica(place: Place) -> None:
    tasks = asyncio.all_tasks()
    layer = place.replica()
    leaving = anyio.Event()

    async def leave() -> None:
        async with layer:
            leaving.set()

    async def enter() -> None:
        await leaving.wait()
        async with layer:
            await layer.sessions.create("session")
            # It is no death that anybody waits for, neither its own nor that of the one before.
            with anyio.fail_after(1):
                assert await layer.sessions.delete("session")
            assert "ok" == layer.health().status

    for _ in range(10):
        async with anyio.create_task_group() as group:
            group.start_soon(leave)
            group.start_soon(enter)

    await nothing_is_left(place, tasks)


async def test_f23_a_body_that_fails_leaks_nothing_and_is_heard(place: Place) -> None:
    tasks = asyncio.all_tasks()

    with pytest.raises(ValueError, match="in the body"):
        async with place.replica():
            raise ValueError("in the body")

    await nothing_is_left(place, tasks)


async def test_f23_a_layer_that_is_cancelled_leaks_nothing(place: Place) -> None:
    tasks = asyncio.all_tasks()
    entered = anyio.Event()

    async def stay() -> None:
        async with place.replica() as layer:
            await layer.sessions.create()
            entered.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(stay)
        await entered.wait()
        group.cancel_scope.cancel()

    await nothing_is_left(place, tasks)


async def test_f23_a_layer_that_was_left_is_not_used(postgres: Place) -> None:
    layer = postgres.replica()
    async with layer:
        await layer.sessions.create("session")

    with anyio.fail_after(10), pytest.raises(MCPSessionError):
        await layer.sessions.get("session")


def test_f24_both_kinds_of_store_are_backends(place: Place) -> None:
    """That they keep its promises alike is what all tests here and in tests/contract say: each runs once for each."""
    backend: Backend = place.backend()

    for part in (name for name, value in vars(Backend).items() if isinstance(value, property)):
        assert getattr(backend, part) is not None, part
    assert callable(backend.registry)
    assert callable(backend.running)


async def test_f24_a_layer_does_not_know_what_it_stands_on(here: SessionLayer, there: SessionLayer) -> None:
    """One round through the whole of it: create, fetch, change, list, delete, clean up."""
    await here.sessions.create("session", ttl=60.0)
    assert "session" == (await get(there)).id
    assert {"n": 1} == await there.sessions.merge_state("session", {"n": 1})
    assert ["session"] == [session.id for session in await here.sessions.list()]
    assert await there.sessions.delete("session")
    assert 0 == await here.sessions.cleanup_expired()
