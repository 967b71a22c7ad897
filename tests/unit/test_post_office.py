"""Mail: read, handed over, then deleted; so it survives whatever happens between, and is applied once."""

from __future__ import annotations

import logging
import time

import anyio
import pytest

from mcpsession.errors import StoreUnavailableError
from mcpsession.memory.backend import MemoryBackend
from mcpsession.model import Mail, Replica
from mcpsession.post_office import PostOffice
from mcpsession.settings import Settings
from tests.sdk.gates import Gated

ME, OTHER = "a" * 18, "b" * 18


class World:
    """This replica's post office, and another's that writes to it."""

    def __init__(self):
        self.backend = MemoryBackend(Settings())
        self.mailbox = Gated(self.backend.mailbox)
        self.heard: list[str] = []
        self.office = self.open()
        self.other = PostOffice(self.backend.mailbox, self.backend.doorbell, lambda: OTHER)

    def open(self):
        office = PostOffice(self.mailbox, self.backend.doorbell, lambda: ME)
        for kind in ("answer", "news", "ended"):
            office.on(kind, lambda mail: self.heard.append(mail.body))
        return office

    async def join(self):
        async with self.backend.registry() as registry:
            for replica in (ME, OTHER):
                await registry.join(Replica(replica))
        await self.office.start()

    async def write(self, body):
        assert await self.other.send(Mail("answer", OTHER, ME, "session", body))

    async def lying(self):
        return [mail.body for mail in await self.backend.mailbox.inbox(ME)]


@pytest.fixture
async def world():
    world = World()
    await world.join()
    return world


async def test_mail_is_handed_over_before_it_is_deleted(world):
    await world.write("one")
    world.mailbox.before["delete"].close()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.office.run_once)
            await world.mailbox.before["delete"].reached.wait()
            assert (["one"], ["one"]) == (world.heard, await world.lying())
            world.mailbox.before["delete"].open()
    assert (["one"], []) == (world.heard, await world.lying())


async def test_mail_whose_reader_was_cancelled_before_the_handover_is_not_lost(world):
    await world.write("one")
    world.mailbox.after["inbox"].close()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.office.run_once)
            await world.mailbox.after["inbox"].reached.wait()
            tasks.cancel_scope.cancel()
    assert ([], ["one"]) == (world.heard, await world.lying())
    world.mailbox.after["inbox"].open()
    await world.office.run_once()
    assert (["one"], []) == (world.heard, await world.lying())


@pytest.mark.parametrize("how", ["cancelled", "failed", "failed after it was done"])
async def test_mail_whose_deletion_went_wrong_is_applied_once_and_deleted_later(world, how):
    await world.write("one")
    with anyio.fail_after(5):
        if how == "cancelled":
            world.mailbox.before["delete"].close()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(world.office.run_once)
                await world.mailbox.before["delete"].reached.wait()
                tasks.cancel_scope.cancel()
            world.mailbox.before["delete"].open()
        else:
            failing = world.mailbox.failing if how == "failed" else world.mailbox.failing_after
            failing["delete"] = lambda _: StoreUnavailableError("a test says so")
            with pytest.raises(StoreUnavailableError):
                await world.office.run_once()
            failing.clear()
        await world.write("two")
        await world.office.run_once()
    assert (["one", "two"], []) == (world.heard, await world.lying())


async def test_the_post_office_goes_on_by_itself_after_a_failed_delivery(world):
    await world.write("one")
    failures = iter([StoreUnavailableError("a test says so")])
    world.mailbox.failing["inbox"] = lambda _: next(failures, None)
    delivered = anyio.Event()
    world.office.on("answer", lambda _: delivered.set())
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.office.run)
            # One ring only: that the first attempt failed must not lose it.
            world.office.hear("m")
            await delivered.wait()
            tasks.cancel_scope.cancel()
    assert ["one"] == world.heard


async def test_a_handler_that_raises_stops_neither_the_other_handlers_nor_the_other_mail(world, caplog):
    def broken(mail):
        raise ValueError(mail.body)

    world.office._handlers["answer"].insert(0, broken)
    await world.write("one")
    await world.write("two")
    with caplog.at_level(logging.ERROR, logger="mcpsession.post_office"):
        await world.office.run_once()
    assert (["one", "two"], []) == (world.heard, await world.lying())
    assert 2 == len(caplog.records)


async def test_in_one_read_invalidations_are_applied_before_news(world):
    await world.other.broadcast(Mail("news", OTHER, body="first news"))
    await world.other.broadcast(Mail("ended", OTHER, None, "session", "an end"))
    await world.other.broadcast(Mail("news", OTHER, body="second news"))
    await world.office.run_once()
    assert ["an end", "first news", "second news"] == world.heard


