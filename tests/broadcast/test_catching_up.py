"""A subscriber that lags and reads from the log: whatever happens between its steps, it hears all of it, once."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import asyncpg
import pytest

from mcpsession import Gap
from mcpsession.errors import StoreError, StoreUnavailableError
from mcpsession.subscription import LOST, Subscription
from tests.broadcast.hearing import END, Stoppable, hear, hear_all, said, short, state
from tests.sessions.replicas import Place, all_at_once, given

LOST_WORDS = [short(news) for news in LOST]


@pytest.fixture
async def replica(place: Place) -> AsyncIterator[Stoppable]:
    replica = Stoppable(place)
    async with replica.layer:
        yield replica


async def lagging(replica: Stoppable, **options: Any) -> Subscription:
    """A subscriber with a buffer of 1 that has 1 in it and lags with 2."""
    subscription = replica.subscribe(**{"policy": "replay", "buffer": 1, **options})
    await replica.tell(1, 2)
    await replica.all_came()
    return subscription


async def at_a_gate(
    replica: Stoppable, gate: str, reading: Callable[[], Awaitable[Any]], meanwhile: Callable[[], Awaitable[Any]]
) -> Any:
    """What a reader gets, if something happens while its read of the log is `before` or `after` its work."""
    closed = getattr(replica.log, gate)["missed"]
    closed.close()

    async def between() -> None:
        with anyio.fail_after(10):
            await closed.reached.wait()
        await meanwhile()
        closed.open()

    [result, error] = await all_at_once(reading, between)
    assert error is None
    return result


async def test_f71_one_that_lags_hears_all_once(replica: Stoppable) -> None:
    subscription = await lagging(replica)
    await replica.tell(3, 4)
    await replica.publish(END)
    assert [1, 2, 3, 4] == await hear_all(subscription)


async def test_f68_one_that_resynchronises_hears_of_a_gap_and_then_the_newest_of_each_kind(replica: Stoppable) -> None:
    subscription = replica.subscribe(buffer=1)
    await replica.tell(1)
    for news in (state("old", "a"), state("old", "b"), said(2), state("new", "a"), state("new", "b"), END):
        await replica.publish(news)
    await replica.all_came()
    assert [1, "gap of 6", 2, "new", "new"] == await hear_all(subscription)
    assert 6 == subscription.dropped


@pytest.mark.parametrize("policy", ["resync", "replay"])
@pytest.mark.parametrize("gate", ["before", "after"])
async def test_f71_what_comes_live_while_it_reads_is_heard_once(replica: Stoppable, gate: str, policy: str) -> None:
    subscription = await lagging(replica, policy=policy)
    expected = [1, 2] if policy == "replay" else [1, "gap of 1"]
    assert expected[:1] == await hear(subscription)

    async def meanwhile() -> None:
        await replica.tell(3)
        await replica.all_came()

    if policy == "resync":
        assert expected[1:] == await hear(subscription)
    assert [2] == await at_a_gate(replica, gate, lambda: hear(subscription), meanwhile)
    await replica.tell(4)
    await replica.publish(END)
    assert [3, 4] == await hear_all(subscription)


@pytest.mark.parametrize("gate", ["before", "after"])
async def test_f71_what_comes_live_while_it_looks_for_the_end_is_heard_once(replica: Stoppable, gate: str) -> None:
    """Its last read finds nothing more: the step from the log to what is live."""
    subscription = await lagging(replica)
    assert [1, 2] == await hear(subscription, 2)
    # What came after the read that found 2 makes it look again.
    await replica.tell("x")
    await replica.all_came()

    async def meanwhile() -> None:
        await replica.tell(3)
        await replica.all_came()

    assert ["x", 3] == await at_a_gate(replica, gate, lambda: hear(subscription, 2), meanwhile)
    await replica.publish(END)
    assert [] == await hear_all(subscription)


async def test_f71_what_it_read_from_the_log_before_it_came_live_is_not_heard_again(replica: Stoppable) -> None:
    subscription = await lagging(replica)
    assert [1] == await hear(subscription)
    await replica.stop_live()
    await replica.tell(3, 4)
    assert [2, 3, 4] == await hear(subscription, 3)
    replica.live.open()
    # It lives on what comes live again, of which 3 and 4 are echoes.
    await replica.all_came()
    await replica.tell(5)
    assert [5] == await hear(subscription)
    await replica.publish(END)
    assert [] == await hear_all(subscription)


async def test_f71_one_that_lags_again_in_the_midst_of_echoes_hears_all_once(
    replica: Stoppable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The post office was behind what was read from the log, and the page that it then reads overflows the buffer."""
    monkeypatch.setattr("mcpsession.subscription._PAGE", 0)
    subscription = await lagging(replica)
    assert [1] == await hear(subscription)
    await replica.stop_live()
    await replica.tell(3, 4)
    assert [2, 3, 4] == await hear(subscription, 3)

    async def page_with_echoes() -> None:
        while subscription._behind is not None:  # noqa: ASYNC110  # nothing announces that it has found the end
            await anyio.sleep(0.002)
        replica.log.calls.clear()
        # In one transaction's order behind the echoes 3 and 4.
        await replica.tell(5, 6, 7)
        replica.live.open()
        await replica.all_came()

    assert [5] == (await all_at_once(lambda: hear(subscription), page_with_echoes))[0]
    await replica.publish(END)
    assert [6, 7] == await hear_all(subscription)
    assert replica.log.calls["missed"]


