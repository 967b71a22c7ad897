"""Many who follow: each gets all of its own stream, one reads for all, and the store knows in which replicas."""

from __future__ import annotations

import anyio
import pytest

from tests.events.replicas import EventsPlace, Reader, reading
from tests.events.test_replaying import fill
from tests.sdk.gates import settle, until


async def test_each_follower_has_its_own_data(here, session):
    async with here.events.follow(session) as first, here.events.follow(session) as second:
        await here.events.append(session, {"list": [1]})
        one = await anext(first)
        one.data["list"].append(2)
        assert {"list": [1]} == (await anext(second)).data


async def test_streams_and_sessions_are_apart(here, there, session):
    other = (await here.sessions.create()).id
    async with reading(there, session) as a, reading(there, session, stream="b") as b, reading(there, other) as c:
        for n in range(3):
            await here.events.append(session, f"a{n}")
            await here.events.append(session, f"b{n}", stream="b")
            await here.events.append(other, f"c{n}")
        for reader in (a, b, c):
            await reader.reach(3)
    assert [["a0", "a1", "a2"], ["b0", "b1", "b2"], ["c0", "c1", "c2"]] == [a.data, b.data, c.data]


async def test_hundreds_follow_one_stream_and_one_reads_for_all(place: EventsPlace):
    """A burst of thirty appends costs some reads, not some for each who follows."""
    async with place.new() as here, place.new(poll=60.0) as there:
        session = (await here.sessions.create()).id
        await fill(here, session, 10)
        readers: list[Reader] = []
        left = anyio.Event()

        async def follow() -> None:
            async with reading(there, session, 5) as reader:
                readers.append(reader)
                await left.wait()

        async with anyio.create_task_group() as tasks:
            for _ in range(300):
                tasks.start_soon(follow)
            with anyio.fail_after(60):
                await until(lambda: len(readers) == 300)
            assert (300, [there.id]) == (there.following, await place.followers(session))
            there.store.calls.clear()
            for n in range(30):
                await here.events.append(session, n)
            for reader in readers:
                await reader.reach(40)
            # One for each bell, and one more for whoever was rung while it was read.
            assert there.store.calls["read"] <= 60
            left.set()
        assert [[*range(6, 41)]] * 300 == [reader.numbers for reader in readers]
        assert (0, 1) == (there.following, there.store.calls["unfollow"])
        assert [] == await place.followers(session)


async def test_the_store_is_told_when_the_last_one_leaves(pair, here, there, session):
    async with here.events.follow(session), there.events.follow(session):
        async with there.events.follow(session):
            assert {here.id, there.id} == set(await pair.place.followers(session))
        assert {here.id, there.id} == set(await pair.place.followers(session))
    assert [] == await pair.place.followers(session)
    assert (1, 1) == (there.store.calls["follow"], there.store.calls["unfollow"])


@pytest.mark.parametrize("side", ["before", "after"])
async def test_whoever_comes_while_the_last_one_leaves_is_rung(place: EventsPlace, side: str):
    async with place.new(poll=60.0) as here, place.new(poll=60.0) as there:
        session = (await here.sessions.create()).id
        gate = getattr(there.store, side)["unfollow"]
        gate.close()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                async with anyio.create_task_group() as leaving:
                    first = there.events.follow(session)
                    await first.__aenter__()
                    leaving.start_soon(first.__aexit__, None, None, None)
                    await gate.reached.wait()

                    async def follow() -> None:
                        async with reading(there, session) as reader:
                            await reader.reach(1)

                    tasks.start_soon(follow)
                    await until(lambda: there.following == 1)
                    gate.open()
                await until(lambda: there.store.calls["follow"] == 2)
                while not await place.followers(session):
                    await settle()
                await here.events.append(session, 1)
        assert [] == await place.followers(session)
