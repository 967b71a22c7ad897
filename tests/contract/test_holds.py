"""Holds: one socket at a time, handed over in order, and no endless fight for it."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.errors import HoldRefusedError
from mcpsession.model import Hold, Mail, NewEvent
from tests.contract.conftest import Join
from tests.contract.given import a_session, end, expired


@pytest.fixture
async def replicas(backend: Backend, join: Join) -> None:
    """A session, and three replicas that want its stream."""
    await join("a", "b", "c")
    await a_session(backend)


async def take(backend: Backend, holder: str) -> Hold:
    hold = await backend.holds.take("session", holder)
    assert hold is not None
    return hold


async def settle(backend: Backend, hold: Hold, *, force: bool = False) -> Hold:
    settled = await backend.holds.settle("session", hold.epoch, force=force)
    assert settled is not None
    return settled


pytestmark = pytest.mark.usefixtures("replicas")


async def test_a_stream_that_nobody_holds_is_taken_at_once(backend: Backend) -> None:
    hold = await take(backend, "a")

    assert (True, None, 0) == (hold.settled, hold.previous, hold.delivered_seq)


async def test_a_first_holder_starts_where_the_news_stood_when_the_session_was_created(backend: Backend) -> None:
    await backend.mailbox.broadcast([Mail("news", "a", body="before")])
    await a_session(backend, "new")
    await backend.mailbox.broadcast([Mail("news", "a", body="after")])

    hold = await backend.holds.take("new", "a")

    assert hold is not None
    news = await backend.mailbox.news(hold.delivered_news)
    assert news is not None
    assert ["after"] == [mail.body for mail in news.mails]


async def test_each_take_over_has_an_epoch_of_its_own(backend: Backend) -> None:
    first, second = await take(backend, "a"), await take(backend, "b")

    assert first.epoch < second.epoch


async def test_of_many_who_take_at_once_each_has_an_epoch_of_its_own(backend: Backend) -> None:
    holds: list[Hold] = []

    async def compete(holder: str) -> None:
        holds.append(await take(backend, holder))

    async with anyio.create_task_group() as tasks:
        for holder in ("a", "b", "c"):
            tasks.start_soon(compete, holder)

    assert 3 == len({hold.epoch for hold in holds})
    assert 1 == len([hold for hold in holds if hold.settled])


async def test_a_new_holder_waits_until_the_living_one_has_let_go(backend: Backend) -> None:
    first = await take(backend, "a")
    second = await take(backend, "b")
    assert (False, "a") == (second.settled, second.previous)
    assert not (await settle(backend, second)).settled

    assert "b" == await backend.holds.release("session", first.epoch, 7, "position")

    settled = await settle(backend, second)
    assert (second.epoch, True, 7, "position") == (
        settled.epoch,
        settled.settled,
        settled.delivered_seq,
        settled.delivered_news,
    )


async def test_a_replica_waits_for_its_own_older_socket_too(backend: Backend) -> None:
    first = await take(backend, "a")
    second = await take(backend, "a")
    assert (False, "a") == (second.settled, second.previous)

    assert "a" == await backend.holds.release("session", first.epoch, 1, "position")

    assert (await settle(backend, second)).settled


async def test_a_dead_holder_is_not_waited_for(backend: Backend, registry: ReplicaRegistry) -> None:
    await take(backend, "a")
    await registry.leave("a")

    assert (await take(backend, "b")).settled


async def test_a_holder_that_dies_while_it_is_waited_for_settles_it(
    backend: Backend, registry: ReplicaRegistry
) -> None:
    await take(backend, "a")
    hold = await take(backend, "b")
    assert not (await settle(backend, hold)).settled

    await registry.leave("a")

    assert (await settle(backend, hold)).settled


async def test_a_forced_settle_ends_the_claim_of_a_silent_holder(backend: Backend) -> None:
    silent = await take(backend, "a")
    hold = await take(backend, "b")

    assert (await settle(backend, hold, force=True)).settled

    assert (await settle(backend, hold)).settled
    assert await backend.holds.save("session", hold.epoch, 9, "of b")
    assert await backend.holds.release("session", silent.epoch, 3, "late") is None
    assert not await backend.holds.save("session", silent.epoch, 3, "late")
    settled = await settle(backend, hold)
    assert (True, 9, "of b") == (settled.settled, settled.delivered_seq, settled.delivered_news)


async def test_who_is_superseded_while_it_waits_is_told(backend: Backend) -> None:
    await take(backend, "a")
    second = await take(backend, "b")
    await take(backend, "c")

    assert await backend.holds.settle("session", second.epoch, force=False) is None
    assert await backend.holds.settle("session", second.epoch, force=True) is None


async def test_who_gives_up_waiting_does_not_speak_for_the_holder(backend: Backend) -> None:
    """It delivered nothing, and the holder before it is still to say how far it came."""
    first = await take(backend, "a")
    second = await take(backend, "b")

    await backend.holds.release("session", second.epoch, 0, "")
    await backend.holds.release("session", first.epoch, 7, "position")

    third = await take(backend, "c")
    assert (7, "position") == (third.delivered_seq, third.delivered_news)


async def test_the_death_of_one_who_was_never_settled_settles_nobody(
    backend: Backend, registry: ReplicaRegistry
) -> None:
    """It may have died before it told the holder before it, who then still writes. (The model found this.)"""
    first = await take(backend, "a")
    await take(backend, "b")
    await registry.leave("b")

    third = await take(backend, "c")
    assert (False, False) == (third.settled, (await settle(backend, third)).settled)

    assert "c" == await backend.holds.release("session", first.epoch, 7, "position")
    settled = await settle(backend, third)
    assert (True, 7, "position") == (settled.settled, settled.delivered_seq, settled.delivered_news)


async def test_nor_does_its_death_while_it_is_waited_for(backend: Backend, registry: ReplicaRegistry) -> None:
    first = await take(backend, "a")
    await take(backend, "b")
    third = await take(backend, "c")
    await registry.leave("b")
    assert not (await settle(backend, third)).settled

    await backend.holds.release("session", first.epoch, 7, "position")

    assert (True, 7) == ((settled := await settle(backend, third)).settled, settled.delivered_seq)


async def test_where_the_one_before_died_too_the_next_waits_and_then_forces_it(
    backend: Backend, registry: ReplicaRegistry
) -> None:
    """Whether somebody before the last one lives is not known: who takes the stream waits, and then forces it."""
    await take(backend, "a")
    await take(backend, "b")
    for dead in ("a", "b"):
        await registry.leave(dead)

    hold = await take(backend, "c")
    assert not (await settle(backend, hold)).settled

    assert (await settle(backend, hold, force=True)).settled


async def test_a_release_speaks_for_those_who_were_never_settled_after_it(backend: Backend) -> None:
    first = await take(backend, "a")
    second, third = await take(backend, "b"), await take(backend, "c")

    assert "c" == await backend.holds.release("session", first.epoch, 7, "position")

    assert (True, 7) == ((settled := await settle(backend, third)).settled, settled.delivered_seq)
    assert await backend.holds.release("session", second.epoch, 9, "of one that never held it") is None
    assert 7 == (await settle(backend, third)).delivered_seq


async def test_a_saved_position_is_where_the_next_holder_starts(backend: Backend, registry: ReplicaRegistry) -> None:
    hold = await take(backend, "a")
    assert await backend.holds.save("session", hold.epoch, 4, "position")
    await registry.leave("a")

    successor = await take(backend, "b")
    assert (4, "position") == (successor.delivered_seq, successor.delivered_news)


async def test_who_was_superseded_saves_no_position(backend: Backend) -> None:
    first = await take(backend, "a")
    assert await backend.holds.save("session", first.epoch, 4, "early")
    second = await take(backend, "b")

    assert not await backend.holds.save("session", first.epoch, 5, "late")

    settled = await settle(backend, second)
    assert (4, "early") == (settled.delivered_seq, settled.delivered_news)


async def test_a_released_stream_is_free(backend: Backend) -> None:
    first = await take(backend, "a")

    assert await backend.holds.release("session", first.epoch, 2, "position") is None

    assert {} == dict(await backend.log.append_standalone([("session", NewEvent("1"))]))
    second = await take(backend, "b")
    assert (True, None, 2, "position") == (
        second.settled,
        second.previous,
        second.delivered_seq,
        second.delivered_news,
    )


async def test_a_stream_is_released_once(backend: Backend) -> None:
    first = await take(backend, "a")
    await backend.holds.release("session", first.epoch, 2, "position")

    assert await backend.holds.release("session", first.epoch, 9, "again") is None
    assert not await backend.holds.save("session", first.epoch, 9, "again")

    assert 2 == (await take(backend, "b")).delivered_seq


async def test_the_new_holder_is_the_one_who_is_woken(backend: Backend) -> None:
    await take(backend, "a")
    await take(backend, "b")

    assert {"session": "b"} == dict(await backend.log.append_standalone([("session", NewEvent("1"))]))


async def test_a_third_take_over_of_a_living_holder_is_refused(backend: Backend) -> None:
    await take(backend, "a")
    await take(backend, "b")
    last = await take(backend, "c")

    for _ in range(2):
        with pytest.raises(HoldRefusedError):
            await backend.holds.take("session", "a")

    assert (await settle(backend, last, force=True)).settled
    assert await backend.holds.save("session", last.epoch, 1, "position")


async def test_a_stream_that_was_let_go_may_be_taken_as_often_as_one_likes(backend: Backend) -> None:
    for holder in ("a", "b", "c", "a", "b", "c"):
        hold = await take(backend, holder)
        assert hold.settled
        await backend.holds.release("session", hold.epoch, 0, "")


async def test_after_a_fight_the_stream_can_be_taken_once_it_was_let_go(backend: Backend) -> None:
    await take(backend, "a")
    await take(backend, "b")
    last = await settle(backend, await take(backend, "c"), force=True)
    await backend.holds.release("session", last.epoch, 0, "")

    assert (await take(backend, "a")).settled


async def test_after_a_fight_the_stream_of_the_dead_can_be_taken(backend: Backend, registry: ReplicaRegistry) -> None:
    await take(backend, "a")
    await take(backend, "b")
    await settle(backend, await take(backend, "c"), force=True)
    await registry.leave("c")

    assert (await take(backend, "a")).settled


async def test_of_what_is_held_it_is_told_what_has_grown_or_is_held_otherwise(backend: Backend) -> None:
    for name in ("grown", "taken", "gone"):
        await a_session(backend, name)
    names = ("session", "grown", "taken", "gone")
    epochs = {name: hold.epoch for name in names if (hold := await backend.holds.take(name, "a"))}
    held = [(name, epochs[name], 0) for name in names]
    assert {"gone again"} == set(await backend.holds.changed([*held, ("gone again", 1, 0)]))

    await backend.log.append_standalone([("grown", NewEvent("1"))])
    await backend.holds.take("taken", "a")
    await end(backend, "gone")

    assert {"grown", "taken"} <= set(await backend.holds.changed(held)) <= {"grown", "taken", "gone"}
    assert set() == set(await backend.holds.changed([("grown", epochs["grown"], 1)]))


async def test_namespaces_never_see_each_others_holds(backend: Backend, neighbour: Backend) -> None:
    hold = await take(backend, "a")

    assert await neighbour.holds.take("session", "b") is None
    assert await neighbour.holds.settle("session", hold.epoch, force=True) is None
    assert not await neighbour.holds.save("session", hold.epoch, 9, "theirs")
    assert await neighbour.holds.release("session", hold.epoch, 9, "theirs") is None

    assert await backend.holds.save("session", hold.epoch, 1, "ours")


async def test_f78_the_holder_is_who_took_the_stream_last(backend: Backend) -> None:
    assert await backend.holds.holder("session") is None

    for holder in ("a", "b"):
        await take(backend, holder)
        assert holder == await backend.holds.holder("session")


async def test_f78_who_took_it_holds_it_before_the_one_before_has_let_go(backend: Backend) -> None:
    first, second = await take(backend, "a"), await take(backend, "b")
    assert "b" == await backend.holds.holder("session")

    await backend.holds.release("session", first.epoch, 1, first.delivered_news)
    assert "b" == await backend.holds.holder("session")

    await backend.holds.release("session", second.epoch, 1, second.delivered_news)
    assert await backend.holds.holder("session") is None


async def test_f78_a_holder_that_died_holds_nothing(backend: Backend, registry: ReplicaRegistry) -> None:
    await take(backend, "a")
    await registry.leave("a")
    assert await backend.holds.holder("session") is None

    await take(backend, "b")
    assert "b" == await backend.holds.holder("session")


async def test_f78_a_stream_of_a_session_that_is_gone_has_no_holder(backend: Backend) -> None:
    for name in ("deleted", "expired"):
        await a_session(backend, name, ttl=0.3 if name == "expired" else None)
        assert await backend.holds.take(name, "a") is not None
    await end(backend, "deleted")
    await expired(backend, "expired")

    for name in ("deleted", "expired", "unknown", "\x00"):
        assert await backend.holds.holder(name) is None


async def test_f78_after_a_rotation_nobody_holds_the_stream_yet(backend: Backend) -> None:
    await take(backend, "a")

    await backend.sessions.rotate("session", "new", owner=None, new_owner=None, sender="a")

    for name in ("session", "new"):
        assert await backend.holds.holder(name) is None
