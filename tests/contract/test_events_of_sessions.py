"""SessionEvents: whose an application's events are, what becomes of them with their session, and who follows them."""

from __future__ import annotations

import pytest

from mcpsession.contracts import Backend
from mcpsession.errors import UnstorableTextError
from mcpsession.event_records import Entry, EventStats
from mcpsession.model import ReplicaId
from tests.contract.conftest import Join
from tests.contract.given import (
    a_session,
    appended,
    end,
    expire,
    keys,
    log,
    logged,
    page,
    record,
    write,
)

NUL, SURROGATE = "a\x00b", "a\ud800b"

# whose


async def test_f43_nothing_is_logged_or_read_for_a_session_that_is_not_live(backend: Backend) -> None:
    await expire(backend, "expired")
    await a_session(backend, "ended")
    await log(backend, "1", session_id="ended")
    await end(backend, "ended", reason="terminated")

    for session_id in ("missing", "expired", "ended", NUL, SURROGATE):
        assert None is await backend.events.append(session_id, "log", [Entry("1")])
        assert None is await backend.events.read(session_id, "log", 0, 10)
        assert not await backend.events.follow(session_id, "log", "a")
        await backend.events.unfollow(session_id, "log", "a")
        assert EventStats() == await backend.events.stats(session_id)


async def test_f43_another_owners_session_is_as_if_it_were_not_there(backend: Backend) -> None:
    await a_session(backend, owner="alice")
    await log(backend, "1", owner="alice")

    assert None is await backend.events.append("session", "log", [Entry("2")], owner="bob")
    assert None is await backend.events.append("session", "another", [Entry("2")], owner="bob")
    assert None is await backend.events.read("session", "log", 0, 10, owner="bob")
    assert EventStats() == await backend.events.stats(owner="bob")
    assert EventStats() == await backend.events.stats("session", owner="bob")
    assert [(1, "1")] == await logged(backend)


async def test_f43_an_id_of_one_session_says_nothing_of_anothers(backend: Backend) -> None:
    await a_session(backend, "one")
    await a_session(backend, "two")
    await log(backend, *(Entry(f'"one {n}"', id=f"event-{n}") for n in range(5)), session_id="one")
    await log(backend, '"two"', session_id="two")

    found = await page(backend, "event-3", session_id="two")
    assert (['"two"'], False) == ([entry.data for entry in found.entries], found.known)


async def test_f51_streams_of_one_session_know_nothing_of_each_other(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, Entry('"a1"', id="same"), '"a2"', stream="a")
    await log(backend, Entry('"b1"', id="same"), stream="b")

    assert [(1, '"a1"'), (2, '"a2"')] == await logged(backend, stream="a")
    assert [(1, '"b1"')] == await logged(backend, stream="b")
    assert [(2, '"a2"')] == await logged(backend, "same", stream="a")
    assert [] == await logged(backend, "same", stream="b")


async def test_namespaces_know_nothing_of_each_other(backend: Backend, neighbour: Backend) -> None:
    await a_session(backend)
    await a_session(neighbour)
    await log(backend, "1", "2")

    assert [] == await logged(neighbour)
    assert EventStats(streams=1) == await neighbour.events.stats()


async def test_f51_no_client_reads_an_applications_stream(backend: Backend, join: Join) -> None:
    """Neither as its own request's, nor as an orphan that somebody has to finish."""
    await join("a")
    await a_session(backend)
    await log(backend, "1")
    await log(backend, "1", stream="")

    for stream_id in ("a:log", "a:", "log"):
        assert not await backend.log.attach("session", stream_id, "a")
        assert None is await backend.log.read("session", stream_id, 0, 10)
        assert not await backend.log.take_over("session", stream_id, 0, ["final"], by="a")
        assert not await write(backend, appended(1, "2", stream_id=stream_id, finished=True))
    assert [] == list(await backend.log.orphans(10))
    assert [(1, "1")] == await logged(backend)


