"""Subscribers that are too slow: each as its policy says, and nobody else is the slower for it. F68, F69."""

from __future__ import annotations

import logging
import time
from typing import Any

import anyio
import pytest

from mcpsession import SessionLayer, SlowSubscriberError
from tests.broadcast.hearing import END, Stoppable, hear, hear_all, said, state
from tests.sdk.gates import settle
from tests.sessions.replicas import Place, all_at_once


async def all_came(replica: SessionLayer) -> None:
    """Wait until everything that was published so far has come live."""
    probe = replica.broadcaster.subscribe(topic="came")
    await replica.broadcaster.publish(END, topic="came")
    with anyio.fail_after(10):
        await anext(probe)


async def publish(replica: SessionLayer, *numbers: int) -> None:
    for number in numbers:
        await replica.broadcaster.publish(said(number))


async def test_f68_a_stalled_subscriber_hears_of_a_gap_and_a_fast_one_hears_all(here: SessionLayer) -> None:
    stalled, fast = here.broadcaster.subscribe(), here.broadcaster.subscribe()

    async def hear_fast() -> list[object]:
        return await hear_all(fast)

    async def tell() -> None:
        await publish(here, *range(100))
        for number in range(3):
            await here.broadcaster.publish(state(number))
        await here.broadcaster.publish(END)

    heard, _ = await all_at_once(hear_fast, tell)
    assert [*range(100), 0, 1, 2] == [int(str(word)) for word in heard]
    await all_came(here)
    assert [*range(32), "gap of 72", *range(32, 100), "2"] == await hear_all(stalled)
    assert (72, 0) == (stalled.dropped, fast.dropped)
    counts = here.health().counts
    assert (72, 1) == (counts["mcpsession_dropped_news_total"], counts["mcpsession_slow_subscribers_total"])


@pytest.mark.parametrize("policy", ["resync", "replay", "drop_newest", "drop_oldest", "disconnect"])
async def test_f68_a_publisher_never_waits_for_a_stalled_subscriber(here: SessionLayer, policy: Any) -> None:
    stalled = here.broadcaster.subscribe(policy=policy, buffer=1, timeout=60.0)
    with anyio.fail_after(10):
        await publish(here, *range(20))
    stalled.close()


