"""`layer.sessions.of(owner)`: another owner's session, an expired one and one that never was are the same to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mcpsession import SessionLayer
from mcpsession.errors import SessionNotFoundError
from mcpsession.records import Session
from mcpsession.sessions import Sessions
from tests.sessions.replicas import Place, get, timeless

Verb = Callable[[Sessions, str], Awaitable[Any]]


async def walked(sessions: Sessions) -> list[str]:
    return [session.id async for session in sessions.each()]


# What each verb says of a session that is not there: what it returns, or the error that it raises.
VERBS: dict[str, tuple[Verb, object]] = {
    "get": (lambda sessions, id_: sessions.get(id_), None),
    "get_many": (lambda sessions, id_: sessions.get_many([id_]), {}),
    "retrieve": (lambda sessions, id_: sessions.retrieve(id_), None),
    "touch": (lambda sessions, id_: sessions.touch(id_), False),
    "touch strictly": (lambda sessions, id_: sessions.touch(id_, strict=True), SessionNotFoundError),
    "touch_many": (lambda sessions, id_: sessions.touch_many([id_]), set()),
    "set_ttl": (lambda sessions, id_: sessions.set_ttl(id_, 5.0), False),
    "set_ttl to never": (lambda sessions, id_: sessions.set_ttl(id_, None), False),
    "set_ttl strictly": (lambda sessions, id_: sessions.set_ttl(id_, 5.0, strict=True), SessionNotFoundError),
    "state": (lambda sessions, id_: sessions.state(id_), SessionNotFoundError),
    "merge_state": (lambda sessions, id_: sessions.merge_state(id_, {"n": 2}), SessionNotFoundError),
    "merge nothing": (lambda sessions, id_: sessions.merge_state(id_, None), SessionNotFoundError),
    "update": (lambda sessions, id_: sessions.update(id_, lambda _: {"n": 2}), SessionNotFoundError),
    "compare_and_set": (lambda sessions, id_: sessions.compare_and_set(id_, 1, {"n": 2}), SessionNotFoundError),
    "subscribe": (lambda sessions, id_: sessions.subscribe(id_, "test://1"), SessionNotFoundError),
    "unsubscribe": (lambda sessions, id_: sessions.unsubscribe(id_, "test://1"), SessionNotFoundError),
    "subscriptions": (lambda sessions, id_: sessions.subscriptions(id_), []),
    "rotate": (lambda sessions, id_: sessions.rotate(id_), SessionNotFoundError),
    "rotate to oneself": (lambda sessions, id_: sessions.rotate(id_, new_owner="alice"), SessionNotFoundError),
    "delete": (lambda sessions, id_: sessions.delete(id_), False),
    "delete_many": (lambda sessions, id_: sessions.delete_many([id_]), set()),
    "close": (lambda sessions, id_: sessions.close(id_), SessionNotFoundError),
    "terminate": (lambda sessions, id_: sessions.terminate(id_), False),
    "clear_all": (lambda sessions, _: sessions.clear_all(confirm=True), 0),
    "list": (lambda sessions, _: sessions.list(), []),
    "list of its own": (lambda sessions, _: sessions.list(owner="alice"), []),
    "each": (lambda sessions, _: walked(sessions), []),
    "count": (lambda sessions, _: sessions.count(), 0),
    "claim": (lambda sessions, id_: sessions.initialization.claim(id_), SessionNotFoundError),
    "complete": (
        lambda sessions, id_: sessions.initialization.complete(
            id_, "claim", protocol_version="2025-11-25", client_info={}
        ),
        SessionNotFoundError,
    ),
    "release": (lambda sessions, id_: sessions.initialization.release(id_, "claim"), False),
    "mark_initialized": (lambda sessions, id_: sessions.initialization.mark_initialized(id_), SessionNotFoundError),
    "fail": (lambda sessions, id_: sessions.initialization.fail(id_, "it broke"), SessionNotFoundError),
    "phase": (lambda sessions, id_: sessions.initialization.phase(id_), "closed"),
}


async def another_owners(place: Place, layer: SessionLayer) -> None:
    await layer.sessions.create("session", owner="bob", ttl=60.0, state={"n": 1})


async def anonymous(place: Place, layer: SessionLayer) -> None:
    await layer.sessions.create("session", ttl=60.0, state={"n": 1})


async def her_own_that_expired(place: Place, layer: SessionLayer) -> None:
    await layer.sessions.create("session", owner="alice", ttl=60.0, state={"n": 1})
    await place.expire("session")


async def her_own_that_was_terminated(place: Place, layer: SessionLayer) -> None:
    await layer.sessions.create("session", owner="alice", ttl=60.0, state={"n": 1})
    await layer.sessions.terminate("session")


async def never_created(place: Place, layer: SessionLayer) -> None:
    pass


async def said_by(verb: Verb, sessions: Sessions) -> object:
    try:
        return await verb(sessions, "session")
    except Exception as error:
        return type(error)


def lasting(session: Session | None) -> Session | None:
    return None if session is None else timeless(session)


@pytest.mark.parametrize(
    "bring", [another_owners, anonymous, her_own_that_expired, her_own_that_was_terminated, never_created]
)
async def test_every_verb_treats_them_alike_and_changes_nothing(
    place: Place,
    here: SessionLayer,
    there: SessionLayer,
    bring: Callable[[Place, SessionLayer], Awaitable[None]],
) -> None:
    await bring(place, here)
    before = lasting(await here.sessions.get("session", include_dead=True))

    answers = {name: await said_by(verb, there.sessions.of("alice")) for name, (verb, _) in VERBS.items()}

    assert {name: expected for name, (_, expected) in VERBS.items()} == answers
    assert before == lasting(await here.sessions.get("session", include_dead=True))


async def test_the_message_of_a_refusal_is_the_same_for_all(place: Place, here: SessionLayer) -> None:
    await here.sessions.create("hers", owner="bob")
    await here.sessions.create("expired", owner="alice")
    await place.expire("expired")

    messages = set()
    for session_id in ("hers", "expired", "missing"):
        with pytest.raises(SessionNotFoundError) as caught:
            await here.sessions.of("alice").state(session_id)
        messages.add(str(caught.value))

    assert 1 == len(messages)


async def test_a_verb_that_is_added_later_is_added_to_this_table() -> None:
    asks_for_no_session = {"create", "create_many", "ensure", "register", "new_session", "of", "stats"}
    asks_for_no_session |= {"cleanup_expired", "initialization"}
    verbs = {name for name in dir(Sessions) if not name.startswith("_")} - asks_for_no_session

    assert verbs <= {name.split(" ")[0] for name in VERBS}


async def test_an_owner_can_do_everything_with_its_own(here: SessionLayer, there: SessionLayer) -> None:
    alice = there.sessions.of("alice")
    created = await alice.create("session")
    assert "alice" == created.owner
    await here.sessions.create("hers", owner="bob")

    assert await alice.touch("session")
    assert {"n": 1} == await alice.merge_state("session", {"n": 1})
    assert await alice.set_ttl("session", 60.0)
    assert (["session"], 1) == ([session.id for session in await alice.list()], await alice.count())
    rotated = await alice.rotate("session")
    assert "alice" == rotated.owner
    assert await alice.delete(rotated.id)
    assert ["hers"] == [session.id for session in await here.sessions.list()]


async def test_the_expired_one_is_shown_to_its_owner_alone_who_asks_for_the_dead(
    place: Place, here: SessionLayer
) -> None:
    await here.sessions.create("session", owner="alice")
    await place.expire("session")

    assert "expired" == (await get(here, include_dead=True)).status
    assert await here.sessions.of("alice").get("session", include_dead=True) is not None
    assert await here.sessions.of("bob").get("session", include_dead=True) is None


async def test_an_owner_creates_and_asks_for_no_sessions_but_its_own(here: SessionLayer) -> None:
    alice = here.sessions.of("alice")

    for attempt in (
        lambda: alice.create("session", owner="bob"),
        lambda: alice.create("session", owner=""),
        lambda: alice.ensure("session", owner="bob"),
        lambda: alice.register("session", owner="bob"),
        lambda: alice.create_many([here.sessions.new_session(owner="bob")]),
        lambda: alice.list(owner="bob"),
        lambda: alice.count(owner=""),
    ):
        with pytest.raises(ValueError, match="one owner"):
            await attempt()
    with pytest.raises(ValueError, match="one owner"):
        alice.new_session(owner="bob")
    assert 0 == await here.sessions.count()


async def test_the_anonymous_are_an_owner_like_any(here: SessionLayer) -> None:
    await here.sessions.create("hers", owner="alice")
    await here.sessions.create("nobodys")
    nobody = here.sessions.of("")

    assert ["nobodys"] == [session.id for session in await nobody.list()]
    assert not await nobody.delete("hers")
    assert await nobody.delete("nobodys")
