"""Who a session is: its id, and what happens where there is one already. F1 to F5."""

from __future__ import annotations

import re
import secrets
from functools import partial

import pytest

from mcpsession import SessionLayer
from mcpsession.errors import InvalidSessionIdError, LimitExceededError, SessionExistsError
from mcpsession.model import IdForm, new_session_id
from tests.sessions.replicas import Place, all_at_once, get, given, said, speak, timeless

FORMS: dict[IdForm, str] = {
    "base64url": r"[A-Za-z0-9_-]{43}",
    "hex": r"[0-9a-f]{64}",
    "uuid4": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}


@pytest.mark.parametrize("form", FORMS)
def test_f01_minted_ids_are_unique_and_visible_ascii(form: IdForm) -> None:
    ids = {new_session_id(form, "mcp:") for _ in range(100_000)}

    assert 100_000 == len(ids)
    visible, shape = re.compile(r"[\x21-\x7e]+"), re.compile(f"mcp:{FORMS[form]}")
    assert all(visible.fullmatch(session_id) and shape.fullmatch(session_id) for session_id in ids)


@pytest.mark.parametrize("form", FORMS)
def test_f01_their_randomness_comes_from_secrets(form: IdForm, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int | None] = []
    real = secrets.token_bytes

    def token_bytes(nbytes: int | None = None) -> bytes:
        drawn.append(nbytes)
        return b"\xa5" * len(real(nbytes))

    monkeypatch.setattr(secrets, "token_bytes", token_bytes)

    assert new_session_id(form) == new_session_id(form)
    assert 2 == len(drawn)
    assert all(nbytes is not None and nbytes >= 16 for nbytes in drawn)


@pytest.mark.parametrize("form", FORMS)
async def test_f01_a_layer_mints_ids_of_the_form_that_was_chosen(place: Place, form: IdForm) -> None:
    async with place.replica(id_form=form, id_prefix="mcp_") as layer:
        minted = [
            (await layer.sessions.create()).id,
            layer.sessions.new_session().id,
            (await layer.sessions.rotate((await layer.sessions.create()).id)).id,
        ]

    assert all(re.fullmatch(f"mcp_{FORMS[form]}", session_id) for session_id in minted)


async def test_f02_an_id_can_be_chosen(here: SessionLayer, there: SessionLayer) -> None:
    for session_id in ("session-123", "!", "~", "a" * 128, "x:y/z?#[]@'\"\\%;"):
        assert session_id == (await here.sessions.create(session_id)).id
        assert session_id == (await get(there, session_id)).id


@pytest.mark.parametrize(
    "session_id", ["", " ", "a\n", "\na", "a b", "a\t", "a\x00", "\x7f", "ü", "\x80", "\ud800", "\uff11"], ids=repr
)
async def test_f02_an_id_that_no_client_could_send_is_refused(here: SessionLayer, session_id: str) -> None:
    for attempt in (
        lambda: here.sessions.create(session_id),
        lambda: here.sessions.register(session_id),
        lambda: here.sessions.ensure(session_id),
    ):
        with pytest.raises(InvalidSessionIdError):
            await attempt()
    with pytest.raises(InvalidSessionIdError):
        here.sessions.new_session(session_id)
    assert 0 == await here.sessions.count()


async def test_f02_an_id_that_is_too_long_is_refused(here: SessionLayer) -> None:
    for length in (129, 10_240):
        with pytest.raises(LimitExceededError) as caught:
            await here.sessions.create("a" * length)
        assert ("max_id_length", 128, length) == (caught.value.limit, caught.value.allowed, caught.value.actual)


async def test_f03_a_second_create_raises_with_the_existing_session(here: SessionLayer, there: SessionLayer) -> None:
    first = await here.sessions.create("session", metadata={"of": "first"})

    with pytest.raises(SessionExistsError) as caught:
        await there.sessions.create("session", metadata={"of": "second"})

    assert caught.value.existing is not None
    assert timeless(first) == timeless(caught.value.existing)
    assert {"of": "first"} == (await get(there)).metadata


async def test_f03_of_fifty_who_create_one_id_on_two_replicas_one_succeeds(
    here: SessionLayer, there: SessionLayer
) -> None:
    jobs = [
        partial((here if number % 2 else there).sessions.create, "session", metadata={"n": number})
        for number in range(50)
    ]

    outcomes = await all_at_once(*jobs)

    refused = [outcome for outcome in outcomes if isinstance(outcome, SessionExistsError)]
    [created] = [outcome for outcome in outcomes if not isinstance(outcome, SessionExistsError)]
    assert 49 == len(refused)
    assert [timeless(created)] * 49 == [timeless(error.existing) for error in refused if error.existing]


