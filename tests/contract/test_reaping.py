"""Reaping: what expired, with all that belongs to it, and nothing else."""

from __future__ import annotations

import pytest

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.errors import SessionExistsError
from mcpsession.model import Mail, NewEvent, Reaped
from mcpsession.records import Session
from tests.contract.conftest import Join
from tests.contract.given import (
    a_session,
    dead_record,
    end,
    enter,
    expire,
    expired,
    given,
    messages,
    opened,
    read,
    terminate,
    until,
    write,
)


async def test_there_is_nothing_to_reap_in_an_empty_store(backend: Backend) -> None:
    assert Reaped() == await backend.reaping.reap(10)


async def test_an_expired_session_goes_with_its_streams_and_events(backend: Backend) -> None:
    await enter(backend, Session("session", ttl=0.5), opened("result", request_ids=("0",), finished=True))
    await backend.log.append_standalone([("session", NewEvent("said"))])
    await write(backend, opened("one", stream_id="open"))
    await expired(backend)

    assert 1 == (await backend.reaping.reap(10)).sessions

    for stream in ("s", "stream", "open"):
        assert await backend.log.read("session", stream, 0, 10) is None
    assert [] == list(await backend.log.orphans(10))
    assert Reaped() == await backend.reaping.reap(10)


async def test_events_do_not_come_back_under_the_id_of_a_reaped_session(backend: Backend) -> None:
    await a_session(backend, ttl=0.5)
    await backend.log.append_standalone([("session", NewEvent("old"))])
    await write(backend, opened("old"))
    await expired(backend)
    await backend.reaping.reap(10)

    await a_session(backend)

    assert [] == await messages(backend, stream_id="s")
    assert ["stream"] == await write(backend, opened("new"))
    assert ["new"] == await messages(backend)


async def test_what_lives_is_not_reaped(backend: Backend) -> None:
    await a_session(backend, "mortal", ttl=60.0)
    await a_session(backend, "eternal", ttl=None)
    for session in ("mortal", "eternal"):
        await backend.log.append_standalone([(session, NewEvent("said"))])
        await write(backend, opened("one", session_id=session))
    await expire(backend)

    assert Reaped(sessions=1) == await backend.reaping.reap(10)

    for session in ("mortal", "eternal"):
        assert await backend.sessions.get(session) is not None
        assert ["said"] == await messages(backend, session, "s")
        assert ["one"] == await messages(backend, session)


async def test_a_touched_session_is_never_reaped(backend: Backend) -> None:
    await a_session(backend, ttl=1.0)
    await a_session(backend, "witness", ttl=1.3)

    async def witness_is_gone() -> bool:
        assert "session" in await backend.sessions.touch(["session"])
        await backend.reaping.reap(10)
        return await backend.sessions.get("witness") is None

    await until(witness_is_gone)
    await backend.reaping.reap(10)
    assert await backend.sessions.get("session") is not None


async def test_sessions_with_handlers_are_left_to_them(backend: Backend) -> None:
    await expire(backend)

    assert 0 == (await backend.reaping.reap(10, handled=True)).sessions
    assert 1 == (await backend.reaping.reap(10)).sessions


async def test_what_is_claimed_is_left_to_its_claimant_while_that_lives(
    backend: Backend, join: Join, registry: ReplicaRegistry
) -> None:
    await join("a")
    await expire(backend, "expired")
    [_] = await backend.reaping.claim(10, by="a")
    await a_session(backend, "deleted")
    await end(backend, "deleted", sender="a", claim=True)
    assert 0 == (await backend.reaping.reap(10)).sessions

    await registry.leave("a")

    assert 0 == (await backend.reaping.reap(10, handled=True)).sessions
    assert 2 == (await backend.reaping.reap(10)).sessions


@pytest.mark.parametrize("handled", [False, True])
async def test_what_was_deleted_goes_at_once_with_all_that_belonged_to_it(backend: Backend, handled: bool) -> None:
    await a_session(backend, ttl=None)
    await write(backend, opened("one"))
    await backend.subscriptions.subscribe("session", "file:///a", None, sender="a")
    await end(backend)

    assert 1 == (await backend.reaping.reap(10, handled=handled)).sessions

    assert await backend.log.read("session", "stream", 0, 10) is None
    assert not await backend.subscriptions.unsubscribe("session", "file:///a", sender="a")
    assert Reaped() == await backend.reaping.reap(10)


