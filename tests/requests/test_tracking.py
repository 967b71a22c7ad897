"""Requests that the application tracks: on every replica, once each, for no longer than they may. F31, F32, F34."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from hypothesis import assume, given
from hypothesis.strategies import integers, text

from mcpsession import SessionLayer
from mcpsession.errors import DuplicateRequestError, SessionNotFoundError
from mcpsession.requests import Requests
from mcpsession.sdk import wire
from mcpsession.texts import is_request_id, request_id_text, storable
from tests.sessions.replicas import Place, all_at_once, until


async def ids(requests: Requests, session_id: str | None = None) -> list[tuple[str, int | str]]:
    return [(info.session_id, info.request_id) async for info in requests.each(session_id)]


# F31: track, complete, has, list


async def test_f31_what_one_replica_tracks_the_other_sees_and_completes_once(
    here: SessionLayer, there: SessionLayer
) -> None:
    await here.sessions.create("session")
    tracked = await here.requests.track("session", "job-1", "jobs/run")
    assert ("job-1", "jobs/run", True) == (tracked.request_id, tracked.method, tracked.tracked)

    assert await there.requests.has("session", "job-1")
    seen = await there.requests.get("session", "job-1")
    assert seen is not None
    assert (tracked.started_at, tracked.replica) == (seen.started_at, seen.replica)
    assert seen.duration >= tracked.duration >= 0
    assert [("session", "job-1")] == await ids(there.requests)

    completed = await there.requests.complete("session", "job-1")
    assert completed is not None
    assert completed.duration >= seen.duration
    assert await here.requests.complete("session", "job-1") is None
    assert not await here.requests.has("session", "job-1")
    assert [] == await ids(here.requests)


async def test_f31_a_completed_id_is_free_again(here: SessionLayer) -> None:
    await here.sessions.create("session")
    for _ in range(3):
        await here.requests.track("session", 1, "jobs/run")
        assert await here.requests.complete("session", 1)


async def test_f31_of_many_who_complete_one_at_once_one_hears_of_it(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    await here.requests.track("session", 1, "jobs/run")
    replicas = [here, there] * 10
    outcomes = await all_at_once(*(lambda one=one: one.requests.complete("session", 1) for one in replicas))
    assert [1] == [info.request_id for info in outcomes if info is not None]


async def test_f31_the_list_comes_in_pages_each_request_once(here: SessionLayer, there: SessionLayer) -> None:
    expected = []
    for session in ("a", "b", "c"):
        await here.sessions.create(session)
        for number in (*range(5), "x", "é\u2028\n"):
            await here.requests.track(session, number, "jobs/run")
            expected.append((session, number))
    found, last = [], None
    while page := await there.requests.list(after=last, limit=4):
        found += [(info.session_id, info.request_id) for info in page]
        last = page[-1]
    assert sorted(map(repr, expected)) == sorted(map(repr, found))
    assert found == await ids(there.requests)
    assert 7 == len(await ids(there.requests, "b"))
    assert {"b"} == {session for session, _ in await ids(there.requests, "b")}
    with pytest.raises(ValueError, match="limit=0"):
        await here.requests.list(limit=0)


async def test_f31_a_session_that_is_not_live_has_no_requests(here: SessionLayer, place: Place) -> None:
    await here.sessions.create("expired")
    await here.sessions.create("deleted")
    for session in ("expired", "deleted"):
        await here.requests.track(session, 1, "jobs/run")
    await place.expire("expired")
    await here.sessions.delete("deleted")
    for session in ("expired", "deleted", "never"):
        with pytest.raises(SessionNotFoundError):
            await here.requests.track(session, 2, "jobs/run")
        assert await here.requests.get(session, 1) is None
        assert await here.requests.complete(session, 1) is None
        assert await here.requests.cancel(session, 1) is None
    assert [] == await ids(here.requests)


@pytest.mark.parametrize("way", ["return", "raise", "cancel"])
async def test_f31_tracking_completes_whatever_happens_inside(
    here: SessionLayer, there: SessionLayer, way: str
) -> None:
    await here.sessions.create("session")

    async def work() -> None:
        async with here.requests.tracking("session", "job", "jobs/run") as info:
            assert "job" == info.request_id
            assert await there.requests.has("session", "job")
            if way == "raise":
                raise RuntimeError("inside")
            if way == "cancel":
                tasks.cancel_scope.cancel()
                await anyio.lowlevel.checkpoint()

    if way == "raise":
        with pytest.raises(RuntimeError, match="inside"):
            await work()
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
    assert not await there.requests.has("session", "job")


async def test_f31_tracking_a_duplicate_leaves_the_first_one_alone(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    async with here.requests.tracking("session", 1, "jobs/run"):
        with pytest.raises(DuplicateRequestError):
            async with there.requests.tracking("session", 1, "jobs/run"):
                pytest.fail("it was let in")
        assert await there.requests.has("session", 1)


async def test_f31_who_leaves_late_does_not_complete_who_tracks_the_same_id_since(
    here: SessionLayer, there: SessionLayer
) -> None:
    await here.sessions.create("session")
    async with here.requests.tracking("session", 1, "first", timeout=0.05):

        async def over() -> bool:
            return not await here.requests.has("session", 1)

        await until(over)
        await there.requests.track("session", 1, "second")
    found = await here.requests.get("session", 1)
    assert found is not None
    assert "second" == found.method


async def test_f31_a_cancelled_tracking_leaves_nothing_behind(here: SessionLayer) -> None:
    await here.sessions.create("session")
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with here.requests.tracking("session", 1, "jobs/run"):
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert not await here.requests.has("session", 1)


async def test_f31_what_one_owner_tracks_another_does_not_see(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("alice's", owner="alice")
    await here.sessions.create("bob's", owner="bob")
    await here.requests.of("alice").track("alice's", 1, "jobs/run")
    stranger = there.requests.of("bob")
    for session in ("alice's", "never"):
        with pytest.raises(SessionNotFoundError):
            await stranger.track(session, 2, "jobs/run")
        assert await stranger.get(session, 1) is None
        assert not await stranger.has(session, 1)
        assert await stranger.complete(session, 1) is None
        assert await stranger.cancel(session, 1) is None
        assert [] == await ids(stranger, session)
    assert [] == await ids(stranger)
    assert [("alice's", 1)] == await ids(there.requests.of("alice")) == await ids(there.requests)
    with pytest.raises(TypeError):
        there.requests.of(None)  # type: ignore[arg-type]


async def test_f31_its_repr_can_be_logged(here: SessionLayer) -> None:
    await here.sessions.create("a-secret-session-id", owner="a-secret-owner")
    info = await here.requests.track("a-secret-session-id", 1, "jobs/run")
    assert "secret" not in repr(info)


# F32: ids


async def test_f32_a_number_and_its_text_are_two_ids(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    await here.requests.track("session", 1, "jobs/number")
    await there.requests.track("session", "1", "jobs/text")
    number, text = await there.requests.get("session", 1), await here.requests.get("session", "1")
    assert number is not None
    assert text is not None
    assert ("jobs/number", "jobs/text") == (number.method, text.method)
    assert await here.requests.complete("session", "1")
    assert await here.requests.has("session", 1)
    assert not await here.requests.has("session", "1")


async def test_f32_a_live_id_is_refused_on_every_replica_and_free_in_other_sessions(
    here: SessionLayer, there: SessionLayer
) -> None:
    await here.sessions.create("session")
    await here.sessions.create("another")
    await here.requests.track("session", 1, "jobs/run")
    for replica in (here, there):
        with pytest.raises(DuplicateRequestError) as raised:
            await replica.requests.track("session", 1, "jobs/run")
        assert 1 == raised.value.request_id
    assert await there.requests.track("another", 1, "jobs/run")


async def test_f32_of_many_who_track_one_id_at_once_one_succeeds(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    replicas = [here, there] * 15
    outcomes = await all_at_once(*(lambda one=one: one.requests.track("session", 1, "jobs/run") for one in replicas))
    refused = [outcome for outcome in outcomes if isinstance(outcome, DuplicateRequestError)]
    assert (29, 30) == (len(refused), len(outcomes))


async def test_f32_what_can_be_no_id_is_refused_by_every_verb(here: SessionLayer) -> None:
    await here.sessions.create("session")
    requests = here.requests
    impossible: list[Any] = [True, None, 1.5, b"1", [1], "x" * 257, 1 << 300, "\ud800"]
    for request_id in impossible:
        for verb in (requests.complete, requests.has, requests.get, requests.cancel):
            with pytest.raises(ValueError, match=r"id|stored"):
                await verb("session", request_id)
        with pytest.raises(ValueError, match=r"id|stored"):
            await requests.track("session", request_id, "jobs/run")


async def test_f32_every_id_that_a_client_may_send_can_be_tracked(here: SessionLayer) -> None:
    await here.sessions.create("session")
    possible = [0, -1, 1 << 255, "", "x" * 256, "a\x00b", 'quo"te\\', "é\u2028\x7f\t", "0", (1.0).hex()]
    for request_id in possible:
        await here.requests.track("session", request_id, "jobs/run")
    for request_id in possible:
        info = await here.requests.complete("session", request_id)
        assert info is not None
        assert (type(request_id), request_id) == (type(info.request_id), info.request_id)


@given(integers() | text())
def test_f32_an_id_is_the_same_text_here_and_on_the_wire(request_id: int | str) -> None:
    assume(is_request_id(request_id) and storable(str(request_id)))
    assert wire.dump_id(request_id) == request_id_text(request_id)


async def test_f31_a_method_or_a_timeout_that_cannot_be_is_refused(here: SessionLayer) -> None:
    await here.sessions.create("session")
    impossible: list[tuple[Any, Any]] = [(method, 1) for method in ("", "x" * 201, None, 7, "a\x00b", "\ud800")]
    impossible += [("run", timeout) for timeout in (0, -1, math.nan, math.inf, True, "1", 1e10)]
    for method, timeout in impossible:
        with pytest.raises(ValueError, match=r"allowed|stored"):
            await here.requests.track("session", 1, method, timeout=timeout)
    assert not await here.requests.has("session", 1)


# F34: what is over


async def test_f34_a_request_past_its_time_is_gone_and_its_id_is_free(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    await here.requests.track("session", 1, "jobs/run", timeout=0.05)
    await here.requests.track("session", 2, "jobs/run")

    async def over() -> bool:
        return not await there.requests.has("session", 1)

    await until(over)
    assert [("session", 2)] == await ids(there.requests)
    assert await there.requests.complete("session", 1) is None
    assert await there.requests.cancel("session", 1) is None
    assert await there.requests.track("session", 1, "jobs/again")


async def test_f34_the_requests_of_a_replica_that_has_left_are_gone(place: Place, here: SessionLayer) -> None:
    await here.sessions.create("session")
    await here.requests.track("session", "stays", "jobs/run")
    async with place.replica() as leaving:
        await leaving.requests.track("session", "goes", "jobs/run")
        assert {("session", "goes"), ("session", "stays")} == set(await ids(here.requests))
    assert [("session", "stays")] == await ids(here.requests)
    assert await here.requests.track("session", "goes", "jobs/again")
