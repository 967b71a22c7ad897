"""A replay gives all past a cursor, in order, of this stream alone, and a gap where there is one. F42 to F46, F53."""

from __future__ import annotations

from typing import Any

import pytest

from mcpsession.errors import SessionNotFoundError
from mcpsession.event_records import EventStats, Replay
from tests.events.replicas import EventsPlace, Replica
from tests.sessions.replicas import given


async def fill(replica: Replica, session_id: str, count: int, *, own: bool = False, stream: str = "events") -> None:
    """Append 1, 2, …, count; their own ids are event-1, …"""
    entries = [replica.events.entry(n, id=f"event-{n}" if own else None) for n in range(1, count + 1)]
    await replica.events.append_many(session_id, entries, stream=stream)


def told(replay: Replay) -> list[Any]:
    return [event.data for event in replay.events]


async def test_f42_all_in_order_or_those_after_a_cursor(here, there, session):
    await fill(here, session, 12, own=True)
    whole = await there.events.replay(session)
    assert [*range(1, 13)] == told(whole) == [event.seq for event in whole.events]
    assert (False, 1, 12, False) == (whole.gap, whole.first_retained, whole.last_seq, whole.more)
    for cursor in ("event-9", "events.9", 9):
        assert [10, 11, 12] == told(await there.events.replay(session, cursor)), cursor
    assert [10, 11, 12] == told(await there.events.replay(session, whole.events[8].id))
    for none_yet in (0, None, "events.0"):
        assert whole == await there.events.replay(session, none_yet)


async def test_f42_past_the_end_and_of_a_stream_that_has_not_begun_there_is_nothing_and_no_gap(here, there, session):
    await fill(here, session, 3, own=True)
    nothing = Replay(events=[], gap=False, first_retained=1, last_seq=3, more=False)
    for cursor in (3, "events.3", "event-3", 4, 2**31, 2**63, 10**400, "events.4", "events." + "9" * 30):
        assert nothing == await there.events.replay(session, cursor), cursor
    empty = Replay(events=[], gap=False, first_retained=None, last_seq=0, more=False)
    for cursor in (None, 0, 7, "other.7"):
        assert empty == await there.events.replay(session, cursor, stream="other"), cursor


async def test_f42_page_by_page_it_is_all(here, there, session):
    await fill(here, session, 10)
    pages = [await there.events.replay(session, after, limit=4) for after in (None, 4, 8)]
    assert [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]] == [told(page) for page in pages]
    assert [True, True, False] == [page.more for page in pages]
    assert [10, 10, 10] == [page.last_seq for page in pages]


async def test_f42_a_page_has_about_a_mebibyte(here, there, session):
    for n in range(4):
        await here.events.append(session, f"{n}" * 600_000)
    page = await there.events.replay(session)
    assert (2, True) == (len(page.events), page.more)
    assert 2 == len((await there.events.replay(session, page.events[-1].id)).events)


async def test_f43_what_is_not_live_has_no_replay(pair, here, there):
    expired, deleted, terminated = [(await here.sessions.create()).id for _ in range(3)]
    for session_id in (expired, deleted, terminated):
        await here.events.append(session_id, "kept")
    await pair.place.expire(expired)
    await here.sessions.delete(deleted)
    await here.sessions.terminate(terminated)
    for session_id in (expired, deleted, terminated, "never was", "a\x00b", ""):
        for at in (here, there):
            with pytest.raises(SessionNotFoundError):
                await at.events.replay(session_id)


async def test_f43_an_id_of_another_session_or_stream_is_a_gap_and_nothing_of_the_other_comes(here, there, session):
    other = (await here.sessions.create()).id
    await here.events.append(other, "not yours", id="theirs")
    await here.events.append(session, "of another stream", id="elsewhere", stream="other")
    await fill(here, session, 2)
    for cursor in ("theirs", "elsewhere", "other.1", "nobody's", "", "events.", "events.01", "events.1x", "a\x00b"):
        replay = await there.events.replay(session, cursor)
        assert ([1, 2], True, 1) == (told(replay), replay.gap, replay.first_retained), cursor
    for cursor in ("a\ud800", "x" * 10_000_000, "events.-1", "events.²", "events.1 "):
        assert (await there.events.replay(session, cursor)).gap


