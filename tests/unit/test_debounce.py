"""Many of a kind within a moment become one: the decisions by themselves, with times that the test says. F77."""

from __future__ import annotations

import logging

import anyio
import pytest

from mcpsession import debounce
from mcpsession.debounce import Debouncer, Waiting
from mcpsession.errors import NewsError, SessionNotFoundError, StoreUnavailableError
from tests.sdk.gates import until


def taken(waiting: Waiting[str], now: float) -> list[str]:
    """All that is due by then."""
    things = []
    while (taken := waiting.take(now)) is not None:
        things.append(taken[1])
    return things


async def test_f77_the_last_of_a_burst_is_due_after_a_pause():
    waiting = Waiting[str](0.05, 1.0)
    for n in range(100):
        waiting.put("kind", str(n), n * 0.001)
        assert [] == taken(waiting, n * 0.001)
    assert [] == taken(waiting, 0.148)
    assert ["99"] == taken(waiting, 0.15)
    assert None is waiting.next_due


async def test_f77_an_endless_burst_is_due_every_so_often():
    waiting = Waiting[str](0.05, 1.0)
    due = []
    for n in range(10_000):
        now = n * 0.01
        due += [(round(now, 2), thing) for thing in taken(waiting, now)]
        waiting.put("kind", str(n), now)
    assert [1.0, 2.0, 3.0] == [at for at, _ in due[:3]]
    assert ["99", "199", "299"] == [thing for _, thing in due[:3]]
    assert 99 == len(due)


async def test_f77_each_kind_has_its_own_pause():
    waiting = Waiting[str](0.05, 1.0)
    waiting.put("a", "a", 0.0)
    waiting.put("b", "b", 0.03)
    waiting.put("a", "a again", 0.04)
    assert 0.05 == waiting.next_due
    assert [] == taken(waiting, 0.05)
    assert ["b"] == taken(waiting, 0.085)
    assert ["a again"] == taken(waiting, 0.095)


async def test_f77_what_is_put_back_gives_way_to_a_newer_one():
    waiting = Waiting[str](0.05, 1.0)
    waiting.put_back("kind", "old", 1.0)
    assert [] == taken(waiting, 0.99)
    assert ["old"] == taken(waiting, 1.0)
    waiting.put("kind", "new", 2.0)
    waiting.put_back("kind", "old", 3.0)
    assert ["new"] == taken(waiting, 3.0)
    # In the place of one that was put back, a newer one waits for the same time.
    waiting.put_back("kind", "old", 5.0)
    waiting.put("kind", "newest", 4.0)
    assert [] == taken(waiting, 4.9)
    assert ["newest"] == taken(waiting, 5.0)


async def test_f77_too_many_kinds_are_refused_and_the_known_ones_are_not():
    waiting = Waiting[str](0.05, 1.0)
    for n in range(debounce.MOST_KINDS):
        waiting.put(n, "x", 0.0)
    with pytest.raises(NewsError, match="10000 kinds"):
        waiting.put("one more", "x", 0.0)
    waiting.put(7, "y", 0.0)
    assert debounce.MOST_KINDS == len(taken(waiting, 1.0)) == 10_000
    assert 0 == len(waiting)


class World:
    """A debouncer whose dispatches can fail, be held, and are seen."""

    def __init__(self, **options: float) -> None:
        self.done: list[str] = []
        self.tried: list[str] = []
        self.error: BaseException | None = None
        self.open = anyio.Event()
        self.open.set()
        self.came = anyio.Event()
        self.debouncer = Debouncer(self.dispatch, **{"pause": 0.0, "longest": 1.0, "retry": 0.01, **options})

    async def dispatch(self, thing: str) -> None:
        error = self.error
        self.tried.append(thing)
        self.came.set()
        await self.open.wait()
        if error is not None:
            raise error
        self.done.append(thing)


async def test_f77_what_cannot_be_published_is_said_once_and_tried_until_it_can(caplog):
    world = World()
    world.error = StoreUnavailableError("a test says so")
    with caplog.at_level(logging.INFO, logger="mcpsession.debounce"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.debouncer.run)
            world.debouncer.put("kind", "old")
            world.debouncer.put("other", "other")
            with anyio.fail_after(5):
                await until(lambda: len(world.tried) >= 4)
            world.debouncer.put("kind", "new")
            world.error = None
            with anyio.fail_after(5):
                await until(lambda: len(world.done) >= 2)
            tasks.cancel_scope.cancel()
    assert {"new", "other"} == set(world.done)
    assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]


async def test_f77_a_dispatch_takes_so_long_at_most(monkeypatch):
    monkeypatch.setattr(debounce, "_DISPATCH_TIMEOUT", 0.02)
    world = World()
    world.open = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.debouncer.run)
        world.debouncer.put("kind", "thing")
        with anyio.fail_after(5):
            await until(lambda: len(world.tried) >= 3)
        world.open.set()
        with anyio.fail_after(5):
            await until(lambda: ["thing"] == world.done)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("error", [SessionNotFoundError("gone"), ValueError("a bug")])
async def test_f77_what_can_never_be_published_keeps_nothing_else(error):
    world = World()
    world.error = error
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.debouncer.run)
        world.debouncer.put("kind", "bad")
        with anyio.fail_after(5):
            await world.came.wait()
        world.error = None
        world.debouncer.put("kind", "good")
        with anyio.fail_after(5):
            await until(lambda: ["good"] == world.done)
        tasks.cancel_scope.cancel()
    assert ["bad", "good"] == world.tried


async def test_f77_the_end_flushes_also_what_was_being_dispatched_when_the_task_was_cancelled():
    world = World()
    world.open = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.debouncer.run)
        world.debouncer.put("kind", "thing")
        with anyio.fail_after(5):
            await world.came.wait()
        tasks.cancel_scope.cancel()
    world.open.set()
    world.debouncer.put("other", "other")
    await world.debouncer.flush()
    assert {"thing", "other"} == set(world.done)


async def test_f77_a_flush_waits_for_the_dispatch_that_is_under_way():
    world = World()
    world.open = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.debouncer.run)
        world.debouncer.put("kind", "thing")
        with anyio.fail_after(5):
            await world.came.wait()
        with anyio.move_on_after(0.01) as waiting:
            await world.debouncer.flush()
        assert waiting.cancelled_caught
        world.open.set()
        with anyio.fail_after(5):
            await world.debouncer.flush()
        assert ["thing"] == world.done
        tasks.cancel_scope.cancel()


async def test_f77_a_flush_that_cannot_publish_says_how_much_is_lost(caplog):
    world = World()
    world.error = StoreUnavailableError("a test says so")
    for n in range(3):
        world.debouncer.put(n, str(n))
    with caplog.at_level(logging.ERROR, logger="mcpsession.debounce"):
        await world.debouncer.flush()
    assert ["3 news"] == [record.getMessage()[:6] for record in caplog.records]
    assert (1, 0) == (len(world.tried), len(world.debouncer))