async def test_f68_drop_newest_keeps_what_came_first(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe(policy="drop_newest", buffer=2)
    await publish(here, *range(5))
    await all_came(here)
    assert [0] == await hear(subscription)
    await publish(here, 5, 6)
    await here.broadcaster.publish(END)
    await all_came(here)
    assert [1, "gap of 3", 5, "gap of 2"] == await hear(subscription, 4)
    assert 5 == subscription.dropped


async def test_f68_drop_oldest_keeps_what_came_last(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe(policy="drop_oldest", buffer=2)
    await publish(here, *range(5))
    await all_came(here)
    assert ["gap of 3", 3] == await hear(subscription, 2)
    await publish(here, 5, 6)
    await all_came(here)
    assert ["gap of 1", 5, 6] == await hear(subscription, 3)
    assert 4 == subscription.dropped


async def test_f68_disconnect_ends_with_an_error_that_says_what_else_there_is(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe(policy="disconnect", buffer=2)
    await publish(here, *range(5))
    await all_came(here)
    assert 0 == here.broadcaster.subscriber_count
    assert [0, 1] == await hear(subscription, 2)
    with pytest.raises(SlowSubscriberError, match="lagged 2 news behind"):
        await anext(subscription)
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


async def test_f68_a_subscriber_that_has_caught_up_is_live_again(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe(buffer=2)
    for begin in (0, 10):
        await publish(here, *range(begin, begin + 4))
        await all_came(here)
        expected = [begin, begin + 1, "gap of 2", begin + 2, begin + 3]
        assert expected == await hear(subscription, 5)
        reading = anyio.Event()

        async def read() -> list[object]:
            reading.set()  # noqa: B023
            return await hear(subscription)

        async def tell() -> None:
            await reading.wait()  # noqa: B023
            await settle()
            await publish(here, 99)

        assert [99] == (await all_at_once(read, tell))[0]
        assert "live" in repr(subscription)


async def test_f68_overflows_are_warned_of_once_a_minute_with_counts(
    here: SessionLayer, caplog: pytest.LogCaptureFixture
) -> None:
    subscriptions = [here.broadcaster.subscribe(policy="drop_newest", buffer=1) for _ in range(3)]
    with caplog.at_level(logging.WARNING, logger="mcpsession.subscribers"):
        await publish(here, *range(11))
        await all_came(here)
        assert 1 == sum(record.name == "mcpsession.subscribers" for record in caplog.records)
        caplog.clear()
        here.broadcaster._subscribers._warned -= 60.0
        await publish(here, 11)
        await all_came(here)
        # What is left is said at the end.
        await here.broadcaster.close()
    messages = [record.getMessage() for record in caplog.records if record.name == "mcpsession.subscribers"]
    assert ["30 news did not fit", "2 news did not fit"] == [
        next(part for part in message.replace(";", ",").split(", and ") if "fit" in part).partition(",")[0]
        for message in messages
    ]
    del subscriptions


# Backpressure


async def test_f69_a_publisher_waits_until_a_blocking_subscriber_has_room(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe(policy="block", buffer=2, timeout=60.0)
    await publish(here, 0, 1)
    await all_came(here)
    published = anyio.Event()

    async def tell() -> None:
        await publish(here, 2)
        published.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell)
            await settle()
            assert not published.is_set()
            assert [0] == await hear(subscription)
            await published.wait()
    assert [1, 2] == await hear(subscription, 2)
    assert 0 == subscription.dropped


async def test_f69_publishers_at_once_do_not_take_the_same_room(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe(policy="block", buffer=3, timeout=60.0)

    async def read() -> list[object]:
        heard = []
        for _ in range(40):
            heard += await hear(subscription)
            await anyio.sleep(0.001)
        return heard

    async def tell(publisher: int) -> None:
        await publish(here, *range(publisher * 10, publisher * 10 + 10))

    heard, *_ = await all_at_once(read, *(lambda n=n: tell(n) for n in range(4)))
    assert set(range(40)) == set(heard)
    assert 0 == subscription.dropped


async def test_f69_a_publisher_waits_no_longer_than_the_timeout(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe(policy="block", buffer=1, timeout=0.2)
    also = here.broadcaster.subscribe(policy="block", buffer=1, timeout=0.2)
    await publish(here, 0)
    began = time.monotonic()
    with anyio.fail_after(10):
        await publish(here, 1)
    # Both at the same time.
    assert 0.19 < time.monotonic() - began
    await here.broadcaster.publish(END)
    await all_came(here)
    for one in (subscription, also):
        assert [0, "gap of 2", 1] == await hear_all(one)


async def test_f69_one_that_let_a_publisher_wait_in_vain_holds_up_no_other_until_it_reads(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe(policy="block", buffer=1, timeout=0.2)
    began = time.monotonic()
    with anyio.fail_after(10):
        await publish(here, *range(50))
    assert time.monotonic() - began < 5.0
    await here.broadcaster.publish(END)
    await all_came(here)
    assert [0, "gap of 50", *range(1, 50)] == await hear_all(subscription)
    began = time.monotonic()
    # It has read to the end, and is waited for again.
    await publish(here, 50, 51)
    assert 0.19 < time.monotonic() - began


async def test_f69_only_news_that_it_would_hear_waits_for_it(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe(topic="t", policy="block", buffer=1, timeout=60.0)
    await here.broadcaster.publish(said(0), topic="t")
    with anyio.fail_after(10):
        await here.broadcaster.publish(said(1), topic="another")
        await here.sessions.create("s")
        await here.broadcaster.publish(said(2), "s", "t")
    assert [0] == await hear(subscription)


async def test_f69_news_of_other_replicas_does_not_wait_and_is_resynchronised(
    here: SessionLayer, there: SessionLayer
) -> None:
    subscription = there.broadcaster.subscribe(policy="block", buffer=1, timeout=60.0)
    with anyio.fail_after(10):
        await publish(here, *range(3))
        await here.broadcaster.publish(END)
    probe = there.broadcaster.subscribe(topic="came")
    await here.broadcaster.publish(END, topic="came")
    await hear(probe)
    assert [0, "gap of 3", 1, 2] == await hear_all(subscription)


async def test_f69_a_publisher_that_fails_or_is_cancelled_gives_the_room_back(place: Place) -> None:
    replica = Stoppable(place)
    async with replica.layer:
        subscription = replica.subscribe(policy="block", buffer=1, timeout=60.0)
        replica.log.failing["publish"] = lambda *_: RuntimeError("a test says so")
        with pytest.raises(RuntimeError):
            await replica.tell(1)
        replica.log.failing.clear()
        replica.log.before["publish"].close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(replica.tell, 2)
            await replica.log.before["publish"].reached.wait()
            tasks.cancel_scope.cancel()
        replica.log.before["publish"].open()
        with anyio.fail_after(10):
            await replica.tell(3)
        assert [3] == await hear(subscription)


async def test_f69_a_publisher_goes_on_when_the_one_it_waits_for_is_closed(here: SessionLayer) -> None:
    subscription = here.broadcaster.subscribe(policy="block", buffer=1, timeout=60.0)
    await publish(here, 0)

    async def close() -> None:
        await settle()
        subscription.close()

    with anyio.fail_after(10):
        assert [None, None] == await all_at_once(lambda: publish(here, 1), close)