async def test_f68_one_that_waits_hears_a_page_that_is_longer_than_its_buffer(replica: Stoppable) -> None:
    """It had no turn to read any of it."""
    subscription = replica.subscribe(policy="disconnect", buffer=1)
    await replica.stop_live()

    async def page() -> None:
        await replica.tell(*range(100))
        await replica.publish(END)
        replica.live.open()

    assert list(range(100)) == (await all_at_once(lambda: hear_all(subscription), page))[0]


@pytest.mark.parametrize("buffer", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("read_before", [0, 1])
async def test_f71_one_that_begins_to_lag_within_a_page_hears_all_once(
    replica: Stoppable, buffer: int, read_before: int
) -> None:
    subscription = replica.subscribe(policy="replay", buffer=buffer)
    await replica.tell(*range(read_before))
    await replica.all_came()
    await replica.stop_live()
    await replica.tell(*range(read_before, 6))
    replica.live.open()
    await replica.all_came()
    await replica.publish(END)
    assert list(range(6)) == await hear_all(subscription)


async def test_f71_one_reads_on_in_pages(replica: Stoppable, monkeypatch: pytest.MonkeyPatch) -> None:
    subscription = await lagging(replica)
    await replica.tell(*range(3, 2500))
    await replica.publish(END)
    assert list(range(1, 2500)) == await hear_all(subscription)
    assert replica.log.calls["missed"] >= 3


@given(poll=0.01)
async def test_f71_one_that_cannot_read_the_log_says_so_once_and_hears_all_later(
    replica: Stoppable, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = await lagging(replica)
    failures = iter([StoreUnavailableError("a test says so")] * 3)
    replica.log.failing["missed"] = lambda *_: next(failures, None)
    await replica.publish(END)
    with caplog.at_level(logging.WARNING, logger="mcpsession.catch_up"):
        assert [1, 2] == await hear_all(subscription)
    assert 1 == sum(record.name == "mcpsession.catch_up" for record in caplog.records)


async def test_one_whose_reads_the_store_refuses_hears_of_a_gap_and_goes_on(
    replica: Stoppable, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = await lagging(replica)
    replica.log.failing["missed"] = lambda *_: StoreError("a test says so")
    with caplog.at_level(logging.ERROR, logger="mcpsession.catch_up"):
        assert [1, *LOST_WORDS] == await hear(subscription, 5)
    await replica.publish(END)
    assert [] == await hear_all(subscription)


async def test_f71_one_whose_place_in_the_log_is_lost_hears_of_a_gap_and_that_everything_changed(
    replica: Stoppable,
) -> None:
    subscription = await lagging(replica)
    assert subscription._behind is not None
    subscription._behind.position = "of another timeline"
    assert [1, *LOST_WORDS] == await hear(subscription, 5)
    await replica.tell(3)
    await replica.publish(END)
    assert [3] == await hear_all(subscription)


async def lose_the_position(replica: Stoppable) -> None:
    """As when the mail that the replica stands at was reaped, or a fail-over lost it. Nothing comes live meanwhile."""
    office, lost = replica.layer._parts.post_office, anyio.Event()
    stop = replica.layer.broadcaster.listen(lambda heard: lost.set() if heard is None else None)
    with anyio.fail_after(10):
        while not lost.is_set():
            # A read that is under way puts it right again.
            office.position = "of another timeline"
            office.wake()
            with anyio.move_on_after(0.1):
                await lost.wait()
    stop()


@pytest.mark.parametrize("policy", ["resync", "drop_newest", "drop_oldest", "disconnect", "block"])
async def test_f71_when_the_replica_has_lost_its_position_subscribers_hear_that_everything_changed(
    replica: Stoppable, policy: Any
) -> None:
    subscription = replica.subscribe(policy=policy)
    await replica.tell(1)
    await replica.all_came()
    await lose_the_position(replica)
    await lose_the_position(replica)
    await replica.tell(2)
    await replica.publish(END)
    assert [1, *LOST_WORDS, 2] == await hear_all(subscription)


async def lose_news(replica: Stoppable, number: int) -> None:
    """Publish something that never comes live, because the replica has lost its position before it has read it."""
    replica.layer._parts.post_office.position = "of another timeline"
    lost = anyio.Event()
    stop = replica.layer.broadcaster.listen(lambda heard: lost.set() if heard is None else None)
    await replica.tell(number)
    with anyio.fail_after(10):
        await lost.wait()
    stop()


async def test_f71_one_that_replays_reads_from_its_own_place_when_the_replica_has_lost_its_position(
    replica: Stoppable,
) -> None:
    subscription = replica.subscribe(policy="replay")
    await replica.tell(1)
    await replica.all_came()
    await lose_news(replica, 2)
    assert [1, 2] == await hear(subscription, 2)
    await replica.tell(3)
    await replica.publish(END)
    assert [3] == await hear_all(subscription)


async def test_f68_what_is_committed_late_is_not_hidden_by_newer_news_that_was_heard_before(database_url: str) -> None:
    """A change in a transaction that was open, and a later one of the same kind, committed before it."""
    replica = Stoppable(Place(database_url), subscriber_buffer=3)
    connection = await asyncpg.connect(database_url)
    async with replica.layer:
        subscription = replica.subscribe()
        transaction = connection.transaction()
        await transaction.start()
        await replica.publish(state("late"), conn=connection)
        await replica.stop_live()
        # One page, in which it begins to lag.
        await replica.publish(state("early"))
        await replica.tell(1, 2, 3, 4)
        replica.live.open()
        await replica.all_came()
        assert ["early"] == await hear(subscription)
        await transaction.commit()
        await replica.all_came()
        await replica.publish(END)
        heard = await hear_all(subscription)
    # How much the gap counts depends on what came live before it was told.
    assert [1, 2, 3, 4] == [one for one in heard if isinstance(one, int)]
    assert 1 == heard.count("late")
    await connection.close()


async def test_f71_what_is_lost_live_while_one_reads_is_found_in_the_log(replica: Stoppable) -> None:
    subscription = await lagging(replica)
    assert [1] == await hear(subscription)
    assert [2] == await at_a_gate(replica, "after", lambda: hear(subscription), lambda: lose_news(replica, 3))
    assert [3] == await hear(subscription)
    await replica.publish(END)
    assert [] == await hear_all(subscription)


async def test_f71_a_place_in_a_lost_timeline_hides_nothing_that_comes_after_it(replica: Stoppable) -> None:
    """A standby was promoted that lacks the last transactions, so numbers come again that were read from the log."""
    subscription = await lagging(replica, policy="resync")
    assert [1, "gap of 1", 2] == await hear(subscription, 3)
    # It is live again as soon as it waits for more.
    [heard, _] = await all_at_once(lambda: hear(subscription), lambda: replica.tell(3))
    assert [3] == heard
    assert subscription._floor
    subscription._floor = f"{10**9}:{10**9}:@0"
    await lose_the_position(replica)
    await replica.tell(4)
    assert [*LOST_WORDS, 4] == await hear(subscription, len(LOST_WORDS) + 1)


async def test_a_subscriber_that_has_never_heard_anything_replays_from_when_it_was_made(replica: Stoppable) -> None:
    await replica.tell("before")
    await replica.all_came()
    subscription = replica.subscribe(policy="replay")
    replica.layer._parts.broadcaster.lose()
    await replica.tell(1)
    await replica.publish(END)
    assert [1] == await hear_all(subscription)


@pytest.mark.parametrize("policy", ["resync", "replay"])
async def test_when_the_position_is_lost_while_one_lags_it_goes_on_from_its_own_place(
    replica: Stoppable, policy: Any
) -> None:
    subscription = await lagging(replica, policy=policy)
    await lose_the_position(replica)
    await replica.tell(3)
    await replica.publish(END)
    heard = await hear_all(subscription)
    assert [1, 2, 3] == [word for word in heard if not str(word).startswith("gap")]


async def test_one_that_is_closed_while_it_reads_ends(replica: Stoppable) -> None:
    subscription = await lagging(replica)
    assert [1] == await hear(subscription)

    async def close() -> None:
        subscription.close()

    result = await at_a_gate(replica, "after", lambda: hear(subscription), close)
    assert isinstance(result, StopAsyncIteration | RuntimeError)
    assert 0 == replica.layer.broadcaster.subscriber_count


async def test_a_gap_is_news_of_its_own_kind() -> None:
    assert Gap(missed=3) != Gap(missed=4)
    assert "mcpsession/gap" == Gap().method
