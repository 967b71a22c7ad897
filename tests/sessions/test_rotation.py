"""A new id for a session, for when its client has got more rights. F95."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from mcpsession import Session, SessionLayer
from mcpsession.errors import SessionExistsError, SessionNotFoundError
from mcpsession.records import EndReason
from tests.sessions.replicas import Place, all_at_once, append, get, said, speak

URI = "file:///a"


async def test_f95_the_old_id_is_unknown_everywhere_and_the_new_one_has_everything(
    here: SessionLayer, there: SessionLayer
) -> None:
    old = await here.sessions.create("session", owner="", ttl=60.0, metadata={"k": 1}, state={"n": 1})
    claim = await here.sessions.initialization.claim("session")
    await here.sessions.initialization.complete(
        "session", claim, protocol_version="2025-11-25", client_info={"name": "client"}
    )
    await here.sessions.initialization.mark_initialized("session")
    await speak(here, "session")
    async with here.running() as ours, there.running() as theirs:
        await ours.subscriptions.subscribe("session", URI, None, sender="a")
        for parts in (ours, theirs):
            assert await parts.cache.load("session") is not None

        with anyio.fail_after(1):
            rotated = await there.sessions.rotate("session", new_owner="alice")

        for parts in (ours, theirs):
            assert await parts.cache.load("session") is None
            assert await parts.cache.load(rotated.id) is not None
            assert [rotated.id] == list(await parts.subscriptions.subscribers(URI, "", 10))
    assert rotated.id != old.id
    for replica in (here, there):
        assert await replica.sessions.get("session") is None
        assert not await replica.sessions.touch("session")
        with pytest.raises(SessionNotFoundError):
            await replica.sessions.state("session")
        got = await get(replica, rotated.id)
        assert ("alice", {"k": 1}, {"n": 1}, 60.0, old.created_at, {"name": "client"}, True, 3) == (
            got.owner,
            got.metadata,
            got.state,
            got.ttl,
            got.created_at,
            got.client_info,
            got.initialized,
            got.event_count,
        )
        assert ["one", "two"] == await said(replica, rotated.id)
        assert ["said"] == await said(replica, rotated.id, "s")
        assert await said(replica, "session") is None
    # What still runs under the old id writes nothing more.
    assert not await append(here, "session")


async def test_f95_the_old_id_is_a_tombstone(place: Place, here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session", owner="alice", state={"secret": 1})
    rotated = await here.sessions.rotate("session")

    assert "terminated" == (await get(there, include_dead=True)).status
    for attempt in (there.sessions.create, there.sessions.register, there.sessions.ensure):
        with pytest.raises(SessionExistsError):
            await attempt("session", owner="alice")
    await there.sessions.cleanup_expired()
    assert {"secret": 1} == await there.sessions.state(rotated.id)


async def test_f95_what_is_not_live_is_not_rotated(place: Place, here: SessionLayer) -> None:
    for session_id in ("expired", "deleted", "terminated"):
        await here.sessions.create(session_id)
    await place.expire("expired")
    await here.sessions.delete("deleted")
    await here.sessions.terminate("terminated")

    for session_id in ("expired", "deleted", "terminated", "missing"):
        with pytest.raises(SessionNotFoundError):
            await here.sessions.rotate(session_id)
    assert 0 == await here.sessions.count()


async def test_f95_an_owner_can_hand_its_session_over(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session", owner="alice")

    rotated = await there.sessions.of("alice").rotate("session", new_owner="bob")

    assert "bob" == rotated.owner
    assert await there.sessions.of("alice").get(rotated.id) is None
    assert await here.sessions.of("bob").get(rotated.id) is not None


async def test_f95_of_many_who_rotate_at_once_one_does(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session", state={"n": 1})
    jobs = [partial((here if number % 2 else there).sessions.rotate, "session") for number in range(10)]

    outcomes = await all_at_once(*jobs)

    [rotated] = [outcome for outcome in outcomes if isinstance(outcome, Session)]
    assert 9 == len([outcome for outcome in outcomes if isinstance(outcome, SessionNotFoundError)])
    assert [rotated.id] == [session.id for session in await there.sessions.list()]


async def test_f95_no_handler_hears_of_a_session_that_goes_on(here: SessionLayer) -> None:
    heard: list[tuple[str, EndReason | None]] = []
    here.on_expired(lambda session: heard.append((session.id, session.end_reason)))
    await here.sessions.create("session")

    rotated = await here.sessions.rotate("session")
    await here.sessions.cleanup_expired()
    assert [] == heard

    await here.sessions.delete(rotated.id)
    assert [(rotated.id, "deleted")] == heard


async def test_f95_updates_at_the_same_moment_are_in_the_new_session_or_refused(
    here: SessionLayer, there: SessionLayer
) -> None:
    await here.sessions.create("session", state={"n": 0})

    def plus_one(state: dict[str, int]) -> dict[str, int]:
        return {"n": state["n"] + 1}

    outcomes = await all_at_once(
        *[partial(here.sessions.update, "session", plus_one) for _ in range(20)],
        partial(there.sessions.rotate, "session"),
        *[partial(there.sessions.update, "session", plus_one) for _ in range(20)],
    )

    [rotated] = [outcome for outcome in outcomes if isinstance(outcome, Session)]
    counted = [outcome for outcome in outcomes if isinstance(outcome, dict)]
    assert {"n": len(counted)} == await here.sessions.state(rotated.id)
