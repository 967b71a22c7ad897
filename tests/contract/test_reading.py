"""EventLog, reading: whole streams, in pages, by who attached before; and the standalone stream."""

from __future__ import annotations

import anyio

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.model import Batch, NewEvent, OpenedStream
from tests.contract.conftest import Join
from tests.contract.given import (
    a_session,
    appended,
    expired,
    given,
    messages,
    numbered,
    opened,
    terminate,
    until,
    write,
)

# the standalone stream


async def test_the_standalone_stream_keeps_the_order_of_a_call(backend: Backend) -> None:
    await a_session(backend, "x")
    await a_session(backend, "y")

    await backend.log.append_standalone([("x", NewEvent("1")), ("y", NewEvent("2")), ("x", NewEvent("3"))])
    await backend.log.append_standalone([("x", NewEvent("4"))])

    assert [(1, "1"), (2, "3"), (3, "4")] == await numbered(backend, "x", "s")
    assert [(1, "2")] == await numbered(backend, "y", "s")


async def test_many_writers_number_a_standalone_stream_without_gaps(backend: Backend) -> None:
    await a_session(backend)

    async def append(writer: int) -> None:
        for number in range(5):
            await backend.log.append_standalone([("session", NewEvent(f"{writer} {number}"))])

    async with anyio.create_task_group() as tasks:
        for writer in range(6):
            tasks.start_soon(append, writer)

    events = await numbered(backend, stream_id="s")
    assert list(range(1, 31)) == [seq for seq, _ in events]
    for writer in range(6):
        own = [text for _, text in events if text.startswith(f"{writer} ")]
        assert [f"{writer} {number}" for number in range(5)] == own


async def test_who_holds_a_standalone_stream_is_told_to_its_writers(backend: Backend, join: Join) -> None:
    await join("b")
    await a_session(backend, "held")
    await a_session(backend, "free")
    await backend.holds.take("held", "b")

    holders = await backend.log.append_standalone([("held", NewEvent("1")), ("free", NewEvent("2"))])

    assert {"held": "b"} == dict(holders)


async def test_sessions_that_are_not_live_take_no_standalone_messages(backend: Backend, join: Join) -> None:
    await join("b")
    await a_session(backend, "terminated")
    await a_session(backend, "expired", ttl=0.5)
    await backend.holds.take("terminated", "b")
    await backend.holds.take("expired", "b")
    await terminate(backend, "terminated")
    await expired(backend, "expired")
    dead = ("terminated", "expired", "unknown")

    assert {} == dict(await backend.log.append_standalone([(session, NewEvent("lost")) for session in dead]))

    for session in dead:
        state = await backend.log.read(session, "s", 0, 10)
        assert state is None or not state.events


async def test_a_terminated_session_has_no_standalone_stream(backend: Backend) -> None:
    await a_session(backend)
    await terminate(backend)

    assert await backend.log.read("session", "s", 0, 10) is None


# attach and read


async def test_a_reader_is_returned_from_its_attaching_on(backend: Backend) -> None:
    await write(backend, opened("one"))

    assert await backend.log.attach("session", "stream", "b")
    [first] = await backend.log.write(Batch(appended=[appended(1, "two")]), producer="a")
    [second] = await backend.log.write(Batch(appended=[appended(2, "three")]), producer="a")
    assert await backend.log.attach("session", "stream", "c")
    [third] = await backend.log.write(Batch(appended=[appended(3, "four", finished=True)]), producer="a")

    assert ["b", "b", "c"] == [first.reader, second.reader, third.reader]


async def test_no_one_attaches_to_a_stream_that_is_missing(backend: Backend) -> None:
    assert not await backend.log.attach("session", "missing", "b")


async def test_a_stream_belongs_to_its_session_alone(backend: Backend) -> None:
    await write(backend, opened("one"))

    assert not await backend.log.attach("other", "stream", "b")
    assert await backend.log.read("other", "stream", 0, 10) is None


async def test_a_stream_is_read_in_pages(backend: Backend) -> None:
    await write(backend, opened("1", "2", "3", "4", "5"))

    pages = [await backend.log.read("session", "stream", after, 2) for after in (0, 2, 4, 5, 99)]

    assert [[1, 2], [3, 4], [5], [], []] == [[event.seq for event in page.events] for page in pages if page]
    assert [5, 5, 5, 5, 5] == [page.last_seq for page in pages if page]


async def test_a_request_of_a_dead_replica_is_counted_but_not_sent(
    backend: Backend, join: Join, registry: ReplicaRegistry
) -> None:
    """Nobody would hear its answer."""
    await join("alive", "dead")
    await registry.leave("dead")
    requests = [NewEvent(of, request_of=of) for of in ("alive", "dead", "unknown")]
    await a_session(backend)
    stream = OpenedStream("session", "stream", ("1",), [*requests, NewEvent("said")], finished=False)
    await backend.log.write(Batch(opened=[stream]), producer="alive")
    await backend.log.append_standalone([("session", event) for event in requests])

    assert [(1, "alive"), (2, ""), (3, ""), (4, "said")] == await numbered(backend)
    assert [(1, "alive"), (2, ""), (3, "")] == await numbered(backend, stream_id="s")


@given(stream_ttl=0.1)
async def test_a_finished_stream_can_be_resumed_for_its_ttl_only(backend: Backend) -> None:
    await write(backend, opened("one"), opened("one", stream_id="open", request_ids=("2",)))
    await write(backend, appended(1, "two", finished=True))

    async def is_gone() -> bool:
        return await backend.log.read("session", "stream", 0, 10) is None

    await until(is_gone)
    assert not await backend.log.attach("session", "stream", "b")
    assert ["one"] == await messages(backend, stream_id="open")
