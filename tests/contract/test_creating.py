"""SessionStore.create: all or none, and only ids that are free."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.errors import SessionExistsError, StoreError
from mcpsession.records import Admission, Session
from tests.contract.given import (
    a_session,
    dead_record,
    enter,
    living,
    messages,
    opened,
    read,
    record,
    terminate,
)


async def create(backend: Backend, *sessions: Session) -> list[Session]:
    return list(await backend.sessions.create(sessions, admission=Admission()))


# what is entered


async def test_it_returns_them_as_they_are_stored_in_order(backend: Backend) -> None:
    given_ones = [
        Session("z", owner="alice", ttl=60.0, state={"n": (1, 2)}, metadata={"k": "ü"}),
        Session("a", transport="stdio"),
        Session("m", log_level="error", protocol_version="2025-11-25", client_params="{}", initialized=True),
    ]

    stored = await create(backend, *given_ones)

    assert ["z", "a", "m"] == [session.id for session in stored]
    found = {session.id: session for session in await backend.directory.records(["z", "a", "m"])}
    for session in stored:
        read_back = found[session.id]
        for name in Session.__dataclass_fields__:
            if name != "remaining":
                assert getattr(read_back, name) == getattr(session, name), name
    assert {"n": [1, 2]} == stored[0].state
    assert stored[0].remaining == pytest.approx(60.0, abs=1.0)


async def test_entering_nothing_is_free(backend: Backend) -> None:
    assert [] == await create(backend)


async def test_what_a_session_says_of_its_past_is_not_believed(backend: Backend) -> None:
    """A record that was read may be entered again under another id: it is a new session."""
    old = await a_session(backend, "old", ttl=60.0)
    await backend.sessions.save_state("old", old.version, '{"n": 1}')
    await terminate(backend, "old")
    dead = await dead_record(backend, "old")
    assert dead is not None

    new = await enter(backend, Session("new", status="terminated", end_reason="terminated", ttl=60.0))

    assert old.created_at is not None
    assert new.created_at is not None
    assert old.created_at < new.created_at
    got = await record(backend, "new")
    assert ("live", None, None) == (got.status, got.end_reason, got.ended_at)


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

    await enter(backend, Session("session"), opening)

    state = await read(backend)
    assert (2, True, False, False, ("0",)) == (
        state.last_seq,
        state.finished,
        state.taken_over,
        state.orphaned,
        state.request_ids,
    )
    assert ["prime", "result"] == await messages(backend)
    assert 2 == (await record(backend)).event_count


# all or none


async def test_a_second_session_of_the_same_id_is_refused_and_leaves_nothing(backend: Backend) -> None:
    await a_session(backend, owner="first")

    with pytest.raises(SessionExistsError):
        await enter(backend, Session("session", owner="second"), opened("result", finished=True))

    assert "first" == (await record(backend)).owner
    assert await backend.log.read("session", "stream", 0, 10) is None


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_of_many_all_are_created_or_none(backend: Backend, place: int) -> None:
    await a_session(backend, "taken")
    many = [Session("a"), Session("b")]
    many.insert(place, Session("taken"))

    with pytest.raises(SessionExistsError) as caught:
        await create(backend, *many)

    assert "taken" == caught.value.session_id
    assert ["taken"] == await living(backend)
    assert await backend.log.read("a", "s", 0, 10) is None
    assert ["a", "b"] == [session.id for session in await create(backend, Session("a"), Session("b"))]


async def test_many_with_one_id_twice_are_refused(backend: Backend) -> None:
    with pytest.raises(SessionExistsError) as caught:
        await create(backend, Session("a"), Session("b"), Session("a"))

    assert "a" == caught.value.session_id
    assert [] == await living(backend)


async def test_a_session_whose_opening_cannot_be_stored_leaves_nothing(backend: Backend) -> None:
    with pytest.raises(StoreError):
        await enter(backend, Session("session"), opened("fine", "\x00", finished=True))

    assert await backend.sessions.get("session") is None
    assert await backend.log.read("session", "s", 0, 10) is None
    assert await backend.log.read("session", "stream", 0, 10) is None
    await a_session(backend)


async def test_of_many_who_create_one_id_at_once_one_succeeds(backend: Backend) -> None:
    outcomes: list[str | None] = []

    async def try_to_create(number: int) -> None:
        try:
            await a_session(backend, owner=str(number))
        except SessionExistsError:
            outcomes.append(None)
        else:
            outcomes.append(str(number))

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(try_to_create, number)

    [winner] = [outcome for outcome in outcomes if outcome is not None]
    assert winner == (await record(backend)).owner


async def test_of_those_who_create_the_same_many_at_once_one_succeeds_whatever_their_order(backend: Backend) -> None:
    ids = [f"{number:02}" for number in range(20)]
    winners: list[str] = []

    async def try_to_create(owner: str, ordered: list[str]) -> None:
        try:
            await create(backend, *(Session(session_id, owner=owner) for session_id in ordered))
        except SessionExistsError:
            return
        winners.append(owner)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(try_to_create, f"{number}", ids if number % 2 else ids[::-1])

    [winner] = winners
    assert ids == await living(backend)
    assert {winner} == {session.owner for session in await backend.directory.records(ids)}
