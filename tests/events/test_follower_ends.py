"""A follower ends with its session and with its layer, and has nothing to do with a later session of the same id."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.errors import LayerClosedError, SessionNotFoundError
from tests.events.replicas import EventsPlace, reading
from tests.events.test_replaying import fill
from tests.sessions.replicas import given


@pytest.mark.parametrize("end", ["delete", "terminate", "rotate", "clear_all"])
async def test_it_ends_with_its_session_at_once(place: EventsPlace, end: str):
    async with place.new(poll=60.0) as here, place.new(poll=60.0) as there:
        session = (await here.sessions.create()).id
        await fill(here, session, 2)
        async with reading(here, session) as near, reading(there, session) as far:
            await near.reach(2)
            await far.reach(2)
            await (
                here.sessions.clear_all(confirm=True) if end == "clear_all" else getattr(here.sessions, end)(session)
            )
            await near.end()
            await far.end()
        for reader in (near, far):
            assert ([1, 2], "session") == (reader.numbers, reader.events.ended)
        assert 0 == here.following == there.following


async def test_it_ends_when_its_session_has_expired(pair, here, there, session):
    await fill(here, session, 2)
    async with reading(there, session) as reader:
        await reader.reach(2)
        await pair.place.expire(session)
        await reader.end()
    assert ([1, 2], "session") == (reader.numbers, reader.events.ended)


async def test_what_is_at_hand_when_the_session_ends_is_given_first(here, there, session):
    await fill(here, session, 3)
    async with there.events.follow(session) as events:
        await here.sessions.delete(session)
        assert [1, 2, 3] == [event.seq async for event in events]
        assert "session" == events.ended
        assert None is await anext(events, None)


@pytest.mark.usefixtures("small_pages")
@given(poll=60.0)
async def test_a_new_session_with_the_id_is_none_of_its_business(place: EventsPlace):
    """Also where nobody has told this replica that the old one has ended. Who follows the new one gets that alone."""
    async with place.new() as here, place.new() as there:
        await here.sessions.create("job-1")
        await fill(here, "job-1", 5)
        async with reading(there, "job-1") as old:
            await old.reach(5)
            there.layer._parts.endings.apply = lambda *_: None
            await here.sessions.register("job-1")
            await here.events.append_many("job-1", [here.events.entry(f"new {n}") for n in range(8)])
            async with reading(there, "job-1") as new:
                await old.end()
                await new.reach(8)
                await here.events.append("job-1", "newer")
                await new.reach(9)
    assert ([1, 2, 3, 4, 5], "session") == (old.data, old.events.ended)
    assert [*(f"new {n}" for n in range(8)), "newer"] == new.data


@given(poll=0.05)
async def test_whoever_polls_finds_a_new_session_with_the_id_and_takes_nothing_of_it(place: EventsPlace):
    async with place.new() as here, place.new() as there:
        await here.sessions.create("job-1")
        await fill(here, "job-1", 2)
        async with reading(there, "job-1") as old:
            await old.reach(2)
            there.layer._parts.endings.apply = lambda *_: None
            held = there.store.before["read"]
            held.close()
            await here.sessions.register("job-1")
            await here.events.append_many("job-1", [here.events.entry(f"new {n}") for n in range(5)])
            held.open()
            await old.end()
    assert ([1, 2], "session") == (old.data, old.events.ended)


async def test_what_is_not_live_cannot_be_followed(here, there, session):
    await here.sessions.delete(session)
    for session_id in (session, "never was"):
        with pytest.raises(SessionNotFoundError):
            async with there.events.follow(session_id):
                pytest.fail("it was entered")
    assert 0 == there.following


async def test_to_an_owner_another_ones_stream_is_not_there_and_is_not_begun(pair, here, there):
    mine = (await here.sessions.create(owner="alice")).id
    with pytest.raises(SessionNotFoundError):
        await there.events.of("bob").follow(mine).__aenter__()
    assert [] == await pair.place.followers(mine)
    assert 1 == (await here.events.stats(mine)).streams
    async with reading(there, mine) as reader:
        await there.events.of("alice").append(mine, "x")
        await reader.reach(1)


async def test_it_ends_with_its_layer_and_says_so(place: EventsPlace):
    here, began, followers = place.new(), anyio.Event(), []

    async def follow(session: str) -> None:
        async with here.events.follow(session) as events:
            followers.append(events)
            began.set()
            assert [] == [event async for event in events]

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks, here:
            session = (await here.sessions.create()).id
            tasks.start_soon(follow, session)
            await began.wait()
    assert ["layer"] == [events.ended for events in followers]
    with pytest.raises(LayerClosedError):
        await here.events.follow(session).__aenter__()


async def test_a_layer_that_runs_again_can_be_followed_again(place: EventsPlace):
    here = place.new()
    for expected in ([1], [1, 2]):
        async with here:
            await here.sessions.ensure("job-1")
            await here.events.append("job-1", "x")
            async with reading(here, "job-1") as reader:
                await reader.reach(expected[-1])
            assert expected == reader.numbers


@given(poll=60.0)
async def test_it_ends_with_the_drain_of_its_replica_as_subscriptions_do(here, there, session):
    """A server waits at SIGTERM for the routes of the application, and the layer ends after that."""
    await fill(here, session, 2)
    async with reading(there, session) as reader, reading(here, session) as other:
        subscription = there.layer.broadcaster.subscribe()
        await reader.reach(2)
        with anyio.fail_after(10):
            await there.layer.drain(0)
            await reader.end()
            assert [] == [news async for news in subscription]
        assert ([1, 2], "layer") == (reader.numbers, reader.events.ended)
        await fill(here, session, 1)
        await other.reach(3)
