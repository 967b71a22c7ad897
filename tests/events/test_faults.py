"""What breaks between a follower and the log: bells, listeners, the store, an id. Nothing is lost, or told twice."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from mcpsession import following
from mcpsession.errors import StoreError, StoreUnavailableError
from mcpsession.event_records import EventGap
from tests.events.replicas import EventsPlace, Reader, Replica, reading
from tests.events.test_replaying import fill
from tests.sdk.gates import settle, until
from tests.sessions.replicas import given

BEATING = {"beat": 0.05, "dead_after": 0.4, "fence_margin": 0.1}


def away(*_: object) -> StoreUnavailableError:
    return StoreUnavailableError("a test says so")


async def test_a_bell_that_is_lost_delays_and_loses_nothing(place: EventsPlace):
    async with place.new() as here, place.new(poll=0.1) as there:
        session = (await here.sessions.create()).id
        here.mute()
        async with reading(there, session) as reader:
            for n in range(1, 4):
                await here.events.append(session, n)
                await reader.reach(n)
    assert [1, 2, 3] == reader.numbers


async def test_a_listener_that_is_killed_again_and_again_loses_nothing(postgres: EventsPlace):
    """With a slow look so rare that it cannot help: what is heard again is looked at."""
    async with postgres.new(poll=60.0) as here, postgres.new(poll=60.0) as there:
        session = (await here.sessions.create()).id

        async def append() -> None:
            for n in range(1, 61):
                await here.events.append(session, n)
                await anyio.sleep(0.01)

        async with reading(there, session) as reader:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(append)
                for _ in range(4):
                    await postgres.deafen()
                    await anyio.sleep(0.05)
            await reader.reach(60)
    assert [*range(1, 61)] == reader.numbers


@given(poll=0.05)
@pytest.mark.parametrize("failing", ["failing", "failing_after"])
async def test_it_waits_while_the_store_is_away(place: EventsPlace, failing: str):
    async with place.new() as here, place.new() as there:
        session = (await here.sessions.create()).id
        await fill(here, session, 2)
        async with reading(there, session) as first, reading(there, session) as second:
            await first.reach(2)
            await second.reach(2)
            getattr(there.store, failing)["read"] = away
            calls = there.store.calls["read"]
            with anyio.fail_after(10):
                # The first that fails: none that was on its way, and could see what comes now, is left.
                await until(lambda: there.store.calls["read"] >= calls + 1)
            await fill(here, session, 2)
            with anyio.fail_after(10):
                await until(lambda: there.store.calls["read"] >= calls + 4)
            assert [1, 2] == first.numbers == second.numbers
            there.reset()
            await first.reach(4)
            await second.reach(4)
    assert [1, 2, 3, 4] == first.numbers == second.numbers


@given(poll=0.5)
async def test_many_who_wait_do_not_beset_a_store_that_is_away(place: EventsPlace):
    async with place.new() as here, place.new() as there, AsyncExitStack() as stack:
        session = (await here.sessions.create()).id
        readers = [await stack.enter_async_context(reading(there, session)) for _ in range(30)]
        await here.events.append(session, 1)
        for reader in readers:
            await reader.reach(1)
        there.store.failing["read"] = away
        there.store.calls.clear()
        for n in range(2, 12):
            await here.events.append(session, n)
        with anyio.fail_after(10):
            await until(lambda: there.store.calls["read"] >= 2)
        # Two rounds, each of one attempt for all.
        assert there.store.calls["read"] < 6
        there.reset()
        for reader in readers:
            await reader.reach(11)
    assert [[*range(1, 12)]] * 30 == [reader.numbers for reader in readers]


@given(poll=0.05)
async def test_one_who_is_behind_waits_while_the_store_is_away(place: EventsPlace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(following, "_PAGE", 3)
    monkeypatch.setattr(following, "_AT_HAND", 2)
    async with place.new() as here:
        session = (await here.sessions.create()).id
        await fill(here, session, 3)
        async with here.events.follow(session) as slow, reading(here, session) as quick:
            await quick.reach(3)
            for n in range(4, 13):
                await here.events.append(session, n)
                await quick.reach(n)
            failures = iter([away()] * 3)
            here.store.failing["read"] = lambda *_: next(failures, None)
            with anyio.fail_after(10):
                heard = [(await anext(slow)).seq for _ in range(12)]
    assert [*range(1, 13)] == heard


@given(poll=60.0)
async def test_one_who_is_behind_and_reads_further_than_the_others_were_rung_for_sees_no_gap(
    place: EventsPlace, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(following, "_PAGE", 5)
    monkeypatch.setattr(following, "_AT_HAND", 2)
    async with place.new() as here, place.new() as there:
        session = (await here.sessions.create()).id
        await fill(here, session, 5)
        async with there.events.follow(session) as slow, reading(there, session) as quick:
            for n in range(6, 9):
                await here.events.append(session, n)
                await quick.reach(n)
            here.mute()
            for n in range(9, 11):
                await here.events.append(session, n)
            with anyio.fail_after(10):
                heard = [(await anext(slow)).seq for _ in range(10)]
                await there.events.append(session, 11)
                heard.append((await anext(slow)).seq)
            await quick.reach(11)
    assert [*range(1, 12)] == heard == quick.numbers


async def test_a_store_that_is_away_when_it_begins_is_told_and_leaves_nothing(pair, here, there, session):
    for method in ("follow", "read"):
        there.store.failing[method] = away
        with pytest.raises(StoreUnavailableError):
            await there.events.follow(session).__aenter__()
        there.reset()
        assert 0 == there.following
    assert [] == await pair.place.followers(session)


async def test_a_store_that_is_away_when_it_ends_harms_nobody(pair, here, there, session):
    there.store.failing["unfollow"] = away
    async with there.events.follow(session):
        pass
    assert (0, [there.id]) == (there.following, await pair.place.followers(session))
    there.reset()
    async with reading(there, session) as reader:
        await here.events.append(session, 1)
        await reader.reach(1)
    assert [] == await pair.place.followers(session)


async def test_a_statement_that_is_refused_is_told_and_it_can_be_read_on(here, there, session):
    await fill(here, session, 1)
    async with there.events.follow(session) as events:
        assert 1 == (await anext(events)).seq
        there.store.failing["read"] = lambda *_: StoreError("a test says so")
        await fill(here, session, 1)
        with anyio.fail_after(10), pytest.raises(StoreError):
            await anext(events)
        there.reset()
        with anyio.fail_after(10):
            assert 2 == (await anext(events)).seq


@given(poll=60.0, **BEATING)
async def test_a_replica_that_goes_on_under_a_new_id_is_rung_under_it(place: EventsPlace):
    async with place.new() as here, place.new() as there:
        session = (await here.sessions.create()).id
        async with reading(there, session) as reader:
            await here.events.append(session, 1)
            await reader.reach(1)
            await place.declare_dead(there)
            await here.events.append(session, 2)
            await reader.reach(2)
            with anyio.fail_after(10):
                while await place.followers(session) != [there.id]:
                    await settle()
            # The ear for its new id is open: its bells ring.
            await here.events.append(session, 3)
            await reader.reach(3)
        assert [] == await place.followers(session)
    assert [1, 2, 3] == reader.numbers


@given(poll=0.05, **BEATING)
async def test_an_id_that_changes_while_the_store_is_away_is_entered_later(place: EventsPlace):
    async with place.new() as here, place.new() as there:
        session = (await here.sessions.create()).id
        async with reading(there, session) as reader:
            there.store.failing["follow"] = away
            await place.declare_dead(there)
            await here.events.append(session, 1)
            await settle()
            there.reset()
            await reader.reach(1)
            assert [there.id] == await place.followers(session)


async def test_a_store_that_went_back_in_time_is_a_gap(postgres: EventsPlace):
    """As after a fail-over to a standby that had not heard all: what is counted from there is other events."""
    lose = """
        WITH lost AS (DELETE FROM mcpsession.events WHERE namespace = $1 AND session_id = $2 AND seq > 2)
        UPDATE mcpsession.streams SET last_seq = 2 WHERE namespace = $1 AND session_id = $2 AND kind = 'application'"""
    async with postgres.new(poll=0.05) as here:
        session = (await here.sessions.create()).id
        await fill(here, session, 5)
        async with reading(here, session) as reader:
            await reader.reach(5)
            await postgres.fetch(lose, postgres.settings["namespace"], session)
            with anyio.fail_after(10):
                await until(lambda: isinstance(reader.heard[-1], EventGap))
            await here.events.append(session, "other")
            with anyio.fail_after(10):
                await until(lambda: reader.data[-1] == "other")
    assert [1, 2, 3, 4, 5, 2, 3] == reader.numbers
    assert 0 == reader.heard[5].missed  # type: ignore[attr-defined]


class Cut:
    """Cancels a task at the n-th point at which it waits for the log, before or after the work is done."""

    def __init__(self, replica: Replica, point: int) -> None:
        self.left = point
        self.scope = anyio.CancelScope()
        self.replica = replica

    async def run(self, session_id: str, heard: list[int]) -> None:
        for method in ("follow", "read", "unfollow", "append"):
            self._watch(method)
        with self.scope:
            async with self.replica.events.follow(session_id) as events:
                async for event in events:
                    heard.append(event.seq)
                    if event.seq == 3:
                        await self.replica.events.append(session_id, "mine")
                    if event.seq == 7:
                        break

    def _watch(self, method: str) -> None:
        store = self.replica.store
        store.failing[method] = store.failing_after[method] = self._pass

    def _pass(self, *_: Any) -> Exception | None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()
        return None


async def test_it_may_be_cancelled_wherever_it_waits(pair, here, there, monkeypatch: pytest.MonkeyPatch):
    """Nothing is left of it, and whoever follows next gets everything."""
    monkeypatch.setattr(following, "_PAGE", 2)
    point, reached = 0, True
    while reached:
        point += 1
        session = (await here.sessions.create()).id
        await fill(here, session, 6)
        heard: list[int] = []
        cut = Cut(there, point)
        with anyio.fail_after(20):
            await cut.run(session, heard)
        reached = cut.left <= 0
        there.reset()
        assert (0, 0) == (there.following, len(there.layer._parts.tails))
        assert [*range(1, len(heard) + 1)] == heard
        assert [] == await pair.place.followers(session), point
        newest = (await here.events.replay(session)).last_seq
        assert newest in (6, 7)
        async with reading(there, session) as reader:
            await reader.reach(newest)
        assert [*range(1, newest + 1)] == reader.numbers
    # As many as there are: to begin, to read four pages, to append, to end.
    assert point > 10


async def test_one_who_is_cancelled_while_it_reads_for_all_leaves_the_others_theirs(here, there, session):
    gate = there.store.before["read"]
    with anyio.fail_after(10):
        async with reading(there, session) as stays:
            await fill(here, session, 1)
            await stays.reach(1)
            async with anyio.create_task_group() as tasks, there.events.follow(session, 1) as goes:
                reader = Reader(goes)
                tasks.start_soon(reader.run)
                await settle()
                gate.close()
                await fill(here, session, 1)
                await gate.reached.wait()
                tasks.cancel_scope.cancel()
            gate.open()
            await stays.reach(2)
    assert [1, 2] == stays.numbers
