"""Following: what is there, then what comes, without a seam; each event once, in order, until the session ends. F48."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from mcpsession import following
from mcpsession.event_records import EventGap
from tests.events.replicas import EventsPlace, reading
from tests.events.test_replaying import fill
from tests.sdk.gates import settle, until
from tests.sessions.replicas import all_at_once, given


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """What waits inside waits for 10 s at most."""
    with anyio.fail_after(10):
        yield


async def test_f48_a_follower_gets_what_is_there_and_then_what_comes_on_any_replica(here, there, session):
    await fill(here, session, 3, own=True)
    async with reading(there, session) as reader:
        await reader.reach(3)
        for n, at in enumerate((here, there, here), 4):
            await at.events.append(session, n, id=f"event-{n}")
        await reader.reach(6)
    assert (await here.events.replay(session)).events == reader.heard


@pytest.mark.parametrize(("after", "expected"), [(None, 1), (0, 1), (2, 3), ("events.2", 3), ("event-2", 3), (3, 4)])
async def test_f48_it_begins_past_its_cursor(here, there, session, after: Any, expected: int):
    await fill(here, session, 3, own=True)
    async with reading(there, session, after) as reader:
        await here.events.append(session, 4)
        await reader.reach(4)
    assert [*range(expected, 5)] == reader.numbers


async def test_a_number_that_is_not_there_yet_is_waited_for(here, there, session):
    await fill(here, session, 1)
    async with reading(there, session) as all_of_it, reading(there, session, 3) as reader:
        await fill(here, session, 4)
        await reader.reach(5)
        await all_of_it.reach(5)
    assert ([4, 5], [1, 2, 3, 4, 5]) == (reader.numbers, all_of_it.numbers)


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("method", ["follow", "read"])
async def test_f48_what_is_appended_while_it_begins_comes_once_and_at_once(place: EventsPlace, side: str, method: str):
    """On both sides of the seam: of the registration and of the first read."""
    async with place.new() as here, place.new(poll=60.0) as there:
        session = (await here.sessions.create()).id
        await fill(here, session, 2)
        gate = getattr(there.store, side)[method]
        gate.close()
        heard: list[int] = []

        async def follow() -> None:
            async with there.events.follow(session) as events:
                async for event in events:
                    heard.append(event.seq)
                    if event.seq == 6:
                        return

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                await gate.reached.wait()
                await fill(here, session, 2)
                await settle()
                gate.open()
                await until(lambda: 4 in heard)
                await fill(here, session, 2)
    assert [*range(1, 7)] == heard


@pytest.mark.usefixtures("small_pages")
async def test_f48_page_by_page_it_catches_up_without_a_wait(place: EventsPlace):
    async with place.new(poll=60.0) as here:
        session = (await here.sessions.create()).id
        await fill(here, session, 20)
        async with reading(here, session) as reader:
            await reader.reach(20)
    assert [*range(1, 21)] == reader.numbers


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("page", [2, 3, 4], ids=["between pages", "on the last page", "when it has caught up"])
async def test_f48_what_is_appended_between_two_of_its_pages_comes_once(here, there, session, side: str, page: int):
    await fill(here, session, 8)
    gate = getattr(there.store, side)["read"]

    async with there.events.follow(session) as events:
        heard = []
        with anyio.fail_after(10):
            while there.store.calls["read"] < page - 1:
                heard.append(await anext(events))
            gate.close()

            async def read_on() -> None:
                while len(heard) < 14:
                    heard.append(await anext(events))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read_on)
                await gate.reached.wait()
                await fill(here, session, 4)
                await settle()
                gate.open()
                await until(lambda: len(heard) == 12)
                await fill(here, session, 2)
    assert [*range(1, 15)] == [event.seq for event in heard]


@given(max_events=5)
async def test_a_gap_at_the_beginning_is_told(place: EventsPlace):
    async with place.new() as here, in_time():
        session = (await here.sessions.create()).id
        await fill(here, session, 12, own=True)
        async with here.events.follow(session, 3) as events:
            gap = await anext(events)
            assert isinstance(gap, EventGap)
            assert (4, 7, "events.7", "mcpsession/gap") == (gap.missed, gap.seq, gap.id, gap.type)
            assert [8, 9, 10, 11, 12] == [(await anext(events)).seq for _ in range(5)]
        # It is a cursor like any other.
        assert [8, 9] == [event.seq for event in (await here.events.replay(session, gap.id, limit=2)).events]
        for unknown in ("nobody's", "event-3", "other.4"):
            async with here.events.follow(session, unknown) as events:
                gap = await anext(events)
                assert isinstance(gap, EventGap)
                assert (0, 7, 8) == (gap.missed, gap.seq, (await anext(events)).seq)
        async with here.events.follow(session) as events:
            assert 8 == (await anext(events)).seq


async def test_an_unknown_cursor_is_a_gap_also_where_nothing_was_lost(here, session):
    async with in_time(), here.events.follow(session, "nobody's") as events:
        gap = await anext(events)
        assert isinstance(gap, EventGap)
        assert (0, 0) == (gap.missed, gap.seq)
        await fill(here, session, 1)
        assert 1 == (await anext(events)).seq


@pytest.mark.usefixtures("small_pages")
@given(max_events=5)
async def test_what_is_trimmed_under_its_feet_is_told_and_the_rest_is_in_order(place: EventsPlace, monkeypatch):
    monkeypatch.setattr(following, "_AT_HAND", 4)
    async with place.new() as here, place.new() as there:
        session = (await here.sessions.create()).id
        await fill(here, session, 2)
        async with there.events.follow(session) as slow, reading(there, session) as quick:
            assert 1 == (await anext(slow)).seq
            for number in range(3, 41):
                await here.events.append(session, number)
                await quick.reach(number)
            heard = []
            with anyio.fail_after(10):
                while not heard or heard[-1].seq < 40:
                    heard.append(await anext(slow))
    assert [*range(1, 41)] == quick.numbers
    gaps = [event for event in heard if isinstance(event, EventGap)]
    assert 1 == len(gaps)
    expected = [2, gaps[0].seq, *range(gaps[0].seq + 1, 41)]
    assert (expected, gaps[0].seq - 2) == ([event.seq for event in heard], gaps[0].missed)


async def test_it_is_entered_once_and_read_by_one(here, session):
    follower = here.events.follow(session)
    with pytest.raises(RuntimeError, match="enter it first"):
        await anext(follower)
    async with follower, anyio.create_task_group() as tasks:
        with pytest.raises(RuntimeError, match="used already"):
            await follower.__aenter__()
        tasks.start_soon(anext, follower, None)
        await settle()
        with pytest.raises(RuntimeError, match="two tasks"):
            await anext(follower)
        tasks.cancel_scope.cancel()
    assert None is await anext(follower, None)


async def test_a_task_that_reads_it_ends_when_another_leaves_it(here, session):
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, here.events.follow(session) as events:
            tasks.start_soon(anext, events, None)
            await settle()


async def test_a_wait_that_times_out_loses_nothing(place: EventsPlace):
    async with place.new() as here, place.new(poll=60.0) as there:
        session = (await here.sessions.create()).id
        # A dial of the driver's that is cancelled complains in the log: let the pool have what it will need.
        await all_at_once(*(lambda: there.events.replay(session) for _ in range(8)))
        heard = []
        async with there.events.follow(session) as events, anyio.create_task_group() as tasks:
            tasks.start_soon(fill, here, session, 30)
            with anyio.fail_after(20):
                while len(heard) < 30:
                    with anyio.move_on_after(0.001):
                        heard.append((await anext(events)).seq)
            for n in range(31, 51):
                await here.events.append(session, n)
                with anyio.fail_after(20):
                    while len(heard) < n:
                        with anyio.move_on_after(0.001):
                            heard.append((await anext(events)).seq)
    assert [*range(1, 51)] == heard


def test_its_repr_shows_no_secret() -> None:
    async def main() -> str:
        async with EventsPlace(None).new() as here:
            session = (await here.sessions.create()).id
            async with here.events.follow(session) as events:
                shown = repr(events) + repr(here.events)
            assert session not in shown
            return shown + repr(events)

    assert "events" in anyio.run(main)
