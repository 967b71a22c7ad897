"""Subscriptions: who hears what, how often, and how they end. F64, F65, F66, F67."""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.to_thread
import pytest

from mcpsession import BroadcasterClosedError, ConfigurationError, News, Published, SessionLayer
from mcpsession.postgres.embedded import EmbeddedPostgres
from mcpsession.subscription import Subscription
from tests.broadcast.hearing import END, Stoppable, hear, hear_all, said
from tests.sdk.gates import until
from tests.sessions.replicas import Place, all_at_once


async def test_f64_every_subscriber_of_every_replica_hears_it_once_the_publishers_own_too(place: Place) -> None:
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(place.replica()) for _ in range(3)]
        subscriptions = [replica.broadcaster.subscribe() for replica in replicas for _ in range(3)]
        for number, replica in enumerate(replicas):
            assert Published() == await replica.broadcaster.publish(said(number))
        await replicas[0].broadcaster.publish(END)
        assert [[0, 1, 2]] * 9 == [await hear_all(subscription) for subscription in subscriptions]


async def test_f64_each_hears_what_is_for_all_and_what_is_for_it(here: SessionLayer, there: SessionLayer) -> None:
    for session_id in ("s", "other"):
        await here.sessions.create(session_id)
    subscribe = there.broadcaster.subscribe
    ears = {
        "all": subscribe(),
        "s": subscribe("s"),
        "t": subscribe(topic="t"),
        "s and t": subscribe("s", "t"),
        "other": subscribe("other", "other"),
    }
    publish = here.broadcaster.publish
    await publish(said("for all"))
    await publish(said("for s"), "s")
    await publish(said("for t"), topic="t")
    await publish(said("for s and t"), "s", "t")
    await publish(END)
    heard = {name: await hear_all(ear) for name, ear in ears.items()}
    assert heard == {
        "all": ["for all"],
        "s": ["for all", "for s"],
        "t": ["for all", "for t"],
        "s and t": ["for all", "for s", "for t", "for s and t"],
        "other": ["for all"],
    }


async def test_f64_news_comes_in_its_publishers_order(here: SessionLayer, there: SessionLayer) -> None:
    subscription = there.broadcaster.subscribe(policy="replay")
    for number in range(200):
        await here.broadcaster.publish(said(number))
    await here.broadcaster.publish(END)
    assert list(range(200)) == await hear_all(subscription)


async def test_f64_what_was_published_before_the_subscription_is_not_heard(
    here: SessionLayer, there: SessionLayer
) -> None:
    probe = there.broadcaster.subscribe()
    await here.broadcaster.publish(said("before"))
    await hear(probe)
    subscription = there.broadcaster.subscribe()
    await here.broadcaster.publish(END)
    assert [] == await hear_all(subscription)


async def test_a_subscription_made_before_the_layer_runs_hears_from_the_start_on(place: Place) -> None:
    layer = place.replica()
    with layer.broadcaster.subscribe() as subscription:
        async with layer:
            await layer.broadcaster.publish(said(1))
            assert [1] == await hear(subscription)


async def test_f65_what_is_heard_equals_what_was_published(here: SessionLayer, there: SessionLayer) -> None:
    subscription = there.broadcaster.subscribe()
    news = [
        News("test/none", None),  # type: ignore[arg-type]  # as those do who think in JSON-RPC
        News("test/empty"),
        News("test/much", {"text": "häßlich \U0001f600 \\ud800", "list": [1, 2.5, None, True, {"a": {}}], "": "\x00"}),
    ]
    for one in news:
        await here.broadcaster.publish(one)
    with anyio.fail_after(10):
        assert news == [await anext(subscription) for _ in news]


# How they end


async def test_f66_a_subscription_counts_until_it_is_closed_and_closing_twice_is_no_error(here: SessionLayer) -> None:
    broadcaster = here.broadcaster
    first, second = broadcaster.subscribe(), broadcaster.subscribe()
    assert 2 == broadcaster.subscriber_count
    first.close()
    first.close()
    await first.aclose()
    assert 1 == broadcaster.subscriber_count
    assert [] == await hear_all(first)
    with second:
        pass
    async with broadcaster.subscribe() as third:
        assert 1 == broadcaster.subscriber_count
        await broadcaster.publish(said(1))
        assert [1] == await hear(third)
    assert 0 == broadcaster.subscriber_count


async def test_f66_a_subscription_whose_reader_is_cancelled_is_closed(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe()
    with anyio.move_on_after(0.01):
        await anext(subscription)
    assert 0 == here.broadcaster.subscriber_count
    # Not the quiet end of one that was closed: whoever put a timeout there takes it for open.
    with pytest.raises(RuntimeError, match="ended when the task that waited in it was cancelled"):
        await anext(subscription)


async def test_f66_a_subscription_whose_reader_is_cancelled_while_it_reads_the_log_is_closed(place: Place) -> None:
    replica = Stoppable(place)
    async with replica.layer:
        subscription = replica.subscribe(policy="replay", buffer=1)
        await replica.tell(1, 2)
        await replica.all_came()
        assert [1] == await hear(subscription)
        gate = replica.log.after["missed"]
        gate.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hear, subscription)
            await gate.reached.wait()
            tasks.cancel_scope.cancel()
        gate.open()
        assert 0 == replica.layer.broadcaster.subscriber_count


