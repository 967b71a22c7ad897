"""SessionStore: one liveness for all, and what a session says of its life."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.model import NewEvent
from mcpsession.records import Change, Ended, Filter, Session
from tests.contract.conftest import Join
from tests.contract.given import (
    a_session,
    end,
    enter,
    expire,
    expired,
    given,
    living,
    mail_since,
    record,
    terminate,
)

# what a request needs


async def test_a_session_is_read_back_as_it_was_created(backend: Backend) -> None:
    created = Session(
        id="session",
        owner="https://issuer|alice",
        incarnation=3,
        transport="stdio",
        protocol_version="2025-11-25",
        client_params='{"capabilities":{"elicitation":{}}}',
        initialized=True,
        log_level="warning",
        metadata={"team": "ünicode", "numbers": [1, 2.5, None]},
        ttl=60.0,
    )

    await enter(backend, created)

    got = await backend.sessions.get("session")
    assert got is not None
    fields = ("id", "owner", "incarnation", "protocol_version", "client_params", "initialized", "log_level", "ttl")
    assert [getattr(created, field) for field in fields] == [getattr(got, field) for field in fields]
    assert dict(created.metadata) == dict(got.metadata)
    assert "live" == got.status
    assert got.created_at is not None
    assert got.created_at == got.last_active_at
    assert got.created_at.tzinfo is not None


async def test_what_was_read_is_a_copy(backend: Backend) -> None:
    metadata = {"list": [1]}
    await a_session(backend, metadata=metadata)
    metadata["list"].append(2)
    got = await backend.sessions.get("session")
    assert got is not None
    got.metadata["list"].append(3)

    again = await backend.sessions.get("session")

    assert again is not None
    assert {"list": [1]} == again.metadata


async def test_reading_a_session_does_not_touch_it(backend: Backend) -> None:
    await a_session(backend, ttl=100.0)

    before, after = await backend.sessions.get("session"), await backend.sessions.get("session")

    assert before is not None
    assert after is not None
    assert before.last_active_at == after.last_active_at
    assert before.remaining is not None
    assert after.remaining is not None
    assert after.remaining <= before.remaining


# what it says of its life


@given(touch_flush=2.0, touch_step=3.0)
async def test_a_session_lives_for_its_ttl_and_the_slack(backend: Backend) -> None:
    await a_session(backend, ttl=100.0)

    got = await backend.sessions.get("session")
    assert got is not None
    assert got.remaining is not None
    assert 100.0 < got.remaining <= 105.0


@given(touch_flush=2.0, touch_step=60.0)
async def test_the_slack_of_a_short_life_is_a_tenth_of_it(backend: Backend) -> None:
    await a_session(backend, ttl=100.0)

    got = await backend.sessions.get("session")
    assert got is not None
    assert got.remaining is not None
    assert 111.0 < got.remaining <= 112.0


async def test_a_session_without_ttl_lives_for_ever(backend: Backend) -> None:
    await a_session(backend, ttl=None)

    got = await backend.sessions.get("session")
    assert got is not None
    assert (None, None) == (got.ttl, got.remaining)
    assert (await record(backend)).expires_at is None


# one liveness


async def never_created(backend: Backend) -> None:
    pass


async def expired_one(backend: Backend) -> None:
    await expire(backend)


async def deleted(backend: Backend) -> None:
    await a_session(backend)
    await end(backend)


async def terminated(backend: Backend) -> None:
    await a_session(backend)
    await terminate(backend)


async def ended_and_claimed(backend: Backend) -> None:
    await a_session(backend)
    await end(backend, claim=True)


async def expired_and_claimed(backend: Backend) -> None:
    await expire(backend)
    [_] = await backend.reaping.claim(10, by="a")


async def terminated_and_removed(backend: Backend) -> None:
    await a_session(backend)
    await terminate(backend)
    await backend.reaping.reap(10)


async def rotated_away(backend: Backend) -> None:
    await a_session(backend)
    await backend.sessions.rotate("session", "new", owner=None, new_owner=None, sender="a")
    await end(backend, "new")


@pytest.mark.parametrize(
    "bring_about",
    [
        never_created,
        expired_one,
        deleted,
        terminated,
        ended_and_claimed,
        expired_and_claimed,
        terminated_and_removed,
        rotated_away,
    ],
)
async def test_a_session_that_is_not_live_is_so_to_every_method(
    backend: Backend, join: Join, bring_about: Callable[[Backend], Awaitable[None]]
) -> None:
    await join("a")
    await bring_about(backend)
    sessions, position = backend.sessions, await backend.mailbox.position()

    assert await sessions.get("session") is None
    assert {} == await sessions.touch(["session"])
    for change in (Change(ttl=5.0), Change(ttl=None), Change(log_level="debug"), Change(failure="broken")):
        assert await sessions.change("session", change, sender="a") is False
    assert Ended() == await end(backend, claim=True)
    assert Ended() == await terminate(backend)
    assert Ended() == await sessions.rotate("session", "other", owner=None, new_owner=None, sender="a")
    assert await sessions.load_state("session") is None
    assert await sessions.save_state("session", 1, "{}") is None
    assert await backend.initialization.claim("session", "claim", 30.0) is False
    assert await backend.initialization.complete("session", "claim", "2025-11-25", "{}") is False
    assert await backend.initialization.mark_initialized("session") is False
    assert [] == list(await backend.directory.records(["session"]))
    assert [] == await living(backend)
    assert await backend.subscriptions.subscribe("session", "file:///a", None, sender="a") is False
    assert [] == list(await backend.subscriptions.uris("session"))
    assert await backend.holds.take("session", "a") is None
    assert await backend.holds.settle("session", 0, force=True) is None
    assert {} == dict(await backend.log.append_standalone([("session", NewEvent("lost"))]))
    assert [] == await mail_since(backend, position)


async def test_a_session_that_is_held_when_it_expires_is_not_live_to_its_holder(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend, ttl=0.5)
    hold = await backend.holds.take("session", "a")
    assert hold is not None
    await expired(backend)

    assert await backend.holds.settle("session", hold.epoch, force=False) is None
    assert await backend.holds.take("session", "a") is None


async def test_nobody_revives_a_session_that_has_expired(
    backend: Backend, join: Join, registry: ReplicaRegistry
) -> None:
    """Neither what a client does later, nor a claimant that dies."""
    await join("a")
    await expire(backend)
    await backend.sessions.touch(["session"])
    await backend.sessions.change("session", Change(ttl=None), sender="a")
    await backend.reaping.claim(10, by="a")
    await registry.leave("a")

    assert await backend.sessions.get("session") is None


# owners


async def test_someone_elses_session_is_as_if_it_were_not_there(backend: Backend) -> None:
    await a_session(backend, owner="alice")
    sessions, position = backend.sessions, await backend.mailbox.position()
    before = await record(backend)

    for owner in ("mallory", "", "Alice", "alice "):
        assert {} == await sessions.touch(["session"], owner=owner)
        assert await sessions.change("session", Change(ttl=5.0), owner=owner, sender="a") is False
        assert Ended() == await sessions.end(["session"], "deleted", owner=owner, sender="a", claim=False)
        assert Ended() == await sessions.rotate("session", "new", owner=owner, new_owner=None, sender="a")
        assert await sessions.load_state("session", owner=owner) is None
        assert await sessions.save_state("session", before.version, "{}", owner=owner) is None
        assert await backend.initialization.claim("session", "claim", 30.0, owner=owner) is False
        assert await backend.initialization.mark_initialized("session", owner=owner) is False
        assert [] == list(await backend.directory.records(["session"], owner=owner, include_dead=True))
        assert 0 == await backend.directory.count(Filter(owner=owner))

    after = await record(backend)
    assert (before.last_active_at, before.expires_at, before.version) == (
        after.last_active_at,
        after.expires_at,
        after.version,
    )
    assert [] == await mail_since(backend, position)


async def test_its_owner_and_one_who_does_not_ask_both_find_a_session(backend: Backend) -> None:
    session = await a_session(backend, owner="alice")

    for owner in ("alice", None):
        assert "session" in await backend.sessions.touch(["session"], owner=owner)
        assert await backend.sessions.change("session", Change(log_level="debug"), owner=owner, sender="a")
        assert (session.version, "{}") == await backend.sessions.load_state("session", owner=owner)
        assert ["session"] == [s.id for s in await backend.directory.records(["session"], owner=owner)]


# namespaces


async def test_the_same_id_is_another_session_in_another_namespace(backend: Backend, neighbour: Backend) -> None:
    session = await a_session(backend, owner="ours")
    await backend.subscriptions.subscribe("session", "file:///a", None, sender="a")

    assert await neighbour.sessions.get("session") is None
    assert [] == await living(neighbour)
    assert Ended() == await terminate(neighbour)
    assert [] == list(await neighbour.subscriptions.subscribers("file:///a", "", 10))
    theirs = await a_session(neighbour, owner="theirs", version=session.version)
    assert await neighbour.sessions.change("session", Change(ttl=None), sender="a")
    assert await neighbour.sessions.save_state("session", theirs.version, '{"of": "theirs"}')
    await terminate(neighbour)
    await neighbour.reaping.reap(10)

    ours = await record(backend)
    assert ("ours", {}, session.version) == (ours.owner, ours.state, ours.version)
    assert ["session"] == list(await backend.subscriptions.subscribers("file:///a", "", 10))
