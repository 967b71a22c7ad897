"""RequestRows: a request whose time is over, or whose replica is dead, is in nobody's way, and is swept."""

from __future__ import annotations

from collections.abc import Sequence

from mcpsession.contracts import Backend
from tests.contract.conftest import Join
from tests.contract.given import a_session, opened, read, write
from tests.contract.requests import SOON, kill, over, running, track

# over


async def test_f33_a_request_whose_time_is_over_is_not_under_way(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await track(backend, timeout=SOON)
    await over(backend)

    assert [] == await running(backend)
    assert None is await backend.requests.complete("session", "1")


async def test_f33_what_is_over_and_not_swept_yet_is_in_nobodys_way(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await track(backend, timeout=SOON)
    await over(backend)

    await track(backend, timeout=SOON)
    await over(backend)

    assert ["stream"] == await write(backend, opened("prime"))
    assert [("session", 1)] == await running(backend)
    # Both are gone, and only the call is left: nothing to sweep.
    assert 0 == await backend.requests.sweep(10)


async def test_f34_what_the_dead_tracked_is_in_nobodys_way(backend: Backend, join: Join) -> None:
    await join("a", "b")
    await a_session(backend)
    await track(backend, "1")
    await track(backend, "2")
    await kill(backend, "a")

    assert "b" == (await track(backend, "1", by="b")).replica
    assert ["stream"] == await write(backend, opened("prime", request_ids=("2",)), producer="b")
    assert [("session", 1), ("session", 2)] == await running(backend)


async def test_f34_what_the_dead_run_is_not_under_way(backend: Backend, join: Join) -> None:
    await join("a", "b")
    await a_session(backend)
    await track(backend, "1")
    await write(backend, opened("prime", request_ids=("2",)))
    await track(backend, "3", by="b")
    await kill(backend, "a")

    assert [("session", 3)] == await running(backend)
    assert None is await backend.requests.find("session", "1")
    assert None is await backend.requests.find("session", "2")


async def test_f34_a_sweep_takes_what_is_over_and_what_the_dead_left(backend: Backend, join: Join) -> None:
    await join("a", "b")
    await a_session(backend)
    await track(backend, "1", timeout=SOON, by="b")
    await track(backend, "2")
    await track(backend, "3")
    await track(backend, "4", by="b")
    await write(backend, opened("prime", request_ids=("5",)))
    await over(backend)
    await kill(backend, "a")

    assert 2 == await backend.requests.sweep(2)
    assert 1 == await backend.requests.sweep(2)
    assert 0 == await backend.requests.sweep(2)

    assert [("session", 4)] == await running(backend)
    # A call's stream is owed its last message: it is an orphan, and not swept away.
    assert [("session", "stream", 1, ("5",))] == list(await backend.log.orphans(10))


async def test_f34_the_reaper_takes_what_is_over_as_well(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await track(backend, timeout=SOON)
    await over(backend)

    assert 1 == (await backend.reaping.reap(10)).streams
    assert 0 == await backend.requests.sweep(10)


async def test_a_completed_request_leaves_the_reaper_nothing(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    # Long enough to be completed within it.
    await track(backend, "1", timeout=1)
    assert await backend.requests.complete("session", "1") is not None
    await track(backend, "2", timeout=1)
    await over(backend, "2")

    assert 1 == (await backend.reaping.reap(10)).streams


async def test_a_stream_that_waited_for_what_is_over_has_all_its_events(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend)
    await track(backend, timeout=SOON)
    await over(backend)

    batch: Sequence[str] = await write(
        backend, opened("one", "two"), opened("one", stream_id="other", request_ids=("2",))
    )

    assert ["other", "stream"] == list(batch)
    assert ["one", "two"] == [event.message for event in (await read(backend)).events]
