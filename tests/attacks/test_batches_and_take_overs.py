"""The journal against a store that refuses one row of a full batch, and against a stranger who takes its stream."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from mcpsession.errors import StoreError
from mcpsession.model import StreamState
from mcpsession.postgres.backend import PostgresBackend
from tests.postgres.stores import running_backend
from tests.unit.test_journal import UNSTORABLE, World

FULL = 256
"""Streams, as many as one batch takes."""
ROUNDS = 100
TAKEN = '{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"taken over"}}'
OWN = '"own"'


@asynccontextmanager
async def worlds(url: str) -> AsyncIterator[tuple[World, PostgresBackend]]:
    """A journal, and the store of another replica."""
    async with running_backend(url) as mine, running_backend(url) as other, World(mine).running() as world:
        yield world, other


async def die(world: World) -> None:
    """The others record the death of the journal's replica, which does not know yet."""
    await world.registry.leave(world.me)


async def read(world: World, stream_id: str) -> StreamState:
    state = await world.backend.log.read(world.session, stream_id, 0, 1000)
    assert state is not None
    return state


@pytest.mark.parametrize("culprit", [0, 127, 255])
async def test_a_row_that_postgres_refuses_in_a_full_batch_costs_its_own_stream_one_error_and_no_other_anything(
    database_url: str, culprit: int
) -> None:
    async with worlds(database_url) as (world, _):
        write = world.log.before["write"]
        write.close()
        world.open(9999)
        with anyio.fail_after(10):
            await write.reached.wait()
        streams = [world.open(number) for number in range(FULL)]
        for number, (writer, _) in enumerate(streams):
            writer.append(f'"{number}, first"')
            writer.append(UNSTORABLE if number == culprit else f'"{number}, last"', final=True)
        write.open()
        with anyio.fail_after(30):
            await world.journal.flushed()

        sizes = [len(batch.opened) for name, (batch,) in world.log.seen if name == "write"]
        assert FULL in sizes
        for number, (writer, listener) in enumerate(streams):
            state = await read(world, writer.stream_id)
            messages = [event.message for event in state.events]
            assert state.finished
            if number == culprit:
                assert [type(error) for error in listener.refusals] == [StoreError]
                assert [number] == [json.loads(message)["id"] for message in messages]
                assert "could not be stored" in messages[0]
            else:
                assert ([], [f'"{number}, first"', f'"{number}, last"']) == (listener.refusals, messages)
        assert 0 == world.journal.pending_bytes


async def test_a_flush_held_before_its_statement_finds_its_stream_taken_over(database_url: str) -> None:
    async with worlds(database_url) as (world, other):
        writer, listener = world.open(1)
        writer.append('"one"')
        with anyio.fail_after(10):
            await world.journal.flushed()
            write = world.log.before["write"]
            write.close()
            writer.append('"late"')
            await write.reached.wait()
            # Its client has seen more than the log has: the final must come after it.
            writer.append(OWN, final=True)
            await die(world)
            assert await other.log.take_over(world.session, writer.stream_id, 3, [TAKEN], by="other")
            write.open()
            await world.journal.flushed()

        state = await read(world, writer.stream_id)
        assert [(1, '"one"'), (4, TAKEN)] == [(event.seq, event.message) for event in state.events]
        assert ([None], True) == (listener.refusals, writer.closed)


async def test_a_take_over_after_the_flush_whose_answer_is_held_finds_the_stream_finished(database_url: str) -> None:
    async with worlds(database_url) as (world, other):
        written = world.log.after["write"]
        written.close()
        writer, listener = world.open(1)
        writer.append(OWN, final=True)
        with anyio.fail_after(10):
            await written.reached.wait()
            await die(world)
            assert not await other.log.take_over(world.session, writer.stream_id, 0, [TAKEN], by="other")
            written.open()
            await world.journal.flushed()

        state = await read(world, writer.stream_id)
        assert [(1, OWN)] == [(event.seq, event.message) for event in state.events]
        assert ([], True) == (listener.refusals, writer.closed)


async def test_of_a_flush_and_a_take_over_at_once_one_writes_the_only_final(database_url: str) -> None:
    """Many streams, each with a race of its own; the journal and two strangers, over connections of their own."""
    winners: Counter[str] = Counter()
    async with worlds(database_url) as (world, other), running_backend(database_url) as third:
        pairs = [world.open(number) for number in range(ROUNDS)]
        for writer, _ in pairs:
            writer.append('"one"')
        with anyio.fail_after(10):
            await world.journal.flushed()
            await die(world)

        async def take(backend: PostgresBackend, stream_id: str, barrier: anyio.Event) -> None:
            await barrier.wait()
            if await backend.log.take_over(world.session, stream_id, 1, [TAKEN], by="other"):
                winners["taken"] += 1

        for number, (writer, _) in enumerate(pairs):
            barrier = anyio.Event()
            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    for backend in (other, third):
                        tasks.start_soon(take, backend, writer.stream_id, barrier)
                    # One or the other has the start, in turns.
                    if number % 2:
                        writer.append(OWN, final=True)
                        # The batch does not linger for somebody who waits.
                        tasks.start_soon(world.journal.flushed)
                        await anyio.sleep(0.0001 * (number % 10))
                    barrier.set()
                    writer.append(OWN, final=True)
                await world.journal.flushed()

        for writer, listener in pairs:
            state = await read(world, writer.stream_id)
            assert (True, [1, 2]) == (state.finished, [event.seq for event in state.events])
            assert state.events[1].message in (OWN, TAKEN)
            own = state.events[1].message == OWN
            winners["own"] += own
            assert ([] if own else [None]) == listener.refusals
    assert ROUNDS == winners["own"] + winners["taken"]
    assert min(winners["own"], winners["taken"]) > 0, winners
