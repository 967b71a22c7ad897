"""EventLog, the streams of the dead: one final each, whoever asks how often."""

from __future__ import annotations

import anyio

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.model import Batch, NewEvent, OpenedStream
from tests.contract.conftest import Join
from tests.contract.given import (
    a_session,
    appended,
    messages,
    numbered,
    opened,
    read,
    write,
)

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