async def test_a_tombstone_stays_for_its_ttl_and_what_belonged_to_it_goes_at_once(backend: Backend) -> None:
    await a_session(backend, ttl=60.0, state={"n": 1}, metadata={"k": 1})
    await write(backend, opened("one"))
    await terminate(backend)

    await backend.reaping.reap(10)

    tombstone = await dead_record(backend)
    assert tombstone is not None
    assert ("terminated", {}, {}) == (tombstone.status, tombstone.state, tombstone.metadata)
    assert await backend.log.read("session", "stream", 0, 10) is None
    assert [] == list(await backend.log.orphans(10))
    # There is nothing more to do, so a reaper that goes on while there is comes to an end.
    assert Reaped() == await backend.reaping.reap(10)
    with pytest.raises(SessionExistsError):
        await a_session(backend)


@given(tombstone_ttl=0.3)
async def test_a_tombstone_goes_at_the_end_of_its_ttl(backend: Backend) -> None:
    await a_session(backend, ttl=None)
    await terminate(backend)

    async def is_gone() -> bool:
        await backend.reaping.reap(10)
        return await dead_record(backend) is None

    await until(is_gone)
    await a_session(backend)


@given(stream_ttl=0.05)
async def test_a_finished_stream_goes_at_the_end_of_its_ttl_and_its_session_stays(backend: Backend) -> None:
    await a_session(backend)
    await backend.log.append_standalone([("session", NewEvent("said"))])
    await write(backend, opened("one", finished=True), opened("one", stream_id="open", request_ids=("2",)))
    reaped = []

    async def is_reaped() -> bool:
        reaped.append(await backend.reaping.reap(10))
        return reaped[-1].streams > 0

    await until(is_reaped)
    assert Reaped(streams=1) == reaped[-1]
    assert await backend.log.read("session", "stream", 0, 10) is None
    assert ["one"] == await messages(backend, stream_id="open")
    assert ["said"] == await messages(backend, stream_id="s")
    assert not (await read(backend, stream_id="open")).finished
    assert await backend.sessions.get("session") is not None


@given(mail_ttl=0.05)
async def test_mail_goes_at_the_end_of_its_ttl(backend: Backend) -> None:
    await backend.mailbox.broadcast([Mail("news", "a"), Mail("news", "a")])
    reaped = 0

    async def is_reaped() -> bool:
        nonlocal reaped
        reaped += (await backend.reaping.reap(10)).mail
        return reaped == 2

    await until(is_reaped)
    assert Reaped() == await backend.reaping.reap(10)


async def test_mail_within_its_ttl_stays(backend: Backend, join: Join) -> None:
    await join("b")
    position = await backend.mailbox.position()
    await backend.mailbox.broadcast([Mail("news", "a", body="to all")])
    await backend.mailbox.send(Mail("answer", "a", "b"))

    assert Reaped() == await backend.reaping.reap(10)

    assert 1 == len(await backend.mailbox.inbox("b"))
    news = await backend.mailbox.news(position)
    assert news is not None
    assert ["to all"] == [mail.body for mail in news.mails]


async def test_a_recent_death_stays_on_record(backend: Backend, join: Join, registry: ReplicaRegistry) -> None:
    await join("a", "b")
    await registry.leave("b")

    assert Reaped() == await backend.reaping.reap(10)

    assert not (await registry.beat("b", "")).alive
    assert (await registry.beat("a", "")).alive


async def test_no_more_of_a_kind_is_reaped_than_asked_for(backend: Backend) -> None:
    for number in range(5):
        await a_session(backend, f"{number}", ttl=0.01)
    for number in range(5):
        await expired(backend, f"{number}")

    assert [2, 2, 1, 0] == [(await backend.reaping.reap(2)).sessions for _ in range(4)]


async def test_namespaces_are_reaped_apart(backend: Backend, neighbour: Backend) -> None:
    await expire(backend)

    assert Reaped() == await neighbour.reaping.reap(10)
    assert Reaped(sessions=1) == await backend.reaping.reap(10)