async def test_f04_replacing_begins_anew(here: SessionLayer, there: SessionLayer) -> None:
    old = await here.sessions.create("session", owner="alice", metadata={"k": 1}, state={"n": 1})
    await here.sessions.merge_state("session", {"n": 2})
    await speak(here, "session")

    new = await there.sessions.create("session", owner="alice", on_conflict="replace")

    assert old.created_at is not None
    assert new.created_at is not None
    assert old.created_at < new.created_at
    assert old.incarnation != new.incarnation
    for replica in (here, there):
        got = await get(replica)
        assert (new.incarnation, new.created_at, {}, {}, new.version, 0) == (
            got.incarnation,
            got.created_at,
            got.state,
            got.metadata,
            got.version,
            got.event_count,
        )
        assert await said(replica, "session") is None
    again = await here.sessions.register("session", owner="alice", state={"n": 3})
    assert ({"n": 3}, again.incarnation) == ((got := await get(there)).state, got.incarnation)


async def test_f04_another_owners_live_session_is_not_replaced(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session", owner="alice", state={"n": 1})
    before = await get(here)

    for sessions, fields in (
        (there.sessions, {"owner": "mallory"}),
        (there.sessions, {}),
        (there.sessions.of("mallory"), {}),
    ):
        with pytest.raises(SessionExistsError) as caught:
            await sessions.register("session", **fields)
        # That somebody has it is all that is said.
        assert caught.value.existing is None

    assert timeless(before) == timeless(await get(there))


async def test_f04_another_owners_expired_session_is(place: Place, here: SessionLayer) -> None:
    await here.sessions.create("session", owner="alice", state={"n": 1})
    await place.expire("session")

    await here.sessions.register("session", owner="bob")

    assert ("bob", {}) == ((got := await get(here)).owner, got.state)


async def test_f04_a_tombstone_is_not_replaced(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    await here.sessions.terminate("session")

    for attempt in (there.sessions.create, there.sessions.register, there.sessions.ensure):
        with pytest.raises(SessionExistsError) as caught:
            await attempt("session")
        assert caught.value.existing is None


async def test_f04_of_many_who_replace_at_once_the_last_stays(here: SessionLayer, there: SessionLayer) -> None:
    jobs = [
        partial((here if number % 2 else there).sessions.register, "session", state={"n": number})
        for number in range(10)
    ]

    outcomes = await all_at_once(*jobs)

    assert [] == [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    final = await get(here)
    assert final.incarnation in {session.incarnation for session in outcomes}
    assert timeless(final) == timeless(await get(there))


async def test_f05_a_session_is_created_once_and_then_attached_to(here: SessionLayer, there: SessionLayer) -> None:
    first, created = await here.sessions.ensure("session", metadata={"k": 1})
    again, created_again = await there.sessions.ensure("session", metadata={"k": 2})

    assert (True, False) == (created, created_again)
    assert first.created_at == again.created_at
    assert {"k": 1} == again.metadata
    assert timeless(first) == timeless(
        await there.sessions.create("session", metadata={"k": 3}, on_conflict="existing")
    )


async def test_f05_of_many_who_want_it_at_once_one_creates_it(here: SessionLayer, there: SessionLayer) -> None:
    jobs = [partial((here if number % 2 else there).sessions.ensure, "session") for number in range(20)]

    outcomes = await all_at_once(*jobs)

    assert [False] * 19 + [True] == sorted(created for _, created in outcomes)
    assert 1 == len({session.incarnation for session, _ in outcomes})


async def test_f05_nobody_attaches_to_another_owners_session(place: Place, here: SessionLayer) -> None:
    await here.sessions.create("session", owner="alice")

    for sessions, fields in ((here.sessions, {"owner": "bob"}), (here.sessions.of("bob"), {})):
        with pytest.raises(SessionExistsError) as caught:
            await sessions.ensure("session", **fields)
        assert caught.value.existing is None
    await place.expire("session")
    session, created = await here.sessions.ensure("session", owner="bob")
    assert (True, "bob") == (created, session.owner)


@given(max_sessions=1)
async def test_f05_a_session_that_is_there_is_attached_to_however_full_it_is(here: SessionLayer) -> None:
    await here.sessions.create("session")

    assert (await here.sessions.ensure("session"))[1] is False
