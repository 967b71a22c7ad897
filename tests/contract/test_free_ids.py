"""SessionStore.create: which ids are free, and that nothing of an earlier session comes back under its id."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.errors import SessionExistsError
from mcpsession.model import NewEvent
from mcpsession.records import Session
from tests.contract.conftest import Join
from tests.contract.given import (
    a_session,
    end,
    enter,
    expire,
    expired,
    given,
    keys,
    living,
    messages,
    opened,
    record,
    terminate,
    until,
    write,
)


async def test_the_id_of_a_terminated_session_stays_dead(backend: Backend) -> None:
    await a_session(backend)
    await terminate(backend)

    with pytest.raises(SessionExistsError):
        await a_session(backend)
    await backend.reaping.reap(10)
    with pytest.raises(SessionExistsError):
        await a_session(backend)
    assert await backend.sessions.get("session") is None


@given(tombstone_ttl=0.1)
async def test_a_tombstone_that_is_past_its_ttl_frees_the_id(backend: Backend) -> None:
    """Also before it is reaped."""
    await a_session(backend)
    await write(backend, opened("old"))
    await terminate(backend)

    async def is_free() -> bool:
        try:
            await a_session(backend)
        except SessionExistsError:
            return False
        return True

    await until(is_free)
    assert await backend.log.read("session", "stream", 0, 10) is None


async def let_it_expire(backend: Backend) -> None:
    await expired(backend)


async def delete_it(backend: Backend) -> None:
    await end(backend)


async def delete_and_remove_it(backend: Backend) -> None:
    await backend.reaping.remove(keys(*(await end(backend)).sessions), by="a")


async def claim_it(backend: Backend) -> None:
    await expired(backend)
    [_] = await backend.reaping.claim(10, by="a")


@pytest.mark.parametrize("finish", [let_it_expire, delete_it, delete_and_remove_it, claim_it])
async def test_the_id_of_a_session_that_expired_or_was_deleted_is_free_and_nothing_of_it_comes_back(
    backend: Backend, join: Join, finish: Callable[[Backend], Awaitable[None]]
) -> None:
    await join("a")
    opening = opened("result", stream_id="opening", request_ids=("0",), finished=True)
    old = await enter(backend, Session("session", ttl=0.5, owner="old", state={"of": "old"}), opening)
    await backend.log.append_standalone([("session", NewEvent("old"))])
    await write(backend, opened("old", finished=True), opened("old", stream_id="open", request_ids=("2",)))
    await backend.subscriptions.subscribe("session", "file:///old", None, sender="a")
    await finish(backend)

    new = await a_session(backend, owner="new")

    assert old.incarnation != new.incarnation
    assert ("new", {}, 0) == ((got := await record(backend)).owner, got.state, got.event_count)
    assert [] == await messages(backend, stream_id="s")
    for stream in ("opening", "stream", "open"):
        assert await backend.log.read("session", stream, 0, 10) is None
    assert [] == list(await backend.log.orphans(10))
    assert [] == list(await backend.subscriptions.uris("session"))
    # Whoever still held the old one cannot take the new one for it.
    assert 0 == await backend.reaping.remove(keys(old), by="a")
    assert 0 == (await backend.reaping.reap(10)).sessions
    assert ["session"] == await living(backend)


async def test_of_many_who_want_a_free_id_at_once_one_gets_it(backend: Backend) -> None:
    await expire(backend)
    got: list[str] = []

    async def try_to_create(owner: str) -> None:
        try:
            await a_session(backend, owner=owner)
        except SessionExistsError:
            return
        got.append(owner)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(try_to_create, f"{number}")

    [winner] = got
    assert winner == (await record(backend)).owner


async def test_what_a_late_journal_left_is_not_the_next_sessions(backend: Backend) -> None:
    """It may write when the session is gone already: nobody waits for it."""
    await write(backend, opened("of the old one"), producer="a")

    await a_session(backend)

    assert 0 == (await record(backend)).event_count
    assert await backend.log.read("session", "stream", 0, 10) is None
    assert ["stream"] == await write(backend, opened("of the new one"), producer="b")


async def test_of_many_who_want_an_id_with_a_past_at_once_one_gets_it(backend: Backend) -> None:
    for number in range(5):
        name = f"session {number}"
        await write(backend, opened("of the old one", session_id=name), producer="a")
        got: list[str] = []

        async def try_to_create(owner: str, name: str = name, got: list[str] = got) -> None:
            try:
                await a_session(backend, name, owner=owner)
            except SessionExistsError:
                return
            got.append(owner)

        async with anyio.create_task_group() as tasks:
            for owner in ("a", "b", "c", "d"):
                tasks.start_soon(try_to_create, owner)

        [winner] = got
        assert winner == (await record(backend, name)).owner
