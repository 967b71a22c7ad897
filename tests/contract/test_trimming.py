"""What a stream keeps: the newest events, so many and so many bytes of them, and the last one always."""

from __future__ import annotations

import anyio

from mcpsession.contracts import Backend
from mcpsession.event_records import Entry, EventStats
from mcpsession.model import STANDALONE, NewEvent, SessionId, StreamState
from tests.contract.conftest import Rows
from tests.contract.given import a_session, given, log, logged, page, read, record

# an application's own


@given(max_events=1000)
async def test_f45_of_five_thousand_events_the_newest_thousand_are_left(backend: Backend, rows: Rows) -> None:
    await a_session(backend)
    for first in range(1, 5000, 100):
        await log(backend, *map(str, range(first, first + 100)))

    found = await page(backend)
    assert list(range(4001, 5001)) == [entry.seq for entry in found.entries]
    assert [str(number) for number in range(4001, 5001)] == [entry.data for entry in found.entries]
    assert (5000, 4000) == (found.last_seq, found.trimmed_seq)
    assert 1000 == await rows()
    assert 1000 == (await record(backend)).event_count


@given(max_events=10)
async def test_f45_a_stream_is_trimmed_one_by_one(backend: Backend, rows: Rows) -> None:
    await a_session(backend)
    for number in range(1, 26):
        await log(backend, str(number))
        assert min(number, 10) == await rows()

    assert list(range(16, 26)) == [seq for seq, _ in await logged(backend)]


@given(max_events=10)
async def test_f45_of_more_than_a_stream_holds_the_newest_are_left(backend: Backend, rows: Rows) -> None:
    await a_session(backend)
    await log(backend, "1", "2", "3")

    result = await log(backend, *map(str, range(4, 104)))

    assert (list(range(4, 104)), 100) == (list(result.numbers), result.added)
    assert list(range(94, 104)) == [seq for seq, _ in await logged(backend)]
    assert 10 == await rows()


@given(max_events=1000, pool_size=10)
async def test_f45_under_eight_writers_the_newest_thousand_are_left(
    backend: Backend, other: Backend, rows: Rows
) -> None:
    await a_session(backend)
    started = anyio.Event()

    async def append_all(writer: int) -> None:
        await started.wait()
        for _ in range(25):
            await log((backend, other)[writer % 2], *["1"] * 25)

    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            for writer in range(8):
                tasks.start_soon(append_all, writer)
            started.set()

    found = await page(backend)
    assert list(range(4001, 5001)) == [entry.seq for entry in found.entries]
    assert 1000 == await rows()
    assert EventStats(streams=2, events=1000, bytes=1000) == await backend.events.stats()


@given(max_events=2)
async def test_f45_an_id_that_was_trimmed_is_new_again(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, Entry("1", id="a"), Entry("2", id="b"), Entry("3", id="c"))

    result = await log(backend, Entry("4", id="a"), Entry("5", id="c"))

    assert ([4, 3], 1) == (list(result.numbers), result.added)
    assert [(3, "3"), (4, "4")] == await logged(backend)


@given(max_events=2)
async def test_f44_a_reader_is_told_what_is_gone(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, *(Entry(str(n), id=f"event-{n}") for n in range(1, 6)))

    for after, known in ((1, True), ("event-1", False), (3, True), ("event-4", True)):
        found = await page(backend, after)
        assert (3, 5, known) == (found.trimmed_seq, found.last_seq, found.known)
    assert [4, 5] == [seq for seq, _ in await logged(backend, 1)]
    assert [4, 5] == [seq for seq, _ in await logged(backend, "event-1")]
    assert [5] == [seq for seq, _ in await logged(backend, "event-4")]


@given(max_replay_bytes=100)
async def test_f46_the_oldest_go_until_the_bytes_are_few_enough(backend: Backend, rows: Rows) -> None:
    await a_session(backend)
    for size in (40, 30, 30):
        await log(backend, "x" * size)
    assert [1, 2, 3] == [seq for seq, _ in await logged(backend)]

    await log(backend, "x")
    assert [2, 3, 4] == [seq for seq, _ in await logged(backend)]

    await log(backend, "x" * 70)
    assert [4, 5] == [seq for seq, _ in await logged(backend)]
    assert (2, EventStats(streams=2, events=2, bytes=71)) == (await rows(), await backend.events.stats())

    await log(backend, *["x" * 60] * 5)
    assert [10] == [seq for seq, _ in await logged(backend)]


