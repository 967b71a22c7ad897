"""What a session's record says. F8."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from mcpsession import Session, SessionLayer
from mcpsession.records import Change
from tests.sessions.replicas import Place, get, speak, timeless

CLIENT = {"name": "client", "version": "1.2", "title": "Ünicode"}
CAPABILITIES = {"elicitation": {}, "roots": {"listChanged": True}}


async def full_session(here: SessionLayer) -> Session:
    """A session in which every field that can say something does."""
    created = await here.sessions.create(
        "session",
        owner="https://issuer|alice",
        ttl=60.0,
        metadata={"team": "ünicode", "deep": {"list": [1, 2.5, None, True, "\x00\ud800"]}},
        state={"n": 1},
        transport="stdio",
    )
    claim = await here.sessions.initialization.claim("session")
    await here.sessions.initialization.complete(
        "session", claim, protocol_version="2025-11-25", client_info=CLIENT, client_capabilities=CAPABILITIES
    )
    await here.sessions.initialization.mark_initialized("session")
    await here.sessions.merge_state("session", {"m": [1]})
    await speak(here, "session")
    return created


async def test_f08_every_field_comes_back_on_the_other_replica(
    place: Place, here: SessionLayer, there: SessionLayer
) -> None:
    created = await full_session(here)
    async with here.running() as parts:
        await parts.sessions.change("session", Change(log_level="error"), sender="test")

    got = await get(there)

    expected: dict[str, Any] = {
        "id": "session",
        "owner": "https://issuer|alice",
        "namespace": place.settings["namespace"],
        "incarnation": created.incarnation,
        "transport": "stdio",
        "protocol_version": "2025-11-25",
        "client_params": got.client_params,
        "initialized": True,
        "initializing": False,
        "failure": None,
        "log_level": "error",
        "metadata": {"team": "ünicode", "deep": {"list": [1, 2.5, None, True, "\x00\ud800"]}},
        "state": {"n": 1, "m": [1]},
        "version": created.version + 1,
        "ttl": 60.0,
        "created_at": created.created_at,
        "last_active_at": got.last_active_at,
        "expires_at": got.expires_at,
        "ended_at": None,
        "end_reason": None,
        "event_count": 3,
        "status": "live",
    }
    assert {field.name for field in fields(Session)} == {*expected, "remaining"}
    assert expected == {name: getattr(got, name) for name in expected}
    assert (CLIENT, CAPABILITIES, "initialized") == (got.client_info, got.client_capabilities, got.phase)
    assert got.created_at is not None
    assert got.last_active_at is not None
    assert got.expires_at is not None
    assert got.remaining is not None
    assert got.created_at < got.last_active_at < got.expires_at
    assert timedelta(seconds=60) <= got.expires_at - got.created_at
    assert 55 < got.remaining < 61
    assert timeless(got) == timeless(await get(here))


async def test_f08_what_was_given_is_what_is_returned_and_what_is_read(here: SessionLayer, there: SessionLayer) -> None:
    created = await here.sessions.create("session", owner="alice", metadata={"k": [1]}, state={"n": 1})

    assert ("alice", {"k": [1]}, {"n": 1}, "live", "pre_init") == (
        created.owner,
        created.metadata,
        created.state,
        created.status,
        created.phase,
    )
    assert timeless(created) == timeless(await get(there))


async def test_f08_records_are_copies(here: SessionLayer) -> None:
    metadata, state = {"list": [1]}, {"list": [1]}
    created = await here.sessions.create("session", metadata=metadata, state=state)
    for mine in (metadata, state, created.metadata, created.state):
        mine["list"].append(2)
    got = await get(here)
    got.state["list"].append(3)
    (await here.sessions.state("session"))["list"].append(4)

    again = await get(here)
    assert ({"list": [1]}, {"list": [1]}) == (again.metadata, again.state)


async def test_f08_lists_tell_the_same_as_records_but_for_the_number_of_messages(
    here: SessionLayer, there: SessionLayer
) -> None:
    await full_session(here)
    got = await get(there)

    [listed] = await there.sessions.list()

    assert listed.event_count is None
    for field in fields(Session):
        if field.name not in ("remaining", "event_count"):
            assert getattr(got, field.name) == getattr(listed, field.name), field.name


@pytest.mark.parametrize("text", ["ü", "\u2028", "😀", '"quoted"', "back\\slash", "tab\t", "' OR 1=1; --", "%s", "{}"])
async def test_f08_an_owner_is_any_text(here: SessionLayer, there: SessionLayer, text: str) -> None:
    await here.sessions.create("session", owner=text, transport=text)

    got = await there.sessions.of(text).get("session")

    assert got is not None
    assert (text, text) == (got.owner, got.transport)
    assert 1 == await there.sessions.count(owner=text)
