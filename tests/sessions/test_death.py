"""How a session ends, on every replica at once. F16 to F18, F21."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from mcpsession import SessionLayer
from mcpsession.errors import SessionExistsError, SessionNotFoundError
from mcpsession.model import NewEvent
from mcpsession.records import EndReason
from mcpsession.sdk.parts import Parts
from tests.sessions.replicas import Place, all_at_once, append, get, said, speak, until

URI = "file:///a"


async def served(layer: SessionLayer, session_id: str = "session") -> None:
    """A session that has a client, which a replica has served, so that it is in its cache."""
    await layer.sessions.create(session_id, state={"n": 1})
    claim = await layer.sessions.initialization.claim(session_id)
    await layer.sessions.initialization.complete(session_id, claim, protocol_version="2025-11-25", client_info={})
    await layer.sessions.initialization.mark_initialized(session_id)


async def known(parts: Parts, session_id: str = "session") -> bool:
    """Whether a request would be served."""
    return await parts.cache.load(session_id) is not None


# F16: delete, close


async def test_f16_deleting_is_free_to_repeat_and_says_whether_it_lived(
    here: SessionLayer, there: SessionLayer
) -> None:
    await here.sessions.create("session")

    assert [True, False, False] == [
        await there.sessions.delete("session"),
        await there.sessions.delete("session"),
        await here.sessions.delete("session"),
    ]
    assert await here.sessions.get("session") is None
    assert await here.sessions.get("session", include_dead=True) is None
    await here.sessions.create("session")


async def test_f16_closing_what_is_not_there_raises(place: Place, here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    await here.sessions.create("expired")
    await place.expire("expired")

    await there.sessions.close("session")

    for session_id in ("session", "expired", "missing"):
        with pytest.raises(SessionNotFoundError):
            await here.sessions.close(session_id)


async def test_f16_of_many_who_delete_at_once_one_did(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    jobs = [partial((here if number % 2 else there).sessions.delete, "session") for number in range(10)]

    assert [False] * 9 + [True] == sorted(await all_at_once(*jobs))


async def test_f16_many_are_deleted_in_one_go(place: Place, here: SessionLayer, there: SessionLayer) -> None:
    for session_id in ("a", "b", "c", "expired"):
        await here.sessions.create(session_id)
    await place.expire("expired")

    assert {"a", "b"} == await there.sessions.delete_many(["a", "missing", "b", "expired", "a"])
    assert set() == await there.sessions.delete_many([])
    assert ["c"] == [session.id for session in await here.sessions.list()]


@pytest.mark.parametrize("verb", ["delete", "close", "terminate"])
async def test_f16_no_replica_knows_it_any_more_when_the_answer_comes(
    here: SessionLayer, there: SessionLayer, verb: str
) -> None:
    await served(here)
    async with here.running() as ours, there.running() as theirs:
        assert [True, True] == [await known(ours), await known(theirs)]

        with anyio.fail_after(1):
            await getattr(here.sessions, verb)("session")

        assert [None, None] == [ours.cache.peek("session"), theirs.cache.peek("session")]
        assert [False, False] == [await known(ours), await known(theirs)]


async def test_f16_what_was_begun_anew_is_not_ended_by_the_mail_of_the_old(
    here: SessionLayer, there: SessionLayer
) -> None:
    for _ in range(10):
        await here.sessions.register("session")
        await there.sessions.register("session")
        assert await here.sessions.get("session") is not None
    assert 1 == await there.sessions.count()


# F17, F18: terminate


async def test_f17_of_a_terminated_session_nothing_is_left_but_its_tombstone(
    here: SessionLayer, there: SessionLayer
) -> None:
    await served(here)
    await speak(here, "session")
    async with here.running() as ours, there.running() as theirs:
        await ours.subscriptions.subscribe("session", URI, None, sender="a")
        await known(theirs)

        with anyio.fail_after(1):
            assert await there.sessions.terminate("session") is True

        for parts in (ours, theirs):
            assert not await known(parts)
            assert [] == list(await parts.subscriptions.subscribers(URI, "", 10))
            assert not await parts.subscriptions.subscribe("session", URI, None, sender="a")
    for replica in (here, there):
        assert await said(replica, "session") is None
        assert await said(replica, "session", "s") is None
        # An event for it is not stored, and it is said so.
        assert not await append(replica, "session")
        assert {} == dict(await replica._backend.log.append_standalone([("session", NewEvent("late"))]))
        with pytest.raises(SessionNotFoundError):
            await replica.sessions.state("session")
        with pytest.raises(SessionExistsError):
            await replica.sessions.create("session")
    assert await here.sessions.terminate("session") is False


async def test_f18_a_tombstone_is_shown_to_whoever_asks_for_the_dead(
    place: Place, here: SessionLayer, there: SessionLayer
) -> None:
    created = await here.sessions.create("session", owner="alice", state={"secret": 1}, metadata={"secret": 1})
    await here.sessions.terminate("session")

    tombstone = await get(there, include_dead=True)

    assert ("terminated", "terminated", "closed", "alice", created.incarnation, created.created_at) == (
        tombstone.status,
        tombstone.end_reason,
        tombstone.phase,
        tombstone.owner,
        tombstone.incarnation,
        tombstone.created_at,
    )
    assert ({}, {}) == (tombstone.state, tombstone.metadata)
    assert tombstone.ended_at is not None
    assert created.created_at is not None
    assert created.created_at < tombstone.ended_at
    assert await there.sessions.get("session") is None
    assert (0, []) == (await there.sessions.count(), list(await there.sessions.list()))
    assert 1 == (await there.sessions.stats()).terminated


async def test_f18_a_live_session_is_the_same_to_whoever_asks_for_the_dead(here: SessionLayer) -> None:
    await here.sessions.create("session")

    assert "live" == (await get(here, include_dead=True)).status
    assert await here.sessions.get("missing", include_dead=True) is None


@pytest.mark.parametrize(("verb", "reason"), [("delete", "deleted"), ("terminate", "terminated"), ("close", "deleted")])
async def test_its_handlers_hear_how_it_ended_before_the_answer_comes(
    here: SessionLayer, there: SessionLayer, verb: str, reason: EndReason
) -> None:
    heard: list[tuple[str, EndReason | None, object]] = []

    async def hear(session: object) -> None:
        heard.append((session.id, session.end_reason, session.state))  # type: ignore[attr-defined]

    here.on_expired(hear)
    there.on_expired(hear)
    await here.sessions.create("session", state={"n": 1})

    await getattr(there.sessions, verb)("session")

    assert [("session", reason, {"n": 1})] == heard


# F21: all of them


async def test_f21_clearing_asks_for_confirmation_and_says_how_many(here: SessionLayer, there: SessionLayer) -> None:
    for number in range(5):
        await here.sessions.create(f"{number}")

    for unconfirmed in ({}, {"confirm": False}, {"confirm": 1}, {"confirm": "yes"}):
        with pytest.raises(ValueError, match="confirm=True"):
            await there.sessions.clear_all(**unconfirmed)
    assert 5 == await here.sessions.count()

    assert 5 == await there.sessions.clear_all(confirm=True)
    assert 0 == await there.sessions.clear_all(confirm=True)

    assert (0, []) == (await here.sessions.count(), list(await here.sessions.list()))
    await here.sessions.create("0")


async def test_f21_an_owner_clears_its_own(here: SessionLayer, there: SessionLayer) -> None:
    for owner in ("alice", "bob", "alice", ""):
        await here.sessions.create(owner=owner)

    assert 2 == await there.sessions.of("alice").clear_all(confirm=True)

    assert ["", "bob"] == sorted(session.owner for session in await here.sessions.list())


async def test_f21_more_than_a_page_is_cleared(here: SessionLayer) -> None:
    await here.sessions.create_many(here.sessions.new_session() for _ in range(2345))

    assert 2345 == await here.sessions.clear_all(confirm=True)

    assert 0 == await here.sessions.count()
    async with here.running() as parts:

        async def nothing_is_left() -> bool:
            await here.sessions.cleanup_expired()
            return (await parts.sessions.touch(["any"])) == {} and (await here.sessions.stats()).expired == 0

        await until(nothing_is_left)
