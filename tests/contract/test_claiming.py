"""Reaping, for the handlers: what died is claimed by one, whole, and removed by that one, and by no mistake."""

from __future__ import annotations

import anyio

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.model import NewEvent, Reaped
from mcpsession.records import Session
from tests.contract.conftest import Join
from tests.contract.given import (
    a_session,
    dead_record,
    end,
    enter,
    expire,
    expired,
    keys,
    living,
    opened,
    terminate,
    write,
)


async def claim(backend: Backend, by: str, limit: int = 10, **options: list[str]) -> list[str]:
    return sorted(session.id for session in await backend.reaping.claim(limit, by=by, **options))


# claim


async def test_a_claimed_session_is_dead_for_everyone_and_whole_for_the_claimant(backend: Backend, join: Join) -> None:
    await join("a", "b")
    created = await enter(
        backend, Session("session", owner="me", metadata={"k": [1]}, state={"n": 1}, client_params="{}", ttl=0.5)
    )
    await expired(backend)

    [claimed] = await backend.reaping.claim(10, by="a")

    assert (created.id, created.incarnation, "me", {"k": [1]}, {"n": 1}, "{}", "expired", "expired") == (
        claimed.id,
        claimed.incarnation,
        claimed.owner,
        claimed.metadata,
        claimed.state,
        claimed.client_params,
        claimed.status,
        claimed.end_reason,
    )
    assert [] == await claim(backend, "b")
    assert await backend.sessions.get("session") is None
    assert Reaped() == await backend.reaping.reap(10)
    assert 0 == await backend.reaping.remove(keys(claimed), by="b")
    assert 1 == await backend.reaping.remove(keys(claimed), by="a")
    assert 0 == await backend.reaping.remove(keys(claimed), by="a")


async def test_what_lives_is_not_claimed(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend, "mortal", ttl=60.0)
    await a_session(backend, "eternal", ttl=None)

    assert [] == await claim(backend, "a", only=["mortal", "eternal"])
    assert ["eternal", "mortal"] == await living(backend)


async def test_a_session_that_was_touched_in_time_is_not_claimed(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend, ttl=1.0)
    await a_session(backend, "witness", ttl=1.3)
    with anyio.fail_after(5):
        while await backend.sessions.get("witness"):
            assert "session" in await backend.sessions.touch(["session"])
            assert "session" not in await claim(backend, "a")
            await anyio.sleep(0.02)


async def test_a_dead_replicas_claim_can_be_claimed_again(
    backend: Backend, join: Join, registry: ReplicaRegistry
) -> None:
    await join("a", "b")
    await expire(backend)
    assert ["session"] == await claim(backend, "a")
    await registry.leave("a")

    assert ["session"] == await claim(backend, "b")


async def test_a_claim_of_ones_own_that_nobody_works_on_can_be_claimed_again(backend: Backend, join: Join) -> None:
    """Something failed between the claim and the handlers."""
    await join("a")
    await expire(backend, "left")
    await expire(backend, "worked on")
    assert ["left", "worked on"] == await claim(backend, "a")

    assert ["left"] == await claim(backend, "a", busy=["worked on"])
    assert [] == await claim(backend, "a", busy=["worked on", "left"])
    assert ["left", "worked on"] == await claim(backend, "a")


async def test_a_busy_one_is_only_ones_own(backend: Backend, join: Join, registry: ReplicaRegistry) -> None:
    """Ids are busy, not sessions of others: what a dead one left, or nobody has, may be claimed all the same."""
    await join("a", "b")
    await a_session(backend, "ended")
    await end(backend, "ended", sender="a", claim=True)

    assert [] == await claim(backend, "a", busy=["ended"])
    assert [] == await claim(backend, "b")
    assert ["ended"] == await claim(backend, "a")


async def test_only_those_that_were_named_are_claimed(backend: Backend, join: Join) -> None:
    await join("a")
    for name in ("one", "two", "three"):
        await expire(backend, name)
    await a_session(backend, "living")

    assert ["two"] == await claim(backend, "a", only=["two", "living", "unknown"])
    assert [] == await claim(backend, "b", only=["two"])
    assert [] == await claim(backend, "a", only=[])
    assert ["one", "three"] == await claim(backend, "a", busy=["two"])


async def test_no_more_are_claimed_than_asked_for(backend: Backend, join: Join) -> None:
    await join("a", "b")
    for number in range(5):
        await expire(backend, f"{number}")

    first = await claim(backend, "a", 2)
    second = await claim(backend, "b", 2)
    third = await claim(backend, "a", 2, busy=first)

    assert [2, 2, 1] == [len(first), len(second), len(third)]
    assert [f"{number}" for number in range(5)] == sorted([*first, *second, *third])


