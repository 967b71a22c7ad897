"""The journal on its own, over real logs: written once and in order, whatever the store does."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from mcpsession.errors import StoreError, StoreUnavailableError, StreamLostError
from mcpsession.journal import Journal
from mcpsession.memory.backend import MemoryBackend
from mcpsession.model import Replica, new_replica_id, new_session_id
from mcpsession.records import Admission, Session
from mcpsession.settings import Settings
from tests.sdk.gates import Gated, settle, until

# What text columns refuse: SQLSTATE class 22.
UNSTORABLE = "\x00"


@pytest.fixture
async def memory_backend():
    return MemoryBackend(Settings())


@pytest.fixture
async def postgres_backend(database_url):
    from mcpsession.postgres.backend import PostgresBackend

    backend = PostgresBackend(database_url, None, Settings())
    async with backend.running():
        yield backend


@pytest.fixture(params=["memory", "postgres"])
def backend(request):
    return request.getfixturevalue(f"{request.param}_backend")


class Listener:
    """Hears what became of one stream."""

    def __init__(self) -> None:
        self.landings = 0
        self.readers: list[str] = []
        self.refusals: list[Exception | None] = []

    def landed(self) -> None:
        self.landings += 1

    def read_by(self, replica: str) -> None:
        self.readers.append(replica)

    def refused(self, error: Exception | None) -> None:
        self.refusals.append(error)


class World:
    """A running journal of a living replica, with its log behind gates."""

    def __init__(self, backend: Any, **settings: Any) -> None:
        self.backend = backend
        self.log = Gated(backend.log)
        self.me = new_replica_id()
        self.session = ""
        self.journal = Journal(self.log, Settings(**settings), lambda: self.me)

    @asynccontextmanager
    async def running(self):
        session = Session(new_session_id())
        await self.backend.sessions.create([session], admission=Admission())
        self.session = session.id
        async with self.backend.registry() as registry, anyio.create_task_group() as tasks:
            self.registry = registry
            await registry.join(Replica(self.me))
            tasks.start_soon(self.journal.run)
            with anyio.fail_after(10):
                yield self
            tasks.cancel_scope.cancel()

    def open(self, request: int = 1):
        listener = Listener()
        return self.journal.open(self.session, (str(request),), listener), listener

    async def events(self, writer, session=None):
        state = await self.backend.log.read(session or self.session, writer.stream_id, 0, 1000)
        return [(event.seq, event.message) for event in state.events]

    @property
    def batches(self):
        return [args[0] for name, args in self.log.seen if name == "write"]


@pytest.fixture
async def world(backend):
    async with World(backend).running() as world:
        yield world


async def test_a_stream_is_entered_and_its_events_are_written_in_order(world):
    writer, listener = world.open()
    for number in range(3):
        assert number + 1 == writer.append(f'"{number}"')
    writer.append('"end"', final=True)
    await world.journal.flushed()
    assert [(1, '"0"'), (2, '"1"'), (3, '"2"'), (4, '"end"')] == await world.events(writer)
    assert ([], 1, True) == (listener.refusals, listener.landings, writer.closed)
    assert not world.journal.writes(writer.stream_id)


async def test_batches_are_strictly_one_after_the_other_and_the_next_one_takes_all_that_came_meanwhile(world):
    write = world.log.before["write"]
    write.close()
    first, _ = world.open(1)
    await write.reached.wait()
    second, _ = world.open(2)
    for number in range(5):
        first.append(f'"{number}"')
        second.append(f'"{number}"')
    await settle()
    assert 1 == world.log.calls["write"]
    write.open()
    await world.journal.flushed()
    assert 2 == world.log.calls["write"]
    numbered = [(number + 1, f'"{number}"') for number in range(5)]
    assert [numbered, numbered] == [await world.events(first), await world.events(second)]


@pytest.mark.parametrize("when", ["before the commit", "after the commit"])
@pytest.mark.parametrize("what", ["opening", "appending"])
async def test_a_write_whose_outcome_is_unknown_is_repeated_until_it_is_known_and_nothing_is_written_twice(
    world, when, what
):
    writer, listener = world.open()
    if what == "appending":
        await world.journal.flushed()
    failures = iter([StoreUnavailableError("a test says so")] * 2)
    failing = world.log.failing if when == "before the commit" else world.log.failing_after
    failing["write"] = lambda _: next(failures, None)
    writer.append('"one"')
    await world.journal.flushed()
    writer.append('"end"', final=True)
    await world.journal.flushed()
    assert [(1, '"one"'), (2, '"end"')] == await world.events(writer)
    assert [] == listener.refusals


async def test_while_asking_what_landed_fails_too_nothing_is_written_twice(world):
    failures, questions = iter([StoreUnavailableError("lost")]), iter([StoreUnavailableError("still away")] * 2)
    world.log.failing_after["write"] = lambda _: next(failures, None)
    world.log.failing["landed"] = lambda *_: next(questions, None)
    writer, listener = world.open()
    writer.append('"end"', final=True)
    await world.journal.flushed()
    assert [(1, '"end"')] == await world.events(writer)
    assert [] == listener.refusals


@pytest.mark.parametrize("culprit", [0, 3, 7])
async def test_a_message_that_the_store_refuses_stands_alone_its_stream_gets_an_error_and_the_others_go_on(
    world, culprit
):
    write = world.log.before["write"]
    write.close()
    opener, _ = world.open(99)
    await write.reached.wait()
    streams = [world.open(number) for number in range(8)]
    for number, (writer, _) in enumerate(streams):
        writer.append(UNSTORABLE if number == culprit else f'"{number}"', final=True)
    write.open()
    await world.journal.flushed()
    assert opener.in_log
    for number, (writer, listener) in enumerate(streams):
        ((seq, message),) = await world.events(writer)
        assert 1 == seq
        if number == culprit:
            assert isinstance(listener.refusals[0], StoreError)
            assert number == json.loads(message)["id"]
            assert "could not be stored" in json.loads(message)["error"]["message"]
        else:
            assert (f'"{number}"', []) == (message, listener.refusals)


async def test_a_refused_message_in_the_middle_of_a_stream_ends_it_behind_what_is_there(world):
    writer, listener = world.open()
    writer.append('"one"')
    await world.journal.flushed()
    writer.append(UNSTORABLE)
    await world.journal.flushed()
    (_, first), (seq, last) = await world.events(writer)
    assert ('"one"', 2, 1) == (first, seq, json.loads(last)["id"])
    assert 1 == len(listener.refusals)
    assert writer.closed
    writer.append('"too late"', final=True)
    await world.journal.flushed()
    assert 2 == len(await world.events(writer))


async def test_a_full_buffer_slows_producers_and_drops_nothing(backend):
    async with World(backend, journal_bytes=100).running() as world:
        write, appended = world.log.before["write"], 0
        write.close()
        writers = [world.open(number)[0] for number in range(2)]

        async def produce(writer):
            nonlocal appended
            for number in range(20):
                await world.journal.room()
                writer.append(json.dumps(f"{number:030}"))
                appended += 1

        async with anyio.create_task_group() as producers:
            for writer in writers:
                producers.start_soon(produce, writer)
            await write.reached.wait()
            await settle()
            assert 4 == appended
            assert world.journal.age > 0
            write.open()
        await world.journal.flushed()
        for writer in writers:
            assert [json.dumps(f"{number:030}") for number in range(20)] == [
                message for _, message in await world.events(writer)
            ]
        assert (0, 0.0) == (world.journal.pending_bytes, world.journal.age)


async def test_an_empty_buffer_has_room_for_one_event_of_any_size(backend):
    async with World(backend, journal_bytes=100).running() as world:
        writer, _ = world.open()
        await world.journal.room()
        writer.append(json.dumps("x" * 5000))
        await world.journal.room()
        writer.append('"end"', final=True)
        await world.journal.flushed()
        assert 2 == len(await world.events(writer))


async def test_a_stream_that_was_taken_over_is_lost_to_its_writer_and_has_one_final(world):
    writer, listener = world.open()
    writer.append('"one"')
    await world.journal.flushed()
    await world.registry.leave(world.me)
    assert await world.backend.log.take_over(world.session, writer.stream_id, 1, ['"a stranger\'s"'], by="stranger")
    writer.append('"two"')
    writer.append('"mine"', final=True)
    await world.journal.flushed()
    assert [(1, '"one"'), (2, '"a stranger\'s"')] == await world.events(writer)
    assert [None] == listener.refusals
    assert writer.closed


async def test_a_duplicate_of_a_live_request_is_refused_and_the_first_goes_on(world):
    first, first_listener = world.open(1)
    await world.journal.flushed()
    second, second_listener = world.open(1)
    second.append('"mine too"')
    await world.journal.flushed()
    first.append('"mine"', final=True)
    await world.journal.flushed()
    assert ([], [None]) == (first_listener.refusals, second_listener.refusals)
    assert [(1, '"mine"')] == await world.events(first)
    assert await world.backend.log.read(world.session, second.stream_id, 0, 10) is None


async def test_the_writer_hears_of_the_reader_that_has_attached(world):
    writer, listener = world.open()
    await world.journal.flushed()
    assert await world.backend.log.attach(world.session, writer.stream_id, "reader")
    assert [] == listener.readers
    writer.append('"one"')
    await world.journal.flushed()
    assert ["reader"] == listener.readers


async def test_standalone_messages_keep_their_order_and_a_refused_one_costs_only_itself(world):
    append = world.log.before["append_standalone"]
    append.close()
    for message in ('"0"', '"1"', UNSTORABLE, '"3"', '"4"'):
        world.journal.append_standalone(world.session, message)
    await append.reached.wait()
    append.open()
    await world.journal.flushed()
    state = await world.backend.log.read(world.session, "s", 0, 10)
    assert ['"0"', '"1"', '"3"', '"4"'] == [event.message for event in state.events]


async def test_who_was_declared_dead_gives_up_what_it_could_not_write_yet(world):
    world.log.failing["write"] = lambda _: StoreUnavailableError("away")
    writer, listener = world.open()
    await until(lambda: world.log.calls["write"])
    world.me = new_replica_id()
    await world.journal.flushed()
    assert ([StreamLostError], True) == ([type(error) for error in listener.refusals], writer.closed)
