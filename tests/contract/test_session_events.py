"""SessionEvents: an application's own events are numbered without gaps, kept once, and read from anywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
import pytest

from mcpsession.contracts import Backend
from mcpsession.event_records import Entry, EventStats
from mcpsession.model import NewEvent
from tests.contract.conftest import Join
from tests.contract.given import (
    a_session,
    end,
    expire,
    given,
    log,
    logged,
    opened,
    page,
    record,
    write,
)

NUL, SURROGATE = "a\x00b", "a\ud800b"

# append


async def test_f40_events_are_numbered_from_one_in_the_order_of_their_appends(backend: Backend) -> None:
    await a_session(backend)

    assert [1] == list((await log(backend, "1")).numbers)
    assert [2, 3] == list((await log(backend, "2", "3")).numbers)

    assert [(1, "1"), (2, "2"), (3, "3")] == await logged(backend)


@given(pool_size=10)
async def test_f40_a_tailing_reader_sees_what_eight_writers_on_two_replicas_append_in_order_and_whole(
    backend: Backend, other: Backend
) -> None:
    await a_session(backend)
    writers, each = 8, 25
    started = anyio.Event()
    seen: list[tuple[int, str]] = []

    async def append_all(writer: int) -> None:
        await started.wait()
        for number in range(each):
            await log((backend, other)[writer % 2], f'"{writer}.{number}"')

    async def tail() -> None:
        while len(seen) < writers * each:
            seen.extend(await logged(other, seen[-1][0] if seen else 0))
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for writer in range(writers):
                tasks.start_soon(append_all, writer)
            tasks.start_soon(tail)
            started.set()

    assert list(range(1, writers * each + 1)) == [seq for seq, _ in seen]
    for writer in range(writers):
        expected = [f'"{writer}.{number}"' for number in range(each)]
        assert expected == [data for _, data in seen if data.startswith(f'"{writer}.')]


async def test_f40_numbers_go_on_in_another_process(backend: Backend, other: Backend) -> None:
    await a_session(backend)
    await log(backend, "1", "2")

    assert [3] == list((await log(other, "3")).numbers)


@pytest.mark.parametrize("at_once", [True, False])
async def test_f41_the_same_id_three_times_is_one_event(backend: Backend, at_once: bool) -> None:
    await a_session(backend)
    same = [Entry(f"{number}", id="event-1") for number in range(3)]

    results = [await log(backend, *part) for part in ([same] if at_once else [[entry] for entry in same])]

    assert [1, 1, 1] == [number for result in results for number in result.numbers]
    assert 1 == sum(result.added for result in results)
    assert [(1, "0")] == await logged(backend)
    assert 1 == (await record(backend)).event_count


@given(pool_size=10)
async def test_f41_the_same_ids_from_two_replicas_at_once_are_one_event_each(backend: Backend, other: Backend) -> None:
    await a_session(backend)
    ids = [f"event-{number}" for number in range(20)]
    started = anyio.Event()
    numbers: list[dict[str, int]] = []
    added: list[int] = []

    async def append_all(store: Backend) -> None:
        await started.wait()
        mine: dict[str, int] = {}
        for event_id in ids:
            result = await log(store, Entry("{}", id=event_id))
            mine[event_id] = result.numbers[0]
            added.append(result.added)
        numbers.append(mine)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for store in (backend, other, backend, other):
                tasks.start_soon(append_all, store)
            started.set()

    assert dict(zip(ids, range(1, 21), strict=True)) == numbers[0]
    assert [numbers[0]] * 4 == numbers
    assert 20 == sum(added)
    assert list(range(1, 21)) == [seq for seq, _ in await logged(backend)]


async def test_f41_what_is_there_already_keeps_its_number_and_the_rest_is_added(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, Entry("1", id="a"))

    result = await log(backend, Entry("2", id="b"), Entry("3", id="a"), Entry("4"), Entry("5", id="b"), Entry("6"))

    assert ([2, 1, 3, 2, 4], 3) == (list(result.numbers), result.added)
    assert [(1, "1"), (2, "2"), (3, "4"), (4, "6")] == await logged(backend)


async def test_f41_an_event_is_read_as_the_application_gave_it(backend: Backend) -> None:
    await a_session(backend)
    happened = datetime(2020, 2, 29, 12, 30, tzinfo=UTC)

    await log(backend, Entry('{"n":1}', type="order", id="order-1", timestamp=happened))

    [entry] = (await page(backend)).entries
    assert (1, '{"n":1}', "order", "order-1", happened) == (
        entry.seq,
        entry.data,
        entry.type,
        entry.id,
        entry.timestamp,
    )


async def test_f41_an_event_without_a_time_is_of_the_moment_it_was_stored(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, "1")
    await log(backend, "2")

    [first, second] = (await page(backend)).entries
    assert ("message", None) == (first.type, first.id)
    assert first.timestamp <= second.timestamp
    assert timedelta() < datetime.now(UTC) - first.timestamp < timedelta(minutes=5)


async def test_append_says_which_time_it_gave(backend: Backend) -> None:
    await a_session(backend)

    result = await log(backend, "1", Entry("2", timestamp=datetime(2020, 1, 1, tzinfo=UTC)), "3")

    [first, _, third] = (await page(backend)).entries
    assert [result.stored_at] * 2 == [first.timestamp, third.timestamp]


async def test_append_says_how_long_the_session_has_left(backend: Backend) -> None:
    await a_session(backend, ttl=3600)
    await a_session(backend, "for ever", ttl=None)

    remaining = (await log(backend, "1")).remaining
    assert remaining is not None
    assert 3500 < remaining <= 3601
    assert None is (await log(backend, "1", session_id="for ever")).remaining


async def test_appending_nothing_adds_nothing(backend: Backend) -> None:
    await a_session(backend)

    assert ([], 0) == (list((result := await log(backend)).numbers), result.added)
    assert (0, 0) == ((found := await page(backend)).last_seq, len(found.entries))


# read


async def test_f42_replay_begins_past_a_number_or_past_an_id(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, *(Entry(f"{n}", id=f"event-{n}") for n in range(1, 13)))

    assert list(range(1, 13)) == [seq for seq, _ in await logged(backend)]
    assert [10, 11, 12] == [seq for seq, _ in await logged(backend, "event-9")]
    assert [10, 11, 12] == [seq for seq, _ in await logged(backend, 9)]
    assert [] == await logged(backend, "event-12")
    assert [] == await logged(backend, 4711)


async def test_a_page_says_which_session_it_is_of(backend: Backend) -> None:
    await expire(backend)
    second = await a_session(backend)
    await log(backend, "1")

    assert [second.incarnation] * 2 == [(await page(backend, stream=name)).incarnation for name in ("log", "other")]


async def test_f42_a_stream_that_has_not_begun_is_empty(backend: Backend) -> None:
    await a_session(backend)

    found = await page(backend)
    assert ([], 0, 0, True) == (list(found.entries), found.last_seq, found.trimmed_seq, found.known)


async def test_a_reader_is_told_whether_its_cursor_is_known(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, Entry("1", id="a"), "2")

    expected = {0: True, 2: True, 3: False, "a": True, "b": False, NUL: False, SURROGATE: False}
    assert expected == {after: (await page(backend, after)).known for after in expected}


async def test_past_an_id_that_is_not_there_is_all_that_is_left(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, "1", "2")

    assert [(1, "1"), (2, "2")] == await logged(backend, "nobody's")


async def test_a_page_has_at_most_so_many_events(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, *map(str, range(5)))

    found = await page(backend, 1, limit=2)

    assert ([2, 3], 5) == ([entry.seq for entry in found.entries], found.last_seq)


async def test_a_page_ends_with_the_event_that_fills_a_mib(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, *['"' + "x" * 400_000 + '"'] * 5)

    assert [1, 2, 3] == [entry.seq for entry in (await page(backend)).entries]
    assert [4, 5] == [entry.seq for entry in (await page(backend, 3)).entries]


async def test_a_page_has_at_least_one_event(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, '"' + "x" * 2_000_000 + '"', "2")

    assert [1] == [entry.seq for entry in (await page(backend)).entries]


# counting


async def test_f47_a_sessions_event_count_is_of_what_is_retained(backend: Backend) -> None:
    await a_session(backend)
    await log(backend, "1", "2")
    await log(backend, "1", stream="another")
    await write(backend, opened("prime", "result", finished=True))

    assert 5 == (await record(backend)).event_count


async def test_f53_stats_count_streams_events_and_bytes_of_live_sessions(backend: Backend, join: Join) -> None:
    await join("a")
    assert EventStats() == await backend.events.stats()
    await a_session(backend, "one", owner="alice")
    await a_session(backend, "two")
    await a_session(backend, "gone")
    await log(backend, '"é"', "12", session_id="one")
    await log(backend, "1", session_id="gone")
    await write(backend, opened("prime", "result", session_id="two", finished=True))
    await backend.log.append_standalone([("two", NewEvent("news"))])
    await backend.requests.track("two", "1", "tools/call", 60, by="a")
    await end(backend, "gone", reason="terminated")

    # Each session has a standalone stream besides.
    one, two = EventStats(streams=2, events=2, bytes=6), EventStats(streams=2, events=3, bytes=15)
    assert EventStats(streams=4, events=5, bytes=21) == await backend.events.stats()
    assert one == await backend.events.stats("one")
    assert two == await backend.events.stats("two")
    assert one == await backend.events.stats(owner="alice")
    assert EventStats() == await backend.events.stats("missing")