async def test_f43_a_cursor_of_an_earlier_session_with_the_id_gives_nothing_of_it(here, there):
    await here.sessions.create("job-2")
    await here.events.append("job-2", "earlier", id="x")
    await here.sessions.register("job-2")
    await here.events.append("job-2", "mine")
    replay = await there.events.replay("job-2", "x")
    assert (["mine"], True) == (told(replay), replay.gap)


@given(max_events=4)
async def test_f44_a_cursor_whose_event_is_gone_says_so_and_what_is_left(place: EventsPlace):
    async with place.new() as here:
        session = (await here.sessions.create()).id
        await fill(here, session, 10, own=True)
        for gone in (0, 1, 5, "events.5", "event-5", "event-6"):
            replay = await here.events.replay(session, gone)
            assert ([7, 8, 9, 10], True, 7) == (told(replay), replay.gap, replay.first_retained), gone
        # The event is gone, but nothing past it is; of its own id the log knows nothing any more.
        for last_gone in (6, "events.6"):
            replay = await here.events.replay(session, last_gone)
            assert ([7, 8, 9, 10], False, 7) == (told(replay), replay.gap, replay.first_retained)
        from_the_oldest = await here.events.replay(session)
        assert ([7, 8, 9, 10], False) == (told(from_the_oldest), from_the_oldest.gap)


@given(max_events=1000)
async def test_f45_of_five_thousand_the_newest_thousand_are_left(place: EventsPlace):
    async with place.new() as here, place.new() as there:
        session = (await here.sessions.create()).id
        for first in range(0, 5000, 500):
            await here.events.append_many(session, [here.events.entry(n) for n in range(first, first + 500)])
        assert [*range(4000, 5000)] == told(await there.events.replay(session))
        assert 1000 == (await there.events.stats(session)).events
        assert 4001 == (await there.events.replay(session)).first_retained


@given(max_replay_bytes=100)
async def test_f46_the_oldest_go_so_that_the_rest_fits_and_the_newest_always_stays(place: EventsPlace):
    async with place.new() as here:
        session = (await here.sessions.create()).id
        for n in range(5):
            await here.events.append(session, f"{n}" * 38)
        assert ["3" * 38, "4" * 38] == told(await here.events.replay(session))
        await here.events.append(session, "x" * 1000)
        assert ["x" * 1000] == told(await here.events.replay(session))


async def test_f53_stats_count_what_live_sessions_hold(postgres: EventsPlace):
    async with postgres.new() as here:
        alice = (await here.sessions.create(owner="alice")).id
        bob = (await here.sessions.create(owner="bob")).id
        gone = (await here.sessions.create(owner="bob")).id
        await fill(here, alice, 3)
        await fill(here, alice, 2, stream="other")
        await fill(here, bob, 4)
        await fill(here, gone, 5)
        await postgres.expire(gone)

        query = """
            SELECT (SELECT count(*) FROM mcpsession.streams t WHERE t.namespace = $1 AND t.session_id = ANY($2)),
                count(*), sum(octet_length(e.message))
            FROM mcpsession.events e WHERE e.namespace = $1 AND e.session_id = ANY($2)"""

        async def counted(*session_ids: str) -> EventStats:
            [row] = await postgres.fetch(query, postgres.settings["namespace"], list(session_ids))
            return EventStats(*row)

        assert EventStats(5, 9, 9) == await counted(alice, bob) == await here.events.stats()
        assert EventStats(3, 5, 5) == await counted(alice) == await here.events.stats(alice)
        assert await counted(bob) == await here.events.of("bob").stats()
        for nobody in (gone, "never was", "a\x00b"):
            assert EventStats() == await here.events.stats(nobody)
        assert EventStats() == await here.events.of("bob").stats(alice)