async def test_broadcast_mail_is_read_once(world):
    await world.other.broadcast(Mail("news", OTHER, body="news"))
    await world.office.run_once()
    await world.office.run_once()
    assert ["news"] == world.heard


async def test_a_failed_read_of_the_broadcasts_moves_no_position(world):
    await world.other.broadcast(Mail("news", OTHER, body="news"))
    before = world.office.position
    world.mailbox.failing_after["news"] = lambda *_: StoreUnavailableError("a test says so")
    with pytest.raises(StoreUnavailableError):
        await world.office.run_once()
    assert before == world.office.position
    world.mailbox.failing_after.clear()
    await world.office.run_once()
    assert ["news"] == world.heard


async def test_a_position_that_is_of_no_use_means_that_everything_may_have_changed(world):
    lost = []
    world.office.on_lost = lambda: lost.append(True)
    world.office.position = "of another timeline"
    await world.office.run_once()
    assert [True] == lost
    await world.other.broadcast(Mail("news", OTHER, body="after it"))
    await world.office.run_once()
    assert ["after it"] == world.heard


async def test_from_the_ring_until_all_is_applied_the_replica_knows_that_it_is_behind(world):
    behind = []
    world.office.on("ended", lambda _: behind.append(world.office.behind))
    await world.other.broadcast(Mail("ended", OTHER, None, "session", "an end"))
    world.office.hear("n")
    assert world.office.behind
    await world.office.run_once()
    assert ([True], False) == (behind, world.office.behind)


async def test_a_ring_during_a_read_leaves_the_replica_behind_until_the_next(world):
    world.office.hear("n")
    world.mailbox.after["news"].close()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.office.run_once)
            await world.mailbox.after["news"].reached.wait()
            # A ring from here on may be for mail that this read has not seen.
            world.office.hear("n")
            world.mailbox.after["news"].open()
    assert world.office.behind
    await world.office.run_once()
    assert not world.office.behind


async def test_mail_to_a_replica_that_is_unknown_or_dead_is_refused(world):
    assert not await world.other.send(Mail("answer", OTHER, "c" * 18, "session", "to nobody"))
    async with world.backend.registry() as registry:
        await registry.leave(ME)
    assert not await world.other.send(Mail("answer", OTHER, ME, "session", "to the dead"))


async def test_a_bell_that_says_nothing_known_is_ignored(world):
    for word in ("", "x", "s only-one", "a no-number someone"):
        world.office.hear(word)
    assert not world.office.behind


# ---- What is proven ------------------------------------------------------------------------------------------------


async def test_a_beat_that_saw_no_news_proves_all_until_it_was_sent(world):
    before = world.office.proven_at
    world.office.look_out(mail=True, news=False, asked=before + 1.0)
    assert (before + 1.0, False) == (world.office.proven_at, world.office.behind)
    # One that was sent earlier comes late.
    world.office.look_out(mail=False, news=False, asked=before + 0.5)
    assert before + 1.0 == world.office.proven_at


async def test_a_beat_that_saw_news_proves_nothing_and_the_replica_is_behind_until_it_has_read(world):
    """Its bell was lost, or its ringer died: what is cached is the older truth, and somebody knows."""
    await world.backend.mailbox.broadcast([Mail("ended", OTHER, None, "session", "it")])
    before = world.office.proven_at
    world.office.look_out(mail=False, news=True, asked=before + 1.0)
    assert (before, True) == (world.office.proven_at, world.office.behind)
    with anyio.fail_after(5):
        await world.office.run_once()
    assert (["it"], False) == (world.heard, world.office.behind)
    assert before < world.office.proven_at


async def test_a_read_proves_what_was_there_when_it_was_sent_once_it_is_applied(world):
    world.mailbox.after["news"].close()
    before = world.office.proven_at
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.office.run_once)
            await world.mailbox.after["news"].reached.wait()
            answered = time.monotonic()
            assert before == world.office.proven_at
            world.mailbox.after["news"].open()
    assert before < world.office.proven_at <= answered


async def test_a_page_that_is_not_the_last_one_proves_nothing(world, monkeypatch):
    monkeypatch.setattr("mcpsession.news_contracts.PAGE_MAILS", 1)
    await world.backend.mailbox.broadcast([Mail("news", OTHER, None, None, "one")])
    await world.backend.mailbox.broadcast([Mail("news", OTHER, None, None, "two")])
    before, reads = world.office.proven_at, world.mailbox.calls["news"]

    def away(_):
        return StoreUnavailableError("away") if world.mailbox.calls["news"] > reads + 1 else None

    world.mailbox.failing["news"] = away
    with pytest.raises(StoreUnavailableError):
        await world.office.run_once()
    assert (["one"], before) == (world.heard, world.office.proven_at)
