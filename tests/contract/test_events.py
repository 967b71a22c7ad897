"""EventLog: numbered without gaps, one writer, one final, nothing twice."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.errors import StoreError
from mcpsession.model import Accepted, Batch, NewEvent, OpenedStream
from tests.contract.conftest import Join
from tests.contract.given import (
    a_session,
    appended,
    expire,
    expired,
    given,
    messages,
    numbered,
    opened,
    read,
    until,
    write,
)

# write


async def test_a_stream_is_numbered_from_one_in_the_order_of_its_writes(backend: Backend, join: Join) -> None:
    await join("a")

    assert ["stream"] == await write(backend, opened("prime"))
    assert ["stream"] == await write(backend, appended(1, "two", "three"))
    assert ["stream"] == await write(backend, appended(3, "four", finished=True))

    assert [(1, "prime"), (2, "two"), (3, "three"), (4, "four")] == await numbered(backend)
    state = await read(backend)
    assert (4, True, False, False, "a", ("1",)) == (
        state.last_seq,
        state.finished,
        state.taken_over,
        state.orphaned,
        state.producer,
        state.request_ids,
    )


async def test_a_stream_can_be_opened_and_finished_in_one_write(backend: Backend) -> None:
    assert ["stream"] == await write(backend, opened("prime", "result", finished=True))

    assert (await read(backend)).finished
    assert ["prime", "result"] == await messages(backend)


async def test_a_stream_can_be_opened_without_events_and_finished_without_any(backend: Backend) -> None:
    await write(backend, opened())
    assert ["stream"] == await write(backend, appended(0, finished=True))

    state = await read(backend)
    assert (0, True, []) == (state.last_seq, state.finished, list(state.events))


async def test_one_batch_reaches_streams_of_many_sessions(backend: Backend) -> None:
    streams = [opened("one", session_id=session, stream_id=f"of {session}") for session in ("x", "y", "z")]

    assert ["of x", "of y", "of z"] == await write(backend, *streams)
    more = [appended(1, "two", session_id=session, stream_id=f"of {session}") for session in ("z", "x", "y")]
    assert ["of x", "of y", "of z"] == await write(backend, *more)

    for session in ("x", "y", "z"):
        assert ["one", "two"] == await messages(backend, session, f"of {session}")


async def test_an_empty_batch_reaches_nothing(backend: Backend) -> None:
    assert [] == list(await backend.log.write(Batch(), producer="a"))


async def test_any_json_text_is_kept_as_it_is(backend: Backend) -> None:
    texts = ['{"a":1,"a":2}', '"\\u0000 \\ud800"', '{"emoji":"🦉","quote":"\'"}', "1e999", "", '" "']

    await write(backend, opened(*texts))

    assert texts == await messages(backend)


@pytest.mark.parametrize("text", ["nul \x00", "half a pair \ud800"], ids=["nul", "surrogate"])
async def test_of_a_batch_that_cannot_be_stored_nothing_is_applied(backend: Backend, text: str) -> None:
    await write(backend, opened("prime"))

    with pytest.raises(StoreError):
        await write(
            backend,
            appended(1, "two"),
            opened("fine", stream_id="fine", request_ids=("2",)),
            opened(text, stream_id="bad", request_ids=("3",)),
        )

    assert ["prime"] == await messages(backend)
    assert await backend.log.read("session", "fine", 0, 10) is None
    assert await backend.log.read("session", "bad", 0, 10) is None
    assert ["stream"] == await write(backend, appended(1, "two"))


async def test_a_repeated_write_is_not_doubled(backend: Backend) -> None:
    """After an outage nobody knows whether a batch was applied."""
    assert ["stream"] == await write(backend, opened("one"))
    assert [] == await write(backend, opened("one"))

    assert ["stream"] == await write(backend, appended(1, "two"))
    assert [] == await write(backend, appended(1, "two"))

    assert ["one", "two"] == await messages(backend)


@pytest.mark.parametrize("base", [0, 2, 3])
async def test_an_append_to_another_base_is_refused(backend: Backend, base: int) -> None:
    await write(backend, opened("one"))

    assert [] == await write(backend, appended(base, "two"))

    assert ["one"] == await messages(backend)


async def test_a_finished_stream_takes_nothing_more(backend: Backend) -> None:
    await write(backend, opened("one", finished=True))

    assert [] == await write(backend, appended(1, "two"))

    assert ["one"] == await messages(backend)


async def test_nobody_but_its_producer_writes_a_stream(backend: Backend) -> None:
    await write(backend, opened("one"), producer="a")

    assert [] == await write(backend, appended(1, "two"), producer="b")

    assert ["one"] == await messages(backend)


async def test_nobody_appends_to_a_stream_that_is_missing(backend: Backend) -> None:
    assert [] == await write(backend, appended(0, "one"))

    assert await backend.log.read("session", "stream", 0, 10) is None


async def test_what_cannot_be_applied_does_not_hold_up_the_rest_of_its_batch(backend: Backend) -> None:
    await write(backend, opened("one"), opened("one", stream_id="finished", request_ids=("2",), finished=True))

    assert ["new", "stream"] == await write(
        backend,
        opened("one", stream_id="twin", request_ids=("1",)),
        opened("one", stream_id="new", request_ids=("3",)),
        appended(1, "two", stream_id="finished"),
        appended(1, "two"),
        appended(7, "two", stream_id="missing"),
    )

    assert ["one", "two"] == await messages(backend)
    assert ["one"] == await messages(backend, stream_id="new")
    assert ["one"] == await messages(backend, stream_id="finished")
    assert await backend.log.read("session", "twin", 0, 10) is None


async def test_a_batch_says_who_reads_its_streams(backend: Backend) -> None:
    await write(backend, opened("one"))
    await backend.log.attach("session", "stream", "b")

    written = await backend.log.write(
        Batch(opened=[opened("one", stream_id="other", request_ids=("2",))], appended=[appended(1, "two")]),
        producer="a",
    )

    assert [Accepted("session", "other", None), Accepted("session", "stream", "b")] == sorted(
        written, key=lambda stream: stream.stream_id
    )


# duplicates of a live request


async def test_a_duplicate_of_a_live_request_is_refused(backend: Backend) -> None:
    await write(backend, opened("one"), producer="a")

    assert [] == await write(backend, opened("one", stream_id="twin"), producer="b")

    assert await backend.log.read("session", "twin", 0, 10) is None


async def test_of_two_who_run_the_same_request_at_once_one_is_accepted(backend: Backend) -> None:
    accepted: list[str] = []

    async def run(producer: str) -> None:
        accepted.extend(await write(backend, opened("one", stream_id=producer), producer=producer))

    async with anyio.create_task_group() as tasks:
        for producer in ("a", "b", "c", "d"):
            tasks.start_soon(run, producer)

    assert 1 == len(accepted)


async def test_a_request_id_may_come_again_once_its_stream_is_finished(backend: Backend) -> None:
    await write(backend, opened("one"))
    await write(backend, appended(1, "two", finished=True))

    assert ["again"] == await write(backend, opened("one", stream_id="again"))


async def test_a_number_and_a_text_are_different_request_ids(backend: Backend) -> None:
    assert ["number"] == await write(backend, opened(stream_id="number", request_ids=("1",)))
    assert ["text"] == await write(backend, opened(stream_id="text", request_ids=('"1"',)))

    assert ("1",) == (await read(backend, stream_id="number")).request_ids
    assert ('"1"',) == (await read(backend, stream_id="text")).request_ids


async def test_sessions_may_use_the_same_request_ids(backend: Backend) -> None:
    assert ["stream"] == await write(backend, opened(session_id="x"))
    assert ["stream"] == await write(backend, opened(session_id="y"))


async def test_a_stream_may_answer_several_requests(backend: Backend) -> None:
    await write(backend, opened(request_ids=("1", '"two"', "3")))

    assert ("1", '"two"', "3") == (await read(backend)).request_ids
    assert [] == await write(backend, opened(stream_id="twin", request_ids=("1", '"two"', "3")))


# landed


async def test_whether_a_write_landed_is_known(backend: Backend) -> None:
    await write(backend, opened("one", "two"))

    assert await backend.log.landed("session", "stream", 1, producer="a")
    assert await backend.log.landed("session", "stream", 2, producer="a")
    assert not await backend.log.landed("session", "stream", 3, producer="a")
    assert not await backend.log.landed("session", "stream", 2, producer="b")
    assert not await backend.log.landed("session", "missing", 0, producer="a")


async def test_a_stream_that_was_taken_over_has_not_landed_for_its_producer(backend: Backend) -> None:
    await write(backend, opened("one"), producer="dead")
    assert await backend.log.take_over("session", "stream", 1, ["final"], by="b")

    assert not await backend.log.landed("session", "stream", 2, producer="dead")


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
    await a_session(backend, "expired", ttl=0.3)
    await backend.holds.take("terminated", "b")
    await backend.holds.take("expired", "b")
    await backend.sessions.terminate("terminated", "", sender="b")
    await expired(backend, "expired")
    dead = ("terminated", "expired", "unknown")

    assert {} == dict(await backend.log.append_standalone([(session, NewEvent("lost")) for session in dead]))

    for session in dead:
        state = await backend.log.read(session, "s", 0, 10)
        assert state is None or not state.events


async def test_a_terminated_session_has_no_standalone_stream(backend: Backend) -> None:
    await a_session(backend)
    await backend.sessions.terminate("session", "", sender="a")

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


# take-over


async def test_the_stream_of_a_living_producer_is_not_taken_over(backend: Backend, join: Join) -> None:
    await join("a")
    await write(backend, opened("one"))

    assert not (await read(backend)).orphaned
    assert not await backend.log.take_over("session", "stream", 1, ["final"], by="b")

    assert ["one"] == await messages(backend)


async def test_a_dead_producers_stream_is_finished_past_all_that_was_asked_for(
    backend: Backend, join: Join, registry: ReplicaRegistry
) -> None:
    """A client may have seen more than is in the log: what its producer had sent but not yet written."""
    await join("a")
    await write(backend, opened("one"))
    await registry.leave("a")
    assert (await read(backend)).orphaned

    assert await backend.log.take_over("session", "stream", 5, ["final 1", "final 2"], by="b")

    assert [(1, "one"), (6, "final 1"), (7, "final 2")] == await numbered(backend)
    assert [(6, "final 1"), (7, "final 2")] == await numbered(backend, after=5)
    state = await read(backend)
    assert (7, True, True, False) == (state.last_seq, state.finished, state.taken_over, state.orphaned)


async def test_finals_come_after_the_last_event_if_less_was_asked_for(backend: Backend) -> None:
    await write(backend, opened("one", "two", "three"), producer="dead")

    assert await backend.log.take_over("session", "stream", 1, ["final"], by="b")

    assert [(1, "one"), (2, "two"), (3, "three"), (4, "final")] == await numbered(backend)


async def test_there_is_one_final_whoever_asks_how_often(backend: Backend) -> None:
    await write(backend, opened("one"), producer="dead")
    outcomes: list[bool] = []

    async def take_over(number: int) -> None:
        by = f"replica {number}"
        outcomes.append(await backend.log.take_over("session", "stream", number, ["final"], by=by))

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(take_over, number)

    assert [False] * 5 + [True] == sorted(outcomes)
    assert ["one", "final"] == await messages(backend)
    assert not await backend.log.take_over("session", "stream", 99, ["final"], by="late")
    assert ["one", "final"] == await messages(backend)


async def test_a_late_producer_finds_its_stream_lost(backend: Backend) -> None:
    await write(backend, opened("one"), producer="dead")
    await backend.log.take_over("session", "stream", 1, ["final"], by="b")

    assert [] == await write(backend, appended(1, "two", finished=True), producer="dead")
    assert [] == await write(backend, appended(2, "two", finished=True), producer="dead")

    assert ["one", "final"] == await messages(backend)


async def test_of_a_producer_and_a_stranger_who_end_a_stream_at_once_one_does(backend: Backend) -> None:
    for number in range(10):
        stream = f"stream {number}"
        await write(backend, opened(stream_id=stream), producer="dead")
        ended: list[object] = []

        async def finish(stream: str = stream, ended: list[object] = ended) -> None:
            ended.extend(await write(backend, appended(0, "end", stream_id=stream, finished=True), producer="dead"))

        async def take_over(stream: str = stream, ended: list[object] = ended) -> None:
            if await backend.log.take_over("session", stream, 0, ["end"], by="b"):
                ended.append("taken over")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finish)
            tasks.start_soon(take_over)

        assert 1 == len(ended)
        assert [(1, "end")] == await numbered(backend, stream_id=stream)


async def test_a_stream_that_needs_no_final_is_finished_without_one(backend: Backend) -> None:
    """All its requests were answered, only its end was not written."""
    await write(backend, opened("one"), producer="dead")

    assert await backend.log.take_over("session", "stream", 1, [], by="b")

    state = await read(backend)
    assert (1, True) == (state.last_seq, state.finished)


async def test_what_is_finished_or_missing_is_not_taken_over(backend: Backend) -> None:
    await a_session(backend)
    await write(backend, opened("one", finished=True), producer="dead")

    assert not await backend.log.take_over("session", "stream", 1, ["final"], by="b")
    assert not await backend.log.take_over("session", "missing", 1, ["final"], by="b")
    assert not await backend.log.take_over("session", "s", 1, ["final"], by="b")

    assert ["one"] == await messages(backend)
    assert [] == await messages(backend, stream_id="s")


async def test_a_taken_over_request_may_be_tried_again(backend: Backend) -> None:
    await write(backend, opened("one"), producer="dead")
    await backend.log.take_over("session", "stream", 1, ["final"], by="b")

    assert ["again"] == await write(backend, opened("one", stream_id="again"), producer="b")


# orphans and unfinished


async def test_orphans_are_the_unfinished_streams_of_the_dead(
    backend: Backend, join: Join, registry: ReplicaRegistry
) -> None:
    await join("alive", "dead")
    await a_session(backend)
    await write(backend, opened("one", stream_id="of the living"), producer="alive")
    await write(backend, opened("one", "two", stream_id="open", request_ids=("2",)), producer="dead")
    await write(backend, opened("one", stream_id="ended", request_ids=("3",), finished=True), producer="dead")
    assert [] == list(await backend.log.orphans(10))

    await registry.leave("dead")

    assert [("session", "open", 2, ("2",))] == list(await backend.log.orphans(10))
    await backend.log.take_over("session", "open", 2, ["final"], by="alive")
    assert [] == list(await backend.log.orphans(10))


async def test_an_orphan_owes_only_what_was_not_answered(backend: Backend) -> None:
    answers = [NewEvent("1st", answers="1"), NewEvent("progress"), NewEvent("3rd", answers='"3"')]
    stream = OpenedStream("session", "stream", ("1", '"1"', '"3"', "3"), answers[:1], finished=False)
    await backend.log.write(Batch(opened=[stream]), producer="dead")
    await write(backend, appended(1, *answers[1:]), producer="dead")

    assert [("session", "stream", 3, ('"1"', "3"))] == list(await backend.log.orphans(10))
    assert [("session", "stream", 3, ('"1"', "3"))] == list(await backend.log.unfinished("dead"))


async def test_no_more_orphans_are_named_than_asked_for(backend: Backend) -> None:
    for number in range(5):
        await write(backend, opened(stream_id=f"{number}", request_ids=(f"{number}",)), producer="dead")

    assert 3 == len(await backend.log.orphans(3))
    assert 5 == len(await backend.log.orphans(10))


async def test_the_unfinished_streams_of_one_producer_are_its_own(backend: Backend) -> None:
    await write(backend, opened("one"), producer="a")
    await write(backend, opened("one", stream_id="ended", request_ids=("2",), finished=True), producer="a")
    await write(backend, opened("one", stream_id="of b", request_ids=("3",)), producer="b")

    assert [("session", "stream", 1, ("1",))] == list(await backend.log.unfinished("a"))
    await write(backend, appended(1, "two", finished=True), producer="a")
    assert [] == list(await backend.log.unfinished("a"))


# namespaces


async def test_namespaces_never_see_each_others_streams(backend: Backend, neighbour: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await write(backend, opened("ours"))
    await expire(neighbour, "elsewhere")

    assert await neighbour.log.read("session", "stream", 0, 10) is None
    assert not await neighbour.log.attach("session", "stream", "b")
    assert not await neighbour.log.landed("session", "stream", 1, producer="a")
    assert not await neighbour.log.take_over("session", "stream", 1, ["final"], by="b")
    assert [] == list(await neighbour.log.orphans(10))
    assert [] == list(await neighbour.log.unfinished("a"))
    assert [] == await write(neighbour, appended(1, "theirs"))
    assert {} == dict(await neighbour.log.append_standalone([("session", NewEvent("theirs"))]))
    assert ["stream"] == await write(neighbour, opened("theirs"))

    assert ["ours"] == await messages(backend)
    assert ["theirs"] == await messages(neighbour)
    assert [] == await messages(backend, stream_id="s")
    # To the neighbour replica "a" is unknown, and so as good as dead.
    assert (await read(neighbour)).orphaned
    assert not (await read(backend)).orphaned
