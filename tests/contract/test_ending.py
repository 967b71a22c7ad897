"""SessionStore.end: once, whole, and told to all in the same transaction."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.errors import SessionExistsError
from mcpsession.model import NewEvent
from mcpsession.records import Ended, EndReason, Filter
from tests.contract.conftest import Join
from tests.contract.given import (
    a_session,
    body,
    dead_record,
    end,
    expire,
    keys,
    living,
    mail_since,
    terminate,
    until,
)

REASONS: list[EndReason] = ["terminated", "deleted", "cleared", "replaced", "idle", "policy"]


async def test_an_end_names_who_must_hear_of_it(backend: Backend, join: Join, registry: ReplicaRegistry) -> None:
    await a_session(backend)
    await join("a", "b", "gone")
    await registry.leave("gone")

    ended = await end(backend)

    assert ["a", "b"] == sorted(ended.replicas)


async def test_one_mail_tells_of_all_that_ended_and_of_none_else(backend: Backend) -> None:
    one, two = await a_session(backend, "one"), await a_session(backend, "two")
    await a_session(backend, "three")
    await expire(backend, "expired")
    position = await backend.mailbox.position()

    ended = await end(backend, "two", "unknown", "one", "expired", "two", sender="a")

    assert ["one", "two"] == sorted(session.id for session in ended.sessions)
    [mail] = await mail_since(backend, position)
    assert (ended.mail_id, "ended", "a", None, None) == (
        mail.id,
        mail.kind,
        mail.sender,
        mail.recipient,
        mail.session_id,
    )
    # The incarnations: read late, it must not end what was begun anew under the same id.
    assert dict(keys(one, two)) == body(mail)
    assert ["three"] == await living(backend)


@pytest.mark.parametrize("reason", REASONS)
async def test_those_that_ended_are_returned_whole(backend: Backend, reason: EndReason) -> None:
    created = await a_session(
        backend, owner="alice", ttl=60.0, metadata={"k": [1]}, state={"n": 1}, client_params='{"clientInfo":{}}'
    )
    await backend.sessions.save_state("session", created.version, '{"n": 2}')

    [ended] = (await end(backend, reason=reason)).sessions

    assert (
        created.id,
        created.incarnation,
        "alice",
        {"k": [1]},
        {"n": 2},
        created.version + 1,
        '{"clientInfo":{}}',
    ) == (
        ended.id,
        ended.incarnation,
        ended.owner,
        ended.metadata,
        ended.state,
        ended.version,
        ended.client_params,
    )
    assert reason == ended.end_reason
    assert ("terminated" if reason == "terminated" else "removed") == ended.status
    assert "closed" == ended.phase
    assert ended.ended_at is not None
    assert created.created_at == ended.created_at


@pytest.mark.parametrize("reason", REASONS)
async def test_only_a_terminated_one_leaves_a_tombstone(backend: Backend, reason: EndReason) -> None:
    await a_session(backend)

    await end(backend, reason=reason)

    if reason == "terminated":
        tombstone = await dead_record(backend)
        assert tombstone is not None
        assert ("terminated", "terminated") == (tombstone.status, tombstone.end_reason)
        with pytest.raises(SessionExistsError):
            await a_session(backend)
    else:
        assert await dead_record(backend) is None
        await a_session(backend)


async def test_a_session_is_ended_once(backend: Backend) -> None:
    await a_session(backend)
    position = await backend.mailbox.position()
    endings: list[Ended] = []

    async def try_to_end(reason: EndReason) -> None:
        endings.append(await end(backend, reason=reason))

    async with anyio.create_task_group() as tasks:
        for reason in REASONS:
            tasks.start_soon(try_to_end, reason)

    [ended] = [ended for ended in endings if ended.sessions]
    assert [Ended()] * (len(REASONS) - 1) == [other for other in endings if other is not ended]
    [_] = await mail_since(backend, position)


async def test_those_who_end_the_same_many_at_once_end_each_once_whatever_their_order(backend: Backend) -> None:
    ids = [f"{number:02}" for number in range(20)]
    for session_id in ids:
        await a_session(backend, session_id)
    ended: list[str] = []

    async def try_to_end(ordered: list[str]) -> None:
        ended.extend(session.id for session in (await end(backend, *ordered)).sessions)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(try_to_end, ids if number % 2 else ids[::-1])

    assert ids == sorted(ended)


async def test_the_standalone_stream_ends_at_once(backend: Backend, join: Join) -> None:
    await join("a")
    for reason in REASONS:
        await a_session(backend, reason)
        await backend.holds.take(reason, "a")
        await end(backend, reason, reason=reason, claim=True)

        assert await backend.log.read(reason, "s", 0, 10) is None
        assert {} == dict(await backend.log.append_standalone([(reason, NewEvent("lost"))]))


async def test_only_an_owners_sessions_are_ended(backend: Backend) -> None:
    await a_session(backend, "hers", owner="alice")
    await a_session(backend, "his", owner="bob")

    ended = await end(backend, "hers", "his", owner="alice")

    assert ["hers"] == [session.id for session in ended.sessions]
    assert ["his"] == await living(backend)


async def test_only_the_idle_are_ended_and_a_touch_that_came_meanwhile_counts(backend: Backend) -> None:
    """Whoever chose them from a list chose them a while ago."""
    await a_session(backend, "idle", ttl=60.0)
    await a_session(backend, "touched", ttl=60.0)

    async def both_are_idle() -> bool:
        return 2 == await backend.directory.count(Filter(idle_for=0.3))

    await until(both_are_idle)
    await backend.sessions.touch(["touched"])

    ended = await end(backend, "idle", "touched", reason="idle", idle_for=0.3)

    assert ["idle"] == [session.id for session in ended.sessions]
    assert ["touched"] == await living(backend)


async def test_of_a_touch_and_an_end_that_come_at_once_one_is_first(backend: Backend) -> None:
    """If the session was touched before, it is ended all the same; never touched after."""
    for number in range(10):
        name = f"{number}"
        await a_session(backend, name, ttl=60.0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(backend.sessions.touch, [name])
            tasks.start_soon(end, backend, name)

        assert await backend.sessions.get(name) is None


# for the handlers


async def test_a_claimed_end_waits_for_its_claimant(backend: Backend, join: Join) -> None:
    await join("a", "b")
    await a_session(backend, "deleted")
    await a_session(backend, "terminated")
    ended = [
        *(await end(backend, "deleted", sender="a", claim=True)).sessions,
        *(await terminate(backend, "terminated", sender="a", claim=True)).sessions,
    ]

    assert 0 == (await backend.reaping.reap(10)).sessions
    assert 0 == await backend.reaping.remove(keys(*ended), by="b")
    assert [] == list(await backend.reaping.claim(10, by="b"))
    assert 2 == await backend.reaping.remove(keys(*ended), by="a")

    assert await dead_record(backend, "deleted") is None
    tombstone = await dead_record(backend, "terminated")
    assert tombstone is not None
    assert "terminated" == tombstone.status


async def test_a_claimed_end_whose_claimant_dies_goes_to_another_whole(
    backend: Backend, join: Join, registry: ReplicaRegistry
) -> None:
    await join("a", "b")
    await a_session(backend, "deleted", state={"n": 1}, metadata={"k": 1})
    await a_session(backend, "terminated", state={"n": 1}, metadata={"k": 1})
    await end(backend, "deleted", sender="a", claim=True)
    await terminate(backend, "terminated", sender="a", claim=True)
    await registry.leave("a")

    claimed = sorted(await backend.reaping.claim(10, by="b"), key=lambda session: session.id)

    assert [("deleted", "deleted", "removed"), ("terminated", "terminated", "terminated")] == [
        (session.id, session.end_reason, session.status) for session in claimed
    ]
    assert [({"n": 1}, {"k": 1})] * 2 == [(session.state, session.metadata) for session in claimed]
    assert 2 == await backend.reaping.remove(keys(*claimed), by="b")
    assert [] == list(await backend.reaping.claim(10, by="b"))


async def test_an_end_without_a_claim_owes_nothing_and_any_reaper_clears_it_away(backend: Backend, join: Join) -> None:
    await join("b")
    await a_session(backend)
    await end(backend, claim=False)

    assert [] == list(await backend.reaping.claim(10, by="b"))
    assert 1 == (await backend.reaping.reap(10, handled=True)).sessions
