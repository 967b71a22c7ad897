"""SessionStore.create: never more than are admitted, and no id before its handlers have run."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.errors import LimitExceededError, SessionExistsError, UnhandledError
from mcpsession.records import Admission, Filter, Session
from tests.contract.conftest import Join
from tests.contract.given import a_session, end, enter, expire, keys, living, record, terminate


async def admit(backend: Backend, *sessions: Session, **limits: int) -> list[Session]:
    return list(await backend.sessions.create(sessions, admission=Admission(**limits)))


async def admitted(backend: Backend, sessions: list[Session], **limits: int) -> list[str]:
    """The ids of those that came in, of many who came at once."""
    came_in: list[str] = []

    async def come(session: Session) -> None:
        try:
            await admit(backend, session, **limits)
        except LimitExceededError:
            return
        came_in.append(session.id)

    async with anyio.create_task_group() as tasks:
        for session in sessions:
            tasks.start_soon(come, session)
    return sorted(came_in)


# how many


async def test_one_more_than_may_live_is_refused(backend: Backend) -> None:
    await admit(backend, Session("a"), max_sessions=2)
    await admit(backend, Session("b"), max_sessions=2)

    with pytest.raises(LimitExceededError) as caught:
        await admit(backend, Session("c"), max_sessions=2)

    assert ("max_sessions", 2) == (caught.value.limit, caught.value.allowed)
    assert ["a", "b"] == await living(backend)
    assert await backend.log.read("c", "s", 0, 10) is None
    await admit(backend, Session("c"), max_sessions=3)


async def test_only_those_that_live_count(backend: Backend) -> None:
    await expire(backend, "expired")
    await a_session(backend, "deleted")
    await a_session(backend, "terminated")
    await end(backend, "deleted", claim=True)
    await terminate(backend, "terminated")

    await admit(backend, Session("a"), max_sessions=1)
    # In the place of a dead one as well as of none.
    with pytest.raises(LimitExceededError):
        await admit(backend, Session("expired"), max_sessions=1)


async def test_many_come_in_together_or_not_at_all(backend: Backend) -> None:
    with pytest.raises(LimitExceededError):
        await admit(backend, Session("a"), Session("b"), Session("c"), max_sessions=2)
    assert [] == await living(backend)

    await admit(backend, Session("a"), Session("b"), max_sessions=2)
    assert ["a", "b"] == await living(backend)


async def test_an_id_in_use_is_said_before_a_limit_is(backend: Backend) -> None:
    """Whoever wants the session that is there gets it, however full it is."""
    await a_session(backend)

    with pytest.raises(SessionExistsError):
        await admit(backend, Session("session"), max_sessions=1)


async def test_an_owner_is_somebody_and_the_anonymous_are_not(backend: Backend) -> None:
    await admit(backend, Session("a", owner="alice"), max_per_owner=1)
    await admit(backend, Session("b", owner="bob"), max_per_owner=1)
    await admit(backend, Session("1"), Session("2"), max_per_owner=1)
    await admit(backend, Session("3"), max_per_owner=1)

    with pytest.raises(LimitExceededError) as caught:
        await admit(backend, Session("c", owner="carol"), Session("again", owner="alice"), max_per_owner=1)

    assert ("max_sessions_per_owner", 1) == (caught.value.limit, caught.value.allowed)
    assert ["1", "2", "3", "a", "b"] == await living(backend)
    await end(backend, "a")
    await admit(backend, Session("again", owner="alice"), max_per_owner=1)


async def test_of_fifty_at_once_exactly_as_many_come_in_as_may(backend: Backend) -> None:
    came_in = await admitted(backend, [Session(f"{number:02}") for number in range(50)], max_sessions=7)

    assert 7 == len(came_in)
    assert came_in == await living(backend)


async def test_of_fifty_at_once_each_owner_gets_exactly_its_share(backend: Backend) -> None:
    many = [Session(f"{number:02}", owner="alice" if number % 2 else "bob") for number in range(50)]

    await admitted(backend, many, max_per_owner=4)

    assert (4, 4) == (
        await backend.directory.count(Filter(owner="alice")),
        await backend.directory.count(Filter(owner="bob")),
    )


async def test_both_limits_hold_at_once(backend: Backend) -> None:
    many = [Session(f"{number:02}", owner=f"{number % 5}") for number in range(50)]

    came_in = await admitted(backend, many, max_sessions=8, max_per_owner=2)

    assert 8 == len(came_in)
    counts = [await backend.directory.count(Filter(owner=f"{number}")) for number in range(5)]
    assert 2 == max(counts)
    assert 8 == sum(counts)


async def test_groups_at_once_are_exact_too(backend: Backend) -> None:
    outcomes: list[bool] = []

    async def come(group: int) -> None:
        try:
            await admit(backend, *(Session(f"{group}-{n}") for n in range(3)), max_sessions=10)
        except LimitExceededError:
            outcomes.append(False)
        else:
            outcomes.append(True)

    async with anyio.create_task_group() as tasks:
        for group in range(10):
            tasks.start_soon(come, group)

    assert 3 == outcomes.count(True)
    assert 9 == len(await living(backend))


async def test_another_namespaces_sessions_do_not_count(backend: Backend, neighbour: Backend) -> None:
    await admit(backend, Session("a", owner="alice"), max_sessions=1, max_per_owner=1)

    await admit(neighbour, Session("a", owner="alice"), max_sessions=1, max_per_owner=1)


# before the handlers have run


async def test_the_id_of_an_expired_session_is_not_free_before_its_handlers_have_begun(
    backend: Backend, join: Join
) -> None:
    await join("a")
    old = await expire(backend, ttl=0.05)

    with pytest.raises(UnhandledError) as caught:
        await enter(backend, Session("session"), handled=True)
    assert ["session"] == list(caught.value.session_ids)

    [claimed] = await backend.reaping.claim(10, by="a")
    # A handler that replaces its own session does not block.
    await enter(backend, Session("session", owner="new"), handled=True)

    assert old.incarnation == claimed.incarnation
    assert 0 == await backend.reaping.remove(keys(claimed), by="a")
    assert "new" == (await record(backend)).owner


async def test_every_dead_session_that_is_in_the_way_is_named(backend: Backend) -> None:
    for name in ("one", "two"):
        await expire(backend, name)

    with pytest.raises(UnhandledError) as caught:
        await backend.sessions.create(
            [Session(name) for name in ("two", "free", "one")], admission=Admission(), handled=True
        )

    assert ["one", "two"] == sorted(caught.value.session_ids)
    assert [] == await living(backend)


async def test_a_dead_claimants_session_has_died_with_its_handlers(
    backend: Backend, join: Join, registry: ReplicaRegistry
) -> None:
    await join("a", "b")
    await expire(backend, "expired")
    await a_session(backend, "deleted")
    [_] = await backend.reaping.claim(10, by="a")
    await end(backend, "deleted", sender="a", claim=True)
    await registry.leave("a")

    for name in ("expired", "deleted"):
        with pytest.raises(UnhandledError):
            await enter(backend, Session(name), handled=True)
    assert 2 == len(await backend.reaping.claim(10, by="b"))
    for name in ("expired", "deleted"):
        await enter(backend, Session(name), handled=True)


async def test_a_session_that_was_ended_without_handlers_owes_them_nothing(backend: Backend) -> None:
    await a_session(backend)
    await end(backend, claim=False)

    await enter(backend, Session("session"), handled=True)


async def test_a_session_in_its_enders_hands_does_not_block(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    ended = await end(backend, sender="a", claim=True)

    await enter(backend, Session("session", owner="new"), handled=True)

    assert 0 == await backend.reaping.remove(keys(*ended.sessions), by="a")
    assert "new" == (await record(backend)).owner


async def test_who_has_no_handlers_does_not_wait_for_those_of_others(backend: Backend, join: Join) -> None:
    await join("a")
    await expire(backend, "expired")
    await expire(backend, "claimed")
    await backend.reaping.claim(1, by="a", only=["claimed"])

    for name in ("expired", "claimed"):
        await enter(backend, Session(name), handled=False)


async def test_an_id_in_use_is_said_before_handlers_are_asked_for(backend: Backend) -> None:
    await expire(backend, "expired")
    await a_session(backend, "taken")

    with pytest.raises(SessionExistsError):
        await backend.sessions.create([Session("expired"), Session("taken")], admission=Admission(), handled=True)
