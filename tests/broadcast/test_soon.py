"""`broadcaster.soon`, through real layers; its decisions have tests of their own in tests/unit. F77."""

from __future__ import annotations

import logging

import anyio
import anyio.to_thread
import pytest

from mcpsession import News, SessionLayer
from mcpsession.errors import StoreUnavailableError
from mcpsession.news import EVERYTHING_CHANGED, TOOLS_CHANGED
from tests.broadcast.hearing import END, Stoppable, hear, hear_all, said, state
from tests.sessions.replicas import Place, given


async def test_f77_a_burst_becomes_one_with_the_last_ones_params(here: SessionLayer, there: SessionLayer) -> None:
    subscription = there.broadcaster.subscribe()
    for number in range(100):
        here.broadcaster.soon(state(number))
    assert ["99"] == await hear(subscription)
    await here.broadcaster.publish(END)
    assert [] == await hear_all(subscription)


@given(debounce=60.0, debounce_max=0.1)
async def test_f77_an_endless_burst_is_published_now_and_then(here: SessionLayer, there: SessionLayer) -> None:
    subscription = there.broadcaster.subscribe()

    async def burst() -> None:
        while True:
            here.broadcaster.soon(TOOLS_CHANGED)
            await anyio.sleep(0.001)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(burst)
        began = anyio.current_time()
        await hear(subscription, 3)
        assert 0.29 < anyio.current_time() - began
        tasks.cancel_scope.cancel()


async def test_f77_each_kind_is_published(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("s")
    to_all, to_one = there.broadcaster.subscribe(topic="t"), there.broadcaster.subscribe("s")
    for _ in range(3):
        for news in (*EVERYTHING_CHANGED, state(1, "a"), state(1, "b"), said(1), said(2)):
            here.broadcaster.soon(news)
        here.broadcaster.soon(TOOLS_CHANGED, "s")
        here.broadcaster.soon(TOOLS_CHANGED, topic="t")
    for subscription in (to_all, to_one):
        heard = await hear(subscription, 8)
        assert heard == [
            "notifications/tools/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/list_changed",
            "1",
            "1",
            1,
            2,
            "notifications/tools/list_changed",
        ]
    await here.broadcaster.publish(END)
    assert [[], []] == [await hear_all(to_all), await hear_all(to_one)]


async def test_f77_it_can_be_called_from_a_thread(here: SessionLayer) -> None:
    """Where tools run that are no coroutines."""
    subscription = here.broadcaster.subscribe()
    await anyio.to_thread.run_sync(here.broadcaster.soon, said(1))
    assert [1] == await hear(subscription)


async def test_f77_what_waits_is_published_at_the_layers_end(place: Place, here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe()
    async with place.replica(debounce=60.0, debounce_max=60.0) as leaving:
        leaving.broadcaster.soon(said(1))
        leaving.broadcaster.soon(said(2))
    assert [1, 2] == await hear(subscription, 2)


async def test_f77_what_was_said_before_the_layer_runs_is_published_when_it_does(place: Place) -> None:
    layer = place.replica()
    subscription = layer.broadcaster.subscribe()
    layer.broadcaster.soon(said(1))
    async with layer:
        assert [1] == await hear(subscription)


@given(poll=0.02)
async def test_f77_while_the_store_is_away_it_is_kept_and_said_once(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    replica = Stoppable(place)
    async with replica.layer:
        subscription = replica.subscribe()
        failures = iter([StoreUnavailableError("a test says so")] * 3)
        replica.log.failing["publish"] = lambda *_: next(failures, None)
        with caplog.at_level(logging.WARNING, logger="mcpsession.debounce"):
            replica.layer.broadcaster.soon(state("old"))
            assert ["old"] == await hear(subscription)
        assert 1 == sum(record.name == "mcpsession.debounce" for record in caplog.records)
        assert 4 == replica.log.calls["publish"]


async def test_f77_what_is_for_a_session_that_has_ended_is_dropped(here: SessionLayer) -> None:
    await here.sessions.create("s")
    here.broadcaster.soon(said(1), "s")
    await here.sessions.delete("s")
    subscription = here.broadcaster.subscribe()
    here.broadcaster.soon(News("test/after"))
    assert ["test/after"] == await hear(subscription)


@given(debounce=0.0)
async def test_f77_a_blocking_subscriber_holds_the_background_up_only_so_long(
    here: SessionLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpsession.broadcaster._LONGEST_HELD_UP", 0.1)
    blocking = here.broadcaster.subscribe(policy="block", buffer=1, timeout=60.0)
    others = here.broadcaster.subscribe()
    for number in range(3):
        here.broadcaster.soon(said(number))
    assert [0, 1, 2] == await hear(others, 3)
    assert [0, "gap of 2", 1, 2] == await hear(blocking, 4)