async def test_f66_a_subscription_that_nobody_has_any_more_is_gone(here: SessionLayer) -> None:
    broadcaster = here.broadcaster

    async def hear_one() -> None:
        async for news in broadcaster.subscribe():
            assert said(1) == news
            break

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hear_one)
        await until(lambda: broadcaster.subscriber_count == 1)
        await broadcaster.publish(said(1))
    assert 0 == broadcaster.subscriber_count
    broadcaster.subscribe()
    assert 0 == broadcaster.subscriber_count


async def test_a_task_that_waits_in_a_subscription_is_not_forgotten(here: SessionLayer) -> None:
    """The event loop keeps its tasks weakly, and nobody else has this one."""
    heard: list[object] = []

    async def consume() -> None:
        async for news in here.broadcaster.subscribe():
            heard.append(news)  # noqa: PERF401

    asyncio.get_running_loop().create_task(consume())
    await until(lambda: here.broadcaster.subscriber_count == 1)
    gc.collect()
    await here.broadcaster.publish(said(1))
    with anyio.fail_after(10):
        await until(lambda: [said(1)] == heard)


async def test_two_tasks_that_read_one_subscription_at_once_are_told_so(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe()

    async def publish() -> None:
        await here.broadcaster.publish(said(1))

    first, second, _ = await all_at_once(lambda: hear(subscription), lambda: hear(subscription), publish)
    assert [1] == first
    assert isinstance(second, RuntimeError)
    assert "give each of them its own" in str(second)


async def test_f67_after_a_close_nothing_is_published_and_subscriptions_have_ended(here: SessionLayer) -> None:
    broadcaster = here.broadcaster
    early = broadcaster.subscribe()
    waiting = broadcaster.subscribe()
    await broadcaster.publish(said(1))
    assert [1] == await hear(waiting)

    async def close() -> None:
        await broadcaster.close()

    assert [] == (await all_at_once(lambda: hear_all(waiting), close))[0]
    await broadcaster.close()
    assert 0 == broadcaster.subscriber_count
    with pytest.raises(BroadcasterClosedError):
        await broadcaster.publish(said(2))
    with pytest.raises(BroadcasterClosedError):
        broadcaster.soon(said(2))
    # What had come is not taken away.
    assert [1] == await hear_all(early)
    assert [] == await hear_all(broadcaster.subscribe())
    assert 0 == broadcaster.subscriber_count


async def test_f67_the_layers_end_closes_it_and_its_next_start_opens_it(place: Place) -> None:
    layer = place.replica()
    async with layer:
        subscription = layer.broadcaster.subscribe()
    assert [] == await hear_all(subscription)
    with pytest.raises(BroadcasterClosedError):
        await layer.broadcaster.publish(said(1))
    async with layer:
        subscription = layer.broadcaster.subscribe()
        await layer.broadcaster.publish(said(2))
        assert [2] == await hear(subscription)


async def test_f67_a_layer_whose_body_is_cancelled_ends_its_subscriptions(place: Place) -> None:
    subscriptions: list[Subscription] = []
    inside = anyio.Event()

    async def stay() -> None:
        async with place.replica() as layer:
            subscriptions.append(layer.broadcaster.subscribe())
            inside.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stay)
        await inside.wait()
        tasks.cancel_scope.cancel()
    assert [] == await hear_all(subscriptions[0])


async def test_f67_closing_takes_2_s_at_most_while_the_store_hangs(place: Place) -> None:
    replica = Stoppable(place)
    async with replica.layer:
        replica.log.before["publish"].close()
        replica.layer.broadcaster.soon(said(1))
        began = time.monotonic()
        await replica.layer.broadcaster.close()
        assert 1.9 < time.monotonic() - began < 3.0
        replica.log.before["publish"].open()


async def test_f67_closing_takes_2_s_at_most_while_the_listener_reconnects(own_postgres: EmbeddedPostgres) -> None:
    place = Place(own_postgres.url)
    async with place.replica() as layer:
        subscription = layer.broadcaster.subscribe()
        await anyio.to_thread.run_sync(own_postgres.stop)
        layer.broadcaster.soon(said(1))
        began = time.monotonic()
        await layer.broadcaster.close()
        assert time.monotonic() - began < 3.0
        assert [] == await hear_all(subscription)


# What they can be


@pytest.mark.parametrize(
    "options",
    [
        {"session_id": 5},
        {"session_id": "\ud800"},
        {"topic": b"bytes"},
        {"topic": "\x00"},
        {"policy": "drop"},
        {"policy": ["resync"]},
        {"buffer": 0},
        {"buffer": True},
        {"buffer": 1.5},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "1"},
    ],
)
async def test_a_subscription_that_cannot_be_is_refused_by_name(here: SessionLayer, options: Any) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        here.broadcaster.subscribe(**options)
    assert 0 == here.broadcaster.subscriber_count


async def test_a_subscription_says_what_it_is(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe("a-session-id-that-is-secret", "t", policy="drop_newest")
    assert "(drop_newest): live, 0 waiting, 0 dropped" in repr(subscription)
    assert "on 't'" in repr(subscription)
    assert "secret" not in repr(subscription)
    assert "open: 1 subscribers" in repr(here.broadcaster)
