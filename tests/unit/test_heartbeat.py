"""When a replica may declare another one dead: decided in plain code, so tried without waiting."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import anyio

from mcpsession.contracts import ReplicaRegistry
from mcpsession.errors import StoreUnavailableError
from mcpsession.heartbeat import Heartbeat, Watch
from mcpsession.memory.backend import MemoryBackend
from mcpsession.memory.replicas import MemoryRegistry
from mcpsession.model import Pulse, ReplicaId
from mcpsession.settings import Settings


def test_a_counter_that_moves_is_alive_however_slowly_its_clock_runs():
    watch = Watch(dead_after=3.0)
    for beats in range(10):
        assert [] == watch.look({"a": beats}, now=beats * 2.9)


def test_a_counter_that_stood_still_for_dead_after_is_named_with_its_count():
    watch = Watch(dead_after=3.0)
    assert [] == watch.look({"a": 7, "b": 1}, now=0.0)
    assert [] == watch.look({"a": 7, "b": 2}, now=2.9)
    assert [("a", 7)] == watch.look({"a": 7, "b": 3}, now=3.0)


def test_a_replica_seen_for_the_first_time_is_not_dead_however_old_its_row():
    assert [] == Watch(dead_after=3.0).look({"a": 1}, now=1e9)


def test_after_ones_own_lapse_the_watch_begins_anew():
    """Else the first replica back after an outage would bury all others."""
    watch = Watch(dead_after=3.0)
    watch.look({"a": 1}, now=0.0)
    watch.forget()
    assert [] == watch.look({"a": 1}, now=30.0)
    assert [] == watch.look({"a": 1}, now=32.9)
    assert [("a", 1)] == watch.look({"a": 1}, now=33.0)


def test_who_left_and_came_back_is_watched_anew():
    watch = Watch(dead_after=3.0)
    watch.look({"a": 1}, now=0.0)
    watch.look({}, now=1.0)
    assert [] == watch.look({"a": 1}, now=3.5)


class AwayOnce(MemoryRegistry):
    """The second beat finds no store."""

    beats = 0
    at: ClassVar[list[float]] = []

    async def beat(self, replica: ReplicaId, position: str) -> Pulse:
        self.beats += 1
        self.at.append(time.monotonic())
        if self.beats == 2:
            raise StoreUnavailableError("away")
        return await super().beat(replica, position)


class Silent(logging.Handler):
    """Locks, as every handler does, and writes nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        pass


class AwayOnceBackend(MemoryBackend):
    @asynccontextmanager
    async def registry(self) -> AsyncIterator[ReplicaRegistry]:
        yield AwayOnce(self._tables, self._settings)


async def test_a_log_handler_that_takes_long_does_not_hold_the_heart_up(monkeypatch):
    """One line at a time is a handler's rule: a traceback drawn in colour has held others' lines up for seconds."""
    settings = Settings(beat=0.01)
    heartbeat, handler = Heartbeat(AwayOnceBackend(settings), settings), Silent()
    monkeypatch.setattr(logging.getLogger("mcpsession.heartbeat"), "handlers", [handler])
    enough, beats = anyio.Event(), itertools.count(1)
    heartbeat.on_pulse = lambda *_: enough.set() if next(beats) == 5 else None
    with anyio.fail_after(5):
        async with heartbeat.running():
            handler.acquire()
            try:
                await enough.wait()
            finally:
                handler.release()


def test_what_a_stalling_store_adds_to_the_answer_is_nobodys_stillness():
    """The same stall may keep the other's beat; it runs a moment later."""
    watch = Watch(dead_after=3.0)
    watch.look({"a": 1}, now=0.0, asked=0.0)
    assert [] == watch.look({"a": 1}, now=3.4, asked=2.0)
    assert [("a", 1)] == watch.look({"a": 1}, now=4.5, asked=4.4)


async def test_a_beat_that_failed_is_sent_anew_before_the_next_one_would_be(monkeypatch):
    """Else a store that is away for one second, at two beats, keeps a sound replica silent for nearly dead_after."""
    settings, at, enough = Settings(beat=1.0), list[float](), anyio.Event()
    monkeypatch.setattr(AwayOnce, "at", at)
    heartbeat, beats = Heartbeat(AwayOnceBackend(settings), settings), itertools.count(1)
    heartbeat.on_pulse = lambda *_: enough.set() if next(beats) == 2 else None
    with anyio.fail_after(10):
        async with heartbeat.running():
            await enough.wait()
    _, failed, again = at
    assert again - failed < settings.beat
