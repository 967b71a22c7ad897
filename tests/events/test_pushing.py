"""Pushing a stream to a handler: in order, each once, over the seam, whatever becomes of the handler. F48, F50."""

from __future__ import annotations

import logging
import threading
from typing import Any

import anyio
import pytest

from mcpsession import following
from mcpsession.errors import SessionNotFoundError
from mcpsession.event_records import EventGap, LoggedEvent
from tests.events.replicas import EventsPlace
from tests.events.test_replaying import fill
from tests.sdk.gates import settle, until
from tests.sessions.replicas import given


class Pushed:
    """What a handler was called with, and a task in which that happens."""

    def __init__(self) -> None:
        self.events: list[LoggedEvent] = []
        self.count: int | None = None

    @property
    def numbers(self) -> list[int]:
        return [event.seq for event in self.events]

    async def take(self, event: LoggedEvent) -> None:
        await anyio.lowlevel.checkpoint()
        self.events.append(event)

    async def run(self, replica: Any, session_id: str, *args: Any, **options: Any) -> None:
        self.count = await replica.events.push(session_id, self.take, *args, **options)

    async def reach(self, number: int) -> None:
        with anyio.fail_after(20):
            await until(lambda: self.events and self.events[-1].seq >= number)


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("page", [1, 2, 3, 4])
async def test_f48_what_is_appended_during_the_replay_is_pushed_once_in_order(
    here, there, session, monkeypatch: pytest.MonkeyPatch, side: str, page: int
):
    """The reader is held at each of its pages: before the page is read, and when it was read."""
    monkeypatch.setattr(following, "_PAGE", 3)
    await fill(here, session, 8, own=True)
    gate = getattr(there.store, side)["read"]
    pushed = Pushed()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            if page == 1:
                gate.close()
            tasks.start_soon(pushed.run, there, session, "event-1")
            if page > 1:
                await until(lambda: there.store.calls["read"] >= page - 1)
                gate.close()
            await gate.reached.wait()
            await fill(here, session, 4)
            await settle()
            gate.open()
            await pushed.reach(12)
            await here.events.append(session, "live")
            await pushed.reach(13)
            await here.sessions.delete(session)
    assert ([*range(2, 14)], 12) == (pushed.numbers, pushed.count)
    assert [f"event-{n}" for n in range(2, 9)] == [event.id for event in pushed.events[:7]]


async def test_f48_a_handler_is_called_with_one_event_after_the_other_sync_or_not(here, session):
    threads, running, most = set(), 0, 0

    def sync(event: LoggedEvent) -> None:
        threads.add(threading.current_thread())

    async def slow(event: LoggedEvent) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.001)
        running -= 1

    await fill(here, session, 5)
    assert (5, 5) == (
        await here.events.push(session, sync, live=False),
        await here.events.push(session, slow, live=False),
    )
    assert 1 == most
    assert threading.main_thread() not in threads


async def test_f50_a_handler_that_raises_ends_it_and_is_logged(here, there, session, caplog):
    await fill(here, session, 5)

    async def fail(event: LoggedEvent) -> None:
        if event.seq == 3:
            raise ConnectionResetError("the client has gone")

    def exits(event: LoggedEvent) -> None:
        raise SystemExit(2)

    with caplog.at_level(logging.ERROR), anyio.fail_after(10):
        assert 2 == await there.events.push(session, fail)
        assert 0 == await there.events.push(session, exits)
    assert 2 == len(caplog.records)
    assert "no more events are pushed to it after 2" in caplog.text
    assert session not in caplog.text
    assert 0 == there.following
    assert 5 == len((await here.events.replay(session)).events)


async def test_f50_a_handler_that_is_dead_while_it_is_live_ends_it_too(here, there, session):
    pushed = Pushed()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pushed.run, there, session)
        await here.events.append(session, 1)
        await pushed.reach(1)
        pushed.take = None  # type: ignore[method-assign, assignment]
        pushed.events = None  # type: ignore[assignment]
        await here.events.append(session, 2)
        with anyio.fail_after(10):
            await until(lambda: pushed.count is not None)
    assert 1 == pushed.count


async def test_f50_a_handler_that_takes_too_long_ends_it(place: EventsPlace):
    async with place.new(handler_timeout=0.05) as here:
        session = (await here.sessions.create()).id
        await fill(here, session, 2)

        async def stall(event: LoggedEvent) -> None:
            await anyio.sleep(60 if event.seq == 2 else 0)

        with anyio.fail_after(5):
            assert 1 == await here.events.push(session, stall)


async def test_what_cancels_the_caller_comes_through(here, there, session):
    await fill(here, session, 1)
    with anyio.move_on_after(0.05) as scope:
        await there.events.push(session, lambda event: None)
    assert scope.cancelled_caught
    assert 0 == there.following


async def test_not_live_it_ends_with_what_was_the_newest(here, there, session):
    pushed = Pushed()
    with anyio.fail_after(10):
        for cursor, expected in ((None, 0), (7, 0), ("nobody's", 0)):
            await pushed.run(there, session, cursor, live=False)
            assert expected == pushed.count
        pushed.events.clear()
        await fill(here, session, 4, own=True)

        async def append(event: LoggedEvent) -> None:
            await here.events.append(session, "more")

        assert 4 == await there.events.push(session, append, live=False)
        assert 8 == (await here.events.replay(session)).last_seq
        for cursor, expected in ((8, 0), (9, 0), ("event-4", 4), (None, 8)):
            assert expected == await there.events.push(session, print, cursor, live=False)


@given(max_events=3)
async def test_a_gap_is_pushed_and_not_counted(place: EventsPlace):
    async with place.new() as here:
        session = (await here.sessions.create()).id
        await fill(here, session, 10)
        pushed = Pushed()
        await pushed.run(here, session, 2, live=False)
        assert ([7, 8, 9, 10], 3) == (pushed.numbers, pushed.count)
        assert isinstance(pushed.events[0], EventGap)


async def test_to_a_session_that_is_not_live_nothing_is_pushed(here, there, session):
    await here.sessions.terminate(session)
    with pytest.raises(SessionNotFoundError):
        await there.events.push(session, print)
