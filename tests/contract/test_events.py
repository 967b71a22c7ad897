"""EventLog, writing: numbered without gaps, by one writer, nothing twice."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.errors import StoreError
from mcpsession.model import Accepted, Batch, NewEvent
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


# namespaces


async def test_namespaces_never_see_each_others_streams(backend: Backend, neighbour: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await write(backend, opened("ours"))

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
