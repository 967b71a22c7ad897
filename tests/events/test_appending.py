"""What is appended is there, on every replica, once and in one order. F40, F41, F47."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import anyio
import pytest

from mcpsession.errors import LimitExceededError, SessionNotFoundError, StoreUnavailableError
from mcpsession.event_records import LoggedEvent
from tests.events.replicas import EventsPlace, Replica, reading
from tests.sessions.replicas import all_at_once, get, given


async def test_f40_an_event_is_numbered_by_the_store_and_the_same_on_every_replica(here, there, session):
    appended = [await at.events.append(session, {"n": n}) for n, at in enumerate((here, there, here))]
    assert [1, 2, 3] == [event.seq for event in appended]
    assert ["events.1", "events.2", "events.3"] == [event.id for event in appended]
    assert appended == (await there.events.replay(session)).events


async def test_f40_eight_writers_on_two_replicas_are_read_in_one_order_while_they_write(here, there, session):
    async def write(at: Replica, writer: int) -> list[int]:
        return [(await at.events.append(session, [writer, n])).seq for n in range(25)]

    with anyio.fail_after(30):
        async with reading(there, session) as reader:
            written = await all_at_once(
                *(lambda at=(here, there)[writer % 2], writer=writer: write(at, writer) for writer in range(8))
            )
            await reader.reach(200)
    assert [*range(1, 201)] == reader.numbers
    for writer, numbers in enumerate(written):
        mine = [(event.seq, event.data[1]) for event in reader.heard if event.data[0] == writer]
        assert [*zip(numbers, range(25), strict=True)] == mine


async def test_f40_the_numbers_go_on_after_all_replicas_have_ended(postgres: EventsPlace):
    async with postgres.new() as first:
        session = (await first.sessions.create()).id
        assert [1, 2] == [(await first.events.append(session, n)).seq for n in range(2)]
    async with postgres.new() as second:
        assert 3 == (await second.events.append(session, 2)).seq
        assert [0, 1, 2] == await second.data(session)


async def test_f40_each_stream_counts_for_itself(here, there, session):
    a = await here.events.append(session, "a", stream="a")
    b = await there.events.append(session, "b", stream="b-1:x.y_z")
    assert [("a.1", 1), ("b-1:x.y_z.1", 1)] == [(event.id, event.seq) for event in (a, b)]
    assert (["a"], ["b"]) == (await there.data(session, "a"), await here.data(session, "b-1:x.y_z"))
    assert [] == await here.data(session)


async def test_f40_several_are_appended_in_order_all_or_none(here, there, session):
    many = [here.events.entry({"n": n}, id=f"id-{n}", type="tick") for n in range(3)]
    appended = await here.events.append_many(session, many)
    assert appended == (await there.events.replay(session)).events
    assert [(1, "id-0", "tick"), (2, "id-1", "tick"), (3, "id-2", "tick")] == [(e.seq, e.id, e.type) for e in appended]

    with pytest.raises(LimitExceededError):
        await here.events.append_many(session, [here.events.entry(1), here.events.entry("x" * 2_000_000)])
    assert 3 == (await there.events.replay(session)).last_seq
    assert [] == await here.events.append_many(session, [])


async def test_f41_the_same_id_again_is_the_event_that_is_there(here, there, session):
    first = await here.events.append(session, {"n": 1}, id="order-7", type="shipped")
    again = [await at.events.append(session, {"n": 2}, id="order-7", type="lost") for at in (here, there)]
    assert [first, first] == again
    assert [first] == (await here.events.replay(session)).events
    assert 1 == (await here.events.stats(session)).events


async def test_f41_many_who_say_the_same_at_once_add_one(here, there, session):
    outcomes = await all_at_once(
        *(lambda at=at: at.events.append(session, "it", id="once") for at in (here, there) for _ in range(4))
    )
    assert [outcomes[0]] * 8 == outcomes
    assert ["it"] == await here.data(session)


async def test_f41_of_several_only_those_are_added_that_are_not_there(here, there, session):
    old = await here.events.append(session, "old", id="b")
    await here.events.append(session, "between")
    given = [("a", "new"), ("b", "changed"), ("c", "new, too"), ("a", "twice")]
    appended = await there.events.append_many(session, [there.events.entry(data, id=id) for id, data in given])
    assert [("new", 3), ("old", 1), ("new, too", 4), ("new", 3)] == [(event.data, event.seq) for event in appended]
    assert old == appended[1]
    assert ["old", "between", "new", "new, too"] == await here.data(session)


@given(max_events=2)
async def test_f41_an_id_is_known_as_long_as_its_event_is_kept(place: EventsPlace):
    async with place.new() as here:
        session = (await here.sessions.create()).id
        await here.events.append(session, 1, id="one")
        for n in (2, 3):
            await here.events.append(session, n)
        assert 4 == (await here.events.append(session, "again", id="one")).seq
        assert [3, "again"] == await here.data(session)


async def test_f41_an_append_whose_outcome_is_unknown_can_be_said_again(here, there, session):
    here.store.failing_after["append"] = lambda *_: StoreUnavailableError("a test says so")
    with pytest.raises(StoreUnavailableError):
        await here.events.append(session, "it", id="once")
    here.store.failing_after.clear()
    assert 1 == (await here.events.append(session, "it", id="once")).seq
    assert ["it"] == await there.data(session)


async def test_f41_an_event_that_was_there_but_cannot_be_read_has_its_number_all_the_same(here, session):
    await here.events.append(session, "it", id="once")
    here.store.failing["read"] = lambda *_: StoreUnavailableError("a test says so")
    event = await here.events.append(session, "it", id="once")
    assert ("once", 1) == (event.id, event.seq)


async def test_f41_an_events_own_timestamp_is_kept_and_otherwise_the_stores(here, there, session):
    happened = datetime(2031, 5, 7, 1, 2, 3, 456789, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    given = await here.events.append(session, 1, timestamp=happened)
    before = datetime.now(UTC)
    stored = await here.events.append(session, 2)
    assert (happened, UTC) == (given.timestamp, given.timestamp.tzinfo)
    # Its clock and ours are one machine's.
    assert abs(stored.timestamp - before) < timedelta(seconds=30)
    assert [given, stored] == (await there.events.replay(session)).events


@pytest.mark.parametrize(
    "data", [None, True, 0, -1.5, "", "a\x00b", "a\ud800b", "ü🙂", [], {}, {"a": [None, {"b": 1}]}]
)
async def test_any_json_value_comes_back_as_it_was(here, there, session, data: Any):
    appended = await here.events.append(session, data)
    [event] = (await there.events.replay(session)).events
    assert (data, appended) == (event.data, event)


async def test_what_is_returned_is_what_a_reader_gets(here, session):
    event = await here.events.append(session, {"pair": (1, 2), 3: "three"})
    assert {"pair": [1, 2], "3": "three"} == event.data


async def test_f47_an_append_is_activity_of_the_session_and_counted_in_its_record(here, there):
    session = await here.sessions.create(ttl=60)
    await here.events.append_many(session.id, [here.events.entry(n) for n in range(3)])
    await here.layer._parts.touches.flush()
    record = await get(there.layer, session.id)
    assert record.last_active_at > session.last_active_at
    assert session.event_count + 3 == record.event_count


async def test_f47_near_its_end_the_session_is_touched_at_once(place: EventsPlace):
    async with place.new(touch_flush=0.05) as brief, place.new(touch_flush=3600.0) as here:
        session = await brief.sessions.create(ttl=30)
        await here.events.append(session.id, 1)
        assert (await get(here.layer, session.id)).last_active_at > session.last_active_at


async def test_f47_an_append_whose_touch_fails_is_an_append_and_is_touched_later(place: EventsPlace, monkeypatch):
    async with place.new(touch_flush=3600.0) as here:
        session = await here.sessions.create(ttl=30)
        touches = here.layer._parts.touches

        async def away(session_id: str) -> bool:
            raise StoreUnavailableError("a test says so")

        with monkeypatch.context() as patched:
            patched.setattr(touches, "touch", away)
            patched.setattr(here.events, "_settings", replace(here.layer.settings, touch_flush=7200.0))
            assert 1 == (await here.events.append(session.id, 1)).seq
        await touches.flush()
        assert (await get(here.layer, session.id)).last_active_at > session.last_active_at


async def test_what_is_not_live_takes_nothing(pair, here, there):
    expired, deleted, terminated = [(await here.sessions.create()).id for _ in range(3)]
    await pair.place.expire(expired)
    await here.sessions.delete(deleted)
    await here.sessions.terminate(terminated)
    for session_id in (expired, deleted, terminated, "never was", "a\x00b", ""):
        for at in (here, there):
            with pytest.raises(SessionNotFoundError):
                await at.events.append(session_id, 1)


async def test_events_go_with_their_session_to_its_new_id_and_end_with_it(here, there, session):
    old = await here.events.append(session, "before", id="x")
    new = (await there.sessions.rotate(session)).id
    with pytest.raises(SessionNotFoundError):
        await here.events.append(session, "too late")
    assert [old] == (await here.events.replay(new)).events
    assert 2 == (await here.events.append(new, "after")).seq
    await here.sessions.delete(new)
    assert 0 == (await there.events.stats(new)).events


async def test_a_new_session_with_an_old_id_begins_at_one(here, there):
    await here.sessions.create("job-1")
    for n in range(3):
        await here.events.append("job-1", n, id=f"{n}")
    await there.sessions.register("job-1")
    event: LoggedEvent = await here.events.append("job-1", "new", id="1")
    assert (1, ["new"]) == (event.seq, await there.data("job-1"))


async def test_to_an_owner_another_ones_session_is_not_there(here, there):
    mine = (await here.sessions.create(owner="alice")).id
    await here.events.append(mine, "secret")
    bob = there.events.of("bob")
    for wrong in (
        lambda: bob.append(mine, "x"),
        lambda: bob.append_many(mine, [bob.entry("x")]),
        lambda: bob.replay(mine),
        lambda: bob.push(mine, print),
        lambda: bob.follow(mine).__aenter__(),
    ):
        with pytest.raises(SessionNotFoundError):
            await wrong()
    assert (0, 1) == ((await bob.stats(mine)).events, (await there.events.of("alice").stats()).events)
    assert ["secret"] == [event.data for event in (await there.events.of("alice").replay(mine)).events]
    assert 2 == (await there.events.of("alice").append(mine, "mine")).seq
    with pytest.raises(TypeError):
        here.events.of(None)