async def test_those_who_claim_at_once_get_each_session_once(backend: Backend, join: Join) -> None:
    replicas = [f"replica {number}" for number in range(4)]
    await join(*replicas)
    ids = [f"{number:02}" for number in range(30)]
    for session_id in ids:
        await a_session(backend, session_id, ttl=0.01)
    for session_id in ids:
        await expired(backend, session_id)
    claimed: list[str] = []

    async def claim_all(by: str) -> None:
        mine: list[str] = []
        while got := await claim(backend, by, 4, busy=mine):
            mine.extend(got)
        claimed.extend(mine)

    async with anyio.create_task_group() as tasks:
        for replica in replicas:
            tasks.start_soon(claim_all, replica)
    claimed.extend(await claim(backend, replicas[0], 100, busy=claimed))

    assert ids == sorted(claimed)


async def test_tombstones_and_what_was_ended_without_a_claim_are_not_claimed(backend: Backend, join: Join) -> None:
    await join("a")
    for name in ("terminated", "deleted", "removed"):
        await a_session(backend, name)
    await terminate(backend, "terminated")
    await end(backend, "deleted")
    removed = await terminate(backend, "removed", sender="a", claim=True)
    await backend.reaping.remove(keys(*removed.sessions), by="a")

    assert [] == await claim(backend, "a")


async def test_namespaces_claim_apart(backend: Backend, neighbour: Backend, join: Join) -> None:
    await join("a")
    await expire(backend)

    assert [] == await claim(neighbour, "a")
    assert [] == await claim(neighbour, "a", only=["session"])
    assert ["session"] == await claim(backend, "a")


# remove


async def test_removing_takes_all_that_belonged_to_a_session(backend: Backend) -> None:
    await enter(backend, Session("session"), opened("result", request_ids=("0",), finished=True))
    await backend.log.append_standalone([("session", NewEvent("said"))])
    await write(backend, opened("one", stream_id="open"))
    await backend.subscriptions.subscribe("session", "file:///a", None, sender="a")
    ended = await end(backend)

    assert 1 == await backend.reaping.remove(keys(*ended.sessions), by="a")

    for stream in ("s", "stream", "open"):
        assert await backend.log.read("session", stream, 0, 10) is None
    assert [] == list(await backend.log.orphans(10))
    assert not await backend.subscriptions.unsubscribe("session", "file:///a", sender="a")
    assert Reaped() == await backend.reaping.reap(10)


async def test_of_a_terminated_session_a_tombstone_stays_and_nothing_more(backend: Backend) -> None:
    await enter(
        backend, Session("session", metadata={"k": 1}, state={"n": 1}, client_params='{"clientInfo":{"name":"c"}}')
    )
    await write(backend, opened("one", finished=True))
    ended = await terminate(backend)

    await backend.reaping.remove(keys(*ended.sessions), by="a")

    tombstone = await dead_record(backend)
    assert tombstone is not None
    assert ("terminated", {}, {}, {}, 0) == (
        tombstone.status,
        tombstone.metadata,
        tombstone.state,
        tombstone.client_info,
        tombstone.event_count,
    )
    assert await backend.log.read("session", "stream", 0, 10) is None
    assert Reaped() == await backend.reaping.reap(10)


async def test_what_lives_or_was_replaced_is_passed_over(backend: Backend, join: Join) -> None:
    await join("a")
    alive = await a_session(backend, "alive", ttl=60.0)
    old = await expire(backend, "replaced")
    new = await a_session(backend, "replaced")
    dead = await expire(backend, "dead")

    assert 1 == await backend.reaping.remove([*keys(alive, old, dead), ("unknown", 1)], by="a")

    assert ["alive", "replaced"] == await living(backend)
    # Not even when the new one has died, too.
    await end(backend, "replaced", sender="a", claim=True)
    assert 0 == await backend.reaping.remove(keys(old), by="a")
    assert 1 == await backend.reaping.remove(keys(new), by="a")


async def test_removing_nothing_is_free(backend: Backend) -> None:
    assert 0 == await backend.reaping.remove([], by="a")


async def test_the_claimant_of_the_dead_may_be_passed_over_but_not_that_of_the_living(
    backend: Backend, join: Join, registry: ReplicaRegistry
) -> None:
    await join("a", "b")
    session = await expire(backend)
    await claim(backend, "a")
    assert 0 == await backend.reaping.remove(keys(session), by="b")

    await registry.leave("a")

    assert 1 == await backend.reaping.remove(keys(session), by="b")


async def test_who_removes_the_same_at_once_takes_each_once(backend: Backend) -> None:
    sessions = [await expire(backend, f"{number}") for number in range(10)]
    removed: list[int] = []

    async def remove(ordered: list[Session]) -> None:
        removed.append(await backend.reaping.remove(keys(*ordered), by="a"))

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(remove, sessions if number % 2 else sessions[::-1])

    assert 10 == sum(removed)
