"""SessionStore.rotate: the same session under a new id, and a tombstone under the old one."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.errors import SessionExistsError
from mcpsession.model import NewEvent
from mcpsession.records import Change, Ended, Session
from tests.contract.conftest import Join
from tests.contract.given import (
    a_session,
    appended,
    body,
    dead_record,
    enter,
    expired,
    keys,
    living,
    mail_since,
    messages,
    opened,
    read,
    record,
    write,
)


async def rotate(
    backend: Backend,
    old: str = "session",
    new: str = "new",
    *,
    owner: str | None = None,
    new_owner: str | None = None,
    sender: str = "a",
) -> Ended:
    return await backend.sessions.rotate(old, new, owner=owner, new_owner=new_owner, sender=sender)


async def test_everything_that_a_session_is_goes_with_it(backend: Backend) -> None:
    await enter(
        backend,
        Session(
            "session",
            owner="alice",
            transport="stdio",
            protocol_version="2025-11-25",
            client_params='{"clientInfo":{"name":"c"}}',
            initialized=True,
            log_level="error",
            metadata={"k": [1]},
            state={"n": 1},
            ttl=60.0,
        ),
    )
    await backend.sessions.save_state("session", (await record(backend)).version, '{"n": 2}')
    before = await record(backend)

    await rotate(backend)

    after = await record(backend, "new")
    assert replace(before, id="new", incarnation=after.incarnation, remaining=after.remaining) == after
    assert ["new"] == await living(backend)
    assert "new" in await backend.sessions.touch(["new"])
    assert before.version + 1 == await backend.sessions.save_state("new", before.version, '{"n": 3}')


async def test_its_streams_go_with_it_finished_or_running(backend: Backend) -> None:
    opening = opened("result", stream_id="opening", request_ids=("0",), finished=True)
    await enter(backend, Session("session"), opening)
    await backend.log.append_standalone([("session", NewEvent("said"))])
    await write(backend, opened("1", stream_id="running", request_ids=("7",)), producer="a")

    await rotate(backend)

    assert ["result"] == await messages(backend, "new", "opening")
    assert ["said"] == await messages(backend, "new", "s")
    assert ["1"] == await messages(backend, "new", "running")
    assert 3 == (await record(backend, "new")).event_count
    for stream in ("opening", "s", "running"):
        assert await backend.log.read("session", stream, 0, 10) is None


async def test_a_running_stream_goes_on_under_the_new_id_and_under_no_other(backend: Backend) -> None:
    await a_session(backend)
    await write(backend, opened("1"), producer="a")

    await rotate(backend)

    assert [] == await write(backend, appended(1, "lost"), producer="a")
    assert [("new", "stream", 1, ("1",))] == list(await backend.log.unfinished("a"))
    assert ["stream"] == await write(backend, appended(1, "2", session_id="new", finished=True), producer="a")
    assert ["1", "2"] == await messages(backend, "new")


async def test_the_streams_of_the_dead_are_orphans_of_the_new_id(
    backend: Backend, join: Join, registry: ReplicaRegistry
) -> None:
    await join("a", "b")
    await a_session(backend)
    await write(backend, opened("1"), producer="a")
    await rotate(backend, sender="b")
    await registry.leave("a")

    assert [("new", "stream", 1, ("1",))] == list(await backend.log.orphans(10))
    assert await backend.log.take_over("new", "stream", 1, ["final"], by="b")
    assert ["1", "final"] == await messages(backend, "new")


async def test_its_subscriptions_go_with_it(backend: Backend) -> None:
    await a_session(backend)
    await backend.subscriptions.subscribe("session", "file:///a", None, sender="a")
    await backend.subscriptions.subscribe("session", "file:///b", None, sender="a")

    await rotate(backend)

    assert ["file:///a", "file:///b"] == list(await backend.subscriptions.uris("new"))
    assert [] == list(await backend.subscriptions.uris("session"))
    assert ["new"] == list(await backend.subscriptions.subscribers("file:///a", "", 10))


async def test_how_far_its_standalone_stream_was_delivered_goes_with_it(backend: Backend, join: Join) -> None:
    await join("a", "b")
    await a_session(backend)
    hold = await backend.holds.take("session", "a")
    assert hold is not None
    await backend.log.append_standalone([("session", NewEvent("1"))])
    position = await backend.mailbox.position()
    await backend.holds.release("session", hold.epoch, 1, position)

    await rotate(backend)

    taken = await backend.holds.take("new", "b")
    assert taken is not None
    assert (True, 1, position) == (taken.settled, taken.delivered_seq, taken.delivered_news)
    assert await backend.holds.take("session", "b") is None


async def test_a_claimed_initialization_goes_with_it(backend: Backend) -> None:
    await a_session(backend)
    assert await backend.initialization.claim("session", "claim", 30.0)

    await rotate(backend)

    assert "initializing" == (await record(backend, "new")).phase
    assert not await backend.initialization.complete("session", "claim", "2025-11-25", "{}")
    assert await backend.initialization.complete("new", "claim", "2025-11-25", "{}")


async def test_the_old_id_is_a_tombstone(backend: Backend) -> None:
    await a_session(backend, state={"secret": 1}, metadata={"secret": 1})

    await rotate(backend)

    assert await backend.sessions.get("session") is None
    tombstone = await dead_record(backend)
    assert tombstone is not None
    assert ("terminated", "terminated", {}, {}) == (
        tombstone.status,
        tombstone.end_reason,
        tombstone.state,
        tombstone.metadata,
    )
    with pytest.raises(SessionExistsError):
        await a_session(backend)
    await backend.reaping.reap(10)
    assert ["new"] == await living(backend)
    with pytest.raises(SessionExistsError):
        await a_session(backend)


async def test_all_are_told_that_the_old_one_ended(backend: Backend, join: Join, registry: ReplicaRegistry) -> None:
    await join("a", "b", "gone")
    await registry.leave("gone")
    old = await a_session(backend, state={"n": 1})
    position = await backend.mailbox.position()

    ended = await rotate(backend, sender="b")

    assert ["a", "b"] == sorted(ended.replicas)
    [session] = ended.sessions
    assert (old.id, old.incarnation, "terminated") == (session.id, session.incarnation, session.status)
    [mail] = await mail_since(backend, position)
    assert (ended.mail_id, "ended", "b", None, None) == (
        mail.id,
        mail.kind,
        mail.sender,
        mail.recipient,
        mail.session_id,
    )
    assert dict(keys(old)) == body(mail)


async def test_no_handler_is_owed_to_a_session_that_only_changed_its_id(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)

    await rotate(backend)

    assert [] == list(await backend.reaping.claim(10, by="a"))


async def test_the_owner_can_change_with_the_id(backend: Backend) -> None:
    await a_session(backend, owner="")

    await rotate(backend, owner="", new_owner="alice")
    assert "alice" == (await record(backend, "new")).owner
    assert Ended() == await rotate(backend, "new", "newer", owner="")
    await rotate(backend, "new", "newer", owner="alice")
    assert "alice" == (await record(backend, "newer")).owner


async def test_an_id_that_is_in_use_is_refused_and_all_stays_as_it_was(backend: Backend) -> None:
    await a_session(backend, state={"n": 1})
    await a_session(backend, "taken", owner="bob")
    await write(backend, opened("1"))
    before, position = await record(backend), await backend.mailbox.position()

    with pytest.raises(SessionExistsError) as caught:
        await rotate(backend, new="taken")

    assert "taken" == caught.value.session_id
    after = await record(backend)
    assert before == replace(after, remaining=before.remaining)
    assert "bob" == (await record(backend, "taken")).owner
    assert ["1"] == await messages(backend)
    assert [] == await mail_since(backend, position)


async def test_a_life_goes_on_where_it_was(backend: Backend) -> None:
    await a_session(backend, ttl=0.3)

    await rotate(backend)

    await expired(backend, "new")


async def test_a_rotated_session_can_be_changed_and_ended_like_any(backend: Backend) -> None:
    await a_session(backend)
    await rotate(backend)
    await rotate(backend, "new", "newer")

    assert await backend.sessions.change("newer", Change(ttl=None), sender="a")
    [ended] = (await backend.sessions.end(["newer"], "deleted", sender="a", claim=False)).sessions
    assert 1 == await backend.reaping.remove(keys(ended), by="a")
    assert [] == await living(backend)


# at once with others


async def test_of_those_who_rotate_at_once_one_succeeds(backend: Backend) -> None:
    await a_session(backend)
    outcomes: list[Ended] = []

    async def try_to_rotate(number: int) -> None:
        outcomes.append(await rotate(backend, new=f"new {number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(try_to_rotate, number)

    assert 1 == len([ended for ended in outcomes if ended.sessions])
    assert 1 == len(await living(backend))


async def test_what_was_written_at_the_same_moment_is_kept_or_refused_but_never_lost(backend: Backend) -> None:
    for number in range(10):
        old, new = f"old {number}", f"new {number}"
        version = (await a_session(backend, old)).version
        await write(backend, opened("1", session_id=old))
        saved: list[object] = []
        written: list[object] = []

        async def save(old: str = old, version: int = version, saved: list[object] = saved) -> None:
            saved.append(await backend.sessions.save_state(old, version, '{"n": 1}'))

        async def append(old: str = old, written: list[object] = written) -> None:
            written.extend(await write(backend, appended(1, "2", session_id=old)))

        async def say(old: str = old) -> None:
            await backend.log.append_standalone([(old, NewEvent("said"))])

        async with anyio.create_task_group() as tasks:
            for job in (save, append, say):
                tasks.start_soon(job)
            tasks.start_soon(rotate, backend, old, new)

        assert ({"n": 1} if saved != [None] else {}) == (await record(backend, new)).state
        assert (["1", "2"] if written else ["1"]) == await messages(backend, new)
        # Nothing is left under the old id, and what was taken has its number and its event.
        assert await backend.log.read(old, "stream", 0, 10) is None
        for stream in ("stream", "s"):
            state = await read(backend, new, stream)
            assert state.last_seq == len(state.events)
