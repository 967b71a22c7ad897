"""How long a batch waits for more: until somebody waits for it, or it is full, or its time is up."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from mcpsession import journal as journal_module
from mcpsession.errors import StoreError, StoreUnavailableError
from mcpsession.memory.backend import MemoryBackend
from mcpsession.settings import Settings
from tests.sdk.gates import settle, until
from tests.unit.test_journal import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World(MemoryBackend(Settings())).running() as world:
        yield world


@pytest.fixture
def for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that nobody ends lingers for longer than any test."""
    monkeypatch.setattr(journal_module, "_LINGER", 3600.0)


async def test_answers_that_nobody_waits_for_are_written_together(world: World) -> None:
    writers = [world.open(number)[0] for number in range(50)]
    for writer in writers:
        writer.append('"end"', final=True)
    await until(lambda: writers[-1].closed)

    assert 1 == world.log.calls["write"]
    assert 50 == len(world.batches[0].opened)


@pytest.mark.usefixtures("for_ever")
async def test_a_batch_that_is_full_of_streams_leaves_at_once(world: World) -> None:
    writers = [world.open(number)[0] for number in range(100)]

    await until(lambda: writers[0].in_log)
    assert [True] * 100 == [writer.in_log for writer in writers]


@pytest.mark.usefixtures("for_ever")
async def test_a_batch_that_is_full_of_text_leaves_at_once(world: World) -> None:
    writer, _ = world.open()
    writer.append("x" * 256 * 1024, final=True)

    await until(lambda: writer.closed)


@pytest.mark.usefixtures("for_ever")
async def test_a_message_before_the_last_waits_for_no_others_if_its_stream_is_not_in_the_log(world: World) -> None:
    writer, _ = world.open()
    await settle()
    assert not writer.in_log

    writer.append('"one"')
    await until(lambda: writer.in_log)


@pytest.mark.usefixtures("for_ever")
async def test_once_its_stream_is_in_the_log_a_message_lingers_with_those_that_come_after_it(world: World) -> None:
    """With group durability its frame has left already."""
    writer, _ = world.open()
    writer.append('"one"')
    await until(lambda: writer.in_log)
    writer.append('"two"')
    writer.append('"three"')
    await settle()
    assert 1 == world.log.calls["write"]

    writer.append('"end"', final=True)
    await world.journal.flushed()
    assert ['"two"', '"three"', '"end"'] == [event.message for event in world.batches[1].appended[0].events]


@pytest.mark.usefixtures("for_ever")
async def test_what_a_client_of_another_replica_waits_for_does_not_linger(world: World) -> None:
    writer, listener = world.open()
    writer.append('"one"')
    await until(lambda: writer.in_log)
    assert await world.backend.log.attach(world.session, writer.stream_id, "reader")
    writer.append('"two"')
    await world.journal.flushed()
    assert ["reader"] == listener.readers

    writer.append('"three"')
    await until(lambda: writer.base == 3)
    writer.append('"end"', final=True)
    await until(lambda: writer.closed)


@pytest.mark.usefixtures("for_ever")
async def test_with_strict_durability_nothing_lingers() -> None:
    async with World(MemoryBackend(Settings()), durability="strict").running() as world:
        writer, _ = world.open()
        writer.append('"end"', final=True)
        await until(lambda: writer.closed)


@pytest.mark.usefixtures("for_ever")
async def test_whoever_waits_for_the_journal_ends_its_lingering(world: World) -> None:
    writer, _ = world.open()
    writer.append('"end"', final=True)
    await world.journal.flushed()
    assert writer.closed

    world.journal.append_standalone(world.session, '"news"')
    await world.journal.told(world.session)
    assert 1 == world.log.calls["append_standalone"]


@pytest.mark.usefixtures("for_ever")
async def test_whoever_finds_the_buffer_full_ends_its_lingering() -> None:
    async with World(MemoryBackend(Settings()), journal_bytes=100).running() as world:
        writer, _ = world.open()
        writer.append('"%s"' % ("x" * 200), final=True)
        assert not world.journal.has_room

        await world.journal.room()
        assert (True, True) == (writer.closed, world.journal.has_room)


async def test_what_came_while_a_batch_was_in_flight_ages_from_when_it_came(world: World) -> None:
    write = world.log.before["write"]
    write.close()
    world.open(1)
    await write.reached.wait()
    second, _ = world.open(2)
    await anyio.sleep(0.05)
    before = world.journal.age
    failures = iter([StoreUnavailableError("a test says so")])
    write.open()
    # It waits for its turn behind the first, and counts still.
    world.log.failing["write"] = lambda batch: next(failures, None) if batch.opened[0].request_ids == ("2",) else None
    await until(lambda: world.log.calls["write"] >= 2)
    assert world.journal.age >= 0.05
    assert before >= 0.05
    await world.journal.flushed()
    assert (0.0, True) == (world.journal.age, second.in_log)


@pytest.mark.usefixtures("for_ever")
async def test_what_found_no_place_in_a_batch_that_was_waited_for_does_not_linger() -> None:
    """A batch takes 256 streams, or 256 KB, and 256 standalone messages."""
    async with World(MemoryBackend(Settings()), durability="strict").running() as world:
        writers = [world.open(number)[0] for number in range(300)]
        await until(lambda: writers[-1].in_log)

        for writer in writers[:3]:
            writer.append('"%s"' % ("x" * 200_000), final=True)
        await until(lambda: writers[2].closed)

        for number in range(600):
            world.journal.append_standalone(world.session, f'"{number}"')
        await world.journal.told(world.session)


@pytest.mark.usefixtures("for_ever")
async def test_what_waits_behind_a_standalone_message_that_cannot_be_stored_does_not_linger(world: World) -> None:
    bad = StoreError("a test says so", sqlstate="22021")
    world.log.failing["append_standalone"] = lambda some: bad if '"bad"' in [one.message for _, one in some] else None
    for text in ('"bad"', '"one"', '"two"'):
        world.journal.append_standalone(world.session, text)
    await world.journal.told(world.session)