@pytest.mark.parametrize("text", [NUL, SURROGATE])
async def test_text_that_no_store_can_hold_is_refused_and_nothing_is_stored(backend: Backend, text: str) -> None:
    await a_session(backend)

    for entry in (Entry(text), Entry("1", type=text), Entry("1", id=text)):
        with pytest.raises(UnstorableTextError):
            await backend.events.append("session", "log", [Entry("0"), entry])
    with pytest.raises(UnstorableTextError):
        await backend.events.append("session", text, [Entry("1")])
    with pytest.raises(UnstorableTextError):
        await backend.events.follow("session", text, "a")

    assert [] == await logged(backend)
    assert [] == await logged(backend, stream=text)
    await backend.events.unfollow("session", text, "a")
    assert None is await backend.events.read("session", "log", 0, 10, owner=text)


# with its session


async def test_a_removed_session_takes_its_events_along(backend: Backend) -> None:
    session = await a_session(backend)
    await log(backend, Entry("1", id="a"))
    await backend.events.follow("session", "log", "a")
    await end(backend, claim=True)
    await backend.reaping.remove(keys(session), by="a")

    await a_session(backend)
    assert [] == await logged(backend)
    assert [1] == list((await log(backend, Entry("2", id="a"))).numbers)


async def test_a_session_that_replaces_another_has_none_of_its_events(backend: Backend) -> None:
    await expire(backend)
    await a_session(backend)
    await log(backend, "1")
    await end(backend)

    await a_session(backend)
    assert (0, []) == ((await record(backend)).event_count, await logged(backend))


async def test_events_move_with_their_sessions_id(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, Entry("1", id="a"), "2")
    await backend.events.follow("session", "log", "a")

    await backend.sessions.rotate("session", "renamed", owner=None, new_owner=None, sender="a")

    assert None is await backend.events.read("session", "log", 0, 10)
    assert [(2, "2")] == await logged(backend, "a", session_id="renamed")
    assert ([1, 3], 1) == (
        list((result := await log(backend, Entry("1", id="a"), "3", session_id="renamed")).numbers),
        result.added,
    )


async def test_followers_of_the_old_id_are_not_woken_for_the_new_one(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await backend.events.follow("session", "log", "a")

    await backend.sessions.rotate("session", "renamed", owner=None, new_owner=None, sender="a")

    assert [] == list((await log(backend, "1", session_id="renamed")).followers)


# follow


async def followers(backend: Backend) -> list[ReplicaId]:
    return sorted((await log(backend, "1")).followers)


async def test_f48_each_append_says_who_follows(backend: Backend, join: Join) -> None:
    await join("a", "b", "c")
    await a_session(backend)
    assert [] == await followers(backend)

    for follower in ("a", "b", "a"):
        assert await backend.events.follow("session", "log", follower)
    assert ["a", "b"] == await followers(backend)

    await backend.events.unfollow("session", "log", "a")
    await backend.events.unfollow("session", "log", "c")
    await backend.events.unfollow("session", "nothing", "b")
    assert ["b"] == await followers(backend)
    assert [] == list((await log(backend, "1", stream="another")).followers)


async def test_f48_a_stream_can_be_followed_before_it_begins(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)

    assert await backend.events.follow("session", "log", "a")

    assert [] == await logged(backend)
    result = await log(backend, "1")
    assert ([1], ["a"]) == (list(result.numbers), list(result.followers))


async def test_f48_the_dead_are_not_woken(backend: Backend, join: Join) -> None:
    await join("a", "b", "c")
    await a_session(backend)
    for follower in ("a", "b"):
        await backend.events.follow("session", "log", follower)
    async with backend.registry() as registry:
        await registry.leave("a")

    assert ["b"] == await followers(backend)
    await backend.events.follow("session", "log", "c")
    assert ["b", "c"] == await followers(backend)
