"""RequestRows: what is under way in the whole cluster, each id once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.errors import DuplicateRequestError, UnstorableTextError
from mcpsession.event_records import RequestInfo
from mcpsession.model import NewEvent
from tests.contract.conftest import Join
from tests.contract.given import a_session, appended, end, expire, given, opened, write
from tests.contract.requests import as_text, kill, running, track

NUL, SURROGATE = "a\x00b", "a\ud800b"
# track and complete


async def test_f31_a_tracked_request_is_known_until_it_is_completed(
    backend: Backend, other: Backend, join: Join
) -> None:
    await join("a")
    await a_session(backend)

    tracked = await track(backend, "7", "orders/import")

    assert ("session", 7, "orders/import", "a", True) == (
        tracked.session_id,
        tracked.request_id,
        tracked.method,
        tracked.replica,
        tracked.tracked,
    )
    assert timedelta() <= datetime.now(UTC) - tracked.started_at < timedelta(minutes=5)
    found = await other.requests.find("session", "7")
    assert found is not None
    assert replace(tracked, duration=found.duration) == found
    assert [("session", 7)] == await running(other)

    completed = await other.requests.complete("session", "7")
    assert completed is not None
    assert replace(tracked, duration=completed.duration) == completed
    assert 0 < completed.duration < 60
    assert None is await backend.requests.complete("session", "7")
    assert None is await backend.requests.find("session", "7")
    assert [] == await running(backend)


async def test_f31_what_was_never_tracked_is_not_there(backend: Backend) -> None:
    await a_session(backend)

    assert None is await backend.requests.find("session", "1")
    assert None is await backend.requests.complete("session", "1")


async def test_f31_a_clients_call_is_under_way_until_it_has_its_answer(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await write(backend, opened("prime", request_ids=('"x"',))._replace(method="tools/call"))

    found = await backend.requests.find("session", '"x"')
    assert found is not None
    assert ("x", "tools/call", "a", False) == (found.request_id, found.method, found.replica, found.tracked)
    assert [("session", "x")] == await running(backend)
    # It is not the application's to complete.
    assert None is await backend.requests.complete("session", '"x"')

    await write(backend, appended(1, NewEvent("result", answers='"x"'), finished=True))
    assert None is await backend.requests.find("session", '"x"')
    assert [] == await running(backend)


async def test_f31_of_a_batch_those_are_under_way_that_are_not_answered(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await write(backend, opened("prime", request_ids=("3", "1", "2")))
    await write(backend, appended(1, NewEvent("result", answers="1")))

    assert [("session", 2), ("session", 3)] == await running(backend)
    assert None is await backend.requests.find("session", "1")
    assert await backend.requests.find("session", "3") is not None


# once


async def test_f32_a_number_and_a_text_are_two_ids(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)

    await track(backend, "1")
    await track(backend, '"1"')

    with pytest.raises(DuplicateRequestError) as caught:
        await track(backend, "1")
    assert 1 == caught.value.request_id
    assert {1, "1"} == {request_id for _, request_id in await running(backend)}


async def test_f32_an_id_is_free_again_once_it_is_completed(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await track(backend)
    await backend.requests.complete("session", "1")

    assert 1 == (await track(backend)).request_id


async def test_f32_sessions_have_ids_of_their_own(backend: Backend, neighbour: Backend, join: Join) -> None:
    await join("a")
    for session_id in ("one", "two"):
        await a_session(backend, session_id)
        await track(backend, session_id=session_id)
    await a_session(neighbour, "one")
    assert [] == await running(neighbour)

    await track(neighbour, session_id="one")
    await backend.requests.complete("one", "1")
    assert [("two", 1)] == await running(backend)


async def test_f32_what_a_client_calls_is_not_tracked_as_well(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await write(backend, opened("prime"))

    with pytest.raises(DuplicateRequestError):
        await track(backend)


async def test_f32_what_is_tracked_is_not_called_as_well(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await track(backend)

    assert ["other"] == await write(backend, opened("prime"), opened("prime", stream_id="other", request_ids=("2",)))


@given(pool_size=10)
async def test_f32_of_many_who_track_one_id_at_once_one_does(backend: Backend, other: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    started = anyio.Event()
    outcomes: list[str] = []

    async def compete(store: Backend) -> None:
        await started.wait()
        try:
            await track(store)
        except DuplicateRequestError:
            outcomes.append("duplicate")
        else:
            outcomes.append("tracked")

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(compete, backend)
                tasks.start_soon(compete, other)
            started.set()

    assert ["duplicate"] * 19 + ["tracked"] == sorted(outcomes)


@given(pool_size=10)
async def test_of_many_who_complete_one_at_once_one_does(backend: Backend, other: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await track(backend)
    started = anyio.Event()
    completed: list[RequestInfo | None] = []

    async def compete(store: Backend) -> None:
        await started.wait()
        completed.append(await store.requests.complete("session", "1"))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(compete, backend)
                tasks.start_soon(compete, other)
            started.set()

    assert 1 == sum(info is not None for info in completed)


# whose, and in which order


async def test_requests_are_listed_in_order_page_by_page(backend: Backend, join: Join) -> None:
    await join("a")
    expected = []
    for session_id in ("one", "three", "two"):
        await a_session(backend, session_id)
        for request_id in ('"a"', '"b"', "1", "2"):
            await track(backend, request_id, session_id=session_id)
            expected.append((session_id, request_id))

    for whose in (None, "three"):
        found: list[tuple[str, str]] = []
        after, pages = ("", ""), 0
        while infos := await backend.requests.running(whose, after=after, limit=3):
            found += [(info.session_id, as_text(info)) for info in infos]
            after, pages = found[-1], pages + 1
            assert pages <= 4
        assert [key for key in expected if whose in (None, key[0])] == found


async def test_another_owners_requests_are_as_if_they_were_not_there(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend, owner="alice")
    await track(backend)
    requests = backend.requests

    assert None is await requests.track("session", "2", "work", 60, owner="bob", by="a")
    assert None is await requests.find("session", "1", owner="bob")
    assert None is await requests.complete("session", "1", owner="bob")
    assert [] == await running(backend, owner="bob")
    assert [] == await running(backend, "session", owner="bob")
    assert [("session", 1)] == await running(backend, "session", owner="alice")
    assert await requests.complete("session", "1", owner="alice") is not None


async def test_nothing_is_under_way_in_a_session_that_is_not_live(backend: Backend, join: Join) -> None:
    await join("a")
    await expire(backend, "expired")
    await a_session(backend, "ended")
    await track(backend, session_id="ended")
    await write(backend, opened("prime", session_id="ended", request_ids=("2",)))
    await end(backend, "ended", reason="terminated")

    assert [] == await running(backend)
    for session_id in ("missing", "expired", "ended", NUL, SURROGATE):
        assert None is await backend.requests.track(session_id, "3", "work", 60, by="a")
        assert None is await backend.requests.find(session_id, "1")
        assert None is await backend.requests.complete(session_id, "1")
        assert [] == await running(backend, session_id)


async def test_a_session_that_is_removed_takes_its_requests_along(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await track(backend)
    await end(backend)

    await a_session(backend)
    assert [] == await running(backend)
    await track(backend)


async def test_requests_move_with_their_sessions_id(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await track(backend, "1")
    await write(backend, opened("prime", request_ids=("2",)))

    await backend.sessions.rotate("session", "renamed", owner=None, new_owner=None, sender="a")

    assert [("renamed", 1), ("renamed", 2)] == await running(backend)
    with pytest.raises(DuplicateRequestError):
        await track(backend, session_id="renamed")
    assert await backend.requests.complete("renamed", "1") is not None


async def test_what_is_tracked_is_no_stream_for_anybody(backend: Backend, join: Join) -> None:
    """It has no events to be read, and its replica does not take it for a call that it lost sight of."""
    await join("a")
    await a_session(backend)
    await track(backend)

    assert [] == list(await backend.log.unfinished("a"))
    await kill(backend, "a")
    assert [] == list(await backend.log.orphans(10))


@pytest.mark.parametrize("text", [NUL, SURROGATE])
async def test_text_that_no_store_can_hold_is_refused_or_not_found(backend: Backend, join: Join, text: str) -> None:
    await join("a")
    await a_session(backend)

    for request_id, method in ((f'"{text}"', "work"), ("1", text)):
        with pytest.raises(UnstorableTextError):
            await track(backend, request_id, method)
    assert None is await backend.requests.find("session", f'"{text}"')
    assert None is await backend.requests.complete("session", f'"{text}"')
    assert None is await backend.requests.track("session", "1", "work", 60, owner=text, by="a")
    assert [] == await running(backend)
