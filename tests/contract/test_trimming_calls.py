"""What a call's stream keeps: its producer, which alone writes it, counts; its answer always stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.journal import Journal
from mcpsession.model import ReplicaId, StreamId, StreamState
from mcpsession.settings import Settings
from tests.contract.conftest import Rows
from tests.contract.given import a_session, appended, given, opened, read, write


def numbers(state: StreamState) -> list[int]:
    return [event.seq for event in state.events]


# a call's stream


async def test_f45_a_stream_opened_with_more_than_it_holds_is_numbered_as_if_it_held_all(
    backend: Backend, rows: Rows
) -> None:
    await write(backend, opened("1", "2", "3", "4")._replace(trimmed=2))

    state = await read(backend, after=2)
    assert (4, 2, [3, 4], 2) == (state.last_seq, state.trimmed_seq, numbers(state), await rows())


async def test_f45_what_a_write_trims_is_gone_with_it(backend: Backend, rows: Rows) -> None:
    await write(backend, opened("1", "2", "3"), opened("1", "2", stream_id="other", request_ids=("2",)))
    await write(backend, appended(3, "4", "5")._replace(trimmed=2), appended(2, "3", stream_id="other"))
    state = await read(backend)
    assert (5, 2, [3, 4, 5]) == (state.last_seq, state.trimmed_seq, numbers(state))

    # Of what comes in with this one, some is not kept at all; and nothing comes back.
    await write(backend, appended(5, "6", "7", "8")._replace(trimmed=7))
    await write(backend, appended(8, "9", finished=True))
    state = await read(backend)
    assert (9, 7, [8, 9]) == (state.last_seq, state.trimmed_seq, numbers(state))
    assert [1, 2, 3] == numbers(await read(backend, stream_id="other"))
    assert 5 == await rows()


async def test_f45_a_write_that_is_not_accepted_trims_nothing(backend: Backend) -> None:
    await write(backend, opened("1", "2", "3"))

    for late in (appended(2, "4")._replace(trimmed=2), appended(4, "5")._replace(trimmed=2)):
        assert not await write(backend, late)
    assert not await write(backend, appended(3, "4")._replace(trimmed=2), producer="b")

    assert [1, 2, 3] == numbers(await read(backend))


class Listener:
    """Whoever writes a stream, and is told nothing that it would not expect."""

    def landed(self) -> None: ...

    def read_by(self, replica: ReplicaId) -> None: ...

    def refused(self, error: Exception | None) -> None:
        raise AssertionError(error)


@asynccontextmanager
async def journal(backend: Backend, settings: Settings) -> AsyncIterator[Journal]:
    """A replica's journal, at work."""
    made = Journal(backend.log, settings, lambda: "a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.run)
        yield made
        tasks.cancel_scope.cancel()


async def called(backend: Backend, stream_id: StreamId) -> StreamState:
    found = await backend.log.read("session", stream_id, 0, 10_000)
    assert found is not None
    return found


@given(max_events=1000)
@pytest.mark.parametrize("burst", [40, 5000])
async def test_f45_of_a_call_with_five_thousand_messages_the_newest_thousand_are_left(
    backend: Backend, settings: Settings, rows: Rows, burst: int
) -> None:
    await a_session(backend)
    with anyio.fail_after(60):
        async with journal(backend, settings) as made:
            writer = made.open("session", ("1",), Listener(), "tools/call")
            for number in range(1, 5001):
                writer.append(str(number), final=number == 5000)
                if number % burst == 0:
                    await made.flushed()

    state = await called(backend, writer.stream_id)
    assert (5000, 4000, True) == (state.last_seq, state.trimmed_seq, state.finished)
    assert [(n, str(n)) for n in range(4001, 5001)] == [(event.seq, event.message) for event in state.events]
    assert 1000 == await rows()


@given(max_events=1, max_replay_bytes=100)
async def test_f45_a_calls_answer_always_stays(backend: Backend, settings: Settings, rows: Rows) -> None:
    await a_session(backend)
    with anyio.fail_after(30):
        async with journal(backend, settings) as made:
            writer = made.open("session", ("1",), Listener())
            for message in ("progress", "progress", "x" * 1000, "answer " * 1000):
                writer.append(message, final=message.startswith("answer"))
                await made.flushed()

    state = await called(backend, writer.stream_id)
    assert ([4], 3, 1) == (numbers(state), state.trimmed_seq, await rows())


@given(max_replay_bytes=100)
async def test_f46_a_call_keeps_so_many_bytes(backend: Backend, settings: Settings) -> None:
    await a_session(backend)
    with anyio.fail_after(30):
        async with journal(backend, settings) as made:
            writer = made.open("session", ("1",), Listener())
            for message in ("é" * 20, "x" * 30, "é" * 15, "x"):
                writer.append(message)
            await made.flushed()

    assert [2, 3, 4] == numbers(await called(backend, writer.stream_id))


@given(max_events=3)
async def test_f45_a_call_that_stays_below_the_limit_keeps_all(backend: Backend, settings: Settings) -> None:
    await a_session(backend)
    with anyio.fail_after(30):
        async with journal(backend, settings) as made:
            writer = made.open("session", ("1",), Listener(), "tools/call")
            for message in ("1", "2"):
                writer.append(message)
                await made.flushed()
            writer.append("3", final=True)
            await made.flushed()

    state = await called(backend, writer.stream_id)
    assert ([1, 2, 3], 0) == (numbers(state), state.trimmed_seq)
