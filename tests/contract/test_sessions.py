"""SessionStore: one liveness for all, and all or nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.errors import SessionExistsError, StoreError
from mcpsession.model import Session
from tests.contract.conftest import Join
from tests.contract.given import a_session, expire, expired, given, messages, opened, read

# create


async def test_a_session_is_read_back_as_it_was_created(backend: Backend) -> None:
    created = Session(
        id="session",
        owner="https://issuer|alice",
        incarnation=3,
        protocol_version="2025-11-25",
        client_params='{"capabilities":{"elicitation":{}}}',
        initialized=True,
        log_level="warning",
        metadata={"team": "ünicode", "numbers": [1, 2.5, None]},
        ttl=60.0,
    )

    await backend.sessions.create(created, None)

    got = await backend.sessions.get("session")
    assert got is not None
    fields = ("id", "owner", "incarnation", "protocol_version", "client_params", "initialized", "log_level", "ttl")
    assert [getattr(created, field) for field in fields] == [getattr(got, field) for field in fields]
    assert dict(created.metadata) == dict(got.metadata)
    assert "live" == got.status
    assert got.created_at is not None
    assert got.created_at == got.last_active_at
    assert got.created_at.tzinfo is not None


async def test_a_new_session_has_an_empty_standalone_stream(backend: Backend) -> None:
    await a_session(backend)

    state = await read(backend, stream_id="s")
    assert (0, 0, False, False, None, []) == (
        state.last_seq,
        state.trimmed_seq,
        state.finished,
        state.orphaned,
        state.producer,
        list(state.events),
    )


async def test_the_stream_that_answered_initialize_is_entered_finished(backend: Backend) -> None:
    opening = opened("prime", "result", request_ids=("0",), finished=True)

    await backend.sessions.create(Session(id="session"), opening)

    state = await read(backend)
    assert (2, True, False, False, ("0",)) == (
        state.last_seq,
        state.finished,
        state.taken_over,
        state.orphaned,
        state.request_ids,
    )
    assert ["prime", "result"] == await messages(backend)


async def test_a_second_session_of_the_same_id_is_refused_and_leaves_nothing(backend: Backend) -> None:
    await a_session(backend, owner="first")

    with pytest.raises(SessionExistsError):
        await backend.sessions.create(Session(id="session", owner="second"), opened("result", finished=True))

    got = await backend.sessions.get("session")
    assert got is not None
    assert "first" == got.owner
    assert await backend.log.read("session", "stream", 0, 10) is None


async def test_a_session_whose_opening_cannot_be_stored_leaves_nothing(backend: Backend) -> None:
    with pytest.raises(StoreError):
        await backend.sessions.create(Session(id="session"), opened("fine", "\x00", finished=True))

    assert await backend.sessions.get("session") is None
    assert await backend.log.read("session", "s", 0, 10) is None
    assert await backend.log.read("session", "stream", 0, 10) is None
    await a_session(backend)


async def test_of_many_who_create_one_id_at_once_one_succeeds(backend: Backend) -> None:
    outcomes: list[str | None] = []

    async def create(number: int) -> None:
        try:
            await backend.sessions.create(Session(id="session", owner=str(number)), None)
        except SessionExistsError:
            outcomes.append(None)
        else:
            outcomes.append(str(number))

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(create, number)

    [winner] = [outcome for outcome in outcomes if outcome is not None]
    got = await backend.sessions.get("session")
    assert got is not None
    assert winner == got.owner


async def test_the_id_of_a_terminated_session_stays_dead(backend: Backend) -> None:
    await a_session(backend)
    await backend.sessions.terminate("session", "", sender="a")

    with pytest.raises(SessionExistsError):
        await a_session(backend)
    assert await backend.sessions.get("session") is None


async def test_the_id_of_an_expired_session_cannot_be_used_again(backend: Backend) -> None:
    await expire(backend)

    with pytest.raises(SessionExistsError):
        await a_session(backend)


# what it says of its life


@given(touch_flush=2.0, touch_step=3.0)
async def test_a_session_lives_for_its_ttl_and_the_slack(backend: Backend) -> None:
    await a_session(backend, ttl=100.0)

    got = await backend.sessions.get("session")
    assert got is not None
    assert got.remaining is not None
    assert 100.0 < got.remaining <= 105.0


async def test_a_session_without_ttl_lives_for_ever(backend: Backend) -> None:
    await a_session(backend, ttl=None)

    got = await backend.sessions.get("session")
    assert got is not None
    assert (None, None) == (got.ttl, got.remaining)


async def test_reading_a_session_does_not_touch_it(backend: Backend) -> None:
    await a_session(backend, ttl=100.0)

    before, after = await backend.sessions.get("session"), await backend.sessions.get("session")

    assert before is not None
    assert after is not None
    assert before.last_active_at == after.last_active_at
    assert before.remaining is not None
    assert after.remaining is not None
    assert after.remaining <= before.remaining


# one liveness


async def never_created(backend: Backend) -> None:
    pass


async def terminated(backend: Backend) -> None:
    await a_session(backend)
    await backend.sessions.terminate("session", "", sender="a")


@pytest.mark.parametrize("end", [never_created, terminated, expire])
async def test_a_session_that_is_not_live_is_so_to_every_method(
    backend: Backend, end: Callable[[Backend], Awaitable[None]]
) -> None:
    await end(backend)
    sessions, position = backend.sessions, await backend.mailbox.position()

    assert await sessions.get("session") is None
    assert 0 == await sessions.count(10)
    assert await sessions.mark_initialized("session") is False
    assert await sessions.set_log_level("session", "debug", sender="a") is False
    assert {} == await sessions.touch(["session"])
    assert await sessions.terminate("session", "", sender="a") is None
    assert await sessions.load_state("session") is None
    assert await sessions.save_state("session", 1, "{}") is None
    assert await backend.holds.take("session", "a") is None
    assert await backend.holds.settle("session", 0, force=True) is None
    news = await backend.mailbox.news(position)
    assert news is not None
    assert [] == list(news[0])


async def test_a_session_that_is_held_when_it_expires_is_not_live_to_its_holder(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend, ttl=0.5)
    hold = await backend.holds.take("session", "a")
    assert hold is not None
    await expired(backend)

    assert await backend.holds.settle("session", hold.epoch, force=False) is None
    assert await backend.holds.take("session", "a") is None


async def test_only_live_sessions_are_counted_and_no_more_than_asked_for(backend: Backend) -> None:
    await expire(backend, "expired")
    for name in ("a", "b", "c", "terminated"):
        await a_session(backend, name)
    await backend.sessions.terminate("terminated", "", sender="a")

    assert 3 == await backend.sessions.count(10)
    assert 2 == await backend.sessions.count(2)


# namespaces


async def test_the_same_id_is_another_session_in_another_namespace(backend: Backend, neighbour: Backend) -> None:
    await a_session(backend, owner="ours")

    assert await neighbour.sessions.get("session") is None
    assert 0 == await neighbour.sessions.count(10)
    assert await neighbour.sessions.terminate("session", "ours", sender="a") is None
    await a_session(neighbour, owner="theirs")
    await neighbour.sessions.terminate("session", "theirs", sender="a")

    got = await backend.sessions.get("session")
    assert got is not None
    assert "ours" == got.owner