@given(max_replay_bytes=100)
async def test_f46_bytes_are_bytes_and_not_characters(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, *["é" * 20] * 4)

    assert [3, 4] == [seq for seq, _ in await logged(backend)]


@given(max_replay_bytes=100)
async def test_f46_the_newest_stays_however_large_it_is(backend: Backend, rows: Rows) -> None:
    await a_session(backend)
    await log(backend, "1", "x" * 1000)
    assert [2] == [seq for seq, _ in await logged(backend)]

    await log(backend, "x" * 1000)
    assert [3] == [seq for seq, _ in await logged(backend)]
    await log(backend, "1")
    assert [4] == [seq for seq, _ in await logged(backend)]
    assert (1, EventStats(streams=2, events=1, bytes=1)) == (await rows(), await backend.events.stats())


@given(max_events=3, max_replay_bytes=100)
async def test_f46_whichever_limit_is_nearer_counts(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, *["x"] * 5)
    assert [3, 4, 5] == [seq for seq, _ in await logged(backend)]

    await log(backend, "x" * 60, "x" * 60)
    assert [7] == [seq for seq, _ in await logged(backend)]


@given(max_events=5, max_replay_bytes=200)
async def test_f46_whatever_is_appended_the_longest_end_that_fits_is_left(backend: Backend) -> None:
    """Against the rule itself: sizes and batches of all kinds, some with ids that are there already."""
    await a_session(backend)
    kept: list[tuple[int, int]] = []
    seq = 0
    for step in range(60):
        sizes = [(step * 37 + place * 53) % 90 + 1 for place in range(step % 4 + 1)]
        await log(backend, *("x" * size for size in sizes))
        kept += [(seq + place, size) for place, size in enumerate(sizes, 1)]
        seq += len(sizes)
        while len(kept) > 1 and (len(kept) > 5 or sum(size for _, size in kept) > 200):
            kept.pop(0)
        assert kept == [(number, len(data)) for number, data in await logged(backend)]
    assert EventStats(2, len(kept), sum(size for _, size in kept)) == await backend.events.stats()


# a client's standalone stream


async def standalone(backend: Backend, session_id: SessionId = "session") -> StreamState:
    return await read(backend, session_id, STANDALONE)


def numbers(state: StreamState) -> list[int]:
    return [event.seq for event in state.events]


@given(max_events=10)
async def test_f45_a_standalone_stream_keeps_its_newest(backend: Backend, rows: Rows) -> None:
    await a_session(backend)
    await a_session(backend, "small")
    for number in range(1, 26):
        await backend.log.append_standalone([("session", NewEvent(str(number)))])
        assert min(number, 10) == await rows()
    await backend.log.append_standalone(
        [("session", NewEvent(str(n))) for n in range(26, 61)] + [("small", NewEvent("1"))]
    )

    state = await standalone(backend)
    assert (list(range(51, 61)), 60, 50) == (numbers(state), state.last_seq, state.trimmed_seq)
    assert 11 == await rows()
    assert ([1], 0) == (numbers(state := await standalone(backend, "small")), state.trimmed_seq)


@given(max_replay_bytes=100)
async def test_f46_a_standalone_stream_keeps_so_many_bytes(backend: Backend, rows: Rows) -> None:
    await a_session(backend)
    for size in (60, 30, 10, 1):
        await backend.log.append_standalone([("session", NewEvent("x" * size))])
    assert [2, 3, 4] == numbers(await standalone(backend))

    await backend.log.append_standalone([("session", NewEvent("x" * 1000))])
    assert [5] == numbers(await standalone(backend))
    await backend.log.append_standalone([("session", NewEvent("x"))])
    assert ([6], 1) == (numbers(await standalone(backend)), await rows())


@given(max_events=20, pool_size=10)
async def test_f45_a_standalone_stream_that_many_write_keeps_exactly_its_newest(
    backend: Backend, other: Backend, rows: Rows
) -> None:
    """Whoever waits for the stream's row sees an older state of the log than the one it adds to."""
    await a_session(backend)
    started = anyio.Event()

    async def append_all(store: Backend) -> None:
        await started.wait()
        for number in range(1, 60):
            await store.log.append_standalone([("session", NewEvent("x"))] * (number % 3 + 1))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for store in (backend, other):
                tasks.start_soon(append_all, store)
            started.set()

    state = await standalone(backend)
    assert (list(range(state.last_seq - 19, state.last_seq + 1)), 20) == (numbers(state), await rows())
    assert (238, 218) == (state.last_seq, state.trimmed_seq)
    assert 20 == (await backend.events.stats()).bytes
